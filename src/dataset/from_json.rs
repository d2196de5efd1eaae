//! Rows out of JSON: one array of objects, or JSON Lines, told apart by their first character.
//!
//! The file is cut into rows by its brackets and quotes, and each row parsed by itself, so that it never stands in memory
//! as a whole. A line of JSON Lines that is broken can be left out; behind a broken row of an array nothing is certain.

use super::{
    fault::{Fault, Reason},
    input::{Input, Part, Place},
    record::Rows,
};
use crate::error::{Error, Result};
use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;
use std::path::Path;

/// Reads all rows.
pub(super) fn read(input: &mut Input, rows: &mut Rows) -> Result<()> {
    match to_next(input, rows)? {
        Some(b'[') => array(input, rows),
        Some(b'{') => match (object_at_start(input), input.place()) {
            (Some(count), place) if !rows.skips_broken() => Err(object_over_lines(rows.path(), place, count)),
            // Lines behind it may be rows; what its own lines hold are none.
            (object, place) => match (lines(input, rows)?, object) {
                (last, Some(count)) if last < place.line + count => Err(object_over_lines(rows.path(), place, count)),
                _ => Ok(()),
            },
        },
        // The first line may be one of those that are broken.
        Some(_) if rows.skips_broken() => match lines(input, rows)? {
            0 => Err(neither(rows)),
            _ => Ok(()),
        },
        Some(_) => Err(neither(rows)),
        None => Ok(()),
    }
}

fn neither(rows: &Rows) -> Error {
    form(Error::file(rows.path(), "row 1: neither a JSON array of objects nor JSON Lines"))
}

/// How many lines the object takes that the file begins with; `None` where it stands on one, as JSON Lines has it, or is broken:
/// of that, and of what cannot be read, is told where its lines are.
fn object_at_start(input: &mut Input) -> Option<usize> {
    let mut scan = Scan::default();
    loop {
        match scan.end_of_value(input.text()) {
            Some(end) => return lines_of_object(&input.text()[..end]),
            None if matches!(input.more(), Ok(true)) => {}
            None => return None,
        }
    }
}

/// How many lines the object takes that `text` begins with; `None` where it stands on one, or is broken.
pub(super) fn lines_of_object(text: &str) -> Option<usize> {
    let object = &text[..Scan::default().end_of_value(text)?];
    let lines = object.lines().count();
    (lines > 1 && serde_json::from_str::<IgnoredAny>(object).is_ok()).then_some(lines)
}

pub(super) fn object_over_lines(path: &Path, Place { line, column }: Place, lines: usize) -> Error {
    let place = format!("{}:{line}:{column}", path.display());
    Error::input(format!("{place}: row 1: one object over {lines} lines; an array of objects was expected, or an object a line"))
        .hint("put it in brackets, with commas between several: [{…}, {…}]; or bring each object on one line: `jq -c . FILE > NEW.jsonl`; where the rows are a list inside of it, save that list alone")
        .hint_zh("请加上方括号，多个对象以逗号隔开：[{…}, {…}]；或让每个对象各占一行：`jq -c . 文件 > 新文件.jsonl`；若各行数据是其中的一个列表，请只保存该列表")
}

fn array(input: &mut Input, rows: &mut Rows) -> Result<()> {
    input.take(1);
    if to_next(input, rows)? != Some(b']') {
        loop {
            row_of_array(input, rows)?;
            match to_next(input, rows)? {
                Some(b',') => drop(input.take(1)),
                Some(b']') => break,
                Some(_) => return Err(broken(rows, input.place(), "expected `,` or `]`")),
                None => return Err(broken(rows, input.place(), "EOF while parsing a list")),
            }
            if to_next(input, rows)? == Some(b']') {
                return Err(broken(rows, input.place(), "trailing comma"));
            }
        }
    }
    input.take(1);
    match to_next(input, rows)? {
        None => Ok(()),
        Some(_) => {
            let Place { line, column } = input.place();
            let place = format!("{}:{line}:{column}", rows.path().display());
            Err(form(Error::input(format!("{place}: what follows the array is not valid JSON: trailing characters"))))
        }
    }
}

/// Takes the blanks before the row that comes next, which is named where they cannot be read, and says how it begins.
fn to_next(input: &mut Input, rows: &Rows) -> Result<Option<u8>> {
    input.part = Part::Row(rows.next());
    input.past_blanks()
}

fn row_of_array(input: &mut Input, rows: &mut Rows) -> Result<()> {
    let mut scan = Scan::default();
    let end = loop {
        if let Some(end) = scan.end_of_value(input.text()) {
            break end;
        }
        match input.more() {
            Ok(true) => {}
            Ok(false) => break input.text().len(),
            Err(error) => return Err(syntax_error(input, rows).unwrap_or(error)),
        }
    };
    if end == 0 {
        let fact = if input.text().is_empty() { "EOF while parsing a value" } else { "expected value" };
        return Err(broken(rows, input.place(), fact));
    }
    let (text, place) = input.take(end);
    row(text, place, rows).map_err(|(place, fact)| broken(rows, place, &fact))?
}

/// The last line that is JSON; 0 where none is.
fn lines(input: &mut Input, rows: &mut Rows) -> Result<usize> {
    let mut last = 0;
    while to_next(input, rows)?.is_some() {
        let mut searched = 0;
        let end = loop {
            if let Some(at) = memchr(b'\n', &input.text().as_bytes()[searched..]) {
                break searched + at;
            }
            searched = input.text().len();
            if !input.more()? {
                break searched;
            }
        };
        let (text, place) = input.take(end);
        match row(text, place, rows) {
            Ok(added) => {
                last = place.line;
                added?;
            }
            Err((place, fact)) => {
                let fault = Fault::new(Reason::NotJson, format!("is not valid JSON: {fact}"));
                rows.add(Some(place), Err(fault))?;
            }
        }
    }
    Ok(last)
}

/// Hands in a row. Outer error: where its syntax is broken, and how.
fn row(text: &str, place: Place, rows: &mut Rows) -> Result<Result<()>, (Place, String)> {
    let glance = !rows.wants_more();
    let cells = rows.wanted.of_json(text, glance).map_err(|err| position(&err, place))?;
    if glance {
        rows.pass(1);
        return Ok(Ok(()));
    }
    Ok(rows.add(Some(place), cells))
}

/// What is wrong in a row that has no end, if that is more than its end.
fn syntax_error(input: &Input, rows: &Rows) -> Option<Error> {
    let err = serde_json::from_str::<IgnoredAny>(input.text()).err().filter(|err| !err.is_eof())?;
    let (place, fact) = position(&err, input.place());
    Some(broken(rows, place, &fact))
}

/// Where in the file an error of a row lies that begins at `row`, and what it is.
pub(super) fn position(err: &serde_json::Error, row: Place) -> (Place, String) {
    let text = err.to_string();
    let fact = text.rsplit_once(" at line ").map_or(text.as_str(), |(fact, _)| fact);
    let column = match err.line() {
        0 | 1 => row.column + err.column().saturating_sub(1),
        _ => err.column(),
    };
    (Place { line: row.line + err.line().saturating_sub(1), column }, fact.to_owned())
}

fn broken(rows: &Rows, place: Place, fact: &str) -> Error {
    form(broken_row(rows.path(), place, rows.next(), fact))
}

/// The error of a row whose syntax is broken at `place`.
pub(super) fn broken_row(path: &Path, Place { line, column }: Place, row: usize, fact: &str) -> Error {
    Error::input(format!("{}:{line}:{column}: row {row} is not valid JSON: {fact}", path.display()))
}

fn form(error: Error) -> Error {
    error
        .hint("two forms are read: one JSON array of objects, or JSON Lines with one object a line (of which broken lines can be left out: on_bad_row=skip)")
        .hint_zh("支持两种格式：由对象组成的 JSON 数组，或每行一个对象的 JSON Lines（后者可用 on_bad_row=skip 略去损坏的行）")
}

/// Looks for the end of a JSON value in a text that grows, without looking at anything twice.
#[derive(Debug, Default)]
struct Scan {
    /// What lies before was looked at.
    at: usize,
    /// Open brackets.
    depth: usize,
    /// Inside a string.
    quoted: bool,
}

impl Scan {
    /// The bytes of the value, once `text` holds all of it.
    fn end_of_value(&mut self, text: &str) -> Option<usize> {
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if self.quoted {
                self.at += memchr2(b'"', b'\\', &bytes[self.at..]).unwrap_or(bytes.len() - self.at);
                match bytes.get(self.at) {
                    Some(b'"') => (self.quoted, self.at) = (false, self.at + 1),
                    Some(_) if self.at + 1 < bytes.len() => self.at += 2, // what is escaped
                    _ => return None,
                }
                if !self.quoted && self.depth == 0 {
                    return Some(self.at);
                }
                continue;
            }
            match byte {
                b'"' => self.quoted = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' | b',' if self.depth == 0 => return Some(self.at),
                b'}' | b']' => self.depth -= 1,
                byte if self.depth == 0 && byte.is_ascii_whitespace() => return Some(self.at),
                _ => {}
            }
            self.at += 1;
            if self.depth == 0 && matches!(byte, b'}' | b']') {
                return Some(self.at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_over_lines_is_known_where_it_is_whole() {
        for (text, want) in [
            ("{\n \"a\": 1\n}\n", Some(3)),
            ("{\"a\": \"}\\n\",\n\"b\": 1} {}", Some(2)),
            ("{\"a\": 1}\n{\"b\": 2}", None),
            ("{\"a\": 1,\n", None),
            ("{\"a\": \n 1,}", None),
        ] {
            assert_eq!(lines_of_object(text), want, "{text}");
        }
    }

    #[test]
    fn a_value_ends_where_its_brackets_and_quotes_close() {
        for (text, want) in [
            ("{}", Some(2)),
            (r#"{"a": "}"} , {"#, Some(10)),
            (r#"{"a": "\"}"}]"#, Some(12)),
            (r#"{"a": "\\"}]"#, Some(11)),
            (r#"[[1, {"b": []}]], "#, Some(16)),
            ("12, 3", Some(2)),
            ("12 , 3", Some(2)),
            ("true]", Some(4)),
            (r#""a,b" "#, Some(5)),
            ("12", None),
            ("{", None),
            (r#"{"a": "b}"#, None),
            (r#"{"a": "b\"#, None),
            (", 1", Some(0)),
        ] {
            assert_eq!(Scan::default().end_of_value(text), want, "{text}");
            let mut scan = Scan::default();
            let grown = (1..=text.len()).find_map(|n| scan.end_of_value(&text[..n]));
            assert_eq!(grown, want, "{text}, byte by byte");
        }
    }
}
