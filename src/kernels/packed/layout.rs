//! A frozen matrix as it lies in memory: panels of 32 outputs, in which the inputs stand one after the other.
//!
//! `W` `[out, in]` in f32 is stored as `[out/32][in][32]`, in bf16 as `[out/32][in/2][32][2]`, both sizes padded with zeros
//! to multiples of 32. A word of bf16 is the pair `W[o][2i], W[o][2i+1]`: what one instruction of a matrix unit multiplies
//! with the pair `x[2i], x[2i+1]`. For `dy·W` rows have to run along `out`; 32x32 blocks are turned around on the way.

use crate::{
    error::{Error, Result},
    kernels::{
        cpu::{self, Element, vectorized},
        matrix::Matrix,
    },
};
use bytemuck::{Pod, Zeroable};
use candle_core::{Tensor, bail};
use half::bf16;
use rayon::prelude::*;
use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
    sync::Arc,
};

/// Columns of a panel, and the side of a block.
pub(super) const SIDE: usize = 32;

/// What a packed matrix holds: bf16, two to a word, or f32.
pub trait Packable: Element + Pod {
    /// Values in a word.
    const PER_WORD: usize;
    /// Words of a block of 32x32 values.
    const BLOCK: usize = SIDE * SIDE / Self::PER_WORD;
    /// What kernels read them as.
    type Bits: Pod + Default + Send + Sync;

    /// The values of a word, the first `values.len()` of them.
    fn take(word: u32, values: &mut [Self]);

    /// Rows `start..` of some columns of `b` as `out`, `[depth/PER_WORD][32]`; zeros beyond the edges of `b`.
    fn lay(b: &Matrix<Self::Bits>, start: usize, columns: Range<usize>, out: &mut [u32]);

    /// A block `[32 inputs][32 outputs]` turned around: `[32 outputs][32 inputs]`, in words.
    fn turn(block: &[u32], out: &mut [u32]);
}

impl Packable for bf16 {
    const PER_WORD: usize = 2;
    type Bits = u16;

    #[inline(always)]
    fn take(word: u32, values: &mut [bf16]) {
        let both = [word as u16, (word >> 16) as u16];
        values.iter_mut().zip(both).for_each(|(value, bits)| *value = bf16::from_bits(bits));
    }

    #[inline(always)]
    fn lay(b: &Matrix<u16>, start: usize, columns: Range<usize>, out: &mut [u32]) {
        for (i, line) in out.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
            let row = start + 2 * i;
            if b.column_stride == 1 && row + 1 < b.rows && columns.len() == SIDE {
                let first = &b.values[row * b.row_stride + columns.start..][..SIDE];
                let second = &b.values[(row + 1) * b.row_stride + columns.start..][..SIDE];
                for j in 0..SIDE {
                    line[j] = word(first[j], second[j]);
                }
            } else {
                *line = [0; SIDE];
                for (line, column) in line.iter_mut().zip(columns.clone()) {
                    *line = word(b.get(row, column), b.get(row + 1, column));
                }
            }
        }
    }

    fn turn(block: &[u32], out: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bw") {
            // SAFETY: the instructions are there.
            return unsafe { super::avx512::turn_pairs(block, out) };
        }
        vectorized(|| turn_pairs(block, out));
    }
}

impl Packable for f32 {
    const PER_WORD: usize = 1;
    type Bits = f32;

    #[inline(always)]
    fn take(word: u32, values: &mut [f32]) {
        values[0] = f32::from_bits(word);
    }

    #[inline(always)]
    fn lay(b: &Matrix<f32>, start: usize, columns: Range<usize>, out: &mut [u32]) {
        let out: &mut [f32] = bytemuck::cast_slice_mut(out);
        for (i, line) in out.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
            let row = start + i;
            if b.column_stride == 1 && row < b.rows && columns.len() == SIDE {
                line.copy_from_slice(&b.values[row * b.row_stride + columns.start..][..SIDE]);
            } else {
                *line = [0.0; SIDE];
                line.iter_mut().zip(columns.clone()).for_each(|(value, column)| *value = b.get(row, column));
            }
        }
    }

    fn turn(block: &[u32], out: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the instructions are there.
            return unsafe { super::avx512::turn_words(block, out) };
        }
        vectorized(|| turn_words(block, out));
    }
}

/// A cache line of words: what every vector and tile load begins on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
struct Line([u32; 16]);

// SAFETY: sixteen integers fill the 64 bytes, so there is no padding, and every pattern of bits is a value.
unsafe impl Zeroable for Line {}
// SAFETY: as above.
unsafe impl Pod for Line {}

/// Words that begin on a cache line.
#[derive(Default, Debug, PartialEq)]
pub(super) struct Words(Vec<Line>);

impl Words {
    pub(super) fn zeroed(len: usize) -> Self {
        Self(vec![Line::zeroed(); len.div_ceil(16)])
    }

    /// At least `len` words; what they hold is left over.
    pub(super) fn at_least(&mut self, len: usize) -> &mut [u32] {
        if self.len() < len {
            *self = Self::zeroed(len);
        }
        &mut self[..len]
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// A frozen matrix `W` `[out, in]` on the CPU. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Packed<T> {
    words: Arc<Words>,
    out: usize,
    width: usize,
    of: PhantomData<T>,
}

/// A frozen matrix of bf16.
pub type PackedBf16 = Packed<bf16>;

/// A frozen matrix of f32.
pub type PackedF32 = Packed<f32>;

impl<T: Packable> Packed<T> {
    /// Packs `[out, in]` out of pieces: `read(rows)` gives those rows `[rows, in]` in any float dtype, in order and once.
    ///
    /// `piece` is the number of rows asked for at a time, rounded up to whole panels. Errors: those of `read`; a piece of
    /// another shape.
    pub fn pack(
        (out, width): (usize, usize),
        piece: usize,
        mut read: impl FnMut(Range<usize>) -> Result<Tensor>,
    ) -> Result<Self> {
        let panel = width.next_multiple_of(SIDE) / T::PER_WORD * SIDE;
        let mut words = Words::zeroed(out.div_ceil(SIDE) * panel);
        let piece = piece.next_multiple_of(SIDE).max(SIDE);
        for start in (0..out).step_by(piece) {
            let rows = start..(start + piece).min(out);
            let values = read(rows.clone())?;
            if values.dims() != [rows.len(), width] {
                return Err(Error::run(format!("internal error: a piece of {:?}", values.dims())));
            }
            let values = values.to_dtype(T::DTYPE)?.contiguous()?;
            let values = cpu::values::<T>(&values).ok_or_else(|| Error::run("internal error: a piece elsewhere"))?;
            let values: &[T::Bits] = bytemuck::cast_slice(&values);
            let panels = &mut words[start / SIDE * panel..][..rows.len().div_ceil(SIDE) * panel];
            panels.par_chunks_mut(panel).zip(values.par_chunks(SIDE * width)).for_each(|(panel, rows)| {
                // Its transpose, one block of inputs after the other, so that a cache line is read once.
                let outputs = rows.len() / width;
                let turned =
                    Matrix { values: rows, rows: width, columns: outputs, row_stride: 1, column_stride: width };
                for (i, block) in panel.chunks_mut(T::BLOCK).enumerate() {
                    T::lay(&turned, i * SIDE, 0..outputs, block);
                }
            });
        }
        Ok(Self { words: Arc::new(words), out, width, of: PhantomData })
    }

    /// (out, in)
    pub fn shape(&self) -> (usize, usize) {
        (self.out, self.width)
    }

    /// Rows `ids` of `W`, end to end. Errors: a row that is not there.
    pub(super) fn gather(&self, ids: &[u32]) -> candle_core::Result<Vec<T>> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.out) {
            bail!("row {id} of a matrix of {} rows", self.out);
        }
        let mut rows = vec![T::zeroed(); ids.len() * self.width];
        rows.par_chunks_mut(self.width.max(1)).zip(ids).for_each(|(row, &id)| self.copy_row(id as usize, row));
        Ok(rows)
    }

    /// Σ w² of every row, in f64.
    pub fn squares(&self) -> Vec<f64> {
        let mut squares = vec![0.0; self.out];
        squares.par_chunks_mut(SIDE).enumerate().for_each(|(panel, squares)| {
            let mut values = [T::zeroed(); 2];
            let values = &mut values[..T::PER_WORD];
            for line in self.panel(panel).chunks_exact(SIDE) {
                for (sum, word) in squares.iter_mut().zip(line) {
                    T::take(*word, values);
                    *sum += values.iter().map(|value| f64::from(value.widen()).powi(2)).sum::<f64>();
                }
            }
        });
        squares
    }

    /// The whole matrix, row-major.
    pub(super) fn unpacked(&self) -> Vec<T> {
        let mut rows = vec![T::zeroed(); self.out * self.width];
        rows.par_chunks_mut(self.width.max(1)).enumerate().for_each(|(id, row)| self.copy_row(id, row));
        rows
    }

    fn copy_row(&self, id: usize, row: &mut [T]) {
        let words = self.panel(id / SIDE).iter().skip(id % SIDE).step_by(SIDE);
        row.chunks_mut(T::PER_WORD).zip(words).for_each(|(values, word)| T::take(*word, values));
    }

    /// Lines of 32 words in a panel, padding included.
    fn lines(&self) -> usize {
        self.width.next_multiple_of(SIDE) / T::PER_WORD
    }

    /// All words of 32 outputs, `[in/PER_WORD][32]`.
    pub(super) fn panel(&self, panel: usize) -> &[u32] {
        let len = self.lines() * SIDE;
        &self.words[panel * len..][..len]
    }

    /// The block of outputs `32·panel..` and inputs `32·block..`, `[32/PER_WORD][32]`.
    pub(super) fn block(&self, panel: usize, block: usize) -> &[u32] {
        &self.words[panel * self.lines() * SIDE + block * T::BLOCK..][..T::BLOCK]
    }
}

/// Two bf16 as one word, the first in the lower half.
#[inline(always)]
pub(super) fn word(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

/// [`Packable::turn`] of bf16: pairs along inputs become pairs along outputs.
///
/// Two neighbouring words hold a 2x2 corner. So the block is a 16x16 matrix of corners: transpose that and each corner.
#[inline(always)]
pub(super) fn turn_pairs(block: &[u32], out: &mut [u32]) {
    for i in 0..SIDE / 2 {
        for j in 0..SIDE / 2 {
            let [first, second] = [block[i * SIDE + 2 * j], block[i * SIDE + 2 * j + 1]];
            out[j * SIDE + 2 * i] = first & 0xffff | second << 16;
            out[j * SIDE + 2 * i + 1] = first >> 16 | second & 0xffff_0000;
        }
    }
}

/// [`Packable::turn`] of f32.
#[inline(always)]
pub(super) fn turn_words(block: &[u32], out: &mut [u32]) {
    for i in 0..SIDE {
        for j in 0..SIDE {
            out[j * SIDE + i] = block[i * SIDE + j];
        }
    }
}
