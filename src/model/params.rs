//! The trainable parameters: f32 masters in one flat buffer, their gradients beside it.

use super::dora::Direction;
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
        self.kind() == Kind::B
    }

    /// Whether it is a magnitude of DoRA's, `(1, out)`: a vector, and in files of that shape.
    pub fn is_magnitude(&self) -> bool {
        self.kind() == Kind::Magnitude
    }

    fn kind(&self) -> Kind {
        match self.name.rsplit('.').next() {
            Some("lora_B") => Kind::B,
            Some("lora_magnitude_vector") => Kind::Magnitude,
            _ => Kind::A,
        }
    }

    fn len(&self) -> usize {
        self.shape.0 * self.shape.1
    }

    /// Its elements in [`Params::flat`].
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// What a parameter is; in this order they lie in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    A,
    B,
    Magnitude,
}

/// All LoRA matrices, laid end to end: first every A in the order of declaration, then every B, then every magnitude of DoRA's.
/// So the A's of projections that see the same rows are one matrix, and their gradients one product; and LoRA+ has one rate
/// for all behind the A's.
///
/// The masters are never written in place: an update replaces them, so views of the old ones stay valid. Their copy in the
/// compute dtype is, by [`Params::set_in_place`] alone, and what follows from both beside it.
#[derive(Debug, Clone)]
pub struct Params {
    slots: Vec<Slot>,
    /// Of every [`ParamId`], its index among the slots.
    places: Vec<usize>,
    flat: Tensor,
    compute: Tensor,
    /// Of every magnitude, in their order; none where they are only read and written.
    directions: Vec<Direction>,
    derived: Option<Derived>,
}

/// What follows from matrices and magnitudes together, of all magnitudes end to end: `[n]` f32 (f64 in f64).
#[derive(Debug, Clone)]
struct Derived {
    /// m, apart from the masters, which do not keep their place
    magnitudes: Tensor,
    /// ‖W + s·B·A‖
    norms: Tensor,
    /// m/‖W + s·B·A‖
    factors: Tensor,
}

/// Collects slots before any memory is taken.
#[derive(Debug, Default)]
pub struct Layout {
    slots: Vec<Slot>,
    places: Vec<usize>,
    directions: Vec<Direction>,
}

impl Layout {
    /// Adds a matrix `name` of `shape` (rows, columns).
    pub fn push(&mut self, name: String, shape: (usize, usize)) -> ParamId {
        let mut slot = Slot { name, shape, offset: 0 };
        let place = self.slots.iter().take_while(|other| other.kind() <= slot.kind()).count();
        slot.offset = place.checked_sub(1).map_or(0, |before| self.slots[before].range().end);
        self.slots[place..].iter_mut().for_each(|behind| behind.offset += slot.len());
        self.slots.insert(place, slot);
        self.places.iter_mut().filter(|other| **other >= place).for_each(|other| *other += 1);
        self.places.push(place);
        ParamId(self.places.len() - 1)
    }

    /// Says what the magnitude pushed last is the length of.
    pub(super) fn direct(&mut self, direction: Direction) {
        self.directions.push(direction);
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
        let Layout { slots, places, directions } = layout;
        let compute = flat.to_dtype(compute)?;
        let mut params = Self { slots, places, compute, directions, derived: None, flat: flat.clone() };
        params.derived = params.derive(&flat, &params.compute)?;
        params.refuse_zeros()?;
        Ok(params)
    }

    /// PEFT's start of DoRA: every magnitude is the length that its row has, so that nothing has changed yet.
    pub fn begin_magnitudes(&mut self) -> Result<()> {
        let Some(Derived { norms, .. }) = &self.derived else { return Ok(()) };
        let matrices = self.flat.narrow(0, 0, self.first_magnitude())?;
        self.set(Tensor::cat(&[matrices, norms.to_dtype(DType::F32)?], 0)?)
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

    fn first_magnitude(&self) -> usize {
        self.slots.iter().find(|slot| slot.is_magnitude()).map_or(self.len(), |slot| slot.offset)
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

    /// A magnitude, `[1, out]` f32 (f64 in f64).
    pub fn magnitude(&self, id: ParamId) -> Result<Tensor> {
        self.view_derived(&self.derived()?.magnitudes, id)
    }

    /// Of a magnitude m the ‖W + s·B·A‖ of every row, `[1, out]` f32 (f64 in f64).
    pub fn norms(&self, id: ParamId) -> Result<Tensor> {
        self.view_derived(&self.derived()?.norms, id)
    }

    /// Of a magnitude m the m/‖W + s·B·A‖ of every row, `[1, out]` f32 (f64 in f64).
    pub fn factors(&self, id: ParamId) -> Result<Tensor> {
        self.view_derived(&self.derived()?.factors, id)
    }

    /// [`Self::factors`] for who multiplies with the masters.
    pub fn factors_of_masters(&self, id: ParamId) -> Result<Tensor> {
        if self.compute.dtype() == self.flat.dtype() {
            return self.factors(id);
        }
        let direction = self.directions.iter().find(|direction| direction.magnitude == id).ok_or_else(no_base)?;
        let norms = direction.norms(&self.master(direction.a)?, &self.master(direction.b)?)?;
        Ok((self.master(id)? / norms.unsqueeze(0)?)?)
    }

    /// Replaces the masters by `flat`, `[n]` f32, and their copy in the compute dtype. After an error all are as before.
    pub fn set(&mut self, flat: Tensor) -> Result<()> {
        let compute = flat.to_dtype(self.compute.dtype())?;
        self.derived = self.derive(&flat, &compute)?;
        (self.flat, self.compute) = (flat, compute);
        Ok(())
    }

    /// As [`Self::set`], but their copy in the compute dtype keeps its place, where a recorded pass reads it, and so does what
    /// follows of magnitudes. No one else may hold a view of them.
    pub fn set_in_place(&mut self, flat: Tensor) -> Result<()> {
        if self.compute.dtype() == flat.dtype() {
            return Err(Error::run("internal error: the masters themselves never change in place"));
        }
        let compute = flat.to_dtype(self.compute.dtype())?;
        let derived = self.derive(&flat, &compute)?;
        self.compute.slice_set(&compute, 0, 0)?;
        if let (Some(old), Some(new)) = (&self.derived, derived) {
            old.tensors().into_iter().zip(new.tensors()).try_for_each(|(old, new)| old.slice_set(new, 0, 0))?;
        }
        self.flat = flat;
        Ok(())
    }

    /// Of these masters and their copy.
    fn derive(&self, flat: &Tensor, compute: &Tensor) -> Result<Option<Derived>> {
        if self.directions.is_empty() {
            return Ok(None);
        }
        let norms = |direction: &Direction| {
            direction.norms(&self.view(compute, direction.a)?, &self.view(compute, direction.b)?)
        };
        let norms = Tensor::cat(&self.directions.iter().map(norms).collect::<Result<Vec<_>>>()?, 0)?;
        let first = self.first_magnitude();
        let magnitudes = flat.narrow(0, first, self.len() - first)?.to_dtype(norms.dtype())?.copy()?;
        Ok(Some(Derived { factors: (&magnitudes / &norms)?, norms, magnitudes }))
    }

    fn derived(&self) -> Result<&Derived> {
        self.derived.as_ref().ok_or_else(no_base)
    }

    fn view_derived(&self, derived: &Tensor, ParamId(i): ParamId) -> Result<Tensor> {
        let slot = &self.slots[self.places[i]];
        Ok(derived.narrow(0, slot.offset - self.first_magnitude(), slot.len())?.reshape(slot.shape)?)
    }

    /// Errors: a row of W + s·B·A is nothing, which no magnitude makes longer; a magnitude is nothing, by which its gradient
    /// would be divided.
    #[expect(clippy::disallowed_methods, reason = "loading, not a step")]
    fn refuse_zeros(&self) -> Result<()> {
        let Some(Derived { norms, magnitudes, .. }) = &self.derived else { return Ok(()) };
        let first_zero = |t: &Tensor| -> Result<Option<(&str, usize)>> {
            let values: Vec<f64> = t.to_dtype(DType::F64)?.to_vec1()?;
            let Some(at) = values.iter().position(|value| *value == 0.0) else { return Ok(None) };
            let at = at + self.first_magnitude();
            let slot = self.slots.iter().find(|slot| slot.range().contains(&at)).expect("a magnitude");
            Ok(Some((slot.name.trim_end_matches(".lora_magnitude_vector"), at - slot.offset)))
        };
        if let Some((module, row)) = first_zero(norms)? {
            return Err(Error::input(format!("row {row} of {module} is all zeros: DoRA would divide by its length"))
                .hint("leave that projection out of `lora_target`, or train without `use_dora`")
                .hint_zh("请在 `lora_target` 中去掉该投影，或不用 `use_dora`"));
        }
        let Some((module, row)) = first_zero(magnitudes)? else { return Ok(()) };
        Err(Error::input(format!("the magnitude of row {row} of {module} is 0: DoRA would divide by it"))
            .hint("no training brings it there: the adapter is damaged; take another checkpoint")
            .hint_zh("训练不会产生这样的值：适配器已损坏；请改用其他检查点"))
    }

    fn view(&self, flat: &Tensor, ParamId(i): ParamId) -> Result<Tensor> {
        let slot = &self.slots[self.places[i]];
        Ok(flat.narrow(0, slot.offset, slot.len())?.reshape(slot.shape)?)
    }
}

impl Derived {
    fn tensors(&self) -> [&Tensor; 3] {
        [&self.magnitudes, &self.norms, &self.factors]
    }
}

fn no_base() -> Error {
    Error::run("internal error: magnitudes of a layout that knows no weights")
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

    /// Adds `values`, as many as the parameter has, in the dtype of [`Self::flat`].
    pub fn add(&mut self, ParamId(i): ParamId, values: &Tensor) -> Result<()> {
        let place = self.places[i];
        let Slot { offset, .. } = self.slots[place];
        let before = self.flat.narrow(0, offset, self.slots[place].len())?;
        self.received[place] = true;
        Ok(self.flat.slice_set(&(before + values.flatten_all()?)?, 0, offset)?)
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
    use crate::{kernels::FrozenWeight, testing::wave};

    #[test]
    fn every_a_lies_before_every_b_and_ids_stay_theirs() -> Result<()> {
        let mut layout = Layout::default();
        let shapes = [
            ("q.lora_A", (2, 3)),
            ("q.lora_B", (5, 2)),
            ("q.lora_magnitude_vector", (1, 5)),
            ("k.lora_A", (2, 3)),
            ("k.lora_B", (4, 2)),
            ("k.lora_magnitude_vector", (1, 4)),
        ];
        let ids = shapes.map(|(name, shape)| layout.push(name.into(), shape));
        let params =
            Params::new(layout, DType::F32, &Device::Cpu, |slot| Ok(slot.range().map(|place| place as f32).collect()))?;
        let order: Vec<_> = params.slots().map(|(id, slot)| (slot.name.as_str(), id, slot.range())).collect();
        let want = [
            ("q.lora_A", ids[0], 0..6),
            ("k.lora_A", ids[3], 6..12),
            ("q.lora_B", ids[1], 12..22),
            ("k.lora_B", ids[4], 22..30),
            ("q.lora_magnitude_vector", ids[2], 30..35),
            ("k.lora_magnitude_vector", ids[5], 35..39),
        ];
        assert_eq!(order, want);
        assert_eq!(params.first_b(), 12, "LoRA+ has another rate from there on");
        let first = |t: Tensor| -> Result<f32> { Ok(t.flatten_all()?.get(0)?.to_scalar()?) };
        for (_, id, range) in want {
            assert_eq!((first(params.get(id)?)?, params.get(id)?.elem_count()), (range.start as f32, range.len()));
        }
        let stacked = params.stacked(&[ids[0], ids[3]])?;
        assert_eq!(stacked.dims(), [4, 3]);
        assert_eq!(stacked.flatten_all()?.to_vec1::<f32>()?, (0..12).map(|i| i as f32).collect::<Vec<_>>());
        assert!(params.stacked(&[ids[3], ids[0]]).is_err() && params.stacked(&[]).is_err());
        Ok(())
    }

    const MAGNITUDE: &str = "q.lora_magnitude_vector";

    /// One projection under DoRA, in bf16.
    fn dora(values: impl Fn(&Slot) -> Vec<f32>) -> Result<(Params, ParamId)> {
        let mut layout = Layout::default();
        let (a, b) = (layout.push("q.lora_A".into(), (2, 3)), layout.push("q.lora_B".into(), (5, 2)));
        let magnitude = layout.push(MAGNITUDE.into(), (1, 5));
        let base = FrozenWeight::new(wave((5, 3), 0.4, &Device::Cpu)?.to_dtype(DType::BF16)?)?;
        layout.direct(Direction::new(&base, 0.7, (a, b, magnitude))?);
        Ok((Params::new(layout, DType::BF16, &Device::Cpu, |slot| Ok(values(slot)))?, magnitude))
    }

    fn waves(slot: &Slot) -> Vec<f32> {
        slot.range().map(|place| (place as f32).sin() + 1.5).collect()
    }

    /// What a recorded pass reads is where it was, and holds what it would hold elsewhere.
    #[test]
    fn what_follows_from_magnitudes_keeps_its_place() -> Result<()> {
        let (mut params, magnitude) = dora(waves)?;
        let mut elsewhere = params.clone();
        let places = |params: &Params| -> Result<Vec<_>> {
            Ok(std::iter::once(params.computing()).chain(params.derived()?.tensors()).map(Tensor::id).collect())
        };
        let seen = |params: &Params| {
            Ok::<_, Error>([params.magnitude(magnitude)?, params.norms(magnitude)?, params.factors(magnitude)?])
        };
        let (before, recorded, masters) = (places(&params)?, seen(&params)?, params.flat().clone());
        let kept = masters.to_vec1::<f32>()?;
        let next = (params.flat() * 1.25)?;
        elsewhere.set(next.clone())?;
        params.set_in_place(next)?;
        assert_eq!(places(&params)?, before);
        assert!(places(&elsewhere)?.iter().zip(&before).all(|(now, then)| now != then));
        for (recorded, want) in recorded.iter().zip(seen(&elsewhere)?) {
            assert_eq!(recorded.to_vec2::<f32>()?, want.to_vec2::<f32>()?);
        }
        assert_eq!(recorded[0].to_vec2::<f32>()?, params.master(magnitude)?.to_vec2::<f32>()?);
        assert_eq!(masters.to_vec1::<f32>()?, kept, "the masters before it are as they were");
        Ok(())
    }

    #[test]
    fn what_dora_would_divide_by_is_not_zero() {
        let refused = |values: &dyn Fn(&Slot) -> Vec<f32>| dora(values).expect_err("refused").to_string();
        let no_magnitude = |slot: &Slot| {
            let mut values = waves(slot);
            if slot.is_magnitude() {
                values[3] = 0.0;
            }
            values
        };
        assert_eq!(refused(&no_magnitude), "the magnitude of row 3 of q is 0: DoRA would divide by it");
    }
}
