//! From the names in a recipe to tokenised rows and a summary of what happened to them.

use crate::{
    config::{DataConfig, MixStrategy, OverLength},
    dataset::{
        Example, Origin, Reason, Tokenizer,
        encode::{Encoded, Row, encode_and_drop, encode_rows},
        fault::ways_out,
        instruction,
        leaks::{HeldOut, Leaks},
        notes, order,
        pack::{self, Seat},
        reader::{LeftOut, Reader, Slot, Split},
        record::Record,
        repeats,
        summary::{self, FileSummary, NAMED_ROWS, OverLong, SplitSummary, Summary, Warning},
    },
    error::{Error, Result},
};
use std::collections::HashSet;

/// Everything to train and evaluate on.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// Training rows in split order, under `packing` in that of their packs; an epoch visits samples by [`order::epoch_order`].
    pub train: Vec<Example>,
    /// Held-out rows, from `eval_dataset` or `val_size`; may be empty.
    pub eval: Vec<Example>,
    /// What was read and lost.
    pub summary: Summary,
    /// The rows of `eval` as text, in its order, to ask the model with.
    pub held_out: Vec<Record>,
}

/// Reads, splits and tokenises the data of a recipe.
///
/// In LlamaFactory's order: the first `max_samples` rows of every data set, joined as listed; then the validation split
/// by `seed`; then rows that cannot be trained are left out, as `on_bad_row` says; then tokens. Rows too long are refused,
/// dropped or cut as `over_length` says. A row whose answer was cut away whole stays, as in LlamaFactory: it teaches nothing
/// but counts as a sample. Fails when there is nothing left to train (or, with `eval_dataset` alone, to evaluate).
pub fn load(data: &DataConfig, seed: u64, tokenizer: &Tokenizer) -> Result<Splits> {
    tokenizer.check_template(data.template)?;
    let read = read(data, seed)?;
    let leaks = read.leaks().into_iter().map(|leaks| leaks.naming(NAMED_ROWS)).collect();
    let Read { train, eval, mut files, mut warnings, .. } = read;
    let (train_read, eval_read) = (train.read(), eval.read());
    let texts = train.rows.iter().map(|row| &row.record);
    let prompts = texts.clone().map(|record| (record.prompt.as_str(), record.query.as_str()));
    let instruction = instruction::before(prompts);
    let punctuation = summary::punctuation(texts.map(|record| record.response.as_str()));
    let of_thoughts = notes::of_thoughts(&train.rows, data);
    let Split { rows, left_out } = train;
    let train_rows = encode_and_drop(rows, data, tokenizer)?;
    let eval_rows = encode_rows(&eval.rows, data, tokenizer)?;

    let (over_long, over_long_rows) = over_long(train_rows.iter().chain(&eval_rows), data.longest_row());
    if over_long > 0 && data.over_length == OverLength::Error {
        return Err(too_long(over_long, &over_long_rows, &files, train_rows.iter().chain(&eval_rows), data));
    }
    count(&[(&left_out, &train_rows), (&eval.left_out, &eval_rows)], data, &mut files);
    let unanswered = first_unanswered(&train_rows);
    let stays = |(_, encoded): &(&Row, &Encoded)| !is_dropped(encoded, data);
    let held_out = eval.rows.iter().zip(&eval_rows).filter(stays).map(|(row, _)| row.record.clone()).collect();
    let train_rows = settle(&left_out, train_rows, data);
    let (eval_rows, held_out) = keep(&eval.left_out, eval_rows, held_out, data, data.eval_on_each_dataset);
    let empty = |rows: &[Example]| !rows.iter().any(Example::is_trainable);
    refuse_empty(data, empty(&train_rows), empty(&eval_rows) && eval_read > 0, &files)?;
    unanswered.map_or(Ok(()), |first| Err(all_unanswered(first, &files)))?;
    warnings.extend(of_thoughts);
    warnings.extend(notes::of_rows(&files));
    warnings.extend(notes::of_losses(&files, over_long, &over_long_rows, data));
    let repeats = repeats::repeats(&train_rows);
    warnings.extend(notes::of_repeats(&repeats, &files));

    let summary = Summary {
        train: SplitSummary::of(&train_rows, train_read - train_rows.len()),
        eval: SplitSummary::of(&eval_rows, eval_read - eval_rows.len()),
        common_prefix: summary::common_prefix(&train_rows),
        instruction,
        punctuation,
        over_long,
        over_long_rows,
        repeated: repeats.len(),
        leaks,
        digest: summary::digest(train_rows.iter().chain(&eval_rows)),
        warnings,
        files,
    };
    Ok(Splits { train: train_rows, eval: eval_rows, summary, held_out })
}

/// The rows of a recipe as text: nothing is tokenised, so none is too long.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Training rows.
    pub train: Split,
    /// Held-out rows, from `eval_dataset` or `val_size`.
    pub eval: Split,
    /// Those of `test_dataset`, each file from its first row to its last.
    pub test: Split,
    /// What was read, in [`Origin::dataset`] order. Nothing is kept or skipped yet: [`count`] does that.
    pub files: Vec<FileSummary>,
    /// The files of `test`, numbered by themselves.
    pub test_files: Vec<FileSummary>,
    /// What should be told of them, but for `test_files`.
    pub warnings: Vec<Warning>,
}

impl Read {
    /// What held-out and test rows have in common with training rows; nothing where there are none of both kinds.
    pub fn leaks(&self) -> Vec<Leaks> {
        let train = &self.train.rows;
        let held_out =
            [(HeldOut::Eval, &self.eval.rows, &self.files), (HeldOut::Test, &self.test.rows, &self.test_files)];
        let held_out = held_out.into_iter().filter(|(_, rows, _)| !rows.is_empty() && !train.is_empty());
        held_out.map(|(of, rows, files)| Leaks::find(of, (train, &self.files), (rows, files))).collect()
    }
}

/// Reads and splits the data of a recipe: the first half of [`load`].
pub fn read(data: &DataConfig, seed: u64) -> Result<Read> {
    let mut reader = Reader::new(seed);
    let slots = reader.read(data, &data.dataset)?;
    let (train, eval) = if data.eval_dataset.is_empty() {
        hold_out(slots, data.val_size, seed)?
    } else {
        (slots, reader.read(&held_out_config(data), &data.eval_dataset)?)
    };
    let mut of_test = Reader::new(seed);
    let test = of_test.read(&test_config(data), &data.test_dataset)?;
    let [train, eval, test] = [train, eval, test].map(Split::of);
    Ok(Read { train, eval, test, files: reader.files, test_files: of_test.files, warnings: reader.warnings })
}

/// The training rows of a recipe as text, and how many rows each file holds. Nothing is tokenised, so no row is too long.
pub fn training_rows(data: &DataConfig, seed: u64) -> Result<(Vec<Record>, Vec<usize>)> {
    let mut reader = Reader::new(seed);
    let slots = reader.read(data, &data.dataset)?;
    let (train, _) =
        if data.eval_dataset.is_empty() { hold_out(slots, data.val_size, seed)? } else { (slots, Vec::new()) };
    let records = Split::of(train).rows.into_iter().map(|row| row.record).collect();
    Ok((records, reader.files.iter().map(|file| file.rows).collect()))
}

/// The validation split: (training, held out).
fn hold_out(slots: Vec<Slot>, val_size: f64, seed: u64) -> Result<(Vec<Slot>, Vec<Slot>)> {
    let (validation, training) = order::split(slots.len(), val_size, seed);
    if validation.is_empty() {
        return Ok((slots, vec![]));
    }
    if training.is_empty() {
        return Err(Error::input(format!("val_size = {val_size} holds out all {} rows", slots.len()))
            .hint("choose a smaller val_size: a share below 1 or a count of rows")
            .hint_zh("请减小 val_size：小于 1 为比例，否则为行数"));
    }
    let mut slots: Vec<Option<Slot>> = slots.into_iter().map(Some).collect();
    let mut pick = |indices: Vec<usize>| indices.into_iter().filter_map(|i| slots[i].take()).collect();
    Ok((pick(training), pick(validation)))
}

/// Test rows are read once and whole.
fn test_config(data: &DataConfig) -> DataConfig {
    DataConfig { mix_strategy: MixStrategy::Concat, ..data.clone() }
}

/// Data sets that are evaluated one by one are not interleaved.
fn held_out_config(data: &DataConfig) -> DataConfig {
    let mix_strategy = if data.eval_on_each_dataset { MixStrategy::Concat } else { data.mix_strategy };
    DataConfig { mix_strategy, ..data.clone() }
}

/// Counts in `files` what is left out and what is kept of the splits that were read from them; what is named is named in file
/// order.
pub fn count(splits: &[(&[LeftOut], &[Encoded])], data: &DataConfig, files: &mut [FileSummary]) {
    let mut skips: Vec<(Origin, Reason, String)> = vec![];
    for (left_out, encoded) in splits {
        skips.extend(left_out.iter().map(|out| (out.origin, out.fault.reason, out.fault.fact.clone())));
        for encoded in *encoded {
            let Encoded { example, full_len, flags, .. } = encoded;
            let file = &mut files[example.origin.dataset];
            if is_dropped(encoded, data) {
                let (path, number) = file.place(example.origin.row);
                let fact = format!("{path}: row {number}: {full_len} tokens");
                skips.push((example.origin, Reason::TooLong, fact));
                continue;
            }
            file.kept += 1;
            file.truncated += usize::from(*full_len > data.longest_row());
            file.unlabelled += usize::from(!example.is_trainable());
            file.empty_responses += usize::from(flags.unanswered);
            file.empty_questions += usize::from(flags.asks_nothing);
            file.no_history += usize::from(flags.no_history);
            if flags.control_text {
                file.control_rows += 1;
                let first = file.first_control_row.unwrap_or(usize::MAX);
                file.first_control_row = Some(first.min(example.origin.row));
            }
        }
    }
    skips.sort_by_key(|(origin, ..)| *origin);
    for (origin, reason, fact) in skips {
        files[origin.dataset].skip(reason, fact);
    }
}

/// Training rows as they are trained: what `over_length` leaves of them, under `packing` in packs.
pub fn settle(left_out: &[LeftOut], rows: Vec<Encoded>, data: &DataConfig) -> Vec<Example> {
    keep(left_out, rows, vec![], data, false).0
}

/// The rows that stay and their `records`; under `packing` in the order of their packs, each with its pack.
fn keep(
    left_out: &[LeftOut],
    rows: Vec<Encoded>,
    records: Vec<Record>,
    data: &DataConfig,
    apart: bool,
) -> (Vec<Example>, Vec<Record>) {
    let seats = if data.packing { seats(left_out, &rows, data) } else { vec![] };
    let kept = rows.into_iter().filter(|row| !is_dropped(row, data)).map(|row| row.example);
    if !data.packing {
        return (kept.collect(), records);
    }
    let mut kept: Vec<Option<Example>> = kept.map(Some).collect();
    let order = pack::order(&seats, data, apart);
    let mut packed = |&(row, pack): &(usize, _)| {
        let example: Example = kept[row].take().expect("a row is in one pack");
        Example { pack: Some(pack), ..example }
    };
    let packed = order.iter().map(&mut packed).collect();
    (packed, order.iter().filter_map(|(row, _)| records.get(*row)).cloned().collect())
}

/// The rows of a split and, between them, those that are left out.
fn seats(left_out: &[LeftOut], rows: &[Encoded], data: &DataConfig) -> Vec<Seat> {
    let mut left_out = left_out.iter().peekable();
    let mut seats = vec![];
    for before in 0..=rows.len() {
        while let Some(out) = left_out.next_if(|out| out.before == before) {
            seats.push(Seat { dataset: out.origin.dataset, tokens: None });
        }
        if let Some(row) = rows.get(before) {
            let tokens = (!is_dropped(row, data)).then_some(row.example.input_ids.len());
            seats.push(Seat { dataset: row.example.origin.dataset, tokens });
        }
    }
    seats
}

/// How many rows are too long, and the first of them.
fn over_long<'a>(rows: impl Iterator<Item = &'a Encoded>, cutoff_len: usize) -> (usize, Vec<OverLong>) {
    let too_long = rows.filter(|row| row.full_len > cutoff_len);
    let mut all: Vec<_> = too_long.map(|row| OverLong { origin: row.example.origin, tokens: row.full_len }).collect();
    all.sort_by_key(|row| row.origin); // file order, whatever the split shuffled
    let count = all.len();
    all.truncate(NAMED_ROWS);
    (count, all)
}

fn too_long<'a>(
    count: usize,
    named: &[OverLong],
    files: &[FileSummary],
    rows: impl Iterator<Item = &'a Encoded>,
    data: &DataConfig,
) -> Error {
    let longest = rows.map(|row| row.full_len).max().unwrap_or_default();
    let named = notes::name_rows(named, files, false);
    Error::input(format!("rows longer than {}: {count}, first {named}", notes::limit(data)))
        .hint(format!(
            "raise cutoff_len (the longest row has {longest} tokens), or set over_length to \"drop\" or \"truncate\""
        ))
        .hint_zh(format!(
            "请增大 cutoff_len（最长的一行有 {longest} 个词元），或将 over_length 设为 \"drop\" 或 \"truncate\""
        ))
}

fn is_dropped(row: &Encoded, data: &DataConfig) -> bool {
    row.full_len > data.longest_row() && data.over_length == OverLength::Drop
}

/// `lost_eval`: there were rows to evaluate, and none is left.
fn refuse_empty(data: &DataConfig, no_train: bool, lost_eval: bool, files: &[FileSummary]) -> Result<()> {
    let lost_train = no_train && !data.dataset.is_empty();
    if data.dataset.is_empty() && data.eval_dataset.is_empty() {
        return Err(Error::input("no data set is named")
            .hint("set `dataset` to a name of dataset_info.json")
            .hint_zh("请将 dataset 设为 dataset_info.json 中的名称"));
    }
    if !lost_train && !lost_eval {
        return Ok(());
    }
    let what = if lost_train { "train" } else { "evaluate" };
    let of_train = data.dataset.iter().collect::<HashSet<_>>().len(); // a name that is listed twice is read once
    let (train_files, eval_files) = files.split_at(of_train.min(files.len()));
    let concerned = if lost_train || data.eval_dataset.is_empty() { train_files } else { eval_files };
    Err(nothing_left(what, concerned, data))
}

/// Says what was lost in which of `files`, and what can be done about each reason.
fn nothing_left(what: &str, files: &[FileSummary], data: &DataConfig) -> Error {
    let lost: Vec<String> = files.iter().filter_map(lost_in).collect();
    let of_file = |file: &FileSummary| {
        let cut = (file.unlabelled > 0).then_some(Reason::TooLong);
        file.reasons.iter().map(|skips| skips.reason).chain(cut).collect::<Vec<_>>()
    };
    let reasons: Vec<Reason> = files.iter().flat_map(of_file).collect();
    let limit = if reasons.contains(&Reason::TooLong) { format!(" ({})", notes::limit(data)) } else { String::new() };
    let (hint, hint_zh) = ways_out(&reasons);
    Error::input(format!("no row is left to {what} on{limit}: {}", lost.join("; "))).hint(hint).hint_zh(hint_zh)
}

/// What was lost in a file, if anything was.
fn lost_in(file: &FileSummary) -> Option<String> {
    let skips = file.reasons.iter().map(|skips| {
        let first = skips.first.first().map_or(String::new(), |fact| format!(", first {fact}"));
        format!("{} {}{first}", skips.rows, skips.reason.words().0)
    });
    let cut = (file.unlabelled > 0).then(|| format!("{} whose answer was cut away whole", file.unlabelled));
    let all: Vec<String> = skips.chain(cut).collect();
    let rows = if file.read == 1 { "row" } else { "rows" };
    (!all.is_empty()).then(|| format!("{} ({} {rows}: {})", file.path, file.read, all.join("; ")))
}

/// The first row where all only teach to answer nothing. Some such rows are told of; where all are, it is a slip.
fn first_unanswered(rows: &[Encoded]) -> Option<Origin> {
    let first = rows.first()?.example.origin;
    rows.iter().all(|row| row.flags.unanswered).then_some(first)
}

fn all_unanswered(first: Origin, files: &[FileSummary]) -> Error {
    let (path, row) = files[first.dataset].place(first.row);
    Error::input(format!("every response is empty or blank, first {path}: row {row}"))
        .hint("look which column holds the answers, and map it to `response` in dataset_info.json")
        .hint_zh("请确认回答所在的列，并在 dataset_info.json 中映射到 response")
}
