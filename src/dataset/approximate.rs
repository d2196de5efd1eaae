//! A tokenizer for plans where the model's own is not there: one token a character, a word of letters, a blank run.
//!
//! Verse comes out as with Qwen3's: in the shipped couplets 23.0 tokens of a row's own, where they are 22.5. Prose, of which
//! Qwen3 knows whole words, comes out a third too long: their instruction 39 tokens, where it is 29. Good for counting alone.

use super::Tokenizer;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

/// Tokens that the templates need.
const CONTROL: [&str; 5] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"];

/// Characters that get an id of their own, so that rows which begin with the same text have the same ids there and no longer:
/// ASCII, CJK punctuation, Chinese characters, full-width forms. All others share one.
const OWN: [std::ops::RangeInclusive<char>; 4] =
    ['\t'..='~', '\u{2010}'..='\u{30ff}', '\u{3400}'..='\u{9fff}', '\u{ff00}'..='\u{ffef}'];

/// Ids below 42,000: any Qwen3 has as many.
pub fn tokenizer() -> Result<Tokenizer> {
    let mut vocab = Map::new();
    for word in CONTROL.map(str::to_owned).into_iter().chain(["other".to_owned()]) {
        vocab.insert(word, vocab.len().into());
    }
    for c in OWN.into_iter().flatten() {
        vocab.insert(c.to_string(), vocab.len().into());
    }
    let control = |(id, content): (usize, &str)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let added: Vec<Value> = CONTROL.into_iter().enumerate().map(control).collect();
    let file = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {
            "type": "Split", "behavior": "Isolated", "invert": false,
            "pattern": { "Regex": r"[A-Za-z]+|\s+|(?s:.)" },
        },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "other" },
    });
    let bytes = serde_json::to_vec(&file).map_err(|err| Error::run(err.to_string()))?;
    Tokenizer::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TemplateName;

    #[test]
    fn a_character_a_word_and_a_blank_run_are_a_token_each() {
        let tokenizer = tokenizer().unwrap();
        tokenizer.check_template(TemplateName::Qwen3).unwrap();
        for (text, tokens) in [
            ("", 0),
            ("海内存知己", 5),
            ("风声，雨声", 5),
            ("<|im_start|>user\n对<|im_end|>\n", 6),
            ("two words", 3),
            ("a\n\nb", 3),
            ("𠀀é", 2),
        ] {
            assert_eq!(tokenizer.encode(text).unwrap().len(), tokens, "{text:?}");
        }
        assert_ne!(tokenizer.encode("海").unwrap(), tokenizer.encode("山").unwrap());
        assert!(tokenizer.vocab_size() < 42_000, "{}", tokenizer.vocab_size());
    }
}
