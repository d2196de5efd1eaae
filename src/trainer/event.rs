//! What happens in a run, as data; who watches comes later.
//!
//! The trainer knows no report: it tells a [`Observer`] and goes on. Log files, console and plots are views of these events.

use crate::{config::COUPLET_PASS, dataset::Leaks, error::Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// One thing that happened. Losses are in nats per supervised token, seconds are wall clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The rows are read.
    Data(DataRead),
    /// Everything is loaded; step 1 comes next.
    Started(Started),
    /// One optimizer step is done (every step, for a progress bar).
    Step(Step),
    /// A log line is due: every `logging_steps` steps.
    Logged(Logged),
    /// The held-out rows were evaluated.
    Evaluated(Evaluated),
    /// A checkpoint is on the disk.
    Saved(Saved),
    /// A checkpoint could not be written; the run goes on.
    SaveFailed(SaveFailed),
    /// Something failed that the run can do without for now; it goes on.
    Trouble(Trouble),
    /// The last step is done and every file is about to be written.
    Finished(Finished),
    /// What the run took beside what was planned: its last word.
    Compared(Compared),
}

/// What was read and left out, by data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataRead {
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
    /// In the order read.
    pub sets: Vec<SetRead>,
    /// To be logged where nothing was left out, too. Not in LlamaFactory's dialect: there its log is met line by line.
    #[serde(default)]
    pub always_logged: bool,
}

/// A data set. `read` = `kept` + `skipped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRead {
    /// Its name in `dataset_info.json`.
    pub name: String,
    /// Rows that were read.
    pub read: usize,
    /// Rows that are trained or evaluated.
    pub kept: usize,
    /// Rows that are left out.
    pub skipped: usize,
    /// Why, and how many for that reason.
    pub reasons: BTreeMap<String, usize>,
}

/// The shape of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
    /// Samples that make one full optimizer step.
    pub samples_per_step: usize,
    /// Held-out samples (0: no evaluation).
    pub eval_samples: usize,
    /// Steps done by an earlier process whose checkpoint this run continues; 0 for a new run.
    pub resumed_at: usize,
    /// What held-out and test rows have in common with training rows.
    #[serde(default)]
    pub leaks: Vec<Leaks>,
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub step: usize,
    /// Passes over the training rows so far, as LlamaFactory counts them.
    pub epoch: f64,
    /// Σ nll / Σ labels of this step.
    pub loss: f64,
    /// L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The rate used in this step.
    pub lr: f64,
    /// Samples of this step.
    pub samples: usize,
    /// Real tokens (rows fed).
    pub tokens: usize,
    /// Seconds this step took.
    pub seconds: f64,
}

/// A line of the log: the mean of the steps since the last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// The last step of the window.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Epoch at that step.
    pub epoch: f64,
    /// Mean of the step losses since the last line.
    pub loss: f64,
    /// Gradient norm of the last step, before clipping.
    pub grad_norm: f64,
    /// The rate used in the last step.
    pub lr: f64,
    /// Fed tokens so far, padded as LlamaFactory pads; `None` unless asked for.
    pub num_input_tokens_seen: Option<u64>,
    /// Seconds since training began.
    pub elapsed: f64,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Steps done so far; 0 before the first.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Epoch at that step.
    pub epoch: f64,
    /// LlamaFactory's `eval_loss`: every sample carries its batch's mean, and these are averaged.
    #[serde(with = "nan_as_null")]
    pub loss: f64,
    /// Σ nll / Σ labels over all held-out rows.
    #[serde(with = "nan_as_null")]
    pub loss_per_token: f64,
    /// Held-out samples.
    pub samples: usize,
    /// Evaluation batches.
    pub batches: usize,
    /// Seconds it took.
    pub runtime: f64,
    /// Seconds since training began.
    pub elapsed: f64,
    /// Which evaluation this is.
    pub when: EvalPhase,
    /// As in [`Logged`].
    pub num_input_tokens_seen: Option<u64>,
    /// What the model wrote, where it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
    /// The share of labels that are the model's likeliest token, as LlamaFactory averages it, under `compute_accuracy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Each held-out data set by itself, under `eval_on_each_dataset`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<OfDataset>,
}

/// The evaluation of one held-out data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfDataset {
    /// Its name in `dataset_info.json`.
    pub name: String,
    /// As [`Evaluated::loss`].
    #[serde(with = "nan_as_null")]
    pub loss: f64,
    /// As [`Evaluated::accuracy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// What the model wrote at an evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Answers to `sample_prompts`.
    pub samples: Vec<Sample>,
    /// The share of `eval_couplets` held-out couplets whose written 下联 passes the judge (合格率).
    pub couplet_pass: Option<f64>,
}

/// A text and what the model answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// As it stands in the recipe.
    pub prompt: String,
    /// Greedy, without a thought.
    pub answer: String,
}

impl Evaluated {
    /// The number of this name, one of [`Recipe::metrics`](crate::config::Recipe::metrics).
    pub fn metric(&self, name: &str) -> Option<f64> {
        match name {
            "eval_loss_per_token" => Some(self.loss_per_token),
            _ => self.metrics().into_iter().find(|(key, _)| key == name).map(|(_, value)| value),
        }
    }

    /// What the log and the results say of it, under the names that LlamaFactory gives.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let of = |prefix: &str, loss: f64, accuracy: Option<f64>| {
            let accuracy = accuracy.map(|share| (format!("{prefix}_accuracy"), share));
            std::iter::once((format!("{prefix}_loss"), loss)).chain(accuracy).collect::<Vec<_>>()
        };
        let mut metrics = of("eval", self.loss, self.accuracy);
        metrics.extend(self.each.iter().flat_map(|one| of(&format!("eval_{}", one.name), one.loss, one.accuracy)));
        metrics.extend(self.couplet_pass().map(|share| (COUPLET_PASS.to_owned(), share)));
        metrics
    }

    /// The share of written couplets that pass, where some were written.
    pub fn couplet_pass(&self) -> Option<f64> {
        self.written.as_ref()?.couplet_pass
    }
}

/// When an evaluation happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalPhase {
    /// Before step 1: the base model. LlamaFactory has none; not written to its files.
    Before,
    /// While training.
    During,
    /// After the last step; goes to `eval_results.json`.
    Final,
}

/// A checkpoint, durable under its final name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Steps done when it was taken.
    pub step: usize,
    /// Its folder.
    pub path: PathBuf,
}

/// A checkpoint that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveFailed {
    /// Steps done when it was taken.
    pub step: usize,
    /// What went wrong.
    pub reason: String,
}

/// A failure that the run survives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What went wrong.
    pub what: String,
}

/// The end of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Steps done.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Epoch at the end.
    pub epoch: f64,
    /// Mean of all step losses.
    pub train_loss: f64,
    /// Seconds of training.
    pub runtime: f64,
    /// Training samples × epochs, as LlamaFactory counts `train_samples_per_second`.
    pub samples_seen: f64,
    /// Step and metric of the best evaluation, under `load_best_model_at_end`.
    pub best: Option<(usize, f64)>,
    /// Floating-point operations of all steps as the Hugging Face trainer estimates them.
    pub total_flos: f64,
    /// As in [`Logged`].
    pub num_input_tokens_seen: Option<u64>,
}

/// A run as it was planned and as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// How training ended.
    pub finished: Finished,
    /// Before it began.
    pub planned: Took,
    /// At its end.
    pub measured: Took,
}

/// What a run takes, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// Seconds of training and of the evaluations on the way.
    pub train_seconds: Option<f64>,
    /// Bytes of tensors on a card; on the CPU of the process.
    pub peak_memory_bytes: Option<u64>,
}

/// Whoever is told. The trainer holds `&mut dyn Observer`.
pub trait Observer {
    /// Called in order, from one thread. An error ends the run.
    fn on_event(&mut self, event: &Event) -> Result<()>;
}

/// JSON has no NaN; an evaluation batch without a label has no mean.
mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        if x.is_finite() { s.serialize_f64(*x) } else { s.serialize_none() }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(d)?.unwrap_or(f64::NAN))
    }
}
