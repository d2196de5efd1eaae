//! Qwen3 with LoRA: mathematics only. No files but weights, no progress, no cache inside.

pub mod config;
pub mod lora;
pub mod params;
pub mod qwen3;
pub mod shards;
pub mod streamed;
pub mod weights;

pub use config::Qwen3Config;
pub use params::{Grads, Params};
pub use qwen3::{Batch, Qwen3};
pub use weights::Checkpoint;
