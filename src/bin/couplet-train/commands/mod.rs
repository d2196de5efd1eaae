//! One file per command; each wires the library's rooms together and prints.

mod data;
mod header;
mod restore;
mod stop;
mod train;

use crate::args::{Cli, Command, DataCommand};
use couplet_train::{error::Result, report::Look};

/// Runs the command that was typed; returns the exit code.
pub fn run(cli: Cli, look: Look) -> Result<u8> {
    match cli.command {
        None => train::run(&cli.train, look),
        Some(Command::Train(args)) => train::run(&args, look),
        Some(Command::Data(DataCommand::Prepare(args))) => data::prepare(&args, look).map(|()| 0),
    }
}
