//! The update: AdamW whose state can be saved, clipping, and the learning rate as a pure function of the step.

pub mod adamw;
pub mod clip;
pub mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use schedule::Schedule;
