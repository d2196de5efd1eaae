//! The trainable parameters: f32 masters in one flat buffer, their gradients beside it.

use crate::{
    error::{Error, Result},
    kernels::add_product_at,
};
use candle_core::{DType, Device, Tensor};

/// Which parameter: how many were declared before it.
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

/// All LoRA matrices, laid end to end: first every A in the order of declaration, then every B. So the A's of projections
/// that see the same rows are one matrix, and their gradients one product.
///
/// The masters are never written in place: an update replaces them, so views of the old ones stay valid. Their copy in the
/// compute dtype is, by [`Params::set_in_place`] alone.
#[derive(Debug, Clone)]
pub struct Params {
    slots: Vec<Slot>,
    /// Of every [`ParamId`], its index among the slots.
    places: Vec<usize>,
    flat: Tensor,
    compute: Tensor,
}

/// Collects slots before any memory is taken.
#[derive(Debug, Default)]
pub struct Layout {
    slots: Vec<Slot>,
    places: Vec<usize>,
}

impl Layout {
    /// Adds a matrix `name` of `shape` (rows, columns).
    pub fn push(&mut self, name: String, shape: (usize, usize)) -> ParamId {
        let mut slot = Slot { name, shape, offset: 0 };
        let place = if slot.is_b() { self.slots.len() } else { self.slots.iter().take_while(|s| !s.is_b()).count() };
        slot.offset = place.checked_sub(1).map_or(0, |before| self.slots[before].range().end);
        self.slots[place..].iter_mut().for_each(|behind| behind.offset += slot.len());
        self.slots.insert(place, slot);
        self.places.iter_mut().filter(|other| **other >= place).for_each(|other| *other += 1);
        self.places.push(place);
        ParamId(self.places.len() - 1)
    }

    /// The matrices in the order of [`Params`].
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// A and B of every projection that has an adapter.
    pub fn pairs(&self) -> impl Iterator<Item = (&Slot, &Slot)> {
        let (a, b) = self.slots.split_at(self.slots.iter().take_while(|slot| !slot.is_b()).count());
        a.iter().zip(b)
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
        let len = layout.slots.last().map_or(0, |last| last.range().end);
        let mut values = Vec::with_capacity(len);
        for slot in &layout.slots {
            let part = init(slot)?;
            assert_eq!(part.len(), slot.len(), "{} values for {}", part.len(), slot.name);
            values.extend(part);
        }
        let flat = Tensor::from_vec(values, len, device)?;
        Ok(Self { slots: layout.slots, places: layout.places, compute: flat.to_dtype(compute)?, flat })
    }

    /// Every parameter, in the order of the buffer.
    pub fn slots(&self) -> impl Iterator<Item = (ParamId, &Slot)> {
        let mut ids = vec![ParamId(0); self.slots.len()];
        self.places.iter().enumerate().for_each(|(id, &place)| ids[place] = ParamId(id));
        ids.into_iter().zip(&self.slots)
    }

    /// Number of trainable values.
    pub fn len(&self) -> usize {
        self.flat.elem_count()
    }

    /// Where the B's begin in [`Self::flat`]: behind all A's.
    pub fn first_b(&self) -> usize {
        self.slots.iter().find(|slot| slot.is_b()).map_or(self.len(), |slot| slot.offset)
    }

    /// Whether nothing is trainable.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The matrix in the compute dtype, a view `[rows, columns]`.
    pub fn get(&self, id: ParamId) -> Result<Tensor> {
        self.view(&self.compute, id)
    }

    /// Matrices that lie behind each other, in the compute dtype: a view `[Σ rows, columns]`.
    ///
    /// Errors: they do not lie so, which is a mistake of the caller's.
    pub fn stacked(&self, ids: &[ParamId]) -> Result<Tensor> {
        let (start, shape) = stack(ids.iter().map(|ParamId(i)| &self.slots[self.places[*i]]))?;
        Ok(self.compute.narrow(0, start, shape.0 * shape.1)?.reshape(shape)?)
    }

    /// The f32 master, a view `[rows, columns]`.
    pub fn master(&self, id: ParamId) -> Result<Tensor> {
        self.view(&self.flat, id)
    }

    /// The copy that the model computes with, `[n]`; another tensor after [`Self::set`], the same after
    /// [`Self::set_in_place`].
    pub fn computing(&self) -> &Tensor {
        &self.compute
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

    /// As [`Self::set`], but their copy in the compute dtype keeps its place, where a recorded pass reads it. No one may hold
    /// a view of it.
    pub fn set_in_place(&mut self, flat: Tensor) -> Result<()> {
        if self.compute.dtype() == flat.dtype() {
            return Err(Error::run("internal error: the masters themselves never change in place"));
        }
        self.compute.slice_set(&flat.to_dtype(self.compute.dtype())?, 0, 0)?;
        self.flat = flat;
        Ok(())
    }

    fn view(&self, flat: &Tensor, ParamId(i): ParamId) -> Result<Tensor> {
        let slot = &self.slots[self.places[i]];
        Ok(flat.narrow(0, slot.offset, slot.len())?.reshape(slot.shape)?)
    }
}

/// Where matrices that lie behind each other begin, and the shape of them all.
fn stack<'a>(slots: impl Iterator<Item = &'a Slot>) -> Result<(usize, (usize, usize))> {
    let mut all: Option<(usize, (usize, usize))> = None;
    for slot in slots {
        let (start, (rows, columns)) = all.unwrap_or((slot.offset, (0, slot.shape.1)));
        if slot.offset != start + rows * columns || slot.shape.1 != columns {
            return Err(Error::run(format!("internal error: {} does not lie behind the one before it", slot.name)));
        }
        all = Some((start, (rows + slot.shape.0, columns)));
    }
    all.ok_or_else(|| Error::run("internal error: a stack of no matrices"))
}

/// Gradients of one optimizer step, summed over its micro-batches in f32, in one flat buffer as the parameters' own.
#[derive(Debug)]
pub struct Grads {
    flat: Tensor,
    slots: Vec<Slot>,
    places: Vec<usize>,
    /// Of every slot, whether something was added.
    received: Vec<bool>,
}

impl Grads {
    /// Zero, for every parameter of `params`.
    pub fn new(params: &Params) -> Result<Self> {
        let dtype = if params.compute.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let flat = Tensor::zeros(params.len(), dtype, params.flat.device())?;
        let (slots, places) = (params.slots.clone(), params.places.clone());
        Ok(Self { flat, received: vec![false; slots.len()], slots, places })
    }

    /// Back to zero, in the same place: for the next step.
    pub fn reset(&mut self) -> Result<()> {
        self.received.fill(false);
        Ok(self.flat.zero_set()?)
    }

    /// What a recorded pass has added to them.
    pub fn receives_all(&mut self) {
        self.received.fill(true);
    }

    /// Adds `a·b` to the gradients of parameters that lie behind each other (see [`Params::stacked`]), or of one: as many
    /// rows as they have together; f32 or bf16 operands with any strides.
    pub fn add_product(&mut self, ids: &[ParamId], a: &Tensor, b: &Tensor) -> Result<()> {
        let (start, own) = stack(ids.iter().map(|ParamId(i)| &self.slots[self.places[*i]]))?;
        let shape = (a.dim(0)?, b.dim(1)?);
        if own != shape {
            return Err(Error::run(format!("internal error: a gradient of {shape:?} for parameters of {own:?}")));
        }
        ids.iter().for_each(|ParamId(i)| self.received[self.places[*i]] = true);
        add_product_at(&self.flat, start, a, b)
    }

    /// The gradient of one parameter so far, a view that later sums change; `None` where nothing was added.
    pub fn get(&self, ParamId(i): ParamId) -> Result<Option<Tensor>> {
        let place = self.places[i];
        let Slot { shape, offset, .. } = self.slots[place];
        Ok(self.received[place].then_some(self.flat.narrow(0, offset, shape.0 * shape.1)?.reshape(shape)?))
    }

    /// All gradients in the order of [`Params::flat`], `[n]` f32 (f64 where the model computes in it).
    ///
    /// A parameter without one is an error: a cut graph must not pass as a zero gradient.
    pub fn flat(&self, params: &Params) -> Result<Tensor> {
        match self.received.iter().zip(&params.slots).find(|(received, _)| !**received) {
            None => Ok(self.flat.clone()),
            Some((_, slot)) => Err(Error::run(format!("internal error: {} received no gradient", slot.name))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_a_lies_before_every_b_and_ids_stay_theirs() -> Result<()> {
        let mut layout = Layout::default();
        let shapes = [("q.lora_A", (2, 3)), ("q.lora_B", (5, 2)), ("k.lora_A", (2, 3)), ("k.lora_B", (4, 2))];
        let ids = shapes.map(|(name, shape)| layout.push(name.into(), shape));
        let params =
            Params::new(layout, DType::F32, &Device::Cpu, |slot| Ok(slot.range().map(|place| place as f32).collect()))?;
        let order: Vec<_> = params.slots().map(|(id, slot)| (slot.name.as_str(), id, slot.range())).collect();
        let want = [
            ("q.lora_A", ids[0], 0..6),
            ("k.lora_A", ids[2], 6..12),
            ("q.lora_B", ids[1], 12..22),
            ("k.lora_B", ids[3], 22..30),
        ];
        assert_eq!(order, want);
        assert_eq!(params.first_b(), 12);
        let first = |t: Tensor| -> Result<f32> { Ok(t.flatten_all()?.get(0)?.to_scalar()?) };
        for (_, id, range) in want {
            assert_eq!((first(params.get(id)?)?, params.get(id)?.elem_count()), (range.start as f32, range.len()));
        }
        let stacked = params.stacked(&[ids[0], ids[2]])?;
        assert_eq!(stacked.dims(), [4, 3]);
        assert_eq!(stacked.flatten_all()?.to_vec1::<f32>()?, (0..12).map(|i| i as f32).collect::<Vec<_>>());
        assert!(params.stacked(&[ids[2], ids[0]]).is_err() && params.stacked(&[]).is_err());
        Ok(())
    }
}
