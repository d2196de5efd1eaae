//! The faults themselves, under the feature `fault-injection`.

use super::*;
use rustix::io::Errno;
use serde_json::json;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// What to do at which call, step or phase.
#[derive(Debug, Default)]
struct Plan {
    kill: Option<u64>,
    fail: Option<Fail>,
    /// Bytes that the disk still takes.
    full: Option<AtomicU64>,
    /// Files and folders that it still takes.
    inodes: Option<AtomicU64>,
    trace: Option<Mutex<(File, File)>>,
    steps: Option<Mutex<File>>,
    at_step: Vec<(String, usize)>,
    pause: Option<Pause>,
}

#[derive(Debug, PartialEq)]
struct Fail {
    errno: Errno,
    first: u64,
    /// Later calls fail too.
    later: bool,
}

impl Fail {
    fn hits(&self, number: u64, call: &Call<'_>) -> bool {
        let spared = self.errno == Errno::ROFS && matches!(call, Call::Read(_));
        !spared && (number == self.first || self.later && number > self.first)
    }
}

#[derive(Debug)]
struct Pause {
    phase: String,
    /// Times that the phase is still to be reached.
    left: AtomicU64,
    marker: PathBuf,
}

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Counts a call and meets its fate; its number is for [`after`].
pub fn before(call: &Call<'_>) -> io::Result<u64> {
    let number = 1 + CALLS.fetch_add(1, SeqCst);
    let plan = plan();
    if plan.kill == Some(number) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    let failed = match &plan.fail {
        Some(fail) if fail.hits(number, call) => Some(fail.errno),
        _ => (!fits(plan, call)).then_some(Errno::NOSPC),
    };
    match failed {
        None => Ok(number),
        Some(errno) => {
            after(number, call, false);
            Err(errno.into())
        }
    }
}

/// Whether the disk has room for a call, which it takes.
fn fits(plan: &Plan, call: &Call<'_>) -> bool {
    let take = |from: &Option<AtomicU64>, n: u64| match from {
        None => true,
        Some(left) => left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(n)).is_ok(),
    };
    match *call {
        Call::Write(_, bytes) => take(&plan.full, bytes.len() as u64),
        Call::Create(path) | Call::Open(path) if !path.exists() => take(&plan.inodes, 1),
        Call::CreateDir(_) => take(&plan.inodes, 1),
        _ => true,
    }
}

/// Notes a call in the trace, and whether it succeeded.
pub fn after(number: u64, call: &Call<'_>, ok: bool) {
    let Some(trace) = &plan().trace else { return };
    let (op, path, more) = match *call {
        Call::Create(path) => ("create", path, json!(null)),
        Call::Open(path) => ("open", path, json!(null)),
        Call::Write(path, bytes) => ("write", path, json!(bytes.len())),
        Call::Truncate(path, len) => ("truncate", path, json!(len)),
        Call::SyncFile(path) => ("sync_file", path, json!(null)),
        Call::SyncDir(path) => ("sync_dir", path, json!(null)),
        Call::Rename(from, to) => ("rename", from, json!(to)),
        Call::RemoveFile(path) => ("remove_file", path, json!(null)),
        Call::RemoveDir(path) => ("remove_dir", path, json!(null)),
        Call::CreateDir(path) => ("create_dir", path, json!(null)),
        Call::Read(path) => ("read", path, json!(null)),
    };
    let line = format!("{}\n", json!({"call": number, "op": op, "path": path, "more": more, "ok": ok}));
    let mut files = trace.lock().expect("the trace");
    files.0.write_all(line.as_bytes()).expect("the trace is written");
    if let (Call::Write(_, bytes), true) = (call, ok) {
        files.1.write_all(bytes).expect("the bytes of the trace are written");
    }
}

/// Two halves, so that a kill can fall between them; and a cut where the disk is full, so that what fits is written.
pub fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let room = plan().full.as_ref().map_or(u64::MAX, |left| left.load(SeqCst));
    let mut cuts = [0, bytes.len() / 2, usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()))];
    cuts.sort_unstable();
    let ends = [cuts[1], cuts[2], bytes.len()];
    cuts.into_iter().zip(ends).map(|(start, end)| &bytes[start..end]).filter(|part| !part.is_empty())
}

/// A part of the run in which a signal may be wanted.
pub fn phase(name: &str) {
    let Some(pause) = &plan().pause else { return };
    let counts = pause.phase == name && pause.left.load(SeqCst) > 0;
    if !counts || pause.left.fetch_sub(1, SeqCst) != 1 {
        return;
    }
    File::create(&pause.marker).expect("the marker is made");
    let began = Instant::now();
    while pause.marker.exists() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An optimizer step is done.
pub fn executed(step: usize) {
    if let Some(steps) = &plan().steps {
        let mut file = steps.lock().expect("the steps");
        file.write_all(format!("{step}\n").as_bytes()).expect("the step is written");
    }
}

/// The user is about to be told that something is on the disk.
pub fn announce(what: &str, step: usize) {
    if let Some(trace) = &plan().trace {
        let line = format!("{}\n", json!({"op": "announce", "path": what, "more": step, "ok": true}));
        trace.lock().expect("the trace").0.write_all(line.as_bytes()).expect("the trace is written");
    }
}

/// Whether this fault is wanted at this step.
pub fn at_step(what: &str, step: usize) -> bool {
    plan().at_step.iter().any(|(name, at)| name == what && *at == step)
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| match std::env::var("COUPLET_TRAIN_FAULT") {
        Ok(text) => parse(&text).unwrap_or_else(|| panic!("COUPLET_TRAIN_FAULT={text} is no fault")),
        Err(_) => Plan::default(),
    })
}

fn parse(text: &str) -> Option<Plan> {
    let mut plan = Plan::default();
    for directive in text.split(',') {
        let (what, value) = directive.split_once(':')?;
        match what {
            "kill" => plan.kill = Some(value.parse().ok()?),
            "error" => plan.fail = Some(fail(value)?),
            "full" => plan.full = Some(value.parse::<u64>().ok()?.into()),
            "inodes" => plan.inodes = Some(value.parse::<u64>().ok()?.into()),
            "trace" => plan.trace = Some(Mutex::new((append(value)?, append(&format!("{value}.bytes"))?))),
            "steps" => plan.steps = Some(Mutex::new(append(value)?)),
            "nan_loss" | "nan_grad" | "no_thread" => plan.at_step.push((what.to_owned(), value.parse().ok()?)),
            "pause" => plan.pause = Some(pause(value)?),
            _ => return None,
        }
    }
    Some(plan)
}

/// `EIO:7`, `EROFS:3+`
fn fail(text: &str) -> Option<Fail> {
    let (name, number) = text.split_once(':')?;
    let errno = match name {
        "EIO" => Errno::IO,
        "EINTR" => Errno::INTR,
        "EDQUOT" => Errno::DQUOT,
        "ENOSPC" => Errno::NOSPC,
        "EROFS" => Errno::ROFS,
        "EFBIG" => Errno::FBIG,
        _ => return None,
    };
    let (first, later) = number.strip_suffix('+').map_or((number, false), |first| (first, true));
    Some(Fail { errno, first: first.parse().ok()?, later })
}

/// `save:2:marker`
fn pause(text: &str) -> Option<Pause> {
    let mut words = text.splitn(3, ':');
    let (phase, left, marker) = (words.next()?, words.next()?, words.next()?);
    Some(Pause { phase: phase.to_owned(), left: left.parse::<u64>().ok()?.into(), marker: marker.into() })
}

fn append(path: &str) -> Option<File> {
    OpenOptions::new().create(true).append(true).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{remove_leftovers, write_durable_dir, write_file_synced};
    use std::process::{Command, ExitStatus};

    /// The child of the next test: replaces a folder.
    #[test]
    #[ignore = "a child process"]
    fn child_that_replaces_a_folder() {
        let dir = PathBuf::from(std::env::var_os("FAULT_DIR").unwrap());
        let written = write_durable_dir(&dir, "c", |temp| {
            ["a", "b"].iter().try_for_each(|name| write_file_synced(&temp.join(name), b"new").map(drop))
        });
        std::process::exit(i32::from(written.is_err()));
    }

    fn child(dir: &Path, fault: &str, mutant: &str) -> ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "fs::fault::on::tests::child_that_replaces_a_folder"])
            .env("FAULT_DIR", dir)
            .env("COUPLET_TRAIN_FAULT", fault)
            .env("COUPLET_TRAIN_MUTANT", mutant)
            .output()
            .unwrap()
            .status
    }

    /// `c` with two old files.
    fn before() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("c")).unwrap();
        ["a", "b"].iter().for_each(|name| std::fs::write(dir.path().join("c").join(name), "old").unwrap());
        dir
    }

    /// What both files of `c` hold, if it is the same.
    fn content(dir: &Path) -> Option<String> {
        let read = |name| std::fs::read_to_string(dir.join("c").join(name)).ok();
        read("a").filter(|a| read("b").as_ref() == Some(a))
    }

    #[test]
    fn a_kill_or_an_error_at_any_call_leaves_a_whole_folder() {
        for fault in ["kill", "error:EIO", "error:ENOSPC"] {
            let (mut calls, mut seen) = (0, Vec::new());
            loop {
                let dir = before();
                calls += 1;
                let status = child(dir.path(), &format!("{fault}:{calls}"), "");
                remove_leftovers(dir.path(), true).unwrap();
                let whole = content(dir.path()).unwrap_or_else(|| panic!("{fault}:{calls} tore the folder"));
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{fault}:{calls}: nothing else stays");
                if status.success() {
                    assert_eq!(whole, "new");
                    break;
                }
                assert_eq!(status.code().is_none(), fault == "kill", "{fault}:{calls}");
                seen.push(whole);
            }
            assert!(seen.len() > 12 && seen[0] == "old" && seen.contains(&"new".into()), "{fault}: {seen:?}");
        }
    }

    #[test]
    fn written_in_place_a_kill_tears_the_folder() {
        let torn = (1..8).any(|call| {
            let dir = before();
            child(dir.path(), &format!("kill:{call}"), "in_place");
            content(dir.path()).is_none()
        });
        assert!(torn);
    }

    #[test]
    fn a_trace_holds_every_call_and_the_bytes() {
        let dir = before();
        let trace = dir.path().join("trace");
        assert!(child(dir.path(), &format!("trace:{}", trace.display()), "").success());
        let text = std::fs::read_to_string(&trace).unwrap();
        let calls: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ops: Vec<&str> = calls.iter().map(|call| call["op"].as_str().unwrap()).collect();
        let file = ["create", "write", "write", "sync_file"];
        let publish = ["sync_dir", "rename", "rename", "sync_dir", "remove_file", "remove_file", "remove_dir"];
        assert_eq!(ops, [&["create_dir"], &file[..], &file, &publish].concat());
        assert!(calls.iter().all(|call| call["ok"] == true));
        assert_eq!(std::fs::read(dir.path().join("trace.bytes")).unwrap(), b"newnew");
        assert_eq!(calls[2]["more"], 1, "a write names its bytes");
        assert!(child(&dir.path().join("gone"), "trace:/dev/null", "").code() == Some(1), "a real failure is one");
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let dir = before();
        for (fault, why) in [("full:5", "twice three bytes are six"), ("inodes:2", "a folder and two files are three")]
        {
            let status = child(dir.path(), fault, "");
            assert_eq!((content(dir.path()).as_deref(), status.code()), (Some("old"), Some(1)), "{fault}: {why}");
        }
        assert!(child(dir.path(), "full:6,inodes:3", "").success());
    }

    #[test]
    fn directives_are_read_or_refused() {
        let plan = parse("kill:7,error:ENOSPC:3+,nan_loss:4,full:10,pause:save:2:m").unwrap();
        assert_eq!((plan.kill, plan.fail), (Some(7), Some(Fail { errno: Errno::NOSPC, first: 3, later: true })));
        assert_eq!(plan.at_step, [("nan_loss".to_owned(), 4)]);
        assert_eq!(plan.pause.map(|pause| (pause.phase, pause.marker)), Some(("save".into(), "m".into())));
        assert_eq!(parse("error:EIO:2").unwrap().fail, Some(Fail { errno: Errno::IO, first: 2, later: false }));
        let spared = fail("EROFS:1+").unwrap();
        assert!(!spared.hits(5, &Call::Read(Path::new("a"))) && spared.hits(5, &Call::Create(Path::new("a"))));
        for wrong in
            ["", "kill", "kill:", "kill:x", "burn:3", "error:3", "error:EWHAT:3", "error:EIO:+", "pause:save:1"]
        {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
