//! The fixture: a tiny model and 64 rows, one undisturbed run of which is the result that all others must reach.

use crate::{disk, golden::Golden, run::Work};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
};
use tempfile::TempDir;

/// Optimizer steps of the fixture's run.
pub const STEPS: usize = 40;
/// Steps between two of its checkpoints.
pub const SAVE: usize = 5;

/// Two layers, 64 rows, 2.5 epochs of 16 steps of two or more micro-batches; dropout, decay, a warmup and a falling rate, so that
/// whatever is not restored shows. Log lines (every 2), evaluations (10) and checkpoints (5) fall apart on purpose.
pub const RECIPE: &str = "
model_name_or_path: inputs/model
stage: sft
finetuning_type: lora
lora_target: all
lora_rank: 4
lora_dropout: 0.1
dataset: train
eval_dataset: valid
dataset_dir: inputs/data
template: qwen3
enable_thinking: false
cutoff_len: 128
output_dir: out
save_steps: 5
save_total_limit: 3
eval_strategy: steps
eval_steps: 10
logging_steps: 2
plot_loss: false
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
per_device_eval_batch_size: 4
learning_rate: 0.002
weight_decay: 0.01
warmup_ratio: 0.1
micro_batch_tokens: 100
num_train_epochs: 2.5
seed: 7
";

/// The fixture and the result to reach.
pub struct Suite {
    fixture: Arc<TempDir>,
    /// Thinned out.
    pub quick: bool,
    /// The mistake that the program makes.
    pub mutant: &'static str,
    pub golden: Golden,
    /// Seconds of an undisturbed run.
    pub seconds: f64,
    /// The most steps that were done twice.
    pub lost: AtomicUsize,
}

impl Suite {
    /// Makes the fixture and runs it twice undisturbed.
    pub fn new(quick: bool) -> Self {
        let mut suite = Self {
            fixture: Arc::new(fixture()),
            quick,
            mutant: "",
            golden: Golden::default(),
            seconds: 0.0,
            lost: AtomicUsize::new(0),
        };
        let runs = [0, 1].map(|_| {
            let work = Work::new(&suite);
            let ended = work.run("", &[]);
            assert_eq!(ended.code(), Some(0), "the undisturbed run: {}", ended.stderr);
            assert_eq!(ended.steps, (1..=STEPS).collect::<Vec<_>>(), "its steps");
            assert_eq!(disk::checkpoints(&work.out()), [30, 35, 40], "the last three");
            (Golden::read(&work.out()).expect("a result"), ended.seconds)
        });
        let [(golden, _), (again, seconds)] = runs;
        golden.compare(&again).expect("two undisturbed runs are the same");
        (suite.golden, suite.seconds) = (golden, seconds);
        suite
    }

    /// The same with a mistake in the program, thinned out.
    pub fn with_mutant(&self, mutant: &'static str) -> Self {
        let (fixture, golden) = (Arc::clone(&self.fixture), self.golden.clone());
        Self { fixture, quick: true, mutant, golden, seconds: self.seconds, lost: 0.into() }
    }

    /// `all`, or `few` of them, spread evenly, where the suite is quick.
    pub fn thin<T>(&self, all: impl IntoIterator<Item = T>, few: usize) -> Vec<T> {
        let all: Vec<T> = all.into_iter().collect();
        let stride = if self.quick { all.len().div_ceil(few).max(1) } else { 1 };
        // The first and the last are the most likely to be special.
        let last = all.len().saturating_sub(1);
        all.into_iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last).map(|(_, item)| item).collect()
    }

    /// The fixture's folder.
    pub fn fixture(&self) -> &Path {
        self.fixture.path()
    }
}

fn fixture() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    disk::copy(&parity.join("attention_rslora/model"), &dir.path().join("model"));
    disk::copy(&parity.join("tokenizer"), &dir.path().join("model"));
    let mut rows: Vec<Value> = vec![];
    for case in ["all_targets", "attention_rslora", "bf16", "clip_nonzero_b", "on_prompt", "truncation"] {
        let text = std::fs::read(parity.join(case).join("data/couplets.json")).expect("rows");
        rows.extend(serde_json::from_slice::<Vec<Value>>(&text).expect("rows"));
    }
    rows.iter_mut().for_each(|row| row["instruction"] = "对下联".into()); // shorter rows, faster steps
    std::fs::create_dir(dir.path().join("data")).expect("a folder");
    let files = [
        ("train.json", json!(rows[..64])),
        ("valid.json", json!(rows[64..72])),
        ("dataset_info.json", json!({"train": {"file_name": "train.json"}, "valid": {"file_name": "valid.json"}})),
    ];
    for (name, value) in files {
        std::fs::write(dir.path().join("data").join(name), value.to_string()).expect("a written file");
    }
    dir
}
