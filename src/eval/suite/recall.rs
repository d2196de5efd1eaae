//! 意境 by a proxy: does 下联 tell which 上联 it answers?
//!
//! The frozen base, which knows nothing of the task, reads the line as plain text and picks among 32 上联 of one shape the
//! one that it makes more likely than it was without the line: max log p(上|下，) − log p(上|，). Chance is 1/32. The adapter
//! and its instruction take no part, so this is not what candidates are ranked by.

use super::{Told, Writer};
use crate::{error::Result, eval::metrics::Ratio, generate::score, prosody, rng::Key};
use std::collections::BTreeMap;

/// How many 上联 there are to choose from.
pub const CHOICES: usize = 32;

/// Stands between two lines of a poem.
const BREAK: &str = "，";

/// The choices of every row, and how likely each 上联 is by itself.
pub struct Recall<'a> {
    /// The base alone.
    base: Writer<'a>,
    uppers: Vec<Vec<u32>>,
    /// Rows whose 上联 there are to choose from, the true one first; empty where too few have its shape.
    choices: Vec<Vec<usize>>,
    /// log p(上|，).
    alone: Vec<f64>,
}

impl<'a> Recall<'a> {
    /// Draws the choices of each of `uppers`. `base` has no adapter.
    pub fn new(base: Writer<'a>, uppers: &[&str], seed: u64) -> Result<Self> {
        let ids = uppers.iter().map(|upper| base.tokenizer.encode(upper)).collect::<Result<Vec<_>>>()?;
        let mut recall = Self { base, uppers: ids, choices: choices(uppers, seed), alone: vec![] };
        let all: Vec<usize> = (0..uppers.len()).collect();
        for rows in all.chunks(CHOICES) {
            recall.alone.extend(recall.log_p("", rows)?);
        }
        Ok(recall)
    }

    /// Whether the base finds the 上联 of a row by 下联, for every (row, 下联). An empty 下联 finds nothing.
    ///
    /// `stop` is asked before each; the result is then shorter.
    pub fn pick(&self, lines: &[(usize, &str)], stop: &dyn Fn() -> bool, told: Told) -> Result<Vec<Ratio>> {
        let mut found = Vec::with_capacity(lines.len());
        for (row, lower) in lines {
            if stop() {
                break;
            }
            found.push(match self.choices[*row].as_slice() {
                [] => Ratio::default(),
                _ if lower.is_empty() => Ratio::of(false),
                choices => {
                    let gains: Vec<f64> =
                        self.log_p(lower, choices)?.iter().zip(choices).map(|(p, row)| p - self.alone[*row]).collect();
                    Ratio::of(gains[1..].iter().all(|other| gains[0] > *other))
                }
            });
            told(found.len());
        }
        Ok(found)
    }

    /// log p of the 上联 of `rows` after a line and a break.
    fn log_p(&self, line: &str, rows: &[usize]) -> Result<Vec<f64>> {
        let prompt = self.base.tokenizer.encode(&format!("{line}{BREAK}"))?;
        let pairs: Vec<(&[u32], &[u32])> = rows.iter().map(|row| (&prompt[..], &self.uppers[*row][..])).collect();
        let scores = score(self.base.model, None, &pairs)?;
        Ok(scores.into_iter().map(|scores| scores.into_iter().map(f64::from).sum()).collect())
    }
}

/// For each row itself and 31 others whose 上联 has the same shape and is another line, drawn without repeats.
fn choices(uppers: &[&str], seed: u64) -> Vec<Vec<usize>> {
    let mut shapes: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    for (row, upper) in uppers.iter().enumerate() {
        shapes.entry(prosody::shape(upper)).or_default().push(row);
    }
    let key = Key::new(seed, "recall");
    let draw = |(row, upper): (usize, &&str)| {
        let mut drawn = vec![row];
        let mut pool = shapes[&prosody::shape(upper)].clone();
        let mut index = 0;
        while drawn.len() < CHOICES && !pool.is_empty() {
            let at = (f64::from(key.with(row as u64).uniform(index)) * pool.len() as f64) as usize;
            let other = pool.swap_remove(at);
            if drawn.iter().all(|row| uppers[*row] != uppers[other]) {
                drawn.push(other);
            }
            index += 1;
        }
        if drawn.len() < CHOICES { vec![] } else { drawn }
    };
    uppers.iter().enumerate().map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn choices_are_other_lines_of_the_same_shape() {
        let lines: Vec<String> = (0..80u32).map(|i| format!("{}日山", char::from_u32(0x4e00 + i).unwrap())).collect();
        let mut uppers: Vec<&str> = lines.iter().map(String::as_str).collect();
        uppers.extend(["春风得意", &lines[0]]);
        let drawn = choices(&uppers, 7);
        assert_eq!(choices(&uppers, 7), drawn);
        assert_ne!(choices(&uppers, 8), drawn);
        for (row, choices) in drawn.iter().enumerate() {
            match row {
                80 => assert!(choices.is_empty(), "a shape of its own"),
                _ => {
                    assert_eq!(choices[0], row);
                    let texts: BTreeSet<_> = choices.iter().map(|row| uppers[*row]).collect();
                    assert_eq!(texts.len(), CHOICES, "each text once");
                    assert!(!texts.contains("春风得意"));
                }
            }
        }
    }
}
