//! The command line: arguments in, exit code out.

mod args;
mod commands;
mod machine;

use args::Cli;
use clap::{CommandFactory, Parser};
use couplet_train::{
    error::Kind,
    kernels,
    report::{Console, Look},
};
use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
};

fn main() -> ExitCode {
    if std::env::args_os().len() == 1 {
        // A closed pipe is no reason to fail at showing help.
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    }
    kernels::keep_freed_buffers();
    kernels::join_pool();
    let cli = Cli::parse();
    let look = cli.ui.apply(Look::detect(stderr().is_terminal(), |name| std::env::var(name).ok()));
    match commands::run(cli, look) {
        Ok(code) => ExitCode::from(code),
        Err(err) if err.kind() == Kind::NoReader => ExitCode::SUCCESS,
        Err(err) => {
            Console::new(stderr(), look).error(&err);
            match err.kind() {
                Kind::Input => ExitCode::from(2),
                Kind::Run | Kind::NoReader => ExitCode::from(1),
            }
        }
    }
}
