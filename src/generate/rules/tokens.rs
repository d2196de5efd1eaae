//! The bytes of every token, sorted by what they begin with, so that few need a look at each step.

use super::{
    alphabet::{self, sound},
    plan::Plan,
    state::{State, Wants},
};
use crate::{
    dataset::Tokenizer,
    error::{Error, Result},
    prosody::is_break,
};
use std::collections::HashMap;

/// A token and its bytes.
struct Token {
    id: u32,
    bytes: Box<[u8]>,
}

/// The tokens a line may consist of. Built once for a tokenizer: some 26,000 of Qwen3's 151,669 are of use.
pub struct TokenTable {
    /// Beginning with a whole character, by its sound.
    whole: [Vec<Token>; 16],
    /// Beginning with a break.
    breaks: Vec<Token>,
    /// Part of a character from its first byte on, and nothing else.
    opening: Vec<Token>,
    /// Beginning inside a character.
    continuing: Vec<Token>,
    bytes: HashMap<u32, Box<[u8]>>,
    end: u32,
}

/// A token that may come next.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The token.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
    /// The state after it; `None`: it ends the line.
    pub state: Option<State>,
}

impl TokenTable {
    /// Reads the bytes of all tokens.
    ///
    /// Errors: the tokenizer has no token for some byte, so that not every character could be written.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let mut table = Self {
            whole: Default::default(),
            breaks: vec![],
            opening: vec![],
            continuing: vec![],
            bytes: HashMap::new(),
            end: tokenizer.end_id(),
        };
        let mut single = [false; 256];
        for id in 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX) {
            if let Some(bytes) = tokenizer.token_bytes(id) {
                if let [byte] = bytes.as_slice() {
                    single[usize::from(*byte)] = true;
                }
                table.sort(Token { id, bytes: bytes.into() });
            }
        }
        // 0xc0, 0xc1 and 0xf5 and above stand in no UTF-8 text.
        if let Some(byte) = (0x80..0xf5).find(|byte| !matches!(byte, 0xc0 | 0xc1) && !single[*byte]) {
            return Err(Error::input(format!("the tokenizer has no token for byte {byte:#04x}"))
                .hint("use the tokenizer.json of a Qwen3 checkpoint, unchanged, or rules=off")
                .hint_zh("请使用 Qwen3 模型自带的、未改动的 tokenizer.json，或用 rules=off"));
        }
        Ok(table)
    }

    /// Puts a token where it is looked for, if a line can hold it.
    fn sort(&mut self, token: Token) {
        let inside = token.bytes.iter().take_while(|byte| is_continuation(**byte)).count();
        let Some(first) = of_a_line(&token.bytes[inside.min(3)..]) else { return };
        self.bytes.insert(token.id, token.bytes.clone());
        match first {
            _ if inside > 0 => self.continuing.push(token),
            None => self.opening.push(token),
            Some(c) if is_break(c) => self.breaks.push(token),
            Some(c) => self.whole[sound(c)].push(token),
        }
    }

    /// The `k` most likely tokens that `state` takes, the best first; equals in the order of their ids.
    ///
    /// `logits`: `[V]`; V may be larger or smaller than the tokenizer. Never empty if V has all of the tokenizer.
    pub fn best(&self, plan: &Plan, state: &State, logits: &[f32], k: usize) -> Vec<Next> {
        let mut best = Best { plan, state, logits, k, found: vec![] };
        match state.wants(plan) {
            None => best.end(self.end),
            Some(_) if state.is_torn() => best.look(&self.continuing),
            Some(Wants::Break(_)) => [&self.breaks, &self.opening].into_iter().for_each(|list| best.look(list)),
            Some(wants) => {
                let sounds = match wants {
                    Wants::Sounds(sounds) => sounds,
                    Wants::Character(c) | Wants::Break(c) => 1 << sound(c),
                };
                let lists = self.whole.iter().enumerate().filter(|(sound, _)| sounds >> sound & 1 == 1);
                lists.for_each(|(_, list)| best.look(list));
                best.look(&self.opening);
            }
        }
        best.found
    }

    /// The bytes of a token that may stand in a line; empty for others.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(&id).map_or(&[], |bytes| bytes)
    }

    /// The end of a turn.
    pub fn end(&self) -> u32 {
        self.end
    }
}

/// The best that were found so far.
struct Best<'a> {
    plan: &'a Plan,
    state: &'a State,
    logits: &'a [f32],
    k: usize,
    found: Vec<Next>,
}

impl Best<'_> {
    fn end(&mut self, id: u32) {
        let logit = self.logits.get(id as usize).copied();
        self.found.extend(logit.map(|logit| Next { id, logit, state: None }));
    }

    /// Looks through a list; the rules are asked only about a token that would be among the best.
    fn look(&mut self, tokens: &[Token]) {
        for token in tokens {
            let Some(logit) = self.logits.get(token.id as usize).copied() else { continue };
            let before = |other: &Next| other.logit > logit || other.logit == logit && other.id < token.id;
            if self.found.len() == self.k && self.found.last().is_none_or(before) {
                continue;
            }
            let Some(state) = self.state.after(self.plan, &token.bytes) else { continue };
            let at = self.found.partition_point(before);
            self.found.insert(at, Next { id: token.id, logit, state: Some(state) });
            self.found.truncate(self.k);
        }
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// The first whole character (or none) of bytes that are characters and breaks of a line, then perhaps a part of one.
/// `None` for other bytes.
#[expect(clippy::option_option, reason = "whether it is one, and what it begins with")]
fn of_a_line(bytes: &[u8]) -> Option<Option<char>> {
    let (text, part) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, &[][..]),
        Err(err) => {
            let (text, part) = bytes.split_at(err.valid_up_to());
            (std::str::from_utf8(text).ok()?, err.error_len().is_none().then_some(part)?)
        }
    };
    let of_a_break = |part: &[u8]| "，、；：。！？　".chars().any(|c| c.to_string().as_bytes().starts_with(part));
    let good = text.chars().all(|c| is_break(c) || alphabet::contains(c))
        && (part.is_empty() || alphabet::beginning_with(part).is_some() || of_a_break(part));
    good.then(|| text.chars().next())
}

#[cfg(test)]
mod tests {
    use super::super::{Rules, alphabet::characters};
    use super::*;
    use crate::{eval::couplet::judge, prosody, rng::Key};
    use std::{io::Read, sync::LazyLock};

    /// Qwen3's own, and its table.
    static QWEN3: LazyLock<(Tokenizer, TokenTable)> = LazyLock::new(|| {
        let packed = include_bytes!("../../../tests/fixtures/qwen3_tokenizer/tokenizer.json.gz");
        let mut json = vec![];
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut json).unwrap();
        let tokenizer = Tokenizer::from_bytes(&json).unwrap();
        let table = TokenTable::new(&tokenizer).unwrap();
        (tokenizer, table)
    });

    /// Logits to read slices of: as good as new ones at every step, and quick.
    static NOISE: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let key = Key::new(1, "noise");
        (0..1 << 20).map(|i| 20.0 * key.uniform(i)).collect()
    });

    /// The model's vocabulary: larger than the tokenizer's.
    const V: usize = 151_936;

    /// A first line of up to four clauses; one place in five repeats an earlier one.
    fn upper(key: Key) -> String {
        static ALL: LazyLock<Vec<char>> = LazyLock::new(|| characters().collect());
        let draw = |i: u64, below: usize| (key.uniform(i) * below as f32) as usize;
        let mut line: Vec<char> = vec![];
        let mut i = 1;
        for clause in 0..=draw(0, 4) {
            if clause > 0 {
                line.push(['，', '、'][draw(i, 2)]);
            }
            for _ in 0..=draw(i + 1, 10) {
                i += 3;
                let earlier = line.get(draw(i, line.len().max(1))).filter(|c| !is_break(**c) && draw(i + 1, 5) == 0);
                line.push(earlier.copied().unwrap_or(ALL[draw(i + 2, ALL.len())]));
            }
        }
        line.into_iter().collect()
    }

    /// The line that random logits write; `favoured` tokens get more.
    fn lower(plan: &Plan, key: Key, favoured: &[u32]) -> (String, Vec<u32>) {
        let (tokenizer, table) = &*QWEN3;
        let (mut state, mut ids) = (State::start(plan), vec![]);
        loop {
            let at = (key.with(ids.len() as u64).uniform(0) * (NOISE.len() - V) as f32) as usize;
            let mut logits = NOISE[at..at + V].to_vec();
            favoured.iter().for_each(|id| logits[*id as usize] += 30.0);
            let next = table.best(plan, &state, &logits, 1).pop().unwrap_or_else(|| panic!("a dead end: {state:?}"));
            match next.state {
                Some(after) => state = after,
                None => {
                    assert_eq!(next.id, tokenizer.end_id());
                    return (tokenizer.decode(&ids, false).unwrap(), ids);
                }
            }
            ids.push(next.id);
        }
    }

    #[test]
    fn random_logits_write_right_lines_with_qwen3s_own_tokens() {
        let (tokenizer, table) = &*QWEN3;
        let ids = |keep: &dyn Fn(&[u8]) -> bool| -> Vec<u32> {
            table.bytes.iter().filter(|(_, bytes)| keep(bytes)).map(|(id, _)| *id).collect()
        };
        let favourites = [
            ("none", vec![]),
            ("parts of characters", ids(&|bytes| std::str::from_utf8(bytes).is_err())),
            ("words", ids(&|bytes| std::str::from_utf8(bytes).is_ok_and(|text| text.chars().count() > 1))),
        ];
        let mut seen = (0, 0, 0);
        for (i, (name, favoured)) in (0..1500).map(|i| (i, &favourites[i % 3])) {
            let key = Key::new(7, "lines").with(i as u64);
            let upper = upper(key.with(1));
            for rules in [Rules::Shape, Rules::Strict] {
                let Ok(plan) = Plan::new(&upper, rules, None) else { panic!("{upper}") };
                let (line, ids) = lower(&plan, key.with(2), favoured);
                let verdict = judge(&upper, &line);
                let place = format!("{upper} → {line} ({name} favoured, {})", rules.name());
                assert!(verdict.shape, "{place}");
                let breaks = |text: &str| text.chars().filter(|c| is_break(*c)).collect::<String>();
                assert_eq!(breaks(&upper), breaks(&line), "{place}");
                if rules == Rules::Strict {
                    assert!(verdict.no_shared && verdict.repeat != Some(false), "{place}: {:?}", verdict.faults);
                    // After a wrong end the judge may count the other system as the better one.
                    match plan.relaxed() {
                        [] => assert!(verdict.passes() && verdict.tail.is_none(), "{place}: {:?}", verdict.faults),
                        _ => assert!(System::ALL.iter().any(|s| ends_well(&line, *s)), "{place}"),
                    }
                }
                let torn = ids.iter().any(|id| tokenizer.decode(&[*id], false).unwrap().contains('\u{fffd}'));
                seen.0 += usize::from(torn);
                seen.1 += usize::from(ids.len() < line.chars().count());
                seen.2 += usize::from(verdict.repeat.is_some());
            }
        }
        assert!(seen.0 > 500 && seen.1 > 500 && seen.2 > 500, "lines with parts, words and repeats: {seen:?}");
    }

    use crate::prosody::System;

    /// 平 at the end, and no clause with three equal tones.
    fn ends_well(line: &str, system: System) -> bool {
        let last = prosody::characters(line).last().map(|c| prosody::tone(c, system));
        last.is_some_and(|tone| tone.may_be(prosody::Tone::Level))
            && prosody::clauses(line).all(|clause| prosody::tail(clause, system).is_none())
    }

    #[test]
    fn the_best_are_those_of_a_full_scan() {
        let (tokenizer, table) = &*QWEN3;
        let plan = Plan::new("白日依山尽，更上，一层楼尽", Rules::Strict, None).unwrap();
        for (text, why) in [
            (&b""[..], "the first place"),
            ("黄".as_bytes(), "a node"),
            ("黄河入海流".as_bytes(), "before a break"),
            ("黄河入海流，".as_bytes(), "after it"),
            (&"黄河".as_bytes()[..4], "inside a character"),
            (&"黄河入海流，".as_bytes()[..16], "inside a break"),
        ] {
            let state = State::start(&plan).after(&plan, text).unwrap_or_else(|| panic!("{why}: refused"));
            for start in [0, 5_000] {
                let logits = &NOISE[start..start + V];
                let all = (0..tokenizer.vocab_size() as u32).filter_map(|id| {
                    let state = state.after(&plan, &tokenizer.token_bytes(id)?)?;
                    Some(Next { id, logit: logits[id as usize], state: Some(state) })
                });
                let mut slow: Vec<Next> =
                    all.filter(|next| !tokenizer.token_bytes(next.id).unwrap().is_empty()).collect();
                slow.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
                slow.truncate(20);
                assert!(!slow.is_empty(), "{why}");
                assert_eq!(table.best(&plan, &state, logits, 20), slow, "{why}");
            }
        }
    }
}
