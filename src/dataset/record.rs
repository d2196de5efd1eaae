//! Rows of data files → records, whatever the format.
//!
//! Rows are counted from 1: elements of a JSON array, lines of JSON Lines that are not blank, records below the header of a
//! csv file. Nothing is repaired: a row that is not as it should be is an error with file, line, column (in bytes) and row,
//! or left out and counted, as `on_bad_row` says.

use crate::{
    config::OnBadRow,
    dataset::{
        cell::{Cells, Wanted},
        fault::{Fault, Reason},
        files::{DataFile, FileFormat},
        from_csv, from_json, from_parquet,
        input::{Input, Place},
        notes,
        shape::Shape,
    },
    error::{Error, Result},
};
use std::path::Path;

/// One row, its columns under LlamaFactory's names. A column that is unset, missing or null is empty.
///
/// A conversation is the same thing: its last question and answer are `prompt` and `response`, those before are `history`.
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
    /// What stands behind the system text of tools that may be called; `None` where the row has no such column.
    pub tools: Option<String>,
    /// Earlier (question, answer) pairs of the conversation.
    pub history: Vec<(String, String)>,
    /// It has a history that is no list, which was passed over.
    pub no_history: bool,
}

impl Record {
    /// What is asked, without the instruction where an input follows it, and what is answered: 上联 and 下联 of a couplet.
    pub fn pair(&self) -> [&str; 2] {
        [if self.query.is_empty() { &self.prompt } else { &self.query }, &self.response]
    }

    /// Everything that is said in it.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let earlier = self.history.iter().flat_map(|(question, answer)| [question, answer]);
        [&self.prompt, &self.query, &self.response, &self.system].into_iter().chain(earlier).map(String::as_str)
    }

    /// Nothing can be learned from it but to be silent.
    pub(super) fn is_unanswered(&self) -> bool {
        self.response.trim().is_empty()
    }

    /// Its last question is empty.
    pub(super) fn asks_nothing(&self) -> bool {
        self.prompt.trim().is_empty() && self.query.trim().is_empty()
    }
}

/// How files are read.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// Which column is what.
    pub shape: &'a Shape,
    /// Only the first rows; the rest is counted, and its syntax checked.
    pub limit: Option<usize>,
    /// What becomes of a row that cannot be read.
    pub on_bad_row: OnBadRow,
}

/// What files hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Row 1 first, at most as many as were asked for. A row that is left out says why, and stands here all the same:
    /// LlamaFactory, too, counts and splits such rows before it drops them.
    pub rows: Vec<Result<Record, Box<Fault>>>,
    /// Rows in each of the files.
    pub counts: Vec<usize>,
    /// Columns that no name maps to and that hold text (or a list or an object) somewhere, in order of appearance.
    pub unmapped: Vec<String>,
}

/// Reads the files of a data set, one behind the other, as a stream.
///
/// Errors name file, line and row: what is no JSON, csv or UTF-8; a row that is refused under `on_bad_row`; a file without
/// rows; a column that is mapped and in no row.
pub fn read(files: &[DataFile], how: How) -> Result<Parsed> {
    let mut rows = Rows::new(how);
    for file in files {
        rows.begin(&file.path);
        match file.format {
            FileFormat::Parquet => from_parquet::open(&file.path, &mut rows)?,
            format => read_text(&mut Input::open(&file.path, file.gzip)?, format, &mut rows)?,
        }
        rows.end()?;
    }
    rows.finish(files)
}

/// [`read`] for the bytes of one file, unpacked; `path` is only named in errors.
pub fn parse(bytes: &[u8], path: &Path, format: FileFormat, how: How) -> Result<Parsed> {
    let mut rows = Rows::new(how);
    rows.begin(path);
    match format {
        FileFormat::Parquet => from_parquet::read(bytes, &mut rows)?,
        format => read_text(&mut Input::new(bytes, path), format, &mut rows)?,
    }
    rows.end()?;
    rows.finish(&[DataFile { path: path.into(), format, gzip: false }])
}

fn read_text(input: &mut Input, format: FileFormat, rows: &mut Rows) -> Result<()> {
    match format {
        FileFormat::Csv => from_csv::read(input, b',', rows),
        FileFormat::Tsv => from_csv::read(input, b'\t', rows),
        FileFormat::Json | FileFormat::Parquet => from_json::read(input, rows),
    }
}

/// Where the formats hand in their rows.
pub(super) struct Rows<'a> {
    how: How<'a>,
    path: &'a Path,
    pub(super) wanted: Wanted,
    rows: Vec<Result<Record, Box<Fault>>>,
    counts: Vec<usize>,
    /// Rows of the present file.
    count: usize,
}

impl<'a> Rows<'a> {
    fn new(how: How<'a>) -> Self {
        let wanted = Wanted::new(how.shape.names());
        Self { how, path: Path::new(""), wanted, rows: vec![], counts: vec![], count: 0 }
    }

    fn begin(&mut self, path: &'a Path) {
        (self.path, self.count) = (path, 0);
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// The number of the row that comes next.
    pub(super) fn next(&self) -> usize {
        self.count + 1
    }

    /// Whether rows are still taken; others are only counted.
    pub(super) fn wants_more(&self) -> bool {
        self.how.limit.is_none_or(|limit| self.rows.len() < limit)
    }

    /// Whether lines that are broken are left out.
    pub(super) fn skips_broken(&self) -> bool {
        self.how.on_bad_row == OnBadRow::Skip
    }

    /// Rows that are only counted.
    pub(super) fn pass(&mut self, rows: usize) {
        self.count = self.count.saturating_add(rows);
    }

    /// The next row, or what is wrong with it. Error: it is, and such rows are not left out.
    pub(super) fn add(&mut self, place: Option<Place>, cells: Result<Cells, Fault>) -> Result<()> {
        let is_taken = self.wants_more();
        self.count += 1;
        let lenient = self.how.on_bad_row == OnBadRow::LlamaFactory;
        let record =
            cells.and_then(|cells| self.how.shape.record(cells, lenient)).map_err(|fault| self.placed(place, fault));
        match record {
            Err(fault) if !fault.is_skipped(self.how.on_bad_row) => return Err(fault.into_error()),
            record if is_taken => self.rows.push(record.map_err(Box::new)),
            _ => {}
        }
        Ok(())
    }

    fn placed(&self, place: Option<Place>, fault: Fault) -> Fault {
        let (path, row) = (self.path.display(), self.count);
        let file = match place {
            None => path.to_string(),
            Some(Place { line, column }) => format!("{path}:{line}:{column}"),
        };
        let colon = if fault.reason == Reason::NotJson { "" } else { ":" };
        Fault { fact: format!("{file}: row {row}{colon} {}", fault.fact), ..fault }
    }

    fn end(&mut self) -> Result<()> {
        if self.count == 0 {
            return Err(Error::file(self.path, "holds no rows")
                .hint("a data set has one row at least; look whether this is the file that was meant")
                .hint_zh("数据集至少要有一行；请检查是否选错了文件"));
        }
        self.counts.push(self.count);
        Ok(())
    }

    /// A name that maps to nothing is a slip in `dataset_info.json`; LlamaFactory stops there too.
    fn finish(self, files: &[DataFile]) -> Result<Parsed> {
        let unmapped = self.wanted.unmapped();
        let absent: Vec<(&str, &str)> = self.how.shape.named().filter(|(_, column)| !self.wanted.has(column)).collect();
        let is_absent = |key: &str| absent.iter().any(|(absent, _)| *absent == key);
        let asks_nothing = is_absent("prompt") && is_absent("query");
        let needed = |key: &str| self.how.shape.explicit || matches!(key, "response" | "messages") || asks_nothing;
        let Some((key, column)) = absent.iter().find(|(key, _)| needed(key)) else {
            return Ok(Parsed { rows: self.rows, counts: self.counts, unmapped });
        };
        let path = files.first().map_or(self.path, |file| &file.path);
        let note = |before: &str, after: &str, chinese| match unmapped.as_slice() {
            [] => String::new(),
            names => format!("{before}{}{after}", notes::names(names, chinese)),
        };
        Err(Error::file(path, format!("no row has the column `{column}`, which `{key}` is mapped to"))
            .hint(format!("correct `columns` in dataset_info.json{}", note(" (not mapped: ", ")", false)))
            .hint_zh(format!("请更正 dataset_info.json 中的 columns{}", note("（未映射的列：", "）", true))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::shape::{Formatting, Tags};

    const COUPLET: &[(&str, &str)] = &[("prompt", "instruction"), ("query", "input"), ("response", "output")];

    fn how(shape: &Shape) -> How<'_> {
        How { shape, limit: None, on_bad_row: OnBadRow::Error }
    }

    fn parsed(text: &str, how: How) -> Result<Parsed> {
        parse(text.as_bytes(), Path::new("d.json"), FileFormat::Json, how)
    }

    fn records(parsed: Parsed) -> Vec<Record> {
        parsed.rows.into_iter().map(|row| row.unwrap()).collect()
    }

    fn couplet(query: &str, response: &str) -> Record {
        Record { prompt: "对".into(), query: query.into(), response: response.into(), ..Record::default() }
    }

    #[test]
    fn both_forms_of_json_and_what_editors_do_to_them() {
        let a = r#"{"instruction": "对", "input": "天", "output": "地"}"#;
        let b = r#"{"output": "风", "instruction": "对", "input": "雨"}"#;
        for (text, why) in [
            (format!("[{a},{b}]"), "an array"),
            (format!("\u{feff}\n [\r\n{a},\r\n{b}\r\n]\r\n"), "with a byte order mark and CRLF"),
            (format!("{a}\n{b}\n"), "JSON Lines"),
            (format!("\u{feff}{a}\r\n\r\n  {b}"), "with CRLF, a blank line and no last newline"),
        ] {
            let got = parsed(&text, how(&Shape::default())).unwrap();
            assert_eq!((got.counts.as_slice(), got.unmapped.as_slice()), (&[2][..], &[][..]), "{why}");
            assert_eq!(records(got), [couplet("天", "地"), couplet("雨", "风")], "{why}");
        }
    }

    #[test]
    fn rows_beyond_the_limit_are_only_counted() {
        let first = r#"{"instruction":"对","output":"b"}"#;
        for text in [format!("[{first}, 1, {{\"input\": 2}}]"), format!("{first}\n1\n{{\"input\": 2}}")] {
            let got = parsed(
                &text,
                How { limit: Some(1), ..how(&Shape::new(Formatting::Alpaca, Some(COUPLET), Tags::default())) },
            );
            let got = got.unwrap();
            assert_eq!((got.rows.len(), got.counts[0]), (1, 3), "{text}: `input` is met behind the limit");
            let error = parsed(&text.replace("2}", "}"), How { limit: Some(1), ..how(&Shape::default()) }).unwrap_err();
            assert!(error.to_string().contains(": row 3 is not valid JSON: "), "{error}");
        }
    }

    #[test]
    fn errors_name_line_column_and_row() {
        let good = r#"{"instruction": "对", "input": "天", "output": "地"}"#;
        for (text, want) in [
            (String::new(), "d.json: holds no rows"),
            ("[]".into(), "d.json: holds no rows"),
            (" \n".into(), "d.json: holds no rows"),
            ("上联 下联".into(), "d.json: row 1: neither a JSON array of objects nor JSON Lines"),
            (format!("[\n{good},\n{good}\n{good}]"), "d.json:4:1: row 3 is not valid JSON: expected `,` or `]`"),
            (format!("[\n{good},\n  {{\"input\" 1}}]"), "d.json:3:12: row 2 is not valid JSON: expected `:`"),
            (format!("[\n{good},\n{{\"input\":\n 1 1}}]"), "d.json:4:4: row 2 is not valid JSON: expected `,` or `}`"),
            (format!("[{good}"), "d.json:1:57: row 2 is not valid JSON: EOF while parsing a list"),
            (format!("[{good},]"), "d.json:1:58: row 2 is not valid JSON: trailing comma"),
            (format!("[{good},,{good}]"), "d.json:1:58: row 2 is not valid JSON: expected value"),
            (
                "[{\"input\": \"a\u{1}\"}]".into(),
                "d.json:1:14: row 1 is not valid JSON: control character (\\u0000-\\u001F) found while parsing a string",
            ),
            (r#"[{"input": "\ud800"}]"#.into(), "d.json:1:19: row 1 is not valid JSON: unexpected end of hex escape"),
            (format!("{good}\n\n{{\"input\": }}"), "d.json:3:11: row 2 is not valid JSON: expected value"),
            (format!("{good}\n{good} {good}"), "d.json:2:57: row 2 is not valid JSON: trailing characters"),
            (format!("[{good}] {good}"), "d.json:1:59: what follows the array is not valid JSON: trailing characters"),
            (format!("[{good}, 7]"), "d.json:1:59: row 2: a number, not an object"),
            (format!("{good}\n{good}\n[]"), "d.json:3:1: row 3: a list, not an object"),
            (r#"[{"input": "天"}]"#.into(), "d.json:1:2: row 1: `output` (the response) is missing"),
            (r#"[{"output": null}]"#.into(), "d.json:1:2: row 1: `output` (the response) is null, not a string"),
            (r#"[{"output": ["地"]}]"#.into(), "d.json:1:2: row 1: `output` (the response) is a list, not a string"),
            (r#"[{"input": 5, "output": ""}]"#.into(), "d.json:1:2: row 1: `input` is a number, not a string"),
            (
                r#"[{"input": "", "output": "", "output": "地"}]"#.into(),
                "d.json:1:2: row 1: `output` stands there twice",
            ),
            (
                r#"[{"output": "地"}]"#.into(),
                "d.json: no row has the column `instruction`, which `prompt` is mapped to",
            ),
        ] {
            let error = parsed(&text, how(&Shape::default())).unwrap_err();
            assert_eq!(error.to_string(), want, "{text}");
            assert!(error.hint_text(false).is_some() && error.hint_text(true).is_some(), "{text}");
        }
        let deep = format!("[{{\"input\": {}{}}}]", "[".repeat(200), "]".repeat(200));
        let error = parsed(&deep, how(&Shape::default())).unwrap_err();
        assert!(error.to_string().ends_with("row 1 is not valid JSON: recursion limit exceeded"), "{error}");
    }

    /// What every array that is cut off is: an error with line, column and row, and never fewer rows.
    #[test]
    fn a_file_that_is_cut_off_is_told_wherever_it_is_cut() {
        let rows: Vec<String> = (0..12)
            .map(|n| {
                format!("{{\"instruction\": \"对\", \"input\": \"第{n}“行”\\n\", \"output\": \"\\u5730\\\"{n}\"}}")
            })
            .collect();
        let array = format!("[\n  {}\n]\n", rows.join(",\n  "));
        let lines = rows.join("\n") + "\n";
        let cuts = |text: &str| (1..text.len()).filter(|at| text.is_char_boundary(*at)).collect::<Vec<_>>();
        let shape = Shape::default();
        assert!(cuts(&array).len() + cuts(&lines).len() > 1000);
        for at in cuts(&array).into_iter().filter(|at| *at < array.len() - 1) {
            let error = parsed(&array[..at], how(&shape)).unwrap_err().to_string();
            let row = array[..at].matches("instruction").count();
            let place = format!("d.json:{}:", array[..at].matches('\n').count() + 1);
            let is_placed =
                error.starts_with(&place) || error.starts_with("d.json:") && array.as_bytes()[at - 1] == b'\n';
            assert!(is_placed && error.contains("is not valid JSON: "), "{at}: {error}");
            assert!((row..=row + 1).any(|row| error.contains(&format!(": row {row} is"))) || row == 0, "{at}: {error}");
        }
        for at in cuts(&lines) {
            let whole = lines[..at].lines().filter(|line| line.ends_with("\"}")).count();
            match parsed(&lines[..at], how(&shape)) {
                Ok(got) => {
                    assert_eq!((got.counts[0], lines[..at].lines().count()), (whole, whole), "{at}: at a border")
                }
                Err(error) => {
                    let place = format!("d.json:{}:", whole + 1);
                    let error = error.to_string();
                    assert!(
                        error.starts_with(&place) && error.contains(&format!(": row {} is not", whole + 1)),
                        "{at}: {error}"
                    );
                }
            }
        }
    }

    #[test]
    fn columns_are_followed_and_text_left_out_is_told() {
        let row = r#"[{"问": "对", "input": "天", "output": "地", "id": 3, "旧": [["甲", "乙"]], "system": ""}]"#;
        let columns = [("prompt", "问"), ("response", "output"), ("history", "旧")];
        let shape = Shape::new(Formatting::Alpaca, Some(&columns), Tags::default());
        let got = parsed(row, how(&shape)).unwrap();
        assert_eq!(got.unmapped, ["input"], "`id` is no text and `system` is empty");
        assert_eq!(records(got), [Record { history: vec![("甲".into(), "乙".into())], ..couplet("", "地") }]);

        let slip = [("prompt", "问"), ("query", "inputs"), ("response", "output"), ("history", "旧")];
        let slip = Shape::new(Formatting::Alpaca, Some(&slip), Tags::default());
        let error = parsed(row, how(&slip)).unwrap_err();
        assert_eq!(error.to_string(), "d.json: no row has the column `inputs`, which `query` is mapped to");
        assert_eq!(error.hint_text(false), Some("correct `columns` in dataset_info.json (not mapped: input)"));

        let twice = [("prompt", "问"), ("system", "问"), ("response", "output")];
        let twice = Shape::new(Formatting::Alpaca, Some(&twice), Tags::default());
        let got = records(parsed(row, how(&twice)).unwrap());
        assert_eq!((got[0].prompt.as_str(), got[0].system.as_str()), ("对", "对"), "one column may be two things");
    }

    #[test]
    fn broken_histories_are_refused() {
        let columns = [("prompt", "instruction"), ("response", "output"), ("history", "h")];
        let shape = Shape::new(Formatting::Alpaca, Some(&columns), Tags::default());
        for (history, want) in [
            ("{}", "d.json:1:2: row 1: `h` is an object, not a list of [question, answer]"),
            (r#""[]""#, "d.json:1:2: row 1: `h` is a string, not a list of [question, answer]"),
            (r#"[["a", "b"], ["a"]]"#, "d.json:1:2: row 1: `h`: turn 2 is not [question, answer], two strings"),
            (r#"[["a", null]]"#, "d.json:1:2: row 1: `h`: turn 1 is not [question, answer], two strings"),
        ] {
            let row = format!(r#"[{{"instruction": "对", "output": "地", "h": {history}}}]"#);
            assert_eq!(parsed(&row, how(&shape)).unwrap_err().to_string(), want);
            let lenient = parsed(&row, How { on_bad_row: OnBadRow::LlamaFactory, ..how(&shape) });
            match history.starts_with('[') {
                true => assert_eq!(lenient.unwrap_err().to_string(), want, "LlamaFactory stops, too"),
                false => assert_eq!(records(lenient.unwrap()), [Record { no_history: true, ..couplet("", "地") }]),
            }
        }
    }

    #[test]
    fn bad_rows_keep_their_place_where_they_are_left_out() {
        let good = r#"{"instruction": "对", "input": "天", "output": "地"}"#;
        let text = format!(
            "{good}\n{{\"instruction\": \"对\"}}\n{{\"output\"\n7\n{good}\n{{\"input\": 1, \"output\": \"\"}}\n"
        );
        let shape = Shape::default();
        let skip = parsed(&text, How { on_bad_row: OnBadRow::Skip, ..how(&shape) }).unwrap();
        assert_eq!(skip.counts, [6]);
        let told: Vec<_> =
            skip.rows.iter().map(|row| row.as_ref().err().map(|fault| (fault.reason, fault.fact.as_str()))).collect();
        assert_eq!(
            told,
            [
                None,
                Some((Reason::NoResponse, "d.json:2:1: row 2: `output` (the response) is missing")),
                Some((Reason::NotJson, "d.json:3:9: row 3 is not valid JSON: EOF while parsing an object")),
                Some((Reason::NotObject, "d.json:4:1: row 4: a number, not an object")),
                None,
                Some((Reason::WrongType, "d.json:6:1: row 6: `input` is a number, not a string")),
            ]
        );
        let lf = parsed(&text, How { on_bad_row: OnBadRow::LlamaFactory, ..how(&shape) }).unwrap_err();
        assert_eq!(lf.to_string(), "d.json:3:9: row 3 is not valid JSON: EOF while parsing an object");
        let first_two: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
        let lf = parsed(&first_two, How { on_bad_row: OnBadRow::LlamaFactory, ..how(&shape) }).unwrap();
        assert_eq!(
            (lf.rows[0].is_ok(), lf.rows[1].is_ok()),
            (true, false),
            "a row without a response is none to LlamaFactory"
        );

        let first = format!("上联 下联\n{good}\n");
        let error = parsed(&first, how(&shape)).unwrap_err();
        assert_eq!(error.to_string(), "d.json: row 1: neither a JSON array of objects nor JSON Lines");
        let skip = parsed(&first, How { on_bad_row: OnBadRow::Skip, ..how(&shape) }).unwrap();
        let facts: Vec<_> = skip.rows.iter().map(|row| row.as_ref().err().map(|fault| fault.fact.as_str())).collect();
        assert_eq!(facts, [Some("d.json:1:1: row 1 is not valid JSON: expected value"), None], "as the hint says");
        let none = parsed("上联 下联\n天 地\n", How { on_bad_row: OnBadRow::Skip, ..how(&shape) }).unwrap_err();
        assert_eq!(none.to_string(), error.to_string(), "no line is JSON");

        // Written over several lines a first row is lost, counted line by line; the others are not.
        let object = "{\n \"instruction\": \"对\",\n \"tags\": [\n  7\n ],\n \"output\": \"地\"\n}\n";
        let skip = parsed(&format!("{object}{good}\n"), How { on_bad_row: OnBadRow::Skip, ..how(&shape) }).unwrap();
        assert_eq!((skip.counts[0], skip.rows.iter().filter(|row| row.is_ok()).count()), (8, 1));
        for (text, on_bad_row) in [(format!("{object}{good}\n"), OnBadRow::Error), (object.into(), OnBadRow::Skip)] {
            let error = parsed(&text, How { on_bad_row, ..how(&shape) }).unwrap_err();
            assert!(error.to_string().starts_with("d.json:1:1: row 1: one object over 7 lines;"), "{error}");
        }

        let array = format!("[{good}, {{\"output\" 1}}, {good}]");
        let error = parsed(&array, How { on_bad_row: OnBadRow::Skip, ..how(&shape) }).unwrap_err();
        assert!(error.to_string().contains("row 2 is not valid JSON"), "behind it nothing is certain: {error}");
    }

    #[test]
    fn csv_and_tsv_have_a_header() {
        let csv = |text: &str, format, on_bad_row| {
            parse(text.as_bytes(), Path::new("d.csv"), format, How { on_bad_row, ..how(&Shape::default()) })
        };
        let text = "\u{feff}output,instruction,input,note\r\n地,对,\"天\",\r\n\r\n\"风\",对,雨,x\r\n";
        let got = csv(text, FileFormat::Csv, OnBadRow::Error).unwrap();
        assert_eq!(got.unmapped, ["note"]);
        assert_eq!(records(got), [couplet("天", "地"), couplet("雨", "风")]);
        let got = csv("instruction\tinput\toutput\n对\t天\t地,水\n", FileFormat::Tsv, OnBadRow::Error).unwrap();
        assert_eq!(records(got), [couplet("天", "地,水")]);
        let numbers = csv("instruction,input,output\n对,NA,007\n", FileFormat::Csv, OnBadRow::Error).unwrap();
        assert_eq!(records(numbers), [couplet("NA", "007")], "every field is text");

        for (text, want) in [
            ("", "d.csv: holds no rows"),
            ("instruction,input,output\n", "d.csv: holds no rows"),
            (
                "instruction,input,output\n对,天,地\n对,\"天\n\",地,水\n",
                "d.csv:3:1: row 2: 4 fields, and the header has 3",
            ),
            ("instruction,input,output\n对,天\n", "d.csv:2:1: row 1: 2 fields, and the header has 3"),
            ("instruction,input,output\n对,天,\n", "d.csv:2:1: row 1: `output` (the response) is missing"),
            ("instruction,input,output\n对,天,地\n对,\"天,地\n", "d.csv:3:1: a quote in row 2 is not closed"),
            ("\"instruction,input\n", "d.csv:1:1: a quote in the header is not closed"),
            ("output,input,output\na,b,c\n", "d.csv: the header names two columns `output`"),
            ("问,答\n天,地\n", "d.csv:2:1: row 1: `output` (the response) is missing"),
        ] {
            let error = csv(text, FileFormat::Csv, OnBadRow::Error).unwrap_err();
            assert_eq!(error.to_string(), want, "{text:?}");
            assert!(error.hint_text(false).is_some() && error.hint_text(true) != error.hint_text(false), "{text:?}");
        }
        let slip = csv("问,答\n天,地\n", FileFormat::Csv, OnBadRow::Skip).unwrap_err();
        assert_eq!(slip.to_string(), "d.csv: no row has the column `instruction`, which `prompt` is mapped to");
        let skipped = csv("instruction,input,output\n对,天,地\n对,天\n", FileFormat::Csv, OnBadRow::Skip).unwrap();
        assert_eq!((skipped.counts[0], skipped.rows[1].is_err()), (2, true));
    }

    /// The order in which wrong things are found, and no panic: a short version of what fuzzing does.
    #[test]
    fn no_bytes_make_it_panic() {
        let seeds: [&[u8]; 6] = [
            b"[{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": \"b\"}]}]",
            b"{\"instruction\": \"a\", \"input\": \"\\u5929\", \"output\": \"b\"}\n{\"output\": null}\n",
            b"instruction,input,output\r\n\"a\"\"b\",c,d\n",
            "a\tb\n天\t\"地\n\"\t\n".as_bytes(),
            b"{\"conversations\": [{\"from\": \"function_call\", \"value\": \"[{\\\"name\\\": 1, \\\"arguments\\\": -0}]\"}], \"tools\": \"[]\"}",
            &[0xff, 0xfe, 0, b'[', 0xe5],
        ];
        let shapes = [Formatting::Alpaca, Formatting::Sharegpt, Formatting::OpenAi]
            .map(|formatting| Shape::new(formatting, None, Tags::default()));
        let mut random = crate::dataset::order::Mt19937::new(7);
        for round in 0..3000_usize {
            let mut bytes = seeds[round % seeds.len()].to_vec();
            for _ in 0..round % 5 {
                let at = random.up_to(bytes.len() as u32 - 1) as usize;
                match random.up_to(3) {
                    0 => bytes[at] = random.up_to(255) as u8,
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, b"\"\\{}[],:\n\r"[random.up_to(9) as usize]),
                    _ => bytes.extend_from_within(at..),
                }
            }
            for shape in &shapes {
                for format in [FileFormat::Json, FileFormat::Csv, FileFormat::Tsv] {
                    for on_bad_row in [OnBadRow::Error, OnBadRow::Skip] {
                        let got = parse(&bytes, Path::new("d"), format, How { on_bad_row, ..how(shape) });
                        if let Ok(got) = got {
                            assert_eq!(got.rows.len(), got.counts[0], "read = kept + skipped");
                        }
                    }
                }
            }
        }
    }
}
