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
