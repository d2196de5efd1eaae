//! Logits → the next token, with the semantics of transformers' `generate`.
//!
//! Its order: repetition penalty; then, when sampling, temperature, `top_k`, `top_p` over what `top_k` left, renormalised.
//! candle-transformers' `LogitsProcessor` is not used: its `top_p` after `top_k` sums probabilities of the whole vocabulary,
//! and it draws from a stream. Here a draw is a function of (seed, row, position), so a text does not depend on its batch.

use crate::{
    error::{Error, Result},
    rng::Key,
};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Draw; false takes the most likely token, and the three keys below it have no effect.
    pub do_sample: bool,
    /// Divides the logits; 0 is the most likely token.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens (and those as likely as the last of them); 0: all.
    pub top_k: usize,
    /// Only the most likely tokens that together have at least this probability; 1: all.
    pub top_p: f64,
    /// Above 1 makes tokens of prompt and answer less likely to come again.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self =
        Self { do_sample: false, temperature: 1.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 42 };

    /// Whether anything is drawn.
    pub fn is_random(&self) -> bool {
        self.do_sample && self.temperature > 0.0
    }

    /// The token after `before` (prompt and answer so far). `logits`: `[V]`; `row`: which text of the seed this is.
    ///
    /// Errors: a logit is not a number.
    pub fn choose(&self, logits: &[f32], before: &[u32], row: u64) -> Result<u32> {
        let mut logits = logits.to_vec();
        penalize(&mut logits, before, self.repetition_penalty as f32);
        if logits.iter().any(|x| x.is_nan()) {
            return Err(Error::run("the model's logits are not numbers")
                .hint("the adapter is damaged or its training diverged; `--base` asks the base model alone")
                .hint_zh("适配器已损坏或训练已发散；可用 `--base` 单独询问基座模型"));
        }
        if !self.is_random() {
            return Ok(most_likely(&logits));
        }
        let key = Key::new(self.seed, "sample").with(row).with(before.len() as u64);
        let fine = f64::from(key.uniform(1)) / f64::from(1 << 24);
        Ok(pick(&self.distribution(&logits), f64::from(key.uniform(0)) + fine))
    }

    /// The tokens that may be drawn and their probabilities, which sum to 1; in the order of their ids.
    pub fn distribution(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut kept: Vec<(u32, f64)> = (0u32..).zip(logits.iter().map(|x| f64::from(*x) / self.temperature)).collect();
        if self.top_k > 0 && self.top_k < kept.len() {
            let mut sorted: Vec<f64> = kept.iter().map(|(_, x)| *x).collect();
            let (_, least, _) = sorted.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
            let least = *least;
            kept.retain(|(_, x)| *x >= least);
        }
        softmax(&mut kept);
        if self.top_p < 1.0 {
            keep_top_p(&mut kept, self.top_p);
        }
        kept
    }
}

/// Transformers' repetition penalty: a logit above 0 of a token in `before` is divided by it, one below is multiplied.
fn penalize(logits: &mut [f32], before: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = before.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(x) = logits.get_mut(id as usize) {
            *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
        }
    }
}

/// The first of the largest.
fn most_likely(logits: &[f32]) -> u32 {
    let better = |best: (usize, f32), (i, x): (usize, f32)| if x > best.1 { (i, x) } else { best };
    logits.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), better).0 as u32
}

fn softmax(values: &mut [(u32, f64)]) {
    let max = values.iter().map(|(_, x)| *x).fold(f64::NEG_INFINITY, f64::max);
    values.iter_mut().for_each(|(_, x)| *x = (*x - max).exp());
    normalize(values);
}

fn normalize(values: &mut [(u32, f64)]) {
    let sum: f64 = values.iter().map(|(_, p)| p).sum();
    values.iter_mut().for_each(|(_, p)| *p /= sum);
}

/// Drops the least likely tokens as long as what is dropped stays within 1 − p; the most likely one stays in any case.
fn keep_top_p(kept: &mut Vec<(u32, f64)>, top_p: f64) {
    let room = 1.0 - top_p;
    // All that are below room/n fit into the room together, so only the few others need sorting.
    let small = room / kept.len() as f64;
    let mut dropped: f64 = kept.iter().map(|(_, p)| *p).filter(|p| *p < small).sum();
    kept.retain(|(_, p)| *p >= small);
    let mut ascending: Vec<(u32, f64)> = kept.clone();
    ascending.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut gone = Vec::new();
    for (id, p) in &ascending[..ascending.len().saturating_sub(1)] {
        dropped += p;
        if dropped > room {
            break;
        }
        gone.push(*id);
    }
    gone.sort_unstable();
    kept.retain(|(id, _)| gone.binary_search(id).is_err());
    normalize(kept);
}

/// The token in whose part of [0, 1) `draw` falls.
fn pick(distribution: &[(u32, f64)], draw: f64) -> u32 {
    let mut sum = 0.0;
    let hit = distribution.iter().find(|(_, p)| {
        sum += p;
        draw < sum
    });
    // Rounding may leave the last part a hair short of 1.
    hit.or(distribution.iter().rfind(|(_, p)| *p > 0.0)).map_or(0, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What transformers makes of the same logits: `tests/fixtures/generate/README.md`.
    fn table() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/generate/sampling.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    #[test]
    fn probabilities_are_those_of_transformers() {
        let table = table();
        let logits: Vec<f32> = numbers(&table["logits"]).iter().map(|x| *x as f32).collect();
        let before: Vec<u32> = numbers(&table["before"]).iter().map(|x| *x as u32).collect();
        let cases = table["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let sampling = Sampling {
                do_sample: true,
                temperature: case["temperature"].as_f64().unwrap(),
                top_k: case["top_k"].as_u64().unwrap() as usize,
                top_p: case["top_p"].as_f64().unwrap(),
                repetition_penalty: case["repetition_penalty"].as_f64().unwrap(),
                seed: 1,
            };
            let mut penalized = logits.clone();
            penalize(&mut penalized, &before, sampling.repetition_penalty as f32);
            let mut got = vec![0.0; logits.len()];
            sampling.distribution(&penalized).iter().for_each(|(id, p)| got[*id as usize] = *p);
            for (id, (got, want)) in got.iter().zip(numbers(&case["probabilities"])).enumerate() {
                assert!((got - want).abs() < 1e-6, "{sampling:?}: token {id}: {got}, transformers {want}");
            }
        }
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let table = table();
        let logits: Vec<f32> = numbers(&table["logits"]).iter().map(|x| *x as f32).collect();
        let sampling = Sampling { do_sample: true, top_k: 12, top_p: 0.95, temperature: 1.3, ..Sampling::GREEDY };
        let expected = sampling.distribution(&logits);
        assert!((4..12).contains(&expected.len()), "{}", expected.len());
        let draw = |seed, row| Sampling { seed, ..sampling }.choose(&logits, &[1], row).unwrap();
        let n = 20_000;
        let mut counts = vec![0f64; logits.len()];
        (0..n).for_each(|row| counts[draw(7, row) as usize] += 1.0);
        // Pearson's statistic: its mean is the degrees of freedom, here at most 11; 40 is far out in the tail.
        let chi: f64 = expected
            .iter()
            .map(|(id, p)| {
                let want = p * n as f64;
                (counts[*id as usize] - want).powi(2) / want
            })
            .sum();
        assert!(chi < 40.0, "{chi}");
        let drawn: f64 = expected.iter().map(|(id, _)| counts[*id as usize]).sum();
        assert_eq!(drawn, n as f64, "nothing else is drawn");
        let row = |seed| (0..50).map(|row| draw(seed, row)).collect::<Vec<_>>();
        assert_eq!(row(7), row(7));
        assert_ne!(row(7), row(8));
    }

    #[test]
    fn without_sampling_the_first_of_the_largest_is_taken() {
        for (logits, before, penalty, want, why) in [
            (&[1.0f32, 3.0, 3.0, -1.0][..], &[][..], 1.0, 1, "the first of two"),
            (&[1.0, 3.0, 2.9, -1.0], &[1], 2.0, 2, "a repeated token is divided"),
            (&[-1.0, -1.5, -9.0], &[0], 2.0, 1, "or multiplied below 0"),
        ] {
            let sampling = Sampling { repetition_penalty: penalty, ..Sampling::GREEDY };
            assert_eq!(sampling.choose(logits, before, 0).unwrap(), want, "{why}");
            let cold = Sampling { do_sample: true, temperature: 0.0, ..sampling };
            assert_eq!(cold.choose(logits, before, 0).unwrap(), want, "{why}, temperature 0");
        }
        assert!(Sampling::GREEDY.choose(&[0.0, f32::NAN], &[], 0).is_err());
    }
}
