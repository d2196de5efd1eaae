//! Held-out loss and perplexity, teacher-forced: no answer is generated.

use super::{Case, Told, Writer, column::Loss};
use crate::{
    dataset::Example,
    error::Result,
    eval::metrics::{Ratio, estimate_of},
    generate::score,
    prosody,
};

/// Rows that are scored between two looks at the clock.
const ROWS: usize = 32;

/// Σ nll, in nats, and number of the labels of every row that some position predicts: as training counts them.
///
/// `stop` is asked now and then; the result is then shorter than `examples`.
pub fn token_sums(
    writer: Writer,
    examples: &[Example],
    stop: &dyn Fn() -> bool,
    told: Told,
) -> Result<Vec<(f64, usize)>> {
    let mut sums = Vec::with_capacity(examples.len());
    for examples in examples.chunks(ROWS) {
        if stop() {
            break;
        }
        // A row without a label is scored over nothing.
        let pairs: Vec<(&[u32], &[u32])> = examples.iter().map(|e| e.input_ids.split_at(e.first_predicted())).collect();
        let scores = score(writer.model, writer.adapter, &pairs)?;
        for (example, scores) in examples.iter().zip(scores) {
            let first = example.first_predicted();
            let wanted = example.predicted().map(|place| scores[place - first]);
            sums.push(wanted.fold((0.0, 0), |(sum, n), log_p| (sum - f64::from(log_p), n + 1)));
        }
        told(sums.len());
    }
    Ok(sums)
}

/// The two averages of a held-out loss, as the trainer has them: LlamaFactory's, where each row carries the mean of its
/// batch of `batch_size`, and Σ nll / Σ labels.
pub fn average(sums: &[(f64, usize)], batch_size: usize, seed: u64) -> Option<Loss> {
    let batch = |rows: &[(f64, usize)]| {
        let (nll, labels) = rows.iter().fold((0.0, 0), |(nll, n), row| (nll + row.0, n + row.1));
        nll / labels as f64 * rows.len() as f64
    };
    let by_batch: f64 = sums.chunks(batch_size).map(batch).sum();
    let per_token = sums.iter().map(|(nll, labels)| Ratio { part: *nll, whole: *labels as f64 }).collect();
    Some(Loss { by_batch: by_batch / sums.len() as f64, per_token: estimate_of(per_token, seed)? })
}

/// Σ nll of the right answer with its end, over its characters without punctuation, for every case.
pub fn forced(writer: Writer, cases: &[Case], stop: &dyn Fn() -> bool, told: Told) -> Result<Vec<Ratio>> {
    let mut ratios = Vec::with_capacity(cases.len());
    for cases in cases.chunks(ROWS) {
        if stop() {
            break;
        }
        let pairs: Vec<(&[u32], &[u32])> = cases.iter().map(|case| (&case.asked[..], &case.target[..])).collect();
        for (case, scores) in cases.iter().zip(score(writer.model, writer.adapter, &pairs)?) {
            let characters = prosody::characters(&case.reference).count() as f64;
            let nll: f64 = scores.into_iter().map(|log_p| -f64::from(log_p)).sum();
            ratios.push(if characters > 0.0 { Ratio { part: nll, whole: characters } } else { Ratio::default() });
        }
        told(ratios.len());
    }
    Ok(ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_carries_the_mean_of_its_batch() {
        let sums = [(6.0, 2), (2.0, 2), (9.0, 3)];
        let loss = average(&sums, 2, 1).unwrap();
        assert_eq!(loss.by_batch, (2.0 * (8.0 / 4.0) + 3.0) / 3.0);
        assert_eq!(loss.per_token.value, 17.0 / 7.0);
        assert_eq!(loss.per_token.n, 3);
        assert!(average(&[], 2, 1).is_none());
    }
}
