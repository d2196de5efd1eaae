//! `couplet-train --config FILE [key=value …]`: from a recipe to a trained adapter.

use super::{
    advice,
    data::quoted,
    expected::Rate,
    finished,
    inputs::Inputs,
    loading::{Loading, trainer},
    notices,
    on_card::OnCard,
    pissa,
    place::Place,
    planned::Planned,
    proof, receipt, recipe_and_overrides, restore, samples,
    stop::StopAt,
    verdict::{Finals, scores},
    writing::Writing,
};
use crate::{args::TrainArgs, machine};
use candle_core::Tensor;
use couplet_train::{
    adapter::peft,
    config::{self, Loaded, Recipe},
    error::{Error, Result, gigabytes},
    fs::{self, fault},
    generate::Speaker,
    kernels,
    model::{Checkpoint, Params, Principal, Qwen3, Recorder, params::Slot},
    plan::{Part, explained},
    report::{
        Console, Lang, Look, LossPlot, Observers, Outcome, Results, Summary, TrainerLog, Verbosity, Verdict, model_card,
    },
    run::Receipt,
    trainer::{
        Ended, Trainer,
        event::{Compared, Event, Finished, Observer, Took},
        refuse_rate_zero,
        saver::Saver,
    },
};
use std::{io::stderr, time::Instant};

/// Trains the recipe.
///
/// Returns the exit code: 0 when the run is complete, that of a signal or of the time limit when it stopped early.
pub fn run(args: &TrainArgs, look: Look) -> Result<u8> {
    let started = Instant::now();
    let (file, overrides) = recipe_and_overrides(args, "couplet-train --config")?;
    let mut console = Console::new(stderr(), look);
    let Loaded { mut recipe, notices } = config::load(&file, &overrides)?;
    let stop = StopAt::new(recipe.train.max_seconds.map(|limit| (started, limit)))?;
    let out = recipe.output.output_dir.clone();
    let Some(mut place) = Place::take(&recipe, &mut console)? else {
        return finished::look_at(&recipe, &mut console);
    };

    // 1. Everything that can be wrong with the input, then the model and what is trained in it.
    let inputs = Inputs::read(&mut recipe, &mut console)?;
    let planned = Planned::new(&recipe, &inputs)?;
    let mut on_card = OnCard::new(&inputs.opened.device);
    let before = place.found.restored.as_ref().map(|restored| restored.path.clone());
    place.found.restored.iter().try_for_each(|restored| restore::refuse_another_config(&recipe, restored))?;
    let lacking = |base: &Checkpoint| pissa::principal(&recipe, &inputs, base, before.as_deref(), &mut console);
    let loading = Loading::load(&recipe, &inputs, lacking, &mut on_card);
    let loading = loading.map_err(|err| on_card.explain(err, before.as_deref()))?;
    let Loading { model, params, optim, about, lacking } = loading;
    let principal = lacking.as_ref().map(|(principal, _)| principal);
    let recorded = recorded(&model, &recipe)?;
    let identity = receipt::identity(&recipe, &about, recorded)?;
    if let Some(restored) = &place.found.restored {
        restore::refuse_changes(restored, &identity, &mut console)?;
    }
    let may_stop = || stop.is_requested();
    let speaker = Speaker::from_receipt(&about["speak"])?;
    let writing = Writing::new(&recipe, (&model, &inputs.tokenizer), &inputs.data, &speaker, &may_stop)?;
    let write = |params: &Params| writing.as_ref().map_or(Ok(None), |writing| writing.write(params));
    let initial = params.flat().clone();
    let names = inputs.dataset_names();
    let mut trainer = Trainer {
        saver: Some(Saver::new(&recipe, identity, place.found.begins_after())),
        stop: &may_stop,
        write: writing.is_some().then_some(&write),
        ..trainer(&recipe, (&inputs, &names), &planned, (&model, params, optim))
    };
    let lost = place.found.restored.take().map(|restored| trainer.resume(restored)).transpose()?.flatten();
    if let Some(lost) = lost {
        console.line(&restore::lost_line(&lost, look.lang));
    }
    refuse_rate_zero(&recipe.train, trainer.plan().total_steps)?;
    trainer.refuse_empty_steps()?;
    let saver = trainer.saver.as_ref().ok_or_else(|| Error::run("internal error: a run without a saver"))?;
    let slots: Vec<Slot> = trainer.params.slots().map(|(_, slot)| slot.clone()).collect();
    let space = advice::space(&recipe, &inputs, saver, &trainer.plan(), &slots)?;
    let short_of_room = place.found.short_of_room(&out, space)?.map(|free| (free, space));

    // 2. Said before it is done.
    let pissa = lacking.as_ref().map(|(_, how)| how.as_str());
    let mut header = notices::said_before(&recipe, (&inputs, pissa), &planned, &trainer.plan(), notices);
    advice::add(&recipe.output, trainer.plan().total_steps, space, &mut header);
    place.found.notices(&out, short_of_room, &mut header);
    console.header(&header);
    if !place.lock.is_held() {
        console.line(look.lang.pick(
            "warning: this file system has no locks; do not start a second run in the same folder",
            "警告：此文件系统不支持文件锁；请勿在同一目录启动第二个训练",
        ));
    }

    trainer.recorder = recorded.then(|| Recorder::new(&trainer.params)).transpose()?;
    let rehearsal = Instant::now();
    planned.rehearse(&trainer).map_err(|err| on_card.explain(err, before.as_deref()))?;
    let rehearsal = rehearsal.elapsed();
    let patience = Rate::patience(&recipe, &trainer, &planned, rehearsal);
    let rate = Rate::of_steps(&trainer, &planned, rehearsal, patience)?;
    let after = |done| rate.map(|rate| rate.time(&recipe, &planned, (&trainer.plan(), done), &inputs.model_config));
    // Seconds of earlier processes count among those of the run.
    let (expected, left) = (after(0), after(trainer.progress.step));
    if let Some(left) = left {
        console.line(&format!("{}  {}", look.lang.pick("time", "用时"), left.describe(look.lang)));
    }

    // 3. The run.
    stop.defer();
    place.lock.keep();
    place.found.clear()?;
    let receipt = Receipt::begin(&recipe, about)?;
    pissa::begin(&recipe, principal, &trainer.params, &initial)?;
    let mut outcome = Outcome::default();
    let read = Event::Data(inputs.data_read(trainer.plan().total_steps, recipe.dialect));
    let mut watchers = watchers(&recipe, read, trainer.history(), &mut outcome, &mut console)?;
    let keep = |trainer: &Trainer| {
        on_card.trained();
        keep(&recipe, &inputs, trainer, (principal, &initial), look.lang)
    };
    let planned_to_take =
        Took { train_seconds: expected.map(|expected| expected.seconds), peak_memory_bytes: planned.peak() };
    let compare = |finished: Finished| {
        // As it was planned: of a card's tensors, else of the process.
        let peak_memory_bytes = on_card.peak().or_else(machine::peak_memory);
        let measured = Took { train_seconds: Some(finished.runtime), peak_memory_bytes };
        Event::Compared(Compared { finished, planned: planned_to_take, measured })
    };
    let ended = to_the_end(&mut trainer, &mut watchers, keep, compare);
    if ended.as_ref().is_err_and(|err| err.out_of_memory().is_some()) {
        // Every completed step is sound. Of two errors the first is the one worth telling.
        let _ = trainer.stopped(&mut watchers);
    }
    let explain = |err: Error| on_card.explain(err, trainer.newest_checkpoint().as_deref()).in_run();
    let proven = ended.map_err(explain)?;
    drop(watchers);
    let Some(proven) = proven else {
        let (step, saved) = (trainer.progress.step, trainer.is_saved());
        return Ok(stop.tell(step, saved, &recipe.output.resume_from_checkpoint, &mut console));
    };

    // 4. What it came to.
    let scores = scores(&trainer, Finals::of(&inputs)).map_err(Error::in_run)?;
    let verdict = scores.map(|scores| Verdict::new(&outcome, scores, model.config().vocab_size));
    fs::write_atomic(&out.join("README.md"), model_card(&recipe, &outcome).as_bytes())?;
    // Of a save or prune that failed: told then, and no reason to fail now.
    let _ = fs::remove_leftovers(&out, place.lock.is_held());
    receipt.complete(receipt::measured(&outcome, verdict.as_ref(), (&planned, expected), &on_card))?;
    fault::announce("complete", trainer.progress.step);
    let interrupted = stop.is_requested();
    stop.leave_at_once();
    drop(place);
    console.line(&proven);
    told_of_the_card(&on_card, &planned, &mut console);
    if let Some(compared) = &outcome.compared {
        console.line(&against_the_plan(compared, look.lang));
    }
    let mut summary = summary(&recipe, &outcome)?;
    summary.verdict = verdict.map(|verdict| verdict.lines(look.lang)).unwrap_or_default();
    if look.verbosity != Verbosity::Quiet && !interrupted {
        let tuned = (&model, &trainer.params, &recipe.lora);
        let base = principal.map(|principal| pissa::untrained(&recipe, principal, &model)).transpose();
        let (rows, tokenizer) = (&inputs.data.held_out, &inputs.tokenizer);
        // The run is complete; what is shown of it must not fail it.
        match base.and_then(|base| samples::lines(tuned, base.as_ref(), tokenizer, &recipe.data, rows, look.lang)) {
            Ok(lines) => summary.samples = lines,
            Err(err) => console.detail(&err.to_string()),
        }
    }
    console.summary(&summary);
    Ok(0)
}

/// What was planned, and what it came to.
fn against_the_plan(compared: &Compared, lang: Lang) -> String {
    let unknown = || "?".to_owned();
    let said = |took: &Took| {
        let time = took.train_seconds.map_or_else(unknown, |seconds| lang.duration(seconds));
        (took.peak_memory_bytes.map_or_else(unknown, gigabytes), time)
    };
    let ((memory, seconds), (peak, took)) = (said(&compared.planned), said(&compared.measured));
    match lang {
        Lang::En => format!("planned: {memory} and {seconds} of training; it took {peak} and {took}"),
        Lang::Zh => format!("预计 {memory}、训练 {seconds}；实际 {peak}、{took}"),
    }
}

/// What a card's memory came to, and which operations our kernels left to candle.
fn told_of_the_card(on_card: &OnCard, planned: &Planned, console: &mut Console) {
    let lang = console.look().lang;
    if let Some(line) = on_card.line(planned.memory.total() - planned.memory.card, lang) {
        console.detail(&line);
    }
    let declined = kernels::declined().join("; ");
    if !declined.is_empty() {
        console.line(&match lang {
            Lang::En => format!("note: candle's operations took the place of our kernels: {declined}"),
            Lang::Zh => format!("注意：以下运算由 candle 而非自有核函数完成：{declined}"),
        });
    }
}

/// Whether `COUPLET_TRAIN_GRAPHS=on` asks for recorded passes. Not so by itself before they have been seen on a card.
///
/// Errors: it says something else; passes of this run cannot be recorded.
fn recorded(model: &Qwen3, recipe: &Recipe) -> Result<bool> {
    const VARIABLE: &str = "COUPLET_TRAIN_GRAPHS";
    let value = std::env::var(VARIABLE).unwrap_or_else(|_| "off".into());
    match value.as_str() {
        "off" => Ok(false),
        "on" if Recorder::is_possible(model, recipe.is_random()) => Ok(true),
        "on" => Err(Error::input(format!(
            "{VARIABLE}=on: passes are recorded on a card, in bf16, with heads of 64 or 128, and without `lora_dropout` and \
             `neftune_noise_alpha`"
        ))
        .hint("leave it out")
        .hint_zh("请去掉该环境变量")),
        _ => Err(Error::input(format!("{VARIABLE}={value}: on or off was expected"))
            .hint("leave it out")
            .hint_zh("请去掉该环境变量")),
    }
}

/// Those who watch, told of the `history` first; the console has seen it.
fn watchers<'a>(
    recipe: &Recipe,
    read: Event,
    history: &[Event],
    outcome: &'a mut Outcome,
    console: &'a mut Console<'_>,
) -> Result<Observers<'a>> {
    let out = &recipe.output.output_dir;
    let mut watchers = Observers::default();
    watchers.push(Results::new(recipe));
    watchers.push(outcome);
    for event in history {
        watchers.on_event(event)?;
    }
    if recipe.output.plot_loss {
        watchers.push(LossPlot::resume(out, history));
    }
    let log: Vec<Event> = [read].into_iter().chain(history.iter().cloned()).collect();
    watchers.push(TrainerLog::resume(out, &log)?);
    watchers.push(console);
    Ok(watchers)
}

/// Training, then what is to be kept of it, then its reports, the last evaluation and the comparison with the plan. `None`:
/// stopped on the way.
fn to_the_end(
    trainer: &mut Trainer,
    watchers: &mut Observers,
    keep: impl FnOnce(&Trainer) -> Result<String>,
    compare: impl FnOnce(Finished) -> Event,
) -> Result<Option<String>> {
    let Ended::Complete(finished) = trainer.fit(watchers)? else { return Ok(None) };
    fault::phase("end");
    let proven = keep(trainer)?;
    if trainer.finish(finished.clone(), watchers)? {
        watchers.on_event(&compare(finished))?;
        return Ok(Some(proven));
    }
    trainer.stopped(watchers)?;
    Ok(None)
}

/// Writes adapter and tokenizer, reads the adapter back, and returns a line that says so. Errors: it is none that would help.
fn keep(
    recipe: &Recipe,
    inputs: &Inputs,
    trainer: &Trainer,
    (principal, initial): (Option<&Principal>, &Tensor),
    lang: Lang,
) -> Result<String> {
    let out = &recipe.output.output_dir;
    trainer.refuse_unmoved(initial)?;
    peft::save(out, &trainer.params, &recipe.lora, &recipe.model.model_name_or_path)?;
    let rows = proof::batch_of(&inputs.data.eval, &inputs.data.train)?;
    let idle = |slot: &Slot| match principal {
        Some(principal) => principal.values(slot),
        None => Ok(vec![if slot.is_magnitude() { 1.0 } else { 0.0 }; slot.range().len()]),
    };
    let proven = proof::of_a_run(out, trainer.model, &idle, &rows, lang).map_err(|err| explained(err, Part::Proof))?;
    pissa::end(recipe, principal, &trainer.params, initial)?;
    inputs.write_tokenizer(out)?;
    Ok(proven)
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
        total_steps: finished.total_steps,
        chosen: outcome.chosen().map(|(step, metric)| (step, recipe.output.metric_for_best_model.clone(), metric)),
        seconds: finished.runtime,
        // Of the steps done: LlamaFactory counts those that early stopping left out.
        samples_per_second: finished.samples_seen * finished.step as f64
            / (finished.total_steps as f64 * finished.runtime),
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
