//! How the model is spoken to: as training did.

use crate::{
    config::{DataConfig, OverLength, TemplateName},
    dataset::{Tokenizer, encode, record::Record},
    error::{Error, Result},
};
use serde_json::Value;

/// Template, thinking, system text and instruction: what turns a text into a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Chat template.
    pub template: TemplateName,
    /// `qwen3` only: whether the model is to write a thought (true), or an empty one stands in the prompt.
    pub enable_thinking: Option<bool>,
    /// System text of every conversation.
    pub system: Option<String>,
    /// Stands before every text, on a line of its own.
    pub instruction: Option<String>,
}

impl Speaker {
    /// No instruction, no system text.
    pub fn plain(template: TemplateName, enable_thinking: Option<bool>) -> Self {
        Self { template, enable_thinking, system: None, instruction: None }
    }

    /// From the `speak` object of a run's receipt. Errors: it is not what a run writes.
    pub fn from_receipt(speak: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let template = match speak["template"].as_str() {
            Some("qwen3") => TemplateName::Qwen3,
            Some("qwen3_nothink") => TemplateName::Qwen3Nothink,
            _ => {
                return Err(Error::input("`speak` names no known template")
                    .hint("it was not written by couplet-train; remove the file and say template=qwen3 yourself")
                    .hint_zh("该文件不是 couplet-train 写出的；请删除它，并自行指定 template=qwen3"));
            }
        };
        Ok(Self {
            template,
            enable_thinking: speak["enable_thinking"].as_bool(),
            system: text(&speak["default_system"]),
            instruction: text(&speak["instruction"]["text"]),
        })
    }

    /// What the user says with `text`: the instruction before it, unless it is there already.
    pub fn question(&self, text: &str) -> String {
        match &self.instruction {
            Some(instruction) if !text.starts_with(instruction.as_str()) => format!("{instruction}\n{text}"),
            _ => text.to_owned(),
        }
    }

    /// The ids that training would have put before the answer to `text`, after a `history` of (text, answer) pairs.
    ///
    /// As in LlamaFactory's inference, earlier answers lose their thoughts and get no empty one.
    pub fn prompt(&self, tokenizer: &Tokenizer, history: &[(String, String)], text: &str) -> Result<Vec<u32>> {
        let record = Record {
            prompt: self.question(text),
            history: history.iter().map(|(text, answer)| (self.question(text), answer.clone())).collect(),
            ..Record::default()
        };
        encode::prompt(&record, &self.data(), tokenizer)
    }

    /// The part of a training config that the template reads.
    fn data(&self) -> DataConfig {
        DataConfig {
            dataset: vec![],
            eval_dataset: vec![],
            test_dataset: vec![],
            dataset_dir: "".into(),
            template: self.template,
            cutoff_len: usize::MAX,
            over_length: OverLength::Error,
            on_bad_row: Default::default(),
            max_samples: None,
            mix_strategy: Default::default(),
            interleave_probs: vec![],
            eval_on_each_dataset: false,
            val_size: 0.0,
            mask_history: true,
            train_on_prompt: false,
            enable_thinking: self.enable_thinking,
            preserve_thinking: false,
            default_system: self.system.clone(),
            packing: false,
            preprocessing_batch_size: 1000,
            preprocessing_num_workers: 1,
        }
    }
}
