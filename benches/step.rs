//! Whole training steps: `cargo bench` prints one JSON line per case, each measured in a process of its own.
//!
//! `benches/peer/step.py` runs the same work in PyTorch + PEFT; `benches/peer/compare.py` runs both in turn and prints ratios.
//!
//!     cargo bench --bench step                                           both default cases
//!     cargo bench --bench step -- --case qwen3-0.6b --dtype bf16 --batch 8 --data FILE.json --steps 5

use candle_core::{DType, Device, Tensor};
use couplet_train::{
    config::{DataConfig, LoraConfig, Projection},
    dataset::{self, Example, tokenizer::Tokenizer},
    model::{Checkpoint, Params, Qwen3, Qwen3Config, lora::initial_values},
    optim::{AdamW, AdamWConfig, clip},
    rng::Key,
    trainer::{plan::default_micro_batch_tokens, step},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let options = Options::parse(&args);
    if options.case.is_empty() {
        for case in ["tiny", "qwen3-0.6b"] {
            let me = std::env::current_exe().expect("the path of this program");
            Command::new(me).args(["--case", case]).args(&args).status().expect("a child process");
        }
        return;
    }
    run(&options);
}

struct Options {
    case: String,
    data: PathBuf,
    dtype: DType,
    batch: usize,
    steps: usize,
    warmup: usize,
    micro_batch_tokens: Option<usize>,
    share_prefix: bool,
}

impl Options {
    fn parse(args: &[String]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let get = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
        let number = |name: &str| get(name).map(|n| n.parse().expect("a number"));
        Self {
            case: get("--case").unwrap_or_default(),
            data: get("--data").map_or(root.join("data/couplets_train.json"), PathBuf::from),
            dtype: if get("--dtype").as_deref() == Some("bf16") { DType::BF16 } else { DType::F32 },
            batch: number("--batch").unwrap_or(8),
            steps: number("--steps").unwrap_or(5),
            warmup: number("--warmup").unwrap_or(1),
            share_prefix: get("--shared-prefix").as_deref() != Some("off"),
            micro_batch_tokens: number("--micro-batch-tokens"),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result")]
fn run(options: &Options) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lora = LoraConfig {
        lora_rank: 8,
        lora_alpha: 16.0,
        lora_dropout: 0.0,
        lora_target: Projection::ALL.to_vec(),
        use_rslora: false,
    };
    let device = Device::Cpu;
    let (config, (model, layout), tokenizer) = match options.case.as_str() {
        "tiny" => {
            let dir = root.join("data/tiny_qwen3");
            let config = Qwen3Config::load(&dir).expect("config.json");
            let checkpoint = Checkpoint::open(&dir).expect("weights");
            let model = Qwen3::load(&config, &checkpoint, &lora, options.dtype, &device).expect("a model");
            (config, model, Tokenizer::load(&dir).expect("a tokenizer"))
        }
        "qwen3-0.6b" => {
            let config = qwen3_0_6b();
            let weight = |name: &str, shape: &[usize]| random_weight(name, shape, options.dtype);
            let model = Qwen3::build(&config, &lora, options.dtype, &device, weight).expect("a model");
            (config, model, qwen3_tokenizer(root))
        }
        other => panic!("unknown case {other}: tiny, qwen3-0.6b"),
    };
    let mut params =
        Params::new(layout, options.dtype, &device, |slot| Ok(initial_values(slot, 42))).expect("parameters");
    let constants = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let mut optim = AdamW::new(constants, params.len(), &device).expect("an optimizer");
    let budget =
        options.micro_batch_tokens.unwrap_or_else(|| default_micro_batch_tokens(&config, options.dtype, &device));

    let cut = step::Cut { max_rows: budget, share_prefix: options.share_prefix };
    let rows = options.batch * (options.steps + options.warmup);
    let examples = examples(&options.data, rows, &tokenizer);
    let (mut seconds, mut losses, mut tokens) = (vec![], vec![], 0);
    for (i, batch) in examples.chunks_exact(options.batch).enumerate() {
        let batch: Vec<(usize, &Example)> = batch.iter().enumerate().collect();
        let began = Instant::now();
        let gradient =
            step::gradient(&model, &params, &batch, cut, None, &|| false).expect("a gradient").expect("not stopped");
        let factor = clip::factor(gradient.grad_norm, 1.0);
        let updated = optim.step(params.flat(), &gradient.flat, 1e-4, factor).expect("an update");
        params.set(updated).expect("parameters");
        losses.push((gradient.loss * 1e4).round() / 1e4);
        if i >= options.warmup {
            seconds.push(began.elapsed().as_secs_f64());
            tokens += batch.iter().map(|(_, e)| e.input_ids.len()).sum::<usize>();
        }
    }
    let total: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    let report = serde_json::json!({
        "case": options.case, "dtype": format!("{:?}", options.dtype).to_lowercase(), "batch": options.batch,
        "steps": options.steps, "s_step_best": round(seconds[0]), "s_step_median": round(seconds[seconds.len() / 2]),
        "samples_s": round(options.batch as f64 * seconds.len() as f64 / total),
        "real_tok_s": round(tokens as f64 / total), "peak_rss_gib": peak_rss_gib(),
        "micro_batch_tokens": budget, "shared_prefix": options.share_prefix, "threads": rayon::current_num_threads(), "cpu": cpu_name(),
        "load1": load_average(), "loss": losses,
    });
    println!("{report}");
}

fn examples(data: &Path, rows: usize, tokenizer: &Tokenizer) -> Vec<Example> {
    let name = data.file_stem().and_then(|s| s.to_str()).expect("a file name").to_owned();
    let config = DataConfig {
        dataset: vec![name],
        dataset_dir: data.parent().expect("a folder").to_owned(),
        cutoff_len: 512,
        max_samples: Some(rows),
        ..couplet_train::testing::data_config()
    };
    dataset::load(&config, 42, tokenizer).expect("the data").train
}

fn qwen3_0_6b() -> Qwen3Config {
    Qwen3Config {
        vocab_size: 151_936,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_hidden_layers: 28,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        head_dim: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings: true,
        max_position_embeddings: 40_960,
        torch_dtype: None,
    }
}

fn random_weight(name: &str, shape: &[usize], dtype: DType) -> couplet_train::error::Result<Tensor> {
    let key = Key::new(0, name);
    let n: usize = shape.iter().product();
    let norm = shape.len() == 1;
    // Uniform with the standard deviation 0.02 of Qwen3's initialiser.
    let values: Vec<f32> = (0..n as u64).map(|i| if norm { 1.0 } else { (key.uniform(i) - 0.5) * 0.069_282 }).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

fn qwen3_tokenizer(root: &Path) -> Tokenizer {
    let file = std::fs::File::open(root.join("tests/fixtures/qwen3_tokenizer/tokenizer.json.gz")).expect("the fixture");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut bytes).expect("gzip");
    Tokenizer::from_bytes(&bytes).expect("a tokenizer")
}

fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

fn peak_rss_gib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib / 1048576.0 * 1e3).round() / 1e3)
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    info.lines().find(|l| l.starts_with("model name")).and_then(|l| Some(l.split_once(':')?.1.trim().to_owned()))
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
