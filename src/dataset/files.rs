//! What `file_name` names: one file, or a folder of files of one type.

use crate::error::{Error, Result, io_reason};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// An array of objects, or one object a line.
    Json,
    /// Fields between commas, a header first.
    Csv,
    /// Fields between tabs, a header first.
    Tsv,
    /// Columns; read by a program that is built for it.
    Parquet,
}

/// A file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// It exists.
    pub path: PathBuf,
    /// By its name.
    pub format: FileFormat,
    /// It is packed.
    pub gzip: bool,
}

/// Endings of the names of data files, `.gz` aside, with the format of those that are read.
const ENDINGS: [(&str, Option<FileFormat>); 7] = [
    ("json", Some(FileFormat::Json)),
    ("jsonl", Some(FileFormat::Json)),
    ("csv", Some(FileFormat::Csv)),
    ("tsv", Some(FileFormat::Tsv)),
    ("parquet", Some(FileFormat::Parquet)),
    ("txt", None),
    ("arrow", None),
];

/// The ending of a data file's name, and whether `.gz` stands behind it; `None` where it is the name of something else.
fn ending(path: &Path) -> Option<(&'static str, Option<FileFormat>, bool)> {
    let name = path.file_name()?.to_str()?;
    let (inner, gzip) = name.strip_suffix(".gz").map_or((name, false), |inner| (inner, true));
    let (_, extension) = inner.rsplit_once('.')?;
    let (ending, format) = ENDINGS.into_iter().find(|(ending, _)| *ending == extension)?;
    Some((ending, format, gzip))
}

/// Whether a file is one of data by its name, in capitals too, be it one that is not read.
pub(super) fn is_data(path: &Path) -> bool {
    ending(Path::new(&name(path).to_lowercase())).is_some()
}

/// Whether a file of that name is read, by this program.
pub(super) fn is_read(path: &Path) -> bool {
    match ending(path) {
        Some((_, Some(FileFormat::Parquet), gzip)) => !gzip && cfg!(feature = "parquet"),
        Some((_, format, _)) => format.is_some(),
        None => false,
    }
}

/// What a path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) files: Vec<DataFile>,
    /// Files of a folder that are for people: README, LICENSE.
    pub(super) passed_over: Vec<String>,
}

/// What folders from hubs have beside the data, whatever its type.
const FOR_PEOPLE: [&str; 3] = ["readme", "license", "licence"];

const READ: (&str, &str) = (
    "read are .json, .jsonl, .csv and .tsv, each also with .gz, and .parquet; `file_name` is relative to dataset_dir and names a file, or a folder of files of one type",
    "可读取 .json、.jsonl、.csv、.tsv（均可再加 .gz）以及 .parquet；file_name 相对于 dataset_dir，可为单个文件，或只含同一类型文件的目录",
);

/// The files that `path` stands for. Of a folder all, by their names: LlamaFactory takes them in the order in which the file
/// system happens to list them. Names that begin with a dot are hidden; README and LICENSE are passed over.
///
/// Errors: nothing is there; a type that is not read, or not by this program; a folder that is empty, or has files of
/// several types.
pub(super) fn files(path: &Path) -> Result<Listed> {
    if !path.is_dir() {
        return Ok(Listed { files: vec![file(path)?], passed_over: vec![] });
    }
    let listed = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> = listed.map_err(|err| {
        let reason = io_reason(&err);
        read_hint(Error::input(format!("`file_name`: {} cannot be listed: {reason}", path.display())))
    })?;
    paths.retain(|path| !name(path).starts_with('.'));
    paths.sort();
    let is_for_people = |path: &PathBuf| {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
        path.is_file() && stem.is_some_and(|stem| FOR_PEOPLE.contains(&stem.as_str()))
    };
    let passed_over = paths.iter().filter(|path| is_for_people(path)).map(|path| name(path)).collect();
    paths.retain(|path| !is_for_people(path));
    let files: Vec<DataFile> = paths.iter().map(|path| file(path)).collect::<Result<_>>()?;
    let Some(first) = files.first() else {
        return Err(read_hint(Error::input(format!("`file_name`: {} is a folder without data", path.display()))));
    };
    match files.iter().find(|file| file.format != first.format) {
        None => Ok(Listed { files, passed_over }),
        Some(other) => {
            let (first, other) = (first.path.display(), other.path.display());
            Err(Error::input(format!("`file_name`: a folder with files of two types: {first}, {other}"))
                .hint("keep one type in it, and register the other files as a data set of their own")
                .hint_zh("目录中只保留一种类型，其余文件请另行登记为数据集"))
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn file(path: &Path) -> Result<DataFile> {
    let complain = |what: &str| Error::input(format!("`file_name`: {}{what}", path.display()));
    if path.is_dir() {
        return Err(read_hint(complain(" is a folder inside a folder")));
    }
    if !path.is_file() {
        return Err(read_hint(complain(" does not exist")));
    }
    match ending(path) {
        Some((_, Some(format), gzip)) if is_read(path) => Ok(DataFile { path: path.into(), format, gzip }),
        Some(("parquet", _, false)) => {
            Err(complain(": this program was built without parquet")
                .hint("build it with `cargo build --release --features parquet`, or save the rows as JSON Lines: `python -c \"import pandas; pandas.read_parquet('IN.parquet').to_json('OUT.jsonl', orient='records', lines=True, force_ascii=False)\"`")
                .hint_zh("请用 `cargo build --release --features parquet` 编译，或先转为 JSON Lines：`python -c \"import pandas; pandas.read_parquet('IN.parquet').to_json('OUT.jsonl', orient='records', lines=True, force_ascii=False)\"`"))
        }
        Some(("txt", ..)) => {
            Err(complain(": plain text has no questions and answers")
                .hint("lines of two sides become a data set with `couplet-train data prepare FILE.txt`")
                .hint_zh("每行“上联 下联”的文本可用 `couplet-train data prepare 文件.txt` 转为数据集"))
        }
        Some(("arrow", ..)) => {
            Err(complain(": Arrow files are not read")
                .hint("save the rows as JSON Lines: `python -c \"import datasets; datasets.Dataset.from_file('IN.arrow').to_json('OUT.jsonl', force_ascii=False)\"`")
                .hint_zh("请先转为 JSON Lines：`python -c \"import datasets; datasets.Dataset.from_file('IN.arrow').to_json('OUT.jsonl', force_ascii=False)\"`"))
        }
        _ => Err(read_hint(complain(": files of this type are not read"))),
    }
}

fn read_hint(error: Error) -> Error {
    error.hint(READ.0).hint_zh(READ.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_files_by_name_if_they_are_of_one_type() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str| {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        };
        for name in ["some/b.jsonl", "some/c.json.gz", "some/a.json", "two/a.json", "two/b.csv", "deep/a/b.json"] {
            write(name);
        }
        for name in ["rows.csv.gz", "rows.tsv", "rows.txt", "rows.arrow", "rows.xlsx", "rows", "rows.parquet.gz"] {
            write(name);
        }
        for name in [".DS_Store", ".cache/huggingface/x", ".gitattributes", "README.md", "LICENSE", "train.jsonl"] {
            write(&format!("hub/{name}"));
        }
        write("words/readme.md");
        fs::create_dir(at("empty")).unwrap();

        let names = |path: &str| {
            let files = files(&at(path)).unwrap().files;
            files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("some"), ["a.json", "b.jsonl", "c.json.gz"]);
        assert_eq!(names("hub"), ["train.jsonl"]);
        assert_eq!(files(&at("hub")).unwrap().passed_over, ["LICENSE", "README.md"]);
        for (name, data, read) in [
            ("a.json.gz", true, true),
            ("a.JSON", true, false),
            ("a.txt", true, false),
            ("a.arrow", true, false),
            ("a.parquet.gz", true, false),
            ("a.tar.gz", false, false),
            ("a.md", false, false),
        ] {
            assert_eq!((is_data(Path::new(name)), is_read(Path::new(name))), (data, read), "{name}");
        }
        let of = |path: &str| files(&at(path)).map(|Listed { files, .. }| (files[0].format, files[0].gzip));
        assert_eq!(of("rows.csv.gz").unwrap(), (FileFormat::Csv, true));
        assert_eq!(of("rows.tsv").unwrap(), (FileFormat::Tsv, false));
        for (path, want) in [
            ("none.json", "none.json does not exist"),
            ("empty", "empty is a folder without data"),
            ("words", "words is a folder without data"),
            ("deep", "deep/a is a folder inside a folder"),
            ("rows.txt", "rows.txt: plain text has no questions and answers"),
            ("rows.arrow", "rows.arrow: Arrow files are not read"),
            ("rows.xlsx", "rows.xlsx: files of this type are not read"),
            ("rows.parquet.gz", "rows.parquet.gz: files of this type are not read"),
            ("rows", "rows: files of this type are not read"),
            ("two", "two/b.csv"),
        ] {
            let error = of(path).unwrap_err();
            assert!(error.to_string().ends_with(want), "{error}");
            assert!(error.hint_text(false).is_some() && error.hint_text(true) != error.hint_text(false), "{path}");
        }
    }

    #[test]
    #[cfg(not(feature = "parquet"))]
    fn without_parquet_it_says_how_to_come_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        fs::write(&path, "PAR1").unwrap();
        let error = files(&path).unwrap_err();
        assert!(error.to_string().ends_with("rows.parquet: this program was built without parquet"), "{error}");
        assert!(error.hint_text(false).unwrap().contains("--features parquet"));
    }
}
