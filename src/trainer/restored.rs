//! Checkpoints read back: nothing is taken from one that is not, byte for byte, as its manifest says.

use super::checkpoint::{FORMAT, MANIFEST, Manifest, OPTIMIZER, STATE, State, folder_name, list};
use crate::{
    adapter::peft,
    error::{Error, Result, io_reason},
    fs,
    model::Params,
    optim::AdamW,
};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// A checkpoint read back, every byte of it verified.
#[derive(Debug)]
pub struct Restored {
    /// Its folder.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: State,
    adapter: Adapter,
    moments: [Vec<f32>; 2],
}

/// The adapter of a checkpoint, by the names in its file.
#[derive(Debug)]
pub struct Adapter(BTreeMap<String, Vec<f32>>);

impl Adapter {
    /// The values in the order of [`Params::flat`]. Errors: its tensors are not those of `params`.
    pub fn flat(&self, params: &Params) -> Result<Vec<f32>> {
        let mut flat = Vec::with_capacity(params.len());
        for (_, slot) in params.slots() {
            let values = self.0.get(&peft::file_name(slot)).filter(|values| values.len() == slot.range().len());
            flat.extend(values.ok_or_else(|| Error::input(format!("{} does not fit", slot.name)))?);
        }
        Ok(flat)
    }
}

/// A checkpoint that cannot be continued, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The newest checkpoint in `dir`, of more than `after` steps, whose every byte is as its manifest says, and the newer ones
/// that are not.
pub fn newest(dir: &Path, after: usize) -> Result<(Option<Restored>, Vec<Skipped>)> {
    let mut skipped = Vec::new();
    for (_, path) in list(dir)?.into_iter().rev().take_while(|(step, _)| *step > after) {
        match open(&path) {
            Ok(restored) => return Ok((Some(restored), skipped)),
            Err(err) => skipped.push(Skipped { path, reason: err.to_string() }),
        }
    }
    Ok((None, skipped))
}

/// Reads one checkpoint and verifies it.
pub fn open(path: &Path) -> Result<Restored> {
    let (step, mut files) = verified(path)?;
    let state = files.remove(STATE).ok_or_else(|| Error::input("holds the model only (save_only_model)"))?;
    let state: State = parse(STATE, &state)?;
    let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if state.format != FORMAT {
        return Err(Error::input(format!("was written in format {}, this program reads {FORMAT}", state.format)));
    }
    if step != state.step || named != folder_name(state.step) {
        return Err(Error::input(format!("is named {named}, but holds step {}", state.step)));
    }
    let mut moments = tensors(OPTIMIZER, &mut files)?;
    let mut moment =
        |name: &str| moments.remove(name).ok_or_else(|| Error::input(format!("{OPTIMIZER} has no {name}")));
    let moments = [moment("exp_avg")?, moment("exp_avg_sq")?];
    let adapter = Adapter(tensors(peft::WEIGHTS, &mut files)?);
    Ok(Restored { path: path.to_owned(), state, adapter, moments })
}

/// The adapter of a checkpoint, which is verified whole.
pub fn adapter(path: &Path) -> Result<Adapter> {
    Ok(Adapter(tensors(peft::WEIGHTS, &mut verified(path)?.1)?))
}

/// The step that the manifest of a checkpoint names, and all its files: as they were written, and no other.
fn verified(path: &Path) -> Result<(usize, BTreeMap<String, Vec<u8>>)> {
    let of_manifest = |err: io::Error| Error::input(format!("{MANIFEST} cannot be read: {}", io_reason(&err)));
    if !path.join(MANIFEST).symlink_metadata().map_err(of_manifest)?.is_file() {
        return Err(Error::input(format!("{MANIFEST} is not a regular file")));
    }
    let manifest: Manifest = parse(MANIFEST, &fs::ops::read(&path.join(MANIFEST)).map_err(of_manifest)?)?;
    let mut files = BTreeMap::new();
    for file in &manifest.files {
        if file.name.contains(['/', '\\']) || file.name == ".." {
            return Err(Error::input(format!("{MANIFEST} names {}, which is not a file beside it", file.name)));
        }
        files.insert(file.name.clone(), file.read(path)?);
    }
    let entries =
        std::fs::read_dir(path).map_err(|err| Error::input(format!("cannot be read: {}", io_reason(&err))))?;
    let known = |name: &str| name == MANIFEST || files.contains_key(name);
    let strange = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).find(|name| !known(name));
    match strange {
        None => Ok((manifest.step, files)),
        Some(name) => Err(Error::input(format!("{name} is not in its manifest"))),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|err| Error::input(format!("{name} is damaged: {err}")))
}

/// The f32 tensors of one of the `files`, which goes.
fn tensors(name: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, Vec<f32>>> {
    let bytes = files.remove(name).ok_or_else(|| Error::input(format!("{name} is not in its manifest")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|err| Error::input(format!("{name} is damaged: {err}")))?;
    let values = |(tensor, view): (String, safetensors::tensor::TensorView)| match view.dtype() {
        Dtype::F32 => {
            let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            Ok((tensor, view.data().chunks_exact(4).map(value).collect()))
        }
        other => Err(Error::input(format!("{name}: {tensor} is {other:?}, not F32"))),
    };
    file.tensors().into_iter().map(values).collect()
}

impl Restored {
    /// Puts the tensors back, and returns the rest. The layout of `params` must be the one that was saved.
    pub fn restore(self, params: &mut Params, optim: &mut AdamW) -> Result<State> {
        let flat = self.adapter.flat(params).map_err(|err| err.at(self.path.display()))?;
        let (device, n) = (params.flat().device().clone(), flat.len());
        let tensor = |values: Vec<f32>| -> Result<candle_core::Tensor> {
            if values.len() != n {
                return Err(Error::input(format!("{}: the optimizer does not fit", self.path.display())));
            }
            Ok(candle_core::Tensor::from_vec(values, n, &device)?)
        };
        params.set(tensor(flat)?)?;
        if !fs::fault::mutant("no_moments") {
            let [m, v] = self.moments;
            (optim.m, optim.v) = (tensor(m)?, tensor(v)?);
        }
        optim.steps = self.state.optimizer_steps;
        Ok(self.state)
    }
}
