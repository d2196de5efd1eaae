//! Which rows of several data sets stand where before the validation split: `num_samples`, `mix_strategy`, `interleave_probs`.
//!
//! LlamaFactory draws `num_samples` from NumPy's global generator, which it seeds with `seed` at the start, and interleaves with
//! the `datasets` library; both are written out here, so the same config gives the same rows in the same order.

use super::order::{Mt19937, Pcg64};
use crate::config::MixStrategy;

/// Draws `num_samples` rows, data set after data set.
pub struct Sampler(Mt19937);

impl Sampler {
    /// At the start of a run.
    pub fn new(seed: u64) -> Self {
        Self(Mt19937::new(seed as u32))
    }

    /// `wanted` of `rows` rows: each at most once, unless there are too few; then all of them and random ones again.
    pub fn draw(&mut self, rows: usize, wanted: usize) -> Vec<usize> {
        let mut drawn: Vec<usize> = (0..rows).collect();
        for i in (1..rows).rev() {
            let j = self.0.up_to(i as u32) as usize;
            drawn.swap(i, j);
        }
        drawn.truncate(wanted);
        while drawn.len() < wanted && rows > 0 {
            drawn.push(self.0.up_to(rows as u32 - 1) as usize);
        }
        drawn
    }
}

/// The rows of data sets of these `lengths`, numbered through one after the other, in the order of the joined data.
///
/// Without `shares` one row of each in turn: until the shortest is used up (under), or until the longest is, the shorter ones
/// beginning again (over). With `shares` the data set of every row is drawn, until the first or the last is used up.
pub fn joined(lengths: &[usize], strategy: MixStrategy, shares: &[f64], seed: u64) -> Vec<usize> {
    let offsets: Vec<usize> = lengths.iter().scan(0, |sum, n| Some(std::mem::replace(sum, *sum + n))).collect();
    let in_turn = |rounds: usize| {
        let round = |i: usize| offsets.iter().zip(lengths).map(move |(offset, n)| offset + i % n);
        (0..rounds).flat_map(round).collect()
    };
    match (strategy, lengths.iter().min(), lengths.iter().max()) {
        (MixStrategy::Concat, ..) | (_, None | Some(0), _) | (_, _, None) => (0..lengths.iter().sum()).collect(),
        (MixStrategy::InterleaveUnder, Some(shortest), _) if shares.is_empty() => in_turn(*shortest),
        (MixStrategy::InterleaveOver, _, Some(longest)) if shares.is_empty() => in_turn(*longest),
        _ => by_shares(lengths, &offsets, strategy, shares, seed),
    }
}

fn by_shares(lengths: &[usize], offsets: &[usize], strategy: MixStrategy, shares: &[f64], seed: u64) -> Vec<usize> {
    let sums: Vec<f64> = (1..=shares.len()).map(|n| shares[..n].iter().sum()).collect();
    let total = sums.last().copied().unwrap_or(1.0);
    let (mut random, mut rows) = (Pcg64::new(seed), Vec::new());
    let (mut next, mut used_up) = (vec![0; lengths.len()], vec![false; lengths.len()]);
    let is_over = |used_up: &[bool]| match strategy {
        MixStrategy::InterleaveUnder => used_up.contains(&true),
        _ => !used_up.contains(&false),
    };
    while !is_over(&used_up) {
        let draw = random.next_f64();
        let source = sums.iter().filter(|sum| **sum / total <= draw).count();
        rows.push(offsets[source] + next[source]);
        next[source] += 1;
        if next[source] >= lengths[source] {
            (next[source], used_up[source]) = (0, true);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn rows_are_those_of_numpy_and_of_the_datasets_library() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/fixtures/mix/vectors.json")).unwrap();
        let numbers = |value: &Value| serde_json::from_value::<Vec<usize>>(value.clone()).unwrap();
        for case in vectors["num_samples"].as_array().unwrap() {
            let mut sampler = Sampler::new(case["seed"].as_u64().unwrap());
            for (rows, want) in numbers(&case["rows"]).into_iter().zip(case["drawn"].as_array().unwrap()) {
                let want = numbers(want);
                assert_eq!(sampler.draw(rows, want.len()), want, "{case}");
            }
        }
        for case in vectors["interleaved"].as_array().unwrap() {
            let strategy = match case["strategy"].as_str().unwrap() {
                "first_exhausted" => MixStrategy::InterleaveUnder,
                _ => MixStrategy::InterleaveOver,
            };
            let shares: Vec<f64> = serde_json::from_value(case["shares"].clone()).unwrap();
            let got = joined(&numbers(&case["lengths"]), strategy, &shares, case["seed"].as_u64().unwrap());
            assert_eq!(got, numbers(&case["rows"]), "{case}");
        }
    }

    #[test]
    fn without_a_strategy_one_follows_the_other() {
        assert_eq!(joined(&[2, 0, 3], MixStrategy::Concat, &[], 1), [0, 1, 2, 3, 4]);
    }
}
