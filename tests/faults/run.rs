//! The real program, run in a folder of its own.

use crate::{
    disk,
    golden::Golden,
    pool::{Check, ensure},
    suite::{RECIPE, SAVE, STEPS, Suite},
};
use serde_json::Value;
use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tempfile::TempDir;

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

    /// The run has ended as the undisturbed one, and nothing lies about.
    pub fn is_golden(&self) -> Check {
        self.suite.golden.compare(&Golden::read(&self.out())?)?;
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

    /// Seconds since it was started.
    pub fn age(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
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
        self.is_golden_but_for_the_last_checkpoint(&ended.stderr)?;
        let again = self.run("", &[]);
        ensure(again.code() == Some(0) && again.steps.is_empty(), || again.stderr.clone())
    }

    /// The result of a run that could not save its last step, and `said` so.
    pub fn is_golden_but_for_the_last_checkpoint(&self, said: &str) -> Check {
        ensure(said.contains(&format!("the checkpoint of step {STEPS} was not saved")), || {
            format!("no checkpoint of the last step, and no word of it: {said}")
        })?;
        ensure(self.is_complete(), || "run.json does not say complete".into())?;
        let read = |name: &str| std::fs::read(self.out().join(name)).unwrap_or_default();
        ensure(read("adapter_model.safetensors") == self.suite.golden.adapter, || "another adapter".into())?;
        self.suite.golden.same_log(&read("trainer_log.jsonl"))
    }
}
