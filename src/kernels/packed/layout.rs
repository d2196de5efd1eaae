//! A frozen bf16 matrix as it lies in memory: panels of 32 outputs, in which pairs of inputs stand side by side.
//!
//! `W` `[out, in]` is stored as `[out/32][in/2][32][2]`, both sizes padded with zeros to multiples of 32. A word is the
//! pair `W[o][2i], W[o][2i+1]`: what one instruction of a matrix unit multiplies with the pair `x[2i], x[2i+1]`. For
//! `dy·W` the pairs have to run along `out`; 32x32 blocks are transposed on the way (`transposed`).

use super::with_matrix;
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Device, Tensor, bail};
use rayon::prelude::*;
use std::{
    ops::{Deref, DerefMut, Range},
    sync::Arc,
};

/// Columns of a panel, and the side of a block.
pub(super) const SIDE: usize = 32;

/// Words of a block of 32x32 values.
pub(super) const BLOCK: usize = SIDE * SIDE / 2;

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

/// A frozen matrix `W` `[out, in]` in bf16 on the CPU. Clones share the memory.
#[derive(Clone, Debug)]
pub struct PackedBf16 {
    words: Arc<Words>,
    out: usize,
    width: usize,
}

impl PackedBf16 {
    /// Packs `[out, in]` out of pieces: `read(rows)` gives those rows `[rows, in]` in any float dtype, in order and once.
    ///
    /// `piece` is the number of rows asked for at a time, rounded up to whole panels. Errors: those of `read`; a piece of
    /// another shape.
    pub fn pack(
        (out, width): (usize, usize),
        piece: usize,
        mut read: impl FnMut(Range<usize>) -> Result<Tensor>,
    ) -> Result<Self> {
        let panel = width.next_multiple_of(SIDE) / 2 * SIDE;
        let mut words = Words::zeroed(out.div_ceil(SIDE) * panel);
        let piece = piece.next_multiple_of(SIDE).max(SIDE);
        for start in (0..out).step_by(piece) {
            let rows = start..(start + piece).min(out);
            let values = read(rows.clone())?;
            if values.dims() != [rows.len(), width] {
                return Err(Error::run(format!("internal error: a piece of {:?}", values.dims())));
            }
            let values = values.to_device(&Device::Cpu)?.to_dtype(DType::BF16)?.contiguous()?;
            with_matrix(&values, |bits| {
                let bits = bits.values;
                let panels = &mut words[start / SIDE * panel..][..rows.len().div_ceil(SIDE) * panel];
                panels.par_chunks_mut(panel).zip(bits.par_chunks(SIDE * width)).for_each(|(panel, rows)| {
                    pack_panel(rows, width, panel);
                });
            })?;
        }
        Ok(Self { words: Arc::new(words), out, width })
    }

    /// (out, in)
    pub fn shape(&self) -> (usize, usize) {
        (self.out, self.width)
    }

    /// Rows `ids` of `W` as bits of bf16, end to end. Errors: a row that is not there.
    pub(super) fn gather(&self, ids: &[u32]) -> candle_core::Result<Vec<u16>> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.out) {
            bail!("row {id} of a matrix of {} rows", self.out);
        }
        let mut rows = vec![0; ids.len() * self.width];
        rows.par_chunks_mut(self.width.max(1)).zip(ids).for_each(|(row, &id)| self.copy_row(id as usize, row));
        Ok(rows)
    }

    /// The whole matrix as bits of bf16, row-major.
    pub(super) fn unpacked(&self) -> Vec<u16> {
        let mut rows = vec![0; self.out * self.width];
        rows.par_chunks_mut(self.width.max(1)).enumerate().for_each(|(id, row)| self.copy_row(id, row));
        rows
    }

    fn copy_row(&self, id: usize, row: &mut [u16]) {
        let words = self.panel(id / SIDE).iter().skip(id % SIDE).step_by(SIDE);
        for (pair, word) in row.chunks_mut(2).zip(words) {
            pair[0] = *word as u16;
            if let Some(second) = pair.get_mut(1) {
                *second = (word >> 16) as u16;
            }
        }
    }

    /// Pairs of inputs of a panel, padding included.
    fn pairs(&self) -> usize {
        self.width.next_multiple_of(SIDE) / 2
    }

    /// All pairs of 32 outputs, `[in/2][32]`.
    pub(super) fn panel(&self, panel: usize) -> &[u32] {
        let len = self.pairs() * SIDE;
        &self.words[panel * len..][..len]
    }

    /// The block of outputs `32·panel..` and inputs `32·block..`, `[16][32]`.
    pub(super) fn block(&self, panel: usize, block: usize) -> &[u32] {
        &self.words[(panel * self.pairs() + block * SIDE / 2) * SIDE..][..BLOCK]
    }
}

/// Up to 32 rows of `width` values → `[width/2][32]` words. Blocks of 16 pairs, so that a cache line is read once.
fn pack_panel(rows: &[u16], width: usize, panel: &mut [u32]) {
    for (i, block) in panel.chunks_mut(BLOCK).enumerate() {
        for (column, row) in rows.chunks(width).enumerate() {
            let row = &row[(i * SIDE).min(width)..width.min((i + 1) * SIDE)];
            for (pair, line) in row.chunks(2).zip(block.chunks_exact_mut(SIDE)) {
                line[column] = word(pair[0], pair.get(1).copied().unwrap_or(0));
            }
        }
    }
}

/// Two bf16 as one word, the first in the lower half.
#[inline(always)]
pub(super) fn word(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

/// A block turned around: pairs along its inputs become pairs along its outputs, `[out/2][32 inputs]`.
///
/// Two neighbouring words hold a 2x2 corner. So the block is a 16x16 matrix of corners: transpose that and each corner.
#[inline(always)]
pub(super) fn transposed(block: &[u32], out: &mut [u32]) {
    for i in 0..SIDE / 2 {
        for j in 0..SIDE / 2 {
            let [first, second] = [block[i * SIDE + 2 * j], block[i * SIDE + 2 * j + 1]];
            out[j * SIDE + 2 * i] = first & 0xffff | second << 16;
            out[j * SIDE + 2 * i + 1] = first >> 16 | second & 0xffff_0000;
        }
    }
}
