//! A mean with its interval: the percentile bootstrap over rows (Efron 1979), seeded.

use crate::rng::Key;
use serde::Serialize;

/// Resamples an interval is drawn from.
pub const RESAMPLES: usize = 1000;

/// A row's value as a fraction. Over a set the value is Σ part / Σ whole; a row with whole 0 does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ratio {
    /// What was right.
    pub part: f64,
    /// What there was.
    pub whole: f64,
}

impl Ratio {
    /// Yes is 1 of 1, no is 0 of 1.
    pub fn of(yes: bool) -> Self {
        Self::share(f64::from(u8::from(yes)))
    }

    /// A share, as one row among rows of equal weight.
    pub fn share(share: f64) -> Self {
        Self { part: share, whole: 1.0 }
    }

    /// Does not count where nothing is known.
    pub fn maybe(yes: Option<bool>) -> Self {
        yes.map_or_else(Self::default, Self::of)
    }

    /// Its value; `None` where it does not count.
    pub fn value(self) -> Option<f64> {
        (self.whole > 0.0).then(|| self.part / self.whole)
    }
}

impl std::iter::Sum for Ratio {
    fn sum<I: Iterator<Item = Self>>(ratios: I) -> Self {
        ratios.fold(Self::default(), |sum, r| Self { part: sum.part + r.part, whole: sum.whole + r.whole })
    }
}

/// A value over a set of rows, with the interval that holds 95 % of the resampled values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The value on the rows themselves.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Rows that count.
    pub n: usize,
}

/// The estimate of each column; `None` where no row counts. All columns have one value a row, and are resampled alike.
pub(super) fn estimates(columns: &[Vec<Ratio>], key: Key) -> Vec<Option<Estimate>> {
    let rows = columns.first().map_or(0, Vec::len);
    let mut resampled = vec![Vec::with_capacity(RESAMPLES); columns.len()];
    for resample in 0..RESAMPLES as u64 {
        let key = key.with(resample);
        let mut times = vec![0.0; rows]; // how often each row was drawn
        (0..rows as u64).for_each(|at| times[below(rows, key.uniform(at))] += 1.0);
        for (column, values) in columns.iter().zip(&mut resampled) {
            let weighted = column.iter().zip(&times).map(|(r, n)| Ratio { part: r.part * n, whole: r.whole * n });
            values.extend(weighted.sum::<Ratio>().value());
        }
    }
    columns.iter().zip(resampled).map(|(column, values)| estimate(column, values)).collect()
}

fn estimate(column: &[Ratio], mut resampled: Vec<f64>) -> Option<Estimate> {
    let value = column.iter().copied().sum::<Ratio>().value()?;
    resampled.sort_by(f64::total_cmp);
    let at = |share: f64| match resampled.len() {
        0 => value, // so few rows count that no resample held one
        n => resampled[(share * (n - 1) as f64).round() as usize],
    };
    let n = column.iter().filter(|ratio| ratio.whole > 0.0).count();
    Some(Estimate { value, low: at(0.025), high: at(0.975), n })
}

/// A number below `n` from one that is uniform on [0, 1).
pub(super) fn below(n: usize, uniform: f32) -> usize {
    ((f64::from(uniform) * n as f64) as usize).min(n.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interval of a mean of `n` yes/no rows is close to the normal approximation.
    #[test]
    fn the_interval_of_a_share_is_as_wide_as_theory_says() {
        for (n, yes) in [(400, 200), (1000, 100)] {
            let column: Vec<Ratio> = (0..n).map(|row| Ratio::of(row < yes)).collect();
            let got = estimates(&[column], Key::new(3, "test"))[0].unwrap();
            let p = yes as f64 / n as f64;
            let half = 1.96 * (p * (1.0 - p) / n as f64).sqrt();
            assert_eq!((got.value, got.n), (p, n));
            assert!((got.low - (p - half)).abs() < 0.15 * half, "{got:?}, theory {p} ± {half}");
            assert!((got.high - (p + half)).abs() < 0.15 * half, "{got:?}, theory {p} ± {half}");
        }
    }

    #[test]
    fn the_seed_decides_the_interval_and_not_the_value() {
        let column: Vec<Ratio> = (0..50).map(|row| Ratio::share(f64::from(row % 7) / 7.0)).collect();
        let [a, again, b] = [1, 1, 2].map(|seed| estimates(std::slice::from_ref(&column), Key::new(seed, "t"))[0]);
        assert_eq!(a, again);
        assert_ne!(a, b);
        assert_eq!(a.unwrap().value, b.unwrap().value);
    }

    #[test]
    fn rows_that_do_not_count_do_not() {
        let column = vec![Ratio::maybe(None), Ratio::of(true), Ratio { part: 1.0, whole: 3.0 }];
        let got = estimates(&[column, vec![Ratio::default(); 3]], Key::new(0, "t"));
        assert_eq!(got[0].map(|e| (e.value, e.n)), Some((0.5, 2)), "2 of 4");
        assert_eq!(got[1], None);
        assert_eq!(estimates(&[vec![]], Key::new(0, "t")), [None], "no rows at all");
    }
}
