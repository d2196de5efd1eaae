//! f32 multiply-adds on the widest vectors pulp knows (AVX-512, AVX2, NEON), or plain code. bf16 weights are widened
//! exactly, a bf16 being the upper half of an f32.
//!
//! A sum is one chain of multiply-adds over a block of the depth, and the blocks' sums are added up one after the other.
//! All kernels here have the same blocks, so that they give the same bits.

use super::{
    blocked::{AHEAD, Kernel, Left, fetch_line, widened},
    layout::{SIDE, Words},
};
use crate::kernels::matrix::Matrix;
use half::bf16;
use pulp::{Arch, Scalar, Simd, WithSimd};
use std::marker::PhantomData;

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

/// For any number of rows of f32 weights, and for many of bf16: a block is widened once and used for all of them.
pub(super) struct Float<T>(pub(super) Vectors, PhantomData<T>);

impl<T> Float<T> {
    pub(super) fn new(vectors: Vectors) -> Self {
        Self(vectors, PhantomData)
    }
}

/// For few rows, in f32, of bf16 weights: they are widened in registers, every one read once.
pub(super) struct FloatFew(pub(super) Vectors);

/// Rows of a tile of [`Float`]: with AVX-512 24 of the 32 registers hold sums. Others take it in four parts.
const ROWS: usize = 12;

/// Rows of a tile of [`FloatFew`]: with NEON three rows of 32 sums and what they are made of are more than its 32 registers.
pub(super) const FEW: usize = if cfg!(target_arch = "aarch64") { 2 } else { 3 };

/// Values of the depth in a block: 32 columns of it are half of the nearest cache.
const DEPTH: usize = 128;

/// A row's 32 values of a tile.
type Line = [f32; SIDE];

/// Blocks of 32 values of the depth become a tile's lines, its rows one after the other.
#[inline(always)]
fn line<const ROWS: usize>(tile: &mut [f32], row: usize, i: usize) -> &mut Line {
    &mut tile.as_chunks_mut().0[i * ROWS + row]
}

impl Kernel for Float<bf16> {
    type Weight = bf16;
    type Word = f32;
    const VALUES: usize = 1;
    const ROWS: usize = ROWS;
    const STEP: usize = 2;
    const DEPTH: usize = DEPTH;
    const FETCHES: bool = false;

    #[inline(always)]
    fn put(tile: &mut [f32], row: usize, i: usize, values: &[u16; SIDE]) {
        line::<ROWS>(tile, row, i).iter_mut().zip(values).for_each(|(x, value)| *x = widened(*value));
    }

    fn right<'a>(&self, pairs: &'a [u32], scratch: &'a mut Words) -> &'a [f32] {
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch.at_least(2 * pairs.len()));
        self.0.dispatch(Widen { pairs, out: &mut *scratch });
        scratch
    }

    fn tile(&self, a: &[f32], b: &[f32], rows: usize, columns: usize, first: bool, c: &mut [f32]) {
        self.0.dispatch(Tile::<false> { a, b, rows, columns, first, c });
    }
}

impl Kernel for Float<f32> {
    type Weight = f32;
    type Word = f32;
    const VALUES: usize = 1;
    const ROWS: usize = ROWS;
    const STEP: usize = 1;
    const DEPTH: usize = DEPTH;
    const FETCHES: bool = true;

    #[inline(always)]
    fn put(tile: &mut [f32], row: usize, i: usize, values: &Line) {
        *line::<ROWS>(tile, row, i) = *values;
    }

    fn right<'a>(&self, words: &'a [u32], _: &'a mut Words) -> &'a [f32] {
        bytemuck::cast_slice(words)
    }

    fn tile(&self, a: &[f32], b: &[f32], rows: usize, columns: usize, first: bool, c: &mut [f32]) {
        self.0.dispatch(Tile::<true> { a, b, rows, columns, first, c });
    }
}

/// Pairs `[depth/2][32]` → `[depth][32]`.
struct Widen<'a> {
    pairs: &'a [u32],
    out: &'a mut [f32],
}

impl WithSimd for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (pairs, out) in self.pairs.chunks_exact(SIDE).zip(self.out.chunks_exact_mut(2 * SIDE)) {
            let (first, second) = out.split_at_mut(SIDE);
            let (first, second) = (S::as_mut_simd_f32s(first).0, S::as_mut_simd_f32s(second).0);
            for ((pairs, first), second) in S::as_simd_u32s(pairs).0.iter().zip(first).zip(second) {
                [*first, *second] = widened_pairs(simd, *pairs);
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

/// Up to twelve rows times up to 32 columns.
struct Tile<'a, const FETCHES: bool> {
    a: &'a [f32],     // [depth/32][12][32]
    b: &'a [f32],     // [depth][32]
    c: &'a mut [f32], // [12][32]
    rows: usize,
    columns: usize,
    first: bool,
}

impl<const FETCHES: bool> WithSimd for Tile<'_, FETCHES> {
    type Output = ();

    /// What the lanes make of 32 columns is known when this is compiled.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match SIDE / S::F32_LANES {
            2 => self.in_512_bits::<S>(simd),
            4 => self.in_parts::<S, 4, 2>(simd),
            8 => self.in_parts::<S, 8, 4>(simd),
            _ => self.in_parts::<S, 32, 16>(simd),
        }
    }
}

impl<const FETCHES: bool> Tile<'_, FETCHES> {
    #[inline(always)]
    fn in_512_bits<S: Simd>(mut self, simd: S) {
        let narrow = self.columns <= SIDE / 2;
        macro_rules! call {
            ($($rows:literal)*) => {
                match (self.rows, narrow) {
                    $(($rows, false) => self.part::<S, $rows, 2, 2>(simd, 0, 0),
                    ($rows, true) => self.part::<S, $rows, 2, 1>(simd, 0, 0),)*
                    _ => unreachable!("a tile has at most twelve rows"),
                }
            };
        }
        call!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// Halves of the columns and of the rows: twelve registers of sums with AVX2, 24 with NEON.
    #[inline(always)]
    fn in_parts<S: Simd, const LINE: usize, const V: usize>(mut self, simd: S) {
        for column in (0..self.columns.min(SIDE)).step_by(SIDE / 2) {
            let vector = column / S::F32_LANES;
            for row in (0..self.rows).step_by(ROWS / 2) {
                match self.rows - row {
                    1 => self.part::<S, 1, LINE, V>(simd, row, vector),
                    2 => self.part::<S, 2, LINE, V>(simd, row, vector),
                    3 => self.part::<S, 3, LINE, V>(simd, row, vector),
                    4 => self.part::<S, 4, LINE, V>(simd, row, vector),
                    5 => self.part::<S, 5, LINE, V>(simd, row, vector),
                    _ => self.part::<S, { ROWS / 2 }, LINE, V>(simd, row, vector),
                }
            }
        }
    }

    /// `M` rows from `row` on times `V` vectors of columns from `vector` on; a line of 32 has `LINE`.
    #[inline(always)]
    fn part<S: Simd, const M: usize, const LINE: usize, const V: usize>(&mut self, simd: S, row: usize, vector: usize) {
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        let lines = S::as_simd_f32s(self.b).0.as_chunks::<LINE>().0;
        let tile = self.a.as_chunks::<SIDE>().0.as_chunks::<ROWS>().0;
        let (blocks, rest) = lines.as_chunks::<SIDE>();
        for (x, lines) in tile.iter().zip(blocks) {
            let x: &[Line; M] = x[row..].first_chunk().expect("rows of the tile");
            for (step, line) in lines.iter().enumerate() {
                if FETCHES {
                    let ahead = std::ptr::from_ref(line).cast::<u32>().wrapping_add(AHEAD);
                    fetch_line(ahead);
                    fetch_line(ahead.wrapping_add(16));
                }
                add_products(simd, x, step, line, vector, &mut sums);
            }
        }
        if let Some(x) = tile.get(blocks.len()) {
            let x: &[Line; M] = x[row..].first_chunk().expect("rows of the tile");
            for (step, line) in rest.iter().enumerate() {
                add_products(simd, x, step, line, vector, &mut sums);
            }
        }
        let c = S::as_mut_simd_f32s(self.c).0.as_chunks_mut::<LINE>().0;
        for (sums, c) in sums.iter().zip(&mut c[row..]) {
            for (sum, c) in sums.iter().zip(&mut c[vector..]) {
                *c = if self.first { *sum } else { simd.add_f32s(*c, *sum) };
            }
        }
    }
}

/// `M` rows of the tile at one place of the depth times `V` vectors of its line.
#[inline(always)]
fn add_products<S: Simd, const M: usize, const LINE: usize, const V: usize>(
    simd: S,
    x: &[Line; M],
    step: usize,
    line: &[S::f32s; LINE],
    vector: usize,
    sums: &mut [[S::f32s; V]; M],
) {
    let weights: &[S::f32s; V] = line[vector..].first_chunk().expect("columns of the tile");
    for m in 0..M {
        let x = simd.splat_f32s(x[m][step]);
        for v in 0..V {
            sums[m][v] = simd.mul_add_e_f32s(weights[v], x, sums[m][v]);
        }
    }
}

impl Kernel for FloatFew {
    type Weight = bf16;
    type Word = f32;
    const VALUES: usize = 1;
    const ROWS: usize = FEW;
    const STEP: usize = 2;
    const DEPTH: usize = DEPTH;
    const FETCHES: bool = true;

    #[inline(always)]
    fn put(tile: &mut [f32], row: usize, i: usize, values: &[u16; SIDE]) {
        line::<FEW>(tile, row, i).iter_mut().zip(values).for_each(|(x, value)| *x = widened(*value));
    }

    fn right<'a>(&self, pairs: &'a [u32], _: &'a mut Words) -> &'a [f32] {
        bytemuck::cast_slice(pairs)
    }

    fn tile(&self, a: &[f32], b: &[f32], rows: usize, _: usize, first: bool, c: &mut [f32]) {
        let b = bytemuck::cast_slice(b);
        match rows {
            1 => self.0.dispatch(FewTile::<1> { a, b, first, c }),
            2 => self.0.dispatch(FewTile::<2> { a, b, first, c }),
            _ => self.0.dispatch(FewTile::<FEW> { a, b, first, c }),
        }
    }
}

/// `M` rows times 32 columns.
struct FewTile<'a, const M: usize> {
    a: &'a [f32],     // [depth/32][FEW][32]
    b: &'a [u32],     // [depth/2][32]
    c: &'a mut [f32], // [FEW][32]
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
        let lines = S::as_simd_u32s(self.b).0.as_chunks::<V>().0;
        let tile = self.a.as_chunks::<SIDE>().0.as_chunks::<FEW>().0;
        for (x, lines) in tile.iter().zip(lines.chunks(SIDE / 2)) {
            for (step, words) in lines.iter().enumerate().take(SIDE / 2) {
                let ahead = std::ptr::from_ref(words).cast::<u32>().wrapping_add(AHEAD);
                fetch_line(ahead);
                fetch_line(ahead.wrapping_add(16));
                for v in 0..V {
                    let [first, second] = widened_pairs(simd, words[v]);
                    for m in 0..M {
                        let sum = simd.mul_add_e_f32s(first, simd.splat_f32s(x[m][2 * step]), sums[m][v]);
                        sums[m][v] = simd.mul_add_e_f32s(second, simd.splat_f32s(x[m][2 * step + 1]), sum);
                    }
                }
            }
        }
        for (sums, c) in sums.iter().zip(self.c.chunks_mut(SIDE)) {
            for (sum, c) in sums.iter().zip(S::as_mut_simd_f32s(c).0) {
                *c = if self.first { *sum } else { simd.add_f32s(*c, *sum) };
            }
        }
    }
}

/// `A` of f32 values, whatever `B` is.
pub(super) fn left<K: Kernel<Word = f32>>(a: &Matrix<f32>) -> Left<K> {
    Left::of(a, |tile, row, i, values| tile.as_chunks_mut().0[i * K::ROWS + row] = *values)
}
