//! PiSSA: an adapter that begins as the largest singular values of its weight, which the base then lacks.
//!
//! With W = U·S·Vᵀ and r of its values: A = √(S/s)·Vᵀ, B = U·√(S/s), and the base keeps W − s·B·A. So the model is at first what it
//! was, and the directions that matter most in it are trained (Meng, Wang, Zhang 2024; PEFT's `init_lora_weights="pissa"`).
//!
//! Where the model computes in bf16, A and B are rounded to it first, as PEFT does, and what is left of W is left by these: the
//! model as it begins is off by one rounding, and `B·A − B₀·A₀` is exactly what training has done.

use super::{
    config::Qwen3Config,
    lora,
    params::{Layout, Slot},
    weights::f32_bytes,
};
use crate::{
    config::LoraConfig,
    error::{Error, Result},
    kernels::{
        ordered_product,
        singular::{self, Effort, Singular},
    },
    rng::Key,
};
use candle_core::{DType, Device, Tensor};
use std::{collections::HashMap, f64::consts::TAU, ops::Range};

/// A and B as PiSSA begins: what the base lacks.
pub struct Principal {
    layout: Layout,
    /// Of all slots, end to end, as in [`super::Params`].
    flat: Vec<f32>,
    /// Of every module, where A and B lie in it.
    places: HashMap<String, (Range<usize>, Range<usize>)>,
    rank: usize,
    scale: f64,
}

impl Principal {
    /// Of the weights that `lora` targets: `weight(name, shape)` `[out, in]` in the dtype of the model, on the CPU. `progress` gets
    /// weights done and in all.
    ///
    /// Errors: a weight has fewer singular values than `lora_rank`, is not finite, or cannot be read.
    pub fn draw(
        config: &Qwen3Config,
        lora: &LoraConfig,
        seed: u64,
        weight: impl Fn(&str, (usize, usize)) -> Result<Tensor>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        Self::refuse_short_sides(config, lora)?;
        let effort = lora.pissa.rounds().map_or(Effort::Converged, Effort::Rounds);
        let layout = lora::layout(config, lora);
        let all = layout.pairs().count();
        let mut values: HashMap<String, Vec<f32>> = HashMap::new();
        for (done, (a, b)) in layout.pairs().enumerate() {
            progress(done, all);
            let name = format!("{}.weight", module(a));
            let w = weight(&name, (b.shape.0, a.shape.1))?;
            let key = Key::new(seed, &a.name).with(1);
            let found = singular::largest(&w, lora.lora_rank, effort, &|i| normal(key, i));
            let halves = found.and_then(|found| halves(found, lora.scale(), w.dtype()));
            let (a_values, b_values) = halves.map_err(|err| err.at(name))?;
            values.insert(a.name.clone(), a_values);
            values.insert(b.name.clone(), b_values);
        }
        progress(all, all);
        Self::of(config, lora, |slot| values.remove(&slot.name).ok_or_else(|| Error::run("internal error: a slot")))
    }

    /// Errors: a projection has fewer singular values than the rank.
    pub fn refuse_short_sides(config: &Qwen3Config, lora: &LoraConfig) -> Result<()> {
        let side = |p| {
            let (out, width) = config.projection(p);
            out.min(width)
        };
        match lora.lora_target.iter().find(|p| side(**p) < lora.lora_rank) {
            None => Ok(()),
            Some(p) => {
                let (name, side) = (p.name(), side(*p));
                Err(Error::input(format!(
                    "`pissa_init` takes `lora_rank` ({}) singular values of every weight, {name} has {side}",
                    lora.lora_rank
                ))
                .hint(format!("lower `lora_rank` to {side}, or leave {name} out of `lora_target`"))
                .hint_zh(format!("请将 `lora_rank` 降到 {side}，或在 `lora_target` 中去掉 {name}")))
            }
        }
    }

    /// Of values that are known: `values(slot)`, row-major.
    pub fn of(
        config: &Qwen3Config,
        lora: &LoraConfig,
        mut values: impl FnMut(&Slot) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let layout = lora::layout(config, lora);
        let mut flat = vec![];
        for slot in layout.slots() {
            flat.extend(values(slot)?);
        }
        let place = |(a, b): (&Slot, &Slot)| (module(a).to_owned(), (a.range(), b.range()));
        let places = layout.pairs().map(place).collect();
        Ok(Self { layout, flat, places, rank: lora.lora_rank, scale: lora.scale() })
    }

    /// The matrices, in the order of [`super::Params`].
    pub fn slots(&self) -> &[Slot] {
        self.layout.slots()
    }

    /// The values of all matrices, in this order.
    pub fn flat(&self) -> &[f32] {
        &self.flat
    }

    /// The values of one, row-major.
    pub fn values(&self, slot: &Slot) -> Result<Vec<f32>> {
        let Some((a, b)) = self.places.get(module(slot)) else {
            return Err(Error::run(format!("internal error: {} has no principal part", slot.name)));
        };
        Ok(self.flat[if slot.is_b() { b.clone() } else { a.clone() }].to_vec())
    }

    /// `value − s·B·A` with one rounding, where `value` are `rows` of the weight `name`; any other tensor as it is.
    pub fn without(&self, name: &str, rows: Range<usize>, value: Tensor) -> Result<Tensor> {
        let Some((a, b)) = name.strip_suffix(".weight").and_then(|module| self.places.get(module)) else {
            return Ok(value);
        };
        let b = &self.flat[b.clone()][rows.start * self.rank..rows.end * self.rank];
        let part = ordered_product(b, &self.flat[a.clone()], self.rank);
        let part = (Tensor::from_vec(part, value.shape(), &Device::Cpu)? * self.scale)?;
        Ok((value.to_dtype(DType::F32)? - part)?.to_dtype(value.dtype())?)
    }

    /// A digest of names and values.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for slot in self.slots() {
            hasher.update(slot.name.as_bytes());
        }
        hasher.update_rayon(&f32_bytes(&self.flat)).finalize().to_hex().to_string()
    }
}

/// The module of A or B: `model.layers.0.self_attn.q_proj`.
fn module(slot: &Slot) -> &str {
    slot.name.trim_end_matches(".lora_A").trim_end_matches(".lora_B")
}

/// A and B, row-major, of values that `dtype` has.
#[expect(clippy::disallowed_methods, reason = "loading, not a step")]
fn halves(found: Singular, scale: f64, dtype: DType) -> Result<(Vec<f32>, Vec<f32>)> {
    let r = found.values.len();
    let roots = Tensor::from_vec(found.values.iter().map(|x| (x / scale).sqrt()).collect(), (r, 1), &Device::Cpu)?;
    let rounded = |vectors: Tensor| {
        let scaled = vectors.to_dtype(DType::F64)?.broadcast_mul(&roots)?;
        scaled.to_dtype(DType::F32)?.to_dtype(dtype)?.to_dtype(DType::F32)
    };
    let values = |t: Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
    Ok((values(rounded(found.right)?)?, values(rounded(found.left)?.t()?)?))
}

/// Value number `i` of a normal distribution (Box, Muller 1958).
fn normal(key: Key, i: u64) -> f64 {
    let [radius, angle] = [2 * i, 2 * i + 1].map(|i| f64::from(key.uniform(i)));
    (-2.0 * (1.0 - radius).ln()).sqrt() * (TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Pissa, Projection},
        model::{Checkpoint, Params, Qwen3, qwen3::Batch},
        testing::assert_close,
    };
    use std::path::Path;

    fn lora(pissa_iter: i64) -> LoraConfig {
        LoraConfig {
            lora_rank: 6,
            lora_alpha: 15.0,
            lora_dropout: 0.0,
            lora_target: vec![Projection::QProj, Projection::VProj, Projection::DownProj],
            use_dora: false,
            use_rslora: true,
            pissa: Pissa { pissa_init: true, pissa_iter, pissa_convert: false },
        }
    }

    fn tiny() -> (Qwen3Config, Checkpoint) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3");
        (Qwen3Config::load(&dir).unwrap(), Checkpoint::open(&dir).unwrap())
    }

    fn draw(lora: &LoraConfig, seed: u64, dtype: DType) -> Principal {
        let (config, base) = tiny();
        let weight = |name: &str, shape: (usize, usize)| base.tensor(name, &[shape.0, shape.1], dtype, &Device::Cpu);
        Principal::draw(&config, lora, seed, weight, |_, _| ()).unwrap()
    }

    #[test]
    fn the_model_begins_as_it_was_and_the_seed_decides() {
        let (config, base) = tiny();
        let (ids, no) = (vec![5u32, 90, 400, 77, 1000, 31], u32::MAX);
        let batch = Batch::pack(&[(0, &ids, &[no, 90, 400, 77, 1000, 31])], no, false).unwrap();
        for (dtype, iter, bound) in [(DType::F32, 3, 1e-4), (DType::F32, -1, 1e-4), (DType::BF16, 3, 0.3)] {
            let lora = lora(iter);
            let principal = draw(&lora, 1, dtype);
            let without = |name: &str, rows, value| principal.without(name, rows, value);
            let logits = |change: Option<&super::super::weights::Change>,
                          values: &dyn Fn(&Slot) -> Result<Vec<f32>>| {
                let loaded = Qwen3::load_changed(&config, &base, change, &lora, (dtype, &Device::Cpu)).unwrap();
                let params = Params::new(loaded.1, dtype, &Device::Cpu, values).unwrap();
                loaded.0.logits(&batch, &params).unwrap().to_dtype(DType::F32).unwrap()
            };
            let zeros = |slot: &Slot| Ok(vec![0.0; slot.range().len()]);
            let (want, got) = (logits(None, &zeros), logits(Some(&without), &|slot| principal.values(slot)));
            assert_close(&got, &want, bound);
            let alone = logits(Some(&without), &zeros);
            let moved = (alone - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(moved > 2.0, "the base lacks something: {moved}");
        }
        let same = |a: &Principal, b: &Principal| a.digest() == b.digest() && a.flat() == b.flat();
        assert!(same(&draw(&lora(3), 1, DType::F32), &draw(&lora(3), 1, DType::F32)));
        assert!(!same(&draw(&lora(3), 1, DType::F32), &draw(&lora(3), 2, DType::F32)));
    }

    #[test]
    fn in_bf16_the_matrices_are_bf16() {
        let principal = draw(&lora(2), 1, DType::BF16);
        assert!(principal.flat().iter().all(|x| half::bf16::from_f32(*x).to_f32() == *x));
    }

    #[test]
    fn a_rank_beyond_the_sides_is_refused() {
        let (config, _) = tiny();
        let lora = LoraConfig { lora_rank: 200, ..lora(16) };
        let weight = |_: &str, _: (usize, usize)| -> Result<Tensor> { unreachable!("refused before") };
        let err = Principal::draw(&config, &lora, 1, weight, |_, _| ()).err().unwrap();
        assert_eq!(
            err.to_string(),
            "`pissa_init` takes `lora_rank` (200) singular values of every weight, v_proj has 128"
        );
    }

    #[test]
    fn numbers_are_normal() {
        let key = Key::new(3, "x");
        let x: Vec<f64> = (0..100_000).map(|i| normal(key, i)).collect();
        let moment = |n| x.iter().map(|x| x.powi(n)).sum::<f64>() / x.len() as f64;
        for (n, want, bound) in [(1, 0.0, 0.01), (2, 1.0, 0.02), (3, 0.0, 0.04), (4, 3.0, 0.12)] {
            assert!((moment(n) - want).abs() < bound, "moment {n}: {}", moment(n));
        }
    }
}
