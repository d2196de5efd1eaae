//! Token ids → text while they come: a character may be spread over several tokens and is shown when it is whole.

use crate::{dataset::Tokenizer, error::Result};

/// The text of a growing list of ids.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// Ids whose text is not out yet.
    held: Vec<u32>,
}

/// What a decoder writes for bytes that are no character (yet).
const REPLACEMENT: char = '\u{fffd}';

impl<'t> TextStream<'t> {
    /// `skip_special` leaves out what the tokenizer marks as special (`<|im_end|>`, not `<think>`).
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, held: Vec::new() }
    }

    /// The text that `id` completes; empty while a character is unfinished.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.held.push(id);
        let text = self.tokenizer.decode(&self.held, self.skip_special)?;
        if text.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        self.held.clear();
        Ok(text)
    }

    /// What is left at the end: bytes that never became a character, as `�`.
    pub fn finish(self) -> Result<String> {
        if self.held.is_empty() { Ok(String::new()) } else { self.tokenizer.decode(&self.held, self.skip_special) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parity/tokenizer").as_ref()).unwrap()
    }

    #[test]
    fn a_character_is_shown_when_it_is_whole() {
        let tokenizer = tokenizer();
        for text in ["海内存知己", "a🀄海𠮷, ok\n", "é"] {
            let ids = tokenizer.encode(text).unwrap();
            let mut stream = TextStream::new(&tokenizer, true);
            let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
            assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)), "{pieces:?}");
            assert_eq!(pieces.concat() + &stream.finish().unwrap(), text);
        }
        let torn = tokenizer.encode("🀄").unwrap();
        assert!(torn.len() > 1, "the fixture has no token for it");
    }

    #[test]
    fn torn_characters_are_shown_at_the_end_and_special_tokens_on_request() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("🀄").unwrap();
        let mut stream = TextStream::new(&tokenizer, true);
        assert_eq!(stream.push(ids[0]).unwrap(), "");
        assert!(stream.finish().unwrap().contains(REPLACEMENT));
        for (skip, want) in [(true, ""), (false, "<|im_end|>")] {
            assert_eq!(TextStream::new(&tokenizer, skip).push(tokenizer.end_id()).unwrap(), want);
        }
    }
}
