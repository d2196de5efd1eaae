//! How far a run is: the sums between two log lines, the history of its reports, the best of them, and both ways to a
//! checkpoint's state.

use super::{
    Choice,
    checkpoint::{FORMAT, State},
    event::{EvalPhase, Event, Logged, Written},
    plan::{StepPlan, StepSamples},
    validate::HeldOut,
};
use crate::{config::CountedTokens, fs::fault};
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
    pub(super) row_tokens: u64,
    pub(super) evaluated: Option<Evaluation>,
    /// The evaluation after `step` has not been done.
    pub(super) evaluation_due: bool,
    pub(super) history: Vec<Event>,
    /// The parameters are those of the best evaluation, the rest is that of `step`.
    pub(super) returned: bool,
}

/// The evaluation that `load_best_model_at_end` returns to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Best {
    /// After which step.
    pub(super) step: usize,
    /// The value of `metric_for_best_model`.
    pub(super) metric: f64,
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
            row_tokens: 0,
            evaluated: None,
            evaluation_due: false,
            history: vec![],
            returned: false,
        }
    }
}

impl Progress {
    /// Where `state` was taken; the clock goes on from its seconds.
    pub(super) fn resumed(state: State) -> Self {
        Self {
            seconds: state.seconds,
            began: Instant::now(),
            step: state.step + usize::from(fault::mutant("step_off_by_one")),
            epoch: state.epoch,
            window_loss: state.window_loss,
            window_steps: state.window_steps,
            total_loss: state.total_loss,
            input_tokens: state.input_tokens,
            row_tokens: state.row_tokens,
            evaluated: None,
            evaluation_due: state.evaluation_due,
            history: state.history,
            returned: false,
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
            row_tokens: self.row_tokens,
            seconds: self.elapsed(),
            evaluation_due: self.evaluation_due,
            history: self.history.clone(),
            identity: identity.clone(),
        }
    }

    /// The first of the best evaluations while training, by this choice, among those after whose step it `may` be. One that
    /// is not a finite number is never the best.
    ///
    /// From the history and not kept beside it: a resumed run may choose by another metric than its beginning did.
    pub(super) fn best(&self, choice: &Choice, may: impl Fn(usize) -> bool) -> Option<Best> {
        let better = |a: f64, b: f64| if choice.greater_is_better { a > b } else { a < b };
        let mut best: Option<Best> = None;
        for (step, metric) in self.evaluations(&choice.metric).filter(|(step, x)| x.is_finite() && may(*step)) {
            if best.is_none_or(|best| better(metric, best.metric)) {
                best = Some(Best { step, metric });
            }
        }
        best
    }

    /// Evaluations behind the best of all.
    pub(super) fn evaluations_since_best(&self, choice: &Choice) -> usize {
        let best = self.best(choice, |_| true);
        self.evaluations(&choice.metric).filter(|(step, _)| best.is_none_or(|best| *step > best.step)).count()
    }

    /// Step and metric of every evaluation while training; NaN where it has no such metric.
    fn evaluations(&self, metric: &str) -> impl Iterator<Item = (usize, f64)> {
        self.history.iter().filter_map(move |event| match event {
            Event::Evaluated(e) if e.when == EvalPhase::During => Some((e.step, e.metric(metric).unwrap_or(f64::NAN))),
            _ => None,
        })
    }

    /// Seconds of training, those of earlier processes included.
    pub(super) fn elapsed(&self) -> f64 {
        self.seconds + self.began.elapsed().as_secs_f64()
    }

    /// The fed tokens that `which` counts.
    pub(super) fn counted(&self, which: CountedTokens) -> Option<u64> {
        match which {
            CountedTokens::No => None,
            CountedTokens::All => Some(self.input_tokens),
            CountedTokens::NonPadding => Some(self.row_tokens),
        }
    }

    pub(super) fn advance(&mut self, samples: &StepSamples, loss: f64, (padded, tokens): (u64, u64)) {
        self.step += 1;
        self.epoch = samples.epoch;
        self.window_loss += loss;
        self.window_steps += 1;
        self.total_loss += loss;
        self.input_tokens += padded;
        self.row_tokens += tokens;
    }

    /// The log line that is due, and a new window.
    pub(super) fn logged(&mut self, plan: &StepPlan, grad_norm: f64, lr: f64, counted: CountedTokens) -> Logged {
        let loss = std::mem::take(&mut self.window_loss) / std::mem::take(&mut self.window_steps) as f64;
        Logged {
            step: self.step,
            total_steps: plan.total_steps,
            epoch: self.epoch,
            loss,
            grad_norm,
            lr,
            num_input_tokens_seen: self.counted(counted),
            elapsed: self.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::event::Evaluated;

    fn evaluated(step: usize, loss: f64, per_token: f64) -> Event {
        Event::Evaluated(Evaluated {
            step,
            total_steps: 50,
            epoch: 1.0,
            loss,
            loss_per_token: per_token,
            samples: 8,
            batches: 2,
            runtime: 0.1,
            elapsed: 1.0,
            when: EvalPhase::During,
            num_input_tokens_seen: None,
            written: None,
            accuracy: None,
            each: vec![],
        })
    }

    #[test]
    fn the_best_is_by_the_present_choice() {
        let history = vec![
            evaluated(10, 3.0, 2.5),
            evaluated(20, 2.0, 2.6),
            evaluated(30, f64::NEG_INFINITY, f64::NAN),
            evaluated(40, 2.0, 2.7),
        ];
        let progress = Progress { history, ..Progress::default() };
        for (metric, greater_is_better, lost, want, since, why) in [
            ("eval_loss", false, None, Some((20, 2.0)), 2, "the first of equals, and what is no number is none"),
            ("eval_loss", true, None, Some((10, 3.0)), 3, "the other way round"),
            ("eval_loss_per_token", false, None, Some((10, 2.5)), 3, "another metric"),
            ("eval_loss", false, Some(20), Some((40, 2.0)), 2, "patience counts what was seen, saved or not"),
            ("eval_couplet_pass", true, None, None, 4, "nothing has that metric yet"),
        ] {
            let choice = Choice { load_best: true, metric: metric.into(), greater_is_better, patience: None };
            let best = progress.best(&choice, |step| Some(step) != lost).map(|best| (best.step, best.metric));
            assert_eq!((best, progress.evaluations_since_best(&choice)), (want, since), "{why}");
        }
    }
}
