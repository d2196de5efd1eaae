//! JSON: an array of rows, or a row a line. A row is an object with known names, or a list of two texts.

use super::{Format, Found, Read, names, shown};
use crate::{
    error::{Error, Result},
    prosody,
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::path::Path;

/// JSON, if a text begins like it.
pub(super) fn begins(text: &str) -> Option<Format> {
    text.trim_start().starts_with(['[', '{']).then_some(Format::Json)
}

/// Reads every row. `columns`: their names; else those of the first object that are known.
///
/// Errors name the line: broken JSON, no known names. A row that lacks a side is kept apart.
pub(super) fn read(text: &str, path: &Path, columns: Option<&[String; 2]>, read: &mut Read) -> Result<Found> {
    let mut rows = Rows { path, columns: columns.cloned(), unused: None, read };
    let start = text.trim_start();
    match start.chars().next() {
        Some('[') if !begins_with_a_list_of_texts(start) => rows.array(text)?,
        Some('[' | '{') => rows.lines(text)?,
        Some(_) => return Err(shown(Error::file(path, "neither a JSON array nor JSON Lines"))),
        None => {}
    }
    let Rows { columns, unused, .. } = rows;
    Ok(Found::Json { columns, unused: unused.unwrap_or_default() })
}

/// Whether the first line is a list of texts, as JSON Lines has a row; an array of rows holds lists and objects, or goes on on the
/// next line.
fn begins_with_a_list_of_texts(text: &str) -> bool {
    let holds_text = text.strip_prefix('[').is_some_and(|inside| inside.trim_start().starts_with('"'));
    let line = text.lines().next().unwrap_or_default();
    holds_text && !serde_json::from_str::<IgnoredAny>(line).is_err_and(|err| err.is_eof())
}

struct Rows<'a> {
    path: &'a Path,
    columns: Option<[String; 2]>,
    /// Other names of the first object.
    unused: Option<Vec<String>>,
    read: &'a mut Read,
}

impl Rows<'_> {
    fn lines(&mut self, text: &str) -> Result<()> {
        let lines: Vec<(usize, &str)> = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect();
        for &(number, line) in &lines {
            let row = serde_json::from_str(line).map_err(|err| self.broken(&err, number, 0))?;
            if lines.len() == 1 && is_list_of_lines(&row) {
                let fact = "one list of two texts, each of two parts: a couplet, or two?";
                return Err(self
                    .fault(number, fact)
                    .hint("put the couplet in brackets once more: [[\"上联\", \"下联\"]]; or write the lines as text, one a line")
                    .hint_zh("若是一副对联，请再加一层方括号：[[\"上联\", \"下联\"]]；若是两行文本，请写成文本文件，每行一副"));
            }
            self.take(number, row)?;
        }
        Ok(())
    }

    /// Value after value, so that each has its line and the file never stands in memory as a tree.
    fn array(&mut self, text: &str) -> Result<()> {
        let mut at = text.find('[').map_or(0, |at| at + 1);
        let (mut line, mut counted) = (1, 0);
        loop {
            at += text[at..].len() - text[at..].trim_start().len();
            line += text[counted..at].matches('\n').count();
            counted = at;
            let rest = &text[at..];
            if let Some(behind) = rest.strip_prefix(']') {
                return match behind.trim_start() {
                    "" => Ok(()),
                    _ => Err(self.fault(line, "something follows the array")),
                };
            }
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            match values.next() {
                None => return Err(self.fault(line, "the array is not closed")),
                Some(Err(err)) => {
                    let before = if err.line() == 1 { at - text[..at].rfind('\n').map_or(0, |at| at + 1) } else { 0 };
                    return Err(self.broken(&err, line + err.line() - 1, before));
                }
                Some(Ok(row)) => self.take(line, row)?,
            }
            at += values.byte_offset();
            let behind = text[at..].trim_start();
            at = text.len() - behind.len();
            match behind.chars().next() {
                Some(',') => at += 1,
                Some(']') => {}
                _ => {
                    let line = line + text[counted..at].matches('\n').count();
                    let fact = if behind.is_empty() {
                        "the array is not closed"
                    } else {
                        "a comma is missing between two rows"
                    };
                    return Err(self.fault(line, fact));
                }
            }
        }
    }

    fn take(&mut self, line: usize, row: Value) -> Result<()> {
        match &row {
            Value::Object(row) => return self.object(line, row),
            Value::Array(sides) => {
                if let [Value::String(upper), Value::String(lower)] = sides.as_slice() {
                    match [upper, lower].map(|side| side.trim().is_empty()) {
                        [false, false] => self.read.pair(line, upper, lower),
                        _ => self.read.broken(line, &row.to_string(), "an empty side"),
                    }
                    return Ok(());
                }
            }
            _ => {}
        }
        self.read.broken(line, &row.to_string(), "neither an object nor a list of two texts");
        Ok(())
    }

    fn object(&mut self, line: usize, row: &Map<String, Value>) -> Result<()> {
        let columns = match self.columns.take() {
            Some(columns) => columns,
            None => self.choose(line, row)?,
        };
        self.unused.get_or_insert_with(|| row.keys().filter(|name| !columns.contains(name)).cloned().collect());
        let sides =
            columns.each_ref().map(|name| row.get(name).and_then(Value::as_str).filter(|side| !side.trim().is_empty()));
        match sides {
            [Some(upper), Some(lower)] => self.read.pair(line, upper, lower),
            [None, _] => self.read.broken(line, &text_of(row), format!("no text in `{}`", columns[0])),
            [_, None] => self.read.broken(line, &text_of(row), format!("no text in `{}`", columns[1])),
        }
        self.columns = Some(columns);
        Ok(())
    }

    /// Names of 上联 and 下联 in the first object. Alpaca without an input asks with the instruction.
    fn choose(&self, line: usize, row: &Map<String, Value>) -> Result<[String; 2]> {
        let is_empty = |name: &str| row.get(name).and_then(Value::as_str).is_some_and(str::is_empty);
        let all: Vec<&String> = row.keys().filter(|name| !(name.as_str() == "input" && is_empty(name))).collect();
        let known = names::known(&all).map(|at| at.map(|column| all[column].clone()));
        known.ok_or_else(|| {
            let names = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            self.fault(line, &format!("no known names of columns: {names}"))
        })
    }

    fn fault(&self, line: usize, fact: &str) -> Error {
        shown(Error::input(format!("{}:{line}: {fact}", self.path.display())))
    }

    /// `before`: bytes of the line before what was parsed.
    fn broken(&self, err: &serde_json::Error, line: usize, before: usize) -> Error {
        let text = err.to_string();
        let fact = text.rsplit_once(" at line ").map_or(text.as_str(), |(fact, _)| fact);
        let place = format!("{}:{line}:{}", self.path.display(), before + err.column());
        shown(Error::input(format!("{place}: not valid JSON: {fact}")))
    }
}

/// Whether a list of two texts may as well hold two lines with a couplet each.
fn is_list_of_lines(row: &Value) -> bool {
    let is_pair = |text: &Value| {
        let sides: Vec<&str> = text.as_str().unwrap_or_default().split_whitespace().collect();
        matches!(sides.as_slice(), [upper, lower] if prosody::same_shape(upper, lower))
    };
    row.as_array().is_some_and(|texts| texts.len() == 2 && texts.iter().all(is_pair))
}

fn text_of(row: &Map<String, Value>) -> String {
    row.values().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}
