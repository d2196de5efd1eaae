//! Products with a frozen weight: `x·Wᵀ` forward, `dy·W` backward, and never a `dW`.

use super::{product, row_product};
use crate::error::Result;
use candle_core::Tensor;

/// A frozen matrix `W` `[out, in]` (a projection, the tied embedding or the head) in the compute dtype.
#[derive(Debug, Clone)]
pub struct FrozenWeight {
    w: Tensor,
}

impl FrozenWeight {
    /// `w`: `[out, in]`, f32 or bf16.
    pub fn new(w: Tensor) -> Self {
        Self { w }
    }

    /// (out, in)
    pub fn shape(&self) -> Result<(usize, usize)> {
        Ok(self.w.dims2()?)
    }

    /// `x` `[T, in]` → `x·Wᵀ` `[T, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.w.t()?)
    }

    /// As [`Self::forward`] for the few rows of generation: on the CPU `x` is f32 whatever W is, elsewhere it has W's dtype.
    pub fn infer(&self, x: &Tensor) -> Result<Tensor> {
        row_product(x, &self.w)
    }

    /// `dy` `[T, out]` → `dx = dy·W` `[T, in]`.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        product(dy, &self.w)
    }

    /// Rows `ids` of `W`, `[T, in]`: the embedding look-up. `ids`: `[T]` u32.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.w.index_select(ids, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::Var;

    #[test]
    fn agrees_with_autograd() -> Result<()> {
        for device in devices() {
            let x = Var::from_tensor(&wave((5, 7), 0.0, &device)?)?;
            let w = wave((3, 7), 1.0, &device)?;
            let dy = wave((5, 3), 2.0, &device)?;
            let weight = FrozenWeight::new(w.clone());
            let slow = x.matmul(&w.t()?)?;
            assert_close(&weight.forward(&x)?, &slow, 1e-6);
            let want = (slow * &dy)?.backward()?;
            assert_close(&weight.backward(&dy)?, want.get(&x).expect("x is a Var"), 1e-6);
            let ids = Tensor::new(&[2u32, 0, 2], &device)?;
            assert_close(&weight.rows(&ids)?, &w.index_select(&ids, 0)?, 0.0);
        }
        Ok(())
    }
}
