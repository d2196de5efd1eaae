//! Data in numbers, for those who look at it before training: lengths, rows that come twice, one question with several answers.

use super::{encode::Row, record::Record};
use serde::Serialize;
use std::{collections::HashMap, hash::Hash};

/// Lengths of texts in tokens, uncut. All 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Of all together.
    pub tokens: usize,
    /// The shortest.
    pub min: usize,
    /// Of one on the average.
    pub mean: f64,
    /// Half are at most so long.
    pub p50: usize,
    /// Nine in ten are at most so long.
    pub p90: usize,
    /// 95 in a hundred are at most so long.
    pub p95: usize,
    /// 99 in a hundred are at most so long.
    pub p99: usize,
    /// The longest.
    pub max: usize,
}

impl Lengths {
    /// Of these lengths, in any order.
    pub fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let (Some(&min), Some(&max)) = (lengths.first(), lengths.last()) else { return Self::default() };
        let tokens: usize = lengths.iter().sum();
        let at_most = |hundredths: usize| lengths[(lengths.len() * hundredths).div_ceil(100) - 1];
        Self {
            tokens,
            min,
            mean: tokens as f64 / lengths.len() as f64,
            p50: at_most(50),
            p90: at_most(90),
            p95: at_most(95),
            p99: at_most(99),
            max,
        }
    }
}

/// Rows of a stretch of lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The shortest length.
    pub from: usize,
    /// The longest.
    pub to: usize,
    /// How many rows.
    pub rows: usize,
}

/// `lengths` in at most `most` bins of one width, from the shortest to the longest.
pub fn histogram(lengths: &[usize], most: usize) -> Vec<Bin> {
    let (Some(&min), Some(&max)) = (lengths.iter().min(), lengths.iter().max()) else { return vec![] };
    let width = (max - min + 1).div_ceil(most.max(1));
    let bin = |from| Bin { from, to: from + width - 1, rows: 0 };
    let mut bins: Vec<Bin> = (min..=max).step_by(width).map(bin).collect();
    lengths.iter().for_each(|length| bins[(length - min) / width].rows += 1);
    bins
}

/// Every row that is the same as an earlier one, behind the first of its kind: (first, again), indices into `rows`.
pub fn doubles(rows: &[Row]) -> Vec<(usize, usize)> {
    let mut seen = HashMap::new();
    let mut found = vec![];
    for (i, Row { record, .. }) in rows.iter().enumerate() {
        let first = *seen.entry((question(record), record.response.as_str())).or_insert(i);
        found.extend((first < i).then_some((first, i)));
    }
    found
}

/// The rows of every question that has more than one answer, indices into `rows`, in the order of the first of each.
pub fn contradictions(rows: &[Row]) -> Vec<Vec<usize>> {
    let mut by_question: HashMap<_, Vec<usize>> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        by_question.entry(question(&row.record)).or_default().push(i);
    }
    let answer = |i: &usize| rows[*i].record.response.as_str();
    let differ = |same: &Vec<usize>| same.iter().any(|i| answer(i) != answer(&same[0]));
    let mut found: Vec<Vec<usize>> = by_question.into_values().filter(differ).collect();
    found.sort_unstable();
    found
}

/// All that is said to the model.
fn question(record: &Record) -> impl Hash + Eq {
    (&record.prompt, &record.query, &record.system, &record.tools, &record.history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Origin;

    #[test]
    fn lengths_of_a_hundred_and_of_none() {
        let got = Lengths::of((1..=200).rev().collect());
        let want = Lengths { tokens: 20_100, min: 1, mean: 100.5, p50: 100, p90: 180, p95: 190, p99: 198, max: 200 };
        assert_eq!(got, want);
        assert_eq!(
            Lengths::of(vec![7]),
            Lengths { tokens: 7, min: 7, mean: 7.0, p50: 7, p90: 7, p95: 7, p99: 7, max: 7 }
        );
        assert_eq!(Lengths::of(vec![]), Lengths::default());
    }

    #[test]
    fn bins_hold_every_row_once() {
        let bin = |from, to, rows| Bin { from, to, rows };
        for (lengths, most, want) in [
            (vec![], 4, vec![]),
            (vec![5, 5], 4, vec![bin(5, 5, 2)]),
            (vec![5, 8, 7, 5], 4, vec![bin(5, 5, 2), bin(6, 6, 0), bin(7, 7, 1), bin(8, 8, 1)]),
            (vec![1, 10, 4, 5], 3, vec![bin(1, 4, 2), bin(5, 8, 1), bin(9, 12, 1)]),
        ] {
            assert_eq!(histogram(&lengths, most), want, "{lengths:?} in {most}");
        }
    }

    #[test]
    fn rows_that_come_twice_and_questions_with_several_answers() {
        let row = |(i, (query, response)): (usize, &(&str, &str))| Row {
            origin: Origin { dataset: 0, row: i + 1 },
            record: Record { query: (*query).into(), response: (*response).into(), ..Record::default() },
        };
        let rows = [("天", "地"), ("雨", "风"), ("天", "地"), ("雨", "云"), ("天", "地"), ("山", "水"), ("雨", "风")];
        let mut rows: Vec<Row> = rows.iter().enumerate().map(row).collect();
        assert_eq!(doubles(&rows), [(0, 2), (0, 4), (1, 6)]);
        assert_eq!(contradictions(&rows), [[1, 3, 6]]);
        rows[3].record.prompt = "对".into();
        assert!(contradictions(&rows).is_empty(), "another instruction is another question");
    }
}
