//! Plain lines `上联 下联` → an Alpaca file and its entry in `dataset_info.json`.

use crate::{
    dataset::{input, registry},
    error::{Error, Result},
    fs,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The instruction of the shipped data. Its comma is the full-width one, U+FF0C: another token than the ASCII comma.
pub const DEFAULT_INSTRUCTION: &str = "请为以下上联生成一个对仗工整、寓意吉祥的下联，注意词性对应和平仄协调。";

/// What stands between the two sides: space, tab or full-width space, any number of them.
const SEPARATORS: [char; 3] = [' ', '\t', '\u{3000}'];

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Couplets.
    pub rows: usize,
    /// The Alpaca file.
    pub file: PathBuf,
    /// The registry with the new entry.
    pub registry: PathBuf,
}

/// Writes the couplets of `input` to `output_dir/name.json`, every row with `instruction`, and registers them as `name`.
///
/// A line holds two sides; blank lines are skipped and the text of a side is not touched. Other entries of the registry
/// stay. Both files are replaced whole, and only after everything was read without an error.
/// Refuses an existing file, or another entry of that name, unless `overwrite`.
pub fn prepare(input: &Path, output_dir: &Path, name: &str, instruction: &str, overwrite: bool) -> Result<Prepared> {
    check_name(name)?;
    let file_name = format!("{name}.json");
    let file = output_dir.join(&file_name);
    let registry_path = output_dir.join(registry::FILE);
    let mut registry = registry::read(output_dir)?.unwrap_or_default();
    let entry = json!({
        "file_name": file_name,
        "formatting": "alpaca",
        "columns": {"prompt": "instruction", "query": "input", "response": "output"},
    });
    if !overwrite {
        refuse_existing(&file, &registry_path, &registry, name, &entry)?;
    }

    let text = input::read_text(input)?;
    let couplets = couplets(&text, input)?;

    registry.insert(name.into(), entry);
    let registry = format!("{:#}\n", Value::Object(registry));
    fs::create_dir_all(output_dir)?;
    fs::write_atomic(&file, alpaca(&couplets, instruction).as_bytes()).map_err(Error::in_input)?;
    fs::write_atomic(&registry_path, registry.as_bytes()).map_err(Error::in_input)?;
    Ok(Prepared { rows: couplets.len(), file, registry: registry_path })
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(Error::input(format!("{name:?} cannot name a data set"))
        .hint("use letters, digits, `_`, `-` and `.`; it also names the file")
        .hint_zh("名称只能含文字、数字、_、- 和 .，它也是文件名"))
}

fn refuse_existing(
    file: &Path,
    registry_path: &Path,
    registry: &Map<String, Value>,
    name: &str,
    entry: &Value,
) -> Result<()> {
    let error = match registry.get(name) {
        Some(other) if other != entry => Error::file(registry_path, format!("\"{name}\" is another data set already")),
        _ if file.exists() => Error::file(file, "exists already"),
        _ => return Ok(()),
    };
    Err(error
        .hint("choose another name (--name), or replace it (--overwrite)")
        .hint_zh("请换一个名称（--name），或覆盖它（--overwrite）"))
}

fn couplets<'a>(text: &'a str, path: &Path) -> Result<Vec<(&'a str, &'a str)>> {
    let mut couplets = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let sides: Vec<&str> = line.split(SEPARATORS).filter(|side| !side.is_empty()).collect();
        match sides.as_slice() {
            [] => {}
            &[first, second] => couplets.push((first, second)),
            sides => {
                return Err(Error::input(format!(
                    "{}:{number}: not two sides but {}: {line}",
                    path.display(),
                    sides.len()
                ))
                .hint("write 上联, a space (or tab), 下联; inside a side use ， and no space")
                .hint_zh("每行写“上联 下联”，中间用空格或制表符隔开；每一联内部用“，”而不用空格"));
            }
        }
    }
    if couplets.is_empty() {
        return Err(Error::file(path, "holds no couplets")
            .hint("write one couplet a line: 上联, a space, 下联")
            .hint_zh("每行写一副对联：上联、空格、下联"));
    }
    Ok(couplets)
}

/// A JSON array with one object a line, so that it stays readable and diffs stay small.
fn alpaca(couplets: &[(&str, &str)], instruction: &str) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let instruction = quoted(instruction);
    let rows: Vec<String> = couplets
        .iter()
        .map(|(first, second)| {
            let (first, second) = (quoted(first), quoted(second));
            format!("{{\"instruction\": {instruction}, \"input\": {first}, \"output\": {second}}}")
        })
        .collect();
    format!("[\n{}\n]\n", rows.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(lines: &str) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            fs::write(folder.path("lines.txt"), lines).unwrap();
            folder
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn prepare(&self, name: &str, overwrite: bool) -> Result<Prepared> {
            prepare(&self.path("lines.txt"), &self.path("out"), name, DEFAULT_INSTRUCTION, overwrite)
        }

        fn json(&self, name: &str) -> Value {
            serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
        }
    }

    #[test]
    fn lines_become_rows_and_an_entry() {
        let folder = Folder::new(
            "\u{feff}海内存知己 天涯若比邻\r\n\n  两个黄鹂鸣翠柳\t一行白鹭上青天\n无边落木萧萧下\u{3000}\u{3000}不尽长江滚滚来",
        );
        let prepared = folder.prepare("tang", false).unwrap();
        assert_eq!(prepared.rows, 3);
        let row = |first: &str, second: &str| json!({"instruction": "请为以下上联生成一个对仗工整、寓意吉祥的下联\u{ff0c}注意词性对应和平仄协调。", "input": first, "output": second});
        assert_eq!(
            folder.json("out/tang.json"),
            json!([
                row("海内存知己", "天涯若比邻"),
                row("两个黄鹂鸣翠柳", "一行白鹭上青天"),
                row("无边落木萧萧下", "不尽长江滚滚来")
            ])
        );
        assert_eq!(folder.json("out/dataset_info.json")["tang"]["file_name"], "tang.json");
        assert!(registry::look_up(&folder.path("out"), &["tang".into()]).is_ok());
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let folder = Folder::new("天 地");
        folder.prepare("a", false).unwrap();
        folder.prepare("b", false).unwrap();
        let error = folder.prepare("a", false).unwrap_err();
        assert!(error.to_string().ends_with("a.json: exists already"), "{error}");
        folder.prepare("a", true).unwrap();

        fs::write(folder.path("out/dataset_info.json"), r#"{"c": {"file_name": "other.json"}, "b": 1}"#).unwrap();
        let error = folder.prepare("c", false).unwrap_err();
        assert!(error.to_string().ends_with("\"c\" is another data set already"), "{error}");
        folder.prepare("c", true).unwrap();
        let registry = folder.json("out/dataset_info.json");
        assert_eq!(registry["c"]["file_name"], "c.json");
        assert_eq!(registry["b"], 1, "other entries stay as they are");
        assert!(!folder.path("out/c.json.tmp").exists());
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_is_written() {
        for (lines, want) in [
            ("天 地\n\n春风又绿", "lines.txt:3: not two sides but 1: 春风又绿"),
            ("春 风 又 绿", "lines.txt:1: not two sides but 4: 春 风 又 绿"),
            (" \n\t\n", "lines.txt: holds no couplets"),
        ] {
            let folder = Folder::new(lines);
            let error = folder.prepare("a", false).unwrap_err();
            assert!(error.to_string().ends_with(want), "{error}");
            assert!(error.hint_text(true).is_some(), "{want}");
            assert!(!folder.path("out").exists(), "{want}");
        }
    }

    #[test]
    fn names_are_file_names() {
        let folder = Folder::new("天 地");
        for name in ["", "a/b", "..", "a,b", "a b"] {
            assert!(folder.prepare(name, false).is_err(), "{name:?}");
        }
        assert!(folder.prepare("对联-1", false).is_ok());
    }
}
