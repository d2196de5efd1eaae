//! What a recipe must hold across its sections, and how two recipes differ.

use super::sections::{EvalStrategy, Recipe};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

impl Recipe {
    /// Whether rows are held out.
    pub fn has_eval_data(&self) -> bool {
        !self.data.eval_dataset.is_empty() || self.data.val_size > 0.0
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
        Ok(())
    }

    /// The leaf keys whose values differ from an earlier recipe as `run.json` holds it; `null` for a key that one side lacks.
    pub fn diff(&self, other: &Value) -> Vec<Difference> {
        let (old, new) = (leaves(other), leaves(&serde_json::to_value(self).unwrap_or_default()));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let value = |side: &Map<String, Value>, name: &String| side.get(name).cloned().unwrap_or_default();
        names
            .into_iter()
            .map(|name| Difference { key: name.clone(), old: value(&old, name), new: value(&new, name) })
            .filter(|difference| difference.old != difference.new)
            .collect()
    }
}

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
