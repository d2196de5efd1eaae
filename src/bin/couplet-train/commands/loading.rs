//! The model of a recipe, what is trained in it, and a trainer around both.

use super::{inputs::Inputs, on_card::OnCard, planned::Planned, receipt};
use couplet_train::{
    adapter::merge::merged,
    config::Recipe,
    error::Result,
    fs::fault,
    model::{Checkpoint, Params, Principal, Qwen3, lora::initial_values, params::Slot, weights::Change},
    optim::AdamW,
    plan::{Part, explained},
    trainer::{Choice, Progress, Trainer},
};
use serde_json::Value;
use std::ops::Range;

/// A trainer that writes nothing and is not stopped.
pub fn trainer<'a>(
    recipe: &'a Recipe,
    (inputs, names): (&'a Inputs, &'a [String]),
    planned: &Planned,
    (model, params, optim): (&'a Qwen3, Params, AdamW),
) -> Trainer<'a> {
    Trainer {
        model,
        params,
        optim,
        config: &recipe.train,
        train: &inputs.data.train,
        eval: &inputs.data.eval,
        dataset_names: names,
        leaks: &inputs.data.summary.leaks,
        lora_dropout: recipe.lora.lora_dropout,
        each_dataset: recipe.data.eval_on_each_dataset,
        cut: planned.cut,
        recorder: None,
        logging_steps: recipe.output.logging_steps,
        counted_tokens: recipe.output.include_num_input_tokens_seen,
        saver: None,
        choice: choice(recipe),
        stop: &|| false,
        write: None,
        progress: Progress::default(),
    }
}

/// What `probe` finds out with the model of the recipe, of which nothing is trained or written. Its values do not matter: what
/// PiSSA takes out of the base is not looked for.
pub fn try_out<T>(
    recipe: &Recipe,
    inputs: &Inputs,
    planned: &Planned,
    probe: impl FnOnce(&Trainer) -> Result<T>,
) -> Result<T> {
    let mut on_card = OnCard::new(&inputs.opened.device);
    let loading = Loading::load(recipe, inputs, |_| Ok(None), &mut on_card);
    let loading = loading.map_err(|err| on_card.explain(err, None))?;
    let names = inputs.dataset_names();
    let trainer = trainer(recipe, (inputs, &names), planned, (&loading.model, loading.params, loading.optim));
    probe(&trainer).map_err(|err| on_card.explain(err, None))
}

/// The model, what is trained in it, and what the receipt says of both.
pub struct Loading {
    pub model: Qwen3,
    pub params: Params,
    pub optim: AdamW,
    pub about: Value,
    /// What the base lacks, and how it was come by.
    pub lacking: Option<(Principal, String)>,
}

impl Loading {
    /// `lacking`: finds what the base will lack.
    pub fn load(
        recipe: &Recipe,
        inputs: &Inputs,
        lacking: impl FnOnce(&Checkpoint) -> Result<Option<(Principal, String)>>,
        on_card: &mut OnCard,
    ) -> Result<Self> {
        fault::phase("load");
        let checkpoint = Checkpoint::open(&inputs.model_dir)?;
        let (dtype, device) = (inputs.dtype, &inputs.opened.device);
        let lacking = lacking(&checkpoint)?;
        let principal = lacking.as_ref().map(|(principal, _)| principal);
        let change = |name: &str, rows: Range<usize>, value| {
            let value = merged(&inputs.merged, name, rows.clone(), value)?;
            match principal {
                Some(principal) => principal.without(name, rows, value),
                None => Ok(value),
            }
        };
        let change: Option<&Change> =
            if inputs.merged.is_empty() && principal.is_none() { None } else { Some(&change) };
        let loaded = Qwen3::load_changed(&inputs.model_config, &checkpoint, change, &recipe.lora, (dtype, device));
        let (model, layout) = loaded.map_err(|err| explained(err, Part::Weights(dtype)))?;
        on_card.mark();
        let initial = |slot: &Slot| match (&inputs.existing, principal) {
            (Some(existing), _) => existing.values(slot),
            (None, Some(principal)) => principal.values(slot),
            (None, None) => Ok(initial_values(slot, recipe.train.seed)),
        };
        let mut params = Params::new(layout, dtype, device, initial).map_err(|err| explained(err, Part::Adapter))?;
        match &inputs.existing {
            Some(existing) => existing.refuse_strangers(params.slots().map(|(_, slot)| slot))?,
            None => params.begin_magnitudes().map_err(|err| explained(err, Part::Adapter))?,
        }
        let optim = Trainer::optimizer(&recipe.train, &params)?;
        on_card.mark();
        let about = receipt::facts(recipe, inputs, (&checkpoint, principal))?;
        Ok(Self { model, params, optim, about, lacking })
    }
}

fn choice(recipe: &Recipe) -> Choice {
    Choice {
        load_best: recipe.output.load_best_model_at_end,
        metric: recipe.output.metric_for_best_model.clone(),
        greater_is_better: recipe.output.greater_is_better,
        patience: recipe.train.early_stopping_steps,
    }
}
