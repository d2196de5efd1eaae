//! The exchange format with the rest of the world: PEFT adapter directories.

pub mod peft;
