//! Files as people have them → pairs of sides, each with its place. The format is recognised, or said by the user.
//!
//! What is no pair is kept apart with the reason. Where that is more than half of a file, its format was not understood, and
//! that is an error.

mod json;
mod lines;
mod names;
mod parallel;
mod table;

pub use lines::Separator;

use crate::{
    dataset::input::{Input, whole_text},
    error::{Error, Result},
};
use std::path::{Path, PathBuf};

/// What is read from standard input, if a file is called so.
pub const STDIN: &str = "-";

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Both sides on a line.
    Lines,
    /// 上联 on one line, 下联 on the next.
    Alternating,
    /// Columns parted by commas, with quotes where needed.
    Csv,
    /// Columns parted by tabs.
    Tsv,
    /// A JSON array of rows, or a row a line: objects, or lists of two.
    Json,
}

/// What the user says about his files; the rest is recognised.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// How they are written.
    pub format: Option<Format>,
    /// What stands between the sides of a line, or between the columns of a table.
    pub separator: Option<String>,
    /// Columns of 上联 and 下联: names, or numbers from 1.
    pub columns: Option<[String; 2]>,
}

impl Layout {
    fn says_nothing(&self) -> bool {
        self.format.is_none() && self.separator.is_none() && self.columns.is_none()
    }
}

/// Where a pair stands: file of the run, and line of it, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index into [`Read::sources`].
    pub file: u32,
    /// The line on which it begins.
    pub line: u32,
}

/// Two sides as they stand in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub place: Place,
    pub upper: String,
    pub lower: String,
}

/// What is no pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub place: Place,
    /// Why.
    pub fact: String,
    /// What stands there.
    pub text: String,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// How it is written.
    pub found: Found,
    /// Rows in it, broken ones too.
    pub rows: usize,
    /// Neither the user nor names of columns say which side is which.
    pub guessed: bool,
}

/// The format that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Both sides on a line.
    Lines(Separator),
    /// One after the other.
    Alternating,
    /// A table, its columns, and those that are not used.
    Table {
        /// What parts the columns.
        delimiter: char,
        /// Of 上联 and 下联: names, or numbers from 1.
        columns: [String; 2],
        /// The others.
        unused: Vec<String>,
    },
    /// JSON; `None`: lists of two.
    Json {
        /// Names of 上联 and 下联.
        columns: Option<[String; 2]>,
        /// The others, as the first row has them.
        unused: Vec<String>,
    },
    /// 下联 stands in this other file.
    Parallel(PathBuf),
}

impl Found {
    /// Whether only the text tells which side is which.
    fn is_a_guess(&self) -> bool {
        match self {
            Self::Lines(_) | Self::Alternating => true,
            Self::Table { columns: [upper, lower], .. } => upper == "1" && lower == "2",
            Self::Json { .. } | Self::Parallel(_) => false,
        }
    }

    /// Whether it has columns that can be named.
    fn has_columns(&self) -> bool {
        matches!(self, Self::Table { .. } | Self::Json { columns: Some(_), .. })
    }

    /// The format in a few words.
    pub fn text(&self, chinese: bool) -> String {
        let columns = |[upper, lower]: &[String; 2], unused: &[String]| {
            let rest = match (unused, chinese) {
                ([], _) => String::new(),
                (names, true) => format!("（未使用：{}）", names.join("、")),
                (names, false) => format!(" (not used: {})", names.join(", ")),
            };
            match chinese {
                true => format!("列 `{upper}`、`{lower}`{rest}"),
                false => format!("columns `{upper}` and `{lower}`{rest}"),
            }
        };
        match (self, chinese) {
            (Self::Lines(separator), true) => format!("每行一副，以{}分隔", separator.name(true)),
            (Self::Lines(separator), false) => format!("a pair a line, parted by {}", separator.name(false)),
            (Self::Alternating, true) => "上联、下联各占一行，交替排列".into(),
            (Self::Alternating, false) => "上联 and 下联 on lines of their own, in turn".into(),
            (Self::Table { delimiter: '\t', columns: names, unused }, _) => format!("TSV, {}", columns(names, unused)),
            (Self::Table { columns: names, unused, .. }, _) => format!("CSV, {}", columns(names, unused)),
            (Self::Json { columns: Some(names), unused }, _) => format!("JSON, {}", columns(names, unused)),
            (Self::Json { columns: None, .. }, true) => "JSON，每行 [上联, 下联]".into(),
            (Self::Json { columns: None, .. }, false) => "JSON, lists of [上联, 下联]".into(),
            (Self::Parallel(lower), true) => format!("每行一条上联，下联在 {} 的同一行", lower.display()),
            (Self::Parallel(lower), false) => format!("上联 line by line, 下联 in {}", lower.display()),
        }
    }
}

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub sources: Vec<Source>,
    pub pairs: Vec<Pair>,
    pub broken: Vec<Broken>,
    /// Lines with a 横批 behind the two sides.
    pub banners: usize,
}

impl Read {
    /// A row of the file that is being read.
    fn pair(&mut self, line: usize, upper: impl Into<String>, lower: impl Into<String>) {
        let place = self.place(line);
        self.pairs.push(Pair { place, upper: upper.into(), lower: lower.into() });
    }

    /// The same where the row is no pair.
    fn broken(&mut self, line: usize, text: &str, fact: impl Into<String>) {
        let place = self.place(line);
        self.broken.push(Broken { place, fact: fact.into(), text: text.into() });
    }

    fn place(&self, line: usize) -> Place {
        Place { file: self.sources.len() as u32, line: line as u32 }
    }

    /// Reads one file with `reader`, and refuses it where it was not understood.
    fn file(&mut self, path: &Path, layout: &Layout, reader: impl FnOnce(&mut Self) -> Result<Found>) -> Result<()> {
        let (pairs, broken) = (self.pairs.len(), self.broken.len());
        let found = reader(self)?;
        let (pairs, bad) = (self.pairs.len() - pairs, &self.broken[broken..]);
        let rows = pairs + bad.len();
        if rows == 0 {
            return Err(shown(Error::file(path, "holds no couplets")));
        }
        if let Some(first) = bad.first().filter(|_| bad.len() > pairs) {
            let place = format!("{}:{}", path.display(), first.place.line);
            let count = bad.len();
            let (fact, text) = (&first.fact, shortened(&first.text));
            let error = Error::input(format!("{place}: {fact}: {text}"))
                .and(format!("so are {count} of {rows} rows, read as: {}", found.text(false)));
            return Err(if found.has_columns() { shown_of_table(error) } else { shown(error) });
        }
        let guessed = layout.says_nothing() && found.is_a_guess();
        self.sources.push(Source { path: path.to_owned(), found, rows, guessed });
        Ok(())
    }
}

/// Reads every file. Errors name the file and, where there is one, the line.
pub(super) fn read(files: &[PathBuf], parallel: Option<&[PathBuf; 2]>, layout: &Layout) -> Result<Read> {
    let mut read = Read::default();
    for path in files {
        let text = text_of(path)?;
        read.file(path, layout, |read| read_one(&text, path, layout, read))?;
    }
    if let Some([upper, lower]) = parallel {
        let texts = [text_of(upper)?, text_of(lower)?];
        read.file(upper, layout, |read| parallel::read(&texts, [upper, lower], read))?;
    }
    match read.sources.first() {
        Some(first) if layout.columns.is_some() && !read.sources.iter().any(|source| source.found.has_columns()) => {
            Err(no_columns(first))
        }
        _ => Ok(read),
    }
}

/// `--columns` where no file has any.
fn no_columns(Source { path, found, .. }: &Source) -> Error {
    let fact = format!("--columns names columns of a table or of JSON, and this is read as: {}", found.text(false));
    let (hint, hint_zh) = match found {
        Found::Lines(_) | Found::Alternating => (
            "leave --columns out; or say that these are columns: --format csv, parted by blanks with --separator ' '",
            "请去掉 --columns；若各行确为表格，请写 --format csv，以空格分隔时再加 --separator ' '",
        ),
        Found::Parallel(_) => (
            "leave --columns out: --upper and --lower name a file for each side; or name one file with both sides as its columns",
            "请去掉 --columns：--upper 与 --lower 已各指明一个文件；或改为给出一个含两列的文件",
        ),
        Found::Table { .. } | Found::Json { .. } => {
            ("leave --columns out: a list of two has 上联 first", "请去掉 --columns：列表以上联在前")
        }
    };
    Error::file(path, fact).hint(hint).hint_zh(hint_zh)
}

/// The text of a file, or of standard input (`-`), unpacked where it begins as gzip does. Errors: it cannot be read, or is of
/// another kind than text.
fn text_of(path: &Path) -> Result<String> {
    let (input, first) = match path == Path::new(STDIN) {
        true => Input::of_any(std::io::stdin(), path)?,
        false => Input::open_any(path)?,
    };
    let is_no_text = |what: &str| Error::file(path, format!("is {what}, not a text"));
    match first.as_slice() {
        b"PAR1" => Err(is_no_text("a parquet file")
            .hint("save the rows as JSON Lines: `python -c \"import pandas; pandas.read_parquet('IN.parquet').to_json('OUT.jsonl', orient='records', lines=True, force_ascii=False)\"`")
            .hint_zh("请先转为 JSON Lines：`python -c \"import pandas; pandas.read_parquet('IN.parquet').to_json('OUT.jsonl', orient='records', lines=True, force_ascii=False)\"`")),
        b"PK\x03\x04" | b"\xd0\xcf\x11\xe0" => Err(is_no_text("a ZIP archive or an Excel workbook")
            .hint("unpack the archive; save the sheet as CSV in UTF-8")
            .hint_zh("请先解压；Excel 表格请另存为 UTF-8 的 CSV")),
        _ => whole_text(input),
    }
}

fn read_one(text: &str, path: &Path, layout: &Layout, read: &mut Read) -> Result<Found> {
    let separator = layout.separator.as_deref();
    let columns = layout.columns.as_ref();
    let table = |delimiter: char, quoted: bool, read: &mut Read| {
        let delimiter = match separator.map(|text| (text, text.chars().next())) {
            None | Some((_, None)) => delimiter,
            Some((text, Some(one))) if text.len() == one.len_utf8() => one,
            Some((text, _)) => {
                return Err(Error::input(format!("columns are parted by one character, not by `{text}`"))
                    .hint("lines are parted by any text: --format lines")
                    .hint_zh("表格的分隔符只能是一个字符；任意文本作分隔请用 --format lines"));
            }
        };
        table::read(text, path, table::Dialect { delimiter, quoted }, columns, read)
    };
    match layout.format.or_else(|| by_name(path)).or_else(|| json::begins(text)) {
        Some(Format::Json) => json::read(text, path, columns, read),
        Some(Format::Csv) => table(',', true, read),
        Some(Format::Tsv) => table('\t', false, read),
        Some(Format::Alternating) => Ok(lines::read_alternating(text, read)),
        Some(Format::Lines) if separator.is_none() => lines::read(text, lines::separator(text, path)?, read),
        _ if separator.is_some() => lines::read(text, Separator::Text(separator.unwrap_or_default().into()), read),
        _ => match lines::recognise(text, path)? {
            lines::Recognised::Table('\t') => table('\t', false, read),
            lines::Recognised::Table(delimiter) => table(delimiter, true, read),
            lines::Recognised::Alternating => lines::read_alternating_guessed(text, path, read),
            lines::Recognised::Lines(separator) => lines::read(text, separator, read),
        },
    }
}

/// What the end of a file's name says for certain, `.gz` aside. `.txt` says nothing.
fn by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "tsv" => Some(Format::Tsv),
        "json" | "jsonl" | "ndjson" => Some(Format::Json),
        _ => None,
    }
}

/// The way out of a file that is not understood.
fn shown(error: Error) -> Error {
    said_with(error, "--format or --separator", "--format、--separator")
}

/// The same for one with columns.
fn shown_of_table(error: Error) -> Error {
    said_with(error, "--format, --separator or --columns", "--format、--separator、--columns")
}

fn said_with(error: Error, options: &str, options_zh: &str) -> Error {
    error
        .hint(format!(
            "a pair a line: 上联, a blank (or tab, ——, ；), 下联; or CSV, TSV, JSON, JSON Lines; two files with a side each: \
             --upper FILE --lower FILE; say it with {options}"
        ))
        .hint_zh(format!(
            "每行一副：上联、空格（或制表符、——、；）、下联；也可用 CSV、TSV、JSON、JSON Lines；上下联分在两个文件时用 \
             --upper 文件 --lower 文件；可用 {options_zh} 指明"
        ))
}

/// The way out of columns that are named and not there, or have no name that is known.
fn misnamed(error: Error) -> Error {
    error
        .hint(
            "--columns A,B names the columns of 上联 and 下联 as the file has them, or numbers those of a table from 1",
        )
        .hint_zh("--columns A,B 须按文件中的写法依次指明上联与下联的列名；表格也可用从 1 起的列号")
}

/// The way out where a number stands before every pair; `options` read it.
fn numbered(error: Error, options: &str) -> Error {
    error
        .hint(format!("a number stands first: name the columns of the two sides, {options}"))
        .hint_zh(format!("首列是编号：请指明两联所在的列，{options}"))
}

/// The beginning of a text, for a message.
pub(super) fn shortened(text: &str) -> String {
    let line: String = text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(40).is_some() { line + "…" } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, 上联, 下联.
    type Row = (u32, String, String);

    /// The pairs of a file with that name and content, and how it was understood.
    fn pairs(name: &str, text: &str, layout: &Layout) -> Result<(String, Vec<Row>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let read = read(&[path], None, layout)?;
        let pairs = read.pairs.into_iter().map(|pair| (pair.place.line, pair.upper, pair.lower)).collect();
        Ok((read.sources[0].found.text(false), pairs))
    }

    #[test]
    fn formats_are_recognised() {
        let want: Vec<(&str, &str)> = vec![("海内存知己", "天涯若比邻"), ("国泰民安，风调雨顺", "花好月圆，人寿年丰")];
        for (name, text, format) in [
            (
                "a.txt",
                "海内存知己 天涯若比邻\n国泰民安，风调雨顺　花好月圆，人寿年丰\n",
                "a pair a line, parted by blanks",
            ),
            ("a.txt", "海内存知己\t天涯若比邻\n国泰民安，风调雨顺\t花好月圆，人寿年丰", "TSV, columns `1` and `2`"),
            (
                "a",
                "上联 下联\n\n海内存知己   天涯若比邻\r\n国泰民安，风调雨顺 \t花好月圆，人寿年丰",
                "a pair a line, parted by blanks",
            ),
            ("a", "海内存知己——天涯若比邻\n国泰民安，风调雨顺 —— 花好月圆，人寿年丰", "a pair a line, parted by `——`"),
            (
                "a",
                "海内存知己；天涯若比邻。\n国泰民安，风调雨顺；花好月圆，人寿年丰。",
                "a pair a line, parted by `；`",
            ),
            ("a", "海内存知己|天涯若比邻\n国泰民安，风调雨顺｜花好月圆，人寿年丰", "a pair a line, parted by `|`"),
            ("a", "海内存知己,天涯若比邻\n国泰民安，风调雨顺,花好月圆，人寿年丰", "CSV, columns `1` and `2`"),
            (
                "a",
                "海内存知己\n天涯若比邻\n\n国泰民安，风调雨顺\n花好月圆，人寿年丰",
                "上联 and 下联 on lines of their own, in turn",
            ),
            (
                "a.csv",
                "编号,上联,下联\n1,海内存知己,天涯若比邻\n2,\"国泰民安，风调雨顺\",花好月圆，人寿年丰\n",
                "CSV, columns `上联` and `下联` (not used: 编号)",
            ),
            (
                "a.tsv",
                "Upper\tLower\n海内存知己\t天涯若比邻\n国泰民安，风调雨顺\t花好月圆，人寿年丰",
                "TSV, columns `Upper` and `Lower`",
            ),
            (
                "a.json",
                r#"[{"instruction": "对", "input": "海内存知己", "output": "天涯若比邻"}, {"instruction": "对", "input": "国泰民安，风调雨顺", "output": "花好月圆，人寿年丰"}]"#,
                "JSON, columns `input` and `output` (not used: instruction)",
            ),
            (
                "a.txt",
                "{\"上联\": \"海内存知己\", \"下联\": \"天涯若比邻\"}\n{\"下联\": \"花好月圆，人寿年丰\", \"上联\": \"国泰民安，风调雨顺\"}",
                "JSON, columns `上联` and `下联`",
            ),
            (
                "a",
                "[[\"海内存知己\", \"天涯若比邻\"],\n[\"国泰民安，风调雨顺\", \"花好月圆，人寿年丰\"]]",
                "JSON, lists of [上联, 下联]",
            ),
            (
                "a.jsonl",
                "[\"海内存知己\", \"天涯若比邻\"]\n[\"国泰民安，风调雨顺\", \"花好月圆，人寿年丰\"]",
                "JSON, lists of [上联, 下联]",
            ),
            (
                "a.json",
                r#"[{"instruction": "海内存知己", "input": "", "output": "天涯若比邻"}, {"instruction": "国泰民安，风调雨顺", "input": "", "output": "花好月圆，人寿年丰"}]"#,
                "JSON, columns `instruction` and `output` (not used: input)",
            ),
        ] {
            let (found, got) = pairs(name, text, &Layout::default()).unwrap_or_else(|err| panic!("{text}: {err}"));
            let got: Vec<(&str, &str)> = got.iter().map(|(_, a, b)| (a.as_str(), b.as_str())).collect();
            assert_eq!((found.as_str(), got), (format, want.clone()), "{text}");
        }
    }

    #[test]
    fn verse_on_a_line_is_recognised_by_its_comma() {
        let (found, got) =
            pairs("a", "海内存知己，天涯若比邻。\n白日依山尽，黄河入海流。\n", &Layout::default()).unwrap();
        assert_eq!(found, "a pair a line, parted by `，`");
        assert_eq!(got[1], (2, "白日依山尽".into(), "黄河入海流".into()));
    }

    /// Couplets as the shipped data has them.
    const SHIPPED: [[&str; 2]; 4] = [
        ["锦帐笙歌香雾绕", "禅房风月夜窗虚"],
        ["天赋君才行有用", "人言我拙坐无成"],
        ["两个黄鹂鸣翠柳", "一行白鹭上青天"],
        ["无边落木萧萧下", "不尽长江滚滚来"],
    ];

    #[test]
    fn lines_of_one_shape_are_not_taken_for_couplets_in_turn() {
        let every = |line: fn([&str; 2]) -> String| SHIPPED.map(line).join("\n").repeat(9);
        let uppers = every(|[upper, _]| format!("{upper}\n"));
        let verses = every(|[upper, lower]| format!("{upper}，{lower}。{upper}，{lower}。\n"));
        let spaced = every(|[upper, lower]| format!("{upper} {lower} {upper} {lower}\n"));
        for (text, why) in [(uppers, "上联 alone"), (verses, "a quatrain a line"), (spaced, "parted by blanks")] {
            let error = pairs("a.txt", &text, &Layout::default()).expect_err(why);
            assert!(error.to_string().contains("a.txt:1: nothing parts two sides here: "), "{why}: {error}");
        }
        let (found, got) = pairs("a.txt", "天高 地厚\n风清 月白\n山青\n", &Layout::default()).unwrap();
        assert_eq!((found.as_str(), got.len()), ("a pair a line, parted by blanks", 2), "most lines have two sides");
        let clauses = "国泰民安，风调雨顺\n花好月圆，人寿年丰\n";
        let (found, got) = pairs("a.txt", clauses, &Layout::default()).unwrap();
        assert_eq!((found.as_str(), got.len()), ("上联 and 下联 on lines of their own, in turn", 1), "clauses");
        let said = Layout { format: Some(Format::Lines), ..Layout::default() };
        assert_eq!(pairs("a.txt", clauses, &said).unwrap().1.len(), 2, "unless it is said");
    }

    #[test]
    fn what_stands_behind_a_couplet_is_its_banner() {
        let text = SHIPPED.map(|[upper, lower]| format!("{upper} {lower} 万象更新\n")).concat();
        let (found, got) = pairs("a.txt", &text, &Layout::default()).unwrap();
        assert_eq!(found, "a pair a line, parted by blanks");
        let sides: Vec<[&str; 2]> = got.iter().map(|(_, upper, lower)| [upper.as_str(), lower]).collect();
        assert_eq!(sides, SHIPPED);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let lines =
            "海内存知己 天涯若比邻 横批：天下\n天 地 人\n国泰民安 人寿年丰 万事如意\n天高 地厚 万象更新\n风清 月白";
        std::fs::write(&path, lines).unwrap();
        let read = read(&[path], None, &Layout::default()).unwrap();
        assert_eq!((read.pairs.len(), read.banners), (3, 2));
        assert_eq!(
            read.broken.iter().map(|row| row.place.line).collect::<Vec<_>>(),
            [2, 3],
            "three lines of one shape"
        );
    }

    #[test]
    fn a_line_that_is_missing_is_noticed() {
        let lines = SHIPPED.map(|[upper, lower]| format!("{upper}\n{lower}\n")).concat().repeat(30);
        let without = |at: usize| {
            let all = lines.lines().enumerate().filter(|(line, _)| *line != at).map(|(_, line)| line);
            all.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(pairs("a", &lines, &Layout::default()).unwrap().1.len(), 120);
        for (at, want) in [(0, "a:1: from here on"), (40, "a:41: from here on"), (149, "a:149: from here on")] {
            let error = pairs("a", &without(at), &Layout::default()).unwrap_err();
            assert!(error.to_string().contains(want), "line {at}: {error}");
        }
        let last = pairs("a", &without(239), &Layout::default()).unwrap();
        assert_eq!(last.1.len(), 119, "the last one breaks one couplet only");
        let said = Layout { format: Some(Format::Alternating), ..Layout::default() };
        assert_eq!(pairs("a", &without(40), &said).unwrap().1.len(), 119, "the user has the last word");
    }

    #[test]
    fn the_user_has_the_last_word() {
        let columns = |a: &str, b: &str| Some([a.to_owned(), b.to_owned()]);
        for (name, text, layout, want) in [
            ("a.csv", "天；地\n风；雨\n", Layout { separator: Some("；".into()), ..Layout::default() }, 2),
            ("a", "天=地\n风=雨\n山=水", Layout { separator: Some("=".into()), ..Layout::default() }, 3),
            (
                "a.dat",
                "x,天,地\n",
                Layout { format: Some(Format::Csv), columns: columns("2", "3"), ..Layout::default() },
                1,
            ),
            ("a.csv", "p,q,r\nx,天,地\n", Layout { columns: columns("q", "r"), ..Layout::default() }, 1),
            ("a.json", r#"[{"p": "天", "q": "地"}]"#, Layout { columns: columns("p", "q"), ..Layout::default() }, 1),
            ("a.csv", "天 地\n", Layout { format: Some(Format::Lines), ..Layout::default() }, 1),
            ("a", "天\n地\n", Layout { format: Some(Format::Alternating), ..Layout::default() }, 1),
        ] {
            let (_, got) = pairs(name, text, &layout).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(got.len(), want, "{text}");
            assert!(got.iter().all(|(_, a, b)| a.chars().count() == 1 && b.chars().count() == 1), "{got:?}");
        }
    }

    #[test]
    fn numbered_lines_are_met_with_advice_that_helps() {
        let csv = Some(Format::Csv);
        for (name, between, format, separator) in [
            ("a.txt", " ", csv, Some(" ".to_owned())),
            ("a.txt", ",", csv, None),
            ("a.csv", ",", None, None),
            ("a.txt", "\t", None, None),
        ] {
            let lines =
                SHIPPED.iter().zip(1..).map(|([a, b], number)| format!("{number:03}{between}{a}{between}{b}\n"));
            let text = lines.collect::<String>().repeat(9);
            let error = pairs(name, &text, &Layout::default()).unwrap_err();
            let hints = [false, true].map(|zh| error.hint_text(zh).unwrap());
            assert!(hints.iter().all(|hint| hint.contains("--columns 2,3")), "{name} {between:?}: {error}");
            let columns = Some(["2".to_owned(), "3".to_owned()]);
            let layout = Layout { format, separator, columns };
            let (_, got) = pairs(name, &text, &layout).unwrap();
            assert_eq!((got.len(), got[0].1.as_str()), (36, SHIPPED[0][0]), "{name} {between:?}");
        }
    }

    #[test]
    fn a_list_of_two_texts_is_a_couplet_whose_sides_may_have_clauses() {
        for text in ["[\"海内存知己\", \"天涯若比邻\"]", "[\"国泰民安，风调雨顺\", \"花好月圆，人寿年丰\"]"]
        {
            assert_eq!(pairs("a.json", text, &Layout::default()).unwrap().1.len(), 1, "{text}");
        }
        let spaced = "[\"天高 地厚\", \"风清 月白\"]\n[\"山青\", \"水绿\"]";
        assert_eq!(pairs("a.json", spaced, &Layout::default()).unwrap().1.len(), 2, "several lists leave no doubt");
        assert_eq!(pairs("a.json", "[[\"天高 地厚\", \"风清 月白\"]]", &Layout::default()).unwrap().1.len(), 1);
    }

    #[test]
    fn places_are_lines_of_the_file() {
        for (name, text, want) in [
            ("a", "天 地\n\n\n风 雨", vec![1, 4]),
            ("a.csv", "上联,下联\n\"天\n\",地\n风,雨", vec![2, 4]),
            (
                "a.json",
                "[\n  {\"上联\": \"天\",\n   \"下联\": \"地\"},\n\n  {\"上联\": \"风\", \"下联\": \"雨\"}\n]\n",
                vec![2, 5],
            ),
            ("a.jsonl", "\n{\"上联\": \"天\", \"下联\": \"地\"}\n\n{\"上联\": \"风\", \"下联\": \"雨\"}", vec![2, 4]),
        ] {
            let (_, got) = pairs(name, text, &Layout::default()).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(got.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_place() {
        for (name, text, want) in [
            ("a.txt", "春风又绿江南岸\n明月何时\n", "a.txt:1: nothing parts two sides here: 春风又绿江南岸"),
            ("a.txt", " \n\n", "a.txt: holds no couplets"),
            ("a.csv", "x,y,z\n1,2,3\n", "a.csv:1: 3 columns, and none of them has a known name"),
            ("a.csv", "上联,下联\n\"天,地\n", "a.csv:2: a quote that is not closed"),
            ("a.json", "[{\"上联\": \"天\", }]", "a.json:1:20: row 1 is not valid JSON: "),
            ("a.json", "[[\"天\", \"地\"],\n ]", "a.json:2:2: row 2 is not valid JSON: trailing comma"),
            ("a.json", "[[\"天\", \"地\"],\n [\"风\", 雨]]", "a.json:2:10: row 2 is not valid JSON: expected value"),
            ("a.jsonl", "[\"天\", \"地\"]\n\n[\"风\", 雨]", "a.jsonl:3:9: row 2 is not valid JSON: expected value"),
            ("a.json", "[{\"上联\": \"天\", \"下联\": \"地\"}", "a.json:1:36: the array is not closed behind row 1"),
            ("a.json", "[[\"天\", \"地\"]\n [\"风\", \"雨\"]]", "a.json:2:2: a comma is missing before row 2"),
            ("a.json", "[[\"天\", \"地\"]] x", "a.json:1:18: something follows the array"),
            ("a.json", "[{\"x\": \"天\", \"y\": \"地\"}]", "a.json:1:2: row 1: no known names of columns: x, y"),
            (
                "a.json",
                "{\n  \"上联\": \"天\",\n  \"下联\": \"地\"\n}\n",
                "a.json:1:1: row 1: one object over 4 lines; an array of objects was expected, or an object a line",
            ),
            (
                "a.json",
                "[1, 2]",
                "a.json:1: row 1: neither an object nor a list of two texts: 1; so are 2 of 2 rows, read as: JSON, lists of [上联, 下联]",
            ),
            ("a.json", "天 地", "a.json: neither a JSON array nor JSON Lines"),
            (
                "a.json",
                "[\"天高 地厚\", \"风清 月白\"]",
                "a.json:1:1: row 1: one list of two texts, each of two parts: a couplet, or two?",
            ),
            (
                "a.json",
                "[\n  \"天高 地厚\",\n  \"风清 月白\"\n]\n",
                "a.json:2: row 1: neither an object nor a list of two texts: \"天高 地厚\"; so are 2 of 2 rows",
            ),
        ] {
            let error = pairs(name, text, &Layout::default()).expect_err(text);
            let message = error.to_string();
            assert!(
                message.split_once(name).is_some_and(|(_, fact)| format!("{name}{fact}").starts_with(want)),
                "{message}"
            );
            assert!(error.hint_text(true).is_some() && error.hint_text(false).is_some(), "{message}");
        }
        let layout = Layout { separator: Some("--".into()), ..Layout::default() };
        let error = pairs("a.csv", "天--地", &layout).unwrap_err();
        assert_eq!(error.to_string(), "columns are parted by one character, not by `--`");
    }

    #[test]
    fn columns_that_are_named_must_be_there() {
        let rows = r#"[{"p": "天", "q": "地"}, {"p": "风", "q": "雨"}]"#;
        for (name, text, columns, want) in [
            ("a.csv", "p,q\n天,地\n", ["p", "x"], "a.csv:1: no column `x` in: p, q"),
            ("a.csv", "p,q\n天,地\n", ["x", "3"], "a.csv:1: no column `x` and `3` in: p, q"),
            ("a.csv", "p,q\n天,地\n", ["p", "2"], "a.csv:1: one of `p` and `2` is a name, one a number"),
            ("a.json", rows, ["p", "x"], "a.json: no row has the column `x`; the first one has p, q"),
            (
                "a.txt",
                "天高 地厚\n风清 月白\n",
                ["1", "2"],
                "a.txt: --columns names columns of a table or of JSON, and this is read as: a pair a line, parted by blanks",
            ),
            (
                "a.json",
                "[[\"天\", \"地\"]]",
                ["p", "q"],
                "a.json: --columns names columns of a table or of JSON, and this is read as: JSON, lists of [上联, 下联]",
            ),
        ] {
            let layout = layout_of(columns);
            let error = pairs(name, text, &layout).expect_err(want);
            assert!(error.to_string().ends_with(want), "{error}");
            assert!(error.hint_text(false).is_some_and(|hint| hint.contains("--columns")), "{want}");
            assert!(error.hint_text(true).is_some_and(|hint| hint.contains("--columns")), "{want}");
        }
        let later = r#"[{"p": "天"}, {"p": "风", "q": "雨"}, {"p": "山", "q": "水"}]"#;
        assert_eq!(pairs("a.json", later, &layout_of(["p", "q"])).unwrap().1.len(), 2, "a row may lack a column");
    }

    #[test]
    fn one_file_with_columns_is_enough_to_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let [csv, txt] = [("a.csv", "p,q\n天,地\n"), ("b.txt", "风 雨\n山 水\n")].map(|(name, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        let columns = layout_of(["p", "q"]);
        let files = [csv.clone(), txt.clone()];
        assert_eq!(read(&files, None, &columns).unwrap().pairs.len(), 3);
        let parallel = [txt.clone(), txt.clone()];
        assert_eq!(read(&[csv], Some(&parallel), &columns).unwrap().pairs.len(), 3);
        let error = read(&[], Some(&parallel), &columns).unwrap_err();
        assert!(error.to_string().contains("b.txt: --columns names columns"), "{error}");
        let hints = [false, true].map(|zh| error.hint_text(zh).unwrap());
        assert!(hints.iter().all(|hint| hint.contains("--upper") && !hint.contains("csv")), "{hints:?}");
    }

    /// Said are the columns alone.
    fn layout_of(columns: [&str; 2]) -> Layout {
        Layout { columns: Some(columns.map(str::to_owned)), ..Layout::default() }
    }

    #[test]
    fn columns_are_advised_where_there_are_any() {
        for (name, text, want) in [
            ("a.txt", "春风又绿江南岸\n明月何时\n", false),
            ("a.txt", "\n", false),
            ("a.csv", "x,y,z\n1,天,地\n", true),
            ("a.csv", "上联,下联\n天,\n风,\n山,水", true),
            ("a.json", "[{\"x\": \"天\", \"y\": \"地\"}]", true),
            ("a.json", "[1, 2]", false),
        ] {
            let error = pairs(name, text, &Layout::default()).expect_err(text);
            for zh in [false, true] {
                assert_eq!(error.hint_text(zh).unwrap().contains("--columns"), want, "{text}: {error}");
            }
        }
    }

    #[test]
    fn packed_files_are_read_and_others_named() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            read(&[path], None, &Layout::default())
        };
        let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        packed.write_all("上联,下联\n天,地\n".as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        for (name, want) in [
            ("a.csv.gz", "CSV, columns `上联` and `下联`"),
            ("a.CSV.GZ", "CSV, columns `上联` and `下联`"),
            ("packed", "CSV, columns `上联` and `下联`"),
        ] {
            let read = open(name, &packed).unwrap_or_else(|err| panic!("{name}: {err}"));
            assert_eq!(read.sources[0].found.text(false), want, "{name}");
        }
        assert_eq!(open("b.csv.gz", "天,地\n".as_bytes()).unwrap().pairs.len(), 1, "only named so");
        for (bytes, want) in [
            (&b"PAR1\x15\x04\x15"[..], "is a parquet file, not a text"),
            (b"PK\x03\x04\x14\0", "is a ZIP archive or an Excel workbook, not a text"),
            (b"\xd0\xcf\x11\xe0\xa1", "is a ZIP archive or an Excel workbook, not a text"),
        ] {
            let error = open("a.txt", bytes).unwrap_err();
            assert!(error.to_string().ends_with(want) && error.hint_text(true).is_some(), "{error}");
        }
        let error = open("a.gz", &packed[..packed.len() - 9]).unwrap_err();
        assert!(error.to_string().contains("a.gz: cannot read: "), "{error}");
    }

    #[test]
    fn a_few_broken_rows_are_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "天 地\n春风又绿\n风 雨\n山 水 云\n日 月\n").unwrap();
        let read = read(&[path], None, &Layout::default()).unwrap();
        assert_eq!((read.pairs.len(), read.sources[0].rows), (3, 5));
        let facts: Vec<(u32, &str)> = read.broken.iter().map(|row| (row.place.line, row.fact.as_str())).collect();
        assert_eq!(facts, [(2, "not two sides but 1"), (4, "not two sides but 3")]);
    }

    #[test]
    fn two_files_with_a_side_each() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["in.txt", "out.txt"].map(|name| dir.path().join(name));
        let run = |upper: &str, lower: &str| {
            std::fs::write(&paths[0], upper).unwrap();
            std::fs::write(&paths[1], lower).unwrap();
            read(&[], Some(&paths), &Layout::default())
        };
        let got = run("晚 风 摇 树\n\n天\n", "晨 露 润 花 \n\n地\n\n").unwrap();
        assert_eq!(got.pairs.iter().map(|pair| pair.place.line).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((got.pairs[0].upper.as_str(), got.pairs[0].lower.as_str()), ("晚 风 摇 树", "晨 露 润 花 "));
        let got = run("天\n风\n山", "地\n\n水").unwrap();
        assert_eq!((got.pairs.len(), got.broken[0].fact.as_str(), got.broken[0].place.line), (2, "no 下联", 2));
        let got = run("天高\n风清\n\n", "地厚\n月白\n山青\n").unwrap();
        assert_eq!((got.pairs.len(), got.broken[0].fact.as_str(), got.broken[0].place.line), (2, "no 上联", 3));
        let got = run("天高\n风清", "地厚\n月白\n\n \n").unwrap();
        assert_eq!((got.pairs.len(), got.broken.len()), (2, 0), "empty lines at the end of one");
        let error = run("天\n风\n", "地\n").unwrap_err();
        assert!(
            error.to_string().contains("in.txt has 2 lines, ") && error.to_string().ends_with("out.txt has 1"),
            "{error}"
        );
    }
}
