//! `couplet-train data …`: data made, looked at, and counted.

mod prepare;
mod show;
mod source;
mod stats;

use crate::args::DataCommand;
use couplet_train::{error::Result, report::Look};

/// Runs one of them.
pub fn run(command: &DataCommand, look: Look) -> Result<()> {
    match command {
        DataCommand::Prepare(args) => prepare::prepare(args, look),
        DataCommand::Show(args) => show::run(args, look),
        DataCommand::Stats(args) => stats::run(args, look),
    }
}

/// As a shell reads one word.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:@,+".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_word_with_a_space_is_quoted() {
        for (word, want) in [("data", "data"), ("新/目录", "新/目录"), ("my data", "'my data'"), ("it's", "'it'\\''s'")]
        {
            assert_eq!(quoted(word), want);
        }
    }
}
