//! What a run will need, settled before the weights are loaded: rows at once, what blocks keep, memory.

use super::inputs::Inputs;
use crate::machine;
use couplet_train::{
    config::{Recipe, SaveStrategy},
    error::{Error, Result},
    model::qwen3::Keep,
    plan::{self, Load, Memory},
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
}

impl Planned {
    /// Errors: it does not fit into the memory that is free.
    pub fn new(recipe: &Recipe, inputs: &Inputs) -> Result<Self> {
        let (model, dtype, device) = (&inputs.model_config, inputs.dtype, &inputs.opened.device);
        let by_size = || plan::micro_batch_rows(model, dtype, device);
        let cut = Cut {
            max_rows: recipe.train.micro_batch_tokens.unwrap_or_else(by_size),
            // Exact only while nothing random touches the shared rows.
            share_prefix: recipe.train.shared_prefix && recipe.lora.lora_dropout == 0.0,
            keep: Keep::Lean,
        };
        let largest = cut.largest(&StepPlan::new(inputs.data.train.len(), &recipe.train), &inputs.data.train)?;
        let (samples, load) = largest.unwrap_or_default();
        let load = Load { evaluated: cut.largest_evaluation(&inputs.data.eval), ..load };
        let saves = recipe.output.save_strategy != SaveStrategy::No;
        let shape = plan::Shape { model, lora: &recipe.lora, dtype, saves };
        let free = machine::available_memory().filter(|_| device.is_cpu());
        let keep = plan::keep(recipe.train.gradient_checkpointing, &shape, load, free)?;
        let (memory, before) = (shape.memory(load, keep), machine::resident_memory());
        Ok(Self { cut: Cut { keep, ..cut }, load, samples, memory, before })
    }

    /// The largest micro-batch forward and backward, for nothing but to see that it can be done.
    pub fn rehearse(&self, trainer: &Trainer) -> Result<()> {
        if self.samples.is_empty() {
            return Ok(());
        }
        trainer.rehearse(&self.samples).map_err(|err| {
            let parts = self.memory.describe();
            Error::run(format!("the largest micro-batch cannot be computed: {err}; planned: {parts}"))
                .hint(
                    "if memory is short: a smaller `micro_batch_tokens`, `gradient_checkpointing = \"on\"`, a smaller model",
                )
                .hint_zh(
                    "若内存不足：请减小 `micro_batch_tokens`，设 `gradient_checkpointing = \"on\"`，或改用更小的模型",
                )
        })
    }

    /// For the receipt.
    pub fn predicted(&self) -> Value {
        json!({
            "peak_memory_bytes": self.before.map(|before| before + self.memory.total()),
            "before_the_model": self.before,
            "memory": self.memory,
        })
    }
}
