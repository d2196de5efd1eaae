//! What a LlamaFactory config asks for that is not LoRA training, refused by name with a way out.

use super::{
    entry::Entry,
    settings::Settings,
    table::{Key, V1},
    value::Value,
};
use crate::error::{Error, Result};

/// Weights of the dense Qwen3 models in bf16, in GB (10⁹ bytes): their parameter counts times two bytes.
const BF16_GB: &[(&str, f64)] =
    &[("0.6B", 1.2), ("1.7B", 3.4), ("4B", 8.0), ("8B", 16.4), ("14B", 29.5), ("32B", 65.5)];

/// Refuses LlamaFactory's v1 dialect, and what other commands do: export, predict, evaluate, chat.
pub fn refuse_other_commands(settings: &Settings<'_>) -> Result<()> {
    let entries = settings.entries();
    if entries.is_empty() {
        return Err(settings
            .complain_all("the file holds no keys")
            .hint("begin with `model_name_or_path: Qwen/Qwen3-0.6B`")
            .hint_zh("请从 `model_name_or_path: Qwen/Qwen3-0.6B` 写起"));
    }
    refuse_v1(settings)?;
    let says = |key: &str, value: bool| settings.entry(key).is_some_and(|entry| entry.value == Value::Bool(value));
    if settings.entry("export_dir").is_some_and(|entry| entry.value != Value::Null) {
        return Err(settings
            .complain("export_dir", "this config trains and exports a model")
            .hint("one at a time: without `do_train` it exports, without `export_dir` it trains")
            .hint_zh("请分两步：去掉 `do_train` 则导出，去掉 `export_dir` 则训练"));
    }
    let evaluates = "without `do_train: true` a file that names its model runs `couplet-train evaluate`";
    let evaluates_zh = "没有 `do_train: true` 且写明模型的配置会运行 `couplet-train evaluate`";
    if says("predict_with_generate", true) && says("do_train", true) {
        return Err(settings
            .complain("predict_with_generate", "this config trains and predicts")
            .hint("`sample_prompts` and `eval_couplets` let the model write during training; `couplet-train evaluate` scores it afterwards")
            .hint_zh("训练中可用 `sample_prompts` 与 `eval_couplets` 让模型作答；训练后用 `couplet-train evaluate` 评分"));
    }
    let (name, what) = if says("do_predict", true) && says("do_train", true) {
        return Err(settings
            .complain("do_predict", "this config trains and predicts")
            .hint("one at a time: without `do_predict` it trains, without `do_train` it evaluates")
            .hint_zh("请分两步：去掉 `do_predict` 则训练，去掉 `do_train` 则评估"));
    } else if says("do_predict", true) {
        ("do_predict", "predicts")
    } else if says("do_train", false) {
        ("do_train", "does not train")
    } else if says("do_eval", true) && !settings.given("do_train") {
        ("do_eval", "only evaluates")
    } else if !settings.given("stage") && !settings.given("do_train") {
        ("", "neither names a `stage` nor says `do_train: true`")
    } else {
        return Ok(());
    };
    Err(settings
        .complain(name, format!("this config {what}"))
        .hint(format!("a training config says `stage: sft` and `do_train: true`; {evaluates}"))
        .hint_zh(format!("训练配置应写 `stage: sft` 与 `do_train: true`；{evaluates_zh}")))
}

/// Names every key of the v1 dialect in the file, and what it is called here.
fn refuse_v1(settings: &Settings<'_>) -> Result<()> {
    let of = |entry: &Entry| V1.iter().find(|(v1, _)| *v1 == entry.key);
    let found = || settings.entries().iter().filter_map(of);
    let en: Vec<String> = found().map(|(v1, ours)| format!("`{v1}`: {}", ours.en)).collect();
    let zh: Vec<String> = found().map(|(v1, ours)| format!("`{v1}`：{}", ours.zh)).collect();
    let Some(first) = settings.entries().iter().find(|entry| of(entry).is_some()) else { return Ok(()) };
    Err(settings
        .complain_key(first, format!("`{}` is a key of LlamaFactory's v1 dialect, which is not read", first.key))
        .hint(format!("write LlamaFactory's usual keys; for {}", en.join("; ")))
        .hint_zh(format!("请使用 LlamaFactory 通常的键；对应关系：{}", zh.join("；"))))
}

/// The error for a refused key with a value that switches it on.
pub fn refusal(settings: &Settings<'_>, entry: &Entry, key: &Key, off: &[&str]) -> Error {
    if key.name == "quantization_bit" {
        return quantization(settings, entry);
    }
    let fact = match &entry.value {
        value @ (Value::Bool(_) | Value::Int(_) | Value::Float(_)) => format!("`{}: {value}`", entry.key),
        _ => format!("`{}`", entry.key),
    };
    let (or, or_zh) = match off {
        [off, ..] if !off.is_empty() => (format!(", or set it to {off}"), format!("，或设为 {off}")),
        _ => (String::new(), String::new()),
    };
    settings
        .complain_key(entry, format!("{fact} is not supported yet"))
        .hint(format!("remove the key{or}: {}", key.about.en))
        .hint_zh(format!("请删除该键{or_zh}：{}", key.about.zh))
}

/// A quantised base: says what the base needs in bf16 instead, and what this machine has.
fn quantization(settings: &Settings<'_>, entry: &Entry) -> Error {
    let model = settings.entry("model_name_or_path").and_then(|entry| entry.value.text());
    let (need, need_zh) = match model.and_then(bf16_gb) {
        Some((name, gb)) => {
            (format!("the weights of {name} need {gb:.1} GB in bf16"), format!("{name} 的 bf16 权重需要 {gb:.1} GB"))
        }
        None => ("the base in bf16 needs 2 bytes per parameter".into(), "bf16 基座每个参数需要 2 字节".into()),
    };
    let (fits, fits_zh) = what_fits(free_memory_gb());
    settings
        .complain_key(entry, "a quantised base (`quantization_bit`) is not supported yet")
        .hint(format!("remove the key and set bf16 to true: {need}; {fits}"))
        .hint_zh(format!("请删除该键并把 bf16 设为 true：{need_zh}；{fits_zh}"))
}

/// The largest Qwen3 for so much memory in GB: its weights, a tenth for what is trained, and 1.5 GB of activations.
fn what_fits(free: Option<f64>) -> (String, String) {
    let Some(free) = free else {
        return ("a smaller Qwen3 needs less".into(), "更小的 Qwen3 需要更少".into());
    };
    let largest = BF16_GB.iter().rfind(|(_, gb)| 1.1 * gb + 1.5 <= free);
    let (which, which_zh) = match largest {
        Some((size, _)) => (format!("enough for Qwen3-{size}"), format!("可训练 Qwen3-{size}")),
        None => ("too little for any Qwen3".into(), "不足以训练任何 Qwen3".into()),
    };
    (
        format!("this machine has {free:.1} GB of memory free, {which} on the CPU (a GPU needs as much of its own)"),
        format!("本机空闲内存 {free:.1} GB，用 CPU {which_zh}（用 GPU 则需同样大的显存）"),
    )
}

/// Memory this process may still take, in GB, as Linux tells it; less inside a limited container.
fn free_memory_gb() -> Option<f64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let info = read("/proc/meminfo")?;
    let line = info.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0;
    let bytes = |path: &str| read(path)?.trim().parse::<f64>().ok();
    let limit = bytes("/sys/fs/cgroup/memory.max").zip(bytes("/sys/fs/cgroup/memory.current"));
    Some(limit.map_or(free, |(most, used)| free.min(most - used)) / 1e9)
}

/// The size of a Qwen3 by its name or folder, e.g. `Qwen/Qwen3-14B` or `models/Qwen3-4B-Instruct-2507`.
fn bf16_gb(model: &str) -> Option<(String, f64)> {
    let name = model.trim_end_matches('/').rsplit('/').next()?;
    let size = name.strip_prefix("Qwen3-")?.split('-').next()?;
    BF16_GB.iter().find(|(known, _)| *known == size).map(|(size, gb)| (format!("Qwen3-{size}"), *gb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_model_that_fits_is_named() {
        for (free, want, why) in [
            (None, "a smaller Qwen3 needs less", "another system tells nothing"),
            (Some(2.0), "2.0 GB of memory free, too little for any Qwen3", "not even 0.6B"),
            (Some(8.0), "8.0 GB of memory free, enough for Qwen3-1.7B on the CPU", "4B needs 10.3"),
            (Some(500.0), "enough for Qwen3-32B", "all of them"),
        ] {
            let (en, zh) = what_fits(free);
            assert!(en.contains(want), "{why}: {en}");
            assert!(free.is_none() || zh.contains("本机空闲内存"), "{why}: {zh}");
        }
    }
}
