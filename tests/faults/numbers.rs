//! F28–F31: values that are not finite, every point to resume from, threads, accumulation.

use crate::{
    disk,
    pool::{Check, Dice, Outcome, each, ensure},
    run::Work,
    suite::{SAVE, STEPS, Suite},
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    sync::{Mutex, atomic::Ordering::Relaxed},
};

/// F29: one run that keeps a checkpoint of every step; from each of them another process ends as the undisturbed run.
pub fn from_every_step(suite: &Suite) -> Outcome {
    let kept = Work::new(suite);
    let mut running = kept.start_paused("end", 1, &["save_steps=1", "save_total_limit=100"]).expect("a run");
    running.kill();
    running.wait();
    let steps = suite.thin(1..STEPS, 6);
    each(
        &steps,
        |step| format!("from step {step}"),
        |&step| {
            let work = Work::new(suite);
            fs::create_dir(work.out()).expect("a folder");
            fs::copy(kept.out().join("run.json"), work.out().join("run.json")).expect("a receipt");
            disk::copy(&disk::checkpoint(&kept.out(), step), &disk::checkpoint(&work.out(), step));
            work.finishes()
        },
    )
}

/// F28
pub fn not_finite(suite: &Suite) -> Outcome {
    let mut steps: Vec<(&str, usize)> = vec![];
    for what in ["nan_loss", "nan_grad"] {
        steps.extend(suite.thin(1..=STEPS, 4).into_iter().map(|step| (what, step)));
    }
    let steps = each(
        &steps,
        |(what, step)| format!("{what}:{step}"),
        |&(what, step)| {
            let work = Work::new(suite);
            let ended = work.run(&format!("{what}:{step}"), &[]);
            let said = || format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr);
            ensure(ended.code() == Some(1) && ended.steps.len() == step - 1, said)?;
            let named = format!("step {step}: ");
            ensure(
                ended.stderr.contains(&named) && ended.stderr.contains("NaN") && ended.stderr.contains("train row"),
                said,
            )?;
            disk::only_finite(&work.out())?;
            disk::nothing_torn(&work.out())?;
            // A save under way comes to its end.
            let due = (step - 1) / SAVE * SAVE;
            ensure(disk::newest_valid(&work.out()).unwrap_or(0) == due, || format!("checkpoint-{due} is lost"))?;
            ensure(disk::leftovers(&work.out()).is_empty(), || "a save is left half-written".into())?;
            ensure(!work.out().join("adapter_model.safetensors").exists(), || "an adapter is there".into())?;
            work.finishes() // the fault gone, it goes on from its last checkpoint
        },
    );
    steps.and(spoiled_base(suite)).and(spoiled_adapter(suite))
}

const SPOILERS: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// A weight of the base that is not finite: every tensor in turn, at a place that the rows use.
fn spoiled_base(suite: &Suite) -> Outcome {
    let path = "model/model.safetensors";
    let bytes = fs::read(suite.fixture().join(path)).expect("the base");
    let mut dice = Dice::new(28);
    let mut cases = vec![];
    for name in disk::tensors(&bytes).expect("tensors").into_keys() {
        for value in SPOILERS {
            cases.push((name.clone(), value, dice.share()));
        }
    }
    let cases = suite.thin(cases, 6);
    each(
        &cases,
        |(name, value, _)| format!("{value} in {name} of the base"),
        |(name, value, place)| {
            let inputs = tempfile::tempdir().expect("a temporary folder");
            disk::copy(suite.fixture(), inputs.path());
            spoil(&inputs.path().join(path), name, *value, *place);
            stops(&Work::with_inputs(suite, inputs.path()), &[])
        },
    )
}

/// A value of the adapter that training is to begin with.
fn spoiled_adapter(suite: &Suite) -> Outcome {
    let begun = Work::new(suite);
    begun.run("", &[]);
    let names: Vec<String> = disk::tensors(&suite.golden.adapter).expect("tensors").into_keys().collect();
    let mut dice = Dice::new(29);
    let mut cases = vec![];
    for name in names {
        for value in SPOILERS {
            cases.push((name.clone(), value, dice.share()));
        }
    }
    let cases = suite.thin(cases, 6);
    each(
        &cases,
        |(name, value, _)| format!("{value} in {name} of an adapter"),
        |(name, value, place)| {
            let work = Work::new(suite);
            disk::copy(&begun.out(), &work.path("start"));
            spoil(&work.path("start/adapter_model.safetensors"), name, *value, *place);
            stops(&work, &["adapter_name_or_path=start"])
        },
    )
}

/// It ends with an error that says what is not finite, and saves nothing that is not.
fn stops(work: &Work, args: &[&str]) -> Check {
    let ended = work.run("", args);
    let said = || format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr);
    ensure(matches!(ended.code(), Some(1 | 2)), said)?;
    ensure(ended.stderr.contains("not finite"), said)?;
    ensure(ended.steps.is_empty(), said)?;
    if work.out().is_dir() {
        disk::only_finite(&work.out())?;
    }
    ensure(!work.out().join("adapter_model.safetensors").exists(), || "an adapter is there".into())
}

/// Puts a value into a tensor of a file, `place` ∈ [0, 1) of the way in. Embeddings: the row of a token that every prompt has.
fn spoil(file: &Path, tensor: &str, value: f32, place: f64) {
    let mut bytes = fs::read(file).expect("a file of tensors");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let about: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let about = &about[tensor];
    assert_eq!(about["dtype"], "F32", "{tensor}");
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    let (from, to) = (number(&about["data_offsets"][0]), number(&about["data_offsets"][1]));
    let columns = number(about["shape"].as_array().and_then(|shape| shape.last()).expect("a shape"));
    let element = if tensor.contains("embed_tokens") {
        START_OF_TURN * columns + (place * columns as f64) as usize
    } else {
        (place * ((to - from) / 4) as f64) as usize
    };
    let at = 8 + header + from + 4 * element;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(file, bytes).expect("a spoiled file");
}

/// Id of `<|im_start|>` in the fixtures' tokenizer.
const START_OF_TURN: usize = 2001;

/// F30
pub fn thread_counts(suite: &Suite) -> Outcome {
    let counts = [1, 2, 4];
    let whole: Vec<(usize, usize)> = counts.iter().map(|&n| (n, n)).collect();
    let changed = counts.iter().flat_map(|&a| counts.iter().map(move |&b| (a, b))).filter(|(a, b)| a != b);
    let cases: Vec<(usize, usize)> = whole.into_iter().chain(changed).collect();
    each(
        &cases,
        |(a, b)| format!("{a} threads, then {b}"),
        |&(first, second)| {
            let work = Work::new(suite);
            work.threads.store(first, Relaxed);
            if first == second {
                return work.finishes();
            }
            let work = work.interrupted_after(18);
            work.threads.store(second, Relaxed);
            work.finishes()
        },
    )
}

/// F31: the steps' losses and the adapter do not depend on how a batch is cut. 62 rows: the last step of an epoch is partial.
pub fn accumulation(suite: &Suite) -> Outcome {
    const BATCH: usize = 8;
    let keys = ["lora_dropout=0.0", "max_samples=62", "num_train_epochs=2", "logging_steps=1"];
    let run = |batch: usize, micro: Option<usize>| -> Result<(Vec<f64>, Vec<f32>), String> {
        let work = Work::new(suite);
        let cut = [
            format!("per_device_train_batch_size={batch}"),
            format!("gradient_accumulation_steps={}", BATCH / batch),
            format!("micro_batch_tokens={}", micro.unwrap_or(4096)),
        ];
        let args: Vec<&str> = keys.iter().copied().chain(cut.iter().map(String::as_str)).collect();
        let ended = work.run("", &args);
        ensure(ended.code() == Some(0), || ended.stderr.clone())?;
        let log = fs::read_to_string(work.out().join("trainer_log.jsonl")).map_err(|err| err.to_string())?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let losses: Vec<f64> = lines.filter_map(|line| line["loss"].as_f64()).collect();
        let adapter = fs::read(work.out().join("adapter_model.safetensors")).map_err(|err| err.to_string())?;
        Ok((losses, disk::tensors(&adapter)?.into_values().flatten().collect()))
    };
    let (losses, adapter) = match run(BATCH, None) {
        Ok(whole) => whole,
        Err(why) => return Outcome::one("1 × 8", Err(why)),
    };
    let furthest = Mutex::new(0.0);
    let cases = [(4, None), (2, None), (1, None), (8, Some(100)), (8, Some(16)), (2, Some(64))];
    let outcome = each(
        &cases,
        |(batch, micro)| format!("{} × {batch}, {micro:?} tokens at once", BATCH / batch),
        |&(batch, micro)| {
            let (other_losses, other) = run(batch, micro)?;
            ensure(losses.len() == 16 && other_losses.len() == 16, || format!("{} steps", other_losses.len()))?;
            let off = losses.iter().zip(&other_losses).map(|(a, b)| ((a - b) / a).abs()).fold(0.0, f64::max);
            let mut furthest = furthest.lock().expect("the furthest");
            *furthest = f64::max(*furthest, off);
            ensure(off <= 1e-6, || format!("losses differ by {off:.1e}"))?;
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
            let distance = norm(&mut adapter.iter().zip(&other).map(|(a, b)| f64::from(a - b)))
                / norm(&mut adapter.iter().map(|&a| f64::from(a)));
            ensure(distance <= 1e-4, || format!("adapters differ by {distance:.1e}"))
        },
    );
    let furthest = *furthest.lock().expect("the furthest");
    outcome.note(format!("losses within {furthest:.0e}"))
}
