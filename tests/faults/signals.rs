//! F11, F12: signals in every phase, and twenty starts at once.

use crate::{disk, pool::*, run::*};
pub fn in_every_phase(_: &Suite) -> Outcome {
    Outcome::default()
}
pub fn twenty_at_once(_: &Suite) -> Outcome {
    Outcome::default()
}
