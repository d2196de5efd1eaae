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
