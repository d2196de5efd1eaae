//! Seven mistakes on purpose. The fault that must see a mistake is run against it: it must be red.

use crate::{kills, numbers, pool::Outcome, power, signals, suite::Suite};

type Fault = fn(&Suite) -> Outcome;

const MUTANTS: [(&str, &str, Fault); 7] = [
    ("no_moments", "F29", numbers::from_every_step),
    ("step_off_by_one", "F29", numbers::from_every_step),
    ("no_data_position", "F29", numbers::from_every_step),
    ("restarted_rate", "F29", numbers::from_every_step),
    ("no_sync", "F05", power::states_of_the_disk),
    ("in_place", "F02", kills::at_every_call),
    ("signal_ignored", "F11", signals::in_every_phase),
];

pub fn all_are_seen(suite: &Suite) -> Outcome {
    let mut seen = Outcome { cases: MUTANTS.len(), ..Outcome::default() };
    for (mutant, fault, check) in MUTANTS {
        let outcome = check(&suite.with_mutant(mutant));
        match outcome.red.len() {
            0 => seen.red.push(format!("{mutant} survives {fault}, which must see it")),
            red => seen.notes.push(format!("`{mutant}` by {fault} ({red} of {} red)", outcome.cases)),
        }
    }
    seen
}
