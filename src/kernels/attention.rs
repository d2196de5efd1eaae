//! Causal attention over rows laid end to end, with grouped-query heads and an optional shared prefix.
//!
//! ```text
//! rows  | p0 p1 … | a0 a1 a2 … | b0 b1 … |     one micro-batch, no padding
//! sees  | causal  | prefix + own earlier rows | never another sample
//! ```
//!
//! Scores are rebuilt in the backward pass, so nothing of size rows × rows outlives a segment.

mod fused;
mod tile;

use super::wide::{nearest, wide};
use crate::error::Result;
use candle_core::{D, Device, Tensor};
use half::bf16;
use std::ops::Range;

/// Who sees whom among the rows of a micro-batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    pub(super) spans: Vec<Span>,
    /// For every query row: its index among the own keys of its span; it sees that key and all earlier ones.
    pub(super) own: Vec<u32>,
}

/// One sample (or the shared prefix itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Rows of the prefix that every query of this span sees: `0..prefix`.
    pub(super) prefix: usize,
    /// Its own key rows.
    pub(super) keys: Range<usize>,
    /// Its query rows. All of `keys` in every layer but the last.
    pub(super) queries: Range<usize>,
}

impl Segments {
    /// Samples of the given lengths laid end to end behind `prefix` shared rows (0: none).
    pub fn new(prefix: usize, lengths: &[usize]) -> Self {
        let mut spans = Vec::with_capacity(lengths.len() + 1);
        let mut own = Vec::new();
        let mut push = |start: usize, len: usize, prefix: usize| {
            spans.push(Span { prefix, keys: start..start + len, queries: start..start + len });
            own.extend(0..len as u32);
            start + len
        };
        let mut at = if prefix > 0 { push(0, prefix, 0) } else { 0 };
        for &len in lengths {
            at = push(at, len, prefix);
        }
        Self { spans, own }
    }

    /// The same keys, but only `rows` (ascending) ask: the last layer needs its output on labelled rows alone.
    pub fn select(&self, rows: &[u32]) -> Self {
        let mut at = 0;
        let spans = self.spans.iter().map(|span| {
            let start = at;
            while at < rows.len() && (rows[at] as usize) < span.queries.end {
                at += 1;
            }
            Span { queries: start..at, ..span.clone() }
        });
        Self { spans: spans.collect(), own: rows.iter().map(|&r| self.own[r as usize]).collect() }
    }

    /// With `rows` more rows behind the others, which see the prefix that the last sample sees, and each other.
    pub fn and(&self, rows: usize) -> Self {
        let mut more = self.clone();
        let prefix = self.spans.last().map_or(0, |span| span.prefix);
        let start = self.spans.last().map_or(0, |span| span.keys.end);
        more.spans.push(Span { prefix, keys: start..start + rows, queries: start..start + rows });
        more.own.extend(0..rows as u32);
        more
    }

    /// Query rows.
    pub fn queries(&self) -> usize {
        self.own.len()
    }

    /// Key rows.
    #[cfg(feature = "cuda")]
    pub(super) fn keys(&self) -> usize {
        self.spans.iter().map(|span| span.keys.end).max().unwrap_or(0)
    }

    fn mask(&self, span: &Span, device: &Device) -> Result<Tensor> {
        let width = span.prefix + span.keys.len();
        let rows = &self.own[span.queries.clone()];
        let mask: Vec<f32> = rows
            .iter()
            .flat_map(|&own| {
                let seen = span.prefix + own as usize + 1;
                (0..width).map(move |key| if key < seen { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        Ok(Tensor::from_vec(mask, (rows.len(), width), device)?)
    }
}

/// `q` `[Tq, H, E]`, `k`, `v` `[T, K, E]` → `o` `[Tq, H, E]`. Scores are scaled by 1/√E; softmax in f32.
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments) -> Result<Tensor> {
    for body in [fused::forward::<f32>, fused::forward::<bf16>] {
        if let Some(o) = body(q, k, v, segments)? {
            return Ok(o);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(o) = super::cuda::attention_forward(q, k, v, segments)? {
        return Ok(o);
    }
    forward_composed(q, k, v, segments)
}

fn forward_composed(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments) -> Result<Tensor> {
    let outputs: Result<Vec<_>> = segments
        .spans
        .iter()
        .filter(|span| !span.queries.is_empty())
        .map(|span| {
            let part = Part::new(q, k, v, segments, span)?;
            part.ungroup(&part.probabilities()?.to_dtype(q.dtype())?.matmul(&part.v)?)
        })
        .collect();
    Ok(Tensor::cat(&outputs?, 0)?)
}

/// `d_o` `[Tq, H, E]` → (`dq` `[Tq, H, E]`, `dk`, `dv` `[T, K, E]`).
///
/// With P = softmax(s·q·kᵀ): `dv = Pᵀ·do`, `dS = P∘(do·vᵀ − rowsum(P∘(do·vᵀ)))`, `dq = s·dS·k`, `dk = s·dSᵀ·q`;
/// the rows of the shared prefix collect the gradients of every sample.
pub fn backward(
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
) -> Result<(Tensor, Tensor, Tensor)> {
    for body in [fused::backward::<f32>, fused::backward::<bf16>] {
        if let Some(all) = body(d_o, q, k, v, segments)? {
            return Ok(all);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(all) = super::cuda::attention_backward(d_o, q, k, v, segments)? {
        return Ok(all);
    }
    backward_composed(d_o, q, k, v, segments)
}

/// One span's rows with the heads grouped by the key/value head they share: `G = H/K` query heads each.
struct Part {
    q: Tensor, // [K, G·Sq, E]
    k: Tensor, // [K, Sk, E]
    v: Tensor, // [K, Sk, E]
    mask: Tensor,
    groups: usize,
    scale: f64,
}

impl Part {
    fn new(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, span: &Span) -> Result<Self> {
        let (_, heads, width) = q.dims3()?;
        let groups = heads / k.dim(1)?;
        let keys = |t: &Tensor| -> Result<Tensor> {
            let own = t.narrow(0, span.keys.start, span.keys.len())?;
            let seen = match span.prefix {
                0 => own,
                p => Tensor::cat(&[t.narrow(0, 0, p)?, own], 0)?,
            };
            Ok(seen.transpose(0, 1)?.contiguous()?)
        };
        Ok(Self {
            q: group(&q.narrow(0, span.queries.start, span.queries.len())?, groups)?,
            k: keys(k)?,
            v: keys(v)?,
            mask: segments.mask(span, q.device())?,
            groups,
            scale: 1.0 / (width as f64).sqrt(),
        })
    }

    /// P in f32, `[K, G·Sq, Sk]`.
    fn probabilities(&self) -> Result<Tensor> {
        let scores = (wide(&self.q.matmul(&self.k.t()?)?)? * self.scale)?;
        let (kv, rows, seen) = scores.dims3()?;
        let (queries, _) = self.mask.dims2()?;
        let mask = self.mask.to_dtype(scores.dtype())?;
        let masked = scores.reshape((kv, self.groups, queries, seen))?.broadcast_add(&mask)?;
        // Not softmax_last_dim: this one is differentiable, so the composition is its own reference in tests.
        Ok(candle_nn::ops::softmax(&masked, D::Minus1)?.reshape((kv, rows, seen))?)
    }

    /// `[K, G·Sq, E]` → `[Sq, H, E]`.
    fn ungroup(&self, t: &Tensor) -> Result<Tensor> {
        let (kv, rows, width) = t.dims3()?;
        let queries = rows / self.groups;
        Ok(t.reshape((kv, self.groups, queries, width))?.permute((2, 0, 1, 3))?.reshape((
            queries,
            kv * self.groups,
            width,
        ))?)
    }
}

/// `[Sq, H, E]` → `[K, G·Sq, E]`.
fn group(t: &Tensor, groups: usize) -> Result<Tensor> {
    let (queries, heads, width) = t.dims3()?;
    let kv = heads / groups;
    Ok(t.reshape((queries, kv, groups, width))?.permute((1, 2, 0, 3))?.reshape((kv, groups * queries, width))?)
}

fn backward_composed(
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (mut dqs, mut dks, mut dvs) = (vec![], vec![], vec![]);
    let mut d_prefix: Option<(Tensor, Tensor)> = None;
    for span in &segments.spans {
        if span.queries.is_empty() {
            let zeros = k.narrow(0, span.keys.start, span.keys.len())?.zeros_like()?;
            dks.push(zeros.clone());
            dvs.push(zeros);
            continue;
        }
        let part = Part::new(q, k, v, segments, span)?;
        let d_o = group(&d_o.narrow(0, span.queries.start, span.queries.len())?, part.groups)?;
        let p = part.probabilities()?;
        let dp = wide(&d_o.matmul(&part.v.t()?)?)?;
        let weighted = (&p * dp)?;
        let row_sums = weighted.sum_keepdim(D::Minus1)?;
        let ds = ((weighted - p.broadcast_mul(&row_sums)?)? * part.scale)?.to_dtype(q.dtype())?;
        dqs.push(part.ungroup(&ds.matmul(&part.k)?)?);
        let dk = ds.t()?.matmul(&part.q)?.transpose(0, 1)?; // [Sk, K, E]
        let dv = p.to_dtype(q.dtype())?.t()?.matmul(&d_o)?.transpose(0, 1)?;
        let own = |t: &Tensor| t.narrow(0, span.prefix, span.keys.len());
        dks.push(own(&dk)?);
        dvs.push(own(&dv)?);
        if span.prefix > 0 {
            let (pk, pv) = (dk.narrow(0, 0, span.prefix)?, dv.narrow(0, 0, span.prefix)?);
            d_prefix = Some(match d_prefix {
                None => (pk, pv),
                Some((k, v)) => (nearest(Tensor::add, &k, &pk)?, nearest(Tensor::add, &v, &pv)?),
            });
        }
    }
    if let Some((pk, pv)) = d_prefix {
        dks[0] = nearest(Tensor::add, &dks[0], &pk)?;
        dvs[0] = nearest(Tensor::add, &dvs[0], &pv)?;
    }
    Ok((Tensor::cat(&dqs, 0)?, Tensor::cat(&dks, 0)?, Tensor::cat(&dvs, 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::DType;
    use candle_core::Var;

    /// Reference: every query against every key with a dense mask, out of differentiable operations.
    fn reference(q: &Tensor, k: &Tensor, v: &Tensor, prefix: usize, lengths: &[usize]) -> Result<Tensor> {
        let (rows, heads, width) = q.dims3()?;
        let groups = heads / k.dim(1)?;
        let repeat = |t: &Tensor| -> Result<Tensor> {
            let (rows, kv, width) = t.dims3()?;
            let t = t.unsqueeze(2)?.expand((rows, kv, groups, width))?.reshape((rows, heads, width))?;
            Ok(t.transpose(0, 1)?.contiguous()?)
        };
        let mut sample = vec![0usize; prefix];
        sample.extend(lengths.iter().enumerate().flat_map(|(i, &n)| vec![i + 1; n]));
        let mask: Vec<f32> = (0..rows * rows)
            .map(|i| (i / rows, i % rows))
            .map(|(q, k)| if k <= q && (sample[k] == sample[q] || sample[k] == 0) { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let mask = Tensor::from_vec(mask, (rows, rows), q.device())?;
        let scores = (q.transpose(0, 1)?.contiguous()?.matmul(&repeat(k)?.t()?)? / (width as f64).sqrt())?;
        let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        Ok(p.matmul(&repeat(v)?)?.transpose(0, 1)?.contiguous()?)
    }

    /// (prefix, lengths, heads, key/value heads, width)
    const CASES: [(usize, &[usize], usize, usize, usize); 10] = [
        (0, &[1], 1, 1, 4),
        (0, &[5, 1, 7], 4, 2, 8),
        (0, &[33, 2], 2, 2, 64),
        (3, &[4, 1, 6], 4, 1, 8),
        (1, &[2], 2, 1, 40),
        (29, &[3, 3], 8, 2, 16),
        (16, &[16, 32], 3, 1, 48),
        (42, &[35, 20, 33, 1, 34, 35, 35, 17, 31, 35], 4, 2, 64), // several tasks
        (0, &[530], 3, 1, 20),                                    // one sample over several tasks
        (200, &[300, 5], 5, 1, 12),                               // as is its prefix
    ];

    #[test]
    fn agrees_with_the_reference_forward_and_backward() -> Result<()> {
        for device in devices() {
            for (prefix, lengths, heads, kv, width) in CASES {
                let rows = prefix + lengths.iter().sum::<usize>();
                let var = |shape, phase| -> Result<Var> { Ok(Var::from_tensor(&wave(shape, phase, &device)?)?) };
                let q = var((rows, heads, width), 0.0)?;
                let (k, v) = (var((rows, kv, width), 1.0)?, var((rows, kv, width), 2.0)?);
                let d_o = wave((rows, heads, width), 5.0, &device)?;
                let segments = Segments::new(prefix, lengths);
                let slow = reference(&q, &k, &v, prefix, lengths)?;
                assert_close(&forward(&q, &k, &v, &segments)?, &slow, 1e-5);
                let want = (slow * &d_o)?.backward()?;
                let composed = backward_composed(&d_o, &q, &k, &v, &segments)?;
                let fused = backward(&d_o, &q, &k, &v, &segments)?;
                for (dq, dk, dv) in [composed, fused] {
                    for (got, var) in [(dq, &q), (dk, &k), (dv, &v)] {
                        assert_close(&got, want.get(var).expect("a Var"), 1e-5);
                    }
                }
            }
        }
        Ok(())
    }

    /// Scores, softmax and sums in f32 whatever is stored: the f32 result on the same values, rounded once.
    #[test]
    fn bf16_is_the_f32_body_rounded_once_and_close_to_the_composition() -> Result<()> {
        for (prefix, lengths, heads, kv, width) in CASES {
            let rows = prefix + lengths.iter().sum::<usize>();
            let make =
                |shape, phase| -> Result<Tensor> { Ok(wave(shape, phase, &Device::Cpu)?.to_dtype(DType::BF16)?) };
            let (q, d_o) = (make((rows, heads, width), 0.0)?, make((rows, heads, width), 5.0)?);
            let (k, v) = (make((rows, kv, width), 1.0)?, make((rows, kv, width), 2.0)?);
            let segments = Segments::new(prefix, lengths);
            let wide = |t: &Tensor| t.to_dtype(DType::F32);
            let rounded = |t: Tensor| t.to_dtype(DType::BF16);
            let o = forward(&q, &k, &v, &segments)?;
            assert_close(&o, &rounded(forward(&wide(&q)?, &wide(&k)?, &wide(&v)?, &segments)?)?, 0.0);
            assert_close(&o, &forward_composed(&q, &k, &v, &segments)?, 2e-2);
            let (dq, dk, dv) = backward(&d_o, &q, &k, &v, &segments)?;
            let want = backward(&wide(&d_o)?, &wide(&q)?, &wide(&k)?, &wide(&v)?, &segments)?;
            for (got, want) in [(&dq, want.0), (&dk, want.1), (&dv, want.2)] {
                assert_close(got, &rounded(want)?, 0.0);
            }
            let composed = backward_composed(&d_o, &q, &k, &v, &segments)?;
            for (got, want) in [(dq, composed.0), (dk, composed.1), (dv, composed.2)] {
                assert_close(&got, &want, 4e-2);
            }
        }
        Ok(())
    }

    #[test]
    fn selected_queries_equal_the_same_rows_of_all() -> Result<()> {
        let segments = Segments::new(2, &[4, 3, 5]);
        let (q, k) = (wave((14, 2, 8), 0.0, &Device::Cpu)?, wave((14, 1, 8), 1.0, &Device::Cpu)?);
        let (v, d_all) = (wave((14, 1, 8), 2.0, &Device::Cpu)?, wave((14, 2, 8), 3.0, &Device::Cpu)?);
        let rows = [3u32, 5, 10, 12, 13]; // none of the second sample
        let index = Tensor::new(&rows, &Device::Cpu)?;
        let some = segments.select(&rows);
        assert_eq!(some.queries(), rows.len());
        let q_some = q.index_select(&index, 0)?;
        let want = forward(&q, &k, &v, &segments)?.index_select(&index, 0)?;
        assert_close(&forward(&q_some, &k, &v, &some)?, &want, 0.0);

        // Gradients: the unselected rows of d_o are zero.
        let d_some = d_all.index_select(&index, 0)?;
        let d_full = d_all.zeros_like()?.index_add(&index, &d_some, 0)?;
        let (dq, dk, dv) = backward(&d_full, &q, &k, &v, &segments)?;
        for (got_q, got_k, got_v) in
            [backward(&d_some, &q_some, &k, &v, &some)?, backward_composed(&d_some, &q_some, &k, &v, &some)?]
        {
            assert_close(&got_q, &dq.index_select(&index, 0)?, 1e-5);
            assert_close(&got_k, &dk, 1e-5);
            assert_close(&got_v, &dv, 1e-5);
        }
        Ok(())
    }

    #[test]
    fn the_composition_equals_the_fused_body() -> Result<()> {
        for (prefix, lengths, heads, kv, width) in CASES {
            let rows = prefix + lengths.iter().sum::<usize>();
            let make = |shape, phase| wave(shape, phase, &Device::Cpu);
            let (q, k, v) =
                (make((rows, heads, width), 0.0)?, make((rows, kv, width), 1.0)?, make((rows, kv, width), 2.0)?);
            let segments = Segments::new(prefix, lengths);
            // f64 takes the composed body.
            let wide = |t: &Tensor| t.to_dtype(DType::F64);
            let composed = forward(&wide(&q)?, &wide(&k)?, &wide(&v)?, &segments)?.to_dtype(DType::F32)?;
            assert_close(&forward(&q, &k, &v, &segments)?, &composed, 1e-5);
        }
        Ok(())
    }
}
