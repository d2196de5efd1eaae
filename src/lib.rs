//! couplet-train: native LoRA fine-tuning for Qwen3.

pub mod adapter;
pub mod config;
pub mod dataset;
pub mod device;
pub mod error;
pub mod fs;
pub mod hub;
pub mod kernels;
pub mod model;
pub mod optim;
pub mod report;
pub mod rng;
pub mod run;
pub mod signal;
#[doc(hidden)]
pub mod testing;
pub mod trainer;
