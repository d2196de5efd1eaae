//! Cross entropy on labelled rows: the summed loss, and the gradient of the logits made in place.

use super::{
    cpu::{self, Element},
    wide::wide,
};
use crate::error::{Error, Result};
use candle_core::{CpuStorage, D, Device, InplaceOp1, Layout, Tensor, bail};
use half::bf16;
use rayon::prelude::*;
use std::sync::Mutex;

/// Negative log-likelihood of each row's target, `[L]` f32, in nats.
///
/// `logits`: `[L, V]`, whatever the dtype read as f32; `targets`: `L` token ids.
pub fn nll(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    refuse_other_lengths(logits, targets)?;
    for body in [nll_cpu::<f32>, nll_cpu::<bf16>] {
        if let Some(losses) = body(logits, targets)? {
            return Ok(losses);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(losses) = super::cuda::nll(logits, targets)? {
        return Ok(losses);
    }
    let (logits, ids) = (wide(logits)?, Tensor::new(targets, logits.device())?.unsqueeze(1)?);
    let picked = logits.gather(&ids, D::Minus1)?.squeeze(1)?;
    Ok((logits.log_sum_exp(D::Minus1)? - picked)?)
}

/// The target of a row that only fills up a micro-batch: it has neither loss nor gradient.
pub const NO_TARGET: u32 = u32::MAX;

/// What labelled rows are trained towards, and the factor on their gradient; on a card also there.
#[derive(Debug, Clone)]
pub struct Labels {
    targets: Vec<u32>,
    scale: f64,
    /// `[L]` u32 and `[1]` f32.
    placed: Option<(Tensor, Tensor)>,
}

impl Labels {
    /// `targets`: `L` token ids, or [`NO_TARGET`].
    pub fn new(targets: &[u32], scale: f64, device: &Device) -> Result<Self> {
        let placed = match device.is_cuda() && !targets.is_empty() {
            true => Some((Tensor::new(targets, device)?, Tensor::new(&[scale as f32], device)?)),
            false => None,
        };
        Ok(Self { targets: targets.to_vec(), scale, placed })
    }

    /// Those of `len` rows from `start` on.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let placed =
            self.placed.as_ref().map(|(ids, scale)| Ok::<_, Error>((ids.narrow(0, start, len)?, scale.clone())));
        Ok(Self { targets: self.targets[start..start + len].to_vec(), scale: self.scale, placed: placed.transpose()? })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// What there is of them on a card.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.placed.iter().flat_map(|(ids, scale)| [ids, scale])
    }
}

/// [`nll`], and `∂(scale·Σ nll)/∂logits = scale·(softmax − onehot)`, computed in f32, in the dtype of `logits`.
///
/// `logits` is consumed: its memory becomes the gradient, where a fused body is there.
pub fn nll_and_grad(logits: Tensor, labels: &Labels) -> Result<(Tensor, Tensor)> {
    let Labels { targets, scale, placed } = labels;
    refuse_other_lengths(&logits, targets)?;
    if cpu::is_plain(&logits) {
        let op = InPlace { targets, scale: *scale as f32, losses: Mutex::new(vec![0.0; targets.len()]) };
        logits.inplace_op1(&op)?;
        let losses = op.losses.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        return Ok((Tensor::new(losses, logits.device())?, logits));
    }
    #[cfg(feature = "cuda")]
    if let Some(losses) = super::cuda::nll_and_grad(&logits, targets, placed.as_ref())? {
        return Ok((losses, logits));
    }
    let _on_a_card_alone = placed;
    composed(&logits, targets, *scale)
}

fn refuse_other_lengths(logits: &Tensor, targets: &[u32]) -> Result<()> {
    let rows = logits.dim(0)?;
    if rows == targets.len() {
        Ok(())
    } else {
        Err(Error::run(format!("{} targets for {rows} rows of logits", targets.len())))
    }
}

fn composed(logits: &Tensor, targets: &[u32], scale: f64) -> Result<(Tensor, Tensor)> {
    let (x, ids) = (wide(logits)?, Tensor::new(targets, logits.device())?.unsqueeze(1)?); // ids [L, 1]
    let lse = x.log_sum_exp(D::Minus1)?; // [L]
    let losses = (&lse - x.gather(&ids, D::Minus1)?.squeeze(1)?)?;
    let p = (x.broadcast_sub(&lse.unsqueeze(1)?)?.exp()? * scale)?;
    let minus = (Tensor::ones(ids.shape(), x.dtype(), x.device())? * -scale)?;
    Ok((losses, p.scatter_add(&ids, &minus, D::Minus1)?.to_dtype(logits.dtype())?))
}

fn nll_cpu<T: Element>(logits: &Tensor, targets: &[u32]) -> Result<Option<Tensor>> {
    let Some(values) = cpu::values::<T>(logits) else { return Ok(None) };
    let rows = values.par_chunks_exact(logits.dim(1)?).zip(targets);
    let losses = rows.map(|(row, &target)| {
        cpu::vectorized(|| {
            let max = cpu::max(row);
            max + exp_sum(row, max).ln() - row[target as usize].widen()
        })
    });
    Ok(Some(Tensor::new(losses.collect::<Vec<f32>>(), logits.device())?))
}

/// Σ exp(x − max) in f32 blocks, the blocks in f64: 150,000 terms keep their last digits.
#[inline(always)]
fn exp_sum<T: Element>(row: &[T], max: f32) -> f32 {
    let mut total = 0f64;
    let mut block = [0f32; 512];
    for chunk in row.chunks(block.len()) {
        for (e, x) in block.iter_mut().zip(chunk) {
            *e = cpu::exp(x.widen() - max);
        }
        total += f64::from(cpu::sum(&block[..chunk.len()]));
    }
    total as f32
}

struct InPlace<'a> {
    targets: &'a [u32],
    scale: f32,
    losses: Mutex<Vec<f32>>,
}

impl InPlace<'_> {
    fn run<T: Element>(&self, logits: &mut [T], width: usize) {
        let mut losses = self.losses.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let rows = logits.par_chunks_exact_mut(width).zip(self.targets).zip(losses.par_iter_mut());
        rows.for_each(|((row, &target), loss)| {
            cpu::vectorized(|| {
                if target == NO_TARGET {
                    row.fill(T::round(0.0));
                    return;
                }
                let (max, right) = (cpu::max(row), row[target as usize].widen());
                let sum = exp_sum(row, max);
                *loss = max + sum.ln() - right;
                let factor = self.scale / sum;
                for x in row.iter_mut() {
                    *x = T::round(cpu::exp(x.widen() - max) * factor);
                }
                row[target as usize] = T::round(cpu::exp(right - max) * factor - self.scale);
            });
        });
    }
}

impl InplaceOp1 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "nll_and_grad"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("nll_and_grad: contiguous logits expected") };
        let (_, width) = layout.shape().dims2()?;
        match storage {
            CpuStorage::F32(logits) => self.run(&mut logits[start..end], width),
            CpuStorage::BF16(logits) => self.run(&mut logits[start..end], width),
            _ => bail!("nll_and_grad: f32 or bf16 expected"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::Var;
    use candle_core::{DType, Device};

    #[test]
    fn agrees_with_autograd_forward_and_backward() -> Result<()> {
        for device in devices() {
            for (rows, vocab) in [(1, 2), (5, 33), (3, 1500)] {
                let logits = Var::from_tensor(&(wave((rows, vocab), 0.0, &device)? * 6.0)?)?;
                let targets: Vec<u32> = (0..rows).map(|i| (i * 7 % vocab) as u32).collect();
                let ids = Tensor::new(targets.as_slice(), &device)?;
                let mean = candle_nn::loss::cross_entropy(&logits, &ids)?;
                let want = mean.backward()?;
                let (losses, grad) =
                    nll_and_grad((logits.as_tensor() + 0.0)?, &Labels::new(&targets, 1.0 / rows as f64, &device)?)?;
                assert_close(&losses.mean(0)?, &mean, 1e-6);
                assert_close(&grad, want.get(&logits).expect("a Var"), 1e-6);
                assert_close(&nll(&logits, &targets)?, &losses, 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn the_fused_body_equals_the_composition_and_nan_is_not_hidden() -> Result<()> {
        let logits = (wave((4, 700), 0.0, &Device::Cpu)? * 9.0)?;
        let targets = [0u32, 699, 3, 350];
        let labels = Labels::new(&targets, 0.25, &Device::Cpu)?;
        let (want_losses, want_grad) = composed(&logits, &targets, 0.25)?;
        let (losses, grad) = nll_and_grad(logits, &labels)?;
        assert_close(&losses, &want_losses, 1e-6);
        assert_close(&grad, &want_grad, 1e-7);

        // bf16 logits: the numbers of their f32 copy, and its gradient rounded once.
        let half = (wave((4, 700), 1.0, &Device::Cpu)? * 9.0)?.to_dtype(DType::BF16)?;
        let (want_losses, want_grad) = nll_and_grad(half.to_dtype(DType::F32)?, &labels)?;
        assert_close(&nll(&half, &targets)?, &want_losses, 0.0);
        let (losses, grad) = nll_and_grad(half, &labels)?;
        assert_close(&losses, &want_losses, 0.0);
        assert_close(&grad, &want_grad.to_dtype(DType::BF16)?, 0.0);

        let (losses, grad) =
            nll_and_grad(wave((2, 700), 0.0, &Device::Cpu)?, &Labels::new(&[3, NO_TARGET], 0.25, &Device::Cpu)?)?;
        assert!(losses.get(0)?.to_scalar::<f32>()? > 0.0);
        assert_close(&losses.narrow(0, 1, 1)?, &Tensor::zeros(1, DType::F32, &Device::Cpu)?, 0.0);
        assert_close(&grad.narrow(0, 1, 1)?, &Tensor::zeros((1, 700), DType::F32, &Device::Cpu)?, 0.0);

        let bad = Tensor::new(&[[1f32, f32::NAN, 2.0]], &Device::Cpu)?;
        let (losses, _) = nll_and_grad(bad, &Labels::new(&[0], 1.0, &Device::Cpu)?)?;
        assert!(losses.to_vec1::<f32>()?[0].is_nan());
        Ok(())
    }
}
