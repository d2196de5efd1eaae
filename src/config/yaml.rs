//! LlamaFactory's YAML: one flat mapping.
//!
//! Read from the parser's events, because they carry positions and say which scalars were quoted; what an unquoted scalar
//! means is decided by [`scalar`], as LlamaFactory would.

use super::{
    entry::{Entry, Place},
    full_width,
    source::Source,
    value::{Value, scalar},
};
use crate::error::{Error, Result};
use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};
use std::collections::HashMap;

/// The entries of a LlamaFactory YAML, in file order.
///
/// Errors: a syntax error, anything but one mapping of scalar keys.
pub fn read(source: &Source) -> Result<Vec<Entry>> {
    let mut events = Events::new(source);
    let mut entries = Vec::new();
    let Some((event, at)) = events.content()? else { return Ok(entries) };
    if !matches!(event, Event::MappingStart(..)) {
        return Err(events.complain(&at, "the file must hold `key: value` lines"));
    }
    loop {
        let (event, at) = events.next()?;
        let key = match event {
            Event::MappingEnd => break,
            Event::Scalar(text, ..) if text != "<<" => text.into_owned(),
            Event::Scalar(..) => return Err(events.complain(&at, "merge keys (`<<`) are not read")),
            _ => return Err(events.complain(&at, "a key must be a plain word")),
        };
        let (event, value_at) = events.next()?;
        let value = events.value(event, &value_at)?;
        entries.push(Entry { key, value, place: Place::File { key: events.byte(&at), value: events.byte(&value_at) } });
    }
    match events.content()? {
        Some((_, at)) => Err(events.complain(&at, "a second document begins here; one is read")),
        None => Ok(entries),
    }
}

/// One value, as the right side of an override is written. Errors as PyYAML would have them.
pub fn value(source: &Source) -> Result<Value> {
    let mut events = Events::new(source);
    match events.content()? {
        Some((event, at)) => events.value(event, &at),
        None => Ok(Value::Null),
    }
}

/// Values in each other at most. No key takes more than a list or a table.
const DEEPEST: usize = 32;
/// Values that aliases may repeat in one file. A few lines of aliases of aliases are worth more than any memory.
const MOST_REPEATED: usize = 10_000;

struct Events<'s> {
    source: &'s Source,
    parser: Parser<'s, StrInput<'s>>,
    /// Values with an anchor (`&name`), for their aliases.
    anchors: HashMap<usize, Value>,
    /// Values that aliases have repeated so far.
    repeated: usize,
    /// Lists and tables around the present value.
    depth: usize,
}

impl<'s> Events<'s> {
    fn new(source: &'s Source) -> Self {
        Self { source, parser: Parser::new_from_str(source.text()), anchors: HashMap::new(), repeated: 0, depth: 0 }
    }

    /// The next event of any content, comments left out.
    fn next(&mut self) -> Result<(Event<'s>, Marker)> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, span.start)),
                Some(Err(err)) => return Err(self.syntax_error(&err)),
                None => return Ok((Event::StreamEnd, Marker::default())),
            }
        }
    }

    /// The first event of the next document, `None` at the end of the file.
    fn content(&mut self) -> Result<Option<(Event<'s>, Marker)>> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                found => return Ok(Some(found)),
            }
        }
    }

    /// The value that begins with `event`, which stands at `at`.
    fn value(&mut self, event: Event<'s>, at: &Marker) -> Result<Value> {
        let anchor = event.anchor_id();
        let value = match event {
            Event::Scalar(text, ScalarStyle::Plain, _, None) => scalar(&text),
            Event::Scalar(text, ..) => Value::Text(text.into_owned()),
            Event::Alias(id) => self.again(id, at)?,
            list_or_table => {
                if self.depth == DEEPEST {
                    return Err(self.complain(at, format!("more than {DEEPEST} lists and tables in each other")));
                }
                self.depth += 1;
                let value = match list_or_table {
                    Event::SequenceStart(..) => self.list()?,
                    _ => self.table()?,
                };
                self.depth -= 1;
                value
            }
        };
        if let Some(id) = anchor {
            self.anchors.insert(id, value.clone());
        }
        Ok(value)
    }

    /// The value that an alias (`*name`) repeats.
    fn again(&mut self, id: usize, at: &Marker) -> Result<Value> {
        let Some(value) = self.anchors.get(&id) else { return Ok(Value::Other("an alias of itself")) };
        self.repeated += value.size();
        if self.repeated > MOST_REPEATED {
            return Err(self.complain(at, "aliases (`*name`) of aliases make this file too large"));
        }
        Ok(value.clone())
    }

    fn list(&mut self) -> Result<Value> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, at) => items.push(self.value(event, &at)?),
            }
        }
    }

    fn table(&mut self) -> Result<Value> {
        let mut pairs = Vec::new();
        loop {
            let (event, at) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(Value::Table(pairs)),
                Event::Scalar(name, ..) => name.into_owned(),
                _ => return Err(self.complain(&at, "a key must be a plain word")),
            };
            let (event, at) = self.next()?;
            pairs.push((name, self.value(event, &at)?));
        }
    }

    fn byte(&self, at: &Marker) -> usize {
        self.source.offset(at.line(), at.col())
    }

    fn complain(&self, at: &Marker, fact: impl std::fmt::Display) -> Error {
        let err = self
            .source
            .error_at(self.byte(at), fact)
            .hint("this file is read as LlamaFactory's YAML: one `key: value` a line")
            .hint_zh("此文件按 LlamaFactory 的 YAML 读取：每行一个 `键: 值`");
        // Text goes on below its line, so the parser stumbles one line behind the one that was meant as a key.
        let mut lines = self.source.text().lines().skip(at.line().saturating_sub(2)).take(2);
        match lines.find_map(full_width::in_place_of_a_key) {
            Some(key) => full_width::explained(err, key),
            None => err,
        }
    }

    fn syntax_error(&self, err: &ScanError) -> Error {
        // A value may go on below its key, so the parser stumbles over a tab that begins a line one line before it.
        let first = err.marker().line().saturating_sub(1);
        for (number, line) in self.source.text().lines().enumerate().skip(first).take(2) {
            let indent = &line[..line.len() - line.trim_start().len()];
            if let Some(column) = indent.chars().position(|c| c == '\t') {
                let at = self.source.offset(number + 1, column);
                return self
                    .source
                    .error_at(at, "a tab at the beginning of a line, where YAML takes only blanks")
                    .hint("remove it, or write blanks")
                    .hint_zh("请删除该制表符，或改为空格");
            }
        }
        self.complain(err.marker(), err.info())
    }
}
