//! How far a run is: the sums between two log lines, the history of its reports, and both ways to a checkpoint's state.

use super::{
    checkpoint::{Best, FORMAT, State},
    event::{Event, Logged, Written},
    plan::{StepPlan, StepSamples},
    validate::HeldOut,
};
use crate::fs::fault;
use serde_json::Value;
use std::time::Instant;

/// How far a run is, between two steps.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Seconds of training by earlier processes.
    pub(super) seconds: f64,
    pub(super) began: Instant,
    /// Steps done.
    pub step: usize,
    pub(super) epoch: f64,
    /// Sum of the step losses since the last log line, and of all.
    pub(super) window_loss: f64,
    pub(super) window_steps: usize,
    pub(super) total_loss: f64,
    pub(super) input_tokens: u64,
    pub(super) evaluated: Option<Evaluation>,
    /// The evaluation after `step` has not been done.
    pub(super) evaluation_due: bool,
    pub(super) best: Option<Best>,
    pub(super) evaluations_since_best: usize,
    pub(super) history: Vec<Event>,
}

/// The last evaluation.
#[derive(Debug, Clone)]
pub(super) struct Evaluation {
    /// Steps done then.
    pub(super) step: usize,
    pub(super) held_out: HeldOut,
    pub(super) written: Option<Written>,
    /// Seconds the loss took.
    pub(super) runtime: f64,
}

impl Default for Progress {
    /// Nothing done yet; the clock runs from now.
    fn default() -> Self {
        Self {
            seconds: 0.0,
            began: Instant::now(),
            step: 0,
            epoch: 0.0,
            window_loss: 0.0,
            window_steps: 0,
            total_loss: 0.0,
            input_tokens: 0,
            evaluated: None,
            evaluation_due: false,
            best: None,
            evaluations_since_best: 0,
            history: vec![],
        }
    }
}

impl Progress {
    /// Where `state` was taken; the clock goes on from its seconds.
    pub(super) fn resumed(state: &State) -> Self {
        Self {
            seconds: state.seconds,
            began: Instant::now(),
            step: state.step + usize::from(fault::mutant("step_off_by_one")),
            epoch: state.epoch,
            window_loss: state.window_loss,
            window_steps: state.window_steps,
            total_loss: state.total_loss,
            input_tokens: state.input_tokens,
            evaluated: None,
            evaluation_due: state.evaluation_due,
            best: state.best,
            evaluations_since_best: state.evaluations_since_best,
            history: state.history.clone(),
        }
    }

    /// The inverse: what a checkpoint keeps.
    pub(super) fn state(&self, optimizer_steps: usize, identity: &Value) -> State {
        State {
            format: FORMAT,
            step: self.step,
            epoch: self.epoch,
            optimizer_steps,
            window_loss: self.window_loss,
            window_steps: self.window_steps,
            total_loss: self.total_loss,
            input_tokens: self.input_tokens,
            seconds: self.elapsed(),
            evaluation_due: self.evaluation_due,
            best: self.best,
            evaluations_since_best: self.evaluations_since_best,
            history: self.history.clone(),
            identity: identity.clone(),
        }
    }

    /// Seconds of training, those of earlier processes included.
    pub(super) fn elapsed(&self) -> f64 {
        self.seconds + self.began.elapsed().as_secs_f64()
    }

    pub(super) fn advance(&mut self, samples: &StepSamples, loss: f64, padded: u64) {
        self.step += 1;
        self.epoch = samples.epoch;
        self.window_loss += loss;
        self.window_steps += 1;
        self.total_loss += loss;
        self.input_tokens += padded;
    }

    /// The log line that is due, and a new window.
    pub(super) fn logged(&mut self, plan: &StepPlan, grad_norm: f64, lr: f64, count_tokens: bool) -> Logged {
        let loss = std::mem::take(&mut self.window_loss) / std::mem::take(&mut self.window_steps) as f64;
        Logged {
            step: self.step,
            total_steps: plan.total_steps,
            epoch: self.epoch,
            loss,
            grad_norm,
            lr,
            num_input_tokens_seen: count_tokens.then_some(self.input_tokens),
            elapsed: self.elapsed(),
        }
    }
}
