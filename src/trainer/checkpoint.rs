//! Checkpoints: everything that a bit-identical continuation needs, durable under its final name or not there at all.
//!
//! ```text
//! checkpoint-N/  adapter_config.json, adapter_model.safetensors   usable by PEFT as they are; the f32 masters, once
//!                optimizer.safetensors                            both moments
//!                state.json                                       step, sums, history, identity of the run
//!                manifest.json                                    name, size and digest of every other file; written last
//! ```
//!
//! No file of it has a name that makes another trainer believe it can resume from it.

use super::event::Event;
use crate::{
    adapter::peft,
    config::LoraConfig,
    error::{Error, Result},
    fs,
    model::{
        Checkpoint as TensorFile, Params,
        params::Slot,
        shards::{self, Entry},
        weights::f32_bytes,
    },
    optim::AdamW,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const MANIFEST: &str = "manifest.json";
/// Raised when an old checkpoint can no longer be continued.
pub(super) const FORMAT: u32 = 1;

/// Where a run stands, apart from its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Number of the format; another one is not continued.
    pub format: u32,
    /// Optimizer steps done; epoch and position in it follow from it.
    pub step: usize,
    /// Passes over the data, as logged.
    pub epoch: f64,
    /// Updates of the optimizer.
    pub optimizer_steps: usize,
    /// Sum of the step losses since the last log line.
    pub window_loss: f64,
    /// Steps since the last log line.
    pub window_steps: usize,
    /// Sum of all step losses.
    pub total_loss: f64,
    /// Tokens fed so far, padded as LlamaFactory pads.
    pub input_tokens: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The run stopped before the evaluation that was due after `step`.
    pub evaluation_due: bool,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub evaluations_since_best: usize,
    /// Log lines and evaluations so far: the log is written again from them, and reports are drawn from all of them.
    pub history: Vec<Event>,
    /// What must be the same in a run that continues this one: config, digests, device.
    pub identity: Value,
}

/// The evaluation that `load_best_model_at_end` returns to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After which step.
    pub step: usize,
    /// The value of `metric_for_best_model`.
    pub metric: f64,
}

/// A run's tensors and state in host memory: a real copy, so that training goes on while it is written.
pub struct Snapshot {
    slots: Vec<Slot>,
    params: Vec<f32>,
    /// Both moments; `None` under `save_only_model`.
    moments: Option<[Vec<f32>; 2]>,
    lora: LoraConfig,
    base_model: String,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    step: usize,
    files: Vec<fs::FileDigest>,
}

impl Snapshot {
    /// Copies the tensors of a run. A value that is not finite is an error: it must not replace a good checkpoint.
    #[expect(clippy::disallowed_methods, reason = "saving reads the parameters back")]
    pub fn take(
        params: &Params,
        optim: Option<&AdamW>,
        lora: &LoraConfig,
        base_model: &str,
        state: State,
    ) -> Result<Self> {
        let slots: Vec<Slot> = params.slots().map(|(_, slot)| slot.clone()).collect();
        let values: Vec<f32> = params.flat().to_vec1()?;
        refuse_non_finite("parameter", &values, &slots)?;
        let moments = match optim {
            None => None,
            Some(optim) => {
                let moments = [optim.m.to_vec1()?, optim.v.to_vec1()?];
                for (what, values) in ["first moment of", "second moment of"].into_iter().zip(&moments) {
                    refuse_non_finite(what, values, &slots)?;
                }
                Some(moments)
            }
        };
        Ok(Self { slots, params: values, moments, lora: lora.clone(), base_model: base_model.into(), state })
    }

    /// Steps done when it was taken.
    pub fn step(&self) -> usize {
        self.state.step
    }

    /// Bytes it will take on the disk, roughly.
    pub fn size(&self) -> u64 {
        size(self.params.len(), self.moments.is_some())
    }

    /// Writes `checkpoint-N` into `dir`: every file synced, the manifest last, then the folder gets its name.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let name = folder_name(self.state.step);
        if let Some(free) = fs::free_space(dir)
            && free < self.size()
        {
            return Err(Error::run(format!(
                "{}: {free} bytes are free, the checkpoint needs {}",
                dir.join(&name).display(),
                self.size()
            )));
        }
        fs::write_durable_dir(dir, &name, |temp| {
            let (header, values) = peft::weights_parts(&self.slots, &self.params)?;
            let mut files = vec![
                fs::write_parts_synced(&temp.join(peft::WEIGHTS), &[&header, &values])?,
                fs::write_file_synced(
                    &temp.join(peft::CONFIG),
                    peft::config_text(&self.lora, &self.base_model).as_bytes(),
                )?,
            ];
            if let Some([m, v]) = &self.moments {
                let parts = [&optimizer_header(m.len())?, &*f32_bytes(m), &*f32_bytes(v)];
                files.push(fs::write_parts_synced(&temp.join(OPTIMIZER), &parts)?);
                let state = serde_json::to_string_pretty(&self.state).map_err(|err| Error::run(err.to_string()))?;
                files.push(fs::write_file_synced(&temp.join(STATE), state.as_bytes())?);
            }
            fs::fault::phase("save");
            let manifest = Manifest { step: self.state.step, files };
            let text = serde_json::to_string_pretty(&manifest).map_err(|err| Error::run(err.to_string()))?;
            fs::write_file_synced(&temp.join(MANIFEST), text.as_bytes())?;
            Ok(())
        })?;
        Ok(dir.join(name))
    }
}

fn refuse_non_finite(what: &str, values: &[f32], slots: &[Slot]) -> Result<()> {
    match slots.iter().find(|slot| !values[slot.range()].iter().all(|x| x.is_finite())) {
        None => Ok(()),
        Some(slot) => Err(Error::run(format!(
            "the {what} {} is not finite; nothing is saved over the last good checkpoint",
            slot.name
        ))),
    }
}

/// Of `optimizer.safetensors`: both moments of `n` parameters follow.
fn optimizer_header(n: usize) -> Result<Vec<u8>> {
    let entry = |name: &str| Entry { name: name.into(), dtype: candle_core::DType::F32, shape: vec![n] };
    shards::header(&["exp_avg", "exp_avg_sq"].map(entry))
}

/// Bytes of a checkpoint of so many `parameters`, roughly.
pub fn size(parameters: usize, with_moments: bool) -> u64 {
    let values = if with_moments { 3 * parameters } else { parameters };
    4 * values as u64 + 64 * 1024
}

/// The name of the checkpoint after `step`.
pub fn folder_name(step: usize) -> String {
    format!("checkpoint-{step}")
}

/// A checkpoint read back, every byte of it verified.
#[derive(Debug)]
pub struct Restored {
    /// Its folder.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: State,
    adapter: BTreeMap<String, Vec<f32>>,
    moments: [Vec<f32>; 2],
}

/// A checkpoint that cannot be continued, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The newest checkpoint in `dir` whose every byte is as its manifest says, and the newer ones that are not.
pub fn newest(dir: &Path) -> (Option<Restored>, Vec<Skipped>) {
    let mut skipped = Vec::new();
    for (_, path) in list(dir).into_iter().rev() {
        match open(&path) {
            Ok(restored) => return (Some(restored), skipped),
            Err(err) => skipped.push(Skipped { path, reason: err.to_string() }),
        }
    }
    (None, skipped)
}

/// Folders named `checkpoint-N` in `dir`, by N.
pub fn list(dir: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Reads one checkpoint and verifies it.
pub fn open(path: &Path) -> Result<Restored> {
    let manifest: Manifest = json_file(&path.join(MANIFEST))?;
    verify(path, &manifest)?;
    if !manifest.files.iter().any(|file| file.name == STATE) {
        return Err(Error::input("holds the model only (save_only_model)"));
    }
    let state: State = json_file(&path.join(STATE))?;
    let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if state.format != FORMAT {
        return Err(Error::input(format!("was written in format {}, this program reads {FORMAT}", state.format)));
    }
    if manifest.step != state.step || named != folder_name(state.step) {
        return Err(Error::input(format!("is named {named}, but holds step {}", state.step)));
    }
    let optimizer = TensorFile::open_file(&path.join(OPTIMIZER))?;
    let adapter = TensorFile::open_file(&path.join(peft::WEIGHTS))?;
    let names: Vec<String> = adapter.names().map(str::to_owned).collect();
    let adapter: Result<BTreeMap<String, Vec<f32>>> =
        names.into_iter().map(|name| Ok((name.clone(), adapter.values(&name)?))).collect();
    let moments = [optimizer.values("exp_avg")?, optimizer.values("exp_avg_sq")?];
    Ok(Restored { path: path.to_owned(), state, adapter: adapter?, moments })
}

fn json_file<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let name = path.file_name().unwrap_or_default().display().to_string();
    let bytes = std::fs::read(path).map_err(|err| Error::input(format!("{name} cannot be read: {err}")))?;
    serde_json::from_slice(&bytes).map_err(|err| Error::input(format!("{name} is damaged: {err}")))
}

/// Every file of the manifest as it was written, and no other.
fn verify(path: &Path, manifest: &Manifest) -> Result<()> {
    if path.join(MANIFEST).is_symlink() {
        return Err(Error::input(format!("{MANIFEST} is not a regular file")));
    }
    for file in &manifest.files {
        file.read(path)?;
    }
    let known = |name: &str| name == MANIFEST || manifest.files.iter().any(|file| file.name == name);
    let entries = std::fs::read_dir(path).map_err(|err| Error::input(format!("cannot be read: {err}")))?;
    let strange = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).find(|name| !known(name));
    match strange {
        None => Ok(()),
        Some(name) => Err(Error::input(format!("{name} is not in its manifest"))),
    }
}

impl Restored {
    /// Puts the tensors back. The layout of `params` must be the one that was saved.
    pub fn restore(&self, params: &mut Params, optim: &mut AdamW) -> Result<()> {
        let mut flat = Vec::with_capacity(params.len());
        for (_, slot) in params.slots() {
            let values = self.adapter.get(&peft::file_name(slot)).filter(|v| v.len() == slot.range().len());
            flat.extend(
                values.ok_or_else(|| Error::input(format!("{}: {} does not fit", self.path.display(), slot.name)))?,
            );
        }
        let device = params.flat().device().clone();
        let n = flat.len();
        let tensor = |values: Vec<f32>| -> Result<candle_core::Tensor> {
            if values.len() != n {
                return Err(Error::input(format!("{}: the optimizer does not fit", self.path.display())));
            }
            Ok(candle_core::Tensor::from_vec(values, n, &device)?)
        };
        params.set(tensor(flat)?)?;
        if !fs::fault::mutant("no_moments") {
            optim.m = tensor(self.moments[0].clone())?;
            optim.v = tensor(self.moments[1].clone())?;
        }
        optim.steps = self.state.optimizer_steps;
        Ok(())
    }
}

/// Which checkpoints to remove so that `limit` remain: the oldest first, never the newest and never `best`.
///
/// A limit of 1 is honoured as 2: with one, a crash during the next save could leave none.
pub fn to_prune(steps: &[usize], limit: Option<usize>, best: Option<usize>) -> Vec<usize> {
    let Some(limit) = limit.map(|limit| limit.max(2)) else { return vec![] };
    let surplus = steps.len().saturating_sub(limit);
    let newest = steps.last().copied();
    steps.iter().copied().filter(|&step| Some(step) != best && Some(step) != newest).take(surplus).collect()
}

/// Removes what [`to_prune`] names.
pub fn prune(dir: &Path, limit: Option<usize>, best: Option<usize>) -> Result<()> {
    let found = list(dir);
    let steps: Vec<usize> = found.iter().map(|(step, _)| *step).collect();
    for step in to_prune(&steps, limit, best) {
        fs::remove_durable_dir(dir, &folder_name(step))?;
    }
    Ok(())
}

/// The identity of a run as [`State::identity`] keeps it.
pub fn identity(config: Value, digests: Value, device: &str) -> Value {
    json!({"config": config, "digests": digests, "device": device})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_keeps_the_newest_and_the_best() {
        for (steps, limit, best, want, why) in [
            (&[5, 10, 15][..], None, None, &[][..], "no limit"),
            (&[5, 10, 15], Some(2), None, &[5], "the oldest goes"),
            (&[5, 10, 15], Some(1), None, &[5], "1 is honoured as 2"),
            (&[5, 10, 15], Some(2), Some(5), &[10], "the best stays"),
            (&[5, 10], Some(3), None, &[], "within the limit"),
            (&[5, 10, 15, 20], Some(2), Some(20), &[5, 10], "the best is the newest"),
        ] {
            assert_eq!(to_prune(steps, limit, best), want, "{why}");
        }
    }
}
