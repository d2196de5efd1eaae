//! What the benchmarks share: the shape of Qwen3-0.6B with random weights, Qwen3's tokenizer, and where it was measured.

#![allow(dead_code, reason = "each benchmark uses some of it")]

use candle_core::{DType, Device, Tensor};
use couplet_train::{
    dataset::tokenizer::Tokenizer,
    error::Result,
    kernels::{ProductPath, peak},
    rng::Key,
};
use std::{path::PathBuf, time::Duration};

/// The word behind `--name` on the command line.
pub fn option<'a>(args: &'a [String], name: &str) -> Option<&'a String> {
    args.iter().position(|a| a == name).and_then(|i| args.get(i + 1))
}

/// A weight as an initialiser would draw it; norms are 1.
pub fn random_weight(name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let key = Key::new(0, name);
    let n: usize = shape.iter().product();
    let norm = shape.len() == 1;
    // Uniform with the standard deviation 0.02 of Qwen3's initialiser.
    let values: Vec<f32> = (0..n as u64).map(|i| if norm { 1.0 } else { (key.uniform(i) - 0.5) * 0.069_282 }).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

/// The repository, where cargo runs the benchmark or says the caller; else where it was built.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The tokenizer of the tests' fixture.
pub fn qwen3_tokenizer() -> Tokenizer {
    let file =
        std::fs::File::open(root().join("tests/fixtures/qwen3_tokenizer/tokenizer.json.gz")).expect("the fixture");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut bytes).expect("gzip");
    Tokenizer::from_bytes(&bytes).expect("a tokenizer")
}

/// The path of this CPU that multiplies in `dtype` fastest.
///
/// f32 has no instruction beside the multiply-adds of vectors; a product of bf16 may take any path.
pub fn fastest_path(dtype: DType) -> ProductPath {
    let paths = ProductPath::available().into_iter();
    let paths = paths.filter(|path| dtype == DType::BF16 || [ProductPath::F32, ProductPath::Plain].contains(path));
    let peaks = paths.map(|path| (path, peak(path, PEAK)));
    peaks.max_by(|a, b| a.1.total_cmp(&b.1)).expect("every machine has the plain path").0
}

/// How long a peak is measured.
pub const PEAK: Duration = Duration::from_millis(50);

/// The middle value, or the mean of both.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// To four decimals.
pub fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

/// The highest resident memory of this process, in GiB, where the system tells.
pub fn peak_rss_gib() -> Option<f64> {
    peak_rss_bytes().map(|bytes| (bytes as f64 / (1u64 << 30) as f64 * 1e3).round() / 1e3)
}

/// The same in bytes.
pub fn peak_rss_bytes() -> Option<u64> {
    status("VmHWM")
}

/// Resident memory of this process now, in bytes.
pub fn rss_bytes() -> Option<u64> {
    status("VmRSS")
}

fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok().map(|kib: u64| kib << 10)
}

/// The CPU, where the system tells.
pub fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    info.lines().find(|l| l.starts_with("model name")).and_then(|l| Some(l.split_once(':')?.1.trim().to_owned()))
}

/// Processes that ran or waited in the last minute, where the system tells.
pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
