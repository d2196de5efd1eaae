//! Rows out of csv (fields between commas) and tsv (between tabs); the first line names the columns.
//!
//! Quotes are pandas's, which LlamaFactory reads csv with: a field that begins with `"` goes to the next single `"`, with
//! commas and line breaks in it, and `""` is one quote. Lines that are empty are passed over. Two things differ, so that no
//! text changes on its way: every field is text, also `12` and `NA`, and a row must have as many fields as the header.
//! (Not the `csv` crate: it takes a quote that is never closed to the end of the file in silence.)

use super::{
    cell::{Cell, Column},
    fault::{Fault, Reason},
    input::{Input, Part, Place},
    record::Rows,
};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// Reads all rows.
pub(super) fn read(input: &mut Input, separator: u8, rows: &mut Rows) -> Result<()> {
    input.part = Part::Header;
    let Some((header, _)) = record(input, separator, rows)? else { return Ok(()) };
    let columns = columns(&header, rows)?;
    loop {
        input.part = Part::Row(rows.next());
        let Some((fields, place)) = record(input, separator, rows)? else { return Ok(()) };
        if !rows.wants_more() {
            rows.pass(1);
            continue;
        }
        let cells = cells(fields, &columns, rows);
        rows.add(Some(place), cells)?;
    }
}

/// The columns that the header names.
fn columns(header: &[String], rows: &mut Rows) -> Result<Vec<Column>> {
    // A column without a name is the index that pandas writes.
    let meet = |name: &String| if name.is_empty() { Column::Unknown } else { rows.wanted.meet(name) };
    let columns: Vec<Column> = header.iter().map(meet).collect();
    let twice =
        (1..columns.len()).find(|&i| columns[..i].contains(&columns[i]) && matches!(columns[i], Column::Wanted(_)));
    match twice {
        None => Ok(columns),
        Some(i) => Err(Error::file(rows.path(), format!("the header names two columns `{}`", header[i]))
            .hint("give one of them another name")
            .hint_zh("请将其中一列改名")),
    }
}

fn cells(fields: Vec<String>, columns: &[Column], rows: &mut Rows) -> Result<Vec<Cell>, Fault> {
    if fields.len() != columns.len() {
        let fact = format!("{} fields, and the header has {}", fields.len(), columns.len());
        return Err(Fault::new(Reason::Fields, fact));
    }
    let mut cells = rows.wanted.empty();
    for (field, column) in fields.into_iter().zip(columns) {
        let cell = if field.is_empty() { Cell::Missing } else { Cell::Text(field) };
        rows.wanted.put(&mut cells, *column, cell)?;
    }
    Ok(cells)
}

/// The fields of the next record that is not blank, and where it begins. Error: a quote is not closed.
fn record(input: &mut Input, separator: u8, rows: &Rows) -> Result<Option<(Vec<String>, Place)>> {
    while input.peek()?.is_some() {
        let mut scan = Scan { separator, at: 0, state: State::Begins };
        let end = loop {
            if let Some(end) = scan.end_of_record(input.text()) {
                break end;
            }
            if !input.more()? {
                break input.text().len();
            }
        };
        if scan.state == State::Quoted {
            return Err(open_quote(input, rows));
        }
        let (text, place) = input.take(end);
        let is_blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n') && c != char::from(separator);
        if !text.chars().all(is_blank) {
            return Ok(Some((fields(text, separator), place)));
        }
    }
    Ok(None)
}

fn open_quote(input: &Input, rows: &Rows) -> Error {
    let Place { line, column } = input.place();
    let place = format!("{}:{line}:{column}", rows.path().display());
    Error::input(format!("{place}: a quote in {} is not closed", input.what()))
        .hint("a quote opens only where a field begins; inside quotes it is written twice")
        .hint_zh("引号只能出现在字段开头；引号内的引号须写两次")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A field begins.
    Begins,
    Plain,
    Quoted,
    /// Behind a quote in quotes: it closes, or is the first of two.
    Closes,
}

impl State {
    fn after(self, byte: u8, separator: u8) -> Self {
        match (self, byte) {
            (Self::Begins, b'"') | (Self::Closes, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Closes,
            (Self::Quoted, _) => Self::Quoted,
            (_, byte) if byte == separator => Self::Begins,
            _ => Self::Plain,
        }
    }
}

/// Looks for the end of a record in a text that grows, without looking at anything twice.
struct Scan {
    separator: u8,
    at: usize,
    state: State,
}

impl Scan {
    /// The bytes of the record with its line break, once `text` holds all of it.
    fn end_of_record(&mut self, text: &str) -> Option<usize> {
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if self.state != State::Quoted && matches!(byte, b'\n' | b'\r') {
                return match (byte, bytes.get(self.at + 1)) {
                    (b'\r', None) => None, // a line feed may follow
                    (b'\r', Some(b'\n')) => Some(self.at + 2),
                    _ => Some(self.at + 1),
                };
            }
            self.state = self.state.after(byte, self.separator);
            self.at += 1;
        }
        None
    }
}

/// The fields of a record, without quotes.
fn fields(record: &str, separator: u8) -> Vec<String> {
    let record = record.strip_suffix('\n').unwrap_or(record);
    let record = record.strip_suffix('\r').unwrap_or(record);
    let (mut fields, mut state, mut start) = (vec![], State::Begins, 0);
    for (at, byte) in record.bytes().enumerate() {
        if state != State::Quoted && byte == separator {
            fields.push(unquoted(&record[start..at]).into_owned());
            start = at + 1;
        }
        state = state.after(byte, separator);
    }
    fields.push(unquoted(&record[start..]).into_owned());
    fields
}

/// What a field says: the text in its quotes, `""` as one, and whatever stands behind them.
fn unquoted(field: &str) -> Cow<'_, str> {
    let Some(quoted) = field.strip_prefix('"') else { return field.into() };
    if let Some(inner) = quoted.strip_suffix('"').filter(|inner| !inner.contains('"')) {
        return inner.into();
    }
    let (mut text, mut state) = (String::new(), State::Quoted);
    for c in quoted.chars() {
        state = match (state, c) {
            (State::Quoted, '"') => State::Closes,
            (State::Quoted, _) | (State::Closes, '"') => State::Quoted,
            _ => State::Plain,
        };
        if state != State::Closes {
            text.push(c);
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_what_pandas_reads() {
        for (record, want) in [
            ("a,b\n", vec!["a", "b"]),
            ("a,b\r\n", vec!["a", "b"]),
            ("a,b", vec!["a", "b"]),
            (",,", vec!["", "", ""]),
            ("\"a,b\",\"c\"\"d\"", vec!["a,b", "c\"d"]),
            ("\"a\nb\"\n", vec!["a\nb"]),
            ("\"\",\"\"\"\"", vec!["", "\""]),
            ("a\"b\",c", vec!["a\"b\"", "c"]),
            ("\"a\"b\"c,d", vec!["ab\"c", "d"]),
            (" \"a\",b", vec![" \"a\"", "b"]),
            ("天，地,\u{feff}雨\0", vec!["天，地", "\u{feff}雨\0"]),
        ] {
            assert_eq!(fields(record, b','), want, "{record:?}");
        }
        assert_eq!(fields("a,b\tc\n", b'\t'), ["a,b", "c"]);
    }

    #[test]
    fn a_record_ends_at_the_first_break_outside_quotes() {
        for (text, want) in [
            ("a,b\nc", Some(4)),
            ("a,b\r\nc", Some(5)),
            ("a\rb", Some(2)),
            ("\"a\nb\",c\nd", Some(8)),
            ("\"a\"\"\n\"\nd", Some(7)),
            ("a\"\nb", Some(3)),
            ("a", None),
            ("a\r", None),
            ("\"a\n", None),
        ] {
            let scan = || Scan { separator: b',', at: 0, state: State::Begins };
            assert_eq!(scan().end_of_record(text), want, "{text:?}");
            let mut scan = scan();
            let grown = (1..=text.len()).find_map(|n| scan.end_of_record(&text[..n]));
            assert_eq!(grown, want, "{text:?}, byte by byte");
        }
    }
}
