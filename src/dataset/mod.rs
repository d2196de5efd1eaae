//! Records → tokens: everything about text, testable without a model or a device.
//!
//! [`load`] is the whole way: names in `dataset_info.json` ([`registry`]) → files ([`files`]) and what their columns are called
//! ([`shape`]) → records ([`record`]) → turns of a conversation ([`template`]) → ids and labels ([`encode`], [`tokenizer`]).
//! A file is read as a stream (`input`) by its format (`from_json`, `from_csv`, `from_parquet`); its cells (`cell`) become a
//! record by its formatting (`alpaca`, `sharegpt`, `tools`), or a [`Fault`]; which tokens are trained is [`TrainedSpans`]. How data sets become one is `reader` and `mix`,
//! which rows are held out and in which order they are seen is [`order`], which of them fill one place of a batch `pack`; what
//! was read and lost is [`summary`], what stands before all texts [`instruction`], and what the user should know of it `notes`. Those who look at data before training have
//! [`stats`], [`repeats`] and [`leaks`], and [`near`], which finds lines that are alike. [`prepare`] makes a data set out of raw couplets.
//!
//! The rules are LlamaFactory's, measured on version 0.9.5; the integration tests compare with its ids and labels.

mod alpaca;
pub mod approximate;
mod cell;
pub mod encode;
mod fault;
pub mod files;
mod from_csv;
mod from_json;
mod from_parquet;
mod input;
pub mod instruction;
pub mod leaks;
mod load;
mod mix;
pub mod near;
mod notes;
pub mod order;
mod pack;
mod parts;
pub mod prepare;
mod reader;
pub mod record;
pub mod registry;
pub mod repeats;
mod segments;
pub mod shape;
mod sharegpt;
pub mod stats;
pub mod summary;
pub mod template;
pub mod tokenizer;
mod tools;
mod trained_spans;

pub use fault::{Fault, Reason};
pub use leaks::Leaks;
pub use load::{Read, Splits, count, load, read, settle, training_rows};
pub use pack::Pack;
pub use reader::{LeftOut, Split};
pub use summary::Summary;
pub use tokenizer::Tokenizer;
pub use trained_spans::TrainedSpans;

use serde::Serialize;

/// The label of a token that is not trained (LlamaFactory's -100).
pub const IGNORE: u32 = u32::MAX;

/// One tokenised training row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids, at most `cutoff_len`.
    pub input_ids: Vec<u32>,
    /// Which of them are trained.
    pub trained: TrainedSpans,
    /// Where it came from, for error messages.
    pub origin: Origin,
    /// The pack that it is part of; `None`: it is a sample by itself.
    pub pack: Option<Pack>,
}

/// What fills a place of a batch: the rows of a pack, or a row. Rows of a pack stand one behind the other.
pub fn samples(rows: &[Example]) -> impl Iterator<Item = &[Example]> {
    rows.chunk_by(Example::shares_sample)
}

impl Example {
    /// A row with labels as LlamaFactory has them, one for every id: the id itself where a token is trained, [`IGNORE`] elsewhere,
    /// not shifted. Any other label is taken for that of its token.
    ///
    /// Panics if there are not as many labels as ids.
    pub fn new(input_ids: Vec<u32>, labels: &[u32], origin: Origin) -> Self {
        assert_eq!(input_ids.len(), labels.len(), "a label for every id");
        Self { input_ids, trained: TrainedSpans::of(labels), origin, pack: None }
    }

    /// As long as `input_ids`: the id itself where the token is trained, [`IGNORE`] elsewhere. Not shifted.
    pub fn labels(&self) -> Vec<u32> {
        let mut labels = vec![IGNORE; self.input_ids.len()];
        self.trained.positions().for_each(|place| labels[place] = self.input_ids[place]);
        labels
    }

    /// Where a label stands that some position predicts: nothing predicts position 0.
    pub fn predicted(&self) -> impl Iterator<Item = usize> + '_ {
        self.trained.positions().filter(|place| *place > 0)
    }

    /// The first of [`Self::predicted`]; where there is none, the end.
    pub fn first_predicted(&self) -> usize {
        self.predicted().next().unwrap_or(self.input_ids.len())
    }

    /// Whether the row behind it belongs to the same sample.
    pub fn shares_sample(&self, next: &Self) -> bool {
        self.pack.is_some() && self.pack == next.pack
    }

    /// Tokens of its sample as LlamaFactory feeds it.
    pub fn sample_len(&self) -> usize {
        self.pack.map_or(self.input_ids.len(), |pack| pack.len)
    }

    /// Labels that are not [`IGNORE`]. Position 0 counts, as in LlamaFactory, although nothing predicts it. Of a pack LlamaFactory
    /// has the last token of a row predict the first of the next; here rows do not know of each other.
    pub fn label_count(&self) -> usize {
        self.trained.count()
    }

    /// Whether the row teaches anything: a label that some position predicts.
    pub fn is_trainable(&self) -> bool {
        self.predicted().next().is_some()
    }
}

/// A row of a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// Index into the data sets of the run, in the order read: those trained, then those of `eval_dataset`.
    pub dataset: usize,
    /// Row in its file, from 1.
    pub row: usize,
}
