//! JSON: an array of rows, or a row a line. A row is an object with known names, or a list of two texts.

use super::{Format, Found, Read, misnamed, names, shown};
use crate::{
    dataset::{
        from_json::{broken_row, lines_of_object, object_over_lines, position},
        input::Place,
    },
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
/// Errors name line, column and row: broken JSON, no known names; a column that is named and in no row. A row that lacks a side is
/// kept apart.
pub(super) fn read(text: &str, path: &Path, columns: Option<&[String; 2]>, read: &mut Read) -> Result<Found> {
    let mut rows = Rows { path, columns: columns.cloned(), first: None, met: [false; 2], count: 0, read };
    let start = text.trim_start();
    if let (true, Some(lines)) = (start.starts_with('{'), lines_of_object(start)) {
        return Err(object_over_lines(path, place_of(text, text.len() - start.len()), lines));
    }
    match start.chars().next() {
        Some('[') if !begins_with_a_list_of_texts(start) => rows.array(text)?,
        Some('[' | '{') => rows.lines(text)?,
        Some(_) => return Err(shown(Error::file(path, "neither a JSON array nor JSON Lines"))),
        None => {}
    }
    let Rows { columns, first, met, .. } = rows;
    let Some(first) = first else { return Ok(Found::Json { columns: None, unused: vec![] }) };
    let columns = columns.unwrap_or_default();
    if let Some(missing) = (0..2).find(|side| !met[*side]) {
        let fact = format!("no row has the column `{}`; the first one has {}", columns[missing], first.join(", "));
        return Err(misnamed(Error::file(path, fact)));
    }
    let unused = first.into_iter().filter(|name| !columns.contains(name)).collect();
    Ok(Found::Json { columns: Some(columns), unused })
}

/// Where a byte of the text stands.
fn place_of(text: &str, at: usize) -> Place {
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    Place { line: 1 + before.matches('\n').count(), column: at - start + 1 }
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
    /// All names of the first object.
    first: Option<Vec<String>>,
    /// Which of `columns` any object has.
    met: [bool; 2],
    /// Rows that were taken.
    count: usize,
    read: &'a mut Read,
}

impl Rows<'_> {
    fn lines(&mut self, text: &str) -> Result<()> {
        let lines: Vec<(usize, &str)> = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect();
        for &(number, line) in &lines {
            let place = Place { line: number, column: 1 };
            let row = serde_json::from_str(line).map_err(|err| self.broken(&err, place))?;
            if lines.len() == 1 && is_list_of_lines(&row) {
                let fact = "one list of two texts, each of two parts: a couplet, or two?";
                return Err(self
                    .fault(place, &format!("row 1: {fact}"))
                    .hint("put the couplet in brackets once more: [[\"上联\", \"下联\"]]; or write the lines as text, one a line")
                    .hint_zh("若是一副对联，请再加一层方括号：[[\"上联\", \"下联\"]]；若是两行文本，请写成文本文件，每行一副"));
            }
            self.take(number, row).map_err(|fact| self.unnamed(place, &fact))?;
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
            // To count the columns of a long line takes time: only for an error.
            let place = |at| place_of(text, at);
            if let Some(behind) = rest.strip_prefix(']') {
                let behind = behind.trim_start();
                return match behind {
                    "" => Ok(()),
                    _ => Err(self.fault(place(text.len() - behind.len()), "something follows the array")),
                };
            }
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            match values.next() {
                None => return Err(self.not_closed(place(text.len()))),
                Some(Err(err)) => return Err(self.broken(&err, place(at))),
                Some(Ok(row)) => self.take(line, row).map_err(|fact| self.unnamed(place(at), &fact))?,
            }
            at += values.byte_offset();
            let behind = text[at..].trim_start();
            at = text.len() - behind.len();
            match behind.chars().next() {
                Some(',') => {
                    at += 1;
                    let behind = text[at..].trim_start();
                    if behind.starts_with(']') {
                        let place = place(text.len() - behind.len());
                        return Err(shown(broken_row(self.path, place, self.count + 1, "trailing comma")));
                    }
                }
                Some(']') => {}
                None => return Err(self.not_closed(place(at))),
                Some(_) => {
                    let fact = format!("a comma is missing before row {}", self.count + 1);
                    return Err(self.fault(place(at), &fact));
                }
            }
        }
    }

    /// Error: no column of it has a name that is known.
    fn take(&mut self, line: usize, row: Value) -> Result<(), String> {
        self.count += 1;
        let (text, fact) = match &row {
            Value::Object(row) => return self.object(line, row),
            Value::Array(sides) => match sides.as_slice() {
                [Value::String(upper), Value::String(lower)] => {
                    if [upper, lower].iter().all(|side| !side.trim().is_empty()) {
                        self.read.pair(line, upper, lower);
                        return Ok(());
                    }
                    (row.to_string(), "an empty side")
                }
                _ => (row.to_string(), NEITHER),
            },
            _ => (row.to_string(), NEITHER),
        };
        self.no_pair(line, &text, fact);
        Ok(())
    }

    fn object(&mut self, line: usize, row: &Map<String, Value>) -> Result<(), String> {
        let columns = match self.columns.take() {
            Some(columns) => columns,
            None => choose(row).map_err(|fact| format!("row {}: {fact}", self.count))?,
        };
        self.first.get_or_insert_with(|| row.keys().cloned().collect());
        for (met, name) in self.met.iter_mut().zip(&columns) {
            *met |= row.contains_key(name);
        }
        let sides =
            columns.each_ref().map(|name| row.get(name).and_then(Value::as_str).filter(|side| !side.trim().is_empty()));
        match sides {
            [Some(upper), Some(lower)] => self.read.pair(line, upper, lower),
            [None, _] => self.no_pair(line, &text_of(row), &format!("no text in `{}`", columns[0])),
            [_, None] => self.no_pair(line, &text_of(row), &format!("no text in `{}`", columns[1])),
        }
        self.columns = Some(columns);
        Ok(())
    }

    /// All rows may stand on one line, so the number of the row is told as well.
    fn no_pair(&mut self, line: usize, text: &str, fact: &str) {
        self.read.broken(line, text, format!("row {}: {fact}", self.count));
    }

    fn not_closed(&self, place: Place) -> Error {
        self.fault(place, &format!("the array is not closed behind row {}", self.count))
    }

    fn fault(&self, place: Place, fact: &str) -> Error {
        shown(self.at(place, fact))
    }

    /// No column has a name that is known.
    fn unnamed(&self, place: Place, fact: &str) -> Error {
        misnamed(self.at(place, fact))
    }

    fn at(&self, Place { line, column }: Place, fact: &str) -> Error {
        Error::input(format!("{}:{line}:{column}: {fact}", self.path.display()))
    }

    /// What was parsed begins at `place`.
    fn broken(&self, err: &serde_json::Error, place: Place) -> Error {
        let (place, fact) = position(err, place);
        shown(broken_row(self.path, place, self.count + 1, &fact))
    }
}

const NEITHER: &str = "neither an object nor a list of two texts";

/// Names of 上联 and 下联 in the first object. Alpaca without an input asks with the instruction.
fn choose(row: &Map<String, Value>) -> Result<[String; 2], String> {
    let is_empty = |name: &str| row.get(name).and_then(Value::as_str).is_some_and(str::is_empty);
    let all: Vec<&String> = row.keys().filter(|name| !(name.as_str() == "input" && is_empty(name))).collect();
    let known = names::known(&all).map(|at| at.map(|column| all[column].clone()));
    known.ok_or_else(|| {
        let names = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("no known names of columns: {names}")
    })
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
