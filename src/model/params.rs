//! The trainable parameters: f32 masters in one flat buffer, their gradients beside it.

use crate::{
    error::{Error, Result},
    kernels::{add_at, add_product_at},
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

/// Gradients of one optimizer step, summed over its micro-batches in f32, in one flat buffer as the parameters' own.
#[derive(Debug)]
pub struct Grads {
    flat: Tensor,
    /// Of every slot: where it begins, its shape, and whether something was added.
    slots: Vec<(usize, (usize, usize), bool)>,
}

impl Grads {
    /// Zero, for every parameter of `params`.
    pub fn new(params: &Params) -> Result<Self> {
        let dtype = if params.compute.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let flat = Tensor::zeros(params.len(), dtype, params.flat.device())?;
        Ok(Self { flat, slots: params.slots.iter().map(|slot| (slot.offset, slot.shape, false)).collect() })
    }

    /// Adds `a·b`, of the parameter's shape; f32 or bf16 operands with any strides.
    pub fn add_product(&mut self, id: ParamId, a: &Tensor, b: &Tensor) -> Result<()> {
        let start = self.receives(id, (a.dim(0)?, b.dim(1)?))?;
        add_product_at(&self.flat, start, a, b)
    }

    /// Adds `g` (f32, contiguous, the parameter's shape).
    pub fn add(&mut self, id: ParamId, g: &Tensor) -> Result<()> {
        let start = self.receives(id, g.dims2()?)?;
        add_at(&self.flat, start, g)
    }

    /// Where the parameter's gradient begins, now that something comes.
    fn receives(&mut self, ParamId(i): ParamId, shape: (usize, usize)) -> Result<usize> {
        let (start, own, received) = &mut self.slots[i];
        if *own != shape {
            return Err(Error::run(format!("internal error: a gradient of {shape:?} for a parameter of {own:?}")));
        }
        *received = true;
        Ok(*start)
    }

    /// The gradient of one parameter so far, a view that later sums change; `None` where nothing was added.
    pub fn get(&self, ParamId(i): ParamId) -> Result<Option<Tensor>> {
        let (start, shape, received) = self.slots[i];
        Ok(received.then_some(self.flat.narrow(0, start, shape.0 * shape.1)?.reshape(shape)?))
    }

    /// All gradients in the order of [`Params::flat`], `[n]` f32 (f64 where the model computes in it).
    ///
    /// A parameter without one is an error: a cut graph must not pass as a zero gradient.
    pub fn flat(self, params: &Params) -> Result<Tensor> {
        match self.slots.iter().zip(&params.slots).find(|((.., received), _)| !received) {
            None => Ok(self.flat),
            Some((_, slot)) => Err(Error::run(format!("internal error: {} received no gradient", slot.name))),
        }
    }
}
