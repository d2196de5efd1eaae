//! Products with frozen weights beside what the machine could do at most, both measured in the same run.
//!
//!     cargo bench --bench kernels                        every path of this CPU
//!     cargo bench --bench kernels -- --path avx512-bf16  bf16 weights on one path
//!     cargo bench --bench kernels -- --path weights-f32  f32 weights
//!     cargo bench --bench kernels -- --model 4b --rows 256
//!
//! GFLOP/s of all threads (`RAYON_NUM_THREADS` limits them). The peak of a path is its multiply instruction on registers
//! alone, measured again beside every product: on a shared host it changes from second to second. A product's limit is that
//! peak, or less where the memory cannot bring the weights fast enough. Medians of rounds. Products that would take seconds
//! are left out.

#[path = "common.rs"]
mod common;

use candle_core::{DType, Device, Tensor};
use common::{PEAK, median};
use couplet_train::{
    kernels::{self, Packable, Packed, PackedBf16, PackedF32, ProductPath, peak},
    rng::Key,
};
use half::bf16;
use rayon::prelude::*;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Name, out, in.
type Weight = (&'static str, usize, usize);

/// What the models multiply with.
const MODELS: [(&str, [Weight; 6]); 2] = [
    (
        "0.6b",
        [
            ("q", 2048, 1024),
            ("k, v", 1024, 1024),
            ("o", 1024, 2048),
            ("gate, up", 3072, 1024),
            ("down", 1024, 3072),
            ("head", 151_936, 1024),
        ],
    ),
    (
        "4b",
        [
            ("q", 4096, 2560),
            ("k, v", 1024, 2560),
            ("o", 2560, 4096),
            ("gate, up", 9728, 2560),
            ("down", 2560, 9728),
            ("head", 151_936, 2560),
        ],
    ),
];

const ROWS: [usize; 4] = [1, 16, 256, 2048];

/// How long calls of a round take together.
const ROUND: Duration = Duration::from_millis(20);

/// Weights are taken in turn until they are this large together, so that none comes out of a cache, as in a model.
const BEYOND_CACHES: usize = 256 << 20;

#[expect(clippy::print_stdout, reason = "the result")]
fn main() {
    kernels::keep_freed_buffers(); // as the program does
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let get = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let (path, model, rows) = (get("--path"), get("--model"), get("--rows"));
    let (only, bandwidth) = (get("--only"), bandwidth());
    println!("{} threads; memory reads {:.1} GB/s", rayon::current_num_threads(), bandwidth / 1e9);
    let chosen = |name: &str| path.as_ref().is_none_or(|path| path == name);
    let settings = Settings { model, only, rows: rows.map(|n| n.parse().expect("a number of rows")), bandwidth };
    for path in ProductPath::available().into_iter().filter(|path| chosen(path.name())) {
        let forward = |w: &PackedBf16, x: &Tensor| w.forward_on(path, x).expect("a product");
        let backward = |w: &PackedBf16, dy: &Tensor| w.backward_on(path, dy).expect("a product");
        table(path.name(), DType::BF16, path, &settings, random::<bf16>, &forward, &backward);
    }
    if chosen("weights-f32") {
        let forward = |w: &PackedF32, x: &Tensor| w.forward(x).expect("a product");
        let backward = |w: &PackedF32, dy: &Tensor| w.backward(dy).expect("a product");
        table("weights-f32", DType::F32, ProductPath::F32, &settings, random::<f32>, &forward, &backward);
    }
    let model = settings.model;
    generation(model.as_deref(), bandwidth);
}

/// What is asked for, and what the memory brings.
struct Settings {
    model: Option<String>,
    only: Option<String>,
    rows: Option<usize>,
    bandwidth: f64,
}

/// All shapes of one path.
#[expect(clippy::print_stdout, reason = "the result")]
fn table<W>(
    name: &str,
    dtype: DType,
    path: ProductPath,
    settings: &Settings,
    weight: impl Fn(usize, usize, usize) -> W,
    forward: &dyn Fn(&W, &Tensor) -> Tensor,
    backward: &dyn Fn(&W, &Tensor) -> Tensor,
) {
    let bytes = dtype.size_in_bytes();
    println!("\n{name}: peak {:.1} GFLOP/s", peak(path, PEAK) / 1e9);
    println!(
        "| model | weight [out, in] | rows | forward | % of peak | % of limit | backward | % of peak | % of limit |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (model, shapes) in MODELS.iter().filter(|(name, _)| settings.model.as_ref().is_none_or(|m| m == name)) {
        for (shape, out, width) in shapes.iter().filter(|(w, ..)| settings.only.as_ref().is_none_or(|o| o == w)) {
            let copies = (BEYOND_CACHES / (bytes * out * width)).max(1);
            let weights: Vec<W> = (0..copies).map(|i| weight(*out, *width, i)).collect();
            for rows in ROWS.into_iter().filter(|r| settings.rows.is_none_or(|n| n == *r)) {
                let flop = 2.0 * (rows * out * width) as f64;
                if flop > 5e11 || path == ProductPath::Plain && flop > 1e10 {
                    continue;
                }
                let (x, dy) = (activations(rows, *width, dtype), activations(rows, *out, dtype));
                let bound = settings.bandwidth * (2 * rows / bytes) as f64;
                let measure = |call: &dyn Fn(&W) -> Tensor| {
                    let rounds = rounds(path, copies, |i| call(&weights[i]));
                    let median =
                        |of: &dyn Fn(f64, f64) -> f64| median(rounds.iter().map(|(p, s)| of(*p, flop / s)).collect());
                    let share = |limit: f64, rate: f64| 100.0 * rate / limit;
                    format!(
                        "{:.1} | {:.0} | {:.0}",
                        median(&|_, rate| rate) / 1e9,
                        median(&|peak, rate| share(peak, rate)),
                        median(&|peak, rate| share(peak.min(bound), rate)),
                    )
                };
                let (forward, backward) = (measure(&|w| forward(w, &x)), measure(&|w| backward(w, &dy)));
                println!("| {model} | {shape} [{out}, {width}] | {rows} | {forward} | {backward} |");
            }
        }
    }
}

/// The few rows of generation in f32 with bf16 weights: bytes of weights a second.
#[expect(clippy::print_stdout, reason = "the result")]
fn generation(model: Option<&str>, bandwidth: f64) {
    println!(
        "\ngeneration, f32 rows and bf16 weights\n| model | weight [out, in] | rows | GFLOP/s | weights GB/s | % of memory |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, shapes) in MODELS.iter().filter(|(name, _)| model.is_none_or(|m| m == *name)) {
        for (weight, out, width) in &shapes[3..5] {
            let copies = (BEYOND_CACHES / (2 * out * width)).max(1);
            let weights: Vec<PackedBf16> = (0..copies).map(|i| random(*out, *width, i)).collect();
            for rows in [1, 4, 16, 64, 256] {
                let x = activations(rows, *width, DType::F32);
                let rounds = rounds(ProductPath::F32, copies, |i| weights[i].infer(&x).expect("a product"));
                let took = median(rounds.into_iter().map(|(_, seconds)| seconds).collect());
                let (flop, bytes) = ((2 * rows * out * width) as f64, (2 * out * width) as f64);
                println!(
                    "| {name} | {weight} [{out}, {width}] | {rows} | {:.1} | {:.1} | {:.0} |",
                    flop / took / 1e9,
                    bytes / took / 1e9,
                    100.0 * bytes / took / bandwidth
                );
            }
        }
    }
}

/// In rounds, each within a moment: FLOP per second that `path` could do, and seconds of a call; call `i` takes weight `i`.
fn rounds(path: ProductPath, copies: usize, call: impl Fn(usize) -> Tensor) -> Vec<(f64, f64)> {
    let mut i = 0;
    let mut one = |least: Duration| {
        let (began, mut calls) = (Instant::now(), 0);
        while calls == 0 || began.elapsed() < least {
            black_box(call(i % copies));
            (i, calls) = (i + 1, calls + 1);
        }
        began.elapsed().as_secs_f64() / f64::from(calls)
    };
    one(Duration::ZERO);
    // A round of several calls: one alone would be too short for the clock.
    (0..15).map(|_| (peak(path, ROUND / 2), one(ROUND))).collect()
}

/// Bytes a second that all threads read together.
fn bandwidth() -> f64 {
    let memory = vec![1u64; 64 << 20];
    let read = || {
        let began = Instant::now();
        let sum: u64 =
            memory.par_chunks(1 << 16).map(|part| part.iter().fold(0, |sum: u64, x| sum.wrapping_add(*x))).sum();
        black_box(sum);
        8.0 * memory.len() as f64 / began.elapsed().as_secs_f64()
    };
    (0..5).map(|_| read()).fold(0.0, f64::max)
}

fn random<T: Packable>(out: usize, width: usize, i: usize) -> Packed<T> {
    let key = Key::new(i as u64, "weight");
    // One row of numbers for all: what is multiplied does not change how long it takes.
    let row: Vec<f32> = (0..width as u64).map(|i| key.uniform(i) - 0.5).collect();
    let row = Tensor::from_vec(row, (1, width), &Device::Cpu).expect("a row");
    Packed::pack((out, width), 4096, |rows| Ok(row.broadcast_as((rows.len(), width))?.contiguous()?)).expect("packed")
}

fn activations(rows: usize, width: usize, dtype: DType) -> Tensor {
    let key = Key::new(0, "activations");
    let values: Vec<f32> = (0..(rows * width) as u64).map(|i| key.uniform(i) - 0.5).collect();
    Tensor::from_vec(values, (rows, width), &Device::Cpu).and_then(|x| x.to_dtype(dtype)).expect("activations")
}
