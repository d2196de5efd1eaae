//! The fault suite: kills, breaks, fills, tampers with and power-cuts the real program, and resumes it.
//!
//! ```text
//! cargo test --release --features fault-injection --test faults                      # everything, under 20 minutes on 2 cores
//! cargo test --release --features fault-injection --test faults -- --quick           # thinned out, under 2 minutes
//! cargo test --release --features fault-injection --test faults -- F02 F17 mutants   # some
//! ```
//!
//! Every fault is a row of [`FAULTS`]; the last lines printed are their table. Exit code 1 if any row is red.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to whoever started it")]

mod best;
mod changes;
mod disk;
mod golden;
mod io;
mod kills;
mod model;
mod mounts;
mod mutants;
mod numbers;
mod pool;
mod power;
mod run;
mod signals;
mod suite;
mod tamper;

use pool::Outcome;
use std::{process::ExitCode, time::Instant};
use suite::Suite;

/// A row of the table.
struct Fault {
    id: &'static str,
    what: &'static str,
    check: fn(&Suite) -> Outcome,
}

const FAULTS: &[Fault] = &[
    Fault { id: "F01", what: "SIGKILL at random times; five in one run", check: kills::at_random_times },
    Fault { id: "F02", what: "SIGKILL at every file-system call of a run", check: kills::at_every_call },
    Fault {
        id: "F03",
        what: "the same while it resumes and prunes, and replaces an old run",
        check: kills::while_resuming,
    },
    Fault { id: "F04", what: "EIO, ENOSPC, EDQUOT or EINTR at every call", check: io::an_error_at_every_call },
    Fault { id: "F05", what: "loss of power: states of the disk", check: power::states_of_the_disk },
    Fault { id: "F07", what: "disk full after so many bytes", check: io::a_full_disk },
    Fault { id: "F08", what: "no room for another file", check: io::no_more_files },
    Fault { id: "F09", what: "limit on the size of a file (`ulimit -f`)", check: io::a_limit_on_file_size },
    Fault { id: "F10", what: "output directory read-only, gone, or a loop of links", check: io::a_hostile_directory },
    Fault { id: "F11", what: "SIGINT, SIGTERM, SIGHUP in every phase", check: signals::in_every_phase },
    Fault { id: "F12", what: "twenty starts at once", check: signals::twenty_at_once },
    Fault { id: "F17", what: "a checkpoint tampered with", check: tamper::every_file_of_a_checkpoint },
    Fault { id: "F18", what: "an input changed before resuming", check: changes::of_inputs },
    Fault { id: "F19", what: "data or weights edited while it trains", check: changes::in_mid_run },
    Fault { id: "F28", what: "NaN or Inf in base, loss, gradient, adapter", check: numbers::not_finite },
    Fault { id: "F29", what: "resumed from every step", check: numbers::from_every_step },
    Fault { id: "F30", what: "1, 2 or 4 threads, also changed at a resume", check: numbers::thread_counts },
    Fault { id: "F31", what: "k batches of b against one of k·b", check: numbers::accumulation },
    Fault {
        id: "best",
        what: "kills, failed saves and stops while it chooses the best evaluation",
        check: best::is_kept,
    },
    Fault {
        id: "mutants",
        what: "seven mistakes on purpose, each of which must be seen",
        check: mutants::all_are_seen,
    },
];

fn main() -> ExitCode {
    let (flags, wanted): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let quick = flags.iter().any(|flag| flag == "--quick");
    if let Some(strange) = wanted.iter().find(|id| FAULTS.iter().all(|fault| fault.id != **id)) {
        eprintln!("no fault is named {strange}");
        return ExitCode::from(2);
    }
    signals::give_children_the_defaults();
    let began = Instant::now();
    let suite = Suite::new(quick);
    let mut rows = vec![];
    for fault in FAULTS.iter().filter(|fault| wanted.is_empty() || wanted.iter().any(|id| id == fault.id)) {
        let started = Instant::now();
        eprint!("{:8}{} … ", fault.id, fault.what);
        let outcome = (fault.check)(&suite);
        eprintln!("{} cases, {} red, {:.0} s", outcome.cases, outcome.red.len(), started.elapsed().as_secs_f64());
        outcome.red.iter().take(10).for_each(|red| eprintln!("    {}", red.replace('\n', "\n    ")));
        rows.push((fault, outcome));
    }
    println!("\n| fault | what was done | cases | result |\n| --- | --- | ---: | --- |");
    for (fault, outcome) in &rows {
        println!("| {} | {} | {} | {} |", fault.id, fault.what, outcome.cases, outcome.verdict());
    }
    let red: usize = rows.iter().map(|(_, outcome)| outcome.red.len()).sum();
    let cases: usize = rows.iter().map(|(_, outcome)| outcome.cases).sum();
    println!(
        "\n{cases} cases, {red} red, {:.0} s{}",
        began.elapsed().as_secs_f64(),
        if quick { " (quick)" } else { "" }
    );
    ExitCode::from(u8::from(red > 0 || rows.iter().any(|(_, outcome)| outcome.cases == 0)))
}
