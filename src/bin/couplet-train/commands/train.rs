//! `couplet-train --config FILE [key=value …]`: from a recipe to a trained adapter.

use super::{
    data::quoted,
    header::{self, Facts, device_line},
    proof, restore, samples,
    stop::StopAt,
    verdict::{self, Finals, scores},
    writing::Writing,
};
use crate::{args::TrainArgs, machine};
use candle_core::DType;
use couplet_train::{
    adapter::peft,
    config::{self, Loaded, Recipe, SaveStrategy},
    dataset::{self, Example, Splits, Tokenizer},
    device,
    error::{Error, Result, io_reason},
    fs::{self, Lock, fault},
    generate::Speaker,
    hub::{self, HubEnv},
    model::{Checkpoint, Params, Qwen3, Qwen3Config, lora::initial_values, params::Slot, qwen3::Keep},
    plan,
    report::{
        Console, Lang, Look, LossPlot, Observers, Outcome, Results, Summary, TrainerLog, Verbosity, Verdict, model_card,
    },
    run::{self, Receipt, Start, megabytes},
    trainer::{Choice, Cut, Ended, Progress, Trainer, checkpoint, event::Observer, plan::StepPlan, saver::Saver},
};
use serde_json::json;
use std::{
    io::stderr,
    path::{Path, PathBuf},
    time::Instant,
};

/// Tokenizer files that go with the adapter, where the base has them.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Trains the recipe.
///
/// Returns the exit code: 0 when the run is complete, that of a signal or of the time limit when it stopped early.
pub fn run(args: &TrainArgs, look: Look) -> Result<u8> {
    let started = Instant::now();
    let (file, overrides) = recipe_and_overrides(args)?;
    let mut console = Console::new(stderr(), look);
    let Loaded { mut recipe, notices } = config::load(&file, &overrides)?;
    let stop = StopAt::new(recipe.train.max_seconds.map(|limit| (started, limit)))?;
    let out = recipe.output.output_dir.clone();
    let mut start = run::inspect(&recipe)?;
    let mut lock = None;
    if start != Start::AlreadyComplete {
        // A second run into the same folder leaves at once. Until the lock was ours, another may have ended there.
        lock = Some(Lock::acquire(&out)?);
        start = run::inspect(&recipe)?;
    }
    let Some(mut lock) = lock.filter(|_| start != Start::AlreadyComplete) else {
        console.line(&already_complete(&out, look.lang));
        return Ok(0);
    };
    fs::remove_leftovers(&out)?;
    let restored = restore::find(&recipe, &start, &mut console)?;

    // 1. Everything that can be wrong with the input, cheapest first: a name is looked up before gigabytes are fetched.
    for names in [&recipe.data.dataset, &recipe.data.eval_dataset, &recipe.data.test_dataset] {
        dataset::registry::look_up(&recipe.data.dataset_dir, names)?;
    }
    let env = HubEnv::read(|name| std::env::var(name).ok());
    let m = &recipe.model;
    let model_dir = hub::resolve(
        &m.model_name_or_path,
        &m.model_revision,
        m.cache_dir.as_deref(),
        &env,
        &mut |p: hub::Progress| {
            console.download(p.file, p.done, p.total);
        },
    )?;
    let model_config = Qwen3Config::load(&model_dir)?;
    let tokenizer = Tokenizer::load(&model_dir)?;
    let existing = m.adapter_name_or_path.as_deref().map(peft::Existing::open).transpose()?;
    let asked = recipe.lora.clone();
    if let Some(existing) = &existing {
        recipe.lora = existing.lora.clone();
    }
    fault::phase("tokenise");
    let data = dataset::load(&recipe.data, recipe.train.seed, &tokenizer)?;
    let test = verdict::test_rows(&recipe, &tokenizer)?;
    let rows = data.train.iter().chain(&data.eval).chain(&test);
    refuse_unknown_ids(rows, model_config.vocab_size, &model_dir)?;
    let device = device::open(m.device, model_config.parameters())?;

    // 2. The model and what is trained in it.
    let dtype = if recipe.train.bf16 { DType::BF16 } else { DType::F32 };
    if device.is_cpu() {
        machine::refuse_too_large(model_config.parameters() * dtype.size_in_bytes(), dtype)?;
    }
    let cut = Cut {
        max_rows: recipe
            .train
            .micro_batch_tokens
            .unwrap_or_else(|| plan::micro_batch_rows(&model_config, dtype, &device)),
        // Exact only while nothing random touches the shared rows.
        share_prefix: recipe.train.shared_prefix && recipe.lora.lora_dropout == 0.0,
        keep: Keep::Lean,
    };
    let largest = cut.largest(&StepPlan::new(data.train.len(), &recipe.train), &data.train)?;
    let shape = plan::Shape {
        model: &model_config,
        lora: &recipe.lora,
        dtype,
        saves: recipe.output.save_strategy != SaveStrategy::No,
    };
    let load = largest.as_ref().map_or(plan::Load { rows: 0, labels: 0 }, |(_, load)| *load);
    let free = machine::available_memory().filter(|_| device.is_cpu());
    let keep = plan::keep(recipe.train.gradient_checkpointing, &shape, load, free)?;
    let (cut, memory) = (Cut { keep, ..cut }, shape.memory(load, keep));
    let before = machine::resident_memory();
    fault::phase("load");
    let checkpoint = Checkpoint::open(&model_dir)?;
    let (model, layout) = Qwen3::load(&model_config, &checkpoint, &recipe.lora, dtype, &device)?;
    let initial = |slot: &Slot| match &existing {
        Some(existing) => existing.values(slot),
        None => Ok(initial_values(slot, recipe.train.seed)),
    };
    let params = Params::new(layout, dtype, &device, initial)?;
    if let Some(existing) = &existing {
        existing.refuse_strangers(params.slots().map(|(_, slot)| slot))?;
    }
    let about = receipt_facts(&recipe, &checkpoint, &tokenizer, &data, &device, dtype);
    let identity = checkpoint::identity(
        serde_json::to_value(&recipe).map_err(|err| Error::run(err.to_string()))?,
        about["digests"].clone(),
        &device_line(&device, dtype),
    );
    if let Some(restored) = &restored {
        restore::refuse_changes(&recipe, restored, &identity, &mut console)?;
    }
    let saver = Saver::new(&recipe, identity, restored.as_ref().map(|restored| restored.state.step));
    let may_stop = || stop.is_requested();
    let speaker = Speaker::from_receipt(&about["speak"])?;
    let writing = Writing::new(&recipe, (&model, &tokenizer), &data, &speaker, &may_stop)?;
    let write = |params: &Params| writing.as_ref().map_or(Ok(None), |writing| writing.write(params));
    let mut trainer = Trainer {
        optim: Trainer::optimizer(&recipe.train, &params)?,
        model: &model,
        params,
        config: &recipe.train,
        train: &data.train,
        eval: &data.eval,
        dataset_names: &data.summary.files.iter().map(|file| file.name.clone()).collect::<Vec<_>>(),
        lora_dropout: recipe.lora.lora_dropout,
        cut,
        logging_steps: recipe.output.logging_steps,
        count_input_tokens: recipe.output.include_num_input_tokens_seen,
        saver: Some(saver),
        choice: Choice {
            load_best: recipe.output.load_best_model_at_end,
            metric: recipe.output.metric_for_best_model.clone(),
            greater_is_better: recipe.output.greater_is_better,
            patience: recipe.train.early_stopping_steps,
        },
        stop: &may_stop,
        write: writing.is_some().then_some(&write),
        progress: Progress::default(),
    };
    if let Some(restored) = &restored {
        trainer.resume(restored)?;
    }
    trainer.refuse_rate_zero()?;
    let space = trainer.saver.as_ref().map(|saver| saver.space(&trainer.plan(), trainer.params.len()));
    let short_of_room = space.map(|s| run::refuse_full_disk(&out, s.least, s.most)).transpose()?.flatten();

    // 3. Said before it is done.
    let steps = trainer.plan();
    let facts = Facts {
        model_dir: &model_dir,
        model: &model_config,
        device: &device,
        dtype,
        params: &trainer.params,
        data: &data.summary,
        plan: &steps,
        cut,
        memory: &memory,
        largest: load,
    };
    let mut header = header::header(&recipe, &facts);
    if cfg!(feature = "fault-injection") {
        header.notice(
            "built with `fault-injection`, for tests only; do not train with it",
            "此程序以 `fault-injection` 构建，仅供测试，请勿用于训练",
        );
    }
    for notice in notices {
        header.notice(notice.en, notice.zh);
    }
    if existing.is_some() && asked != recipe.lora {
        header.notice(
            "rank, alpha, dropout and targets are those of `adapter_name_or_path`, not of the config",
            "秩、alpha、dropout 与目标模块取自 `adapter_name_or_path`，而非配置文件",
        );
    }
    if recipe.train.shared_prefix && !cut.share_prefix {
        header.notice(
            "`lora_dropout` > 0: the shared prefix is computed for every sample",
            "`lora_dropout` > 0：共同前缀将逐样本计算",
        );
    }
    if let (Some(free), Some(space)) = (short_of_room, space) {
        let (free, most) = (megabytes(free), megabytes(space.most));
        header.notice(
            format!("{free} are free, but the checkpoints will take {most}: set `save_total_limit`, or make room"),
            format!("磁盘仅剩 {free}，而检查点将占用 {most}：请设置 `save_total_limit` 或腾出空间"),
        );
    }
    for warning in &data.summary.warnings {
        header.notice(warning.en.clone(), warning.zh.clone());
    }
    if let Some(restored) = &restored {
        let (path, step) = (restored.path.display(), restored.state.step);
        header.notice(format!("goes on after step {step}, from {path}"), format!("从 {path} 继续，已完成 {step} 步"));
    } else if start == Start::Unfinished {
        header.notice(
            "the run that began here left no checkpoint; it starts again from step 0",
            "此处先前的训练没有留下检查点，将从第 0 步重新开始",
        );
    }
    console.header(&header);
    if let Some((samples, _)) = &largest {
        trainer.rehearse(samples).map_err(|err| does_not_fit(err, &memory))?;
    }

    // 4. The run.
    stop.defer();
    lock.keep();
    if !lock.is_held() {
        console.line(look.lang.pick(
            "warning: this file system has no locks; do not start a second run in the same folder",
            "警告：此文件系统不支持文件锁；请勿在同一目录启动第二个训练",
        ));
    }
    if restored.is_none() {
        run::clear(&out)?;
    }
    let receipt = Receipt::begin(&recipe, about)?;
    let mut outcome = Outcome::default();
    let mut watchers = Observers::default();
    watchers.push(Results::new(&recipe));
    if recipe.output.plot_loss {
        watchers.push(LossPlot::new(&out));
    }
    watchers.push(&mut outcome);
    let history = restored.as_ref().map_or(&[][..], |restored| &restored.state.history);
    for event in history {
        watchers.on_event(event)?;
    }
    watchers.push(TrainerLog::resume(&out, history)?);
    watchers.push(&mut console);
    if trainer.fit(&mut watchers).map_err(Error::in_run)? == Ended::Stopped {
        let (step, saved) = (trainer.progress.step, trainer.is_saved());
        drop(watchers);
        return Ok(stop.tell(step, saved, &mut console));
    }

    // 5. What remains of it.
    fault::phase("end");
    trainer.refuse_unmoved(initial)?;
    let base = &recipe.model.model_name_or_path;
    peft::save(&out, &trainer.params, &recipe.lora, base)?;
    let proven = proof::of_a_run(&out, &model, &proof::batch_of(&data.eval, &data.train)?, look.lang);
    let proven = proven.map_err(Error::in_run)?;
    for name in TOKENIZER_FILES {
        copy_if_there(&model_dir.join(name), &out.join(name))?;
    }
    if !trainer.evaluate_final(&mut watchers).map_err(Error::in_run)? {
        trainer.stopped(&mut watchers)?;
        let (step, saved) = (trainer.progress.step, trainer.is_saved());
        drop(watchers);
        return Ok(stop.tell(step, saved, &mut console));
    }
    drop(watchers);
    let rows = Finals { train: &data.train, test: &test };
    let scores = scores(&trainer, rows).map_err(Error::in_run)?;
    let verdict = scores.map(|scores| Verdict::new(&outcome, scores));
    fs::write_atomic(&out.join("README.md"), model_card(&recipe, &outcome).as_bytes())?;
    let _ = fs::remove_leftovers(&out); // of a save or prune that failed: told then, and no reason to fail now
    receipt.complete(measured(&outcome, verdict.as_ref(), &memory, before))?;
    fault::announce("complete", trainer.progress.step);
    drop(lock);
    console.line(&proven);
    let mut summary = summary(&recipe, &outcome)?;
    summary.verdict = verdict.map(|verdict| verdict.lines(look.lang)).unwrap_or_default();
    if look.verbosity != Verbosity::Quiet && !stop.is_requested() {
        let tuned = (&model, &trainer.params, &recipe.lora);
        // The run is complete; what is shown of it must not fail it.
        match samples::lines(tuned, &tokenizer, &recipe.data, &data.held_out, look.lang) {
            Ok(lines) => summary.samples = lines,
            Err(err) => console.detail(&err.to_string()),
        }
    }
    console.summary(&summary);
    Ok(0)
}

/// The recipe's file and its overrides: `--config FILE k=v …` or `FILE k=v …`.
fn recipe_and_overrides(args: &TrainArgs) -> Result<(PathBuf, Vec<String>)> {
    if let Some(file) = &args.config {
        return Ok((file.clone(), args.rest.clone()));
    }
    match args.rest.split_first() {
        Some((word, _)) if !word.contains(['=', '.', '/']) && !Path::new(word).exists() => {
            Err(Error::input(format!("`{word}` is neither a command nor a config file"))
                .hint("commands: train, data; a config ends in .toml, .yaml, .yml or .json; see `couplet-train --help`")
                .hint_zh(
                    "命令有 train 与 data；配置文件名以 .toml、.yaml、.yml 或 .json 结尾；详见 `couplet-train --help`",
                ))
        }
        Some((file, overrides)) if !file.contains('=') => Ok((file.into(), overrides.to_vec())),
        _ => Err(Error::input("no config file")
            .hint("couplet-train --config configs/tiny_couplets.toml")
            .hint_zh("couplet-train --config configs/tiny_couplets.toml")),
    }
}

/// The rows' ids must all have a row in the embedding.
fn refuse_unknown_ids<'a>(rows: impl Iterator<Item = &'a Example>, vocab_size: usize, model_dir: &Path) -> Result<()> {
    match rows.flat_map(|row| &row.input_ids).max() {
        Some(&id) if id as usize >= vocab_size => Err(Error::file(
            model_dir,
            format!("tokenizer.json makes token {id} of these rows, but the model has only {vocab_size} (vocab_size)"),
        )
        .hint("tokenizer.json and config.json are not of the same model; take both from one checkpoint")
        .hint_zh("tokenizer.json 与 config.json 不属于同一模型；请使用同一模型自带的文件")),
        _ => Ok(()),
    }
}

fn already_complete(out: &Path, lang: Lang) -> String {
    let out = out.display();
    match lang {
        Lang::En => format!(
            "{out}: this run is already complete. Train longer into another folder (num_train_epochs=…, output_dir=…), \
             go on from its adapter (adapter_name_or_path={out}), or start over (overwrite_output_dir=true)."
        ),
        Lang::Zh => format!(
            "{out}：此训练已完成。可换目录训练更久（num_train_epochs=…、output_dir=…），\
             从其适配器继续（adapter_name_or_path={out}），或重新开始（overwrite_output_dir=true）。"
        ),
    }
}

fn receipt_facts(
    recipe: &Recipe,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    data: &Splits,
    device: &candle_core::Device,
    dtype: DType,
) -> serde_json::Value {
    json!({
        "digests": {
            "base": checkpoint.digest(),
            "data": data.summary.digest,
            "tokenizer": tokenizer.digest(),
            "binary": machine::binary_digest(),
        },
        "device": device_line(device, dtype),
        "speak": {
            "template": recipe.data.template,
            "enable_thinking": recipe.data.enable_thinking,
            "default_system": recipe.data.default_system,
            "instruction": data.summary.instruction,
            "joined_by": "\n",
            "punctuation": data.summary.punctuation,
        },
        "data": data.summary,
    })
}

fn measured(
    outcome: &Outcome,
    verdict: Option<&Verdict>,
    memory: &plan::Memory,
    before: Option<u64>,
) -> serde_json::Value {
    let finished = outcome.finished.as_ref();
    json!({
        "predicted": {
            "peak_memory_bytes": before.map(|before| before + memory.total()),
            "before_the_model": before,
            "memory": memory,
        },
        "measured": {
            "train_seconds": finished.map(|f| f.runtime),
            "peak_memory_bytes": machine::peak_memory(),
        },
        "results": {
            "steps": finished.map(|f| f.step),
            "train_loss": finished.map(|f| f.train_loss),
            "eval_loss_before": outcome.loss_before(),
            "eval_loss": outcome.loss_after(),
            "verdict": verdict,
        },
    })
}

/// The largest micro-batch failed.
fn does_not_fit(err: Error, memory: &plan::Memory) -> Error {
    let parts = memory.describe();
    Error::run(format!("the largest micro-batch cannot be computed: {err}; planned: {parts}"))
        .hint("if memory is short: a smaller `micro_batch_tokens`, `gradient_checkpointing = \"on\"`, a smaller model")
        .hint_zh("若内存不足：请减小 `micro_batch_tokens`，设 `gradient_checkpointing = \"on\"`，或改用更小的模型")
}

fn copy_if_there(from: &Path, to: &Path) -> Result<()> {
    match std::fs::read(from) {
        Ok(bytes) => fs::write_atomic(to, &bytes),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(Error::file(from, format!("cannot be copied: {}", io_reason(&err)))
            .hint("the adapter itself is written; copy the tokenizer files beside it by hand")
            .hint_zh("适配器本身已写出；请手动复制分词器文件")),
    }
}

fn summary(recipe: &Recipe, outcome: &Outcome) -> Result<Summary> {
    let finished = outcome.finished.as_ref().ok_or_else(|| Error::run("internal error: the run did not finish"))?;
    let out = &recipe.output.output_dir;
    let name = quoted(&out.display().to_string());
    let mut files: Vec<String> = std::fs::read_dir(out)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    files.sort();
    Ok(Summary {
        steps: finished.step,
        seconds: finished.runtime,
        samples_per_second: finished.samples_seen / finished.runtime,
        loss_before: outcome.loss_before(),
        loss_after: outcome.loss_after(),
        train_loss: finished.train_loss,
        output_dir: out.clone(),
        files,
        verdict: vec![],
        samples: vec![],
        next: vec![
            format!("couplet-train generate --adapter {name} --compare 上联"),
            format!("couplet-train export --adapter {name} export_dir=merged"),
        ],
    })
}
