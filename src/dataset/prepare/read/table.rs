//! Tables: CSV with quotes (RFC 4180), or plain columns parted by tabs; with a first row of names or without.

use super::{Found, Read, misnamed, names, numbered, shown};
use crate::error::{Error, Result};
use std::path::Path;

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// What parts the columns.
    pub delimiter: char,
    /// A cell may stand in quotes and hold anything then.
    pub quoted: bool,
}

/// Reads the two columns of every row.
///
/// `columns`: their names, or numbers from 1; else known names of the first row, else the two there are. Errors name the line:
/// columns that cannot be found, a quote without end.
pub(super) fn read(
    text: &str,
    path: &Path,
    dialect: Dialect,
    columns: Option<&[String; 2]>,
    read: &mut Read,
) -> Result<Found> {
    let mut records = Records { rest: text, line: 1, dialect, path }.filter(|record| !is_blank(record));
    let Some(first) = records.next() else { return Err(shown(Error::file(path, "holds no couplets"))) };
    let (line, cells) = first?;
    let (at, has_names) = choose(&cells, columns).map_err(|fact| {
        let error = Error::input(format!("{}:{line}: {fact}", path.display()));
        let is_numbered = cells.len() > 2 && cells[0].trim().parse::<u64>().is_ok();
        match columns {
            None if is_numbered => numbered(error, "--columns 2,3"),
            None if cells.len() < 2 => shown(error),
            _ => misnamed(error),
        }
    })?;
    let name = |column: usize| if has_names { cells[column].trim().to_owned() } else { (column + 1).to_string() };
    let unused = (0..cells.len()).filter(|column| !at.contains(column)).map(name).collect();
    let found = Found::Table { delimiter: dialect.delimiter, columns: at.map(name), unused };
    if !has_names {
        take(line, &cells, at, read);
    }
    for record in records {
        let (line, cells) = record?;
        take(line, &cells, at, read);
    }
    Ok(found)
}

fn is_blank(record: &Result<(usize, Vec<String>)>) -> bool {
    record.as_ref().is_ok_and(|(_, cells)| cells.iter().all(|cell| cell.trim().is_empty()))
}

fn take(line: usize, cells: &[String], at: [usize; 2], read: &mut Read) {
    let [upper, lower] = at.map(|column| cells.get(column).map(|cell| cell.trim()).filter(|cell| !cell.is_empty()));
    match (upper, lower) {
        (Some(upper), Some(lower)) => read.pair(line, upper, lower),
        (None, _) => read.broken(line, &cells.join(" "), "no 上联"),
        (_, None) => read.broken(line, &cells.join(" "), "no 下联"),
    }
}

/// The columns of 上联 and 下联, and whether `first` holds names.
fn choose(first: &[String], columns: Option<&[String; 2]>) -> Result<([usize; 2], bool), String> {
    if let Some(columns) = columns {
        let at = columns.each_ref().map(|wanted| first.iter().position(|name| name.trim() == wanted));
        if let [Some(upper), Some(lower)] = at {
            return Ok(([upper, lower], true));
        }
        let numbers =
            columns.each_ref().map(|number| number.parse::<usize>().ok().filter(|n| (1..=first.len()).contains(n)));
        let [Some(upper), Some(lower)] = numbers else {
            let is_there = |side: usize| at[side].is_some() || numbers[side].is_some();
            let missing = (0..2).filter(|side| !is_there(*side)).map(|side| format!("`{}`", columns[side]));
            return Err(match missing.collect::<Vec<_>>().join(" and ") {
                none if none.is_empty() => {
                    format!("one of `{}` and `{}` is a name, one a number", columns[0], columns[1])
                }
                missing => format!("no column {missing} in: {}", first.join(", ")),
            });
        };
        return Ok(([upper - 1, lower - 1], names::known(first).is_some()));
    }
    match (names::known(first), first.len()) {
        (Some(at), _) => Ok((at, true)),
        (None, 2) => Ok(([0, 1], false)),
        (None, 1) => Err("one column, and two are needed".into()),
        (None, count) => Err(format!("{count} columns, and none of them has a known name: {}", first.join(", "))),
    }
}

/// Rows with the line on which they begin.
struct Records<'a> {
    rest: &'a str,
    line: usize,
    dialect: Dialect,
    path: &'a Path,
}

impl Iterator for Records<'_> {
    type Item = Result<(usize, Vec<String>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let begins = self.line;
        let mut cells = vec![];
        loop {
            match self.cell() {
                Ok((cell, ends_row)) => {
                    cells.push(cell);
                    if ends_row {
                        return Some(Ok((begins, cells)));
                    }
                }
                Err(error) => {
                    self.rest = "";
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Records<'_> {
    /// The next cell, and whether it is the last of its row.
    fn cell(&mut self) -> Result<(String, bool)> {
        let mut cell = String::new();
        if let Some(inside) = self.rest.strip_prefix('"').filter(|_| self.dialect.quoted) {
            self.rest = inside;
            self.quoted(&mut cell)?;
        }
        let delimiter = self.dialect.delimiter;
        let end = self.rest.find([delimiter, '\n']).unwrap_or(self.rest.len());
        cell += &self.rest[..end];
        let mut behind = self.rest[end..].chars();
        let ends_row = behind.next() != Some(delimiter);
        self.rest = behind.as_str();
        if ends_row {
            self.line += 1;
            cell.truncate(cell.trim_end_matches('\r').len());
        }
        Ok((cell, ends_row))
    }

    /// What stands up to the closing quote; two quotes are one.
    fn quoted(&mut self, cell: &mut String) -> Result<()> {
        let begins = self.line;
        loop {
            let Some(end) = self.rest.find('"') else {
                return Err(Error::input(format!("{}:{begins}: a quote that is not closed", self.path.display()))
                    .hint("a cell that begins with \" ends with one; a quote inside it is written twice")
                    .hint_zh("以双引号开头的单元格须以双引号结尾；其中的双引号要写两个"));
            };
            let inside = &self.rest[..end];
            *cell += inside;
            self.line += inside.matches('\n').count();
            self.rest = &self.rest[end + 1..];
            match self.rest.strip_prefix('"') {
                Some(rest) => {
                    cell.push('"');
                    self.rest = rest;
                }
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_cut_as_rfc_4180_has_it() {
        let records = |text: &'static str, quoted| {
            let dialect = Dialect { delimiter: ',', quoted };
            let all = Records { rest: text, line: 1, dialect, path: Path::new("a.csv") };
            all.map(|record| record.unwrap()).map(|(line, cells)| (line, cells.join("|"))).collect::<Vec<_>>()
        };
        for (text, want) in [
            ("a,b\nc,d", vec![(1, "a|b"), (2, "c|d")]),
            ("a,b\r\n\r\nc,d\r\n", vec![(1, "a|b"), (2, ""), (3, "c|d")]),
            ("\"a,b\",c", vec![(1, "a,b|c")]),
            ("\"a \"\"b\"\"\",c", vec![(1, "a \"b\"|c")]),
            ("\"a\nb\",c\nd,e", vec![(1, "a\nb|c"), (3, "d|e")]),
            ("a\"b,c", vec![(1, "a\"b|c")]),
            (",", vec![(1, "|")]),
        ] {
            let want: Vec<(usize, String)> = want.into_iter().map(|(line, cells)| (line, cells.to_owned())).collect();
            assert_eq!(records(text, true), want, "{text:?}");
        }
        assert_eq!(records("\"a,b", false), [(1, "\"a|b".to_owned())], "plain columns know no quotes");
    }
}
