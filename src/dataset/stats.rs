//! Lengths of rows in numbers, for those who look at data before training.

use serde::Serialize;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
