//! What "ended as the undisturbed run" means.

use crate::pool::{Check, ensure};
use serde_json::Value;
use std::path::Path;

/// What must not depend on interruptions, bit for bit. Times are cut out.
#[derive(Clone, Default)]
pub struct Golden {
    pub adapter: Vec<u8>,
    pub optimizer: Vec<u8>,
    state: Value,
    log: Vec<Value>,
    train_loss: Value,
    reports: Reports,
}

/// What a finished run says of itself where LlamaFactory's users look.
#[derive(Clone, Default, PartialEq)]
pub struct Reports {
    pub trainer_state: Value,
    eval_results: Value,
}

impl Reports {
    pub fn read(out: &Path) -> Result<Self, String> {
        Ok(Self { trainer_state: json(out, "trainer_state.json")?, eval_results: json(out, "eval_results.json")? })
    }
}

impl Golden {
    /// What a run left in its output directory.
    pub fn read(out: &Path) -> Result<Self, String> {
        let read = |name: &str| read(out, name);
        Ok(Self {
            adapter: read("adapter_model.safetensors")?,
            optimizer: read("checkpoint-40/optimizer.safetensors")?,
            state: json(out, "checkpoint-40/state.json")?,
            log: log_lines(&read("trainer_log.jsonl")?)?,
            train_loss: json(out, "train_results.json")?["train_loss"].clone(),
            reports: Reports::read(out)?,
        })
    }

    /// Says in what a log differs, times aside.
    pub fn same_log(&self, text: &[u8]) -> Check {
        let log = log_lines(text)?;
        ensure(self.log == log, || first_difference(&self.log, &log))
    }

    /// Says in what `other` differs.
    pub fn compare(&self, other: &Self) -> Check {
        ensure(self.log == other.log, || first_difference(&self.log, &other.log))?;
        ensure(self.adapter == other.adapter, || "another adapter".into())?;
        ensure(self.optimizer == other.optimizer, || "other moments".into())?;
        ensure(self.train_loss == other.train_loss, || "another train_loss".into())?;
        ensure(self.reports == other.reports, || "another trainer_state.json or eval_results.json".into())?;
        ensure(self.state == other.state, || "another state.json".into())
    }
}

fn read(out: &Path, name: &str) -> Result<Vec<u8>, String> {
    std::fs::read(out.join(name)).map_err(|err| format!("{name}: {err}"))
}

/// A JSON file, times aside.
fn json(out: &Path, name: &str) -> Result<Value, String> {
    Ok(timeless(serde_json::from_slice(&read(out, name)?).map_err(|err| format!("{name}: {err}"))?))
}

/// The lines of a log, times aside.
pub fn log_lines(text: &[u8]) -> Result<Vec<Value>, String> {
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Ok(timeless(serde_json::from_slice(line).map_err(|err| err.to_string())?))).collect()
}

fn first_difference(want: &[Value], got: &[Value]) -> String {
    match want.iter().zip(got).find(|(want, got)| want != got) {
        Some((want, got)) => format!("another log: {got} instead of {want}"),
        None => format!("another log: {} lines instead of {}", got.len(), want.len()),
    }
}

/// Without what a clock wrote, and the keys that only some commands have.
fn timeless(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for key in [
                    "elapsed_time",
                    "remaining_time",
                    "planned",
                    "measured",
                    "seconds",
                    "elapsed",
                    "runtime",
                    "train_runtime",
                    "train_samples_per_second",
                    "train_steps_per_second",
                    "eval_runtime",
                    "eval_samples_per_second",
                    "eval_steps_per_second",
                    "overwrite_output_dir",
                    "resume_from_checkpoint",
                    "plot_loss",
                ] {
                    object.remove(key);
                }
                object.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}
