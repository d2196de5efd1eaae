//! One file per command; each wires the library's rooms together and prints.

mod adapter;
mod advice;
mod ask;
mod below;
mod chat;
mod config;
mod data;
mod doctor;
mod evaluate;
mod expected;
mod export;
mod finished;
mod generate;
mod header;
mod inputs;
mod loading;
mod locate;
mod notices;
mod on_card;
mod pissa;
mod place;
mod plan;
mod planned;
mod proof;
mod receipt;
mod restore;
mod ruled;
mod samples;
mod stop;
mod train;
mod trained;
mod verdict;
mod writing;

use crate::args::{AdapterCommand, AskArgs, ChatArgs, Cli, Command, EvaluateArgs, ExportArgs, TrainArgs};
use clap::CommandFactory;
use couplet_train::{
    config::{Purpose, closest, purpose},
    error::{Error, Result},
    report::Look,
};
use std::path::{Path, PathBuf};

/// Runs the command that was typed; returns the exit code.
pub fn run(cli: Cli, look: Look) -> Result<u8> {
    match cli.command {
        None => as_the_file_says(&cli.train, look),
        Some(Command::Train(args)) => as_the_file_says(&args, look),
        Some(Command::Plan(args)) => plan::run(&args, look).map(|()| 0),
        Some(Command::Generate(args)) => generate::run(&args, look),
        Some(Command::Chat(args)) => chat::run(&args, look),
        Some(Command::Evaluate(args)) => evaluate::run(&args, look),
        Some(Command::Export(args)) => export::run(&args, look),
        Some(Command::Adapter(AdapterCommand::Check(args))) => adapter::check(&args, look),
        Some(Command::Config(command)) => config::run(&command, look).map(|()| 0),
        Some(Command::Data(command)) => data::run(&command, look),
        Some(Command::Doctor) => doctor::run(look),
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

/// The recipe's file and its overrides: `--config FILE k=v …` or `FILE k=v …`. `command`: what is typed before the file.
fn recipe_and_overrides(args: &TrainArgs, command: &str) -> Result<(PathBuf, Vec<String>)> {
    if let Some(file) = &args.config {
        return Ok((file.clone(), args.rest.clone()));
    }
    match args.rest.split_first() {
        Some((word, _)) if !word.contains(['=', '.', '/']) && !Path::new(word).exists() => Err(unknown_word(word)),
        Some((file, overrides)) if !file.contains('=') => Ok((file.into(), overrides.to_vec())),
        _ => {
            let example = format!("{command} configs/tiny_couplets.toml");
            Err(Error::input("no config file").hint(example.clone()).hint_zh(example))
        }
    }
}

/// The error of a word that is neither a command nor a config file.
fn unknown_word(word: &str) -> Error {
    let cli = Cli::command();
    let names: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help").collect();
    if names.contains(&word) {
        return Error::input(format!("the command `{word}` stands behind an option"))
            .hint(format!("options follow the command: `couplet-train {word} …`"))
            .hint_zh(format!("选项写在命令之后：`couplet-train {word} …`"));
    }
    let (meant, meant_zh) = match closest(word, names.iter().copied()) {
        Some(name) => (format!("did you mean `{name}`? "), format!("是否想写 `{name}`？")),
        None => Default::default(),
    };
    let (all, all_zh) = (names.join(", "), names.join("、"));
    Error::input(format!("`{word}` is neither a command nor a config file"))
        .hint(format!(
            "{meant}commands: {all}; a config ends in .toml, .yaml, .yml or .json; see `couplet-train --help`"
        ))
        .hint_zh(format!(
            "{meant_zh}命令有 {all_zh}；配置文件名以 .toml、.yaml、.yml 或 .json 结尾；详见 `couplet-train --help`"
        ))
}
