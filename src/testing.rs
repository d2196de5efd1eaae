//! Shared test helpers. Waves instead of random numbers: candle's CPU generator takes no seed.

use crate::{error::Result, kernels};
use candle_core::{DType, Device, Shape, Tensor};

/// sin(phase), sin(phase + 1.3), …: uneven values in [-1, 1], f32.
pub fn wave(shape: impl Into<Shape>, phase: f64, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elem_count()).map(|i| (phase + 1.3 * i as f64).sin() as f32).collect();
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// Every device of this machine and build: the CPU always, CUDA where both the feature and a card are there.
pub fn devices() -> Vec<Device> {
    let cuda = kernels::built().map(|_| kernels::open_card(0).expect("a CUDA device"));
    std::iter::once(Device::Cpu).chain(cuda).collect()
}

/// Panics unless shapes agree and every |got − want| ≤ `tolerance`·max(1, |want|).
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a test looks at values and panics")]
pub fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "shapes differ");
    let values = |t: &Tensor| -> Vec<f64> {
        let t = t.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1());
        t.expect("a float tensor")
    };
    for (i, (g, w)) in values(got).into_iter().zip(values(want)).enumerate() {
        assert!((g - w).abs() <= tolerance * w.abs().max(1.0), "element {i}: got {g}, want {w}, tolerance {tolerance}");
    }
}

/// A small, ordinary training section.
pub fn train_config() -> crate::config::TrainConfig {
    use crate::config::{EvalStrategy, GradientCheckpointing, SchedulerType, TrainConfig};
    TrainConfig {
        per_device_train_batch_size: 2,
        per_device_eval_batch_size: 2,
        gradient_accumulation_steps: 1,
        learning_rate: 1e-3,
        loraplus_lr_ratio: None,
        num_train_epochs: 1.0,
        max_steps: None,
        lr_scheduler_type: SchedulerType::Cosine,
        lr_scheduler_kwargs: Default::default(),
        warmup_ratio: 0.0,
        warmup_steps: 0,
        weight_decay: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 1.0,
        neftune_noise_alpha: None,
        bf16: false,
        seed: 42,
        data_seed: None,
        train_sampling_strategy: crate::config::SamplingStrategy::Random,
        disable_shuffling: false,
        shared_prefix: true,
        gradient_checkpointing: GradientCheckpointing::Auto,
        micro_batch_tokens: None,
        eval_strategy: EvalStrategy::No,
        eval_steps: crate::config::Interval::Steps(1),
        compute_accuracy: false,
        early_stopping_steps: None,
        sample_prompts: vec![],
        eval_couplets: 0,
        max_seconds: None,
    }
}

/// A `[data]` section to vary: `qwen3` with thinking off, no data set.
pub fn data_config() -> crate::config::DataConfig {
    use crate::config::{DataConfig, OverLength, TemplateName};
    DataConfig {
        dataset: vec![],
        eval_dataset: vec![],
        test_dataset: vec![],
        dataset_dir: "data".into(),
        template: TemplateName::Qwen3,
        cutoff_len: 2048,
        over_length: OverLength::Error,
        on_bad_row: Default::default(),
        max_samples: None,
        mix_strategy: Default::default(),
        interleave_probs: vec![],
        eval_on_each_dataset: false,
        val_size: 0.0,
        mask_history: false,
        train_on_prompt: false,
        enable_thinking: Some(false),
        preserve_thinking: false,
        default_system: None,
        packing: false,
        preprocessing_batch_size: 1000,
        preprocessing_num_workers: 1,
    }
}

/// The geometry of Qwen3-0.6B.
pub fn qwen3_0_6b() -> crate::model::Qwen3Config {
    crate::model::published::of_size("0.6B").expect("one of the sizes")
}
