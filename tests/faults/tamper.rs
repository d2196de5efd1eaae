//! F17: a checkpoint that is not as it was written is named, and the one before is taken; the end is the same.

use crate::{
    disk,
    pool::{Check, Dice, Outcome, each, ensure},
    run::Work,
    suite::Suite,
};
use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

/// Where the run was interrupted; its newest checkpoint is the victim.
const INTERRUPTED: usize = 37;
const NEWEST: usize = 35;
const BEFORE: usize = 30;

/// What is done to a file of the newest checkpoint.
#[derive(Debug, Clone)]
enum Blow {
    Truncate(usize),
    Flip { byte: usize, bit: u8 },
    Swap,
    Remove,
    Empty,
    Zeros,
    Grow,
    Link,
}

/// F17
pub fn every_file_of_a_checkpoint(suite: &Suite) -> Outcome {
    let begun = Work::new(suite).interrupted_after(INTERRUPTED);
    let files = disk::files(&disk::checkpoint(&begun.out(), NEWEST));
    let blows = blows(suite, &files);
    let hit = each(
        &blows,
        |(file, blow)| format!("{file}: {blow:?}"),
        |(file, blow)| {
            let work = Work::of(suite, &begun.out());
            strike(&work, file, blow);
            falls_back(&work)
        },
    );
    let folder = |what: &str, strike: &dyn Fn(&Path)| {
        let work = Work::of(suite, &begun.out());
        strike(&disk::checkpoint(&work.out(), NEWEST));
        Outcome::one(what, falls_back(&work))
    };
    hit.and(folder("a file more", &|dir| fs::write(dir.join("notes.txt"), "").expect("a file")))
        .and(folder("a folder more", &|dir| fs::create_dir(dir.join("more")).expect("a folder")))
        .and(folder("nothing in it", &|dir| {
            fs::remove_dir_all(dir).and_then(|()| fs::create_dir(dir)).expect("an empty folder");
        }))
        .and(folder("a file in its place", &|dir| {
            fs::remove_dir_all(dir).and_then(|()| fs::write(dir, "")).expect("a file");
        }))
        .and(folder("another checkpoint in its place", &|dir| {
            fs::remove_dir_all(dir).expect("removed");
            disk::copy(&dir.with_file_name(format!("checkpoint-{BEFORE}")), dir);
        }))
        .and(Outcome::one("all of them damaged", all_damaged(&Work::of(suite, &begun.out()))))
}

fn blows(suite: &Suite, files: &BTreeMap<String, Vec<u8>>) -> Vec<(String, Blow)> {
    let mut blows = vec![];
    for (name, bytes) in files {
        let cuts: Vec<usize> = (0..50).map(|i| i * bytes.len() / 50).collect();
        blows.extend(suite.thin(cuts, 3).into_iter().map(|len| (name.clone(), Blow::Truncate(len))));
        blows.extend(
            [Blow::Swap, Blow::Remove, Blow::Empty, Blow::Zeros, Blow::Grow, Blow::Link]
                .map(|blow| (name.clone(), blow)),
        );
    }
    // Each file gets as many flips as the others: small ones are as likely to be misread.
    let (mut dice, names) = (Dice::new(17), files.keys().collect::<Vec<_>>());
    for i in 0..if suite.quick { 15 } else { 1000 } {
        let name = names[i % names.len()];
        let (byte, bit) = (dice.below(files[name].len()), dice.below(8) as u8);
        blows.push((name.clone(), Blow::Flip { byte, bit }));
    }
    blows
}

fn strike(work: &Work, file: &str, blow: &Blow) {
    let path = disk::checkpoint(&work.out(), NEWEST).join(file);
    let mut bytes = fs::read(&path).expect("a file");
    match *blow {
        Blow::Truncate(len) => bytes.truncate(len),
        Blow::Flip { byte, bit } => bytes[byte] ^= 1 << bit,
        Blow::Swap => {
            // The config of the adapter is the same in both; any other file is not.
            bytes = fs::read(disk::checkpoint(&work.out(), BEFORE).join(file)).expect("the older file");
            if bytes == fs::read(&path).expect("a file") {
                bytes.reverse();
            }
        }
        Blow::Empty => bytes.clear(),
        Blow::Zeros => bytes.fill(0),
        Blow::Grow => bytes.push(b'x'),
        Blow::Remove => return fs::remove_file(&path).expect("removed"),
        Blow::Link => {
            fs::rename(&path, work.path("elsewhere")).expect("moved");
            return symlink(work.path("elsewhere"), &path).expect("a link");
        }
    }
    fs::write(&path, bytes).expect("a damaged file");
}

fn falls_back(work: &Work) -> Check {
    ensure(disk::newest_valid(&work.out()) == Some(BEFORE), || "the suite itself takes it for sound".into())?;
    let ended = work.finishes_with(&[])?;
    ensure(ended.stderr.contains(&format!("checkpoint-{NEWEST} is skipped: ")), || {
        format!("the damage is not named: {}", ended.stderr)
    })
}

/// No sound checkpoint: no silent start at zero.
fn all_damaged(work: &Work) -> Check {
    for step in disk::checkpoints(&work.out()) {
        fs::write(disk::checkpoint(&work.out(), step).join("state.json"), "{}").expect("a damaged file");
    }
    let ended = work.run("", &[]);
    let named = ended.stderr.contains("no checkpoint can be continued") && ended.stderr.contains("checkpoint-35");
    ensure(ended.code() == Some(2) && ended.steps.is_empty() && named, || {
        format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr)
    })?;
    let ended = work.run("", &["resume_from_checkpoint=false"]);
    ensure(ended.code() == Some(0) && ended.steps.len() == 40, || {
        format!("the way out that the hint names: {}", ended.stderr)
    })?;
    ensure(
        fs::read(work.out().join("adapter_model.safetensors")).unwrap_or_default() == work.suite.golden.adapter,
        || "another adapter".into(),
    )
}
