//! A row as its file has it: the cells of the columns that are mapped, and which others hold text.

use super::fault::{Fault, Reason};
use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Deserializer, Value};
use std::fmt;

/// Other columns that are remembered, so that a file with a new name in every row takes no memory for them.
const REMEMBERED: usize = 256;

/// What stands in a column of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Cell {
    /// The row has no such column, or nothing in it where a format cannot tell the two apart.
    #[default]
    Missing,
    Null,
    Text(String),
    /// A number, a truth value, a list or an object.
    Value(Value),
    /// Something that JSON has no word for.
    #[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "only parquet has such values"))]
    Other(&'static str),
}

impl Cell {
    /// What it is, for "`column` is …".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Null | Self::Value(Value::Null) => "null",
            Self::Text(_) | Self::Value(Value::String(_)) => "a string",
            Self::Value(Value::Bool(_)) => "a truth value",
            Self::Value(Value::Number(_)) => "a number",
            Self::Value(Value::Array(_)) => "a list",
            Self::Value(Value::Object(_)) => "an object",
            Self::Other(kind) => kind,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::Missing | Self::Null)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Value(Value::Array(_)))
    }

    fn holds_text(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Value(Value::Array(items)) => !items.is_empty(),
            Self::Value(Value::Object(map)) => !map.is_empty(),
            _ => false,
        }
    }
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::String(text) => Self::Text(text),
            value => Self::Value(value),
        }
    }
}

/// The cells of a row, in the order of the names that are wanted.
pub(super) type Cells = Vec<Cell>;

/// A column of a row: by its number among the names that are wanted, or among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Wanted(usize),
    Other(usize),
    /// One of more than anybody would read about.
    Unknown,
}

/// The columns of a data set: those that are wanted, and what was met besides.
#[derive(Debug)]
pub(super) struct Wanted {
    names: Vec<String>,
    /// Which of `names` some row has.
    seen: Vec<bool>,
    /// Other columns, and whether some row has text in them.
    others: Vec<(String, bool)>,
}

impl Wanted {
    pub(super) fn new(names: &[String]) -> Self {
        Self { names: names.to_vec(), seen: vec![false; names.len()], others: vec![] }
    }

    /// Which column `name` is; a row, or a header, has it.
    pub(super) fn meet(&mut self, name: &str) -> Column {
        if let Some(i) = self.names.iter().position(|wanted| wanted == name) {
            self.seen[i] = true;
            return Column::Wanted(i);
        }
        match self.others.iter().position(|(other, _)| other == name) {
            Some(i) => Column::Other(i),
            None if self.others.len() < REMEMBERED => {
                self.others.push((name.to_owned(), false));
                Column::Other(self.others.len() - 1)
            }
            None => Column::Unknown,
        }
    }

    /// Puts what stands in `column` into its place. Error: something stands there already.
    pub(super) fn put(&mut self, cells: &mut Cells, column: Column, cell: Cell) -> Result<(), Fault> {
        match column {
            Column::Wanted(i) if cells[i] != Cell::Missing => {
                return Err(Fault::new(Reason::WrongType, format!("`{}` stands there twice", self.names[i])));
            }
            Column::Wanted(i) => cells[i] = cell,
            Column::Other(i) => self.others[i].1 |= cell.holds_text(),
            Column::Unknown => {}
        }
        Ok(())
    }

    /// A row with nothing in it.
    pub(super) fn empty(&self) -> Cells {
        vec![Cell::Missing; self.names.len()]
    }

    /// Whether some row has the column `name`, which is wanted.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().zip(&self.seen).any(|(wanted, seen)| wanted == name && *seen)
    }

    /// Columns that no name maps to and that hold text somewhere, in the order they were met.
    pub(super) fn unmapped(&self) -> Vec<String> {
        self.others.iter().filter(|(_, holds_text)| *holds_text).map(|(name, _)| name.clone()).collect()
    }

    /// The cells of a JSON object; with `glance` its columns are met, and its values only checked to be JSON.
    ///
    /// Inner error: it is something else, or has a column twice.
    pub(super) fn of_json(&mut self, text: &str, glance: bool) -> serde_json::Result<Result<Cells, Fault>> {
        let mut json = Deserializer::from_str(text);
        let cells = match text.trim_ascii_start().starts_with('{') {
            true => json.deserialize_map(Row { wanted: self, glance })?,
            false => Err(no_object(serde::Deserialize::deserialize(&mut json)?)),
        };
        json.end().map(|()| cells)
    }
}

fn no_object(value: Value) -> Fault {
    Fault::new(Reason::NotObject, format!("{}, not an object", Cell::from(value).kind()))
}

struct Row<'a> {
    wanted: &'a mut Wanted,
    glance: bool,
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = Result<Cells, Fault>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { wanted, glance } = self;
        let (mut cells, mut fault) = (wanted.empty(), Ok(()));
        while let Some(column) = map.next_key_seed(Key(wanted))? {
            let is_known = matches!(column, Column::Other(i) if wanted.others[i].1);
            if glance || is_known || column == Column::Unknown {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let cell = map.next_value::<Value>()?.into();
            fault = fault.and(wanted.put(&mut cells, column, cell));
        }
        Ok(fault.map(|()| cells))
    }
}

/// Looks a key up without keeping it.
struct Key<'a>(&'a mut Wanted);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Column;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Column, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Column;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Column, E> {
        Ok(self.0.meet(name))
    }
}
