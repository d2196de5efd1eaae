//! NEFTune (Jain et al. 2023): uniform noise on the embeddings of a training pass, and of no other.

use super::qwen3::Batch;
use crate::rng::Key;
use rayon::prelude::*;
use std::collections::HashMap;

/// Noise of one optimizer step: a function of step, sample and position alone, never of the cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Noise {
    alpha: f64,
    key: Key,
    lengths: HashMap<u64, usize>,
}

impl Noise {
    /// `alpha`: α; `key`: of (seed, step); `lengths`: for every sample of the step (its index in the data set) its L.
    pub fn new(alpha: f64, key: Key, lengths: impl IntoIterator<Item = (u64, usize)>) -> Self {
        Self { alpha, key, lengths: lengths.into_iter().collect() }
    }

    /// What is added to the embeddings `[T, D]` of `batch`, row by row: uniform on ±α/√(L·D).
    ///
    /// Rows that several samples share have no noise of their own: the caller shares none.
    pub fn values(&self, batch: &Batch, width: usize) -> Vec<f32> {
        let mut values = vec![0.0; batch.ids.len() * width];
        let rows = values.par_chunks_mut(width).zip(&batch.samples).zip(&batch.positions);
        rows.for_each(|((row, sample), position)| {
            let length = self.lengths.get(sample).expect("a length for every sample of the step");
            let bound = (self.alpha / ((length * width) as f64).sqrt()) as f32;
            let key = self.key.with(*sample).with(u64::from(*position));
            for (i, x) in row.iter_mut().enumerate() {
                *x = (2.0 * key.uniform(i as u64) - 1.0) * bound;
            }
        });
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: u32 = u32::MAX;
    const WIDTH: usize = 64;

    fn batch(samples: &[u64]) -> Batch {
        let (ids, labels) = (vec![3; 41], [vec![NO; 40], vec![3]].concat());
        let rows: Vec<_> = samples.iter().map(|sample| (*sample, &ids[..], &labels[..])).collect();
        Batch::pack(&rows, NO, false).expect("a batch")
    }

    #[test]
    fn noise_is_uniform_and_as_large_as_the_length_says() {
        let noise = Noise::new(5.0, Key::new(1, "neftune"), [(7, 48), (9, 480)]);
        for (sample, length) in [(7, 48.0), (9, 480.0)] {
            let bound = 5.0 / f64::sqrt(length * WIDTH as f64);
            let x: Vec<f64> = noise.values(&batch(&[sample]), WIDTH).into_iter().map(f64::from).collect();
            let n = x.len() as f64;
            let (mean, square) = (x.iter().sum::<f64>() / n, x.iter().map(|x| x * x).sum::<f64>() / n);
            let most = x.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            assert!(most <= bound && most > 0.99 * bound, "{most} of {bound}");
            assert!(mean.abs() < 0.03 * bound, "mean {mean}");
            assert!((square / (bound * bound / 3.0) - 1.0).abs() < 0.05, "mean square {square}");
        }
    }

    #[test]
    fn noise_depends_on_step_sample_and_position_and_not_on_the_cut() {
        let key = Key::new(1, "neftune");
        let of = |step: u64, samples: &[u64]| {
            Noise::new(5.0, key.with(step), [(7, 48), (9, 48)]).values(&batch(samples), WIDTH)
        };
        assert_eq!(of(0, &[7, 9]), [of(0, &[7]), of(0, &[9])].concat());
        let rows = [of(0, &[7, 9]), of(1, &[7, 9])].concat();
        let rows: Vec<&[f32]> = rows.chunks(WIDTH).collect();
        assert_eq!(rows.len(), 160);
        for (i, row) in rows.iter().enumerate() {
            assert!(!rows[..i].contains(row), "row {i} repeats another");
        }
    }
}
