//! The training loop: [`Trainer::fit`] reads as a story.

pub mod checkpoint;
mod choice;
mod cut;
pub mod event;
mod feed;
mod guards;
pub mod plan;
mod progress;
mod restored;
pub mod saver;
pub mod step;
pub mod validate;

use crate::{
    config::{CountedTokens, EvalStrategy, Interval, TrainConfig},
    dataset::{self, Example, Leaks},
    error::{Error, Result},
    fs::fault,
    model::{Grads, Noise, Params, Qwen3, Recorder, qwen3::DropoutPlan},
    optim::{AdamW, AdamWConfig, Schedule, clip},
    plan::{Part, Rows, explained},
    rng::Key,
};
use candle_core::Tensor;
use checkpoint::{Restored, Skipped};
pub use choice::Choice;
pub use cut::{Cut, Survey, packed};
use event::{EvalPhase, Evaluated, Event, Finished, Observer, OfDataset, Started, Step, Written};
pub use feed::Feed;
pub use guards::refuse_rate_zero;
use plan::{StepPlan, StepSamples};
use progress::Evaluation;
pub use progress::Progress;
use saver::Saver;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use step::Random;
use validate::{HeldOut, Measure};

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
    /// What held-out and test rows have in common with training rows: told when the run starts.
    pub leaks: &'a [Leaks],
    /// Probability of dropping an input of A.
    pub lora_dropout: f64,
    /// Each held-out data set is also evaluated by itself.
    pub each_dataset: bool,
    /// How samples become micro-batches.
    pub cut: Cut,
    /// Launches recorded passes, where that was asked for.
    pub recorder: Option<Recorder>,
    /// Steps between two log lines.
    pub logging_steps: Interval,
    /// Which fed tokens the log counts.
    pub counted_tokens: CountedTokens,
    /// Writes checkpoints; `None` for a run that leaves none.
    pub saver: Option<Saver>,
    /// Which checkpoint to return to at the end, and when to give up.
    pub choice: Choice,
    /// Asked at every micro-batch; `true` ends the run after a checkpoint of the last completed step.
    pub stop: &'a dyn Fn() -> bool,
    /// What the model is asked to write at every evaluation.
    pub write: Option<&'a Write<'a>>,
    /// How far the run is.
    pub progress: Progress,
}

/// Lets the model with these parameters write; `None`: interrupted.
pub type Write<'a> = dyn Fn(&Params) -> Result<Option<Written>> + 'a;

/// How [`Trainer::fit`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// At the last step, or by early stopping. For [`Trainer::finish`].
    Complete(Finished),
    /// `stop` said so.
    Stopped,
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
        AdamW::new(constants, params.len(), params.flat().device()).map_err(|err| explained(err, Part::Adapter))
    }

    /// The steps of this run.
    pub fn plan(&self) -> StepPlan {
        StepPlan::of(self.train, self.config)
    }

    /// Trains to the last step and tells `observer` what happens. The trained parameters are in `self.params`.
    ///
    /// [`Self::finish`] comes after it, once the adapter is on the disk.
    pub fn fit(&mut self, observer: &mut dyn Observer) -> Result<Ended> {
        let plan = self.plan();
        let schedule = self.schedule(&plan);
        observer.on_event(&Event::Started(Started {
            total_steps: plan.total_steps,
            samples_per_step: plan.samples_per_step(),
            eval_samples: dataset::samples(self.eval).count(),
            resumed_at: self.progress.step,
            leaks: self.leaks.to_vec(),
        }))?;
        if self.progress.step == 0 && !self.evaluate(EvalPhase::Before, observer)? {
            return self.stopped(observer);
        }

        self.progress.began = Instant::now();
        let began = self.progress.step;
        let mut order = (usize::MAX, vec![]); // (epoch, its permutation)
        loop {
            if self.progress.evaluation_due && !self.evaluate(EvalPhase::During, observer)? {
                return self.stopped(observer);
            }
            self.save_if_due(&plan, observer)?;
            if self.progress.step >= plan.total_steps || self.patience_is_over() {
                break;
            }
            let position = fault::counted("no_data_position", self.progress.step, began);
            let epoch = plan.epoch_of(position);
            if order.0 != epoch {
                order = (epoch, plan.order(epoch));
            }
            let samples = plan.samples(position, &order.1);
            let lr = schedule.lr(fault::counted("restarted_rate", self.progress.step, began));
            let Some(done) = self.step(&samples, lr)? else {
                return self.stopped(observer);
            };
            let (grad_norm, lr) = (done.grad_norm, done.lr);
            observer.on_event(&Event::Step(done))?;
            if self.progress.step.is_multiple_of(self.logging_steps.of(plan.total_steps)) {
                let logged = self.progress.logged(&plan, grad_norm, lr, self.counted_tokens);
                self.tell(Event::Logged(logged), observer)?;
            }
            self.progress.evaluation_due = self.evaluation_is_due(&samples, plan.total_steps);
        }
        if let Some(saver) = &mut self.saver {
            saver.wait(observer)?;
        }
        let finished = self.finished(&plan);
        let best = self.load_best(observer)?;
        Ok(Ended::Complete(Finished { best: best.map(|best| (best.step, best.metric)), ..finished }))
    }

    /// Tells `observer` how training ended, and the held-out loss of the trained parameters, where there are held-out rows.
    /// `false`: stopped.
    pub fn finish(&mut self, finished: Finished, observer: &mut dyn Observer) -> Result<bool> {
        observer.on_event(&Event::Finished(finished))?;
        self.evaluate(EvalPhase::Final, observer)
    }

    /// Runs `samples` forward and backward and throws the result away: what does not fit fails here and not hours later.
    pub fn rehearse(&self, samples: &[usize]) -> Result<()> {
        self.try_out(samples, Cut { max_rows: usize::MAX, ..self.cut })
    }

    /// How long the micro-batches of the first steps take forward and backward, and what they compute. Thrown away too.
    ///
    /// Of so many steps as many micro-batches as `patience` has room for, by the slowest so far, but one at least; fewer where
    /// `stop` says so.
    #[expect(clippy::disallowed_methods, reason = "a time is that of finished work")]
    pub fn probe(&self, steps: usize, patience: Duration) -> Result<(Duration, Rows)> {
        let (plan, device) = (self.plan(), self.params.flat().device());
        let (order, whole) = (plan.order(0), Cut { max_rows: usize::MAX, ..self.cut });
        let (mut rows, mut took, mut slowest) = (Rows::default(), Duration::ZERO, Duration::ZERO);
        let began = Instant::now();
        for step in 0..steps.min(plan.total_steps).min(plan.steps_per_epoch) {
            let samples = plan.samples(step, &order).indices.into_iter().map(|i| (i, &self.train[i]));
            let trained: Vec<_> = samples.filter(|(_, row)| row.is_trainable()).collect();
            for micro in self.cut.micro_batches(&trained) {
                if took + slowest > patience || (self.stop)() {
                    return Ok((took, rows));
                }
                self.rehearse(&micro.iter().map(|(i, _)| *i).collect::<Vec<_>>())?;
                device.synchronize()?;
                rows += whole.rows(&micro).0;
                let now = began.elapsed();
                (slowest, took) = (slowest.max(now - took), now);
            }
        }
        Ok((took, rows))
    }

    fn try_out(&self, samples: &[usize], cut: Cut) -> Result<()> {
        let rows: Vec<(usize, &Example)> = samples.iter().map(|&i| (i, &self.train[i])).collect();
        fault::phase("rehearse");
        let random = self.random(std::iter::once(samples));
        for packed in cut.batches(&rows) {
            let (mut batch, samples) = packed?;
            batch.noise = random.noise.as_ref().map(|noise| noise.values(&batch, self.model.config().hidden_size));
            let batch = if self.recorder.is_some() { batch.filled_up() } else { batch };
            let part = Part::MicroBatch { rows: batch.ids.len(), samples: samples.len(), keep: cut.keep };
            let mut grads = Grads::new(&self.params).map_err(|err| explained(err, Part::Adapter))?;
            let nll = self.model.train(&batch, &self.params, &mut grads, 1.0, (random.dropout, cut.keep));
            nll.map_err(|err| explained(err, part))?;
        }
        Ok(())
    }

    /// Goes on where `restored` was taken. Returns the checkpoint of the best evaluation so far, and why it cannot be
    /// returned to, if that is so: then another will be the best.
    ///
    /// Errors: it does not fit, or has done more steps than this run has.
    pub fn resume(&mut self, restored: Restored) -> Result<Option<Skipped>> {
        let (done, total) = (restored.state.step, self.plan().total_steps);
        if done > total {
            return Err(Error::file(&restored.path, format!("has done {done} steps, but this run has only {total}"))
                .hint(
                    "ask for more (`max_steps`, `num_train_epochs`), or start over with `resume_from_checkpoint=false`",
                )
                .hint_zh(
                    "请增加步数（`max_steps`、`num_train_epochs`），或用 `resume_from_checkpoint=false` 重新开始",
                ));
        }
        let state = restored.restore(&mut self.params, &mut self.optim)?;
        self.progress = Progress::resumed(state);
        Ok(self.lose_unsound_best())
    }

    /// The held-out loss of the parameters as they are now, if the last evaluation was of them.
    pub fn held_out(&self) -> Option<HeldOut> {
        let evaluation = self.progress.evaluated.as_ref()?;
        (evaluation.step == self.progress.step).then(|| evaluation.held_out.clone())
    }

    /// What was told so far, by earlier processes too.
    pub fn history(&self) -> &[Event] {
        &self.progress.history
    }

    /// Tells `observer`, and keeps the event for reports that a later process draws.
    fn tell(&mut self, event: Event, observer: &mut dyn Observer) -> Result<()> {
        observer.on_event(&event)?;
        self.progress.history.push(event);
        Ok(())
    }

    /// The folder of the newest checkpoint that the run can go on from, if it is on the disk.
    pub fn newest_checkpoint(&self) -> Option<PathBuf> {
        let saver = self.saver.as_ref().filter(|saver| !saver.only_model())?;
        saver.last().filter(|step| !saver.has_lost(*step)).map(|step| saver.folder(step)).filter(|path| path.is_dir())
    }

    /// Whether the same command can go on after the last completed step.
    pub fn is_saved(&self) -> bool {
        self.saver.as_ref().is_some_and(|saver| !saver.only_model() && saver.last() == Some(self.progress.step))
    }

    /// The end that `stop` asked for: the last completed step goes to the disk, unless it is there.
    pub fn stopped(&mut self, observer: &mut dyn Observer) -> Result<Ended> {
        let saved = self.saver.as_ref().and_then(Saver::last);
        // What returned to the best is no longer a run that could go on.
        if self.progress.step > 0 && saved != Some(self.progress.step) && !self.progress.returned {
            self.save(observer)?;
        }
        if let Some(saver) = &mut self.saver {
            saver.wait(observer)?;
        }
        Ok(Ended::Stopped)
    }

    fn save_if_due(&mut self, plan: &StepPlan, observer: &mut dyn Observer) -> Result<()> {
        let step = self.progress.step;
        if let Some(saver) = &mut self.saver {
            saver.poll(observer)?;
        }
        let evaluated = self.progress.evaluated.as_ref().is_some_and(|evaluation| evaluation.step == step);
        let is_best = evaluated && self.best().is_some_and(|best| best.step == step);
        let is_last = step == plan.total_steps || self.patience_is_over();
        let ends_epoch = step.is_multiple_of(plan.steps_per_epoch);
        let is_due = |saver: &Saver| {
            saver.last() != Some(step) && (saver.is_due(step, plan.total_steps, ends_epoch, is_last) || is_best)
        };
        if step > 0 && self.saver.as_ref().is_some_and(is_due) {
            self.save(observer)?;
        }
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(saver) = &mut self.saver else { return Ok(()) };
        // Before the copy is taken: one is enough in memory, and what the last save came to decides which is the best.
        saver.wait(observer)?;
        let best = self.best().map(|best| best.step);
        let Some(saver) = &mut self.saver else { return Ok(()) };
        let snapshot = saver.snapshot(&self.params, &self.optim, &self.progress)?;
        saver.save(snapshot, best, observer)
    }

    fn schedule(&self, plan: &StepPlan) -> Schedule {
        Schedule::new(self.config, plan.total_steps)
    }

    /// Gradient, check, clip, update.
    fn step(&mut self, samples: &StepSamples, lr: f64) -> Result<Option<Step>> {
        let began = Instant::now();
        fault::phase("step");
        let train = self.train;
        let rows: Vec<(usize, &Example)> = samples.indices.iter().map(|&i| (i, &train[i])).collect();
        let (random, recorder) = (self.random(samples.by_micro_batch()), self.recorder.as_mut());
        let gradient = step::gradient(self.model, &self.params, &rows, self.cut, &random, recorder, self.stop);
        // What is left of it behind the micro-batches: the norm.
        let Some(mut gradient) = gradient.map_err(|err| explained(err, Part::Update))? else { return Ok(None) };
        if fault::at_step("nan_loss", self.progress.step + 1) {
            gradient.loss = f64::NAN;
        }
        if fault::at_step("nan_grad", self.progress.step + 1) {
            gradient.spoil()?;
        }
        self.refuse_non_finite(&gradient, &rows)?;
        let factor = clip::factor(gradient.grad_norm, self.config.max_grad_norm);
        self.update(&gradient.flat, lr, factor).map_err(|err| explained(err, Part::Update))?;

        let tokens: usize = rows.iter().map(|(_, e)| e.input_ids.len()).sum();
        self.progress.advance(samples, gradient.loss, (padded_tokens(samples, train), tokens as u64));
        fault::executed(self.progress.step);
        Ok(Some(Step {
            step: self.progress.step,
            epoch: samples.epoch,
            loss: gradient.loss,
            grad_norm: gradient.grad_norm,
            lr,
            samples: samples.samples,
            tokens,
            seconds: began.elapsed().as_secs_f64(),
        }))
    }

    /// New parameters and moments. After an error all are as before, so that the last completed step can be saved.
    fn update(&mut self, gradient: &Tensor, lr: f64, factor: f64) -> Result<()> {
        let before = self.optim.clone();
        let updated = self.optim.step(self.params.flat(), gradient, &self.rates(lr), factor);
        let set = updated.and_then(|flat| match self.recorder {
            Some(_) => self.params.set_in_place(flat),
            None => self.params.set(flat),
        });
        if set.is_err() {
            self.optim = before;
        }
        set
    }

    /// Of A's, and of B's and magnitudes, how many values they are, and their rate where A's is `lr`. LoRA+ lets the latter learn
    /// faster.
    fn rates(&self, lr: f64) -> Vec<(usize, f64)> {
        let (a, all) = (self.params.first_b(), self.params.len());
        match self.config.loraplus_lr_ratio {
            None => vec![(all, lr)],
            Some(ratio) => vec![(a, lr), (all - a, ratio * lr)],
        }
    }

    /// The masks and the noise of this step. L of the noise is what LlamaFactory pads a sample to in its micro-batch.
    fn random<'s>(&self, micro_batches: impl Iterator<Item = &'s [usize]>) -> Random {
        let key = |purpose| Key::new(self.config.seed, purpose).with(self.progress.step as u64);
        let length = |micro: &'s [usize]| {
            let length = padded_length(micro.iter().map(|&i| self.train[i].sample_len()));
            micro.iter().map(move |&i| (i as u64, length))
        };
        let noise = |alpha| Noise::new(alpha, key("neftune"), micro_batches.flat_map(length));
        Random {
            dropout: (self.lora_dropout > 0.0).then(|| DropoutPlan { p: self.lora_dropout, key: key("dropout") }),
            noise: self.config.neftune_noise_alpha.map(noise),
        }
    }

    fn evaluation_is_due(&self, samples: &StepSamples, total: usize) -> bool {
        let last = self.progress.step == total;
        match self.config.eval_strategy {
            EvalStrategy::No => false,
            // The last step is evaluated in any case, as the Hugging Face trainer does.
            EvalStrategy::Steps => self.progress.step.is_multiple_of(self.config.eval_steps.of(total)) || last,
            EvalStrategy::Epoch => samples.ends_epoch || last,
        }
    }

    /// `false`: stopped before the end.
    fn evaluate(&mut self, when: EvalPhase, observer: &mut dyn Observer) -> Result<bool> {
        if self.eval.is_empty() {
            return Ok(true);
        }
        let step = self.progress.step;
        let evaluation = match self.progress.evaluated.take() {
            // The parameters have not changed since: the final evaluation is often that of the last step.
            Some(evaluation) if evaluation.step == step => evaluation,
            _ => match self.measure()? {
                Some(evaluation) => evaluation,
                None => return Ok(false),
            },
        };
        self.progress.evaluated = Some(evaluation.clone());
        let Evaluation { held_out, written, runtime, .. } = evaluation;
        let progress = &self.progress;
        let evaluated = Evaluated {
            step: progress.step,
            total_steps: self.plan().total_steps,
            epoch: progress.epoch,
            loss: held_out.loss,
            loss_per_token: held_out.loss_per_token,
            samples: held_out.samples,
            batches: held_out.batches,
            runtime,
            elapsed: progress.elapsed(),
            when,
            num_input_tokens_seen: progress.counted(self.counted_tokens),
            written,
            accuracy: held_out.accuracy,
            each: held_out.each.iter().map(|(dataset, held_out)| self.of_dataset(*dataset, held_out)).collect(),
        };
        if when == EvalPhase::During {
            self.progress.evaluation_due = false;
            if evaluated.metric(&self.choice.metric).is_none() {
                return Err(Error::input(format!("no evaluation gives `{}`", self.choice.metric)));
            }
        }
        self.tell(Event::Evaluated(evaluated), observer)?;
        Ok(true)
    }

    fn of_dataset(&self, dataset: usize, held_out: &HeldOut) -> OfDataset {
        let name = self.dataset_names.get(dataset).cloned().unwrap_or_default();
        OfDataset { name, loss: held_out.loss, accuracy: held_out.accuracy }
    }

    /// How held-out rows are evaluated.
    pub fn measuring(&self) -> Measure {
        Measure {
            batch_size: self.config.per_device_eval_batch_size,
            cut: self.cut,
            accuracy: self.config.compute_accuracy,
            each: self.each_dataset,
        }
    }

    /// Held-out loss and what the model writes now. `None`: stopped before the end.
    fn measure(&self) -> Result<Option<Evaluation>> {
        let began = Instant::now();
        self.model.release_buffers(); // those of the steps are smaller
        let held_out = validate::evaluate(self.model, &self.params, self.eval, self.measuring(), self.stop)?;
        let Some(held_out) = held_out else { return Ok(None) };
        let runtime = began.elapsed().as_secs_f64();
        let written = match self.write {
            None => None,
            Some(write) => match write(&self.params).map_err(|err| explained(err, Part::Writing))? {
                None => return Ok(None),
                written => written,
            },
        };
        Ok(Some(Evaluation { step: self.progress.step, held_out, written, runtime }))
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
            runtime: progress.elapsed(),
            samples_seen: match self.config.max_steps {
                Some(steps) => (steps * plan.samples_per_step()) as f64,
                None => plan.epoch_samples() as f64 * self.config.num_train_epochs,
            },
            best: None,
            total_flos: 6.0 * weights as f64 * progress.input_tokens as f64,
            num_input_tokens_seen: progress.counted(self.counted_tokens),
        }
    }
}

/// Tokens as LlamaFactory's collator feeds them.
fn padded_tokens(samples: &StepSamples, train: &[Example]) -> u64 {
    let padded = |micro: &[usize]| {
        let samples = micro.chunk_by(|&a, &b| train[a].shares_sample(&train[b])).count();
        samples * padded_length(micro.iter().map(|&i| train[i].sample_len()))
    };
    samples.by_micro_batch().map(padded).sum::<usize>() as u64
}

/// What LlamaFactory's collator pads every sample of a micro-batch to: the longest, rounded up to 8.
pub fn padded_length(tokens: impl Iterator<Item = usize>) -> usize {
    tokens.max().unwrap_or(0).next_multiple_of(8)
}
