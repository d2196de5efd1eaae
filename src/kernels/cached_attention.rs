//! Attention of new rows over keys and values that were kept: generation feeds a sequence piece by piece.
//!
//! Sequences may have any lengths; there is no padding. A query gives the same bits alone and among others.
//! The reference is [`attention`](super::attention).

use super::{
    attention::{self, Segments},
    cpu,
};
use crate::error::Result;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Tokens a [`KvBlock`] has room for.
pub const BLOCK: usize = 32;

/// Keys and values of up to [`BLOCK`] consecutive tokens of a sequence, in one layer.
#[derive(Debug, Clone)]
pub struct KvBlock {
    /// Rotated keys, `[BLOCK, K, E]`.
    pub k: Tensor,
    /// Values, `[BLOCK, K, E]`.
    pub v: Tensor,
}

/// Who asks: one row of `q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Index of its sequence.
    pub sequence: usize,
    /// It sees so many tokens of it, from the first.
    pub seen: usize,
}

/// `q` `[T, H, E]`, one of `queries` for every row, the blocks of every sequence → `o` `[T, H, E]`.
pub fn forward(q: &Tensor, sequences: &[&[Arc<KvBlock>]], queries: &[Query]) -> Result<Tensor> {
    let (_, heads, width) = q.dims3()?;
    let kv_heads = sequences.iter().find_map(|blocks| blocks.first()).map_or(Ok(1), |block| block.k.dim(1))?;
    if let Some(qs) = cpu::f32s(q)
        && let Some(guards) = read(sequences)
    {
        let slices: Vec<Blocks> =
            guards.iter().map(|s| s.iter().map(|(k, v)| (&**k, &**v)).collect::<Vec<_>>()).collect();
        let shape = Shape { heads, kv_heads, width };
        return Ok(Tensor::from_vec(on_cpu(&qs, &slices, queries, shape), q.shape(), &Device::Cpu)?);
    }
    composed(q, sequences, queries)
}

/// Keys and values of a sequence.
type Blocks<'a> = Vec<(&'a [f32], &'a [f32])>;

/// Keys and values of a block, for as long as they are read.
type Guards<'a> = (cpu::Values<'a, f32>, cpu::Values<'a, f32>);

/// `None` where a block is not f32 on the CPU.
fn read<'a>(sequences: &[&'a [Arc<KvBlock>]]) -> Option<Vec<Vec<Guards<'a>>>> {
    let block = |block: &'a Arc<KvBlock>| Some((cpu::f32s(&block.k)?, cpu::f32s(&block.v)?));
    sequences.iter().map(|blocks| blocks.iter().map(block).collect()).collect()
}

/// The queries of a sequence stand together: each such run is an [`attention`] of its own.
fn composed(q: &Tensor, sequences: &[&[Arc<KvBlock>]], queries: &[Query]) -> Result<Tensor> {
    let mut outputs = Vec::new();
    let mut start = 0;
    for run in queries.chunk_by(|a, b| a.sequence == b.sequence) {
        let seen = run.iter().map(|query| query.seen).max().unwrap_or(0);
        let blocks = &sequences[run[0].sequence][..seen.div_ceil(BLOCK)];
        let join = |part: fn(&KvBlock) -> &Tensor| -> Result<Tensor> {
            let parts: Vec<&Tensor> = blocks.iter().map(|block| part(block)).collect();
            Ok(Tensor::cat(&parts, 0)?.narrow(0, 0, seen)?)
        };
        let rows: Vec<u32> = run.iter().map(|query| query.seen as u32 - 1).collect();
        let segments = Segments::new(0, &[seen]).select(&rows);
        let q = q.narrow(0, start, run.len())?;
        outputs.push(attention::forward(&q, &join(|b| &b.k)?, &join(|b| &b.v)?, &segments)?);
        start += run.len();
    }
    Ok(Tensor::cat(&outputs, 0)?)
}

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    width: usize,
}

/// Parallel over (row, key/value head); the query heads that share it lie side by side.
fn on_cpu(q: &[f32], sequences: &[Blocks], queries: &[Query], shape: Shape) -> Vec<f32> {
    const GRAIN: usize = 32 * 1024; // multiplications worth a task of their own
    let Shape { heads, kv_heads, width } = shape;
    let group = heads / kv_heads * width;
    let longest = queries.iter().map(|query| query.seen).max().unwrap_or(1);
    let mut out = vec![0f32; q.len()];
    let parts = out.par_chunks_mut(group).zip(q.par_chunks(group)).enumerate();
    parts.with_min_len((GRAIN / (2 * group * longest)).max(1)).for_each(|(i, (out, q))| {
        let (t, kv) = (i / kv_heads, i % kv_heads);
        let Query { sequence, seen } = queries[t];
        let keys = Keys { blocks: &sequences[sequence], seen, at: kv * width, stride: kv_heads * width };
        cpu::vectorized(|| {
            let mut p = Vec::with_capacity(seen);
            for (q, out) in q.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                keys.attend(q, out, &mut p);
            }
        });
    });
    out
}

/// What one query sees of one head.
struct Keys<'a> {
    blocks: &'a [(&'a [f32], &'a [f32])],
    seen: usize,
    /// Where the head begins in a token, and how long a token is.
    at: usize,
    stride: usize,
}

impl Keys<'_> {
    /// `out` must be zero.
    #[inline(always)]
    fn attend(&self, q: &[f32], out: &mut [f32], p: &mut Vec<f32>) {
        let width = q.len();
        let scale = 1.0 / (width as f32).sqrt();
        p.clear();
        for (token, (k, _)) in self.tokens() {
            p.push(cpu::dot(q, &k[token + self.at..][..width]) * scale);
        }
        let max = cpu::max(p);
        for x in p.iter_mut() {
            *x = cpu::exp(*x - max);
        }
        let inv = 1.0 / cpu::sum(p);
        for (p, (token, (_, v))) in p.iter().zip(self.tokens()) {
            cpu::axpy(p * inv, &v[token + self.at..][..width], out);
        }
    }

    /// Every token seen: where it begins in its block, and the block.
    #[inline(always)]
    fn tokens(&self) -> impl Iterator<Item = (usize, (&[f32], &[f32]))> {
        let places = (0..BLOCK).map(move |i| i * self.stride);
        self.blocks.iter().flat_map(move |block| places.clone().map(move |at| (at, *block))).take(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::DType;

    /// Sequences of such lengths, and their keys and values as whole tensors.
    fn sequences(lengths: &[usize], kv: usize, width: usize, device: &Device) -> Result<Vec<(Tensor, Tensor)>> {
        let make = |i: usize, len, phase| wave((len, kv, width), phase + i as f64, device);
        lengths.iter().enumerate().map(|(i, &len)| Ok((make(i, len, 1.0)?, make(i, len, 2.0)?))).collect()
    }

    fn blocks((k, v): &(Tensor, Tensor)) -> Result<Vec<Arc<KvBlock>>> {
        let (len, kv, width) = k.dims3()?;
        let block = |t: &Tensor, start: usize| -> Result<Tensor> {
            let part = t.narrow(0, start, BLOCK.min(len - start))?;
            if part.dim(0)? == BLOCK {
                return Ok(part);
            }
            let rest = Tensor::zeros((BLOCK - part.dim(0)?, kv, width), DType::F32, t.device())?;
            Ok(Tensor::cat(&[part, rest], 0)?)
        };
        (0..len).step_by(BLOCK).map(|s| Ok(Arc::new(KvBlock { k: block(k, s)?, v: block(v, s)? }))).collect()
    }

    #[test]
    fn agrees_with_attention_over_ragged_sequences() -> Result<()> {
        for device in devices() {
            for (lengths, fed, heads, kv, width) in [
                (&[1][..], &[1][..], 1, 1, 4),
                (&[5, 40, 33], &[1, 1, 1], 4, 2, 8),
                (&[70, 3], &[38, 3], 4, 1, 40),
                (&[64, 32, 200], &[2, 32, 1], 8, 2, 64),
            ] {
                let whole = sequences(lengths, kv, width, &device)?;
                let blocks: Vec<_> = whole.iter().map(blocks).collect::<Result<_>>()?;
                let blocks: Vec<&[Arc<KvBlock>]> = blocks.iter().map(Vec::as_slice).collect();
                let (mut want, mut queries, mut qs) = (vec![], vec![], vec![]);
                for (i, ((k, v), (&len, &new))) in whole.iter().zip(lengths.iter().zip(fed)).enumerate() {
                    let q = wave((new, heads, width), 0.3 * i as f64, &device)?;
                    let rows: Vec<u32> = (len as u32 - new as u32..len as u32).collect();
                    want.push(attention::forward(&q, k, v, &Segments::new(0, &[len]).select(&rows))?);
                    queries.extend(rows.iter().map(|&r| Query { sequence: i, seen: r as usize + 1 }));
                    qs.push(q);
                }
                let (q, want) = (Tensor::cat(&qs, 0)?, Tensor::cat(&want, 0)?);
                assert_close(&forward(&q, &blocks, &queries)?, &want, 1e-6);
                assert_close(&composed(&q, &blocks, &queries)?, &want, 1e-5);
                for (t, query) in queries.iter().enumerate() {
                    let alone = forward(&q.narrow(0, t, 1)?, &blocks, &[*query])?;
                    // A card's products are summed in an order that depends on their shapes.
                    let tolerance = if device.is_cpu() { 0.0 } else { 1e-6 };
                    assert_close(&alone, &forward(&q, &blocks, &queries)?.narrow(0, t, 1)?, tolerance);
                }
            }
        }
        Ok(())
    }
}
