//! Parsers against files that nobody would write: whatever comes in, what comes out is a value or an error with a text, in time,
//! and without asking for more memory than the file is worth.
//!
//! `a_fixed_slice_of_every_target` always runs. Longer, and with other numbers:
//! `FUZZ_SECONDS=60 cargo test --release --test integration fuzz:: -- --ignored --nocapture`
//! tries every target so long (or `FUZZ_TARGETS=weights,index` alone, from `FUZZ_SEED`). An input that fails is left in
//! `target/tmp/fuzz`; once it is understood it belongs into `tests/fixtures/fuzz/TARGET` as `found-WHAT`, where every later run
//! begins with it.

mod memory;
pub mod mutate;
mod targets;

use crate::support::fixtures;
use couplet_train::{
    config::OnBadRow,
    dataset::{
        self,
        files::{DataFile, FileFormat},
        record::How,
        shape::Shape,
    },
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use targets::{PER_BYTE, Target};

/// Inputs of the slice, for every target.
const SLICE: u64 = 250;
/// An error that is longer is not read by anybody.
const LONGEST_MESSAGE: usize = 4000;
/// Nothing that is read takes so long.
const HANGS: Duration = Duration::from_secs(20);

/// What became of one input; `Err` says what is wrong with it.
fn tried(target: &Target, input: &[u8]) -> Result<bool, String> {
    let (outcome, peak) = memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.act)(input))));
    let allowed = target.base + PER_BYTE * input.len();
    if peak > allowed {
        return Err(format!("holds {peak} bytes for an input of {}, where {allowed} are allowed", input.len()));
    }
    match outcome {
        Ok(Ok(())) => Ok(true),
        Ok(Err(err)) => match err.to_string() {
            text if text.is_empty() => Err("an error without a text".into()),
            text if text.len() > LONGEST_MESSAGE => Err(format!("an error of {} bytes: {:.200}…", text.len(), text)),
            _ => Ok(false),
        },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("a panic: {}", text.unwrap_or_default()))
        }
    }
}

/// Seeds and earlier finds of a target, by name.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = fixtures().join("fuzz").join(target.name);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|_| panic!("{} has no seeds", target.name))
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn is_seed(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().starts_with("seed")
}

/// Runs `act` where everything happens on one thread, rayon's work too, so that its memory is seen; with the stack of any thread.
fn alone<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).stack_size(2 << 20).build().unwrap();
    pool.install(act)
}

#[test]
fn seeds_are_sound_and_what_was_found_is_refused_in_peace() {
    let work = tempfile::tempdir().unwrap();
    alone(|| {
        for target in targets::all(work.path()) {
            for (path, input) in corpus(&target) {
                let sound = tried(&target, &input).unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
                assert!(sound || !is_seed(&path), "{}: {}", path.display(), (target.act)(&input).unwrap_err());
            }
        }
    });
}

#[test]
fn every_folder_of_seeds_has_a_target_that_the_page_names() {
    let work = tempfile::tempdir().unwrap();
    let targets: Vec<&str> = targets::all(work.path()).iter().map(|target| target.name).collect();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md")).unwrap();
    for entry in fs::read_dir(fixtures().join("fuzz")).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        let is_built = cfg!(feature = "parquet") || name != "rows_parquet";
        if entry.path().is_dir() {
            assert_eq!(targets.contains(&name.as_str()), is_built, "{name}");
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }
}

#[test]
fn a_fixed_slice_of_every_target() {
    let work = tempfile::tempdir().unwrap();
    alone(|| {
        for target in targets::all(work.path()) {
            let seeds: Vec<Vec<u8>> = corpus(&target).into_iter().map(|(_, bytes)| bytes).collect();
            let mut sound = 0;
            for number in 0..SLICE {
                let input = mutate::input(target.name, target.shape, &seeds, 0, number);
                match tried(&target, &input) {
                    Ok(good) => sound += u64::from(good),
                    Err(wrong) => {
                        panic!("{} {number}: {wrong}; left in {}", target.name, keep(target.name, &input).display())
                    }
                }
            }
            assert!(
                sound > 0 && sound < SLICE,
                "{}: {sound} of {SLICE} are sound: the inputs try nothing",
                target.name
            );
        }
    });
}

#[test]
fn a_data_file_that_was_cut_is_refused_with_its_row_or_is_whole() {
    for (name, at_line_ends) in [("rows_json/seed.json", false), ("rows_jsonl/seed.jsonl", true)] {
        let bytes = fs::read(fixtures().join("fuzz").join(name)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        for len in 1..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let rows = bytes[..len].iter().filter(|b| **b == b'\n').count();
            let file = DataFile { path: path.clone(), format: FileFormat::Json, gzip: false };
            let how = How { shape: &Shape::default(), limit: None, on_bad_row: OnBadRow::Error };
            match dataset::record::read(&[file], how) {
                Ok(parsed) => {
                    let is_whole = at_line_ends && (bytes[len - 1] == b'\n' || bytes[len] == b'\n');
                    assert!(is_whole || bytes[len..].trim_ascii().is_empty(), "cut at {len}");
                    assert_eq!(parsed.rows.len(), parsed.counts[0], "every row that was read is there");
                    assert!(!at_line_ends || (rows..=rows + 1).contains(&parsed.rows.len()), "cut at {len}");
                }
                Err(err) => {
                    let text = err.to_string();
                    let is_placed =
                        text.contains(": row ") || text.contains("not UTF-8 at byte ") || text.contains("no row has");
                    assert!(is_placed, "cut at {len}: {text}");
                }
            }
        }
    }
}

/// Puts an input where it can be looked at.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{name}-{}", &blake3::hash(input).to_hex()[..12]));
    fs::write(&path, input).unwrap();
    path
}

#[test]
#[ignore = "as long as FUZZ_SECONDS says, for every target"]
fn every_target_for_as_long_as_is_said() {
    let said = |name: &str| std::env::var(name).ok();
    let seconds: u64 = said("FUZZ_SECONDS").map_or(60, |text| text.parse().expect("FUZZ_SECONDS"));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed: u64 = said("FUZZ_SEED").map_or(now, |text| text.parse().expect("FUZZ_SEED"));
    let wanted = said("FUZZ_TARGETS").unwrap_or_default();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|wanted| wanted == name);
    let work = tempfile::tempdir().unwrap();
    let watch = Watch::start();
    let found = alone(|| {
        let mut found = 0;
        for target in targets::all(work.path()).into_iter().filter(|target| is_wanted(target.name)) {
            let seeds: Vec<Vec<u8>> = corpus(&target).into_iter().map(|(_, bytes)| bytes).collect();
            let (began, mut number, mut sound, mut kept) = (Instant::now(), 0, 0, Vec::<String>::new());
            let mut slowest = Duration::ZERO;
            while began.elapsed().as_secs() < seconds {
                let input = mutate::input(target.name, target.shape, &seeds, seed, number);
                watch.begin(target.name, &input);
                let tries = Instant::now();
                let outcome = tried(&target, &input);
                slowest = slowest.max(tries.elapsed());
                match outcome {
                    Ok(good) => sound += u64::from(good),
                    // The same thing many times is one thing.
                    Err(wrong) if kept.len() < 10 && !kept.contains(&wrong) => {
                        println!("{} {number}: {wrong}; left in {}", target.name, keep(target.name, &input).display());
                        kept.push(wrong);
                    }
                    Err(_) => {}
                }
                number += 1;
            }
            watch.end();
            println!(
                "{}: {number} inputs from seed {seed}, {sound} of them sound, the slowest took {:.0} ms, {} findings",
                target.name,
                slowest.as_secs_f64() * 1e3,
                kept.len()
            );
            found += kept.len();
        }
        found
    });
    assert_eq!(found, 0, "findings are left in {}", Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").display());
}

/// Ends the process when one input takes too long, or when it dies with one: what it was is left either way.
struct Watch {
    /// The input that is tried now.
    now: Arc<Mutex<(&'static str, Vec<u8>)>>,
    /// When it began, in milliseconds from the start; 0 between two targets.
    since: Arc<AtomicU64>,
    started: Instant,
}

impl Watch {
    fn start() -> Self {
        let watch = Self { now: Arc::new(Mutex::new(("", vec![]))), since: Arc::default(), started: Instant::now() };
        let (now, since, started) = (watch.now.clone(), watch.since.clone(), watch.started);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let begun = since.load(Ordering::SeqCst);
                if begun > 0 && started.elapsed() > Duration::from_millis(begun) + HANGS {
                    let (name, input) = now.lock().unwrap().clone();
                    println!("{name}: hangs; left in {}", keep(name, &input).display());
                    std::process::abort();
                }
            }
        });
        watch
    }

    fn begin(&self, name: &'static str, input: &[u8]) {
        // A stack that overflows ends the process at once: the input must be on the disk by then.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("last"), input).unwrap();
        *self.now.lock().unwrap() = (name, input.to_vec());
        self.since.store(1 + self.started.elapsed().as_millis() as u64, Ordering::SeqCst);
    }

    fn end(&self) {
        self.since.store(0, Ordering::SeqCst);
    }
}
