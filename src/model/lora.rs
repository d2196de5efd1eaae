//! A frozen projection and its trainable low-rank update: `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`, s = α/r (rsLoRA: α/√r).
//!
//! With DoRA every column of it has a factor c = m/‖W + s·B·A‖, which gets no gradient but through m (`dora`): then
//! `y = c·(x·Wᵀ + s·(x·Aᵀ)·Bᵀ)`. Under dropout PEFT drops out of the rows of W too, as far as c is not 1: with x̂ of those rows,
//! `y = x·Wᵀ + (c − 1)·x̂·Wᵀ + c·s·(x̂·Aᵀ)·Bᵀ`.

pub use super::slots::{initial_values, layout};
use super::{
    params::{Grads, Layout, ParamId, Params},
    slots::declare_over,
};
use crate::{
    config::{LoraConfig, Projection},
    error::{Error, Result},
    kernels::{
        Factor, FrozenWeight, add_product, add_to, blend_columns, column_dots, product, products, scale_columns,
        scaled_product, wide,
    },
    rng::Key,
};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// One of the seven projections of a block, with an adapter where the recipe asks for one.
pub struct LoraLinear {
    base: FrozenWeight,
    adapter: Option<Adapter>,
}

struct Adapter {
    a: ParamId, // [r, in]
    b: ParamId, // [out, r]
    /// DoRA's.
    magnitude: Option<Magnitude>,
    scale: f64,
    /// (layer, projection) as one number: part of the key of its dropout masks.
    place: u64,
}

struct Magnitude {
    id: ParamId, // [1, out]
    /// The residual stream is added to the output in its place, so that nobody keeps the output as it was.
    is_added_to: bool,
}

/// Dropout of one micro-batch: which values are zeroed is a function of the place alone, never of the cut.
pub struct Dropout<'a> {
    /// Probability of zeroing an input of A.
    pub p: f64,
    /// Key of (seed, step).
    pub key: Key,
    /// For every row of the input: (sample in the data set, position in the sample).
    pub rows: &'a [(u64, u32)],
}

impl LoraLinear {
    /// `base`: W `[out, in]`. Declares A `[r, in]`, B `[out, r]` and with DoRA the magnitude `[1, out]` in `layout` when `lora`
    /// targets this projection.
    pub fn new(
        base: FrozenWeight,
        layer: usize,
        projection: Projection,
        lora: &LoraConfig,
        layout: &mut Layout,
    ) -> Result<Self> {
        let is_added_to = matches!(projection, Projection::OProj | Projection::DownProj);
        let adapter = lora.lora_target.contains(&projection).then(|| {
            let (a, b, magnitude) = declare_over(&base, layout, layer, projection, lora)?;
            let magnitude = magnitude.map(|id| Magnitude { id, is_added_to });
            let place = (layer * Projection::ALL.len() + projection as usize) as u64;
            Ok::<_, Error>(Adapter { a, b, magnitude, scale: lora.scale(), place })
        });
        Ok(Self { adapter: adapter.transpose()?, base })
    }

    /// W alone.
    pub fn base(&self) -> &FrozenWeight {
        &self.base
    }

    /// Whether an adapter is trained here.
    pub fn is_trained(&self) -> bool {
        self.adapter.is_some()
    }

    /// [`forward_all`] of one projection.
    pub fn forward(&self, x: &Tensor, params: &Params, dropout: Option<&Dropout>) -> Result<Projected> {
        Ok(forward_all(&[self], x, params, dropout)?.remove(0))
    }

    /// [`backward_all`] of one projection.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        trace: Option<&Trace>,
        pass: &mut Backward,
        need_dx: bool,
    ) -> Result<Option<Tensor>> {
        backward_all(&[(self, dy, trace)], x, pass, need_dx)
    }
}

/// `y` `[T, out]`, and what an adapter leaves for its backward pass.
pub type Projected = (Tensor, Option<Trace>);

/// What the backward pass of an adapter needs besides the rows that went in.
pub struct Trace {
    /// `s·x·Aᵀ` `[T, r]`
    xa: Tensor,
    /// What the gradient of a magnitude is made of.
    sum: Option<Sum>,
}

/// A projection under a magnitude, `[T, out]`.
enum Sum {
    /// As it went on, times c. The block keeps it anyway.
    After(Tensor),
    /// Before c.
    Before(Tensor),
}

#[cfg(test)]
impl Trace {
    /// What no one else keeps.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let before = self.sum.as_ref().and_then(|sum| if let Sum::Before(sum) = sum { Some(sum) } else { None });
        std::iter::once(&self.xa).chain(before)
    }
}

/// `x` `[T, in]` through every projection.
///
/// The scale sits on the rank-sized product, never on the base output. Without dropout all see the same rows, and their
/// A's are one matrix: the rows are laid out once, and one product has all ranks.
pub fn forward_all(
    projections: &[&LoraLinear],
    x: &Tensor,
    params: &Params,
    dropout: Option<&Dropout>,
) -> Result<Vec<Projected>> {
    if dropout.is_some_and(|d| d.p > 0.0) {
        return projections.iter().map(|projection| projection.forward_dropped(x, params, dropout)).collect();
    }
    let adapters = projections.iter().filter_map(|projection| projection.adapter.as_ref());
    let a = stacked_a(adapters, params)?.map(|a| a.t()).transpose()?;
    let scale = projections.iter().find_map(|projection| projection.adapter.as_ref()).map_or(1.0, |one| one.scale);
    let factors = projections.iter().map(|projection| Factor::Transposed(&projection.base));
    let factors: Vec<Factor> = factors.chain(a.iter().map(|a| Factor::Scaled(a, scale))).collect();
    let mut products = products(x, &factors)?;
    let xa = if a.is_some() { products.pop() } else { None };
    let mut ranks = 0;
    let mut one = |(projection, y): (&&LoraLinear, Tensor)| {
        let (Some(adapter), Some(xa)) = (&projection.adapter, &xa) else { return Ok((y, None)) };
        let b = params.get(adapter.b)?;
        let xa = xa.narrow(1, ranks, b.dim(1)?)?;
        ranks += b.dim(1)?;
        let Some(magnitude) = &adapter.magnitude else {
            return Ok((add_product(y, &xa, &b.t()?)?, Some(Trace { xa, sum: None })));
        };
        let update = scaled_product(&xa, &b.t()?, 1.0)?;
        let blended = blend_columns(&y, &y, &update, &params.factors(magnitude.id)?)?;
        let sum = match magnitude.is_added_to {
            true => Sum::Before(add_to(update, &y)?),
            false => Sum::After(blended.clone()),
        };
        Ok((blended, Some(Trace { xa, sum: Some(sum) })))
    };
    projections.iter().zip(products).map(&mut one).collect()
}

/// For every projection of the same rows `x`: `dy` `[T, out]` and the trace of forward → `dx` `[T, in]`, summed over them (or
/// nothing where no one needs it). Adds ∂A, ∂B and ∂m into the gradients.
pub fn backward_all(
    projections: &[(&LoraLinear, &Tensor, Option<&Trace>)],
    x: &Tensor,
    pass: &mut Backward,
    need_dx: bool,
) -> Result<Option<Tensor>> {
    let (dx, through) = through_all(projections, pass, need_dx)?;
    through.add_da(x, pass)?;
    Ok(dx)
}

/// The part of [`backward_all`] that does not need `x`: `dx` and what ∂A is made of.
///
/// With g = s·dy·B `[T, r]`: ∂B = dyᵀ·(s·x·Aᵀ), ∂A = gᵀ·x, dx = dy·W + g·A. Under a magnitude dy is c·dy in all of them; what
/// dropout left of it, dy to W and (c − 1)·dy to W of the rows that A saw.
pub fn through_all<'a>(
    projections: &[(&'a LoraLinear, &Tensor, Option<&Trace>)],
    pass: &mut Backward,
    need_dx: bool,
) -> Result<(Option<Tensor>, Through<'a>)> {
    let mut through = Through { adapters: vec![], stacked: None };
    let mut sum: Option<Tensor> = None;
    for &(projection, dy, trace) in projections {
        let adapter = projection.adapter.as_ref().zip(trace);
        let shape = (dy.dim(0)?, projection.base.shape()?.1);
        let mask = adapter.map(|(adapter, _)| adapter.mask(shape, dy.device(), pass.dropout)).transpose()?.flatten();
        let turned = adapter.map(|(adapter, trace)| adapter.before_magnitude(dy, trace, pass)).transpose()?.flatten();
        let to_update = turned.as_ref().unwrap_or(dy);
        let to_base = if mask.is_some() { dy } else { to_update };

        let b = adapter.map(|(adapter, _)| pass.params.get(adapter.b)).transpose()?;
        let added = sum.is_some() && projection.base.adds_while_multiplying();
        let base = (need_dx && !added).then_some(Factor::Frozen(&projection.base));
        let b = b.as_ref().zip(adapter).map(|(b, (adapter, _))| Factor::Scaled(b, adapter.scale));
        let apart = !std::ptr::eq(to_base, to_update);
        let mut products = match apart {
            false => products(to_update, &base.into_iter().chain(b).collect::<Vec<_>>())?,
            true => [products(to_base, base.as_slice())?, products(to_update, b.as_slice())?].concat(),
        };
        if let Some((adapter, trace)) = adapter {
            // In f32, so that a gradient does not depend on how the rows were cut into micro-batches.
            pass.grads.add_product(&[adapter.b], &to_update.t()?, &trace.xa)?;
            let g = products.pop().expect("s·dy·B is the last product");
            let seen = match &adapter.magnitude {
                Some(Magnitude { id, .. }) if apart && need_dx => {
                    let less = scale_columns(dy, &(pass.params.factors(*id)? - 1.0)?)?;
                    Some(projection.base.backward(&less)?)
                }
                _ => None,
            };
            through.adapters.push(Update { adapter, g, mask, seen });
        }
        sum = match (sum, products.pop()) {
            (Some(sum), None) if added => Some(projection.base.add_backward(sum, to_base)?),
            (Some(sum), Some(dx)) => Some(add_to(sum, &dx)?),
            (sum, dx) => sum.or(dx),
        };
    }
    if !through.adapters.is_empty() && through.adapters.iter().all(|update| update.mask.is_none()) {
        through.stacked = Some(cat(through.adapters.iter().map(|update| update.g.clone()).collect(), 1)?);
    }
    let dx = sum.map(|dx| through.add_dx(dx, pass)).transpose()?;
    Ok((dx, through))
}

/// What gradients go through in projections of the same rows: their updates.
pub struct Through<'a> {
    adapters: Vec<Update<'a>>,
    /// All g side by side, `[T, Σr]`, where all adapters saw the same rows.
    stacked: Option<Tensor>,
}

struct Update<'a> {
    adapter: &'a Adapter,
    /// s·dy·B `[T, r]`
    g: Tensor,
    /// Of the rows A saw, under dropout.
    mask: Option<Tensor>,
    /// What W adds to the gradient of those rows: (c − 1)·dy·W `[T, in]`.
    seen: Option<Tensor>,
}

impl Through<'_> {
    /// `dx + Σ g·A`.
    fn add_dx(&self, mut dx: Tensor, pass: &Backward) -> Result<Tensor> {
        if let Some(g) = &self.stacked {
            let a = stacked_a(self.adapters.iter().map(|update| update.adapter), pass.params)?;
            return add_product(dx, g, &a.expect("g is stacked where adapters are"));
        }
        for Update { adapter, g, mask, seen } in &self.adapters {
            let mut more = product(g, &pass.params.get(adapter.a)?)?;
            if let Some(seen) = seen {
                more = add_to(more, seen)?;
            }
            dx = add_to(dx, &dropped(&more, mask.as_ref())?)?;
        }
        Ok(dx)
    }

    /// Adds ∂A = gᵀ·x of every projection; `x` `[T, in]` are the rows they all saw.
    pub fn add_da(&self, x: &Tensor, pass: &mut Backward) -> Result<()> {
        if let Some(g) = &self.stacked {
            let ids: Vec<ParamId> = self.adapters.iter().map(|update| update.adapter.a).collect();
            return pass.grads.add_product(&ids, &g.t()?, x);
        }
        for Update { adapter, g, mask, .. } in &self.adapters {
            pass.grads.add_product(&[adapter.a], &g.t()?, &dropped(x, mask.as_ref())?)?;
        }
        Ok(())
    }
}

/// The A's of projections of the same rows, one above the other: a view `[Σr, in]`.
fn stacked_a<'a>(adapters: impl Iterator<Item = &'a Adapter>, params: &Params) -> Result<Option<Tensor>> {
    let ids: Vec<ParamId> = adapters.map(|adapter| adapter.a).collect();
    if ids.is_empty() { Ok(None) } else { params.stacked(&ids).map(Some) }
}

fn cat(tensors: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    if let [one] = &tensors[..] { Ok(one.clone()) } else { Ok(Tensor::cat(&tensors, dim)?) }
}

impl LoraLinear {
    /// [`forward_all`] of one projection whose adapter sees rows of its own.
    fn forward_dropped(&self, x: &Tensor, params: &Params, dropout: Option<&Dropout>) -> Result<Projected> {
        let y = self.base.forward(x)?;
        let Some(adapter) = &self.adapter else { return Ok((y, None)) };
        let x = dropped(x, adapter.mask(x.dims2()?, x.device(), dropout)?.as_ref())?;
        let xa = scaled_product(&x, &params.get(adapter.a)?.t()?, adapter.scale)?;
        let b = params.get(adapter.b)?.t()?;
        let Some(magnitude) = &adapter.magnitude else {
            return Ok((add_product(y, &xa, &b)?, Some(Trace { xa, sum: None })));
        };
        let (seen, update) = (self.base.forward(&x)?, scaled_product(&xa, &b, 1.0)?);
        let blended = blend_columns(&y, &seen, &update, &params.factors(magnitude.id)?)?;
        let sum = Some(Sum::Before(add_to(update, &seen)?));
        Ok((blended, Some(Trace { xa, sum })))
    }
}

/// What a backward pass reads and writes besides activations.
pub struct Backward<'a> {
    /// The trainable matrices.
    pub params: &'a Params,
    /// Receives their gradients.
    pub grads: &'a mut Grads,
    /// The masks of the forward pass, if it had any.
    pub dropout: Option<&'a Dropout<'a>>,
}

impl Adapter {
    /// c·dy, the gradient before a magnitude, where there is one. Adds ∂m = Σₜ dy·(the sum before it)/‖W + s·B·A‖.
    fn before_magnitude(&self, dy: &Tensor, trace: &Trace, pass: &mut Backward) -> Result<Option<Tensor>> {
        let (Some(Magnitude { id, .. }), Some(sum)) = (&self.magnitude, &trace.sum) else { return Ok(None) };
        let (sum, over) = match sum {
            Sum::After(sum) => (sum, pass.params.magnitude(*id)?), // c times the sum before it
            Sum::Before(sum) => (sum, pass.params.norms(*id)?),
        };
        pass.grads.add(*id, &(column_dots(dy, sum)? / over)?)?;
        scale_columns(dy, &pass.params.factors(*id)?).map(Some)
    }

    /// `[T, in]` f32 of 0 and 1/(1−p). Independent per projection, as PEFT's are.
    fn mask(
        &self,
        (rows, width): (usize, usize),
        device: &Device,
        dropout: Option<&Dropout>,
    ) -> Result<Option<Tensor>> {
        let Some(dropout) = dropout.filter(|d| d.p > 0.0) else { return Ok(None) };
        assert_eq!(rows, dropout.rows.len(), "a dropout key for every row");
        let (p, keep) = (dropout.p as f32, (1.0 / (1.0 - dropout.p)) as f32);
        let mut mask = vec![0f32; rows * width];
        mask.par_chunks_mut(width).zip(dropout.rows).for_each(|(mask, &(sample, position))| {
            let key = dropout.key.with(sample).with(self.place).with(u64::from(position));
            for (i, m) in mask.iter_mut().enumerate() {
                *m = if key.uniform(i as u64) < p { 0.0 } else { keep };
            }
        });
        Ok(Some(Tensor::from_vec(mask, (rows, width), device)?))
    }
}

/// `x·mask` in f32 and one rounding, as PEFT drops out of the f32 copy of its input.
fn dropped(x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    Ok(match mask {
        None => x.clone(),
        Some(mask) => (wide(x)? * mask)?.to_dtype(x.dtype())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, wave};
    use candle_core::DType;
    use candle_core::Var;

    fn lora(rank: usize, alpha: f64, dropout: f64) -> LoraConfig {
        LoraConfig {
            lora_rank: rank,
            lora_alpha: alpha,
            lora_dropout: dropout,
            lora_target: vec![Projection::UpProj],
            use_dora: false,
            use_rslora: false,
            pissa: Default::default(),
        }
    }

    /// One of the projections, and with DoRA one whose output is added to in its place.
    fn layers(config: &LoraConfig) -> Result<Vec<(LoraLinear, Params, Tensor)>> {
        let projections =
            if config.use_dora { &[Projection::UpProj, Projection::DownProj][..] } else { &[Projection::UpProj] };
        let layer = |projection: &Projection| {
            let config = LoraConfig { lora_target: vec![*projection], ..config.clone() };
            let w = wave((6, 10), 1.0, &Device::Cpu)?;
            let mut layout = Layout::default();
            let linear = LoraLinear::new(FrozenWeight::new(w.clone())?, 0, *projection, &config, &mut layout)?;
            let params = Params::new(layout, DType::F32, &Device::Cpu, |slot| {
                let phase = if slot.name.ends_with('A') { 0.3 } else { 0.7 };
                Ok(wave(slot.shape, phase, &Device::Cpu)?.flatten_all()?.to_vec1()?)
            })?;
            Ok((linear, params, w))
        };
        projections.iter().map(layer).collect()
    }

    /// m/‖V‖ of every row of V, `[out, 1]`, which hands no gradient to V.
    fn factors(m: &Tensor, v: &Tensor) -> Result<Tensor> {
        Ok((m.t()? / v.detach().sqr()?.sum_keepdim(1)?.sqrt()?)?)
    }

    #[test]
    fn unmerged_equals_merged() -> Result<()> {
        for use_dora in [false, true] {
            // alpha ≠ r and B ≠ 0: ones and zeros would hide a mistake
            for (linear, params, w) in layers(&LoraConfig { use_dora, ..lora(3, 5.0, 0.0) })? {
                let ids: Vec<ParamId> = params.slots().map(|(id, _)| id).collect();
                let (a, b) = (params.get(ids[0])?, params.get(ids[1])?);
                let mut merged = (w + (b.matmul(&a)? * (5.0 / 3.0))?)?;
                if use_dora {
                    merged = merged.broadcast_mul(&factors(&params.get(ids[2])?, &merged)?)?;
                }
                let x = wave((4, 10), 2.0, &Device::Cpu)?;
                assert_close(&linear.forward(&x, &params, None)?.0, &x.matmul(&merged.t()?)?, 1e-5);
            }
        }
        Ok(())
    }

    #[test]
    fn dora_begins_as_exactly_the_base() -> Result<()> {
        for (linear, mut params, _) in layers(&LoraConfig { use_dora: true, ..lora(3, 5.0, 0.0) })? {
            let mut start = vec![];
            params.slots().for_each(|(_, slot)| start.extend(initial_values(slot, 1)));
            params.set(Tensor::new(start, &Device::Cpu)?)?;
            params.begin_magnitudes()?;
            let x = wave((4, 10), 2.0, &Device::Cpu)?;
            let (y, _) = linear.forward(&x, &params, None)?;
            assert_close(&y, &linear.base().forward(&x)?, 0.0);
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_autograd_with_and_without_dropout() -> Result<()> {
        for (p, use_dora) in [(0.0, false), (0.4, false), (0.0, true), (0.4, true)] {
            let config = LoraConfig { use_dora, ..lora(3, 5.0, p) };
            for (linear, params, w) in layers(&config)? {
                agrees_with_autograd(&config, &linear, &params, &w)?;
            }
        }
        Ok(())
    }

    fn agrees_with_autograd(config: &LoraConfig, linear: &LoraLinear, params: &Params, w: &Tensor) -> Result<()> {
        let x = Var::from_tensor(&wave((4, 10), 2.0, &Device::Cpu)?)?;
        let vars: Result<Vec<_>> =
            params.slots().map(|(id, _)| Ok((id, Var::from_tensor(&params.get(id)?)?))).collect();
        let vars = vars?;
        let (a, b) = (&vars[0].1, &vars[1].1);
        let dy = wave((4, 6), 5.0, &Device::Cpu)?;
        let rows = [(0, 0), (0, 1), (7, 0), (7, 1)];
        let dropout = Dropout { p: config.lora_dropout, key: Key::new(1, "dropout"), rows: &rows };
        let adapter = linear.adapter.as_ref().expect("targeted");
        let dropped = match adapter.mask((4, 10), &Device::Cpu, Some(&dropout))? {
            Some(mask) => (x.as_tensor() * mask)?,
            None => x.as_tensor().clone(),
        };
        let update = (dropped.matmul(&a.t()?)?.matmul(&b.t()?)? * config.scale())?;
        let slow = match vars.get(2) {
            None => (x.matmul(&w.t()?)? + update)?,
            Some((_, m)) => {
                let c = factors(m, &(w + (b.matmul(a)? * config.scale())?)?)?.t()?;
                let more = dropped.matmul(&w.t()?)?.broadcast_mul(&(&c - 1.0)?)?;
                ((x.matmul(&w.t()?)? + more)? + update.broadcast_mul(&c)?)?
            }
        };
        let want = (&slow * &dy)?.backward()?;

        let (y, trace) = linear.forward(&x, params, Some(&dropout))?;
        assert_close(&y, &slow, 1e-5);
        for need_dx in [true, false] {
            let mut grads = Grads::new(params)?;
            let mut pass = Backward { params, grads: &mut grads, dropout: Some(&dropout) };
            let dx = linear.backward(&dy, &x, trace.as_ref(), &mut pass, need_dx)?;
            assert_eq!(dx.is_some(), need_dx);
            dx.iter().for_each(|dx| assert_close(dx, want.get(&x).expect("a Var"), 1e-5));
            for (id, var) in &vars {
                assert_close(&grads.get(*id)?.expect("a gradient"), want.get(var).expect("a Var"), 1e-5);
            }
        }
        Ok(())
    }

    /// Two with an adapter and one without, of different widths.
    #[test]
    fn projections_of_the_same_rows_give_together_what_each_gives_alone() -> Result<()> {
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5), (DType::BF16, 2.0 / 256.0)] {
            for (p, need_dx) in [(0.0, true), (0.0, false), (0.4, true), (0.4, false)] {
                if (dtype, p > 0.0) == (DType::F64, true) {
                    continue; // masks are f32
                }
                for use_dora in [false, true] {
                    let lora_target = vec![Projection::QProj, Projection::VProj];
                    let config = LoraConfig { lora_target, use_dora, ..lora(3, 5.0, p) };
                    together_and_alone(dtype, tolerance, &config, need_dx)?;
                }
            }
        }
        Ok(())
    }

    fn together_and_alone(dtype: DType, tolerance: f64, config: &LoraConfig, need_dx: bool) -> Result<()> {
        let p = config.lora_dropout;
        let of = |t: Tensor| t.to_dtype(dtype);
        let mut layout = Layout::default();
        let linears: Result<Vec<LoraLinear>> =
            [(Projection::QProj, 6), (Projection::KProj, 40), (Projection::VProj, 5)]
                .into_iter()
                .map(|(projection, out)| {
                    let w = FrozenWeight::new(of(wave((out, 10), out as f64, &Device::Cpu)?)?)?;
                    LoraLinear::new(w, 0, projection, config, &mut layout)
                })
                .collect();
        let params = Params::new(layout, dtype, &Device::Cpu, |slot| {
            Ok(wave(slot.shape, slot.range().start as f64, &Device::Cpu)?.flatten_all()?.to_vec1()?)
        })?;
        let (linears, x) = (linears?, of(wave((4, 10), 2.0, &Device::Cpu)?)?);
        let linears: Vec<&LoraLinear> = linears.iter().collect();
        let rows = [(0, 0), (0, 1), (7, 0), (7, 1)];
        let dropout = Dropout { p, key: Key::new(1, "dropout"), rows: &rows };
        let dropout = Some(&dropout);

        let together = forward_all(&linears, &x, &params, dropout)?;
        let mut alone = vec![];
        for (linear, (y, trace)) in linears.iter().zip(&together) {
            let (want, own) = linear.forward(&x, &params, dropout)?;
            assert_close(y, &want, tolerance);
            assert_eq!((trace.is_some(), own.is_some()), (linear.is_trained(), linear.is_trained()));
            alone.push((of(wave((4, want.dim(1)?), 7.0, &Device::Cpu)?)?, own));
        }
        let (mut one, mut all) = (Grads::new(&params)?, Grads::new(&params)?);
        let mut pass = Backward { params: &params, grads: &mut one, dropout };
        let mut want: Option<Tensor> = None;
        for (linear, (dy, trace)) in linears.iter().zip(&alone) {
            let dx = linear.backward(dy, &x, trace.as_ref(), &mut pass, need_dx)?;
            want = match (want, dx) {
                (Some(sum), Some(dx)) => Some((sum + dx)?),
                (sum, dx) => sum.or(dx),
            };
        }
        let parts: Vec<_> = linears.iter().zip(&alone).map(|(l, (dy, trace))| (*l, dy, trace.as_ref())).collect();
        let mut pass = Backward { params: &params, grads: &mut all, dropout };
        let dx = backward_all(&parts, &x, &mut pass, need_dx)?;
        assert_eq!((dx.is_some(), want.is_some()), (need_dx, need_dx));
        if let (Some(dx), Some(want)) = (dx, want) {
            assert_close(&dx, &want, 8.0 * tolerance);
        }
        assert_close(&all.flat(&params)?, &one.flat(&params)?, tolerance);
        Ok(())
    }

    #[test]
    fn a_mask_depends_on_the_place_and_not_on_the_cut() -> Result<()> {
        let (linear, _, _) = layers(&lora(3, 5.0, 0.5))?.remove(0);
        let adapter = linear.adapter.as_ref().expect("targeted");
        let key = Key::new(1, "dropout");
        let mask = |rows: &[(u64, u32)]| -> Result<Tensor> {
            Ok(adapter.mask((rows.len(), 1000), &Device::Cpu, Some(&Dropout { p: 0.5, key, rows }))?.expect("p > 0"))
        };
        let both = mask(&[(3, 0), (3, 1)])?;
        assert_close(&both.narrow(0, 1, 1)?, &mask(&[(3, 1)])?, 0.0);
        let mean = both.mean_all()?.to_scalar::<f32>()?;
        assert!((mean - 1.0).abs() < 0.1, "kept values are scaled up: mean {mean}");
        Ok(())
    }
}
