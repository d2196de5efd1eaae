//! BLEU-4 and ROUGE-1/2/L with the definitions and the names of LlamaFactory's predict.
//!
//! Formulas: BLEU as nltk's `sentence_bleu` with smoothing method 3 over characters (Papineni et al. 2002; the smoothing
//! of Chen and Cherry 2014); ROUGE as rouge_chinese's F over *sets* of n-grams of words as jieba cuts them (Lin 2004).
//! All are per row, in percent, rounded to four decimals, and then averaged.

use super::words;
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// The scores of a row, or their mean over rows: 0 to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct TextScores {
    /// BLEU with 1- to 4-grams of characters.
    #[serde(rename = "predict_bleu-4")]
    pub bleu4: f64,
    /// F of words.
    #[serde(rename = "predict_rouge-1")]
    pub rouge1: f64,
    /// F of pairs of words.
    #[serde(rename = "predict_rouge-2")]
    pub rouge2: f64,
    /// F of the longest common subsequence of words.
    #[serde(rename = "predict_rouge-l")]
    pub rouge_l: f64,
}

/// Scores `prediction` against `label` and, in BLEU alone, against further right answers: an n-gram counts as often as
/// in the reference that has it most, and the length is compared with the nearest one.
pub fn score(prediction: &str, label: &str, further: &[&str]) -> TextScores {
    let references: Vec<Vec<char>> = std::iter::once(label).chain(further.iter().copied()).map(chars).collect();
    let words = [prediction, label].map(|text| rouge_words(&words::cut(text)));
    let [rouge1, rouge2, rouge_l] = rouge(&words[0], &words[1]);
    let percent = |share: f64| round4(share * 100.0);
    TextScores {
        bleu4: percent(bleu4(&chars(prediction), &references)),
        rouge1: percent(rouge1),
        rouge2: percent(rouge2),
        rouge_l: percent(rouge_l),
    }
}

/// The mean of each score; zero where there are no rows.
pub fn mean(rows: &[TextScores]) -> TextScores {
    let mean = |of: fn(&TextScores) -> f64| rows.iter().map(of).sum::<f64>() / rows.len().max(1) as f64;
    TextScores {
        bleu4: mean(|row| row.bleu4),
        rouge1: mean(|row| row.rouge1),
        rouge2: mean(|row| row.rouge2),
        rouge_l: mean(|row| row.rouge_l),
    }
}

/// Rounds as Python's `round(x, 4)` does: the exact binary value to the nearest decimal.
fn round4(x: f64) -> f64 {
    format!("{x:.4}").parse().expect("a number just written")
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

/// Geometric mean of the modified precisions of 1- to 4-grams, times the brevity penalty: 0 to 1.
///
/// The k-th order without a match counts as 1 / (2^k · its n-grams), k from 1. An order longer than the prediction has
/// one n-gram, as in nltk.
fn bleu4(prediction: &[char], references: &[Vec<char>]) -> f64 {
    let matches = |n: usize| {
        let most = |gram: &[char]| references.iter().map(|r| count(r, gram)).max().unwrap_or(0);
        let grams: HashMap<&[char], usize> = counts(prediction, n);
        grams.iter().map(|(gram, times)| (*times).min(most(gram))).sum::<usize>()
    };
    if matches(1) == 0 {
        return 0.0;
    }
    let mut misses = 0;
    let mut log_sum = 0.0;
    for n in 1..=4 {
        let possible = (prediction.len() + 1).saturating_sub(n).max(1) as f64;
        let precision = match matches(n) {
            0 => {
                misses += 1;
                1.0 / (f64::from(1 << misses) * possible)
            }
            hits => hits as f64 / possible,
        };
        log_sum += 0.25 * precision.ln();
    }
    brevity_penalty(prediction.len(), references) * log_sum.exp()
}

fn brevity_penalty(len: usize, references: &[Vec<char>]) -> f64 {
    let nearest = references.iter().map(Vec::len).min_by_key(|r| (r.abs_diff(len), *r)).unwrap_or(0);
    if len > nearest { 1.0 } else { (1.0 - nearest as f64 / len as f64).exp() }
}

fn counts(text: &[char], n: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    for gram in text.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

fn count(text: &[char], gram: &[char]) -> usize {
    text.windows(gram.len()).filter(|w| *w == gram).count()
}

/// The words ROUGE compares: jieba's, joined by spaces, cut into sentences and these at white space.
///
/// The sentence cut shows only where white space is in the text: a blank line between sentences is then an empty word.
fn rouge_words(cut: &[&str]) -> Vec<String> {
    let joined = cut.join(" ");
    if joined.trim().is_empty() {
        return vec![];
    }
    let mut words = vec![];
    for sentence in sentences(&joined).filter(|sentence| !sentence.is_empty()) {
        let before = words.len();
        words.extend(sentence.split_whitespace().map(str::to_owned));
        if words.len() == before {
            words.push(String::new());
        }
    }
    words
}

/// Sentences end at a line break, after a full stop, and after six dots.
fn sentences(joined: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(joined.trim_end());
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.char_indices().find_map(|(at, c)| match c {
            '\n' => Some((at, at + 1)),
            '。' | '！' | '？' | '?' => Some((at + c.len_utf8(), at + c.len_utf8())),
            '.' if text[at..].starts_with("......") => Some((at + 6, at + 6)),
            _ => None,
        });
        match end.filter(|(_, next)| *next < text.len()) {
            Some((end, next)) => {
                rest = Some(&text[next..]);
                Some(&text[..end])
            }
            None => rest.take(),
        }
    })
}

/// F of ROUGE-1, ROUGE-2 and ROUGE-L: 0 to 1. Zero where either side has no word.
fn rouge(prediction: &[String], label: &[String]) -> [f64; 3] {
    if prediction.is_empty() || label.is_empty() {
        return [0.0; 3];
    }
    let common = common_subsequence(prediction, label);
    [rouge_n(prediction, label, 1), rouge_n(prediction, label, 2), f_score(common, prediction.len(), label.len())]
}

fn rouge_n(prediction: &[String], label: &[String], n: usize) -> f64 {
    let [p, l] = [prediction, label].map(|words| words.windows(n).collect::<HashSet<_>>());
    f_score(p.intersection(&l).count(), p.len(), l.len())
}

/// rouge's F, with its 1e-8 against a division by zero.
fn f_score(overlap: usize, prediction: usize, label: usize) -> f64 {
    let share = |of: usize| if of == 0 { 0.0 } else { overlap as f64 / of as f64 };
    let (precision, recall) = (share(prediction), share(label));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

/// Length of the longest common subsequence.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../tests/fixtures/text_metrics/cases.json")).unwrap()
    }

    fn as_array(scores: &TextScores) -> [f64; 4] {
        [scores.bleu4, scores.rouge1, scores.rouge2, scores.rouge_l]
    }

    fn recorded(scores: &Value) -> [f64; 4] {
        ["bleu-4", "rouge-1", "rouge-2", "rouge-l"].map(|key| scores[key].as_f64().unwrap())
    }

    #[test]
    fn rows_agree_with_llamafactory() {
        let fixture = fixture();
        let cases = fixture["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 214);
        let mut same_words = 0;
        let mut rows = vec![];
        for case in cases {
            let [prediction, label] = ["predict", "label"].map(|key| case[key].as_str().unwrap());
            let got = score(prediction, label, &[]);
            let words = serde_json::to_value([words::cut(prediction), words::cut(label)]).unwrap();
            let agrees = words == case["words"];
            for (at, (got, want)) in as_array(&got).into_iter().zip(recorded(case)).enumerate() {
                // BLEU knows no words.
                assert!(
                    (!agrees && at > 0) || (got - want).abs() < 1e-6,
                    "{prediction:?} {at}: {got}, recorded {want}"
                );
            }
            same_words += usize::from(agrees);
            rows.push(got);
        }
        assert_eq!(same_words, cases.len(), "rows that jieba cuts as Python's does");
        let mean = mean(&rows[..200]);
        for (got, want) in as_array(&mean).into_iter().zip(recorded(&fixture["mean_of_200"])) {
            assert!((got - want).abs() < 1e-3, "mean {got}, recorded {want}");
        }
    }

    #[test]
    fn several_references_count_as_in_nltk() {
        for case in fixture()["multi"].as_array().unwrap() {
            let references: Vec<&str> =
                case["references"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
            let got = score(case["predict"].as_str().unwrap(), references[0], &references[1..]).bleu4;
            assert!((got - case["bleu-4"].as_f64().unwrap()).abs() < 1e-6, "{case}: {got}");
        }
    }

    #[test]
    fn names_are_llamafactorys() {
        let json = serde_json::to_value(mean(&[])).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["predict_bleu-4", "predict_rouge-1", "predict_rouge-2", "predict_rouge-l"]);
        assert_eq!(json["predict_rouge-l"], 0.0);
    }
}
