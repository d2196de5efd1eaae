//! Whole training steps: `cargo bench` prints one JSON line per case, each measured in a process of its own.
//!
//! `benches/peer/step.py` runs the same work in PyTorch + PEFT; `benches/peer/compare.py` runs both in turn and prints ratios;
//! `benches/gpu/measure.py` does everything there is to do on a card.
//!
//!     cargo bench --bench step                                           both default cases
//!     cargo bench --bench step -- --case qwen3-0.6b --dtype bf16 --batch 8 --data FILE.json --steps 5
//!     cargo bench --bench step -- --case qwen3-0.6b --rows 512 --batch 2    rows of 512 tokens, all labelled, nothing in common
//!     cargo bench --bench step -- --case qwen3-0.6b --batch 1 --accumulate 8
//!     cargo bench --bench step -- --case qwen3-0.6b --rank 16 --saves 5  what a checkpoint costs the steps beside it
//!     cargo bench --features cuda --bench step -- --case qwen3-14b --dtype bf16 --device cuda:0

#[path = "common.rs"]
mod common;
#[path = "machine.rs"]
mod machine;
#[path = "work.rs"]
mod work;

use candle_core::{DType, Tensor};
use common::{cpu_name, load_average, median, peak_rss_gib, qwen3_tokenizer, root, round};
use couplet_train::{
    config::{self, DataConfig, DeviceChoice, LoraConfig, Projection},
    dataset::{self, Example, Origin, tokenizer::Tokenizer},
    kernels,
    model::{
        Checkpoint, Params, Qwen3, Qwen3Config, Recorder, lora::initial_values, params::Layout, published, qwen3::Keep,
    },
    optim::{AdamW, AdamWConfig, clip},
    plan::{self, Shape},
    testing,
    trainer::{
        Cut, Progress,
        saver::Saver,
        step::{self, Random},
    },
};
use machine::Machine;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use work::Work;

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
    device: DeviceChoice,
    /// A peak of small operands, for where a card is played by the CPU.
    quick: bool,
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
        let get = |name: &str| common::option(args, name).cloned();
        let number = |name: &str| get(name).map(|n| n.parse().expect("a number"));
        Self {
            case: get("--case").unwrap_or_default(),
            data: get("--data").map_or(root().join("data/couplets_train.json"), PathBuf::from),
            dtype: if get("--dtype").as_deref() == Some("bf16") { DType::BF16 } else { DType::F32 },
            device: device(get("--device").as_deref().unwrap_or("auto")),
            quick: args.iter().any(|a| a == "--quick"),
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

    /// Samples of a step.
    fn per_step(&self) -> usize {
        self.batch * self.accumulate
    }
}

fn device(name: &str) -> DeviceChoice {
    match name {
        "auto" => DeviceChoice::Auto,
        "cpu" => DeviceChoice::Cpu,
        card => DeviceChoice::Cuda(card.trim_start_matches("cuda:").parse().expect("--device auto, cpu or cuda:N")),
    }
}

/// A step is its samples, with their numbers.
type Step<'e> = Vec<(usize, &'e Example)>;

#[expect(clippy::print_stdout, reason = "the result")]
fn run(options: &Options) {
    let lora = LoraConfig {
        lora_rank: options.rank,
        lora_alpha: 2.0 * options.rank as f64,
        lora_dropout: 0.0,
        lora_target: Projection::ALL.to_vec(),
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    };
    let config = geometry(&options.case);
    let machine = Machine::open(options.device, config.parameters(), options.dtype, options.quick).expect("a device");
    let before = machine.used();
    let began = Instant::now();
    let (model, layout, tokenizer) = model(options, &config, &lora, &machine);
    machine.wait().expect("the weights");
    let (loading, loaded) = (began.elapsed().as_secs_f64(), machine.used());
    let mut training = Training::new(&model, layout, options, &config, &machine);
    let rest = machine.used();

    let needed = options.per_step() * (options.steps + options.warmup);
    let examples: Vec<Example> = match options.rows {
        Some(tokens) => (0..needed).map(|sample| synthetic(sample, tokens, config.vocab_size)).collect(),
        None => examples(&options.data, needed, &tokenizer),
    };
    let steps: Vec<Step> =
        examples.chunks_exact(options.per_step()).map(|batch| batch.iter().enumerate().collect()).collect();
    let mut took = vec![];
    let (mut peaks, mut most) = (vec![], None);
    for batch in &steps {
        // Between the steps, for on a shared host what the threads can do changes from second to second.
        peaks.push(machine.peak().expect("products"));
        machine.forget_peak();
        took.push(training.step(batch));
        most = most.max(machine.peak_used());
    }
    peaks.push(machine.peak().expect("products"));
    let bandwidth = machine.bandwidth().expect("copies");
    let (digest, moved) = training.digest(&took);
    let peak_rss = peak_rss_gib();
    let around = &peaks[options.warmup..];
    let peak = around.iter().sum::<f64>() / around.len() as f64;
    let (timed, times) = (&steps[options.warmup..], &took[options.warmup..]);
    // The share of the forward pass: the same rows once more, without gradients, outside the clock of the steps.
    let forwards: Vec<f64> = timed.iter().map(|batch| training.forward(batch)).collect();
    let saving = (options.saves > 0).then(|| saving(&mut training, options, &steps[0]));

    let cut = training.cut;
    let shape = Shape { model: &config, lora: &lora, dtype: options.dtype, saves: false, noise: false };
    let work = Work::of(timed, options.batch, cut, &shape);
    let all = Work::of(&steps, options.batch, cut, &shape);
    let (predicted, tensors) = all.memory(&shape, cut, machine.card.is_some());
    let of = |part: fn(&Took) -> f64| times.iter().map(part).collect::<Vec<f64>>();
    let seconds = of(|step| step.gradient + step.update);
    let backwards = times.iter().zip(&forwards).map(|(step, forward)| step.gradient - forward).collect();
    let total: f64 = seconds.iter().sum();
    let rate = |count: usize| round(count as f64 / total);
    let gflop_step = |flop: u64| round(flop as f64 / 1e9 / options.steps as f64);
    let utilisation = |flop: u64| round(flop as f64 / total / peak);
    let difference = |after: Option<u64>, before: Option<u64>| after.zip(before).map(|(after, before)| after - before);
    let report = json!({
        "case": options.case, "dtype": format!("{:?}", options.dtype).to_lowercase(), "rows": options.rows,
        "card": machine.card,
        "batch": options.batch, "accumulate": options.accumulate, "steps": options.steps,
        "s_step_best": round(seconds.iter().copied().fold(f64::INFINITY, f64::min)),
        "s_step_median": round(median(seconds)), "s_forward_median": round(median(forwards)),
        "s_backward_median": round(median(backwards)), "s_update_median": round(median(of(|step| step.update))),
        "samples_s": rate(options.per_step() * options.steps), "real_tok_s": rate(work.real), "fed_tok_s": rate(work.fed),
        "padded_tok_s": rate(work.padded), "label_tok_s": rate(work.label),
        "tokens": { "real": work.real, "fed": work.fed, "padded": work.padded, "label": work.label },
        "gflop_step": {
            "useful": gflop_step(work.useful.total()), "executed": gflop_step(work.executed.total()),
            "projections": gflop_step(work.executed.projections), "adapters": gflop_step(work.executed.adapters),
            "head": gflop_step(work.executed.head), "attention": gflop_step(work.executed.attention),
        },
        "peak_gflop_s": round(peak / 1e9), "peak_path": machine.peak_of(), "path": machine.path().expect("a path"),
        "copy_gb_s": bandwidth.map(|bytes| round(bytes / 1e9)),
        "mfu_effective": utilisation(work.useful.total()), "mfu_hardware": utilisation(work.executed.total()),
        "peak_rss_gib": peak_rss, "s_load": round(loading),
        "memory": {
            "predicted": predicted, "predicted_peak": tensors, "weights": difference(loaded, before),
            "trainable": difference(rest, loaded), "peak": difference(most, before),
        },
        "micro_batch_tokens": cut.max_rows, "shared_prefix": options.share_prefix,
        "keep": options.keep, "recorded": training.recorder.is_some(), "threads": rayon::current_num_threads(), "cpu": cpu_name(), "load1": load_average(),
        "loss": took.iter().map(|step| (step.loss * 1e4).round() / 1e4).collect::<Vec<f64>>(), "digest": digest,
        "moved": round(moved),
        "declined": kernels::declined(), "saving": saving,
    });
    println!("{report}");
}

fn geometry(case: &str) -> Qwen3Config {
    match (case, published::named(case)) {
        ("tiny", _) => Qwen3Config::load(&root().join("data/tiny_qwen3")).expect("config.json"),
        // Small enough for where a card is played, with the real tokenizer's vocabulary and an untied head.
        ("toy", _) => Qwen3Config {
            hidden_size: 64,
            intermediate_size: 192,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 64,
            tie_word_embeddings: false,
            ..testing::qwen3_0_6b()
        },
        (_, Some(config)) => config,
        _ => panic!("unknown case {case}: tiny, toy, qwen3-0.6b, -1.7b, -4b, -8b, -14b, -32b"),
    }
}

/// The checkpoint of `tiny` with its tokenizer, else random weights and Qwen3's.
fn model(options: &Options, config: &Qwen3Config, lora: &LoraConfig, machine: &Machine) -> (Qwen3, Layout, Tokenizer) {
    let ((model, layout), tokenizer) = if options.case == "tiny" {
        let dir = root().join("data/tiny_qwen3");
        let checkpoint = Checkpoint::open(&dir).expect("weights");
        let model = Qwen3::load(config, &checkpoint, lora, options.dtype, &machine.device).expect("a model");
        (model, Tokenizer::load(&dir).expect("a tokenizer"))
    } else {
        let weight = |name: &str, shape: &[usize]| machine.weight(name, shape);
        let model = Qwen3::build(config, lora, options.dtype, &machine.device, weight).expect("a model");
        (model, qwen3_tokenizer())
    };
    (model, layout, tokenizer)
}

/// Seconds of a step, and what came of it.
struct Took {
    gradient: f64,
    update: f64,
    loss: f64,
    grad_norm: f64,
}

/// What changes from step to step, and how a step goes.
struct Training<'a> {
    machine: &'a Machine,
    model: &'a Qwen3,
    params: Params,
    /// The run compares with it at its end.
    start: Tensor,
    optim: AdamW,
    /// As in the program: where `COUPLET_TRAIN_GRAPHS=on` asks for recorded passes.
    recorder: Option<Recorder>,
    cut: Cut,
}

impl<'a> Training<'a> {
    fn new(model: &'a Qwen3, layout: Layout, options: &Options, config: &Qwen3Config, machine: &'a Machine) -> Self {
        let (dtype, device) = (options.dtype, &machine.device);
        let params = Params::new(layout, dtype, device, |slot| Ok(initial_values(slot, 42))).expect("parameters");
        let constants = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let optim = AdamW::new(constants, params.len(), device).expect("an optimizer");
        let max_rows = options.micro_batch_tokens.unwrap_or_else(|| plan::micro_batch_rows(config, dtype, device));
        let cut = Cut { max_rows, share_prefix: options.share_prefix, keep: options.keep };
        machine.wait().expect("parameters");
        let recorded = std::env::var("COUPLET_TRAIN_GRAPHS").is_ok_and(|value| value == "on");
        assert!(!recorded || Recorder::is_possible(model, false), "passes of this case cannot be recorded");
        let recorder = recorded.then(|| Recorder::new(&params).expect("recorded passes"));
        let start = params.flat().clone();
        Self { machine, model, params, start, optim, recorder, cut }
    }

    fn step(&mut self, batch: &Step) -> Took {
        let began = Instant::now();
        let recorder = self.recorder.as_mut();
        let gradient =
            step::gradient(self.model, &self.params, batch, self.cut, &Random::default(), recorder, &|| false);
        let gradient = gradient.expect("a gradient").expect("not stopped");
        // The loss and the norm have been read, so a card is done with it.
        let (took, began) = (began.elapsed().as_secs_f64(), Instant::now());
        let factor = clip::factor(gradient.grad_norm, 1.0);
        let updated = self
            .optim
            .step(self.params.flat(), &gradient.flat, &[(self.params.len(), 1e-4)], factor)
            .expect("an update");
        let set = match self.recorder {
            Some(_) => self.params.set_in_place(updated),
            None => self.params.set(updated),
        };
        set.expect("parameters");
        self.machine.wait().expect("an update");
        let update = began.elapsed().as_secs_f64();
        Took { gradient: took, update, loss: gradient.loss, grad_norm: gradient.grad_norm }
    }

    /// Seconds of a forward pass alone.
    fn forward(&self, batch: &Step) -> f64 {
        let began = Instant::now();
        for micro in self.cut.batches(batch) {
            self.model.nll(&micro.expect("a micro-batch").0, &self.params).expect("losses");
        }
        self.machine.wait().expect("losses");
        began.elapsed().as_secs_f64()
    }

    /// Of every bit of the losses, norms and parameters: equal digests, equal runs. And which share of the parameters moved.
    #[expect(clippy::disallowed_methods, reason = "after the last step")]
    fn digest(&self, steps: &[Took]) -> (String, f64) {
        let numbers: Vec<f64> = steps.iter().flat_map(|step| [step.loss, step.grad_norm]).collect();
        let values = |flat: &Tensor| flat.to_vec1::<f32>().expect("parameters");
        let (start, trained) = (values(&self.start), values(self.params.flat()));
        let moved = start.iter().zip(&trained).filter(|(before, after)| before != after).count();
        let mut hash = blake3::Hasher::new();
        hash.update(bytemuck::cast_slice(&numbers)).update(bytemuck::cast_slice(&trained));
        (hash.finalize().to_hex()[..16].to_owned(), moved as f64 / trained.len() as f64)
    }
}

/// What a checkpoint takes, and a step beside one.
fn saving(training: &mut Training, options: &Options, batch: &Step) -> Value {
    let dir = tempfile::tempdir().expect("a folder");
    let saver = saver(dir.path(), options.rank);
    let take = |training: &Training| {
        saver.snapshot(&training.params, &training.optim, &Progress::default()).expect("a snapshot")
    };
    let began = Instant::now();
    let snapshot = take(training);
    let copy = began.elapsed().as_secs_f64();
    let began = Instant::now();
    snapshot.write(dir.path()).expect("a checkpoint");
    let write = began.elapsed().as_secs_f64();
    // The same batch every time, alone and beside a save in turn.
    let (mut alone, mut beside) = (0.0, 0.0);
    for _ in 0..options.saves {
        let took = training.step(batch);
        alone += took.gradient + took.update;
        let began = Instant::now();
        let snapshot = take(training);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| snapshot.write(dir.path()).expect("a checkpoint"));
            training.step(batch);
            writing.join().expect("a writer");
        });
        beside += began.elapsed().as_secs_f64();
    }
    let n = options.saves as f64;
    json!({
        "mb": round(12.0 * training.params.len() as f64 / 1e6), "copy_s": round(copy), "write_s": round(write),
        "step_alone_s": round(alone / n), "step_beside_a_save_s": round(beside / n),
        "share_of_10_steps": round((beside - alone) / (10.0 * alone)),
    })
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
    Example::new(ids.clone(), &ids, Origin { dataset: 0, row: sample + 1 })
}

/// The first `needed` rows; a short file starts over.
fn examples(data: &Path, needed: usize, tokenizer: &Tokenizer) -> Vec<Example> {
    let name = data.file_stem().and_then(|s| s.to_str()).expect("a file name").to_owned();
    let config = DataConfig {
        dataset: vec![name],
        dataset_dir: data.parent().expect("a folder").to_owned(),
        cutoff_len: 512,
        max_samples: Some(needed),
        ..testing::data_config()
    };
    let rows = dataset::load(&config, 42, tokenizer).expect("the data").train;
    rows.iter().cycle().take(needed).cloned().collect()
}
