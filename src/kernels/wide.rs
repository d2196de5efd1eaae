//! The type that sums are taken in.

use crate::error::Result;
use candle_core::{DType, Tensor};

/// `t` in the type of its sums: f64 stays f64, everything narrower becomes f32.
pub(crate) fn wide(t: &Tensor) -> Result<Tensor> {
    Ok(t.to_dtype(if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?)
}
