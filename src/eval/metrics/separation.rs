//! What a metric is worth: how well it tells real couplets from the same lines paired at random.

use super::{Better, Judged, METRICS, estimate::below};
use crate::{prosody, rng::Key};
use serde::Serialize;
use std::collections::BTreeMap;

/// Shapes with fewer lines are left out of the re-pairing: their few 下联 would be near neighbours.
const MIN_LINES: usize = 6;

/// Below this area a metric says little about a single couplet.
pub const WEAK: f64 = 0.65;

/// Pairs each 上联 with the 下联 of another row of the same clause shape; shapes of five rows or fewer are left out.
///
/// Within a shape the 下联 go round in one random cycle, so none stays and each is used once.
pub fn repair(rows: &[(String, String)], seed: u64) -> Vec<(String, String)> {
    let pairs = repaired(rows, seed).into_iter();
    pairs.map(|(upper, lower)| (rows[upper].0.clone(), rows[lower].1.clone())).collect()
}

/// [`repair`] as indices into `rows`: of the 上联, in their order, and of the 下联 it gets.
pub fn repaired(rows: &[(String, String)], seed: u64) -> Vec<(usize, usize)> {
    let mut shapes: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    for (at, (upper, lower)) in rows.iter().enumerate() {
        let shape = prosody::shape(upper);
        if shape == prosody::shape(lower) {
            shapes.entry(shape).or_default().push(at);
        }
    }
    let mut pairs: Vec<(usize, usize)> = vec![];
    for uppers in shapes.into_values().filter(|lines| lines.len() >= MIN_LINES) {
        let mut lowers = uppers.clone();
        let key = Key::new(seed, "repair").with(uppers[0] as u64);
        for last in (1..lowers.len()).rev() {
            lowers.swap(last, below(last, key.uniform(last as u64))); // Sattolo's shuffle: one cycle
        }
        pairs.extend(uppers.into_iter().zip(lowers));
    }
    pairs.sort_unstable();
    pairs
}

/// How well a metric tells two sets apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Separation {
    /// The metric.
    pub key: &'static str,
    /// Probability that a real couplet is better than a re-paired one, ties counting half: 0.5 is no better than chance.
    pub auc: f64,
    /// Whether that is below 0.65.
    pub weak: bool,
}

impl Separation {
    /// Of this area.
    pub fn of(key: &'static str, auc: f64) -> Self {
        Self { key, auc, weak: auc < WEAK }
    }
}

/// The separation of each metric that applies to both sets.
pub fn separations(real: &[Judged], repaired: &[Judged]) -> Vec<Separation> {
    let separation = |metric: &super::Metric| {
        let values = |rows: &[Judged]| rows.iter().filter_map(|row| (metric.of)(row).value()).collect::<Vec<_>>();
        let higher = auc(&values(real), &values(repaired))?;
        let auc = if metric.better == Better::Higher { higher } else { 1.0 - higher };
        Some(Separation::of(metric.key, auc))
    };
    METRICS.iter().filter_map(separation).collect()
}

/// Area under the ROC curve as the Mann–Whitney statistic: P(a > b) + P(a = b) / 2. `None` where a side is empty.
fn auc(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let mut sorted = b.to_vec();
    sorted.sort_by(f64::total_cmp);
    let wins = |x: f64| sorted.partition_point(|y| *y < x) + sorted.partition_point(|y| *y <= x);
    let doubled: usize = a.iter().map(|x| wins(*x)).sum();
    Some(doubled as f64 / (2.0 * a.len() as f64 * b.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Reference: each pair compared.
    fn auc_by_pairs(a: &[f64], b: &[f64]) -> f64 {
        let score = |(x, y): (&f64, &f64)| {
            if x > y {
                1.0
            } else if x == y {
                0.5
            } else {
                0.0
            }
        };
        let total: f64 = a.iter().flat_map(|x| b.iter().map(move |y| score((x, y)))).sum();
        total / (a.len() * b.len()) as f64
    }

    #[test]
    fn the_area_agrees_with_comparing_every_pair() {
        let values = |seed, n: u64, shift: f32| -> Vec<f64> {
            let key = Key::new(seed, "auc");
            (0..n).map(|i| f64::from(((key.uniform(i) + shift) * 9.0).floor())).collect()
        };
        for (a, b) in [
            (values(1, 40, 0.3), values(2, 70, 0.0)),
            (values(3, 7, 0.0), values(3, 7, 0.0)),
            (vec![1.0], vec![0.0]),
            (vec![0.0], vec![1.0]),
        ] {
            assert!((auc(&a, &b).unwrap() - auc_by_pairs(&a, &b)).abs() < 1e-12);
        }
        assert_eq!(auc(&[1.0], &[0.0]), Some(1.0));
        assert_eq!(auc(&[], &[0.0]), None);
    }

    #[test]
    fn repairing_keeps_the_shape_and_lets_no_pair_stand() {
        let shapes = ["{}天地人", "{}山，水", "{}"];
        let marks = "甲乙丙丁戊己庚辛壬癸";
        let mut rows = vec![];
        for (count, shape) in [10, 6, 5].into_iter().zip(shapes) {
            let line = |mark: char, side: &str| shape.replace("{}", &format!("{side}{mark}"));
            rows.extend(marks.chars().take(count).map(|m| (line(m, "上"), line(m, "下"))));
        }
        let repaired = repair(&rows, 5);
        assert_eq!(repaired.len(), 16, "the shape with five rows is left out");
        assert_eq!(repair(&rows, 5), repaired, "seeded");
        assert_ne!(repair(&rows, 6), repaired);
        assert!(repaired.iter().all(|pair| !rows.contains(pair)), "every 下联 is another's");
        assert!(repaired.iter().all(|(u, l)| prosody::shape(u) == prosody::shape(l)));
        let lowers: BTreeSet<_> = repaired.iter().map(|(_, lower)| lower).collect();
        assert_eq!(lowers.len(), 16, "each is used once");
    }

    #[test]
    fn a_metric_that_cannot_tell_them_apart_is_weak() {
        let good: Vec<_> = (0..8).map(|_| Judged::new("白日依山尽", "黄河入海流")).collect();
        let bad: Vec<_> = (0..8).map(|_| Judged::new("白日依山尽", "白河入海流")).collect();
        let found = separations(&good, &bad);
        let of = |key| found.iter().find(|s| s.key == key).unwrap();
        assert_eq!((of("shape").auc, of("shape").weak), (0.5, true), "both have it");
        assert_eq!((of("no_shared").auc, of("no_shared").weak), (1.0, false));
        assert_eq!(of("same_place").auc, 1.0, "less is better there");
        assert!(found.iter().all(|s| s.key != "finish"), "known of neither");
    }
}
