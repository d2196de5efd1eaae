//! Is an adapter what it should be: every tensor there, finite, and not without effect?

use super::peft::{Existing, file_name};
use crate::{
    config::Projection,
    error::{Error, Result},
    model::{Qwen3Config, lora, params::Slot},
};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// What an adapter's file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// Matrices A and B, and magnitudes.
    pub tensors: usize,
    /// For every projection that has one, the Frobenius norm of its update `s·B·A` over all blocks.
    pub updates: Vec<(Projection, f64)>,
    /// Modules whose B is zero: their update does nothing. Of DoRA only the base knows that, for magnitudes do something too.
    pub zero: Vec<String>,
    /// Whether it is DoRA.
    pub has_magnitudes: bool,
}

impl Proof {
    /// Whether every update is zero, and is all that there is.
    pub fn is_dead(&self) -> bool {
        !self.has_magnitudes && self.has_no_update()
    }

    /// Whether every update is zero, so that at most magnitudes do something: they do not where they are the lengths of the base's
    /// rows.
    pub fn rests_on_magnitudes(&self) -> bool {
        self.has_magnitudes && self.has_no_update()
    }

    fn has_no_update(&self) -> bool {
        self.updates.iter().all(|(_, norm)| *norm == 0.0)
    }
}

/// Looks at every tensor of `adapter`, which must fit a base of this geometry.
///
/// Errors: a tensor is missing, is one too many, has another shape or holds a value that is not finite.
pub fn inspect(adapter: &Existing, config: &Qwen3Config) -> Result<Proof> {
    let layout = lora::layout(config, &adapter.lora);
    adapter.refuse_strangers(layout.slots().iter())?;
    let has_magnitudes = adapter.lora.use_dora;
    let mut proof = Proof { tensors: layout.slots().len(), updates: vec![], zero: vec![], has_magnitudes };
    layout.slots().iter().filter(|slot| slot.is_magnitude()).try_for_each(|slot| finite(adapter, slot).map(drop))?;
    for projection in adapter.lora.lora_target.iter().copied() {
        let mut squared = 0.0;
        let of_projection = |(a, _): &(&Slot, &Slot)| a.name.contains(&format!(".{}.lora_", projection.path()));
        for (slot_a, slot_b) in layout.pairs().filter(of_projection) {
            let (a, b) = (finite(adapter, slot_a)?, finite(adapter, slot_b)?);
            let norm = squared_norm_of_product(&a, &b, adapter.lora.lora_rank)?;
            if norm == 0.0 && !has_magnitudes {
                proof.zero.push(slot_b.name.trim_end_matches(".lora_B").to_owned());
            }
            squared += norm;
        }
        proof.updates.push((projection, adapter.lora.scale() * squared.sqrt()));
    }
    Ok(proof)
}

/// Errors: a tensor of `adapter` is missing or holds a value that is not finite. [`inspect`] without what costs time.
pub fn refuse_non_finite(adapter: &Existing, config: &Qwen3Config) -> Result<()> {
    lora::layout(config, &adapter.lora).slots().iter().try_for_each(|slot| finite(adapter, slot).map(drop))
}

/// Reads every tensor of the adapter in `dir`, whatever base it is for. Errors: a file is missing or damaged, a value not finite.
pub fn refuse_damaged(dir: &Path) -> Result<()> {
    let adapter = Existing::open(dir)?;
    adapter.files().try_for_each(|file| file.names().try_for_each(|name| refuse_infinite(name, &file.values(name)?)))
}

fn finite(adapter: &Existing, slot: &Slot) -> Result<Vec<f32>> {
    adapter.refuse_missing(slot)?;
    let values = adapter.values(slot)?;
    refuse_infinite(&file_name(slot), &values)?;
    Ok(values)
}

fn refuse_infinite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::input(format!("{name} is not finite: value {at} is {}", values[at]))
            .hint("the adapter is damaged; take an earlier checkpoint")
            .hint_zh("适配器已损坏；请改用更早的检查点")),
    }
}

/// ‖B·A‖² from A `[r, in]` and B `[out, r]`, without the product: Σᵢⱼ (BᵀB)ᵢⱼ (AAᵀ)ᵢⱼ, in f64.
#[expect(clippy::disallowed_methods, reason = "a proof reads results back")]
fn squared_norm_of_product(a: &[f32], b: &[f32], rank: usize) -> Result<f64> {
    let matrix = |values: &[f32], shape| Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(DType::F64);
    let a = matrix(a, (rank, a.len() / rank))?;
    let b = matrix(b, (b.len() / rank, rank))?;
    let (aa, bb) = (a.matmul(&a.t()?)?, b.t()?.matmul(&b)?);
    let sum: f64 = (aa * bb)?.sum_all()?.to_scalar()?;
    // Rounding can leave a trace below zero.
    Ok(sum.max(0.0))
}

/// How far two sets of logits are apart, and how far an adapter moves them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Positions compared.
    pub positions: usize,
    /// Largest |logit| of base + adapter.
    pub largest: f64,
    /// Largest and mean |difference| between base + adapter and merged.
    pub max: f64,
    /// See `max`.
    pub mean: f64,
    /// Share of positions where both have the same first choice.
    pub top1: f64,
    /// ‖merged − tuned‖ / ‖tuned − base‖: what rounding has cost of what the adapter does; 0 is nothing.
    pub lost: f64,
}

impl Agreement {
    /// Compares logits `[L, V]` of the base, of base + adapter, and of the merged model.
    #[expect(clippy::disallowed_methods, reason = "a proof reads results back")]
    pub fn of(base: &Tensor, tuned: &Tensor, merged: &Tensor) -> Result<Self> {
        let number = |t: Tensor| -> Result<f64> { Ok(f64::from(t.to_scalar::<f32>()?)) };
        let norm = |t: &Tensor| -> Result<f64> { Ok(number(t.sqr()?.sum_all()?)?.sqrt()) };
        let off = (merged - tuned)?;
        let same = merged.argmax(1)?.eq(&tuned.argmax(1)?)?.to_dtype(DType::F32)?;
        Ok(Self {
            positions: tuned.dim(0)?,
            largest: number(tuned.abs()?.max_all()?)?,
            max: number(off.abs()?.max_all()?)?,
            mean: number(off.abs()?.mean_all()?)?,
            top1: number(same.mean_all()?)?,
            lost: norm(&off)? / norm(&(tuned - base)?)?.max(f64::MIN_POSITIVE),
        })
    }

    /// Errors: they are further apart than one rounding to `dtype` explains, or are no numbers.
    ///
    /// In f32 the bound is 1e-4 of the largest logit. In bf16 and f16 rounding itself moves the logits, in a small update by
    /// much of what it does; half of it lost means that the merged model is another one.
    pub fn refuse_difference(&self, dtype: DType) -> Result<()> {
        let numbers = [self.largest, self.max, self.mean, self.lost];
        let fact = match dtype {
            _ if !numbers.iter().all(|x| x.is_finite()) => "its logits are not finite".to_owned(),
            DType::F32 if self.max > 1e-4 * self.largest => {
                format!("max |difference| {:.2e}, of logits up to {:.1}", self.max, self.largest)
            }
            DType::BF16 | DType::F16 if self.lost > 0.5 => {
                format!("rounding lost {:.0} % of what the adapter does", 100.0 * self.lost)
            }
            _ => return Ok(()),
        };
        Err(Error::run(format!("the merged model does not say what base + adapter say: {fact}"))
            .hint("export with `infer_dtype=float32`, or serve base and adapter unmerged")
            .hint_zh("请用 `infer_dtype=float32` 导出，或不合并，直接使用基座与适配器"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{adapter::peft, config::LoraConfig, testing::wave};
    use candle_core::Device;

    /// Saves an adapter of q and down on the tiny base with `values`, and looks at it.
    fn inspected(values: impl Fn(&Slot) -> Vec<f32>) -> Result<Proof> {
        inspected_as(false, values)
    }

    fn inspected_as(use_dora: bool, values: impl Fn(&Slot) -> Vec<f32>) -> Result<Proof> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3");
        let config = Qwen3Config::load(&base).unwrap();
        let lora = LoraConfig {
            lora_rank: 2,
            lora_alpha: 6.0,
            lora_dropout: 0.0,
            lora_target: vec![Projection::QProj, Projection::DownProj],
            use_dora,
            use_rslora: false,
            pissa: Default::default(),
        };
        let dir = tempfile::tempdir().unwrap();
        let layout = lora::layout(&config, &lora);
        let flat: Vec<f32> = layout.slots().iter().flat_map(values).collect();
        let (header, values) = peft::weights_parts(layout.slots(), &flat).unwrap();
        std::fs::write(dir.path().join(peft::WEIGHTS), [header, values.into_owned()].concat()).unwrap();
        std::fs::write(dir.path().join(peft::CONFIG), peft::config_text(&lora, "m")).unwrap();
        inspect(&Existing::open(dir.path()).unwrap(), &config)
    }

    fn waves(slot: &Slot) -> Vec<f32> {
        wave(slot.shape, 0.5, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_living_adapter_shows_the_size_of_its_updates() {
        let proof = inspected(waves).unwrap();
        assert_eq!((proof.tensors, proof.updates.len(), proof.is_dead()), (24, 2, false));
        assert!(proof.zero.is_empty() && proof.updates.iter().all(|(_, norm)| *norm > 1.0), "{proof:?}");
    }

    #[test]
    fn a_dead_or_half_dead_one_is_told() {
        let dead = inspected(|slot| if slot.is_b() { vec![0.0; slot.range().len()] } else { waves(slot) }).unwrap();
        assert!(dead.is_dead() && dead.zero.len() == 12);
        let half =
            inspected(
                |slot| if slot.name.contains("layers.3.mlp") { vec![0.0; slot.range().len()] } else { waves(slot) },
            );
        let half = half.unwrap();
        assert_eq!((half.is_dead(), half.zero), (false, vec!["model.layers.3.mlp.down_proj".to_owned()]));
    }

    #[test]
    fn magnitudes_are_looked_at_and_alone_may_be_all_that_moves() {
        let of = |broken: bool| {
            inspected_as(true, move |slot| match (slot.is_b(), broken && slot.is_magnitude()) {
                (false, true) => vec![f32::NAN; slot.range().len()],
                (true, _) => vec![0.0; slot.range().len()],
                _ => waves(slot),
            })
        };
        let proof = of(false).unwrap();
        assert_eq!((proof.tensors, proof.is_dead(), proof.zero.len()), (36, false, 0));
        assert!(proof.rests_on_magnitudes() && !inspected_as(true, waves).unwrap().rests_on_magnitudes());
        let err = of(true).unwrap_err().to_string();
        assert_eq!(
            err,
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector is not finite: value 0 is NaN"
        );
    }

    #[test]
    fn a_value_that_is_not_finite_is_named() {
        let broken = |slot: &Slot| {
            let mut values = waves(slot);
            if slot.name == "model.layers.2.self_attn.q_proj.lora_B" {
                values[7] = f32::INFINITY;
            }
            values
        };
        let err = inspected(broken).unwrap_err().to_string();
        assert_eq!(err, "base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight is not finite: value 7 is inf");
    }

    #[test]
    fn agreement_is_measured_against_what_the_adapter_does() {
        let logits = |values: &[[f32; 3]; 2]| Tensor::new(values, &Device::Cpu).unwrap();
        let base = logits(&[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]);
        let tuned = logits(&[[4.0, 0.0, 0.0], [0.0, 3.0, 0.0]]);
        let same = Agreement::of(&base, &tuned, &tuned).unwrap();
        assert_eq!(
            (same.positions, same.largest, same.max, same.mean, same.top1, same.lost),
            (2, 4.0, 0.0, 0.0, 1.0, 0.0)
        );
        same.refuse_difference(DType::F32).unwrap();
        let near = Agreement::of(&base, &tuned, &logits(&[[4.0, 0.0, 0.0], [0.0, 3.0, 1.0]])).unwrap();
        assert_eq!((near.max, near.top1, near.lost), (1.0, 1.0, 0.2));
        assert!(near.refuse_difference(DType::F32).is_err() && near.refuse_difference(DType::BF16).is_ok());
        let unmerged = Agreement::of(&base, &tuned, &base).unwrap();
        assert_eq!((unmerged.lost, unmerged.top1), (1.0, 0.5));
        let err = unmerged.refuse_difference(DType::BF16).unwrap_err().to_string();
        assert!(err.ends_with("rounding lost 100 % of what the adapter does"), "{err}");
        for broken in [f32::NAN, f32::INFINITY] {
            let broken = logits(&[[4.0, 0.0, broken], [0.0, 3.0, 0.0]]);
            for (tuned, merged) in [(&tuned, &broken), (&broken, &broken)] {
                let agreement = Agreement::of(&base, tuned, merged).unwrap();
                for dtype in [DType::F32, DType::BF16] {
                    let err = agreement.refuse_difference(dtype).unwrap_err().to_string();
                    assert!(err.ends_with("its logits are not finite"), "{err}");
                }
            }
        }
    }

    #[test]
    fn the_norm_needs_no_product() {
        let (a, b) = (wave((3, 11), 0.1, &Device::Cpu).unwrap(), wave((7, 3), 0.9, &Device::Cpu).unwrap());
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let slow: f32 = b.matmul(&a).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
        let fast = squared_norm_of_product(&values(&a), &values(&b), 3).unwrap();
        assert!((fast - f64::from(slow)).abs() < 1e-4 * fast, "{fast} {slow}");
        assert_eq!(squared_norm_of_product(&values(&a), &[0.0; 21], 3).unwrap(), 0.0);
    }
}
