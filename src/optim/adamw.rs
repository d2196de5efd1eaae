//! AdamW (Loshchilov & Hutter 2019) over one flat buffer, with its moments in the open so that a run can be saved.

use crate::{
    error::Result,
    kernels::{AdamWStep, adamw_step},
};
use candle_core::{DType, Device, Tensor};

/// Constants of the update. `weight_decay` is decoupled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The parameter shrinks by `lr·weight_decay` a step.
    pub weight_decay: f64,
}

/// The optimizer's whole state: both moments and the number of updates done.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Constants of the update.
    pub config: AdamWConfig,
    /// First moment, `[n]` f32.
    pub m: Tensor,
    /// Second moment, `[n]` f32.
    pub v: Tensor,
    /// Updates done.
    pub steps: usize,
}

impl AdamW {
    /// Zero moments for `n` parameters.
    pub fn new(config: AdamWConfig, n: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros(n, DType::F32, device);
        Ok(Self { config, m: zeros()?, v: zeros()?, steps: 0 })
    }

    /// One update: `params`, `grads` `[n]` f32 → new parameters. Gradients are multiplied by `grad_factor` first.
    ///
    /// `rates`: of parameters behind each other how many they are, and their learning rate.
    ///
    /// PyTorch's order of operations: decay, moments, then `lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)`.
    pub fn step(
        &mut self,
        params: &Tensor,
        grads: &Tensor,
        rates: &[(usize, f64)],
        grad_factor: f64,
    ) -> Result<Tensor> {
        self.steps += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let part = |&(n, lr): &(usize, f64)| {
            let step = AdamWStep {
                beta1,
                beta2,
                eps,
                decay: 1.0 - lr * weight_decay,
                step_size: lr / (1.0 - beta1.powi(self.steps as i32)),
                root_correction: (1.0 - beta2.powi(self.steps as i32)).sqrt(),
                grad_factor,
            };
            (n, step)
        };
        let parts: Vec<(usize, AdamWStep)> = rates.iter().map(part).collect();
        let (params, m, v) = adamw_step(params, grads, &self.m, &self.v, &parts)?;
        (self.m, self.v) = (m, v);
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, wave};

    /// Reference: the formula, value by value, in f64.
    fn reference(c: AdamWConfig, x0: &[f32], grads: &[Vec<f32>], lr: f64, factor: f64) -> Vec<f32> {
        let n = x0.len();
        let (mut x, mut m, mut v): (Vec<f64>, _, _) =
            (x0.iter().map(|&x| f64::from(x)).collect(), vec![0f64; n], vec![0f64; n]);
        for (t, g) in grads.iter().enumerate() {
            let t = t as i32 + 1;
            for i in 0..n {
                let g = f64::from(g[i]) * factor;
                x[i] *= 1.0 - lr * c.weight_decay;
                m[i] = c.beta1 * m[i] + (1.0 - c.beta1) * g;
                v[i] = c.beta2 * v[i] + (1.0 - c.beta2) * g * g;
                let root = (v[i] / (1.0 - c.beta2.powi(t))).sqrt() + c.eps;
                x[i] -= lr * m[i] / (1.0 - c.beta1.powi(t)) / root;
            }
        }
        x.into_iter().map(|x| x as f32).collect()
    }

    #[test]
    fn several_steps_equal_the_formula() -> Result<()> {
        for device in crate::testing::devices() {
            // The last: as LoRA+ has it, two rates in one buffer.
            for (n, weight_decay, factor, second) in
                [(7usize, 0.0, 1.0, None), (5000, 0.1, 0.3, None), (5000, 0.1, 0.3, Some((1204, 16e-2)))]
            {
                let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay };
                let flat = |phase| -> Result<Tensor> { Ok(wave((n, 1), phase, &device)?.flatten_all()?) };
                let mut optim = AdamW::new(config, n, &device)?;
                let start = flat(0.0)?;
                let mut x = start.clone();
                let mut grads = vec![];
                let rates = match second {
                    None => vec![(n, 1e-2)],
                    Some((first, rate)) => vec![(first, 1e-2), (n - first, rate)],
                };
                for step in 0..5 {
                    let g = flat(1.0 + f64::from(step))?;
                    x = optim.step(&x, &g, &rates, factor)?;
                    grads.push(g.to_vec1::<f32>()?);
                }
                let start = start.to_vec1::<f32>()?;
                let mut want = reference(config, &start, &grads, 1e-2, factor);
                if let Some((first, rate)) = second {
                    want.splice(first.., reference(config, &start, &grads, rate, factor).split_off(first));
                }
                assert_close(&x, &Tensor::from_vec(want, n, &device)?, 2e-6);
            }
        }
        Ok(())
    }
}
