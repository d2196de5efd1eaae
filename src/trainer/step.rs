//! One optimizer step: micro-batches → summed loss and gradients → one update.

use super::plan::StepPlan;
use crate::{
    dataset::{Example, IGNORE},
    error::{Error, Result},
    fs::fault,
    model::{
        Batch, Grads, Params, Qwen3,
        qwen3::{DropoutPlan, Keep},
    },
    optim::clip,
    plan::Load,
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

/// How a step goes through the model. Changes no result.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Rows that go through the model at once.
    pub max_rows: usize,
    /// The tokens that all samples of a micro-batch begin with are computed once.
    pub share_prefix: bool,
    /// What every block keeps for its backward pass.
    pub keep: Keep,
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

/// The samples of a run's largest micro-batch, as indices into `train`, and its size; `None`: nothing has a label.
pub fn largest(plan: &StepPlan, train: &[Example], cut: Cut) -> Result<Option<(Vec<usize>, Load)>> {
    let mut largest: (usize, Vec<usize>) = (0, vec![]);
    for epoch in 0..=plan.epoch_of(plan.total_steps.saturating_sub(1)) {
        let order = plan.order(epoch);
        let first = epoch * plan.steps_per_epoch;
        for step in first..(first + plan.steps_per_epoch).min(plan.total_steps) {
            let trainable: Vec<usize> =
                plan.samples(step, &order).indices.into_iter().filter(|&i| train[i].is_trainable()).collect();
            let fed = |i: &usize| train[*i].input_ids.len() - 1;
            for micro in micro_batches(&trainable, cut.max_rows, fed) {
                let rows = micro.iter().map(fed).sum();
                if rows > largest.0 {
                    largest = (rows, micro.to_vec());
                }
            }
        }
    }
    let samples: Vec<(usize, &Example)> = largest.1.iter().map(|&i| (i, &train[i])).collect();
    let Some(packed) = Cut { max_rows: usize::MAX, ..cut }.batches(&samples).next() else { return Ok(None) };
    let (batch, _) = packed?;
    Ok(Some((largest.1, Load { rows: batch.ids.len(), labels: batch.label_rows.len() })))
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
        losses.push(model.train(&batch?.0, params, &mut grads, 1.0 / labels as f64, (dropout, cut.keep))?);
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
    use crate::config::TrainConfig;

    #[test]
    fn the_largest_micro_batch_of_a_run_is_found() {
        let row = |tokens: usize, trainable: bool| Example {
            input_ids: (0..tokens as u32).collect(),
            labels: (0..tokens as u32)
                .map(|i| if trainable && i as usize + 2 >= tokens { i } else { IGNORE })
                .collect(),
            origin: crate::dataset::Origin { dataset: 0, row: 1 },
        };
        // Two a step, in file order.
        let rows = [row(4, true), row(5, true), row(9, true), row(50, false), row(6, true), row(6, true)];
        let config = TrainConfig {
            per_device_train_batch_size: 2,
            disable_shuffling: true,
            num_train_epochs: 1.0,
            ..crate::testing::train_config()
        };
        let plan = StepPlan::new(rows.len(), &config);
        let find = |max_rows, share_prefix| {
            let cut = Cut { max_rows, share_prefix, keep: Keep::Lean };
            largest(&plan, &rows, cut).unwrap().map(|(samples, load)| (samples, load.rows, load.labels))
        };
        assert_eq!(find(100, false), Some((vec![4, 5], 10, 4)), "5 + 5 rows; the row of 50 has no label");
        assert_eq!(find(100, true), Some((vec![4, 5], 7, 4)), "three of them shared");
        assert_eq!(find(8, false), Some((vec![2], 8, 2)), "one at a time, the longest is the largest");
        assert_eq!(
            largest(&plan, &vec![row(5, false); 6], Cut { max_rows: 8, share_prefix: true, keep: Keep::Lean }).unwrap(),
            None
        );
    }

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
