//! DoRA (Liu et al. 2024): every row of `V = W + s·B·A` is brought to a length m that is trained too, `y = x·(m/‖V‖·V)ᵀ`.
//!
//! ‖V‖ follows A and B from step to step, but takes part in no gradient (section 4.3 of the paper, and PEFT). So it is one
//! vector for all passes of a step, made where parameters are set ([`Params::set`](super::Params::set)).
//!
//! V itself is never made: with P = A·Wᵀ, one product of r rows with the frozen weight, a row's
//! `‖V‖² = ‖W‖² + Σₖ Bₖ·(2s·Pₖ + s²·(B·A·Aᵀ)ₖ)`, of which all but P is taken in f64, and ‖W‖² once. What P, a sum in f32,
//! lacks of its exact value costs ‖V‖² roundings in f32 of ‖W‖·‖s·B·A‖: little beside it, unless the update takes away nearly all of W.

use super::params::ParamId;
use crate::{error::Result, kernels::FrozenWeight};
use candle_core::{DType, Tensor};

/// What a magnitude is the length of: the rows of `W + s·B·A`.
#[derive(Debug, Clone)]
pub(super) struct Direction {
    base: FrozenWeight,
    /// ‖W‖² of every row, `[out]` f64.
    squares: Tensor,
    scale: f64,
    pub(super) a: ParamId,
    pub(super) b: ParamId,
    pub(super) magnitude: ParamId,
}

impl Direction {
    /// Of A and B over `base`, W `[out, in]`; `scale`: s.
    pub(super) fn new(base: &FrozenWeight, scale: f64, (a, b, magnitude): (ParamId, ParamId, ParamId)) -> Result<Self> {
        Ok(Self { base: base.clone(), squares: base.squares()?, scale, a, b, magnitude })
    }

    /// ‖W + s·B·A‖ of every row, `[out]` f32 (f64 in f64). `a` `[r, in]`, `b` `[out, r]`: as they are multiplied with.
    pub(super) fn norms(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let projected = self.base.forward_wide(a)?; // [r, out]
        let (a, b, s) = (a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?, self.scale);
        let gram = a.matmul(&a.t()?)?; // [r, r]
        let cross = projected.to_dtype(DType::F64)?.t()?;
        let inner = ((cross * (2.0 * s))? + (b.matmul(&gram)? * (s * s))?)?; // [out, r]
        let squares = (&self.squares + (inner * b)?.sum(1)?)?;
        // Rounding can leave a row of next to nothing below zero.
        Ok(squares.maximum(0.0)?.sqrt()?.to_dtype(projected.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::params::Layout,
        testing::{devices, wave},
    };

    /// Against V itself in f64: as small updates as training makes, far larger ones than W, and such as take away most of it.
    #[test]
    fn norms_are_those_of_the_sum_to_the_rounding_of_f32() -> Result<()> {
        const CASES: [(usize, usize, usize, f64); 5] =
            [(6, 10, 3, 1.0), (70, 300, 8, 0.01), (33, 1100, 16, 0.3), (33, 65, 16, 30.0), (5, 7, 1, 0.0)];
        for device in devices() {
            // A rounding of the result, and those of P's sum, √width of them by chance, in what W and the update take from each
            // other. In f64, which sums in nothing wider, one of every addition.
            for (dtype, rounding) in [(DType::F64, None), (DType::F32, Some(6e-8)), (DType::BF16, Some(6e-8))] {
                for (out, width, rank, size) in CASES {
                    let rounding = rounding.unwrap_or((width + rank) as f64 * f64::EPSILON);
                    let of = |shape: (usize, usize), phase| {
                        Ok::<_, crate::error::Error>(wave(shape, phase, &device)?.to_dtype(dtype)?)
                    };
                    let (w, a) = (of((out, width), 0.0)?, of((rank, width), 1.0)?);
                    let b = (of((out, rank), 2.0)? * size)?;
                    let got = direction(&w)?.norms(&a, &b)?;
                    assert_eq!(got.dtype(), if dtype == DType::F64 { DType::F64 } else { DType::F32 });
                    let [w, a, b] = [w, a, b].map(|t| t.to_dtype(DType::F64));
                    let (w, update) = (w?, (b?.matmul(&a?)? * 0.7)?);
                    let norm = |t: &Tensor| t.sqr()?.sum(1)?.sqrt();
                    let want = norm(&(&w + &update)?)?;
                    let lost = ((norm(&w)? * norm(&update)?)? / want.sqr()?)?;
                    let off = ((got.to_dtype(DType::F64)? - &want)? / want)?.abs()?;
                    for (off, lost) in off.to_vec1::<f64>()?.into_iter().zip(lost.to_vec1::<f64>()?) {
                        let bound = rounding * (1.0 + 2.0 * lost * (width as f64).sqrt());
                        assert!(off <= bound, "{dtype:?}, {out}x{width}, {size}: off by {off:.1e} of {bound:.1e}");
                    }
                }
            }
        }
        Ok(())
    }

    fn direction(w: &Tensor) -> Result<Direction> {
        let mut layout = Layout::default();
        let ids = ["x.lora_A", "x.lora_B", "x.lora_magnitude_vector"];
        let [a, b, magnitude] = ids.map(|name| layout.push(name.into(), (1, 1)));
        Direction::new(&FrozenWeight::new(w.clone())?, 0.7, (a, b, magnitude))
    }
}
