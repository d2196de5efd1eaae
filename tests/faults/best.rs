//! A run that returns to its best evaluation and gives up early: killed anywhere it ends the same, and a save that fails costs
//! no run.

use crate::{
    disk,
    golden::{Reports, log_lines},
    kills::calls,
    pool::{Check, Outcome, each, ensure},
    run::Work,
    suite::{STEPS, Suite},
};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;

/// The loss falls, and the highest is called the best: the first evaluation, which falls between two saves.
const KEYS: &[&str] = &[
    "load_best_model_at_end=true",
    "early_stopping_steps=4",
    "eval_steps=3",
    "save_steps=6",
    "save_total_limit=2",
    "greater_is_better=true",
];

/// What must not depend on interruptions.
#[derive(PartialEq)]
struct Chosen {
    adapter: Vec<u8>,
    log: Vec<Value>,
    reports: Reports,
}

impl Chosen {
    fn read(out: &Path) -> Result<Self, String> {
        let read = |name: &str| std::fs::read(out.join(name)).map_err(|err| format!("{name}: {err}"));
        Ok(Self {
            adapter: read("adapter_model.safetensors")?,
            log: log_lines(&read("trainer_log.jsonl")?)?,
            reports: Reports::read(out)?,
        })
    }

    fn step(&self, key: &str) -> Option<usize> {
        self.reports.trainer_state[key].as_u64().map(|step| step as usize)
    }
}

pub fn is_kept(suite: &Suite) -> Outcome {
    let undisturbed = Work::new(suite);
    let ended = undisturbed.run("", KEYS);
    let want = match Chosen::read(&undisturbed.out()) {
        Ok(want) => want,
        Err(why) => return Outcome::one("the undisturbed run", Err(format!("{why}: {}", ended.stderr))),
    };
    let (best, last) = (want.step("best_global_step"), want.step("global_step"));
    let telling = best.is_some_and(|best| best % 6 != 0) && best < last && last < Some(STEPS);
    let telling = Outcome::one("the choice tells", ensure(telling, || format!("best {best:?}, last {last:?}")));

    let calls = calls(suite, None, KEYS);
    let stride = if suite.quick { calls.div_ceil(10) } else { 3 };
    let some: Vec<usize> = (1..=calls).step_by(stride).collect();
    let killed = each(&some, |call| format!("kill:{call}"), |&call| killed_at(suite, call, &want));
    let failed = each(&some, |call| format!("error:EIO:{call}"), |&call| fails_at(suite, call));
    let at_the_end = |what, fault, said| Outcome::one(what, stopped_at_the_end(suite, fault, said, &want));
    let last = last.unwrap_or(0);
    telling
        .and(killed)
        .and(failed)
        .and(at_the_end("stopped when it has returned", String::new(), "which is saved"))
        .and(at_the_end("the same, its last save failed", format!(",no_thread:{last}"), "which is not saved"))
}

/// A signal after the return to the best: what is saved is the run as it stood, or nothing; never the best parameters with
/// the moments of the last step.
fn stopped_at_the_end(suite: &Suite, fault: String, said: &str, want: &Chosen) -> Check {
    let work = Work::new(suite);
    let mut running = work.start(&format!("pause:end:1:marker{fault}"), KEYS);
    ensure(running.reaches(&work.path("marker")), || "it does not come to its end".into())?;
    running.signal(Signal::TERM);
    work.release();
    let ended = running.wait();
    ensure(ended.code() == Some(143) && ended.stderr.contains(said), || {
        format!("{:?}, {}", ended.status, ended.stderr)
    })?;
    disk::nothing_torn(&work.out())?;
    let again = work.run("", KEYS);
    ensure(again.code() == Some(0), || format!("the same command again: {:?}, {}", again.status, again.stderr))?;
    ensure(Chosen::read(&work.out())? == *want, || "another result".into())
}

fn killed_at(suite: &Suite, call: usize, want: &Chosen) -> Check {
    let work = Work::new(suite);
    let ended = work.run(&format!("kill:{call}"), KEYS);
    ensure(ended.signal() == Some(9), || format!("it was not killed: {:?}, {}", ended.status, ended.stderr))?;
    disk::nothing_torn(&work.out())?;
    let from = disk::newest_valid(&work.out()).unwrap_or(0);
    if let Some(best) = best_so_far(&work.out(), from)? {
        ensure(disk::is_valid(&work.out(), best), || format!("the best, checkpoint-{best}, is not there"))?;
    }
    let (complete, last) = (work.is_complete(), want.step("global_step").unwrap_or(0));
    let ended = work.run("", KEYS);
    ensure(ended.code() == Some(0), || format!("the same command again: {:?}, {}", ended.status, ended.stderr))?;
    let steps: Vec<usize> = if complete { vec![] } else { (from + 1..=last).collect() };
    ensure(ended.steps == steps, || format!("goes on after step {from}, but does steps {:?}", ended.steps))?;
    ensure(Chosen::read(&work.out())? == *want, || "another result".into())
}

/// The step of the highest held-out loss that the checkpoint of `step` knows.
fn best_so_far(out: &Path, step: usize) -> Result<Option<usize>, String> {
    let Ok(text) = std::fs::read(disk::checkpoint(out, step).join("state.json")) else { return Ok(None) };
    let state: Value = serde_json::from_slice(&text).map_err(|err| err.to_string())?;
    let evaluations = state["history"].as_array().into_iter().flatten().map(|event| &event["evaluated"]);
    let during = evaluations.filter(|e| e["when"] == "during");
    let loss = |e: &Value| e["loss"].as_f64().unwrap_or(f64::MIN);
    let best = during.max_by(|a, b| loss(a).total_cmp(&loss(b)));
    Ok(best.and_then(|e| e["step"].as_u64()).map(|step| step as usize))
}

/// The result is that of a checkpoint which is there, though perhaps not of the best: its save may be the one that failed.
fn fails_at(suite: &Suite, call: usize) -> Check {
    let work = Work::new(suite);
    let ended = work.run(&format!("error:EIO:{call}"), KEYS);
    let said = || format!("{:?}, {}", ended.status, ended.stderr);
    ensure(matches!(ended.code(), Some(0..=2)), said)?;
    disk::nothing_torn(&work.out())?;
    ensure(ended.stderr.contains("warning: ") || ended.stderr.contains("error: "), || format!("not told: {}", said()))?;
    if ended.code() != Some(0) {
        let again = work.run("", KEYS);
        ensure(again.code() == Some(0), || format!("the same command again: {:?}, {}", again.status, again.stderr))?;
    }
    let chosen = Chosen::read(&work.out())?;
    let best = chosen.step("best_global_step").ok_or("nothing was chosen")?;
    if Some(best) == chosen.step("global_step") {
        return Ok(());
    }
    ensure(disk::is_valid(&work.out(), best), || format!("checkpoint-{best} was chosen and is not there"))?;
    let adapter = std::fs::read(disk::checkpoint(&work.out(), best).join("adapter_model.safetensors"));
    ensure(adapter.is_ok_and(|adapter| adapter == chosen.adapter), || format!("the result is not checkpoint-{best}"))
}
