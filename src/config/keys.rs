//! Every key there is: those that are read, with home, kind and default; `others` holds what becomes of the rest.
//!
//! The parsers, the defaults and the "did you mean" all go through this table. Names are LlamaFactory's (its model, data,
//! fine-tuning and generation arguments) and Hugging Face's `TrainingArguments`; the defaults are those of LlamaFactory 0.9.5.

use super::{
    kind::{Kind, Words},
    others::{IGNORED, IGNORED_PREFIXES, REFUSED, RENAMED, Refused},
    scheduler::SchedulerType,
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

/// A key that is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// LlamaFactory's name, or ours: `device`, `test_dataset`, `over_length`, `shared_prefix`, `micro_batch_tokens`,
    /// `sample_prompts`, `eval_couplets`, `max_seconds`.
    pub name: &'static str,
    /// Its section in TOML; `None` for what only LlamaFactory's dialect says.
    pub home: Option<Section>,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it.
    pub default: Absent,
}

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Known {
    /// A key that is read.
    Read(&'static Key),
    /// Accepted without effect; why that is harmless.
    Ignored(&'static Words),
    /// Refused unless off.
    Refused(&'static Refused),
}

/// Looks a name up; older spellings are found under their present name.
pub fn find(name: &str) -> Option<Known> {
    let name = present_name(name);
    if let Some(key) = READ.iter().find(|key| key.name == name) {
        return Some(Known::Read(key));
    }
    if let Some(refused) = REFUSED.iter().find(|refused| refused.name == name) {
        return Some(Known::Refused(refused));
    }
    let ignored = IGNORED.iter().find(|(_, names)| names.contains(&name)).map(|(why, _)| why);
    ignored
        .or_else(|| IGNORED_PREFIXES.iter().find(|(p, _)| name.starts_with(p)).map(|(_, why)| why))
        .map(Known::Ignored)
}

/// The spelling in use for a name that Hugging Face has renamed.
pub fn present_name(name: &str) -> &str {
    RENAMED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new)
}

/// The key of this name, which must be one that is read.
pub fn read(name: &str) -> &'static Key {
    READ.iter().find(|key| key.name == name).expect("only keys of the table are asked for")
}

/// The known name closest to a misspelt one, if any is close.
pub fn nearest(name: &str) -> Option<&'static str> {
    let read = READ.iter().map(|key| key.name);
    let rest =
        REFUSED.iter().map(|refused| refused.name).chain(IGNORED.iter().flat_map(|(_, names)| names.iter().copied()));
    closest(name, read.chain(rest))
}

/// The candidate closest to `word`, if it is close enough to be what was meant.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (1 + candidate.len().min(word.len()) / 4).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

const fn key(name: &'static str, home: Section, kind: Kind, default: Absent) -> Key {
    Key { name, home: Some(home), kind, default }
}

const fn theirs(name: &'static str, kind: Kind, default: Absent) -> Key {
    Key { name, home: None, kind, default }
}

const fn by(llamafactory: &'static str, toml: &'static str) -> Absent {
    Absent::By { llamafactory: Some(llamafactory), toml: Some(toml) }
}

use Absent::{Required, Same, Unset};
use Section::{Data, Lora, Model, Output, Train};

/// The keys that are read, in the order of a recipe.
pub static READ: &[Key] = &[
    key("model_name_or_path", Model, Kind::Text, Required),
    key("adapter_name_or_path", Model, Kind::Text, Unset),
    key("cache_dir", Model, Kind::Text, Unset),
    key("model_revision", Model, Kind::Text, Same("main")),
    key("device", Model, Kind::Text, Same("auto")),
    theirs("use_cpu", Kind::Flag, Same("false")),
    key("dataset", Data, Kind::List, Required),
    key("eval_dataset", Data, Kind::List, Unset),
    key("test_dataset", Data, Kind::List, Unset),
    key("dataset_dir", Data, Kind::Text, Same("data")),
    key("template", Data, TEMPLATE, Absent::By { llamafactory: None, toml: Some("qwen3") }),
    key("cutoff_len", Data, Kind::Whole(2), Same("2048")),
    key("over_length", Data, OVER_LENGTH, by("truncate", "error")),
    key("max_samples", Data, Kind::Whole(1), Unset),
    key("val_size", Data, Kind::ShareOrCount, Same("0")),
    key("mask_history", Data, Kind::Flag, Same("false")),
    key("train_on_prompt", Data, Kind::Flag, Same("false")),
    key("enable_thinking", Data, Kind::Thinking, by("true", "false")),
    key("preserve_thinking", Data, Kind::Flag, Same("false")),
    key("default_system", Data, Kind::Text, Unset),
    key("lora_rank", Lora, Kind::Whole(1), Same("8")),
    key("lora_alpha", Lora, Kind::Positive, Unset),
    key("lora_dropout", Lora, Kind::BelowOne, Same("0")),
    key("lora_target", Lora, Kind::List, Same("all")),
    key("use_rslora", Lora, Kind::Flag, Same("false")),
    theirs("stage", Kind::Choice { now: &["sft"], later: &["pt", "rm", "ppo", "dpo", "kto"] }, Same("sft")),
    theirs("do_train", Kind::Flag, Unset),
    theirs("do_eval", Kind::Flag, Unset),
    theirs("finetuning_type", Kind::Choice { now: &["lora"], later: &["full", "freeze", "oft"] }, Same("lora")),
    theirs("optim", OPTIM, Same("adamw_torch")),
    key("per_device_train_batch_size", Train, Kind::Whole(1), Same("8")),
    key("per_device_eval_batch_size", Train, Kind::Whole(1), Same("8")),
    key("gradient_accumulation_steps", Train, Kind::Whole(1), Same("1")),
    key("learning_rate", Train, Kind::Positive, Same("5e-5")),
    key("num_train_epochs", Train, Kind::Positive, Same("3.0")),
    key("max_steps", Train, Kind::Limit, Unset),
    key("lr_scheduler_type", Train, SCHEDULER, by("linear", "cosine")),
    key("lr_scheduler_kwargs", Train, Kind::Table, Unset),
    key("warmup_ratio", Train, Kind::Share, by("0", "0.1")),
    key("warmup_steps", Train, Kind::ShareOrCount, Same("0")),
    key("weight_decay", Train, Kind::NonNegative, Same("0")),
    key("adam_beta1", Train, Kind::BelowOne, Same("0.9")),
    key("adam_beta2", Train, Kind::BelowOne, Same("0.999")),
    key("adam_epsilon", Train, Kind::Positive, Same("1e-8")),
    key("max_grad_norm", Train, Kind::NonNegative, Same("1.0")),
    key("bf16", Train, Kind::Flag, Same("false")),
    key("seed", Train, Kind::Whole(0), Same("42")),
    key("data_seed", Train, Kind::Whole(0), Unset),
    key("disable_shuffling", Train, Kind::Flag, Same("false")),
    key("shared_prefix", Train, Kind::Choice { now: &["auto", "off"], later: &[] }, Same("auto")),
    key("gradient_checkpointing", Train, CHECKPOINTING, Same("auto")),
    key("micro_batch_tokens", Train, Kind::Whole(1), Unset),
    key("eval_strategy", Train, Kind::Choice { now: &["no", "steps", "epoch"], later: &[] }, Same("no")),
    key("eval_steps", Train, Kind::Steps, Unset),
    key("early_stopping_steps", Train, Kind::Whole(1), Unset),
    key("sample_prompts", Train, Kind::Texts, Unset),
    key("eval_couplets", Train, Kind::Whole(0), Same("0")),
    key("max_seconds", Train, Kind::Positive, Unset),
    key("output_dir", Output, Kind::Text, Required),
    key("overwrite_output_dir", Output, Kind::Flag, Same("false")),
    key("logging_steps", Output, Kind::Steps, by("500", "10")),
    key("plot_loss", Output, Kind::Flag, by("false", "true")),
    key("include_num_input_tokens_seen", Output, Kind::Flag, Same("false")),
    key("save_strategy", Output, SAVE_STRATEGY, Same("steps")),
    key("save_steps", Output, Kind::Steps, by("500", "200")),
    key("save_total_limit", Output, Kind::Limit, Absent::By { llamafactory: None, toml: Some("3") }),
    key("save_only_model", Output, Kind::Flag, Same("false")),
    key("resume_from_checkpoint", Output, Kind::Resume, Unset),
    key("load_best_model_at_end", Output, Kind::Flag, Same("false")),
    key("metric_for_best_model", Output, Kind::Text, Same("eval_loss")),
    key("greater_is_better", Output, Kind::Flag, Unset),
];

const CHECKPOINTING: Kind = Kind::Choice { now: &["auto", "on", "off"], later: &[] };
const TEMPLATE: Kind = Kind::Choice { now: &["qwen3", "qwen3_nothink"], later: &[] };
const SAVE_STRATEGY: Kind = Kind::Choice { now: &["no", "steps", "epoch"], later: &["best"] };
const OVER_LENGTH: Kind = Kind::Choice { now: &["error", "drop", "truncate"], later: &[] };
const SCHEDULER: Kind = Kind::Choice { now: SchedulerType::NAMES, later: &["reduce_lr_on_plateau", "greedy"] };
/// `adamw_hf` is not among them: it places ε elsewhere, so its numbers differ.
const OPTIM: Kind = Kind::Choice {
    now: &["adamw_torch", "adamw_torch_fused"],
    later: &[
        "adamw_hf",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "adamw_torch_4bit",
        "adamw_torch_8bit",
        "adamw_apex_fused",
        "adamw_anyprecision",
        "paged_adamw",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "ademamix",
        "adafactor",
        "lion_32bit",
        "lion_8bit",
        "paged_lion_8bit",
        "paged_lion_32bit",
        "muon",
        "rmsprop",
        "sgd",
        "adagrad",
        "apollo_adamw",
        "galore_adamw",
        "lomo",
        "adalomo",
        "grokadamw",
        "schedule_free_adamw",
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::{Value, scalar};
    use std::collections::HashSet;

    fn all_names() -> impl Iterator<Item = &'static str> {
        let rest = REFUSED.iter().map(|r| r.name).chain(RENAMED.iter().map(|(old, _)| *old));
        READ.iter().map(|key| key.name).chain(rest).chain(IGNORED.iter().flat_map(|(_, names)| names.iter().copied()))
    }

    #[test]
    fn each_key_stands_once() {
        let mut seen = HashSet::new();
        for name in all_names() {
            assert!(seen.insert(name), "{name} stands twice");
            assert!(find(name).is_some(), "{name} is found");
        }
        assert!(seen.len() > 200, "{}", seen.len());
    }

    #[test]
    fn each_default_fits_its_kind() {
        for key in READ {
            let texts = match key.default {
                Absent::Same(text) => vec![text],
                Absent::By { llamafactory, toml } => [llamafactory, toml].into_iter().flatten().collect(),
                Required | Unset => vec![],
            };
            for text in texts {
                let value = key.kind.loosen(scalar(text));
                assert!(key.kind.admits(&value), "{}: default {text}", key.name);
            }
        }
    }

    #[test]
    fn off_values_are_values() {
        for refused in REFUSED {
            assert!(!refused.off.iter().any(|off| scalar(off) == Value::Other("")), "{}", refused.name);
        }
    }

    #[test]
    fn a_typo_finds_its_key() {
        for (given, want, why) in [
            ("lora_rnak", Some("lora_rank"), "two letters swapped"),
            ("learning_rat", Some("learning_rate"), "a letter missing"),
            ("Lora_Alpha", Some("lora_alpha"), "capitals"),
            ("num_epochs", None, "too far from anything"),
            ("lr", None, "short words are close to nothing"),
            ("per_device_batch_size", None, "could be two keys"),
        ] {
            assert_eq!(nearest(given), want, "{given}: {why}");
        }
    }

    #[test]
    fn families_and_old_spellings_are_known() {
        assert!(matches!(find("galore_rank"), Some(Known::Ignored(_))));
        assert_eq!(find("evaluation_strategy"), find("eval_strategy"));
        assert_eq!(find("nonsense"), None);
    }
}
