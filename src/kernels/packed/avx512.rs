//! AVX512-BF16 (Cooper Lake, Sapphire Rapids, Zen 4 and later): sixteen sums of two products an instruction.

use super::{
    blocked::{AHEAD, Kernel, fetch_line, put_pairs},
    layout::{SIDE, Words},
};
use half::bf16;
use std::{arch::x86_64::*, hint::black_box};

/// The path; exists only where the CPU has the instructions.
pub(super) struct Avx512Bf16(());

/// Rows of a tile: with two vectors of columns 28 of the 32 registers hold sums.
const ROWS: usize = 14;

impl Avx512Bf16 {
    pub(super) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")).then_some(Self(()))
    }
}

impl Kernel for Avx512Bf16 {
    type Weight = bf16;
    type Word = u32;
    const VALUES: usize = 2;
    const ROWS: usize = ROWS;
    const STEP: usize = 2;
    const DEPTH: usize = 1024;
    const FETCHES: bool = true;

    #[inline(always)]
    fn put(tile: &mut [u32], row: usize, i: usize, values: &[u16; SIDE]) {
        put_pairs::<ROWS>(tile, row, i, values);
    }

    #[inline(always)]
    fn right<'a>(&self, pairs: &'a [u32], _: &'a mut Words) -> &'a [u32] {
        pairs
    }

    fn tile(&self, a: &[u32], b: &[u32], rows: usize, columns: usize, first: bool, c: &mut [f32]) {
        let steps = b.len() / SIDE;
        assert!(a.len() >= steps.next_multiple_of(16) * ROWS && c.len() >= ROWS * SIDE && (1..=ROWS).contains(&rows));
        let narrow = columns <= SIDE / 2;
        macro_rules! call {
            ($($rows:literal)*) => {
                match (rows, narrow) {
                    $(($rows, false) => tile::<$rows, 2>(a.as_ptr(), b.as_ptr(), steps, first, c.as_mut_ptr()),
                    ($rows, true) => tile::<$rows, 1>(a.as_ptr(), b.as_ptr(), steps, first, c.as_mut_ptr()),)*
                    _ => unreachable!("rows were checked"),
                }
            };
        }
        // SAFETY: `new` has seen the instructions, and the lengths were checked above.
        unsafe { call!(1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
    }
}

/// `ROWS` rows times `V` vectors of 16 columns.
///
/// # Safety
/// `a` has 14 words for every step, 16 of each row side by side; `b` has `steps·32` words, `c` 14·32 elements.
#[target_feature(enable = "avx512f,avx512bf16")]
#[expect(clippy::needless_range_loop, reason = "the same numbers index sums and addresses")]
unsafe fn tile<const M: usize, const V: usize>(a: *const u32, b: *const u32, steps: usize, first: bool, c: *mut f32) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    // SAFETY: the caller's promise about all three.
    unsafe {
        if !first {
            for m in 0..M {
                for v in 0..V {
                    sums[m][v] = _mm512_loadu_ps(c.add(m * SIDE + 16 * v));
                }
            }
        }
        for start in (0..steps).step_by(16) {
            let (lines, b) = (a.add(start * ROWS), b.add(start * SIDE));
            for step in 0..(steps - start).min(16) {
                let ahead = b.wrapping_add(step * SIDE + AHEAD);
                fetch_line(ahead);
                fetch_line(ahead.wrapping_add(16));
                let mut weights = [_mm512_setzero_si512(); V];
                for v in 0..V {
                    weights[v] = _mm512_loadu_si512(b.add(step * SIDE + 16 * v).cast());
                }
                for m in 0..M {
                    let x = bf16s(_mm512_set1_epi32(*lines.add(m * 16 + step) as i32));
                    for v in 0..V {
                        sums[m][v] = _mm512_dpbf16_ps(sums[m][v], x, bf16s(weights[v]));
                    }
                }
            }
        }
        for m in 0..M {
            for v in 0..V {
                _mm512_storeu_ps(c.add(m * SIDE + 16 * v), sums[m][v]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16s(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without a forbidden pattern.
    unsafe { std::mem::transmute(words) }
}

/// [`super::layout::turn_pairs`] in registers: four transpositions of 8x8 corners.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn turn_pairs(block: &[u32], out: &mut [u32]) {
    assert!(block.len() >= 16 * SIDE && out.len() >= 16 * SIDE);
    // In every corner the two middle values change places.
    let swap = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    for i in (0..16).step_by(8) {
        for j in (0..16).step_by(8) {
            let mut r = [_mm512_setzero_si512(); 8];
            for (k, r) in r.iter_mut().enumerate() {
                // SAFETY: row i + k, corners j..j + 8 of the 16x16 that the assertion covers.
                let row = unsafe { _mm512_loadu_si512(block.as_ptr().add((i + k) * SIDE + 2 * j).cast()) };
                *r = _mm512_shuffle_epi8(row, swap);
            }
            let t = transposed_8x8(r);
            for (k, t) in t.into_iter().enumerate() {
                // SAFETY: row j + k, corners i..i + 8.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().add((j + k) * SIDE + 2 * i).cast(), t) };
            }
        }
    }
}

/// [`super::layout::turn_words`] in registers: four quarters of 8x8 corners of 2x2 words.
#[target_feature(enable = "avx512f")]
pub(super) fn turn_words(block: &[u32], out: &mut [u32]) {
    assert!(block.len() >= SIDE * SIDE && out.len() >= SIDE * SIDE);
    const ODD: u16 = 0xaaaa;
    for i in (0..SIDE).step_by(16) {
        for j in (0..SIDE).step_by(16) {
            let (mut even, mut odd) = ([_mm512_setzero_si512(); 8], [_mm512_setzero_si512(); 8]);
            for k in 0..8 {
                // SAFETY: rows i + 2k and the next, columns j..j + 16 of the 32x32 that the assertion covers.
                let [upper, lower] =
                    [0, 1].map(|n| unsafe { _mm512_loadu_ps(block.as_ptr().add((i + 2 * k + n) * SIDE + j).cast()) });
                // The corner's columns become its rows.
                even[k] = _mm512_castps_si512(_mm512_mask_moveldup_ps(upper, ODD, lower));
                odd[k] = _mm512_castps_si512(_mm512_mask_blend_ps(ODD, _mm512_movehdup_ps(upper), lower));
            }
            for (n, columns) in [even, odd].into_iter().enumerate() {
                for (k, column) in transposed_8x8(columns).into_iter().enumerate() {
                    // SAFETY: row j + 2k + n, columns i..i + 16.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().add((j + 2 * k + n) * SIDE + i).cast(), column) };
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn transposed_8x8(r: [__m512i; 8]) -> [__m512i; 8] {
    // Rows 2n and 2n+1: elements 0 2 4 6 and 1 3 5 7 of both in turn.
    let mut pairs = r;
    for n in 0..4 {
        pairs[2 * n] = _mm512_unpacklo_epi64(r[2 * n], r[2 * n + 1]);
        pairs[2 * n + 1] = _mm512_unpackhi_epi64(r[2 * n], r[2 * n + 1]);
    }
    // 128-bit parts of two rows' pairs, then of four.
    let mut fours = pairs;
    for n in 0..2 {
        for odd in 0..2 {
            let (upper, lower) = (pairs[4 * n + odd], pairs[4 * n + 2 + odd]);
            fours[4 * n + odd] = _mm512_shuffle_i64x2::<0b10_00_10_00>(upper, lower);
            fours[4 * n + 2 + odd] = _mm512_shuffle_i64x2::<0b11_01_11_01>(upper, lower);
        }
    }
    let mut out = fours;
    for odd in 0..2 {
        for half in 0..2 {
            let (upper, lower) = (fours[2 * half + odd], fours[4 + 2 * half + odd]);
            out[2 * half + odd] = _mm512_shuffle_i64x2::<0b10_00_10_00>(upper, lower);
            out[4 + 2 * half + odd] = _mm512_shuffle_i64x2::<0b11_01_11_01>(upper, lower);
        }
    }
    out
}

/// Multiplies registers `times` times; the FLOP that were. For measuring what the CPU can do.
pub(super) fn busy(times: u64) -> u64 {
    assert!(Avx512Bf16::new().is_some());
    // SAFETY: the instructions are there.
    black_box(unsafe { on_registers(times) });
    times * (12 * 16 * 4)
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn on_registers(times: u64) -> f32 {
    let (mut sums, x) = ([_mm512_setzero_ps(); 12], bf16s(_mm512_set1_epi32(black_box(0x3f80_3f80))));
    for _ in 0..times {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, x, x);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}
