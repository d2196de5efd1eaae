//! The loops around a tile: operands in blocks that fit the caches, and tasks for the threads.
//!
//! `C = A·B`, `A` `[rows, depth]`, `B` `[depth, columns]`. `A` is laid into tiles first; of `B` one block of 32 columns at
//! a time is in the nearest cache, while all tiles of rows pass by. An element is one sum in f32 that runs over `depth`
//! from the first to the last: it depends neither on its row's neighbours nor on how the work is cut for the threads.

#[cfg(target_arch = "x86_64")]
use super::layout::word;
use super::layout::{Packable, Packed, SIDE, Words};
use crate::kernels::matrix::Matrix;
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Range,
};

/// One way to multiply: how operands lie, and a tile of the product.
pub(super) trait Kernel: Sync {
    /// What `B` is.
    type Weight: Packable;
    /// Element of `A` in its tile: a pair of bf16, or one f32.
    type Word: bytemuck::Pod + Send + Sync;
    /// Values in a word.
    const VALUES: usize;
    /// Rows of a tile.
    const ROWS: usize;
    /// Values of the depth that are multiplied at once: a block of `B` has a multiple of them.
    const STEP: usize;
    /// Values of the depth in a block (a multiple of 32): the block of `B` stays in the nearest cache.
    const DEPTH: usize;
    /// Whether a tile asks the memory for the weights [`AHEAD`] of it. That serves few tiles of rows best, since then
    /// weights arrive as they are used; over many tiles the loops ask for the next block, a part at every tile.
    const FETCHES: bool;

    /// Writes values `32·i..` of row `row` of a tile. They take `32·ROWS/VALUES` words, one `i` after the other.
    fn put(tile: &mut [Self::Word], row: usize, i: usize, values: &[Bits<Self>; SIDE]);

    /// Runs a task with this thread's units in the state they need.
    #[inline(always)]
    fn run(&self, task: impl FnOnce()) {
        task();
    }

    /// A block of `B`, `[depth][32]` values in words, as [`Self::tile`] wants it.
    fn right<'a>(&self, words: &'a [u32], scratch: &'a mut Words) -> &'a [Self::Word];

    /// `C = A·B`, or `C += A·B` unless `first`. `a`: a tile's words of this depth and padding; `c`: `[ROWS][32]`, of which the first
    /// `rows` rows and `columns` columns count.
    fn tile(&self, a: &[Self::Word], b: &[Self::Word], rows: usize, columns: usize, first: bool, c: &mut [f32]);
}

/// What a kernel reads the values of `A` and `B` as.
pub(super) type Bits<K> = <<K as Kernel>::Weight as Packable>::Bits;

/// `A` in tiles of `K::ROWS` rows, its depth padded with zeros to a multiple of 32.
pub(super) struct Left<K: Kernel> {
    words: Words,
    rows: usize,
    depth: usize,
    kernel: PhantomData<K>,
}

impl<K: Kernel> Left<K> {
    /// Words of a tile.
    fn tile_len(depth: usize) -> usize {
        depth.next_multiple_of(SIDE) / K::VALUES * K::ROWS
    }

    /// Lays `a` into tiles; `put` is [`Kernel::put`], of the values of `a`.
    ///
    /// Rows that only fill the last tile hold what was there: a row of `C` depends on its own row alone.
    pub(super) fn of<V: Copy + Default + Sync>(
        a: &Matrix<V>,
        put: impl Fn(&mut [K::Word], usize, usize, &[V; SIDE]) + Sync,
    ) -> Self {
        let (rows, depth) = (a.rows, a.columns);
        let tile = Self::tile_len(depth);
        let mut words = LEFT.take();
        let tiles: &mut [K::Word] = bytemuck::cast_slice_mut(words.at_least(rows.div_ceil(K::ROWS) * tile));
        tiles.par_chunks_mut(tile.max(1)).enumerate().for_each(|(t, tile)| {
            for row in t * K::ROWS..rows.min((t + 1) * K::ROWS) {
                let place = row - t * K::ROWS;
                let whole = a.row(row).map_or(&[][..], |values| values.as_chunks::<SIDE>().0);
                whole.iter().enumerate().for_each(|(i, values)| put(tile, place, i, values));
                for i in whole.len()..depth.div_ceil(SIDE) {
                    put(tile, place, i, &std::array::from_fn(|j| a.get(row, i * SIDE + j)));
                }
            }
        });
        Self { words, rows, depth, kernel: PhantomData }
    }

    /// Of a matrix of the type of `B`.
    pub(super) fn same(a: &Matrix<Bits<K>>) -> Self {
        Self::of(a, K::put)
    }
}

impl<K: Kernel> Drop for Left<K> {
    fn drop(&mut self) {
        LEFT.set(std::mem::take(&mut self.words));
    }
}

/// 32 values of a row of a tile that holds pairs: one line each, the rows one after the other.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn put_pairs<const ROWS: usize>(tile: &mut [u32], row: usize, i: usize, values: &[u16; SIDE]) {
    let line = &mut tile[(i * ROWS + row) * SIDE / 2..][..SIDE / 2];
    for (word_out, pair) in line.iter_mut().zip(values.as_chunks::<2>().0) {
        *word_out = word(pair[0], pair[1]);
    }
}

/// `B`.
pub(super) enum Right<'a, T: Packable> {
    /// `Wᵀ`, whose blocks lie ready.
    Forward(&'a Packed<T>),
    /// `W`, whose blocks are turned around on the way.
    Backward(&'a Packed<T>),
    /// An ordinary matrix, of which words are made on the way.
    Plain(Matrix<'a, T::Bits>),
}

impl<T: Packable> Right<'_, T> {
    pub(super) fn columns(&self) -> usize {
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

    /// Words of `depth` (which begins at a multiple of 32, and whose length is a multiple of the kernel's step).
    fn block<'a>(&'a self, panel: usize, depth: Range<usize>, scratch: &'a mut Words) -> &'a [u32] {
        let len = depth.len() / T::PER_WORD * SIDE;
        match self {
            Right::Forward(w) => &w.panel(panel)[depth.start / T::PER_WORD * SIDE..][..len],
            Right::Backward(w) => {
                let blocks = depth.start / SIDE..depth.end.div_ceil(SIDE);
                let scratch = scratch.at_least(blocks.len() * T::BLOCK);
                for (block, out) in blocks.zip(scratch.chunks_exact_mut(T::BLOCK)) {
                    T::turn(w.block(block, panel), out);
                }
                &scratch[..len]
            }
            Right::Plain(b) => {
                let scratch = scratch.at_least(len);
                let columns = panel * SIDE..b.columns.min((panel + 1) * SIDE);
                Arch::new().dispatch(Lay::<T> { b, start: depth.start, columns, out: &mut *scratch });
                scratch
            }
        }
    }

    /// Asks for part `part` of `parts` of a block that will be needed next.
    #[inline(always)]
    fn fetch(&self, panel: usize, depth: &Range<usize>, part: usize, parts: usize) {
        let lines = depth.len() * 2 / T::PER_WORD; // 32 words are two lines
        let lines = lines * part / parts..lines * (part + 1) / parts;
        match self {
            Right::Forward(w) => {
                let block = &w.panel(panel)[depth.start / T::PER_WORD * SIDE..];
                lines.for_each(|line| fetch_line(&raw const block[line * 16]));
            }
            Right::Backward(w) => {
                for word in lines.map(|line| line * 16) {
                    let block = w.block(depth.start / SIDE + word / T::BLOCK, panel);
                    fetch_line(&raw const block[word % T::BLOCK]);
                }
            }
            Right::Plain(_) => {}
        }
    }
}

/// [`Packable::lay`] compiled for this CPU.
struct Lay<'a, T: Packable> {
    b: &'a Matrix<'a, T::Bits>,
    start: usize,
    columns: Range<usize>,
    out: &'a mut [u32],
}

impl<T: Packable> WithSimd for Lay<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        T::lay(self.b, self.start, self.columns, self.out);
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
    Bf16(&'a mut [MaybeUninit<bf16>]),
    /// Rounded to bf16 and then added to bf16, rounded again.
    AddBf16(&'a mut [u16]),
    /// In f32.
    F32(&'a mut [MaybeUninit<f32>]),
    /// Added to f32.
    AddF32(&'a mut [f32]),
    /// Added to f32 that lies column by column.
    AddF32Transposed(&'a mut [f32]),
}

/// [`Out`] for tasks that own rectangles of it.
#[derive(Clone, Copy)]
enum Place {
    Bf16(*mut u16),
    AddBf16(*mut u16),
    F32(*mut f32),
    AddF32(*mut f32),
}

// SAFETY: every task writes the elements of its own rows and columns only, and `multiply` outlives all tasks.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

/// Rows of `C` on their way out.
struct Store<'a> {
    place: Place,
    /// The first element.
    at: usize,
    /// Elements between rows.
    stride: usize,
    /// Elements between columns, for [`Place::AddF32`]; else 1.
    column_stride: usize,
    columns: usize,
    c: &'a [f32], // [rows][32]
}

impl WithSimd for Store<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        // No closures here: the vector instructions of this function do not reach into them.
        for (row, c) in self.c.as_chunks::<SIDE>().0.iter().enumerate() {
            let at = self.at + row * self.stride;
            // SAFETY: who made this has seen that the rows lie inside the output and belong to this task alone; what is
            // added to was initialised.
            unsafe {
                match self.place {
                    Place::Bf16(out) if self.columns == SIDE => {
                        let out = &mut *out.add(at).cast::<[u16; SIDE]>();
                        for j in 0..SIDE {
                            out[j] = rounded(c[j]);
                        }
                    }
                    Place::AddBf16(out) if self.columns == SIDE => {
                        let out = &mut *out.add(at).cast::<[u16; SIDE]>();
                        for j in 0..SIDE {
                            out[j] = rounded(widened(out[j]) + widened(rounded(c[j])));
                        }
                    }
                    Place::Bf16(out) => {
                        for (j, c) in c.iter().enumerate().take(self.columns) {
                            *out.add(at + j) = rounded(*c);
                        }
                    }
                    Place::AddBf16(out) => {
                        for (j, c) in c.iter().enumerate().take(self.columns) {
                            let out = out.add(at + j);
                            *out = rounded(widened(*out) + widened(rounded(*c)));
                        }
                    }
                    Place::AddF32(out) => {
                        for (j, c) in c.iter().enumerate().take(self.columns) {
                            *out.add(at + j * self.column_stride) += *c;
                        }
                    }
                    Place::F32(out) => std::ptr::copy_nonoverlapping(c.as_ptr(), out.add(at), self.columns),
                }
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
    words: Words,
    right: Words,
    c: Words,
}

thread_local! {
    static LEFT: Cell<Words> = Cell::default();
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Rows that pass by a block of `B`: their part of `A` stays in the second cache.
const CHUNK: usize = 512;

/// Panels that a task computes over one part of `A`.
const GROUP: usize = 8;

/// `A·B` into `out`.
///
/// Panics when the depths differ or `out` has another size.
pub(super) fn multiply<K: Kernel>(kernel: &K, a: &Left<K>, b: &Right<K::Weight>, out: Out) {
    let columns = b.columns();
    let rows = (columns, 1);
    let (len, place, strides) = match out {
        Out::Bf16(out) => (out.len(), Place::Bf16(out.as_mut_ptr().cast()), rows),
        Out::AddBf16(out) => (out.len(), Place::AddBf16(out.as_mut_ptr()), rows),
        Out::F32(out) => (out.len(), Place::F32(out.as_mut_ptr().cast()), rows),
        Out::AddF32(out) => (out.len(), Place::AddF32(out.as_mut_ptr()), rows),
        Out::AddF32Transposed(out) => (out.len(), Place::AddF32(out.as_mut_ptr()), (1, a.rows)),
    };
    assert_eq!((a.depth, len), (b.depth(), a.rows * columns), "[{}, {}]·[_, {columns}]", a.rows, a.depth);
    // Nothing would be written.
    assert!(a.depth > 0 || len == 0, "a product over an inner dimension of 0");
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
            strides,
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
    b: &'a Right<'a, K::Weight>,
    out: Place,
    /// Of the output's rows and columns.
    strides: (usize, usize),
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
        let words_of_a: &[K::Word] = bytemuck::cast_slice(&self.a.words);
        let Scratch { words, right, c } = scratch;
        let c: &mut [f32] = bytemuck::cast_slice_mut(c.at_least(self.panels.len() * panel_len));
        for (i, &(d, panel)) in steps.iter().enumerate() {
            let c = &mut c[(panel - self.panels.start) * panel_len..][..panel_len];
            let b = self.kernel.right(self.b.block(panel, range(d), words), right);
            for (t, (tile, c)) in self.tiles.clone().zip(c.chunks_exact_mut(K::ROWS * SIDE)).enumerate() {
                if let Some(&(d, panel)) = steps.get(i + 1).filter(|_| asks) {
                    self.b.fetch(panel, &range(d), t, self.tiles.len());
                }
                let len = K::ROWS * range(d).len().next_multiple_of(SIDE) / K::VALUES;
                let a = &words_of_a[tile * Left::<K>::tile_len(depth) + K::ROWS * d / K::VALUES..][..len];
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
        let c = &c[..rows.len() * SIDE];
        let (stride, column_stride) = self.strides;
        let at = rows.start * stride + panel * SIDE * column_stride;
        // `multiply` has checked the size of the output, and no other task has these rows of this panel.
        Arch::new().dispatch(Store { place: self.out, at, stride, column_stride, columns, c });
    }
}
