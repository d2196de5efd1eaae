//! Where a run begins that does not simply go on: at a named checkpoint, at another's adapter, over an old run; and what of
//! an earlier part it chooses in the end.

use crate::{
    resume::{Run, resumed_at},
    support::copy_dir,
};
use std::{fs, path::Path};

/// The loss falls, and the highest is called the best: the first evaluation.
const FIRST_IS_BEST: &str = "greater_is_better=true";

fn finished(keys: &[&str]) -> Run {
    let run = Run::new();
    let (code, stderr) = run.run(keys);
    assert_eq!(code, Some(0), "{keys:?}: {stderr}");
    run
}

fn refused(run: &Run, keys: &[&str], want: &str) {
    let (code, stderr) = run.run(keys);
    assert_eq!(code, Some(2), "{keys:?}: {stderr}");
    assert!(stderr.contains(want) && stderr.contains("hint: "), "{keys:?}: {stderr}");
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(path, bytes).expect("a changed file");
}

#[test]
fn an_adapter_is_not_continued_over_itself() {
    let run = finished(&["max_steps=3"]);
    let adapter = fs::read(run.work.path("out/adapter_model.safetensors")).expect("an adapter");
    for start in ["out", "./out/", "out/checkpoint-3"] {
        let keys = [&format!("adapter_name_or_path={start}"), "overwrite_output_dir=true", "max_steps=4"];
        refused(&run, &keys, "`adapter_name_or_path` is among the results that this run would replace");
    }
    assert!(fs::read(run.work.path("out/adapter_model.safetensors")).expect("an adapter") == adapter);
    assert_eq!(run.checkpoints(), ["checkpoint-3"]);

    // Elsewhere it is read before the first step, and may be gone when the run ends.
    fs::rename(run.work.path("out"), run.work.path("start")).expect("moved");
    let child = run.start(&["adapter_name_or_path=start"]);
    run.wait_for("run.json");
    fs::remove_dir_all(run.work.path("start")).expect("removed");
    let ended = child.wait_with_output().expect("an end");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn a_changed_starting_adapter_is_another_run() {
    let run = finished(&["max_steps=3"]);
    fs::rename(run.work.path("out"), run.work.path("start")).expect("moved");
    let (start, more) = ("adapter_name_or_path=start", "resume_from_checkpoint=true");
    let (code, stderr) = run.run(&[start, "max_steps=4"]);
    assert_eq!(code, Some(0), "{stderr}");

    let config = run.work.path("start/adapter_config.json");
    let before = fs::read_to_string(&config).expect("a config");
    fs::write(&config, before.replace("\"lora_alpha\": 32", "\"lora_alpha\": 16")).expect("a changed config");
    refused(&run, &[start, more, "max_steps=5"], "\n  lora_alpha: 32.0 then, 16.0 now");
    fs::write(&config, before).expect("the config");
    flip(&run.work.path("start/adapter_model.safetensors"));
    refused(&run, &[start, more, "max_steps=5"], "\n  adapter: digest ");
    flip(&run.work.path("start/adapter_model.safetensors"));

    // Its place is no part of it.
    fs::rename(run.work.path("start"), run.work.path("moved")).expect("moved");
    let (code, stderr) = run.run(&["adapter_name_or_path=moved", more, "max_steps=5"]);
    assert_eq!((code, resumed_at(&stderr)), (Some(0), 4), "{stderr}");
}

#[test]
fn fewer_steps_than_were_done_are_refused() {
    let run = finished(&["max_steps=5", "max_seconds=1e20"]);
    refused(&run, &["max_steps=4", "resume_from_checkpoint=true"], "has done 5 steps, but this run has only 4");
}

#[test]
fn a_run_that_goes_back_keeps_what_it_writes_then() {
    let run = finished(&[]);
    assert_eq!(run.checkpoints(), ["checkpoint-12", "checkpoint-15", "checkpoint-16"]);
    let (code, stderr) = run.run(&["resume_from_checkpoint=out/checkpoint-12", "max_steps=17", "save_steps=2"]);
    assert_eq!((code, resumed_at(&stderr)), (Some(0), 12), "{stderr}");
    assert!(stderr.contains("note: checkpoints of later steps in out will be removed: 2"), "{stderr}");
    assert_eq!(run.checkpoints(), ["checkpoint-14", "checkpoint-16", "checkpoint-17"]);
}

#[test]
fn from_a_named_checkpoint_the_same_command_gets_on() {
    let run = finished(&["max_steps=4"]);
    fs::rename(run.work.path("out"), run.work.path("old")).expect("moved");
    let from = "resume_from_checkpoint=old/checkpoint-3";
    let mut child = run.start(&[from]);
    run.wait_for("checkpoint-9");
    child.kill().expect("a process to kill");
    child.wait().expect("an end");
    let (code, stderr) = run.run(&[from]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(resumed_at(&stderr) >= 9 || stderr.contains("already complete"), "{stderr}");
    let (code, stderr) = run.run(&[from]);
    assert!(code == Some(0) && stderr.contains("already complete"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn what_is_said_of_going_on_is_true() {
    let (run, stderr) = crate::resume::stopped_by("TERM", 143, &["resume_from_checkpoint=false"]);
    assert!(stderr.contains("which is saved; without `resume_from_checkpoint=false` the command goes on"), "{stderr}");
    let (code, stderr) = run.run(&[]);
    assert!(code == Some(0) && resumed_at(&stderr) >= 3, "{stderr}");
}

#[test]
fn a_named_checkpoint_replaces_an_old_run_where_that_is_asked_for() {
    let run = finished(&["max_steps=4"]);
    fs::rename(run.work.path("out"), run.work.path("old")).expect("moved");
    let (code, stderr) = run.run(&["seed=7", "max_steps=2", "save_steps=1"]);
    assert_eq!(code, Some(0), "{stderr}");
    fs::create_dir(run.work.path("out/checkpoint-keep")).expect("a folder of the user's");
    // Also where it lies in the folder whose old run goes.
    copy_dir(&run.work.path("old/checkpoint-3"), &run.work.path("out/checkpoint-3"));
    let keys = ["resume_from_checkpoint=out/checkpoint-3", "max_steps=5", "overwrite_output_dir=true"];
    let (code, stderr) = run.run(&keys);
    assert_eq!((code, resumed_at(&stderr)), (Some(0), 3), "{stderr}");
    assert!(stderr.contains("will be replaced: its results and checkpoints (2) go"), "{stderr}");
    assert_eq!(run.checkpoints(), ["checkpoint-keep", "checkpoint-3", "checkpoint-5"]);
}

#[test]
fn what_would_train_nothing_replaces_nothing() {
    let run = finished(&["max_steps=3"]);
    let keys = ["overwrite_output_dir=true", "per_device_train_batch_size=1", "cutoff_len=10", "over_length=truncate"];
    refused(&run, &keys, "would have no label: couplets_train row ");
    assert_eq!(run.checkpoints(), ["checkpoint-3"]);
    assert!(run.work.path("out/adapter_model.safetensors").is_file());
}

#[test]
fn a_best_evaluation_whose_checkpoint_is_lost_costs_no_run() {
    let plain = &[FIRST_IS_BEST, "save_steps=5", "save_total_limit=2"][..];
    let best = &[plain, &["load_best_model_at_end=true"][..]].concat();
    let begun = finished(&[best, &["max_steps=15"][..]].concat());
    assert_eq!(begun.work.json("out/trainer_state.json")["best_global_step"], 5);
    assert_eq!(begun.checkpoints(), ["checkpoint-5", "checkpoint-15"], "the best takes one of two places");
    let unchosen = finished(&[plain, &["max_steps=15"][..]].concat());
    assert_eq!(unchosen.checkpoints(), ["checkpoint-10", "checkpoint-15"], "unless nobody asks for it");

    let damaged = begun.copy();
    flip(&damaged.work.path("out/checkpoint-5/adapter_model.safetensors"));
    let elsewhere = begun.copy();
    fs::rename(elsewhere.work.path("out"), elsewhere.work.path("old")).expect("moved");
    fs::remove_dir_all(elsewhere.work.path("old/checkpoint-5")).expect("removed");
    for (run, from, why) in [
        (&damaged, "true", "its checkpoint is damaged"),
        (&elsewhere, "old/checkpoint-15", "it lies beside the named one"),
        (&unchosen, "true", "it is asked for from now on"),
    ] {
        let from = format!("resume_from_checkpoint={from}");
        let (code, stderr) = run.run(&[best, &["max_steps=20", &from][..]].concat());
        assert_eq!(code, Some(0), "{why}: {stderr}");
        assert!(
            stderr.contains("warning: the best evaluation so far cannot be returned to: out/checkpoint-"),
            "{stderr}"
        );
        let state = run.work.json("out/trainer_state.json");
        let named = state["best_model_checkpoint"].as_str().expect("a checkpoint");
        let adapter = |dir: &str| fs::read(run.work.path(dir).join("adapter_model.safetensors")).expect(dir);
        assert!(adapter(named) == adapter("out"), "{why}: {named} is the result");
    }
}

#[test]
fn the_step_at_which_patience_ends_is_saved() {
    let keys =
        ["load_best_model_at_end=true", "warmup_ratio=0", "early_stopping_steps=2", "eval_steps=1", "save_steps=4"];
    let run = finished(&[&[FIRST_IS_BEST], &keys[..]].concat());
    let state = run.work.json("out/trainer_state.json");
    let (last, best) = (state["global_step"].as_u64().expect("a step"), state["best_global_step"].as_u64());
    assert_eq!((last, best), (3, Some(1)), "it gave up");
    assert!(run.checkpoints().contains(&format!("checkpoint-{last}")), "{:?}", run.checkpoints());
}

#[test]
fn a_report_that_fails_at_the_end_costs_no_adapter() {
    let run = Run::new();
    let child = run.start(&["plot_loss=true"]);
    run.wait_for("run.json");
    // No picture can take the place of a folder; while the run goes on that is no error.
    fs::create_dir(run.work.path("out/training_loss.png")).expect("a folder in the way");
    let ended = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8(ended.stderr).expect("text");
    assert!(ended.status.code() == Some(1) && stderr.contains("training_loss.png"), "{stderr}");
    assert!(run.work.path("out/adapter_model.safetensors").is_file() && run.work.path("out/tokenizer.json").is_file());
    fs::remove_dir(run.work.path("out/training_loss.png")).expect("removed");
    let (code, stderr) = run.run(&["plot_loss=true"]);
    assert_eq!((code, resumed_at(&stderr)), (Some(0), 16), "{stderr}");
}
