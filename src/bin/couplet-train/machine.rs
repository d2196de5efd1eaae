//! Facts about this machine and process for the header and the receipt. Linux tells; elsewhere a fact is absent.

/// The CPU's name.
pub fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Highest resident memory of this process so far, in bytes.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
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
