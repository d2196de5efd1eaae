//! F01–F03: killed anywhere, the same command ends with the same bytes.

use crate::{
    disk,
    pool::{Check, Dice, Outcome, each, ensure},
    run::Work,
    suite::Suite,
};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

const SIGKILL: Option<i32> = Some(9);

/// F01
pub fn at_random_times(suite: &Suite) -> Outcome {
    let mut dice = Dice::new(1);
    let times =
        |n: usize, dice: &mut Dice| -> Vec<f64> { (0..n).map(|_| dice.share() * 1.05 * suite.seconds).collect() };
    let once: Vec<Vec<f64>> = (0..if suite.quick { 8 } else { 200 }).map(|_| times(1, &mut dice)).collect();
    // A short life after each of five resumes: the run gets on by a few steps a time.
    let often: Vec<Vec<f64>> = (0..if suite.quick { 2 } else { 20 })
        .map(|_| (0..5).map(|_| (0.2 + 0.5 * dice.share()) * suite.seconds).collect())
        .collect();
    let lives: Vec<Vec<f64>> = once.into_iter().chain(often).collect();
    let outcome = each(&lives, |lives| format!("killed after {lives:.3?} s"), |lives| killed_after(suite, lives));
    let lost = suite.lost.load(Relaxed);
    outcome.note(format!("at most {lost} steps done twice (a save every {})", crate::suite::SAVE))
}

fn killed_after(suite: &Suite, lives: &[f64]) -> Check {
    let work = Work::new(suite);
    for &life in lives {
        let mut running = work.start("", &[]);
        std::thread::sleep(Duration::from_secs_f64(life));
        running.kill();
        let ended = running.wait();
        disk::nothing_torn(&work.out())?;
        work.loses_little(&ended)?;
    }
    work.finishes()
}

/// F02
pub fn at_every_call(suite: &Suite) -> Outcome {
    let calls: Vec<usize> = (1..=calls(suite, None, &[])).collect();
    let calls = suite.thin(calls, 24);
    each(&calls, |call| format!("kill:{call}"), |&call| killed_at(&Work::new(suite), call, &[]))
}

/// F03
pub fn while_resuming(suite: &Suite) -> Outcome {
    let begun = Work::new(suite).interrupted_after(28);
    let resumes = suite.thin(1..=calls(suite, Some(&begun), &[]), 12);
    let resumed = each(
        &resumes,
        |call| format!("kill:{call} of a resume"),
        |&call| killed_at(&Work::of(suite, &begun.out()), call, &[]),
    );
    // A finished run of another seed stands there and is to be replaced.
    let other = Work::new(suite);
    other.run("", &["seed=8"]);
    let replace = &["overwrite_output_dir=true"];
    // Its beginning: the old results go and the new receipt comes. What follows is a run like any other.
    let replaced = suite.thin(1..=60, 12);
    let replaced = each(
        &replaced,
        |call| format!("kill:{call} of a run that replaces another"),
        |&call| killed_at(&Work::of(suite, &other.out()), call, replace),
    );
    resumed.and(replaced)
}

/// File-system calls of the run that goes on in a copy of `begun`, or of a whole one.
pub fn calls(suite: &Suite, begun: Option<&Work>, args: &[&str]) -> usize {
    let work = begun.map_or_else(|| Work::new(suite), |begun| Work::of(suite, &begun.out()));
    let ended = work.run("trace:trace", args);
    assert_eq!(ended.code(), Some(0), "a run with a trace: {}", ended.stderr);
    let trace = std::fs::read_to_string(work.path("trace")).expect("a trace");
    trace.lines().filter(|line| line.contains("\"call\"")).count()
}

fn killed_at(work: &Work, call: usize, args: &[&str]) -> Check {
    let before = disk::newest_valid(&work.out());
    let ended = work.run(&format!("kill:{call}"), args);
    ensure(ended.signal() == SIGKILL, || format!("it was not killed: {:?}, {}", ended.status, ended.stderr))?;
    disk::nothing_torn(&work.out())?;
    let replaces = !args.is_empty();
    ensure(replaces || disk::newest_valid(&work.out()) >= before, || "a valid checkpoint was lost".into())?;
    let left = disk::leftovers(&work.out());
    ensure(left.len() <= 1, || format!("left over: {left:?}"))?;
    work.loses_little(&ended)?;
    if !replaces {
        return work.finishes();
    }
    // Which of the two runs the checkpoints are of only the program knows; what it must end with is known all the same.
    let ended = work.run("", args);
    ensure(ended.code() == Some(0), || format!("the same command again: {:?}, {}", ended.status, ended.stderr))?;
    work.is_golden()
}
