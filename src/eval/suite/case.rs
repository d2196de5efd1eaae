//! Rows as they are asked and judged.

use crate::{
    config::DataConfig,
    dataset::{
        Tokenizer, encode,
        record::Record,
        template::{self, EMPTY_THOUGHT},
    },
    error::Result,
    eval::couplet::{Comma, Note, clean_upper},
    prosody,
};
use std::collections::HashMap;

/// The share of rows that must be couplets for all to be judged as such: one slip in the data does not change what it is.
const COUPLETS: f64 = 0.8;

/// A row to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What the model is asked with.
    pub prompt: Vec<u32>,
    /// The line to be answered: the last one of what is asked.
    pub upper: String,
    /// The right answer, without a thought.
    pub reference: String,
    /// Further right answers: those of other rows that ask the same.
    pub further: Vec<String>,
    /// The right answer as LlamaFactory's predictions have it: with its thought and final line break.
    pub label: String,
    /// The prompt and, where training puts one before the answer, an empty thought.
    pub asked: Vec<u32>,
    /// The right answer and the end of the turn.
    pub target: Vec<u32>,
}

impl Case {
    /// Every right answer but the first.
    pub fn further(&self) -> Vec<&str> {
        self.further.iter().map(String::as_str).collect()
    }

    /// Whether both lines have the same clauses of Chinese characters.
    fn is_couplet(&self) -> bool {
        let shape = prosody::shape(&self.upper);
        let chinese = |line: &str| prosody::characters(line).all(is_han);
        !shape.is_empty()
            && shape == prosody::shape(&self.reference)
            && chinese(&self.upper)
            && chinese(&self.reference)
    }
}

/// Unified ideographs with their extensions A to H, and 〇.
fn is_han(c: char) -> bool {
    matches!(c, '〇' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{20000}'..='\u{323af}')
}

/// Whether nearly all rows are couplets.
pub fn are_couplets(cases: &[Case]) -> bool {
    !cases.is_empty() && cases.iter().filter(|case| case.is_couplet()).count() as f64 >= COUPLETS * cases.len() as f64
}

/// The rows as they are asked: as in training, but that earlier answers lose their thoughts, as in LlamaFactory's predict.
pub fn cases(records: &[Record], data: &DataConfig, tokenizer: &Tokenizer) -> Result<Vec<Case>> {
    let mut by_question: HashMap<_, Vec<&str>> = HashMap::new();
    for record in records {
        by_question.entry(question(record)).or_default().push(&record.response);
    }
    let data = DataConfig { mask_history: true, ..data.clone() };
    let case = |record: &Record| {
        let mut others: Vec<String> = vec![];
        for response in &by_question[&question(record)] {
            let response = without_thought(response);
            if response != without_thought(&record.response) && !others.iter().any(|other| other == response) {
                others.push(response.to_owned());
            }
        }
        case(record, others, &data, tokenizer)
    };
    records.iter().map(case).collect()
}

/// All that is said to the model: instruction, input, system text, tools and what was said before.
type Question<'r> = (&'r str, &'r str, &'r str, &'r Option<String>, &'r [(String, String)]);

fn question(record: &Record) -> Question<'_> {
    (&record.prompt, &record.query, &record.system, &record.tools, &record.history)
}

fn case(record: &Record, further: Vec<String>, data: &DataConfig, tokenizer: &Tokenizer) -> Result<Case> {
    let prompt = encode::prompt(record, data, tokenizer)?;
    let pieces = template::turns(record, data).pop().map(|turn| turn.target).unwrap_or_default();
    let mut asked = prompt.clone();
    let (mut target, mut label) = (vec![], vec![]);
    for piece in &pieces {
        let ids = tokenizer.encode(piece)?;
        label.extend_from_slice(&ids);
        match piece == EMPTY_THOUGHT {
            true => asked.extend(ids),
            false => target.extend(ids),
        }
    }
    let end = target.iter().rposition(|id| *id == tokenizer.end_id()).map_or(target.len(), |at| at + 1);
    target.truncate(end);
    let text = if record.query.is_empty() { &record.prompt } else { &record.query };
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    Ok(Case {
        prompt,
        upper: upper(line),
        reference: without_thought(&record.response).to_owned(),
        further,
        label: tokenizer.decode(&label, true)?,
        asked,
        target,
    })
}

/// The line without a heading, quotes and the like; its breaks stay as the data has them.
fn upper(line: &str) -> String {
    let clean = clean_upper(line, Comma::Full);
    let is_whole = |note: &Note| matches!(note, Note::Breaks(_) | Note::Traditional(_) | Note::EndsLevel(_));
    if clean.notes.iter().all(is_whole) { line.trim().to_owned() } else { clean.text }
}

/// What follows the last thought.
pub(super) fn without_thought(text: &str) -> &str {
    text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..]).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(upper: &str, reference: &str) -> Case {
        let none = || vec![];
        let (upper, reference) = (upper.into(), reference.into());
        Case { prompt: none(), upper, reference, further: vec![], label: "".into(), asked: none(), target: none() }
    }

    #[test]
    fn couplets_are_told_from_other_rows() {
        let good = pair("白日依山尽", "黄河入海流");
        for (other, n, want, why) in [
            (pair("春风，得意", "秋月,无边"), 9, true, "breaks of any kind"),
            (pair("白日依山尽", "好"), 1, true, "one slip in five"),
            (pair("白日依山尽", "好"), 2, false, "two in six"),
            (pair("one two", "abc def"), 9, false, "no Chinese"),
            (pair("", ""), 9, false, "nothing"),
        ] {
            let rows: Vec<Case> = [vec![good.clone(); 4], vec![other; n]].concat();
            assert_eq!(are_couplets(&rows), want, "{why}");
        }
        assert!(!are_couplets(&[]));
    }

    #[test]
    fn the_first_line_is_taken_as_the_data_has_it() {
        for (line, want) in [("春风,得意", "春风,得意"), ("上联：春风，得意。", "春风，得意"), ("「春风」 ", "春风")]
        {
            assert_eq!(upper(line), want);
        }
    }

    #[test]
    fn thoughts_are_no_part_of_an_answer() {
        for (text, want) in [("<think>\n\n</think>\n\n黄河\n", "黄河"), ("黄河", "黄河"), ("<think>x</think>", "")]
        {
            assert_eq!(without_thought(text), want);
        }
    }
}
