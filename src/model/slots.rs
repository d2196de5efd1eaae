//! Which matrices an adapter has over a model: their names, their shapes, and how they begin.

use super::{
    config::Qwen3Config,
    dora::Direction,
    params::{Layout, ParamId, Slot},
};
use crate::{
    config::{LoraConfig, Projection},
    error::Result,
    kernels::FrozenWeight,
    rng::Key,
};

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

/// A, B and, with DoRA, the magnitude of one projection, whose weight is (out, in).
fn declare(
    layout: &mut Layout,
    layer: usize,
    projection: Projection,
    (out, width): (usize, usize),
    lora: &LoraConfig,
) -> (ParamId, ParamId, Option<ParamId>) {
    let [a, b, m] = names(layer, projection);
    let (a, b) = (layout.push(a, (lora.lora_rank, width)), layout.push(b, (out, lora.lora_rank)));
    (a, b, lora.use_dora.then(|| layout.push(m, (1, out))))
}

/// As [`declare`], over the weight itself: so that it is known what a magnitude is the length of.
pub(super) fn declare_over(
    base: &FrozenWeight,
    layout: &mut Layout,
    layer: usize,
    projection: Projection,
    lora: &LoraConfig,
) -> Result<(ParamId, ParamId, Option<ParamId>)> {
    let (a, b, magnitude) = declare(layout, layer, projection, base.shape()?, lora);
    if let Some(magnitude) = magnitude {
        layout.direct(Direction::new(base, lora.scale(), (a, b, magnitude))?);
    }
    Ok((a, b, magnitude))
}

/// The names of A, B and the magnitude.
pub(super) fn names(layer: usize, projection: Projection) -> [String; 3] {
    ["lora_A", "lora_B", "lora_magnitude_vector"].map(|of| format!("model.layers.{layer}.{}.{of}", projection.path()))
}

/// PEFT's start: A uniform on ±1/√in (Kaiming uniform with a = √5), B zero, so that step 0 is exactly the base model. Magnitudes
/// are 1 until [`Params::begin_magnitudes`](super::Params::begin_magnitudes).
///
/// Drawn by our own generator: the same distribution as PEFT's, other numbers.
pub fn initial_values(slot: &Slot, seed: u64) -> Vec<f32> {
    let (rows, width) = slot.shape;
    if slot.is_b() || slot.is_magnitude() {
        return vec![if slot.is_b() { 0.0 } else { 1.0 }; rows * width];
    }
    let bound = 1.0 / (width as f32).sqrt();
    let key = Key::new(seed, &slot.name);
    (0..(rows * width) as u64).map(|i| (2.0 * key.uniform(i) - 1.0) * bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Params;
    use candle_core::{DType, Device};

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
