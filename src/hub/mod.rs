//! A model name → a folder with its files: a local folder, what is cached, or a download from the Hugging Face hub or ModelScope.
//!
//! Five promises:
//! - a text that looks like a path is never sent to the network, and what is cached is used without asking it;
//! - an incomplete download is never taken for a model, and is gone on with where it was cut off;
//! - every byte that is downloaded is counted, and digested where the hub names a digest;
//! - the caches are those of `huggingface_hub` and `modelscope`: what they downloaded is found here, and the other way round;
//! - a token goes to its own hub's host in a request's header, and nowhere else.
//!
//! This is the only room that opens a connection.

mod cache;
mod digest;
mod env;
mod failure;
mod http;
mod huggingface;
mod lock;
mod modelscope;
mod names;
mod transfer;
mod words;

pub use env::HubEnv;
pub use names::and_no_folder;

use crate::error::{Error, Result};
use env::Hub;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What a download has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News<'a> {
    /// Bytes of one file that are here.
    Arrived {
        /// The file's name in the repository.
        file: &'a str,
        /// Bytes here.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// Another process is downloading the file, and is waited for.
    Waiting {
        /// The file's name in the repository.
        file: &'a str,
    },
    /// An attempt failed; the next one begins after a pause.
    Again {
        /// What was asked for.
        file: &'a str,
        /// Why it failed, in a few words.
        reason: &'a str,
        /// How long it is waited for.
        pause: Duration,
    },
}

/// The folder of `name_or_path`: with `config.json`, `tokenizer.json` and every weight file when it comes from a hub;
/// a local folder is returned as it is.
///
/// - `revision`: branch, tag or commit; only for a hub. ModelScope calls its `main` `master`.
/// - `cache_dir`: used instead of the cache the environment names.
/// - `tell`: told about every MiB, the end of a file, and whatever is waited for.
///
/// Errors: no such folder; not a model name; not cached and offline; whatever can go wrong with a download, with what to do about it.
pub fn resolve(
    name_or_path: &str,
    revision: &str,
    cache_dir: Option<&Path>,
    env: &HubEnv,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<PathBuf> {
    if let Some(folder) = names::folder(name_or_path, env.home.as_deref())? {
        return Ok(folder);
    }
    names::check(name_or_path, revision)?;
    fetch(name_or_path, revision, cache_dir, env, tell).map_err(|err| names::and_no_folder(err, name_or_path))
}

/// The folder of a model of this name, from the cache or a hub.
fn fetch(
    name_or_path: &str,
    revision: &str,
    cache_dir: Option<&Path>,
    env: &HubEnv,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<PathBuf> {
    let root = env.cache(cache_dir).ok_or_else(|| words::no_home(name_or_path))?;
    if env.hub == Hub::OpenMind {
        return Err(words::openmind(name_or_path));
    }
    let missing = match cached(name_or_path, revision, &root, env) {
        Some(folder) => match cache::missing(&folder) {
            missing if missing.is_empty() => return Ok(folder),
            missing => missing,
        },
        None => vec!["all files".to_owned()],
    };
    if env.offline {
        return Err(words::offline(name_or_path, &root, &missing, env.hub));
    }
    // Links are made relative to each other, and the folder is handed to others.
    let root = std::path::absolute(root)?;
    match env.hub {
        Hub::ModelScope => modelscope::fetch(name_or_path, modelscope::revision(revision), &root, env, tell),
        _ => huggingface::fetch(name_or_path, revision, &root, env, tell),
    }
}

/// The folder of `name_or_path` where it lies here, whole; the network is not asked. `None`: a name that would be fetched.
///
/// Errors: no such folder; not a model name.
pub fn here(name_or_path: &str, revision: &str, cache_dir: Option<&Path>, env: &HubEnv) -> Result<Option<PathBuf>> {
    if let Some(folder) = names::folder(name_or_path, env.home.as_deref())? {
        return Ok(Some(folder));
    }
    names::check(name_or_path, revision)?;
    let folder = env.cache(cache_dir).and_then(|root| cached(name_or_path, revision, &root, env));
    Ok(folder.filter(|folder| cache::missing(folder).is_empty()))
}

/// The cache that downloads go into. `cache_dir`: as in [`resolve`]. `None`: there is no home for one.
pub fn cache(cache_dir: Option<&Path>, env: &HubEnv) -> Option<PathBuf> {
    env.cache(cache_dir)
}

/// What the cache `root` has of a model, be it whole or not.
fn cached(name: &str, revision: &str, root: &Path, env: &HubEnv) -> Option<PathBuf> {
    match env.hub {
        Hub::ModelScope => modelscope::cached(root, name, modelscope::revision(revision)),
        _ => cache::snapshot(root, name, revision),
    }
}

/// A repository without these files would be downloaded in vain. `listed`: the names of its files.
fn check_listing(name: &str, listed: &[&str]) -> Result<()> {
    let weights = [cache::INDEX, cache::SINGLE];
    let lacks = match cache::REQUIRED.iter().find(|file| !listed.contains(file)) {
        Some(file) => Some(*file),
        None if weights.iter().any(|file| listed.contains(file)) => None,
        None => Some(cache::SINGLE),
    };
    match lacks {
        None => Ok(()),
        Some(file) => Err(Error::input(format!("{name}: the repository has no `{file}`"))
            .hint("a base model with safetensors weights is needed, not an adapter, a GGUF or a PyTorch .bin")
            .hint_zh("需要带 safetensors 权重的基座模型，而不是适配器、GGUF 或 PyTorch .bin 文件")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_home_there_must_be_a_cache_folder() {
        let err = resolve("Qwen/Qwen3-0.6B", "main", None, &HubEnv::read(|_| None), &mut |_| {}).unwrap_err();
        assert!(err.hint_text(false).unwrap().contains("HF_HOME"));
    }

    #[test]
    fn a_repository_must_be_that_of_a_base_model() {
        for (listed, want) in [
            (&["config.json", "tokenizer.json", "model.safetensors"][..], None),
            (&["config.json", "tokenizer.json", "model.safetensors.index.json"], None),
            (&["tokenizer.json", "model.safetensors"], Some("config.json")),
            (&["config.json", "tokenizer.json", "model.gguf"], Some("model.safetensors")),
            (&["config.json", "tokenizer.json", "pytorch_model.bin"], Some("model.safetensors")),
            (&["adapter_config.json", "adapter_model.safetensors"], Some("config.json")),
        ] {
            let err = check_listing("org/tiny", listed).err().map(|err| err.to_string());
            assert_eq!(err, want.map(|file| format!("org/tiny: the repository has no `{file}`")), "{listed:?}");
        }
    }
}
