//! The loops around a tile: operands in blocks that fit the caches, and tasks for the threads.
//!
//! `C = A·B`, `A` `[rows, depth]`, `B` `[depth, columns]`. `A` is laid into tiles first; of `B` one block of 32 columns at
//! a time is in the nearest cache, while all tiles of rows pass by. An element is one sum in f32 that runs over `depth`
//! from the first to the last: it depends neither on its row's neighbours nor on how the work is cut for the threads.

use super::layout::{BLOCK, PackedBf16, SIDE, Words, word};
use crate::kernels::{cpu, matrix::Matrix};
use rayon::prelude::*;
use std::{cell::RefCell, marker::PhantomData, mem::MaybeUninit, ops::Range};

/// One way to multiply: how operands lie, and a tile of the product.
pub(super) trait Kernel: Sync {
    /// Element of an operand in its tile: a pair of bf16, or one f32.
    type Word: bytemuck::Pod + Send + Sync;
    /// Values in a word.
    const VALUES: usize;
    /// Rows of a tile.
    const ROWS: usize;
    /// Values of the depth that are multiplied at once; operands are padded with zeros to a multiple.
    const STEP: usize;
    /// Values of the depth in a block (a multiple of 32): the block of `B` stays in the nearest cache.
    const DEPTH: usize;
    /// Whether a tile asks the memory for the weights [`AHEAD`] of it. That serves few tiles of rows best, since then
    /// weights arrive as they are used; over many tiles the loops ask for the next block, a part at every tile.
    const FETCHES: bool;

    /// Writes pair `i` of row `row` of a tile. A step takes `ROWS·STEP/VALUES` words, one step after the other.
    fn put(tile: &mut [Self::Word], row: usize, i: usize, pair: u32);

    /// Runs a task with this thread's units in the state they need.
    fn run(&self, task: impl FnOnce());

    /// A block of `B`, `[depth/2][32]` pairs, as [`Self::tile`] wants it.
    fn right<'a>(&self, pairs: &'a [u32], scratch: &'a mut Words) -> &'a [Self::Word];

    /// `C = A·B`, or `C += A·B` unless `first`. `a`: a tile's words of this depth; `c`: `[ROWS][32]`, of which the first
    /// `rows` rows and `columns` columns count.
    fn tile(&self, a: &[Self::Word], b: &[Self::Word], rows: usize, columns: usize, first: bool, c: &mut [f32]);

    /// [`super::layout::transposed`].
    fn transposed(&self, block: &[u32], out: &mut [u32]);
}

/// `A` in tiles of `K::ROWS` rows.
pub(super) struct Left<K: Kernel> {
    words: Vec<K::Word>,
    rows: usize,
    depth: usize,
    kernel: PhantomData<K>,
}

impl<K: Kernel> Left<K> {
    /// Words of a tile.
    fn tile_len(depth: usize) -> usize {
        depth.next_multiple_of(K::STEP) / K::VALUES * K::ROWS
    }

    /// Lays `a` into tiles; `put(tile, row of the tile, row of a)` writes one row.
    pub(super) fn new(rows: usize, depth: usize, put: impl Fn(&mut [K::Word], usize, usize) + Sync) -> Self {
        let tile = Self::tile_len(depth);
        let mut words = vec![bytemuck::Zeroable::zeroed(); rows.div_ceil(K::ROWS) * tile];
        words.par_chunks_mut(tile.max(1)).enumerate().for_each(|(t, tile)| {
            for row in t * K::ROWS..rows.min((t + 1) * K::ROWS) {
                put(tile, row - t * K::ROWS, row);
            }
        });
        Self { words, rows, depth, kernel: PhantomData }
    }

    /// Of bits of bf16.
    pub(super) fn pairs(a: &Matrix<u16>) -> Self {
        Self::new(a.rows, a.columns, |tile, place, row| match a.row(row) {
            Some(values) => {
                let (pairs, last) = values.as_chunks::<2>();
                for (i, [first, second]) in pairs.iter().enumerate() {
                    K::put(tile, place, i, word(*first, *second));
                }
                if let [last] = last {
                    K::put(tile, place, pairs.len(), word(*last, 0));
                }
            }
            None => {
                for i in 0..a.columns.div_ceil(2) {
                    K::put(tile, place, i, word(a.get(row, 2 * i), a.get(row, 2 * i + 1)));
                }
            }
        })
    }
}

/// `B`.
pub(super) enum Right<'a> {
    /// `Wᵀ`, whose blocks lie ready.
    Forward(&'a PackedBf16),
    /// `W`, whose blocks are transposed on the way.
    Backward(&'a PackedBf16),
    /// An ordinary matrix, of which pairs are made on the way.
    Plain(Matrix<'a, u16>),
}

impl Right<'_> {
    fn columns(&self) -> usize {
        match self {
            Right::Forward(w) => w.shape().0,
            Right::Backward(w) => w.shape().1,
            Right::Plain(b) => b.columns,
        }
    }

    pub(super) fn depth(&self) -> usize {
        match self {
            Right::Forward(w) => w.shape().1,
            Right::Backward(w) => w.shape().0,
            Right::Plain(b) => b.rows,
        }
    }

    /// Pairs of `depth` (which begins at a multiple of 32, and whose length is a multiple of the kernel's step).
    fn block<'a, K: Kernel>(
        &'a self,
        kernel: &K,
        panel: usize,
        depth: Range<usize>,
        scratch: &'a mut Words,
    ) -> &'a [u32] {
        let len = depth.len() / 2 * SIDE;
        match self {
            Right::Forward(w) => &w.panel(panel)[depth.start / 2 * SIDE..][..len],
            Right::Backward(w) => {
                let blocks = depth.start / SIDE..depth.end.div_ceil(SIDE);
                let scratch = scratch.at_least(blocks.len() * BLOCK);
                for (block, out) in blocks.zip(scratch.chunks_exact_mut(BLOCK)) {
                    kernel.transposed(w.block(block, panel), out);
                }
                &scratch[..len]
            }
            Right::Plain(b) => {
                let scratch = scratch.at_least(len);
                let columns = panel * SIDE..b.columns.min((panel + 1) * SIDE);
                cpu::vectorized(|| interleave(b, depth.start, columns, scratch));
                scratch
            }
        }
    }

    /// Asks for part `part` of `parts` of a block that will be needed next.
    #[inline(always)]
    fn fetch(&self, panel: usize, depth: &Range<usize>, part: usize, parts: usize) {
        let lines = depth.len(); // a pair of 32 columns is two lines
        let lines = lines * part / parts..lines * (part + 1) / parts;
        match self {
            Right::Forward(w) => {
                let block = &w.panel(panel)[depth.start / 2 * SIDE..];
                lines.for_each(|line| fetch_line(&raw const block[line * 16]));
            }
            Right::Backward(w) => {
                for line in lines {
                    fetch_line(&raw const w.block((depth.start + line) / SIDE, panel)[line % SIDE * 16]);
                }
            }
            Right::Plain(_) => {}
        }
    }
}

/// Rows `start..` of `b` in pairs, `[depth/2][32]`; zeros beyond its edges.
#[inline(always)]
fn interleave(b: &Matrix<u16>, start: usize, columns: Range<usize>, out: &mut [u32]) {
    for (i, line) in out.chunks_exact_mut(SIDE).enumerate() {
        let row = start + 2 * i;
        if b.column_stride == 1 && row + 1 < b.rows && columns.len() == SIDE {
            let part = |row: usize| -> &[u16] { &b.values[row * b.row_stride + columns.start..][..SIDE] };
            let (first, second) = (part(row), part(row + 1));
            for j in 0..SIDE {
                line[j] = word(first[j], second[j]);
            }
        } else {
            for (j, word_out) in line.iter_mut().enumerate() {
                let column = columns.start + j;
                *word_out = word(b.get(row, column), b.get(row + 1, column));
            }
        }
    }
}

/// Words between those a tile uses and those it asks for: a page, which the CPU's own prefetching does not leave.
pub(super) const AHEAD: usize = 1024;

/// Asks the memory for the cache line at `address`, which may lie outside what is allocated.
#[inline(always)]
pub(super) fn fetch_line(address: *const u32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and faults nowhere; any address is allowed.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Where `C` goes, row-major.
pub(super) enum Out<'a> {
    /// Rounded to bf16.
    Bf16(&'a mut [MaybeUninit<u16>]),
    /// Rounded to bf16 and then added to bf16, rounded again.
    AddBf16(&'a mut [u16]),
    /// In f32.
    F32(&'a mut [MaybeUninit<f32>]),
}

/// [`Out`] for tasks that own rectangles of it.
#[derive(Clone, Copy)]
enum Place {
    Bf16(*mut u16),
    AddBf16(*mut u16),
    F32(*mut f32),
}

// SAFETY: every task writes the elements of its own rows and columns only, and `multiply` outlives all tasks.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Place {
    /// Writes `values` from element `at` on.
    ///
    /// # Safety
    /// The elements lie inside the output and no other thread touches them.
    #[inline(always)]
    unsafe fn store(self, at: usize, values: &[f32]) {
        // SAFETY: the caller's promise; `AddBf16` came from initialised memory.
        unsafe {
            match self {
                Place::Bf16(out) => {
                    let out = std::slice::from_raw_parts_mut(out.add(at), values.len());
                    out.iter_mut().zip(values).for_each(|(out, x)| *out = rounded(*x));
                }
                Place::AddBf16(out) => {
                    let out = std::slice::from_raw_parts_mut(out.add(at), values.len());
                    out.iter_mut()
                        .zip(values)
                        .for_each(|(out, x)| *out = rounded(widened(*out) + widened(rounded(*x))));
                }
                Place::F32(out) => std::ptr::copy_nonoverlapping(values.as_ptr(), out.add(at), values.len()),
            }
        }
    }
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    let nan = (bits >> 16) as u16 | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { nearest }
}

#[inline(always)]
pub(super) fn widened(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Memory of a thread, kept between products.
#[derive(Default)]
struct Scratch {
    pairs: Words,
    right: Words,
    c: Words,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Rows that pass by a block of `B`: their part of `A` stays in the second cache.
const CHUNK: usize = 512;

/// Panels that a task computes over one part of `A`.
const GROUP: usize = 8;

/// `A·B` into `out`.
///
/// Panics when the depths differ or `out` has another size.
pub(super) fn multiply<K: Kernel>(kernel: &K, a: &Left<K>, b: &Right, out: Out) {
    let columns = b.columns();
    let (len, place) = match out {
        Out::Bf16(out) => (out.len(), Place::Bf16(out.as_mut_ptr().cast())),
        Out::AddBf16(out) => (out.len(), Place::AddBf16(out.as_mut_ptr())),
        Out::F32(out) => (out.len(), Place::F32(out.as_mut_ptr().cast())),
    };
    assert_eq!((a.depth, len), (b.depth(), a.rows * columns), "[{}, {}]·[_, {columns}]", a.rows, a.depth);
    let (tiles, panels) = (a.rows.div_ceil(K::ROWS), columns.div_ceil(SIDE));
    let threads = rayon::current_num_threads();
    // Neither number changes a result: an element is computed the same way in any task.
    let group = (panels / (4 * threads)).clamp(1, GROUP);
    let groups = panels.div_ceil(group);
    let enough = (4 * threads).div_ceil(groups.max(1));
    let chunk = (CHUNK / K::ROWS).min(tiles.div_ceil(enough)).max(1);
    let chunks = tiles.div_ceil(chunk);
    (0..groups * chunks).into_par_iter().for_each(|task| {
        let (group_at, chunk_at) = (task / chunks * group, task % chunks * chunk);
        let task = Task {
            kernel,
            a,
            b,
            out: place,
            width: columns,
            panels: group_at..panels.min(group_at + group),
            tiles: chunk_at..tiles.min(chunk_at + chunk),
        };
        SCRATCH.with_borrow_mut(|scratch| kernel.run(|| task.run(scratch)));
    });
}

/// Some tiles of rows times some panels.
struct Task<'a, K: Kernel> {
    kernel: &'a K,
    a: &'a Left<K>,
    b: &'a Right<'a>,
    out: Place,
    width: usize,
    panels: Range<usize>,
    tiles: Range<usize>,
}

impl<K: Kernel> Task<'_, K> {
    #[inline(always)]
    fn run(&self, scratch: &mut Scratch) {
        let depth = self.a.depth.next_multiple_of(K::STEP);
        let blocks = depth.div_ceil(K::DEPTH).max(1);
        let block = depth.div_ceil(blocks).next_multiple_of(SIDE);
        let steps: Vec<(usize, usize)> =
            (0..depth).step_by(block.max(1)).flat_map(|d| self.panels.clone().map(move |p| (d, p))).collect();
        let range = |d: usize| d..depth.min(d + block);
        let panel_len = self.tiles.len() * K::ROWS * SIDE;
        let asks = !K::FETCHES || self.tiles.len() > 2 || matches!(self.b, Right::Backward(_));
        let Scratch { pairs, right, c } = scratch;
        let c: &mut [f32] = bytemuck::cast_slice_mut(c.at_least(self.panels.len() * panel_len));
        for (i, &(d, panel)) in steps.iter().enumerate() {
            let c = &mut c[(panel - self.panels.start) * panel_len..][..panel_len];
            let b = self.kernel.right(self.b.block(self.kernel, panel, range(d), pairs), right);
            for (t, (tile, c)) in self.tiles.clone().zip(c.chunks_exact_mut(K::ROWS * SIDE)).enumerate() {
                if let Some(&(d, panel)) = steps.get(i + 1).filter(|_| asks) {
                    self.b.fetch(panel, &range(d), t, self.tiles.len());
                }
                let words = K::ROWS * range(d).len() / K::VALUES;
                let a = &self.a.words[tile * Left::<K>::tile_len(depth) + K::ROWS * d / K::VALUES..][..words];
                let rows = (self.a.rows - tile * K::ROWS).min(K::ROWS);
                self.kernel.tile(a, b, rows, self.width - panel * SIDE, d == 0, c);
            }
            if d + block >= depth {
                self.store(panel, c);
            }
        }
    }

    #[inline(always)]
    fn store(&self, panel: usize, c: &[f32]) {
        let first = self.tiles.start * K::ROWS;
        let rows = first..self.a.rows.min(self.tiles.end * K::ROWS);
        let columns = (self.width - panel * SIDE).min(SIDE);
        cpu::vectorized(|| {
            for (row, c) in rows.zip(c.chunks_exact(SIDE)) {
                // SAFETY: `row` and the columns lie inside the output, whose size `multiply` has checked, and belong to
                // this task alone.
                unsafe { self.out.store(row * self.width + panel * SIDE, &c[..columns]) };
            }
        });
    }
}
