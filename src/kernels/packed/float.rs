//! f32 multiply-adds on bf16 weights that are widened exactly, a bf16 being the upper half of an f32: AVX2 or NEON
//! through pulp, or plain code.
//!
//! A sum is one chain of multiply-adds over the depth in both kernels here, so that both give the same bits.

use super::{
    blocked::{AHEAD, Kernel, Left, fetch_line, widened},
    layout::{SIDE, Words, transposed},
};
use crate::kernels::matrix::Matrix;
use pulp::{Arch, Scalar, Simd, WithSimd};

/// Which vectors.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Vectors {
    /// The widest pulp knows on this CPU.
    Widest,
    /// None.
    Plain,
}

impl Vectors {
    #[inline(always)]
    fn dispatch<W: WithSimd>(self, work: W) -> W::Output {
        match self {
            Vectors::Widest => Arch::new().dispatch(work),
            Vectors::Plain => work.with_simd(Scalar),
        }
    }
}

/// For many rows: a block of weights is widened once and used for all of them.
pub(super) struct Float(pub(super) Vectors);

/// For few rows, in f32: weights are widened in registers, every one read once.
pub(super) struct FloatFew(pub(super) Vectors);

/// Rows and columns of a tile of [`Float`]: with 8 lanes 12 of the 16 registers hold sums.
const ROWS: usize = 6;
const HALF: usize = SIDE / 2;

/// Rows of a tile of [`FloatFew`].
pub(super) const FEW: usize = 3;

impl Kernel for Float {
    type Word = f32;
    const VALUES: usize = 1;
    const ROWS: usize = ROWS;
    const STEP: usize = 2;
    const DEPTH: usize = 128;
    const FETCHES: bool = false;

    #[inline(always)]
    fn put(tile: &mut [f32], row: usize, i: usize, values: &[u16; SIDE]) {
        for (j, x) in values.iter().enumerate() {
            tile[(i * SIDE + j) * ROWS + row] = widened(*x);
        }
    }

    fn run(&self, task: impl FnOnce()) {
        task();
    }

    /// Two halves of 16 columns, each `[depth][16]`.
    fn right<'a>(&self, pairs: &'a [u32], scratch: &'a mut Words) -> &'a [f32] {
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch.at_least(2 * pairs.len()));
        self.0.dispatch(Widen { pairs, out: &mut *scratch });
        scratch
    }

    fn tile(&self, a: &[f32], b: &[f32], rows: usize, columns: usize, first: bool, c: &mut [f32]) {
        for (half, b) in b.chunks_exact(b.len() / 2).enumerate().take(columns.div_ceil(HALF)) {
            let c = &mut c[half * HALF..];
            match rows {
                1 => self.0.dispatch(Tile::<1> { a, b, first, c }),
                2 => self.0.dispatch(Tile::<2> { a, b, first, c }),
                3 => self.0.dispatch(Tile::<3> { a, b, first, c }),
                4 => self.0.dispatch(Tile::<4> { a, b, first, c }),
                5 => self.0.dispatch(Tile::<5> { a, b, first, c }),
                _ => self.0.dispatch(Tile::<ROWS> { a, b, first, c }),
            }
        }
    }

    fn transposed(&self, block: &[u32], out: &mut [u32]) {
        self.0.dispatch(Transposed { block, out });
    }
}

struct Transposed<'a> {
    block: &'a [u32],
    out: &'a mut [u32],
}

impl WithSimd for Transposed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        transposed(self.block, self.out);
    }
}

/// Pairs `[depth/2][32]` → two halves of 16 columns, each `[depth][16]`.
struct Widen<'a> {
    pairs: &'a [u32],
    out: &'a mut [f32],
}

impl WithSimd for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (left, right) = self.out.split_at_mut(self.pairs.len());
        for (half, out) in [left, right].into_iter().enumerate() {
            for (pairs, out) in self.pairs.chunks_exact(SIDE).zip(out.chunks_exact_mut(SIDE)) {
                let (first, second) = out.split_at_mut(HALF);
                let (first, second) = (S::as_mut_simd_f32s(first).0, S::as_mut_simd_f32s(second).0);
                let pairs = S::as_simd_u32s(&pairs[half * HALF..][..HALF]).0;
                for ((pairs, first), second) in pairs.iter().zip(first).zip(second) {
                    [*first, *second] = widened_pairs(simd, *pairs);
                }
            }
        }
    }
}

/// The first and the second values of pairs.
#[inline(always)]
fn widened_pairs<S: Simd>(simd: S, pairs: S::u32s) -> [S::f32s; 2] {
    let first = simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16));
    let second = simd.and_u32s(pairs, simd.splat_u32s(UPPER));
    [simd.transmute_f32s_u32s(first), simd.transmute_f32s_u32s(second)]
}

/// `M` rows times sixteen columns.
struct Tile<'a, const M: usize> {
    a: &'a [f32],     // [depth][6]
    b: &'a [f32],     // [depth][16]
    c: &'a mut [f32], // [6][32]
    first: bool,
}

impl<const M: usize> WithSimd for Tile<'_, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // What the lanes make of 16 columns is known when this is compiled.
        match HALF / S::F32_LANES {
            1 => self.run::<S, 1>(simd),
            2 => self.run::<S, 2>(simd),
            4 => self.run::<S, 4>(simd),
            _ => self.run::<S, 16>(simd),
        }
    }
}

impl<const M: usize> Tile<'_, M> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        if !self.first {
            for (sums, c) in sums.iter_mut().zip(self.c.chunks(SIDE)) {
                sums.copy_from_slice(&S::as_simd_f32s(&c[..HALF]).0[..V]);
            }
        }
        let (rows, columns) = (self.a.as_chunks::<ROWS>().0, S::as_simd_f32s(self.b).0.as_chunks::<V>().0);
        for (x, weights) in rows.iter().zip(columns) {
            for m in 0..M {
                let x = simd.splat_f32s(x[m]);
                for v in 0..V {
                    sums[m][v] = simd.mul_add_e_f32s(weights[v], x, sums[m][v]);
                }
            }
        }
        for (sums, c) in sums.iter().zip(self.c.chunks_mut(SIDE)) {
            S::as_mut_simd_f32s(&mut c[..HALF]).0[..V].copy_from_slice(sums);
        }
    }
}

impl Kernel for FloatFew {
    type Word = f32;
    const VALUES: usize = 1;
    const ROWS: usize = FEW;
    const STEP: usize = 2;
    const DEPTH: usize = 256;
    const FETCHES: bool = true;

    #[inline(always)]
    fn put(tile: &mut [f32], row: usize, i: usize, values: &[u16; SIDE]) {
        for (j, x) in values.iter().enumerate() {
            tile[(i * SIDE + j) * FEW + row] = widened(*x);
        }
    }

    fn run(&self, task: impl FnOnce()) {
        task();
    }

    fn right<'a>(&self, pairs: &'a [u32], _: &'a mut Words) -> &'a [f32] {
        bytemuck::cast_slice(pairs)
    }

    fn tile(&self, a: &[f32], b: &[f32], rows: usize, _: usize, first: bool, c: &mut [f32]) {
        let b = bytemuck::cast_slice(b);
        match rows {
            1 => self.0.dispatch(FewTile::<1> { a, b, first, c }),
            2 => self.0.dispatch(FewTile::<2> { a, b, first, c }),
            _ => self.0.dispatch(FewTile::<3> { a, b, first, c }),
        }
    }

    fn transposed(&self, block: &[u32], out: &mut [u32]) {
        self.0.dispatch(Transposed { block, out });
    }
}

/// `M` rows times 32 columns.
struct FewTile<'a, const M: usize> {
    a: &'a [f32],     // [depth][3]
    b: &'a [u32],     // [depth/2][32]
    c: &'a mut [f32], // [3][32]
    first: bool,
}

const UPPER: u32 = 0xffff_0000;

impl<const M: usize> WithSimd for FewTile<'_, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match SIDE / S::F32_LANES {
            2 => self.run::<S, 2>(simd),
            4 => self.run::<S, 4>(simd),
            8 => self.run::<S, 8>(simd),
            _ => self.run::<S, 32>(simd),
        }
    }
}

impl<const M: usize> FewTile<'_, M> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        if !self.first {
            for (sums, c) in sums.iter_mut().zip(self.c.chunks(SIDE)) {
                sums.copy_from_slice(&S::as_simd_f32s(c).0[..V]);
            }
        }
        let (rows, columns) = (self.a.as_chunks::<{ 2 * FEW }>().0, S::as_simd_u32s(self.b).0.as_chunks::<V>().0);
        for (x, words) in rows.iter().zip(columns) {
            let ahead = std::ptr::from_ref(words).cast::<u32>().wrapping_add(AHEAD);
            fetch_line(ahead);
            fetch_line(ahead.wrapping_add(16));
            for v in 0..V {
                let [first, second] = widened_pairs(simd, words[v]);
                for m in 0..M {
                    let sum = simd.mul_add_e_f32s(first, simd.splat_f32s(x[m]), sums[m][v]);
                    sums[m][v] = simd.mul_add_e_f32s(second, simd.splat_f32s(x[FEW + m]), sum);
                }
            }
        }
        for (sums, c) in sums.iter().zip(self.c.chunks_mut(SIDE)) {
            S::as_mut_simd_f32s(c).0[..V].copy_from_slice(sums);
        }
    }
}

/// `A` of f32 values in tiles of `K`.
pub(super) fn left<K: Kernel<Word = f32>>(a: &Matrix<f32>) -> Left<K> {
    let depth = a.columns;
    Left::new(a.rows, depth, |tile, place, row| {
        for i in 0..depth.next_multiple_of(SIDE) {
            tile[i * K::ROWS + place] = a.get(row, i);
        }
    })
}
