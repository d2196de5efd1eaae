//! Alpaca files → records: a JSON array of objects, or JSON Lines, told apart by their first character.
//!
//! Rows are counted from 1: elements of the array, or lines that are not blank. A byte order mark and CRLF are accepted.
//! Nothing is repaired: what is not as it should be is an error with file, row and, where JSON itself is broken, line
//! and column (in bytes).

use crate::{
    dataset::registry::Columns,
    error::{Error, Result, io_reason},
};
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{fmt, fs, path::Path};

/// One row, its columns under LlamaFactory's names. A column that is unset, missing or null is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The instruction.
    pub prompt: String,
    /// The input: for couplets the 上联.
    pub query: String,
    /// What is learned: for couplets the 下联. May be empty, never missing.
    pub response: String,
    /// System text.
    pub system: String,
    /// Earlier (question, answer) pairs of the conversation.
    pub history: Vec<(String, String)>,
}

impl Record {
    /// What is asked, without the instruction where an input follows it, and what is answered: 上联 and 下联 of a couplet.
    pub fn pair(&self) -> [&str; 2] {
        [if self.query.is_empty() { &self.prompt } else { &self.query }, &self.response]
    }
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Row 1 first, at most as many as were asked for.
    pub records: Vec<Record>,
    /// Rows in the whole file.
    pub rows: usize,
    /// Columns that no name maps to and that hold text (or a list or an object) somewhere, in order of appearance.
    pub unmapped: Vec<String>,
}

/// Reads the first `limit` rows of an Alpaca file; the rest is only checked to be JSON.
///
/// Errors name the file and the row: broken JSON, a row that is no object, a column that is missing or no text.
pub fn read(path: &Path, columns: &Columns, limit: Option<usize>) -> Result<Parsed> {
    parse(&read_text(path)?, path, columns, limit)
}

/// The text of a UTF-8 file, without a byte order mark.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|err| {
        Error::file(path, format!("cannot read: {}", io_reason(&err)))
            .hint("check the path, and that you may read the file")
            .hint_zh("请检查路径与读取权限")
    })?;
    let mut text = String::from_utf8(bytes).map_err(|err| {
        let at = err.utf8_error().valid_up_to();
        let line = 1 + err.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        Error::input(format!("{}:{line}: not UTF-8 at byte {at} of the file", path.display()))
            .hint("save the file as UTF-8, e.g. iconv -f GB18030 -t UTF-8 OLD > NEW")
            .hint_zh("请将文件另存为 UTF-8，例如 iconv -f GB18030 -t UTF-8 旧文件 > 新文件")
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// [`read`] for a text at hand; `path` is only named in errors.
pub fn parse(text: &str, path: &Path, columns: &Columns, limit: Option<usize>) -> Result<Parsed> {
    let mut rows =
        Rows { path, columns, limit: limit.unwrap_or(usize::MAX), parsed: Parsed::default(), seen: [false; 5] };
    match text.trim_ascii_start().chars().next() {
        Some('[') => rows.array(text)?,
        Some('{') => rows.lines(text)?,
        Some(_) => {
            let error = Error::file(path, "row 1: neither a JSON array of objects nor JSON Lines");
            return Err(formats_hint(error));
        }
        None => {}
    }
    rows.finish()
}

struct Rows<'a> {
    path: &'a Path,
    columns: &'a Columns,
    limit: usize,
    parsed: Parsed,
    /// Which of [`Columns::named`] occurred in a row.
    seen: [bool; 5],
}

impl Rows<'_> {
    fn array(&mut self, text: &str) -> Result<()> {
        let mut refused = None;
        let mut json = serde_json::Deserializer::from_str(text);
        let read = json.deserialize_seq(ArrayVisitor { rows: self, refused: &mut refused });
        match (refused, read) {
            (Some(error), _) => return Err(error),
            (None, Err(err)) => return Err(self.broken(&err, err.line(), &format!("row {}", self.parsed.rows + 1))),
            (None, Ok(())) => {}
        }
        json.end().map_err(|err| self.broken(&err, err.line(), "what follows the array"))
    }

    fn lines(&mut self, text: &str) -> Result<()> {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim_ascii().is_empty());
        for (row, (number, line)) in (1..).zip(lines) {
            let broken = |err| self.broken(&err, number, &format!("row {row}"));
            if self.wants_more() {
                let value = serde_json::from_str(line).map_err(broken)?;
                self.take(value)?;
            } else {
                serde_json::from_str::<IgnoredAny>(line).map_err(broken)?;
                self.parsed.rows += 1;
            }
        }
        Ok(())
    }

    fn wants_more(&self) -> bool {
        self.parsed.records.len() < self.limit
    }

    fn take(&mut self, value: Value) -> Result<()> {
        self.parsed.rows += 1;
        let record = self.record(&value).map_err(|fact| {
            Error::file(self.path, format!("row {}: {fact}", self.parsed.rows))
                .hint("a row is an object like {\"instruction\": \"…\", \"input\": \"上联\", \"output\": \"下联\"}; other names are mapped by `columns` in dataset_info.json")
                .hint_zh("每行应为 {\"instruction\": \"…\", \"input\": \"上联\", \"output\": \"下联\"}；其他列名请在 dataset_info.json 的 columns 中映射")
        })?;
        self.parsed.records.push(record);
        Ok(())
    }

    fn record(&mut self, value: &Value) -> Result<Record, String> {
        let Value::Object(map) = value else { return Err(format!("{}, not an object", kind(value))) };
        self.note_columns(map);
        let Columns { prompt, query, response, system, history, .. } = self.columns;
        Ok(Record {
            prompt: text(cell(map, prompt))?,
            query: text(cell(map, query))?,
            response: match (response, cell(map, response)) {
                (_, Some((_, Value::String(text)))) => text.clone(),
                (_, Some((name, other))) => {
                    return Err(format!("`{name}` (the response) is {}, not a string", kind(other)));
                }
                (Some(name), None) => return Err(format!("`{name}` (the response) is missing")),
                (None, None) => return Err("no column is mapped to `response`".into()),
            },
            system: text(cell(map, system))?,
            history: pairs(cell(map, history))?,
        })
    }

    fn note_columns(&mut self, map: &Map<String, Value>) {
        let named = self.columns.named();
        for (name, value) in map {
            let mut is_mapped = false;
            for ((_, column), seen) in named.iter().zip(&mut self.seen) {
                if *column == Some(name) {
                    (is_mapped, *seen) = (true, true);
                }
            }
            if !is_mapped && holds_text(value) && !self.parsed.unmapped.contains(name) {
                self.parsed.unmapped.push(name.clone());
            }
        }
    }

    fn broken(&self, err: &serde_json::Error, line: usize, what: &str) -> Error {
        let text = err.to_string();
        let fact = text.rsplit_once(" at line ").map_or(text.as_str(), |(fact, _)| fact);
        let place = format!("{}:{line}:{}", self.path.display(), err.column());
        formats_hint(Error::input(format!("{place}: {what} is not valid JSON: {fact}")))
    }

    /// A name that maps to nothing is a slip in `dataset_info.json`; LlamaFactory stops there too.
    fn finish(self) -> Result<Parsed> {
        if self.parsed.rows == 0 {
            return Err(formats_hint(Error::file(self.path, "holds no rows")));
        }
        let named = self.columns.named().into_iter().zip(self.seen);
        let absent: Vec<(&str, &String)> =
            named.filter_map(|((key, column), seen)| Some((key, column.filter(|_| !seen)?))).collect();
        let asks_nothing = ["prompt", "query"].iter().all(|ask| absent.iter().any(|(key, _)| key == ask));
        match absent.first() {
            Some((key, column)) if self.columns.explicit || asks_nothing => {
                Err(Error::file(self.path, format!("no row has the column `{column}`, which `{key}` is mapped to"))
                    .hint(format!(
                        "correct `columns` in dataset_info.json{}",
                        self.unmapped_note(" (not mapped: ", ")")
                    ))
                    .hint_zh(format!(
                        "请更正 dataset_info.json 中的 columns{}",
                        self.unmapped_note("（未映射的列：", "）")
                    )))
            }
            _ => Ok(self.parsed),
        }
    }

    fn unmapped_note(&self, before: &str, after: &str) -> String {
        match self.parsed.unmapped.as_slice() {
            [] => String::new(),
            names => format!("{before}{}{after}", names.join(", ")),
        }
    }
}

/// Feeds the elements of the outer array to [`Rows`] one by one, so that the file never stands in memory as a tree.
struct ArrayVisitor<'a, 'b> {
    rows: &'a mut Rows<'b>,
    /// The row's own error, which serde could only pass on as a string.
    refused: &'a mut Option<Error>,
}

impl<'de> Visitor<'de> for ArrayVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while self.rows.wants_more() {
            let Some(value) = elements.next_element()? else { return Ok(()) };
            if let Err(error) = self.rows.take(value) {
                *self.refused = Some(error);
                return Err(A::Error::custom("refused"));
            }
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {
            self.rows.parsed.rows += 1;
        }
        Ok(())
    }
}

/// The cell of a row under `column`, with the column's name; `None` when unset or missing.
fn cell<'a>(row: &'a Map<String, Value>, column: &'a Option<String>) -> Option<(&'a str, &'a Value)> {
    let name = column.as_ref()?;
    Some((name, row.get(name)?))
}

fn text(column: Option<(&str, &Value)>) -> Result<String, String> {
    match column {
        None | Some((_, Value::Null)) => Ok(String::new()),
        Some((_, Value::String(text))) => Ok(text.clone()),
        Some((name, other)) => Err(format!("`{name}` is {}, not a string", kind(other))),
    }
}

fn pairs(column: Option<(&str, &Value)>) -> Result<Vec<(String, String)>, String> {
    let (name, pairs) = match column {
        None | Some((_, Value::Null)) => return Ok(Vec::new()),
        Some((name, Value::Array(pairs))) => (name, pairs),
        Some((name, other)) => return Err(format!("`{name}` is {}, not a list of [question, answer]", kind(other))),
    };
    let pair = |(i, pair): (usize, &Value)| match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(question), Value::String(answer)]) => Ok((question.clone(), answer.clone())),
        _ => Err(format!("`{name}`: turn {} is not [question, answer], two strings", i + 1)),
    };
    pairs.iter().enumerate().map(pair).collect()
}

fn holds_text(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn formats_hint(error: Error) -> Error {
    error
        .hint("two formats are read: one JSON array of objects, or JSON Lines with one object a line")
        .hint_zh("支持两种格式：由对象组成的 JSON 数组，或每行一个对象的 JSON Lines")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, columns: &Columns, limit: Option<usize>) -> Result<Parsed> {
        parse(text, Path::new("d.json"), columns, limit)
    }

    fn couplet(query: &str, response: &str) -> Record {
        Record { prompt: "对".into(), query: query.into(), response: response.into(), ..Record::default() }
    }

    #[test]
    fn both_formats_and_what_editors_do_to_them() {
        let a = r#"{"instruction": "对", "input": "天", "output": "地"}"#;
        let b = r#"{"output": "风", "instruction": "对", "input": "雨"}"#;
        for (text, why) in [
            (format!("[{a},{b}]"), "an array"),
            (format!("\u{feff}\n [\r\n{a},\r\n{b}\r\n]\r\n"), "with a byte order mark and CRLF"),
            (format!("{a}\n{b}\n"), "JSON Lines"),
            (format!("\u{feff}{a}\r\n\r\n  {b}"), "with CRLF, a blank line and no last newline"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            let got = read(file.path(), &Columns::default(), None).unwrap();
            assert_eq!(got.records, [couplet("天", "地"), couplet("雨", "风")], "{why}");
            assert_eq!((got.rows, got.unmapped), (2, vec![]), "{why}");
        }
    }

    #[test]
    fn rows_beyond_the_limit_are_only_counted() {
        for text in
            ["[{\"input\":\"a\",\"output\":\"b\"}, 1, {\"output\": 2}]", "{\"input\":\"a\",\"output\":\"b\"}\n1\n2"]
        {
            let got = parsed(text, &Columns::default(), Some(1)).unwrap();
            assert_eq!((got.records.len(), got.rows), (1, 3), "{text}");
        }
    }

    #[test]
    fn errors_name_the_row() {
        let good = r#"{"instruction": "对", "input": "天", "output": "地"}"#;
        for (text, want) in [
            (String::new(), "d.json: holds no rows"),
            ("[]".into(), "d.json: holds no rows"),
            ("上联 下联".into(), "d.json: row 1: neither a JSON array of objects nor JSON Lines"),
            (format!("[\n{good},\n{good}\n{good}]"), "d.json:4:1: row 3 is not valid JSON: expected `,` or `]`"),
            (format!("[\n{good},\n{{\"input\" 1}}]"), "d.json:3:10: row 2 is not valid JSON: expected `:`"),
            (format!("[{good}"), "d.json:1:56: row 2 is not valid JSON: EOF while parsing a list"),
            (format!("{good}\n\n{{\"input\": }}"), "d.json:3:11: row 2 is not valid JSON: expected value"),
            (format!("[{good}] {good}"), "d.json:1:59: what follows the array is not valid JSON: trailing characters"),
            (format!("[{good}, 7]"), "d.json: row 2: a number, not an object"),
            (format!("{good}\n{good}\n[]"), "d.json: row 3: a list, not an object"),
            (r#"[{"input": "天"}]"#.into(), "d.json: row 1: `output` (the response) is missing"),
            (r#"[{"output": null}]"#.into(), "d.json: row 1: `output` (the response) is null, not a string"),
            (r#"[{"output": ["地"]}]"#.into(), "d.json: row 1: `output` (the response) is a list, not a string"),
            (r#"[{"input": 5, "output": ""}]"#.into(), "d.json: row 1: `input` is a number, not a string"),
            (
                r#"[{"output": "地"}]"#.into(),
                "d.json: no row has the column `instruction`, which `prompt` is mapped to",
            ),
        ] {
            let error = parsed(&text, &Columns::default(), None).unwrap_err();
            assert_eq!(error.to_string(), want, "{text}");
            assert!(error.hint_text(false).is_some() && error.hint_text(true).is_some(), "{text}");
        }
    }

    #[test]
    fn columns_are_followed_and_text_left_out_is_told() {
        let row = r#"[{"问": "对", "input": "天", "output": "地", "id": 3, "旧": [["甲", "乙"]], "system": ""}]"#;
        let columns = Columns {
            prompt: Some("问".into()),
            query: None,
            history: Some("旧".into()),
            explicit: true,
            ..Columns::default()
        };
        let got = parsed(row, &columns, None).unwrap();
        assert_eq!(got.records, [Record { history: vec![("甲".into(), "乙".into())], ..couplet("", "地") }]);
        assert_eq!(got.unmapped, ["input"], "`id` is no text and `system` is empty");

        let slip = Columns { query: Some("inputs".into()), ..columns };
        let error = parsed(row, &slip, None).unwrap_err();
        assert_eq!(error.to_string(), "d.json: no row has the column `inputs`, which `query` is mapped to");
        assert_eq!(error.hint_text(false), Some("correct `columns` in dataset_info.json (not mapped: input)"));
    }

    #[test]
    fn broken_histories_are_refused() {
        let columns = Columns { history: Some("h".into()), ..Columns::default() };
        for (history, want) in [
            ("{}", "d.json: row 1: `h` is an object, not a list of [question, answer]"),
            (r#"[["a", "b"], ["a"]]"#, "d.json: row 1: `h`: turn 2 is not [question, answer], two strings"),
            (r#"[["a", null]]"#, "d.json: row 1: `h`: turn 1 is not [question, answer], two strings"),
        ] {
            let row = format!(r#"[{{"instruction": "对", "output": "地", "h": {history}}}]"#);
            assert_eq!(parsed(&row, &columns, None).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_placed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"\n[{\"output\": \"\xb5\xd8\"}]").unwrap();
        let error = read(file.path(), &Columns::default(), None).unwrap_err();
        assert!(error.to_string().ends_with(":2: not UTF-8 at byte 14 of the file"), "{error}");
    }
}
