//! Words and tags as Python's `jieba.posseg.cut` has them.
//!
//! The dictionary cuts first. What it leaves as single characters, two or more in a row, is cut by the model in
//! [`super::hmm`], which knows tags; `jieba.cut` has another model, of words alone, and cuts such runs otherwise.

use super::{JIEBA, Tagged, hmm};
use jieba_rs::Tag;

/// Cuts a text without breaks into words with their tags. Every character is in one of them. Latin letters and digits in
/// a row stay one word, where jieba may part digits from letters.
pub(super) fn tag(text: &str) -> Vec<Tagged<'_>> {
    let words = JIEBA.tag(text, false);
    let mut out = Vec::with_capacity(words.len());
    for run in words.chunk_by(|a, b| is_loose(a.word) && is_loose(b.word)) {
        if run.len() == 1 || JIEBA.has_word(span(text, run)) {
            out.extend(run.iter().map(|word| (word.word, dictionary_tag(word))));
            continue;
        }
        for piece in run.chunk_by(|a, b| is_han(a.word) && is_han(b.word)) {
            match is_han(piece[0].word) {
                true => out.extend(hmm::cut(span(text, piece))),
                false => out.extend(piece.iter().map(|latin| (latin.word, latin.tag))),
            }
        }
    }
    out
}

/// The part of `text` that neighbouring words make up.
fn span<'a>(text: &'a str, words: &[Tag]) -> &'a str {
    &text[words[0].byte_start..words[words.len() - 1].byte_end]
}

/// Whether a word may belong together with its neighbours: one character, or Latin letters and digits.
fn is_loose(word: &str) -> bool {
    is_han(word) || word.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether a word is one character of those that jieba cuts. Rarer ones, outside this range, it leaves alone.
fn is_han(word: &str) -> bool {
    let mut chars = word.chars();
    matches!(chars.next(), Some('\u{4E00}'..='\u{9FD5}')) && chars.next().is_none()
}

/// The dictionary's tag; `x` for a character it has not, of which jieba-rs would guess one.
fn dictionary_tag<'a>(word: &Tag<'a>) -> &'a str {
    if word.end - word.start == 1 && !JIEBA.has_word(word.word) { "x" } else { word.tag }
}
