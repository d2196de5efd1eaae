//! Launches of `attention.cu`, and the lists that tell its blocks who sees whom.

use super::launch::{Address, Argument, Launch, narrow};
use crate::kernels::attention::{Segments, Span};
use std::ops::Range;

/// Rows of a block's own tile and rows of the other operand at a time; as in `attention.cu`.
const ROWS: usize = 64;
const STEP: usize = 32;
const THREADS: usize = 128;
/// Rows of queries that one block adds up for the keys of the prefix, at least: 16 steps, so that many blocks share the work.
const LEAST_OF_A_PART: usize = 16 * STEP;
/// Blocks that share the work on the prefix, for each key/value head, before their parts grow instead: with the 8 heads of
/// Qwen3 eight to each of an H200's 132 SMs. It bounds the memory of the sums in parts.
const MOST_PARTS: usize = 128;
/// All rows of queries see all keys of the block.
const EVERY: u32 = u32::MAX;
/// The result is written as it is, not as a part of a sum.
const NO_PART: u32 = u32::MAX;

/// Who sees whom, as the kernels read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lists {
    /// Of every block of queries: prefix, first own key, first query of the span, first row, rows, keys it sees.
    pub queries: Vec<[u32; 6]>,
    /// Of every block of keys: first key, keys, first query, first and last row that look at them, place among the own keys
    /// (or [`EVERY`]), part of the prefix's sums (or [`NO_PART`]).
    pub keys: Vec<[u32; 7]>,
    /// Rows of the prefix whose gradients come in parts.
    pub prefix: usize,
    /// Parts of each block of the prefix's keys.
    pub parts_each: usize,
}

impl Lists {
    /// For `groups` query heads to a key/value head. Rows of a span are its queries times its heads.
    pub fn new(segments: &Segments, groups: usize) -> Self {
        let prefix = segments.spans.iter().map(|span| span.prefix).max().unwrap_or(0);
        // The prefix is the first span; beside its own queries all that stand behind them look at its keys.
        let behind = if prefix > 0 { segments.spans[0].queries.end..segments.queries() } else { 0..0 };
        let all_behind = behind.len() * groups;
        let most = (MOST_PARTS / prefix.div_ceil(ROWS).max(1)).max(1);
        let of_a_part = all_behind.div_ceil(most).next_multiple_of(STEP).max(LEAST_OF_A_PART);
        let parts_each = 1 + all_behind.div_ceil(of_a_part);
        let mut lists = Self { queries: vec![], keys: vec![], prefix, parts_each };
        for (i, span) in segments.spans.iter().enumerate() {
            let own = &segments.own[span.queries.clone()];
            lists.add_queries(span, own, groups);
            for place in (0..span.keys.len()).step_by(ROWS) {
                let keys = span.keys.start + place..span.keys.end.min(span.keys.start + place + ROWS);
                let looking = own.partition_point(|&o| (o as usize) < place) * groups..own.len() * groups;
                let in_prefix = prefix > 0 && i == 0;
                let part = narrow(place / ROWS * parts_each);
                let to = if in_prefix { part } else { NO_PART };
                lists.add_keys(keys.clone(), span.queries.start, looking, narrow(place), to);
                if in_prefix {
                    for (part, start) in (part + 1..).zip((0..all_behind).step_by(of_a_part)) {
                        let rows = start..all_behind.min(start + of_a_part);
                        lists.add_keys(keys.clone(), behind.start, rows, EVERY, part);
                    }
                }
            }
        }
        lists
    }

    /// With blocks that have nothing to do, so that micro-batches of about the same shape have as many: see `Graph`.
    #[cfg_attr(not(feature = "cuda"), cfg(test))]
    pub fn filled_up(mut self) -> Self {
        const STEP: usize = 16;
        self.queries.resize(self.queries.len().next_multiple_of(STEP), [0; 6]);
        self.keys.resize(self.keys.len().next_multiple_of(STEP), [0, 0, 0, 0, 0, 0, NO_PART]);
        self
    }

    /// The blocks of a span's queries, whose places among its keys are `own`.
    fn add_queries(&mut self, span: &Span, own: &[u32], groups: usize) {
        let all = own.len() * groups;
        for first in (0..all).step_by(ROWS) {
            let rows = ROWS.min(all - first);
            let visible = span.prefix + own[(first + rows - 1) / groups] as usize + 1;
            self.queries.push([span.prefix, span.keys.start, span.queries.start, first, rows, visible].map(narrow));
        }
    }

    /// One block of keys, and which rows look at it, counted from query `queries` on.
    fn add_keys(&mut self, keys: Range<usize>, queries: usize, rows: Range<usize>, place: u32, part: u32) {
        let [first, count, queries, start, end] = [keys.start, keys.len(), queries, rows.start, rows.end].map(narrow);
        self.keys.push([first, count, queries, start, end, place, part]);
    }

    /// f32 values that the parts of the prefix's sums take.
    pub fn room_for_parts(&self, kv_heads: usize, width: usize) -> usize {
        self.prefix.div_ceil(ROWS) * self.parts_each * kv_heads * ROWS * 2 * width
    }
}

/// Heads, and the lists on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention<'a> {
    pub lists: &'a Lists,
    /// `lists.queries`, `lists.keys` and the segments' `own` in the memory of the device.
    pub at: [Address; 3],
    pub heads: usize,
    pub kv_heads: usize,
    /// E, 64 or 128.
    pub width: usize,
}

impl Attention<'_> {
    /// Whether there is a kernel for heads of this width.
    #[cfg(feature = "cuda")]
    pub fn is_for(width: usize) -> bool {
        matches!(width, 64 | 128)
    }

    /// `q` `[Tq, H, E]`, `k`, `v` `[T, K, E]` → `o` `[Tq, H, E]`, all bf16.
    pub fn forward(&self, [q, k, v]: [Address; 3], o: Address) -> Launch {
        let [queries, _, own] = self.at;
        let tiles = ROWS + 2 * STEP;
        self.launch("forward", self.lists.queries.len(), tiles, &[q, k, v, queries, own, o])
    }

    /// `d_o`, `q`, `k`, `v` → `dq`, `dk`, `dv`; between the launches `log_sums` and `dots` `[Tq, H]` and the `parts` of the
    /// prefix's sums in f32.
    pub fn backward(
        &self,
        [d_o, q, k, v]: [Address; 4],
        [dq, dk, dv]: [Address; 3],
        [log_sums, dots, parts]: [Address; 3],
    ) -> Vec<Launch> {
        let ([queries, keys, own], tiles) = (self.at, 2 * (ROWS + STEP));
        let of_queries = [d_o, q, k, v, queries, own, dq, log_sums, dots];
        let of_keys = [d_o, q, k, v, keys, own, log_sums, dots, dk, dv, parts];
        let mut launches = vec![
            self.launch("backward_queries", self.lists.queries.len(), tiles, &of_queries),
            self.launch("backward_keys", self.lists.keys.len(), tiles, &of_keys),
        ];
        if self.lists.prefix > 0 {
            let counts = [self.lists.parts_each, self.kv_heads, self.width].map(|n| Argument::from(narrow(n)));
            let arguments: Vec<Argument> = [parts, dk, dv].map(Into::into).into_iter().chain(counts).collect();
            launches.push(Launch {
                grid: [narrow(self.lists.prefix), narrow(self.kv_heads), 1],
                ..Launch::rows("attention", "attention_add_prefix".into(), 1, 2 * self.width, arguments)
            });
        }
        launches
    }

    /// A grid of `blocks` by key/value heads, `tiles` rows of E bf16 in shared memory.
    fn launch(&self, kernel: &str, blocks: usize, tiles: usize, addresses: &[Address]) -> Launch {
        let scale = std::f32::consts::LOG2_E / (self.width as f32).sqrt();
        let mut arguments: Vec<Argument> = addresses.iter().map(|&a| a.into()).collect();
        arguments.extend([narrow(self.heads).into(), narrow(self.kv_heads).into(), Argument::from(scale)]);
        let kernel = format!("attention_{kernel}_{}", self.width);
        Launch {
            grid: [narrow(blocks), narrow(self.kv_heads), 1],
            shared_bytes: narrow(tiles * self.width * 2),
            ..Launch::rows("attention", kernel, 1, THREADS, arguments)
        }
    }
}

#[cfg(all(test, feature = "cuda-host"))]
mod tests {
    use super::*;
    use crate::{
        error::Result,
        kernels::{
            attention,
            cuda::host::{Buffer, Counters, run_both, wave},
        },
    };
    use candle_core::{DType, Device, Tensor};

    /// Prefix, lengths, heads, key/value heads, width: one row, one head, groups of 1, 2, 3, 4, 5 and 8 heads, prefixes of 0,
    /// 1, 29 and more than a tile, samples of a tile and one more, many samples.
    fn cases() -> Vec<(usize, Vec<usize>, usize, usize, usize)> {
        vec![
            (0, vec![1], 1, 1, 64),
            (0, vec![5, 1, 7], 4, 2, 64),
            (1, vec![2], 2, 1, 128),
            (0, vec![64, 65], 1, 1, 64),
            (29, vec![3, 28, 30], 8, 1, 128),
            (29, vec![27; 20], 4, 2, 64),
            (3, vec![31, 33, 1], 5, 1, 128),
            (70, vec![130, 5], 3, 1, 64),
            (2, (0..300).map(|i| 1 + i % 3).collect(), 2, 2, 64),
            (0, vec![200], 4, 1, 128),
        ]
    }

    struct Case {
        segments: Segments,
        lists: Lists,
        heads: usize,
        kv_heads: usize,
        width: usize,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        d_o: Tensor,
    }

    impl Case {
        fn new(prefix: usize, lengths: &[usize], heads: usize, kv_heads: usize, width: usize, some: bool) -> Self {
            let (all, rows) = (Segments::new(prefix, lengths), prefix + lengths.iter().sum::<usize>());
            // As in the last layer: a few rows ask, none of some samples, none of the prefix.
            let asking: Vec<u32> = (prefix as u32..rows as u32).filter(|r| r % 7 < 3 && r / 50 != 1).collect();
            let segments = if some { all.select(&asking) } else { all };
            let queries = segments.queries();
            let kv = |phase| wave((rows, kv_heads, width), phase, DType::BF16);
            // Later keys are longer, so that the largest score of a row keeps growing from step to step.
            let lengths: Vec<f32> = (0..rows).map(|t| 0.25 + 3.0 * t as f32 / rows as f32).collect();
            let lengths = Tensor::from_vec(lengths, (rows, 1, 1), &Device::Cpu).and_then(|t| t.to_dtype(DType::BF16));
            let k = kv(1.0).broadcast_mul(&lengths.expect("a ramp")).expect("[T, K, E]");
            let of_queries = |phase| wave((queries, heads, width), phase, DType::BF16);
            let lists = Lists::new(&segments, heads / kv_heads);
            let lists = if some { lists.filled_up() } else { lists };
            let (q, v, d_o) = (of_queries(0.0), kv(2.0), of_queries(5.0));
            Self { segments, lists, heads, kv_heads, width, q, k, v, d_o }
        }

        fn lists(&self) -> [Buffer; 3] {
            let flat = [self.lists.queries.concat(), self.lists.keys.concat(), self.segments.own.clone()];
            flat.map(|list| Buffer::of_u32(&list))
        }

        fn attention(&self, lists: &[Buffer; 3]) -> Attention<'_> {
            let at = lists.each_ref().map(Buffer::at);
            Attention { lists: &self.lists, at, heads: self.heads, kv_heads: self.kv_heads, width: self.width }
        }

        fn forward(&self, count: bool) -> (Tensor, Counters) {
            let mut lists = self.lists();
            let [mut q, mut k, mut v] = [&self.q, &self.k, &self.v].map(Buffer::input);
            let mut o = Buffer::output(DType::BF16, self.q.elem_count());
            let launch = self.attention(&lists).forward([q.at(), k.at(), v.at()], o.at());
            let mut buffers = vec![&mut q, &mut k, &mut v, &mut o];
            buffers.extend(&mut lists);
            let counters =
                run_both(&[launch], &mut buffers, count).unwrap_or_else(|wrong| panic!("{}: {wrong}", self.name()));
            (o.tensor(DType::BF16, self.q.shape()), counters)
        }

        fn backward(&self, count: bool) -> ([Tensor; 3], Counters) {
            let mut lists = self.lists();
            let mut inputs = [&self.d_o, &self.q, &self.k, &self.v].map(Buffer::input);
            let like = [&self.q, &self.k, &self.v];
            let mut outputs = like.map(|t| Buffer::output(DType::BF16, t.elem_count()));
            let of_rows = self.segments.queries() * self.heads;
            let room = self.lists.room_for_parts(self.kv_heads, self.width);
            let mut between = [of_rows, of_rows, room].map(|n| Buffer::output(DType::F32, n));
            let launches = self.attention(&lists).backward(
                inputs.each_ref().map(Buffer::at),
                outputs.each_ref().map(Buffer::at),
                between.each_ref().map(Buffer::at),
            );
            let buffers = inputs.iter_mut().chain(&mut outputs).chain(&mut between).chain(&mut lists);
            let mut buffers: Vec<&mut Buffer> = buffers.collect();
            let counters =
                run_both(&launches, &mut buffers, count).unwrap_or_else(|wrong| panic!("{}: {wrong}", self.name()));
            let [dq, dk, dv] = outputs;
            let tensor = |b: Buffer, like: &Tensor| b.tensor(DType::BF16, like.shape());
            ([tensor(dq, &self.q), tensor(dk, &self.k), tensor(dv, &self.v)], counters)
        }

        fn name(&self) -> String {
            format!("{} queries, {} / {} heads of {}", self.segments.queries(), self.heads, self.kv_heads, self.width)
        }
    }

    /// Probabilities and their gradients are rounded to bf16 before the second product, as tensor cores want them: by element
    /// a few steps of bf16 of the largest terms, over the whole tensor half a percent.
    #[track_caller]
    fn assert_close(got: &Tensor, want: &Tensor, what: &str) -> Result<()> {
        crate::testing::assert_close(got, want, 3e-2);
        let (got, want) = (got.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
        let norm = |t: &Tensor| -> Result<f64> { Ok(t.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt()) };
        let relative = norm(&(got - &want)?)? / norm(&want)?.max(1e-3);
        assert!(relative < 5e-3, "{what}: relative error {relative:e}");
        Ok(())
    }

    #[test]
    fn forward_and_backward_agree_with_the_cpu() -> Result<()> {
        for (prefix, lengths, heads, kv_heads, width) in cases() {
            for some in [false, true] {
                let case = Case::new(prefix, &lengths, heads, kv_heads, width, some);
                if case.segments.queries() == 0 {
                    continue;
                }
                let Case { q, k, v, d_o, segments, .. } = &case;
                let name = case.name();
                assert_close(&case.forward(false).0, &attention::forward(q, k, v, segments)?, &name)?;
                let (dq, dk, dv) = attention::backward(d_o, q, k, v, segments)?;
                for (got, want) in case.backward(false).0.iter().zip([dq, dk, dv]) {
                    assert_close(got, &want, &name)?;
                }
            }
        }
        Ok(())
    }

    /// Tiles times products of them, from the shapes alone: a kernel with one ornamental matrix instruction fails here.
    #[test]
    fn products_are_done_by_matrix_instructions_without_bank_conflicts() {
        for (heads, width) in [(2, 64), (5, 128)] {
            let case = Case::new(29, &[28; 8], heads, 1, width, false);
            let product = ROWS / 16 * (STEP / 8) * (width / 16); // of a tile of 64 rows with one of 32, either way
            let steps = |n: u32| (n as usize).div_ceil(STEP);
            let of_queries: usize = case.lists.queries.iter().map(|list| steps(list[5])).sum();
            let of_keys: usize = case.lists.keys.iter().map(|list| steps(list[4] - list[3])).sum();
            let (_, forward) = case.forward(true);
            assert_eq!(forward.matrix_products as usize, of_queries * 2 * product, "S and P·V");
            let (_, backward) = case.backward(true);
            // Queries: S and dP twice, and dS·K. Keys: S, dP, Pᵀ·dO and dSᵀ·Q.
            assert_eq!(backward.matrix_products as usize, (of_queries * 5 + of_keys * 4) * product);
            for counted in [forward, backward] {
                assert!(counted.shared_wavefronts * 4 <= counted.shared_ideal * 5, "bank conflicts: {counted:?}");
                assert!(counted.load_sectors * 4 <= counted.load_ideal * 5, "scattered loads: {counted:?}");
            }
        }
    }

    /// A long prefix before many rows: 2,000 and 6,000 of Qwen3-14B, five query heads to a key/value head.
    #[test]
    fn sums_in_parts_take_little_memory_whatever_the_prefix() {
        for (prefix, rows) in [(29, 883), (29, 60_000), (2000, 6000), (8000, 8000)] {
            let lists = Lists::new(&Segments::new(prefix, &vec![50; rows / 50]), 5);
            let tiles = prefix.div_ceil(ROWS);
            assert!(tiles * (lists.parts_each - 1) <= MOST_PARTS.max(tiles), "{prefix}, {rows}");
            assert!(lists.parts_each > 2 || tiles * 2 > MOST_PARTS || rows < 1000, "work is shared: {prefix}, {rows}");
            let bytes = lists.room_for_parts(8, 128) * 4;
            assert!(bytes <= (MOST_PARTS + 2 * tiles) * ROWS * 8 * 2 * 128 * 4, "{prefix}, {rows}: {bytes}");
        }
    }

    #[test]
    fn lists_cover_every_row_once_and_every_pair_of_query_and_key() {
        for (prefix, lengths, heads, kv_heads, _) in cases() {
            let groups = heads / kv_heads;
            let segments = Segments::new(prefix, &lengths);
            let rows = segments.queries();
            let lists = Lists::new(&segments, groups);
            let covered: usize = lists.queries.iter().map(|list| list[4] as usize).sum();
            assert_eq!(covered, rows * groups);
            let mut written = vec![0; rows];
            let mut pairs = 0;
            for &[keys, count, queries, first, last, place, part] in &lists.keys {
                if part == NO_PART || (part as usize).is_multiple_of(lists.parts_each) {
                    (keys..keys + count).for_each(|key| written[key as usize] += 1);
                }
                for row in first..last {
                    let sees = segments.own[(queries + row / groups as u32) as usize] + 1;
                    pairs += if place == EVERY { count } else { sees.saturating_sub(place).min(count) } as usize;
                }
            }
            assert!(written.iter().all(|&n| n == 1), "every key belongs to one block");
            let seen = segments
                .spans
                .iter()
                .flat_map(|span| segments.own[span.queries.clone()].iter().map(|own| span.prefix + *own as usize + 1));
            assert_eq!(pairs, seen.sum::<usize>() * groups);
        }
    }
}
