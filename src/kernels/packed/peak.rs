//! What a path could do at most: its multiply instruction on registers alone, and nothing else.

use super::ProductPath;
use pulp::{Arch, Scalar, Simd, WithSimd};
use std::{
    hint::black_box,
    sync::{Barrier, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Sums that are independent of one another: enough to hide the latency of one, which with NEON is up to four cycles of up
/// to four instructions. AVX2 has sixteen registers in all.
const SUMS: usize = if cfg!(target_arch = "aarch64") { 16 } else { 12 };

/// Instructions a sum between two looks at the clock: 20 to 100 µs.
const BURST: u64 = 10_000;

/// FLOP per second of `path` on all threads of the pool at the same time, over `window`.
///
/// Not the sum of each thread's best moment: two threads may be one core's, which then have the rate of one.
pub fn peak(path: ProductPath, window: Duration) -> f64 {
    // Two at once would wait for threads that the other holds.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let together = Barrier::new(rayon::current_num_threads());
    let rate = |_: rayon::BroadcastContext| {
        together.wait();
        let (mut flop, began) = (0, Instant::now());
        while began.elapsed() < window {
            flop += busy(path);
        }
        flop as f64 / began.elapsed().as_secs_f64()
    };
    rayon::broadcast(rate).into_iter().sum()
}

/// The fastest of `paths` on this thread: the best of some bursts each, taken in turn, so that all meet the same moments.
/// A millisecond or two.
pub(super) fn fastest(paths: &[ProductPath]) -> Option<ProductPath> {
    if let [only] = paths {
        return Some(*only);
    }
    let mut best = vec![0f64; paths.len()];
    for _ in 0..8 {
        for (best, path) in best.iter_mut().zip(paths) {
            let began = Instant::now();
            *best = best.max(busy(*path) as f64 / began.elapsed().as_secs_f64());
        }
    }
    let all = paths.iter().copied().zip(best);
    all.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(path, _)| path)
}

/// A burst of `path`; the FLOP that were.
fn busy(path: ProductPath) -> u64 {
    match path {
        #[cfg(target_arch = "x86_64")]
        ProductPath::Amx => super::amx::busy(BURST),
        #[cfg(target_arch = "x86_64")]
        ProductPath::Avx512Bf16 => super::avx512::busy(BURST),
        #[cfg(not(target_arch = "x86_64"))]
        ProductPath::Amx | ProductPath::Avx512Bf16 => unreachable!("only paths that are there are asked for"),
        ProductPath::F32 => Arch::new().dispatch(Busy),
        ProductPath::Plain => Busy.with_simd(Scalar),
    }
}

/// Multiply-adds of f32 vectors.
struct Busy;

impl WithSimd for Busy {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        let (mut sums, x) = ([simd.splat_f32s(0.0); SUMS], simd.splat_f32s(black_box(0.5)));
        for _ in 0..BURST {
            for sum in &mut sums {
                // Into the addend, which NEON's instruction overwrites: a sum in another place would be copied first.
                *sum = simd.mul_add_e_f32s(x, x, *sum);
            }
        }
        let total = sums.into_iter().fold(simd.splat_f32s(0.0), |total, sum| simd.add_f32s(total, sum));
        black_box(simd.reduce_sum_f32s(total));
        BURST * (SUMS * S::F32_LANES * 2) as u64
    }
}
