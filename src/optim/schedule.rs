//! Learning rate of every step, as transformers' schedulers have it under LlamaFactory. A function of the step alone: a
//! resumed run needs no state.

use crate::config::{SchedulerType, TrainConfig, scheduler};
use std::f64::consts::PI;

/// Shape of the learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    curve: Curve,
    peak_lr: f64,
    /// Steps of warmup; in all curves but two the first of them has rate 0.
    pub warmup_steps: usize,
    total_steps: usize,
}

/// A curve with its parameters; minima and ends are shares of the peak.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Curve {
    Constant,
    ConstantWithWarmup,
    Linear,
    Cosine {
        cycles: f64,
        min: f64,
    },
    CosineWithRestarts {
        cycles: f64,
    },
    /// `first`: share of the peak in the first warmup step.
    CosineFromFirst {
        cycles: f64,
        min: f64,
        first: Option<f64>,
    },
    Polynomial {
        end: f64,
        power: f64,
    },
    InverseSqrt {
        timescale: f64,
    },
    WarmupStableDecay {
        stable: usize,
        decay: usize,
        rise: Ramp,
        fall: Ramp,
        min: f64,
        cycles: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ramp {
    Linear,
    Cosine,
    Root,
}

impl Schedule {
    /// The schedule of a run of so many optimizer steps.
    pub fn new(config: &TrainConfig, total_steps: usize) -> Self {
        let warmup_steps = warmup_steps(config.warmup_steps, config.warmup_ratio, total_steps);
        let rest = total_steps.saturating_sub(warmup_steps);
        Self { curve: curve(config, warmup_steps, rest), peak_lr: config.learning_rate, warmup_steps, total_steps }
    }

    /// The rate used by optimizer step number `step`, counted from 0.
    pub fn lr(&self, step: usize) -> f64 {
        let warm = step as f64 / self.warmup_steps.max(1) as f64;
        let share = match (self.curve, step < self.warmup_steps) {
            (Curve::Constant, _) => 1.0,
            (Curve::CosineFromFirst { first, .. }, true) => match first {
                None => (step as f64 + 1.0) / self.warmup_steps as f64,
                Some(first) => first + (1.0 - first) * step as f64 / self.warmup_steps.saturating_sub(1).max(1) as f64,
            },
            (Curve::WarmupStableDecay { rise, min, .. }, true) => above(min, rise.up(warm)),
            (_, true) => warm,
            (curve, false) => self.after_warmup(curve, step - self.warmup_steps),
        };
        self.peak_lr * share.max(0.0)
    }

    /// The share of the peak `step` steps after the warmup.
    fn after_warmup(&self, curve: Curve, step: usize) -> f64 {
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = step as f64 / rest;
        match curve {
            Curve::Constant | Curve::ConstantWithWarmup => 1.0,
            Curve::Linear => 1.0 - done,
            Curve::Cosine { cycles, min } => above(min, cosine(cycles, done)),
            Curve::CosineWithRestarts { .. } if done >= 1.0 => 0.0,
            Curve::CosineWithRestarts { cycles } => 0.5 * (1.0 + (PI * (cycles * done).fract()).cos()),
            Curve::CosineFromFirst { cycles, min, .. } => above(min, cosine(cycles, (step as f64 + 1.0) / rest)),
            Curve::Polynomial { end, .. } if done > 1.0 => end,
            Curve::Polynomial { end, power } => above(end, (1.0 - done).powf(power)),
            Curve::InverseSqrt { timescale } => (1.0 + step as f64 / timescale).sqrt().recip(),
            Curve::WarmupStableDecay { stable, decay, fall, min, cycles, .. } => match step.checked_sub(stable) {
                None => 1.0,
                Some(fallen) if fallen < decay => above(min, fall.down(fallen as f64 / decay as f64, cycles)),
                Some(_) => min,
            },
        }
    }
}

impl Ramp {
    fn of(name: Option<&str>, absent: Self) -> Self {
        match name {
            Some("linear") => Self::Linear,
            Some("cosine") => Self::Cosine,
            Some(_) => Self::Root,
            None => absent,
        }
    }

    fn up(self, done: f64) -> f64 {
        match self {
            Self::Linear => done,
            Self::Cosine => 0.5 * (1.0 - (PI * done).cos()),
            Self::Root => 1.0 - (1.0 - done).sqrt(),
        }
    }

    fn down(self, done: f64, cycles: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - done,
            Self::Cosine => cosine(cycles, done),
            Self::Root => 1.0 - done.sqrt(),
        }
    }
}

/// A cosine from 1; half a cycle ends at 0.
fn cosine(cycles: f64, done: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * done).cos())
}

/// 0..1 squeezed into `min`..1.
fn above(min: f64, share: f64) -> f64 {
    share * (1.0 - min) + min
}

/// Defaults are transformers'; LlamaFactory's for the steps of `warmup_stable_decay`, of which a third of `rest` is stable.
fn curve(config: &TrainConfig, warmup_steps: usize, rest: usize) -> Curve {
    let kwargs = &config.lr_scheduler_kwargs;
    let number = |name| scheduler::number(kwargs, name);
    let steps = |name| number(name).map(|x| x as usize);
    let ramp = |name, absent| Ramp::of(scheduler::word(kwargs, name), absent);
    let half = number("num_cycles").unwrap_or(0.5);
    let min = number("min_lr").map(|min| min / config.learning_rate).or(number("min_lr_rate")).unwrap_or(0.0);
    match config.lr_scheduler_type {
        SchedulerType::Constant => Curve::Constant,
        SchedulerType::ConstantWithWarmup => Curve::ConstantWithWarmup,
        SchedulerType::Linear => Curve::Linear,
        SchedulerType::Cosine | SchedulerType::CosineWithMinLr => Curve::Cosine { cycles: half, min },
        SchedulerType::CosineWithRestarts => Curve::CosineWithRestarts { cycles: number("num_cycles").unwrap_or(1.0) },
        SchedulerType::CosineWarmupWithMinLr => {
            Curve::CosineFromFirst { cycles: half, min, first: number("warmup_lr_rate") }
        }
        SchedulerType::Polynomial => Curve::Polynomial {
            end: number("lr_end").unwrap_or(scheduler::POLYNOMIAL_END) / config.learning_rate,
            power: number("power").unwrap_or(1.0),
        },
        SchedulerType::InverseSqrt => {
            let absent = if warmup_steps > 0 { warmup_steps as f64 } else { 10_000.0 };
            Curve::InverseSqrt { timescale: number("timescale").unwrap_or(absent) }
        }
        SchedulerType::WarmupStableDecay => Curve::WarmupStableDecay {
            stable: steps("num_stable_steps").unwrap_or(rest / 3),
            decay: steps("num_decay_steps").unwrap_or(rest - rest / 3),
            rise: ramp("warmup_type", Ramp::Linear),
            fall: ramp("decay_type", Ramp::Cosine),
            min: number("min_lr_ratio").unwrap_or(0.0),
            cycles: half,
        },
    }
}

/// Steps of warmup: `warmup_steps` if given, else the ratio of all steps, rounded up.
pub fn warmup_steps(warmup_steps: usize, warmup_ratio: f64, total_steps: usize) -> usize {
    if warmup_steps > 0 { warmup_steps } else { (total_steps as f64 * warmup_ratio).ceil() as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, from_str};
    use std::{collections::HashSet, path::Path};

    #[test]
    fn every_schedule_has_the_rates_of_transformers() {
        let text = include_str!("../../tests/fixtures/schedules/series.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        let mut seen = HashSet::new();
        for case in &cases {
            let recipe = format!(
                "model_name_or_path: m\nstage: sft\ndataset: d\ntemplate: qwen3\noutput_dir: o\nlr_scheduler_type: {}\n\
                 lr_scheduler_kwargs: {}\nwarmup_steps: {}\nlearning_rate: {}\n",
                case["type"], case["kwargs"], case["warmup"], case["learning_rate"]
            );
            let train = from_str(&recipe, Format::Yaml, Path::new("c.yaml"), &[]).unwrap().recipe.train;
            seen.insert(train.lr_scheduler_type.name());
            seen.extend(train.lr_scheduler_kwargs.keys());
            let rates: Vec<f64> = serde_json::from_value(case["rates"].clone()).unwrap();
            let schedule = Schedule::new(&train, rates.len());
            for (step, want) in rates.iter().enumerate() {
                let got = schedule.lr(step);
                assert!((got - want).abs() <= 1e-15 * train.learning_rate + 1e-14 * want, "{case}\nstep {step}: {got}");
            }
        }
        for kind in SchedulerType::ALL {
            assert!(seen.contains(kind.name()), "no series of {}", kind.name());
            assert!(kind.parameters().iter().all(|(name, _)| seen.contains(name)), "a parameter of {}", kind.name());
        }
    }

    #[test]
    fn warmup_is_counted_or_a_share_rounded_up() {
        for (steps, ratio, total, want) in [(0, 0.1, 15, 2), (3, 0.1, 15, 3), (0, 0.0, 15, 0), (0, 0.1, 250, 25)] {
            assert_eq!(warmup_steps(steps, ratio, total), want);
        }
    }
}
