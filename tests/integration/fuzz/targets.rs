//! What is fuzzed: a file that a user or a hub may hand us, and everything the program does with it before it computes.
//!
//! A new one is a row of [`all`] and a folder with a seed or more under `tests/fixtures/fuzz`. Another format of rows is
//! [`rows`] with another file name or formatting.

use super::mutate::Shape;
use crate::support::fixtures;
use couplet_train::{
    adapter::{check, peft::Existing},
    config::{self, DataConfig, Format, OnBadRow, table::Command},
    dataset::{self, Tokenizer, prepare},
    error::{Error, Result},
    fs::FileDigest,
    generate::Speaker,
    hub::{self, HubEnv},
    model::{Checkpoint, Qwen3Config},
    run,
    trainer::checkpoint,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Reads bytes as a parser does.
pub type Act = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;

/// A parser, its seeds, and what it may hold.
pub struct Target {
    /// Also the name of the folder with its seeds.
    pub name: &'static str,
    /// How its seeds are mutated.
    pub shape: Shape,
    /// What it reads, in a folder of its own.
    pub act: Act,
    /// Bytes that it may hold besides [`PER_BYTE`] for every byte of the input.
    pub base: usize,
}

/// Bytes that a parser may hold for every byte it reads: a JSON tree of small numbers takes more than it seems.
pub const PER_BYTE: usize = 200;

const MB: usize = 1 << 20;

/// All targets; what lies around the file is made below `work`.
pub fn all(work: &Path) -> Vec<Target> {
    let tokenizer = || fixtures().join("fuzz/tokenizer/seed.json");
    vec![
        rows(work, "rows_json", "rows.json", Shape::Json, ALPACA, &tokenizer()),
        rows(work, "rows_jsonl", "rows.jsonl", Shape::Json, ALPACA, &tokenizer()),
        rows(work, "rows_sharegpt", "rows.json", Shape::Json, SHAREGPT, &tokenizer()),
        rows(work, "rows_openai", "rows.jsonl", Shape::Json, OPENAI, &tokenizer()),
        rows(work, "rows_csv", "rows.csv", Shape::Bytes, ALPACA, &tokenizer()),
        rows(work, "rows_tsv", "rows.tsv", Shape::Bytes, ALPACA, &tokenizer()),
        Target { base: 64 * MB, ..rows(work, "rows_csv_gz", "rows.csv.gz", Shape::Bytes, ALPACA, &tokenizer()) },
        #[cfg(feature = "parquet")]
        Target { base: 64 * MB, ..rows(work, "rows_parquet", "rows.parquet", Shape::Bytes, ALPACA, &tokenizer()) },
        rows(work, "rows_folder", "rows/b.jsonl", Shape::Json, ALPACA, &tokenizer()),
        registry(work, &tokenizer()),
        target(
            "pairs",
            Shape::Bytes,
            in_file(work, "pairs.txt", |path| {
                let out = path.with_extension("out");
                let done = prepare::prepare(&prepare::Options::new(path.into(), out.clone(), "name")).map(drop);
                let _ = fs::remove_dir_all(out);
                done
            }),
        ),
        target("config_yaml", Shape::Lines, config_in(work, Format::Yaml, "c.yaml")),
        target("config_toml", Shape::Lines, config_in(work, Format::Toml, "c.toml")),
        target("config_json", Shape::Json, config_in(work, Format::Json, "c.json")),
        target(
            "overrides",
            Shape::Bytes,
            Box::new(|bytes| {
                let words: Vec<String> = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
                config::inference(None, &words, Command::Generate).map(drop)?;
                config::from_str(TINY, Format::Yaml, Path::new("c.yaml"), &words).map(drop)
            }),
        ),
        Target { base: 32 * MB, ..target("tokenizer", Shape::Json, Box::new(tokenize)) },
        target(
            "model_config",
            Shape::Json,
            in_file(work, "config.json", |path| {
                let config = Qwen3Config::load(path.parent().expect("a folder"))?;
                let counted = counted(&config);
                match u128::try_from(config.parameters()) {
                    Ok(parameters) if parameters == counted => Ok(()),
                    _ => panic!("{counted} parameters are counted as {}", config.parameters()),
                }
            }),
        ),
        adapter(work, "adapter_config", Shape::Json, "adapter_config.json"),
        adapter(work, "adapter_weights", Shape::Safetensors, "adapter_model.safetensors"),
        weights(work),
        index(work),
        checkpoint_file(work, "state", Shape::Json, "state.json"),
        checkpoint_file(work, "moments", Shape::Safetensors, "optimizer.safetensors"),
        checkpoint_file(work, "manifest", Shape::Json, "manifest.json"),
        target(
            "receipt",
            Shape::Json,
            in_file(work, "run.json", |path| {
                let dir = path.parent().expect("a folder");
                fs::write(dir.join("adapter_model.safetensors"), "").expect("a result");
                let word = format!("output_dir={}", dir.display());
                let recipe = config::from_str(TINY, Format::Yaml, Path::new("c.yaml"), &[word])?.recipe;
                has_text(run::inspect(&recipe).map(drop))?;
                has_text(run::began_there(&recipe).map(drop))?;
                let receipt = run::receipt_of(dir)?.unwrap_or_default();
                Speaker::from_receipt(&receipt["speak"]).map(drop)
            }),
        ),
    ]
}

/// A LlamaFactory config with what must be there.
const TINY: &str = "model_name_or_path: m\nstage: sft\ndo_train: true\ndataset: d\ntemplate: qwen3\noutput_dir: o\n";

fn target(name: &'static str, shape: Shape, act: Act) -> Target {
    Target { name, shape, act, base: 4 * MB }
}

/// Writes the input to a file of this name in a folder of its own, and reads it.
fn in_file(work: &Path, file: &str, read: impl Fn(&Path) -> Result<()> + Send + Sync + 'static) -> Act {
    let path = folder(work, file).join(file);
    Box::new(move |bytes| {
        fs::write(&path, bytes).expect("a written file");
        read(&path)
    })
}

fn folder(work: &Path, name: &str) -> PathBuf {
    let dir = work.join(name.replace('.', "_"));
    fs::create_dir_all(&dir).expect("a folder");
    dir
}

/// Rows that nothing is wrong with.
const SOUND: &str =
    r#"[{"instruction": "对", "input": "天", "output": "地", "system": "", "history": [], "tools": ""}]"#;

/// Two ways to register the rows: with default names, and with all of them.
type Registered = [&'static str; 2];

const ALPACA: Registered = [
    "{}",
    r#"{"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history",
        "tools": "tools"}}"#,
];
const SHAREGPT: Registered = [
    r#"{"formatting": "sharegpt"}"#,
    r#"{"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system", "tools": "tools"}}"#,
];
const OPENAI: Registered = [
    r#"{"formatting": "openai", "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                 "observation_tag": "tool", "function_tag": "call", "system_tag": "system"}}"#,
    r#"{"formatting": "sharegpt", "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}}"#,
];

/// Rows of a data set, from the registry to tokens: bad ones refused, and under the other registration left out. `FOLDER/FILE`
/// is registered as the folder, with another file before it.
pub fn rows(
    work: &Path,
    name: &'static str,
    file: &'static str,
    shape: Shape,
    registered: Registered,
    tokenizer: &Path,
) -> Target {
    let dir = folder(work, name);
    let set = file.split_once('/').map_or(file, |(set, _)| {
        fs::write(folder(&dir, set).join("a.json"), SOUND).expect("rows");
        set
    });
    let [d, e] = registered.map(|entry| {
        let mut entry: serde_json::Value = serde_json::from_str(entry).expect("an entry");
        entry["file_name"] = set.into();
        entry
    });
    let registry = serde_json::json!({"d": d, "e": e});
    fs::write(dir.join("dataset_info.json"), registry.to_string()).expect("a registry");
    let tokenizer = Tokenizer::from_bytes(&fs::read(tokenizer).expect("a tokenizer")).expect("a good tokenizer");
    target(
        name,
        shape,
        Box::new(move |bytes| {
            fs::write(dir.join(file), bytes).expect("a written file");
            let data = |name: &str, on_bad_row| DataConfig {
                dataset: vec![name.into()],
                dataset_dir: dir.clone(),
                cutoff_len: 512,
                on_bad_row,
                ..couplet_train::testing::data_config()
            };
            has_text(dataset::load(&data("e", OnBadRow::Skip), 42, &tokenizer).map(drop))?;
            dataset::load(&data("d", OnBadRow::Error), 42, &tokenizer).map(drop)
        }),
    )
}

fn registry(work: &Path, tokenizer: &Path) -> Target {
    let dir = folder(work, "registry");
    fs::write(dir.join("rows.json"), SOUND).expect("rows");
    let tokenizer = Tokenizer::from_bytes(&fs::read(tokenizer).expect("a tokenizer")).expect("a good tokenizer");
    target(
        "registry",
        Shape::Json,
        Box::new(move |bytes| {
            fs::write(dir.join("dataset_info.json"), bytes).expect("a written file");
            let entries = dataset::registry::look_up(&dir, &["a".into()])?;
            if entries[0].num_samples.is_some_and(|rows| rows > 10_000) {
                return Ok(()); // rows that are asked for are worth their memory
            }
            let data = DataConfig {
                dataset: vec!["a".into()],
                dataset_dir: dir.clone(),
                ..couplet_train::testing::data_config()
            };
            dataset::load(&data, 42, &tokenizer).map(drop)
        }),
    )
}

/// Every command that reads a config.
fn config_in(work: &Path, format: Format, file: &'static str) -> Act {
    in_file(work, file, move |path| {
        let trained = config::load(path, &[]).map(drop);
        let _ = config::purpose(path);
        if format != Format::Toml {
            let asked = config::inference(Some(path), &[], Command::Generate).map(drop);
            has_text(asked)?;
        }
        has_text(config::convert(path, &[]).map(drop))?;
        trained
    })
}

/// An error of something that is only tried.
fn has_text(done: Result<()>) -> Result<()> {
    if let Err(err) = done {
        assert!(!err.to_string().is_empty());
    }
    Ok(())
}

fn tokenize(bytes: &[u8]) -> Result<()> {
    let tokenizer = Tokenizer::from_bytes(bytes)?;
    let ids = tokenizer.encode("春风又绿江南岸<|im_end|>\n<think> ，,é e\u{301}１")?;
    let decoded = tokenizer.decode(&ids, true).map(drop);
    ids.iter().chain(&[0, u32::MAX]).for_each(|id| drop(tokenizer.token_bytes(*id)));
    let _ = (tokenizer.vocab_size(), tokenizer.pad_id(), tokenizer.end_id());
    decoded
}

/// [`Qwen3Config::parameters`], in numbers that do not wrap.
fn counted(c: &Qwen3Config) -> u128 {
    let n = |x: usize| x as u128;
    let (d, f, e) = (n(c.hidden_size), n(c.intermediate_size), n(c.head_dim));
    let (q, kv) = (n(c.num_attention_heads) * e, n(c.num_key_value_heads) * e);
    let block = 2 * d * q + 2 * d * kv + 3 * d * f + 2 * d + 2 * e;
    n(c.num_hidden_layers) * block + d + n(c.vocab_size) * d * if c.tie_word_embeddings { 1 } else { 2 }
}

/// One file of an adapter; the other is sound.
fn adapter(work: &Path, name: &'static str, shape: Shape, file: &'static str) -> Target {
    let dir = folder(work, name);
    for (target, file) in [("adapter_config", "adapter_config.json"), ("adapter_weights", "adapter_model.safetensors")]
    {
        fs::copy(seed_of(target), dir.join(file)).expect("a seed");
    }
    let geometry = Qwen3Config::load(&model_dir(work)).expect("the seed is sound");
    target(
        name,
        shape,
        Box::new(move |bytes| {
            fs::write(dir.join(file), bytes).expect("a written file");
            let adapter = Existing::open(&dir)?;
            adapter.refuse_misfit(&geometry)?;
            check::inspect(&adapter, &geometry)?;
            check::refuse_damaged(&dir)
        }),
    )
}

fn seed_of(target: &str) -> PathBuf {
    let mut seeds: Vec<_> = fs::read_dir(fixtures().join("fuzz").join(target))
        .expect(target)
        .map(|e| e.expect("an entry").path())
        .collect();
    seeds.sort();
    let is_seed = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed"));
    seeds.into_iter().find(is_seed).expect("a seed")
}

fn model_dir(work: &Path) -> PathBuf {
    let dir = folder(work, "geometry");
    fs::copy(seed_of("model_config"), dir.join("config.json")).expect("a seed");
    dir
}

/// Weights in one file: the header, and every tensor.
fn weights(work: &Path) -> Target {
    target(
        "weights",
        Shape::Safetensors,
        in_file(work, "model.safetensors", |path| {
            let dir = path.parent().expect("a folder");
            let checkpoint = Checkpoint::open(dir)?;
            let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
            names.iter().try_for_each(|name| checkpoint.values(name).map(drop))
        }),
    )
}

/// The index of shards, as the engine reads it and as the hub's cache does.
fn index(work: &Path) -> Target {
    let root = folder(work, "index");
    let dir = root.join("models--org--tiny/snapshots/main");
    fs::create_dir_all(&dir).expect("a folder");
    let shard = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat()
    };
    fs::write(dir.join("model-00001-of-00002.safetensors"), shard("a")).expect("a shard");
    fs::write(dir.join("model-00002-of-00002.safetensors"), shard("b")).expect("a shard");
    fs::write(dir.join("config.json"), "{}").expect("a file");
    fs::write(dir.join("tokenizer.json"), "{}").expect("a file");
    target(
        "index",
        Shape::Json,
        Box::new(move |bytes| {
            fs::write(dir.join("model.safetensors.index.json"), bytes).expect("a written file");
            let env = HubEnv::read(|name| (name == "HF_HUB_OFFLINE").then(|| "1".into()));
            has_text(hub::resolve("org/tiny", "main", Some(&root), &env, &mut |_| {}).map(drop))?;
            Checkpoint::open(&dir).map(drop)
        }),
    )
}

/// One file of a checkpoint; the manifest says that it is as it was written, so that more than the digest is tried.
fn checkpoint_file(work: &Path, name: &'static str, shape: Shape, file: &'static str) -> Target {
    const FILES: [(&str, &str); 4] = [
        ("state", "state.json"),
        ("moments", "optimizer.safetensors"),
        ("adapter_weights", "adapter_model.safetensors"),
        ("adapter_config", "adapter_config.json"),
    ];
    let dir = folder(work, name).join("checkpoint-1");
    fs::create_dir_all(&dir).expect("a folder");
    for (target, file) in FILES {
        fs::copy(seed_of(target), dir.join(file)).expect("a seed");
    }
    target(
        name,
        shape,
        Box::new(move |bytes| {
            fs::write(dir.join(file), bytes).expect("a written file");
            let digests: Vec<FileDigest> = FILES
                .iter()
                .map(|(_, file)| FileDigest::of(file, &[&fs::read(dir.join(file)).expect("a file")]))
                .collect();
            if file == "manifest.json" {
                // Its seed has places for what only this program computes.
                let mut text = String::from_utf8_lossy(bytes).into_owned();
                for digest in digests {
                    text = text.replace(&format!("\"@size {}\"", digest.name), &digest.size.to_string());
                    text = text.replace(&format!("@blake3 {}", digest.name), &digest.blake3);
                }
                fs::write(dir.join(file), text).expect("a manifest");
            } else {
                let manifest = serde_json::json!({"step": 1, "files": digests});
                fs::write(dir.join("manifest.json"), manifest.to_string()).expect("a manifest");
            }
            let (newest, skipped) = checkpoint::newest(dir.parent().expect("a folder"), 0)?;
            match (newest, skipped.first()) {
                (Some(_), _) => Ok(()),
                (None, Some(skipped)) => Err(Error::input(skipped.reason.clone())),
                (None, None) => Err(Error::input("no checkpoint is there")),
            }
        }),
    )
}
