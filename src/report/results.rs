//! `train_results.json`, `eval_results.json`, `all_results.json` and `trainer_state.json`, as the Hugging Face trainer writes them.
//!
//! Rounding is its too: seconds to 4 decimals, rates to 3, losses and learning rates not at all.

use crate::{
    config::{EvalStrategy, OutputConfig, Recipe, TrainConfig},
    error::Result,
    fs::write_atomic,
    json::{self, Object},
    trainer::event::{EvalPhase, Evaluated, Event, Finished, Logged, Observer},
};
use serde_json::{Value, json};

/// The trainer's default for steps nobody asked for (`eval_steps`).
const UNSET_STEPS: usize = 500;

/// Collects the run and writes the four files when training has finished; `eval_results.json` when the final evaluation is there.
#[derive(Debug)]
pub struct Results {
    output: OutputConfig,
    train: TrainConfig,
    history: Vec<Value>,
    train_metrics: Object,
    eval_metrics: Object,
}

impl Results {
    /// Nothing is written before the end.
    pub fn new(recipe: &Recipe) -> Self {
        Self {
            output: recipe.output.clone(),
            train: recipe.train.clone(),
            history: Vec::new(),
            train_metrics: Object::new(),
            eval_metrics: Object::new(),
        }
    }

    fn finish(&mut self, end: &Finished) -> Result<()> {
        self.train_metrics = train_metrics(end);
        self.history.push(at_step(self.train_metrics.clone(), end.step));
        let state = json::sorted(&self.state(end), 2)? + "\n";
        write_atomic(&self.output.output_dir.join("trainer_state.json"), state.as_bytes())?;
        self.write("train_results.json", &self.train_metrics)?;
        self.write_all()
    }

    fn finish_eval(&mut self, e: &Evaluated) -> Result<()> {
        self.eval_metrics = eval_metrics(e);
        self.write("eval_results.json", &self.eval_metrics)?;
        self.write_all()
    }

    /// The union, evaluation last, as two `save_metrics` calls leave it.
    fn write_all(&self) -> Result<()> {
        let mut all = self.train_metrics.clone();
        all.extend(self.eval_metrics.clone());
        self.write("all_results.json", &all)
    }

    fn write(&self, name: &str, metrics: &Object) -> Result<()> {
        write_atomic(&self.output.output_dir.join(name), json::sorted(metrics, 4)?.as_bytes())
    }

    /// `trainer_state.json`. It describes a finished run; nothing here makes it resumable.
    fn state(&self, end: &Finished) -> Object {
        let best = end.best;
        let checkpoint = |step| self.output.output_dir.join(format!("checkpoint-{step}")).display().to_string();
        let eval_steps = match self.train.eval_strategy {
            EvalStrategy::Steps => self.train.eval_steps.of(end.total_steps),
            EvalStrategy::No | EvalStrategy::Epoch => UNSET_STEPS,
        };
        let epochs = match self.train.max_steps {
            Some(_) => end.epoch.ceil(),
            None => self.train.num_train_epochs.ceil(),
        };
        let control = json!({
            "args": {
                "should_epoch_stop": false,
                "should_evaluate": false,
                "should_log": false,
                "should_save": false,
                "should_training_stop": false,
            },
            "attributes": {},
        });
        let state = [
            ("best_global_step", best.map_or(Value::Null, |(step, _)| step.into())),
            ("best_metric", best.map_or(Value::Null, |(_, metric)| metric.into())),
            ("best_model_checkpoint", best.map_or(Value::Null, |(step, _)| checkpoint(step).into())),
            ("epoch", end.epoch.into()),
            ("eval_steps", eval_steps.into()),
            ("global_step", end.step.into()),
            ("is_hyper_param_search", false.into()),
            ("is_local_process_zero", true.into()),
            ("is_world_process_zero", true.into()),
            ("log_history", self.history.clone().into()),
            ("logging_steps", self.output.logging_steps.of(end.total_steps).into()),
            ("max_steps", end.total_steps.into()),
            ("num_input_tokens_seen", end.num_input_tokens_seen.unwrap_or(0).into()),
            ("num_train_epochs", (epochs as u64).into()),
            ("save_steps", self.output.save_steps.of(end.total_steps).into()),
            ("stateful_callbacks", json!({ "TrainerControl": control })),
            ("total_flos", end.total_flos.into()),
            ("train_batch_size", self.train.per_device_train_batch_size.into()),
            ("trial_name", Value::Null),
            ("trial_params", Value::Null),
        ];
        state.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl Observer for Results {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Logged(e) => self.history.push(at_step(log_metrics(e), e.step)),
            Event::Evaluated(e) => match e.when {
                EvalPhase::Before => {}
                EvalPhase::During => self.history.push(at_step(eval_metrics(e), e.step)),
                EvalPhase::Final => self.finish_eval(e)?,
            },
            Event::Finished(e) => self.finish(e)?,
            Event::Data(_)
            | Event::Started(_)
            | Event::Step(_)
            | Event::Saved(_)
            | Event::SaveFailed(_)
            | Event::Trouble(_)
            | Event::Compared(_) => {}
        }
        Ok(())
    }
}

fn at_step(mut metrics: Object, step: usize) -> Value {
    metrics.insert("step".into(), step.into());
    metrics.into()
}

fn log_metrics(e: &Logged) -> Object {
    let mut metrics = Object::new();
    metrics.insert("loss".into(), e.loss.into());
    metrics.insert("grad_norm".into(), e.grad_norm.into());
    metrics.insert("learning_rate".into(), e.lr.into());
    metrics.insert("epoch".into(), e.epoch.into());
    if let Some(tokens) = e.num_input_tokens_seen {
        metrics.insert("num_input_tokens_seen".into(), tokens.into());
        speed(&mut metrics, "train", e.elapsed, &[("tokens", tokens as f64)]);
    }
    metrics
}

fn eval_metrics(e: &Evaluated) -> Object {
    let mut metrics = Object::new();
    metrics.extend(e.metrics().into_iter().map(|(name, value)| (name, value.into())));
    speed(&mut metrics, "eval", e.runtime, &[("samples", e.samples as f64), ("steps", e.batches as f64)]);
    close(metrics, e.epoch, e.num_input_tokens_seen)
}

fn train_metrics(e: &Finished) -> Object {
    let mut metrics = Object::new();
    speed(&mut metrics, "train", e.runtime, &[("samples", e.samples_seen), ("steps", e.total_steps as f64)]);
    metrics.insert("total_flos".into(), e.total_flos.into());
    metrics.insert("train_loss".into(), e.train_loss.into());
    close(metrics, e.epoch, e.num_input_tokens_seen)
}

fn close(mut metrics: Object, epoch: f64, tokens: Option<u64>) -> Object {
    metrics.insert("epoch".into(), epoch.into());
    if let Some(tokens) = tokens {
        metrics.insert("num_input_tokens_seen".into(), tokens.into());
    }
    metrics
}

/// Hugging Face's `speed_metrics`: `{split}_runtime`, and `{split}_{what}_per_second` unless no time has passed.
pub fn speed(metrics: &mut Object, split: &str, runtime: f64, counts: &[(&str, f64)]) {
    metrics.insert(format!("{split}_runtime"), json::round(runtime, 4).into());
    for (what, count) in counts.iter().filter(|_| runtime > 0.0) {
        metrics.insert(format!("{split}_{what}_per_second"), json::round(count / runtime, 3).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::testing::{evaluated, finished, lf_events, lf_text, recipe},
        trainer::event::OfDataset,
    };

    fn run(events: &[Event], edit: impl Fn(&mut Recipe)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe(dir.path());
        edit(&mut recipe);
        let mut results = Results::new(&recipe);
        events.iter().for_each(|event| results.on_event(event).unwrap());
        dir
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn the_four_files_are_llamafactorys_to_the_byte() {
        let events = lf_events();
        let mut swapped = events.clone();
        let last = swapped.len() - 1;
        swapped.swap(last - 1, last);
        for (events, why) in [(events, "finished, then evaluated"), (swapped, "the other way round")] {
            let dir = run(&events, |_| {});
            for name in ["trainer_state.json", "train_results.json", "eval_results.json", "all_results.json"] {
                assert_eq!(read(&dir, name), lf_text(name), "{name} ({why})");
            }
        }
    }

    #[test]
    fn nothing_is_written_before_the_end_and_no_eval_results_without_evaluation() {
        let events = lf_events();
        let dir = run(&events[..3], |_| {});
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let dir = run(&[Event::Finished(finished(10, 2.0))], |_| {});
        assert!(!dir.path().join("eval_results.json").exists());
        assert_eq!(read(&dir, "all_results.json"), read(&dir, "train_results.json"));
    }

    #[test]
    fn settings_nobody_gave_are_the_trainers_defaults() {
        let state = |edit: &dyn Fn(&mut Recipe)| -> Object {
            let dir = run(&[Event::Finished(finished(7, 2.0))], edit);
            serde_json::from_str(&read(&dir, "trainer_state.json")).unwrap()
        };
        for (strategy, want) in [(EvalStrategy::No, 500), (EvalStrategy::Epoch, 500), (EvalStrategy::Steps, 3)] {
            assert_eq!(state(&|r| r.train.eval_strategy = strategy)["eval_steps"], want, "{strategy:?}");
        }
        assert_eq!(state(&|r| r.train.num_train_epochs = 2.5)["num_train_epochs"], 3, "rounded up");
        assert_eq!(state(&|r| r.train.max_steps = Some(7))["num_train_epochs"], 2, "the epochs 7 steps touch");
        assert_eq!(state(&|_| {})["num_input_tokens_seen"], 0, "not counted");
    }

    #[test]
    fn accuracy_and_each_data_set_have_llamafactorys_names() {
        let each = ["couplets", "poems"].map(|name| OfDataset { name: name.into(), loss: 2.5, accuracy: Some(0.25) });
        let base = evaluated(5, 10, 3.0, EvalPhase::Final);
        let event = Evaluated { accuracy: Some(0.5), each: each.to_vec(), ..base };
        let dir = run(&[Event::Finished(finished(10, 2.0)), Event::Evaluated(event.clone())], |_| {});
        let results: Object = serde_json::from_str(&read(&dir, "eval_results.json")).unwrap();
        for (name, want) in [
            ("eval_loss", 3.0),
            ("eval_accuracy", 0.5),
            ("eval_couplets_loss", 2.5),
            ("eval_couplets_accuracy", 0.25),
            ("eval_poems_loss", 2.5),
            ("eval_poems_accuracy", 0.25),
        ] {
            assert_eq!(results[name], want, "{name}");
            assert_eq!(event.metric(name), Some(want), "{name}");
        }
        assert_eq!(event.metric("eval_others_loss"), None);
    }

    #[test]
    fn no_rate_without_time() {
        let mut metrics = Object::new();
        speed(&mut metrics, "eval", 0.0, &[("samples", 5.0)]);
        assert_eq!(json::line(&metrics).unwrap(), r#"{"eval_runtime": 0.0}"#);
    }
}
