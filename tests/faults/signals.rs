//! F11, F12: signals in every phase, and twenty starts at once.

use crate::{
    disk,
    pool::{Check, Outcome, each, ensure},
    run::{Ended, Running, Work},
    suite::{SAVE, STEPS, Suite},
};
use rustix::process::Signal;
use std::sync::{Arc, Mutex};

const SIGNALS: [(Signal, &str, i32); 3] =
    [(Signal::HUP, "SIGHUP", 129), (Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)];

/// Evaluations of a run that draws, and with each its pictures: before the first step, and every 10.
const PICTURES: usize = 1 + STEPS / 10;
/// Seconds in which a second run must have left.
const AT_ONCE: f64 = 1.0;

/// Children start with the default answer to every signal that a fault sends, however the suite itself was started.
///
/// What a process ignores its children ignore too (`nohup`, or `&` in a script), and the program keeps it so, as it should:
/// half of F11 would be red for that. What a process *handles* is at its default again in a program that it starts, so the
/// suite handles what it would ignore, by doing nothing.
pub fn give_children_the_defaults() {
    const XFSZ: i32 = 25;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    for signal in [1, 2, 15, XFSZ].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 1) {
        signal_hook::flag::register(signal, Arc::default()).expect("a signal to handle");
    }
}

/// Pictures are drawn only where there must be a phase of drawing: they take longer than the run.
fn keys(phase: &str) -> &'static [&'static str] {
    if phase == "plot" { &["plot_loss=true"] } else { &[] }
}

/// F11
pub fn in_every_phase(suite: &Suite) -> Outcome {
    let mut cases: Vec<(&str, usize, usize)> = vec![]; // phase, how often it is reached before, signal
    // Reached once a run: the same again and again, for the sake of the places between two instructions.
    for phase in ["tokenise", "load", "rehearse", "end"] {
        cases.extend(suite.thin(0..51, 3).into_iter().map(|i| (phase, 1, i % 3)));
    }
    // Before each micro-batch, of which a step has two or more.
    cases.extend(suite.thin(1..=2 * STEPS, 6).into_iter().map(|k| ("train", k, k % 3)));
    let repeated = |times: usize| (0..51).map(move |i| (1 + i % times, i % 3));
    for (phase, times) in [("eval", 4), ("save", STEPS / SAVE), ("plot", PICTURES)] {
        cases.extend(suite.thin(repeated(times), 4).into_iter().map(|(k, signal)| (phase, k, signal)));
    }
    let name = |&(phase, k, signal): &(&str, usize, usize)| format!("{} at {phase} {k}", SIGNALS[signal].1);
    let one = each(&cases, name, |&(phase, k, signal)| one_signal(suite, phase, k, signal));

    let twice = suite.thin(
        cases.iter().copied().filter(|(phase, k, _)| matches!(*phase, "train" | "eval" | "save") && k % 4 == 1),
        6,
    );
    let twice = each(
        &twice,
        |case| format!("twice {}", name(case)),
        |&(phase, k, signal)| two_signals(suite, phase, k, signal),
    );

    let phases = ["tokenise", "load", "train", "eval", "save", "end"];
    let ignored = each(&phases, |phase| format!("SIGHUP under nohup at {phase}"), |phase| ignored(suite, phase));
    one.and(twice).and(ignored)
}

/// The process pauses in a phase and gets a signal. Before the first step it leaves at once; later it goes on to the next
/// place to stop, and leaves a checkpoint of the last whole step. Only where there is no such place any more it may finish.
fn one_signal(suite: &Suite, phase: &str, k: usize, signal: usize) -> Check {
    let (signal, name, code) = SIGNALS[signal];
    let work = Work::new(suite);
    let mut running = work.start_paused(phase, k, keys(phase))?;
    running.signal(signal);
    if matches!(phase, "tokenise" | "load" | "rehearse") {
        let left = running.ends_within(1.0);
        work.release();
        let ended = running.wait();
        ensure(left, || format!("it did not leave within a second: {:?}", ended.status))?;
        ensure(ended.code() == Some(code), || format!("{:?}, {}", ended.status, ended.stderr))?;
        return work.finishes();
    }
    work.release();
    let left = running.ends_within(2.0);
    let ended = running.wait();
    ensure(left, || format!("it did not leave within two seconds: {:?}", ended.status))?;
    if ended.code() == Some(0) && may_finish(phase, k) {
        return work.is_golden();
    }
    stopped(&work, &ended, name, code)?;
    work.finishes_with(keys(phase)).map(drop)
}

/// Whether nothing may come any more at which the run would stop: the last picture while it trains, the last save (for which
/// the run waits at its last step while the one before it is written), and the end.
fn may_finish(phase: &str, k: usize) -> bool {
    match phase {
        "plot" => k == PICTURES,
        "save" => k + 1 >= STEPS / SAVE,
        phase => phase == "end",
    }
}

/// What a polite end leaves: the right code, the truth about the step, and a checkpoint of it.
fn stopped(work: &Work, ended: &Ended, name: &str, code: i32) -> Check {
    let said = || format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr);
    ensure(ended.code() == Some(code), said)?;
    let done = ended.steps.last().copied().unwrap_or(0);
    let told = match done {
        0 => format!("stopped by {name} before the first step"),
        _ => format!("stopped by {name} after step {done}, which is saved"),
    };
    ensure(ended.stderr.contains(&told), said)?;
    disk::nothing_torn(&work.out())?;
    ensure(disk::newest_valid(&work.out()).unwrap_or(0) == done, said)
}

/// The second signal ends it at once, in the middle of whatever it does.
fn two_signals(suite: &Suite, phase: &str, k: usize, signal: usize) -> Check {
    let (signal, _, code) = SIGNALS[signal];
    let work = Work::new(suite);
    let mut running = work.start_paused(phase, k, keys(phase))?;
    running.signal(Signal::INT);
    let waits = !running.ends_within(0.05);
    running.signal_if_alive(signal);
    let left = running.ends_within(1.0);
    work.release();
    let ended = running.wait();
    ensure(waits, || format!("the first signal ended it: {:?}", ended.status))?;
    ensure(left && ended.code() == Some(code), || format!("{:?}, left: {left}", ended.status))?;
    disk::nothing_torn(&work.out())?;
    work.finishes()
}

/// `nohup`: started with SIGHUP ignored, it goes on.
fn ignored(suite: &Suite, phase: &str) -> Check {
    let work = Work::new(suite);
    let mut running = work.start_in("trap '' HUP;", &format!("pause:{phase}:1:marker"), &[]);
    ensure(running.reaches(&work.path("marker")), || "it is not reached".into())?;
    running.signal(Signal::HUP);
    running.signal(Signal::HUP);
    work.release();
    let ended = running.wait();
    ensure(ended.code() == Some(0), || format!("{:?}, {}", ended.status, ended.stderr))?;
    work.is_golden()
}

/// F12
pub fn twenty_at_once(suite: &Suite) -> Outcome {
    let longest = Mutex::new(0.0);
    // One round after the other: what is measured is the program, not how many of it two cores can start.
    let round = |i: usize| Outcome::one(&format!("round {i}"), one_wins(suite, &longest));
    let rounds = (0..if suite.quick { 2 } else { 50 }).map(round).fold(Outcome::default(), Outcome::and);
    let longest = *longest.lock().expect("the longest");
    rounds.note(format!("the last of nineteen leaves after {longest:.2} s"))
}

/// One of twenty trains, the others leave within a second and name it; killed, it is in nobody's way.
fn one_wins(suite: &Suite, longest: &Mutex<f64>) -> Check {
    let work = Work::new(suite);
    let mut all: Vec<Running> = (0..20).map(|_| work.start("pause:step:8:marker", &[])).collect();
    let began = std::time::Instant::now();
    let mut winners: Vec<usize> = (0..all.len()).collect();
    let mut slowest = 0.0;
    while winners.len() > 1 && began.elapsed().as_secs_f64() < 20.0 {
        winners.retain(|&i| {
            let ended = all[i].has_ended();
            slowest = if ended { f64::max(slowest, all[i].age()) } else { slowest };
            !ended
        });
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let winner = *winners.first().ok_or("nobody trains")?;
    let trains = all[winner].reaches(&work.path("marker"));
    all.iter_mut().for_each(Running::kill);
    let pid = all[winner].pid();
    let ended: Vec<Ended> = all.into_iter().map(Running::wait).collect();
    work.release();
    ensure(winners.len() == 1 && trains, || format!("{} of twenty train", winners.len()))?;
    let mut longest = longest.lock().expect("the longest");
    *longest = f64::max(*longest, slowest);
    ensure(slowest <= AT_ONCE, || format!("the last loser leaves after {slowest:.2} s"))?;
    for (_, loser) in ended.iter().enumerate().filter(|(i, _)| *i != winner) {
        let names = loser.stderr.contains(&format!("process {pid}"));
        ensure(loser.code() == Some(2) && names && loser.steps.is_empty(), || {
            format!("{pid} trains, and another: {:?}, {}", loser.status, loser.stderr)
        })?;
    }
    work.finishes()
}
