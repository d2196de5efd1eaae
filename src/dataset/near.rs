//! Lines that are equal but for one character: what a held-out row has in common with training rows, and which rows belong together.
//!
//! A line of `n` characters has `n + 1` keys, its hash and its hash with each of the characters blanked out. Two lines of one
//! length differ in one character at most exactly where they share a key (but for collisions of 64 bits), so nothing is
//! compared in pairs and the time is that of the keys. Punctuation and blanks are no characters here: `天下，` is `天下`.
//! A character more or less makes another line.
//!
//! A line of more than [`LONGEST`] characters has its hash alone: keys of 16 bytes for every character of long texts would take
//! many times the memory of the texts, and that one of a thousand characters is another is no matter of chance anyway.

use crate::prosody::bare;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    iter,
    sync::atomic::{AtomicUsize, Ordering},
};

/// From how many characters on a line says something when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telling {
    /// As it is.
    pub same: usize,
    /// With one of its characters replaced.
    pub near: usize,
}

/// Characters of a line that is compared by all of them but one; a longer one is compared as a whole. (The longest couplets
/// that people know by heart, 大观楼长联, have 90 a side.)
pub const LONGEST: usize = 96;

impl Telling {
    /// Where likeness is told: shorter lines are alike by chance.
    pub const LEAK: Self = Self { same: 4, near: 5 };
    /// Where rows are kept together: a row too many does no harm, so the more is told.
    pub const SPLIT: Self = Self { same: 1, near: 4 };
}

/// What is asked and what is answered; for a couplet 上联 and 下联.
pub type Pair<'a> = [&'a str; 2];

/// A row to be compared.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pair: Pair<'a>,
    /// Hash of what else is said in it.
    around: u64,
}

impl<'a> Said<'a> {
    /// A pair, and all that two rows must have in common besides to be equal; punctuation and blanks do not count.
    pub fn new<'t>(pair: Pair<'a>, around: impl Iterator<Item = &'t str>) -> Self {
        // Where a text ends is a sign that no character has.
        let signs = around.flat_map(|text| bare(text).map(u64::from).chain([u64::from(u32::MAX)]));
        Self { pair, around: signs.fold(0, |sum, sign| mixed(sum ^ sign)) }
    }
}

impl<'a> From<Pair<'a>> for Said<'a> {
    /// Nothing else is said.
    fn from(pair: Pair<'a>) -> Self {
        Self::new(pair, iter::empty())
    }
}

/// How a held-out row is like a training row, from the worst on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Likeness {
    /// All that is said is equal.
    Equal,
    /// One character of the whole row is another.
    OneCharacter,
    /// A line is equal: what is asked, or either line of a couplet.
    SharedLine,
    /// Such a line has one other character.
    NearLine,
}

impl Likeness {
    /// From the worst on.
    pub const ALL: [Self; 4] = [Self::Equal, Self::OneCharacter, Self::SharedLine, Self::NearLine];
}

/// A held-out row that training has seen, or nearly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leak {
    /// The worst that holds.
    pub likeness: Likeness,
    /// Index of the held-out row.
    pub held_out: usize,
    /// Index of the first of the training rows, as they were given, that it is so like.
    pub train: usize,
}

/// The held-out rows that are like a training row, in their order, each with the worst likeness.
pub fn leaks<'a, R: Copy + Into<Said<'a>> + Sync>(train: &[R], held_out: &[R]) -> Vec<Leak> {
    let keys_of = |row: &R| keys_of((*row).into());
    let seen: HashMap<u64, AtomicUsize, BuildHasherDefault<Mixed>> =
        held_out.iter().flat_map(keys_of).map(|(_, key)| (key, AtomicUsize::new(usize::MAX))).collect();
    train.par_iter().enumerate().for_each(|(row, said)| {
        for first in keys_of(said).filter_map(|(_, key)| seen.get(&key)) {
            first.fetch_min(row, Ordering::Relaxed);
        }
    });
    let leak_of = |(row, said): (usize, &R)| {
        let first = |key: u64| seen.get(&key).map_or(usize::MAX, |first| first.load(Ordering::Relaxed));
        let found =
            keys_of(said).map(|(likeness, key)| (likeness, first(key))).filter(|(_, train)| *train < usize::MAX);
        found.min().map(|(likeness, train)| Leak { likeness, held_out: row, train })
    };
    held_out.iter().enumerate().filter_map(leak_of).collect()
}

/// For every row the first row of its group. Rows are of one group where a line of the one is a line of the other, but for one
/// character at most, or both are of one group with a third row. A row may have any number of lines; `telling` says which are
/// too short to tell anything.
pub fn groups<'a, R: AsRef<[&'a str]> + Sync>(rows: &[R], telling: Telling) -> Vec<usize> {
    let keys = |(row, lines): (usize, &R)| {
        let sums = lines.as_ref().iter().map(|line| Sums::of(line));
        let keys = sums.flat_map(|sums| sums.line_keys(telling).collect::<Vec<_>>());
        keys.map(|(_, key)| (key, row as u32)).collect::<Vec<_>>()
    };
    let mut keys: Vec<(u64, u32)> = rows.par_iter().enumerate().flat_map_iter(keys).collect();
    keys.par_sort_unstable();
    let mut first: Vec<usize> = (0..rows.len()).collect();
    for same in keys.chunk_by(|a, b| a.0 == b.0) {
        for row in &same[1..] {
            let (a, b) = (root(&mut first, same[0].1 as usize), root(&mut first, row.1 as usize));
            first[a.max(b)] = a.min(b);
        }
    }
    (0..rows.len()).map(|row| root(&mut first, row)).collect()
}

/// The first row of the group of `row`; the way there is halved for the next one who asks.
fn root(first: &mut [usize], mut row: usize) -> usize {
    while first[row] != row {
        first[row] = first[first[row]];
        row = first[row];
    }
    row
}

/// The lines of a row that say something when they come again: what is asked, and of a couplet, whose sides are equally long,
/// what is answered. (The answers of other data are often few: a class, yes and no.)
pub fn lines<'p, 'a>(pair: &'p Pair<'a>) -> &'p [&'a str] {
    if is_couplet(pair) { pair } else { &pair[..1] }
}

/// Whether both sides have as many characters.
pub fn is_couplet(pair: &Pair) -> bool {
    let [asked, answered] = pair.map(|line| bare(line).count());
    asked == answered
}

/// Every key of a row, and what it means to share it.
fn keys_of(said: Said) -> impl Iterator<Item = (Likeness, u64)> + use<> {
    let [asked, answered] = said.pair.map(Sums::of);
    let row_key = |asked: u64, answered: u64| mixed(mixed(mixed(said.around) ^ asked) ^ answered);
    let mut keys = vec![(Likeness::Equal, row_key(asked.whole, answered.whole))];
    if asked.len + answered.len >= Telling::LEAK.near {
        keys.extend(asked.blanked.iter().map(|sum| (Likeness::OneCharacter, row_key(*sum, answered.whole))));
        keys.extend(answered.blanked.iter().map(|sum| (Likeness::OneCharacter, row_key(asked.whole, *sum))));
    }
    keys.extend(asked.line_keys(Telling::LEAK));
    if is_couplet(&said.pair) {
        keys.extend(answered.line_keys(Telling::LEAK));
    }
    keys.into_iter()
}

/// Hashes of a line: sums over its characters, so that one of them is exchanged by a subtraction.
struct Sums {
    /// Characters.
    len: usize,
    whole: u64,
    /// With each of the characters blanked out; of a line of more than [`LONGEST`] none.
    blanked: Vec<u64>,
}

impl Sums {
    fn of(line: &str) -> Self {
        let at = |place: usize, sign: u64| mixed((place as u64 + 1) << 32 | sign);
        let signs = || bare(line).map(u64::from).enumerate();
        // The blank is a sign that no character has.
        let (len, whole) =
            signs().fold((0, 0u64), |(len, sum), (place, sign)| (len + 1, sum.wrapping_add(at(place, sign))));
        let blank = |place, sign| whole.wrapping_sub(at(place, sign)).wrapping_add(at(place, u64::from(u32::MAX)));
        let blanked = signs().filter(|_| len <= LONGEST).map(|(place, sign)| blank(place, sign)).collect();
        Self { len, whole, blanked }
    }

    fn line_keys(&self, Telling { same, near }: Telling) -> impl Iterator<Item = (Likeness, u64)> {
        let len = self.len;
        let whole = iter::once((Likeness::SharedLine, mixed(self.whole))).filter(move |_| len >= same);
        let blanked = self.blanked.iter().map(|sum| (Likeness::NearLine, mixed(*sum))).filter(move |_| len >= near);
        whole.chain(blanked)
    }
}

/// A permutation of 64 bits in which every bit depends on all. Constants: Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators" (2014), as mixed by Stafford (variant 13).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Keys are hashes already.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = mixed(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    fn likeness(train: Pair, held_out: Pair) -> Option<Likeness> {
        leaks(&[train], &[held_out]).first().map(|leak| leak.likeness)
    }

    #[test]
    fn rows_are_alike_in_four_ways() {
        use Likeness::{Equal, NearLine, OneCharacter, SharedLine};
        let train = ["海内存知己", "天涯若比邻"];
        for (held_out, want, why) in [
            (["海内存知己", "天涯若比邻"], Some(Equal), "the same row"),
            (["海内存知己，", "天涯若比邻。"], Some(Equal), "punctuation aside"),
            (["“海内”存《知己》", "天涯——若比邻…"], Some(Equal), "of any kind"),
            (["海内存知己", "天涯如比邻"], Some(OneCharacter), "one character of the row"),
            (["海内有知己", "天涯若比邻"], Some(OneCharacter), "on the other side"),
            (["海内存知己", "山外更青山"], Some(SharedLine), "the same 上联"),
            (["山外更青天", "天涯若比邻"], Some(SharedLine), "the same 下联"),
            (["天涯若比邻", "山外更青山"], Some(SharedLine), "on the other side"),
            (["海内有知己", "山外更青山"], Some(NearLine), "one character of a line"),
            (["海内存知己", "邻"], Some(SharedLine), "an answer of another length, to the same question"),
            (["海内有知音", "天涯如芳邻"], None, "two characters of each line"),
            (["海内存知", "天涯若比"], None, "a character less"),
            (["内海存知己", "涯天若比邻"], None, "another order"),
        ] {
            assert_eq!(likeness(train, held_out), want, "{why}");
        }
    }

    #[test]
    fn what_says_nothing_is_no_leak() {
        for (train, held_out, want, why) in [
            (["这部电影很好看", "正面"], ["那家饭店不好吃", "正面"], None, "the label of a class"),
            (["这部电影很好看", "正面"], ["这部电影很好看", "差评"], Some(Likeness::SharedLine), "its question is"),
            (["云对雨", "雪对风"], ["云对雨", "花对树"], None, "three characters"),
            (["云", "雨"], ["云", "风"], None, "a row of two"),
            (["云", "雨"], ["云", "雨"], Some(Likeness::Equal), "unless it is the same"),
            (["春风得意", "秋月无边"], ["春风如意", "山高水长"], None, "one of four characters is a quarter"),
            (["", ""], ["山", "水"], None, "nothing"),
            (["一□三四五", "六七八九十"], ["一三四五", "甲乙丙丁"], None, "a lost character has its place"),
        ] {
            assert_eq!(likeness(train, held_out), want, "{why}");
        }
    }

    #[test]
    fn a_long_line_has_one_key() {
        let line = |first: &str, len: usize| first.to_owned() + &"长".repeat(len - 1);
        for (len, want) in [(LONGEST, Some(Likeness::NearLine)), (LONGEST + 1, None)] {
            let (a, b) = (line("甲", len), line("乙", len));
            assert_eq!(likeness([&a, "子时"], [&b, "丑刻"]), want, "one of {len} characters");
            assert_eq!(likeness([&a, "子时"], [&a, "丑刻"]), Some(Likeness::SharedLine), "the same {len} characters");
            assert_eq!(likeness([&a, "天涯若比邻"], [&a, "天涯如比邻"]), Some(Likeness::OneCharacter), "of the answer");
        }
        let text = "长".repeat(20_000);
        assert!(keys_of([text.as_str(), &text].into()).count() <= 5, "memory for the keys does not grow with the text");
        assert_eq!(Sums::of(&"长".repeat(LONGEST)).line_keys(Telling::LEAK).count(), LONGEST + 1);
    }

    #[test]
    fn the_first_training_row_and_the_worst_likeness_are_told() {
        let train = [["海内有知己", "甲乙丙丁戊"], ["海内存知己", "己庚辛壬癸"], ["海内存知己", "天涯若比邻"]];
        let held_out = [["白日依山尽", "黄河入海流"], ["海内存知己", "天涯若比邻"], ["海内存知己", "子丑寅卯辰"]];
        let leak = |likeness, held_out, train| Leak { likeness, held_out, train };
        let want = [leak(Likeness::Equal, 1, 2), leak(Likeness::SharedLine, 2, 1)];
        assert_eq!(leaks(&train, &held_out), want);
        assert_eq!(leaks(&train, &[]), []);
        assert_eq!(leaks(&[], &held_out), []);
    }

    #[test]
    fn rows_are_equal_if_all_that_is_said_is() {
        use Likeness::{Equal, OneCharacter, SharedLine};
        let pair = ["多谢你的帮助", "不客气"];
        let like = |train: &[&str], held_out: &[&str], pair_held_out: Pair| {
            let said = |pair, around: &[&str]| Said::new(pair, around.iter().copied());
            leaks(&[said(pair, train)], &[said(pair_held_out, held_out)])[0].likeness
        };
        for (train, held_out, want, why) in [
            (&["天", "地"][..], &["天", "地"][..], Equal, "the same before it"),
            (&["天，", "地"], &["天", "地。"], Equal, "punctuation aside"),
            (&["天", "地"], &["山", "水"], SharedLine, "another turn before it"),
            (&["天", "地"], &[], SharedLine, "none before it"),
            (&["天地"], &["天", "地"], SharedLine, "cut elsewhere"),
        ] {
            assert_eq!(like(train, held_out, pair), want, "{why}");
        }
        let answer = ["多谢你的帮助", "不客套"];
        assert_eq!(like(&["天"], &["天"], answer), OneCharacter, "of the last answer");
        assert_eq!(like(&["天"], &["山"], answer), SharedLine, "and another turn");
    }

    /// Lines over four characters, so that all likenesses occur.
    fn random_rows(purpose: &str, rows: usize) -> Vec<[String; 2]> {
        let key = Key::new(1, purpose);
        let line = |seed: u64| -> String {
            (0..5).map(|i| ['甲', '乙', '丙', '丁'][(key.uniform(seed * 8 + i) * 4.0) as usize % 4]).collect()
        };
        (0..rows as u64).map(|row| [line(2 * row), line(2 * row + 1)]).collect()
    }

    fn distance(a: &str, b: &str) -> usize {
        a.chars().zip(b.chars()).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn keys_find_what_comparing_every_pair_finds() {
        let (train, held_out) = (random_rows("train", 60), random_rows("held out", 40));
        let pairs = |rows: &'static [[String; 2]]| rows.iter().map(|[a, b]| [a.as_str(), b]).collect::<Vec<_>>();
        let (train, held_out): (&'static [_], &'static [_]) = (train.leak(), held_out.leak());
        let slow = |held_out: &[String; 2], train: &[String; 2]| {
            let [a, b] = [distance(&held_out[0], &train[0]), distance(&held_out[1], &train[1])];
            let lines = held_out.iter().flat_map(|line| train.iter().map(move |other| distance(line, other)));
            let line = lines.min().unwrap();
            match (a + b, line) {
                (0, _) => Some(Likeness::Equal),
                (1, _) => Some(Likeness::OneCharacter),
                (_, 0) => Some(Likeness::SharedLine),
                (_, 1) => Some(Likeness::NearLine),
                _ => None,
            }
        };
        let want: Vec<Leak> = (0..held_out.len())
            .filter_map(|row| {
                let of = |train_row: usize| Some((slow(&held_out[row], &train[train_row])?, train_row));
                let (likeness, train) = (0..train.len()).filter_map(of).min()?;
                Some(Leak { likeness, held_out: row, train })
            })
            .collect();
        assert_eq!(leaks(&pairs(train), &pairs(held_out)), want);
        for likeness in [Likeness::SharedLine, Likeness::NearLine] {
            assert!(want.iter().any(|leak| leak.likeness == likeness), "{likeness:?} is among them");
        }
    }

    #[test]
    fn rows_of_a_split_hang_together_by_a_line() {
        let row = ["海内存知己", "天涯若比邻"];
        for (other, together, why) in [
            (["海内存知己", "山外有青天"], true, "the same 上联"),
            (["山外有青天", "天涯若比邻"], true, "the same 下联"),
            (["天涯若比邻", "山外有青天"], true, "on the other side"),
            (["海内有知己", "山外有青天"], true, "one character"),
            (["海内，存知己。", "山外有青天"], true, "marks are none"),
            (["海内有知音", "天涯如芳邻"], false, "two characters"),
            (["海内存知", "天涯若比"], false, "a character less"),
            (["内海存知己", "涯天若比邻"], false, "another order"),
        ] {
            assert_eq!(groups(&[row, other], Telling::SPLIT), if together { [0, 0] } else { [0, 1] }, "{why}");
        }
    }

    #[test]
    fn a_split_keeps_more_together_than_a_leak_needs() {
        for (other, leak, split, why) in [
            (["云对雨", "花对树"], false, true, "a short line, the same"),
            (["云对雪", "花对树"], false, false, "a short line, one of three characters"),
            (["春风得利", "花对树木"], false, true, "one of four characters"),
            (["春风得意", "花对树木"], true, true, "the same four"),
        ] {
            let rows = [[if other[0].chars().count() == 3 { "云对雨" } else { "春风得意" }, "雪月"], other];
            let together = [Telling::LEAK, Telling::SPLIT].map(|telling| groups(&rows, telling) == [0, 0]);
            assert_eq!(together, [leak, split], "{why}");
        }
    }

    #[test]
    fn lines_of_fewer_than_four_characters_tell_only_as_they_are() {
        let first = |line: &str, len: usize| line.chars().take(len).collect::<String>();
        for len in 1..=6 {
            let [line, near, a, b] =
                ["甲乙丙丁戊己", "子乙丙丁戊己", "天地玄黄宇宙", "日月盈昃辰宿"].map(|line| first(line, len));
            let row = [line.as_str(), a.as_str()];
            for (other, leak, split, why) in [
                ([line.as_str(), b.as_str()], len >= 4, true, "the same line"),
                ([near.as_str(), b.as_str()], len >= 5, len >= 4, "but for a character"),
            ] {
                assert_eq!(likeness(row, other).is_some(), leak, "{why}, of {len}");
                assert_eq!(groups(&[row, other], Telling::SPLIT) == [0, 0], split, "{why}, of {len}");
            }
        }
    }

    #[test]
    fn what_would_be_a_leak_is_of_one_group_in_a_split() {
        for len in 1..=5 {
            let cut = |line: String| line.chars().take(len).collect::<String>();
            let rows: Vec<[String; 2]> = random_rows("short", 60).into_iter().map(|row| row.map(cut)).collect();
            let pairs: Vec<Pair> = rows.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
            let together = groups(&pairs, Telling::SPLIT);
            let mut leaks = 0;
            for (a, b) in (0..pairs.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                if likeness(pairs[a], pairs[b]).is_some() {
                    assert_eq!(together[a], together[b], "{:?}, {:?}", pairs[a], pairs[b]);
                    leaks += 1;
                }
            }
            assert!(leaks > 0, "lines of {len}");
        }
    }

    #[test]
    fn keys_find_the_groups_of_a_split_that_comparing_every_pair_finds() {
        // Sides of different lengths, as a row of two lines has them; short ones join only where they are equal.
        for (cut, tail) in [(5, "末尾"), (4, ""), (3, "")] {
            let rows = random_rows("split", 120);
            let rows: Vec<[String; 2]> =
                rows.into_iter().map(|[a, b]| [a.chars().take(cut).collect(), b + tail]).collect();
            let near = |a: &str, b: &str| {
                let (len, other) = (a.chars().count(), b.chars().count());
                len == other && distance(a, b) <= usize::from(len >= Telling::SPLIT.near)
            };
            let mut want: Vec<usize> = (0..rows.len()).collect();
            let mut changed = true;
            while changed {
                changed = false;
                for (a, b) in (0..rows.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                    let together = rows[a].iter().any(|x| rows[b].iter().any(|y| near(x, y)));
                    if together && want[a] != want[b] {
                        let least = want[a].min(want[b]);
                        (want[a], want[b], changed) = (least, least, true);
                    }
                }
            }
            let lines: Vec<Pair> = rows.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
            assert_eq!(groups(&lines, Telling::SPLIT), want, "{cut} characters and {}", 5 + tail.chars().count());
        }
    }

    #[test]
    fn groups_are_closed_and_named_by_their_first_row() {
        let rows = [
            ["海内存知己", "天涯若比邻"],
            ["白日依山尽", "黄河入海流"],
            ["海内有知己", "春风得意人"],
            ["春风如意人", "黄河入海边"],
            ["千山鸟飞绝", "万径人踪灭"],
        ];
        assert_eq!(groups(&rows, Telling::LEAK), [0, 0, 0, 0, 4], "row 3 brings them together");
        assert_eq!(groups(&rows[..3], Telling::LEAK), [0, 1, 0]);
        assert_eq!(groups::<[&str; 2]>(&[], Telling::LEAK), [0; 0]);

        let rows = random_rows("groups", 80);
        let lines: Vec<[&str; 1]> = rows.iter().map(|[a, _]| [a.as_str()]).collect();
        let mut want: Vec<usize> = (0..lines.len()).collect();
        for _ in 0..lines.len() {
            for (a, b) in (0..lines.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                if distance(lines[a][0], lines[b][0]) <= 1 {
                    let least = want[a].min(want[b]);
                    (want[a], want[b]) = (least, least);
                }
            }
        }
        assert_eq!(groups(&lines, Telling::LEAK), want);
    }
}
