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
    qwen3("0.6b").expect("one of the sizes")
}

/// The geometry of a dense Qwen3 by its size (`0.6b`, `1.7b`, `4b`, `8b`, `14b`, `32b`), as its published config.json has it.
pub fn qwen3(size: &str) -> Option<crate::model::Qwen3Config> {
    // D, F, blocks, H, and whether the head is the embedding.
    let (hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tied) = match size {
        "0.6b" => (1024, 3072, 28, 16, true),
        "1.7b" => (2048, 6144, 28, 16, true),
        "4b" => (2560, 9728, 36, 32, true),
        "8b" => (4096, 12_288, 36, 32, false),
        "14b" => (5120, 17_408, 40, 40, false),
        "32b" => (5120, 25_600, 64, 64, false),
        _ => return None,
    };
    Some(crate::model::Qwen3Config {
        vocab_size: 151_936,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: 8,
        head_dim: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings: tied,
        max_position_embeddings: 40_960,
        torch_dtype: None,
    })
}

#[cfg(test)]
mod tests {
    use super::qwen3;

    /// Counts of the published checkpoints.
    #[test]
    fn the_sizes_have_as_many_parameters_as_published() {
        for (size, parameters) in [
            ("0.6b", 596_049_920),
            ("1.7b", 1_720_574_976),
            ("4b", 4_022_468_096),
            ("8b", 8_190_735_360),
            ("14b", 14_768_307_200),
            ("32b", 32_762_123_264),
        ] {
            assert_eq!(qwen3(size).map(|config| config.parameters()), Some(parameters), "{size}");
        }
        assert_eq!(qwen3("7b"), None);
    }
}
