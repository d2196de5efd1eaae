//! Our forward pass against the Qwen3 of candle-transformers.

use crate::support::{fixtures, values};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::qwen3 as oracle;
use couplet_train::{
    config::LoraConfig,
    kernels::Segments,
    model::{Batch, Checkpoint, Params, Qwen3, Qwen3Config},
};

/// Two sequences laid end to end give each the logits it has alone; tied and untied, f32 and a bf16 checkpoint.
#[test]
fn logits_equal_candle_transformers() {
    let root = fixtures().join("../..");
    let checkpoints = [
        root.join("data/tiny_qwen3"),
        fixtures().join("parity/attention_rslora/model"),
        fixtures().join("parity/bf16/model"),
    ];
    for dir in checkpoints {
        let config = Qwen3Config::load(&dir).expect("config.json");
        let no_adapter = LoraConfig {
            lora_rank: 1,
            lora_alpha: 1.0,
            lora_dropout: 0.0,
            lora_target: vec![],
            use_dora: false,
            use_rslora: false,
            pissa: Default::default(),
        };
        let checkpoint = Checkpoint::open(&dir).expect("weights");
        let (model, layout) =
            Qwen3::load(&config, &checkpoint, &no_adapter, DType::F32, &Device::Cpu).expect("a model");
        let params = Params::new(layout, DType::F32, &Device::Cpu, |_| unreachable!("no adapter")).expect("nothing");

        let sequences: [Vec<u32>; 2] =
            [(0..13).map(|i| i * 37 % 500).collect(), (0..7).map(|i| i * 91 % 700).collect()];
        let batch = Batch {
            ids: sequences.concat(),
            positions: sequences.iter().flat_map(|s| 0..s.len() as u32).collect(),
            segments: Segments::new(0, &sequences.each_ref().map(Vec::len)),
            samples: vec![0; 20],
            label_rows: (0..20).collect(),
            targets: vec![0; 20],
            noise: None,
        };
        let ours = model.logits(&batch, &params).expect("logits");
        let mut start = 0;
        for sequence in &sequences {
            // The oracle returns the last position only: ask it for every prefix.
            for n in 1..=sequence.len() {
                let want = oracle_logits(&dir, &config, &sequence[..n]);
                let got = values(&ours.get(start + n - 1).expect("a row"));
                let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
                assert!(worst < 2e-4, "{}: position {n}: logits differ by {worst:.1e}", dir.display());
            }
            start += sequence.len();
        }
    }
}

fn oracle_logits(dir: &std::path::Path, config: &Qwen3Config, ids: &[u32]) -> Vec<f64> {
    let settings = oracle::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        head_dim: config.head_dim,
        attention_bias: false,
        num_key_value_heads: config.num_key_value_heads,
        max_position_embeddings: 64,
        sliding_window: None,
        max_window_layers: config.num_hidden_layers,
        tie_word_embeddings: config.tie_word_embeddings,
        rope_theta: config.rope_theta,
        rms_norm_eps: config.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: candle_nn::Activation::Silu,
    };
    let file = dir.join("model.safetensors");
    let bytes = std::fs::read(file).expect("weights");
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).expect("weights");
    let mut model = oracle::ModelForCausalLM::new(&settings, weights).expect("the oracle");
    let input = Tensor::new(ids, &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids");
    values(&model.forward(&input, 0).expect("logits"))
}
