//! `README.md` of an adapter: what it is, how it was made, how well it did.

use super::{Outcome, lang::duration};
use crate::{
    config::{ModelConfig, Recipe, TemplateName, scheduler},
    trainer::event::{EvalPhase, Evaluated},
};
use serde::Serialize;
use std::fmt::Display;

/// The model card as Markdown with the YAML front matter that the Hugging Face hub reads.
pub fn model_card(recipe: &Recipe, outcome: &Outcome) -> String {
    let base = &recipe.model.model_name_or_path;
    let name = recipe.output.output_dir.file_name().map_or("adapter".into(), |name| name.to_string_lossy());
    let data: Vec<_> = recipe.data.dataset.iter().map(|name| format!("`{name}`")).collect();
    format!(
        "---\n\
         base_model: {}\n\
         library_name: peft\n\
         license: other\n\
         tags:\n\
         - couplet-train\n\
         - lora\n\
         ---\n\n\
         # {name}\n\n\
         A LoRA adapter for `{base}`, trained on {} with couplet-train {}.\n\n\
         ## Use\n\n\
         {}\n\
         {}\n\n\
         ## Training\n\n{}\n\
         ## Results\n\n{}",
        yaml(base),
        data.join(", "),
        env!("CARGO_PKG_VERSION"),
        loading_advice(recipe),
        prompt_advice(recipe),
        table(["setting", "value"], settings(recipe)),
        results(recipe, outcome),
    )
}

/// What the adapter is loaded on top of.
fn loading_advice(recipe: &Recipe) -> String {
    let merged = recipe.model.merged();
    match (recipe.lora.pissa.pissa_init, merged.is_empty()) {
        (false, _) => merged_advice(&recipe.model),
        (true, true) => pissa_advice(recipe),
        (true, false) => format!("{} {}", merged_advice(&recipe.model), pissa_advice(recipe)),
    }
}

/// What an adapter that PiSSA began needs besides the base.
fn pissa_advice(recipe: &Recipe) -> String {
    let way_out = match recipe.lora.pissa.pissa_convert {
        true => format!(
            "**Take `pissa_converted/` for them**, a plain LoRA of rank {} over the whole base.",
            2 * recipe.lora.lora_rank
        ),
        false => "For them train with `pissa_convert: true`, or export the merged model.".into(),
    };
    format!(
        "It began by PiSSA and fits only the base without what `pissa_init/` holds. couplet-train reads both; other programs \
         read this folder wrongly or, as PEFT, look for the singular values once more. {way_out}"
    )
}

fn merged_advice(model: &ModelConfig) -> String {
    let merged: Vec<String> = model.merged().iter().map(|dir| format!("`{}`", dir.display())).collect();
    if merged.is_empty() {
        return "PEFT loads this folder on top of the base model; LlamaFactory takes it as `adapter_name_or_path`."
            .into();
    }
    format!(
        "It was trained over the base with {} merged into it, and is nothing without: LlamaFactory takes them all as \
         `adapter_name_or_path`, this folder last.",
        merged.join(", then ")
    )
}

/// How the prompt must look for the adapter to meet what it was trained on.
fn prompt_advice(recipe: &Recipe) -> &'static str {
    match (recipe.data.template, recipe.data.enable_thinking) {
        (TemplateName::Qwen3Nothink, _) => {
            "It was trained with template `qwen3_nothink`: no thinking block in the prompt."
        }
        (TemplateName::Qwen3, Some(true)) => {
            "It was trained with template `qwen3`: the model writes the (empty) thinking block itself."
        }
        (TemplateName::Qwen3, _) => {
            "It was trained with template `qwen3` and thinking off: ask with `enable_thinking=false`."
        }
    }
}

fn settings(recipe: &Recipe) -> Vec<[String; 2]> {
    let (lora, train, data) = (&recipe.lora, &recipe.train, &recipe.data);
    let targets: Vec<_> = lora.lora_target.iter().map(|target| target.name()).collect();
    let length = match train.max_steps {
        Some(steps) => row("max_steps", steps),
        None => row("num_train_epochs", train.num_train_epochs),
    };
    let warmup = match train.warmup_steps {
        0 => row("warmup_ratio", train.warmup_ratio),
        steps => row("warmup_steps", steps),
    };
    let kwargs = scheduler::in_words(&train.lr_scheduler_kwargs);
    let noise = train.neftune_noise_alpha.map(|alpha| row("neftune_noise_alpha", alpha));
    let mut rows = vec![
        row("lora_rank", lora.lora_rank),
        row("lora_alpha", lora.lora_alpha),
        row("lora_dropout", lora.lora_dropout),
        row("lora_target", targets.join(", ")),
        row("use_dora", lora.use_dora),
        row("use_rslora", lora.use_rslora),
        row("template", word(data.template)),
        row("cutoff_len", data.cutoff_len),
        row("learning_rate", scheduler::peak_in_words(train)),
        row("lr_scheduler_type", format!("{}{kwargs}", train.lr_scheduler_type.name())),
        warmup,
        row("per_device_train_batch_size", train.per_device_train_batch_size),
        row("gradient_accumulation_steps", train.gradient_accumulation_steps),
        row("samples per step", train.per_device_train_batch_size * train.gradient_accumulation_steps),
        length,
        row(
            "optimizer",
            format!("AdamW, β = ({}, {}), ε = {:e}", train.adam_beta1, train.adam_beta2, train.adam_epsilon),
        ),
        row("weight_decay", train.weight_decay),
        row("max_grad_norm", train.max_grad_norm),
        row("precision", if train.bf16 { "bf16 base, f32 adapter" } else { "f32" }),
        row("seed", train.seed),
    ];
    rows.extend(noise);
    if lora.pissa.pissa_init {
        rows.push(row("pissa_iter", lora.pissa.pissa_iter));
    }
    rows
}

/// Losses are in nats per supervised token.
fn results(recipe: &Recipe, outcome: &Outcome) -> String {
    let mut text = String::new();
    if let Some(end) = &outcome.finished {
        text += &format!(
            "Training loss {:.4} (mean of {} steps), {} of training.\n",
            end.train_loss,
            end.step,
            duration(end.runtime)
        );
    }
    if let Some((step, of)) = outcome.stopped_early() {
        text += &format!(
            "\nStopped early after step {step} of {of}: no better evaluation came (`early_stopping_steps`).\n"
        );
    }
    if let Some((step, value)) = outcome.chosen() {
        let metric = &recipe.output.metric_for_best_model;
        text += &format!("\nThe adapter is that of step {step}, the best evaluation (`{metric}` {value:.4}).\n");
    }
    for leaks in &outcome.leaks {
        text += &format!("\nLeaks: {leaks}.\n");
    }
    if !outcome.evaluations.is_empty() {
        text.push('\n');
        text += &table(["step", "epoch", "held-out loss"], outcome.evaluations.iter().map(evaluation));
    }
    text
}

fn evaluation(e: &Evaluated) -> [String; 3] {
    let when = match e.when {
        EvalPhase::Before => " (base model)",
        EvalPhase::During => "",
        EvalPhase::Final => " (end)",
    };
    [format!("{}{when}", e.step), format!("{:.2}", e.epoch), format!("{:.4}", e.loss)]
}

fn row(name: &str, value: impl Display) -> [String; 2] {
    [name.to_owned(), value.to_string()]
}

fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(N));
    for row in rows {
        text += &format!("| {} |\n", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    text
}

/// How the value is written in a config.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(err) => err.to_string(),
    }
}

/// A YAML scalar: as it stands where that is safe, else quoted (JSON's quotes are YAML's).
fn yaml(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._/-".contains(c);
    let safe = text.starts_with(|c: char| c.is_alphanumeric() || c == '/' || c == '.') && text.chars().all(plain);
    if safe { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::{evaluated, finished, recipe};
    use std::path::Path;

    fn outcome() -> Outcome {
        let evaluations = vec![
            evaluated(0, 10, 5.0, EvalPhase::Before),
            evaluated(5, 10, 4.0, EvalPhase::During),
            evaluated(10, 10, 3.5, EvalPhase::Final),
        ];
        Outcome {
            evaluations,
            first_loss: None,
            losses: vec![],
            leaks: vec!["none of 9 held-out rows".into()],
            finished: Some(finished(10, 1.0)),
            compared: None,
        }
    }

    #[test]
    fn the_card_says_base_settings_and_results() {
        let card = model_card(&recipe(Path::new("outputs/tiny")), &outcome());
        for line in [
            "base_model: Qwen/Qwen3-0.6B",
            "library_name: peft",
            "- couplet-train",
            "# tiny",
            "A LoRA adapter for `Qwen/Qwen3-0.6B`, trained on `couplets` with couplet-train 0.1.0.",
            "| lora_target | gate_proj, up_proj, down_proj |",
            "| learning_rate | 1e-5 |",
            "| lr_scheduler_type | cosine |",
            "| num_train_epochs | 2.5 |",
            "| 0 (base model) | 0.00 | 5.0000 |",
            "| 5 | 0.50 | 4.0000 |",
            "| 10 (end) | 1.00 | 3.5000 |",
            "Leaks: none of 9 held-out rows.",
            "Training loss 3.5000 (mean of 10 steps), 0:00:20 of training.",
        ] {
            assert!(card.lines().any(|l| l == line), "{line}\nis not in\n{card}");
        }
    }

    #[test]
    fn the_card_says_whose_adapter_it_is() {
        let whole = model_card(&recipe(Path::new("o")), &outcome());
        assert!(!whole.contains("early") && !whole.contains("The adapter is that"), "{whole}");
        let mut early = outcome();
        let end = early.finished.as_mut().unwrap();
        (end.total_steps, end.best) = (40, Some((5, 4.0)));
        let card = model_card(&recipe(Path::new("o")), &early);
        for line in [
            "Stopped early after step 10 of 40: no better evaluation came (`early_stopping_steps`).",
            "The adapter is that of step 5, the best evaluation (`eval_loss` 4.0000).",
        ] {
            assert!(card.lines().any(|l| l == line), "{line}\nis not in\n{card}");
        }
    }

    #[test]
    fn the_front_matter_is_yaml() {
        for base in ["Qwen/Qwen3-0.6B", "./models/base", "C:\\models\\a: b", "- x", "模型/a #1"] {
            let mut recipe = recipe(Path::new("o"));
            recipe.model.model_name_or_path = base.into();
            let card = model_card(&recipe, &Outcome::default());
            let front = card.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap();
            let front: serde_json::Value = serde_saphyr::from_str(front).unwrap();
            assert_eq!(front["base_model"], base);
            assert_eq!(front["tags"], serde_json::json!(["couplet-train", "lora"]));
        }
    }

    #[test]
    fn the_prompt_advice_follows_template_and_thinking() {
        for (template, thinking, want) in [
            (TemplateName::Qwen3, Some(true), "writes the (empty) thinking block itself"),
            (TemplateName::Qwen3, Some(false), "enable_thinking=false"),
            (TemplateName::Qwen3, None, "enable_thinking=false"),
            (TemplateName::Qwen3Nothink, Some(true), "no thinking block"),
        ] {
            let mut recipe = recipe(Path::new("o"));
            (recipe.data.template, recipe.data.enable_thinking) = (template, thinking);
            assert!(prompt_advice(&recipe).contains(want), "{template:?} {thinking:?}");
        }
    }
}
