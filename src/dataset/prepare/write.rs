//! The prepared data on the disk: Alpaca files, their entries in `dataset_info.json`, and the report of what was dropped.

use super::{
    Options,
    clean::{Dropped, Row},
    instruction::Instructions,
    parts::Part,
};
use crate::{
    dataset::registry,
    error::{Error, Result},
    fs,
};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// The first line of the report.
const REPORT_HEADER: &[u8] = b"place\treason\tfact\ttext\n";

/// Where everything goes; made before anything is read, so that nobody waits for a refusal.
#[derive(Debug)]
pub(super) struct Target {
    registry: Map<String, Value>,
    out: PathBuf,
    name: String,
}

impl Target {
    /// Refuses a name that is none, an existing file, and another entry of that name, unless they may be overwritten.
    pub(super) fn new(options: &Options) -> Result<Self> {
        check_name(&options.name)?;
        let target = Self {
            registry: registry::read(&options.out)?.unwrap_or_default(),
            out: options.out.clone(),
            name: options.name.clone(),
        };
        if !options.overwrite {
            target.refuse_existing()?;
        }
        Ok(target)
    }

    /// The file of a part.
    pub(super) fn file(&self, part: Part) -> PathBuf {
        self.out.join(file_name(&part.of(&self.name)))
    }

    /// The report.
    pub(super) fn report(&self) -> PathBuf {
        self.out.join(format!("{}_dropped.tsv", self.name))
    }

    /// The registry.
    pub(super) fn registry(&self) -> PathBuf {
        self.out.join(registry::FILE)
    }

    fn refuse_existing(&self) -> Result<()> {
        for part in Part::ALL {
            let (name, file) = (part.of(&self.name), self.file(part));
            if self.registry.get(&name).is_some_and(|other| *other != entry(&name)) {
                let fact = format!("\"{name}\" is another data set already");
                return Err(in_the_way(Error::file(&self.registry(), fact)));
            }
            if file.exists() {
                return Err(in_the_way(Error::file(&file, "exists already")));
            }
        }
        let report = self.report();
        // Of a preparation that dropped every row nothing else is left, and nobody misses it.
        let is_left_over = !self.registry.contains_key(&self.name) && begins_as_report(&report);
        match report.exists() && !is_left_over {
            true => Err(in_the_way(Error::file(&report, "exists already"))),
            false => Ok(()),
        }
    }

    /// Writes the report alone.
    pub(super) fn write_report(&self, report: &[u8]) -> Result<()> {
        fs::create_dir_all(&self.out)?;
        fs::write_atomic(&self.report(), report).map_err(Error::in_input)
    }

    /// Writes the parts that hold rows, then the report, then the registry; each file whole. Returns the names of parts that an
    /// earlier preparation registered and this one has not: they are no longer registered.
    pub(super) fn write(mut self, parts: &[(Part, Vec<u8>)], report: &[u8]) -> Result<Vec<String>> {
        fs::create_dir_all(&self.out)?;
        for (part, rows) in parts {
            fs::write_atomic(&self.file(*part), rows).map_err(Error::in_input)?;
        }
        self.write_report(report)?;
        let mut gone = vec![];
        for part in Part::ALL {
            let name = part.of(&self.name);
            if parts.iter().any(|(written, _)| *written == part) {
                self.registry.insert(name.clone(), entry(&name));
            } else if self.registry.get(&name).is_some_and(|old| *old == entry(&name)) {
                self.registry.shift_remove(&name);
                gone.push(name);
            }
        }
        let path = self.registry();
        let text = format!("{:#}\n", Value::Object(self.registry));
        fs::write_atomic(&path, text.as_bytes()).map_err(Error::in_input)?;
        Ok(gone)
    }
}

fn file_name(name: &str) -> String {
    format!("{name}.json")
}

fn entry(name: &str) -> Value {
    json!({
        "file_name": file_name(name),
        "formatting": "alpaca",
        "columns": {"prompt": "instruction", "query": "input", "response": "output"},
    })
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(Error::input(format!("{name:?} cannot name a data set"))
        .hint("give it a name of letters, digits, `_`, `-` and `.` (--name); it also names the files")
        .hint_zh("请用 --name 命名，只能含文字、数字、_、- 和 .，它也是文件名"))
}

fn in_the_way(error: Error) -> Error {
    error
        .hint("choose another name (--name), or replace it (--overwrite)")
        .hint_zh("请换一个名称（--name），或覆盖它（--overwrite）")
}

/// Training rows, each as often as `copies` says, and how many are told their theme. Copies stand behind all rows that come before,
/// not beside each other.
pub(super) fn training(rows: &[&Row], copies: Option<&[usize]>, instructions: &Instructions) -> (Vec<u8>, usize) {
    let most = copies.and_then(|copies| copies.iter().max()).map_or(1, |most| *most);
    let times = |row: usize| copies.map_or(1, |copies| copies[row]);
    let all: Vec<&Row> = (0..most)
        .flat_map(|round| (0..rows.len()).filter(move |row| times(*row) > round))
        .map(|row| rows[row])
        .collect();
    let (texts, told) = instructions.for_training(&all);
    (alpaca(all.into_iter().zip(&texts).map(|(row, text)| (text.as_str(), row))), told)
}

/// Rows that are held out are all asked in the usual way, so that runs can be compared.
pub(super) fn held_out(rows: &[&Row], instructions: &Instructions) -> Vec<u8> {
    alpaca(rows.iter().map(|row| (instructions.usual(), *row)))
}

/// A JSON array with one object a line, so that it stays readable and diffs stay small.
fn alpaca<'a>(rows: impl Iterator<Item = (&'a str, &'a Row)>) -> Vec<u8> {
    let mut json = b"[\n".to_vec();
    let mut between = "";
    for (instruction, Row { upper, lower, .. }) in rows {
        let [instruction, upper, lower] = [instruction, upper, lower].map(quoted);
        json.extend_from_slice(between.as_bytes());
        for part in ["{\"instruction\": ", &instruction, ", \"input\": ", &upper, ", \"output\": ", &lower, "}"] {
            json.extend_from_slice(part.as_bytes());
        }
        between = ",\n";
    }
    json.extend_from_slice(b"\n]\n");
    json
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// One dropped row a line: place, reason, what was found, and the text.
pub(super) fn report(dropped: &[Dropped], options: &Options) -> Vec<u8> {
    let mut report = REPORT_HEADER.to_vec();
    let plain = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    for Dropped { place, reason, fact, text } in dropped {
        let place = options.place(place.file, place.line);
        let row = [&place, reason.name(), fact, text].map(plain).join("\t");
        // A Vec takes everything.
        let _ = writeln!(report, "{row}");
    }
    report
}

fn begins_as_report(path: &Path) -> bool {
    let mut first = vec![];
    let read = File::open(path).and_then(|file| file.take(REPORT_HEADER.len() as u64).read_to_end(&mut first));
    read.is_ok() && first == REPORT_HEADER
}

/// Whether a path is one of the files that will be written.
pub(super) fn is_result(target: &Target, path: &Path) -> bool {
    let same = |file: PathBuf| match (file.canonicalize(), path.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    Part::ALL.into_iter().map(|part| target.file(part)).chain([target.report(), target.registry()]).any(same)
}
