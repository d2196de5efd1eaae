//! The fixture, the real program run on it, and what "ended as the undisturbed run" means.

use crate::{
    disk,
    pool::{Check, ensure},
};
use serde_json::{Value, json};
use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Optimizer steps of the fixture's run.
pub const STEPS: usize = 40;
/// Steps between two of its checkpoints.
pub const SAVE: usize = 5;

/// Two layers, 64 rows, 2.5 epochs of 16 steps of two or more micro-batches; dropout, decay, a warmup and a falling rate, so that
/// whatever is not restored shows. Log lines (every 2), evaluations (10) and checkpoints (5) fall apart on purpose.
const RECIPE: &str = "
model_name_or_path: inputs/model
stage: sft
finetuning_type: lora
lora_target: all
lora_rank: 4
lora_dropout: 0.1
dataset: train
eval_dataset: valid
dataset_dir: inputs/data
template: qwen3
enable_thinking: false
cutoff_len: 128
output_dir: out
save_steps: 5
save_total_limit: 3
eval_strategy: steps
eval_steps: 10
logging_steps: 2
plot_loss: false
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
per_device_eval_batch_size: 4
learning_rate: 0.002
weight_decay: 0.01
warmup_ratio: 0.1
micro_batch_tokens: 100
num_train_epochs: 2.5
seed: 7
";

/// The fixture and the result to reach.
pub struct Suite {
    fixture: Arc<TempDir>,
    /// Thinned out.
    pub quick: bool,
    /// The mistake that the program makes.
    pub mutant: &'static str,
    pub golden: Golden,
    /// Seconds of an undisturbed run.
    pub seconds: f64,
    /// The most steps that were done twice.
    pub lost: AtomicUsize,
}

/// What must not depend on interruptions, bit for bit. Times are cut out.
#[derive(Clone, PartialEq)]
pub struct Golden {
    pub adapter: Vec<u8>,
    pub optimizer: Vec<u8>,
    state: Value,
    log: Vec<Value>,
    train_loss: Value,
}

impl Suite {
    /// Makes the fixture and runs it twice undisturbed.
    pub fn new(quick: bool) -> Self {
        let mut suite = Self {
            fixture: Arc::new(fixture()),
            quick,
            mutant: "",
            golden: Golden { adapter: vec![], optimizer: vec![], state: json!(0), log: vec![], train_loss: json!(0) },
            seconds: 0.0,
            lost: AtomicUsize::new(0),
        };
        let runs = [0, 1].map(|_| {
            let work = Work::new(&suite);
            let ended = work.run("", &[]);
            assert_eq!(ended.code(), Some(0), "the undisturbed run: {}", ended.stderr);
            assert_eq!(ended.steps, (1..=STEPS).collect::<Vec<_>>(), "its steps");
            assert_eq!(disk::checkpoints(&work.out()), [30, 35, 40], "the last three");
            (work.result().expect("a result"), ended.seconds)
        });
        let [(golden, _), (again, seconds)] = runs;
        golden.compare(&again).expect("two undisturbed runs are the same");
        (suite.golden, suite.seconds) = (golden, seconds);
        suite
    }

    /// The same with a mistake in the program, thinned out.
    pub fn with_mutant(&self, mutant: &'static str) -> Self {
        let (fixture, golden) = (Arc::clone(&self.fixture), self.golden.clone());
        Self { fixture, quick: true, mutant, golden, seconds: self.seconds, lost: 0.into() }
    }

    /// `all`, or `few` of them, spread evenly, where the suite is quick.
    pub fn thin<T>(&self, all: impl IntoIterator<Item = T>, few: usize) -> Vec<T> {
        let all: Vec<T> = all.into_iter().collect();
        let stride = if self.quick { all.len().div_ceil(few).max(1) } else { 1 };
        // The first and the last are the most likely to be special.
        let last = all.len().saturating_sub(1);
        all.into_iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last).map(|(_, item)| item).collect()
    }

    /// The fixture's folder.
    pub fn fixture(&self) -> &Path {
        self.fixture.path()
    }
}

fn fixture() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    disk::copy(&parity.join("attention_rslora/model"), &dir.path().join("model"));
    disk::copy(&parity.join("tokenizer"), &dir.path().join("model"));
    let mut rows: Vec<Value> = vec![];
    for case in ["all_targets", "attention_rslora", "bf16", "clip_nonzero_b", "on_prompt", "truncation"] {
        let text = std::fs::read(parity.join(case).join("data/couplets.json")).expect("rows");
        rows.extend(serde_json::from_slice::<Vec<Value>>(&text).expect("rows"));
    }
    rows.iter_mut().for_each(|row| row["instruction"] = "对下联".into()); // shorter rows, faster steps
    std::fs::create_dir(dir.path().join("data")).expect("a folder");
    let files = [
        ("train.json", json!(rows[..64])),
        ("valid.json", json!(rows[64..72])),
        ("dataset_info.json", json!({"train": {"file_name": "train.json"}, "valid": {"file_name": "valid.json"}})),
    ];
    for (name, value) in files {
        std::fs::write(dir.path().join("data").join(name), value.to_string()).expect("a written file");
    }
    dir
}

/// A folder in which the program runs, one process after the other; its output directory is `out`.
pub struct Work<'a> {
    pub suite: &'a Suite,
    dir: TempDir,
    processes: AtomicUsize,
    /// Threads of every process from now on.
    pub threads: AtomicUsize,
}

/// A process that has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stderr: String,
    /// The optimizer steps that it really executed.
    pub steps: Vec<usize>,
    pub seconds: f64,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// A process that runs.
pub struct Running {
    child: Child,
    steps: PathBuf,
    began: Instant,
}

impl<'a> Work<'a> {
    /// An empty folder with the recipe.
    pub fn new(suite: &'a Suite) -> Self {
        Self::with_inputs(suite, suite.fixture())
    }

    /// The same over another copy of model and data.
    pub fn with_inputs(suite: &'a Suite, inputs: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("run.yaml"), RECIPE).expect("a recipe");
        // The recipe's paths are the same in every folder: they are part of a run's identity.
        std::os::unix::fs::symlink(inputs, dir.path().join("inputs")).expect("a link");
        Self { suite, dir, processes: 0.into(), threads: 1.into() }
    }

    /// The folder with an output directory copied into it.
    pub fn of(suite: &'a Suite, out: &Path) -> Self {
        let work = Self::new(suite);
        disk::copy(out, &work.out());
        work
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// The program with faults and overrides, not started yet. `prelude`: shell commands before it, with a `;` behind.
    pub fn command(&self, prelude: &str, fault: &str, args: &[&str]) -> (Command, PathBuf) {
        let number = self.processes.fetch_add(1, Relaxed);
        let steps = self.path(&format!("steps.{number}"));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{prelude} exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_couplet-train")]);
        if prelude.is_empty() {
            command = Command::new(env!("CARGO_BIN_EXE_couplet-train"));
        }
        command.args(["--config", "run.yaml"]).args(args).current_dir(self.dir.path());
        for name in ["LC_ALL", "LC_MESSAGES", "LANG", "NO_COLOR", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        let comma = if fault.is_empty() { "" } else { "," };
        command
            .env("COUPLET_TRAIN_FAULT", format!("steps:steps.{number}{comma}{fault}"))
            .env("COUPLET_TRAIN_MUTANT", self.suite.mutant)
            .env("RAYON_NUM_THREADS", self.threads.load(Relaxed).to_string())
            .env("COUPLET_TRAIN_LANG", "en")
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        (command, steps)
    }

    pub fn start_in(&self, prelude: &str, fault: &str, args: &[&str]) -> Running {
        let (mut command, steps) = self.command(prelude, fault, args);
        Running { began: Instant::now(), child: command.spawn().expect("the program"), steps }
    }

    pub fn start(&self, fault: &str, args: &[&str]) -> Running {
        self.start_in("", fault, args)
    }

    /// Runs to the end.
    pub fn run(&self, fault: &str, args: &[&str]) -> Ended {
        self.start(fault, args).wait()
    }

    /// Starts and waits until it pauses at the `k`-th time of a phase.
    pub fn start_paused(&self, phase: &str, k: usize, args: &[&str]) -> Result<Running, String> {
        let mut running = self.start(&format!("pause:{phase}:{k}:marker"), args);
        if running.reaches(&self.path("marker")) {
            return Ok(running);
        }
        let ended = running.wait();
        Err(format!("{phase} was not reached {k} times: {:?}, {}", ended.status, ended.stderr))
    }

    /// Lets the paused process go on.
    pub fn release(&self) {
        let _ = std::fs::remove_file(self.path("marker"));
    }

    /// Kills a run in step `step + 1`, when the checkpoints that were due are on the disk.
    pub fn interrupted_after(self, step: usize) -> Self {
        let mut running = self.start_paused("step", step + 1, &[]).expect("a run");
        let newest = disk::checkpoint(&self.out(), step - step % SAVE);
        assert!(step < SAVE || running.reaches(&newest), "{} does not appear", newest.display());
        running.kill();
        running.wait();
        self.release();
        self
    }

    /// What the run left.
    pub fn result(&self) -> Result<Golden, String> {
        let read = |name: &str| std::fs::read(self.out().join(name)).map_err(|err| format!("{name}: {err}"));
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|err| err.to_string());
        Ok(Golden {
            adapter: read("adapter_model.safetensors")?,
            optimizer: read("checkpoint-40/optimizer.safetensors")?,
            state: timeless(json(&read("checkpoint-40/state.json")?)?),
            log: log_lines(&read("trainer_log.jsonl")?)?,
            train_loss: json(&read("train_results.json")?)?["train_loss"].clone(),
        })
    }

    /// The run has ended as the undisturbed one, and nothing lies about.
    pub fn is_golden(&self) -> Check {
        self.suite.golden.compare(&self.result()?)?;
        ensure(self.is_complete(), || "run.json does not say complete".into())?;
        let last = std::fs::read(self.out().join("checkpoint-40/adapter_model.safetensors")).unwrap_or_default();
        ensure(last == self.suite.golden.adapter, || "the last checkpoint has another adapter".into())?;
        disk::nothing_torn(&self.out())?;
        let left = disk::leftovers(&self.out());
        ensure(left.is_empty(), || format!("left over: {left:?}"))
    }

    pub fn is_complete(&self) -> bool {
        let text = std::fs::read(self.out().join("run.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|run| run["status"] == "complete")
    }

    /// The same command, undisturbed, ends as the undisturbed run, and does exactly the steps that are missing.
    pub fn finishes(&self) -> Check {
        self.finishes_with(&[]).map(drop)
    }

    /// The same with more overrides; returns the process.
    pub fn finishes_with(&self, args: &[&str]) -> Result<Ended, String> {
        let from = if self.is_complete() { STEPS } else { disk::newest_valid(&self.out()).unwrap_or(0) };
        let ended = self.run("", args);
        ensure(ended.code() == Some(0), || format!("the same command again: {:?}, {}", ended.status, ended.stderr))?;
        ensure(ended.steps == (from + 1..=STEPS).collect::<Vec<_>>(), || {
            format!("goes on after step {from}, but does steps {:?}", ended.steps)
        })?;
        self.is_golden()?;
        Ok(ended)
    }

    /// Notes how many of a dead process's steps have to be done again: never more than two intervals between saves.
    pub fn loses_little(&self, ended: &Ended) -> Check {
        let done = ended.steps.last().copied().unwrap_or(0);
        let lost = done.saturating_sub(disk::newest_valid(&self.out()).unwrap_or(0));
        self.suite.lost.fetch_max(lost, Relaxed);
        ensure(lost <= 2 * SAVE, || format!("{done} steps done, {lost} of them lost"))
    }
}

impl Golden {
    /// Says in what a log differs, times aside.
    pub fn same_log(&self, text: &[u8]) -> Check {
        let log = log_lines(text)?;
        ensure(self.log == log, || first_difference(&self.log, &log))
    }

    /// Says in what `other` differs.
    pub fn compare(&self, other: &Self) -> Check {
        ensure(self.log == other.log, || first_difference(&self.log, &other.log))?;
        ensure(self.adapter == other.adapter, || "another adapter".into())?;
        ensure(self.optimizer == other.optimizer, || "other moments".into())?;
        ensure(self.train_loss == other.train_loss, || "another train_loss".into())?;
        ensure(self.state == other.state, || "another state.json".into())
    }
}

fn log_lines(text: &[u8]) -> Result<Vec<Value>, String> {
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Ok(timeless(serde_json::from_slice(line).map_err(|err| err.to_string())?))).collect()
}

fn first_difference(want: &[Value], got: &[Value]) -> String {
    match want.iter().zip(got).find(|(want, got)| want != got) {
        Some((want, got)) => format!("another log: {got} instead of {want}"),
        None => format!("another log: {} lines instead of {}", got.len(), want.len()),
    }
}

/// Without what a clock wrote, the device's line (it holds the number of threads), and the keys that only some commands have.
fn timeless(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for key in [
                    "elapsed_time",
                    "remaining_time",
                    "seconds",
                    "elapsed",
                    "runtime",
                    "overwrite_output_dir",
                    "plot_loss",
                ] {
                    object.remove(key);
                }
                object.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `path` is there; `false` if the process ends before.
    pub fn reaches(&mut self, path: &Path) -> bool {
        while !path.exists() {
            if self.has_ended() || self.began.elapsed() > Duration::from_secs(50) {
                return path.exists();
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        true
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Whether it ends within so many seconds.
    pub fn ends_within(&mut self, seconds: f64) -> bool {
        let began = Instant::now();
        while !self.has_ended() {
            if began.elapsed().as_secs_f64() > seconds {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("a process to signal");
    }

    /// The same where it may have ended already.
    pub fn signal_if_alive(&mut self, signal: rustix::process::Signal) {
        if !self.has_ended() {
            self.signal(signal);
        }
    }

    /// Waits for the end.
    pub fn wait(self) -> Ended {
        let began = self.began;
        let output = self.child.wait_with_output().expect("an end");
        let steps = std::fs::read_to_string(&self.steps).unwrap_or_default();
        Ended {
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            steps: steps.lines().filter_map(|line| line.parse().ok()).collect(),
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

impl Work<'_> {
    /// After a process that met errors: the same command finishes, or says that the run is complete. A run that succeeded
    /// although a save failed may lack the last checkpoint, and nothing else.
    pub fn finishes_after_failures(&self, ended: &Ended) -> Check {
        let lacks_last = ended.code() == Some(0) && !disk::checkpoint(&self.out(), STEPS).exists();
        if !lacks_last {
            return self.finishes();
        }
        ensure(ended.stderr.contains("checkpoint") && ended.stderr.contains("warning"), || {
            format!("no checkpoint of the last step, and no word of it: {}", ended.stderr)
        })?;
        let again = self.run("", &[]);
        ensure(again.code() == Some(0) && again.steps.is_empty(), || again.stderr.clone())?;
        let read = |name: &str| std::fs::read(self.out().join(name)).unwrap_or_default();
        ensure(read("adapter_model.safetensors") == self.suite.golden.adapter, || "another adapter".into())?;
        self.suite.golden.same_log(&read("trainer_log.jsonl"))
    }
}
