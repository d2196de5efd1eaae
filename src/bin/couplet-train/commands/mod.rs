//! One file per command; each wires the library's rooms together and prints.

mod adapter;
mod ask;
mod chat;
mod data;
mod evaluate;
mod export;
mod generate;
mod header;
mod inputs;
mod place;
mod planned;
mod proof;
mod restore;
mod ruled;
mod samples;
mod stop;
mod train;
mod verdict;
mod writing;

use crate::args::{AdapterCommand, AskArgs, ChatArgs, Cli, Command, DataCommand, EvaluateArgs, ExportArgs, TrainArgs};
use couplet_train::{
    config::{Purpose, purpose},
    error::Result,
    report::Look,
};
use std::path::Path;

/// Runs the command that was typed; returns the exit code.
pub fn run(cli: Cli, look: Look) -> Result<u8> {
    match cli.command {
        None => as_the_file_says(&cli.train, look),
        Some(Command::Train(args)) => as_the_file_says(&args, look),
        Some(Command::Generate(args)) => generate::run(&args, look),
        Some(Command::Chat(args)) => chat::run(&args, look),
        Some(Command::Evaluate(args)) => evaluate::run(&args, look),
        Some(Command::Export(args)) => export::run(&args, look),
        Some(Command::Adapter(AdapterCommand::Check(args))) => adapter::check(&args, look),
        Some(Command::Data(DataCommand::Prepare(args))) => data::prepare(&args, look).map(|()| 0),
    }
}

/// A LlamaFactory file for inference is a conversation, as `llamafactory-cli chat` has it, one with `export_dir` an export,
/// one with `do_predict` or `do_eval` and no training an evaluation; every other file trains.
fn as_the_file_says(args: &TrainArgs, look: Look) -> Result<u8> {
    let file = args.config.as_deref().or(args.rest.first().map(Path::new));
    let config = args.config.iter().map(|file| file.display().to_string());
    let words = config.chain(args.rest.iter().cloned()).collect();
    match file.and_then(purpose) {
        Some(Purpose::Chat) => chat::run(&ChatArgs { words, ask: AskArgs::default() }, look),
        Some(Purpose::Evaluate) => {
            evaluate::run(&EvaluateArgs { words, base: None, adapter: vec![], no_base: false, batch_size: 32 }, look)
        }
        Some(Purpose::Export) => export::run(&ExportArgs { words, ask: AskArgs::default() }, look),
        None => train::run(args, look),
    }
}
