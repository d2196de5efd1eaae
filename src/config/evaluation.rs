//! What `evaluate` is told: whom to ask and how (as for `generate`), which rows, and where the results go.

use super::{
    build::on_bad_row,
    inference::{Given, InferenceConfig},
    notice::Notice,
    sections::{OnBadRow, OverLength},
    table::Command,
};
use crate::error::Result;
use std::path::{Path, PathBuf};

/// An evaluation. `None`: not said.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationConfig {
    /// Whom to ask, and how.
    pub inference: InferenceConfig,
    /// `dataset`
    pub dataset: Vec<String>,
    /// `eval_dataset`; these are evaluated where both are named.
    pub eval_dataset: Vec<String>,
    /// `dataset_dir`
    pub dataset_dir: PathBuf,
    /// `max_samples`: the first rows of every data set.
    pub max_samples: Option<usize>,
    /// `val_size`: what it holds out of `dataset` is evaluated; 0: all of it.
    pub val_size: f64,
    /// `cutoff_len`
    pub cutoff_len: Option<usize>,
    /// `over_length`: what happens to longer rows.
    pub over_length: Option<OverLength>,
    /// `on_bad_row`: what happens to rows that cannot be evaluated.
    pub on_bad_row: Option<OnBadRow>,
    /// `per_device_eval_batch_size`: decides LlamaFactory's average of the loss.
    pub loss_batch_size: Option<usize>,
    /// `n`: lines that are found under `rules` and ranked.
    pub n: Option<usize>,
    /// `output_dir`
    pub output_dir: Option<PathBuf>,
    /// `overwrite_output_dir`
    pub overwrite: bool,
}

/// Reads LlamaFactory's predict or evaluation config, if there is a file, and `key=value` words on top.
///
/// Errors: unknown and refused keys, values of the wrong type or range, each with its place; a file that trains.
pub fn evaluation(file: Option<&Path>, overrides: &[String]) -> Result<(EvaluationConfig, Vec<Notice>)> {
    let (given, notices) = Given::read(file, overrides, Command::Evaluate)?;
    if given.flag("do_train") == Some(true) {
        return Err(given
            .complain("do_train", "this config trains")
            .hint(
                "train with it first, then `couplet-train evaluate --adapter OUTPUT_DIR dataset=…`; or do_train=false",
            )
            .hint_zh(
                "请先用它训练，再运行 `couplet-train evaluate --adapter 输出目录 dataset=…`；或写 do_train=false",
            ));
    }
    let size = |name: &str| given.whole(name).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let config = EvaluationConfig {
        inference: given.config(file.is_some())?,
        dataset: given.words("dataset"),
        eval_dataset: given.words("eval_dataset"),
        dataset_dir: given.text("dataset_dir").unwrap_or("data".into()).into(),
        max_samples: size("max_samples"),
        val_size: given.number("val_size").unwrap_or(0.0),
        cutoff_len: size("cutoff_len"),
        over_length: given.text("over_length").map(|word| match word.as_str() {
            "drop" => OverLength::Drop,
            "truncate" => OverLength::Truncate,
            _ => OverLength::Error,
        }),
        on_bad_row: given.text("on_bad_row").map(|word| on_bad_row(Some(&word))),
        loss_batch_size: size("per_device_eval_batch_size"),
        n: size("n"),
        output_dir: given.text("output_dir").map(PathBuf::from),
        overwrite: given.flag("overwrite_output_dir") == Some(true),
    };
    Ok((config, notices))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Purpose, purpose};

    const PREDICT: &str = "model_name_or_path: Qwen/Qwen3-4B\nadapter_name_or_path: saves/lora\nstage: sft\n\
        do_predict: true\nfinetuning_type: lora\neval_dataset: identity,couplets\ntemplate: qwen3\ncutoff_len: 2048\n\
        max_samples: 50\noverwrite_cache: true\npreprocessing_num_workers: 16\noutput_dir: saves/predict\n\
        overwrite_output_dir: true\nper_gpu_eval_batch_size: 1\npredict_with_generate: true\nddp_timeout: 180000000\n";

    #[test]
    fn llamafactorys_predict_config_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("predict.yaml");
        std::fs::write(&file, PREDICT).unwrap();
        assert_eq!(purpose(&file), Some(Purpose::Evaluate));
        let (config, notices) = evaluation(Some(&file), &["max_samples=5".into()]).unwrap();
        assert_eq!(config.eval_dataset, ["identity", "couplets"]);
        assert_eq!((config.max_samples, config.loss_batch_size, config.overwrite), (Some(5), Some(1), true));
        assert_eq!(config.output_dir.as_deref(), Some(Path::new("saves/predict")));
        assert!(config.inference.llamafactory && config.dataset_dir == Path::new("data"));
        assert_eq!(notices[0].en, "ignored: overwrite_cache, preprocessing_num_workers, ddp_timeout");

        for (line, want, why) in [
            ("do_eval: true", Some(Purpose::Evaluate), "evaluates"),
            ("do_eval: true\ndo_train: true", None, "trains"),
            ("do_eval: false", None, "neither"),
        ] {
            std::fs::write(&file, format!("model_name_or_path: m\n{line}\n")).unwrap();
            assert_eq!(purpose(&file), want, "{why}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (given, want) in [
            ("do_train=true", "override `do_train=true`: this config trains"),
            ("max_sample=5", "override `max_sample=5`: unknown key `max_sample`"),
            ("max_samples=0", "override `max_samples=0`: `max_samples` must be a whole number of at least 1, found 0"),
            ("streaming=true", "override `streaming=true`: `streaming` is not supported"),
        ] {
            let err = evaluation(None, &[given.into()]).expect_err(given);
            assert_eq!(err.to_string(), want);
            assert!(err.hint_text(false).is_some() && err.hint_text(true).is_some(), "{given}");
        }
    }
}
