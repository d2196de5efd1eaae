//! What the fused CPU bodies share: slices out of contiguous tensors, rows in parallel, code compiled for the CPU at hand.
//!
//! A body is written once for f32 and bf16: it widens what it reads, computes in f32 and rounds what it writes.

use super::ProductPath;
use candle_core::{DType, Storage, StorageRef, Tensor, WithDType};
use half::bf16;
use pulp::Arch;
use rayon::prelude::*;
use std::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Add, Deref, Range},
};

/// What a fused body reads and writes: f32 or bf16.
pub trait Element: WithDType {
    /// The same value.
    fn widen(self) -> f32;
    /// The nearest value, ties to even.
    fn round(x: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(x: f32) -> f32 {
        x
    }
}

/// A bf16 is the upper half of an f32. The `half` crate's conversions branch, which keeps loops from becoming vector code.
impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn round(x: f32) -> bf16 {
        let bits = x.to_bits();
        // Half a step of the upper half, less one where its last bit is even: the carry rounds.
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let bits = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
        bf16::from_bits((bits >> 16) as u16)
    }
}

/// The elements of a contiguous tensor on the CPU, read without a copy.
pub(crate) struct Values<'a, T> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    of: PhantomData<T>,
}

impl<T: Element> Deref for Values<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Storage::Cpu(storage) = &*self.storage else { unreachable!("values() checked the device") };
        &storage.as_slice::<T>().expect("values() checked the type")[self.range.clone()]
    }
}

/// `Some` when `t` has this element type, is contiguous and on the CPU: the case the fused bodies are written for.
pub(crate) fn values<T: Element>(t: &Tensor) -> Option<Values<'_, T>> {
    if t.dtype() != T::DTYPE || !t.device().is_cpu() {
        return None;
    }
    let (storage, layout) = t.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    matches!(&*storage, Storage::Cpu(_)).then_some(Values { storage, range: start..end, of: PhantomData })
}

/// [`values`] of an f32 tensor.
pub(crate) fn f32s(t: &Tensor) -> Option<Values<'_, f32>> {
    values(t)
}

/// Whether [`values`] reads `t` as f32 or bf16.
pub(crate) fn is_plain(t: &Tensor) -> bool {
    matches!(t.dtype(), DType::F32 | DType::BF16) && t.device().is_cpu() && t.is_contiguous()
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
pub(crate) fn for_blocks<T: Element>(out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    out.par_chunks_mut(GRAIN).enumerate().for_each(|(i, block)| vectorized(|| f(i * GRAIN, block)));
}

/// Room for values that no one has written yet: new memory, not filled with zeros that would be overwritten.
pub(crate) struct Blank<'a, T>(&'a mut [MaybeUninit<T>]);

/// The receipt for so many values written into [`Blank`]s. Two add up.
pub(crate) struct Filled(usize);

impl Add for Filled {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl<T: Copy> Blank<'_, T> {
    /// Writes `values` from the first place on.
    #[inline(always)]
    pub(crate) fn fill(self, values: impl Iterator<Item = T>) -> Filled {
        let mut filled = 0;
        for (place, value) in self.0.iter_mut().zip(values) {
            place.write(value);
            filled += 1;
        }
        Filled(filled)
    }

    /// Writes the first of every pair here and the second into `other`.
    #[inline(always)]
    pub(crate) fn fill_both(self, other: Self, values: impl Iterator<Item = (T, T)>) -> Filled {
        let mut filled = 0;
        for ((a, b), (x, y)) in self.0.iter_mut().zip(other.0).zip(values) {
            a.write(x);
            b.write(y);
            filled += 2;
        }
        Filled(filled)
    }

    /// Writes the parts of every triple into three places.
    #[inline(always)]
    pub(crate) fn fill_three([a, b, c]: [Self; 3], values: impl Iterator<Item = [T; 3]>) -> Filled {
        let mut filled = 0;
        for (((a, b), c), [x, y, z]) in a.0.iter_mut().zip(b.0).zip(c.0).zip(values) {
            a.write(x);
            b.write(y);
            c.write(z);
            filled += 3;
        }
        Filled(filled)
    }

    /// The first `n` places, and the others.
    #[inline(always)]
    pub(crate) fn split_at(&mut self, n: usize) -> (Blank<'_, T>, Blank<'_, T>) {
        let (a, b) = self.0.split_at_mut(n);
        (Blank(a), Blank(b))
    }
}

/// `[rows, width]` values out of `f(row, its place)`, in parallel, compiled for this CPU.
///
/// Panics when `f` leaves a place of its row blank.
pub(crate) fn rows<T: Element>(rows: usize, width: usize, f: impl Fn(usize, Blank<T>) -> Filled + Sync) -> Vec<T> {
    let mut out = Vec::with_capacity(rows * width);
    let per_task = (GRAIN / width.max(1)).max(1);
    let blank = &mut out.spare_capacity_mut()[..rows * width];
    blank.par_chunks_mut(per_task * width).enumerate().for_each(|(task, rows)| {
        vectorized(|| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                let Filled(n) = f(task * per_task + i, Blank(row));
                assert_eq!(n, width, "a row is not whole");
            }
        });
    });
    // SAFETY: there is a receipt for every row, so all rows·width elements are written.
    unsafe { out.set_len(rows * width) };
    out
}

/// As [`rows`], with two results of these widths.
pub(crate) fn rows2<A: Element, B: Element>(
    rows: usize,
    (width_a, width_b): (usize, usize),
    f: impl Fn(usize, Blank<A>, Blank<B>) -> Filled + Sync,
) -> (Vec<A>, Vec<B>) {
    let (mut a, mut b) = (Vec::with_capacity(rows * width_a), Vec::with_capacity(rows * width_b));
    let per_task = (GRAIN / width_a.max(width_b).max(1)).max(1);
    let blank_a = a.spare_capacity_mut()[..rows * width_a].par_chunks_mut(per_task * width_a);
    let blank_b = b.spare_capacity_mut()[..rows * width_b].par_chunks_mut(per_task * width_b);
    blank_a.zip(blank_b).enumerate().for_each(|(task, (a, b))| {
        vectorized(|| {
            for (i, (a, b)) in a.chunks_exact_mut(width_a).zip(b.chunks_exact_mut(width_b)).enumerate() {
                let Filled(n) = f(task * per_task + i, Blank(a), Blank(b));
                assert_eq!(n, width_a + width_b, "a row is not whole");
            }
        });
    });
    // SAFETY: there is a receipt for every row of both, so all their elements are written.
    unsafe {
        a.set_len(rows * width_a);
        b.set_len(rows * width_b);
    }
    (a, b)
}

/// As [`rows`], with three results.
pub(crate) fn rows3<T: Element>(
    rows: usize,
    width: usize,
    f: impl Fn(usize, [Blank<T>; 3]) -> Filled + Sync,
) -> [Vec<T>; 3] {
    let mut all = [(); 3].map(|()| Vec::with_capacity(rows * width));
    let per_task = (GRAIN / width.max(1)).max(1) * width;
    let [a, b, c] = all.each_mut().map(|v| v.spare_capacity_mut()[..rows * width].par_chunks_mut(per_task));
    a.zip(b).zip(c).enumerate().for_each(|(task, ((a, b), c))| {
        vectorized(|| {
            let parts = a.chunks_exact_mut(width).zip(b.chunks_exact_mut(width)).zip(c.chunks_exact_mut(width));
            for (i, ((a, b), c)) in parts.enumerate() {
                let Filled(n) = f(task * (per_task / width) + i, [Blank(a), Blank(b), Blank(c)]);
                assert_eq!(n, 3 * width, "a row is not whole");
            }
        });
    });
    // SAFETY: there is a receipt for every row of all three, so all their elements are written.
    all.iter_mut().for_each(|v| unsafe { v.set_len(rows * width) });
    all
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
pub(crate) fn dot<T: Element>(a: &[T], b: &[T]) -> f32 {
    sum3(a, b, b, |x, y, _| x * y)
}

/// Σ xᵢ over [`LANES`] fixed partial sums.
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    sum3(a, a, a, |x, _, _| x)
}

/// Σ term(aᵢ, bᵢ, cᵢ) over [`LANES`] fixed partial sums. The slices are equally long.
#[inline(always)]
pub(crate) fn sum3<T: Element>(a: &[T], b: &[T], c: &[T], term: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let [(a, a_tail), (b, b_tail), (c, c_tail)] = [a, b, c].map(|x| x.as_chunks::<LANES>());
    let mut acc = [0f32; LANES];
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            acc[i] += term(a[i].widen(), b[i].widen(), c[i].widen());
        }
    }
    let tail = a_tail.iter().zip(b_tail).zip(c_tail);
    fold(acc) + tail.map(|((a, b), c)| term(a.widen(), b.widen(), c.widen())).sum::<f32>()
}

/// Largest element; NaN only if every element is NaN (the sum that follows shows a NaN anyway).
#[inline(always)]
pub(crate) fn max<T: Element>(a: &[T]) -> f32 {
    let (chunks, tail) = a.as_chunks::<LANES>();
    let mut acc = [f32::NEG_INFINITY; LANES];
    for x in chunks {
        for i in 0..LANES {
            acc[i] = if x[i].widen() > acc[i] { x[i].widen() } else { acc[i] };
        }
    }
    tail.iter().map(|x| x.widen()).chain(acc).fold(f32::NEG_INFINITY, f32::max)
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
    fn bf16_is_rounded_as_the_half_crate_rounds() {
        let patterns =
            (0..=u32::MAX).step_by(9973).chain([0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7f80_0001, 0x3f80_8000]);
        for x in patterns.map(f32::from_bits) {
            let (got, want) = (<bf16 as Element>::round(x), bf16::from_f32(x));
            assert_eq!(got.to_bits(), want.to_bits(), "{x:e}");
            assert_eq!(Element::widen(got).to_bits(), want.to_f32().to_bits(), "{x:e}");
        }
    }

    #[test]
    fn rows_are_written_once_and_whole() {
        for (n, width) in [(0usize, 3usize), (1, 1), (7, 5), (3, 20_000), (9000, 3)] {
            let value = |t: usize, i: usize| (t * width + i) as f32;
            let want: Vec<f32> = (0..n * width).map(|i| i as f32).collect();
            assert_eq!(rows(n, width, |t, row| row.fill((0..width).map(|i| value(t, i)))), want);
            let (a, b) = rows2(n, (width, 1), |t, row: Blank<f32>, one: Blank<bf16>| {
                row.fill((0..width).map(|i| value(t, i))) + one.fill(std::iter::once(Element::round(t as f32)))
            });
            assert_eq!((a, b.len()), (want, n));
        }
        let short =
            std::panic::catch_unwind(|| rows(2, 3, |_, row: Blank<f32>| row.fill([1.0, 2.0].into_iter()))).is_err();
        assert!(short, "a place left blank");
    }

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
