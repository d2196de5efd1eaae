//! `dataset_info.json`: from the name of a data set to its file and columns.
//!
//! One trap of LlamaFactory's is reproduced on purpose: where an entry has `columns`, every column it does not list is
//! unset and does not keep its default. `{"prompt": "instruction", "response": "output"}` therefore leaves `input` out.
//! The loader warns when text is left out that way.

use crate::{
    dataset::summary::Warning,
    error::{Error, Result, io_reason},
};
use serde_json::{Map, Value};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The registry's file name.
pub const FILE: &str = "dataset_info.json";

/// The keys of `columns` that are followed.
const COLUMNS: [&str; 5] = ["prompt", "query", "response", "system", "history"];

/// Keys of `columns` that LlamaFactory has and this program does not.
const OTHER_COLUMNS: [&str; 8] = ["messages", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"];

/// Keys of an entry that are refused wherever they have a value, with what to do instead (English, Chinese).
const REFUSED: [(&str, &str, &str); 8] = [
    ("hf_hub_url", DOWNLOAD.0, DOWNLOAD.1),
    ("ms_hub_url", DOWNLOAD.0, DOWNLOAD.1),
    ("om_hub_url", DOWNLOAD.0, DOWNLOAD.1),
    ("script_url", DOWNLOAD.0, DOWNLOAD.1),
    ("cloud_file_name", DOWNLOAD.0, DOWNLOAD.1),
    ("subset", LOCAL.0, LOCAL.1),
    ("folder", LOCAL.0, LOCAL.1),
    ("ranking", "only supervised rows are trained: one `response` a row", "仅支持监督微调：每行一个 response"),
];
const DOWNLOAD: (&str, &str) = (
    "download the data to a .json or .jsonl file and name it in file_name",
    "请将数据下载为 .json 或 .jsonl 文件，并写入 file_name",
);
const LOCAL: (&str, &str) = ("remove it: a local file has no such parts", "请删除该键：本地文件没有此项");

/// Rows that `num_samples` may ask for: more than any data set of this kind has, and few enough to hold.
const MOST_SAMPLES: usize = 10_000_000;

/// Keys of an entry that are read, or have no effect on an Alpaca file.
const KNOWN: [&str; 6] = ["file_name", "num_samples", "formatting", "columns", "split", "tags"];

/// Which column of the file is what. `None`: unset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Default `instruction`.
    pub prompt: Option<String>,
    /// Default `input`.
    pub query: Option<String>,
    /// Default `output`.
    pub response: Option<String>,
    /// Unset by default.
    pub system: Option<String>,
    /// Unset by default.
    pub history: Option<String>,
    /// The entry lists its columns itself.
    pub explicit: bool,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            prompt: Some("instruction".into()),
            query: Some("input".into()),
            response: Some("output".into()),
            system: None,
            history: None,
            explicit: false,
        }
    }
}

impl Columns {
    /// LlamaFactory's name of every column and what it is mapped to.
    pub fn named(&self) -> [(&'static str, Option<&String>); 5] {
        [
            ("prompt", self.prompt.as_ref()),
            ("query", self.query.as_ref()),
            ("response", self.response.as_ref()),
            ("system", self.system.as_ref()),
            ("history", self.history.as_ref()),
        ]
    }
}

/// A registered data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its file, which exists.
    pub path: PathBuf,
    /// Its columns.
    pub columns: Columns,
    /// Take so many random rows of it, more than once where it has too few.
    pub num_samples: Option<usize>,
    /// What looks like a slip in the entry.
    pub warnings: Vec<Warning>,
}

/// Looks `names` up in `dir/dataset_info.json`, in their order. A name that it lacks may be the path of a file.
///
/// Errors: no registry; a name that is not in it (the nearest are listed); an entry of a kind that is not read.
pub fn look_up(dir: &Path, names: &[String]) -> Result<Vec<Entry>> {
    if dir.to_str().is_some_and(|dir| dir == "ONLINE" || dir.starts_with("REMOTE:")) {
        let error = Error::input(format!("dataset_dir = \"{}\" (data sets of a hub) is not supported", dir.display()));
        return Err(error.hint(DOWNLOAD.0).hint_zh(DOWNLOAD.1));
    }
    let path = dir.join(FILE);
    let registry = read(dir)?;
    let registered = |name: &String| {
        let registry = registry.as_ref().ok_or_else(|| missing(dir))?;
        let entry = registry.get(name).ok_or_else(|| unknown(&path, name, registry))?;
        let place = format!("{}: \"{name}\"", path.display());
        entry_of(dir, name, entry).map_err(|err| err.at(place))
    };
    let known = |name: &String| registry.as_ref().is_some_and(|registry| registry.contains_key(name));
    let entry = |name: &String| match is_file(name) && !known(name) {
        true => of_file(Path::new(name)),
        false => registered(name),
    };
    names.iter().map(entry).collect()
}

/// Whether a name that is not registered means a file of data.
fn is_file(name: &str) -> bool {
    check_file(Path::new(name)).is_ok()
}

/// A file by itself: as the `dataset_info.json` beside it has it, else with the usual columns.
fn of_file(path: &Path) -> Result<Entry> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let registry = read(dir)?.unwrap_or_default();
    match registry.iter().find(|(_, entry)| entry["file_name"] == *file_name) {
        Some((name, entry)) => entry_of(dir, name, entry),
        None => Ok(Entry {
            name: path.display().to_string(),
            path: path.to_owned(),
            columns: Columns::default(),
            num_samples: None,
            warnings: vec![],
        }),
    }
}

/// The registry of `dir`, `None` where there is none.
pub fn read(dir: &Path) -> Result<Option<Map<String, Value>>> {
    let path = dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => {
            return Err(Error::file(&path, format!("cannot read: {}", io_reason(&err)))
                .hint("dataset_dir is a folder with a readable dataset_info.json")
                .hint_zh("dataset_dir 应为含有可读的 dataset_info.json 的目录"));
        }
    };
    let registry = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text));
    registry.map(Some).map_err(|err| {
        Error::file(&path, format!("not a JSON object of data sets: {err}"))
            .hint("it looks like {\"NAME\": {\"file_name\": \"rows.json\"}}")
            .hint_zh("其内容形如 {\"名称\": {\"file_name\": \"rows.json\"}}")
    })
}

fn entry_of(dir: &Path, name: &str, entry: &Value) -> Result<Entry> {
    let Value::Object(entry) = entry else { return Err(Error::input("not an object")) };
    refuse_unsupported(entry)?;
    let Some(Value::String(file_name)) = entry.get("file_name") else {
        return Err(Error::input("`file_name` is missing or not a string")
            .hint("name a .json or .jsonl file beside dataset_info.json")
            .hint_zh("请写明与 dataset_info.json 同一目录下的 .json 或 .jsonl 文件"));
    };
    let path = dir.join(file_name);
    check_file(&path)?;
    let (columns, num_samples) = (columns_of(entry)?, num_samples(entry)?);
    Ok(Entry { name: name.into(), path, columns, num_samples, warnings: slips(name, entry) })
}

fn num_samples(entry: &Map<String, Value>) -> Result<Option<usize>> {
    match entry.get("num_samples") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=MOST_SAMPLES).contains(&n) => Ok(Some(n)),
            Some(n) if n > 0 => Err(Error::input(format!("`num_samples` is {n}, at most {MOST_SAMPLES} are drawn"))
                .hint("correct it, or remove it to take all rows")
                .hint_zh(format!("请改为不大于 {MOST_SAMPLES} 的整数，或删除以使用全部数据"))),
            _ => Err(Error::input("`num_samples` must be a whole number of at least 1")
                .hint("correct it, or remove it to take all rows")
                .hint_zh("请改为不小于 1 的整数，或删除以使用全部数据")),
        },
    }
}

fn refuse_unsupported(entry: &Map<String, Value>) -> Result<()> {
    for (key, hint, hint_zh) in REFUSED {
        if entry.get(key).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false))) {
            return Err(Error::input(format!("`{key}` is not supported")).hint(hint).hint_zh(hint_zh));
        }
    }
    match entry.get("formatting").map(|value| value.as_str().unwrap_or("?")) {
        None | Some("alpaca") => {}
        Some(other) => {
            return Err(Error::input(format!("`formatting`: {other:?} is not supported yet"))
                .hint("only \"alpaca\" is: rows with instruction, input and output (and history for earlier turns)")
                .hint_zh("目前仅支持 \"alpaca\"：每行含 instruction、input、output（多轮对话用 history）"));
        }
    }
    match entry.get("split").map(|value| value.as_str().unwrap_or("?")) {
        None | Some("train") => Ok(()),
        Some(other) => Err(Error::input(format!("`split`: {other:?} is not supported")).hint(LOCAL.0).hint_zh(LOCAL.1)),
    }
}

fn columns_of(entry: &Map<String, Value>) -> Result<Columns> {
    let Some(columns) = entry.get("columns") else { return Ok(Columns::default()) };
    let Value::Object(columns) = columns else { return Err(Error::input("`columns` is not an object")) };
    columns.iter().filter(|(_, column)| !column.is_null()).try_for_each(|(key, _)| check_column_key(key))?;
    let column = |key: &str| match columns.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.clone()).filter(|name| !name.is_empty())),
        Some(_) => Err(Error::input(format!("`columns`: `{key}` is not a string"))),
    };
    Ok(Columns {
        prompt: column("prompt")?,
        query: column("query")?,
        response: column("response")?,
        system: column("system")?,
        history: column("history")?,
        explicit: true,
    })
}

/// LlamaFactory passes over a misspelt key, and the column it meant stays unset.
fn check_column_key(key: &str) -> Result<()> {
    if COLUMNS.contains(&key) {
        return Ok(());
    }
    if OTHER_COLUMNS.contains(&key) {
        return Err(Error::input(format!("`columns`: `{key}` is not supported yet"))
            .hint(format!("remove it; supported are {}", COLUMNS.join(", ")))
            .hint_zh(format!("请删除；支持的有 {}", COLUMNS.join("、"))));
    }
    let near = nearest(key, COLUMNS)[0];
    Err(Error::input(format!("`columns`: no such column: `{key}`"))
        .hint(format!("did you mean `{near}`? The names are {}", COLUMNS.join(", ")))
        .hint_zh(format!("是否应为 `{near}`？可用的有 {}", COLUMNS.join("、"))))
}

fn check_file(path: &Path) -> Result<()> {
    let hint = |error: Error| {
        error
            .hint("`file_name` is relative to dataset_dir and names one .json or .jsonl file")
            .hint_zh("file_name 相对于 dataset_dir，须为单个 .json 或 .jsonl 文件")
    };
    if path.is_dir() {
        return Err(hint(Error::input(format!("`file_name`: {} is a folder: not supported yet", path.display()))));
    }
    if !path.is_file() {
        return Err(hint(Error::input(format!("`file_name`: {} does not exist", path.display()))));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json" | "jsonl") => Ok(()),
        _ => Err(hint(Error::input(format!("`file_name`: {}: this type is not supported yet", path.display())))),
    }
}

/// LlamaFactory passes over unknown keys in silence, so a misspelt one takes no effect there either.
fn slips(name: &str, entry: &Map<String, Value>) -> Vec<Warning> {
    let is_known = |key: &str| KNOWN.contains(&key) || REFUSED.iter().any(|&(refused, ..)| refused == key);
    let unknown = entry.keys().filter(|key| !is_known(key));
    unknown
        .map(|key| Warning {
            en: format!("{FILE}: \"{name}\": `{key}` is not known and has no effect"),
            zh: format!("{FILE}：\"{name}\"：未知的键 `{key}`，不起作用"),
        })
        .collect()
}

fn missing(dir: &Path) -> Error {
    let command = format!("couplet-train data prepare PAIRS.txt --out {} --name NAME", dir.display());
    Error::file(&dir.join(FILE), "does not exist")
        .hint(format!("dataset_dir is the folder that holds it; from lines of two sides it is made by\n  {command}"))
        .hint_zh(format!("dataset_dir 应为其所在目录；若数据为每行“上联 下联”的文本，可用以下命令生成：\n  {command}"))
}

fn unknown(path: &Path, name: &str, registry: &Map<String, Value>) -> Error {
    let names = nearest(name, registry.keys().map(String::as_str));
    let names = names[..names.len().min(3)].join(", ");
    let dir = path.parent().unwrap_or(Path::new(".")).display();
    let command = format!("couplet-train data prepare PAIRS.txt --out {dir} --name {name}");
    Error::file(path, format!("no data set named \"{name}\""))
        .hint(format!(
            "registered (nearest first): {names}; or add an entry {{\"{name}\": {{\"file_name\": \"….json\"}}}}; or make \
             it from lines of two sides:\n  {command}"
        ))
        .hint_zh(format!(
            "已登记的相近名称：{names}；或新增 {{\"{name}\": {{\"file_name\": \"….json\"}}}}；\
             或由每行“上联 下联”的文本生成：\n  {command}"
        ))
}

/// `names`, the most similar to `name` first.
fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.into_iter().collect();
    // Comparing takes time with the square of the length, and the beginning tells names apart.
    let begin = |text: &str| text.chars().take(100).collect::<String>();
    names.sort_by_cached_key(|other| {
        let likeness = strsim::jaro_winkler(&begin(name), &begin(other));
        std::cmp::Reverse((likeness * 1e9) as u64)
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up_in(registry: &str, name: &str) -> Result<Vec<Entry>> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), registry).unwrap();
        fs::write(dir.path().join("rows.json"), "[]").unwrap();
        fs::write(dir.path().join("rows.csv"), "").unwrap();
        fs::create_dir(dir.path().join("parts")).unwrap();
        look_up(dir.path(), &[name.into()])
    }

    #[test]
    fn listed_columns_unset_the_others() {
        for (columns, want) in [
            ("", Columns::default()),
            (
                r#", "columns": {"prompt": "问", "response": "output"}"#,
                Columns {
                    prompt: Some("问".into()),
                    query: None,
                    response: Some("output".into()),
                    explicit: true,
                    ..Columns::default()
                },
            ),
        ] {
            let registry = format!(r#"{{"a": {{"file_name": "rows.json"{columns}}}}}"#);
            let entries = look_up_in(&registry, "a").unwrap();
            assert_eq!(entries[0].columns, want, "{registry}");
            assert!(entries[0].path.ends_with("rows.json") && entries[0].warnings.is_empty());
        }
    }

    #[test]
    fn entries_that_cannot_be_followed_are_refused_by_name() {
        for (entry, want) in [
            (r#"{"hf_hub_url": "x/y", "file_name": "rows.json"}"#, "`hf_hub_url` is not supported"),
            (r#"{"script_url": "x"}"#, "`script_url` is not supported"),
            (r#"{"cloud_file_name": "s3://x"}"#, "`cloud_file_name` is not supported"),
            (r#"{"file_name": "rows.json", "num_samples": 0}"#, "`num_samples` must be a whole number of at least 1"),
            (
                r#"{"file_name": "rows.json", "num_samples": 2147483647}"#,
                "`num_samples` is 2147483647, at most 10000000 are drawn",
            ),
            (r#"{"file_name": "rows.json", "ranking": true}"#, "`ranking` is not supported"),
            (r#"{"file_name": "rows.json", "split": "test"}"#, "`split`: \"test\" is not supported"),
            (
                r#"{"file_name": "rows.json", "formatting": "sharegpt"}"#,
                "`formatting`: \"sharegpt\" is not supported yet",
            ),
            (r#"{"file_name": "rows.json", "columns": {"tools": "t"}}"#, "`columns`: `tools` is not supported yet"),
            (r#"{"file_name": "rows.json", "columns": {"promt": "p"}}"#, "`columns`: no such column: `promt`"),
            (r#"{"file_name": "parts"}"#, "is a folder: not supported yet"),
            (r#"{"file_name": "rows.csv"}"#, "rows.csv: this type is not supported yet"),
            (r#"{"file_name": "none.json"}"#, "none.json does not exist"),
            (r#"{}"#, "`file_name` is missing or not a string"),
        ] {
            let error = look_up_in(&format!(r#"{{"a": {entry}}}"#), "a").unwrap_err();
            let text = error.to_string();
            assert!(text.contains("dataset_info.json: \"a\": ") && text.ends_with(want), "{entry}: {text}");
            assert!(error.hint_text(true).is_some_and(|zh| Some(zh) != error.hint_text(false)), "{entry}");
        }
    }

    #[test]
    fn unknown_names_and_keys_are_pointed_at() {
        let registry =
            r#"{"poems": {}, "couplets_valid": {}, "couplets_train": {"file_name": "rows.json", "file_sha1": "x"}}"#;
        let error = look_up_in(registry, "couplet_train").unwrap_err();
        assert!(error.to_string().ends_with("dataset_info.json: no data set named \"couplet_train\""), "{error}");
        let hint = error.hint_text(false).unwrap();
        assert!(hint.starts_with("registered (nearest first): couplets_train, couplets_valid, poems;"), "{hint}");

        let warnings = &look_up_in(registry, "couplets_train").unwrap()[0].warnings;
        let want = "dataset_info.json: \"couplets_train\": `file_sha1` is not known and has no effect";
        assert_eq!(warnings.iter().map(|warning| warning.en.as_str()).collect::<Vec<_>>(), [want]);
    }

    #[test]
    fn a_missing_registry_says_how_to_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = look_up(dir.path(), &["a".into()]).unwrap_err();
        assert!(error.to_string().ends_with("dataset_info.json: does not exist"), "{error}");
        assert!(error.hint_text(false).unwrap().contains("couplet-train data prepare"));

        let error = look_up(Path::new("REMOTE:me/data"), &["a".into()]).unwrap_err();
        assert_eq!(error.to_string(), "dataset_dir = \"REMOTE:me/data\" (data sets of a hub) is not supported");
    }
}
