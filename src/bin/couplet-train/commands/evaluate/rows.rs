//! The rows of an evaluation: as they are asked, as tokens for the loss, and what training has seen.

use crate::commands::{ask::Asked, trained::Trained};
use couplet_train::{
    config::{DataConfig, EvaluationConfig, MixStrategy, OnBadRow, OverLength},
    dataset::{self, Example, Splits, summary::Warning},
    error::{Error, Result},
    eval::suite::{Case, Known, are_couplets, cases},
    report::Header,
};
use serde_json::Value;
use std::collections::HashMap;

/// Held-out rows.
pub struct Rows {
    /// As they are asked.
    pub cases: Vec<Case>,
    /// As tokens, in the same order.
    pub examples: Vec<Example>,
    /// Their instructions, in the same order.
    pub instructions: Vec<String>,
    /// Whether they are couplets.
    pub couplets: bool,
    /// Samples that LlamaFactory's loss takes together.
    pub loss_batch: usize,
    /// The names of the data sets.
    pub names: Vec<String>,
    /// What each adapter has seen in training; `None` where its data cannot be read any more.
    pub known: Vec<Option<Known>>,
    notices: Vec<Warning>,
}

/// The data sets that are named. Errors: none is.
pub fn names(config: &EvaluationConfig) -> Result<&[String]> {
    let names = if config.eval_dataset.is_empty() { &config.dataset } else { &config.eval_dataset };
    if names.is_empty() {
        return Err(Error::input("no data set is named")
            .hint("say which rows of dataset_info.json, e.g. `dataset=couplets_test`")
            .hint_zh("请指明 dataset_info.json 中的数据集，例如 `dataset=couplets_test`"));
    }
    Ok(names)
}

impl Rows {
    /// Reads them, and the training rows of the adapters.
    ///
    /// Errors: a row asks nothing, has no right answer, or is longer than the model's context.
    pub fn load(config: &EvaluationConfig, asked: &Asked) -> Result<Self> {
        let names = names(config)?.to_vec();
        let receipt = asked.trained.first().and_then(|trained| trained.receipt.as_ref());
        let data = data_config(config, &names, receipt, asked);
        let train = |key: &str| receipt.and_then(|receipt| receipt["config"]["train"][key].as_u64());
        let seed = config.inference.generation.seed.or(train("seed")).unwrap_or(42);
        let splits = dataset::load(&data, seed, &asked.tokenizer)?;
        let place = |row: usize| {
            let origin = splits.eval[row].origin;
            let (path, row) = splits.summary.files[origin.dataset].place(origin.row);
            format!("{path}: row {row}")
        };
        refuse_unusable(&splits, place)?;
        let cases = cases(&splits.held_out, &data, &asked.tokenizer)?;
        refuse_too_long(&cases, &splits.eval, asked.model.config().max_position_embeddings, place)?;
        let couplets = are_couplets(&cases);
        let mut notices = splits.summary.warnings.clone();
        notices.extend(other_instruction(&splits, asked));
        if !couplets {
            notices.push(Warning {
                en: "the rows are no couplets (lines of the same clauses): couplet metrics are left out".into(),
                zh: "这些行不是对联（两行断句与字数相同）：略去对联指标".into(),
            });
        }
        let known = asked.trained.iter().map(|trained| known(trained, &mut notices)).collect();
        let from_run = || train("per_device_eval_batch_size").and_then(|n| usize::try_from(n).ok());
        let loss_batch = config.loss_batch_size.or_else(from_run).unwrap_or(8);
        let instructions = splits.held_out.into_iter().map(|record| record.prompt).collect();
        Ok(Self { cases, examples: splits.eval, instructions, couplets, loss_batch, names, known, notices })
    }

    /// Tokens for an answer four times as long as the longest right one, and a few words around it.
    pub fn room_for_answers(&self) -> usize {
        let longest = self.cases.iter().map(|case| case.target.len().saturating_sub(1)).max().unwrap_or(0);
        4 * longest + 20
    }

    /// What will be evaluated, and what is odd about it.
    pub fn describe(&self, header: &mut Header) {
        let kind = if self.couplets { ", couplets" } else { "" };
        header.row("rows", "行", format!("{} of {}{kind}", self.cases.len(), self.names.join(", ")));
        self.notices.iter().for_each(|notice| header.notice(notice.en.clone(), notice.zh.clone()));
    }
}

/// As the first adapter was trained, where its receipt tells; template and system text are those of the speaker.
fn data_config(config: &EvaluationConfig, names: &[String], receipt: Option<&Value>, asked: &Asked) -> DataConfig {
    let of_run = |receipt: &Value| serde_json::from_value::<DataConfig>(receipt["config"]["data"].clone()).ok();
    let known = receipt.and_then(of_run);
    let (default_over, default_bad) = match config.inference.llamafactory {
        true => (OverLength::Truncate, OnBadRow::LlamaFactory),
        false => (OverLength::Error, OnBadRow::Error),
    };
    let splits = config.eval_dataset.is_empty() && config.val_size > 0.0;
    let (dataset, eval_dataset) = if splits { (names.to_vec(), vec![]) } else { (vec![], names.to_vec()) };
    // What was held out of mixed data sets is found by mixing them again.
    let mixed = known.as_ref().filter(|data| splits && data.dataset == names);
    DataConfig {
        dataset,
        eval_dataset,
        test_dataset: vec![],
        dataset_dir: config.dataset_dir.clone(),
        template: asked.speaker.template,
        cutoff_len: config.cutoff_len.or(known.as_ref().map(|data| data.longest_row())).unwrap_or(2048),
        over_length: config.over_length.or(known.as_ref().map(|data| data.over_length)).unwrap_or(default_over),
        on_bad_row: config.on_bad_row.or(known.as_ref().map(|data| data.on_bad_row)).unwrap_or(default_bad),
        max_samples: config.max_samples,
        mix_strategy: mixed.map_or(MixStrategy::Concat, |data| data.mix_strategy),
        interleave_probs: mixed.map(|data| data.interleave_probs.clone()).unwrap_or_default(),
        eval_on_each_dataset: false,
        val_size: if splits { config.val_size } else { 0.0 },
        mask_history: known.as_ref().is_some_and(|data| data.mask_history),
        train_on_prompt: known.as_ref().is_some_and(|data| data.train_on_prompt),
        enable_thinking: asked.speaker.enable_thinking,
        preserve_thinking: known.is_some_and(|data| data.preserve_thinking),
        default_system: asked.speaker.system.clone(),
        packing: false,
        preprocessing_batch_size: 1000,
        preprocessing_num_workers: 1,
    }
}

fn refuse_unusable(splits: &Splits, place: impl Fn(usize) -> String) -> Result<()> {
    for (row, record) in splits.held_out.iter().enumerate() {
        if record.response.trim().is_empty() {
            return Err(Error::input(format!(
                "{}: no right answer to compare with: its response is empty",
                place(row)
            ))
            .hint("fill the column that `response` is mapped to in dataset_info.json (`output`), or drop the row")
            .hint_zh("请补全 dataset_info.json 中 response 对应的列（`output`），或删除该行"));
        }
        if record.prompt.trim().is_empty() && record.query.trim().is_empty() {
            return Err(Error::input(format!("{}: asks nothing: its prompt and its query are empty", place(row)))
                .hint("check `columns` in dataset_info.json, or drop the row")
                .hint_zh("请检查 dataset_info.json 中的 columns，或删除该行"));
        }
    }
    Ok(())
}

fn refuse_too_long(cases: &[Case], examples: &[Example], most: usize, place: impl Fn(usize) -> String) -> Result<()> {
    let tokens = |(case, example): (&Case, &Example)| {
        example.input_ids.len().max(case.asked.len() + case.target.len()).max(case.prompt.len() + 1)
    };
    let lengths = cases.iter().zip(examples).map(tokens);
    let Some((row, tokens)) = lengths.enumerate().find(|(_, tokens)| *tokens > most) else { return Ok(()) };
    let context = "of the model's context (max_position_embeddings)";
    Err(Error::input(format!("{}: {tokens} tokens with its answer, more than the {most} {context}", place(row)))
        .hint(format!("shorten the row, or leave such rows out: cutoff_len={most} over_length=drop"))
        .hint_zh(format!("请缩短该行，或略去这样的行：cutoff_len={most} over_length=drop")))
}

/// A model that is asked otherwise than in training is worth less than it could be.
fn other_instruction(splits: &Splits, asked: &Asked) -> Option<Warning> {
    let learned = asked.speaker.instruction.as_ref()?;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    splits.held_out.iter().for_each(|record| *counts.entry(&record.prompt).or_default() += 1);
    let others = splits.held_out.len() - counts.get(learned.as_str()).copied().unwrap_or(0);
    (others > 0).then(|| Warning {
        en: format!("rows with another instruction than training's: {others}"),
        zh: format!("指令与训练时不同的行：{others}"),
    })
}

/// The lines the adapter has learned from.
fn known(trained: &Trained, notices: &mut Vec<Warning>) -> Option<Known> {
    let dir = trained.dir.display();
    let mut absent = |en: &str, zh: &str| {
        notices.push(Warning {
            en: format!("{dir}: {en}: how many answers are copied from it is not known"),
            zh: format!("{dir}：{zh}：无法统计照抄训练集的比例"),
        });
        None
    };
    let Some(receipt) = &trained.receipt else {
        return absent("no run.json names its training data", "没有 run.json");
    };
    let read = || {
        let data: DataConfig = serde_json::from_value(receipt["config"]["data"].clone()).ok()?;
        dataset::training_rows(&data, receipt["config"]["train"]["seed"].as_u64()?).ok()
    };
    let Some((records, rows)) = read() else {
        return absent("its training data cannot be read any more", "训练数据已无法读取");
    };
    let files = receipt["data"]["files"].as_array().into_iter().flatten();
    let then: Vec<u64> = files.filter_map(|file| file["rows"].as_u64()).take(rows.len()).collect();
    match then.iter().zip(&rows).all(|(then, now)| *then == *now as u64) && then.len() == rows.len() {
        true => Some(Known::new(records.iter().map(|record| record.response.as_str()))),
        false => absent("its training data has changed since", "训练数据已变动"),
    }
}
