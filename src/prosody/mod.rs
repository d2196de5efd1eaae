//! What a line of a couplet sounds and looks like: tones (平仄), clauses, rhythm nodes, repeated characters.
//!
//! Small functions of the text alone, for those who choose training data, for the judge, and for a decoder that keeps the rules
//! while it writes.
//!
//! ```
//! use couplet_train::prosody::{System, Tone, clauses, demands, nodes, tone};
//!
//! assert_eq!(clauses("春风，得意").collect::<Vec<_>>(), ["春风", "得意"]);
//! assert_eq!(nodes(7).collect::<Vec<_>>(), [1, 3, 5, 6]);
//! assert_eq!(tone('竹', System::Pingshui), Tone::Oblique, "an entering tone");
//! // What 下联 must sound like, character by character.
//! assert_eq!(demands("白日依山尽", System::Pingshui)[4], Some(Tone::Level));
//! ```

mod line;
mod pair;
mod tones;

pub use line::{
    Tail, bare, bare_shape, characters, clauses, demands, is_break, is_mark, is_quote, nodes, repeat_classes, shape,
    tail,
};
pub use pair::{NodePair, Tones, node_pairs, same_shape, tones};
pub use tones::{System, Tone, is_traditional, tone};
