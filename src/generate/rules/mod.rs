//! Rules while generating: what a line must be is turned into which tokens may come next.
//!
//! A [`Plan`] says what must stand at each place of 下联: which break, which characters are the same, what they sound
//! like. A [`State`] is a line begun by the plan; it takes bytes, because a token may hold several characters or a part of
//! one, and refuses what could no longer become a right line. A [`TokenTable`] knows the bytes of every token and finds the
//! most likely ones that a state takes.
//!
//! Two things hold for every state that is reached: its text is the beginning of a right line, and there is a token that
//! goes on. The tests draw lines from random logits with Qwen3's own tokenizer.

pub mod alphabet;
mod pattern;
mod plan;
mod state;
mod tokens;

pub use crate::config::Rules;
pub use plan::{Plan, Relaxed};
pub use state::State;
pub use tokens::{Next, TokenTable};
