//! Asking a model: prompts as training made them, a cache of keys and values, one token after the other.
//!
//! [`prompt::Speaker`] turns a text into token ids as training did. A [`Session`] answers the one question that everything
//! else is made of: which token comes next, for every row of a batch; its rows may be forked, reordered and dropped, so a
//! beam or a decoder with rules needs nothing more. [`generate`] is the plain loop on top: sample, feed, until the end of
//! the turn. [`score`] tells how likely given continuations are. [`lines()`] writes 下联 that keep the [`rules`] by
//! construction: a [`search`] among what they allow, and a [`rank`] of what it found.

mod answer;
mod lines;
mod ollama;
pub mod prompt;
pub mod rank;
pub mod rules;
pub mod sample;
mod score;
pub mod search;
mod session;
mod stream;

pub use answer::{Answer, Conversation, Finish, How, Limits, Token, Told, generate};
pub use lines::{Choice, lines};
pub use prompt::Speaker;
pub use sample::Sampling;
pub use score::score;
pub use session::{Logits, Session, refuse_too_long};
pub use stream::TextStream;
