//! Turns → ids and labels, and what happens to rows that are too long.

use crate::{
    config::DataConfig,
    dataset::{
        Example, Origin, Tokenizer, TrainedSpans,
        record::Record,
        segments::Segmenter,
        template::{self, Turn},
    },
    error::Result,
};
use rayon::prelude::*;

/// A record and where it came from.
#[derive(Debug, Clone)]
pub struct Row {
    /// Data set and row.
    pub origin: Origin,
    /// What stands there.
    pub record: Record,
}

/// A tokenised row and how long it was before it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// At most `cutoff_len` tokens.
    pub example: Example,
    /// Tokens of the uncut row.
    pub full_len: usize,
    /// Those of them that are answers.
    pub answer_len: usize,
    /// What is counted of its texts.
    pub flags: RowFlags,
}

/// What is counted of the texts of a row, when they are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowFlags {
    /// Its response is empty or blank.
    pub unanswered: bool,
    /// Its last question is empty or blank.
    pub asks_nothing: bool,
    /// Its history is no list.
    pub no_history: bool,
    /// The text of a control token stands in it.
    pub control_text: bool,
}

impl RowFlags {
    fn of(record: &Record, tokenizer: &Tokenizer) -> Self {
        Self {
            unanswered: record.is_unanswered(),
            asks_nothing: record.asks_nothing(),
            no_history: record.no_history,
            control_text: record.texts().any(|text| tokenizer.has_control_text(text)),
        }
    }
}

/// Rows whose texts show what the others say too.
const SAMPLE: usize = 256;

/// Rows that are tokenised before their texts are let go.
const AT_ONCE: usize = 1 << 16;

/// Tokenises `rows` on all cores; the result has their order. Rows longer than [`DataConfig::longest_row`] are cut by
/// LlamaFactory's rule, whatever `over_length` says: the caller compares `full_len` with it.
pub fn encode_rows(rows: &[Row], data: &DataConfig, tokenizer: &Tokenizer) -> Result<Vec<Encoded>> {
    let encode = encoder(rows, data, tokenizer)?;
    rows.par_iter().map(encode).collect()
}

/// [`encode_rows`] of rows that nobody reads afterwards: their texts are let go on the way, so that those of a large data set do
/// not stand beside its tokens.
pub(super) fn encode_and_drop(mut rows: Vec<Row>, data: &DataConfig, tokenizer: &Tokenizer) -> Result<Vec<Encoded>> {
    let encode = encoder(&rows, data, tokenizer)?;
    let mut encoded = Vec::with_capacity(rows.len());
    while !rows.is_empty() {
        // From the end, so that the list gets shorter, too.
        let part = rows.split_off(rows.len().saturating_sub(AT_ONCE));
        rows.shrink_to_fit();
        encoded.extend(part.par_iter().rev().map(&encode).collect::<Result<Vec<_>>>()?);
    }
    encoded.reverse();
    Ok(encoded)
}

/// What tokenises rows like these.
fn encoder<'t>(
    rows: &[Row],
    data: &'t DataConfig,
    tokenizer: &'t Tokenizer,
) -> Result<impl Fn(&Row) -> Result<Encoded> + Sync + use<'t>> {
    let sample = rows.iter().step_by(rows.len().div_ceil(SAMPLE).max(1));
    let turns: Vec<Turn> = sample.flat_map(|row| template::turns(&row.record, data)).collect();
    let texts = turns.iter().flat_map(|turn| turn.source.iter().chain(&turn.target).map(String::as_str));
    let segmenter = Segmenter::new(tokenizer, texts)?;
    Ok(move |row: &Row| encode(row, data, tokenizer, &|text, ids| segmenter.encode(text, ids)))
}

/// The ids of a conversation up to where its last answer begins: what a model is asked with. `record.response` is not read,
/// nor is anything cut.
pub fn prompt(record: &Record, data: &DataConfig, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let record = Record { response: String::new(), ..record.clone() };
    let mut turns = tokenised(&record, data, &whole(tokenizer))?;
    let last = turns.pop().map(|(source, _)| source).unwrap_or_default();
    let earlier = turns.into_iter().flat_map(|(source, target)| [source, target]);
    Ok(earlier.chain([last]).flatten().collect())
}

/// A stretch of a conversation: what is said to the model, or what it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// All its ids.
    pub ids: Vec<u32>,
    /// So many of them stay when the row is cut to [`DataConfig::longest_row`]; the others are behind them.
    pub kept: usize,
    /// It is an answer.
    pub answer: bool,
    /// Its tokens are trained.
    pub learned: bool,
}

/// The uncut conversation of `record`, a question and an answer in turn. What is kept of the parts is the row.
pub fn parts(record: &Record, data: &DataConfig, tokenizer: &Tokenizer) -> Result<Vec<Part>> {
    Ok(cut(tokenised(record, data, &whole(tokenizer))?, data))
}

/// Appends the ids of a text.
type Encode<'e> = &'e dyn Fn(&str, &mut Vec<u32>) -> Result<()>;

fn whole(tokenizer: &Tokenizer) -> impl Fn(&str, &mut Vec<u32>) -> Result<()> {
    |text, ids| {
        ids.extend(tokenizer.encode(text)?);
        Ok(())
    }
}

/// Source and target of every turn; each piece of text is tokenised on its own.
fn tokenised(record: &Record, data: &DataConfig, encode: Encode) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
    let ids = |pieces: &[String]| -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        pieces.iter().try_for_each(|piece| encode(piece, &mut ids))?;
        Ok(ids)
    };
    let turns = template::turns(record, data);
    turns.iter().map(|turn| Ok((ids(&turn.source)?, ids(&turn.target)?))).collect()
}

fn encode(row: &Row, data: &DataConfig, tokenizer: &Tokenizer, encode: Encode) -> Result<Encoded> {
    let parts = cut(tokenised(&row.record, data, encode)?, data);
    let len = |parts: &mut dyn Iterator<Item = &Part>| parts.map(|part| part.ids.len()).sum();
    let answer_len = len(&mut parts.iter().filter(|part| part.answer));
    let full_len = len(&mut parts.iter());
    let flags = RowFlags::of(&row.record, tokenizer);
    Ok(Encoded { example: joined(&parts, row.origin), full_len, answer_len, flags })
}

/// A conversation of (source, target) turns, and what is kept of it in [`DataConfig::longest_row`] tokens.
///
/// Targets are learned, sources only under `train_on_prompt`; with `mask_history` only the last target is.
fn cut(turns: Vec<(Vec<u32>, Vec<u32>)>, data: &DataConfig) -> Vec<Part> {
    let lengths: Vec<_> = turns.iter().map(|(source, target)| (source.len(), target.len())).collect();
    let fitted = fit_turns(&lengths, data.longest_row(), data.mask_history);
    let last = turns.len().saturating_sub(1);
    let parts = turns.into_iter().zip(fitted).enumerate().flat_map(|(i, ((source, target), (asked, answered)))| {
        let learned = !data.mask_history || i == last;
        [
            Part { ids: source, kept: asked, answer: false, learned: data.train_on_prompt },
            Part { ids: target, kept: answered, answer: true, learned },
        ]
    });
    parts.collect()
}

/// What is kept of a row.
fn joined(parts: &[Part], origin: Origin) -> Example {
    let mut input_ids = Vec::with_capacity(parts.iter().map(|part| part.kept).sum());
    parts.iter().for_each(|part| input_ids.extend_from_slice(&part.ids[..part.kept]));
    let trained = TrainedSpans::of_stretches(parts.iter().map(|part| (part.kept, part.learned)));
    Example { input_ids, trained, origin, pack: None }
}

/// How many tokens of each (source, target) are kept when the conversation gets `cutoff` tokens.
///
/// Turns are served one after the other, from the first or from the last; what finds no room left is dropped whole.
fn fit_turns(lengths: &[(usize, usize)], cutoff: usize, from_last: bool) -> Vec<(usize, usize)> {
    let mut budget = cutoff;
    let mut fitted = vec![(0, 0); lengths.len()];
    for turn in 0..lengths.len() {
        let turn = if from_last { lengths.len() - 1 - turn } else { turn };
        let (source, target) = lengths[turn];
        if budget > 0 {
            fitted[turn] = fit_turn(source, target, budget);
            budget -= fitted[turn].0 + fitted[turn].1;
        }
    }
    fitted
}

/// One turn within `budget` tokens, by LlamaFactory's rule: a target below half the budget is kept whole, else a source
/// below half the budget, else both are cut in proportion. Both lose their ends: a source `…assistant\n`, a target
/// `<|im_end|>\n`.
fn fit_turn(source: usize, target: usize, budget: usize) -> (usize, usize) {
    let target_room = if target * 2 < budget {
        budget
    } else if source * 2 < budget {
        budget - source
    } else {
        // In floating point and in this order: integer division would cut elsewhere.
        (budget as f64 * (target as f64 / (source + target) as f64)) as usize
    };
    let target = target.min(target_room);
    (source.min(budget - target), target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::IGNORE, testing::data_config};

    #[test]
    fn one_turn_is_cut_by_the_rule() {
        for (source, target, budget, want, why) in [
            (30, 10, 40, (30, 10), "it just fits"),
            (20, 20, 40, (20, 20), "two halves fit"),
            (60, 10, 40, (30, 10), "a short target stays whole"),
            (10, 60, 40, (10, 30), "a short source stays whole"),
            (60, 60, 40, (20, 20), "else in proportion"),
            (30, 60, 40, (14, 26), "rounded down for the target"),
            (500, 10, 7, (7, 0), "a target can vanish"),
        ] {
            assert_eq!(fit_turn(source, target, budget), want, "{source}+{target} in {budget}: {why}");
        }
    }

    #[test]
    fn turns_are_served_in_turn() {
        let lengths = [(10, 6), (10, 6), (10, 6)];
        for (cutoff, from_last, want, why) in [
            (48, false, [(10, 6), (10, 6), (10, 6)], "all fit"),
            (40, false, [(10, 6), (10, 6), (5, 3)], "the last is cut, in proportion"),
            (32, false, [(10, 6), (10, 6), (0, 0)], "and left out where nothing is left"),
            (40, true, [(5, 3), (10, 6), (10, 6)], "mask_history serves the last first"),
        ] {
            assert_eq!(fit_turns(&lengths, cutoff, from_last), want, "cutoff {cutoff}: {why}");
        }
    }

    /// Over ten thousand conversations: a row that fits is whole and teaches; a row that does not is cut to the limit, and
    /// whether it still teaches is what `is_trainable` says, by which such rows are counted and steps without a label refused.
    #[test]
    fn rows_that_fit_always_have_a_label() {
        let mut random = crate::dataset::order::Mt19937::new(23);
        let mut cut_bare = 0;
        for round in 0..10_000 {
            let turns: Vec<(Vec<u32>, Vec<u32>)> = (0..=random.up_to(3))
                .map(|_| (vec![1; 5 + random.up_to(60) as usize], vec![2; 2 + random.up_to(30) as usize]))
                .collect();
            let full: usize = turns.iter().map(|(source, target)| source.len() + target.len()).sum();
            let data = DataConfig {
                cutoff_len: 2 + random.up_to(150) as usize,
                mask_history: round % 2 == 0,
                ..data_config()
            };
            let row = joined(&cut(turns, &data), Origin { dataset: 0, row: 1 });
            assert!(row.input_ids.len() <= data.cutoff_len);
            assert_eq!(row.input_ids.len() == full, full <= data.cutoff_len, "cut exactly where it does not fit");
            assert!(row.is_trainable() || full > data.cutoff_len);
            cut_bare += usize::from(!row.is_trainable());
        }
        assert!(cut_bare > 0, "the case occurs");
    }

    #[test]
    fn labels_follow_the_settings() {
        let turns = vec![(vec![1, 2], vec![3]), (vec![4], vec![5, 6])];
        let x = IGNORE;
        for (mask_history, train_on_prompt, want, why) in [
            (false, false, [x, x, 3, x, 5, 6], "every answer"),
            (true, false, [x, x, x, x, 5, 6], "the last answer"),
            (false, true, [1, 2, 3, 4, 5, 6], "everything, position 0 included"),
        ] {
            let parts = cut(turns.clone(), &DataConfig { mask_history, train_on_prompt, ..data_config() });
            let row = joined(&parts, Origin { dataset: 0, row: 1 });
            assert_eq!(row.input_ids, [1, 2, 3, 4, 5, 6]);
            assert_eq!(row.labels(), want, "{why}");
        }
    }
}
