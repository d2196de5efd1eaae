//! `dataset_info.json`: from the name of a data set to its files, and to what its columns are called.

use crate::{
    config::explained_if_full_width,
    dataset::{
        cell::Cell,
        files::{DataFile, Listed, files, is_data, is_read},
        input::read_text,
        shape::{Formatting, Shape, nearest},
        summary::Warning,
    },
    error::{Error, Result},
};
use serde_json::{Map, Value};
use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// The registry's file name.
pub const FILE: &str = "dataset_info.json";

/// Keys of an entry that are refused wherever they have a value, with what to do instead (English, Chinese).
const REFUSED: [(&str, &str, &str); 6] = [
    ("hf_hub_url", HUB.0, HUB.1),
    ("ms_hub_url", HUB.0, HUB.1),
    ("om_hub_url", HUB.0, HUB.1),
    ("script_url", SCRIPT.0, SCRIPT.1),
    ("cloud_file_name", CLOUD.0, CLOUD.1),
    ("ranking", "only supervised rows are trained: one `response` a row", "仅支持监督微调：每行一个 response"),
];
const HUB: (&str, &str) = (
    "data sets are local files: download it (`hf download --repo-type dataset NAME`, `modelscope download --dataset NAME`), name a file or a folder of it in `file_name`, and remove this key",
    "数据集须为本地文件：请先下载（`hf download --repo-type dataset 名称` 或 `modelscope download --dataset 名称`），将其中的文件或目录写入 file_name，并删除该键",
);
const HUB_ID: (&str, &str) = (
    "data sets are local files: one of a hub is downloaded first (`hf download --repo-type dataset NAME`, `modelscope download --dataset NAME`), and a file of it named by its path",
    "数据集须为本地文件：平台上的数据集请先下载（`hf download --repo-type dataset 名称` 或 `modelscope download --dataset 名称`），再写明其中文件的路径",
);
const SCRIPT: (&str, &str) = (
    "no program of a data set is run: save its rows (`datasets.load_dataset(…).to_json('rows.jsonl')`) and name them in `file_name`",
    "不会运行数据集自带的程序：请先保存其数据（`datasets.load_dataset(…).to_json('rows.jsonl')`），并写入 file_name",
);
const CLOUD: (&str, &str) = (
    "copy the file beside dataset_info.json and name it in `file_name`",
    "请将文件复制到 dataset_info.json 旁，并写入 file_name",
);

/// Rows that `num_samples` may ask for: more than any data set of this kind has, and few enough to hold.
const MOST_SAMPLES: usize = 10_000_000;

/// Keys of an entry that are read.
const KNOWN: [&str; 6] = ["file_name", "num_samples", "formatting", "columns", "split", "tags"];

/// Keys of an entry that mean something for data sets of a hub, and nothing for files.
const OF_HUBS: [&str; 2] = ["subset", "folder"];

/// A registered data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What `file_name` names: a file, or a folder.
    pub path: PathBuf,
    /// The file, or those of the folder; they exist.
    pub files: Vec<DataFile>,
    /// Which column is what.
    pub shape: Shape,
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
        return Err(error.hint(HUB.0).hint_zh(HUB.1));
    }
    let path = dir.join(FILE);
    let registry = read(dir)?;
    let of = |name: &String| match registry.as_ref().map(|registry| (registry, registry.get(name))) {
        Some((_, Some(entry))) => placed_entry(dir, name, entry),
        _ if is_file(name) => of_file(Path::new(name)),
        of if is_path(name) => Err(no_file(dir, name, of.map(|(registry, _)| registry))),
        Some((registry, None)) => Err(unknown(&path, name, registry)),
        None => Err(missing(dir)),
    };
    names.iter().map(of).collect()
}

/// Whether a name that is not registered means a file; one that is not read is refused by its type.
fn is_file(name: &str) -> bool {
    let path = Path::new(name);
    (path.extension().is_some() || is_path(name)) && path.is_file()
}

/// Whether a name looks like the path of a file.
fn is_path(name: &str) -> bool {
    name.contains(['/', '\\']) || is_data(Path::new(name))
}

/// A file by itself: as the `dataset_info.json` beside it has it, else with the usual columns.
fn of_file(path: &Path) -> Result<Entry> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let registry = read(dir)?.unwrap_or_default();
    match registry.iter().find(|(_, entry)| entry["file_name"] == *file_name) {
        Some((name, entry)) => placed_entry(dir, name, entry),
        None => Ok(Entry {
            name: path.display().to_string(),
            path: path.to_owned(),
            files: files(path)?.files,
            shape: Shape::default(),
            num_samples: None,
            warnings: vec![],
        }),
    }
}

/// The registry of `dir`, `None` where there is none.
pub fn read(dir: &Path) -> Result<Option<Map<String, Value>>> {
    let path = dir.join(FILE);
    if fs::metadata(&path).is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    serde_json::from_str(&read_text(&path)?).map(Some).map_err(|err| {
        Error::file(&path, format!("not a JSON object of data sets: {err}"))
            .hint("it looks like {\"NAME\": {\"file_name\": \"rows.json\"}}")
            .hint_zh("其内容形如 {\"名称\": {\"file_name\": \"rows.json\"}}")
    })
}

/// An entry; what is wrong with it is told with its name.
fn placed_entry(dir: &Path, name: &str, entry: &Value) -> Result<Entry> {
    let place = format!("{}: \"{name}\"", dir.join(FILE).display());
    entry_of(dir, name, entry).map_err(|err| err.at(place))
}

fn entry_of(dir: &Path, name: &str, entry: &Value) -> Result<Entry> {
    let Value::Object(entry) = entry else {
        let kind = Cell::from(entry.clone()).kind();
        return Err(Error::input(format!("{kind}, not an object"))
            .hint("an entry looks like {\"file_name\": \"rows.json\"}")
            .hint_zh("每一项形如 {\"file_name\": \"rows.json\"}"));
    };
    refuse_unsupported(entry)?;
    let Some(Value::String(file_name)) = entry.get("file_name") else {
        return Err(Error::input("`file_name` is missing or not a string")
            .hint("name a file, or a folder of files, beside dataset_info.json")
            .hint_zh("请写明 dataset_info.json 旁的文件或目录"));
    };
    let shape = Shape::of(entry)?;
    let path = dir.join(file_name);
    let (Listed { files, passed_over }, num_samples) = (files(&path)?, num_samples(entry)?);
    let mut warnings = slips(name, entry, &shape);
    if !passed_over.is_empty() {
        let (path, en, zh) = (path.display(), passed_over.join(", "), passed_over.join("、"));
        warnings.push(Warning {
            en: format!("{path}: not data, so passed over: {en}"),
            zh: format!("{path}：以下文件不是数据，已略过：{zh}"),
        });
    }
    Ok(Entry { name: name.into(), path, files, shape, num_samples, warnings })
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
    match entry.get("split").map(|value| value.as_str().unwrap_or("?")) {
        None | Some("train") => Ok(()),
        Some(other) => Err(Error::input(format!("`split`: {other:?} is not supported: a file has one part, `train`"))
            .hint("register the other part as a data set of its own; `max_samples` takes the first rows")
            .hint_zh("请将其他部分另行登记为数据集；只取前若干行可用 max_samples")),
    }
}

/// LlamaFactory passes over unknown keys in silence, so a misspelt one takes no effect there either.
fn slips(name: &str, entry: &Map<String, Value>, shape: &Shape) -> Vec<Warning> {
    let place = format!("{FILE}: \"{name}\"");
    let is_known = |key: &str| KNOWN.contains(&key) || REFUSED.iter().any(|&(refused, ..)| refused == key);
    let mut slips = vec![];
    for (key, value) in entry.iter().filter(|(key, _)| !is_known(key)) {
        match OF_HUBS.contains(&key.as_str()) {
            true if value.is_null() => {}
            true => slips.push(Warning {
                en: format!("{place}: `{key}` is for data sets of a hub and has no effect on files"),
                zh: format!("{place}：`{key}` 用于数据平台上的数据集，对文件不起作用"),
            }),
            false => slips.push(Warning {
                en: format!("{place}: `{key}` is not known and has no effect"),
                zh: format!("{place}：未知的键 `{key}`，不起作用"),
            }),
        }
    }
    let idle = shape.idle_columns(entry);
    if !idle.is_empty() {
        slips.push(Warning {
            en: format!("{place}: `columns` that its `formatting` does not read: {}", idle.join(", ")),
            zh: format!("{place}：columns 中有该 formatting 不读取的项：{}", idle.join("、")),
        });
    }
    if shape.formatting == Formatting::OpenAi {
        slips.push(Warning {
            en: format!(
                "{place}: under `formatting: openai` LlamaFactory adds to the system text: \"detailed thinking off\" in rows without tools (unless it says how to think), a newline in rows with tools; here nothing is added, so token ids differ"
            ),
            zh: format!(
                "{place}：`formatting: openai` 下 LlamaFactory 会在系统提示后添加内容：无工具的行添加 \"detailed thinking off\"（已写明思考方式者除外），有工具的行添加换行；此处不添加，故词元不同"
            ),
        });
    }
    slips
}

/// What looks like a path, and no file is there.
fn no_file(dir: &Path, name: &str, registry: Option<&Map<String, Value>>) -> Error {
    let path = Path::new(name);
    let fact = if path.is_dir() { "is a folder, and a file was expected" } else { "does not exist" };
    let err = Error::file(path, fact);
    let err = match registry {
        Some(_) => err.and(format!("nor has {} a data set of that name", dir.join(FILE).display())),
        None => err,
    };
    if name.starts_with("~/") {
        return err
            .hint("`~` is replaced by a shell only: write the whole path")
            .hint_zh("`~` 只由 shell 替换：请写完整路径");
    }
    if !path.is_absolute() && dir.join(path).is_file() {
        let beside = dir.join(path);
        return err
            .hint(format!("there is {}: a path begins in the working directory", beside.display()))
            .hint_zh(format!("存在 {}：路径应从当前工作目录写起", beside.display()));
    }
    let (looked, looked_zh) = match is_hub_id(path) {
        true => (HUB_ID.0.to_owned(), HUB_ID.1.to_owned()),
        false => looked_for(path),
    };
    match registry.map(|registry| nearest_names(name, registry)).filter(|names| !names.is_empty()) {
        Some(names) if !is_data(path) => err
            .hint(format!("registered (nearest first): {names}; {looked}"))
            .hint_zh(format!("已登记的相近名称：{names}；{looked_zh}")),
        _ => err.hint(looked).hint_zh(looked_zh),
    }
}

/// Whether a path is rather the name of a data set on a hub, `user/name`.
fn is_hub_id(path: &Path) -> bool {
    let is_word = |part: Component| matches!(part, Component::Normal(_));
    let two_words = path.components().count() == 2 && path.components().all(is_word);
    two_words && !is_data(path) && path.parent().is_some_and(|user| !user.is_dir())
}

/// Where a file was looked for, and what lies there.
fn looked_for(path: &Path) -> (String, String) {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let whole = std::path::absolute(if folder == Path::new("") { Path::new(".") } else { folder });
    let whole = whole.unwrap_or_else(|_| folder.into());
    let near = files_like(path, folder);
    let (more, more_zh) = match near.as_slice() {
        _ if !whole.is_dir() => (", which is no folder".into(), "（该目录不存在）".into()),
        [] => (String::new(), String::new()),
        near => (
            format!("; files of data there (nearest first): {}", near.join(", ")),
            format!("；其中相近的数据文件：{}", near.join("、")),
        ),
    };
    let whole = whole.display();
    (format!("it was looked for in {whole}{more}"), format!("查找目录：{whole}{more_zh}"))
}

/// The three files that are read in a folder whose names are most like that of `path`.
fn files_like(path: &Path, folder: &Path) -> Vec<String> {
    let name_of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let listed = fs::read_dir(Path::new(".").join(folder)).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = listed.filter(|path| is_read(path) && !path.ends_with(FILE));
    let mut names: Vec<String> = files.map(|path| name_of(&path)).collect();
    names.sort(); // the system lists them as it likes
    let near = nearest(&name_of(path), names.iter().map(String::as_str)).into_iter().take(3);
    near.map(|name| folder.join(name).display().to_string()).collect()
}

fn missing(dir: &Path) -> Error {
    let command = format!("couplet-train data prepare PAIRS.txt --out {} --name NAME", dir.display());
    Error::file(&dir.join(FILE), "does not exist")
        .hint(format!("dataset_dir is the folder that holds it; from lines of two sides it is made by\n  {command}"))
        .hint_zh(format!("dataset_dir 应为其所在目录；若数据为每行“上联 下联”的文本，可用以下命令生成：\n  {command}"))
}

/// The three registered names that are most like `name`.
fn nearest_names(name: &str, registry: &Map<String, Value>) -> String {
    let names = nearest(name, registry.keys().map(String::as_str));
    names[..names.len().min(3)].join(", ")
}

fn unknown(path: &Path, name: &str, registry: &Map<String, Value>) -> Error {
    if name.contains(['，', '、']) {
        return explained_if_full_width(Error::file(path, format!("no data set named \"{name}\"")), name);
    }
    let names = nearest_names(name, registry);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up_in(registry: &str, name: &str) -> Result<Vec<Entry>> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), registry).unwrap();
        fs::write(dir.path().join("rows.json"), "[]").unwrap();
        fs::write(dir.path().join("rows.txt"), "").unwrap();
        fs::create_dir(dir.path().join("parts")).unwrap();
        fs::write(dir.path().join("parts/rows.jsonl"), "{}").unwrap();
        look_up(dir.path(), &[name.into()])
    }

    #[test]
    fn an_entry_is_its_files_and_their_shape() {
        let registry = r#"{"a": {"file_name": "parts", "formatting": "sharegpt", "subset": null}}"#;
        let entry = look_up_in(registry, "a").unwrap().remove(0);
        assert!(entry.path.ends_with("parts") && entry.files[0].path.ends_with("parts/rows.jsonl"));
        assert_eq!((entry.files.len(), entry.shape.formatting), (1, Formatting::Sharegpt));
        assert!(entry.warnings.is_empty());

        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("hub")).unwrap();
        for name in ["hub/README.md", "hub/.DS_Store", "hub/rows.jsonl"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::write(dir.path().join(FILE), r#"{"a": {"file_name": "hub"}}"#).unwrap();
        let entry = look_up(dir.path(), &["a".into()]).unwrap().remove(0);
        assert_eq!((entry.files.len(), entry.warnings.len()), (1, 1));
        assert!(entry.warnings[0].en.ends_with("hub: not data, so passed over: README.md"), "{:?}", entry.warnings);
    }

    #[test]
    fn what_has_no_effect_is_said() {
        for (entry, want) in [
            (r#""file_sha1": "x""#, "`file_sha1` is not known and has no effect"),
            (r#""subset": "a""#, "`subset` is for data sets of a hub and has no effect on files"),
            (r#""folder": "a""#, "`folder` is for data sets of a hub and has no effect on files"),
            (
                r#""columns": {"prompt": "a", "response": "b", "messages": "c"}"#,
                "`columns` that its `formatting` does not read: messages",
            ),
        ] {
            let registry = format!(r#"{{"a": {{"file_name": "rows.json", {entry}}}}}"#);
            let warnings = &look_up_in(&registry, "a").unwrap()[0].warnings;
            assert_eq!(warnings.len(), 1, "{entry}");
            assert_eq!(warnings[0].en, format!("dataset_info.json: \"a\": {want}"));
            assert_ne!(warnings[0].en, warnings[0].zh);
        }
        let openai = r#"{"a": {"file_name": "rows.json", "formatting": "openai"}}"#;
        assert!(look_up_in(openai, "a").unwrap()[0].warnings[0].en.contains("detailed thinking off"));
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
            (
                r#"{"file_name": "rows.json", "split": "test"}"#,
                "`split`: \"test\" is not supported: a file has one part, `train`",
            ),
            (r#"{"file_name": "rows.json", "formatting": "chat"}"#, "`formatting`: \"chat\" is not known"),
            (r#"{"file_name": "rows.json", "columns": {"promt": "p"}}"#, "`columns`: no such column: `promt`"),
            (r#"{"file_name": "rows.txt"}"#, "rows.txt: plain text has no questions and answers"),
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
    fn a_registry_that_cannot_be_read_and_entries_beside_a_file_are_placed() {
        let dir = tempfile::tempdir().unwrap();
        let rows = dir.path().join("rows.json");
        fs::write(&rows, "[]").unwrap();
        let broken = r#"{"b": [], "a": {"file_name": "rows.json", "columns": {"promt": "p"}}}"#;
        for (registry, name, want) in [
            (broken.as_bytes(), rows.to_str().unwrap(), "dataset_info.json: \"a\": `columns`: no such column: `promt`"),
            (broken.as_bytes(), "b", "dataset_info.json: \"b\": a list, not an object"),
            (b"{\"\xb6\xd4\xc1\xaa\": {}}", "b", "dataset_info.json: not UTF-8 at byte 2 (line 1)"),
            (b"[]", "b", "dataset_info.json: not a JSON object of data sets: "),
        ] {
            fs::write(dir.path().join(FILE), registry).unwrap();
            let error = look_up(dir.path(), &[name.into()]).unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
            assert!(error.hint_text(false).is_some() && error.hint_text(true) != error.hint_text(false), "{want}");
        }
    }

    #[test]
    fn what_looks_like_a_path_is_told_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["pairs.jsonl", "pairs.csv", "other.json", "README.md", "pairs.txt", "pairs.tar.gz"] {
            fs::write(at(name), "").unwrap();
        }
        fs::create_dir(at("empty")).unwrap();
        fs::write(at(FILE), r#"{"zh/pairs_train": {}}"#).unwrap();
        let here = dir.path().display().to_string();
        for (name, fact, hint) in [
            (
                at("pairs.json"),
                "does not exist",
                format!("{here}; files of data there (nearest first): {}", at("pairs.jsonl")),
            ),
            (at("empty/pairs.json"), "does not exist", at("empty")),
            (at("none/pairs.json"), "does not exist", format!("{}, which is no folder", at("none"))),
            (at("empty"), "is a folder, and a file was expected", at("empty")),
            ("~/pairs.json".into(), "does not exist", "`~` is replaced by a shell only".into()),
            ("pairs.csv".into(), "does not exist", format!("there is {}", at("pairs.csv"))),
            ("./none.txt".into(), "does not exist", "it was looked for in ".into()),
            (
                "zh/pairs".into(),
                "does not exist",
                "registered (nearest first): zh/pairs_train; data sets are local files: one of a hub is downloaded first".into(),
            ),
            (
                "../zh/pairs".into(),
                "does not exist",
                "registered (nearest first): zh/pairs_train; it was looked for in ".into(),
            ),
        ] {
            let error = look_up(dir.path(), std::slice::from_ref(&name)).unwrap_err();
            let want = format!("{name}: {fact}; nor has {} a data set of that name", at(FILE));
            assert_eq!(error.to_string(), want);
            let [en, zh] = [false, true].map(|zh| error.hint_text(zh).unwrap());
            assert!(en.contains(&hint) && en != zh, "{name}: {en}");
        }
        for name in [at("pairs.json"), "user/name".into()] {
            let error = look_up(&dir.path().join("empty"), std::slice::from_ref(&name)).unwrap_err();
            assert_eq!(error.to_string(), format!("{name}: does not exist"), "without a registry");
            assert!(!error.hint_text(false).unwrap().contains("no folder"), "{name}");
        }
        let error = look_up(dir.path(), &["a，b".into()]).unwrap_err();
        assert_eq!(error.hint_text(false), Some("full-width `，`: type `,`"));
    }

    #[test]
    fn a_registry_that_is_far_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join(FILE)).unwrap().set_len(20 << 30).unwrap(); // sparse
        let error = look_up(dir.path(), &["a".into()]).unwrap_err();
        assert!(error.to_string().ends_with("dataset_info.json: is larger than 16 MB"), "{error}");
        assert!(error.hint_text(false).is_some() && error.hint_text(true) != error.hint_text(false));
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
