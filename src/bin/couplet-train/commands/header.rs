//! The run header: everything that matters, resolved.

use super::below;
use crate::machine;
use candle_core::DType;
use couplet_train::{
    config::{Dialect, OverLength, Recipe, TemplateName, scheduler},
    dataset::{
        self,
        summary::{FileSummary, SplitSummary},
    },
    device::Opened,
    error::gigabytes,
    kernels,
    model::{Qwen3Config, qwen3::Keep},
    optim::Schedule,
    plan::{Load, Memory},
    report::Header,
    trainer::{Cut, plan::StepPlan},
};
use std::path::Path;

/// What the header describes besides the recipe.
pub struct Facts<'a> {
    /// Where the base model lies.
    pub model_dir: &'a Path,
    /// Its geometry.
    pub model: &'a Qwen3Config,
    /// Where it computes.
    pub opened: &'a Opened,
    /// In which dtype.
    pub dtype: DType,
    /// Trainable parameters.
    pub trainable: usize,
    /// What the base lacks, in words.
    pub pissa: Option<&'a str>,
    /// What was read.
    pub data: &'a dataset::Summary,
    /// The same of `test_dataset`.
    pub test: Option<&'a dataset::Summary>,
    /// The steps of the run.
    pub plan: &'a StepPlan,
    /// How samples become micro-batches.
    pub cut: Cut,
    /// What the largest micro-batch takes.
    pub memory: &'a Memory,
    /// Bytes at the highest, with what the process holds already, where that is known.
    pub peak: Option<u64>,
    /// The largest micro-batch.
    pub largest: Load,
    /// Whether tokens are estimated: then their counts are marked ≈.
    pub estimated: bool,
    /// Whether a step of full rows stands in for data that are not there.
    pub assumed: bool,
}

impl Facts<'_> {
    /// `≈ ` where an estimate decides which rows there are.
    fn about_rows(&self, recipe: &Recipe) -> &'static str {
        about(self.estimated && recipe.data.over_length == OverLength::Drop)
    }

    /// The same of samples, where rows fill packs.
    fn about_samples(&self, recipe: &Recipe) -> &'static str {
        if recipe.data.packing { about(self.estimated) } else { self.about_rows(recipe) }
    }

    fn tokens(&self, n: usize) -> String {
        tokens(n, self.estimated)
    }
}

/// Stands before what is estimated.
fn about(estimated: bool) -> &'static str {
    if estimated { "≈ " } else { "" }
}

/// A number of tokens: `1,234`, or `≈ 1,234` where it is estimated.
pub fn tokens(n: usize, estimated: bool) -> String {
    format!("{}{}", about(estimated), thousands(n))
}

/// Fills the header of a run.
pub fn header(recipe: &Recipe, facts: &Facts) -> Header {
    let mut header = Header::default();
    let lora = &recipe.lora;
    header.row("model", "模型", model_line(recipe, facts));
    if !recipe.model.merged().is_empty() {
        header.row("merged", "已合并", below::in_order(recipe.model.merged()));
    }
    header.row("device", "设备", device_and_threads(facts));
    let targets: Vec<&str> = lora.lora_target.iter().map(|p| p.name()).collect();
    let scaling = if lora.use_rslora { "alpha/√r" } else { "alpha/r" };
    let share = facts.trainable as f64 / (facts.model.parameters() + facts.trainable) as f64;
    header.row(
        "lora",
        "LoRA",
        format!(
            "{}r {}, alpha {}, {scaling} = {:.4}, dropout {}; {}\n{} trainable parameters, {:.3} % of all",
            if lora.use_dora { "DoRA, " } else { "" },
            lora.lora_rank,
            lora.lora_alpha,
            lora.scale(),
            lora.lora_dropout,
            targets.join(" "),
            thousands(facts.trainable),
            100.0 * share
        ),
    );
    if let Some(pissa) = facts.pissa {
        header.row("pissa", "PiSSA", pissa.to_owned());
    }
    match facts.assumed {
        false => rows_that_are_here(&mut header, recipe, facts),
        true => header.row(
            "rows",
            "行",
            format!("assumed: full ones, {} tokens each, all trained", recipe.data.longest_row()),
        ),
    }
    header.row("template", "模板", template_line(recipe));
    header.row("steps", "步数", steps_line(recipe, facts));
    header.row("memory", "内存", memory_line(facts));
    header.row("rate", "学习率", rate_line(recipe, facts));
    header.row("output", "输出", recipe.output.output_dir.display().to_string());
    header
}

/// What was read, and what is in it.
fn rows_that_are_here(header: &mut Header, recipe: &Recipe, facts: &Facts) {
    let about_rows = facts.about_rows(recipe);
    for file in facts.data.files.iter().chain(facts.test.iter().flat_map(|test| &test.files)) {
        header.row("data", "数据", format!("{about_rows}{}", file_line(file, facts.estimated)));
    }
    let rows = &facts.data.train;
    header.row(
        "rows",
        "行",
        format!(
            "{about_rows}{} training, {about_rows}{} held out; tokens a row: mean {}{:.1}, median {}, longest {} (cutoff_len {}); common prefix {}",
            split_size(rows),
            split_size(&facts.data.eval),
            about(facts.estimated),
            rows.mean,
            facts.tokens(rows.p50),
            facts.tokens(rows.max),
            recipe.data.cutoff_len,
            facts.tokens(facts.data.common_prefix)
        ),
    );
    if !facts.data.leaks.is_empty() {
        let lines: Vec<String> = facts.data.leaks.iter().map(dataset::Leaks::line).collect();
        header.row("leaks", "泄漏", lines.join("\n"));
    }
    if recipe.data.packing {
        let (about, packs) = (facts.about_samples(recipe), thousands(facts.plan.epoch_samples()));
        header.row("packs", "打包", format!("{about}{packs} samples of at most {} tokens", recipe.data.longest_row()));
    }
    header.row(
        "tokens",
        "词元",
        format!("{} trained of {} an epoch", facts.tokens(rows.trained_tokens), facts.tokens(rows.tokens)),
    );
}

fn steps_line(recipe: &Recipe, facts: &Facts) -> String {
    let (train, about) = (&recipe.train, facts.about_samples(recipe));
    let epochs = match train.max_steps {
        Some(_) => facts.plan.total_steps as f64 / facts.plan.steps_per_epoch as f64,
        None => train.num_train_epochs,
    };
    let steps = match (facts.assumed, train.max_steps) {
        (false, _) => format!(
            "{about}{} = {epochs:.4} epochs × {}",
            thousands(facts.plan.total_steps),
            facts.plan.steps_per_epoch
        ),
        (true, Some(steps)) => format!("{} (max_steps)", thousands(steps)),
        (true, None) => format!("{epochs} epochs of rows that are not here"),
    };
    format!(
        "{steps}; {} samples a step ({} × {}), at most {} tokens at once, shared prefix {}",
        facts.plan.samples_per_step(),
        train.per_device_train_batch_size,
        train.gradient_accumulation_steps,
        facts.cut.max_rows,
        if facts.cut.share_prefix { "once" } else { "off" }
    )
}

/// What was read of a data set and what became of it: read = kept + skipped. `estimated`: tokens are, and with them which rows are
/// too long.
fn file_line(file: &FileSummary, estimated: bool) -> String {
    let mut text = format!("{}: {} rows", file.name, thousands(file.read));
    if file.drawn {
        text += &format!(" (random ones of {}: num_samples)", thousands(file.rows));
    } else if file.mixed {
        text += &format!(" (of {}: mix_strategy)", thousands(file.rows));
    } else if file.read < file.rows {
        text += &format!(" (the first of {}: max_samples)", thousands(file.rows));
    }
    text += &format!(" = {} kept + {} skipped", thousands(file.kept), thousands(file.skipped));
    if file.skipped > 0 {
        let reasons = file.reasons.iter().map(|skips| format!("{} {}", thousands(skips.rows), skips.reason.words().0));
        text += &format!(" ({})", reasons.collect::<Vec<_>>().join(", "));
    }
    for (about, count, what) in
        [(about(estimated), file.truncated, "truncated"), (about(false), file.empty_responses, "empty")]
    {
        if count > 0 {
            text += &format!(", {about}{count} {what}");
        }
    }
    text
}

/// The rows of a split, and of how many where some are left out.
fn split_size(split: &SplitSummary) -> String {
    match split.skipped {
        0 => thousands(split.rows),
        skipped => format!("{} (of {}, {} skipped)", thousands(split.rows), thousands(split.read), thousands(skipped)),
    }
}

fn memory_line(facts: &Facts) -> String {
    let (load, of_run, parts) = (facts.largest, facts.memory.total(), facts.memory.describe());
    // On a card what is planned is the card's alone.
    let before = facts.peak.filter(|_| facts.memory.card == 0).map_or(0, |peak| peak.saturating_sub(of_run));
    let total = gigabytes(of_run + before);
    let program = if before > 0 { format!(", program and data {}", gigabytes(before)) } else { String::new() };
    let keep = match facts.cut.keep {
        Keep::Everything => "blocks keep everything",
        Keep::Lean => "blocks keep the lean set",
        Keep::Input => "blocks keep their input and run forward twice",
    };
    let (rows, labels) = (facts.tokens(load.rows), facts.tokens(load.labels));
    let about = if facts.assumed { "at most" } else { "about" };
    format!("{about} {total} at {rows} rows with {labels} labels at once; {keep}\n{parts}{program}")
}

fn model_line(recipe: &Recipe, facts: &Facts) -> String {
    let m = facts.model;
    let name = &recipe.model.model_name_or_path;
    let place =
        if Path::new(name) == facts.model_dir { String::new() } else { format!("\n{}", facts.model_dir.display()) };
    format!(
        "{name}: {} parameters; {} layers, hidden {}, {}/{} heads of {}, vocabulary {}{place}",
        thousands(m.parameters()),
        m.num_hidden_layers,
        m.hidden_size,
        m.num_attention_heads,
        m.num_key_value_heads,
        m.head_dim,
        thousands(m.vocab_size)
    )
}

/// What the last bits of a run depend on besides its inputs: device, vectors, precision. Not the number of threads, nor which
/// of several equal cards it is.
pub fn device_line(opened: &Opened, dtype: DType) -> String {
    let precision = precision(dtype);
    match &opened.card {
        None => {
            let name = machine::cpu_name().unwrap_or_else(|| std::env::consts::ARCH.into());
            format!("CPU ({name}, {}); {precision}", kernels::instruction_set(dtype))
        }
        Some(card) => format!("{} (compute capability {}); {precision}", card.name, card.capability),
    }
}

fn precision(dtype: DType) -> &'static str {
    if dtype == DType::BF16 { "bf16, f32 masters" } else { "f32" }
}

/// The same and the number of threads; or which card it is, what it has free, and what our kernels do not do on it.
fn device_and_threads(facts: &Facts) -> String {
    let (opened, dtype) = (facts.opened, facts.dtype);
    let Some(card) = opened.describe() else {
        return format!("{}; {} threads", device_line(opened, dtype), rayon::current_num_threads());
    };
    let attention = match kernels::card::has_attention(dtype, facts.model.head_dim) {
        true => "",
        false => "\nattention out of candle's operations: our kernels are for bf16 and heads of 64 or 128",
    };
    format!("{card}; {}{attention}", precision(dtype))
}

/// Says why no card computes in a binary that was built for cards.
pub fn passed_over(header: &mut Header, opened: &Opened) {
    let Some(why) = &opened.passed_over else { return };
    let hint = |chinese| why.hint_text(chinese).unwrap_or_default();
    header.notice(
        format!("on the CPU, although this binary was built for cards: {why} ({})", hint(false)),
        format!("程序支持显卡，但现在使用 CPU：{why}（{}）", hint(true)),
    );
}

fn template_line(recipe: &Recipe) -> String {
    let thinking = match (recipe.data.template, recipe.data.enable_thinking) {
        (TemplateName::Qwen3Nothink, _) => return "qwen3_nothink".into(),
        (TemplateName::Qwen3, Some(true)) => {
            "enable_thinking true: an empty thought is trained before answers without one"
        }
        (TemplateName::Qwen3, Some(false)) => {
            "enable_thinking false: an empty thought before every answer, not trained"
        }
        (TemplateName::Qwen3, None) => "enable_thinking null: an empty thought before answers without one, not trained",
    };
    let over = match (recipe.dialect, recipe.data.over_length) {
        (Dialect::LlamaFactory, OverLength::Truncate) => "; longer rows are truncated by LlamaFactory's rule",
        (_, OverLength::Truncate) => "; longer rows are truncated",
        (_, OverLength::Drop) => "; longer rows are dropped",
        (_, OverLength::Error) => "",
    };
    format!("qwen3, {thinking}{over}")
}

fn rate_line(recipe: &Recipe, facts: &Facts) -> String {
    let train = &recipe.train;
    let warmup = match facts.assumed && train.max_steps.is_none() && train.warmup_steps == 0 {
        true => format!("warmup in {} of all steps", train.warmup_ratio),
        false => format!("{} warmup steps", Schedule::new(train, facts.plan.total_steps).warmup_steps),
    };
    let kwargs = scheduler::in_words(&train.lr_scheduler_kwargs);
    let noise = train.neftune_noise_alpha.map_or(String::new(), |alpha| format!(", NEFTune {alpha}"));
    format!(
        "{} peak, {}{kwargs}, {warmup}; weight decay {}, clip {}{noise}, seed {}",
        scheduler::peak_in_words(train),
        train.lr_scheduler_type.name(),
        train.weight_decay,
        train.max_grad_norm,
        train.seed
    )
}

/// 1234567 → `1,234,567`
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        for (n, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (6_430_464, "6,430,464")] {
            assert_eq!(thousands(n), want);
        }
    }
}
