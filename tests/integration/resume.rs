//! A run is never lost: killed or stopped anywhere, the same command ends with the same bytes as the undisturbed run.

use crate::support::{Workspace, children_answer, copy_dir, fixtures};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The small model, 64 rows, 16 steps, a checkpoint every 3, an evaluation every 5, a log line every 2.
const KEYS: &[&str] = &[
    "max_samples=64",
    "per_device_train_batch_size=4",
    "save_steps=3",
    "save_total_limit=3",
    "eval_steps=5",
    "logging_steps=2",
    "plot_loss=false",
];

pub struct Run {
    pub work: Workspace,
}

/// What must not depend on interruptions. Times are cut out of the log.
#[derive(PartialEq)]
struct Result {
    adapter: Vec<u8>,
    optimizer: Vec<u8>,
    log: Vec<serde_json::Value>,
    train_loss: serde_json::Value,
}

impl Run {
    pub fn new() -> Self {
        Self { work: Workspace::new() }
    }

    /// Another run that stands where this one does.
    pub fn copy(&self) -> Self {
        let other = Self::new();
        copy_dir(&self.work.path("out"), &other.work.path("out"));
        other
    }

    fn command(&self, more: &[&str]) -> Command {
        let root = fixtures().join("../..");
        let mut command = Command::new(env!("CARGO_BIN_EXE_couplet-train"));
        command.arg("--config").arg(root.join("configs/tiny_couplets.toml")).current_dir(self.work.path("."));
        command.arg(format!("model_name_or_path={}", root.join("data/tiny_qwen3").display()));
        command.arg(format!("dataset_dir={}", root.join("data").display()));
        command.arg("output_dir=out").args(KEYS).args(more).env("COUPLET_TRAIN_LANG", "en");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self, more: &[&str]) -> Child {
        self.command(more).spawn().expect("the program")
    }

    /// Exit code and stderr.
    pub fn run(&self, more: &[&str]) -> (Option<i32>, String) {
        let ended = self.command(more).output().expect("the program");
        (ended.status.code(), String::from_utf8(ended.stderr).expect("text"))
    }

    fn result(&self) -> Result {
        let read = |name: &str| std::fs::read(self.work.path("out").join(name)).expect(name);
        let log = String::from_utf8(read("trainer_log.jsonl")).expect("text");
        let line = |line: &str| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("a whole line");
            for time in ["elapsed_time", "remaining_time", "planned", "measured"] {
                line.as_object_mut().expect("an object").remove(time);
            }
            line
        };
        Result {
            adapter: read("adapter_model.safetensors"),
            optimizer: read("checkpoint-16/optimizer.safetensors"),
            log: log.lines().map(line).collect(),
            train_loss: self.work.json("out/train_results.json")["train_loss"].clone(),
        }
    }

    pub fn checkpoints(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.work.path("out")).expect("a folder").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().expect("a name")).collect();
        names.retain(|name| name.starts_with("checkpoint-"));
        names.sort_by_key(|name| name.trim_start_matches("checkpoint-").parse::<usize>().unwrap_or(0));
        names
    }

    /// Waits until `out/name` is there.
    pub fn wait_for(&self, name: &str) {
        let began = Instant::now();
        while !self.work.path("out").join(name).exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "{name} does not appear");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn undisturbed() -> Result {
    let run = Run::new();
    let (code, stderr) = run.run(&[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(run.checkpoints(), ["checkpoint-12", "checkpoint-15", "checkpoint-16"], "the last three");
    run.result()
}

#[track_caller]
fn assert_same(run: &Run, want: &Result, what: &str) {
    let got = run.result();
    assert!(got.adapter == want.adapter, "{what}: another adapter");
    assert!(got.optimizer == want.optimizer, "{what}: other moments");
    assert_eq!(got.log, want.log, "{what}: another log");
    assert_eq!(got.train_loss, want.train_loss, "{what}");
}

/// From the step a run stopped at, the same command goes on; `stderr` names it.
pub fn resumed_at(stderr: &str) -> usize {
    let at = stderr.find("note: goes on after step ").expect("a resumed run says so");
    let digits = stderr[at + "note: goes on after step ".len()..].chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().expect("a step")
}

#[test]
fn killed_at_any_time_it_ends_with_the_same_bytes() {
    let want = undisturbed();
    for wait in ["checkpoint-3", "checkpoint-9", "checkpoint-16"] {
        let run = Run::new();
        let mut child = run.start(&[]);
        run.wait_for(wait);
        child.kill().expect("a process to kill");
        child.wait().expect("an end");
        let (code, stderr) = run.run(&[]);
        assert_eq!(code, Some(0), "{stderr}");
        if !stderr.contains("already complete") {
            assert!(resumed_at(&stderr) >= wait.trim_start_matches("checkpoint-").parse().expect("a step"), "{stderr}");
        }
        assert_same(&run, &want, wait);
    }
}

/// A run that was killed when its third checkpoint was there.
fn killed() -> Run {
    let run = Run::new();
    let mut child = run.start(&[]);
    run.wait_for("checkpoint-9");
    child.kill().expect("a process to kill");
    child.wait().expect("an end");
    run
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_is_taken() {
    let (want, killed) = (undisturbed(), killed());
    let newest = killed.checkpoints().pop().expect("a checkpoint");
    let flip: fn(&Path) = |path| {
        let mut bytes = std::fs::read(path).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("a damaged file");
    };
    let halve: fn(&Path) = |path| {
        let bytes = std::fs::read(path).expect("a file");
        std::fs::write(path, &bytes[..bytes.len() / 2]).expect("a damaged file");
    };
    for (file, damage, what) in [
        ("state.json", flip, "a bit"),
        ("optimizer.safetensors", flip, "a bit"),
        ("adapter_model.safetensors", flip, "a bit"),
        ("manifest.json", flip, "a bit"),
        ("optimizer.safetensors", halve, "cut off"),
        ("state.json", |path| std::fs::remove_file(path).expect("removed"), "missing"),
        ("notes.txt", |path| std::fs::write(path, "").expect("a file"), "a stranger"),
    ] {
        let run = killed.copy();
        damage(&run.work.path("out").join(&newest).join(file));
        let (code, stderr) = run.run(&[]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains(&format!("{newest} is skipped: ")), "{file}, {what}: {stderr}");
        assert_same(&run, &want, &format!("{file}, {what}"));
    }
}

#[test]
fn another_number_of_threads_changes_no_bit() {
    let (want, killed) = (undisturbed(), killed());
    for threads in ["1", "3"] {
        let run = killed.copy();
        let ended = run.command(&[]).env("RAYON_NUM_THREADS", threads).output().expect("the program");
        assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_same(&run, &want, &format!("{threads} threads"));
    }
}

#[test]
fn of_five_starts_at_once_one_trains() {
    let run = Run::new();
    let all: Vec<Child> = (0..5).map(|_| run.start(&["max_steps=3"])).collect();
    let ended: Vec<(Option<i32>, String)> = (all.into_iter())
        .map(|child| child.wait_with_output().expect("an end"))
        .map(|output| (output.status.code(), String::from_utf8(output.stderr).expect("text")))
        .collect();
    assert_eq!(ended.iter().filter(|(_, stderr)| stderr.contains("\ndone ")).count(), 1, "{ended:?}");
    for (code, stderr) in &ended {
        // A start that comes when the winner is done finds the run complete.
        let fine = if stderr.contains("in use by process ") { Some(2) } else { Some(0) };
        assert_eq!(*code, fine, "{stderr}");
    }
}

#[test]
fn without_a_usable_checkpoint_it_does_not_silently_start_at_zero() {
    let run = Run::new();
    let mut child = run.start(&[]);
    run.wait_for("checkpoint-6");
    child.kill().expect("a process to kill");
    child.wait().expect("an end");
    for name in run.checkpoints() {
        std::fs::write(run.work.path("out").join(name).join("manifest.json"), "{}").expect("a damaged file");
    }
    let (code, stderr) = run.run(&[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.starts_with("error: no checkpoint can be continued:"), "{stderr}");
    let (code, stderr) = run.run(&["resume_from_checkpoint=false"]);
    assert_eq!(code, Some(0), "the way out that the hint names: {stderr}");
}

#[test]
fn what_changed_is_refused_and_what_may_change_is_not() {
    let run = Run::new();
    let (code, stderr) = run.run(&["max_seconds=0.001"]);
    assert_eq!(code, Some(75), "{stderr}");
    let mut child = run.start(&[]);
    run.wait_for("checkpoint-6");
    child.kill().expect("a process to kill");
    child.wait().expect("an end");
    for (change, key) in [("seed=7", "seed"), ("lora_rank=8", "lora_rank"), ("learning_rate=1e-3", "learning_rate")] {
        let (code, stderr) = run.run(&[change]);
        assert_eq!(code, Some(2), "{change}: {stderr}");
        assert!(stderr.contains(&format!("\n  {key}: ")), "{change}: {stderr}");
    }
    let (code, stderr) = run.run(&["num_train_epochs=2", "logging_steps=4"]);
    assert_eq!(code, Some(0), "more epochs may be asked for: {stderr}");
    assert!(resumed_at(&stderr) >= 6, "{stderr}");
}

/// A run with more keys that a signal has stopped, and what it said. The signal may come too late: then once more.
#[cfg(unix)]
pub fn stopped_by(signal: &str, code: i32, keys: &[&str]) -> (Run, String) {
    children_answer(code - 128);
    for _ in 0..5 {
        let run = Run::new();
        let child = run.start(keys);
        run.wait_for("checkpoint-3");
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        let ended = child.wait_with_output().expect("an end");
        let stderr = String::from_utf8(ended.stderr).expect("text");
        if sent.expect("kill").success() && ended.status.code() != Some(0) {
            assert_eq!(ended.status.code(), Some(code), "SIG{signal}: {stderr}");
            return (run, stderr);
        }
    }
    panic!("SIG{signal} stops no run")
}

#[cfg(unix)]
#[test]
fn a_signal_stops_it_after_a_whole_step_and_it_goes_on_from_there() {
    let want = undisturbed();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let (run, stderr) = stopped_by(signal, code, &[]);
        assert!(stderr.contains(&format!("stopped by SIG{signal} after step ")), "{stderr}");
        assert!(stderr.contains("which is saved; the same command goes on from there"), "{stderr}");
        let (code, stderr) = run.run(&[]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(resumed_at(&stderr) >= 3);
        assert_same(&run, &want, signal);
    }
}

#[test]
fn the_time_limit_stops_it_as_often_as_needed() {
    let began = Instant::now();
    let want = undisturbed();
    let whole = began.elapsed().as_secs_f64();
    // How much of a run is training differs from machine to machine: some limit falls into it.
    for share in [0.8, 0.65, 0.9, 0.5, 0.72, 0.95, 0.35] {
        let (run, limit) = (Run::new(), format!("max_seconds={}", share * whole));
        let mut saved = 0;
        let (mut code, mut stderr) = run.run(&[&limit]);
        while code == Some(75) && saved < 3 && stderr.contains("stopped by max_seconds after step ") {
            assert!(stderr.contains("which is saved"), "{stderr}");
            saved += 1;
            (code, stderr) = run.run(&[&limit]);
        }
        if saved > 0 {
            let (code, stderr) = run.run(&["max_seconds=1e20"]);
            assert_eq!(code, Some(0), "{stderr}");
            return assert_same(&run, &want, &format!("{saved} stops"));
        }
    }
    panic!("no limit stops a run in its middle");
}

#[test]
fn a_second_run_in_the_same_folder_leaves_at_once() {
    let run = Run::new();
    let mut first = run.start(&[]);
    run.wait_for("run.json");
    let (code, stderr) = run.run(&[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains(&first.id().to_string()), "it names the first one: {stderr}");
    first.kill().expect("a process to kill");
    first.wait().expect("an end");
    let (code, stderr) = run.run(&[]);
    assert_eq!(code, Some(0), "a dead holder blocks nobody: {stderr}");
}

#[test]
fn the_best_evaluation_can_be_the_result() {
    let run = Run::new();
    // A rate that spoils the adapter again after the first steps.
    let (code, stderr) = run.run(&[
        "load_best_model_at_end=true",
        "save_steps=5",
        "learning_rate=3e-2",
        "warmup_ratio=0",
        "lr_scheduler_type=constant",
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    let results = run.work.json("out/eval_results.json");
    let log = std::fs::read_to_string(run.work.path("out/trainer_log.jsonl")).expect("the log");
    let losses: Vec<f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["eval_loss"].as_f64())
        .collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(results["eval_loss"].as_f64(), Some(best), "of {losses:?}");
    let state = run.work.json("out/trainer_state.json");
    assert_eq!(state["best_metric"].as_f64(), Some(best));
    let named = state["best_model_checkpoint"].as_str().expect("a checkpoint");
    assert!(run.work.path(named).join("adapter_model.safetensors").is_file(), "{named} is kept");
}

#[test]
fn a_checkpoint_is_an_adapter_and_nothing_that_looks_resumable_to_others() {
    let run = Run::new();
    let (code, stderr) = run.run(&["max_steps=3"]);
    assert_eq!(code, Some(0), "{stderr}");
    let mut names: Vec<String> = std::fs::read_dir(run.work.path("out/checkpoint-3"))
        .expect("a checkpoint")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    let want =
        ["adapter_config.json", "adapter_model.safetensors", "manifest.json", "optimizer.safetensors", "state.json"];
    assert_eq!(names, want);
    let same =
        |a: &str, b: &str| std::fs::read(run.work.path(a)).expect(a) == std::fs::read(run.work.path(b)).expect(b);
    assert!(same("out/checkpoint-3/adapter_model.safetensors", "out/adapter_model.safetensors"));
    assert!(Path::new(&run.work.path("out/checkpoint-3")).is_dir());
}
