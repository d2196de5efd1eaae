//! The table on stdout: a metric a line, a column for each model and for the lines to compare with.

use super::files::Results;
use couplet_train::{
    eval::{
        metrics::{Estimate, METRICS, WEAK},
        suite::Column,
    },
    report::{Lang, text::columns},
};

/// Metrics shown, and their names; those of the judge are named there. `raw `: of the answers as they stand.
const SHOWN: &[(&str, &str, &str)] = &[
    ("eval_loss", "eval_loss", "eval_loss"),
    ("eval_loss_per_token", "loss per token", "损失/词元"),
    ("perplexity_per_character", "perplexity per character", "困惑度/字"),
    ("bleu-4", "BLEU-4", "BLEU-4"),
    ("rouge-1", "ROUGE-1", "ROUGE-1"),
    ("rouge-2", "ROUGE-2", "ROUGE-2"),
    ("rouge-l", "ROUGE-L", "ROUGE-L"),
    ("pass", "pass", ""),
    ("shape", "shape", ""),
    ("end", "end", ""),
    ("opp", "opp", ""),
    ("all", "all", ""),
    ("repeat", "repeat", ""),
    ("no_shared", "no_shared", ""),
    ("pos", "pos", ""),
    ("seg", "seg", ""),
    ("parallel", "parallel", ""),
    ("closed", "closed", ""),
    ("recall_of_32", "recall_of_32", "意境（32 选 1）"),
    ("distinct_1", "distinct_1", "不同字比"),
    ("distinct_2", "distinct_2", "不同双字比"),
    ("tail", "tail", ""),
    ("copied", "copied", ""),
    ("in_train", "in_train", ""),
    ("finish", "finish", ""),
    ("raw pass", "pass, as written", "合格（原文）"),
    ("raw shape", "shape, as written", "字数（原文）"),
];

/// The table and what its marks mean.
pub fn render(results: &Results, lang: Lang) -> String {
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(results.columns.iter().map(|column| title(column, lang)));
    for (key, en, zh) in SHOWN {
        let cells: Vec<String> = results.columns.iter().map(|column| cell(column, key)).collect();
        if cells.iter().any(|cell| cell != NOTHING) {
            let weak = results.separations.iter().any(|s| s.key == *key && s.weak);
            let mark = if weak { " ~" } else { "" };
            lines.push([vec![format!("{}{mark}", name(key, lang.pick(en, zh), lang))], cells].concat());
        }
    }
    let mut text = columns(&lines);
    text += match lang {
        Lang::En => "value, then its 95 % interval by resampling rows\n",
        Lang::Zh => "数值，其后为按行重抽样的 95 % 区间\n",
    };
    if results.separations.iter().any(|separation| separation.weak) {
        text += &match lang {
            Lang::En => {
                format!("~ weak here: tells a real couplet from a re-paired one with a probability below {WEAK}\n")
            }
            Lang::Zh => format!("~ 此处较弱：区分真联与错配联的概率低于 {WEAK}\n"),
        };
    }
    text
}

/// Where a metric does not apply.
const NOTHING: &str = "-";

fn title(column: &Column, lang: Lang) -> String {
    let known = [
        ("base", "base", "基座"),
        ("tuned", "tuned", "训练后"),
        ("reference", "reference", "原句"),
        ("repaired", "re-paired", "错配"),
    ];
    let name = known.into_iter().find(|(name, ..)| *name == column.name);
    name.map_or(column.name.clone(), |(_, en, zh)| lang.pick(en, zh).to_owned())
}

fn name(key: &str, label: &str, lang: Lang) -> String {
    let of_judge = METRICS.iter().find(|metric| metric.key == key);
    match (lang, of_judge) {
        (Lang::Zh, Some(metric)) => metric.zh.to_owned(),
        _ => label.to_owned(),
    }
}

fn cell(column: &Column, key: &str) -> String {
    let estimate = match key.strip_prefix("raw ") {
        Some(key) => column.get_raw(key),
        None => column.get(key),
    };
    match (key, column.eval_loss, estimate) {
        ("eval_loss", Some(loss), _) => format!("{loss:.4}"),
        (_, _, Some(estimate)) => number(key, estimate),
        _ => NOTHING.to_owned(),
    }
}

/// `0.717 0.68-0.75`; shares and losses with three decimals, percents and perplexities with one or two.
fn number(key: &str, e: Estimate) -> String {
    match key {
        "eval_loss_per_token" => format!("{:.4} {:.3}-{:.3}", e.value, e.low, e.high),
        "perplexity_per_character" | "bleu-4" | "rouge-1" | "rouge-2" | "rouge-l" => {
            format!("{:.2} {:.1}-{:.1}", e.value, e.low, e.high)
        }
        _ => format!("{:.3} {:.2}-{:.2}", e.value, e.low, e.high),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet_train::eval::metrics::Separation;

    fn results() -> Results {
        let estimate = |value: f64| Estimate { value, low: value - 0.01, high: value + 0.01, n: 9 };
        let tuned = Column {
            name: "tuned".into(),
            rows: 9,
            eval_loss: Some(2.5),
            values: vec![("shape", estimate(0.9)), ("bleu-4", estimate(12.5))],
            raw: vec![("shape", estimate(0.5))],
        };
        let reference =
            Column { name: "reference".into(), values: vec![("shape", estimate(0.99))], ..Column::default() };
        Results {
            columns: vec![tuned, reference],
            answers: vec![],
            separations: vec![Separation::of("shape", 0.5), Separation::of("bleu-4", 0.9)],
        }
    }

    #[test]
    fn columns_stand_below_each_other_in_both_languages() {
        let en = render(&results(), Lang::En);
        assert!(
            en.starts_with(
                "                   tuned            reference\n\
             eval_loss          2.5000           -\n\
             BLEU-4             12.50 12.5-12.5  -\n\
             shape ~            0.900 0.89-0.91  0.990 0.98-1.00\n\
             shape, as written  0.500 0.49-0.51  -\n"
            ),
            "{en}"
        );
        assert!(en.contains("~ weak here"), "{en}");
        let zh = render(&results(), Lang::Zh);
        assert!(
            zh.starts_with(
                "              训练后           原句\n\
             eval_loss     2.5000           -\n\
             BLEU-4        12.50 12.5-12.5  -\n\
             字数 ~        0.900 0.89-0.91  0.990 0.98-1.00\n\
             字数（原文）  0.500 0.49-0.51  -\n"
            ),
            "{zh}"
        );
    }

    #[test]
    fn without_weak_metrics_nothing_is_marked() {
        let mut results = results();
        results.separations.clear();
        assert!(!render(&results, Lang::En).contains('~'));
    }
}
