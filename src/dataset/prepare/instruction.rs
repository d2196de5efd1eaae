//! What stands before the 上联: one text for all rows, or several wordings of it.
//!
//! What all wordings begin with is computed once for all rows of a batch, so they should differ as late as they can. And a
//! model must be asked as it was trained: the first wording stands before more than half of the rows, and before every row that
//! is held out, so that it is *the* instruction of the data, which `generate` uses by itself.

use super::clean::Row;
use crate::{
    dataset::input::read_text,
    error::{Error, Result},
};
use std::{collections::HashMap, path::Path};

/// Wordings at most: more lines are no wordings.
const MOST: usize = 1000;

/// One wording or several, the first of them the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions(Vec<String>);

impl Instructions {
    /// The same for all rows.
    pub fn one(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }

    /// A wording a line, each behind `before`. Errors: an empty file; a line that repeats another; so many that it is no file of
    /// wordings.
    pub fn read(path: &Path, before: &str) -> Result<Self> {
        let text = read_text(path)?;
        let mut first_lines: HashMap<&str, usize> = HashMap::new();
        let mut all = vec![];
        for (number, line) in (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty()) {
            if all.len() == MOST {
                return Err(Error::file(path, format!("more than {MOST} wordings"))
                    .hint("is this the file of couplets? Instructions stand one a line in a file of their own")
                    .hint_zh("这是对联文件吗？指令应另写一个文件，每行一种"));
            }
            if let Some(first) = first_lines.insert(line, number) {
                return Err(Error::input(format!("{}:{number}: repeats line {first}", path.display()))
                    .hint("every wording stands once; the first one is used most")
                    .hint_zh("每种说法只写一次；第一行用得最多"));
            }
            all.push(format!("{before}{line}"));
        }
        match all.is_empty() {
            false => Ok(Self(all)),
            true => Err(Error::file(path, "holds no instruction")
                .hint("write one wording a line, the usual one first")
                .hint_zh("每行写一种指令，最常用的放在第一行")),
        }
    }

    /// The usual wording.
    pub fn usual(&self) -> &str {
        &self.0[0]
    }

    /// How many wordings there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What all wordings begin with.
    pub fn shared(&self) -> &str {
        self.0.iter().skip(1).fold(self.usual(), |shared, wording| {
            let same = shared.chars().zip(wording.chars()).take_while(|(a, b)| a == b);
            &shared[..same.map(|(c, _)| c.len_utf8()).sum()]
        })
    }

    /// The instruction of every training row: of five rows three have the usual wording as it is, two any wording and their theme,
    /// if they have one. However many rows there are, more than half are of the first kind. Also counts those that are told theirs.
    pub(super) fn for_training(&self, rows: &[&Row]) -> (Vec<String>, usize) {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&row| rows[row].draw); // stable: of copies the first comes first
        let mut texts = vec![String::new(); rows.len()];
        let mut told = 0;
        for (rank, row) in order.into_iter().enumerate() {
            let others = rank / 5 * 2 + usize::from(rank % 5 == 4);
            texts[row] = match rank % 5 {
                2 | 4 => {
                    told += usize::from(rows[row].theme.is_some());
                    with_theme(&self.0[others % self.0.len()], rows[row])
                }
                _ => self.usual().to_owned(),
            };
        }
        (texts, told)
    }
}

fn with_theme(instruction: &str, row: &Row) -> String {
    row.theme.map_or_else(|| instruction.to_owned(), |theme| format!("{instruction}题材：{}。", theme.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::prepare::{read::Place, themes};

    fn several(before: &str, lines: &str) -> Result<Instructions> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        Instructions::read(file.path(), before)
    }

    #[test]
    fn what_wordings_share_is_what_they_begin_with() {
        for (before, lines, count, shared) in [
            ("", "对对联：\n对下联：\n", 2, "对"),
            ("请对下联。", "\n要工整\n要有意境\n", 2, "请对下联。要"),
            ("", "甲\n乙", 2, ""),
            ("", "只有一种", 1, "只有一种"),
            ("", "对\n对联", 2, "对"),
        ] {
            let got = several(before, lines).unwrap();
            assert_eq!((got.count(), got.shared()), (count, shared), "{lines}");
        }
        let facts = ["甲\n乙\n甲", "\n \n"].map(|lines| several("", lines).unwrap_err().to_string());
        assert!(facts[0].ends_with(":3: repeats line 1") && facts[1].ends_with(": holds no instruction"), "{facts:?}");
        let lines = |count: usize| (0..count).map(|line| format!("{line}\n")).collect::<String>();
        assert_eq!(several("", &lines(1000)).unwrap().count(), 1000);
        let error = several("", &lines(200_000)).unwrap_err();
        assert!(error.to_string().ends_with(": more than 1000 wordings") && error.hint_text(true).is_some(), "{error}");
    }

    #[test]
    fn the_usual_wording_stands_before_more_than_half_of_the_rows() {
        let row = |draw: u64| Row {
            place: Place { file: 0, line: 1 },
            upper: String::new(),
            lower: String::new(),
            draw: draw * 37 % 101,
            theme: themes::theme("白日依山尽", "黄河入海流"),
        };
        for wordings in ["甲\n乙\n丙\n", "甲"] {
            let instructions = several("", wordings).unwrap();
            for count in 1..60 {
                let rows: Vec<Row> = (0..count).map(row).collect();
                let (texts, told) = instructions.for_training(&rows.iter().collect::<Vec<_>>());
                assert_eq!(told, texts.iter().filter(|text| text.contains("题材：")).count());
                let plain = texts.iter().filter(|text| *text == "甲").count();
                assert!(2 * plain > rows.len(), "{plain} of {count}");
                if count == 59 {
                    assert!(texts.contains(&"甲题材：写景。".to_owned()), "{texts:?}");
                    assert_eq!(texts.contains(&"丙题材：写景。".to_owned()), instructions.count() == 3);
                }
            }
        }
    }
}
