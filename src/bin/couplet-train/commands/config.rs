//! `couplet-train config`: what a key means, and one dialect in the other.

use crate::args::{ConfigCommand, ConvertArgs, ExplainArgs};
use couplet_train::{
    config::{self, Dialect},
    error::Result,
    report::{Console, Header, Lang, Look},
};
use std::io::{Write, stderr, stdout};

/// Explains keys, converts a config, or prints the schema for editors; the result goes to stdout.
pub fn run(command: &ConfigCommand, look: Look) -> Result<()> {
    let text = match command {
        ConfigCommand::Explain(args) => explained(args, look)?,
        ConfigCommand::Convert(args) => converted(args, look)?,
        ConfigCommand::Schema(args) => {
            let dialect = if args.llamafactory { Dialect::LlamaFactory } else { Dialect::Toml };
            format!("{:#}\n", config::schema(dialect))
        }
    };
    stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn explained(args: &ExplainArgs, look: Look) -> Result<String> {
    let chinese = look.lang == Lang::Zh;
    match (args.markdown, args.keys.is_empty()) {
        (true, _) => Ok(config::reference()),
        (false, true) => Ok(config::overview(chinese)),
        (false, false) => {
            let keys: Result<Vec<String>> = args.keys.iter().map(|key| config::explain(key, chinese)).collect();
            Ok(keys?.join("\n"))
        }
    }
}

fn converted(args: &ConvertArgs, look: Look) -> Result<String> {
    let (text, notices) = config::convert(&args.file, &args.overrides)?;
    let mut header = Header::default();
    for notice in notices {
        header.notice(notice.en, notice.zh);
    }
    Console::new(stderr(), look).header(&header);
    Ok(text)
}
