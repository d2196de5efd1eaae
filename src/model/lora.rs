//! A frozen projection and its trainable low-rank update: `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`, s = α/r (rsLoRA: α/√r).

use super::{
    config::Qwen3Config,
    params::{Grads, Layout, ParamId, Params, Slot},
};
use crate::{
    config::{LoraConfig, Projection},
    error::Result,
    kernels::{Factor, FrozenWeight, add_product, add_to, product, products, scaled_product, wide},
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
    scale: f64,
    /// (layer, projection) as one number: part of the key of its dropout masks.
    place: u64,
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

/// All matrices of `lora` on a model of this geometry, block by block, as loading the model declares them.
pub fn layout(config: &Qwen3Config, lora: &LoraConfig) -> Layout {
    let mut layout = Layout::default();
    for layer in 0..config.num_hidden_layers {
        for projection in Projection::ALL.into_iter().filter(|p| lora.lora_target.contains(p)) {
            declare(&mut layout, layer, projection, config.projection(projection), lora);
        }
    }
    layout
}

/// A and B of one projection, whose weight is (out, in).
fn declare(
    layout: &mut Layout,
    layer: usize,
    projection: Projection,
    (out, width): (usize, usize),
    lora: &LoraConfig,
) -> (ParamId, ParamId) {
    let name = format!("model.layers.{layer}.{}", projection.path());
    let a = layout.push(format!("{name}.lora_A"), (lora.lora_rank, width));
    (a, layout.push(format!("{name}.lora_B"), (out, lora.lora_rank)))
}

impl LoraLinear {
    /// `base`: W `[out, in]`. Declares A `[r, in]` and B `[out, r]` in `layout` when `lora` targets this projection.
    pub fn new(
        base: FrozenWeight,
        layer: usize,
        projection: Projection,
        lora: &LoraConfig,
        layout: &mut Layout,
    ) -> Result<Self> {
        let shape = base.shape()?;
        let adapter = lora.lora_target.contains(&projection).then(|| {
            let (a, b) = declare(layout, layer, projection, shape, lora);
            Adapter { a, b, scale: lora.scale(), place: (layer * Projection::ALL.len() + projection as usize) as u64 }
        });
        Ok(Self { base, adapter })
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
        xa: Option<&Tensor>,
        pass: &mut Backward,
        need_dx: bool,
    ) -> Result<Option<Tensor>> {
        backward_all(&[(self, dy, xa)], x, pass, need_dx)
    }
}

/// `y` `[T, out]`, and `s·x·Aᵀ` `[T, r]` where an adapter is, which the backward pass needs.
pub type Projected = (Tensor, Option<Tensor>);

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
        Ok((add_product(y, &xa, &b.t()?)?, Some(xa)))
    };
    projections.iter().zip(products).map(&mut one).collect()
}

/// For every projection of the same rows `x`: `dy` `[T, out]` and forward's `s·x·Aᵀ` → `dx` `[T, in]`, summed over them (or
/// nothing where no one needs it). Adds ∂A and ∂B into the gradients.
pub fn backward_all(
    projections: &[(&LoraLinear, &Tensor, Option<&Tensor>)],
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
/// With g = s·dy·B `[T, r]`: ∂B = dyᵀ·(s·x·Aᵀ), ∂A = gᵀ·x, dx = dy·W + g·A.
pub fn through_all<'a>(
    projections: &[(&'a LoraLinear, &Tensor, Option<&Tensor>)],
    pass: &mut Backward,
    need_dx: bool,
) -> Result<(Option<Tensor>, Through<'a>)> {
    let mut through = Through { adapters: vec![], stacked: None };
    let mut sum: Option<Tensor> = None;
    for &(projection, dy, xa) in projections {
        let adapter = projection.adapter.as_ref().zip(xa);
        let b = adapter.map(|(adapter, _)| pass.params.get(adapter.b)).transpose()?;
        let added = sum.is_some() && projection.base.adds_while_multiplying();
        let factors = (need_dx && !added).then_some(Factor::Frozen(&projection.base)).into_iter();
        let b = b.as_ref().zip(adapter).map(|(b, (adapter, _))| Factor::Scaled(b, adapter.scale));
        let mut products = products(dy, &factors.chain(b).collect::<Vec<_>>())?;
        if let Some((adapter, xa)) = adapter {
            // In f32, so that a gradient does not depend on how the rows were cut into micro-batches.
            pass.grads.add_product(&[adapter.b], &dy.t()?, xa)?;
            let g = products.pop().expect("s·dy·B is the last product");
            let mask = adapter.mask((dy.dim(0)?, projection.base.shape()?.1), dy.device(), pass.dropout)?;
            through.adapters.push(Update { adapter, g, mask });
        }
        sum = match (sum, products.pop()) {
            (Some(sum), None) if added => Some(projection.base.add_backward(sum, dy)?),
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
}

impl Through<'_> {
    /// `dx + Σ g·A`.
    fn add_dx(&self, mut dx: Tensor, pass: &Backward) -> Result<Tensor> {
        if let Some(g) = &self.stacked {
            let a = stacked_a(self.adapters.iter().map(|update| update.adapter), pass.params)?;
            return add_product(dx, g, &a.expect("g is stacked where adapters are"));
        }
        for Update { adapter, g, mask } in &self.adapters {
            dx = add_to(dx, &dropped(&product(g, &pass.params.get(adapter.a)?)?, mask.as_ref())?)?;
        }
        Ok(dx)
    }

    /// Adds ∂A = gᵀ·x of every projection; `x` `[T, in]` are the rows they all saw.
    pub fn add_da(&self, x: &Tensor, pass: &mut Backward) -> Result<()> {
        if let Some(g) = &self.stacked {
            let ids: Vec<ParamId> = self.adapters.iter().map(|update| update.adapter.a).collect();
            return pass.grads.add_product(&ids, &g.t()?, x);
        }
        for Update { adapter, g, mask } in &self.adapters {
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
        Ok((add_product(y, &xa, &params.get(adapter.b)?.t()?)?, Some(xa)))
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

/// PEFT's start: A uniform on ±1/√in (Kaiming uniform with a = √5), B zero, so that step 0 is exactly the base model.
///
/// Drawn by our own generator: the same distribution as PEFT's, other numbers.
pub fn initial_values(slot: &Slot, seed: u64) -> Vec<f32> {
    let (rows, width) = slot.shape;
    if slot.is_b() {
        return vec![0.0; rows * width];
    }
    let bound = 1.0 / (width as f32).sqrt();
    let key = Key::new(seed, &slot.name);
    (0..(rows * width) as u64).map(|i| (2.0 * key.uniform(i) - 1.0) * bound).collect()
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
            use_rslora: false,
        }
    }

    fn layer(config: &LoraConfig) -> Result<(LoraLinear, Params, Tensor)> {
        let w = wave((6, 10), 1.0, &Device::Cpu)?;
        let mut layout = Layout::default();
        let linear = LoraLinear::new(FrozenWeight::new(w.clone())?, 0, Projection::UpProj, config, &mut layout)?;
        let params = Params::new(layout, DType::F32, &Device::Cpu, |slot| {
            let phase = if slot.name.ends_with('A') { 0.3 } else { 0.7 };
            Ok(wave(slot.shape, phase, &Device::Cpu)?.flatten_all()?.to_vec1()?)
        })?;
        Ok((linear, params, w))
    }

    #[test]
    fn unmerged_equals_merged() -> Result<()> {
        let (linear, params, w) = layer(&lora(3, 5.0, 0.0))?; // alpha ≠ r and B ≠ 0: ones and zeros would hide a mistake
        let ids: Vec<ParamId> = params.slots().map(|(id, _)| id).collect();
        let (a, b) = (params.get(ids[0])?, params.get(ids[1])?);
        let merged = (w + (b.matmul(&a)? * (5.0 / 3.0))?)?;
        let x = wave((4, 10), 2.0, &Device::Cpu)?;
        assert_close(&linear.forward(&x, &params, None)?.0, &x.matmul(&merged.t()?)?, 1e-5);
        Ok(())
    }

    #[test]
    fn gradients_agree_with_autograd_with_and_without_dropout() -> Result<()> {
        for p in [0.0, 0.4] {
            let config = lora(3, 5.0, p);
            let (linear, params, w) = layer(&config)?;
            let ids: Vec<ParamId> = params.slots().map(|(id, _)| id).collect();
            let x = Var::from_tensor(&wave((4, 10), 2.0, &Device::Cpu)?)?;
            let (a, b) = (Var::from_tensor(&params.get(ids[0])?)?, Var::from_tensor(&params.get(ids[1])?)?);
            let dy = wave((4, 6), 5.0, &Device::Cpu)?;
            let rows = [(0, 0), (0, 1), (7, 0), (7, 1)];
            let dropout = Dropout { p, key: Key::new(1, "dropout"), rows: &rows };
            let adapter = linear.adapter.as_ref().expect("targeted");
            let dropped = match adapter.mask((4, 10), &Device::Cpu, Some(&dropout))? {
                Some(mask) => (x.as_tensor() * mask)?,
                None => x.as_tensor().clone(),
            };
            let slow = (x.matmul(&w.t()?)? + (dropped.matmul(&a.t()?)?.matmul(&b.t()?)? * config.scale())?)?;
            let want = (&slow * &dy)?.backward()?;

            let (y, xa) = linear.forward(&x, &params, Some(&dropout))?;
            assert_close(&y, &slow, 1e-5);
            let mut grads = Grads::new(&params)?;
            let mut pass = Backward { params: &params, grads: &mut grads, dropout: Some(&dropout) };
            let dx = linear.backward(&dy, &x, xa.as_ref(), &mut pass, true)?.expect("asked for");
            assert_close(&dx, want.get(&x).expect("a Var"), 1e-5);
            assert_close(&grads.get(ids[0])?.expect("∂A"), want.get(&a).expect("a Var"), 1e-5);
            assert_close(&grads.get(ids[1])?.expect("∂B"), want.get(&b).expect("a Var"), 1e-5);
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
                together_and_alone(dtype, tolerance, p, need_dx)?;
            }
        }
        Ok(())
    }

    fn together_and_alone(dtype: DType, tolerance: f64, p: f64, need_dx: bool) -> Result<()> {
        let config = LoraConfig { lora_target: vec![Projection::QProj, Projection::VProj], ..lora(3, 5.0, p) };
        let of = |t: Tensor| t.to_dtype(dtype);
        let mut layout = Layout::default();
        let linears: Result<Vec<LoraLinear>> =
            [(Projection::QProj, 6), (Projection::KProj, 40), (Projection::VProj, 5)]
                .into_iter()
                .map(|(projection, out)| {
                    let w = FrozenWeight::new(of(wave((out, 10), out as f64, &Device::Cpu)?)?)?;
                    LoraLinear::new(w, 0, projection, &config, &mut layout)
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
        for (linear, (y, xa)) in linears.iter().zip(&together) {
            let (want, want_xa) = linear.forward(&x, &params, dropout)?;
            assert_close(y, &want, tolerance);
            assert_eq!((xa.is_some(), want_xa.is_some()), (linear.is_trained(), linear.is_trained()));
            alone.push((of(wave((4, want.dim(1)?), 7.0, &Device::Cpu)?)?, want_xa));
        }
        let (mut one, mut all) = (Grads::new(&params)?, Grads::new(&params)?);
        let mut pass = Backward { params: &params, grads: &mut one, dropout };
        let mut want: Option<Tensor> = None;
        for (linear, (dy, xa)) in linears.iter().zip(&alone) {
            let dx = linear.backward(dy, &x, xa.as_ref(), &mut pass, need_dx)?;
            want = match (want, dx) {
                (Some(sum), Some(dx)) => Some((sum + dx)?),
                (sum, dx) => sum.or(dx),
            };
        }
        let parts: Vec<_> = linears.iter().zip(&alone).map(|(l, (dy, xa))| (*l, dy, xa.as_ref())).collect();
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
        let (linear, _, _) = layer(&lora(3, 5.0, 0.5))?;
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

    #[test]
    fn a_starts_as_peft_draws_it_and_b_at_zero() {
        let slot = |name: &str, shape| {
            let mut layout = Layout::default();
            layout.push(name.into(), shape);
            layout
        };
        let params = Params::new(slot("x.lora_A", (8, 400)), DType::F32, &Device::Cpu, |s| Ok(initial_values(s, 42)));
        let a: Vec<f32> = params.unwrap().flat().to_vec1().unwrap();
        let bound = 1.0 / 20.0;
        assert!(a.iter().all(|x| x.abs() <= bound));
        let var = a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32;
        assert!((var - bound * bound / 3.0).abs() < 5e-5, "variance of a uniform distribution: {var}");
        let params = Params::new(slot("x.lora_B", (8, 4)), DType::F32, &Device::Cpu, |s| Ok(initial_values(s, 42)));
        assert_eq!(params.unwrap().flat().to_vec1::<f32>().unwrap(), vec![0.0; 32]);
    }
}
