//! What an evaluation leaves: LlamaFactory's prediction files, and `couplet_eval.json`.

use super::rows::Rows;
use crate::commands::ask::Asked;
use couplet_train::{
    config::Rules,
    error::{Error, Result},
    eval::{
        metrics::Separation,
        suite::{Answered, Column},
        text_metrics,
    },
    fs,
    generate::How,
    json::{self, Object},
    report::results::speed,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What is written, in the order in which it is removed beforehand: the summary first, and it is written last.
const FILES: [&str; 6] = [
    "couplet_eval.json",
    "all_results.json",
    "predict_results.json",
    "eval_results.json",
    "generated_predictions.jsonl",
    "generated_predictions_base.jsonl",
];

/// Files by which a folder is known as something else.
const NOT_OURS: [&str; 6] =
    ["run.json", "adapter_config.json", "trainer_state.json", "config.json", "dataset_info.json", "Cargo.toml"];

/// All columns, and what the models wrote.
#[derive(Default)]
pub struct Results {
    /// The models, in the order they answer; then, for couplets, `reference` and `repaired`.
    pub columns: Vec<Column>,
    /// What the models answered, in the same order.
    pub answers: Vec<Answers>,
    /// What each metric is worth on these rows.
    pub separations: Vec<Separation>,
}

/// The answers of a model.
pub struct Answers {
    /// One for every row.
    pub answered: Vec<Answered>,
    /// Seconds they took.
    pub seconds: f64,
    /// Seconds the loss took.
    pub loss_seconds: f64,
}

/// Where results go.
pub struct Place(PathBuf);

impl Place {
    /// Errors: the folder holds other results, or something else than an evaluation.
    pub fn new(dir: &Path, overwrite: bool) -> Result<Self> {
        if let Some(found) = NOT_OURS.iter().find(|name| dir.join(name).exists()) {
            return Err(Error::file(dir, format!("`output_dir` holds a run, a model or data ({found})"))
                .hint(format!("choose another, e.g. `output_dir={}`", dir.join("eval").display()))
                .hint_zh(format!("请换一个目录，例如 `output_dir={}`", dir.join("eval").display())));
        }
        if let Some(found) = FILES.iter().find(|name| dir.join(name).exists() && !overwrite) {
            return Err(Error::file(dir, format!("`output_dir` holds the results of an evaluation already ({found})"))
                .hint("choose another `output_dir`, or replace them with `overwrite_output_dir=true`")
                .hint_zh("请换一个 `output_dir`，或用 `overwrite_output_dir=true` 覆盖"));
        }
        fs::create_dir_all(dir)?;
        Ok(Self(dir.to_owned()))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Replaces what an earlier evaluation left, file by file.
    pub fn write(&self, results: &Results, asked: &Asked, rows: &Rows, how: &How, rules: Rules) -> Result<()> {
        for path in FILES.iter().map(|name| self.0.join(name)).filter(|path| path.exists()) {
            fs::ops::remove_file(&path).map_err(|err| fs::unwritable(&path, &err))?;
        }
        // LlamaFactory knows one model: the first adapter, or the base where there is none.
        let bases = asked.voices.len() - asked.trained.len();
        let main = if asked.trained.is_empty() { 0 } else { bases };
        let answers = &results.answers[main];
        if main > 0 {
            self.put(FILES[5], &predictions(&results.answers[0], asked, rows)?)?;
        }
        self.put(FILES[4], &predictions(answers, asked, rows)?)?;
        let eval = eval_results(&results.columns[main], answers, rows);
        self.put(FILES[3], &json::sorted(&eval, 4)?)?;
        let predict = predict_results(answers, rows)?;
        self.put(FILES[2], &json::sorted(&predict, 4)?)?;
        let all = eval.into_iter().chain(predict).collect();
        self.put(FILES[1], &json::sorted(&all, 4)?)?;
        let summary = summary(results, asked, rows, how, rules);
        self.put(FILES[0], &(serde_json::to_string_pretty(&summary).map_err(broken)? + "\n"))
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        fs::write_atomic(&self.0.join(name), text.as_bytes())
    }
}

fn broken(err: serde_json::Error) -> Error {
    Error::run(format!("cannot write JSON: {err}"))
}

/// LlamaFactory's lines: the prompt with its special tokens, what was written, and the right answer.
fn predictions(answers: &Answers, asked: &Asked, rows: &Rows) -> Result<String> {
    let mut text = String::new();
    for (case, answer) in rows.cases.iter().zip(&answers.answered) {
        let prompt = asked.tokenizer.decode(&case.prompt, false)?;
        let line = json!({"prompt": prompt, "predict": answer.text, "label": case.label});
        if let Value::Object(line) = line {
            text += &(json::line(&line)? + "\n");
        }
    }
    Ok(text)
}

/// BLEU and ROUGE as LlamaFactory computes them: what was written against the label, both as they stand in the predictions.
fn predict_results(answers: &Answers, rows: &Rows) -> Result<Object> {
    let pairs = rows.cases.iter().zip(&answers.answered);
    let scores: Vec<_> = pairs.map(|(case, answer)| text_metrics::score(&answer.text, &case.label, &[])).collect();
    let mut object = match serde_json::to_value(text_metrics::mean(&scores)).map_err(broken)? {
        Value::Object(object) => object,
        _ => Object::new(),
    };
    let samples = rows.cases.len() as f64;
    let steps = rows.cases.len().div_ceil(rows.loss_batch) as f64;
    speed(&mut object, "predict", answers.seconds, &[("samples", samples), ("steps", steps)]);
    Ok(object)
}

fn eval_results(column: &Column, answers: &Answers, rows: &Rows) -> Object {
    let mut object = Object::new();
    if let Some(loss) = column.eval_loss {
        object.insert("eval_loss".into(), loss.into());
    }
    let samples = rows.cases.len() as f64;
    let steps = rows.cases.len().div_ceil(rows.loss_batch) as f64;
    speed(&mut object, "eval", answers.loss_seconds, &[("samples", samples), ("steps", steps)]);
    object
}

/// `couplet_eval.json`: what was evaluated and how, an object a column, and what each metric is worth.
fn summary(results: &Results, asked: &Asked, rows: &Rows, how: &How, rules: Rules) -> Value {
    let sampling = &how.sampling;
    let adapters: Vec<String> = asked.trained.iter().map(|trained| trained.dir.display().to_string()).collect();
    let mut summary = Object::new();
    summary.insert("couplet_train".into(), env!("CARGO_PKG_VERSION").into());
    summary.insert("dataset".into(), json!(rows.names));
    summary.insert("rows".into(), rows.cases.len().into());
    summary.insert("couplets".into(), rows.couplets.into());
    summary.insert("base_digest".into(), json!(asked.base_digest));
    summary.insert("adapters".into(), json!(adapters));
    let random = sampling.is_random();
    summary.insert(
        "generation".into(),
        json!({
            "rules": rules.name(),
            "do_sample": random,
            "temperature": random.then_some(sampling.temperature),
            "top_p": random.then_some(sampling.top_p),
            "top_k": random.then_some(sampling.top_k),
            "repetition_penalty": sampling.repetition_penalty,
            "max_new_tokens": how.limits.max_new_tokens,
            "seed": sampling.seed,
        }),
    );
    summary.insert("confidence".into(), 0.95.into());
    for column in &results.columns {
        summary.insert(column.name.clone(), json!(column));
    }
    let separation = |s: &Separation| (s.key.to_owned(), json!({"auc": s.auc, "weak": s.weak}));
    summary.insert("separation".into(), results.separations.iter().map(separation).collect::<Object>().into());
    summary.into()
}
