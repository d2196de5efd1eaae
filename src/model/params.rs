//! The trainable parameters: f32 masters in one flat buffer, their gradients beside it.

use crate::{
    error::{Error, Result},
    kernels::add_to,
};
use candle_core::{DType, Device, Tensor};

/// Which parameter: an index into [`Params::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamId(usize);

/// Where a parameter lives in the flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// PEFT's name without the suffix of a file, e.g. `model.layers.0.self_attn.q_proj.lora_A`.
    pub name: String,
    /// (rows, columns)
    pub shape: (usize, usize),
    offset: usize,
}

impl Slot {
    /// Whether it is a B, which begins as zero.
    pub fn is_b(&self) -> bool {
        self.name.ends_with(".lora_B")
    }

    fn len(&self) -> usize {
        self.shape.0 * self.shape.1
    }

    /// Its elements in [`Params::flat`].
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// All LoRA matrices, laid end to end.
///
/// The buffer is never written in place: an update replaces it, so views of the old one stay valid.
#[derive(Debug, Clone)]
pub struct Params {
    slots: Vec<Slot>,
    flat: Tensor,
    compute: Tensor,
}

/// Collects slots before any memory is taken.
#[derive(Debug, Default)]
pub struct Layout {
    slots: Vec<Slot>,
    len: usize,
}

impl Layout {
    /// Adds a matrix `name` of `shape` (rows, columns).
    pub fn push(&mut self, name: String, shape: (usize, usize)) -> ParamId {
        let slot = Slot { name, shape, offset: self.len };
        self.len += slot.len();
        self.slots.push(slot);
        ParamId(self.slots.len() - 1)
    }

    /// The matrices in the order they were added.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }
}

impl Params {
    /// Fills the layout with `init(slot)`, row-major values; `compute` is the dtype the model multiplies in.
    ///
    /// Panics when `init` returns another number of values than the slot has.
    pub fn new(
        layout: Layout,
        compute: DType,
        device: &Device,
        mut init: impl FnMut(&Slot) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let mut values = Vec::with_capacity(layout.len);
        for slot in &layout.slots {
            let part = init(slot)?;
            assert_eq!(part.len(), slot.len(), "{} values for {}", part.len(), slot.name);
            values.extend(part);
        }
        let flat = Tensor::from_vec(values, layout.len, device)?;
        Ok(Self { slots: layout.slots, compute: flat.to_dtype(compute)?, flat })
    }

    /// Every parameter, in the order of the buffer.
    pub fn slots(&self) -> impl Iterator<Item = (ParamId, &Slot)> {
        self.slots.iter().enumerate().map(|(i, slot)| (ParamId(i), slot))
    }

    /// Number of trainable values.
    pub fn len(&self) -> usize {
        self.flat.elem_count()
    }

    /// Whether nothing is trainable.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The matrix in the compute dtype, a view `[rows, columns]`.
    pub fn get(&self, id: ParamId) -> Result<Tensor> {
        self.view(&self.compute, id)
    }

    /// The f32 master, a view `[rows, columns]`.
    pub fn master(&self, id: ParamId) -> Result<Tensor> {
        self.view(&self.flat, id)
    }

    /// The masters, `[n]` f32.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Replaces the masters by `flat`, `[n]` f32, and their copy in the compute dtype.
    pub fn set(&mut self, flat: Tensor) -> Result<()> {
        self.compute = flat.to_dtype(self.compute.dtype())?;
        self.flat = flat;
        Ok(())
    }

    fn view(&self, flat: &Tensor, ParamId(i): ParamId) -> Result<Tensor> {
        let slot = &self.slots[i];
        Ok(flat.narrow(0, slot.offset, slot.len())?.reshape(slot.shape)?)
    }
}

/// Gradients of one optimizer step, summed over its micro-batches in f32.
#[derive(Debug)]
pub struct Grads {
    parts: Vec<Option<Tensor>>,
}

impl Grads {
    /// None yet, for every parameter of `params`.
    pub fn new(params: &Params) -> Self {
        Self { parts: vec![None; params.slots.len()] }
    }

    /// Adds `g` (f32, the parameter's shape), whose memory the sum may take.
    pub fn add(&mut self, ParamId(i): ParamId, g: Tensor) -> Result<()> {
        self.parts[i] = Some(match self.parts[i].take() {
            None => g,
            Some(sum) => add_to(sum, &g)?,
        });
        Ok(())
    }

    /// The gradient of one parameter.
    pub fn get(&self, ParamId(i): ParamId) -> Option<&Tensor> {
        self.parts[i].as_ref()
    }

    /// All gradients in the order of [`Params::flat`], `[n]` f32.
    ///
    /// A parameter without one is an error: a cut graph must not pass as a zero gradient.
    pub fn flat(&self, params: &Params) -> Result<Tensor> {
        let parts: Result<Vec<Tensor>> = (self.parts.iter().zip(&params.slots))
            .map(|(part, slot)| match part {
                Some(g) => Ok(g.flatten_all()?),
                None => Err(Error::run(format!("internal error: {} received no gradient", slot.name))),
            })
            .collect();
        Ok(Tensor::cat(&parts?, 0)?)
    }
}
