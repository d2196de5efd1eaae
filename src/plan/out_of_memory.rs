//! When the memory of a card is used up: what it was wanted for, and which keys make that smaller.
//!
//! On the CPU the system ends a process that takes too much; a card says no, and then a run can tell what is to be done.

use crate::{error::Error, model::qwen3::Keep};
use candle_core::DType;
use std::path::Path;

/// What memory was wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The frozen weights, in this type.
    Weights(DType),
    /// Masters, gradients and moments of the adapter.
    Adapter,
    /// A micro-batch forward and backward.
    MicroBatch {
        /// Rows through the model.
        rows: usize,
        /// Samples that they are of.
        samples: usize,
        /// What blocks keep of it.
        keep: Keep,
    },
    /// The gradient's norm, and new masters and moments beside the old.
    Update,
    /// Held-out rows forward.
    Evaluation {
        /// Rows through the model.
        rows: usize,
        /// Samples that they are of.
        samples: usize,
    },
    /// Texts that the model writes at an evaluation.
    Writing,
    /// Reading the adapter back at the end.
    Proof,
}

/// How every such error begins, once it says what memory was wanted for.
const USED_UP: &str = "the card's memory is used up (";

/// `err`, if the memory of a card was used up, as one who can change the recipe understands it; any other error as it is.
pub fn explained(err: Error, part: Part) -> Error {
    let Some(name) = err.out_of_memory().filter(|_| !err.to_string().starts_with(USED_UP)) else { return err };
    let (hint, hint_zh) = part.way_out();
    Error::run(format!("{USED_UP}{name}): {}", part.name())).hint(hint).hint_zh(hint_zh)
}

impl Part {
    fn name(self) -> String {
        let through = |rows: usize, samples: usize| match samples {
            1 => format!("one sample of {rows} tokens"),
            _ => format!("a micro-batch of {rows} tokens ({samples} samples)"),
        };
        match self {
            Self::Weights(dtype) => {
                format!("the base weights in {}", if dtype == DType::BF16 { "bf16" } else { "f32" })
            }
            Self::Adapter => "masters, gradients and moments of the adapter".into(),
            Self::MicroBatch { rows, samples, .. } => format!("{} forward and backward", through(rows, samples)),
            Self::Update => "the optimizer's update".into(),
            Self::Evaluation { rows, samples } => format!("{} in an evaluation", through(rows, samples)),
            Self::Writing => "texts that are written at an evaluation".into(),
            Self::Proof => "reading the adapter back".into(),
        }
    }

    /// Keys with values, in English and in Chinese.
    fn way_out(self) -> (String, String) {
        let smaller = |rows: usize, samples: usize| match samples {
            1 => format!("`cutoff_len={}`", half(rows)),
            _ => format!("`micro_batch_tokens={}`", half(rows)),
        };
        match self {
            Self::Weights(DType::BF16) => (
                "take a smaller model or a card with more memory; `nvidia-smi` shows who else uses this one".into(),
                "请改用更小的模型或显存更大的显卡；`nvidia-smi` 可查看还有谁在使用".into(),
            ),
            Self::Weights(_) => ("`bf16=true` halves them".into(), "`bf16=true` 可减半".into()),
            Self::Adapter | Self::Update => (
                "a smaller `lora_rank` or fewer `lora_target`; `nvidia-smi` shows who else uses the card".into(),
                "请减小 `lora_rank` 或减少 `lora_target`；`nvidia-smi` 可查看还有谁在使用该显卡".into(),
            ),
            Self::MicroBatch { rows, samples, keep } => {
                let smaller = smaller(rows, samples);
                match keep {
                    Keep::Input => (format!("set {smaller}"), format!("请设 {smaller}")),
                    _ => (
                        format!("set {smaller}, or `gradient_checkpointing=on`"),
                        format!("请设 {smaller}，或 `gradient_checkpointing=on`"),
                    ),
                }
            }
            Self::Evaluation { rows, samples } => {
                let smaller = smaller(rows, samples);
                (format!("set {smaller}"), format!("请设 {smaller}"))
            }
            Self::Writing => (
                "fewer `sample_prompts` and `eval_couplets`, which may change in a run that goes on".into(),
                "请减少 `sample_prompts` 与 `eval_couplets`，续训时可以更改".into(),
            ),
            Self::Proof => (
                "`nvidia-smi` shows who else uses the card; when there is room again, run the same command again"
                    .into(),
                "`nvidia-smi` 可查看还有谁在使用该显卡；有空闲显存后再次运行同一命令".into(),
            ),
        }
    }
}

/// Half of them, in a number that is easily read.
fn half(rows: usize) -> usize {
    let half = (rows / 2).max(1);
    if half > 128 { half / 64 * 64 } else { half }
}

/// Bytes of a card when its memory was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Nobody's.
    pub free: u64,
    /// All there is.
    pub total: u64,
    /// This process's tensors and what it keeps for the next ones.
    pub ours: u64,
}

/// What a process's context and the code of its kernels may take: no sign of another process.
const CONTEXT: u64 = 2_000_000_000;

/// Adds what was free, and what a run can go on from.
pub fn with_facts(err: Error, held: Option<Held>, checkpoint: Option<&Path>) -> Error {
    let err = match held {
        None => err,
        Some(Held { free, total, ours }) => {
            let gb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e9);
            let others = total.saturating_sub(free + ours);
            let others = if others > CONTEXT { format!(", other processes {}", gb(others)) } else { String::new() };
            err.and(format!("of {} GB this run holds {}{others}, and {} are free", gb(total), gb(ours), gb(free)))
        }
    };
    match checkpoint {
        None => err,
        Some(path) => {
            err.and(format!("the last checkpoint is whole, and the run can go on from it: {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(name: &str) -> Error {
        Error::run(format!("tensor operation failed: DriverError({name}, \"out of memory\")"))
    }

    #[test]
    fn each_part_names_its_keys() {
        let batch = |rows, samples, keep| Part::MicroBatch { rows, samples, keep };
        for (part, what, keys) in [
            (Part::Weights(DType::F32), "the base weights in f32", &["`bf16=true`"][..]),
            (Part::Weights(DType::BF16), "the base weights in bf16", &["a smaller model", "`nvidia-smi`"]),
            (Part::Adapter, "masters, gradients and moments of the adapter", &["`lora_rank`", "`lora_target`"]),
            (
                batch(4100, 37, Keep::Lean),
                "a micro-batch of 4100 tokens (37 samples) forward and backward",
                &["`micro_batch_tokens=2048`", "`gradient_checkpointing=on`"],
            ),
            (
                batch(100, 3, Keep::Input),
                "a micro-batch of 100 tokens (3 samples) forward and backward",
                &["set `micro_batch_tokens=50`"],
            ),
            (
                batch(2048, 1, Keep::Everything),
                "one sample of 2048 tokens forward and backward",
                &["`cutoff_len=1024`", "`gradient_checkpointing=on`"],
            ),
            (Part::Update, "the optimizer's update", &["`lora_rank`"]),
            (
                Part::Evaluation { rows: 1000, samples: 9 },
                "a micro-batch of 1000 tokens (9 samples) in an evaluation",
                &["set `micro_batch_tokens=448`"],
            ),
            (Part::Writing, "texts that are written at an evaluation", &["`sample_prompts`", "`eval_couplets`"]),
            (Part::Proof, "reading the adapter back", &["`nvidia-smi`", "same command again"]),
        ] {
            let err = explained(raised("CUDA_ERROR_OUT_OF_MEMORY"), part);
            assert_eq!(err.to_string(), format!("the card's memory is used up (CUDA_ERROR_OUT_OF_MEMORY): {what}"));
            let [en, zh] = [false, true].map(|chinese| err.hint_text(chinese).unwrap().to_owned());
            assert!(keys.iter().all(|key| en.contains(key)), "{part:?}: {en}");
            assert!(en != zh && zh.contains('请') || zh.contains("`bf16=true` 可减半") || zh.contains('有'), "{zh}");
        }
        let again = explained(explained(raised("CUBLAS_STATUS_ALLOC_FAILED"), Part::Update), Part::Proof);
        assert!(again.to_string().ends_with("(CUBLAS_STATUS_ALLOC_FAILED): the optimizer's update"), "{again}");
        let other = explained(Error::run("CUDA_ERROR_ILLEGAL_ADDRESS").hint("h"), Part::Update);
        assert_eq!((other.to_string().as_str(), other.hint_text(false)), ("CUDA_ERROR_ILLEGAL_ADDRESS", Some("h")));
    }

    #[test]
    fn it_says_who_holds_the_memory_and_what_is_left_of_the_run() {
        const GB: u64 = 1_000_000_000;
        let held = |free, ours| Some(Held { free: free * GB, total: 80 * GB, ours: ours * GB });
        let checkpoint = Path::new("out/checkpoint-200");
        for (held, checkpoint, want) in [
            (None, None, "used up"),
            (held(1, 78), None, "used up; of 80.0 GB this run holds 78.0, and 1.0 are free"),
            (held(2, 30), None, "used up; of 80.0 GB this run holds 30.0, other processes 48.0, and 2.0 are free"),
            (
                held(1, 78),
                Some(checkpoint),
                "used up; of 80.0 GB this run holds 78.0, and 1.0 are free; the last checkpoint is whole, and the run can go \
                 on from it: out/checkpoint-200",
            ),
        ] {
            let err = with_facts(Error::run("used up").hint("h"), held, checkpoint);
            assert_eq!((err.to_string().as_str(), err.hint_text(false)), (want, Some("h")));
        }
    }
}
