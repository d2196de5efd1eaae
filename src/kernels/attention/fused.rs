//! The bodies for the CPU: one task for a run of queries of one key/value head, few query rows at a time.
//!
//! The query heads that share a key/value head stand as rows of one operand, so scores and everything made of them are
//! small dense products, over the shared prefix and the span's own keys at once. A task holds the scores of one block of
//! rows, never more, and computes in f32 whatever it reads and writes. How rows are cut into blocks and tasks depends on
//! the shapes alone, never on the number of threads, and changes no row's result but the sums of `dk` and `dv`.

use super::{
    Segments,
    tile::{self, Left, Packed, Right, panel, product},
};
use crate::{
    error::Result,
    kernels::cpu::{self, Element},
};
use candle_core::{Device, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Query rows (of all heads that share their keys) that are worth a task of their own.
const ROWS_PER_TASK: usize = 384;
/// Tasks of a whole call, about: enough for many cores, few enough for the sums that each task has of its own.
const MOST_TASKS: usize = 64;

/// `None` where the tensors are not `T`, contiguous and on the CPU.
pub(super) fn forward<T: Element>(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments) -> Result<Option<Tensor>> {
    let (Some(qs), Some(ks), Some(vs)) = (cpu::values::<T>(q), cpu::values(k), cpu::values(v)) else { return Ok(None) };
    let of = Operands::new((&qs, &ks, &vs), q, k, segments)?;
    let parts = of.parts();
    let outputs = of.tasks(&parts, |kv, part| Arch::new().dispatch(Forward { of: &of, part, kv }));
    Ok(Some(Tensor::from_vec(of.by_query(&parts, &outputs), q.shape(), &Device::Cpu)?))
}

/// `dq`, `dk`, `dv`; `None` as in [`forward`].
pub(super) fn backward<T: Element>(
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let (Some(qs), Some(ks), Some(vs)) = (cpu::values::<T>(q), cpu::values(k), cpu::values(v)) else { return Ok(None) };
    let Some(d_os) = cpu::values::<T>(d_o) else { return Ok(None) };
    let of = Operands::new((&qs, &ks, &vs), q, k, segments)?;
    let parts = of.parts();
    let outputs = of.tasks(&parts, |kv, part| Arch::new().dispatch(Backward { of: &of, d_o: &d_os, part, kv }));
    let (mut dq, mut sums) = (vec![], vec![]);
    for (queries, keys) in outputs {
        dq.push(queries);
        sums.push(keys);
    }
    let (dk, dv) = of.by_key(&parts, &sums);
    let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), &Device::Cpu);
    Ok(Some((tensor(of.by_query(&parts, &dq), q)?, tensor(dk, k)?, tensor(dv, v)?)))
}

struct Operands<'a, T> {
    q: &'a [T], // [Tq, H, E]
    k: &'a [T], // [T, K, E]
    v: &'a [T],
    segments: &'a Segments,
    kv_heads: usize,
    /// Query heads of a key/value head.
    groups: usize,
    width: usize,
}

/// Neighbouring queries of one span.
struct Block {
    span: usize,
    queries: Range<usize>,
}

/// What a block sees. Its columns are the prefix, zeros up to a whole panel, and the span's own keys from `own` on.
struct Sight {
    rows: usize,
    prefix: usize,
    own: usize,
    /// The end of the own keys that its last query sees.
    end: usize,
    /// `end` in whole panels.
    columns: usize,
}

impl<'a, T: Element> Operands<'a, T> {
    fn new((qs, ks, vs): (&'a [T], &'a [T], &'a [T]), q: &Tensor, k: &Tensor, segments: &'a Segments) -> Result<Self> {
        let ((_, heads, width), kv_heads) = (q.dims3()?, k.dim(1)?);
        Ok(Self { q: qs, k: ks, v: vs, segments, kv_heads, groups: heads / kv_heads, width })
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The queries in blocks, and these in runs of about equal work.
    fn parts(&self) -> Vec<Vec<Block>> {
        let step = tile::ROWS * 4usize.div_ceil(self.groups);
        let spans = self.segments.spans.iter().enumerate();
        let blocks = spans.flat_map(|(span, s)| {
            let end = s.queries.end;
            s.queries.clone().step_by(step).map(move |t| Block { span, queries: t..end.min(t + step) })
        });
        let costs = |block: &Block| block.queries.len() * self.sight(block, 1).columns;
        let blocks: Vec<Block> = blocks.collect();
        let total = blocks.iter().map(costs).sum::<usize>().max(1);
        let rows = self.segments.queries() * self.groups;
        let n = (rows / ROWS_PER_TASK).clamp(1, MOST_TASKS.div_ceil(self.kv_heads));
        let mut parts: Vec<Vec<Block>> = (0..n).map(|_| vec![]).collect();
        let mut before = 0;
        for block in blocks {
            let cost = costs(&block);
            parts[before * n / total].push(block);
            before += cost;
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// `f(kv, part)` of every key/value head and part, in parallel, in this order.
    fn tasks<R: Send>(&self, parts: &[Vec<Block>], f: impl Fn(usize, &[Block]) -> R + Sync) -> Vec<R> {
        let task = |i: usize| f(i / parts.len(), &parts[i % parts.len()]);
        (0..self.kv_heads * parts.len()).into_par_iter().with_max_len(1).map(task).collect()
    }

    #[inline(always)]
    fn sight(&self, block: &Block, panel: usize) -> Sight {
        let prefix = self.segments.spans[block.span].prefix;
        let own = prefix.next_multiple_of(panel);
        let end = own + self.segments.own[block.queries.end - 1] as usize + 1;
        Sight { rows: block.queries.len() * self.groups, prefix, own, end, columns: end.next_multiple_of(panel) }
    }

    /// The widest block of a part.
    fn most(&self, part: &[Block], panel: usize) -> Sight {
        let sights = || part.iter().map(|block| self.sight(block, panel));
        let most = |of: fn(&Sight) -> usize| sights().map(|s| of(&s)).max().unwrap_or(0);
        Sight {
            rows: most(|s| s.rows),
            prefix: most(|s| s.prefix),
            own: most(|s| s.own),
            end: most(|s| s.end),
            columns: most(|s| s.columns),
        }
    }

    /// The end of the own keys that row `row` of a block sees, counted as its [`Sight`] counts.
    #[inline(always)]
    fn seen(&self, block: &Block, sight: &Sight, row: usize) -> usize {
        sight.own + self.segments.own[block.queries.start + row / self.groups] as usize + 1
    }

    /// Puts what the blocks of `part` in this span see of `t` (keys or values) into `packed`.
    #[inline(always)]
    fn pack<S: Simd>(&self, t: &[T], kv: usize, span: usize, part: &[Block], packed: &mut Packed) {
        let Some(last) = part.iter().rfind(|block| block.span == span) else { return };
        let (sight, keys) = (self.sight(last, panel::<S>()), &self.segments.spans[span].keys);
        let rows = |range: Range<usize>| range.map(|row| &t[(row * self.kv_heads + kv) * self.width..][..self.width]);
        packed.put(0, rows(0..sight.prefix));
        packed.clear(sight.prefix..sight.own, self.width);
        packed.put(sight.own, rows(keys.start..keys.start + sight.end - sight.own));
    }

    /// The rows of a block out of `t` `[Tq, H, E]`, `f(row)` times each, into rows of `padded` values.
    #[inline(always)]
    fn gather(&self, t: &[T], kv: usize, block: &Block, padded: usize, out: &mut [f32], f: impl Fn(usize) -> f32) {
        let (group, heads) = (self.groups * self.width, self.kv_heads);
        let queries =
            block.queries.clone().flat_map(|q| t[(q * heads + kv) * group..][..group].chunks_exact(self.width));
        for (i, (row, out)) in queries.zip(out.chunks_exact_mut(padded)).enumerate() {
            let factor = f(i);
            out.iter_mut().zip(row).for_each(|(out, x)| *out = x.widen() * factor);
        }
    }

    /// The results of all tasks, `[queries of the part, G, E]` each, as `[Tq, H, E]`.
    fn by_query(&self, parts: &[Vec<Block>], outputs: &[Vec<T>]) -> Vec<T> {
        let group = self.groups * self.width;
        let starts: Vec<usize> = parts.iter().map(|part| part[0].queries.start).collect();
        cpu::rows(self.segments.queries() * self.kv_heads, group, |i, row| {
            let (t, kv) = (i / self.kv_heads, i % self.kv_heads);
            let part = starts.partition_point(|&start| start <= t) - 1;
            row.fill(outputs[kv * parts.len() + part][(t - starts[part]) * group..][..group].iter().copied())
        })
    }

    /// The sums of all tasks as `dk` and `dv` `[T, K, E]`: added in the order of the parts.
    fn by_key(&self, parts: &[Vec<Block>], sums: &[KeySums]) -> (Vec<T>, Vec<T>) {
        let rows = self.k.len() / (self.kv_heads * self.width);
        let totals: Vec<(Vec<f32>, Vec<f32>)> = sums
            .par_chunks(parts.len().max(1))
            .map(|sums| {
                let mut total = (vec![0f32; rows * self.width], vec![0f32; rows * self.width]);
                cpu::vectorized(|| {
                    for sum in sums {
                        sum.add_to(&sum.dk, &mut total.0, self.width);
                        sum.add_to(&sum.dv, &mut total.1, self.width);
                    }
                });
                total
            })
            .collect();
        cpu::rows2(rows * self.kv_heads, (self.width, self.width), |i, dk, dv| {
            let (at, (k, v)) = (i / self.kv_heads * self.width, &totals[i % self.kv_heads]);
            let (k, v) = (&k[at..][..self.width], &v[at..][..self.width]);
            dk.fill_both(dv, k.iter().zip(v).map(|(k, v)| (T::round(*k), T::round(*v))))
        })
    }
}

/// A task's own share of `dk` and `dv`: rows of `padded` values, first the shared prefix, then a range of own keys.
struct KeySums {
    shared: usize,
    own: Range<usize>,
    padded: usize,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl KeySums {
    fn new<T: Element>(of: &Operands<T>, part: &[Block], padded: usize) -> Self {
        let spans = &of.segments.spans;
        let shared = part.iter().map(|block| spans[block.span].prefix).max().unwrap_or(0);
        let (first, last) = (&part[0], &part[part.len() - 1]);
        let start = spans[first.span].keys.start.max(shared);
        let sight = of.sight(last, 1);
        let end = start.max(spans[last.span].keys.start + sight.end - sight.own);
        let zeros = || vec![0f32; (shared + end - start) * padded];
        Self { shared, own: start..end, padded, dk: zeros(), dv: zeros() }
    }

    /// Where the sums of key `row` lie.
    fn place(&self, row: usize) -> usize {
        let row = if row < self.shared { row } else { row - self.own.start + self.shared };
        row * self.padded
    }

    /// Adds `sums` (one of the two) to `total` `[T, width]`.
    #[inline(always)]
    fn add_to(&self, sums: &[f32], total: &mut [f32], width: usize) {
        for (row, sums) in (0..self.shared).chain(self.own.clone()).zip(sums.chunks_exact(self.padded)) {
            total[row * width..][..width].iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
    }
}

struct Forward<'a, T> {
    of: &'a Operands<'a, T>,
    part: &'a [Block],
    kv: usize,
}

impl<T: Element> WithSimd for Forward<'_, T> {
    /// `[queries of the part, G, E]`
    type Output = Vec<T>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<T> {
        let Self { of, part, kv } = self;
        let (width, padded, most) = (of.width, of.width.next_multiple_of(panel::<S>()), of.most(part, panel::<S>()));
        let (mut k, mut v) = (Packed::columns::<S>(most.columns, width), Packed::rows::<S>(most.columns, width));
        let (mut q, mut o) = (vec![0f32; most.rows * padded], vec![0f32; most.rows * padded]);
        let (mut scores, mut inv) = (vec![0f32; most.rows * most.columns], vec![0f32; most.rows]);
        let mut out =
            Vec::with_capacity(part.iter().map(|block| block.queries.len()).sum::<usize>() * of.groups * width);
        let mut packed = usize::MAX;
        for block in part {
            if block.span != packed {
                of.pack::<S>(of.k, kv, block.span, part, &mut k);
                of.pack::<S>(of.v, kv, block.span, part, &mut v);
                packed = block.span;
            }
            let sight = of.sight(block, panel::<S>());
            let columns = sight.columns;
            of.gather(of.q, kv, block, padded, &mut q, |_| of.scale());
            product(simd, (sight.rows, width, columns), by_row(&q, padded), k.right(), &mut scores, columns, false);

            for (row, scores) in scores.chunks_exact_mut(columns).take(sight.rows).enumerate() {
                inv[row] = soften(simd, scores, sight.prefix, sight.own..of.seen(block, &sight, row));
            }
            product(simd, (sight.rows, sight.end, padded), by_row(&scores, columns), v.right(), &mut o, padded, false);
            for (o, inv) in o.chunks_exact(padded).zip(&inv[..sight.rows]) {
                out.extend(o[..width].iter().map(|x| T::round(x * inv)));
            }
        }
        out
    }
}

struct Backward<'a, T> {
    of: &'a Operands<'a, T>,
    d_o: &'a [T],
    part: &'a [Block],
    kv: usize,
}

impl<T: Element> WithSimd for Backward<'_, T> {
    /// `dq` `[queries of the part, G, E]`, and the part's share of `dk` and `dv`.
    type Output = (Vec<T>, KeySums);

    /// With e = e^(s·q·kᵀ − max), c = 1/Σe, P = c·e and `do' = c·do`: `dv = eᵀ·do'`, `dS = e∘(do'·vᵀ − c·rowsum(e∘(do'·vᵀ)))`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { of, d_o, part, kv } = self;
        let (width, padded, most) = (of.width, of.width.next_multiple_of(panel::<S>()), of.most(part, panel::<S>()));
        let mut k = (Packed::columns::<S>(most.columns, width), Packed::rows::<S>(most.columns, width));
        let mut v = Packed::columns::<S>(most.columns, width);
        let rows = || vec![0f32; most.rows * padded];
        let (mut q, mut d_o_scaled, mut dq) = (rows(), rows(), rows());
        let scores = || vec![0f32; most.rows * most.columns];
        let (mut e, mut ds, mut inv) = (scores(), scores(), vec![0f32; most.rows]);
        let mut out =
            Vec::with_capacity(part.iter().map(|block| block.queries.len()).sum::<usize>() * of.groups * width);
        let mut sums = KeySums::new(of, part, padded);
        let mut packed = usize::MAX;
        for block in part {
            if block.span != packed {
                of.pack::<S>(of.k, kv, block.span, part, &mut k.0);
                of.pack::<S>(of.k, kv, block.span, part, &mut k.1);
                of.pack::<S>(of.v, kv, block.span, part, &mut v);
                packed = block.span;
            }
            let sight = of.sight(block, panel::<S>());
            let (m, columns) = (sight.rows, sight.columns);
            of.gather(of.q, kv, block, padded, &mut q, |_| of.scale());
            product(simd, (m, width, columns), by_row(&q, padded), k.0.right(), &mut e, columns, false);

            for (row, e) in e.chunks_exact_mut(columns).take(m).enumerate() {
                inv[row] = soften(simd, e, sight.prefix, sight.own..of.seen(block, &sight, row));
            }
            of.gather(d_o, kv, block, padded, &mut d_o_scaled, |row| inv[row]);
            product(simd, (m, width, columns), by_row(&d_o_scaled, padded), v.right(), &mut ds, columns, false);
            for ((e, ds), inv) in e.chunks_exact(columns).zip(ds.chunks_exact_mut(columns)).zip(&inv[..m]) {
                let mean = inv * dot(simd, e, ds);
                ds.iter_mut().zip(e).for_each(|(ds, e)| *ds = e * (*ds - mean));
            }
            product(simd, (m, sight.end, padded), by_row(&ds, columns), k.1.right(), &mut dq, padded, false);
            for dq in dq.chunks_exact(padded).take(m) {
                out.extend(dq[..width].iter().map(|x| T::round(x * of.scale())));
            }
            let own = sums.place(of.segments.spans[block.span].keys.start);
            for (keys, columns_at, place) in [(sight.prefix, 0, 0), (sight.end - sight.own, sight.own, own)] {
                let shape = (keys, m, padded);
                let (ds, e) = (by_column(&ds[columns_at..], columns), by_column(&e[columns_at..], columns));
                product(simd, shape, ds, in_panels::<S>(&q, padded), &mut sums.dk[place..], padded, true);
                product(simd, shape, e, in_panels::<S>(&d_o_scaled, padded), &mut sums.dv[place..], padded, true);
            }
        }
        (out, sums)
    }
}

fn by_row(values: &[f32], row: usize) -> Left<'_> {
    Left { values, row, column: 1 }
}

/// The transpose of rows that are `row` apart.
fn by_column(values: &[f32], row: usize) -> Left<'_> {
    Left { values, row: 1, column: row }
}

fn in_panels<S: Simd>(values: &[f32], row: usize) -> Right<'_> {
    Right { values, row, panel: panel::<S>() }
}

/// Scores of a row → e^(x − max) on the columns it sees (`..prefix` and `own`), 0 on the others. Returns 1/Σ.
#[inline(always)]
fn soften<S: Simd>(simd: S, row: &mut [f32], prefix: usize, own: Range<usize>) -> f32 {
    let unseen = [prefix..own.start, own.end..row.len()];
    unseen.iter().for_each(|range| row[range.clone()].fill(f32::NEG_INFINITY));
    let mut most = [simd.splat_f32s(f32::NEG_INFINITY); 2];
    for x in pairs::<S>(row) {
        most = [simd.max_f32s(x[0], most[0]), simd.max_f32s(x[1], most[1])];
    }
    let max = simd.reduce_max_f32s(simd.max_f32s(most[0], most[1]));
    for x in row.iter_mut() {
        *x = cpu::exp(*x - max);
    }
    unseen.into_iter().for_each(|range| row[range].fill(0.0));
    let mut sums = [simd.splat_f32s(0.0); 2];
    for x in pairs::<S>(row) {
        sums = [simd.add_f32s(x[0], sums[0]), simd.add_f32s(x[1], sums[1])];
    }
    1.0 / simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1]))
}

/// Σ aᵢ·bᵢ over whole panels.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [simd.splat_f32s(0.0); 2];
    for (a, b) in pairs::<S>(a).iter().zip(pairs::<S>(b)) {
        sums = [simd.mul_add_e_f32s(a[0], b[0], sums[0]), simd.mul_add_e_f32s(a[1], b[1], sums[1])];
    }
    simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1]))
}

#[inline(always)]
fn pairs<S: Simd>(row: &[f32]) -> &[[S::f32s; 2]] {
    S::as_simd_f32s(row).0.as_chunks().0
}
