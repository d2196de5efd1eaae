//! A merged model as a Hugging Face folder, with all that LlamaFactory's export puts beside the weights.

use super::merge::Merge;
use crate::{
    error::{Error, Result, gigabytes, io_reason},
    fs,
};
use candle_core::DType;
use serde_json::Value;
use std::path::Path;

/// Files of the base that go along as they are, where it has them.
const COPIED: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// Writes the folder `dir`: after a crash it is there whole or not at all, and the next export clears up. Weights in files of at most `max_bytes`;
/// `modelfile`: the text for Ollama; `progress` gets bytes of weights done and in all, and once more before the folder gets its name.
///
/// Errors: `dir` holds something, the disk is too small, the base lacks a file, one of `progress`; nothing is left then.
pub fn export(
    merge: &Merge,
    base: &Path,
    dir: &Path,
    max_bytes: u64,
    dtype: Option<DType>,
    modelfile: &str,
    mut progress: impl FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    refuse_taken(dir)?;
    let (parent, name) = match (dir.parent(), dir.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => (parent, name),
        (Some(_), Some(name)) => (Path::new("."), name),
        _ => {
            return Err(Error::file(dir, "`export_dir` is no name of a folder")
                .hint("name a new folder")
                .hint_zh("请写一个新文件夹的名字"));
        }
    };
    fs::create_dir_all(parent)?;
    fs::remove_leftovers_of(parent, name)?;
    refuse_small_disk(parent, merge.bytes())?;
    let config = config_text(base, dtype)?;
    fs::write_durable_dir(parent, name, |temp| {
        merge.write(temp, max_bytes, &mut progress)?;
        let put = |name: &str, bytes: &[u8]| fs::write_file_synced(&temp.join(name), bytes).map(drop);
        put("config.json", config.as_bytes())?;
        for name in COPIED {
            if let Some(bytes) = read_if_there(&base.join(name))? {
                put(name, &bytes)?;
            }
        }
        if let Some(bytes) = read_if_there(&base.join("tokenizer_config.json"))? {
            put("tokenizer_config.json", padded_on_the_left(&bytes).as_deref().unwrap_or(&bytes))?;
        }
        put("Modelfile", modelfile.as_bytes())?;
        progress(merge.bytes(), merge.bytes())
    })
}

/// Errors: `dir` holds something, or is no folder. [`export`] asks too; a command asks before it reads what is large.
pub fn refuse_taken(dir: &Path) -> Result<()> {
    let taken = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().map(|_| "holds files already"),
        Err(_) if dir.exists() => Some("is not a folder"),
        Err(_) => None,
    };
    taken.map_or(Ok(()), |fact| {
        Err(Error::file(dir, format!("`export_dir` {fact}"))
            .hint("name a new folder, or remove that one yourself")
            .hint_zh("请写一个新文件夹的名字，或自行删除现有的"))
    })
}

fn refuse_small_disk(dir: &Path, bytes: u64) -> Result<()> {
    match fs::free_space(dir) {
        Some(free) if free < bytes => {
            let (free, takes) = (gigabytes(free), gigabytes(bytes));
            Err(Error::file(dir, format!("{free} are free, the merged model takes {takes}"))
                .hint("make room, or set `export_dir` on another disk")
                .hint_zh("请腾出空间，或将 `export_dir` 设在另一块磁盘上"))
        }
        _ => Ok(()),
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::file(path, format!("cannot be read: {}", io_reason(&err)))
            .hint("the file belongs to the base model; fetch it again")
            .hint_zh("该文件属于基座模型；请重新下载")),
    }
}

/// The base's `config.json`; where the weights changed their dtype, it says so.
fn config_text(base: &Path, dtype: Option<DType>) -> Result<String> {
    let path = base.join("config.json");
    let bytes = read_if_there(&path)?.ok_or_else(|| Error::file(&path, "is missing"))?;
    let mut config: Value = serde_json::from_slice(&bytes).map_err(|err| Error::file(&path, err))?;
    if let Some(dtype) = dtype {
        // The key's older and newer name.
        let name = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        config[name] = match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        }
        .into();
    }
    Ok(serde_json::to_string_pretty(&config).expect("JSON that was read") + "\n")
}

/// Batches of prompts end together, as generation needs it. `None`: not JSON, left as it is.
fn padded_on_the_left(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(bytes).ok()?;
    config.as_object_mut()?.insert("padding_side".into(), "left".into());
    Some((serde_json::to_string_pretty(&config).ok()? + "\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Checkpoint, Qwen3Config};
    use serde_json::json;
    use std::path::PathBuf;

    fn base() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3")
    }

    /// Exports the base as it is.
    fn exported(dir: &Path, max_bytes: u64, dtype: Option<DType>) -> Result<()> {
        let (config, checkpoint) = (Qwen3Config::load(&base())?, Checkpoint::open(&base())?);
        let merge = Merge::new(&config, &checkpoint, &[], dtype)?;
        export(&merge, &base(), dir, max_bytes, dtype, "FROM .\n", |_, _| Ok(()))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_holds_what_others_load() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("deep/one");
        exported(&one, u64::MAX, None).unwrap();
        let want = [
            "Modelfile",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names(&one), want);
        let json = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        assert_eq!(json(one.join("config.json")), json(base().join("config.json")), "unchanged");
        assert_eq!(json(one.join("tokenizer_config.json"))["padding_side"], "left");

        let many = dir.path().join("many");
        exported(&many, 4_000_000, Some(DType::F16)).unwrap();
        assert!(names(&many).contains(&"model-00004-of-00004.safetensors".into()), "{:?}", names(&many));
        assert_eq!(json(many.join("config.json"))["torch_dtype"], "float16");
        let read = Checkpoint::open(&many).unwrap();
        assert_eq!(read.names().count(), Checkpoint::open(&base()).unwrap().names().count());
    }

    #[test]
    fn a_folder_that_is_taken_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine"), "").unwrap();
        let err = exported(dir.path(), u64::MAX, None).unwrap_err().to_string();
        assert!(err.ends_with("`export_dir` holds files already"), "{err}");
        assert_eq!(names(dir.path()), ["mine"]);
        let err = exported(&dir.path().join("mine"), u64::MAX, None).unwrap_err().to_string();
        assert!(err.ends_with("`export_dir` is not a folder"), "{err}");
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        exported(&dir.path().join("empty"), u64::MAX, None).unwrap();
        assert_eq!(names(dir.path()), ["empty", "mine"], "nothing hidden is left");
    }

    #[test]
    fn an_export_that_is_stopped_leaves_nothing() {
        let (config, checkpoint) = (Qwen3Config::load(&base()).unwrap(), Checkpoint::open(&base()).unwrap());
        let merge = Merge::new(&config, &checkpoint, &[], None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut asked = 0;
        export(&merge, &base(), &dir.path().join("whole"), u64::MAX, None, "", |_, _| {
            asked += 1;
            Ok(())
        })
        .unwrap();
        for stop in [1, asked / 2, asked] {
            let mut left = stop;
            let out = dir.path().join("out");
            let err = export(&merge, &base(), &out, u64::MAX, None, "", |_, _| {
                left -= 1;
                if left == 0 { Err(Error::run("stopped")) } else { Ok(()) }
            });
            assert_eq!(err.unwrap_err().to_string(), "stopped");
            assert_eq!(names(dir.path()), ["whole"], "{stop} of {asked}");
        }
    }

    #[test]
    fn what_a_killed_export_left_is_cleared_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (dead, alive) = (u32::MAX / 2, std::process::id());
        let left = [format!(".one.{dead}.tmp"), format!(".two.{dead}.tmp"), format!(".one.{alive}.old")];
        for name in &left {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("model.safetensors"), "half").unwrap();
        }
        std::fs::write(dir.path().join(".one.tmp"), "another program's").unwrap();
        exported(&dir.path().join("one"), u64::MAX, None).unwrap();
        let mut want = [".one.tmp", &left[1], &left[2], "one"];
        want.sort_unstable();
        assert_eq!(names(dir.path()), want);
    }

    #[test]
    fn the_dtype_is_said_under_the_key_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for (given, want) in [
            (json!({"dtype": "bfloat16"}), json!({"dtype": "float32"})),
            (json!({"torch_dtype": "bfloat16"}), json!({"torch_dtype": "float32"})),
            (json!({}), json!({"torch_dtype": "float32"})),
        ] {
            std::fs::write(dir.path().join("config.json"), given.to_string()).unwrap();
            let text = config_text(dir.path(), Some(DType::F32)).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), want);
        }
    }
}
