//! The Hugging Face cache as other tools leave it: `models--org--name/refs/REVISION` holds a commit, `snapshots/COMMIT` its files.

use serde_json::{Map, Value};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Lists the shards of a model that has more than one.
pub const INDEX: &str = "model.safetensors.index.json";
/// The weights of a model that has one file.
pub const SINGLE: &str = "model.safetensors";
/// What every model must have beside its weights.
pub const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Small files a model is used with; the first two it must have.
pub const FILES: [&str; 5] =
    [REQUIRED[0], REQUIRED[1], "generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// A safetensors header longer than this is refused by every reader.
const LONGEST_HEADER: u64 = 100_000_000;

/// The folder of a model in the cache `root`.
pub fn repo_folder(root: &Path, name: &str) -> PathBuf {
    root.join(format!("models--{}", name.replace('/', "--")))
}

/// The files of a revision (branch, tag or commit), if any were ever cached.
pub fn snapshot(root: &Path, name: &str, revision: &str) -> Option<PathBuf> {
    let folder = repo_folder(root, name);
    let commit = fs::read_to_string(folder.join("refs").join(revision)).unwrap_or(revision.to_owned());
    let snapshot = folder.join("snapshots").join(commit.trim());
    snapshot.is_dir().then_some(snapshot)
}

/// The files that `folder` lacks, or has only in part, to be a model.
pub fn missing(folder: &Path) -> Vec<String> {
    let mut missing: Vec<String> =
        REQUIRED.iter().filter(|name| !is_there(&folder.join(name))).map(|name| name.to_string()).collect();
    let weights =
        if folder.join(INDEX).exists() { shards(&folder.join(INDEX)) } else { Some([SINGLE.to_owned()].into()) };
    match weights {
        Some(files) => missing.extend(files.into_iter().filter(|name| !is_whole(&folder.join(name)))),
        None => missing.push(INDEX.to_owned()),
    }
    missing
}

/// A file that is not empty: an interrupted copy leaves one that is.
fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// The weight files an index names; `None` when it is damaged or names anything but plain files beside it.
pub fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(&fs::read(index).ok()?).ok()?;
    let files = index.get("weight_map")?.as_object()?.values();
    let plain = |name: &str| !name.contains(['/', '\\']) && name.ends_with(".safetensors");
    let names: BTreeSet<String> = files.map(|file| file.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    (!names.is_empty() && names.iter().all(|name| plain(name))).then_some(names)
}

/// Whether a safetensors file is as long as its header says. Reads the header only.
pub fn is_whole(path: &Path) -> bool {
    let expected = || -> io::Result<(u64, u64)> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let header_len = u64::from_le_bytes(length).min(LONGEST_HEADER);
        let mut header = Vec::new();
        file.by_ref().take(header_len).read_to_end(&mut header)?;
        let tensors: Map<String, Value> = serde_json::from_slice(&header)?;
        let end = tensors.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64()).max();
        Ok((end.unwrap_or(0).saturating_add(8 + header_len), file.metadata()?.len()))
    };
    expected().is_ok_and(|(expected, found)| expected == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

    /// One tensor of `len` bytes.
    fn safetensors(len: usize) -> Vec<u8> {
        let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![7; len]].concat()
    }

    /// A model in the cache `root`, as other tools leave it; its folder.
    fn cached(root: &Path, is_sharded: bool) -> PathBuf {
        let base = repo_folder(root, "org/tiny");
        let folder = base.join("snapshots").join(COMMIT);
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(base.join("refs")).unwrap();
        fs::write(base.join("refs/main"), COMMIT).unwrap();
        REQUIRED.iter().for_each(|name| fs::write(folder.join(name), "{}").unwrap());
        match is_sharded {
            true => {
                let index = format!(r#"{{"weight_map": {{"a": "{}", "b": "{}"}}}}"#, SHARDS[0], SHARDS[1]);
                fs::write(folder.join(INDEX), index).unwrap();
                SHARDS.iter().for_each(|name| fs::write(folder.join(name), safetensors(200)).unwrap());
            }
            false => fs::write(folder.join(SINGLE), safetensors(300)).unwrap(),
        }
        folder
    }

    #[test]
    fn revisions_are_branches_tags_or_commits() {
        let root = tempfile::tempdir().unwrap();
        let folder = cached(root.path(), false);
        fs::create_dir_all(repo_folder(root.path(), "org/tiny").join("refs/refs/pr")).unwrap();
        fs::write(repo_folder(root.path(), "org/tiny").join("refs/refs/pr/1"), format!("{COMMIT}\n")).unwrap();
        for (revision, found, why) in [
            ("main", true, "the default branch"),
            ("refs/pr/1", true, "a pull request; its commit ends with a newline"),
            (COMMIT, true, "a commit has no entry under refs"),
            ("other", false, "never cached"),
        ] {
            let got = snapshot(root.path(), "org/tiny", revision);
            assert_eq!(got, found.then(|| folder.clone()), "{why}");
        }
        assert_eq!(snapshot(root.path(), "org/other", "main"), None);
    }

    #[test]
    fn a_model_is_complete_or_says_what_is_missing() {
        type Edit = fn(&Path);
        let cases: [(bool, Edit, &[&str], &str); 11] = [
            (false, |_| {}, &[], "one file"),
            (true, |_| {}, &[], "two shards"),
            (false, |d| fs::remove_file(d.join("config.json")).unwrap(), &["config.json"], "no config"),
            (false, |d| fs::write(d.join("config.json"), "").unwrap(), &["config.json"], "an empty config"),
            (false, |d| fs::remove_file(d.join("tokenizer.json")).unwrap(), &["tokenizer.json"], "no tokenizer"),
            (false, |d| fs::remove_file(d.join(SINGLE)).unwrap(), &[SINGLE], "no weights"),
            (false, |d| shorten(&d.join(SINGLE), 1), &[SINGLE], "a byte too short"),
            (false, |d| fs::write(d.join(SINGLE), [9, 0]).unwrap(), &[SINGLE], "not even a header"),
            (true, |d| fs::write(d.join(SHARDS[1]), "").unwrap(), &[SHARDS[1]], "an empty shard"),
            (true, |d| fs::write(d.join(INDEX), "{").unwrap(), &[INDEX], "a torn index"),
            (
                true,
                |d| fs::write(d.join(INDEX), r#"{"weight_map": {"a": "../a.safetensors"}}"#).unwrap(),
                &[INDEX],
                "a way out",
            ),
        ];
        for (is_sharded, edit, want, why) in cases {
            let root = tempfile::tempdir().unwrap();
            let folder = cached(root.path(), is_sharded);
            edit(&folder);
            assert_eq!(missing(&folder), want, "{why}");
        }
    }

    fn shorten(path: &Path, by: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - by).unwrap();
    }
}
