//! One adapter laid out for generation, apart from the base: any number of them, of any rank, can take turns over one model.

use super::{params::Params, slots::names};
use crate::{
    config::{LoraConfig, Projection},
    error::{Error, Result},
    kernels::{add_low_rank, row_product, scale_columns},
};
use candle_core::Tensor;
use std::collections::HashMap;

/// The low-rank updates of every block.
#[derive(Debug, Clone)]
pub struct AdapterWeights {
    layers: Vec<[Option<LowRank>; 7]>,
}

/// `y ← c·(y + (x·sAᵀ)·Bᵀ)` of one projection.
#[derive(Debug, Clone)]
pub(super) struct LowRank {
    a: Tensor,         // s·A [r, in]
    b_t: Tensor,       // Bᵀ [r, out]
    c: Option<Tensor>, // DoRA's m/‖W + s·B·A‖ [1, out]
}

impl AdapterWeights {
    /// Of the matrices in `params`, which has a slot for every target of `lora` in `layers` blocks.
    ///
    /// Errors: a matrix is missing.
    pub fn new(layers: usize, lora: &LoraConfig, params: &Params) -> Result<Self> {
        let by_name: HashMap<&str, _> = params.slots().map(|(id, slot)| (slot.name.as_str(), id)).collect();
        let id =
            |name: &str| by_name.get(name).copied().ok_or_else(|| Error::run(format!("internal error: no {name}")));
        // On the CPU generation is in f32, also where training was in bf16.
        let in_f32 = params.flat().device().is_cpu();
        let matrix = |name: &str| if in_f32 { params.master(id(name)?) } else { params.get(id(name)?) };
        let factors = |name: &str| match in_f32 {
            true => params.factors_of_masters(id(name)?),
            false => params.factors(id(name)?),
        };
        let low_rank = |layer: usize, projection: Projection| -> Result<Option<LowRank>> {
            if !lora.lora_target.contains(&projection) {
                return Ok(None);
            }
            let [a, b, magnitude] = &names(layer, projection);
            let c = lora.use_dora.then(|| factors(magnitude)).transpose()?;
            Ok(Some(LowRank { a: (matrix(a)? * lora.scale())?, b_t: matrix(b)?.t()?.contiguous()?, c }))
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
    /// `c·(y + (x·sAᵀ)·Bᵀ)`: `y` = x·Wᵀ `[T, out]`, `x` `[T, in]`.
    pub(super) fn add_to(&self, y: Tensor, x: &Tensor) -> Result<Tensor> {
        let sum = add_low_rank(y, &row_product(x, &self.a)?, &self.b_t)?;
        match &self.c {
            None => Ok(sum),
            Some(c) => scale_columns(&sum, c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernels::FrozenWeight,
        model::{params::Layout, slots::declare_over},
        testing::{assert_close, wave},
    };
    use candle_core::{DType, Device};

    #[test]
    fn an_adapter_trained_in_bf16_answers_in_f32_on_the_cpu() -> Result<()> {
        for use_dora in [false, true] {
            let lora = LoraConfig {
                lora_rank: 2,
                lora_alpha: 6.0,
                lora_dropout: 0.0,
                lora_target: vec![Projection::QProj],
                use_dora,
                use_rslora: false,
                pissa: Default::default(),
            };
            let w = wave((5, 4), 0.8, &Device::Cpu)?.to_dtype(DType::BF16)?;
            let mut layout = Layout::default();
            declare_over(&FrozenWeight::new(w.clone())?, &mut layout, 0, Projection::QProj, &lora)?;
            let values = |slot: &crate::model::params::Slot| {
                Ok(wave(slot.shape, 0.3, &Device::Cpu)?.flatten_all()?.to_vec1()?)
            };
            let params = Params::new(layout, DType::BF16, &Device::Cpu, values)?;
            let adapter = AdapterWeights::new(1, &lora, &params)?;
            let low_rank = adapter.block(0)[Projection::QProj as usize].as_ref().expect("targeted");
            let (x, w) = (wave((3, 4), 1.0, &Device::Cpu)?, w.to_dtype(DType::F32)?);
            let (a, b) = (wave((2, 4), 0.3, &Device::Cpu)?, wave((5, 2), 0.3, &Device::Cpu)?);
            let mut v = (&w + (b.matmul(&a)? * 3.0)?)?;
            if use_dora {
                let m = wave((5, 1), 0.3, &Device::Cpu)?;
                v = v.broadcast_mul(&(m / v.sqr()?.sum_keepdim(1)?.sqrt()?)?)?;
            }
            let y = x.matmul(&w.t()?)?;
            assert_close(&low_rank.add_to(y, &x)?, &x.matmul(&v.t()?)?, 1e-5);
        }
        Ok(())
    }
}
