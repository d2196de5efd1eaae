//! What a run will need, settled before the weights are loaded: rows at once, what blocks keep, memory.

use super::{inputs::Inputs, verdict::Finals};
use crate::machine;
use candle_core::{DType, Device};
use couplet_train::{
    config::{GradientCheckpointing, LoraConfig, Projection, Recipe, SaveStrategy},
    error::{Error, Result},
    kernels,
    model::{Qwen3Config, qwen3::Keep},
    plan::{self, Attended, Load, Memory, Rows},
    report::Header,
    trainer::{Cut, Survey, Trainer, plan::StepPlan},
};

/// How the steps go through the model, and what that takes.
pub struct Planned {
    pub cut: Cut,
    /// The largest micro-batch of the run.
    pub load: Load,
    /// What goes through the model in all steps.
    pub survey: Survey,
    /// And in an evaluation.
    pub held_out: Rows,
    /// And of the other rows that the trained adapter is scored on.
    pub scored: Rows,
    pub memory: Memory,
    lora: LoraConfig,
    dtype: DType,
    saves: bool,
    noise: bool,
    /// What the process holds without the model.
    pub before: Option<u64>,
    /// Rows at once that would have been usual, where the card has no room for them.
    shrunk_from: Option<usize>,
}

impl Planned {
    /// Errors: it does not fit into the memory that is free.
    pub fn new(recipe: &Recipe, inputs: &Inputs) -> Result<Self> {
        Self::with_base(recipe, inputs, &inputs.model_config)
    }

    /// Of another base. Errors: it does not fit either.
    pub fn with_base(recipe: &Recipe, inputs: &Inputs, model: &Qwen3Config) -> Result<Self> {
        let device = &inputs.opened.device;
        let (on_card, usual) = (!device.is_cpu(), usual_rows(recipe, inputs, model));
        let (card, free) = (kernels::card_memory(device), free(device));
        let planned = Self::of(recipe, inputs, model, (usual, on_card), free);
        if planned.is_ok() || card.is_none() || recipe.train.micro_batch_tokens.is_some() {
            return planned;
        }
        let of = |rows| Self::of(recipe, inputs, model, (rows, on_card), free).ok();
        let fewer = plan::rows_to_try(usual).skip(1).find_map(of);
        fewer.map_or(planned, |fewer| Ok(Self { shrunk_from: Some(usual), ..fewer }))
    }

    /// Where nothing may be free.
    pub fn with_any_memory(recipe: &Recipe, inputs: &Inputs) -> Result<Self> {
        let (model, on_card) = (&inputs.model_config, !inputs.opened.device.is_cpu());
        Self::of(recipe, inputs, model, (usual_rows(recipe, inputs, model), on_card), None)
    }

    /// On a card that need not be here: as it would run with enough memory, and with the least it can do with.
    pub fn on_a_card(recipe: &Recipe, inputs: &Inputs) -> Result<[Self; 2]> {
        use GradientCheckpointing::{Auto, Off, On};
        let (model, given) = (&inputs.model_config, recipe.train.micro_batch_tokens);
        let usual = given.unwrap_or_else(|| plan::rows_on_card(model, inputs.dtype));
        let fewest = given.or_else(|| plan::rows_to_try(usual).last()).unwrap_or(usual);
        let mut frugal = recipe.clone();
        frugal.train.gradient_checkpointing = match recipe.train.gradient_checkpointing {
            Off => Auto, // gives up no more than the lean set
            Auto | On => On,
        };
        let of = |recipe: &Recipe, rows| Self::of(recipe, inputs, model, (rows, true), None);
        Ok([of(recipe, usual)?, of(&frugal, fewest)?])
    }

    /// With so many rows at once, on a card or not, in so many free bytes.
    fn of(
        recipe: &Recipe,
        inputs: &Inputs,
        model: &Qwen3Config,
        (max_rows, on_card): (usize, bool),
        free: Option<u64>,
    ) -> Result<Self> {
        let (dtype, data) = (inputs.dtype, &inputs.data);
        let cut = Cut {
            max_rows,
            // Exact only while nothing random touches the shared rows.
            share_prefix: recipe.train.shared_prefix && !recipe.is_random(),
            keep: Keep::Lean,
        };
        let survey = cut.survey(&StepPlan::of(&data.train, &recipe.train), &data.train);
        let finals = Finals::of(inputs);
        let [held_out, trained, test] = [&data.eval, &finals.train, finals.test].map(|rows| cut.evaluation(rows));
        let evaluated = held_out.1.max(trained.1).max(test.1);
        let (held_out, mut scored) = (held_out.0, trained.0);
        scored += test.0;
        let load = match inputs.missing {
            None => Load { rows: survey.largest.fed, labels: survey.largest.labels, evaluated },
            Some(_) => at_most(recipe, max_rows, evaluated > 0),
        };
        let saves = recipe.output.save_strategy != SaveStrategy::No;
        let noise = recipe.train.neftune_noise_alpha.is_some();
        let shape = plan::Shape { model, lora: &recipe.lora, dtype, saves, noise };
        let attended = match (&inputs.missing, cut.attended(&data.train, &survey.samples, [&data.eval, finals.test])) {
            // Rows that are not known may begin alike.
            (Some(_), all) if cut.share_prefix => Attended { prefix: all.longest, ..all },
            (_, attended) => attended,
        };
        let need_with = |lora: &LoraConfig, keep| {
            let shape = plan::Shape { lora, ..shape };
            if on_card { shape.memory_on_card(load, attended, keep) } else { shape.memory(load, keep) }
        };
        let (need, asked) = (|keep| need_with(&recipe.lora, keep), recipe.train.gradient_checkpointing);
        let fits = |lora: &LoraConfig| plan::keep(asked, &|keep| need_with(lora, keep), free, dtype).is_ok();
        let keep = plan::keep(asked, &need, free, dtype).map_err(|err| match inputs.existing {
            Some(_) => err, // an adapter that is continued has its rank
            None => with_rank(err, &recipe.lora, model, fits),
        })?;
        kernels::return_freed_buffers(); // what reading has left over is none of the model's
        let before = machine::resident_memory();
        let (cut, memory, lora) = (Cut { keep, ..cut }, need(keep), recipe.lora.clone());
        Ok(Self { cut, load, survey, held_out, scored, memory, lora, dtype, saves, noise, before, shrunk_from: None })
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
        if self.survey.samples.is_empty() {
            return Ok(());
        }
        trainer.rehearse(&self.survey.samples).map_err(|err| {
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

    /// What the arithmetic of the run is made of.
    pub fn shape<'a>(&'a self, model: &'a Qwen3Config) -> plan::Shape<'a> {
        plan::Shape { model, lora: &self.lora, dtype: self.dtype, saves: self.saves, noise: self.noise }
    }

    /// The highest memory of the process, where that is known; on a card, of its tensors.
    pub fn peak(&self) -> Option<u64> {
        let before = if self.memory.card > 0 { Some(0) } else { self.before };
        before.map(|before| before + self.memory.total() - self.memory.card)
    }
}

/// Adds the largest useful rank with which the run would fit, if there is one.
fn with_rank(err: Error, lora: &LoraConfig, model: &Qwen3Config, fits: impl Fn(&LoraConfig) -> bool) -> Error {
    // A rank beyond the shorter side of a weight adds nothing.
    let shorter_side = |projection: &Projection| {
        let (out, width) = model.projection(*projection);
        out.min(width)
    };
    let most = lora.lora_target.iter().map(shorter_side).max().unwrap_or(0);
    let with = |lora_rank| LoraConfig { lora_rank, ..lora.clone() };
    let Some(rank) = plan::rank_that_fits(lora.lora_rank.min(most + 1), |rank| fits(&with(rank))) else { return err };
    let [en, zh] = [false, true].map(|chinese| err.hint_text(chinese).unwrap_or_default().to_owned());
    err.hint(format!("`lora_rank = {rank}` would fit; else {en}"))
        .hint_zh(format!("`lora_rank = {rank}` 即可容纳；否则{zh}"))
}

/// The largest micro-batch that rows of a recipe can make, whatever they are.
fn at_most(recipe: &Recipe, max_rows: usize, evaluates: bool) -> Load {
    let longest = recipe.data.longest_row().max(2) - 1; // the last token is only a target
    let samples = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps;
    let rows = max_rows.max(longest);
    let of_a_step = rows.min(samples * longest);
    Load { rows: of_a_step, labels: of_a_step, evaluated: if evaluates { rows } else { 0 } }
}

/// Rows at once: the recipe's, or as many as suit the model and the kind of device.
fn usual_rows(recipe: &Recipe, inputs: &Inputs, model: &Qwen3Config) -> usize {
    let by_size = || plan::micro_batch_rows(model, inputs.dtype, &inputs.opened.device);
    recipe.train.micro_batch_tokens.unwrap_or_else(by_size)
}

/// Bytes that can still be taken on `device`, where that is known.
pub fn free(device: &Device) -> Option<u64> {
    match kernels::card_memory(device) {
        Some(memory) => Some(memory.free),
        None => machine::available_memory().filter(|_| device.is_cpu()),
    }
}
