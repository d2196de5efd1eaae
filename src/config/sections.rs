//! The recipe as plain data: one struct per section, names as in LlamaFactory.
//!
//! Nothing here parses or checks: `keys` knows every key, `mod` reads files, `resolve` checks across fields.

use super::{
    interval::Interval,
    scheduler::{SchedulerKwargs, SchedulerType},
    token::HubTokens,
};
use serde::{Deserialize, Serialize, Serializer};
use std::path::{Path, PathBuf};

/// Whose defaults hold: those of LlamaFactory (flat YAML or JSON) or ours (TOML in sections).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Our TOML.
    Toml,
    /// LlamaFactory's flat YAML or JSON.
    LlamaFactory,
}

/// One training run, every value resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// The dialect of the file it was read from.
    pub dialect: Dialect,
    /// Which base model, which adapter to continue, on which device.
    pub model: ModelConfig,
    /// Which rows, and how they become tokens.
    pub data: DataConfig,
    /// What is trained.
    pub lora: LoraConfig,
    /// How it is trained.
    pub train: TrainConfig,
    /// What is written, where and how often.
    pub output: OutputConfig,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// A folder with a checkpoint, or a Hugging Face model name (`Qwen/Qwen3-14B`).
    pub model_name_or_path: String,
    /// PEFT adapter directories: all but the last are merged into the base, the last is trained on.
    #[serde(serialize_with = "none_one_or_list")]
    pub adapter_name_or_path: Vec<PathBuf>,
    /// Merge the last one too, and train a new adapter over it.
    pub create_new_adapter: bool,
    /// Where downloaded models are kept; the Hugging Face cache when absent.
    pub cache_dir: Option<PathBuf>,
    /// Branch, tag or commit of the model repository. Default `main`.
    pub model_revision: String,
    /// `hf_hub_token`, `ms_hub_token`; written nowhere, and no part of what makes two recipes differ.
    #[serde(skip)]
    pub tokens: HubTokens,
    /// Where to compute. `use_cpu: true` in LlamaFactory's dialect means `cpu`.
    pub device: DeviceChoice,
}

impl ModelConfig {
    /// The adapters that are merged into the base before training, one after the other.
    pub fn merged(&self) -> &[PathBuf] {
        match self.adapter_name_or_path.split_last() {
            Some((_, before)) if !self.create_new_adapter => before,
            _ => &self.adapter_name_or_path,
        }
    }

    /// The adapter whose training goes on; `None`: a new one is trained.
    pub fn continued(&self) -> Option<&Path> {
        self.adapter_name_or_path.last().filter(|_| !self.create_new_adapter).map(PathBuf::as_path)
    }
}

/// As a file says it: nothing, one name, or several.
fn none_one_or_list<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    match paths {
        [] => to.serialize_none(),
        [one] => one.serialize(to),
        several => several.serialize(to),
    }
}

/// `device = "auto" | "cpu" | "cuda:N"`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// CUDA when this binary has it and a card is there, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA device number N.
    Cuda(usize),
}

/// `template`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateName {
    /// Hybrid Qwen3: an empty thinking block where an answer has none.
    Qwen3,
    /// Qwen3 *-2507-Instruct*: no thinking block at all.
    Qwen3Nothink,
}

/// `mix_strategy`: how several data sets become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixStrategy {
    /// One after the other.
    #[default]
    Concat,
    /// In turn, or by `interleave_probs`, until the first is used up.
    InterleaveUnder,
    /// The same until the last is used up; the others begin again.
    InterleaveOver,
}

/// `train_sampling_strategy`: which rows an epoch takes after which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingStrategy {
    /// Another permutation in every epoch.
    Random,
    /// File order.
    Sequential,
    /// A permutation with rows of like length side by side.
    GroupByLength,
}

/// `include_num_input_tokens_seen`: which fed tokens the log counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedTokens {
    /// None.
    No,
    /// All, padding included as LlamaFactory's collator would pad.
    All,
    /// Those of the rows.
    NonPadding,
}

/// `over_length`: what happens to a row of more than `cutoff_len` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverLength {
    /// Refuse to train and name the rows. Our default.
    Error,
    /// Leave the row out, counted.
    Drop,
    /// Cut it by LlamaFactory's rule, counted. Default of LlamaFactory's dialect.
    Truncate,
}

/// `on_bad_row`: what happens to a row that cannot be trained as it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// Refuse to train and name the row. Our default.
    #[default]
    Error,
    /// Leave it out, counted.
    Skip,
    /// Leave out what LlamaFactory leaves out (rows without a response, roles out of turn), counted; refuse the rest.
    /// Default of LlamaFactory's dialect.
    LlamaFactory,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// Names in `dataset_info.json`, joined in this order (LlamaFactory: comma-separated).
    pub dataset: Vec<String>,
    /// Names of the held-out data sets; excludes `val_size`.
    pub eval_dataset: Vec<String>,
    /// Rows that are neither trained on nor chosen by: the final adapter is scored on them once.
    #[serde(default)] // receipts of earlier versions lack it
    pub test_dataset: Vec<String>,
    /// Folder of `dataset_info.json`. Default `data`.
    pub dataset_dir: PathBuf,
    /// Chat template.
    pub template: TemplateName,
    /// Longest row in tokens. Default 2048.
    pub cutoff_len: usize,
    /// What to do with longer rows.
    pub over_length: OverLength,
    /// What to do with rows that cannot be trained.
    #[serde(default)] // receipts of earlier versions lack it
    pub on_bad_row: OnBadRow,
    /// Only the first N rows of every data set.
    pub max_samples: Option<usize>,
    /// How several data sets become one.
    #[serde(default)] // receipts of earlier versions lack it
    pub mix_strategy: MixStrategy,
    /// Share of every data set when they are interleaved; empty: in turn.
    #[serde(default)]
    pub interleave_probs: Vec<f64>,
    /// Each of `eval_dataset` is also evaluated by itself.
    #[serde(default)]
    pub eval_on_each_dataset: bool,
    /// Held out of the training rows: a share below 1, a count from 1. 0: none.
    pub val_size: f64,
    /// Only the last answer of a conversation is trained.
    pub mask_history: bool,
    /// Prompt tokens are trained too.
    pub train_on_prompt: bool,
    /// `qwen3` only. `Some(true)`: a trained empty thought; `Some(false)`: an untrained one, thoughts removed; `None`: untrained, thoughts kept.
    pub enable_thinking: Option<bool>,
    /// Keep the thoughts of earlier turns under `mask_history`.
    pub preserve_thinking: bool,
    /// System text for rows without one.
    pub default_system: Option<String>,
    /// Several rows make up one sample, which they fill as LlamaFactory would; they do not see each other.
    #[serde(default)]
    pub packing: bool,
    /// Rows that are packed together at most.
    #[serde(default)]
    pub preprocessing_batch_size: usize,
    /// Stretches of the data that are packed apart: LlamaFactory's workers.
    #[serde(default)]
    pub preprocessing_num_workers: usize,
}

impl DataConfig {
    /// The most tokens of a row. In a pack LlamaFactory keeps one token of `cutoff_len` for padding.
    pub fn longest_row(&self) -> usize {
        self.cutoff_len.saturating_sub(usize::from(self.packing))
    }
}

/// A projection of a Qwen3 block that can carry an adapter; written in the checkpoint's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// `self_attn.q_proj`
    QProj,
    /// `self_attn.k_proj`
    KProj,
    /// `self_attn.v_proj`
    VProj,
    /// `self_attn.o_proj`
    OProj,
    /// `mlp.gate_proj`
    GateProj,
    /// `mlp.up_proj`
    UpProj,
    /// `mlp.down_proj`
    DownProj,
}

impl Projection {
    /// All seven, in the order a block applies them.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The checkpoint's short name, e.g. `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The path inside a block, e.g. `self_attn.q_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }
}

/// `[lora]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraConfig {
    /// Rank r: the inner dimension of A `[r, in]` and B `[out, r]`. Default 8.
    pub lora_rank: usize,
    /// The update is scaled by `lora_alpha / r` (rsLoRA: `/ √r`). Default twice the rank.
    pub lora_alpha: f64,
    /// Probability of zeroing an input of A, in training only. Default 0.
    pub lora_dropout: f64,
    /// Which projections of every block get an adapter, in `Projection::ALL` order. Default all seven.
    pub lora_target: Vec<Projection>,
    /// DoRA: every row of `W + s·B·A` is brought to a length that is trained as well.
    pub use_dora: bool,
    /// Scale by α/√r instead of α/r.
    pub use_rslora: bool,
    /// Whether it begins as a part of the base.
    #[serde(flatten)]
    pub pissa: Pissa,
}

/// PiSSA: A and B begin as the largest singular values of their weight, which the base then lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pissa {
    /// Whether they do.
    pub pissa_init: bool,
    /// Rounds in which they are found; -1: until they are exact.
    pub pissa_iter: i64,
    /// At the end the difference to the beginning is also written, as a plain adapter over the whole base.
    pub pissa_convert: bool,
}

impl Default for Pissa {
    fn default() -> Self {
        Self { pissa_init: false, pissa_iter: 16, pissa_convert: false }
    }
}

impl Pissa {
    /// `None`: until they are exact.
    pub fn rounds(&self) -> Option<usize> {
        usize::try_from(self.pissa_iter).ok()
    }
}

impl LoraConfig {
    /// The factor s in `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`.
    pub fn scale(&self) -> f64 {
        let r = self.lora_rank as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

/// `eval_strategy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalStrategy {
    /// Never during training.
    No,
    /// Every `eval_steps` optimizer steps.
    Steps,
    /// After every epoch.
    Epoch,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainConfig {
    /// Samples per micro-step. With accumulation it says how many samples make one optimizer step, and nothing else.
    pub per_device_train_batch_size: usize,
    /// Samples per evaluation batch; `eval_loss` is a mean over samples of batch means, so it matters a little.
    pub per_device_eval_batch_size: usize,
    /// Micro-steps per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Passes over the training rows; may be a fraction.
    pub num_train_epochs: f64,
    /// Stops after so many optimizer steps; overrides the epochs when given.
    pub max_steps: Option<usize>,
    /// LoRA+: the rate of B, and of DoRA's magnitudes, is so many times that of A.
    pub loraplus_lr_ratio: Option<f64>,
    /// Shape of the rate.
    pub lr_scheduler_type: SchedulerType,
    /// Parameters of the shape.
    pub lr_scheduler_kwargs: SchedulerKwargs,
    /// Share of all steps spent warming up, rounded up; 0 where `warmup_steps` says it.
    pub warmup_ratio: f64,
    /// Steps spent warming up; 0 where `warmup_ratio` says it.
    pub warmup_steps: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW β₁.
    pub adam_beta1: f64,
    /// AdamW β₂.
    pub adam_beta2: f64,
    /// AdamW ε.
    pub adam_epsilon: f64,
    /// The gradient is scaled down to this L2 norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// NEFTune's α: noise on the embeddings in training, above 0.
    pub neftune_noise_alpha: Option<f64>,
    /// Base weights and activations in bf16, masters in f32. Else everything f32.
    pub bf16: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Seed of the row order; `seed` when absent.
    pub data_seed: Option<u64>,
    /// Rows in file order in every epoch.
    pub disable_shuffling: bool,
    /// Which rows an epoch takes after which, unless `disable_shuffling` says it.
    pub train_sampling_strategy: SamplingStrategy,
    /// Compute the tokens that all samples of a micro-batch begin with once (`auto`), or for every sample (`off`).
    /// Changes no result; off by itself under `lora_dropout` and `neftune_noise_alpha`.
    pub shared_prefix: bool,
    /// Whether blocks keep their input alone and run forward twice. Changes no bit.
    pub gradient_checkpointing: GradientCheckpointing,
    /// Rows that go through the model at once; chosen by the model's size when absent. Changes no result but its last bits.
    pub micro_batch_tokens: Option<usize>,
    /// When to evaluate during training.
    pub eval_strategy: EvalStrategy,
    /// Steps between evaluations; `logging_steps` when absent in the file.
    pub eval_steps: Interval,
    /// An evaluation also counts the labels that are the model's likeliest token.
    pub compute_accuracy: bool,
    /// Stops after so many evaluations in a row without a better `metric_for_best_model`.
    pub early_stopping_steps: Option<usize>,
    /// Texts that the model answers at every evaluation, asked as the training rows are.
    pub sample_prompts: Vec<String>,
    /// At every evaluation the model answers so many held-out rows, and those that are couplets are judged; 0: none.
    pub eval_couplets: usize,
    /// Stops after so many seconds with a checkpoint, so that the next start goes on: for queue systems.
    pub max_seconds: Option<f64>,
}

/// `gradient_checkpointing`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GradientCheckpointing {
    /// Where memory is short.
    Auto,
    /// Always.
    On,
    /// Never, and nothing else is computed twice where memory allows.
    Off,
}

/// `save_strategy`: when a checkpoint is written. The last step is saved in any case, unless `no`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveStrategy {
    /// Never; only the final adapter.
    No,
    /// Every `save_steps` optimizer steps.
    Steps,
    /// After every epoch.
    Epoch,
}

/// `resume_from_checkpoint`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    /// Not said: an unfinished run of the same config goes on.
    Auto,
    /// `true`: the newest checkpoint of `output_dir`, which must be there.
    Always,
    /// `false`: from the first step, whatever is there.
    Never,
    /// This checkpoint.
    From(PathBuf),
}

/// The numbers an evaluation can give in any case: LlamaFactory's loss (every sample carries its batch's mean), the mean of all tokens,
/// and with `eval_couplets` the share of couplets that pass.
pub const EVAL_METRICS: [&str; 3] = ["eval_loss", "eval_loss_per_token", COUPLET_PASS];

/// The share of written couplets that pass the judge (合格率).
pub const COUPLET_PASS: &str = "eval_couplet_pass";

/// `[output]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputConfig {
    /// Where everything goes.
    pub output_dir: PathBuf,
    /// Replace what another config left there.
    pub overwrite_output_dir: bool,
    /// Optimizer steps between two log lines.
    pub logging_steps: Interval,
    /// Draw `training_loss.png` (and `training_eval_loss.png`).
    pub plot_loss: bool,
    /// Which fed tokens are counted into the log.
    pub include_num_input_tokens_seen: CountedTokens,
    /// When to write a checkpoint.
    pub save_strategy: SaveStrategy,
    /// Optimizer steps between checkpoints. Default 200, in LlamaFactory's dialect 500.
    pub save_steps: Interval,
    /// Checkpoints kept; `None`: all. Default 3, in LlamaFactory's dialect all.
    pub save_total_limit: Option<usize>,
    /// Checkpoints hold the adapter and nothing to resume from.
    pub save_only_model: bool,
    /// Whether to go on with an earlier run.
    pub resume_from_checkpoint: Resume,
    /// Write the adapter of the best evaluation instead of the last.
    pub load_best_model_at_end: bool,
    /// What makes an evaluation the best: one of [`Recipe::metrics`].
    pub metric_for_best_model: String,
    /// Whether more of it is better. Default: true for couplets that pass, false for losses.
    pub greater_is_better: bool,
}
