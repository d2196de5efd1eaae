//! One adapter laid out for generation, apart from the base: any number of them, of any rank, can take turns over one model.

use super::params::{Layout, Params};
use crate::{
    config::{LoraConfig, Projection},
    error::{Error, Result},
    kernels::{add_low_rank, row_product},
};
use candle_core::Tensor;
use std::collections::HashMap;

/// The low-rank updates of every block.
#[derive(Debug, Clone)]
pub struct AdapterWeights {
    layers: Vec<[Option<LowRank>; 7]>,
}

/// `y += (x·sAᵀ)·Bᵀ` of one projection.
#[derive(Debug, Clone)]
pub(super) struct LowRank {
    a: Tensor,   // s·A [r, in]
    b_t: Tensor, // Bᵀ [r, out]
}

impl AdapterWeights {
    /// Of the matrices in `params`, which has a slot for every target of `lora` in `layers` blocks.
    ///
    /// Errors: a matrix is missing.
    pub fn new(layers: usize, lora: &LoraConfig, params: &Params) -> Result<Self> {
        let by_name: HashMap<&str, _> = params.slots().map(|(id, slot)| (slot.name.as_str(), id)).collect();
        let matrix = |name: String| -> Result<Tensor> {
            let id = by_name.get(name.as_str()).ok_or_else(|| Error::run(format!("internal error: no {name}")))?;
            // On the CPU generation is in f32, also where training was in bf16.
            if params.flat().device().is_cpu() { params.master(*id) } else { params.get(*id) }
        };
        let low_rank = |layer: usize, projection: Projection| -> Result<Option<LowRank>> {
            if !lora.lora_target.contains(&projection) {
                return Ok(None);
            }
            let [a, b] = names(layer, projection).map(&matrix);
            Ok(Some(LowRank { a: (a? * lora.scale())?, b_t: b?.t()?.contiguous()? }))
        };
        let layers: Result<Vec<_>> = (0..layers)
            .map(|layer| {
                let all: Result<Vec<_>> = Projection::ALL.into_iter().map(|p| low_rank(layer, p)).collect();
                Ok(all?.try_into().expect("seven projections"))
            })
            .collect();
        Ok(Self { layers: layers? })
    }

    /// The updates of a block, in [`Projection::ALL`] order.
    pub(super) fn block(&self, layer: usize) -> &[Option<LowRank>; 7] {
        &self.layers[layer]
    }
}

impl LowRank {
    /// `y + (x·sAᵀ)·Bᵀ`: `y` `[T, out]`, `x` `[T, in]`.
    pub(super) fn add_to(&self, y: Tensor, x: &Tensor) -> Result<Tensor> {
        add_low_rank(y, &row_product(x, &self.a)?, &self.b_t)
    }
}

/// The names of A and B, as training declares them.
fn names(layer: usize, projection: Projection) -> [String; 2] {
    ["lora_A", "lora_B"].map(|matrix| format!("model.layers.{layer}.{}.{matrix}", projection.path()))
}

/// The slots of an adapter over blocks whose projections have `shape(projection)` = (out, in).
pub fn layout(layers: usize, lora: &LoraConfig, shape: impl Fn(Projection) -> (usize, usize)) -> Layout {
    let mut layout = Layout::default();
    for layer in 0..layers {
        for &projection in &lora.lora_target {
            let (out, width) = shape(projection);
            let [a, b] = names(layer, projection);
            layout.push(a, (lora.lora_rank, width));
            layout.push(b, (out, lora.lora_rank));
        }
    }
    layout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, wave};
    use candle_core::{DType, Device};

    #[test]
    fn an_adapter_trained_in_bf16_answers_in_f32_on_the_cpu() -> Result<()> {
        let lora = LoraConfig {
            lora_rank: 2,
            lora_alpha: 6.0,
            lora_dropout: 0.0,
            lora_target: vec![Projection::QProj],
            use_rslora: false,
        };
        let values =
            |slot: &crate::model::params::Slot| Ok(wave(slot.shape, 0.3, &Device::Cpu)?.flatten_all()?.to_vec1()?);
        let params = Params::new(layout(1, &lora, |_| (5, 4)), DType::BF16, &Device::Cpu, values)?;
        let adapter = AdapterWeights::new(1, &lora, &params)?;
        let low_rank = adapter.block(0)[Projection::QProj as usize].as_ref().expect("targeted");
        let (x, y) = (wave((3, 4), 1.0, &Device::Cpu)?, wave((3, 5), 2.0, &Device::Cpu)?);
        let (a, b) = (wave((2, 4), 0.3, &Device::Cpu)?, wave((5, 2), 0.3, &Device::Cpu)?);
        let want = (&y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * 3.0)?)?;
        assert_close(&low_rank.add_to(y, &x)?, &want, 1e-5);
        Ok(())
    }
}
