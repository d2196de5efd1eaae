//! One file per command; each wires the library's rooms together and prints.

mod ask;
mod chat;
mod data;
mod generate;
mod header;
mod restore;
mod ruled;
mod stop;
mod train;

use crate::args::{AskArgs, ChatArgs, Cli, Command, DataCommand, TrainArgs};
use couplet_train::{config::is_inference, error::Result, report::Look};
use std::path::Path;

/// Runs the command that was typed; returns the exit code.
pub fn run(cli: Cli, look: Look) -> Result<u8> {
    match cli.command {
        None => train_or_chat(&cli.train, look),
        Some(Command::Train(args)) => train_or_chat(&args, look),
        Some(Command::Generate(args)) => generate::run(&args, look),
        Some(Command::Chat(args)) => chat::run(&args, look),
        Some(Command::Data(DataCommand::Prepare(args))) => data::prepare(&args, look).map(|()| 0),
    }
}

/// A LlamaFactory file for inference is a conversation, as `llamafactory-cli chat` has it; every other file trains.
fn train_or_chat(args: &TrainArgs, look: Look) -> Result<u8> {
    let file = args.config.as_deref().or(args.rest.first().map(Path::new));
    match file {
        Some(file) if is_inference(file) => {
            let config = args.config.iter().map(|file| file.display().to_string());
            let words = config.chain(args.rest.iter().cloned()).collect();
            chat::run(&ChatArgs { words, ask: AskArgs::default() }, look)
        }
        _ => train::run(args, look),
    }
}
