//! The forward pass of generation: new tokens of several sequences at once, behind those a cache holds.
//!
//! The same mathematics as training's forward pass, without what backward needs, and in the arithmetic generation wants:
//! on the CPU activations are f32 whatever the weights are, and every product reads its weights once. Each row gives the
//! same bits alone and among others.

use super::{Block, Qwen3};
use crate::{
    config::{LoraConfig, Projection},
    error::Result,
    kernels::{
        FrozenWeight, add,
        cached_attention::{self, Query},
        norm_rope::NormRope,
        rms_norm, rope, swiglu,
    },
    model::{AdapterWeights, KvCache, adapter_weights::LowRank, lora::LoraLinear, params::Layout, slots::declare_over},
};
use candle_core::{DType, Tensor};

/// New rows laid end to end.
struct Fed {
    /// Their queries: (sequence, tokens seen).
    queries: Vec<Query>,
    /// For every sequence: its first row, and how many.
    spans: Vec<(usize, usize)>,
    cos: Tensor,
    sin: Tensor,
}

/// The rows whose output is wanted; of the last block nothing else is computed.
struct Wanted {
    rows: Tensor,
    queries: Vec<Query>,
    cos: Tensor,
    sin: Tensor,
}

impl Qwen3 {
    /// A cache for this model, without a sequence.
    pub fn cache(&self) -> KvCache {
        let shape = (self.config.num_key_value_heads, self.config.head_dim);
        KvCache::new(self.layers.len(), shape, self.activations(), &self.device)
    }

    /// The slots of an adapter of this shape over this model, as loading the model declares them.
    pub fn adapter_layout(&self, lora: &LoraConfig) -> Result<Layout> {
        let mut layout = Layout::default();
        for (layer, block) in self.layers.iter().enumerate() {
            for projection in Projection::ALL.into_iter().filter(|p| lora.lora_target.contains(p)) {
                declare_over(block.linear(projection).base(), &mut layout, layer, projection, lora)?;
            }
        }
        Ok(layout)
    }

    /// The dtype of activations and of the cache in generation.
    pub fn activations(&self) -> DType {
        if self.device.is_cpu() { DType::F32 } else { self.dtype }
    }

    /// Puts `tokens[i]` behind sequence `i` of `cache` (no tokens: it stays as it is) and returns the hidden state of the
    /// `wanted` rows, `[L, D]`, ready for [`Self::head`]. Rows are all new tokens laid end to end; `wanted` ascends.
    ///
    /// `adapter`: `None` asks the base model. After an error the cache is as before.
    pub fn extend(
        &self,
        cache: &mut KvCache,
        tokens: &[&[u32]],
        wanted: &[u32],
        adapter: Option<&AdapterWeights>,
    ) -> Result<Tensor> {
        let fed = self.fed(cache, tokens)?;
        let queries: Vec<Query> = wanted.iter().map(|&row| fed.queries[row as usize]).collect();
        let (cos, sin) = self.rotations(&queries)?;
        let wanted = Wanted { rows: Tensor::new(wanted, &self.device)?, queries, cos, sin };

        let ids = Tensor::new(tokens.concat(), &self.device)?;
        let mut x = self.embed_tokens.rows(&ids)?.to_dtype(self.activations())?;
        for (layer, block) in self.layers.iter().enumerate() {
            let wanted = (layer + 1 == self.layers.len()).then_some(&wanted);
            x = block.infer(x, &fed, wanted, (&mut *cache, layer), adapter.map(|a| a.block(layer)))?;
        }
        for (sequence, (_, n)) in fed.spans.iter().enumerate() {
            cache.advance(sequence, *n);
        }
        normed(&x, &self.norm, self.config.rms_norm_eps)
    }

    /// Logits `[L, V]` (f32) of hidden states `[L, D]`.
    pub fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.lm_head.infer(hidden)?.to_dtype(DType::F32)?)
    }

    fn fed(&self, cache: &KvCache, tokens: &[&[u32]]) -> Result<Fed> {
        let (mut queries, mut spans) = (Vec::new(), Vec::new());
        for (sequence, tokens) in tokens.iter().enumerate() {
            spans.push((queries.len(), tokens.len()));
            let before = cache.len(sequence);
            queries.extend((1..=tokens.len()).map(|n| Query { sequence, seen: before + n }));
        }
        let (cos, sin) = self.rotations(&queries)?;
        Ok(Fed { queries, spans, cos, sin })
    }

    /// The tables of the queries' positions.
    fn rotations(&self, queries: &[Query]) -> Result<(Tensor, Tensor)> {
        let positions: Vec<u32> = queries.iter().map(|query| query.seen as u32 - 1).collect();
        rope::tables(&positions, self.config.head_dim, self.config.rope_theta, self.activations(), &self.device)
    }
}

impl Block {
    fn linear(&self, projection: Projection) -> &LoraLinear {
        match projection {
            Projection::QProj => &self.q_proj,
            Projection::KProj => &self.k_proj,
            Projection::VProj => &self.v_proj,
            Projection::OProj => &self.o_proj,
            Projection::GateProj => &self.gate_proj,
            Projection::UpProj => &self.up_proj,
            Projection::DownProj => &self.down_proj,
        }
    }

    /// `x` `[T, D]` → `[T, D]`, or `[L, D]` of the wanted rows.
    fn infer(
        &self,
        x: Tensor,
        fed: &Fed,
        wanted: Option<&Wanted>,
        (cache, layer): (&mut KvCache, usize),
        adapter: Option<&[Option<LowRank>; 7]>,
    ) -> Result<Tensor> {
        let update = |projection: Projection| adapter.and_then(|block| block[projection as usize].as_ref());
        let apply = |linear: &LoraLinear, x: &Tensor, p: Projection| project(linear.base(), x, update(p));
        let pick = |t: &Tensor| -> Result<Tensor> {
            Ok(wanted.map_or_else(|| Ok(t.clone()), |wanted| t.index_select(&wanted.rows, 0))?)
        };
        let (queries, cos, sin) = match wanted {
            None => (&fed.queries, &fed.cos, &fed.sin),
            Some(wanted) => (&wanted.queries, &wanted.cos, &wanted.sin),
        };

        // 1. Attention
        let h = normed(&x, &self.input_layernorm, self.eps)?;
        let k = apply(&self.k_proj, &h, Projection::KProj)?;
        let k = self.rotated(&k, &self.k_norm, &fed.cos, &fed.sin)?;
        let v = apply(&self.v_proj, &h, Projection::VProj)?.reshape(((), self.kv_heads, self.head_dim))?;
        for (sequence, &(start, n)) in fed.spans.iter().enumerate().filter(|(_, (_, n))| *n > 0) {
            cache.append(layer, sequence, &k.narrow(0, start, n)?, &v.narrow(0, start, n)?)?;
        }
        let q = apply(&self.q_proj, &pick(&h)?, Projection::QProj)?;
        let q = self.rotated(&q, &self.q_norm, cos, sin)?;
        let o = cached_attention::forward(&q, &cache.layer(layer), queries)?;
        let o = o.reshape(((), self.heads * self.head_dim))?;
        let x = add(&pick(&x)?, &apply(&self.o_proj, &o, Projection::OProj)?)?;

        // 2. MLP
        let h = normed(&x, &self.post_attention_layernorm, self.eps)?;
        let gate = apply(&self.gate_proj, &h, Projection::GateProj)?;
        let up = apply(&self.up_proj, &h, Projection::UpProj)?;
        add(&x, &apply(&self.down_proj, &swiglu::forward(&gate, &up)?, Projection::DownProj)?)
    }

    /// `[T, N·E]` → normed and rotated heads `[T, N, E]`.
    fn rotated(&self, x: &Tensor, norm: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        Ok(NormRope { w: &norm.to_dtype(x.dtype())?, cos, sin }.forward(x, self.eps)?.0)
    }
}

fn project(base: &FrozenWeight, x: &Tensor, update: Option<&LowRank>) -> Result<Tensor> {
    let y = base.infer(x)?;
    match update {
        None => Ok(y),
        Some(update) => update.add_to(y, x),
    }
}

/// RMSNorm in the dtype of `x`; the weight may be stored in another.
fn normed(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    Ok(rms_norm::forward(x, &w.to_dtype(x.dtype())?, eps)?.0)
}
