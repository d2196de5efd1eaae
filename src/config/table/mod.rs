//! The one table of keys: what becomes of every argument of LlamaFactory, and of ours.
//!
//! Parser, defaults, "did you mean", `config explain`, the JSON Schema, `config convert` and docs/config.md are made from it.
//! Names are LlamaFactory's (its model, data, fine-tuning and generation arguments) and those of Hugging Face's
//! `TrainingArguments`; a test holds them to the list in tests/fixtures/keys.

mod data;
mod lora;
mod model;
mod other;
mod train;

use super::{
    kind::{Kind, Words},
    value::{Value, scalar},
};
use std::fmt;

/// A section of our TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `[model]`
    Model,
    /// `[data]`
    Data,
    /// `[lora]`
    Lora,
    /// `[train]`
    Train,
    /// `[output]`
    Output,
}

impl Section {
    /// All, in the order of a recipe.
    pub const ALL: [Self; 5] = [Self::Model, Self::Data, Self::Lora, Self::Train, Self::Output];

    /// The word in the brackets.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Data => "data",
            Self::Lora => "lora",
            Self::Train => "train",
            Self::Output => "output",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.name())
    }
}

/// What holds when a key is absent; written as in YAML.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Absent {
    /// Nothing: the key must be given.
    Required,
    /// Nothing: the key may be absent.
    Unset,
    /// The same in both dialects.
    Same(&'static str),
    /// By dialect; `None` means that the key must be given.
    By {
        /// In LlamaFactory's YAML or JSON.
        llamafactory: Option<&'static str>,
        /// In our TOML.
        toml: Option<&'static str>,
    },
}

/// Who reads a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `train`
    Train,
    /// `generate`
    Generate,
    /// `chat`
    Chat,
    /// `evaluate`
    Evaluate,
    /// `export`
    Export,
}

impl Command {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Generate => "generate",
            Self::Chat => "chat",
            Self::Evaluate => "evaluate",
            Self::Export => "export",
        }
    }
}

/// A key that is read: by whom, where it stands in TOML, what it takes, and what holds without it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Read {
    /// The commands.
    pub by: &'static [Command],
    /// Its section in TOML; `None` for what only LlamaFactory's dialect says.
    pub home: Option<Section>,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it.
    pub default: Absent,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    /// It is read.
    Read(Read),
    /// Accepted without effect.
    Ignored,
    /// Refused, but for these values (as in YAML) and `null`, which switch nothing on.
    Refused(&'static [&'static str]),
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// The argument's name.
    pub name: &'static str,
    /// What becomes of it.
    pub answer: Answer,
    /// What it means; why ignoring it is harmless; or, where it is refused, what to do instead.
    pub about: Words,
}

impl Key {
    /// How `command` reads it, if it does.
    pub fn read_by(&self, command: Command) -> Option<&Read> {
        match &self.answer {
            Answer::Read(read) if read.by.contains(&command) => Some(read),
            _ => None,
        }
    }

    /// Whether a value of a refused key switches nothing on: `null`, nothing, or one that is off.
    pub fn is_off(&self, value: &Value) -> bool {
        let Answer::Refused(off) = self.answer else { return false };
        let is_empty = match value {
            Value::Null => true,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            _ => false,
        };
        is_empty || off.iter().any(|off| scalar(off).same(value))
    }

    /// Not one of LlamaFactory's.
    pub fn is_ours(&self) -> bool {
        OURS.contains(&self.name)
    }
}

/// The table, in LlamaFactory's groups.
pub static TABLE: &[(Words, &[Key])] = &[
    (words("Model", "模型"), model::KEYS),
    (words("Data", "数据"), data::KEYS),
    (words("LoRA and fine-tuning", "LoRA 与微调"), lora::KEYS),
    (words("Training", "训练"), train::KEYS),
    (words("Output: logs, checkpoints, evaluation", "输出：日志、检查点、评估"), train::OUTPUT),
    (words("One process, one device", "单进程单设备"), train::MACHINE),
    (words("Generation", "生成"), other::GENERATION),
    (words("Export", "导出"), other::EXPORTED),
    (words("Other methods and engines", "其他方法与引擎"), other::METHODS),
];

/// Names that are no argument of LlamaFactory.
pub const OURS: &[&str] = &[
    "device",
    "test_dataset",
    "over_length",
    "on_bad_row",
    "shared_prefix",
    "micro_batch_tokens",
    "sample_prompts",
    "eval_couplets",
    "max_seconds",
    "rules",
    "candidates",
    "rank_beta",
    "rank_gamma",
    "n",
];

/// Older spellings and the present ones.
pub static RENAMED: &[(&str, &str)] = &[
    ("evaluation_strategy", "eval_strategy"),
    ("no_cuda", "use_cpu"),
    ("per_gpu_train_batch_size", "per_device_train_batch_size"),
    ("per_gpu_eval_batch_size", "per_device_eval_batch_size"),
];

/// Keys of LlamaFactory's newer engine (v1), and what they are called in the dialect read here.
pub static V1: &[(&str, Words)] = &[
    ("model", same("model_name_or_path")),
    ("train_dataset", same("dataset")),
    ("peft_config", same("lora_rank, lora_alpha, lora_dropout, lora_target")),
    ("micro_batch_size", same("per_device_train_batch_size")),
    ("global_batch_size", same("gradient_accumulation_steps")),
    ("optim_config", same("optim, weight_decay, adam_beta1, adam_beta2, adam_epsilon")),
    ("lr_scheduler_config", same("lr_scheduler_type, lr_scheduler_kwargs, warmup_steps")),
    ("save_epochs", same("save_strategy: epoch")),
    ("enable_activation_checkpointing", same("gradient_checkpointing")),
    ("model_class", NOTHING_HERE),
    ("init_config", NOTHING_HERE),
    ("kernel_config", NOTHING_HERE),
    ("quant_config", NOTHING_HERE),
    ("dist_config", NOTHING_HERE),
    ("sample_backend", NOTHING_HERE),
    ("batching_strategy", NOTHING_HERE),
    ("batching_workers", NOTHING_HERE),
    ("save_ckpt_as_hf", NOTHING_HERE),
];

const NOTHING_HERE: Words = words("nothing: remove it", "无对应的键，请删除");

/// Names of keys need no translation.
const fn same(names: &'static str) -> Words {
    words(names, names)
}

const fn words(en: &'static str, zh: &'static str) -> Words {
    Words { en, zh }
}

const fn read(by: &'static [Command], home: Section, kind: Kind, default: Absent) -> Answer {
    Answer::Read(Read { by, home: Some(home), kind, default })
}

/// Said only in LlamaFactory's dialect.
const fn theirs(by: &'static [Command], kind: Kind, default: Absent) -> Answer {
    Answer::Read(Read { by, home: None, kind, default })
}

const fn by(llamafactory: &'static str, toml: &'static str) -> Absent {
    Absent::By { llamafactory: Some(llamafactory), toml: Some(toml) }
}

const TRAIN: &[Command] = &[Command::Train];
const ALL: &[Command] = &[Command::Train, Command::Generate, Command::Chat, Command::Evaluate, Command::Export];
/// Those that run a model as it is.
const RUN: &[Command] = &[Command::Train, Command::Generate, Command::Chat, Command::Evaluate];
const ASK: &[Command] = &[Command::Generate, Command::Chat, Command::Evaluate];
const OPEN: &[Command] = &[Command::Generate, Command::Chat, Command::Evaluate, Command::Export];
const SCORED: &[Command] = &[Command::Train, Command::Evaluate];
const EVALUATE: &[Command] = &[Command::Evaluate];
const EXPORT: &[Command] = &[Command::Export];

/// Off where `false`.
const NO: Answer = Answer::Refused(&["false"]);
/// Off where absent.
const NOTHING: Answer = Answer::Refused(&[]);

/// Rows of `name: answer, words;`.
macro_rules! keys {
    ($($name:ident: $answer:expr, $about:expr;)*) => {
        &[$($crate::config::table::Key { name: stringify!($name), answer: $answer, about: $about }),*]
    };
}
use keys;
