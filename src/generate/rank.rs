//! Which of several right lines is the best: log p(下|上) − β·log p(下) + γ·log p(上|下), by character.
//!
//! log p(下|上) alone prefers lines that fit any 上联. Taking away β·log p(下) leaves what 上联 has to do with it, and
//! log p(上|下) asks whether one would come back from 下联 to 上联. All three come from the same adapter: log p(下) is
//! asked with nothing in the place of 上联, log p(上|下) with 下联 in it.

use super::{prompt::Speaker, score::score, search::Found};
use crate::{
    dataset::Tokenizer,
    error::Result,
    model::{AdapterWeights, Qwen3},
    prosody,
};

/// How much the terms weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// β, of −log p(下).
    pub beta: f64,
    /// γ, of log p(上|下).
    pub gamma: f64,
}

impl Weights {
    /// What measured best on the quick start's 600 validation couplets; `docs/couplet_rules.md` has the table.
    pub const MEASURED: Self = Self { beta: 0.3, gamma: 1.0 };

    /// Only log p(下|上).
    pub const NONE: Self = Self { beta: 0.0, gamma: 0.0 };
}

/// A line and what it is worth. Logarithms of the whole line with its end, in nats.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The line.
    pub text: String,
    /// Its tokens, without the end.
    pub ids: Vec<u32>,
    /// log p(下|上).
    pub given: f64,
    /// log p(下); 0 where β is 0.
    pub alone: f64,
    /// log p(上|下); 0 where γ is 0.
    pub back: f64,
    /// The weighted sum over the number of characters: what they are ranked by.
    pub score: f64,
}

/// Who scores.
#[derive(Clone, Copy)]
pub struct Scorer<'a> {
    /// The base.
    pub model: &'a Qwen3,
    /// The adapter over it.
    pub adapter: Option<&'a AdapterWeights>,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How it is asked.
    pub speaker: &'a Speaker,
}

impl Scorer<'_> {
    /// The lines found for `upper`, the best first. One that is as good as another stays behind it.
    pub fn rank(&self, upper: &str, found: Vec<Found>, weights: Weights) -> Result<Vec<Candidate>> {
        let lines: Vec<&str> = found.iter().map(|found| found.text.as_str()).collect();
        let alone = self.term(weights.beta, lines.iter().map(|line| ("", *line)))?;
        let back = self.term(weights.gamma, lines.iter().map(|line| (*line, upper)))?;
        let candidates = found.into_iter().zip(alone.into_iter().zip(back)).map(|(found, (alone, back))| {
            let sum = found.log_p - weights.beta * alone + weights.gamma * back;
            let score = sum / prosody::characters(&found.text).count().max(1) as f64;
            Candidate { text: found.text, ids: found.ids, given: found.log_p, alone, back, score }
        });
        let mut candidates: Vec<Candidate> = candidates.collect();
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(candidates)
    }

    /// log p of every (question, answer), or zeros where the weight is 0.
    fn term<'t>(&self, weight: f64, pairs: impl Iterator<Item = (&'t str, &'t str)>) -> Result<Vec<f64>> {
        if weight == 0.0 {
            return Ok(pairs.map(|_| 0.0).collect());
        }
        self.log_p(&pairs.collect::<Vec<_>>())
    }

    /// log p of every answer with its end, in nats, given its question.
    pub fn log_p(&self, pairs: &[(&str, &str)]) -> Result<Vec<f64>> {
        let ids = pairs.iter().map(|(question, answer)| {
            let prompt = self.speaker.prompt(self.tokenizer, &[], question)?;
            let mut answer = self.tokenizer.encode(answer)?;
            answer.push(self.tokenizer.end_id());
            Ok((prompt, answer))
        });
        let ids = ids.collect::<Result<Vec<_>>>()?;
        let rows: Vec<(&[u32], &[u32])> = ids.iter().map(|(p, a)| (p.as_slice(), a.as_slice())).collect();
        let scores = score(self.model, self.adapter, &rows)?;
        Ok(scores.iter().map(|row| row.iter().map(|x| f64::from(*x)).sum()).collect())
    }
}
