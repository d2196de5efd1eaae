//! Facts about this machine and process for the header and the receipt. Linux tells; elsewhere a fact is absent.

use candle_core::DType;
use couplet_train::error::{Error, Result, gigabytes};

/// The CPU's name.
pub fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Highest resident memory of this process so far, in bytes.
pub fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// A size of this process by its name, in bytes.
fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// blake3 of the running program, in hex.
pub fn binary_digest() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(program).ok()?, &mut hasher).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}

/// Refuses a model whose weights alone do not fit into the memory that is free: the system would kill the process.
pub fn refuse_too_large(weights: usize, dtype: DType) -> Result<()> {
    match available_memory() {
        Some(free) if weights as u64 > free => Err(too_large(weights as u64, free, dtype)),
        _ => Ok(()),
    }
}

fn too_large(weights: u64, free: u64, dtype: DType) -> Error {
    let smaller = if dtype == DType::F32 { "`bf16 = true` halves it, " } else { "" };
    Error::input(format!("the weights take {}, but {} of memory are free", gigabytes(weights), gigabytes(free)))
        .hint(format!("{smaller}a smaller Qwen3 needs less (0.6B: 2.4 GB in f32), or train on a GPU"))
        .hint_zh("可用 `bf16 = true` 减半，改用更小的 Qwen3（0.6B 的 f32 为 2.4 GB），或在 GPU 上训练")
}

/// Resident memory of this process now, in bytes.
pub fn resident_memory() -> Option<u64> {
    status("VmRSS:")
}

/// Memory that a process can take without swapping, in bytes.
pub fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_cannot_fit_is_refused_with_its_size() {
        assert!(refuse_too_large(1, DType::F32).is_ok());
        let err = too_large(59_000_000_000, 24_000_000_000, DType::F32);
        assert_eq!(err.to_string(), "the weights take 59.00 GB, but 24.00 GB of memory are free");
        assert!(err.hint_text(false).is_some_and(|hint| hint.starts_with("`bf16 = true` halves it")));
    }
}
