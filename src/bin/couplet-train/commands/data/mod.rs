//! `couplet-train data …`: data made, looked at, and counted.

mod prepare;
mod show;
mod source;
mod stats;

use crate::args::DataCommand;
use couplet_train::{error::Result, report::Look};

pub use prepare::quoted;

/// Runs the command that was typed; returns the exit code.
pub fn run(command: &DataCommand, look: Look) -> Result<u8> {
    match command {
        DataCommand::Prepare(args) => prepare::run(args, look)?,
        DataCommand::Show(args) => show::run(args, look)?,
        DataCommand::Stats(args) => stats::run(args, look)?,
    }
    Ok(0)
}
