//! The training loop: [`Trainer::fit`] reads as a story.

pub mod event;
pub mod plan;
pub mod step;
pub mod validate;

use crate::{
    config::{EvalStrategy, TrainConfig},
    dataset::Example,
    error::{Error, Result},
    model::{Params, Qwen3, qwen3::DropoutPlan},
    optim::{AdamW, AdamWConfig, Schedule, clip, schedule::warmup_steps},
    rng::Key,
};
use event::{EvalPhase, Evaluated, Event, Finished, Logged, Observer, Started, Step};
use plan::{StepPlan, StepSamples};
use std::time::Instant;
use step::{Cut, StepGradient};
use validate::HeldOut;

/// Everything a run needs, ready to go.
pub struct Trainer<'a> {
    /// The frozen model.
    pub model: &'a Qwen3,
    /// What is trained.
    pub params: Params,
    /// Moments of the optimizer.
    pub optim: AdamW,
    /// Batches, rates, seeds.
    pub config: &'a TrainConfig,
    /// Training rows, in file order.
    pub train: &'a [Example],
    /// Held-out rows; empty: no evaluation.
    pub eval: &'a [Example],
    /// Names of the data sets, for errors that name a row.
    pub dataset_names: &'a [String],
    /// Probability of dropping an input of A.
    pub lora_dropout: f64,
    /// How samples become micro-batches.
    pub cut: Cut,
    /// Steps between two log lines.
    pub logging_steps: usize,
    /// Count padded tokens into the log.
    pub count_input_tokens: bool,
    /// How far the run is.
    pub progress: Progress,
}

/// How far a run is, between two steps.
#[derive(Debug, Clone)]
pub struct Progress {
    began: Instant,
    /// Steps done.
    step: usize,
    epoch: f64,
    /// Sum of the step losses since the last log line, and of all.
    window_loss: f64,
    window_steps: usize,
    total_loss: f64,
    input_tokens: u64,
    /// The last evaluation: after which step, its result, its seconds.
    evaluated: Option<(usize, HeldOut, f64)>,
}

impl<'a> Trainer<'a> {
    /// AdamW as the recipe has it, moments at zero.
    pub fn optimizer(config: &TrainConfig, params: &Params) -> Result<AdamW> {
        let constants = AdamWConfig {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            eps: config.adam_epsilon,
            weight_decay: config.weight_decay,
        };
        AdamW::new(constants, params.len(), params.flat().device())
    }

    /// The steps of this run.
    pub fn plan(&self) -> StepPlan {
        StepPlan::new(self.train.len(), self.config)
    }

    /// Trains to the last step and tells `observer` what happens. The trained parameters are in `self.params`.
    ///
    /// [`Self::evaluate_final`] comes after it, once the adapter is on the disk.
    ///
    /// Errors: a loss or gradient that is not finite, before it reaches the parameters (the rows are named); whatever an
    /// observer returns.
    pub fn fit(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let plan = self.plan();
        let schedule = self.schedule(&plan);
        observer.on_event(&Event::Started(Started {
            total_steps: plan.total_steps,
            samples_per_step: plan.samples_per_step(),
            eval_samples: self.eval.len(),
        }))?;
        self.evaluate(EvalPhase::Before, observer)?;

        self.progress.began = Instant::now();
        let mut order = (usize::MAX, vec![]); // (epoch, its permutation)
        while self.progress.step < plan.total_steps {
            let epoch = plan.epoch_of(self.progress.step);
            if order.0 != epoch {
                order = (epoch, plan.order(epoch));
            }
            let samples = plan.samples(self.progress.step, &order.1);
            let done = self.step(&samples, schedule.lr(self.progress.step))?;
            let (grad_norm, lr) = (done.grad_norm, done.lr);
            observer.on_event(&Event::Step(done))?;
            if self.progress.step.is_multiple_of(self.logging_steps) {
                let logged = self.progress.logged(&plan, grad_norm, lr, self.count_input_tokens);
                observer.on_event(&Event::Logged(logged))?;
            }
            if self.evaluation_is_due(&samples, self.progress.step == plan.total_steps) {
                self.evaluate(EvalPhase::During, observer)?;
            }
        }
        observer.on_event(&Event::Finished(self.finished(&plan)))
    }

    /// The held-out loss of the trained parameters, where there are held-out rows.
    pub fn evaluate_final(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.evaluate(EvalPhase::Final, observer)
    }

    fn schedule(&self, plan: &StepPlan) -> Schedule {
        let config = self.config;
        Schedule {
            kind: config.lr_scheduler_type,
            peak_lr: config.learning_rate,
            warmup_steps: warmup_steps(config.warmup_steps, config.warmup_ratio, plan.total_steps),
            total_steps: plan.total_steps,
        }
    }

    /// Gradient, check, clip, update.
    fn step(&mut self, samples: &StepSamples, lr: f64) -> Result<Step> {
        let began = Instant::now();
        let train = self.train;
        let rows: Vec<(usize, &Example)> = samples.indices.iter().map(|&i| (i, &train[i])).collect();
        let dropout = (self.lora_dropout > 0.0).then(|| DropoutPlan {
            p: self.lora_dropout,
            key: Key::new(self.config.seed, "dropout").with(self.progress.step as u64),
        });
        let gradient = step::gradient(self.model, &self.params, &rows, self.cut, dropout)?;
        self.refuse_non_finite(&gradient, &rows)?;
        let factor = clip::factor(gradient.grad_norm, self.config.max_grad_norm);
        let updated = self.optim.step(self.params.flat(), &gradient.flat, lr, factor)?;
        self.params.set(updated)?;

        let tokens: usize = rows.iter().map(|(_, e)| e.input_ids.len()).sum();
        self.progress.advance(samples, gradient.loss, padded_tokens(samples, train));
        Ok(Step {
            step: self.progress.step,
            epoch: samples.epoch,
            loss: gradient.loss,
            grad_norm: gradient.grad_norm,
            lr,
            samples: rows.len(),
            tokens,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// A loss that is not finite ends the run before it can reach the parameters.
    fn refuse_non_finite(&self, g: &StepGradient, rows: &[(usize, &Example)]) -> Result<()> {
        if g.loss.is_finite() && g.grad_norm.is_finite() {
            return Ok(());
        }
        let place = |e: &Example| {
            let name = self.dataset_names.get(e.origin.dataset).map_or("?", String::as_str);
            format!("{name} row {}", e.origin.row)
        };
        let shown: Vec<String> = rows.iter().take(8).map(|(_, e)| place(e)).collect();
        let more =
            if rows.len() > shown.len() { format!(" and {} more", rows.len() - shown.len()) } else { String::new() };
        Err(Error::run(format!(
            "step {}: loss {} and gradient norm {} are not finite; rows of this step: {}{more}",
            self.progress.step + 1,
            g.loss,
            g.grad_norm,
            shown.join(", ")
        ))
        .hint(match self.progress.step {
            0 => "nothing was trained yet, so it is not the learning rate: fetch the weights of the model (or adapter) again",
            _ => "the parameters were not updated; lower `learning_rate`, or look at these rows with `bf16 = false`",
        })
        .hint_zh(match self.progress.step {
            0 => "训练尚未开始，与学习率无关：请重新下载模型（或适配器）的权重",
            _ => "本步参数未更新；请降低 `learning_rate`，或用 `bf16 = false` 检查这些行",
        }))
    }

    fn evaluation_is_due(&self, samples: &StepSamples, last: bool) -> bool {
        match self.config.eval_strategy {
            EvalStrategy::No => false,
            // The last step is evaluated in any case, as the Hugging Face trainer does.
            EvalStrategy::Steps => self.progress.step.is_multiple_of(self.config.eval_steps) || last,
            EvalStrategy::Epoch => samples.ends_epoch,
        }
    }

    fn evaluate(&mut self, when: EvalPhase, observer: &mut dyn Observer) -> Result<()> {
        if self.eval.is_empty() {
            return Ok(());
        }
        let step = self.progress.step;
        let (held_out, runtime) = match self.progress.evaluated {
            // The parameters have not changed since: the final evaluation is often that of the last step.
            Some((at, held_out, runtime)) if at == step => (held_out, runtime),
            _ => {
                let (began, batch_size) = (Instant::now(), self.config.per_device_eval_batch_size);
                let held_out = validate::evaluate(self.model, &self.params, self.eval, batch_size, self.cut)?;
                (held_out, began.elapsed().as_secs_f64())
            }
        };
        self.progress.evaluated = Some((step, held_out, runtime));
        let progress = &self.progress;
        observer.on_event(&Event::Evaluated(Evaluated {
            step: progress.step,
            total_steps: self.plan().total_steps,
            epoch: progress.epoch,
            loss: held_out.loss,
            loss_per_token: held_out.loss_per_token,
            samples: self.eval.len(),
            batches: held_out.batches,
            runtime,
            elapsed: progress.began.elapsed().as_secs_f64(),
            when,
            num_input_tokens_seen: self.count_input_tokens.then_some(progress.input_tokens),
        }))
    }

    fn finished(&self, plan: &StepPlan) -> Finished {
        let progress = &self.progress;
        let model = self.model.config();
        // The Hugging Face trainer's estimate: 6 per weight outside the embedding and token fed, padding included. It counts
        // gradients of frozen weights that nobody computes, and is kept so that the files say the same.
        let weights = model.parameters() - model.vocab_size * model.hidden_size + self.params.len();
        Finished {
            step: progress.step,
            total_steps: plan.total_steps,
            epoch: progress.epoch,
            train_loss: progress.total_loss / progress.step.max(1) as f64,
            runtime: progress.began.elapsed().as_secs_f64(),
            samples_seen: match self.config.max_steps {
                Some(steps) => (steps * plan.samples_per_step()) as f64,
                None => self.train.len() as f64 * self.config.num_train_epochs,
            },
            total_flos: 6.0 * weights as f64 * progress.input_tokens as f64,
            num_input_tokens_seen: self.count_input_tokens.then_some(progress.input_tokens),
        }
    }
}

/// Tokens as LlamaFactory's collator feeds them: every micro-batch padded to its longest row, rounded up to 8.
fn padded_tokens(samples: &StepSamples, train: &[Example]) -> u64 {
    let mut rest = samples.indices.as_slice();
    let mut total = 0;
    for &size in &samples.micro_batches {
        let (micro, tail) = rest.split_at(size);
        let longest = micro.iter().map(|&i| train[i].input_ids.len()).max().unwrap_or(0);
        total += (size * longest.next_multiple_of(8)) as u64;
        rest = tail;
    }
    total
}

impl Default for Progress {
    /// Nothing done yet; the clock runs from now.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            step: 0,
            epoch: 0.0,
            window_loss: 0.0,
            window_steps: 0,
            total_loss: 0.0,
            input_tokens: 0,
            evaluated: None,
        }
    }
}

impl Progress {
    fn advance(&mut self, samples: &StepSamples, loss: f64, padded: u64) {
        self.step += 1;
        self.epoch = samples.epoch;
        self.window_loss += loss;
        self.window_steps += 1;
        self.total_loss += loss;
        self.input_tokens += padded;
    }

    /// The log line that is due, and a new window.
    fn logged(&mut self, plan: &StepPlan, grad_norm: f64, lr: f64, count_tokens: bool) -> Logged {
        let loss = std::mem::take(&mut self.window_loss) / std::mem::take(&mut self.window_steps) as f64;
        Logged {
            step: self.step,
            total_steps: plan.total_steps,
            epoch: self.epoch,
            loss,
            grad_norm,
            lr,
            num_input_tokens_seen: count_tokens.then_some(self.input_tokens),
            elapsed: self.began.elapsed().as_secs_f64(),
        }
    }
}
