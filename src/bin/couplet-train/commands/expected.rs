//! How long a run will take: the arithmetic of its steps, at a rate that was measured.

use super::planned::Planned;
use candle_core::{DType, Device, Tensor};
use couplet_train::{
    config::{Projection, Recipe},
    error::Result,
    kernels::FrozenWeight,
    model::Qwen3Config,
    plan::Rows,
    report::Lang,
    trainer::{Trainer, plan::StepPlan},
};
use std::time::{Duration, Instant};

/// A probe lasts no longer.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// And before training no longer than this share of it.
const SHARE_OF_RUN: f64 = 0.02;

/// Steps of a probe.
const STEPS: usize = 5;

/// Of the rate of a large product, what whole steps come to. From the peer benchmark on two CPUs: 0.55 (AMX) to 0.8 (others).
const SHARE: f64 = 0.7;

/// FLOP per second.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    flop: f64,
    /// Of steps of this run, and not of a product of this shape alone.
    is_of_steps: bool,
}

/// A product is timed so often at the least, and again and again for so long: one alone swings by what else the machine does, and
/// all of the first few may fall into the same moment.
const PRODUCTS: (usize, Duration) = (3, Duration::from_millis(500));

/// The shortest time of several.
fn fastest(mut time: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let (mut best, mut all, mut count) = (Duration::MAX, Duration::ZERO, 0);
    while count < PRODUCTS.0 || all < PRODUCTS.1 {
        let took = time()?;
        (best, all, count) = (best.min(took), all + took, count + 1);
    }
    Ok(best)
}

impl Rate {
    /// After the rehearsal of the largest micro-batch, which took so long and has loaded and touched everything; a probe that may
    /// take `patience` is begun where that is more. `None`: nothing is trained.
    pub fn of_steps(
        trainer: &Trainer,
        planned: &Planned,
        rehearsal: Duration,
        patience: Duration,
    ) -> Result<Option<Self>> {
        let rehearsed = Self::of_rows(trainer, planned, rehearsal, &planned.survey.largest);
        if rehearsal >= patience {
            return Ok(rehearsed);
        }
        let (took, rows) = trainer.probe(STEPS, patience)?;
        Ok(Self::of_rows(trainer, planned, took, &rows).or(rehearsed))
    }

    /// How long a probe before this training may take, where the rehearsal of its largest micro-batch took so long.
    pub fn patience(recipe: &Recipe, trainer: &Trainer, planned: &Planned, rehearsal: Duration) -> Duration {
        let rehearsed = Self::of_rows(trainer, planned, rehearsal, &planned.survey.largest);
        let (steps, model) = (trainer.plan(), trainer.model.config());
        let run = rehearsed.map(|rate| rate.time(recipe, planned, (&steps, trainer.progress.step), model).seconds);
        let share = run.and_then(|seconds| Duration::try_from_secs_f64(SHARE_OF_RUN * seconds).ok());
        share.map_or(PATIENCE, |share| share.min(PATIENCE))
    }

    /// `None`: that is no rate.
    fn of_rows(trainer: &Trainer, planned: &Planned, took: Duration, rows: &Rows) -> Option<Self> {
        let shape = planned.shape(trainer.model.config());
        let flop = shape.executed_by(rows, planned.cut.keep).total() as f64 / took.as_secs_f64();
        (flop > 0.0 && flop.is_finite()).then_some(Self { flop, is_of_steps: true })
    }

    /// Of this device, by a product of the model's largest projection; no model is needed.
    #[expect(clippy::disallowed_methods, reason = "a time is that of finished work")]
    pub fn of_products(model: &Qwen3Config, dtype: DType, device: &Device) -> Result<Self> {
        const ROWS: usize = 256;
        let (out, width) = model.projection(Projection::GateProj);
        let weight = FrozenWeight::new(Tensor::ones((out, width), dtype, device)?)?;
        let x = Tensor::ones((ROWS, width), dtype, device)?;
        let took = fastest(|| {
            device.synchronize()?;
            let began = Instant::now();
            weight.forward(&x)?;
            device.synchronize()?;
            Ok(began.elapsed())
        })?;
        let flop = 2.0 * (ROWS * out * width) as f64 / took.as_secs_f64();
        Ok(Self { flop: SHARE * flop, is_of_steps: false })
    }

    /// What a run takes at this rate from the step behind `done` on.
    pub fn time(
        self,
        recipe: &Recipe,
        planned: &Planned,
        (steps, done): (&StepPlan, usize),
        model: &Qwen3Config,
    ) -> Expected {
        let (shape, total) = (planned.shape(model), steps.total_steps);
        let left = total.saturating_sub(done);
        let every = steps.evaluates_every(&recipe.train).filter(|_| planned.held_out.fed > 0);
        let evaluations = every.map_or(0, |every| total.div_ceil(every).saturating_sub(done / every));
        let once = total as f64 * shape.executed_once().total() as f64;
        let trained = once + shape.executed_by(&planned.survey.rows, planned.cut.keep).total() as f64;
        let held_out = shape.forward_by(&planned.held_out) as f64;
        // Before the first step; and behind the last, unless that is evaluated in any case.
        let more_evaluations = usize::from(done == 0) + usize::from(every.is_none());
        let outside = more_evaluations as f64 * held_out + shape.forward_by(&planned.scored) as f64;
        let a_step = trained / self.flop / total as f64;
        Expected {
            steps: left,
            evaluations,
            seconds: left as f64 * a_step + evaluations as f64 * held_out / self.flop,
            outside_seconds: outside / self.flop,
            a_step,
            rate: self,
            writes: planned.held_out.fed > 0
                && (recipe.train.eval_couplets > 0 || !recipe.train.sample_prompts.is_empty()),
            searches: false,
        }
    }
}

/// The time of a run, but for what it says is left out.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    steps: usize,
    evaluations: usize,
    /// Of training and the evaluations on the way.
    pub seconds: f64,
    /// Seconds of held-out losses before the first step and behind the last, and of the losses of training and test rows at the
    /// end.
    outside_seconds: f64,
    a_step: f64,
    rate: Rate,
    /// Whether the model writes at evaluations, of which it is not known how long it will take.
    writes: bool,
    /// Whether PiSSA has still to look for singular values.
    searches: bool,
}

impl Expected {
    /// The same where PiSSA has still to look for singular values, or not.
    pub fn searching(self, searches: bool) -> Self {
        Self { searches, ..self }
    }

    /// `; … more for …`: what is not training, where that is worth a word.
    fn outside(&self, lang: Lang) -> String {
        let time = lang.duration(self.outside_seconds);
        match lang {
            _ if self.outside_seconds < 1.0 => String::new(),
            Lang::En => format!("; {time} more for losses outside training"),
            Lang::Zh => format!("；训练以外的损失计算另需 {time}"),
        }
    }

    /// `; without …`: what is not in the time.
    fn without(&self, lang: Lang) -> String {
        let parts = [
            (self.writes, "what the model writes at evaluations", "验证时模型的写作"),
            (self.searches, "PiSSA's search for singular values", "PiSSA 求奇异值"),
        ];
        let parts: Vec<&str> = parts.iter().filter(|part| part.0).map(|(_, en, zh)| lang.pick(en, zh)).collect();
        match parts.is_empty() {
            true => String::new(),
            false => format!("{}{}", lang.pick("; without ", "；不含"), parts.join(lang.pick(" and ", "与"))),
        }
    }

    /// `≈ 12.3 s`, of a step alone.
    pub fn describe_step(&self, lang: Lang) -> String {
        let (a_step, gflop) = (seconds_in_words(self.a_step), self.rate.flop / 1e9);
        match lang {
            Lang::En => format!(
                "≈ {a_step} a step at the most; from a product of this model's size on this device, {gflop:.0} GFLOP/s"
            ),
            Lang::Zh => format!("每步至多 ≈ {a_step}；由本机同规模矩阵乘法推算，{gflop:.0} GFLOP/s"),
        }
    }

    /// `0:03:20: 250 steps of 750 ms, 5 evaluations; measured in the first steps, 410 GFLOP/s`
    pub fn describe(&self, lang: Lang) -> String {
        let Self { steps, evaluations, seconds, a_step, rate, .. } = *self;
        let (time, gflop) = (lang.duration(seconds), rate.flop / 1e9);
        let a_step = seconds_in_words(a_step);
        let (steps, evaluations) = (lang.count(steps, "step", "步"), lang.count(evaluations, "evaluation", "次验证"));
        let time = match (lang, rate.is_of_steps) {
            (Lang::En, true) => {
                format!("{time}: {steps} of {a_step}, {evaluations}; measured in the first steps, {gflop:.0} GFLOP/s")
            }
            (Lang::En, false) => format!(
                "≈ {time}: {steps} of ≈ {a_step}, {evaluations}; from a product of this model's size on this device, {gflop:.0} GFLOP/s"
            ),
            (Lang::Zh, true) => {
                format!("{time}：{steps}，每步 {a_step}，{evaluations}；由最初几步实测，{gflop:.0} GFLOP/s")
            }
            (Lang::Zh, false) => {
                format!(
                    "≈ {time}：{steps}，每步 ≈ {a_step}，{evaluations}；由本机同规模矩阵乘法推算，{gflop:.0} GFLOP/s"
                )
            }
        };
        time + &self.outside(lang) + &self.without(lang)
    }
}

fn seconds_in_words(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_other_work_does_not_make_a_product_slow() {
        let of = |times: &[u64]| {
            let mut left = times.iter().copied().map(Duration::from_millis).peekable();
            let best = fastest(|| Ok(left.next().expect("no more than it takes"))).unwrap();
            (best.as_millis(), left.peek().is_none())
        };
        for (times, want, why) in [
            (&[90, 90, 90, 90, 50, 50, 50][..], 50, "the first ones all met another program"),
            (&[700, 600, 800], 600, "three are timed, however long they take"),
            (&[600, 1, 1], 1, "and no more, where one of them was long"),
        ] {
            assert_eq!(of(times), (want, true), "{why}");
        }
    }
}
