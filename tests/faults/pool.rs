//! Cases, two at a time, and what came of them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Children that run at the same time.
const AT_ONCE: usize = 2;

/// What a case comes to: the way in which it is red.
pub type Check = Result<(), String>;

/// What came of a fault's cases.
#[derive(Debug, Default)]
pub struct Outcome {
    pub cases: usize,
    pub red: Vec<String>,
    /// Numbers worth a place in the table.
    pub notes: Vec<String>,
}

impl Outcome {
    /// One case.
    pub fn one(name: &str, check: Check) -> Self {
        let red = check.err().map(|why| format!("{name}: {why}"));
        Self { cases: 1, red: red.into_iter().collect(), notes: vec![] }
    }

    pub fn and(mut self, other: Self) -> Self {
        self.cases += other.cases;
        self.red.extend(other.red);
        self.notes.extend(other.notes);
        self
    }

    pub fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// The last cell of its row.
    pub fn verdict(&self) -> String {
        let mut words = vec![match (self.cases, self.red.len()) {
            (0, _) => "**nothing was done**".to_owned(),
            (_, 0) => "passed".to_owned(),
            (_, red) => format!("**{red} red**"),
        }];
        words.extend(self.notes.iter().cloned());
        words.join("; ")
    }
}

/// Checks every item; `name` is for those that are red.
pub fn each<T: Sync>(items: &[T], name: impl Fn(&T) -> String + Sync, check: impl Fn(&T) -> Check + Sync) -> Outcome {
    let (next, red) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            let checked = catch_unwind(AssertUnwindSafe(|| check(item)));
            if let Err(why) = checked.unwrap_or_else(|_| Err("the check panicked".into())) {
                red.lock().expect("the list of the red").push(format!("{}: {why}", name(item)));
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    Outcome { cases: items.len(), red: red.into_inner().expect("the list of the red"), notes: vec![] }
}

/// `Err` with the text unless `condition` holds.
pub fn ensure(condition: bool, text: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(text()) }
}

/// Numbers that are the same at every start of the suite (SplitMix64).
#[derive(Default)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In [0, 1).
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
