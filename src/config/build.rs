//! Checked settings → a [`Recipe`], one function a section.

use super::{
    full_width,
    interval::Interval,
    keys,
    resolve::metrics,
    scheduler,
    sections::{
        COUPLET_PASS, CountedTokens, DataConfig, DeviceChoice, EvalStrategy, GradientCheckpointing, LoraConfig,
        MixStrategy, ModelConfig, OnBadRow, OutputConfig, OverLength, Pissa, Projection, Recipe, Resume,
        SamplingStrategy, SaveStrategy, TemplateName, TrainConfig,
    },
    settings::Settings,
    token::HubTokens,
    value::Value,
};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// The recipe that the settings describe. Errors: a key that must be given is missing, or a name in a value is unknown.
pub fn recipe(s: &Settings<'_>) -> Result<Recipe> {
    let recipe = Recipe {
        dialect: s.dialect(),
        model: model(s)?,
        data: data(s)?,
        lora: lora(s)?,
        train: train(s)?,
        output: output(s)?,
    };
    if s.flag("do_eval") && !recipe.has_eval_data() {
        return Err(s
            .complain("do_eval", "`do_eval` needs held-out rows")
            .hint("give `eval_dataset` or `val_size`")
            .hint_zh("请设置 `eval_dataset` 或 `val_size`"));
    }
    Ok(recipe)
}

fn model(s: &Settings<'_>) -> Result<ModelConfig> {
    Ok(ModelConfig {
        model_name_or_path: s.required_text("model_name_or_path")?,
        adapter_name_or_path: s.words("adapter_name_or_path").into_iter().map(PathBuf::from).collect(),
        create_new_adapter: s.flag("create_new_adapter"),
        cache_dir: s.text("cache_dir").map(PathBuf::from),
        model_revision: s.required_text("model_revision")?,
        tokens: HubTokens { hugging_face: s.token("hf_hub_token"), model_scope: s.token("ms_hub_token") },
        device: device(s)?,
    })
}

fn device(s: &Settings<'_>) -> Result<DeviceChoice> {
    let text = s.required_text("device")?;
    let choice = device_choice(&text).ok_or_else(|| no_device(&text, |fact| s.complain("device", fact)))?;
    match (s.flag("use_cpu"), choice) {
        (false, choice) => Ok(choice),
        (true, DeviceChoice::Auto | DeviceChoice::Cpu) => Ok(DeviceChoice::Cpu),
        (true, DeviceChoice::Cuda(_)) => Err(s
            .complain("use_cpu", format!("`use_cpu` contradicts `device` ({text})"))
            .hint("remove one of the two")
            .hint_zh("请删除其中一个")),
    }
}

/// `auto`, `cpu`, `cuda` or `cuda:N`.
pub(super) fn device_choice(text: &str) -> Option<DeviceChoice> {
    match (text, text.strip_prefix("cuda:").and_then(|n| n.parse().ok())) {
        ("auto", _) => Some(DeviceChoice::Auto),
        ("cpu", _) => Some(DeviceChoice::Cpu),
        ("cuda", _) => Some(DeviceChoice::Cuda(0)),
        (_, n) => n.map(DeviceChoice::Cuda),
    }
}

/// The error of another word; `complain` names its place.
pub(super) fn no_device(text: &str, complain: impl FnOnce(String) -> Error) -> Error {
    let err = complain(format!("`device` must be `auto`, `cpu` or `cuda:N`, found \"{text}\""));
    full_width::explained(err.hint("the first card is `cuda:0`").hint_zh("第一块显卡是 `cuda:0`"), text)
}

fn data(s: &Settings<'_>) -> Result<DataConfig> {
    let dataset_dir = s.required_text("dataset_dir")?;
    if dataset_dir == "ONLINE" || dataset_dir.starts_with("REMOTE:") {
        return Err(s
            .complain(
                "dataset_dir",
                format!("`dataset_dir: {dataset_dir}` is not supported: data sets are local files"),
            )
            .hint("download the data and give the folder of its dataset_info.json")
            .hint_zh("请先下载数据，再填写 dataset_info.json 所在的目录"));
    }
    let dataset = s.words("dataset");
    if dataset.is_empty() {
        return Err(s.missing("dataset"));
    }
    let packing = s.packs();
    // Without packs they decide nothing, and must not make two recipes differ.
    let of_packs = |name: &str, otherwise: usize| if packing { count(s, name).max(1) } else { otherwise };
    Ok(DataConfig {
        dataset,
        eval_dataset: s.words("eval_dataset"),
        test_dataset: s.words("test_dataset"),
        dataset_dir: PathBuf::from(dataset_dir),
        template: if s.required_text("template")? == "qwen3" {
            TemplateName::Qwen3
        } else {
            TemplateName::Qwen3Nothink
        },
        cutoff_len: count(s, "cutoff_len"),
        over_length: match s.text("over_length").as_deref() {
            Some("error") => OverLength::Error,
            Some("drop") => OverLength::Drop,
            _ => OverLength::Truncate,
        },
        on_bad_row: on_bad_row(s.text("on_bad_row").as_deref()),
        max_samples: s.whole("max_samples").map(size),
        mix_strategy: match s.text("mix_strategy").as_deref() {
            Some("interleave_under") => MixStrategy::InterleaveUnder,
            Some("interleave_over") => MixStrategy::InterleaveOver,
            _ => MixStrategy::Concat,
        },
        interleave_probs: s.value("interleave_probs").numbers().unwrap_or_default(),
        eval_on_each_dataset: s.flag("eval_on_each_dataset"),
        val_size: number(s, "val_size"),
        mask_history: s.flag("mask_history"),
        train_on_prompt: s.flag("train_on_prompt"),
        enable_thinking: enable_thinking(s),
        preserve_thinking: s.flag("preserve_thinking"),
        default_system: s.text("default_system"),
        packing,
        preprocessing_batch_size: of_packs("preprocessing_batch_size", 1000),
        preprocessing_num_workers: of_packs("preprocessing_num_workers", 1),
    })
}

/// A word of the table.
pub(super) fn on_bad_row(word: Option<&str>) -> OnBadRow {
    match word {
        Some("skip") => OnBadRow::Skip,
        Some("llamafactory") => OnBadRow::LlamaFactory,
        _ => OnBadRow::Error,
    }
}

/// The one key whose `null` is a value of its own.
fn enable_thinking(s: &Settings<'_>) -> Option<bool> {
    if s.entry("enable_thinking").is_some_and(|entry| entry.value == Value::Null) {
        return None;
    }
    if let Value::Bool(flag) = s.value("enable_thinking") { Some(flag) } else { None }
}

fn lora(s: &Settings<'_>) -> Result<LoraConfig> {
    let lora_rank = count(s, "lora_rank");
    Ok(LoraConfig {
        lora_rank,
        lora_alpha: s.number("lora_alpha").unwrap_or(2.0 * lora_rank as f64),
        lora_dropout: number(s, "lora_dropout"),
        lora_target: lora_target(s)?,
        use_dora: s.flag("use_dora"),
        use_rslora: s.flag("use_rslora"),
        pissa: pissa(s),
    })
}

/// Without `pissa_init` its other keys decide nothing, and must not make two recipes differ; but `pissa_convert` may be asked for
/// where an adapter is continued.
fn pissa(s: &Settings<'_>) -> Pissa {
    let (pissa_init, without) = (s.flag("pissa_init"), Pissa::default());
    let rounds = if let Value::Int(rounds) = s.value("pissa_iter") { rounds } else { without.pissa_iter };
    Pissa {
        pissa_init,
        pissa_iter: if pissa_init { rounds } else { without.pissa_iter },
        pissa_convert: s.flag("pissa_convert") && (pissa_init || s.given("pissa_convert")),
    }
}

fn lora_target(s: &Settings<'_>) -> Result<Vec<Projection>> {
    let names = s.words("lora_target");
    if names == ["all"] {
        return Ok(Projection::ALL.to_vec());
    }
    if let Some(unknown) = names.iter().find(|name| Projection::ALL.iter().all(|p| p.name() != name.as_str())) {
        return Err(unknown_target(s, unknown));
    }
    let targets: Vec<_> = Projection::ALL.into_iter().filter(|p| names.iter().any(|name| name == p.name())).collect();
    if targets.is_empty() {
        return Err(s
            .complain("lora_target", "`lora_target` names no projection")
            .hint("say `all`, or some of the seven")
            .hint_zh("请写 `all`，或七个投影中的几个"));
    }
    Ok(targets)
}

fn unknown_target(s: &Settings<'_>, unknown: &str) -> Error {
    let seven = Projection::ALL.map(Projection::name);
    let err = s.complain("lora_target", format!("`lora_target` names `{unknown}`, which a Qwen3 block does not have"));
    let err = match keys::closest(unknown, seven.into_iter().chain(["all"])) {
        Some(near) => err.hint(format!("did you mean `{near}`?")).hint_zh(format!("是否想写 `{near}`？")),
        None => err
            .hint(format!("say `all`, or some of {}", seven.join(", ")))
            .hint_zh(format!("请写 `all`，或其中几个：{}", seven.join("、"))),
    };
    full_width::explained(err, unknown)
}

fn train(s: &Settings<'_>) -> Result<TrainConfig> {
    let (warmup_ratio, warmup_steps) = warmup(s);
    let (lr_scheduler_type, lr_scheduler_kwargs) = scheduler::read(s)?;
    Ok(TrainConfig {
        per_device_train_batch_size: count(s, "per_device_train_batch_size"),
        per_device_eval_batch_size: count(s, "per_device_eval_batch_size"),
        gradient_accumulation_steps: count(s, "gradient_accumulation_steps"),
        learning_rate: number(s, "learning_rate"),
        loraplus_lr_ratio: s.number("loraplus_lr_ratio"),
        num_train_epochs: number(s, "num_train_epochs"),
        max_steps: s.whole("max_steps").map(size),
        lr_scheduler_type,
        lr_scheduler_kwargs,
        warmup_ratio,
        warmup_steps,
        weight_decay: number(s, "weight_decay"),
        adam_beta1: number(s, "adam_beta1"),
        adam_beta2: number(s, "adam_beta2"),
        adam_epsilon: number(s, "adam_epsilon"),
        max_grad_norm: number(s, "max_grad_norm"),
        neftune_noise_alpha: s.number("neftune_noise_alpha").filter(|alpha| *alpha > 0.0),
        bf16: s.flag("bf16"),
        seed: s.whole("seed").unwrap_or_default(),
        data_seed: s.whole("data_seed"),
        disable_shuffling: s.flag("disable_shuffling"),
        train_sampling_strategy: match s.text("train_sampling_strategy").as_deref() {
            Some("sequential") => SamplingStrategy::Sequential,
            Some("random") if !s.flag("group_by_length") => SamplingStrategy::Random,
            _ => SamplingStrategy::GroupByLength,
        },
        shared_prefix: s.text("shared_prefix").as_deref() != Some("off"),
        gradient_checkpointing: match s.text("gradient_checkpointing").as_deref() {
            Some("on") => GradientCheckpointing::On,
            Some("off") => GradientCheckpointing::Off,
            _ => GradientCheckpointing::Auto,
        },
        micro_batch_tokens: s.whole("micro_batch_tokens").map(size),
        eval_strategy: match s.text("eval_strategy").as_deref() {
            Some("steps") => EvalStrategy::Steps,
            Some("epoch") => EvalStrategy::Epoch,
            _ => EvalStrategy::No,
        },
        eval_steps: interval(s, if s.value("eval_steps") == Value::Null { "logging_steps" } else { "eval_steps" }),
        compute_accuracy: s.flag("compute_accuracy"),
        early_stopping_steps: s.whole("early_stopping_steps").map(size),
        sample_prompts: s.texts("sample_prompts"),
        eval_couplets: count(s, "eval_couplets"),
        max_seconds: s.number("max_seconds"),
    })
}

/// Share and steps of the warmup, one of them 0: what `warmup_ratio` says, else `warmup_steps`, which is a share below 1.
///
/// As transformers 5, where a given ratio takes the place of the steps. Version 4 had it the other way round.
fn warmup(s: &Settings<'_>) -> (f64, usize) {
    let only_steps = s.says("warmup_steps") && !s.says("warmup_ratio");
    match number(s, if only_steps { "warmup_steps" } else { "warmup_ratio" }) {
        share if share < 1.0 => (share, 0),
        steps => (0.0, steps as usize),
    }
}

fn output(s: &Settings<'_>) -> Result<OutputConfig> {
    let metric_for_best_model = metric_for_best_model(s)?;
    Ok(OutputConfig {
        output_dir: PathBuf::from(s.required_text("output_dir")?),
        overwrite_output_dir: s.flag("overwrite_output_dir"),
        logging_steps: interval(s, "logging_steps"),
        plot_loss: s.flag("plot_loss"),
        include_num_input_tokens_seen: match s.text("include_num_input_tokens_seen").as_deref() {
            Some("all") => CountedTokens::All,
            Some("non_padding") => CountedTokens::NonPadding,
            _ => CountedTokens::No,
        },
        save_strategy: match s.text("save_strategy").as_deref() {
            Some("no") => SaveStrategy::No,
            Some("epoch") => SaveStrategy::Epoch,
            _ => SaveStrategy::Steps,
        },
        save_steps: interval(s, "save_steps"),
        save_total_limit: s.whole("save_total_limit").map(size),
        save_only_model: s.flag("save_only_model"),
        resume_from_checkpoint: match s.value("resume_from_checkpoint") {
            Value::Bool(true) => Resume::Always,
            Value::Bool(false) => Resume::Never,
            Value::Text(path) => Resume::From(path.into()),
            _ => Resume::Auto,
        },
        load_best_model_at_end: s.flag("load_best_model_at_end"),
        greater_is_better: match s.value("greater_is_better") {
            Value::Bool(said) => said,
            _ => metric_for_best_model == COUPLET_PASS || metric_for_best_model.ends_with("_accuracy"),
        },
        metric_for_best_model,
    })
}

/// Hugging Face puts `eval_` in front of a name without it.
fn metric_for_best_model(s: &Settings<'_>) -> Result<String> {
    let name = s.required_text("metric_for_best_model")?;
    let known = metrics(&s.words("eval_dataset"), s.flag("eval_on_each_dataset"), s.flag("compute_accuracy"));
    let found = known.iter().find(|known| **known == name || known.strip_prefix("eval_") == Some(&name));
    found.cloned().ok_or_else(|| {
        let names = known.join(", ");
        s.complain("metric_for_best_model", format!("`metric_for_best_model` is \"{name}\", which no evaluation gives"))
            .hint(format!("it may be one of {names}"))
            .hint_zh(format!("可以是 {}", known.join("、")))
    })
}

/// A number of steps, or a share of all, that the table gives a default.
fn interval(s: &Settings<'_>, name: &str) -> Interval {
    match number(s, name) {
        share if share < 1.0 => Interval::Share(share),
        steps => Interval::Steps(steps as usize),
    }
}

/// A count that the table gives a default.
fn count(s: &Settings<'_>, name: &str) -> usize {
    s.whole(name).map(size).unwrap_or_default()
}

/// A number that the table gives a default.
fn number(s: &Settings<'_>, name: &str) -> f64 {
    s.number(name).unwrap_or_default()
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
