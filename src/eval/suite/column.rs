//! A column: all that is measured of one set of lines.

use super::{Answered, Case, case::without_thought};
use crate::{
    eval::{
        couplet::extract,
        metrics::{Estimate, Judged, Ratio, estimate_of, measure},
        text_metrics::{self, TextScores},
    },
    prosody,
};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::HashSet;

/// Lines of the training data, to find what was learned by heart. Breaks do not count.
#[derive(Debug, Clone, Default)]
pub struct Known(HashSet<String>);

impl Known {
    /// Of these answers.
    pub fn new<'a>(answers: impl Iterator<Item = &'a str>) -> Self {
        Self(answers.map(|answer| plain(without_thought(answer))).filter(|line| !line.is_empty()).collect())
    }

    /// Whether the line is one of them.
    pub fn contains(&self, line: &str) -> bool {
        self.0.contains(&plain(line))
    }
}

fn plain(line: &str) -> String {
    prosody::characters(line).collect()
}

/// A held-out loss in nats per token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// LlamaFactory's `eval_loss`.
    pub by_batch: f64,
    /// The mean over all tokens.
    pub per_token: Estimate,
}

/// One set of lines, measured. In JSON an object: `rows`, `eval_loss`, each metric as `{value, low, high, n}`, and `raw`
/// with the couplet metrics of what the model wrote as it stands.
#[derive(Debug, Clone, Default)]
pub struct Column {
    /// Its key in results: `base`, `tuned`, `reference`, `repaired`, or an adapter's name.
    pub name: String,
    /// Lines measured.
    pub rows: usize,
    /// LlamaFactory's `eval_loss`, of a model.
    pub eval_loss: Option<f64>,
    /// Metric and estimate. What was said around a line is left out before it is judged.
    pub values: Vec<(&'static str, Estimate)>,
    /// The couplet metrics of the same answers with all that stands around the line.
    pub raw: Vec<(&'static str, Estimate)>,
}

impl Column {
    /// What a model answered. `couplets`: whether the cases are.
    pub fn of_answers(
        name: &str,
        cases: &[Case],
        answered: &[Answered],
        couplets: bool,
        known: Option<&Known>,
        seed: u64,
    ) -> Self {
        let mut column = Self { name: name.into(), rows: cases.len(), ..Self::default() };
        if couplets {
            column.values = measure(&judged_answers(cases, answered, known), seed).metrics;
            let raw = cases.iter().zip(answered);
            let raw: Vec<Judged> = raw.map(|(case, a)| judged(case, a.text.trim(), a.finished, known)).collect();
            column.raw = measure(&raw, seed).metrics;
        } else {
            let finished = answered.iter().map(|answer| Ratio::of(answer.finished)).collect();
            let in_train = answered.iter().map(|a| Ratio::maybe(known.map(|k| k.contains(line(&a.text, false)))));
            column.push("finish", estimate_of(finished, seed));
            column.push("in_train", estimate_of(in_train.collect(), seed));
        }
        let lines = answered.iter().map(|answer| line(&answer.text, couplets));
        column.push_text(cases.iter().zip(lines), seed);
        column
    }

    /// Lines that no model wrote: (case, 下联). `in_train` is told but is no fault of theirs.
    pub fn of_lines(name: &str, lines: &[(&Case, &str)], known: Option<&Known>, seed: u64) -> Self {
        let rows: Vec<Judged> = judged_lines(lines);
        let mut column =
            Self { name: name.into(), rows: lines.len(), values: measure(&rows, seed).metrics, ..Self::default() };
        let in_train = lines.iter().map(|(_, line)| Ratio::maybe(known.map(|known| known.contains(line)))).collect();
        column.push("in_train", estimate_of(in_train, seed));
        if lines.iter().any(|(case, line)| case.reference != **line) {
            column.push_text(lines.iter().copied(), seed);
        }
        column
    }

    /// A metric that is known apart from the lines; nothing where no row counts.
    pub fn push(&mut self, key: &'static str, estimate: Option<Estimate>) {
        self.values.extend(estimate.map(|estimate| (key, estimate)));
    }

    /// The loss: `eval_loss` and `eval_loss_per_token`.
    pub fn push_loss(&mut self, loss: Option<Loss>) {
        self.eval_loss = loss.map(|loss| loss.by_batch);
        self.push("eval_loss_per_token", loss.map(|loss| loss.per_token));
    }

    /// exp(Σ nll / Σ characters).
    pub fn push_perplexity(&mut self, forced: Vec<Ratio>, seed: u64) {
        let exp = |e: Estimate| Estimate { value: e.value.exp(), low: e.low.exp(), high: e.high.exp(), n: e.n };
        self.push("perplexity_per_character", estimate_of(forced, seed).map(exp));
    }

    /// BLEU and ROUGE against the right answers of the case.
    fn push_text<'a>(&mut self, lines: impl Iterator<Item = (&'a Case, &'a str)>, seed: u64) {
        let scores: Vec<TextScores> =
            lines.map(|(case, line)| text_metrics::score(line, &case.reference, &case.further())).collect();
        let mut push = |key, of: fn(&TextScores) -> f64| {
            self.push(key, estimate_of(scores.iter().map(|score| Ratio::share(of(score))).collect(), seed));
        };
        push("bleu-4", |score| score.bleu4);
        push("rouge-1", |score| score.rouge1);
        push("rouge-2", |score| score.rouge2);
        push("rouge-l", |score| score.rouge_l);
    }

    /// The estimate of one metric.
    pub fn get(&self, key: &str) -> Option<Estimate> {
        find(&self.values, key)
    }

    /// The estimate of one metric of the raw answers.
    pub fn get_raw(&self, key: &str) -> Option<Estimate> {
        find(&self.raw, key)
    }
}

fn find(values: &[(&'static str, Estimate)], key: &str) -> Option<Estimate> {
    values.iter().find(|(name, _)| *name == key).map(|(_, estimate)| *estimate)
}

impl Serialize for Column {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rows", &self.rows)?;
        if let Some(loss) = self.eval_loss {
            map.serialize_entry("eval_loss", &loss)?;
        }
        for (key, estimate) in &self.values {
            map.serialize_entry(key, estimate)?;
        }
        if !self.raw.is_empty() {
            map.serialize_entry("raw", &AsObject(&self.raw))?;
        }
        map.end()
    }
}

struct AsObject<'a>(&'a [(&'static str, Estimate)]);

impl Serialize for AsObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, estimate)| (key, estimate)))
    }
}

/// Lines of no model's, judged.
pub fn judged_lines(lines: &[(&Case, &str)]) -> Vec<Judged> {
    lines.iter().map(|(case, line)| Judged::new(&case.upper, line)).collect()
}

/// Answers to couplets, each reduced to its line and judged.
pub(super) fn judged_answers(cases: &[Case], answered: &[Answered], known: Option<&Known>) -> Vec<Judged> {
    let rows = cases.iter().zip(answered);
    rows.map(|(case, a)| judged(case, line(&a.text, true), a.finished, known)).collect()
}

fn judged(case: &Case, line: &str, finished: bool, known: Option<&Known>) -> Judged {
    let in_train = known.map(|known| known.contains(line));
    Judged { finished: Some(finished), in_train, ..Judged::new(&case.upper, line) }
}

/// An answer without what stands around it.
pub fn line(answer: &str, couplet: bool) -> &str {
    if couplet { extract(answer) } else { without_thought(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(upper: &str, reference: &str) -> Case {
        Case {
            prompt: vec![],
            upper: upper.into(),
            reference: reference.into(),
            further: vec![],
            label: String::new(),
            asked: vec![],
            target: vec![],
        }
    }

    fn answered(text: &str, finished: bool) -> Answered {
        Answered { text: text.into(), finished }
    }

    #[test]
    fn an_answer_is_judged_with_and_without_what_stands_around_it() {
        let cases = vec![case("白日依山尽", "黄河入海流"); 4];
        let texts = ["黄河入海流", "下联：黄河入海流。\n对仗工整。", "黄河入海", "黄河入海流"];
        let answers: Vec<Answered> = texts.iter().enumerate().map(|(i, text)| answered(text, i < 3)).collect();
        let known = Known::new(["黄河，入海流"].into_iter());
        let column = Column::of_answers("tuned", &cases, &answers, true, None, 1);
        for (key, line, raw) in [("shape", 0.75, 0.5), ("finish", 0.75, 0.75), ("pass", 0.5, 0.25)] {
            assert_eq!(column.get(key).map(|e| (e.value, e.n)), Some((line, 4)), "{key}");
            assert_eq!(column.get_raw(key).map(|e| e.value), Some(raw), "{key} raw");
        }
        assert!(column.get("in_train").is_none(), "not known");
        let bleu = column.get("bleu-4").unwrap();
        assert!(bleu.value > 75.0 && bleu.value < 100.0, "three are the reference: {bleu:?}");
        let learned = Column::of_answers("tuned", &cases, &answers, true, Some(&known), 1);
        assert_eq!(learned.get("in_train").unwrap().value, 0.75, "breaks do not count");
        assert_eq!(learned.get("pass").unwrap().value, 0.0, "by heart is no pass");
        let json = serde_json::to_value(&learned).unwrap();
        assert_eq!(json["shape"]["value"], 0.75);
        assert_eq!(json["raw"]["shape"]["n"], 4);
        assert_eq!(json["rows"], 4);
    }

    #[test]
    fn references_in_the_training_data_are_told_and_pass() {
        let case = case("白日依山尽", "黄河入海流");
        let known = Known::new(["黄河入海流"].into_iter());
        let column = Column::of_lines("reference", &[(&case, "黄河入海流")], Some(&known), 1);
        assert_eq!((column.get("in_train").unwrap().value, column.get("pass").unwrap().value), (1.0, 1.0));
        assert!(
            column.get("bleu-4").is_none() && column.get("finish").is_none(),
            "the reference is not compared with itself"
        );
    }

    #[test]
    fn rows_that_are_no_couplets_have_no_couplet_metrics() {
        let answers = [answered("<think>\n\n</think>\n\nParis", true)];
        let column = Column::of_answers("base", &[case("Which city?", "Paris")], &answers, false, None, 1);
        let keys: Vec<_> = column.values.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["finish", "bleu-4", "rouge-1", "rouge-2", "rouge-l"]);
        assert_eq!(column.get("bleu-4").unwrap().value, 100.0);
        assert!(serde_json::to_value(&column).unwrap().get("raw").is_none());
    }

    #[test]
    fn perplexity_is_by_character() {
        let mut column = Column::default();
        column.push_perplexity(vec![Ratio { part: 4.0, whole: 2.0 }, Ratio { part: 2.0, whole: 1.0 }], 1);
        assert_eq!(column.get("perplexity_per_character").unwrap().value, 2f64.exp());
    }
}
