//! One key and its value, and where they were written.

use super::{source::Source, value::Value};
use crate::error::Error;
use std::fmt;

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

    /// An error about the value.
    pub fn error(&self, source: &Source, fact: impl fmt::Display) -> Error {
        match &self.place {
            Place::File { value, .. } => source.error_at(*value, fact),
            Place::Override(_) => self.override_error(fact),
        }
    }

    fn override_error(&self, fact: impl fmt::Display) -> Error {
        let text = if let Place::Override(text) = &self.place { text.as_str() } else { "" };
        Error::input(format!("override `{}={text}`: {fact}", self.key))
    }
}
