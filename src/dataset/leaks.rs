//! What held-out rows have in common with training rows, in files and rows: a loss over rows that were trained says little.

use super::{
    Origin,
    encode::Row,
    near::{self, Likeness, Said},
    record::Record,
    summary::FileSummary,
};
use serde::{Deserialize, Serialize};

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, as found from `dataset_dir`; of a folder the file in it.
    pub file: String,
    /// From 1, in that file.
    pub row: usize,
}

impl Place {
    /// Where a row stands; `files` are those it was read with.
    pub fn of(origin: Origin, files: &[FileSummary]) -> Self {
        let (file, row) = files[origin.dataset].place(origin.row);
        Self { file: file.to_owned(), row }
    }

    /// In words.
    pub fn text(&self, chinese: bool) -> String {
        let Self { file, row } = self;
        if chinese { format!("{file} 第 {row} 行") } else { format!("{file} row {row}") }
    }
}

/// A held-out row, and a training row that it is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// In which way; the worst that holds.
    pub likeness: Likeness,
    /// The held-out row.
    pub held_out: Place,
    /// The training row, the first of the files that is so like it.
    pub train: Place,
}

/// Which rows are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldOut {
    /// Those evaluated during training: `eval_dataset` or `val_size`.
    Eval,
    /// Those of `test_dataset`.
    Test,
}

/// How many held-out rows are like a training row. Every row counts once, for the worst.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaks {
    /// Which rows were looked at.
    pub of: HeldOut,
    /// How many.
    pub rows: usize,
    /// All that is said equals what a training row says.
    pub equal: usize,
    /// One character of the row is another.
    pub one_character: usize,
    /// A line is a line of training.
    pub shared_line: usize,
    /// A line is a line of training but for one character.
    pub near_line: usize,
    /// The worst first, then in the order of the files. In a summary only a few.
    pub found: Vec<Found>,
}

impl Leaks {
    /// Looks through `held_out` rows; each kind of row with the files it was read from. Whatever the split shuffled, rows are
    /// found in the order of their files.
    pub fn find(
        of: HeldOut,
        (train, train_files): (&[Row], &[FileSummary]),
        (held_out, files): (&[Row], &[FileSummary]),
    ) -> Self {
        let [train, held_out] = [train, held_out].map(|rows| {
            let mut rows: Vec<&Row> = rows.iter().collect();
            rows.sort_by_key(|row| row.origin);
            rows
        });
        let [trained, held] =
            [&train, &held_out].map(|rows| rows.iter().map(|row| said(&row.record)).collect::<Vec<_>>());
        let mut leaks = near::leaks(&trained, &held);
        leaks.sort_by_key(|leak| (leak.likeness, leak.held_out));
        let count = |likeness| leaks.iter().filter(|leak| leak.likeness == likeness).count();
        let [equal, one_character, shared_line, near_line] = Likeness::ALL.map(count);
        let found = leaks.iter().map(|leak| Found {
            likeness: leak.likeness,
            held_out: Place::of(held_out[leak.held_out].origin, files),
            train: Place::of(train[leak.train].origin, train_files),
        });
        Self { of, rows: held_out.len(), equal, one_character, shared_line, near_line, found: found.collect() }
    }

    /// With no more than the first `most` rows named.
    pub fn naming(mut self, most: usize) -> Self {
        self.found.truncate(most);
        self
    }

    /// How many of how many, in words.
    pub fn counts(&self, chinese: bool) -> String {
        let counts = [
            (self.equal, "equal a training row", "与训练行相同"),
            (self.one_character, "are one character from one", "仅差一字"),
            (self.shared_line, "share a line with one", "有一句相同"),
            (self.near_line, "have a line one character from one's", "有一句仅差一字"),
        ];
        let counts = counts.iter().filter(|(count, ..)| *count > 0);
        let counts =
            counts.map(|(count, en, zh)| if chinese { format!("{zh} {count}") } else { format!("{count} {en}") });
        let (rows, counts) = (self.rows, counts.collect::<Vec<_>>().join(if chinese { "，" } else { ", " }));
        let kind = match (self.of, chinese) {
            (HeldOut::Eval, false) => "held-out",
            (HeldOut::Test, false) => "test",
            (HeldOut::Eval, true) => "验证",
            (HeldOut::Test, true) => "测试",
        };
        match (counts.is_empty(), chinese) {
            (true, false) => {
                format!("none of {rows} {kind} rows is like a training row (equal lines, or all but one character)")
            }
            (true, true) => format!("{rows} 行{kind}数据均不与训练行相近（无相同或仅差一字的句子）"),
            (false, false) => format!("of {rows} {kind} rows {counts}"),
            (false, true) => format!("{rows} 行{kind}数据中：{counts}"),
        }
    }

    /// One line, in English: [`Self::counts`] and the first of them.
    pub fn line(&self) -> String {
        let counts = self.counts(false);
        let Some(Found { held_out, train, .. }) = self.found.first() else { return counts };
        let [held_out, train] = [held_out, train].map(|place| place.text(false));
        format!("{counts}; the first: {held_out}, like {train}")
    }
}

/// What is compared of a row: its last question and answer, with the turns before them and how it is asked. A couplet is the
/// same however it is asked for, so there the instruction, the system text and tools do not count.
fn said(record: &Record) -> Said<'_> {
    let pair = record.pair();
    let history = record.history.iter().flat_map(|(question, answer)| [question, answer]).map(String::as_str);
    let instruction = if record.query.is_empty() { "" } else { &record.prompt };
    let asked_by = [instruction, &record.system, record.tools.as_deref().unwrap_or_default()];
    let asked_by = if near::is_couplet(&pair) { &[][..] } else { &asked_by };
    Said::new(pair, asked_by.iter().copied().chain(history))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dataset: usize, row: usize, query: &str, response: &str) -> Row {
        let record = Record { query: query.into(), response: response.into(), ..Record::default() };
        Row { origin: Origin { dataset, row }, record }
    }

    fn files(names: &[&str]) -> Vec<FileSummary> {
        names.iter().map(|name| FileSummary { path: format!("{name}.json"), ..FileSummary::default() }).collect()
    }

    #[test]
    fn rows_are_named_by_file_and_the_worst_comes_first() {
        // As a split has shuffled them.
        let train = [
            row(0, 3, "海内存知己", "天涯若比邻"),
            row(0, 2, "白日依山尽", "黄河入海流"),
            row(0, 1, "海内存知己", "天涯若比邻"),
        ];
        let held_out = [
            row(1, 10, "白日依山尽", "苍鹰下九霄"),
            row(1, 7, "白日依山尽", "明月照大江"),
            row(1, 8, "海内存知己", "天涯若比邻"),
            row(1, 9, "千山鸟飞绝", "万径人踪灭"),
        ];
        let files = files(&["train", "valid"]);
        let leaks = Leaks::find(HeldOut::Eval, (&train, &files), (&held_out, &files));
        assert_eq!((leaks.rows, leaks.equal, leaks.one_character, leaks.shared_line, leaks.near_line), (4, 1, 0, 2, 0));
        let rows: Vec<_> = leaks.found.iter().map(|found| (found.held_out.row, found.train.row)).collect();
        assert_eq!(rows, [(8, 1), (7, 2), (10, 2)], "in file order, and like the first of the file");
        assert_eq!(
            leaks.line(),
            "of 4 held-out rows 1 equal a training row, 2 share a line with one; the first: valid.json row 8, like \
             train.json row 1"
        );
        let none = Leaks::find(HeldOut::Test, (&train, &files), (&held_out[3..], &files));
        assert_eq!(none.line(), "none of 1 test rows is like a training row (equal lines, or all but one character)");
        assert_eq!(leaks.counts(true), "4 行验证数据中：与训练行相同 1，有一句相同 2");
        assert_eq!(none.counts(true), "1 行测试数据均不与训练行相近（无相同或仅差一字的句子）");
        assert_eq!(leaks.clone().naming(1).found.len(), 1);
        assert_eq!(leaks.naming(9).found.len(), 3);
    }

    #[test]
    fn another_task_over_the_same_text_is_another_row_and_a_couplet_is_one_however_it_is_asked_for() {
        let row = |prompt: &str, query: &str, response: &str, history: &[(&str, &str)], system: &str| Row {
            origin: Origin { dataset: 0, row: 1 },
            record: Record {
                prompt: prompt.into(),
                query: query.into(),
                response: response.into(),
                history: history.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
                system: system.into(),
                ..Record::default()
            },
        };
        let (film, greeting) = ("这部电影很好看", ("你好", "您好，有什么可以帮您"));
        for (train, held_out, equal, why) in [
            (row("判断情感", film, "好", &[], ""), row("判断情感", film, "好", &[], ""), true, "the same"),
            (row("判断情感", film, "好", &[], ""), row("译成英文", film, "好", &[], ""), false, "another task"),
            (
                row("判断情感", film, "好", &[], ""),
                row("判断情感", film, "好", &[], "译"),
                false,
                "another system text",
            ),
            (
                row("对下联", "海内存知己", "天涯若比邻", &[], ""),
                row("请对出下联", "海内存知己", "天涯若比邻", &[], "你是诗人"),
                true,
                "a couplet in other words",
            ),
            (
                row("多谢帮忙", "", "不必客气", &[greeting], ""),
                row("多谢帮忙", "", "不必客气", &[("买票", "好的")], ""),
                false,
                "the same thanks at the end",
            ),
        ] {
            let files = files(&["a"]);
            let leaks = Leaks::find(HeldOut::Eval, (&[train], &files), (&[held_out], &files));
            assert_eq!((leaks.equal, leaks.shared_line), if equal { (1, 0) } else { (0, 1) }, "{why}");
        }
    }
}
