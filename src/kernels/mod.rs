//! Forward and backward of every operation, as pairs of plain functions on tensors.
//!
//! candle's autograd is not used for training: it keeps every intermediate, computes a gradient for every frozen weight,
//! and its fused operations cut the graph silently. Each file here holds one operation: a body of candle operations that
//! runs on any device and in any float type, where it pays a fused body for f32 and bf16 on the CPU and one for CUDA (`cuda`
//! has its kernels), and the comparison of both with candle's autograd.
//!
//! Letters: `T` rows (tokens), `D` hidden size, `H` query heads, `K` key/value heads, `E` head dim, `F` MLP width,
//! `V` vocabulary, `R` LoRA rank, `L` labelled rows.

pub mod adamw;
pub mod attention;
pub mod cached_attention;
pub mod card;
pub mod columns;
mod cpu;
pub mod cross_entropy;
#[cfg(any(feature = "cuda", all(test, feature = "cuda-host")))]
mod cuda;
pub mod linear;
mod matrix;
#[cfg(not(feature = "cuda"))]
mod no_cuda;
pub mod norm_rope;
pub mod ordered_product;
pub mod packed;
mod process;
pub mod product;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod row_product;
pub mod singular;
pub mod swiglu;
mod wide;

pub use adamw::{AdamWStep, adamw_step};
pub use attention::Segments;
pub use columns::{blend_columns, column_dots, scale_columns};
pub use cpu::instruction_set;
#[cfg(feature = "cuda")]
pub use cuda::{AttentionLists, Graph, built, card_memory, declined, driver, forget_peak, open_card, pool, remembered};
pub use linear::{Factor, FrozenWeight, products};
#[cfg(not(feature = "cuda"))]
pub use no_cuda::{
    AttentionLists, Graph, built, card_memory, declined, driver, forget_peak, open_card, pool, remembered,
};
pub use ordered_product::{ordered_norm, ordered_product};
pub use packed::{Packable, Packed, PackedBf16, PackedF32, ProductPath, peak};
pub use process::{join_pool, keep_freed_buffers, return_freed_buffers};
pub use product::{add, add_product, add_product_at, add_to, product, scaled_product};
pub use row_product::{add_low_rank, row_product};
pub(crate) use wide::wide;
