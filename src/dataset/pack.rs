//! Packs: rows that LlamaFactory lays into one sample of `cutoff_len` tokens, so that they fill one place of a batch.
//!
//! Which rows go together and in which order the packs come is LlamaFactory's. That rows of a pack do not see each other is
//! `neat_packing`'s rule; here it holds for plain `packing` too.

use crate::config::DataConfig;
use std::{collections::BTreeMap, ops::Range};

/// A sample that several rows make up; they stand one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    /// From 0, in the order of its split.
    pub number: usize,
    /// Its tokens with LlamaFactory's padding: `cutoff_len`.
    pub len: usize,
}

/// A row as LlamaFactory counts rows into batches, where those that are left out count too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    /// Its data set.
    pub(super) dataset: usize,
    /// `None`: it is left out.
    pub(super) tokens: Option<usize>,
}

/// The rows that are not left out, numbered from 0, in the order of their packs, each with its pack.
///
/// `apart`: no pack has rows of two data sets.
pub(super) fn order(seats: &[Seat], data: &DataConfig, apart: bool) -> Vec<(usize, Pack)> {
    let mut order = Vec::with_capacity(seats.len());
    let (mut first, mut number) = (0, 0);
    for part in seats.chunk_by(|a, b| !apart || a.dataset == b.dataset) {
        for group in groups(part.len(), data.preprocessing_num_workers, data.preprocessing_batch_size) {
            let lengths: Vec<usize> = part[group].iter().filter_map(|seat| seat.tokens).collect();
            for pack in knapsacks(&lengths, data.longest_row()) {
                order.extend(pack.into_iter().map(|row| (first + row, Pack { number, len: data.cutoff_len })));
                number += 1;
            }
            first += lengths.len();
        }
    }
    order
}

/// Rows that are packed together: LlamaFactory hands every worker a stretch of the rows, and these come in batches.
fn groups(rows: usize, workers: usize, batch: usize) -> Vec<Range<usize>> {
    let (workers, batch) = (workers.min(rows).max(1), batch.max(1));
    // The first workers get the rows that are left over.
    let start = |worker: usize| rows / workers * worker + worker.min(rows % workers);
    let of_worker = |worker: usize| {
        let end = start(worker + 1);
        (start(worker)..end).step_by(batch).map(move |at| at..(at + batch).min(end))
    };
    (0..workers).flat_map(of_worker).collect()
}

/// Fills one knapsack after the other, always with the longest row that still fits; of equally long ones with the last.
fn knapsacks(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut left: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (row, length) in lengths.iter().enumerate() {
        left.entry(*length.min(&capacity)).or_default().push(row);
    }
    let mut packs = vec![];
    while !left.is_empty() {
        let (mut pack, mut room) = (vec![], capacity);
        while let Some((&length, rows)) = left.range_mut(..=room).next_back() {
            pack.extend(rows.pop());
            if rows.is_empty() {
                left.remove(&length);
            }
            room -= length;
        }
        packs.push(pack);
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_that_fits_is_taken_and_of_equals_the_last() {
        for (lengths, capacity, want, why) in [
            (vec![], 10, vec![], "nothing"),
            (vec![4, 6, 3, 7], 10, vec![vec![3, 2], vec![1, 0]], "pairs"),
            (vec![5, 5, 5], 10, vec![vec![2, 1], vec![0]], "the last of equals"),
            (vec![10, 1, 9], 10, vec![vec![0], vec![2, 1]], "a full one"),
            (vec![1, 2, 3, 4], 10, vec![vec![3, 2, 1, 0]], "all in one"),
            (vec![11, 2], 10, vec![vec![0], vec![1]], "one that would fit nowhere stands alone"),
        ] {
            assert_eq!(knapsacks(&lengths, capacity), want, "{why}");
        }
    }

    #[test]
    fn workers_and_batches_make_groups() {
        for (rows, workers, batch, want, why) in [
            (5, 1, 4, vec![0..4, 4..5], "a batch and the rest"),
            (5, 1, 2, vec![0..2, 2..4, 4..5], "batches"),
            (7, 3, 1000, vec![0..3, 3..5, 5..7], "the first worker has one more"),
            (7, 3, 2, vec![0..2, 2..3, 3..5, 5..7], "batches of a worker"),
            (2, 16, 1000, vec![0..1, 1..2], "no more workers than rows"),
            (0, 4, 10, vec![], "no row"),
        ] {
            assert_eq!(groups(rows, workers, batch), want, "{why}");
        }
    }
}
