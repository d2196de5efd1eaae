//! What was read, what was lost on the way and how long the rows are: said before the first step, kept in the receipt.

use crate::dataset::{Example, Origin, Reason, instruction::Instruction, leaks::Leaks};
use serde::Serialize;
use std::collections::BTreeMap;

/// Something to tell the user that does not stop the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// In English.
    pub en: String,
    /// The same in Chinese.
    pub zh: String,
}

/// The data of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// One for every data set, in [`Origin::dataset`] order.
    pub files: Vec<FileSummary>,
    /// The training rows.
    pub train: SplitSummary,
    /// The held-out rows.
    pub eval: SplitSummary,
    /// Tokens that all training rows begin with: with one instruction for all, its length.
    pub common_prefix: usize,
    /// The instruction that training put before its texts, if there is one ([`super::instruction::before`]); generation does the same.
    pub instruction: Option<Instruction>,
    /// How often each mark stands in the training answers: `，` and `,` are different tokens.
    pub punctuation: BTreeMap<char, usize>,
    /// Rows longer than `cutoff_len`, training and held-out.
    pub over_long: usize,
    /// The first three of them.
    pub over_long_rows: Vec<OverLong>,
    /// Training rows that are the same as an earlier one ([`super::repeats`]).
    pub repeated: usize,
    /// What held-out and test rows have in common with training rows, the first of them named.
    pub leaks: Vec<Leaks>,
    /// In the order found.
    pub warnings: Vec<Warning>,
    /// blake3 over the ids and labels of all rows in their order, in hex: equal digests, equal data.
    pub digest: String,
}

/// How many rows are named of those that something is the matter with.
pub(super) const NAMED_ROWS: usize = 3;

/// One data set. `read` = `kept` + `skipped`, always.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// Its name in `dataset_info.json`.
    pub name: String,
    /// Its file or folder, as found from `dataset_dir`.
    pub path: String,
    /// Rows in it.
    pub rows: usize,
    /// The files of a folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Rows taken of it: at most `max_samples`; under an interleaving `mix_strategy` those that are reached, repeats included.
    pub read: usize,
    /// They are random ones: `num_samples`.
    pub drawn: bool,
    /// They are those that `mix_strategy` takes.
    pub mixed: bool,
    /// Rows that are trained or evaluated.
    pub kept: usize,
    /// Rows that are left out, for whatever reason.
    pub skipped: usize,
    /// The reasons.
    pub reasons: Vec<Skips>,
    /// Kept rows without a label: their answer was cut away whole.
    pub unlabelled: usize,
    /// Kept rows that were cut to `cutoff_len`.
    pub truncated: usize,
    /// Kept rows whose response is empty or blank.
    pub empty_responses: usize,
    /// Kept rows whose last question is empty or blank.
    pub empty_questions: usize,
    /// Kept rows with a history that is no list, which is passed over.
    pub no_history: usize,
    /// Kept rows with the text of a control token (`<|im_end|>`) in them.
    pub control_rows: usize,
    /// The first of them in the data set, counted as errors count rows.
    pub first_control_row: Option<usize>,
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// As found from `dataset_dir`.
    pub path: String,
    /// Rows in it.
    pub rows: usize,
}

/// Rows that are left out for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skips {
    /// Why.
    pub reason: Reason,
    /// How many.
    pub rows: usize,
    /// The first of them: file, line, row, and what is wrong there.
    pub first: Vec<String>,
}

impl FileSummary {
    /// The file of a row, and the row's number in that file.
    pub fn place(&self, row: usize) -> (&str, usize) {
        let mut row = row;
        for part in &self.parts {
            if row <= part.rows {
                return (&part.path, row);
            }
            row -= part.rows;
        }
        (&self.path, row)
    }

    /// Counts a row that is left out.
    pub(super) fn skip(&mut self, reason: Reason, fact: String) {
        self.skipped += 1;
        let at = self.reasons.iter().position(|skips| skips.reason == reason).unwrap_or_else(|| {
            self.reasons.push(Skips { reason, rows: 0, first: vec![] });
            self.reasons.len() - 1
        });
        let skips = &mut self.reasons[at];
        skips.rows += 1;
        if skips.first.len() < NAMED_ROWS {
            skips.first.push(fact);
        }
    }
}

/// A row longer than `cutoff_len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OverLong {
    /// Where it stands.
    pub origin: Origin,
    /// Its tokens.
    pub tokens: usize,
}

/// Lengths of rows, after cutting. All 0 where there is no row. `read` = `rows` + `skipped`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SplitSummary {
    /// Rows that the split got.
    pub read: usize,
    /// Those of them that are left out.
    pub skipped: usize,
    /// Those that are trained or evaluated.
    pub rows: usize,
    /// Tokens of all rows.
    pub tokens: usize,
    /// Tokens with a label, position 0 included.
    pub trained_tokens: usize,
    /// Tokens of the shortest row.
    pub min: usize,
    /// Mean tokens of a row.
    pub mean: f64,
    /// Half the rows are at most so long.
    pub p50: usize,
    /// Nine in ten rows are at most so long.
    pub p90: usize,
    /// Tokens of the longest row.
    pub max: usize,
}

impl SplitSummary {
    /// Of these rows, and so many that are left out.
    pub fn of(examples: &[Example], skipped: usize) -> Self {
        let mut lengths: Vec<usize> = examples.iter().map(|example| example.input_ids.len()).collect();
        lengths.sort_unstable();
        let (Some(&min), Some(&max)) = (lengths.first(), lengths.last()) else {
            return Self { read: skipped, skipped, ..Self::default() };
        };
        let tokens = lengths.iter().sum();
        let at_most = |tenths: usize| lengths[(lengths.len() * tenths).div_ceil(10) - 1];
        Self {
            read: lengths.len() + skipped,
            skipped,
            rows: lengths.len(),
            tokens,
            trained_tokens: examples.iter().map(Example::label_count).sum(),
            min,
            mean: tokens as f64 / lengths.len() as f64,
            p50: at_most(5),
            p90: at_most(9),
            max,
        }
    }
}

/// How many ids all rows begin with.
pub fn common_prefix(examples: &[Example]) -> usize {
    let Some((first, others)) = examples.split_first() else { return 0 };
    others.iter().fold(first.input_ids.len(), |prefix, other| {
        let pairs = first.input_ids[..prefix].iter().zip(&other.input_ids);
        pairs.take_while(|(a, b)| a == b).count()
    })
}

/// [`Summary::punctuation`]: characters that are neither letters nor digits nor blanks.
pub fn punctuation<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<char, usize> {
    let mut counts = BTreeMap::new();
    for mark in texts.flat_map(str::chars).filter(|c| !c.is_alphanumeric() && !c.is_whitespace()) {
        *counts.entry(mark).or_insert(0) += 1;
    }
    counts
}

/// Bytes that are hashed together, on all cores.
const AT_ONCE: usize = 1 << 20;

/// [`Summary::digest`]: every row as its length and its ids and labels, little-endian.
pub fn digest<'a>(examples: impl Iterator<Item = &'a Example>) -> String {
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), vec![]);
    for example in examples {
        bytes.extend((example.input_ids.len() as u64).to_le_bytes());
        bytes.extend(example.input_ids.iter().chain(&example.labels()).flat_map(|id| id.to_le_bytes()));
        if bytes.len() > AT_ONCE {
            hasher.update_rayon(&bytes);
            bytes.clear();
        }
    }
    hasher.update_rayon(&bytes);
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::IGNORE;

    fn example(ids: &[u32], sources: usize) -> Example {
        let labels: Vec<u32> = ids.iter().enumerate().map(|(i, &id)| if i < sources { IGNORE } else { id }).collect();
        Example::new(ids.to_vec(), &labels, Origin { dataset: 0, row: 1 })
    }

    #[test]
    fn lengths_of_ten_rows_and_of_none() {
        let rows: Vec<Example> = (1..=10).map(|n| example(&vec![7; n], 1)).collect();
        let got = SplitSummary::of(&rows, 2);
        let lengths = (got.tokens, got.trained_tokens, got.min, got.mean, got.p50, got.p90, got.max);
        assert_eq!(lengths, (55, 45, 1, 5.5, 5, 9, 10));
        assert_eq!((got.read, got.rows, got.skipped), (12, 10, 2));
        assert_eq!(SplitSummary::of(&[], 0), SplitSummary::default());
        assert_eq!(SplitSummary::of(&[], 3).read, 3);
    }

    #[test]
    fn rows_of_a_folder_lie_in_its_files() {
        let part = |path: &str, rows| Part { path: path.into(), rows };
        let folder =
            FileSummary { path: "d".into(), parts: vec![part("d/a", 2), part("d/b", 1)], ..Default::default() };
        assert_eq!((1..=3).map(|row| folder.place(row)).collect::<Vec<_>>(), [("d/a", 1), ("d/a", 2), ("d/b", 1)]);
        assert_eq!(FileSummary { path: "f".into(), ..Default::default() }.place(7), ("f", 7));
    }

    #[test]
    fn skips_are_counted_by_reason_and_the_first_named() {
        let mut file = FileSummary::default();
        for row in 1..=9 {
            let reason = if row % 2 == 0 { Reason::NoTurns } else { Reason::NotJson };
            file.skip(reason, row.to_string());
        }
        assert_eq!(file.skipped, 9);
        let reasons: Vec<_> =
            file.reasons.iter().map(|skips| (skips.reason, skips.rows, skips.first.join(" "))).collect();
        assert_eq!(reasons, [(Reason::NotJson, 5, "1 3 5".to_owned()), (Reason::NoTurns, 4, "2 4 6".to_owned())]);
    }

    #[test]
    fn the_prefix_is_what_all_rows_share() {
        for (rows, want) in [
            (vec![], 0),
            (vec![vec![1, 2, 3]], 3),
            (vec![vec![1, 2, 3], vec![1, 2, 4], vec![1, 2, 3]], 2),
            (vec![vec![1, 2, 3], vec![1]], 1),
            (vec![vec![1], vec![2]], 0),
        ] {
            let rows: Vec<Example> = rows.iter().map(|ids| example(ids, 0)).collect();
            assert_eq!(common_prefix(&rows), want, "{rows:?}");
        }
    }

    #[test]
    fn the_digest_sees_labels_and_borders() {
        let of = |rows: &[Example]| digest(rows.iter());
        let base = of(&[example(&[1, 2], 1), example(&[3], 0)]);
        assert_ne!(base, of(&[example(&[1, 2], 0), example(&[3], 0)]), "labels");
        assert_ne!(base, of(&[example(&[3], 0), example(&[1, 2], 1)]), "order");
        assert_ne!(of(&[example(&[1, 2], 0)]), of(&[example(&[1], 0), example(&[2], 0)]), "borders");
    }
}
