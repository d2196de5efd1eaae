//! What a run will need, settled before the weights are loaded: rows at once, what blocks keep, memory.

use super::inputs::Inputs;
use crate::machine;
use couplet_train::{
    config::{Recipe, SaveStrategy},
    error::{Error, Result},
    kernels,
    model::qwen3::Keep,
    plan::{self, Load, Memory},
    report::Header,
    trainer::{Cut, Trainer, plan::StepPlan},
};
use serde_json::{Value, json};

/// How the steps go through the model, and what that takes.
pub struct Planned {
    pub cut: Cut,
    /// The largest micro-batch of the run.
    pub load: Load,
    /// Its samples.
    samples: Vec<usize>,
    pub memory: Memory,
    /// What the process holds without the model.
    before: Option<u64>,
    /// Rows at once that would have been usual, where the card has no room for them.
    shrunk_from: Option<usize>,
}

impl Planned {
    /// Errors: it does not fit into the memory that is free.
    pub fn new(recipe: &Recipe, inputs: &Inputs) -> Result<Self> {
        let (device, usual) = (&inputs.opened.device, usual_rows(recipe, inputs));
        let card = kernels::card_memory(device);
        let free = match card {
            Some(memory) => Some(memory.free),
            None => machine::available_memory().filter(|_| device.is_cpu()),
        };
        let planned = Self::of(recipe, inputs, usual, free);
        if planned.is_ok() || card.is_none() || recipe.train.micro_batch_tokens.is_some() {
            return planned;
        }
        let fewer = plan::rows_to_try(usual).skip(1).find_map(|rows| Self::of(recipe, inputs, rows, free).ok());
        fewer.map_or(planned, |fewer| Ok(Self { shrunk_from: Some(usual), ..fewer }))
    }

    /// With so many rows at once, in so many free bytes.
    fn of(recipe: &Recipe, inputs: &Inputs, max_rows: usize, free: Option<u64>) -> Result<Self> {
        let (model, dtype, data) = (&inputs.model_config, inputs.dtype, &inputs.data);
        let cut = Cut {
            max_rows,
            // Exact only while nothing random touches the shared rows.
            share_prefix: recipe.train.shared_prefix && !recipe.is_random(),
            keep: Keep::Lean,
        };
        let largest = cut.largest(&StepPlan::of(&data.train, &recipe.train), &data.train)?;
        let (samples, load) = largest.unwrap_or_default();
        let load = Load { evaluated: cut.largest_evaluation(&data.eval), ..load };
        let saves = recipe.output.save_strategy != SaveStrategy::No;
        let shape = plan::Shape { model, lora: &recipe.lora, dtype, saves };
        let attended = cut.attended(&data.train, &samples, &data.eval);
        let need = |keep| match inputs.opened.device.is_cpu() {
            true => shape.memory(load, keep),
            false => shape.memory_on_card(load, attended, keep),
        };
        let keep = plan::keep(recipe.train.gradient_checkpointing, &need, free)?;
        let before = machine::resident_memory();
        Ok(Self { cut: Cut { keep, ..cut }, load, samples, memory: need(keep), before, shrunk_from: None })
    }

    /// Says that the card's free memory decided about the cut.
    pub fn notice(&self, header: &mut Header) {
        let (Some(usual), rows) = (self.shrunk_from, self.cut.max_rows) else { return };
        header.notice(
            format!(
                "{rows} tokens at once and not {usual}, for which the card has no room; the last bits depend on it: \
                 micro_batch_tokens={rows} keeps it so"
            ),
            format!("显存不足，同时处理的词元由 {usual} 降为 {rows}，结果末位可能因此不同；micro_batch_tokens={rows} 可固定此值"),
        );
    }

    /// The largest micro-batch forward and backward, for nothing but to see that it can be done.
    pub fn rehearse(&self, trainer: &Trainer) -> Result<()> {
        if self.samples.is_empty() {
            return Ok(());
        }
        trainer.rehearse(&self.samples).map_err(|err| {
            let parts = self.memory.describe();
            if err.out_of_memory().is_some() {
                return err.and(format!("planned: {parts}"));
            }
            Error::run(format!("the largest micro-batch cannot be computed: {err}; planned: {parts}"))
                .hint(
                    "if memory is short: a smaller `micro_batch_tokens`, `gradient_checkpointing = \"on\"`, a smaller model",
                )
                .hint_zh(
                    "若内存不足：请减小 `micro_batch_tokens`，设 `gradient_checkpointing = \"on\"`，或改用更小的模型",
                )
        })
    }

    /// For the receipt. On a card the peak is that of its tensors.
    pub fn predicted(&self) -> Value {
        let before = if self.memory.card > 0 { Some(0) } else { self.before };
        json!({
            "peak_memory_bytes": before.map(|before| before + self.memory.total() - self.memory.card),
            "before_the_model": self.before,
            "memory": self.memory,
        })
    }
}

/// Rows at once: the recipe's, or as many as suit the model and the kind of device.
fn usual_rows(recipe: &Recipe, inputs: &Inputs) -> usize {
    let by_size = || plan::micro_batch_rows(&inputs.model_config, inputs.dtype, &inputs.opened.device);
    recipe.train.micro_batch_tokens.unwrap_or_else(by_size)
}
