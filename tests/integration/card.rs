//! The whole program on a card: that of this machine, or the stand-in driver of `.ci/run_cuda_on_cpu`.

use crate::support::{on_everything, relative_distance, root, shipped, values};
use candle_core::{DType, Device};
use couplet_train::{
    config::LoraConfig,
    dataset::Example,
    kernels,
    model::qwen3::Keep,
    trainer::{
        Cut,
        step::{self, Random},
    },
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Loss and gradient of six shipped rows on the shipped model, whose adapter has a B that is not zero.
fn gradient(device: &Device, dtype: DType, cut: Cut) -> (f64, Vec<f64>) {
    gradient_of(&on_everything(), device, dtype, cut)
}

fn gradient_of(lora: &LoraConfig, device: &Device, dtype: DType, cut: Cut) -> (f64, Vec<f64>) {
    let (model, params, rows) = shipped((dtype, device), lora, 6);
    let rows: Vec<(usize, &Example)> = rows.iter().enumerate().collect();
    let step =
        step::gradient(&model, &params, &rows, cut, &Random::default(), None, &|| false).unwrap().expect("not stopped");
    (step.loss, values(&step.flat))
}

fn card() -> Device {
    kernels::open_card(0).expect("a card, or the stand-in driver: .ci/run_cuda_on_cpu")
}

const SHARED: Cut = Cut { max_rows: usize::MAX, share_prefix: true, keep: Keep::Lean };

#[test]
fn a_card_gives_the_gradient_of_the_cpu() {
    for use_dora in [false, true] {
        let lora = LoraConfig { use_dora, ..on_everything() };
        let (want, want_gradient) = gradient_of(&lora, &Device::Cpu, DType::F32, SHARED);
        for (dtype, on_loss, on_gradient) in [(DType::F32, 1e-5, 1e-4), (DType::BF16, 2e-3, 3e-2)] {
            let (loss, flat) = gradient_of(&lora, &card(), dtype, SHARED);
            let off = relative_distance(&flat, &want_gradient, &want_gradient);
            assert!(
                (loss - want).abs() < on_loss * want && off < on_gradient,
                "DoRA {use_dora}, {dtype:?}: loss {loss} for {want}, {off:.1e}"
            );
            // What the CPU makes of bf16 is as far from f32.
            let (_, on_cpu) = gradient_of(&lora, &Device::Cpu, dtype, SHARED);
            let cpu_is_off = relative_distance(&on_cpu, &want_gradient, &want_gradient);
            assert!(off < 2.0 * cpu_is_off + 1e-4, "DoRA {use_dora}, {dtype:?}: {off:.1e}, the CPU {cpu_is_off:.1e}");
        }
    }
}

#[test]
fn neither_the_cut_nor_what_blocks_keep_changes_the_gradient_of_a_card() {
    let (loss, flat) = gradient(&card(), DType::BF16, SHARED);
    for keep in [Keep::Everything, Keep::Input] {
        let (other, other_flat) = gradient(&card(), DType::BF16, Cut { keep, ..SHARED });
        assert!(loss.to_bits() == other.to_bits() && flat == other_flat, "{keep:?}: other bits");
    }
    let (other, other_flat) = gradient(&card(), DType::BF16, Cut { max_rows: 100, share_prefix: false, ..SHARED });
    let off = relative_distance(&other_flat, &flat, &flat);
    assert!((loss - other).abs() < 2e-3 * loss && off < 3e-2, "loss {other} for {loss}, gradient {off:.1e}");
}

/// A run of the program in a folder of its own.
struct Run {
    dir: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Trains in bf16, four samples a step; returns what the stand-in driver counted, nothing on a card.
    fn train(&self, more: &[&str]) -> BTreeMap<String, u64> {
        self.train_with("off", more)
    }

    /// As [`Self::train`], with recorded passes `on` or `off`.
    fn train_with(&self, graphs: &str, more: &[&str]) -> BTreeMap<String, u64> {
        let report = self.dir.path().join("report");
        let mut command = Command::new(env!("CARGO_BIN_EXE_couplet-train"));
        command.arg("--config").arg(root().join("configs/tiny_couplets.toml"));
        command.arg(format!("model_name_or_path={}", root().join("data/tiny_qwen3").display()));
        command.arg(format!("dataset_dir={}", root().join("data").display()));
        command.arg(format!("output_dir={}", self.out().display()));
        command.args([
            "device=cuda:0",
            "bf16=true",
            "max_samples=32",
            "per_device_train_batch_size=4",
            "logging_steps=1",
        ]);
        command.args(["eval_strategy=no", "eval_dataset=[]", "plot_loss=false"]).args(more);
        command.env("STAND_IN_REPORT", &report).env("COUPLET_TRAIN_LANG", "en").env("COUPLET_TRAIN_GRAPHS", graphs);
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        counts(&report)
    }

    /// The key that lets another run go on from the checkpoint after `step`.
    fn from_checkpoint(&self, step: usize) -> String {
        format!("resume_from_checkpoint={}", self.out().join(format!("checkpoint-{step}")).display())
    }

    /// Of every step.
    fn losses(&self) -> Vec<f64> {
        let log = std::fs::read_to_string(self.out().join("trainer_log.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| line["loss"].as_f64()).collect()
    }

    fn adapter(&self) -> Vec<u8> {
        std::fs::read(self.out().join("adapter_model.safetensors")).unwrap()
    }
}

fn counts(report: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(report).unwrap_or_default();
    assert!(!text.is_empty() || std::env::var_os("STAND_IN").is_none(), "the stand-in driver has left no report");
    text.lines().filter_map(|line| line.split_once('\t')).map(|(what, n)| (what.into(), n.parse().unwrap())).collect()
}

#[test]
fn the_same_run_and_a_resumed_one_give_the_same_bytes() {
    let (whole, resumed) = (Run::new(), Run::new());
    whole.train(&["max_steps=4", "save_steps=2"]);
    resumed.train(&["max_steps=4", "save_steps=2", &whole.from_checkpoint(2)]);
    assert!(whole.adapter() == resumed.adapter(), "the resumed run has other bytes");
}

/// Bytes that the program keeps for cuBLAS as long as it runs.
const CUBLAS_WORKSPACE: u64 = 32 << 20;

/// Losses, and the norm of the gradient: a step looks at its card twice. Launches queue behind each other in between.
#[test]
fn a_step_waits_for_its_card_twice_and_uploads_little() {
    let (few, more) = (Run::new().train(&["max_steps=2"]), Run::new().train(&["max_steps=6"]));
    if few.is_empty() {
        return; // a card does not count
    }
    let each = |what: &str| {
        let [few, more] = [&few, &more].map(|counts| counts.get(what).copied().unwrap_or(0));
        (more - few) as f64 / 4.0
    };
    assert_eq!(each("copies from the card"), 2.0);
    for waits in ["cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize", "cuEventQuery"] {
        assert_eq!(each(waits), 0.0, "{waits}");
    }
    // Ids, targets, tables of angles, lists of attention, label rows, zeros for gradients, the clip factor.
    assert!(each("copies to the card") <= 20.0, "{} uploads a step", each("copies to the card"));
    assert_eq!(more["bytes of card 0 never freed"], CUBLAS_WORKSPACE);
}

/// Recorded once for a shape and launched for others of it: the numbers of a pass that is queued operation by operation, but
/// for the shapes of its products, which are filled up.
#[test]
fn recorded_passes_compute_what_passes_compute() {
    const STEPS: &[&str] = &["max_steps=6", "save_steps=3"];
    let (plain, recorded, resumed) = (Run::new(), Run::new(), Run::new());
    plain.train(STEPS);
    let counts = recorded.train_with("on", STEPS);
    if !counts.is_empty() {
        assert!(counts["graphs launched"] >= 3, "{:?}", counts.get("graphs launched"));
        // candle keeps the parameters of strided operands that it uploaded before recording, for ever.
        assert!(counts["bytes of card 0 never freed"] < CUBLAS_WORKSPACE + 4096);
    }
    let (got, want) = (recorded.losses(), plain.losses());
    assert_eq!((got.len(), want.len()), (6, 6));
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!((got - want).abs() < 2e-3 * want, "step {}: {got} for {want}", step + 1);
    }
    resumed.train_with("on", &[STEPS, &[&recorded.from_checkpoint(3)]].concat());
    assert!(recorded.adapter() == resumed.adapter(), "the resumed run has other bytes");
}
