//! F28–F31: values that are not finite, every point to resume from, threads, accumulation.

use crate::{
    disk,
    pool::{Check, Dice, Outcome, each, ensure},
    run::{STEPS, Suite, Work},
};
use serde_json::Value;
use std::{path::Path, sync::atomic::Ordering::Relaxed};

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
            std::fs::create_dir(work.out()).expect("a folder");
            std::fs::copy(kept.out().join("run.json"), work.out().join("run.json")).expect("a receipt");
            disk::copy(&disk::checkpoint(&kept.out(), step), &disk::checkpoint(&work.out(), step));
            work.finishes()
        },
    )
}
pub fn not_finite(_: &Suite) -> Outcome {
    Outcome::default()
}
pub fn thread_counts(_: &Suite) -> Outcome {
    Outcome::default()
}
pub fn accumulation(_: &Suite) -> Outcome {
    Outcome::default()
}
