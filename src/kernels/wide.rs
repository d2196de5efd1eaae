//! The type that sums are taken in, and rounding to a narrower one.

use crate::error::Result;
use candle_core::{DType, Tensor};

/// `t` in the type of its sums: f64 stays f64, everything narrower becomes f32.
pub(crate) fn wide(t: &Tensor) -> Result<Tensor> {
    Ok(t.to_dtype(if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?)
}

type Op = fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>;

/// `op(a, b)`, a sum or a product of tensors of one dtype, rounded to the nearest.
///
/// candle's bodies for NEON cut off what does not fit into bf16 (0.11.1, `vec_add_bf16` and its like), which is a bias.
pub(crate) fn nearest(op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match cfg!(target_arch = "aarch64") && a.device().is_cpu() && a.dtype() == DType::BF16 {
        true => Ok(op(&wide(a)?, &wide(b)?)?.to_dtype(DType::BF16)?),
        false => Ok(op(a, b)?),
    }
}
