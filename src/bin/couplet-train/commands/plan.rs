//! `couplet-train plan FILE [key=value …]`: what a run will do and take. Trains nothing, fetches nothing, writes nothing.

use super::{
    advice,
    expected::{Expected, PATIENCE, Rate},
    header::{thousands, tokens},
    inputs::Inputs,
    loading, locate, notices, pissa,
    place::Found,
    planned::{Planned, free},
    recipe_and_overrides, restore, stop,
};
use crate::args::PlanArgs;
use candle_core::DType;
use couplet_train::{
    config::{self, Loaded, OverLength, Recipe},
    error::{Error, Result, gigabytes},
    fs,
    model::{lora, published},
    optim::Schedule,
    report::{Console, Header, Lang, Look, Verbosity},
    trainer::{
        Trainer,
        plan::StepPlan,
        refuse_rate_zero,
        saver::{Saver, Space},
    },
};
use serde_json::Value;
use std::{
    io::{stderr, stdout},
    path::Path,
    time::Instant,
};

/// Prints the plan of a recipe.
///
/// Errors: those of a run; a model that is neither here nor known by its name.
pub fn run(args: &PlanArgs, look: Look) -> Result<()> {
    // The plan is the answer and not something said beside it: there is no quiet one.
    let look = Look { verbosity: look.verbosity.max(Verbosity::Normal), ..look };
    stop::listen(look)?;
    let (file, overrides) = recipe_and_overrides(&args.recipe, "couplet-train plan")?;
    let Loaded { mut recipe, notices } = config::load(&file, &overrides)?;
    let mut found = Found::look(&recipe, &mut Console::new(stderr(), look))?;
    let (inputs, why_cpu) = Inputs::here(&mut recipe)?;
    let restored = found.as_mut().and_then(|found| found.restored.take());
    restored.iter().try_for_each(|restored| restore::refuse_another_config(&recipe, restored))?;
    let done = restored.map_or(0, |restored| restored.state.step);
    let (planned, short) = match Planned::new(&recipe, &inputs) {
        Ok(planned) => (planned, None),
        Err(err) => (Planned::with_any_memory(&recipe, &inputs)?, Some(err)),
    };
    let steps = StepPlan::of(&inputs.data.train, &recipe.train);
    let pissa = pissa::planned(&recipe);
    let mut header = notices::said_before(&recipe, (&inputs, pissa.as_deref()), &planned, &steps, notices);
    if inputs.missing.is_none() {
        rows(&mut header, &recipe, (&inputs, &planned), &steps, look.lang);
    }
    memory(&mut header, &recipe, &inputs, short.as_ref(), look.lang)?;
    let space = disk(&mut header, &recipe, &inputs, &steps, look.lang)?;
    match &found {
        Some(found) => {
            let out = &recipe.output.output_dir;
            let short = found.short_of_room(out, space).unwrap_or_else(|err| {
                noted(&mut header, &err);
                None
            });
            found.notices(out, short.map(|free| (free, space)), &mut header);
        }
        None => header.notice(
            "`output_dir` holds a finished run of this config, which is left alone unless `overwrite_output_dir=true`",
            "`output_dir` 中已有按此配置完成的训练；除非设 `overwrite_output_dir=true`，否则不会重新训练",
        ),
    }
    if inputs.missing.is_none()
        && let Err(err) = refuse_rate_zero(&recipe.train, steps.total_steps)
    {
        noted(&mut header, &err);
    }
    let weights = inputs.look_at_weights();
    let probes = !args.no_probe
        && !inputs.is_estimated
        && why_cpu.is_none()
        && short.is_none()
        && weights.is_ok()
        && inputs.missing.is_none();
    let probed = if probes { probe(&recipe, &inputs, &planned) } else { Ok(None) };
    for err in [weights.as_ref().err(), probed.as_ref().err()].into_iter().flatten() {
        noted(&mut header, err);
    }
    if let Some(expected) = time(&recipe, (&inputs, &planned), (&steps, done), probed.ok().flatten())? {
        header.row(
            "time",
            "用时",
            match inputs.missing {
                None => expected.describe(look.lang),
                Some(_) => expected.describe_step(look.lang),
            },
        );
    }
    stood_in(&mut header, &recipe, &inputs, why_cpu.as_ref());
    Console::new(stdout(), look).header(&header);
    Ok(())
}

/// Tokens by kind, and where the rate begins and ends.
fn rows(header: &mut Header, recipe: &Recipe, (inputs, planned): (&Inputs, &Planned), steps: &StepPlan, lang: Lang) {
    let survey = &planned.survey;
    let count = |n: usize| tokens(n, inputs.is_estimated);
    let (all, fed, labels) = (count(survey.tokens), count(survey.rows.fed), count(survey.rows.labels));
    let (padded, batches) = (count(survey.padded as usize), thousands(survey.micro_batches));
    header.row(
        "in all",
        "合计",
        match lang {
            Lang::En => format!("{all} tokens of samples; {fed} through the model in {batches} passes, {labels} trained; LlamaFactory would feed {padded}"),
            Lang::Zh => format!("样本共 {all} 词元；实际计算 {fed}，分 {batches} 次前向与反向，其中训练 {labels}；LlamaFactory 需计算 {padded}"),
        },
    );
    header.row("rates", "学习率端点", rates(&Schedule::new(&recipe.train, steps.total_steps), steps.total_steps, lang));
}

/// The rate of the first step, of that behind the warmup, and of the last; each step once, and a rate that never changes as one.
fn rates(schedule: &Schedule, total: usize, lang: Lang) -> String {
    let last = total.saturating_sub(1);
    let mut ends = vec![0, schedule.warmup_steps.min(last), last];
    ends.dedup();
    let said: Vec<String> = ends.iter().map(|step| format!("{:.3e}", schedule.lr(*step))).collect();
    if (0..total).all(|step| schedule.lr(step) == schedule.lr(0)) {
        return match lang {
            Lang::En => format!("{} in every step", said[0]),
            Lang::Zh => format!("每步均为 {}", said[0]),
        };
    }
    let at = |(step, rate): (&usize, &String)| match lang {
        Lang::En => format!("{rate} in step {}", step + 1),
        Lang::Zh => format!("第 {} 步 {rate}", step + 1),
    };
    ends.iter().zip(&said).map(at).collect::<Vec<_>>().join(lang.pick(", ", "，"))
}

/// Whether it fits, what does where it does not, and what a card would need.
fn memory(header: &mut Header, recipe: &Recipe, inputs: &Inputs, short: Option<&Error>, lang: Lang) -> Result<()> {
    let device = &inputs.opened.device;
    let free = free(device).map_or_else(|| "?".to_owned(), gigabytes);
    let fits = match (short, lang) {
        (None, Lang::En) => format!("yes: {free} are free"),
        (None, Lang::Zh) => format!("可以：可用 {free}"),
        (Some(short), lang) => {
            let sizes = published::SIZES.into_iter().rev();
            let smaller = sizes.filter_map(|size| Some((size, published::of_size(size)?)));
            let mut smaller = smaller.filter(|(_, model)| model.parameters() < inputs.model_config.parameters());
            let fitting = smaller.find_map(|(size, model)| {
                let planned = Planned::with_base(recipe, inputs, &model).ok()?;
                Some(format!("Qwen3-{size} ({})", gigabytes(planned.memory.total())))
            });
            let less = short.hint_text(lang == Lang::Zh).map(|hint| format!("{}{hint}", lang.pick("; ", "；")));
            let no = match (fitting, lang) {
                (Some(base), Lang::En) => format!("no: {free} are free; the largest base that fits here: {base}"),
                (Some(base), Lang::Zh) => format!("不可以：可用 {free}；此处能训练的最大基座：{base}"),
                (None, Lang::En) => format!("no: {free} are free, and no smaller Qwen3 fits"),
                (None, Lang::Zh) => format!("不可以：可用 {free}，更小的 Qwen3 也放不下"),
            };
            no + &less.unwrap_or_default()
        }
    };
    header.row("fits", "能否容纳", fits);
    if device.is_cpu() {
        let [usual, least] = Planned::on_a_card(recipe, inputs)?;
        let (of_usual, of_least) = (gigabytes(usual.memory.total()), gigabytes(least.memory.total()));
        let (rows, fewest) = (thousands(usual.cut.max_rows), thousands(least.cut.max_rows));
        let need = match lang {
            Lang::En => format!("{of_usual} at {rows} tokens at once; at the least {of_least}, at {fewest}"),
            Lang::Zh => format!("同时处理 {rows} 词元时 {of_usual}；至少 {of_least}，同时处理 {fewest} 词元"),
        };
        header.row("on a card", "若用显卡", format!("{need}\n{}", usual.memory.describe()));
    }
    Ok(())
}

/// What the run writes and, before it, fetches, and how much is free there.
fn disk(header: &mut Header, recipe: &Recipe, inputs: &Inputs, steps: &StepPlan, lang: Lang) -> Result<Space> {
    let layout = lora::layout(&inputs.model_config, &recipe.lora);
    let saver = Saver::new(recipe, Value::Null, None);
    let space = advice::space(recipe, inputs, &saver, steps, layout.slots())?;
    // Without data it is not known how many checkpoints there will be.
    let space = if inputs.missing.is_some() { Space { most: space.least, ..space } } else { space };
    let (least, most) = (gigabytes(space.least), gigabytes(space.most));
    let need = match (&inputs.missing, lang) {
        (Some(_), Lang::En) => format!("{least} with one checkpoint"),
        (Some(_), Lang::Zh) => format!("含一个检查点 {least}"),
        (None, _) if least == most => least,
        (None, _) => format!("{least} – {most}"),
    };
    header.row("disk", "磁盘", need + &room(&recipe.output.output_dir, lang));
    if inputs.missing.is_none() {
        advice::add(&recipe.output, steps.total_steps, space, header);
    }
    if inputs.is_estimated {
        // Published in bf16.
        let size = (inputs.model_config.parameters() * DType::BF16.size_in_bytes()) as u64;
        let cache = locate::cache(&recipe.model);
        let place = cache.as_ref().map(|cache| format!(" → {}{}", cache.display(), room(cache, lang)));
        header.row("download", "下载", gigabytes(size) + &place.unwrap_or_default());
        if let Some(free) = cache.as_deref().and_then(fs::free_space).filter(|free| *free < size) {
            let (free, size) = (gigabytes(free), gigabytes(size));
            header.notice(
                format!("{free} are free for a download of {size}: make room, or set `cache_dir` (or HF_HOME) to another disk"),
                format!("下载需 {size}，而磁盘仅剩 {free}：请腾出空间，或将 `cache_dir`（或 HF_HOME）设到其他磁盘"),
            );
        }
    }
    Ok(space)
}

/// `; 12.34 GB are free`, where that is known of the disk of `path`.
fn room(path: &Path, lang: Lang) -> String {
    let free = fs::free_space(path).map(gigabytes);
    free.map_or_else(String::new, |free| match lang {
        Lang::En => format!("; {free} are free"),
        Lang::Zh => format!("；可用 {free}"),
    })
}

/// An error that a run would end with, where the plan goes on.
fn noted(header: &mut Header, err: &Error) {
    let said = |chinese| match err.hint_text(chinese) {
        Some(hint) => format!("{err} ({hint})"),
        None => err.to_string(),
    };
    header.notice(said(false), said(true));
}

/// The rate of some first steps. `None`: nothing is trained.
fn probe(recipe: &Recipe, inputs: &Inputs, planned: &Planned) -> Result<Option<Rate>> {
    if planned.survey.samples.is_empty() {
        return Ok(None);
    }
    loading::try_out(recipe, inputs, planned, |trainer: &Trainer| {
        let began = Instant::now();
        planned.rehearse(trainer)?;
        Rate::of_steps(trainer, planned, began.elapsed(), PATIENCE)
    })
}

/// At the rate that was `probed`, else at that of a product. `None`: nothing is trained.
fn time(
    recipe: &Recipe,
    (inputs, planned): (&Inputs, &Planned),
    (steps, done): (&StepPlan, usize),
    probed: Option<Rate>,
) -> Result<Option<Expected>> {
    if planned.survey.samples.is_empty() {
        return Ok(None);
    }
    let model = &inputs.model_config;
    let by_products = || Rate::of_products(model, inputs.dtype, &inputs.opened.device);
    let rate = probed.map_or_else(by_products, Ok)?;
    let searches = recipe.lora.pissa.pissa_init && inputs.existing.is_none();
    Ok(Some(rate.time(recipe, planned, (steps, done), model).searching(searches)))
}

/// Says what is estimated, and what another machine would have to be asked.
fn stood_in(header: &mut Header, recipe: &Recipe, inputs: &Inputs, why_cpu: Option<&Error>) {
    let name = &recipe.model.model_name_or_path;
    match (inputs.is_estimated, &inputs.missing) {
        (false, _) => {}
        (true, None) => header.notice(
            format!("≈ {name} is not on this machine: its geometry is known by its name, and tokens are estimated, a character each"),
            format!("≈ 本机没有 {name}：结构按名称得知，词元数按每字一个估算"),
        ),
        (true, Some(_)) => header.notice(
            format!("{name} is not on this machine: its geometry is known by its name"),
            format!("本机没有 {name}：结构按名称得知"),
        ),
    }
    if let Some(err) = &inputs.missing {
        let hint = |chinese| err.hint_text(chinese).unwrap_or_default();
        header.notice(
            format!(
                "the data are not here, so full rows are assumed, and steps and time are not known: {err}\n  {}",
                hint(false)
            ),
            format!("数据尚不存在，故按满行估计，步数与总用时未知：{err}\n  {}", hint(true)),
        );
    }
    let (data, long) = (&recipe.data, inputs.perhaps_too_long(recipe.data.longest_row()));
    if inputs.is_estimated && inputs.missing.is_none() && long > 0 {
        let (does, does_zh) = match data.over_length {
            OverLength::Error => ("refuses", "会报错"),
            OverLength::Drop => ("leaves out", "会略去"),
            OverLength::Truncate => ("cuts", "会截断"),
        };
        header.notice(
            format!(
                "≈ {long} rows may be longer than cutoff_len {}: `over_length` {does} those that are",
                data.cutoff_len
            ),
            format!("≈ {long} 行可能超过 cutoff_len {}：`over_length` {does_zh}确实过长的行", data.cutoff_len),
        );
    }
    if let Some(err) = why_cpu {
        header.notice(format!("planned for the CPU: {err}"), format!("按 CPU 预估：{err}"));
    }
}
