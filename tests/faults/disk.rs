//! What lies in an output directory, read without the program: checkpoints against their manifests, tensors, leftovers.

use crate::pool::{Check, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Names in a folder, sorted; none where there is no folder.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The steps of the folders `checkpoint-N`, ascending.
pub fn checkpoints(out: &Path) -> Vec<usize> {
    let mut steps: Vec<usize> =
        names(out).iter().filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// Where a checkpoint lies.
pub fn checkpoint(out: &Path, step: usize) -> PathBuf {
    out.join(format!("checkpoint-{step}"))
}

/// The newest checkpoint that is as its manifest says.
pub fn newest_valid(out: &Path) -> Option<usize> {
    checkpoints(out).into_iter().rev().find(|&step| is_valid(out, step))
}

/// Whether the checkpoint of a step is as its manifest says.
pub fn is_valid(out: &Path, step: usize) -> bool {
    verify_folder(out, step).is_ok()
}

/// Every folder under a final name is as its manifest says.
pub fn nothing_torn(out: &Path) -> Check {
    checkpoints(out)
        .into_iter()
        .try_for_each(|step| verify_folder(out, step).map_err(|why| format!("checkpoint-{step} is torn: {why}")))?;
    for name in names(out).iter().filter(|name| name.ends_with(".json") && !name.starts_with('.')) {
        let bytes = std::fs::read(out.join(name)).map_err(|err| format!("{name}: {err}"))?;
        serde_json::from_slice::<Value>(&bytes).map_err(|err| format!("{name} is torn: {err}"))?;
    }
    match std::fs::read(out.join("adapter_model.safetensors")) {
        Ok(bytes) => tensors(&bytes).map(drop).map_err(|why| format!("the adapter is torn: {why}")),
        Err(_) => Ok(()),
    }
}

/// Files of a folder in memory.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    names(dir).into_iter().filter_map(|name| Some((name.clone(), std::fs::read(dir.join(&name)).ok()?))).collect()
}

fn verify_folder(out: &Path, step: usize) -> Check {
    let dir = checkpoint(out, step);
    let regular = |name: &String| dir.join(name).symlink_metadata().is_ok_and(|found| found.is_file());
    let files: BTreeMap<String, Vec<u8>> = files(&dir).into_iter().filter(|(name, _)| regular(name)).collect();
    let digest = |name: &str| files.get(name).map(|bytes| (bytes.len() as u64, blake3::hash(bytes)));
    let manifest = files.get("manifest.json").ok_or("no manifest")?;
    verify(step, manifest, names(&dir).len(), digest)
}

/// The checkpoint of a step, `count` files, against the text of its manifest; `digest`: size and BLAKE3 of a file, if it is there.
pub fn verify(
    step: usize,
    manifest: &[u8],
    count: usize,
    digest: impl Fn(&str) -> Option<(u64, blake3::Hash)>,
) -> Check {
    let manifest: Value = serde_json::from_slice(manifest).map_err(|err| format!("manifest.json: {err}"))?;
    ensure(manifest["step"] == step, || format!("the manifest is of step {}", manifest["step"]))?;
    let listed = manifest["files"].as_array().ok_or("manifest.json lists no files")?;
    ensure(count == listed.len() + 1, || format!("{count} files, {} in the manifest", listed.len()))?;
    for file in listed {
        let name = file["name"].as_str().unwrap_or_default();
        let (size, hash) = digest(name).ok_or_else(|| format!("{name} is missing"))?;
        ensure(file["size"] == size, || format!("{name}: {size} bytes instead of {}", file["size"]))?;
        ensure(file["blake3"] == hash.to_hex().as_str(), || format!("{name}: another digest"))?;
    }
    Ok(())
}

/// The f32 tensors of a safetensors file.
pub fn tensors(bytes: &[u8]) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let length = bytes.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or("no header")?;
    let end = 8 + length as usize;
    let header: Value = serde_json::from_slice(bytes.get(8..end).ok_or("no header")?).map_err(|err| err.to_string())?;
    let mut out = BTreeMap::new();
    for (name, about) in header.as_object().ok_or("the header is no object")? {
        let offset = |i: usize| about["data_offsets"][i].as_u64().map(|n| end + n as usize);
        let (Some(from), Some(to)) = (offset(0), offset(1)) else { continue };
        let data = bytes.get(from..to).ok_or_else(|| format!("{name} ends behind the file"))?;
        out.insert(name.clone(), data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
    }
    Ok(out)
}

/// Every number of every tensor below a folder is finite.
pub fn only_finite(dir: &Path) -> Check {
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            only_finite(&path)?;
        } else if name.ends_with(".safetensors") {
            let bytes = std::fs::read(&path).map_err(|err| format!("{name}: {err}"))?;
            let bad = tensors(&bytes)?.into_iter().find(|(_, values)| !values.iter().all(|x| x.is_finite()));
            ensure(bad.is_none(), || format!("{}: {} is not finite", path.display(), bad.expect("one").0))?;
        }
    }
    Ok(())
}

/// Hidden entries but the lock: what a process left half-written.
pub fn leftovers(out: &Path) -> Vec<String> {
    names(out).into_iter().filter(|name| name.starts_with('.') && name != ".lock").collect()
}

/// Copies a folder and everything below it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a temporary folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a file type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copied file")),
        }
    }
}
