//! Sums over whole buffers, in a fixed order.

use super::cpu;
use crate::error::Result;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// Σ xᵢ² as a scalar tensor (f64 where a fused body is there, else f32). `x`: `[n]` f32.
///
/// On the CPU fixed blocks are summed in f32 and the blocks in f64, so the result depends on no thread count.
pub fn sum_of_squares(x: &Tensor) -> Result<Tensor> {
    const BLOCK: usize = 1024;
    if let Some(values) = cpu::f32s(x) {
        let blocks: Vec<f64> =
            values.par_chunks(BLOCK).map(|block| cpu::vectorized(|| f64::from(cpu::dot(block, block)))).collect();
        return Ok(Tensor::new(blocks.iter().sum::<f64>(), x.device())?);
    }
    #[cfg(feature = "cuda")]
    if let Some(sum) = super::cuda::sum_of_squares(x)? {
        return Ok(sum);
    }
    // Rows first: one sum over everything would be a single block on CUDA, slow and imprecise.
    let squares = x.to_dtype(DType::F32)?.sqr()?;
    let (rows, n) = (x.elem_count() / BLOCK, x.elem_count());
    let tail = squares.narrow(0, rows * BLOCK, n - rows * BLOCK)?.sum_all()?;
    if rows == 0 {
        return Ok(tail);
    }
    Ok((squares.narrow(0, 0, rows * BLOCK)?.reshape((rows, BLOCK))?.sum(1)?.sum(0)? + tail)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};

    #[test]
    fn agrees_with_candle() -> Result<()> {
        for device in devices() {
            for n in [1usize, 1023, 5000] {
                let x = wave((n, 1), 0.3, &device)?.flatten_all()?;
                let want = x.sqr()?.sum_all()?;
                assert_close(&sum_of_squares(&x)?.to_dtype(DType::F32)?, &want, 1e-5);
            }
        }
        Ok(())
    }
}
