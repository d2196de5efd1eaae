//! F04, F07–F10: calls that fail, a disk that is full, limits, hostile folders.

use crate::{
    disk,
    kills::calls,
    mounts,
    pool::{Check, Outcome, each, ensure},
    run::{Ended, Work},
    suite::{STEPS, Suite},
};
use serde_json::Value;
use std::{
    io::ErrorKind,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

/// F04
pub fn an_error_at_every_call(suite: &Suite) -> Outcome {
    let calls = calls(suite, None, &[]);
    let mut cases: Vec<(&str, usize)> = vec![];
    for name in ["EIO", "EINTR"] {
        cases.extend(suite.thin(1..=calls, 8).into_iter().map(|call| (name, call)));
    }
    // The program treats all errors but EINTR alike; two more take turns.
    let turns = (1..=calls).map(|call| (if call % 2 == 0 { "ENOSPC" } else { "EDQUOT" }, call));
    cases.extend(suite.thin(turns, 9));
    let no_thread = Outcome::one("no thread to save step 20", {
        let work = Work::new(suite);
        let ended = work.run("trace:trace,no_thread:20", &[]);
        let said = ended.stderr.contains("the checkpoint of step 20 was not saved");
        ensure(ended.code() == Some(0) && said, || format!("{:?}, {}", ended.status, ended.stderr))
            .and_then(|()| work.is_golden())
    });
    let calls = each(
        &cases,
        |(name, call)| format!("error:{name}:{call}"),
        |&(name, call)| {
            let work = Work::new(suite);
            let ended = work.run(&format!("trace:trace,error:{name}:{call}"), &[]);
            if name == "EINTR" {
                ensure(ended.code() == Some(0), || format!("it is not just made again: {}", ended.stderr))?;
                return work.is_golden();
            }
            survives(&work, &ended)?;
            is_told(&work, &ended)?;
            work.finishes_after_failures(&ended)
        },
    );
    calls.and(no_thread)
}

/// Every call that failed is told, by the name of the file or folder it was for: a save, a log line, a prune as well.
fn is_told(work: &Work, ended: &Ended) -> Check {
    let failed: Vec<Value> = trace(work).into_iter().filter(|line| line["ok"] == false).collect();
    ensure(!failed.is_empty(), || "no call has failed".into())?;
    for line in failed {
        let name = subject(line["path"].as_str().unwrap_or_default());
        let told = ended
            .stderr
            .lines()
            .any(|said| (said.starts_with("warning: ") || said.starts_with("error: ")) && said.contains(&name));
        ensure(told, || format!("{line} failed, but {name} is not told: {}", ended.stderr))?;
    }
    Ok(())
}

/// `out/.checkpoint-5.12.tmp/state.json` → `checkpoint-5`; the folder above `out` is synced for its sake.
fn subject(path: &str) -> String {
    let path = if path == "." { "out" } else { path };
    let name = path.trim_start_matches("out/").split('/').next().unwrap_or_default();
    match name.strip_prefix('.').and_then(|hidden| hidden.rsplitn(3, '.').nth(2)) {
        Some(shown) => shown.to_owned(),
        None => name.to_owned(),
    }
}

fn trace(work: &Work) -> Vec<Value> {
    let text = std::fs::read_to_string(work.path("trace")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of the trace")).collect()
}

/// What holds after a run in which some calls failed: it says so, nothing is torn, and no announcement was a lie.
fn survives(work: &Work, ended: &Ended) -> Check {
    let said = || format!("{:?}, {}", ended.status, ended.stderr);
    ensure(matches!(ended.code(), Some(0..=2)), || format!("it ended by a signal: {}", said()))?;
    ensure(!ended.stderr.contains("panicked"), said)?;
    ensure(ended.code() == Some(0) || ended.stderr.contains("error: "), || format!("no error is told: {}", said()))?;
    disk::nothing_torn(&work.out())?;
    // The other way round may be: after the last rename, the error of the last sync.
    ensure(ended.code() != Some(0) || work.is_complete(), || {
        format!("run.json does not say complete, but {}", said())
    })?;
    let trace = trace(work);
    for step in trace.iter().filter(|line| line["path"] == "saved").filter_map(|line| line["more"].as_u64()) {
        let folder = format!("out/checkpoint-{step}");
        let pruned = trace.iter().any(|line| line["op"] == "rename" && line["path"] == folder && line["ok"] == true);
        ensure(pruned || disk::is_valid(&work.out(), step as usize), || {
            format!("checkpoint {step} was announced, is not there, and was not pruned: {}", said())
        })?;
    }
    Ok(())
}

/// F07: the disk takes so many bytes in all; what is freed is taken by others.
pub fn a_full_disk(suite: &Suite) -> Outcome {
    let work = Work::new(suite);
    work.run("trace:trace", &[]);
    let total = std::fs::metadata(work.path("trace.bytes")).map_or(0, |bytes| bytes.len()) as usize;
    let sizes: Vec<usize> = (0..40).map(|i| i * 211).chain((1..160).map(|i| i * total / 160)).collect();
    let sizes = suite.thin(sizes, 10);
    let full = each(&sizes, |size| format!("full:{size}"), |size| runs_out(suite, &format!("full:{size}")));
    full.and(mounts::small_disks(suite)).note(format!("of {total} bytes that a run writes"))
}

/// F08
pub fn no_more_files(suite: &Suite) -> Outcome {
    let work = Work::new(suite);
    work.run("trace:trace", &[]);
    let trace = std::fs::read_to_string(work.path("trace")).expect("a trace");
    let total = trace.lines().filter(|line| line.contains("\"create")).count();
    let numbers = suite.thin(0..total, 6);
    each(&numbers, |n| format!("inodes:{n}"), |n| runs_out(suite, &format!("inodes:{n}"))).and(mounts::few_files(suite))
}

/// From some point on nothing more can be written: the run ends with an error, and goes on when there is room.
fn runs_out(suite: &Suite, fault: &str) -> Check {
    let work = Work::new(suite);
    let ended = work.run(&format!("trace:trace,{fault}"), &[]);
    survives(&work, &ended)?;
    ensure(ended.code() != Some(0), || format!("it has no room and succeeds: {}", ended.stderr))?;
    let failed = ended.stderr.matches("was not saved").count();
    ensure(failed <= 4, || format!("{failed} failed saves: {}", ended.stderr))?;
    work.finishes_after_failures(&ended)
}

/// F09: `ulimit -f` in blocks of 512 bytes, with SIGXFSZ as it is and ignored.
pub fn a_limit_on_file_size(suite: &Suite) -> Outcome {
    let blocks = [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 36, 40, 48, 60, 80, 120, 167];
    let cases: Vec<(u32, bool)> = blocks.iter().flat_map(|&blocks| [(blocks, false), (blocks, true)]).collect();
    let cases = suite.thin(cases, 8);
    each(
        &cases,
        |(blocks, ignored)| format!("ulimit -f {blocks}, SIGXFSZ ignored: {ignored}"),
        |&(blocks, ignored)| {
            let work = Work::new(suite);
            let trap = if ignored { "trap '' XFSZ;" } else { "" };
            let (mut command, _) = work.command(&format!("{trap} ulimit -c 0; ulimit -f {blocks};"), "", &[]);
            command.env("COUPLET_TRAIN_FAULT", "nan_loss:1000"); // no file of the suite's under the limit
            let output = command.output().expect("the program");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let ended = Ended { status: output.status, stderr, steps: vec![], seconds: 0.0 };
            if ignored {
                survives(&work, &ended)?;
                ensure(ended.code() != Some(0), || "the tokenizer is larger than the limit".into())?;
            } else {
                ensure(ended.signal() == Some(25), || format!("{:?}, {}", ended.status, ended.stderr))?;
                disk::nothing_torn(&work.out())?;
            }
            work.finishes_after_failures(&ended)
        },
    )
}

/// F10
pub fn a_hostile_directory(suite: &Suite) -> Outcome {
    let calls = calls(suite, None, &[]);
    let read_only = suite.thin((1..=calls).step_by(6), 8);
    let read_only =
        each(&read_only, |n| format!("read-only from call {n}"), |n| runs_out(suite, &format!("error:EROFS:{n}+")));

    let steps = suite.thin((1..=STEPS).step_by(4), 4);
    let vanished = each(&steps, |step| format!("removed before step {step}"), |&step| vanishes(suite, step));

    let loops = Outcome::one("a loop of links", {
        let work = Work::new(suite);
        symlink("out", work.out()).expect("a link");
        refused(&work, &[], "out")
    });
    let file = Outcome::one("a file in its place", {
        let work = Work::new(suite);
        std::fs::write(work.out(), "mine").expect("a file");
        refused(&work, &[], "out")
    });
    let proc = Outcome::one("where not even root may write", {
        refused(&Work::new(suite), &["output_dir=/proc/couplet"], "/proc/couplet")
    });
    read_only.and(vanished).and(loops).and(file).and(proc).and(mounts::read_only(suite))
}

/// Refused before anything is loaded: exit code 2 within a second, naming the path.
fn refused(work: &Work, args: &[&str], path: &str) -> Check {
    let ended = work.run("pause:tokenise:1:marker", args); // it would hang there
    let said = || format!("{:?} after {:.1} s: {}", ended.status, ended.seconds, ended.stderr);
    ensure(ended.code() == Some(2) && ended.stderr.contains(path) && ended.seconds < 1.0, said)
}

/// Removes a folder that may get another file meanwhile: what prunes behind a save goes on beside the paused step.
fn remove(dir: &Path) -> Check {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match std::fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(err) if err.kind() == ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {}
            Err(err) => return Err(err.to_string()),
        }
    }
}

/// The output directory is removed in mid-run.
fn vanishes(suite: &Suite, step: usize) -> Check {
    let work = Work::new(suite);
    let mut running = work.start_paused("step", step, &[])?;
    // A save under way would put its folder back or fail, as it likes; this test wants none.
    let newest = (step - 1) / 5 * 5;
    ensure(newest == 0 || running.reaches(&disk::checkpoint(&work.out(), newest)), || "no checkpoint appears".into())?;
    remove(&work.out())?;
    work.release();
    let ended = running.wait();
    let said = || format!("{:?}, {}", ended.status, ended.stderr);
    ensure(ended.code() == Some(1) && ended.stderr.contains("out"), said)?;
    work.finishes()
}
