//! One optimizer step: micro-batches → summed loss and gradients → one update.

use crate::{
    dataset::{Example, IGNORE},
    error::{Error, Result},
    fs::fault,
    model::{Batch, Grads, Params, Qwen3, qwen3::DropoutPlan},
    optim::clip,
};
use candle_core::Tensor;

/// Loss and gradient of one step, before the update.
pub struct StepGradient {
    /// Σ nll / Σ labels, in nats per supervised token.
    pub loss: f64,
    /// L2 norm of [`Self::flat`].
    pub grad_norm: f64,
    /// ∂loss/∂θ, `[n]` f32.
    pub flat: Tensor,
}

impl StepGradient {
    /// One element becomes NaN: for the fault suite.
    pub fn spoil(&mut self) -> Result<()> {
        let n = self.flat.elem_count();
        let factors: Vec<f32> = (0..n).map(|i| if i == n / 2 { f32::NAN } else { 1.0 }).collect();
        self.flat = (&self.flat * Tensor::from_vec(factors, n, self.flat.device())?)?;
        self.grad_norm = clip::grad_norm(&self.flat)?;
        Ok(())
    }
}

/// Cuts samples, in order, into runs of at most `budget` fed rows (a longer sample stands alone).
pub fn micro_batches<T>(samples: &[T], budget: usize, fed_rows: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = samples;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = rest.iter().take_while(|sample| {
            rows += fed_rows(sample);
            rows <= budget
        });
        let n = fits.count().max(1).min(rest.len());
        let (head, tail) = rest.split_at(n);
        rest = tail;
        (!head.is_empty()).then_some(head)
    })
}

/// How samples become micro-batches. Changes no result.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Rows that go through the model at once.
    pub max_rows: usize,
    /// The tokens that all samples of a micro-batch begin with are computed once.
    pub share_prefix: bool,
}

impl Cut {
    /// Micro-batches of (index in the data, row), packed.
    pub fn batches<'a, 'e>(
        self,
        samples: &'a [(usize, &'e Example)],
    ) -> impl Iterator<Item = Result<(Batch, &'a [(usize, &'e Example)])>> {
        micro_batches(samples, self.max_rows, |(_, e)| e.input_ids.len() - 1).map(move |micro| {
            let rows: Vec<_> =
                micro.iter().map(|(i, e)| (*i as u64, e.input_ids.as_slice(), e.labels.as_slice())).collect();
            Ok((Batch::pack(&rows, IGNORE, self.share_prefix)?, micro))
        })
    }
}

/// Forward and backward over all samples of a step.
///
/// Every micro-batch adds Σ nll / N with N the labels of the whole step, so the cut changes no result. N counts a label
/// at position 0 although nothing predicts it, as the Hugging Face trainer does. `None`: `stop` said so between two
/// micro-batches.
#[expect(clippy::disallowed_methods, reason = "the step's one look at the loss, after all its micro-batches")]
pub fn gradient(
    model: &Qwen3,
    params: &Params,
    samples: &[(usize, &Example)],
    cut: Cut,
    dropout: Option<DropoutPlan>,
    stop: &dyn Fn() -> bool,
) -> Result<Option<StepGradient>> {
    let labels: usize = samples.iter().map(|(_, e)| e.label_count()).sum();
    let supervised: Vec<(usize, &Example)> = samples.iter().copied().filter(|(_, e)| e.is_trainable()).collect();
    if supervised.is_empty() {
        return Err(Error::run("no row of this step has a label: all their answers were cut away")
            .hint("raise `cutoff_len`, or set `over_length` to `drop`")
            .hint_zh("请增大 `cutoff_len`，或将 `over_length` 设为 `drop`"));
    }
    let mut grads = Grads::new(params);
    let mut losses = Vec::new();
    for batch in cut.batches(&supervised) {
        fault::phase("train");
        if stop() {
            return Ok(None);
        }
        losses.push(model.train(&batch?.0, params, &mut grads, 1.0 / labels as f64, dropout)?);
    }
    let losses: Vec<f32> = Tensor::cat(&losses, 0)?.to_vec1()?;
    let flat = grads.flat(params)?;
    Ok(Some(StepGradient {
        loss: losses.into_iter().map(f64::from).sum::<f64>() / labels as f64,
        grad_norm: clip::grad_norm(&flat)?,
        flat,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_keep_the_order_and_the_budget() {
        for (lengths, budget, want) in [
            (vec![3, 3, 3], 6, vec![vec![3, 3], vec![3]]),
            (vec![9, 1, 1], 4, vec![vec![9], vec![1, 1]]),
            (vec![2, 2], 100, vec![vec![2, 2]]),
            (vec![5], 1, vec![vec![5]]),
            (vec![], 10, vec![]),
        ] {
            let got: Vec<Vec<usize>> = micro_batches(&lengths, budget, |&n| n).map(<[usize]>::to_vec).collect();
            assert_eq!(got, want, "budget {budget}");
        }
    }
}
