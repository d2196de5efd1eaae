//! The exchange format with the rest of the world: PEFT adapter directories, proven and merged.

pub mod check;
pub mod export;
pub mod merge;
pub mod peft;
pub mod pissa;
