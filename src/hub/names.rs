//! Is it a folder or a name? What looks like a path is never sent to the network.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// `~/x` → `x` in the home folder.
pub fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

/// The folder that `text` means; `None` where it is the name of a model.
///
/// Errors: no such folder; a file; neither a folder nor a name.
pub fn folder(text: &str, home: Option<&Path>) -> Result<Option<PathBuf>> {
    let path = expand(text, home);
    if path.is_dir() {
        return Ok(Some(path));
    }
    if path.exists() {
        return Err(Error::file(&path, "this is a file, but a model is a folder")
            .hint("name the folder with `config.json`, `tokenizer.json` and the `.safetensors` files")
            .hint_zh("请填写包含 `config.json`、`tokenizer.json` 和 `.safetensors` 文件的文件夹"));
    }
    if looks_like_a_path(text) {
        return Err(no_such_folder(&path));
    }
    Ok(None)
}

/// Whether someone who writes this means a folder. `a/b` alone could be either: then an existing `a` decides.
fn looks_like_a_path(text: &str) -> bool {
    let marked = text.starts_with(['.', '~']) || Path::new(text).is_absolute();
    let deep = text.matches('/').count() > 1 || text.ends_with('/') || text.contains('\\');
    let first = text.split('/').next().unwrap_or(text);
    marked || deep || (!first.is_empty() && Path::new(first).exists())
}

fn no_such_folder(path: &Path) -> Error {
    let message = match nearest(path) {
        names if names.is_empty() => "no such folder".to_owned(),
        names => format!("no such folder; there is {}", names.join(", ")),
    };
    Error::file(path, message)
        .hint("check `model_name_or_path`; paths are relative to the folder you start in. A name like `Qwen/Qwen3-0.6B` is taken from the Hugging Face hub unless a folder `Qwen` lies here")
        .hint_zh("请检查 `model_name_or_path`；相对路径从当前目录算起。形如 `Qwen/Qwen3-0.6B` 的名称会从 Hugging Face 获取，除非当前目录下有 `Qwen` 文件夹")
}

/// An error about a model of this name; of a bare one, which may have been meant as a folder, with the folders that it resembles.
pub fn and_no_folder(err: Error, name: &str) -> Error {
    if name.contains('/') {
        return err; // an owner's
    }
    let near = folders_like(name);
    let but = if near.is_empty() { String::new() } else { format!(", but {}", near.join(", ")) };
    err.and(format!("no folder `{name}` is in the working directory{but}"))
}

/// Up to three folders of the working directory, or one below, whose names resemble this one.
fn folders_like(name: &str) -> Vec<String> {
    /// Of a folder no more entries are looked at.
    const MOST: usize = 1000;
    let folders = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(MOST);
        let shown = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        shown.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let here = folders(Path::new("."));
    let all: Vec<PathBuf> = here.iter().flat_map(|dir| folders(dir)).chain(here.iter().cloned()).collect();
    let last = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut near = closest(name, all.iter().map(|path| last(path)), 0.6);
    near.dedup();
    let named = |name: &String| all.iter().filter(|path| last(path) == *name).min();
    let found = near.iter().filter_map(named).map(|path| path.strip_prefix(".").unwrap_or(path));
    found.map(|path| format!("`{}`", path.display())).collect()
}

/// Up to three names that resemble the first missing part of `path`, beside it.
fn nearest(path: &Path) -> Vec<String> {
    let Some(missing) = path.ancestors().take_while(|dir| !dir.exists() && !dir.as_os_str().is_empty()).last() else {
        return Vec::new();
    };
    let parent = missing.parent().filter(|dir| !dir.as_os_str().is_empty());
    let wanted = missing.file_name().unwrap_or_default().to_string_lossy();
    let entries = std::fs::read_dir(parent.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let shown = |name: String| format!("`{}`", parent.map_or(name.clone().into(), |dir| dir.join(&name)).display());
    closest(&wanted, names, 0.5).into_iter().map(shown).collect()
}

/// Up to three of `names` that resemble `wanted` by at least `least` of 1, the most similar first.
pub fn closest(wanted: &str, names: impl Iterator<Item = String>, least: f64) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut scored: Vec<(f64, String)> = names
        .map(|name| (strsim::normalized_damerau_levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(score, _)| *score >= least)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Both become parts of paths and addresses, so only what the hubs themselves allow may stand in them.
pub fn check(name: &str, revision: &str) -> Result<()> {
    let part = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !text.is_empty() && !text.starts_with('.') && text.chars().all(allowed)
    };
    if !name.split('/').all(part) {
        return Err(Error::input(format!("`{name}` is neither a folder nor the name of a model"))
            .hint("a folder (`./models/qwen3`) or a name (`Qwen/Qwen3-0.6B`)")
            .hint_zh("请填写文件夹（`./models/qwen3`）或模型名（`Qwen/Qwen3-0.6B`）"));
    }
    if !revision.split('/').all(part) {
        return Err(Error::input(format!("`model_revision`: `{revision}` is no branch, tag or commit"))
            .hint("leave it out for `main`")
            .hint_zh("省略该项即使用 `main`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("model")).unwrap();
        for name in [dir.path().join("model").to_str().unwrap(), "~/model", "src", "./src", "src/hub"] {
            let found = folder(name, Some(dir.path())).unwrap();
            assert!(found.is_some_and(|found| found.is_dir()), "{name}");
        }
    }

    #[test]
    fn what_looks_like_a_path_is_no_name() {
        for (name, want) in [
            ("./models/qwen", "./models/qwen: no such folder"),
            ("../no-such-thing-here", "no such folder"),
            ("/no/such/model", "no such folder"),
            ("~/model", "/nowhere/model: no such folder"),
            ("a/b/c", "a/b/c: no such folder"),
            ("models/", "no such folder"),
            ("src/no-model", "src/no-model: no such folder"),
            ("src/hug", "src/hug: no such folder; there is `src/hub`"),
            ("srcc/", "there is `src`"),
            ("Cargo.toml", "Cargo.toml: this is a file"),
        ] {
            let err = folder(name, Some(Path::new("/nowhere"))).unwrap_err();
            assert!(err.to_string().contains(want), "{name}: {err}");
            assert!(err.hint_text(true).is_some(), "{name}");
        }
        assert_eq!(folder("Qwen/Qwen3-0.6B", None).unwrap(), None);
    }

    #[test]
    fn a_bare_name_may_have_been_meant_as_a_folder() {
        for (name, want) in [
            ("tiny_qwen", "offline; no folder `tiny_qwen` is in the working directory, but `data/tiny_qwen3`"),
            ("benchs", "offline; no folder `benchs` is in the working directory, but `benches`"),
            ("gpt-neo-x", "offline; no folder `gpt-neo-x` is in the working directory"),
            ("Qwen/Qwen3-0.6B", "offline"),
        ] {
            assert_eq!(and_no_folder(Error::input("offline"), name).to_string(), want);
        }
    }

    #[test]
    fn names_and_revisions_are_those_that_hubs_allow() {
        for name in ["模型", "Qwen/..", "Qwen/", "Qwen/a b", "Qwen/a?b", ".hidden/x", ""] {
            assert!(check(name, "main").unwrap_err().to_string().contains("neither"), "{name}");
        }
        for revision in ["../../x", "a b", "", "refs/", "v1/../x"] {
            assert!(check("a/b", revision).unwrap_err().to_string().contains("model_revision"), "{revision}");
        }
        for (name, revision) in [("Qwen/Qwen3-0.6B", "main"), ("gpt2", "refs/pr/1"), ("a/b", "v1.0")] {
            check(name, revision).unwrap();
        }
    }
}
