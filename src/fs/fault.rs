//! Faults on demand, for the suite that kills and breaks saves. Exists only under the feature `fault-injection`, which no
//! release has; otherwise every function here is empty and costs nothing.
//!
//! `COUPLET_TRAIN_FAULT` holds directives with commas between them; calls are counted from 1 over the whole process:
//!
//! ```text
//! kill:N      the process dies of SIGKILL in place of call N
//! error:N     call N fails with EIO; `error:N+`: it and every later one
//! enospc:N    call N fails with ENOSPC; `enospc:N+`: it and every later one
//! trace:FILE  every call that was not killed becomes a JSON line in FILE, its bytes go to FILE.bytes
//! ```
//!
//! `COUPLET_TRAIN_MUTANT` names one mistake to make ([`mutant`]), so that the suite can prove that it would see it.

use std::{io, path::Path};

/// A call on the file system.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code, reason = "only the fault suite reads the fields"))]
pub(super) enum Call<'a> {
    /// An empty file where there may have been another.
    Create(&'a Path),
    /// A file whose old content stays, created if need be.
    Open(&'a Path),
    /// Bytes at the end of a file.
    Write(&'a Path, &'a [u8]),
    /// A file cut to so many bytes.
    Truncate(&'a Path, u64),
    /// A file's bytes are on the disk.
    SyncFile(&'a Path),
    /// A folder's names are on the disk.
    SyncDir(&'a Path),
    /// The first path becomes the second.
    Rename(&'a Path, &'a Path),
    RemoveFile(&'a Path),
    RemoveDir(&'a Path),
    CreateDir(&'a Path),
    Read(&'a Path),
}

#[cfg(not(feature = "fault-injection"))]
pub(super) use off::{after, before, parts};
#[cfg(feature = "fault-injection")]
pub(super) use on::{after, before, parts};

/// Whether the mistake of this name is to be made. Always false without the feature.
pub fn mutant(name: &str) -> bool {
    cfg!(feature = "fault-injection") && std::env::var_os("COUPLET_TRAIN_MUTANT").is_some_and(|wanted| wanted == name)
}

#[cfg(not(feature = "fault-injection"))]
mod off {
    use super::*;

    /// Stands before every call.
    #[inline]
    pub fn before(_: &Call<'_>) -> io::Result<u64> {
        Ok(0)
    }

    /// Stands behind every call.
    #[inline]
    pub fn after(_: u64, _: &Call<'_>, _: bool) {}

    /// The pieces in which bytes are written: one.
    #[inline]
    pub fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        std::iter::once(bytes)
    }
}

#[cfg(feature = "fault-injection")]
mod on {
    use super::*;
    use serde_json::json;
    use std::{
        fs::{File, OpenOptions},
        io::Write,
        path::PathBuf,
        sync::{
            Mutex, OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// What to do at which call.
    #[derive(Debug, Default)]
    struct Plan {
        kill: Option<u64>,
        /// First call, whether later ones fail too, the system's number of the error.
        fail: Option<(u64, bool, i32)>,
        trace: Option<Mutex<(File, File)>>,
    }

    static CALLS: AtomicU64 = AtomicU64::new(0);

    /// Counts a call and meets its fate; its number is for [`after`].
    pub fn before(call: &Call<'_>) -> io::Result<u64> {
        let number = 1 + CALLS.fetch_add(1, Ordering::SeqCst);
        let plan = plan();
        if plan.kill == Some(number) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        match plan.fail {
            Some((first, later, errno)) if number == first || later && number > first => {
                after(number, call, false);
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(number),
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

    /// Two halves, so that a kill can fall between them.
    pub fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        [first, second].into_iter().filter(|part| !part.is_empty())
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
            let number = value.trim_end_matches('+').parse();
            let fail =
                |errno: rustix::io::Errno| Some((number.clone().ok()?, value.ends_with('+'), errno.raw_os_error()));
            match what {
                "kill" => plan.kill = Some(number.ok()?),
                "error" => plan.fail = Some(fail(rustix::io::Errno::IO)?),
                "enospc" => plan.fail = Some(fail(rustix::io::Errno::NOSPC)?),
                "trace" => {
                    let open = |path| OpenOptions::new().create(true).append(true).open(path).ok();
                    plan.trace =
                        Some(Mutex::new((open(PathBuf::from(value))?, open(format!("{value}.bytes").into())?)));
                }
                _ => return None,
            }
        }
        Some(plan)
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
            for fault in ["kill", "error", "enospc"] {
                let (mut calls, mut seen) = (0, Vec::new());
                loop {
                    let dir = before();
                    calls += 1;
                    let status = child(dir.path(), &format!("{fault}:{calls}"), "");
                    remove_leftovers(dir.path()).unwrap();
                    let whole = content(dir.path()).unwrap_or_else(|| panic!("{fault}:{calls} tore the folder"));
                    assert_eq!(
                        std::fs::read_dir(dir.path()).unwrap().count(),
                        1,
                        "{fault}:{calls}: nothing else stays"
                    );
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
        fn directives_are_read_or_refused() {
            let plan = parse("kill:7,enospc:3+").unwrap();
            assert_eq!((plan.kill, plan.fail), (Some(7), Some((3, true, 28))));
            assert_eq!(parse("error:2").unwrap().fail, Some((2, false, 5)));
            for wrong in ["", "kill", "kill:", "kill:x", "burn:3", "error:+"] {
                assert!(parse(wrong).is_none(), "{wrong}");
            }
        }
    }
}
