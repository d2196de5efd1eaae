//! What the fused CPU bodies share: f32 slices out of contiguous tensors, rows in parallel, code compiled for the CPU at hand.

use super::ProductPath;
use candle_core::{CpuStorage, DType, Storage, StorageRef, Tensor};
use pulp::Arch;
use rayon::prelude::*;
use std::ops::{Deref, Range};

/// The elements of a contiguous f32 tensor on the CPU, read without a copy.
pub(crate) struct F32s<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl Deref for F32s<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("f32s() checked the storage"),
        }
    }
}

/// `Some` when `t` is f32, contiguous and on the CPU: the case the fused bodies are written for.
pub(crate) fn f32s(t: &Tensor) -> Option<F32s<'_>> {
    if t.dtype() != DType::F32 || !t.device().is_cpu() {
        return None;
    }
    let (storage, layout) = t.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))).then_some(F32s { storage, range: start..end })
}

/// Elements a task should touch at least; below it the hand-over costs more than the work.
const GRAIN: usize = 16 * 1024;

/// Calls `f(row, out_row)` for every row of `out` (rows of `width` elements), in parallel, compiled for this CPU.
///
/// Rows are independent, so the result does not depend on the number of threads.
pub(crate) fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows_per_task = (GRAIN / width.max(1)).max(1);
    out.par_chunks_mut(rows_per_task * width).enumerate().for_each(|(task, chunk)| {
        vectorized(|| {
            for (i, row) in chunk.chunks_exact_mut(width).enumerate() {
                f(task * rows_per_task + i, row);
            }
        });
    });
}

/// Calls `f(start, block)` for consecutive blocks of `out`, in parallel, compiled for this CPU.
pub(crate) fn for_blocks(out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(GRAIN).enumerate().for_each(|(i, block)| vectorized(|| f(i * GRAIN, block)));
}

/// As [`for_rows`], with two outputs of the same width.
pub(crate) fn for_rows2(a: &mut [f32], b: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) {
    let rows_per_task = (GRAIN / width.max(1)).max(1);
    let step = rows_per_task * width;
    a.par_chunks_mut(step).zip(b.par_chunks_mut(step)).enumerate().for_each(|(task, (a, b))| {
        vectorized(|| {
            for (i, (a, b)) in a.chunks_exact_mut(width).zip(b.chunks_exact_mut(width)).enumerate() {
                f(task * rows_per_task + i, a, b);
            }
        });
    });
}

/// Runs `f` compiled for the widest vectors this CPU has.
#[inline(always)]
pub(crate) fn vectorized<T>(f: impl FnOnce() -> T) -> T {
    Arch::new().dispatch(f)
}

/// What decides how sums are grouped and with that the last bits of a run: the widest vectors this CPU has, and in bf16
/// also how products are computed.
pub fn instruction_set(dtype: DType) -> String {
    match (dtype, ProductPath::chosen()) {
        (DType::BF16, Ok(path)) => format!("{}, products {}", vectors(), path.name()),
        _ => vectors().into(),
    }
}

fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return match (is_x86_feature_detected!("avx512f"), is_x86_feature_detected!("avx2")) {
        (true, _) => "AVX-512",
        (false, true) => "AVX2",
        (false, false) => "SSE2",
    };
    #[cfg(target_arch = "aarch64")]
    return "NEON";
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return "plain code";
}

/// eˣ without a branch or a call, so that loops over it become vector code; 2 ulp on [-87, 88], NaN stays NaN.
///
/// Cephes' `expf` (S. Moshier): x = n·ln 2 + r with ln 2 in two parts, a degree-5 polynomial for eʳ, n into the exponent.
/// Below -87.3 the result stays at the smallest normal number instead of reaching 0.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants as published")]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it leaves the nearest integer in the low mantissa bits
    let x = x.clamp(-87.336_54, 88.376_26);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_375 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e_r = p * r * r + r + 1.0;
    let two_n = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    e_r * two_n
}

/// Independent partial sums of a reduction: enough for two 512-bit vectors, and a fixed order of summation on every CPU.
const LANES: usize = 32;

/// Σ aᵢ·bᵢ, summed in [`LANES`] fixed partial sums.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            acc[i] += x[i] * y[i];
        }
    }
    fold(acc) + tail
}

/// Σ xᵢ over [`LANES`] fixed partial sums.
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    let mut acc = [0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    for x in chunks {
        for i in 0..LANES {
            acc[i] += x[i];
        }
    }
    fold(acc) + tail
}

/// Largest element; NaN only if every element is NaN (the sum that follows shows a NaN anyway).
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in chunks {
        for i in 0..LANES {
            acc[i] = if x[i] > acc[i] { x[i] } else { acc[i] };
        }
    }
    acc.into_iter().fold(tail, f32::max)
}

#[inline(always)]
fn fold(mut acc: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            acc[i] += acc[i + n];
        }
        n /= 2;
    }
    acc[0]
}

/// `y += s·x`
#[inline(always)]
pub(crate) fn axpy(s: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_and_keeps_nan() {
        let mut worst = 0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 2.4e-7, "relative error {worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e9) < 1e-37 && exp(1e9) > 1e38);
    }

    #[test]
    fn reductions_agree_with_f64_over_odd_lengths() {
        for n in [1usize, 31, 32, 33, 64, 1000, 4097] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).cos()).collect();
            let want: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - want).abs() < 1e-4, "dot over {n}");
            let want: f64 = a.iter().map(|x| f64::from(*x)).sum();
            assert!((f64::from(sum(&a)) - want).abs() < 1e-4, "sum over {n}");
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
