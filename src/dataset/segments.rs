//! Texts in segments that Qwen3's tokenizer takes one by one without a difference, so that what many rows say is tokenised once.
//!
//! No token crosses the border between two segments, because the tokenizer itself has cut there before it makes tokens:
//! - around `<|im_start|>` and `<|im_end|>`, which it takes out first. No other added token has a `<` but at its beginning or
//!   goes on from one of these two, so nothing else can stand there.
//! - behind a newline that something visible follows. In its pattern only `[\r\n]` and blanks may follow a newline within a
//!   word, the one alternative that looks ahead does so behind blanks without a newline, and none looks back. The canonical
//!   composition of characters (NFC) composes nothing with a newline.
//!
//! [`are_safe`] holds a tokenizer to all of it. With any other one a text is its own only segment.

use super::tokenizer::{TURN_BEGINS, TURN_ENDS, Tokenizer};
use crate::error::Result;
use serde_json::{Value, json};
use std::collections::HashMap;
use tokenizers::ModelWrapper;

/// How Qwen3's tokenizer cuts a text into words.
const PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether the borders of [`segments`] are such for this tokenizer too.
pub(super) fn are_safe(tokenizer: &tokenizers::Tokenizer) -> bool {
    let words = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
    ]});
    let is = |part: Option<Value>, want: Value| part == Some(want);
    let part = |part: Result<Value, serde_json::Error>| part.ok();
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let is_plain = |token: &tokenizers::AddedToken| {
        let text = token.content.as_str();
        let goes_on = |turn: &str| text.len() > turn.len() && text.starts_with(turn);
        let strips = token.lstrip || token.rstrip || token.single_word || token.normalized;
        let is_longer = text.contains(char::is_whitespace) || [TURN_BEGINS, TURN_ENDS].into_iter().any(goes_on);
        text.rfind('<') == Some(0) && !strips && !is_longer
    };
    is(tokenizer.get_normalizer().and_then(|n| part(serde_json::to_value(n))), json!({"type": "NFC"}))
        && is(tokenizer.get_pre_tokenizer().and_then(|p| part(serde_json::to_value(p))), words)
        && matches!(tokenizer.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.is_none())
        && added.values().all(is_plain)
        && [TURN_BEGINS, TURN_ENDS].iter().all(|turn| added.values().any(|token| token.content == *turn))
}

/// The segments of a text, none of them empty.
fn segments(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (segment, others) = rest.split_at(border(rest)?);
        rest = others;
        Some(segment)
    })
}

/// Where the first segment ends. `None`: there is none.
fn border(text: &str) -> Option<usize> {
    if let Some(turn) = [TURN_BEGINS, TURN_ENDS].into_iter().find(|turn| text.starts_with(turn)) {
        return Some(turn.len());
    }
    let is_border = |at: &usize| {
        let (before, behind) = text.split_at(*at);
        let is_turn = || [TURN_BEGINS, TURN_ENDS].into_iter().any(|turn| behind.starts_with(turn));
        (before.ends_with('\n') && behind.starts_with(|c: char| !c.is_whitespace())) || is_turn()
    };
    // Both kinds begin or end with one byte, which is never a part of another character.
    let places = text.bytes().enumerate().filter_map(|(at, byte)| match byte {
        b'\n' => Some(at + 1),
        b'<' => Some(at),
        _ => None,
    });
    places.filter(|at| *at > 0).find(is_border).or(Some(text.len())).filter(|end| *end > 0)
}

/// The words of a segment of Chinese lines, `None` of any other: runs of ideographs, a single mark going with the run behind it.
///
/// Ideographs are letters that NFC leaves alone, and so are these marks: they are neither letters nor digits nor blanks.
fn words(segment: &str) -> Option<impl Iterator<Item = &str>> {
    let is_han = |c: char| matches!(c, '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fef}');
    let is_mark = |c: char| matches!(c, '，' | '。' | '、' | '；' | '：' | '！' | '？');
    let mut begins = vec![0];
    let mut behind_han = false;
    for (at, c) in segment.char_indices() {
        if is_mark(c) && behind_han {
            begins.push(at);
        } else if !is_han(c) {
            return None;
        }
        behind_han = is_han(c);
    }
    let ends = begins.clone().into_iter().skip(1).chain([segment.len()]);
    behind_han.then(|| begins.into_iter().zip(ends).map(|(begin, end)| &segment[begin..end]))
}

/// Tokenises texts that have segments in common.
pub(super) struct Segmenter<'t> {
    tokenizer: &'t Tokenizer,
    /// Segments that came twice among the texts it was made from, and their ids.
    known: HashMap<String, Vec<u32>>,
}

impl<'t> Segmenter<'t> {
    /// `texts`: some of those that are to be tokenised. They decide how fast it is, and nothing else.
    pub fn new<'a>(tokenizer: &'t Tokenizer, texts: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for segment in texts.flat_map(|text| of(tokenizer, text)) {
            *counts.entry(segment).or_default() += 1;
        }
        let repeated = counts.into_iter().filter(|(_, count)| *count > 1);
        let known = repeated.map(|(segment, _)| Ok((segment.to_owned(), tokenizer.encode(segment)?)));
        Ok(Self { tokenizer, known: known.collect::<Result<_>>()? })
    }

    /// Appends the ids of `text`: those of [`Tokenizer::encode`].
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        for segment in of(self.tokenizer, text) {
            match (self.known.get(segment), words(segment).filter(|_| self.tokenizer.takes_segments())) {
                (Some(known), _) => ids.extend_from_slice(known),
                (None, Some(mut words)) => words.try_for_each(|word| self.tokenizer.encode_word(word, ids))?,
                (None, None) => ids.extend(self.tokenizer.encode(segment)?),
            }
        }
        Ok(())
    }
}

/// The segments that this tokenizer takes.
fn of<'a>(tokenizer: &Tokenizer, text: &'a str) -> impl Iterator<Item = &'a str> {
    let cut = tokenizer.takes_segments().then(|| segments(text));
    let whole = (!tokenizer.takes_segments() && !text.is_empty()).then_some(text);
    cut.into_iter().flatten().chain(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_stand_around_turns_and_behind_newlines_that_text_follows() {
        for (text, want, why) in [
            ("", vec![], "nothing"),
            ("一<|im_end|>\n", vec!["一", "<|im_end|>", "\n"], "around a control token"),
            ("<|im_start|>user\n对\n联", vec!["<|im_start|>", "user\n", "对\n", "联"], "behind newlines"),
            ("a\n\n\tb\n ", vec!["a\n\n\tb\n "], "not where a blank follows, nor at the end"),
            ("\n\na", vec!["\n\n", "a"], "behind the last of them"),
            ("<|im_<|im_end|><|im_end|>", vec!["<|im_", "<|im_end|>", "<|im_end|>"], "half a token is text"),
            ("a<b\n<c", vec!["a<b\n", "<c"], "a plain bracket is text"),
        ] {
            assert_eq!(segments(text).collect::<Vec<_>>(), want, "{why}");
        }
    }

    #[test]
    fn words_of_chinese_lines() {
        for (segment, want, why) in [
            ("春风得意", Some(vec!["春风得意"]), "one run"),
            ("春风，得意", Some(vec!["春风", "，得意"]), "a mark goes with what follows"),
            ("春风，，得意", None, "two marks are a word of their own"),
            ("春风得意。", None, "and so is one at the end"),
            ("，得意", None, "and one at the beginning"),
            ("春风a", None, "a letter of another script"),
            ("春风 得意", None, "a blank"),
            ("春\u{f900}", None, "NFC changes compatibility ideographs"),
            ("", None, "nothing"),
        ] {
            let got = words(segment).map(|words| words.collect::<Vec<_>>());
            assert_eq!(got, want, "{why}");
        }
    }
}
