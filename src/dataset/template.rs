//! Qwen3's two chat templates: which text is spoken, which is learned.
//!
//! A record becomes turns; a turn is a source (what is said to the model) and a target (what it learns to answer).
//! Each is a list of pieces that are tokenised **separately**, because LlamaFactory does so: a merge never crosses a
//! border between pieces, but it does cross the one between instruction and input, which stand in one piece.
//! Text is passed on as it is: nothing is trimmed, no punctuation is changed.

use crate::{
    config::{DataConfig, TemplateName},
    dataset::record::Record,
};
use std::borrow::Cow;

/// The empty thinking block that Qwen3's own chat template writes in non-thinking mode.
pub const EMPTY_THOUGHT: &str = "<think>\n\n</think>\n\n";

const THOUGHT_OPENS: &str = "<think>\n";
const THOUGHT_CLOSES: &str = "\n</think>\n\n";

/// One question and its answer, as pieces of text to be tokenised one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Up to and including `<|im_start|>assistant\n`, or an untrained empty thought after it.
    pub source: Vec<String>,
    /// The answer and `<|im_end|>\n`, with a trained empty thought in front where there is one.
    pub target: Vec<String>,
}

/// The conversation of `record`: its history, then its own question and answer.
///
/// The table of empty thoughts, for an answer that has no thought of its own:
///
/// | template, `enable_thinking` | empty thought | answers that have one |
/// |---|---|---|
/// | `qwen3`, true | before the answer, trained | kept |
/// | `qwen3`, false | at the end of the source, not trained | it is removed |
/// | `qwen3`, null | at the end of the source, not trained | kept |
/// | `qwen3_nothink` | none | kept |
///
/// Under `mask_history` the earlier answers of `qwen3` lose their thoughts and get no empty one, unless
/// `preserve_thinking`.
pub fn turns(record: &Record, data: &DataConfig) -> Vec<Turn> {
    let reasons = data.template == TemplateName::Qwen3;
    let question = question(record);
    let history = record.history.iter().map(|(question, answer)| (question.as_str(), answer.as_str()));
    let last = record.history.len();

    let mut turns: Vec<Turn> = history
        .chain([(question.as_ref(), record.response.as_str())])
        .enumerate()
        .map(|(i, (question, answer))| {
            let forgets = data.mask_history && !data.preserve_thinking && i < last;
            let removes = reasons && (forgets || data.enable_thinking == Some(false));
            let answer: Cow<str> = if removes { without_thoughts(answer).into() } else { answer.into() };
            let mut turn = plain_turn(question, &answer);
            if reasons && !forgets && !has_thought(&answer) {
                match data.enable_thinking {
                    Some(true) => turn.target.insert(0, EMPTY_THOUGHT.into()),
                    Some(false) | None => turn.source.push(EMPTY_THOUGHT.into()),
                }
            }
            turn
        })
        .collect();

    let system = [record.system.as_str(), data.default_system.as_deref().unwrap_or_default()];
    let system = system.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let tools = record.tools.as_deref();
    if let Some(first) = turns.first_mut().filter(|_| !system.is_empty() || tools.is_some()) {
        let tools = tools.unwrap_or_default();
        first.source.insert(0, format!("<|im_start|>system\n{system}{tools}<|im_end|>\n"));
    }
    turns
}

/// What the user says: the non-empty ones of prompt and query, joined by one newline.
fn question(record: &Record) -> Cow<'_, str> {
    match (record.prompt.as_str(), record.query.as_str()) {
        (prompt, "") => prompt.into(),
        ("", query) => query.into(),
        (prompt, query) => format!("{prompt}\n{query}").into(),
    }
}

fn plain_turn(question: &str, answer: &str) -> Turn {
    Turn {
        source: vec![format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")],
        target: vec![format!("{answer}<|im_end|>\n")],
    }
}

/// Either tag is enough for LlamaFactory.
fn has_thought(answer: &str) -> bool {
    answer.contains("<think>") || answer.contains("</think>")
}

/// Cuts every `<think>\n…\n</think>\n\n` (this exact form, newlines included) and then the leading newlines.
pub(super) fn without_thoughts(answer: &str) -> String {
    let mut kept = String::new();
    let mut rest = answer;
    while let Some((before, opened)) = rest.split_once(THOUGHT_OPENS) {
        let Some((_, after)) = opened.split_once(THOUGHT_CLOSES) else { break };
        kept.push_str(before);
        rest = after;
    }
    kept.push_str(rest);
    kept.trim_start_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::data_config;

    #[test]
    fn thoughts_are_cut_in_their_exact_form_only() {
        for (answer, want, why) in [
            ("<think>\n先看\n</think>\n\n答", "答", "the form Qwen3 writes"),
            ("<think>\n\n</think>\n\n答", "答", "an empty thought"),
            ("甲<think>\nx\n</think>\n\n乙<think>\ny\n</think>\n\n丙", "甲乙丙", "every one of them"),
            ("<think>短</think>答", "<think>短</think>答", "one line: not the form"),
            ("<think>\n没有结尾", "<think>\n没有结尾", "never closed"),
            ("\n\n答\n", "答\n", "leading newlines go too, trailing ones stay"),
            ("<think>\n<think>\nx\n</think>\n\n答", "答", "from the first opening"),
        ] {
            assert_eq!(without_thoughts(answer), want, "{why}");
        }
    }

    #[test]
    fn the_empty_thought_goes_where_llamafactory_puts_it() {
        let e = EMPTY_THOUGHT;
        let source = "<|im_start|>user\n对\n上联<|im_end|>\n<|im_start|>assistant\n";
        let target = "下联<|im_end|>\n";
        let record =
            Record { prompt: "对".into(), query: "上联".into(), response: "下联".into(), ..Record::default() };
        for (template, enable_thinking, want_source, want_target) in [
            (TemplateName::Qwen3, Some(true), vec![source], vec![e, target]),
            (TemplateName::Qwen3, Some(false), vec![source, e], vec![target]),
            (TemplateName::Qwen3, None, vec![source, e], vec![target]),
            (TemplateName::Qwen3Nothink, Some(true), vec![source], vec![target]),
            (TemplateName::Qwen3Nothink, Some(false), vec![source], vec![target]),
        ] {
            let got = turns(&record, &DataConfig { template, enable_thinking, ..data_config() });
            let want = Turn {
                source: want_source.into_iter().map(String::from).collect(),
                target: want_target.into_iter().map(String::from).collect(),
            };
            assert_eq!(got, [want], "{template:?}, enable_thinking {enable_thinking:?}");
        }
    }

    #[test]
    fn the_rows_own_system_text_wins_over_the_default() {
        let first_piece = |system: &str, default_system: Option<&str>| {
            let record = Record { system: system.into(), ..Record::default() };
            let data = DataConfig { default_system: default_system.map(String::from), ..data_config() };
            turns(&record, &data)[0].source[0].clone()
        };
        assert!(first_piece("甲", Some("乙")).starts_with("<|im_start|>system\n甲<|im_end|>\n"));
        assert!(first_piece("", Some("乙")).starts_with("<|im_start|>system\n乙<|im_end|>\n"));
        assert!(first_piece("", Some("")).starts_with("<|im_start|>user\n"), "an empty default is none");
        assert!(first_piece("", None).starts_with("<|im_start|>user\n"));

        let record = Record { tools: Some(String::new()), ..Record::default() };
        let data = data_config();
        assert_eq!(turns(&record, &data)[0].source[0], "<|im_start|>system\n<|im_end|>\n", "an empty list of tools");
    }
}
