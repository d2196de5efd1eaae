//! Qwen3, forward and backward, over rows laid end to end. Names are the checkpoint's.
//!
//! What a block keeps for its backward pass is [`Keep`]'s choice; what it does not keep is rebuilt bit for bit. Only what the loss needs is computed: the head and, in the last
//! block, everything after keys and values run on labelled rows alone, and the first block hands no gradient down.

mod infer;

use super::{
    config::Qwen3Config,
    lora::{Backward, Dropout, LoraLinear, Projected, Trace, backward_all, forward_all, through_all},
    params::{Grads, Layout, Params},
    weights::{Change, Checkpoint},
};
use crate::{
    config::{LoraConfig, Projection},
    error::{Error, Result},
    kernels::{
        FrozenWeight, Segments, add_to, attention,
        cross_entropy::{self, Labels, NO_TARGET},
        norm_rope::NormRope,
        return_freed_buffers, rms_norm, rope, swiglu,
    },
    rng::Key,
};
use candle_core::{D, DType, Device, Tensor};
use serde::Serialize;

/// A micro-batch as the model eats it: `T` rows, no padding, no batch dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `T` token ids.
    pub ids: Vec<u32>,
    /// `T` positions, restarting with each sample.
    pub positions: Vec<u32>,
    /// Who sees whom.
    pub segments: Segments,
    /// For every row the index of its sample in the data set (a key for dropout).
    pub samples: Vec<u64>,
    /// `L` rows whose next token is trained, ascending.
    pub label_rows: Vec<u32>,
    /// `L` token ids to predict there.
    pub targets: Vec<u32>,
    /// Added to the embeddings in training, `T·D` values row by row.
    pub noise: Option<Vec<f32>>,
}

/// Dropout of a training pass.
#[derive(Debug, Clone, Copy)]
pub struct DropoutPlan {
    /// Probability of zeroing.
    pub p: f64,
    /// Key of (seed, step).
    pub key: Key,
}

#[cfg(test)]
impl DropoutPlan {
    /// For rooms that draw no random numbers themselves.
    pub fn anywhere(p: f64) -> Option<Self> {
        (p > 0.0).then(|| Self { p, key: Key::new(1, "") })
    }
}

/// What every block keeps of its forward pass for its backward pass. Costs memory or time and changes no bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// All of it but the SwiGLU product, which its backward pass gives again.
    Everything,
    /// The inputs of norms, attention and SwiGLU; norm outputs and rotated heads are rebuilt.
    Lean,
    /// Its input alone; its forward pass is run a second time (activation checkpointing).
    Input,
}

/// The frozen model and where its adapters sit.
pub struct Qwen3 {
    embed_tokens: FrozenWeight,
    layers: Vec<Block>,
    norm: Tensor,
    lm_head: FrozenWeight,
    config: Qwen3Config,
    dtype: DType,
    device: Device,
}

pub(super) struct Block {
    input_layernorm: Tensor,
    q_proj: LoraLinear,
    k_proj: LoraLinear,
    v_proj: LoraLinear,
    o_proj: LoraLinear,
    q_norm: Tensor,
    k_norm: Tensor,
    post_attention_layernorm: Tensor,
    gate_proj: LoraLinear,
    up_proj: LoraLinear,
    down_proj: LoraLinear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f64,
}

/// What a block needs besides its input rows.
pub(super) struct Rows {
    /// Queries among all rows; `Tq` of them.
    segments: Segments,
    cos: Tensor,
    sin: Tensor,
    /// The tables of the query rows; equal to the above in all blocks but the last.
    cos_q: Tensor,
    sin_q: Tensor,
    /// Which rows the block's output has; `None`: all.
    selected: Option<Tensor>,
    keys: Vec<(u64, u32)>,
    keys_q: Vec<(u64, u32)>,
}

/// A micro-batch where the model computes: all that training reads of it.
pub(super) struct Inputs {
    /// `[T]` u32
    pub(super) ids: Tensor,
    /// `[T, D]`
    noise: Option<Tensor>,
    pub(super) labels: Labels,
    pub(super) rows: PassRows,
}

/// The rows of a pass: of all blocks but the last, and of the last, whose output is on labelled rows alone.
pub(super) struct PassRows {
    pub(super) all: Rows,
    pub(super) last: Rows,
}

/// What a block keeps for its backward pass. `Tq` are the rows of its output.
pub(super) struct Saved {
    x: Tensor,                  // [T, D]
    inv_rms: Tensor,            // [T, 1]
    q: (Tensor, Tensor),        // before its norm [Tq, H·E], and 1/rms of its heads [Tq·H, 1]
    k: (Tensor, Tensor),        // [T, K·E]
    v: Tensor,                  // [T, K, E]
    o: Tensor,                  // [Tq, H·E]
    x_mid: Tensor,              // after attention [Tq, D]
    inv_rms_mid: Tensor,        // [Tq, 1]
    gate: Tensor,               // [Tq, F]
    up: Tensor,                 // [Tq, F]
    traces: [Option<Trace>; 7], // of the adapter of every projection, in Projection::ALL order
    derived: Derived,
}

/// What follows from the rest of [`Saved`], where it is kept.
#[derive(Default)]
struct Derived {
    h: Option<Tensor>,         // normalised rows [T, D]
    q_rotated: Option<Tensor>, // [Tq, H, E]
    k_rotated: Option<Tensor>, // [T, K, E]
    h_mid: Option<Tensor>,     // [Tq, D]
}

/// What is left of a block until its backward pass.
enum Kept {
    Saved(Box<Saved>),
    Input(Tensor),
}

/// Rows whose logits are computed at once: at most 512, and at most 128 MiB in f32.
pub fn head_rows(vocab_size: usize) -> usize {
    ((128 << 20) / (4 * vocab_size)).clamp(1, 512)
}

impl Qwen3 {
    /// Gives what earlier passes have freed back to the system: before passes of other sizes.
    pub fn release_buffers(&self) {
        return_freed_buffers();
    }

    /// Reads the base weights in `dtype` onto `device` and declares the adapters in the returned layout.
    pub fn load(
        config: &Qwen3Config,
        checkpoint: &Checkpoint,
        lora: &LoraConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<(Self, Layout)> {
        Self::load_changed(config, checkpoint, None, lora, (dtype, device))
    }

    /// As [`Self::load`], with the matrices changed while they are read: adapters merged into them.
    pub fn load_changed(
        config: &Qwen3Config,
        checkpoint: &Checkpoint,
        change: Option<&Change>,
        lora: &LoraConfig,
        (dtype, device): (DType, &Device),
    ) -> Result<(Self, Layout)> {
        let vector = |name: &str, width| checkpoint.tensor(name, &[width], dtype, device);
        let matrix = |name: &str, shape| checkpoint.frozen_changed(name, shape, (dtype, device), change);
        Self::assemble(config, lora, (dtype, device), &vector, &matrix)
    }

    /// As [`Self::load`], with weights from anywhere: `weight(name, shape)` in `dtype` on `device`.
    pub fn build(
        config: &Qwen3Config,
        lora: &LoraConfig,
        dtype: DType,
        device: &Device,
        weight: impl Fn(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<(Self, Layout)> {
        let vector = |name: &str, width| weight(name, &[width]);
        let matrix = |name: &str, (out, width)| FrozenWeight::new(weight(name, &[out, width])?);
        Self::assemble(config, lora, (dtype, device), &vector, &matrix)
    }

    fn assemble(
        config: &Qwen3Config,
        lora: &LoraConfig,
        (dtype, device): (DType, &Device),
        vector: &impl Fn(&str, usize) -> Result<Tensor>,
        matrix: &impl Fn(&str, (usize, usize)) -> Result<FrozenWeight>,
    ) -> Result<(Self, Layout)> {
        let mut layout = Layout::default();
        let (d, v) = (config.hidden_size, config.vocab_size);
        let embed_tokens = matrix("model.embed_tokens.weight", (v, d))?;
        let layers: Result<Vec<Block>> =
            (0..config.num_hidden_layers).map(|i| Block::build(config, lora, i, vector, matrix, &mut layout)).collect();
        let lm_head = match config.tie_word_embeddings {
            true => embed_tokens.clone(),
            false => matrix("lm_head.weight", (v, d))?,
        };
        let model = Self {
            embed_tokens,
            layers: layers?,
            norm: vector("model.norm.weight", d)?,
            lm_head,
            config: config.clone(),
            dtype,
            device: device.clone(),
        };
        Ok((model, layout))
    }

    /// The checkpoint's geometry.
    pub fn config(&self) -> &Qwen3Config {
        &self.config
    }

    /// The dtype of weights and activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Logits `[L, V]` (f32) of the label rows: for tests and for looking at a model, not for training.
    pub fn logits(&self, batch: &Batch, params: &Params) -> Result<Tensor> {
        let (y, _) = rms_norm::forward(&self.infer_hidden(batch, params)?, &self.norm, self.config.rms_norm_eps)?;
        Ok(self.lm_head.forward(&y)?.to_dtype(DType::F32)?)
    }

    /// Negative log-likelihood of every label, `[L]` f32 in nats, without gradients.
    pub fn nll(&self, batch: &Batch, params: &Params) -> Result<Tensor> {
        self.by_chunk(batch, params, cross_entropy::nll)
    }

    /// [`Self::nll`], and the likeliest token where the label stands, `[L]` u32.
    pub fn nll_and_likeliest(&self, batch: &Batch, params: &Params) -> Result<(Tensor, Tensor)> {
        let mut likeliest = vec![];
        let nll = self.by_chunk(batch, params, |logits, targets| {
            likeliest.push(logits.argmax(D::Minus1)?);
            cross_entropy::nll(logits, targets)
        })?;
        Ok((nll, Tensor::cat(&likeliest, 0)?))
    }

    /// What `look` makes of the logits `[l, V]` and labels of one chunk of label rows after the other, end to end.
    fn by_chunk(
        &self,
        batch: &Batch,
        params: &Params,
        mut look: impl FnMut(&Tensor, &[u32]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (y, _) = rms_norm::forward(&self.infer_hidden(batch, params)?, &self.norm, self.config.rms_norm_eps)?;
        let seen: Result<Vec<Tensor>> = self
            .head_chunks(batch.label_rows.len())
            .map(|(start, len)| {
                let logits = self.lm_head.forward(&y.narrow(0, start, len)?)?;
                look(&logits, &batch.targets[start..start + len])
            })
            .collect();
        Ok(Tensor::cat(&seen?, 0)?)
    }

    /// Forward and backward: adds `∂(scale·Σ nll)/∂θ` into `grads` and returns the nll of every label, `[L]` f32.
    pub fn train(
        &self,
        batch: &Batch,
        params: &Params,
        grads: &mut Grads,
        scale: f64,
        how: (Option<DropoutPlan>, Keep),
    ) -> Result<Tensor> {
        self.train_on(&self.inputs(batch, scale)?, params, grads, how)
    }

    /// Puts what [`Self::train_on`] reads where the model computes.
    pub(super) fn inputs(&self, batch: &Batch, scale: f64) -> Result<Inputs> {
        let shape = (batch.ids.len(), self.config.hidden_size);
        let noise = |values: &Vec<f32>| Tensor::from_slice(values, shape, &self.device)?.to_dtype(self.dtype);
        Ok(Inputs {
            noise: batch.noise.as_ref().map(noise).transpose()?,
            ids: Tensor::new(batch.ids.as_slice(), &self.device)?,
            labels: Labels::new(&batch.targets, scale, &self.device)?,
            rows: PassRows::new(batch, &self.config, self.dtype, &self.device)?,
        })
    }

    /// [`Self::train`] of a micro-batch that is in place.
    pub(super) fn train_on(
        &self,
        Inputs { ids, noise, labels, rows }: &Inputs,
        params: &Params,
        grads: &mut Grads,
        (dropout, keep): (Option<DropoutPlan>, Keep),
    ) -> Result<Tensor> {
        let mut kept = Vec::with_capacity(self.layers.len());
        let embedded = self.embed_tokens.rows(ids)?;
        let embedded = if let Some(noise) = noise { (embedded + noise)? } else { embedded };
        let hidden = self.hidden(embedded, rows, params, (dropout, keep), |saved| {
            kept.push(if keep == Keep::Input { Kept::Input(saved.x) } else { Kept::Saved(Box::new(saved)) });
        })?;
        let (losses, mut dx) = self.head_backward(labels, &hidden)?;
        drop(hidden);
        for (i, (block, kept)) in self.layers.iter().zip(kept).enumerate().rev() {
            let rows = if i + 1 == self.layers.len() { &rows.last } else { &rows.all };
            let saved = match kept {
                Kept::Saved(saved) => *saved,
                Kept::Input(x) => block.forward(x, rows, params, (dropout, Keep::Everything))?.1,
            };
            match block.backward(dx, saved, rows, params, grads, dropout, i > 0)? {
                Some(lower) => dx = lower,
                None => break,
            }
        }
        Ok(losses)
    }

    /// [`Self::hidden`] without a trace.
    fn infer_hidden(&self, batch: &Batch, params: &Params) -> Result<Tensor> {
        let rows = PassRows::new(batch, &self.config, self.dtype, &self.device)?;
        let ids = Tensor::new(batch.ids.as_slice(), &self.device)?;
        self.hidden(self.embed_tokens.rows(&ids)?, &rows, params, (None, Keep::Lean), |_| ())
    }

    /// The residual stream after the last block, label rows only: `[L, D]`. `x`: before the first, `[T, D]`.
    fn hidden(
        &self,
        mut x: Tensor,
        rows: &PassRows,
        params: &Params,
        how: (Option<DropoutPlan>, Keep),
        mut save: impl FnMut(Saved),
    ) -> Result<Tensor> {
        for (i, block) in self.layers.iter().enumerate() {
            let rows = if i + 1 == self.layers.len() { &rows.last } else { &rows.all };
            let (y, saved) = block.forward(x, rows, params, how)?;
            save(saved);
            x = y;
        }
        Ok(x)
    }

    /// Loss and the gradient of the last block's output, `[L, D]`, in chunks of rows.
    fn head_backward(&self, labels: &Labels, hidden: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, inv_rms) = rms_norm::forward(hidden, &self.norm, self.config.rms_norm_eps)?;
        let (mut losses, mut dys) = (vec![], vec![]);
        for (start, len) in self.head_chunks(hidden.dim(0)?) {
            let logits = self.lm_head.forward(&y.narrow(0, start, len)?)?;
            let (nll, dlogits) = cross_entropy::nll_and_grad(logits, &labels.narrow(start, len)?)?;
            losses.push(nll);
            dys.push(self.lm_head.backward(&dlogits)?);
        }
        let dy = Tensor::cat(&dys, 0)?;
        let dx = rms_norm::backward(&dy, hidden, &self.norm, &inv_rms)?;
        Ok((Tensor::cat(&losses, 0)?, dx))
    }

    /// (start, length) of chunks of label rows: [`head_rows`].
    fn head_chunks(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let step = head_rows(self.config.vocab_size);
        (0..rows).step_by(step).map(move |start| (start, step.min(rows - start)))
    }
}

impl Inputs {
    /// Everything of them on the device, in a fixed order.
    pub(super) fn tensors(&self) -> Vec<&Tensor> {
        let Self { ids, noise, labels, rows: PassRows { all, last } } = self;
        let tables = [&all.cos, &all.sin, &last.cos_q, &last.sin_q];
        std::iter::once(ids).chain(noise).chain(labels.tensors()).chain(tables).chain(last.selected.iter()).collect()
    }

    /// Who sees whom, in all blocks but the last, and in the last.
    pub(super) fn segments(&self) -> [&Segments; 2] {
        [&self.rows.all.segments, &self.rows.last.segments]
    }
}

impl PassRows {
    /// Tables, masks and keys of a pass: made once, read by every block forward and backward.
    pub(super) fn new(batch: &Batch, config: &Qwen3Config, dtype: DType, device: &Device) -> Result<Self> {
        let tables = |positions: &[u32]| rope::tables(positions, config.head_dim, config.rope_theta, dtype, device);
        let (cos, sin) = tables(&batch.positions)?;
        let keys: Vec<(u64, u32)> = batch.samples.iter().copied().zip(batch.positions.iter().copied()).collect();
        let selected = &batch.label_rows;
        let keys_q: Vec<(u64, u32)> = selected.iter().map(|&r| keys[r as usize]).collect();
        let (cos_q, sin_q) = tables(&keys_q.iter().map(|k| k.1).collect::<Vec<_>>())?;
        let last = Rows {
            segments: batch.segments.select(selected),
            cos: cos.clone(),
            sin: sin.clone(),
            cos_q,
            sin_q,
            selected: Some(Tensor::new(selected.as_slice(), device)?),
            keys: keys.clone(),
            keys_q,
        };
        let all = Rows {
            segments: batch.segments.clone(),
            cos_q: cos.clone(),
            sin_q: sin.clone(),
            cos,
            sin,
            selected: None,
            keys_q: keys.clone(),
            keys,
        };
        Ok(Self { all, last })
    }
}

impl Rows {
    /// The rows of the block's output.
    fn pick(&self, t: &Tensor) -> Result<Tensor> {
        Ok(match &self.selected {
            None => t.clone(),
            Some(rows) => t.index_select(rows, 0)?,
        })
    }

    /// The inverse of [`Self::pick`]: zeros where no output row is.
    fn spread(&self, t: Tensor) -> Result<Tensor> {
        Ok(match &self.selected {
            None => t,
            Some(rows) => {
                let zeros = Tensor::zeros((self.keys.len(), t.dim(1)?), t.dtype(), t.device())?;
                zeros.index_add(rows, &t, 0)?
            }
        })
    }
}

impl Block {
    pub(super) fn build(
        config: &Qwen3Config,
        lora: &LoraConfig,
        layer: usize,
        vector: &impl Fn(&str, usize) -> Result<Tensor>,
        matrix: &impl Fn(&str, (usize, usize)) -> Result<FrozenWeight>,
        layout: &mut Layout,
    ) -> Result<Self> {
        let (d, e) = (config.hidden_size, config.head_dim);
        let norm = |name: &str, width: usize| vector(&format!("model.layers.{layer}.{name}.weight"), width);
        let mut linear = |projection: Projection| -> Result<LoraLinear> {
            let w =
                matrix(&format!("model.layers.{layer}.{}.weight", projection.path()), config.projection(projection))?;
            LoraLinear::new(w, layer, projection, lora, layout)
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm", d)?,
            q_proj: linear(Projection::QProj)?,
            k_proj: linear(Projection::KProj)?,
            v_proj: linear(Projection::VProj)?,
            o_proj: linear(Projection::OProj)?,
            q_norm: norm("self_attn.q_norm", e)?,
            k_norm: norm("self_attn.k_norm", e)?,
            post_attention_layernorm: norm("post_attention_layernorm", d)?,
            gate_proj: linear(Projection::GateProj)?,
            up_proj: linear(Projection::UpProj)?,
            down_proj: linear(Projection::DownProj)?,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: e,
            eps: config.rms_norm_eps,
        })
    }

    /// `x` `[T, D]` → `y` `[Tq, D]`.
    pub(super) fn forward(
        &self,
        x: Tensor,
        rows: &Rows,
        params: &Params,
        (dropout, keep): (Option<DropoutPlan>, Keep),
    ) -> Result<(Tensor, Saved)> {
        let (all, some) = (keyed(dropout, &rows.keys), keyed(dropout, &rows.keys_q));
        let (all, some) = (all.as_ref(), some.as_ref());

        // 1. Attention, on normalised rows: [T, D] → [Tq, H·E]
        let (h, inv_rms) = rms_norm::forward(&x, &self.input_layernorm, self.eps)?;
        let [(q, trace_q), (k, trace_k), (v, trace_v)] = match &rows.selected {
            None => projected(forward_all(&[&self.q_proj, &self.k_proj, &self.v_proj], &h, params, all)?),
            Some(_) => {
                let q = self.q_proj.forward(&rows.pick(&h)?, params, some)?;
                let [k, v] = projected(forward_all(&[&self.k_proj, &self.v_proj], &h, params, all)?);
                [q, k, v]
            }
        };
        let (q_rotated, inv_q) = self.q_rope(rows).forward(&q, self.eps)?;
        let (k_rotated, inv_k) = self.k_rope(rows).forward(&k, self.eps)?;
        let v = v.reshape(((), self.kv_heads, self.head_dim))?;
        let o = attention::forward(&q_rotated, &k_rotated, &v, &rows.segments)?;
        let o = o.reshape(((), self.heads * self.head_dim))?;
        let (attended, trace_o) = self.o_proj.forward(&o, params, some)?;

        // 2. MLP: [Tq, D] → [Tq, F] → [Tq, D]
        let (x_mid, (h_mid, inv_rms_mid)) =
            rms_norm::forward_sum(attended, &rows.pick(&x)?, &self.post_attention_layernorm, self.eps)?;
        let [(gate, trace_gate), (up, trace_up)] =
            projected(forward_all(&[&self.gate_proj, &self.up_proj], &h_mid, params, some)?);
        let product = swiglu::forward(&gate, &up)?;
        let (down, trace_down) = self.down_proj.forward(&product, params, some)?;
        let y = add_to(down, &x_mid)?;

        let traces = [trace_q, trace_k, trace_v, trace_o, trace_gate, trace_up, trace_down];
        let derived = match keep {
            Keep::Everything => {
                Derived { h: Some(h), q_rotated: Some(q_rotated), k_rotated: Some(k_rotated), h_mid: Some(h_mid) }
            }
            Keep::Lean | Keep::Input => Derived::default(),
        };
        Ok((y, Saved { x, inv_rms, q: (q, inv_q), k: (k, inv_k), v, o, x_mid, inv_rms_mid, gate, up, traces, derived }))
    }

    /// `dy` `[Tq, D]` → `dx` `[T, D]`, or nothing where no block below needs it.
    #[expect(clippy::too_many_arguments, reason = "forward's operands, the gradients, and whether to go on")]
    fn backward(
        &self,
        dy: Tensor,
        saved: Saved,
        rows: &Rows,
        params: &Params,
        grads: &mut Grads,
        dropout: Option<DropoutPlan>,
        need_dx: bool,
    ) -> Result<Option<Tensor>> {
        let (all, some) = (keyed(dropout, &rows.keys), keyed(dropout, &rows.keys_q));
        let mut pass = Backward { params, grads, dropout: some.as_ref() };
        let Saved { x, inv_rms, q, k, v, o, x_mid, inv_rms_mid, gate, up, traces, derived } = saved;
        let [trace_q, trace_k, trace_v, trace_o, trace_gate, trace_up, trace_down] = &traces;

        // 2. MLP
        let (d_product, through) = through_all(&[(&self.down_proj, &dy, trace_down.as_ref())], &mut pass, true)?;
        let (d_gate, d_up, product) = swiglu::backward(&needed(d_product), &gate, &up)?;
        through.add_da(&product, &mut pass)?;
        drop((product, gate, up));
        let h = or(derived.h_mid, || rms_norm::rebuild(&x_mid, &self.post_attention_layernorm, &inv_rms_mid))?;
        let both = [(&self.gate_proj, &d_gate, trace_gate.as_ref()), (&self.up_proj, &d_up, trace_up.as_ref())];
        let dh = needed(backward_all(&both, &h, &mut pass, true)?);
        drop((d_gate, d_up, h));
        let d_mid = rms_norm::backward_sum(&dh, &x_mid, &self.post_attention_layernorm, &inv_rms_mid, &dy)?;
        drop((dy, dh, x_mid));
        let attention_is_trained =
            [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj].iter().any(|p| p.is_trained());
        if !need_dx && !attention_is_trained {
            return Ok(None);
        }

        // 1. Attention
        let d_o = needed(self.o_proj.backward(&d_mid, &o, trace_o.as_ref(), &mut pass, true)?);
        drop(o);
        let d_o = d_o.reshape(((), self.heads, self.head_dim))?;
        let (q_rope, k_rope) = (self.q_rope(rows), self.k_rope(rows));
        let q_rotated = or(derived.q_rotated, || q_rope.rebuild(&q.0, &q.1))?;
        let k_rotated = or(derived.k_rotated, || k_rope.rebuild(&k.0, &k.1))?;
        let (dq, dk, dv) = attention::backward(&d_o, &q_rotated, &k_rotated, &v, &rows.segments)?;
        drop((d_o, q_rotated, k_rotated, v));
        let dq = q_rope.backward(&dq, &q.0, &q.1)?;
        let dk = k_rope.backward(&dk, &k.0, &k.1)?;
        let dv = dv.reshape(((), self.kv_heads * self.head_dim))?;
        drop((q, k));

        let h = or(derived.h, || rms_norm::rebuild(&x, &self.input_layernorm, &inv_rms))?;
        let q = (&self.q_proj, &dq, trace_q.as_ref());
        let (k, v) = ((&self.k_proj, &dk, trace_k.as_ref()), (&self.v_proj, &dv, trace_v.as_ref()));
        pass.dropout = all.as_ref();
        let dh = match &rows.selected {
            None => backward_all(&[q, k, v], &h, &mut pass, need_dx)?,
            Some(_) => {
                let dh = backward_all(&[k, v], &h, &mut pass, need_dx)?;
                pass.dropout = some.as_ref();
                let through_q = backward_all(&[q], &rows.pick(&h)?, &mut pass, need_dx)?;
                match (dh, through_q) {
                    (Some(dh), Some(through_q)) => Some(add_to(rows.spread(through_q)?, &dh)?),
                    _ => None,
                }
            }
        };
        let Some(dh) = dh else { return Ok(None) };
        drop((dq, dk, dv, h));
        Ok(Some(rms_norm::backward_sum(&dh, &x, &self.input_layernorm, &inv_rms, &rows.spread(d_mid)?)?))
    }

    fn q_rope<'a>(&'a self, rows: &'a Rows) -> NormRope<'a> {
        NormRope { w: &self.q_norm, cos: &rows.cos_q, sin: &rows.sin_q }
    }

    fn k_rope<'a>(&'a self, rows: &'a Rows) -> NormRope<'a> {
        NormRope { w: &self.k_norm, cos: &rows.cos, sin: &rows.sin }
    }
}

#[cfg(test)]
impl Qwen3 {
    /// Bytes of all that is kept between forward and backward.
    pub(crate) fn kept_bytes(
        &self,
        batch: &Batch,
        params: &Params,
        (dropout, keep): (Option<DropoutPlan>, Keep),
    ) -> Result<usize> {
        let rows = PassRows::new(batch, &self.config, self.dtype, &self.device)?;
        let mut bytes = 0;
        let ids = Tensor::new(batch.ids.as_slice(), &self.device)?;
        let how = (dropout, keep);
        self.hidden(self.embed_tokens.rows(&ids)?, &rows, params, how, |saved| bytes += saved.bytes(keep))?;
        Ok(bytes)
    }
}

#[cfg(test)]
impl Saved {
    fn bytes(&self, keep: Keep) -> usize {
        let mut tensors = vec![&self.x];
        if keep != Keep::Input {
            tensors.extend([&self.inv_rms, &self.q.0, &self.q.1, &self.k.0, &self.k.1, &self.v, &self.o, &self.x_mid]);
            tensors.extend([&self.inv_rms_mid, &self.gate, &self.up]);
            tensors.extend(self.traces.iter().flatten().flat_map(Trace::tensors));
        }
        let d = &self.derived;
        tensors.extend([&d.h, &d.q_rotated, &d.k_rotated, &d.h_mid].into_iter().flatten());
        tensors.iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }
}

/// What was kept, or made again.
fn or(kept: Option<Tensor>, again: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    kept.map_or_else(again, Ok)
}

fn keyed(plan: Option<DropoutPlan>, rows: &[(u64, u32)]) -> Option<Dropout<'_>> {
    plan.map(|DropoutPlan { p, key }| Dropout { p, key, rows })
}

/// The input gradient of projections that were asked for it.
fn needed(dx: Option<Tensor>) -> Tensor {
    dx.expect("backward_all returns dx when need_dx is set")
}

/// What `N` projections gave.
fn projected<const N: usize>(all: Vec<Projected>) -> [Projected; N] {
    all.try_into().unwrap_or_else(|_| unreachable!("forward_all gives one for every projection"))
}

impl Batch {
    /// Lays `samples` (index in the data set, token ids, labels) end to end.
    ///
    /// `labels` are as long as `ids` and not shifted; `ignore` marks a token that is not trained. The last token of a
    /// sample is only a target: it is never fed. With `share_prefix` the token ids that all samples begin with stand
    /// once, in front, for all of them: under causal attention those rows are equal in every sample. No labelled row is
    /// among them, and every sample keeps a row of its own.
    ///
    /// ```text
    /// rows  | p0 p1 … pP-1 | a0 a1 a2 … | b0 b1 … |
    /// pos   | 0  1  … P-1  | P  P+1 …   | P  P+1 … |
    /// ```
    pub fn pack(samples: &[(u64, &[u32], &[u32])], ignore: u32, share_prefix: bool) -> Result<Self> {
        let first_label = |labels: &[u32]| labels.iter().skip(1).position(|&label| label != ignore).map(|i| i + 1);
        let rows = samples.iter().map(|(_, ids, labels)| (*ids, first_label(labels).unwrap_or(ids.len())));
        let prefix = if share_prefix { Self::shared_prefix(rows) } else { 0 };
        let mut batch = Self {
            ids: vec![],
            positions: vec![],
            segments: Segments::new(0, &[]),
            samples: vec![],
            label_rows: vec![],
            targets: vec![],
            noise: None,
        };
        if let Some((sample, ids, _)) = samples.first() {
            batch.push(*sample, &ids[..prefix], 0);
        }
        let mut lengths = vec![];
        for (sample, ids, labels) in samples {
            let fed = ids.len().saturating_sub(1);
            // The row that predicts label i stands at i − 1 of its sample, of which the first `prefix` rows are shared.
            let start = batch.ids.len();
            batch.push(*sample, &ids[prefix..fed], prefix);
            for (i, &label) in labels.iter().enumerate().skip(1).filter(|(_, label)| **label != ignore) {
                batch.label_rows.push((start + i - 1 - prefix) as u32);
                batch.targets.push(label);
            }
            lengths.push(fed - prefix);
        }
        if batch.label_rows.is_empty() {
            return Err(Error::run("internal error: a micro-batch without a label"));
        }
        batch.segments = Segments::new(prefix, &lengths);
        Ok(batch)
    }

    /// Rows that one copy can stand for: the common token prefix of two or more samples, short of any row with a label. A sample
    /// is its ids and where its first label stands that a row predicts; where it has none, its length.
    pub fn shared_prefix<'s>(samples: impl Iterator<Item = (&'s [u32], usize)>) -> usize {
        let unlabelled =
            |(ids, first_label): (&[u32], usize)| first_label.min(ids.len().saturating_sub(1)).saturating_sub(1);
        let mut samples = samples.peekable();
        let Some(first) = samples.next() else { return 0 };
        if samples.peek().is_none() {
            return 0;
        }
        samples.fold(unlabelled(first), |prefix, sample| {
            let prefix = prefix.min(unlabelled(sample));
            first.0.iter().zip(sample.0).take(prefix).take_while(|(a, b)| a == b).count()
        })
    }

    /// As many rows and labels as micro-batches of about its shape: a sample that no one trains behind the others.
    ///
    /// Loss and gradients are the same sums, with zeros added.
    pub fn filled_up(&self) -> Self {
        const ROWS: usize = 64;
        const LABELS: usize = 32;
        let labels = self.targets.len().next_multiple_of(LABELS) - self.targets.len();
        let rows = (self.ids.len() + labels.max(1)).next_multiple_of(ROWS) - self.ids.len();
        let mut more = self.clone();
        more.push(u64::MAX, &vec![0; rows], 0);
        more.segments = self.segments.and(rows);
        let end = more.ids.len() as u32;
        more.label_rows.extend(end - labels as u32..end);
        more.targets.extend(vec![NO_TARGET; labels]);
        more
    }

    fn push(&mut self, sample: u64, ids: &[u32], first_position: usize) {
        self.ids.extend(ids);
        self.positions.extend((first_position..first_position + ids.len()).map(|p| p as u32));
        self.samples.extend(std::iter::repeat_n(sample, ids.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: u32 = u32::MAX;

    fn pack(samples: &[(&[u32], &[u32])], share: bool) -> Batch {
        let samples: Vec<_> = samples.iter().enumerate().map(|(i, (ids, labels))| (i as u64, *ids, *labels)).collect();
        Batch::pack(&samples, NO, share).expect("a batch")
    }

    #[test]
    fn rows_positions_and_labels_of_a_pack() {
        let a: (&[u32], &[u32]) = (&[1, 2, 3, 4, 5], &[NO, NO, NO, 4, 5]);
        let b: (&[u32], &[u32]) = (&[1, 2, 9, 8], &[NO, NO, NO, 8]);
        let plain = pack(&[a, b], false);
        assert_eq!(plain.ids, [1, 2, 3, 4, 1, 2, 9]);
        assert_eq!(plain.positions, [0, 1, 2, 3, 0, 1, 2]);
        assert_eq!((plain.label_rows, plain.targets), (vec![2, 3, 6], vec![4, 5, 8]));
        assert_eq!(plain.segments, Segments::new(0, &[4, 3]));

        let shared = pack(&[a, b], true);
        assert_eq!(shared.ids, [1, 2, 3, 4, 9]);
        assert_eq!(shared.positions, [0, 1, 2, 3, 2]);
        assert_eq!((shared.label_rows, shared.targets), (vec![2, 3, 4], vec![4, 5, 8]));
        assert_eq!(shared.segments, Segments::new(2, &[2, 1]));
    }

    #[test]
    fn a_prefix_holds_no_label_and_leaves_every_sample_a_row() {
        for (samples, want, why) in [
            (vec![(&[1u32, 2, 3, 4][..], &[NO, NO, NO, 4][..])], 0, "one sample alone"),
            (vec![(&[1, 2, 3, 4], &[NO, NO, NO, 4]), (&[1, 2, 3, 5], &[NO, NO, NO, 5])], 2, "row 2 predicts the label"),
            (vec![(&[1, 2, 3, 4], &[1, 2, 3, 4]), (&[1, 2, 3, 5], &[1, 2, 3, 5])], 0, "prompts are trained"),
            (vec![(&[7, 2, 3, 4], &[NO, NO, NO, 4]), (&[1, 2, 3, 5], &[NO, NO, NO, 5])], 0, "nothing in common"),
            (vec![(&[1, 2, 3, 4], &[NO, NO, NO, 4]), (&[1, 2, 3, 4], &[NO, NO, NO, 4])], 2, "twice the same"),
            (vec![(&[1, 2, 3, 4], &[NO; 4]), (&[1, 2, 3, 4], &[NO, NO, NO, 4])], 2, "one without a label"),
        ] {
            let first = |labels: &[u32]| (1..4).find(|&i| labels[i] != NO).unwrap_or(4);
            assert_eq!(Batch::shared_prefix(samples.iter().map(|(ids, labels)| (*ids, first(labels)))), want, "{why}");
            let rows: Vec<_> = samples.iter().map(|(ids, labels)| (0, *ids, *labels)).collect();
            let fed: usize = rows.iter().map(|(_, ids, _)| ids.len() - 1).sum();
            assert_eq!(Batch::pack(&rows, NO, true).unwrap().ids.len(), fed - want * (rows.len() - 1), "{why}");
        }
    }
}
