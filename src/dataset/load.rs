//! From the names in a recipe to tokenised rows and a summary of what happened to them.

use crate::{
    config::{DataConfig, MixStrategy, OverLength, TemplateName},
    dataset::{
        Example, Origin, Tokenizer,
        encode::{Encoded, Row, encode_rows},
        leaks::{HeldOut, Leaks},
        mix, order, pack,
        record::{self, Record},
        registry::{self, Entry},
        summary::{self, FileSummary, OverLong, SplitSummary, Summary, Warning},
    },
    error::{Error, Result},
};

/// How many over-long rows and leaks are named.
const NAMED_ROWS: usize = 3;

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
/// by `seed`; then tokens. Rows too long are refused, dropped or cut as `over_length` says. A row whose answer was cut
/// away whole stays, as in LlamaFactory: it teaches nothing but counts as a sample. Fails when there is nothing left to train (or, with `eval_dataset` alone, to evaluate).
pub fn load(data: &DataConfig, seed: u64, tokenizer: &Tokenizer) -> Result<Splits> {
    tokenizer.check_template(data.template)?;
    let read = read(data, seed)?;
    let leaks = read.leaks().into_iter().map(|leaks| leaks.naming(NAMED_ROWS)).collect();
    let Read { train: train_rows, eval: eval_rows, mut files, mut warnings, .. } = read;
    let train = encode_rows(&train_rows, data, tokenizer)?;
    let eval = encode_rows(&eval_rows, data, tokenizer)?;

    let (over_long, over_long_rows) = over_long(train.iter().chain(&eval), data.longest_row());
    if over_long > 0 && data.over_length == OverLength::Error {
        return Err(too_long(over_long, &over_long_rows, &files, train.iter().chain(&eval), data));
    }
    let kept = |(_, encoded): &(&Row, &Encoded)| !is_dropped(encoded, data);
    let held_out = eval_rows.iter().zip(&eval).filter(kept).map(|(row, _)| row.record.clone()).collect();
    let train = settle(train, data, &mut files);
    let (eval, held_out) = pack(keep(eval, data, &mut files), held_out, data, data.eval_on_each_dataset);
    let empty = |rows: &[Example]| !rows.iter().any(Example::is_trainable);
    refuse_empty(data, empty(&train), empty(&eval) && !eval_rows.is_empty(), over_long, &files)?;
    warnings.extend(warning_of_thoughts(&train_rows, data));
    warnings.extend(warnings_of_losses(&files, over_long, &over_long_rows, data));

    let summary = Summary {
        train: SplitSummary::of(&train),
        eval: SplitSummary::of(&eval),
        common_prefix: summary::common_prefix(&train),
        instruction: summary::instruction_before(
            train_rows.iter().map(|Row { record, .. }| (record.prompt.as_str(), record.query.as_str())),
        ),
        punctuation: summary::punctuation(train_rows.iter().map(|row| row.record.response.as_str())),
        over_long,
        over_long_rows,
        leaks,
        digest: summary::digest(train.iter().chain(&eval)),
        warnings,
        files,
    };
    Ok(Splits { train, eval, summary, held_out })
}

/// The rows of a recipe as text: nothing is tokenised, so none is too long.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Training rows in split order.
    pub train: Vec<Row>,
    /// Held-out rows, from `eval_dataset` or `val_size`.
    pub eval: Vec<Row>,
    /// Those of `test_dataset`, each file from its first row to its last.
    pub test: Vec<Row>,
    /// What was read, in [`Origin::dataset`] order. Nothing is kept or dropped yet.
    pub files: Vec<FileSummary>,
    /// The files of `test`, numbered by themselves.
    pub test_files: Vec<FileSummary>,
    /// What should be told of them, but for `test_files`.
    pub warnings: Vec<Warning>,
}

impl Read {
    /// What held-out and test rows have in common with training rows; nothing where there are none of both kinds.
    pub fn leaks(&self) -> Vec<Leaks> {
        let held_out = [(HeldOut::Eval, &self.eval, &self.files), (HeldOut::Test, &self.test, &self.test_files)];
        let held_out = held_out.into_iter().filter(|(_, rows, _)| !rows.is_empty() && !self.train.is_empty());
        held_out.map(|(of, rows, files)| Leaks::find(of, (&self.train, &self.files), (rows, files))).collect()
    }
}

/// Reads and splits the data of a recipe: the first half of [`load`].
pub fn read(data: &DataConfig, seed: u64) -> Result<Read> {
    let mut reader = Reader::new(seed);
    let rows = reader.read(data, &data.dataset)?;
    let (train, eval) = if data.eval_dataset.is_empty() {
        hold_out(rows, data.val_size, seed)?
    } else {
        (rows, reader.read(&held_out_config(data), &data.eval_dataset)?)
    };
    let mut of_test = Reader::new(seed);
    let test = of_test.read(&test_config(data), &data.test_dataset)?;
    Ok(Read { train, eval, test, files: reader.files, test_files: of_test.files, warnings: reader.warnings })
}

/// The training rows of a recipe as text, and how many rows each file holds. Nothing is tokenised, so no row is too long.
pub fn training_rows(data: &DataConfig, seed: u64) -> Result<(Vec<Record>, Vec<usize>)> {
    let mut reader = Reader::new(seed);
    let rows = reader.read(data, &data.dataset)?;
    let (train, _) =
        if data.eval_dataset.is_empty() { hold_out(rows, data.val_size, seed)? } else { (rows, Vec::new()) };
    let records = train.into_iter().map(|row| row.record).collect();
    Ok((records, reader.files.iter().map(|file| file.rows).collect()))
}

/// Reads data sets one after the other and numbers them.
struct Reader {
    seed: u64,
    /// Draws `num_samples`, for training data sets first and then for held-out ones.
    sampler: mix::Sampler,
    files: Vec<FileSummary>,
    warnings: Vec<Warning>,
}

impl Reader {
    fn new(seed: u64) -> Self {
        Self { seed, sampler: mix::Sampler::new(seed), files: vec![], warnings: vec![] }
    }

    fn read(&mut self, data: &DataConfig, names: &[String]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        if names.is_empty() {
            return Ok(rows);
        }
        let mut lengths = Vec::new();
        for entry in registry::look_up(&data.dataset_dir, &self.without_repeats(names))? {
            let before = rows.len();
            self.read_one(entry, data.max_samples, &mut rows)?;
            lengths.push(rows.len() - before);
        }
        if data.mix_strategy == MixStrategy::Concat || lengths.len() == 1 {
            return Ok(rows);
        }
        if !data.interleave_probs.is_empty() && data.interleave_probs.len() != lengths.len() {
            return Err(Error::input("`interleave_probs` has a share for a data set that is listed twice")
                .hint("name every data set once")
                .hint_zh("每个数据集请只列一次"));
        }
        let order = mix::joined(&lengths, data.mix_strategy, &data.interleave_probs, self.seed);
        Ok(order.into_iter().map(|row| rows[row].clone()).collect())
    }

    /// LlamaFactory keeps its data sets by name, so a name listed twice is trained once.
    fn without_repeats(&mut self, names: &[String]) -> Vec<String> {
        let mut kept: Vec<String> = Vec::new();
        for name in names {
            if kept.contains(name) {
                self.warnings.push(Warning {
                    en: format!("data set \"{name}\" is listed twice; it is read once"),
                    zh: format!("数据集 \"{name}\" 重复列出，只读取一次"),
                });
            } else {
                kept.push(name.clone());
            }
        }
        kept
    }

    fn read_one(&mut self, entry: Entry, max_samples: Option<usize>, rows: &mut Vec<Row>) -> Result<()> {
        let limit = if entry.num_samples.is_some() { None } else { max_samples };
        let mut parsed = record::read(&entry.path, &entry.columns, limit)?;
        let taken = match entry.num_samples {
            None => (0..parsed.records.len()).collect(),
            Some(wanted) => {
                let mut drawn = self.sampler.draw(parsed.records.len(), wanted);
                drawn.truncate(max_samples.unwrap_or(usize::MAX));
                parsed.records = drawn.iter().map(|&row| parsed.records[row].clone()).collect();
                drawn
            }
        };
        let path = entry.path.display().to_string();
        self.warnings.extend(entry.warnings);
        if !parsed.unmapped.is_empty() {
            self.warnings.push(Warning {
                en: format!("{path}: not mapped to anything, so not used: {}", parsed.unmapped.join(", ")),
                zh: format!("{path}：以下列未被映射，不会使用：{}", parsed.unmapped.join("、")),
            });
        }
        let empty_responses = parsed.records.iter().filter(|record| record.response.is_empty()).count();
        if empty_responses > 0 {
            self.warnings.push(Warning {
                en: format!("{path}: rows with an empty response, which teach to answer nothing: {empty_responses}"),
                zh: format!("{path}：回答为空的行（模型会学到“不作答”）：{empty_responses}"),
            });
        }
        let dataset = self.files.len();
        self.files.push(FileSummary {
            name: entry.name,
            path,
            rows: parsed.rows,
            read: parsed.records.len(),
            drawn: entry.num_samples.is_some(),
            kept: 0,
            dropped: 0,
            unlabelled: 0,
            truncated: 0,
            empty_responses,
        });
        let numbered = taken.into_iter().zip(parsed.records);
        rows.extend(numbered.map(|(row, record)| Row { origin: Origin { dataset, row: row + 1 }, record }));
        Ok(())
    }
}

/// The validation split: (training, held out).
fn hold_out(rows: Vec<Row>, val_size: f64, seed: u64) -> Result<(Vec<Row>, Vec<Row>)> {
    let (validation, training) = order::split(rows.len(), val_size, seed);
    if validation.is_empty() {
        return Ok((rows, vec![]));
    }
    if training.is_empty() {
        return Err(Error::input(format!("val_size = {val_size} holds out all {} rows", rows.len()))
            .hint("choose a smaller val_size: a share below 1 or a count of rows")
            .hint_zh("请减小 val_size：小于 1 为比例，否则为行数"));
    }
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    let mut pick = |indices: Vec<usize>| indices.into_iter().filter_map(|i| rows[i].take()).collect();
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

/// Training rows as they are trained: what `over_length` leaves of them, counted in `files`, and under `packing` in packs.
pub fn settle(rows: Vec<Encoded>, data: &DataConfig, files: &mut [FileSummary]) -> Vec<Example> {
    pack(keep(rows, data, files), vec![], data, false).0
}

/// Under `packing`: `rows` with their packs, in the order of these, and their `records` in the same order.
fn pack(rows: Vec<Example>, records: Vec<Record>, data: &DataConfig, apart: bool) -> (Vec<Example>, Vec<Record>) {
    if !data.packing {
        return (rows, records);
    }
    let order = pack::order(&rows, data, apart);
    let packed = order.iter().map(|&(row, pack)| Example { pack: Some(pack), ..rows[row].clone() }).collect();
    (packed, order.iter().filter_map(|(row, _)| records.get(*row)).cloned().collect())
}

/// Thoughts that are not trained although they are there, or that have to be served as they were trained.
fn warning_of_thoughts(rows: &[Row], data: &DataConfig) -> Option<Warning> {
    let thinks = |answer: &str| answer.contains("<think>");
    let with_thoughts =
        |row: &&Row| thinks(&row.record.response) || row.record.history.iter().any(|(_, answer)| thinks(answer));
    let rows = rows.iter().filter(with_thoughts).count();
    match (data.template, data.enable_thinking) {
        _ if rows == 0 => None,
        (TemplateName::Qwen3, Some(false)) => Some(Warning {
            en: format!(
                "enable_thinking=false takes the thoughts out of {rows} training rows; enable_thinking=true trains them"
            ),
            zh: format!("enable_thinking=false 会删去 {rows} 行训练数据中的思考；enable_thinking=true 则训练它们"),
        }),
        _ => Some(Warning {
            en: format!(
                "{rows} training rows have thoughts: serve the model with thinking on, as `generate` and `chat` do by themselves"
            ),
            zh: format!("{rows} 行训练数据含有思考：部署时请开启思考模式（`generate` 与 `chat` 会自动如此）"),
        }),
    }
}

/// How many rows are too long, and the first of them.
fn over_long<'a>(rows: impl Iterator<Item = &'a Encoded>, cutoff_len: usize) -> (usize, Vec<OverLong>) {
    let too_long = rows.filter(|row| row.full_len > cutoff_len);
    let mut all: Vec<_> = too_long.map(|row| OverLong { origin: row.example.origin, tokens: row.full_len }).collect();
    all.sort_by_key(|row| (row.origin.dataset, row.origin.row)); // file order, whatever the split shuffled
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
    let named = name_rows(named, files);
    Error::input(format!("rows longer than {}: {count}, first {named}", limit(data)))
        .hint(format!(
            "raise cutoff_len (the longest row has {longest} tokens), or set over_length to \"drop\" or \"truncate\""
        ))
        .hint_zh(format!(
            "请增大 cutoff_len（最长的一行有 {longest} 个 token），或将 over_length 设为 \"drop\" 或 \"truncate\""
        ))
}

/// The longest row, in words.
fn limit(data: &DataConfig) -> String {
    match data.packing {
        false => format!("cutoff_len = {}", data.cutoff_len),
        true => format!("cutoff_len - 1 = {} (packing)", data.longest_row()),
    }
}

fn name_rows(rows: &[OverLong], files: &[FileSummary]) -> String {
    let name =
        |row: &OverLong| format!("{} row {} ({} tokens)", files[row.origin.dataset].path, row.origin.row, row.tokens);
    rows.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn is_dropped(row: &Encoded, data: &DataConfig) -> bool {
    row.full_len > data.longest_row() && data.over_length == OverLength::Drop
}

/// Applies `over_length` and counts what it does.
pub fn keep(rows: Vec<Encoded>, data: &DataConfig, files: &mut [FileSummary]) -> Vec<Example> {
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let file = &mut files[row.example.origin.dataset];
        if is_dropped(&row, data) {
            file.dropped += 1;
        } else {
            file.kept += 1;
            file.truncated += usize::from(row.full_len > data.longest_row());
            file.unlabelled += usize::from(!row.example.is_trainable());
            kept.push(row.example);
        }
    }
    kept
}

/// `lost_eval`: there were rows to evaluate, and none is left.
fn refuse_empty(
    data: &DataConfig,
    no_train: bool,
    lost_eval: bool,
    over_long: usize,
    files: &[FileSummary],
) -> Result<()> {
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
    let files: Vec<String> = files.iter().map(|file| format!("{} ({} rows)", file.path, file.read)).collect();
    let (files, limit) = (files.join(", "), limit(data));
    Err(Error::input(format!("{files}: no row is left to {what} on; longer than {limit}: {over_long}"))
        .hint("raise cutoff_len: a row that is dropped for its length, or cut before its answer, teaches nothing")
        .hint_zh("请增大 cutoff_len：因过长被略去、或在回答之前就被截断的行没有可学内容"))
}

fn warnings_of_losses(files: &[FileSummary], over_long: usize, named: &[OverLong], data: &DataConfig) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let limit = limit(data);
    let (verb, verb_zh) = match data.over_length {
        OverLength::Drop => ("left out", "已略去"),
        OverLength::Truncate | OverLength::Error => ("cut at the end", "已截断尾部"),
    };
    if over_long > 0 {
        let rows = name_rows(named, files);
        warnings.push(Warning {
            en: format!("rows longer than {limit}, {verb}: {over_long}, first {rows}"),
            zh: format!("超过 {limit} 的行，{verb_zh}：{over_long}，前几行：{rows}"),
        });
    }
    let unlabelled: usize = files.iter().map(|file| file.unlabelled).sum();
    if unlabelled > 0 {
        warnings.push(Warning {
            en: format!("rows whose answer was cut away whole, counted but teaching nothing: {unlabelled}"),
            zh: format!("答案被整段截去的行，计入样本但无可学内容：{unlabelled}"),
        });
    }
    warnings
}
