//! Held-out loss, without gradients: the same sum as in training; and, where asked for, how many tokens are right.

use super::{Cut, cut::Sample};
use crate::{
    dataset::{self, Example},
    error::Result,
    fs::fault,
    model::{Batch, Params, Qwen3},
    plan::{Part, explained},
};

/// Held-out loss in two averages.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// LlamaFactory's `eval_loss`: each sample carries the mean of its batch, and these are averaged over samples.
    pub loss: f64,
    /// Σ nll / Σ labels, in nats per supervised token.
    pub loss_per_token: f64,
    /// Standard error of `loss_per_token`: how far another draw of as many rows would move it.
    pub standard_error: f64,
    /// LlamaFactory's `eval_accuracy`: the share of a sample's labels that are the model's likeliest token, averaged over samples.
    /// One without a label is left out. `None`: not asked for, or there is no label.
    pub accuracy: Option<f64>,
    /// Rows, or packs of them.
    pub samples: usize,
    /// Batches of `per_device_eval_batch_size`.
    pub batches: usize,
    /// The same for each data set by itself with its [`Origin::dataset`](crate::dataset::Origin), where asked for.
    pub each: Vec<(usize, HeldOut)>,
}

/// What is measured, and how.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// `per_device_eval_batch_size`, which decides LlamaFactory's average.
    pub batch_size: usize,
    /// How many rows go through at once.
    pub cut: Cut,
    /// `compute_accuracy`
    pub accuracy: bool,
    /// `eval_on_each_dataset`
    pub each: bool,
}

/// What a label, or all of a row, come to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sum {
    nll: f64,
    /// Labels that some position predicts.
    labels: usize,
    /// Those of them that are the likeliest token there.
    right: usize,
}

/// Evaluates `examples`. `None`: `stop` said so.
pub fn evaluate(
    model: &Qwen3,
    params: &Params,
    examples: &[Example],
    how: Measure,
    stop: &dyn Fn() -> bool,
) -> Result<Option<HeldOut>> {
    let supervised: Vec<Sample> = examples.iter().enumerate().filter(|(_, e)| e.is_trainable()).collect();
    let mut sums = vec![Sum::default(); examples.len()];
    for packed in how.cut.batches(&supervised) {
        fault::phase("eval");
        if stop() {
            return Ok(None);
        }
        let (batch, micro) = packed?;
        let part = Part::Evaluation { rows: batch.ids.len(), samples: micro.len() };
        let labels = each_label(model, params, &batch, how.accuracy).map_err(|err| explained(err, part))?;
        let mut labels = labels.into_iter();
        for (i, example) in micro {
            sums[i] = total(labels.by_ref().take(example.predicted().count()));
        }
    }
    Ok(Some(averages(examples, &sums, how)))
}

/// Every label of `batch`; without `accuracy` none is right.
#[expect(clippy::disallowed_methods, reason = "no step to hold up")]
fn each_label(model: &Qwen3, params: &Params, batch: &Batch, accuracy: bool) -> Result<Vec<Sum>> {
    let (nll, likeliest) = match accuracy {
        true => model.nll_and_likeliest(batch, params).map(|(nll, likeliest)| (nll, Some(likeliest)))?,
        false => (model.nll(batch, params)?, None),
    };
    let is_right = |(likeliest, label): (u32, &u32)| usize::from(likeliest == *label);
    let right = match likeliest {
        Some(likeliest) => likeliest.to_vec1()?.into_iter().zip(&batch.targets).map(is_right).collect(),
        None => vec![0; batch.targets.len()],
    };
    let nll: Vec<f32> = nll.to_vec1()?;
    Ok(nll.into_iter().zip(right).map(|(nll, right)| Sum { nll: nll.into(), labels: 1, right }).collect())
}

fn total(parts: impl Iterator<Item = Sum>) -> Sum {
    parts.fold(Sum::default(), |all, part| Sum {
        nll: all.nll + part.nll,
        labels: all.labels + part.labels,
        right: all.right + part.right,
    })
}

/// `sums`: one for every example.
fn averages(examples: &[Example], sums: &[Sum], how: Measure) -> HeldOut {
    let total = |part: &[Sum]| total(part.iter().copied());
    let mean = |sum: Sum| sum.nll / sum.labels as f64;
    let mut rest = sums;
    let of_sample = |rows: &[Example]| {
        let (sample, behind) = rest.split_at(rows.len());
        rest = behind;
        total(sample)
    };
    let samples: Vec<Sum> = dataset::samples(examples).map(of_sample).collect();
    let by_batch: f64 = samples.chunks(how.batch_size).map(|batch| mean(total(batch)) * batch.len() as f64).sum();
    let shares: Vec<f64> =
        samples.iter().filter(|sum| sum.labels > 0).map(|sum| sum.right as f64 / sum.labels as f64).collect();
    let loss_per_token = mean(total(sums));
    HeldOut {
        loss: by_batch / samples.len() as f64,
        loss_per_token,
        standard_error: standard_error(sums, loss_per_token),
        accuracy: (how.accuracy && !shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64),
        samples: samples.len(),
        batches: samples.len().div_ceil(how.batch_size),
        each: if how.each { each(examples, sums, how) } else { vec![] },
    }
}

/// Rows of a data set stand one behind the other.
fn each(examples: &[Example], sums: &[Sum], how: Measure) -> Vec<(usize, HeldOut)> {
    let mut rest = sums;
    let of_dataset = |rows: &[Example]| {
        let (part, behind) = rest.split_at(rows.len());
        rest = behind;
        (rows[0].origin.dataset, averages(rows, part, Measure { each: false, ..how }))
    };
    examples.chunk_by(|a, b| a.origin.dataset == b.origin.dataset).map(of_dataset).collect()
}

/// Of the ratio Σ nll / Σ labels over rows: √Σ(nllᵢ − r·labelsᵢ)² / Σ labels (Cochran, Sampling Techniques, 1977, 6.4).
fn standard_error(rows: &[Sum], ratio: f64) -> f64 {
    let labels: usize = rows.iter().map(|sum| sum.labels).sum();
    let squares: f64 = rows.iter().map(|sum| (sum.nll - ratio * sum.labels as f64).powi(2)).sum();
    squares.sqrt() / labels as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataset::{IGNORE, Origin, Pack},
        model::qwen3::Keep,
    };

    fn sum(nll: f64, labels: usize, right: usize) -> Sum {
        Sum { nll, labels, right }
    }

    #[test]
    fn the_standard_error_is_that_of_a_mean_where_rows_are_alike() {
        // Four rows with one label each: σ/√n of 1, 2, 3, 4 with σ² over n, as the formula has it.
        let rows = [sum(1.0, 1, 0), sum(2.0, 1, 0), sum(3.0, 1, 0), sum(4.0, 1, 0)];
        assert!((standard_error(&rows, 2.5) - (1.25f64 / 4.0).sqrt()).abs() < 1e-12);
        assert_eq!(standard_error(&[sum(2.0, 1, 0), sum(6.0, 3, 0)], 2.0), 0.0, "every label loses the same");
    }

    #[test]
    fn averages_are_over_samples_and_of_each_data_set() {
        let row = |dataset: usize, pack: Option<usize>| Example {
            pack: pack.map(|number| Pack { number, len: 8 }),
            ..Example::new(vec![1, 2], &[IGNORE, 2], Origin { dataset, row: 1 })
        };
        let cut = Cut { max_rows: 99, share_prefix: false, keep: Keep::Lean };
        let how = Measure { batch_size: 2, cut, accuracy: true, each: true };
        let sums = [sum(2.0, 1, 1), sum(6.0, 3, 0), sum(4.0, 4, 2), sum(0.0, 0, 0)];

        let plain = averages(&[row(3, None), row(3, None), row(3, None), row(4, None)], &sums, how);
        // Batches: 8 nats over 4 labels, 4 over 4.
        assert_eq!((plain.loss, plain.loss_per_token, plain.samples, plain.batches), (1.5, 1.5, 4, 2));
        assert_eq!(plain.accuracy, Some(0.5), "(1 + 0 + 0.5) / 3: the last row has no label");
        let each: Vec<_> = plain.each.iter().map(|(of, held)| (*of, held.loss, held.accuracy, held.samples)).collect();
        assert_eq!(each[0], (3, (2.0 * 2.0 + 1.0) / 3.0, Some(0.5), 3));
        assert!(each[1].1.is_nan() && (each[1].0, each[1].2, each[1].3) == (4, None, 1));

        let how = Measure { batch_size: 1, accuracy: false, each: false, ..how };
        let packed = averages(&[row(3, Some(0)), row(3, Some(0)), row(3, Some(1)), row(4, Some(1))], &sums, how);
        // Packs: 8 nats over 4 labels, 4 over 4.
        assert_eq!((packed.loss, packed.loss_per_token, packed.samples, packed.batches), (1.5, 1.5, 2, 2));
        assert_eq!((packed.accuracy, packed.each), (None, vec![]), "not asked for");
    }
}
