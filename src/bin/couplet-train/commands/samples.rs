//! What the model answers to a few held-out rows, before and after training: the end of every run that holds rows out.

use couplet_train::{
    config::{DataConfig, LoraConfig},
    dataset::{Tokenizer, encode, record::Record, template::EMPTY_THOUGHT},
    error::Result,
    eval::couplet::{extract, judge},
    generate::{Answer, How, Limits, Sampling, generate},
    model::{AdapterWeights, Params, Qwen3},
    prosody::shape,
    report::{Lang, console::one_line, text::pad},
};

/// Rows that are shown.
const ROWS: usize = 3;
/// Tokens of an answer at most: as many as three times the characters of the longest right one, within this.
const MOST_TOKENS: usize = 256;
/// Tokens of an answer where no right one is known.
const TOKENS: usize = 64;

/// Greedy answers of the base and of the trained model, with the judge's verdict where the rows are couplets. `base`: the
/// adapter that makes `model` the base, where it is not.
pub fn lines(
    (model, params, lora): (&Qwen3, &Params, &LoraConfig),
    base: Option<&AdapterWeights>,
    tokenizer: &Tokenizer,
    data: &DataConfig,
    records: &[Record],
    lang: Lang,
) -> Result<Vec<String>> {
    let records = &records[..records.len().min(ROWS)];
    if records.is_empty() {
        return Ok(vec![]);
    }
    let prompts: Vec<Vec<u32>> = records.iter().map(|r| encode::prompt(r, data, tokenizer)).collect::<Result<_>>()?;
    let how = greedy(tokenizer, records.iter().map(|record| record.response.chars().count()).max());
    let tuned = AdapterWeights::new(model.config().num_hidden_layers, lora, params)?;
    let ask = |adapter| generate(model, adapter, &prompts, (1, 0), &how, &mut |_| Ok(()));
    let (before, after) = (ask(base)?, ask(Some(&tuned))?);
    let couplets = records.iter().all(|r| !shape(&r.query).is_empty() && shape(&r.query) == shape(&r.response));
    let labels = [lang.pick("input", "上联"), lang.pick("base", "基座"), lang.pick("tuned", "训练后")];
    let width = labels.iter().map(|label| unicode_width::UnicodeWidthStr::width(*label)).max().unwrap_or(0);
    let mut lines = vec![];
    for ((record, before), after) in records.iter().zip(&before).zip(&after) {
        let question = if record.query.is_empty() { &record.prompt } else { &record.query };
        let (before, after) = (answer(&before[0], tokenizer)?, answer(&after[0], tokenizer)?);
        let verdict =
            if couplets { judge(&record.query, extract(&after)).line(lang == Lang::Zh) } else { String::new() };
        for (label, text, verdict) in
            [(labels[0], question.as_str(), ""), (labels[1], &before, ""), (labels[2], &after, &verdict)]
        {
            lines.push(format!("{}  {}  {verdict}", pad(label, width), one_line(text)).trim_end().to_owned());
        }
    }
    Ok(lines)
}

/// The likeliest tokens. `longest`: characters of the longest right answer, if any is known.
pub fn greedy(tokenizer: &Tokenizer, longest: Option<usize>) -> How<'static> {
    let max_new_tokens = longest.map_or(TOKENS, |characters| (3 * characters + 8).min(MOST_TOKENS));
    let stop = vec![tokenizer.end_id(), tokenizer.pad_id()];
    How { sampling: Sampling::GREEDY, limits: Limits { max_new_tokens, stop }, interrupted: &|| false }
}

/// The text of an answer, without an empty thought.
pub fn answer(answer: &Answer, tokenizer: &Tokenizer) -> Result<String> {
    let text = tokenizer.decode(&answer.ids, true)?;
    Ok(text.trim_start_matches(EMPTY_THOUGHT).trim().to_owned())
}
