//! Records → tokens: everything about text, testable without a model or a device.

/// The label of a token that is not trained (LlamaFactory's -100).
pub const IGNORE: u32 = u32::MAX;

/// One tokenised training row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids, at most `cutoff_len`.
    pub input_ids: Vec<u32>,
    /// As long as `input_ids`: the id itself where the token is trained, [`IGNORE`] elsewhere. Not shifted.
    pub labels: Vec<u32>,
    /// Where it came from, for error messages.
    pub origin: Origin,
}

/// A row of a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Index into the data sets of the run, in the order read.
    pub dataset: usize,
    /// Row in its file, from 1.
    pub row: usize,
}
