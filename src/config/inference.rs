//! What `generate`, `chat` and `export` are told: LlamaFactory's inference or export YAML or JSON, `key=value` words, or both.
//!
//! A key that is absent stays absent here: the adapter's receipt may know it, and a difference to it is worth a warning.

use super::{
    Format,
    build::{device_choice, no_device},
    entry::{Entry, Place},
    full_width, hidden, json, keys,
    kind::{Kind, Words},
    notice::Notice,
    sections::{DeviceChoice, TemplateName},
    settings::put,
    source::Source,
    table::{Answer, Command, V1},
    token::{HubTokens, Token},
    value::Value,
    yaml,
};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Whom to ask, and how. `None`: not said.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceConfig {
    /// Read from LlamaFactory's YAML or JSON: its defaults hold.
    pub llamafactory: bool,
    /// `model_name_or_path`
    pub base: Option<String>,
    /// `adapter_name_or_path`
    pub adapters: Vec<PathBuf>,
    /// `cache_dir`
    pub cache_dir: Option<PathBuf>,
    /// `model_revision`
    pub revision: Option<String>,
    /// `hf_hub_token`, `ms_hub_token`
    pub tokens: HubTokens,
    /// `device`, `use_cpu`
    pub device: DeviceChoice,
    /// `infer_dtype`
    pub dtype: InferDtype,
    /// `template`
    pub template: Option<TemplateName>,
    /// `enable_thinking`; its `null` is a value of its own.
    pub enable_thinking: Option<Option<bool>>,
    /// `default_system`
    pub system: Option<String>,
    /// The generation group.
    pub generation: GenerationConfig,
    /// The export group.
    pub export: ExportConfig,
}

/// LlamaFactory's export arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportConfig {
    /// `export_dir`
    pub dir: Option<PathBuf>,
    /// `export_size`: GB (10⁹ bytes) of weights in a file at most.
    pub size: u64,
}

/// `infer_dtype`: how the base's weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InferDtype {
    /// As the checkpoint has them.
    Auto,
    /// f32
    Float32,
    /// bf16
    Bfloat16,
    /// f16; only `export` writes it.
    Float16,
}

/// `rules`: what 下联 must keep by construction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rules {
    /// Nothing: the model writes as it likes.
    #[default]
    Off,
    /// Length, clauses and breaks.
    Shape,
    /// Tones, repeats, and no character of 上联 as well.
    Strict,
}

impl Rules {
    /// As in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shape => "shape",
            Self::Strict => "strict",
        }
    }
}

/// LlamaFactory's generation arguments, and ours.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// `do_sample`
    pub do_sample: Option<bool>,
    /// `temperature`
    pub temperature: Option<f64>,
    /// `top_p`
    pub top_p: Option<f64>,
    /// `top_k`
    pub top_k: Option<usize>,
    /// `repetition_penalty`
    pub repetition_penalty: Option<f64>,
    /// `max_new_tokens`
    pub max_new_tokens: Option<usize>,
    /// `seed`
    pub seed: Option<u64>,
    /// `skip_special_tokens`
    pub skip_special_tokens: Option<bool>,
    /// `rules`
    pub rules: Option<Rules>,
    /// `candidates`: lines that are found under the rules and ranked.
    pub candidates: Option<usize>,
    /// `rank_beta`: weight of −log p(下) when candidates are ranked.
    pub rank_beta: Option<f64>,
    /// `rank_gamma`: weight of log p(上|下).
    pub rank_gamma: Option<f64>,
}

/// Keys whose presence makes a LlamaFactory file something else than an inference config.
const NOT_INFERENCE: [&str; 6] = ["stage", "do_train", "do_eval", "do_predict", "dataset", "eval_dataset"];

/// What a LlamaFactory YAML or JSON that does not train is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A model and nothing that trains or evaluates: a conversation.
    Chat,
    /// `export_dir`: a merged model.
    Export,
    /// `do_predict` or `do_eval`: answers and held-out loss.
    Evaluate,
}

/// The purpose of `file` by its keys; `None` for one that trains, or cannot be read.
pub fn purpose(file: &Path) -> Option<Purpose> {
    let source = Source::read(file).ok()?;
    let entries = read(&source, Format::of(file).ok()?).ok()?;
    let has = |name: &str| entries.iter().any(|entry| entry.key == name && entry.value != Value::Null);
    let says = |name: &str| entries.iter().any(|entry| entry.key == name && entry.value == Value::Bool(true));
    match has("model_name_or_path") && !says("do_train") {
        true if has("export_dir") => Some(Purpose::Export),
        true if says("do_predict") || says("do_eval") => Some(Purpose::Evaluate),
        true if !NOT_INFERENCE.iter().any(|name| has(name)) => Some(Purpose::Chat),
        _ => None,
    }
}

/// Reads an inference config, if there is a file, and `key=value` words on top, for one of the commands that open a model.
///
/// Errors: unknown and refused keys, values of the wrong type or range, each with its place.
pub fn inference(file: Option<&Path>, overrides: &[String], by: Command) -> Result<(InferenceConfig, Vec<Notice>)> {
    let (given, notices) = Given::read(file, overrides, by)?;
    Ok((given.config(file.is_some())?, notices))
}

fn read(source: &Source, format: Format) -> Result<Vec<Entry>> {
    match format {
        Format::Yaml => yaml::read(source),
        Format::Json => json::read(source),
        Format::Toml => Err(source
            .error("a TOML recipe trains; every other command takes flags and `key=value` words")
            .hint("e.g. `couplet-train generate --adapter outputs/run \"上联\" temperature=0.7`")
            .hint_zh("例如 `couplet-train generate --adapter outputs/run \"上联\" temperature=0.7`")),
    }
}

/// The value in its type and range.
fn checked(source: &Source, mut entry: Entry, kind: Kind) -> Result<Entry> {
    entry.refuse_tilde(source)?;
    entry.value = match (&entry.place, &entry.value) {
        (Place::Override(text), value) if kind.means_text(value) => Value::Text(text.clone()),
        (_, value) => kind.loosen(value.clone()),
    };
    if entry.value == Value::Null || kind.admits(&entry.value) {
        return Ok(entry);
    }
    let (en, zh) = kind.describe();
    let err = entry.error(source, format!("`{}` must be {en}, found {}", entry.key, kind.shown(&entry.value)));
    let err = err.hint("correct the value, or remove the key").hint_zh(format!("`{}` 应为{zh}", entry.key));
    Err(full_width::explained(err, entry.value.text().unwrap_or_default()))
}

/// The key's name where it is one of training that has no effect here; an error where it is unknown or would be needed.
fn without_effect(source: &Source, entry: &Entry, by: Command) -> Result<Option<String>> {
    // A training config may hold it without effect; a model that was to be small must not come out large in silence.
    let off = [Value::Null, Value::Text("none".into()), Value::Text("None".into()), Value::Int(0)];
    if entry.key == "export_quantization_bit" && !off.contains(&entry.value) {
        return Err(entry
            .key_error(source, "`export_quantization_bit` is not supported: the merged model is written as it is")
            .hint("remove the key, and quantise the exported folder with a program of its own (AutoGPTQ, llama.cpp, `ollama create -q`)")
            .hint_zh("请删除该键，导出后再用专门的程序量化（AutoGPTQ、llama.cpp、`ollama create -q`）"));
    }
    let key = keys::find(&entry.key);
    match key.map(|key| key.answer) {
        Some(Answer::Refused(_)) if key.is_some_and(|key| key.is_off(&entry.value)) => Ok(None),
        Some(Answer::Refused(_)) => Err(entry
            .key_error(source, format!("`{}` is not supported", entry.key))
            .hint("remove the key: the base is asked as its checkpoint is")
            .hint_zh("请删除该键：基座按其权重原样使用")),
        Some(Answer::Read(_) | Answer::Ignored) => Ok(Some(entry.key.clone())),
        None => {
            if let Some((_, ours)) = V1.iter().find(|(v1, _)| *v1 == entry.key) {
                return Err(of_v1(source, entry, ours));
            }
            let err = entry.key_error(source, format!("unknown key `{}`", hidden::pair(&entry.key)));
            let names = keys::all().filter(|key| kind_for(key.name, by).is_some()).map(|key| key.name);
            let err = match keys::closest(&entry.key, names) {
                Some(near) => err.hint(format!("did you mean `{near}`?")).hint_zh(format!("是否想写 `{near}`？")),
                None => err
                    .hint("keys have LlamaFactory's names; a text with `=` in it goes into a file (--file)")
                    .hint_zh("键名与 LlamaFactory 相同；含 `=` 的文本请放入文件（--file）"),
            };
            Err(full_width::explained(err, &entry.key))
        }
    }
}

/// A key of LlamaFactory's newer engine, and what it is called here.
fn of_v1(source: &Source, entry: &Entry, ours: &Words) -> Error {
    entry
        .key_error(source, format!("`{}` is a key of LlamaFactory's v1 dialect, which is not read", entry.key))
        .hint(format!("write LlamaFactory's usual keys; for `{}`: {}", entry.key, ours.en))
        .hint_zh(format!("请使用 LlamaFactory 通常的键；`{}` 对应：{}", entry.key, ours.zh))
}

/// What a key takes where this command reads it.
fn kind_for(name: &str, by: Command) -> Option<Kind> {
    Some(keys::find(name)?.read_by(by)?.kind)
}

/// The checked entries.
pub(super) struct Given {
    source: Source,
    entries: Vec<Entry>,
}

impl Given {
    /// The keys that `by` reads; what is told of others, which have no effect.
    pub(super) fn read(file: Option<&Path>, overrides: &[String], by: Command) -> Result<(Self, Vec<Notice>)> {
        let (source, mut entries) = match file {
            Some(file) => {
                let source = Source::read(file)?;
                let entries = read(&source, Format::of(file)?)?;
                (source, entries)
            }
            None => (Source::new(Path::new("command line"), ""), vec![]),
        };
        let twice = put(&mut entries, overrides)?;
        let (mut known, mut ignored) = (Vec::new(), Vec::new());
        for entry in entries {
            match kind_for(&entry.key, by) {
                Some(kind) => known.push(checked(&source, entry, kind)?),
                None => ignored.extend(without_effect(&source, &entry, by)?),
            }
        }
        let notices = [Notice::ignored(&ignored), Notice::twice(&twice)].into_iter().flatten().collect();
        Ok((Self { source, entries: known }, notices))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        let entry = self.entries.iter().find(|entry| keys::present_name(&entry.key) == name);
        entry.map(|entry| &entry.value).filter(|value| **value != Value::Null)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.value(name)?.text().map(str::to_owned)
    }

    fn token(&self, name: &str) -> Option<Token> {
        Token::new(self.value(name)?.text()?)
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.value(name)?.number()
    }

    pub(super) fn whole(&self, name: &str) -> Option<u64> {
        if let Value::Int(n) = self.value(name)? { u64::try_from(*n).ok() } else { None }
    }

    pub(super) fn words(&self, name: &str) -> Vec<String> {
        let value = self.value(name).and_then(Value::words).unwrap_or_default();
        value.into_iter().map(str::to_owned).collect()
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        if let Value::Bool(flag) = self.value(name)? { Some(*flag) } else { None }
    }

    pub(super) fn complain(&self, name: &str, fact: impl std::fmt::Display) -> Error {
        match self.entries.iter().find(|entry| keys::present_name(&entry.key) == name) {
            Some(entry) => entry.error(&self.source, fact),
            None => self.source.error(fact),
        }
    }

    pub(super) fn config(&self, llamafactory: bool) -> Result<InferenceConfig> {
        if self.whole("num_beams").is_some_and(|beams| beams > 1) {
            return Err(self
                .complain("num_beams", "beam search is not supported")
                .hint("set num_beams to 1; `--n 8` with sampling gives several answers")
                .hint_zh("请将 num_beams 设为 1；采样时可用 `--n 8` 得到多个答案"));
        }
        let size = |name: &str| self.whole(name).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Ok(InferenceConfig {
            llamafactory,
            base: self.text("model_name_or_path"),
            adapters: self.words("adapter_name_or_path").into_iter().map(PathBuf::from).collect(),
            cache_dir: self.text("cache_dir").map(PathBuf::from),
            revision: self.text("model_revision"),
            tokens: HubTokens { hugging_face: self.token("hf_hub_token"), model_scope: self.token("ms_hub_token") },
            device: self.device()?,
            dtype: match self.text("infer_dtype").as_deref() {
                Some("float32") => InferDtype::Float32,
                Some("bfloat16") => InferDtype::Bfloat16,
                Some("float16") => InferDtype::Float16,
                _ => InferDtype::Auto,
            },
            template: self.text("template").map(|name| match name.as_str() {
                "qwen3_nothink" => TemplateName::Qwen3Nothink,
                _ => TemplateName::Qwen3,
            }),
            enable_thinking: self.thinking(),
            system: self.text("default_system"),
            export: ExportConfig {
                dir: self.text("export_dir").map(PathBuf::from),
                size: self.whole("export_size").unwrap_or(5),
            },
            generation: GenerationConfig {
                do_sample: self.flag("do_sample"),
                temperature: self.number("temperature"),
                top_p: self.number("top_p"),
                top_k: size("top_k"),
                repetition_penalty: self.number("repetition_penalty"),
                max_new_tokens: size("max_new_tokens"),
                seed: self.whole("seed"),
                skip_special_tokens: self.flag("skip_special_tokens"),
                rules: self.text("rules").and_then(|name| {
                    [Rules::Off, Rules::Shape, Rules::Strict].into_iter().find(|rules| rules.name() == name)
                }),
                candidates: size("candidates"),
                rank_beta: self.number("rank_beta"),
                rank_gamma: self.number("rank_gamma"),
            },
        })
    }

    /// The one key whose `null` is a value.
    fn thinking(&self) -> Option<Option<bool>> {
        let entry = self.entries.iter().find(|entry| entry.key == "enable_thinking")?;
        Some(if let Value::Bool(flag) = entry.value { Some(flag) } else { None })
    }

    fn device(&self) -> Result<DeviceChoice> {
        if self.flag("use_cpu") == Some(true) {
            return Ok(DeviceChoice::Cpu);
        }
        let text = self.text("device").unwrap_or("auto".into());
        device_choice(&text).ok_or_else(|| no_device(&text, |fact| self.complain("device", fact)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Result<(InferenceConfig, Vec<Notice>)> {
        let by = if words[0].starts_with("export_") { Command::Export } else { Command::Generate };
        inference(None, &words.iter().map(|word| word.to_string()).collect::<Vec<_>>(), by)
    }

    #[test]
    fn llamafactorys_chat_example_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("chat.yaml");
        let text = "model_name_or_path: Qwen/Qwen3-4B\nadapter_name_or_path: saves/a, saves/b\ntemplate: qwen3\n\
                    infer_backend: huggingface\ntrust_remote_code: true\nenable_thinking: ~\ntemperature: 0.5\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(purpose(&file), Some(Purpose::Chat));
        let (config, notices) =
            inference(Some(&file), &["top_k=0".into(), "temperature=0.25".into()], Command::Chat).unwrap();
        assert_eq!(config.base.as_deref(), Some("Qwen/Qwen3-4B"));
        assert_eq!(config.adapters, [PathBuf::from("saves/a"), PathBuf::from("saves/b")]);
        assert_eq!((config.template, config.enable_thinking), (Some(TemplateName::Qwen3), Some(None)));
        assert_eq!((config.generation.temperature, config.generation.top_k), (Some(0.25), Some(0)));
        assert!(config.llamafactory && notices[0].en.contains("infer_backend"), "{notices:?}");

        std::fs::write(&file, format!("{text}do_train: true\n")).unwrap();
        assert_eq!(purpose(&file), None, "it trains");
        assert_eq!(purpose(Path::new("no/such.yaml")), None);
        std::fs::write(&file, "model_name_or_path: m\nexport_dir: merged\nexport_size: 2\nexport_device: cpu\n")
            .unwrap();
        assert_eq!(purpose(&file), Some(Purpose::Export));
        let (config, _) = inference(Some(&file), &["infer_dtype=float16".into()], Command::Export).unwrap();
        assert_eq!(config.export, ExportConfig { dir: Some("merged".into()), size: 2 });
        assert_eq!(config.dtype, InferDtype::Float16);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (given, want) in [
            ("temperatur=1", "override `temperatur=1`: unknown key `temperatur`"),
            ("top_p=1.5", "override `top_p=1.5`: `top_p` must be a number from 0 to 1, found 1.5"),
            ("num_beams=4", "override `num_beams=4`: beam search is not supported"),
            ("quantization_bit=4", "override `quantization_bit=4`: `quantization_bit` is not supported"),
            (
                "export_dir=~/merged",
                "override `export_dir=~/merged`: `export_dir` begins with `~`, which only a shell replaces: ~/merged",
            ),
            (
                "adapter_name_or_path=a, ~/b",
                "override `adapter_name_or_path=a, ~/b`: `adapter_name_or_path` begins with `~`, which only a shell \
                 replaces: ~/b",
            ),
            (
                "export_quantization_bit=4",
                "override `export_quantization_bit=4`: `export_quantization_bit` is not supported: the merged model is \
                 written as it is",
            ),
            (
                "sample_backend=hf",
                "override `sample_backend=hf`: `sample_backend` is a key of LlamaFactory's v1 dialect, which is not read",
            ),
            ("device=gpu", "override `device=gpu`: `device` must be `auto`, `cpu` or `cuda:N`, found \"gpu\""),
        ] {
            let err = words(&[given]).expect_err(given);
            assert_eq!(err.to_string(), want);
            assert!(err.hint_text(false).is_some() && err.hint_text(true).is_some(), "{given}");
        }
    }
}
