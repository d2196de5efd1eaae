//! Inputs out of seeds: a function of target, seed and number, so that each can be made again.
//!
//! Three ways, by what the seed is: bytes are flipped, cut, repeated and spliced; JSON is taken apart and put together wrongly;
//! lines of a config are shuffled and given other values. A safetensors file is a length, JSON and data, and each of the three
//! is mutated with the others in mind.

use couplet_train::rng::Key;
use serde_json::{Map, Value};

/// Random numbers for one input.
pub struct Dice {
    key: Key,
    drawn: u64,
}

impl Dice {
    pub fn new(target: &str, seed: u64, number: u64) -> Self {
        Self { key: Key::new(seed, &format!("{target} {number}")), drawn: 0 }
    }

    /// Below `n`; 0 where there is nothing to choose.
    pub fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        ((f64::from(self.key.uniform(self.drawn)) * n as f64) as usize).min(n.saturating_sub(1))
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Numbers at which programs stumble, as text.
const NUMBERS: [&str; 26] = [
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "127",
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1152921504606846976",
    "1e308",
    "1e309",
    "-1e309",
    "1e-400",
    "0.1",
    "1e5",
    "99999999999999999999999999999999",
];

/// Texts at which programs stumble.
const TEXTS: [&str; 18] = [
    "",
    " ",
    "\u{0}",
    "\u{feff}",
    "\\ud800",
    "\"",
    "\\",
    "/",
    "..",
    "../../etc/passwd",
    "/dev/full",
    "\u{202e}",
    "👨‍👩‍👧",
    "１６",
    "<|im_end|>",
    "<|im_start|>",
    "nan",
    "\r\n",
];

/// Bytes that are not UTF-8, or not text.
const BYTES: [&[u8]; 9] = [
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe5\xaf",
    b"\x00",
    b"\xff\xfe",
    b"\x80\x02",
    b"\x1f\x8b\x08",
];

/// How deep a nesting goes that no honest file has.
const DEPTHS: [usize; 5] = [20, 127, 129, 3000, 100_000];

/// What a seed is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Whatever it is.
    Bytes,
    /// One JSON value, or one a line.
    Json,
    /// `key = value` or `key: value` lines.
    Lines,
    /// Length, JSON header, data.
    Safetensors,
}

/// Input `number` of this `seed`.
pub fn input(target: &str, shape: Shape, seeds: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut dice = Dice::new(target, seed, number);
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    let rounds = 1 + dice.below(4);
    for _ in 0..rounds {
        // Structure first: bytes break it, and then there is none.
        bytes = match shape {
            Shape::Json if !dice.once_in(3) => json(&bytes, &mut dice),
            Shape::Lines if !dice.once_in(3) => lines(&bytes, &mut dice),
            Shape::Safetensors if !dice.once_in(4) => safetensors(&bytes, &mut dice),
            _ => plain(bytes, seeds, &mut dice),
        };
    }
    bytes
}

fn plain(mut bytes: Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let at = dice.below(bytes.len() + 1);
    let end = (at + 1 + dice.below(40)).min(bytes.len());
    match dice.below(11) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        2 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
        3 => drop(bytes.drain(at.min(end)..end)),
        4 => {
            let piece = bytes[at.min(end)..end].to_vec();
            let times = [1, 2, 50][dice.below(3)];
            bytes.splice(at..at, piece.repeat(times));
        }
        5 => {
            let other = &seeds[dice.below(seeds.len())];
            let from = dice.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        6 => drop(bytes.splice(at..at, dice.one_of(&BYTES).iter().copied())),
        7 => drop(bytes.splice(at..at, dice.one_of(&TEXTS).bytes())),
        8 => {
            let (open, close) =
                [("[", "]"), ("{\"a\":", "}"), ("{", "}"), ("[{\"a\":", "}]"), ("- ", "")][dice.below(5)];
            let depth = DEPTHS[dice.below(DEPTHS.len())];
            let closing = if dice.once_in(2) { close.repeat(depth) } else { String::new() };
            bytes.splice(at..at, (open.repeat(depth) + &closing).into_bytes());
        }
        _ => {
            // A number becomes another one.
            let is_digit = |b: &u8| b.is_ascii_digit();
            let Some(begin) = bytes[at..].iter().position(is_digit).map(|n| at + n) else { return bytes };
            let len = bytes[begin..].iter().take_while(|b| is_digit(b)).count();
            bytes.splice(begin..begin + len, dice.one_of(&NUMBERS).bytes());
        }
    }
    bytes
}

/// Mutates a value somewhere in JSON, or in one line of JSON Lines.
fn json(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    if let Ok(mut value) = serde_json::from_slice::<Value>(bytes) {
        return mutated(&mut value, dice);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return plain(bytes.to_vec(), &[bytes.to_vec()], dice) };
    let all: Vec<&str> = text.lines().collect();
    let chosen = dice.below(all.len());
    let parsed = all.get(chosen).and_then(|line| serde_json::from_str::<Value>(line).ok());
    let Some(mut value) = parsed else { return plain(bytes.to_vec(), &[bytes.to_vec()], dice) };
    let line = String::from_utf8(mutated(&mut value, dice)).unwrap_or_default();
    let lines = all.iter().enumerate().map(|(n, old)| if n == chosen { line.as_str() } else { old });
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// A number that JSON has and [`Value`] does not comes in as this text.
const PLACE: &str = "@@number@@";

fn mutated(value: &mut Value, dice: &mut Dice) -> Vec<u8> {
    let whole = value.clone();
    let nodes = count(value);
    let target = dice.below(nodes);
    let mut number = "";
    let mut doubled = None;
    at(value, target, &mut |node| match dice.below(9) {
        0 => *node = Value::Null,
        1 => *node = Value::Bool(dice.once_in(2)),
        2 | 3 => {
            number = dice.one_of(&NUMBERS);
            *node = Value::from(PLACE);
        }
        4 => *node = Value::from(dice.one_of(&TEXTS)),
        5 => {
            let mut other = whole.clone();
            let from = dice.below(nodes);
            at(&mut other, from, &mut |found| *node = found.clone());
        }
        6 => match node {
            Value::Object(map) => remove(map, dice),
            Value::Array(items) if !items.is_empty() => drop(items.remove(dice.below(items.len()))),
            Value::String(text) => *text = text.repeat(1 + dice.below(200)),
            _ => *node = Value::Array(vec![]),
        },
        7 => match node {
            Value::Object(map) => {
                let key = dice.one_of(&TEXTS);
                let old = map.keys().nth(dice.below(map.len())).cloned();
                let moved = old.and_then(|old| map.remove(&old));
                map.insert(key.to_owned(), moved.unwrap_or_default());
            }
            Value::Array(items) => {
                let more = items.iter().cycle().take(1 + items.len() * dice.below(30)).cloned().collect::<Vec<_>>();
                items.extend(more);
            }
            _ => *node = Value::Object(Map::new()),
        },
        _ => {
            if let Value::Object(map) = node {
                doubled = map.keys().nth(dice.below(map.len())).cloned();
            }
        }
    });
    let mut text = value.to_string().replace(&format!("\"{PLACE}\""), number);
    if let Some(key) = doubled {
        // A key twice, which `Value` cannot hold.
        let quoted = Value::from(key).to_string();
        text = text.replacen(&quoted, &format!("{quoted}:1,{quoted}"), 1);
    }
    text.into_bytes()
}

fn remove(map: &mut Map<String, Value>, dice: &mut Dice) {
    if let Some(key) = map.keys().nth(dice.below(map.len())).cloned() {
        map.remove(&key);
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// Calls `act` with node `n` of the tree, in the order of the text. Returns how many nodes it has.
fn at(value: &mut Value, n: usize, act: &mut impl FnMut(&mut Value)) -> usize {
    if n == 0 {
        act(value);
        return 1;
    }
    let mut seen = 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => vec![],
    };
    for child in children {
        if seen > n {
            break;
        }
        seen += if n >= seen { at_from(child, n - seen, act) } else { 0 };
    }
    seen
}

/// [`at`] for a child: past it where the node lies further on.
fn at_from(value: &mut Value, n: usize, act: &mut impl FnMut(&mut Value)) -> usize {
    let size = count(value);
    if n < size {
        at(value, n, act);
    }
    size
}

/// Lines of a TOML or a YAML: other values, and lines that are missing, doubled or somewhere else.
fn lines(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    if all.is_empty() {
        all.push(String::new());
    }
    let (n, m) = (dice.below(all.len()), dice.below(all.len()));
    match dice.below(8) {
        0 => drop(all.remove(n)),
        1 => all.insert(m, all[n].clone()),
        2 => all.swap(n, m),
        3 => all[n].insert_str(0, dice.one_of(&["  ", "\t", "- ", "# ", "[", "? ", "&a ", "<<: ", "'", "\"\"\""])),
        4 => {
            // Aliases of aliases: short to write, and long to hold.
            let levels = dice.below(30);
            all.push("a0: &a0 [x, x, x, x, x, x, x, x]".into());
            all.extend(
                (1..=levels).map(|level| format!("a{level}: &a{level} [{}]", format!("*a{}, ", level - 1).repeat(9))),
            );
        }
        _ => {
            let Some(at) = all[n].find(['=', ':']) else { return all.join("\n").into_bytes() };
            let value = match dice.below(5) {
                0 | 1 => dice.one_of(&NUMBERS).to_owned(),
                2 => dice.one_of(&TEXTS).to_owned(),
                3 => format!("{:?}", dice.one_of(&TEXTS)),
                _ => dice
                    .one_of(&[
                        "[",
                        "]",
                        "{",
                        "}",
                        "[]",
                        "{}",
                        "[1, [2, [3]]]",
                        "{a: {b: c}}",
                        "null",
                        "~",
                        "true",
                        "no",
                        ".nan",
                        ".inf",
                        "&a *a",
                        "*b",
                        "!!binary aGk=",
                        "!!python/object:os.system x",
                        "|\n  text",
                        "1979-05-27T07:32:00Z",
                        "0x7fffffffffffffff",
                        "'''",
                        "\"\"\"",
                        "inf",
                        "1_000",
                        "'",
                        "\"",
                    ])
                    .to_owned(),
            };
            all[n].replace_range(at + 1.., &format!(" {value}"));
        }
    }
    all.join("\n").into_bytes()
}

/// The header as JSON with its length made right, the length alone, or the data.
fn safetensors(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let len = bytes.first_chunk().map_or(0, |len| u64::from_le_bytes(*len)) as usize;
    let Some((header, data)) = bytes.get(8..).and_then(|rest| rest.split_at_checked(len)) else {
        return plain(bytes.to_vec(), &[bytes.to_vec()], dice);
    };
    match dice.below(8) {
        0 => {
            let claimed: u64 = dice.one_of(&NUMBERS).parse().unwrap_or(u64::MAX);
            [&claimed.to_le_bytes(), header, data].concat()
        }
        1 => {
            let data = plain(data.to_vec(), &[data.to_vec()], dice);
            [&bytes[..8], header, &data].concat()
        }
        2 => {
            // Offsets that overlap, leave gaps, or run backwards.
            let mut header: Value = serde_json::from_slice(header).unwrap_or_default();
            let tensors = header.as_object_mut().into_iter().flatten().filter(|(name, _)| *name != "__metadata__");
            for (_, tensor) in tensors {
                if let Some(offsets) =
                    tensor.get_mut("data_offsets").and_then(Value::as_array_mut).filter(|_| dice.once_in(2))
                {
                    let by = dice.below(64);
                    offsets.iter_mut().for_each(|offset| *offset = (offset.as_u64().unwrap_or(0) + by as u64).into());
                }
            }
            joined(header.to_string().as_bytes(), data)
        }
        _ => joined(&json(header, dice), data),
    }
}

fn joined(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

#[test]
fn an_input_can_be_made_again_and_is_seldom_its_seed() {
    let seeds = [br#"{"a": [1, {"b": "c"}], "d": null}"#.to_vec(), br#"{"a": 1}"#.to_vec()];
    let mut other = 0;
    for number in 0..200 {
        let made = input("t", Shape::Json, &seeds, 7, number);
        assert_eq!(made, input("t", Shape::Json, &seeds, 7, number));
        other += usize::from(!seeds.contains(&made));
    }
    assert!(other > 150, "{other}");
    assert_ne!(input("t", Shape::Json, &seeds, 7, 1), input("t", Shape::Json, &seeds, 8, 1));
}

#[test]
fn every_node_of_a_tree_is_reached() {
    let tree = serde_json::json!({"a": [1, {"b": "c"}], "d": null});
    let reached = (0..count(&tree)).map(|n| {
        let mut copy = tree.clone();
        let mut found = Value::Null;
        at(&mut copy, n, &mut |node| found = node.clone());
        found.to_string()
    });
    let reached: Vec<String> = reached.collect();
    assert_eq!(reached, [&tree.to_string(), "[1,{\"b\":\"c\"}]", "1", "{\"b\":\"c\"}", "\"c\"", "null"]);
}
