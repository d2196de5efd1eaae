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
pub use super::restored::{Adapter, Restored, Skipped, adapter, newest, open};
use crate::{
    adapter::peft,
    config::LoraConfig,
    error::{Error, Result, io_reason},
    fs,
    model::{
        Params,
        params::Slot,
        shards::{self, Entry},
        weights::f32_bytes,
    },
    optim::AdamW,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    io,
    path::{Path, PathBuf},
};

pub(super) const STATE: &str = "state.json";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const MANIFEST: &str = "manifest.json";
/// Raised when an old checkpoint can no longer be continued. 2: the moments lie in the order of all A's, then all B's.
pub(super) const FORMAT: u32 = 2;

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
    /// Tokens of the rows fed so far, without padding.
    #[serde(default)] // checkpoints of earlier versions lack it
    pub row_tokens: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The run stopped before the evaluation that was due after `step`.
    pub evaluation_due: bool,
    /// Log lines and evaluations so far: the log is written again from them, and reports are drawn from all of them.
    pub history: Vec<Event>,
    /// What must be the same in a run that continues this one: config, digests, device.
    pub identity: Value,
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
pub(super) struct Manifest {
    pub(super) step: usize,
    pub(super) files: Vec<fs::FileDigest>,
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

    /// Writes `checkpoint-N` into `dir`: every file synced, the manifest last, then the folder gets its name.
    ///
    /// Errors: there is no room for it, which is found before the first byte; a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let name = folder_name(self.state.step);
        let (header, values) = peft::weights_parts(&self.slots, &self.params)?;
        let config = peft::config_text(&self.lora, &self.base_model);
        let mut files = vec![(peft::WEIGHTS, vec![&header[..], &values]), (peft::CONFIG, vec![config.as_bytes()])];
        let (state, parts);
        if let Some([m, v]) = &self.moments {
            state = pretty(&self.state)?;
            parts = (optimizer_header(m.len())?, f32_bytes(m), f32_bytes(v));
            files.push((OPTIMIZER, vec![&parts.0, &parts.1, &parts.2]));
            files.push((STATE, vec![state.as_bytes()]));
        }
        let sizes = files.iter().map(|(_, parts)| parts.iter().map(|part| part.len() as u64).sum());
        refuse_full_disk(dir, &name, on_disk(sizes))?;
        fs::write_durable_dir(dir, &name, |temp| {
            let written: Result<Vec<fs::FileDigest>> =
                files.iter().map(|(name, parts)| fs::write_parts_synced(&temp.join(name), parts)).collect();
            fs::fault::phase("save");
            let manifest = pretty(&Manifest { step: self.state.step, files: written? })?;
            fs::write_file_synced(&temp.join(MANIFEST), manifest.as_bytes()).map(drop)
        })?;
        Ok(dir.join(name))
    }
}

fn pretty(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|err| Error::run(err.to_string()))
}

fn refuse_full_disk(dir: &Path, name: &str, need: u64) -> Result<()> {
    match fs::free_space(dir) {
        Some(free) if free < need => {
            let path = dir.join(name);
            Err(Error::run(format!("{}: {free} bytes are free, the checkpoint needs {need}", path.display())))
        }
        _ => Ok(()),
    }
}

fn refuse_non_finite(what: &str, values: &[f32], slots: &[Slot]) -> Result<()> {
    match peft::first_not_finite(values, slots) {
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

/// Bytes in which most file systems hand out room.
const BLOCK: u64 = 4096;

/// What a checkpoint takes on the disk whose files, but for the manifest, have these sizes.
fn on_disk(sizes: impl Iterator<Item = u64>) -> u64 {
    let folder_and_manifest = 2 * BLOCK;
    sizes.map(|size| size.next_multiple_of(BLOCK)).sum::<u64>() + folder_and_manifest
}

/// What a checkpoint of `slots` takes on the disk; `state`: bytes of its `state.json`, or `None` under `save_only_model`.
pub fn size(slots: &[Slot], state: Option<u64>) -> Result<u64> {
    let parameters: usize = slots.iter().map(|slot| slot.range().len()).sum();
    let (header, values) = (peft::weights_parts(slots, &[])?.0.len(), 4 * parameters);
    let adapter = [(header + values) as u64, BLOCK];
    let moments = (optimizer_header(parameters)?.len() + 2 * values) as u64;
    Ok(on_disk(adapter.into_iter().chain(state.into_iter().flat_map(|state| [moments, state]))))
}

/// The name of the checkpoint after `step`.
pub fn folder_name(step: usize) -> String {
    format!("checkpoint-{step}")
}

/// What is named `checkpoint-N` in `dir`, by N; nothing where there is no `dir`.
pub fn list(dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let unreadable = |err: io::Error| Error::file(dir, format!("cannot be read: {}", io_reason(&err)));
    let entries = match std::fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = vec![];
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        found.extend(step_of(entry.path()).map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// Whether a run could go on from this folder, if it is sound.
pub fn is_one(path: &Path) -> bool {
    [MANIFEST, STATE].iter().all(|name| path.join(name).is_file())
}

/// The step of a folder named as [`folder_name`] names it; `None` for any other, such as a user's `checkpoint-keep`.
pub fn step_of(path: impl AsRef<Path>) -> Option<usize> {
    let name = path.as_ref().file_name()?.to_str()?;
    let step = name.strip_prefix("checkpoint-")?.parse().ok()?;
    (name == folder_name(step)).then_some(step)
}

/// Which checkpoints to remove after that of step `newest` was written: those of more steps, for the run went back behind
/// them; then the oldest, so that `limit` remain, but never the newest and never `best`.
///
/// A limit of 1 is honoured as 2: with one, a crash during the next save could leave none.
pub fn to_prune(steps: &[usize], newest: usize, limit: Option<usize>, best: Option<usize>) -> Vec<usize> {
    let (line, abandoned): (Vec<usize>, Vec<usize>) = steps.iter().partition(|&&step| step <= newest);
    let surplus = limit.map_or(0, |limit| line.len().saturating_sub(limit.max(2)));
    let oldest = line.into_iter().filter(|&step| Some(step) != best && step != newest).take(surplus);
    abandoned.into_iter().chain(oldest).collect()
}

/// Removes what [`to_prune`] names.
pub fn prune(dir: &Path, newest: usize, limit: Option<usize>, best: Option<usize>) -> Result<()> {
    let steps: Vec<usize> = list(dir)?.into_iter().map(|(step, _)| step).collect();
    to_prune(&steps, newest, limit, best)
        .into_iter()
        .try_for_each(|step| fs::remove_durable_dir(dir, &folder_name(step)))
}

/// The identity of a run as [`State::identity`] keeps it.
pub fn identity(config: Value, digests: Value, device: Value) -> Value {
    json!({"config": config, "digests": digests, "device": device})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::params::Layout;
    use crate::testing::train_config;
    use crate::trainer::{Progress, Trainer};
    use candle_core::{DType, Device};

    #[test]
    fn pruning_keeps_the_newest_and_the_best() {
        for (steps, newest, limit, best, want, why) in [
            (&[5, 10, 15][..], 15, None, None, &[][..], "no limit"),
            (&[5, 10, 15], 15, Some(2), None, &[5], "the oldest goes"),
            (&[5, 10, 15], 15, Some(1), None, &[5], "1 is honoured as 2"),
            (&[5, 10, 15], 15, Some(2), Some(5), &[10], "the best stays"),
            (&[5, 10], 10, Some(3), None, &[], "within the limit"),
            (&[5, 10, 15, 20], 20, Some(2), Some(20), &[5, 10], "the best is the newest"),
            (&[10, 15, 30, 35, 40], 15, Some(3), None, &[30, 35, 40], "the run went back to 10: what it left goes"),
            (&[10, 15, 40], 15, None, None, &[40], "with no limit too"),
            (&[25, 30, 33, 35], 33, Some(2), None, &[35, 25], "a damaged one is no backup"),
        ] {
            assert_eq!(to_prune(steps, newest, limit, best), want, "{why}");
        }
    }

    #[test]
    fn only_our_own_names_are_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["checkpoint-10", "checkpoint-9", "checkpoint-keep", "checkpoint-05", "checkpoint-+5", "checkpoint-"]
        {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let steps: Vec<usize> = list(dir.path()).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [9, 10]);
        assert_eq!(list(&dir.path().join("gone")).unwrap(), []);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let err = list(&dir.path().join("file")).unwrap_err().to_string();
        assert!(err.ends_with("file: cannot be read: not a directory"), "{err}");
    }

    fn params() -> Params {
        let mut layout = Layout::default();
        for block in 0..3 {
            layout.push(format!("model.layers.{block}.self_attn.q_proj.lora_A"), (4, 300));
            layout.push(format!("model.layers.{block}.self_attn.q_proj.lora_B"), (500, 4));
        }
        Params::new(layout, DType::F32, &Device::Cpu, |slot| Ok(vec![0.5; slot.range().len()])).unwrap()
    }

    fn written(dir: &Path, with_moments: bool) -> PathBuf {
        let params = params();
        let optim = Trainer::optimizer(&train_config(), &params).unwrap();
        let lora = LoraConfig {
            lora_rank: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            lora_target: vec![crate::config::Projection::QProj],
            use_dora: false,
            use_rslora: false,
            pissa: Default::default(),
        };
        let state = Progress { step: 7, ..Progress::default() }.state(7, &json!({"config": {}}));
        let optim = with_moments.then_some(&optim);
        Snapshot::take(&params, optim, &lora, "m", state).unwrap().write(dir).unwrap()
    }

    #[test]
    fn the_size_is_known_before() {
        for with_moments in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = written(dir.path(), with_moments);
            let bytes = |name: &str| std::fs::metadata(path.join(name)).map(|found| found.len()).ok();
            let names = [peft::WEIGHTS, peft::CONFIG, OPTIMIZER, STATE, MANIFEST];
            let real: u64 = names.into_iter().filter_map(bytes).sum();
            let slots: Vec<Slot> = params().slots().map(|(_, slot)| slot.clone()).collect();
            let said = size(&slots, with_moments.then(|| bytes(STATE).unwrap())).unwrap();
            assert!(real <= said && said - real <= 6 * BLOCK, "{said} said, {real} written");
        }
    }

    #[test]
    fn what_is_read_is_what_was_verified() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), true);
        let restored = open(&path).unwrap();
        let (mut read, mut optim) = (params(), Trainer::optimizer(&train_config(), &params()).unwrap());
        read.set((read.flat() * 0.0).unwrap()).unwrap();
        assert_eq!(restored.restore(&mut read, &mut optim).unwrap().step, 7);
        assert_eq!(read.flat().to_vec1::<f32>().unwrap(), vec![0.5; params().len()]);
        assert!(adapter(&written(dir.path(), false)).is_ok(), "also of the model alone");
        let weights = path.join(peft::WEIGHTS);
        let mut bytes = std::fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&weights, bytes).unwrap();
        let err = adapter(&path).unwrap_err().to_string();
        assert!(err.contains("its content has changed since it was written"), "{err}");
    }
}
