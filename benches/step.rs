//! Whole training steps: `cargo bench` prints one JSON line per case, each measured in a process of its own.
//!
//! `benches/peer/step.py` runs the same work in PyTorch + PEFT; `benches/peer/compare.py` runs both in turn and prints ratios.
//!
//!     cargo bench --bench step                                           both default cases
//!     cargo bench --bench step -- --case qwen3-0.6b --dtype bf16 --batch 8 --data FILE.json --steps 5
//!     cargo bench --bench step -- --case qwen3-0.6b --rows 512 --batch 2    rows of 512 tokens, all labelled, nothing in common
//!     cargo bench --bench step -- --case qwen3-0.6b --batch 1 --accumulate 8
//!     cargo bench --bench step -- --case qwen3-0.6b --rank 16 --saves 5  what a checkpoint costs the steps beside it

#[path = "common.rs"]
mod common;

use candle_core::{DType, Device};
use common::{PEAK, cpu_name, fastest_path, load_average, median, peak_rss_gib, qwen3_tokenizer, random_weight, round};
use couplet_train::{
    config::{self, DataConfig, LoraConfig, Projection},
    dataset::{self, Example, IGNORE, Origin, tokenizer::Tokenizer},
    kernels::{self, ProductPath, peak},
    model::{Checkpoint, Params, Qwen3, Qwen3Config, lora::initial_values, qwen3::Keep},
    optim::{AdamW, AdamWConfig, clip},
    plan::{self, Flop, Shape},
    testing::qwen3_0_6b,
    trainer::{
        Cut, Progress,
        saver::Saver,
        step::{self, Random},
    },
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
    // As the program does.
    kernels::keep_freed_buffers();
    kernels::join_pool();
    run(&options);
}

struct Options {
    case: String,
    data: PathBuf,
    /// Tokens of every row, drawn by [`synthetic`] instead of read from `data`.
    rows: Option<usize>,
    dtype: DType,
    /// Samples that a padding trainer feeds at once.
    batch: usize,
    /// How many such make a step. Here both only say how many samples a step has.
    accumulate: usize,
    steps: usize,
    warmup: usize,
    micro_batch_tokens: Option<usize>,
    share_prefix: bool,
    rank: usize,
    keep: Keep,
    /// Pairs of steps, one alone and one with a checkpoint written beside it.
    saves: usize,
}

impl Options {
    fn parse(args: &[String]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let get = |name: &str| common::option(args, name).cloned();
        let number = |name: &str| get(name).map(|n| n.parse().expect("a number"));
        Self {
            case: get("--case").unwrap_or_default(),
            data: get("--data").map_or(root.join("data/couplets_train.json"), PathBuf::from),
            dtype: if get("--dtype").as_deref() == Some("bf16") { DType::BF16 } else { DType::F32 },
            rows: number("--rows"),
            batch: number("--batch").unwrap_or(8),
            accumulate: number("--accumulate").unwrap_or(1),
            steps: number("--steps").unwrap_or(5),
            warmup: number("--warmup").unwrap_or(1),
            share_prefix: get("--shared-prefix").as_deref() != Some("off"),
            micro_batch_tokens: number("--micro-batch-tokens"),
            rank: number("--rank").unwrap_or(8),
            keep: match get("--keep").as_deref() {
                Some("everything") => Keep::Everything,
                Some("input") => Keep::Input,
                _ => Keep::Lean,
            },
            saves: number("--saves").unwrap_or(0),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result")]
fn run(options: &Options) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lora = LoraConfig {
        lora_rank: options.rank,
        lora_alpha: 2.0 * options.rank as f64,
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
            (config, model, qwen3_tokenizer())
        }
        other => panic!("unknown case {other}: tiny, qwen3-0.6b"),
    };
    let mut params =
        Params::new(layout, options.dtype, &device, |slot| Ok(initial_values(slot, 42))).expect("parameters");
    let constants = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let mut optim = AdamW::new(constants, params.len(), &device).expect("an optimizer");
    let budget = options.micro_batch_tokens.unwrap_or_else(|| plan::micro_batch_rows(&config, options.dtype, &device));

    let cut = Cut { max_rows: budget, share_prefix: options.share_prefix, keep: options.keep };
    let per_step = options.batch * options.accumulate;
    let needed = per_step * (options.steps + options.warmup);
    let examples = match options.rows {
        Some(tokens) => (0..needed).map(|sample| synthetic(sample, tokens, config.vocab_size)).collect(),
        None => examples(&options.data, needed, &tokenizer),
    };
    let batches: Vec<Vec<(usize, &Example)>> =
        examples.chunks_exact(per_step).map(|batch| batch.iter().enumerate().collect()).collect();
    let path = fastest_path(options.dtype);
    // Seconds of the gradient and of the update, and the loss.
    let one_step = |params: &mut Params, optim: &mut AdamW, batch: &[(usize, &Example)]| {
        let began = Instant::now();
        let gradient = step::gradient(&model, params, batch, cut, &Random::default(), None, &|| false)
            .expect("a gradient")
            .expect("not stopped");
        let (took, began) = (began.elapsed().as_secs_f64(), Instant::now());
        let factor = clip::factor(gradient.grad_norm, 1.0);
        let updated = optim.step(params.flat(), &gradient.flat, &[(params.len(), 1e-4)], factor).expect("an update");
        params.set(updated).expect("parameters");
        (took, began.elapsed().as_secs_f64(), (gradient.loss * 1e4).round() / 1e4)
    };
    let (mut gradients, mut updates, mut losses) = (vec![], vec![], vec![]);
    // Between the steps, for on a shared host what the threads can do changes from second to second.
    let mut peaks = vec![];
    for batch in &batches {
        peaks.push(peak(path, PEAK));
        let (gradient, update, loss) = one_step(&mut params, &mut optim, batch);
        gradients.push(gradient);
        updates.push(update);
        losses.push(loss);
    }
    peaks.push(peak(path, PEAK));
    let around = &peaks[options.warmup..];
    let (peak_rss, peak) = (peak_rss_gib(), around.iter().sum::<f64>() / around.len() as f64);
    let (timed, gradients, updates) =
        (&batches[options.warmup..], &gradients[options.warmup..], &updates[options.warmup..]);
    // The share of the forward pass: the same rows once more, without gradients, outside the clock of the steps.
    let forward = |batch: &Vec<(usize, &Example)>| {
        let began = Instant::now();
        for micro in cut.batches(batch) {
            model.nll(&micro.expect("a micro-batch").0, &params).expect("losses");
        }
        began.elapsed().as_secs_f64()
    };
    let forwards: Vec<f64> = timed.iter().map(forward).collect();
    let shape = Shape { model: &config, lora: &lora, dtype: options.dtype, saves: false };
    let work = Work::of(timed, options.batch, cut, &shape);
    let saving = (options.saves > 0).then(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let saver = saver(dir.path(), options.rank);
        let take =
            |params: &Params, optim: &AdamW| saver.snapshot(params, optim, &Progress::default()).expect("a snapshot");
        let began = Instant::now();
        let snapshot = take(&params, &optim);
        let copy = began.elapsed().as_secs_f64();
        let began = Instant::now();
        snapshot.write(dir.path()).expect("a checkpoint");
        let write = began.elapsed().as_secs_f64();
        // The same batch every time, alone and beside a save in turn.
        let (mut alone, mut beside) = (0.0, 0.0);
        for _ in 0..options.saves {
            let (gradient, update, _) = one_step(&mut params, &mut optim, &batches[0]);
            alone += gradient + update;
            let began = Instant::now();
            let snapshot = take(&params, &optim);
            std::thread::scope(|scope| {
                let writing = scope.spawn(|| snapshot.write(dir.path()).expect("a checkpoint"));
                one_step(&mut params, &mut optim, &batches[0]);
                writing.join().expect("a writer");
            });
            beside += began.elapsed().as_secs_f64();
        }
        let n = options.saves as f64;
        serde_json::json!({
            "mb": round(12.0 * params.len() as f64 / 1e6), "copy_s": round(copy), "write_s": round(write),
            "step_alone_s": round(alone / n), "step_beside_a_save_s": round(beside / n),
            "share_of_10_steps": round((beside - alone) / (10.0 * alone)),
        })
    });
    let seconds: Vec<f64> = gradients.iter().zip(updates).map(|(gradient, update)| gradient + update).collect();
    let backwards = gradients.iter().zip(&forwards).map(|(gradient, forward)| gradient - forward).collect();
    let total: f64 = seconds.iter().sum();
    let rate = |count: usize| round(count as f64 / total);
    let gflop_step = |flop: u64| round(flop as f64 / 1e9 / options.steps as f64);
    let utilisation = |flop: u64| round(flop as f64 / total / peak);
    let report = serde_json::json!({
        "case": options.case, "dtype": format!("{:?}", options.dtype).to_lowercase(), "rows": options.rows,
        "batch": options.batch, "accumulate": options.accumulate, "steps": options.steps,
        "s_step_best": round(seconds.iter().copied().fold(f64::INFINITY, f64::min)),
        "s_step_median": round(median(seconds)), "s_forward_median": round(median(forwards)),
        "s_backward_median": round(median(backwards)), "s_update_median": round(median(updates.to_vec())),
        "samples_s": rate(per_step * options.steps), "real_tok_s": rate(work.real), "fed_tok_s": rate(work.fed),
        "padded_tok_s": rate(work.padded), "label_tok_s": rate(work.label),
        "tokens": { "real": work.real, "fed": work.fed, "padded": work.padded, "label": work.label },
        "gflop_step": {
            "useful": gflop_step(work.useful.total()), "executed": gflop_step(work.executed.total()),
            "projections": gflop_step(work.executed.projections), "adapters": gflop_step(work.executed.adapters),
            "head": gflop_step(work.executed.head), "attention": gflop_step(work.executed.attention),
        },
        "peak_gflop_s": round(peak / 1e9), "peak_path": path.name(), "path": ProductPath::chosen().expect("a path").name(),
        "mfu_effective": utilisation(work.useful.total()), "mfu_hardware": utilisation(work.executed.total()),
        "peak_rss_gib": peak_rss, "micro_batch_tokens": budget, "shared_prefix": options.share_prefix,
        "keep": options.keep, "threads": rayon::current_num_threads(), "cpu": cpu_name(), "load1": load_average(),
        "loss": losses, "saving": saving,
    });
    println!("{report}");
}

/// What steps hold, summed over them.
#[derive(Default)]
struct Work {
    /// Tokens of the samples.
    real: usize,
    /// Rows that went through the model.
    fed: usize,
    /// Tokens as LlamaFactory's collator would feed them: `batch` samples at once, each as long as the longest, and that a multiple of 8.
    padded: usize,
    /// Tokens that were trained.
    label: usize,
    useful: Flop,
    executed: Flop,
}

impl Work {
    fn of(steps: &[Vec<(usize, &Example)>], batch: usize, cut: Cut, shape: &Shape) -> Self {
        let mut work = Self::default();
        for samples in steps {
            for (_, sample) in samples {
                let (tokens, labels) = (sample.input_ids.len(), sample.labels[1..].iter());
                let labels = labels.filter(|label| **label != IGNORE).count();
                work.real += tokens;
                work.label += labels;
                work.useful += shape.useful(tokens, labels);
            }
            for together in samples.chunks(batch) {
                let longest = together.iter().map(|(_, sample)| sample.input_ids.len()).max().expect("a sample");
                work.padded += together.len() * longest.next_multiple_of(8);
            }
            for micro in cut.batches(samples) {
                let (micro, _) = micro.expect("a micro-batch");
                work.fed += micro.ids.len();
                work.executed += shape.executed(&micro, cut.keep);
            }
        }
        work
    }
}

/// Writes into `dir`.
fn saver(dir: &Path, rank: usize) -> Saver {
    let recipe = format!(
        "[model]\nmodel_name_or_path = \"m\"\n[data]\ndataset = [\"d\"]\n[lora]\nlora_rank = {rank}\n[output]\noutput_dir = {dir:?}\n"
    );
    let loaded = config::from_str(&recipe, config::Format::Toml, Path::new("bench.toml"), &[]).expect("a recipe");
    Saver::new(&loaded.recipe, serde_json::Value::Null, None)
}

/// Row `sample` of a data set that no file holds: `tokens` ids, all labelled. `benches/peer/step.py` makes the same.
fn synthetic(sample: usize, tokens: usize, vocab_size: usize) -> Example {
    let ids: Vec<u32> = (0..tokens).map(|i| ((sample * 7919 + i * 104_729) % vocab_size) as u32).collect();
    Example { labels: ids.clone(), input_ids: ids, origin: Origin { dataset: 0, row: sample + 1 } }
}

/// The first `needed` rows; a short file starts over.
fn examples(data: &Path, needed: usize, tokenizer: &Tokenizer) -> Vec<Example> {
    let name = data.file_stem().and_then(|s| s.to_str()).expect("a file name").to_owned();
    let config = DataConfig {
        dataset: vec![name],
        dataset_dir: data.parent().expect("a folder").to_owned(),
        cutoff_len: 512,
        max_samples: Some(needed),
        ..couplet_train::testing::data_config()
    };
    let rows = dataset::load(&config, 42, tokenizer).expect("the data").train;
    rows.iter().cycle().take(needed).cloned().collect()
}
