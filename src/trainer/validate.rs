//! Held-out loss, without gradients: the same sum as in training.

use super::Cut;
use crate::{
    dataset::{self, Example, IGNORE},
    error::Result,
    fs::fault,
    model::{Params, Qwen3},
    plan::{Part, explained},
};

/// Held-out loss in two averages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOut {
    /// LlamaFactory's `eval_loss`: each sample carries the mean of its batch, and these are averaged over samples.
    pub loss: f64,
    /// Σ nll / Σ labels, in nats per supervised token.
    pub loss_per_token: f64,
    /// Standard error of `loss_per_token`: how far another draw of as many rows would move it.
    pub standard_error: f64,
    /// Rows, or packs of them.
    pub samples: usize,
    /// Batches of `per_device_eval_batch_size`.
    pub batches: usize,
}

/// Evaluates `examples`; `batch_size` decides LlamaFactory's average, `cut` how many rows go through at once. `None`: `stop` said so.
#[expect(clippy::disallowed_methods, reason = "no step to hold up")]
pub fn evaluate(
    model: &Qwen3,
    params: &Params,
    examples: &[Example],
    batch_size: usize,
    cut: Cut,
    stop: &dyn Fn() -> bool,
) -> Result<Option<HeldOut>> {
    let mut sums = vec![(0f64, 0usize); examples.len()]; // (Σ nll, labels) of every sample
    let supervised: Vec<(usize, &Example)> = examples.iter().enumerate().filter(|(_, e)| e.is_trainable()).collect();
    for packed in cut.batches(&supervised) {
        fault::phase("eval");
        if stop() {
            return Ok(None);
        }
        let (batch, micro) = packed?;
        let part = Part::Evaluation { rows: batch.ids.len(), samples: micro.len() };
        let losses: Vec<f32> = model.nll(&batch, params).map_err(|err| explained(err, part))?.to_vec1()?;
        let mut losses = losses.into_iter();
        for (i, example) in micro {
            let labels = example.labels.iter().skip(1).filter(|&&label| label != IGNORE).count();
            sums[i] = (losses.by_ref().take(labels).map(f64::from).sum(), labels);
        }
    }
    let total = |part: &[(f64, usize)]| part.iter().fold((0.0, 0), |(nll, n), s| (nll + s.0, n + s.1));
    let mean = |(nll, labels): (f64, usize)| nll / labels as f64;
    let mut rest = sums.as_slice();
    let of_sample = |rows: &[Example]| {
        let (sample, behind) = rest.split_at(rows.len());
        rest = behind;
        total(sample)
    };
    let samples: Vec<(f64, usize)> = dataset::samples(examples).map(of_sample).collect();
    let by_batch: f64 = samples.chunks(batch_size).map(|batch| mean(total(batch)) * batch.len() as f64).sum();
    let loss_per_token = mean(total(&sums));
    Ok(Some(HeldOut {
        loss: by_batch / samples.len() as f64,
        loss_per_token,
        standard_error: standard_error(&sums, loss_per_token),
        samples: samples.len(),
        batches: samples.len().div_ceil(batch_size),
    }))
}

/// Of the ratio Σ nll / Σ labels over rows (nll, labels): √Σ(nllᵢ − r·labelsᵢ)² / Σ labels (Cochran, Sampling Techniques, 1977, 6.4).
fn standard_error(rows: &[(f64, usize)], ratio: f64) -> f64 {
    let labels: usize = rows.iter().map(|(_, n)| n).sum();
    let squares: f64 = rows.iter().map(|&(nll, n)| (nll - ratio * n as f64).powi(2)).sum();
    squares.sqrt() / labels as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_a_mean_where_rows_are_alike() {
        // Four rows with one label each: σ/√n of 1, 2, 3, 4 with σ² over n, as the formula has it.
        let rows = [(1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1)];
        assert!((standard_error(&rows, 2.5) - (1.25f64 / 4.0).sqrt()).abs() < 1e-12);
        assert_eq!(standard_error(&[(2.0, 1), (6.0, 3)], 2.0), 0.0, "every label loses the same");
    }
}
