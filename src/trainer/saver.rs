//! When checkpoints are due, and the thread that writes them while training goes on.

use super::{
    Progress,
    checkpoint::{self, Snapshot},
    event::{Event, Observer, SaveFailed, Saved, Trouble},
    plan::StepPlan,
};
use crate::{
    config::{LoraConfig, OutputConfig, Recipe, SaveStrategy},
    error::{Error, Result},
    fs::fault,
    model::{Params, params::Slot},
    optim::AdamW,
};
use serde_json::Value;
use std::{collections::BTreeSet, io, path::PathBuf, thread::JoinHandle};

/// Saves that may fail in a row before the run stops.
const FAILURES: usize = 3;
/// Bytes of a log line or an evaluation in `state.json`, at most, but for what the model wrote.
const EVENT: usize = 640;

/// A checkpoint that is on the disk.
struct Written {
    path: PathBuf,
    /// Older ones that are too many could not be removed.
    not_pruned: Option<Error>,
}

/// Bytes that a run will write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// One checkpoint and the adapter: with less, nothing of it can be kept.
    pub least: u64,
    /// All that will lie there at the same time.
    pub most: u64,
}

/// Writes the checkpoints of a run.
pub struct Saver {
    /// When, where, and how many stay.
    output: OutputConfig,
    lora: LoraConfig,
    base_model: String,
    /// Bytes that the answers to `sample_prompts` and the numbers of each data set take in an evaluation, about.
    said: usize,
    identity: Value,
    writing: Option<(usize, JoinHandle<Result<Written>>)>,
    failures: usize,
    last: Option<usize>,
    /// Steps whose checkpoints are known not to be there, or not to be sound.
    lost: BTreeSet<usize>,
}

impl Saver {
    /// Nothing is written yet. `identity`: what a continuation must find unchanged. `last`: the step of the checkpoint that
    /// this run continues, if any.
    pub fn new(recipe: &Recipe, identity: Value, last: Option<usize>) -> Self {
        Self {
            output: recipe.output.clone(),
            lora: recipe.lora.clone(),
            base_model: recipe.model.model_name_or_path.clone(),
            said: said_besides(recipe),
            identity,
            writing: None,
            failures: 0,
            last,
            lost: BTreeSet::new(),
        }
    }

    /// Whether its checkpoints leave out what a continuation needs.
    pub fn only_model(&self) -> bool {
        self.output.save_only_model
    }

    /// The folder of the checkpoint after `step`.
    pub fn folder(&self, step: usize) -> PathBuf {
        self.output.output_dir.join(checkpoint::folder_name(step))
    }

    /// A copy of the run as it stands now.
    pub fn snapshot(&self, params: &Params, optim: &AdamW, progress: &Progress) -> Result<Snapshot> {
        let state = progress.state(optim.steps, &self.identity);
        let optim = (!self.only_model()).then_some(optim);
        Snapshot::take(params, optim, &self.lora, &self.base_model, state)
    }

    /// What a run of `plan` needs on the disk that trains `slots` and evaluates every `eval_steps`, besides `others`: bytes of
    /// files that go with the adapter.
    pub fn space(&self, plan: &StepPlan, slots: &[Slot], eval_steps: Option<usize>, others: u64) -> Result<Space> {
        let state = self.state_size(plan, eval_steps);
        let checkpoint = checkpoint::size(slots, (!self.only_model()).then_some(state))?;
        let all = match self.output.save_strategy {
            SaveStrategy::No => 0,
            SaveStrategy::Steps => plan.total_steps.div_ceil(self.output.save_steps.of(plan.total_steps)),
            SaveStrategy::Epoch => plan.total_steps.div_ceil(plan.steps_per_epoch),
        };
        // A new one is written before an old one goes, and the best may stay beside the newest.
        let kept = self.output.save_total_limit.map_or(all, |limit| all.min(limit.max(2) + 1));
        // The log and `trainer_state.json` say what `state.json` says.
        let results = checkpoint::size(slots, None)? + 2 * state + others;
        Ok(Space { least: checkpoint + results, most: kept.max(1) as u64 * checkpoint + results })
    }

    /// Bytes of the last `state.json`, rather too many: it grows with every log line and evaluation.
    fn state_size(&self, plan: &StepPlan, eval_steps: Option<usize>) -> u64 {
        let evaluations = eval_steps.map_or(0, |steps| 2 + plan.total_steps / steps);
        let events = plan.total_steps / self.output.logging_steps.of(plan.total_steps) + evaluations;
        let identity = serde_json::to_string_pretty(&self.identity).map_or(0, |text| 2 * text.len());
        (events * EVENT + evaluations * self.said + identity + EVENT) as u64
    }

    /// Whether a checkpoint is due after `step` of `total`.
    pub fn is_due(&self, step: usize, total: usize, ends_epoch: bool, last_step: bool) -> bool {
        match self.output.save_strategy {
            SaveStrategy::No => false,
            SaveStrategy::Steps => step.is_multiple_of(self.output.save_steps.of(total)) || last_step,
            SaveStrategy::Epoch => ends_epoch || last_step,
        }
    }

    /// The step of the newest checkpoint taken.
    pub fn last(&self) -> Option<usize> {
        self.last
    }

    /// Whether the checkpoint of `step` is known not to be there.
    pub fn has_lost(&self, step: usize) -> bool {
        self.lost.contains(&step)
    }

    /// The checkpoint of `step` is not there, or not sound.
    pub fn lose(&mut self, step: usize) {
        self.lost.insert(step);
    }

    /// Hands `snapshot` to the writing thread, after the one before it is done. Pruning spares `best`.
    pub fn save(&mut self, snapshot: Snapshot, best: Option<usize>, observer: &mut dyn Observer) -> Result<()> {
        self.wait(observer)?;
        let (step, dir, limit) = (snapshot.step(), self.output.output_dir.clone(), self.output.save_total_limit);
        let write = move || {
            let path = snapshot.write(&dir)?;
            Ok(Written { path, not_pruned: checkpoint::prune(&dir, step, limit, best).err() })
        };
        let thread = match fault::at_step("no_thread", step) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => std::thread::Builder::new().name("checkpoint".into()).spawn(write),
        };
        match thread {
            Ok(thread) => {
                self.writing = Some((step, thread));
                self.last = Some(step);
                Ok(())
            }
            Err(err) => {
                self.ended(step, Err(Error::run(format!("cannot start the thread that saves: {err}"))), observer)
            }
        }
    }

    /// Tells about a save that has ended meanwhile; does not wait.
    pub fn poll(&mut self, observer: &mut dyn Observer) -> Result<()> {
        match &self.writing {
            Some((_, thread)) if thread.is_finished() => self.wait(observer),
            _ => Ok(()),
        }
    }

    /// Waits for the save under way and tells how it ended. Three failures in a row are an error.
    pub fn wait(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some((step, thread)) = self.writing.take() else { return Ok(()) };
        let written = thread.join().unwrap_or_else(|_| Err(Error::run("internal error: the saving thread panicked")));
        self.ended(step, written, observer)
    }

    fn ended(&mut self, step: usize, written: Result<Written>, observer: &mut dyn Observer) -> Result<()> {
        match written {
            Ok(Written { path, not_pruned }) => {
                self.failures = 0;
                self.lost.remove(&step);
                fault::announce("saved", step);
                observer.on_event(&Event::Saved(Saved { step, path }))?;
                let trouble = not_pruned.map(|err| Event::Trouble(Trouble { what: err.to_string() }));
                trouble.map_or(Ok(()), |trouble| observer.on_event(&trouble))
            }
            Err(err) => {
                self.failures += 1;
                self.last = None;
                self.lost.insert(step);
                observer.on_event(&Event::SaveFailed(SaveFailed { step, reason: err.to_string() }))?;
                if self.failures < FAILURES {
                    return Ok(());
                }
                Err(Error::run(format!("{FAILURES} checkpoints in a row could not be saved; the last: {err}"))
                    .hint("make room or repair the output directory, then run the same command again")
                    .hint_zh("请腾出空间或修复输出目录，然后再次运行同一命令"))
            }
        }
    }
}

fn said_besides(recipe: &Recipe) -> usize {
    let answers = recipe.train.sample_prompts.iter().map(|prompt| 2 * prompt.len() + EVENT);
    let each = recipe.data.eval_dataset.iter().filter(|_| recipe.data.eval_on_each_dataset);
    answers.chain(each.map(|name| 2 * name.len() + EVENT / 3)).sum()
}

impl Drop for Saver {
    /// A run that ends by an error lets the save under way come to its end: it is of sound steps.
    fn drop(&mut self) {
        if let Some((_, thread)) = self.writing.take() {
            let _ = thread.join(); // the error that ended the run is the one worth telling
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::event::{EvalPhase, Evaluated, Logged};

    #[test]
    fn an_event_takes_no_more_room_than_is_said() {
        let (number, steps, tokens) = (-1.234_567_890_123_456_7e-123, 1_234_567_890, Some(1_234_567_890_123));
        let logged = Event::Logged(Logged {
            step: steps,
            total_steps: steps,
            epoch: number,
            loss: number,
            grad_norm: number,
            lr: number,
            num_input_tokens_seen: tokens,
            elapsed: number,
        });
        let evaluated = Event::Evaluated(Evaluated {
            step: steps,
            total_steps: steps,
            epoch: number,
            loss: number,
            loss_per_token: number,
            samples: steps,
            batches: steps,
            runtime: number,
            elapsed: number,
            when: EvalPhase::During,
            num_input_tokens_seen: tokens,
            written: None,
            accuracy: Some(number),
            each: vec![],
        });
        for event in [logged, evaluated] {
            // As it stands in `state.json`, where it lies three levels deep.
            let text = serde_json::to_string_pretty(&serde_json::json!({"history": [event]})).unwrap();
            assert!((EVENT / 2..EVENT).contains(&text.len()), "{} bytes: {text}", text.len());
        }
    }
}
