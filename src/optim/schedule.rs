//! Learning rate of every step, as Hugging Face's schedulers have it. A function of the step alone: a resumed run needs no state.

use crate::config::SchedulerType;
use std::f64::consts::PI;

/// Shape of the learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Which curve.
    pub kind: SchedulerType,
    /// `learning_rate`
    pub peak_lr: f64,
    /// Steps of linear warmup; the first of them has rate 0.
    pub warmup_steps: usize,
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
}

impl Schedule {
    /// The rate used by optimizer step number `step`, counted from 0.
    pub fn lr(&self, step: usize) -> f64 {
        if self.kind == SchedulerType::Constant {
            return self.peak_lr;
        }
        if step < self.warmup_steps {
            return self.peak_lr * step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64 / decay_steps;
        self.peak_lr
            * match self.kind {
                SchedulerType::Cosine => (0.5 * (1.0 + (PI * done).cos())).max(0.0),
                SchedulerType::Linear => (1.0 - done).max(0.0),
                SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            }
    }
}

/// Steps of warmup: `warmup_steps` if given, else the ratio of all steps, rounded up.
pub fn warmup_steps(warmup_steps: usize, warmup_ratio: f64, total_steps: usize) -> usize {
    if warmup_steps > 0 { warmup_steps } else { (total_steps as f64 * warmup_ratio).ceil() as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_over_a_run() {
        let at = |kind, step| Schedule { kind, peak_lr: 1.0, warmup_steps: 4, total_steps: 14 }.lr(step);
        use SchedulerType::{Constant, ConstantWithWarmup, Cosine, Linear};
        for (kind, step, want, why) in [
            (Cosine, 0, 0.0, "warmup starts from nothing"),
            (Cosine, 2, 0.5, "and rises in a line"),
            (Cosine, 4, 1.0, "the peak is the first step after warmup"),
            (Cosine, 9, 0.5, "half way down"),
            (Cosine, 14, 0.0, "the end"),
            (Linear, 1, 0.25, "the same warmup"),
            (Linear, 9, 0.5, "half way down a line"),
            (Linear, 13, 0.1, "the last step is not at zero"),
            (Linear, 99, 0.0, "never negative"),
            (ConstantWithWarmup, 3, 0.75, "warmup"),
            (ConstantWithWarmup, 13, 1.0, "then flat"),
            (Constant, 0, 1.0, "no warmup at all"),
        ] {
            let got = at(kind, step);
            assert!((got - want).abs() < 1e-12, "{kind:?} step {step} ({why}): got {got}, want {want}");
        }
    }

    #[test]
    fn warmup_is_counted_or_a_share_rounded_up() {
        for (steps, ratio, total, want) in [(0, 0.1, 15, 2), (3, 0.1, 15, 3), (0, 0.0, 15, 0), (0, 0.1, 250, 25)] {
            assert_eq!(warmup_steps(steps, ratio, total), want);
        }
    }
}
