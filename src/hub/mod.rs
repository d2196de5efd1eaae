//! A model name → a folder with its files: a local folder, the Hugging Face cache, or a download into that cache.
//!
//! Three promises: a text that looks like a path is never sent to the network; what is cached is used without asking the network;
//! an incomplete download is never taken for a model.

mod cache;
mod download;
#[cfg(test)]
mod testing;

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// What the environment says about the hub, read once. Names and defaults are those of `huggingface_hub`.
pub struct HubEnv {
    /// The user's home folder, for `~/`.
    home: Option<PathBuf>,
    /// `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    cache: Option<PathBuf>,
    /// `HF_ENDPOINT`, without a slash at its end.
    endpoint: String,
    /// `HF_TOKEN`. Sent to the endpoint, never printed: hence no `Debug` here.
    token: Option<String>,
    /// Where `huggingface-cli login` leaves a token.
    token_file: Option<PathBuf>,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    offline: bool,
}

impl HubEnv {
    /// `env`: the value of a variable, as `std::env::var(name).ok()` gives it. Empty values count as not set.
    pub fn read(env: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| env(name).filter(|value| !value.is_empty());
        let home = var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| var(name).map(|value| expand(&value, home.as_deref()));
        let user_cache = path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let hf_home = path("HF_HOME").or_else(|| Some(user_cache?.join("huggingface")));
        let on = |name: &str| var(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&&*v.to_lowercase()));
        Self {
            cache: path("HF_HUB_CACHE").or_else(|| Some(hf_home.as_ref()?.join("hub"))),
            endpoint: var("HF_ENDPOINT").unwrap_or("https://huggingface.co".into()).trim_end_matches('/').to_owned(),
            token: var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")),
            token_file: path("HF_TOKEN_PATH").or_else(|| Some(hf_home.as_ref()?.join("token"))),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            home,
        }
    }

    /// The token to send, if there is one.
    fn token(&self) -> Option<String> {
        let stored = || std::fs::read_to_string(self.token_file.as_ref()?).ok();
        let token = self.token.clone().or_else(stored)?.trim().to_owned();
        (!token.is_empty()).then_some(token)
    }
}

/// Bytes of one file that have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's name in the repository.
    pub file: &'a str,
    /// Bytes here.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// The folder of `name_or_path`: with `config.json`, `tokenizer.json` and every weight file when it comes from the hub;
/// a local folder is returned as it is.
///
/// - `revision`: branch, tag or commit; only for the hub.
/// - `cache_dir`: used instead of the cache the environment names.
/// - `progress`: told about every MiB and the end of a file.
///
/// Errors: no such folder; not a model name; not cached and offline; network, with what to do about it.
pub fn resolve(
    name_or_path: &str,
    revision: &str,
    cache_dir: Option<&Path>,
    env: &HubEnv,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf> {
    let path = expand(name_or_path, env.home.as_deref());
    if path.is_dir() {
        return Ok(path);
    }
    if path.exists() {
        return Err(Error::file(&path, "this is a file, but a model is a folder")
            .hint("name the folder with `config.json`, `tokenizer.json` and the `.safetensors` files")
            .hint_zh("请填写包含 `config.json`、`tokenizer.json` 和 `.safetensors` 文件的文件夹"));
    }
    if looks_like_a_path(name_or_path) {
        return Err(no_such_folder(&path));
    }
    check_name(name_or_path, revision)?;
    let Some(root) = cache_dir.map(Path::to_owned).or(env.cache.clone()) else {
        return Err(Error::input(format!("{name_or_path}: there is no home folder to keep downloaded models in"))
            .hint("set `cache_dir` in the config, or the variable HF_HOME")
            .hint_zh("请在配置中设置 `cache_dir`，或设置环境变量 HF_HOME"));
    };
    let missing = match cache::snapshot(&root, name_or_path, revision) {
        Some(folder) => {
            let missing = cache::missing(&folder);
            if missing.is_empty() {
                return Ok(folder);
            }
            missing
        }
        None => vec!["all files".to_owned()],
    };
    if env.offline {
        return Err(offline(name_or_path, &root, &missing));
    }
    download::fetch(name_or_path, revision, &root, env, progress)
}

/// The folder of `name_or_path` where it lies here, whole; the network is not asked.
pub fn here(name_or_path: &str, revision: &str, cache_dir: Option<&Path>, env: &HubEnv) -> Option<PathBuf> {
    let path = expand(name_or_path, env.home.as_deref());
    if path.is_dir() {
        return Some(path);
    }
    check_name(name_or_path, revision).ok()?;
    let root = cache_dir.map(Path::to_owned).or(env.cache.clone())?;
    cache::snapshot(&root, name_or_path, revision).filter(|folder| cache::missing(folder).is_empty())
}

/// `~/x` → `x` in the home folder.
fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
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

/// Up to three names that resemble the first missing part of `path`, beside it.
fn nearest(path: &Path) -> Vec<String> {
    let Some(missing) = path.ancestors().take_while(|dir| !dir.exists() && !dir.as_os_str().is_empty()).last() else {
        return Vec::new();
    };
    let parent = missing.parent().filter(|dir| !dir.as_os_str().is_empty());
    let wanted = missing.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let entries = std::fs::read_dir(parent.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let mut scored: Vec<(f64, String)> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|name| (strsim::normalized_damerau_levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(score, _)| *score >= 0.5)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let shown = |name: String| format!("`{}`", parent.map_or(name.clone().into(), |dir| dir.join(&name)).display());
    scored.into_iter().take(3).map(|(_, name)| shown(name)).collect()
}

/// Both become parts of paths and addresses, so only what the hub itself allows may stand in them.
fn check_name(name: &str, revision: &str) -> Result<()> {
    let part = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !text.is_empty() && !text.starts_with('.') && text.chars().all(allowed)
    };
    if !name.split('/').all(part) {
        return Err(Error::input(format!("`{name}` is neither a folder nor the name of a Hugging Face model"))
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

fn offline(name: &str, root: &Path, missing: &[String]) -> Error {
    let shown = missing.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    let more = if missing.len() > 4 { format!(" and {} more", missing.len() - 4) } else { String::new() };
    Error::input(format!(
        "{name}: not complete in the cache {} (missing: {shown}{more}), and HF_HUB_OFFLINE forbids a download",
        root.display()
    ))
    .hint(format!("unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or fetch it where there is a network: `huggingface-cli download {name}`"))
    .hint_zh(format!("请取消环境变量 HF_HUB_OFFLINE（以及 TRANSFORMERS_OFFLINE），或在有网络的机器上运行 `huggingface-cli download {name}`"))
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};

    #[test]
    fn the_environment_is_read_as_huggingface_hub_reads_it() {
        for (vars, cache, why) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub", "the default"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub", "the system's cache folder"),
            (&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub", "HF_HOME, with a tilde"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c", "HF_HUB_CACHE wins"),
            (&[("HOME", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub", "an empty one is not set"),
        ] {
            assert_eq!(hub_env(vars).cache.as_deref(), Some(Path::new(cache)), "{why}");
        }
        assert_eq!(hub_env(&[]).cache, None);
        for (value, want) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false), ("false", false)] {
            assert_eq!(hub_env(&[("HF_HUB_OFFLINE", value)]).offline, want, "HF_HUB_OFFLINE={value}");
        }
        assert_eq!(hub_env(&[("HF_ENDPOINT", "https://mirror/")]).endpoint, "https://mirror");
        assert_eq!(hub_env(&[]).endpoint, "https://huggingface.co");
    }

    #[test]
    fn the_token_is_the_variable_or_the_file_login_left() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        assert_eq!(hub_env(&[("HF_HOME", home)]).token(), None);
        std::fs::write(dir.path().join("token"), "from-file\n").unwrap();
        assert_eq!(hub_env(&[("HF_HOME", home)]).token().as_deref(), Some("from-file"));
        assert_eq!(hub_env(&[("HF_HOME", home), ("HF_TOKEN", "mine")]).token().as_deref(), Some("mine"));
    }

    #[test]
    fn a_folder_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        std::fs::create_dir(dir.path().join("model")).unwrap();
        let env = hub_env(&[("HOME", home)]);
        for name in [&format!("{home}/model"), "~/model", "src", "./src", "src/hub"] {
            let got = resolve(name, "main", None, &env, &mut |_| panic!("no download")).unwrap();
            assert!(got.is_dir(), "{name}");
        }
    }

    #[test]
    fn what_looks_like_a_path_is_never_downloaded() {
        // The endpoint refuses connections: an attempt would say so.
        let env = hub_env(&[("HOME", "/nowhere"), ("HF_ENDPOINT", "http://127.0.0.1:9")]);
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
            ("模型", "`模型` is neither a folder nor the name"),
            ("Qwen/..", "neither"),
        ] {
            let err = resolve(name, "main", None, &env, &mut |_| {}).unwrap_err();
            assert!(err.to_string().contains(want), "{name}: {err}");
            assert!(err.hint_text(true).is_some(), "{name}");
        }
        let err = resolve("Qwen/Qwen3-0.6B", "../../x", None, &env, &mut |_| {}).unwrap_err();
        assert!(err.to_string().contains("model_revision"), "{err}");
    }

    #[test]
    fn without_a_home_there_must_be_a_cache_folder() {
        let err = resolve("Qwen/Qwen3-0.6B", "main", None, &hub_env(&[]), &mut |_| {}).unwrap_err();
        assert!(err.hint_text(false).unwrap().contains("HF_HOME"));
    }

    #[test]
    fn offline_uses_a_complete_cache_and_names_what_an_incomplete_one_lacks() {
        let root = tempfile::tempdir().unwrap();
        let env = hub_env(&[("HF_HUB_CACHE", root.path().to_str().unwrap()), ("HF_HUB_OFFLINE", "1")]);
        let ask = || resolve("org/tiny", "main", None, &env, &mut |_| panic!("offline"));
        let err = ask().unwrap_err();
        assert!(err.to_string().contains("missing: all files"), "{err}");
        assert!(err.hint_text(false).unwrap().contains("huggingface-cli download org/tiny"));

        let folder = cached(root.path(), "org/tiny", &sharded_model());
        assert_eq!(ask().unwrap(), folder);
        let elsewhere =
            resolve("org/tiny", "main", Some(root.path()), &hub_env(&[("HF_HUB_OFFLINE", "1")]), &mut |_| {});
        assert_eq!(elsewhere.unwrap(), folder, "`cache_dir` is a cache like any other");

        std::fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
        let err = ask().unwrap_err();
        assert!(err.to_string().contains("missing: model-00002-of-00002.safetensors)"), "{err}");
    }
}
