//! What a path could do at most: its multiply instruction on registers alone, and nothing else.

use super::ProductPath;
use pulp::{Arch, Scalar, Simd, WithSimd};
use std::{hint::black_box, time::Instant};

/// Sums that are independent of one another: enough to hide the latency of one, which with NEON is up to four cycles of up
/// to four instructions. AVX2 has sixteen registers in all.
const SUMS: usize = if cfg!(target_arch = "aarch64") { 16 } else { 12 };

/// FLOP per second of `path` on all threads of the pool together, measured for a tenth of a second.
pub fn peak(path: ProductPath) -> f64 {
    rayon::broadcast(|_| of_one_thread(path)).into_iter().sum()
}

fn of_one_thread(path: ProductPath) -> f64 {
    let (mut best, began) = (0f64, Instant::now());
    while began.elapsed().as_millis() < 100 {
        let began = Instant::now();
        let flop = match path {
            #[cfg(target_arch = "x86_64")]
            ProductPath::Amx => super::amx::busy(100_000),
            #[cfg(target_arch = "x86_64")]
            ProductPath::Avx512Bf16 => super::avx512::busy(100_000),
            #[cfg(not(target_arch = "x86_64"))]
            ProductPath::Amx | ProductPath::Avx512Bf16 => 0,
            ProductPath::F32 => Arch::new().dispatch(Busy),
            ProductPath::Plain => Busy.with_simd(Scalar),
        };
        best = best.max(flop as f64 / began.elapsed().as_secs_f64());
    }
    best
}

/// Multiply-adds of f32 vectors.
struct Busy;

impl WithSimd for Busy {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        const TIMES: u64 = 100_000;
        let (mut sums, x) = ([simd.splat_f32s(0.0); SUMS], simd.splat_f32s(black_box(0.5)));
        for _ in 0..TIMES {
            for sum in &mut sums {
                // Into the addend, which NEON's instruction overwrites: a sum in another place would be copied first.
                *sum = simd.mul_add_e_f32s(x, x, *sum);
            }
        }
        let total = sums.into_iter().fold(simd.splat_f32s(0.0), |total, sum| simd.add_f32s(total, sum));
        black_box(simd.reduce_sum_f32s(total));
        TIMES * (SUMS * S::F32_LANES * 2) as u64
    }
}
