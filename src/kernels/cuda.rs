//! Kernels for CUDA: the `.cu` files beside each other in `cuda/`, what each is launched with, and what runs them.
//!
//! Every kernel has one `.rs` file beside its `.cu` file. It describes the launches; `device` carries them out on a card, and
//! under the feature `cuda-host` the tests hand the same launches to a harness that runs the same sources on the CPU.

mod adamw;
mod attention;
#[cfg(feature = "cuda")]
mod cards;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod gemm;
#[cfg(feature = "cuda")]
mod graph;
#[cfg(all(test, feature = "cuda-host"))]
mod host;
mod launch;
#[cfg(feature = "cuda")]
mod memory;
mod norm_rope;
#[cfg(feature = "cuda")]
mod ops;
mod rms_norm;
mod swiglu;

#[cfg(feature = "cuda")]
pub use cards::{built, driver, open_card};
#[cfg(feature = "cuda")]
pub use device::declined;
#[cfg(feature = "cuda")]
pub(super) use gemm::{add_product, product};
#[cfg(feature = "cuda")]
pub use graph::{Graph, remembered};
#[cfg(feature = "cuda")]
pub use memory::{card_memory, forget_peak, pool};
#[cfg(feature = "cuda")]
pub use ops::AttentionLists;
#[cfg(feature = "cuda")]
pub(super) use ops::*;
