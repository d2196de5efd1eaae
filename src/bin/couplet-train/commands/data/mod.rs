//! `couplet-train data …`

mod prepare;

use crate::args::DataCommand;
use couplet_train::{error::Result, report::Look};

pub use prepare::quoted;

/// Runs the command that was typed; returns the exit code.
pub fn run(command: &DataCommand, look: Look) -> Result<u8> {
    match command {
        DataCommand::Prepare(args) => prepare::run(args, look).map(|()| 0),
    }
}
