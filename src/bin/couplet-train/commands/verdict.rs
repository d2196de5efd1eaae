//! The rows the final adapter is scored on, all by one formula: training, held-out and test rows.

use super::inputs::Inputs;
use couplet_train::{
    dataset::Example,
    error::Result,
    report::{Score, Scores},
    trainer::{
        Trainer,
        validate::{self, HeldOut, Measure},
    },
};

/// Training rows that are scored at most: enough for a mean whose error is small beside a gap worth telling.
const MOST_TRAINING_ROWS: usize = 256;

/// Rows of a run besides the held-out ones. None where none is held out.
pub struct Finals<'a> {
    pub train: Vec<Example>,
    pub test: &'a [Example],
}

impl<'a> Finals<'a> {
    pub fn of(inputs: &'a Inputs) -> Self {
        let held_out = inputs.data.eval.len();
        let test = inputs.test.as_ref().filter(|_| held_out > 0);
        let train = spread(&inputs.data.train, MOST_TRAINING_ROWS.min(held_out));
        Self { train, test: test.map_or(&[], |test| &test.eval) }
    }
}

/// Σ nll / Σ labels of the trained parameters on each kind of rows. `None`: no row is held out, or the run was stopped.
pub fn scores(trainer: &Trainer, rows: Finals) -> Result<Option<Scores>> {
    // The final evaluation was of these parameters.
    let Some(held_out) = trainer.held_out().map(|found| as_score(found, trainer.eval.len())) else { return Ok(None) };
    let Some(train) = score(trainer, &rows.train)? else { return Ok(None) };
    Ok(Some(Scores { train, held_out, test: score(trainer, rows.test)? }))
}

/// `None`: no row, or stopped.
fn score(trainer: &Trainer, rows: &[Example]) -> Result<Option<Score>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let how = Measure { accuracy: false, each: false, ..trainer.measuring() };
    let score = validate::evaluate(trainer.model, &trainer.params, rows, how, trainer.stop)?;
    Ok(score.map(|score| as_score(score, rows.len())))
}

fn as_score(found: HeldOut, rows: usize) -> Score {
    Score { loss: found.loss_per_token, error: found.standard_error, rows }
}

/// `n` rows at equal distances, or all.
fn spread(rows: &[Example], n: usize) -> Vec<Example> {
    let rows: Vec<&Example> = rows.iter().filter(|row| row.is_trainable()).collect();
    let n = n.min(rows.len());
    (0..n).map(|i| rows[i * rows.len() / n].clone()).collect()
}
