//! What `run.json` says besides the recipe: what a run was made from, what was planned, and what it came to.

use super::{expected::Expected, header::device_line, inputs::Inputs, on_card::OnCard, planned::Planned};
use crate::machine;
use couplet_train::{
    adapter::peft,
    config::Recipe,
    error::{Error, Result},
    model::{Checkpoint, Principal},
    report::{Outcome, Verdict},
    trainer::checkpoint,
};
use serde_json::{Value, json};

/// What the run is made from: digests, device, data, and how the model is spoken to.
pub fn facts(
    recipe: &Recipe,
    inputs: &Inputs,
    (checkpoint, principal): (&Checkpoint, Option<&Principal>),
) -> Result<Value> {
    let merged = inputs.merged.iter().map(peft::Existing::whole_digest).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "digests": {
            "base": checkpoint.digest(),
            "adapter": inputs.existing.as_ref().map(peft::Existing::digest),
            "merged": (!merged.is_empty()).then(|| merged.join(" ")),
            "pissa": principal.map(Principal::digest),
            "data": inputs.data.summary.digest,
            "tokenizer": inputs.tokenizer.digest(),
            "binary": machine::binary_digest(),
        },
        "device": device_line(&inputs.opened, inputs.dtype),
        "speak": {
            "template": recipe.data.template,
            "enable_thinking": recipe.data.enable_thinking,
            "default_system": recipe.data.default_system,
            "instruction": inputs.data.summary.instruction,
            "joined_by": "\n",
            "punctuation": inputs.data.summary.punctuation,
        },
        "merged": recipe.model.merged(),
        "data": inputs.data.summary,
        "test_data": inputs.test.as_ref().map(|test| &test.summary),
    }))
}

/// What a continuation must find unchanged.
pub fn identity(recipe: &Recipe, about: &Value, recorded: bool) -> Result<Value> {
    let config = serde_json::to_value(recipe).map_err(|err| Error::run(err.to_string()))?;
    let device = match (recorded, about["device"].as_str()) {
        (true, Some(device)) => json!(format!("{device}, recorded passes")), // of other last bits
        _ => about["device"].clone(),
    };
    Ok(checkpoint::identity(config, about["digests"].clone(), device))
}

/// What was planned beside what was measured, and the results.
pub fn measured(
    outcome: &Outcome,
    verdict: Option<&Verdict>,
    (planned, expected): (&Planned, Option<Expected>),
    on_card: &OnCard,
) -> Value {
    let finished = outcome.finished.as_ref();
    json!({
        "predicted": {
            "peak_memory_bytes": planned.peak(),
            "before_the_model": planned.before,
            "train_seconds": expected.map(|expected| expected.seconds),
            "memory": planned.memory,
        },
        "measured": {
            "train_seconds": finished.map(|f| f.runtime),
            "peak_memory_bytes": outcome.compared.as_ref().and_then(|compared| compared.measured.peak_memory_bytes),
            "process_peak_memory_bytes": machine::peak_memory(),
            "card": on_card.measured(),
        },
        "results": {
            "steps": finished.map(|f| f.step),
            "total_steps": finished.map(|f| f.total_steps),
            "stopped_early": outcome.stopped_early().is_some(),
            "adapter_step": outcome.adapter_step(),
            "best_metric": outcome.chosen().map(|(_, metric)| metric),
            "train_loss": finished.map(|f| f.train_loss),
            "eval_loss_before": outcome.loss_before(),
            "eval_loss": outcome.loss_after(),
            "verdict": verdict,
        },
    })
}
