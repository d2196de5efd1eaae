//! What can be asked of the preparation.

use super::{instruction::Instructions, parts::Split, read::Layout, reason::Reason};
use std::path::PathBuf;

/// The instruction of the shipped data. Its comma is the full-width one, U+FF0C: another token than the ASCII comma.
pub const DEFAULT_INSTRUCTION: &str = "请为以下上联生成一个对仗工整、寓意吉祥的下联，注意词性对应和平仄协调。";

/// One preparation. The same options and files give the same bytes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files that hold both sides.
    pub files: Vec<PathBuf>,
    /// Two files that hold one side each, line by line: 上联, 下联.
    pub parallel: Option<[PathBuf; 2]>,
    /// How `files` are written, as far as the user says it.
    pub layout: Layout,
    /// Folder of the result.
    pub out: PathBuf,
    /// Name of the data set, of its files and of its entries.
    pub name: String,
    /// 繁体 → 简体.
    pub simplify: bool,
    /// Half-width punctuation becomes full-width, blanks between clauses become `，`.
    pub full_width: bool,
    /// Reasons that drop no row.
    pub keep: Vec<Reason>,
    /// Rows whose tones are wrong are dropped, not only counted.
    pub strict: bool,
    /// So many random couplets.
    pub take: Option<usize>,
    /// Of all that is random.
    pub seed: u64,
    /// Training, validation, test.
    pub split: Split,
    /// What stands before the 上联.
    pub instructions: Instructions,
    /// Lengths of the training rows are brought to equal shares.
    pub balance: bool,
    /// Two of five training rows are told their theme, where they have one.
    pub tag: bool,
    /// A data set of that name may be replaced.
    pub overwrite: bool,
}

impl Options {
    /// One data set out of one file, as it is read by default.
    pub fn new(file: PathBuf, out: PathBuf, name: &str) -> Self {
        Self {
            files: vec![file],
            parallel: None,
            layout: Layout::default(),
            out,
            name: name.into(),
            simplify: false,
            full_width: false,
            keep: vec![],
            strict: false,
            take: None,
            seed: 42,
            split: Split::Auto,
            instructions: Instructions::one(DEFAULT_INSTRUCTION),
            balance: false,
            tag: false,
            overwrite: false,
        }
    }

    /// Whether a reason drops rows.
    pub(super) fn drops(&self, reason: Reason) -> bool {
        !self.keep.contains(&reason) && (self.strict || reason != Reason::Tones)
    }

    /// Where a row stands, for people: `FILE:LINE`.
    pub(super) fn place(&self, file: u32, line: u32) -> String {
        let file = self.files.get(file as usize).or(self.parallel.as_ref().map(|[upper, _]| upper));
        format!("{}:{line}", file.map_or(Default::default(), |path| path.display().to_string()))
    }
}
