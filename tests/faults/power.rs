//! F05: the power goes after any call of a run; what was announced is there, and nothing under a final name is torn.

use crate::{
    disk,
    model::{Bytes, Disk, Fate, Op, Tree, read_trace},
    pool::{Check, Dice, Outcome, each, ensure},
    run::Work,
    suite::{STEPS, Suite},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

const LOG: &str = "out/trainer_log.jsonl";
/// States to look at, at least.
const ENOUGH: usize = 10_000;

pub fn states_of_the_disk(suite: &Suite) -> Outcome {
    let began = Instant::now();
    let draws = if suite.quick { 4 } else { 24 };
    let mut cut = PowerCut { draws, dice: Dice::new(5), ..PowerCut::default() };
    for (name, before, args) in stories(suite) {
        let work = before.map_or_else(|| Work::new(suite), |before| Work::of(suite, &before.out()));
        let disk = Disk::holding(&work.out(), "out");
        let ended = work.run("trace:trace", args);
        if ended.code() != Some(0) {
            return Outcome::one(name, Err(ended.stderr));
        }
        cut.through((name, args), disk, &read_trace(&work.path("trace")));
    }
    let states = cut.seen.len();
    let seconds = began.elapsed().as_secs_f64();
    if !suite.quick && states < ENOUGH {
        cut.red.push(format!("only {states} states"));
    }
    // Some of them for real: written to a folder and gone on with.
    let real = suite.thin(cut.kept, 4);
    let resumed = if suite.mutant.is_empty() {
        each(&real, |state| state.name.clone(), |state| resumes(suite, state))
    } else {
        Outcome::default()
    };
    let note = format!("{states} states in {seconds:.0} s, {} of them resumed for real", resumed.cases);
    Outcome { cases: states, red: cut.red, notes: vec![] }.and(resumed).note(note)
}

type Story<'a> = (&'static str, Option<Work<'a>>, &'static [&'static str]);

/// Runs to cut the power of: one as it is, one that goes on, one that saves and prunes at every step, one that replaces.
fn stories(suite: &Suite) -> Vec<Story<'_>> {
    let other = Work::new(suite);
    other.run("", &["seed=8", "num_train_epochs=1"]);
    let mut stories: Vec<Story> = vec![
        ("a whole run", None, &[]),
        ("a resumed run", Some(Work::new(suite).interrupted_after(13)), &[]),
        ("a run that replaces another", Some(other), &["overwrite_output_dir=true"]),
    ];
    if !suite.quick {
        stories.push(("a run that saves at every step", None, &["save_steps=1", "plot_loss=true"]));
    }
    stories
}

/// What is known of a state, apart from the files themselves.
#[derive(Default)]
struct Told {
    /// The newest checkpoint that was announced, or that was there before.
    saved: Option<usize>,
    complete: bool,
    /// The log when the end was announced.
    log: Option<blake3::Hash>,
    /// Contents that a file under a final name has had or been given; the last is the newest.
    versions: BTreeMap<String, Vec<blake3::Hash>>,
}

/// A state to resume for real.
struct Kept {
    name: String,
    tree: Tree,
    args: &'static [&'static str],
}

#[derive(Default)]
struct PowerCut {
    /// Random states after each call.
    draws: usize,
    dice: Dice,
    seen: HashSet<blake3::Hash>,
    red: Vec<String>,
    /// States to resume for real.
    kept: Vec<Kept>,
    /// Digests of contents, by their address; the contents stay, so that no address is used twice.
    digests: HashMap<usize, (Arc<Vec<u8>>, blake3::Hash)>,
}

impl PowerCut {
    /// After every call: everything lost, everything kept, the first so many names with each fate of the bytes, and draws.
    fn through(&mut self, story: (&str, &'static [&'static str]), mut disk: Disk, trace: &[Op]) {
        let mut told = Told::default();
        let start = disk.after_power_loss(&mut Fate::Same { names: 0, bytes: Bytes::Kept });
        if story.1.is_empty() {
            told.saved = start.keys().filter_map(|path| step_of(path)).max(); // else it is asked to remove them
        }
        for (path, bytes) in start.iter().filter(|(path, _)| is_final(path)) {
            told.versions.entry(path.clone()).or_default().push(self.digest(bytes));
        }
        for (i, op) in trace.iter().enumerate() {
            disk.perform(op);
            self.listen(&mut told, &disk, op);
            for names in 0..=disk.pending() {
                for bytes in [Bytes::Lost, Bytes::Kept, Bytes::Torn(1), Bytes::Zeros(0)] {
                    self.look(story, i, disk.after_power_loss(&mut Fate::Same { names, bytes }), &told);
                }
            }
            for _ in 0..self.draws {
                let tree = disk.after_power_loss(&mut Fate::Random(&mut self.dice));
                self.look(story, i, tree, &told);
            }
        }
    }

    fn listen(&mut self, told: &mut Told, disk: &Disk, op: &Op) {
        match op {
            Op::Announce(what, step) if what == "saved" => told.saved = Some(*step),
            Op::Announce(..) => {
                told.complete = true;
                told.log = disk.read(LOG).map(|bytes| self.digest(&bytes));
            }
            Op::Rename(_, to) if is_final(to) => {
                if let Some(bytes) = disk.read(to) {
                    let digest = self.digest(&bytes);
                    told.versions.entry(to.clone()).or_default().push(digest);
                }
            }
            _ => {}
        }
    }

    fn digest(&mut self, bytes: &Arc<Vec<u8>>) -> blake3::Hash {
        let address = Arc::as_ptr(bytes) as usize;
        self.digests.entry(address).or_insert_with(|| (Arc::clone(bytes), blake3::hash(bytes))).1
    }

    /// Checks a state unless it has been seen.
    fn look(&mut self, (name, args): (&str, &'static [&'static str]), call: usize, tree: Tree, told: &Told) {
        let mut print = blake3::Hasher::new();
        print.update(format!("{:?} {}", told.saved, told.complete).as_bytes());
        let mut digests = BTreeMap::new();
        for (path, bytes) in &tree {
            let digest = self.digest(bytes);
            print.update(path.as_bytes()).update(digest.as_bytes());
            digests.insert(path.as_str(), (bytes.len() as u64, digest));
        }
        if !self.seen.insert(print.finalize()) {
            return;
        }
        if let Err(why) = holds(&tree, &digests, told) {
            self.red.push(format!("{name}, after call {}: {why}", call + 1));
        }
        // Not where the command is another one: the result would be as well.
        if self.seen.len().is_multiple_of(250) && !args.contains(&"save_steps=1") {
            self.kept.push(Kept { name: format!("{name}, after call {}", call + 1), tree, args });
        }
    }
}

/// What must hold of every state.
fn holds(tree: &Tree, digests: &BTreeMap<&str, (u64, blake3::Hash)>, told: &Told) -> Check {
    let steps: HashSet<usize> = tree.keys().filter_map(|path| step_of(path)).collect();
    for step in &steps {
        let folder = format!("out/checkpoint-{step}/");
        let count = tree.keys().filter(|path| path.starts_with(&folder)).count();
        let manifest =
            tree.get(&format!("{folder}manifest.json")).ok_or(format!("checkpoint-{step} has no manifest"))?;
        let digest = |name: &str| digests.get(format!("{folder}{name}").as_str()).copied();
        disk::verify(*step, manifest, count, digest).map_err(|why| format!("checkpoint-{step} is torn: {why}"))?;
    }
    if let Some(saved) = told.saved {
        ensure(steps.iter().any(|&step| step >= saved), || format!("checkpoint-{saved} was announced and is gone"))?;
    }
    for (path, (_, digest)) in digests.iter().filter(|(path, _)| is_final(path)) {
        let known = told.versions.get(*path).is_some_and(|versions| versions.contains(digest));
        ensure(known, || format!("{path} is neither its old nor its new self"))?;
    }
    let says_complete = tree
        .get("out/run.json")
        .is_some_and(|text| serde_json::from_slice::<Value>(text).is_ok_and(|run| run["status"] == "complete"));
    ensure(says_complete || !told.complete, || "the end was announced, but run.json does not say complete".into())?;
    if let Some(log) = told.log {
        ensure(digests.get(LOG).is_some_and(|(_, digest)| *digest == log), || "a finished run lacks log lines".into())?;
    }
    let newest = |path: &str| told.versions.get(path).and_then(|versions| versions.last());
    for path in told.versions.keys().filter(|_| says_complete && told.saved == Some(STEPS)) {
        let there = digests.get(path.as_str()).map(|(_, digest)| digest);
        ensure(there == newest(path), || format!("run.json says complete, but {path} is not its newest self"))?;
    }
    Ok(())
}

/// `out/checkpoint-5/…` → 5
fn step_of(path: &str) -> Option<usize> {
    path.strip_prefix("out/checkpoint-")?.split_once('/')?.0.parse().ok()
}

/// Files of the output directory that are replaced whole. The log grows line by line, and is promised only at the end.
fn is_final(path: &str) -> bool {
    path.strip_prefix("out/")
        .is_some_and(|name| !name.contains('/') && !name.starts_with('.') && !name.ends_with(".jsonl"))
}

/// The state in a real folder, and the real program on it.
fn resumes(suite: &Suite, Kept { tree, args, .. }: &Kept) -> Check {
    let work = Work::new(suite);
    for (path, bytes) in tree {
        let path = work.path(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(|err| err.to_string())?;
        std::fs::write(path, bytes.as_slice()).map_err(|err| err.to_string())?;
    }
    if args.is_empty() {
        return work.finishes();
    }
    let ended = work.run("", args);
    ensure(ended.code() == Some(0), || format!("{:?}, {}", ended.status, ended.stderr))?;
    work.is_golden()
}
