//! Qwen3 with LoRA: mathematics only. No files but weights, no progress, no cache inside (recorded passes, which a card launches, keep their inputs).

pub mod adapter_weights;
pub mod config;
mod dora;
mod kv_cache;
pub mod lora;
pub mod noise;
pub mod params;
pub mod pissa;
pub mod published;
pub mod qwen3;
pub mod recorded;
pub mod shards;
mod slots;
pub mod streamed;
pub mod weights;

pub use adapter_weights::AdapterWeights;
pub use config::Qwen3Config;
pub use kv_cache::KvCache;
pub use noise::Noise;
pub use params::{Grads, Params};
pub use pissa::Principal;
pub use qwen3::{Batch, Qwen3, head_rows};
pub use recorded::Recorder;
pub use weights::Checkpoint;
