//! Launches of `cross_entropy.cu`: the loss of labelled rows, and the gradient of their logits in place.

use super::launch::{Address, Launch, Real, narrow};

/// `rows` of `width` logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logits {
    pub real: Real,
    pub rows: usize,
    pub width: usize,
}

impl Logits {
    /// `logits` `[L, V]`, `targets` `[L]` u32 → `losses` `[L]` f32.
    pub fn nll(&self, logits: Address, targets: Address, losses: Address) -> Launch {
        let arguments = [logits.into(), targets.into(), losses.into(), narrow(self.width).into()];
        let (kernel, threads) = self.named("nll", logits);
        Launch::rows("cross_entropy", kernel, self.rows, threads, arguments)
    }

    /// As [`Self::nll`], and `logits` becomes `scale·(softmax − onehot)`; `scale`: one f32. A row whose target is
    /// [`NO_TARGET`](crate::kernels::cross_entropy::NO_TARGET) has neither loss nor gradient.
    pub fn nll_and_grad(&self, logits: Address, targets: Address, losses: Address, scale: Address) -> Launch {
        let arguments = [logits.into(), targets.into(), losses.into(), narrow(self.width).into(), scale.into()];
        let (kernel, threads) = self.named("grad", logits);
        Launch::rows("cross_entropy", kernel, self.rows, threads, arguments)
    }

    fn named(&self, kernel: &str, logits: Address) -> (String, usize) {
        let n = self.real.per_access(self.width, &[logits]);
        let threads = (self.width / n).next_multiple_of(32).clamp(32, 1024);
        (format!("cross_entropy_{kernel}_{}", self.real.suffix(n)), threads)
    }
}

#[cfg(all(test, feature = "cuda-host"))]
mod tests {
    use super::*;
    use crate::{
        error::Result,
        kernels::{
            cross_entropy::{self, Labels},
            cuda::host::{Buffer, Counters, assert_same, run, run_counted, wave},
        },
    };
    use candle_core::{DType, Device, Tensor};

    /// (rows, V): one logit, odd vocabularies, fewer logits than threads, Qwen3's.
    const SHAPES: [(usize, usize); 7] = [(1, 1), (3, 2), (4, 31), (5, 1000), (2, 8193), (3, 16_384), (2, 151_936)];

    /// Logits from −30 to 30, and targets at both ends and between.
    fn operands(dtype: DType, (rows, width): (usize, usize)) -> Result<(Tensor, Vec<u32>)> {
        let logits = (wave((rows, width), 0.0, DType::F32) * 30.0)?.to_dtype(dtype)?;
        Ok((
            logits,
            (0..rows).map(|t| (t * (width - 1) / rows.max(2).saturating_sub(1)).min(width - 1) as u32).collect(),
        ))
    }

    fn nll_and_grad(logits: &Tensor, targets: &[u32], scale: f32) -> (Tensor, Tensor, Counters) {
        let (rows, width) = logits.dims2().expect("[L, V]");
        let of = Logits { real: Real::of(logits.dtype()), rows, width };
        let (mut x, mut ids) = (Buffer::in_out(logits), Buffer::of_u32(targets));
        let mut losses = Buffer::output(DType::F32, rows);
        let mut scale = Buffer::input(&Tensor::new(&[scale], &Device::Cpu).expect("a tensor"));
        let launch = of.nll_and_grad(x.at(), ids.at(), losses.at(), scale.at());
        let counters = run_counted(&[launch], &mut [&mut x, &mut ids, &mut losses, &mut scale])
            .unwrap_or_else(|wrong| panic!("{of:?}: {wrong}"));
        (losses.tensor(DType::F32, rows), x.tensor(logits.dtype(), (rows, width)), counters)
    }

    #[test]
    fn loss_and_gradient_agree_with_the_cpu() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            for shape in SHAPES {
                let (logits, targets) = operands(dtype, shape)?;
                let (losses, grad, _) = nll_and_grad(&logits, &targets, 0.37);
                let own = logits.copy()?; // consumed
                let (want, want_grad) = cross_entropy::nll_and_grad(own, &Labels::new(&targets, 0.37, &Device::Cpu)?)?;
                crate::testing::assert_close(&losses, &want, 2e-6);
                assert_same(&grad, &want_grad, 2e-6);
                let none = vec![cross_entropy::NO_TARGET; shape.0];
                let (losses, grad, _) = nll_and_grad(&logits, &none, 0.37);
                crate::testing::assert_close(&losses, &losses.zeros_like()?, 0.0);
                crate::testing::assert_close(&grad, &grad.zeros_like()?, 0.0);
            }
        }
        Ok(())
    }

    #[test]
    fn the_loss_alone_agrees_with_the_cpu() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            for (rows, width) in SHAPES {
                let (logits, targets) = operands(dtype, (rows, width))?;
                let of = Logits { real: Real::of(dtype), rows, width };
                let (mut x, mut ids) = (Buffer::input(&logits), Buffer::of_u32(&targets));
                let mut losses = Buffer::output(DType::F32, rows);
                let launch = of.nll(x.at(), ids.at(), losses.at());
                run(&[launch], &mut [&mut x, &mut ids, &mut losses]).unwrap_or_else(|wrong| panic!("{of:?}: {wrong}"));
                let want = cross_entropy::nll(&logits, &targets)?;
                crate::testing::assert_close(&losses.tensor(DType::F32, rows), &want, 2e-6);
            }
        }
        Ok(())
    }

    /// A masked vocabulary: −∞ is a probability of 0, also where a thread sees nothing else.
    #[test]
    fn minus_infinity_is_a_probability_of_zero() -> Result<()> {
        let width = 3000;
        let mut row = vec![f32::NEG_INFINITY; width];
        (row[1500], row[2999]) = (1.0, 2.0);
        let (losses, grad, _) = nll_and_grad(&Tensor::new(row, &Device::Cpu)?.unsqueeze(0)?, &[2999], 1.0);
        let grad = grad.flatten_all()?.to_vec1::<f32>()?;
        let p = 1.0 / (1.0 + 1f32.exp());
        assert!((losses.to_vec1::<f32>()?[0] + (1.0 - p).ln()).abs() < 1e-6);
        assert!((grad[1500] - p).abs() < 1e-6 && (grad[2999] + p).abs() < 1e-6);
        assert_eq!(grad.iter().filter(|g| **g != 0.0).count(), 2);
        Ok(())
    }

    #[test]
    fn a_row_is_read_twice_and_written_once_in_whole_sectors() -> Result<()> {
        let (logits, targets) = operands(DType::BF16, (2, 151_936))?;
        let (.., counted) = nll_and_grad(&logits, &targets, 1.0);
        let row = 151_936 * 2 / 32;
        let single = 2 * 3 * 32; // a row's target, its logit and the scale, one sector each, for each of 32 warps
        assert_eq!((counted.load_sectors, counted.load_ideal), (2 * 2 * row + single, 2 * 2 * row + single));
        assert_eq!((counted.store_sectors, counted.store_ideal), (2 * row + 2, 2 * row + 2));
        Ok(())
    }
}
