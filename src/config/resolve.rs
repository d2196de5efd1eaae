//! What a recipe must hold across its sections, and how two recipes differ.

use super::interval::Interval;
use super::sections::{
    COUPLET_PASS, Dialect, EVAL_METRICS, EvalStrategy, LoraConfig, MixStrategy, Pissa, Recipe, SaveStrategy,
};
use super::{Format, from_str};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::{cell::LazyCell, collections::BTreeSet, path::Path};

/// [`EVAL_METRICS`], and with `accuracy` and of `each` of the data sets `names` those that LlamaFactory has then.
pub(super) fn metrics(names: &[String], each: bool, accuracy: bool) -> Vec<String> {
    let names = names.iter().filter(|_| each);
    let losses = names.clone().map(|name| format!("eval_{name}_loss"));
    let shares = std::iter::once("eval_accuracy".to_owned()).chain(names.map(|name| format!("eval_{name}_accuracy")));
    EVAL_METRICS.map(str::to_owned).into_iter().chain(losses).chain(shares.filter(|_| accuracy)).collect()
}

impl Recipe {
    /// Whether rows are held out.
    pub fn has_eval_data(&self) -> bool {
        !self.data.eval_dataset.is_empty() || self.data.val_size > 0.0
    }

    /// The names of the numbers that its evaluations give.
    pub fn metrics(&self) -> Vec<String> {
        metrics(&self.data.eval_dataset, self.data.eval_on_each_dataset, self.train.compute_accuracy)
    }

    /// Whether training draws random numbers for every row, so that a row of one sample cannot stand for that of another.
    pub fn is_random(&self) -> bool {
        self.lora.lora_dropout > 0.0 || self.train.neftune_noise_alpha.is_some()
    }

    /// Refuses combinations that LlamaFactory refuses too. Errors name the keys, not the place: they belong to no one line.
    pub fn validate(&self) -> Result<()> {
        if self.data.val_size > 0.0 && !self.data.eval_dataset.is_empty() {
            return Err(Error::input("`val_size` and `eval_dataset` both say which rows are held out")
                .hint("keep one of the two")
                .hint_zh("请只保留一个"));
        }
        if self.data.mask_history && self.data.train_on_prompt {
            return Err(Error::input(
                "`mask_history` trains only the last answer, `train_on_prompt` trains everything",
            )
            .hint("keep one of the two")
            .hint_zh("请只保留一个"));
        }
        if self.train.eval_strategy != EvalStrategy::No && !self.has_eval_data() {
            return Err(Error::input("`eval_strategy` asks for evaluation, but no rows are held out")
                .hint("give `eval_dataset` or `val_size`, or set `eval_strategy` to \"no\"")
                .hint_zh("请设置 `eval_dataset` 或 `val_size`，或把 `eval_strategy` 设为 \"no\""));
        }
        for (key, is_set) in
            [("sample_prompts", !self.train.sample_prompts.is_empty()), ("eval_couplets", self.train.eval_couplets > 0)]
        {
            if is_set && !self.has_eval_data() {
                return Err(Error::input(format!("`{key}` is answered at evaluations, but no rows are held out"))
                    .hint(format!("give `eval_dataset` or `val_size`, or remove `{key}`"))
                    .hint_zh(format!("请设置 `eval_dataset` 或 `val_size`，或删除 `{key}`")));
            }
        }
        self.lora.refuse_pissa_of_dora()?;
        self.validate_mix()?;
        self.validate_best()
    }

    /// As LlamaFactory: shares only to interleave with, and one for every data set.
    fn validate_mix(&self) -> Result<()> {
        let (data, shares) = (&self.data, self.data.interleave_probs.len());
        if shares == 0 {
            return Ok(());
        }
        if data.mix_strategy == MixStrategy::Concat {
            return Err(Error::input("`interleave_probs` says how data sets are interleaved, but they are joined")
                .hint("set `mix_strategy` to \"interleave_under\" or \"interleave_over\", or remove `interleave_probs`")
                .hint_zh(
                    "请把 `mix_strategy` 设为 \"interleave_under\" 或 \"interleave_over\"，或删除 `interleave_probs`",
                ));
        }
        let other =
            [&data.dataset, &data.eval_dataset].into_iter().find(|names| !names.is_empty() && names.len() != shares);
        match other {
            None => Ok(()),
            Some(names) => {
                Err(Error::input(format!("`interleave_probs` has {shares} shares for {} data sets", names.len()))
                    .hint("give one share for every data set")
                    .hint_zh("请为每个数据集各写一个概率"))
            }
        }
    }

    /// The best model can be chosen only among evaluated checkpoints.
    fn validate_best(&self) -> Result<()> {
        let (train, output) = (&self.train, &self.output);
        let evaluates = train.eval_strategy != EvalStrategy::No;
        if train.early_stopping_steps.is_some() && !evaluates {
            return Err(Error::input("`early_stopping_steps` counts evaluations, but there are none")
                .hint("set `eval_strategy` to \"steps\" or \"epoch\", or remove `early_stopping_steps`")
                .hint_zh("请把 `eval_strategy` 设为 \"steps\" 或 \"epoch\"，或删除 `early_stopping_steps`"));
        }
        if output.metric_for_best_model == COUPLET_PASS && train.eval_couplets == 0 {
            return Err(Error::input(format!(
                "`metric_for_best_model` is `{COUPLET_PASS}`, but no couplets are written"
            ))
            .hint("set `eval_couplets` to a number of held-out rows, for example 100")
            .hint_zh("请把 `eval_couplets` 设为验证集的条数，例如 100"));
        }
        if !output.load_best_model_at_end {
            return Ok(());
        }
        if !evaluates {
            return Err(Error::input("`load_best_model_at_end` chooses by evaluations, but there are none")
                .hint("set `eval_strategy` to the value of `save_strategy`, or remove `load_best_model_at_end`")
                .hint_zh("请把 `eval_strategy` 设为与 `save_strategy` 相同，或删除 `load_best_model_at_end`"));
        }
        let alike = match output.save_strategy {
            SaveStrategy::No => false,
            SaveStrategy::Steps => train.eval_strategy == EvalStrategy::Steps,
            SaveStrategy::Epoch => train.eval_strategy == EvalStrategy::Epoch,
        };
        if !alike {
            return Err(Error::input(
                "`load_best_model_at_end` needs `save_strategy` and `eval_strategy` to be the same",
            )
            .hint("set both to \"steps\" or both to \"epoch\", or remove `load_best_model_at_end`")
            .hint_zh("请把两者都设为 \"steps\" 或都设为 \"epoch\"，或删除 `load_best_model_at_end`"));
        }
        let (save, eval) = (output.save_steps, train.eval_steps);
        if output.save_strategy != SaveStrategy::Steps || save.is_multiple_of(eval) == Some(true) {
            return Ok(());
        }
        let next = match (save, eval) {
            (Interval::Steps(save), Interval::Steps(eval)) => save.next_multiple_of(eval).to_string(),
            _ => eval.to_string(),
        };
        Err(Error::input(format!(
            "`load_best_model_at_end` needs `save_steps` ({save}) to be a multiple of `eval_steps` ({eval})"
        ))
        .hint(format!("set `save_steps` to {next}, or remove `load_best_model_at_end`"))
        .hint_zh(format!("请把 `save_steps` 设为 {next}，或删除 `load_best_model_at_end`")))
    }

    /// The leaf keys whose values differ from an earlier recipe as `run.json` holds it; `null` for a key that one side lacks.
    ///
    /// A key that only a section of the earlier recipe lacks is no difference while it has its default: the version that wrote it
    /// did not know the key, and did what the default does.
    pub fn diff(&self, other: &Value) -> Vec<Difference> {
        let this = serde_json::to_value(self).unwrap_or_default();
        let (old, new) = (leaves(other), leaves(&this));
        let plain = LazyCell::new(|| leaves(&plain(self.dialect)));
        let unknown_then = |name: &String| {
            let home = this.as_object().into_iter().flatten().find(|(_, section)| section.get(name).is_some());
            !old.contains_key(name)
                && home.is_some_and(|(section, _)| other[section].is_object())
                && plain.get(name) == new.get(name)
        };
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let value = |side: &Map<String, Value>, name: &String| side.get(name).cloned().unwrap_or_default();
        names
            .into_iter()
            .map(|name| Difference { key: name.clone(), old: value(&old, name), new: value(&new, name) })
            .filter(|difference| difference.old != difference.new && !unknown_then(&difference.key))
            .collect()
    }

    /// The differences that forbid going on with a run that began as `old`: all but those of [`MAY_CHANGE`].
    pub fn changes_that_matter(&self, old: &Value) -> Vec<Difference> {
        let mut changes = self.diff(old);
        changes.retain(|change| !MAY_CHANGE.contains(&change.key.as_str()));
        changes
    }
}

impl LoraConfig {
    /// Errors: DoRA that begins by PiSSA or is converted. A plain LoRA of twice the rank has no place for magnitudes; PEFT drops them.
    pub fn refuse_pissa_of_dora(&self) -> Result<()> {
        let Pissa { pissa_init, pissa_convert, .. } = self.pissa;
        if !(self.use_dora && (pissa_init || pissa_convert)) {
            return Ok(());
        }
        let key = if pissa_init { "pissa_init" } else { "pissa_convert" };
        Err(Error::input(format!(
            "`{key}` and `use_dora` do not go together: what is converted would lose the magnitudes"
        ))
        .hint("keep one of the two")
        .hint_zh("请只保留一个"))
    }
}

/// Keys that a resumed run may answer differently than its beginning did.
///
/// How long it trains; when it logs, plots, evaluates, saves, chooses the best and stops; where it writes; where base, adapter
/// and data lie, whose digests decide; where it runs. The last group changes no result but, by the order of sums, perhaps its
/// last bits. `dialect` is only where a default came from.
pub const MAY_CHANGE: &[&str] = &[
    "num_train_epochs",
    "max_steps",
    "logging_steps",
    "plot_loss",
    "include_num_input_tokens_seen",
    "eval_strategy",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_steps",
    "compute_accuracy",
    "eval_on_each_dataset",
    "sample_prompts",
    "eval_couplets",
    "test_dataset",
    "max_seconds",
    "pissa_convert",
    "resume_from_checkpoint",
    "overwrite_output_dir",
    "output_dir",
    "model_name_or_path",
    "model_revision",
    "cache_dir",
    "adapter_name_or_path",
    "dataset_dir",
    "dialect",
    "device",
    "micro_batch_tokens",
    "gradient_checkpointing",
    "shared_prefix",
];

/// Keys without effect where an adapter is continued: it has its own shape and keeps it.
pub const LORA_SHAPE: [&str; 8] =
    ["lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_dora", "use_rslora", "pissa_init", "pissa_iter"];

/// A key that two recipes answer differently.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The leaf key.
    pub key: String,
    /// What the earlier recipe says.
    pub old: Value,
    /// What this one says.
    pub new: Value,
}

impl Difference {
    /// `key: OLD there, NEW now`, where `there` is the word for the earlier one.
    pub fn told(&self, there: &str) -> String {
        let said = |value: &Value| if value.is_null() { "not set".to_owned() } else { value.to_string() };
        format!("{}: {} {there}, {} now", self.key, said(&self.old), said(&self.new))
    }
}

/// The recipe of a config that says only what must be said: every other key has its default.
fn plain(dialect: Dialect) -> Value {
    let (format, text) = match dialect {
        Dialect::Toml => (
            Format::Toml,
            "[model]\nmodel_name_or_path = \"m\"\n[data]\ndataset = [\"d\"]\n[output]\noutput_dir = \"o\"\n",
        ),
        Dialect::LlamaFactory => (
            Format::Yaml,
            "model_name_or_path: m\nstage: sft\ndo_train: true\ndataset: d\ntemplate: qwen3\noutput_dir: o\n",
        ),
    };
    let loaded = from_str(text, format, Path::new("defaults"), &[]);
    loaded.ok().and_then(|loaded| serde_json::to_value(loaded.recipe).ok()).unwrap_or_default()
}

/// The keys of all sections side by side: each has one home, so none hides another.
fn leaves(recipe: &Value) -> Map<String, Value> {
    let mut flat = Map::new();
    for (name, value) in recipe.as_object().into_iter().flatten() {
        match value {
            Value::Object(section) => flat.extend(section.clone()),
            leaf => drop(flat.insert(name.clone(), leaf.clone())),
        }
    }
    flat
}
