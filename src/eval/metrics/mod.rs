//! A set of judged couplets → each metric with its interval, and what a metric is worth.
//!
//! A number says little without two others beside it, measured alike: real couplets, and the same lines paired at random
//! ([`repair`]). [`separations`] says how well each metric tells the two apart; where it cannot, it is flagged as weak.

mod estimate;
mod separation;

pub use estimate::{Estimate, RESAMPLES, Ratio};
pub use separation::{Separation, WEAK, repair, repaired, separations};

use super::couplet::{Kind, Verdict, judge};
use crate::{prosody, rng::Key};
use serde::{Serialize, Serializer};
use std::collections::HashMap;

/// A couplet with its verdict, and what only the caller can know.
#[derive(Debug, Clone)]
pub struct Judged {
    /// 下联, without what stood around it.
    pub lower: String,
    /// What was found.
    pub verdict: Verdict,
    /// Whether the model ended its answer by itself, if one wrote it.
    pub finished: Option<bool>,
    /// Whether the line stands in the training data, if that was looked up.
    pub in_train: Option<bool>,
}

impl Judged {
    /// Judges a couplet no model is known to have written.
    pub fn new(upper: &str, lower: &str) -> Self {
        Self { lower: lower.into(), verdict: judge(upper, lower), finished: None, in_train: None }
    }

    /// 合格, with all that is known: the rules, finished, and not learned by heart.
    pub fn passes(&self) -> bool {
        self.verdict.passes() && self.finished != Some(false) && self.in_train != Some(true)
    }
}

/// Which end of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// One metric of a couplet.
pub struct Metric {
    /// Its name in results.
    pub key: &'static str,
    /// Its name in Chinese.
    pub zh: &'static str,
    /// Which end is good.
    pub better: Better,
    /// Its value on a row, as a fraction: 0/0 where it does not apply.
    pub of: fn(&Judged) -> Ratio,
}

const fn metric(key: &'static str, zh: &'static str, of: fn(&Judged) -> Ratio) -> Metric {
    Metric { key, zh, better: Better::Higher, of }
}

const fn fault(key: &'static str, zh: &'static str, of: fn(&Judged) -> Ratio) -> Metric {
    Metric { key, zh, better: Better::Lower, of }
}

/// Every metric of a row, the headline first. Their definitions are those of [`Verdict`]'s fields.
///
/// `end`, `opp` and `all` take the better system of each couplet. `repeat` is over rows where either line repeats a
/// character; the closed classes (`number` … `closed`) over the characters of 上联 that ask.
pub const METRICS: &[Metric] = &[
    metric("pass", "合格", |row| Ratio::of(row.passes())),
    metric("shape", "字数", |row| Ratio::of(row.verdict.shape)),
    metric("end", "仄起平收", |row| Ratio::of(row.verdict.tones().end)),
    metric("opp", "节点相对", |row| Ratio::share(row.verdict.tones().opp)),
    metric("all", "平仄全合", |row| Ratio::of(row.verdict.tones().all())),
    metric("end_pingshui", "仄起平收·平水", |row| Ratio::of(row.verdict.pingshui.end)),
    metric("opp_pingshui", "节点相对·平水", |row| Ratio::share(row.verdict.pingshui.opp)),
    metric("all_pingshui", "平仄全合·平水", |row| Ratio::of(row.verdict.pingshui.all())),
    metric("end_modern", "仄起平收·新韵", |row| Ratio::of(row.verdict.modern.end)),
    metric("opp_modern", "节点相对·新韵", |row| Ratio::share(row.verdict.modern.opp)),
    metric("all_modern", "平仄全合·新韵", |row| Ratio::of(row.verdict.modern.all())),
    fault("tail", "三平尾三仄尾", |row| Ratio::of(row.verdict.tail.is_some())),
    metric("pos", "词性相同", |row| Ratio::share(row.verdict.pos)),
    metric("seg", "节律相同", |row| Ratio::share(row.verdict.seg)),
    metric("parallel", "对仗", |row| Ratio::share(row.verdict.parallel)),
    metric("repeat", "重字相应", |row| Ratio::maybe(row.verdict.repeat)),
    metric("no_shared", "两联不重字", |row| Ratio::of(row.verdict.no_shared)),
    fault("same_place", "同位同字", |row| Ratio::of(row.verdict.same_place)),
    fault("copied", "照抄上联", |row| Ratio::of(row.verdict.copied)),
    metric("number", "数目对", |row| kind(row, Kind::Number)),
    metric("colour", "颜色对", |row| kind(row, Kind::Colour)),
    metric("direction", "方位对", |row| kind(row, Kind::Direction)),
    metric("doubled", "叠字对", |row| kind(row, Kind::Doubled)),
    metric("function", "虚字对", |row| kind(row, Kind::Function)),
    metric("closed", "同类相对", |row| Kind::ALL.into_iter().map(|k| kind(row, k)).sum()),
    metric("finish", "正常结束", |row| Ratio::maybe(row.finished)),
    fault("in_train", "见于训练集", |row| Ratio::maybe(row.in_train)),
];

fn kind(row: &Judged, kind: Kind) -> Ratio {
    let tally = row.verdict.kinds[kind as usize];
    Ratio { part: tally.answered as f64, whole: tally.asked as f64 }
}

/// All metrics over a set. In JSON, `metrics` is an object with one entry a metric; those that apply to no row are absent.
#[derive(Debug, Clone, Serialize)]
pub struct Metrics {
    /// Couplets judged.
    pub rows: usize,
    /// Seed of the intervals.
    pub seed: u64,
    /// Share of resamples within an interval.
    pub confidence: f64,
    /// Name and estimate, in the order of [`METRICS`], then `distinct_1` and `distinct_2`.
    #[serde(serialize_with = "as_object")]
    pub metrics: Vec<(&'static str, Estimate)>,
}

impl Metrics {
    /// The estimate of one metric.
    pub fn get(&self, key: &str) -> Option<Estimate> {
        self.metrics.iter().find(|(name, _)| *name == key).map(|(_, estimate)| *estimate)
    }
}

fn as_object<S: Serializer>(metrics: &[(&'static str, Estimate)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(metrics.iter().map(|(key, estimate)| (key, estimate)))
}

/// Measures a set. The same rows and seed give the same numbers; the intervals take the rows as drawn at random.
pub fn measure(rows: &[Judged], seed: u64) -> Metrics {
    let mut columns: Vec<(&'static str, Vec<Ratio>)> =
        METRICS.iter().map(|metric| (metric.key, rows.iter().map(metric.of).collect())).collect();
    columns.push(("distinct_1", distinct(rows, 1)));
    columns.push(("distinct_2", distinct(rows, 2)));
    let (keys, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let estimates = estimate::estimates(&values, Key::new(seed, "bootstrap"));
    let metrics = keys.into_iter().zip(estimates).filter_map(|(key, e)| Some((key, e?))).collect();
    Metrics { rows: rows.len(), seed, confidence: 0.95, metrics }
}

/// The estimate of any value over rows, drawn as [`measure`] draws them; `None` where no row counts.
pub fn estimate_of(values: Vec<Ratio>, seed: u64) -> Option<Estimate> {
    estimate::estimates(&[values], Key::new(seed, "bootstrap")).pop().flatten()
}

/// distinct-n: different n-grams of characters over all n-grams (Li et al. 2016).
///
/// Each row's part is Σ 1/(occurrences in the whole set) over its n-grams, so that the parts add up to the number of
/// different ones, and an interval can be drawn by resampling rows. (Counting afresh in each resample would be biased:
/// a row drawn twice adds nothing new.)
fn distinct(rows: &[Judged], n: usize) -> Vec<Ratio> {
    let lines: Vec<Vec<char>> = rows.iter().map(|row| prosody::characters(&row.lower).collect()).collect();
    let mut occurrences: HashMap<&[char], usize> = HashMap::new();
    for gram in lines.iter().flat_map(|line| line.windows(n)) {
        *occurrences.entry(gram).or_default() += 1;
    }
    let ratio = |line: &Vec<char>| Ratio {
        part: line.windows(n).map(|gram| 1.0 / occurrences[gram] as f64).sum(),
        whole: (line.len() + 1).saturating_sub(n) as f64,
    };
    lines.iter().map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Judged> {
        let pairs = [("白日依山尽", "黄河入海流"), ("白日依山尽", "黄河入海口"), ("两个黄鹂鸣", "一行白鹭飞")];
        pairs.iter().map(|(upper, lower)| Judged::new(upper, lower)).collect()
    }

    #[test]
    fn values_are_means_over_the_rows_they_apply_to() {
        let mut rows = rows();
        rows[0].finished = Some(true);
        rows[1].finished = Some(false);
        let metrics = measure(&rows, 1);
        for (key, want, n, why) in [
            ("shape", 1.0, 3, "all"),
            ("pass", 1.0 / 3.0, 3, "口 is 仄; 鸣 ends an 上联 in 平"),
            ("finish", 0.5, 2, "known for two"),
            ("number", 1.0, 1, "only 两 asks"),
            ("colour", 1.0, 3, "白 and 黄 answer each other"),
            ("distinct_1", 11.0 / 15.0, 3, "four characters stand twice"),
            ("distinct_2", 9.0 / 12.0, 3, "so do three pairs"),
        ] {
            let got = metrics.get(key).unwrap_or_else(|| panic!("{key} is missing"));
            assert!((got.value - want).abs() < 1e-12 && got.n == n, "{key} ({why}): {got:?}, want {want} over {n}");
        }
        assert!(metrics.get("repeat").is_none(), "no row repeats a character");
        assert!(metrics.get("in_train").is_none(), "unknown for all");
    }

    #[test]
    fn a_row_that_was_learned_by_heart_or_not_finished_does_not_pass() {
        let row = rows().remove(0);
        assert!(row.passes());
        assert!(!Judged { finished: Some(false), ..row.clone() }.passes());
        assert!(!Judged { in_train: Some(true), ..row }.passes());
    }

    #[test]
    fn results_are_one_json_object_with_a_key_a_metric() {
        let json = serde_json::to_value(measure(&rows(), 7)).unwrap();
        assert_eq!(json["rows"], 3);
        assert_eq!(json["metrics"]["shape"]["value"], 1.0);
        assert!(json["metrics"]["pass"]["low"].as_f64() <= json["metrics"]["pass"]["high"].as_f64());
    }
}
