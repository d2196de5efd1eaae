//! One key and its value, and where they were written.

use super::{hidden, source::Source, token::is_secret, value::Value};
use crate::error::{Error, Result};
use std::fmt;

/// Keys that name a folder.
const FOLDERS: [&str; 7] = [
    "model_name_or_path",
    "adapter_name_or_path",
    "cache_dir",
    "dataset_dir",
    "output_dir",
    "resume_from_checkpoint",
    "export_dir",
];

/// A key and its value as a file or the command line gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The leaf key, as written.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
}

/// Where an entry was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// Bytes of the file where the key and the value begin.
    File {
        /// The key.
        key: usize,
        /// The value.
        value: usize,
    },
    /// On the command line; the text behind the `=`.
    Override(String),
}

impl Entry {
    /// An error about the key.
    pub fn key_error(&self, source: &Source, fact: impl fmt::Display) -> Error {
        match &self.place {
            Place::File { key, .. } => source.error_at(*key, fact),
            Place::Override(_) => self.override_error(fact),
        }
    }

    /// An error about the value; of a secret only the key is shown.
    pub fn error(&self, source: &Source, fact: impl fmt::Display) -> Error {
        if is_secret(&self.key) {
            return self.key_error(source, fact);
        }
        match &self.place {
            Place::File { value, .. } => source.error_at(*value, fact),
            Place::Override(_) => self.override_error(fact),
        }
    }

    /// Errors: a folder that begins with `~`. Only a shell puts the home directory there, and not in every word.
    pub fn refuse_tilde(&self, source: &Source) -> Result<()> {
        let is_home = |path: &&str| *path == "~" || path.starts_with("~/");
        match self.value.words().into_iter().flatten().find(is_home).filter(|_| FOLDERS.contains(&self.key.as_str())) {
            None => Ok(()),
            Some(path) => Err(self
                .error(source, format!("`{}` begins with `~`, which only a shell replaces: {path}", self.key))
                .hint("write the whole path; on the command line \"$HOME/…\" is one")
                .hint_zh("请写完整路径；命令行中可写 \"$HOME/…\"")),
        }
    }

    fn override_error(&self, fact: impl fmt::Display) -> Error {
        let text = if let Place::Override(text) = &self.place { text.as_str() } else { "" };
        let fact = hidden::words(&fact.to_string());
        Error::input(format!("override `{}`: {fact}", hidden::pair(&format!("{}={text}", self.key))))
    }
}
