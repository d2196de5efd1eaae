//! The text of a config file, and how an error points into it.

use super::hidden;
use crate::error::{Error, Result, io_reason, utf8};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Characters of a line shown at most; a JSON on one line may be very long.
const SHOWN: usize = 100;

/// A config file in memory. A byte order mark at the start is dropped.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// `path` is only for messages.
    pub fn new(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.strip_prefix('\u{feff}').unwrap_or(text).to_owned() }
    }

    /// Reads a file. Errors: it does not exist, is not readable, is not UTF-8.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|err| {
            Error::file(path, format!("cannot read the config: {}", io_reason(&err)))
                .hint("paths are relative to the working directory")
                .hint_zh("路径相对于当前工作目录")
        })?;
        Ok(Self::new(path, &utf8(path, bytes)?))
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `path: fact`, for what has no line of its own.
    pub fn error(&self, fact: impl std::fmt::Display) -> Error {
        Error::file(&self.path, hidden::words(&fact.to_string()))
    }

    /// `path:line:column: fact`, then the line with a caret below byte `at`; secrets in both are stars. Columns count
    /// characters, from 1.
    pub fn error_at(&self, at: usize, fact: impl std::fmt::Display) -> Error {
        let fact = hidden::words(&fact.to_string());
        let at = self.text.floor_char_boundary(at);
        let line_start = self.text[..at].rfind('\n').map_or(0, |n| n + 1);
        let number = 1 + self.text[..at].matches('\n').count();
        let column = self.text[line_start..at].chars().count();
        let line = &hidden::line(&self.text, number);
        let shown = window(line, column);
        let gutter = number.to_string();
        let before: String = line.chars().skip(shown.start).take(column - shown.start).map(untab).collect();
        let excerpt: String = line.chars().skip(shown.start).take(shown.len()).map(untab).collect();
        Error::input(format!(
            "{}:{number}:{}: {fact}\n{gutter} | {}\n{:gap$} | {:indent$}^",
            self.path.display(),
            column + 1,
            excerpt.trim_end(),
            "",
            "",
            gap = gutter.len(),
            indent = before.width(),
        ))
    }

    /// The byte where 1-based `line` begins and 0-based character `column` of it stands.
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let start: usize = self.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let rest = &self.text[start..];
        start + rest.char_indices().nth(column).map_or(rest.len(), |(byte, _)| byte)
    }
}

/// Which characters of a line are shown so that `column` is among them.
fn window(line: &str, column: usize) -> Range<usize> {
    let start = if line.chars().count() > SHOWN { column.saturating_sub(SHOWN / 2) } else { 0 };
    start..start + SHOWN
}

/// Tabs and control characters would move the caret.
fn untab(c: char) -> char {
    if c.width().is_none() { ' ' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_the_place() {
        let chinese = "\u{feff}default_system = \"对联\" # 说明\r\n\tx = 对 y\r\n";
        let source = Source::new(Path::new("a.toml"), chinese);
        for (needle, want, why) in [
            (
                "\"对联",
                "a.toml:1:18: no\n1 | default_system = \"对联\" # 说明\n  |                  ^",
                "BOM is not a column",
            ),
            (
                "说明",
                "a.toml:1:25: no\n1 | default_system = \"对联\" # 说明\n  |                           ^",
                "width of Chinese",
            ),
            ("y\r", "a.toml:2:8: no\n2 |  x = 对 y\n  |         ^", "a tab is one column, CRLF is not shown"),
        ] {
            let at = source.text().find(needle).unwrap();
            assert_eq!(source.error_at(at, "no").to_string(), want, "{why}");
        }
        assert!(source.error_at(10_000, "end").to_string().starts_with("a.toml:3:1: end"), "past the end");
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let text = format!("{{{}\"bad\": 1}}", "\"k\": 1, ".repeat(100));
        let source = Source::new(Path::new("a.json"), &text);
        let message = source.error_at(text.find("\"bad\"").unwrap(), "no").to_string();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "a.json:1:802: no");
        assert!(lines[1].chars().count() < 110, "{}", lines[1]);
        assert!(lines[1][lines[2].find('^').unwrap()..].starts_with("\"bad\""), "{message}");
    }

    #[test]
    fn offsets_count_lines_from_one_and_characters_from_zero() {
        let source = Source::new(Path::new("a"), "ab\n对x\n");
        assert_eq!((source.offset(1, 1), source.offset(2, 0), source.offset(2, 1)), (1, 3, 6));
        assert_eq!(source.offset(9, 9), source.text().len(), "past the end");
    }
}
