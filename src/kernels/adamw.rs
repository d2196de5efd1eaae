//! One AdamW update over flat f32 buffers.

use super::cpu;
use crate::error::Result;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// The scalars of one update. `decay` is `1 − lr·weight_decay`, `step_size` is `lr/(1−β₁ᵗ)`, `root_correction` is `√(1−β₂ᵗ)`.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// ε
    pub eps: f64,
    /// Factor on the parameter.
    pub decay: f64,
    /// Factor on m/(√v/root_correction + ε).
    pub step_size: f64,
    /// Divides √v.
    pub root_correction: f64,
    /// Factor on the gradient (clipping).
    pub grad_factor: f64,
}

/// `x`, `g`, `m`, `v`: `[n]` f32 → new (`x`, `m`, `v`).
pub fn adamw_step(x: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor, s: &AdamWStep) -> Result<(Tensor, Tensor, Tensor)> {
    if let (Some(xs), Some(gs), Some(ms), Some(vs)) = (cpu::f32s(x), cpu::f32s(g), cpu::f32s(m), cpu::f32s(v)) {
        let (x, m, v) = fused(&xs, &gs, &ms, &vs, s);
        let n = x.len();
        let tensor = |data: Vec<f32>| Tensor::from_vec(data, n, &Device::Cpu);
        return Ok((tensor(x)?, tensor(m)?, tensor(v)?));
    }
    #[cfg(feature = "cuda")]
    if let Some(all) = super::cuda::adamw_step([x, g, m, v], s)? {
        return Ok(all);
    }
    composed(x, g, m, v, s)
}

fn composed(x: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor, s: &AdamWStep) -> Result<(Tensor, Tensor, Tensor)> {
    let g = (g * s.grad_factor)?;
    let m = ((m * s.beta1)? + (&g * (1.0 - s.beta1))?)?;
    let v = ((v * s.beta2)? + (g.sqr()? * (1.0 - s.beta2))?)?;
    let root = ((v.sqrt()? / s.root_correction)? + s.eps)?;
    let x = ((x * s.decay)? - ((&m / root)? * s.step_size)?)?;
    Ok((x, m, v))
}

/// One pass: every value is read once and its successor written once.
fn fused(x: &[f32], g: &[f32], m: &[f32], v: &[f32], s: &AdamWStep) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    const BLOCK: usize = 16 * 1024;
    let n = x.len();
    assert_eq!((g.len(), m.len(), v.len()), (n, n, n), "one gradient and two moments for every parameter");
    let (beta1, beta2, eps) = (s.beta1 as f32, s.beta2 as f32, s.eps as f32);
    let (keep1, keep2) = ((1.0 - s.beta1) as f32, (1.0 - s.beta2) as f32);
    let (decay, step_size, root_correction) = (s.decay as f32, s.step_size as f32, s.root_correction as f32);
    let factor = s.grad_factor as f32;
    let [mut new_x, mut new_m, mut new_v] = [(); 3].map(|()| Vec::with_capacity(n));
    let [to_x, to_m, to_v] =
        [&mut new_x, &mut new_m, &mut new_v].map(|to| to.spare_capacity_mut()[..n].par_chunks_mut(BLOCK));
    to_x.zip(to_m).zip(to_v).enumerate().for_each(|(block, ((to_x, to_m), to_v))| {
        let [x, g, m, v] = [x, g, m, v].map(|from| &from[block * BLOCK..][..to_x.len()]);
        cpu::vectorized(|| {
            for i in 0..x.len() {
                let g = g[i] * factor;
                let m = beta1 * m[i] + keep1 * g;
                let v = beta2 * v[i] + keep2 * g * g;
                to_m[i].write(m);
                to_v[i].write(v);
                to_x[i].write(x[i] * decay - step_size * (m / (v.sqrt() / root_correction + eps)));
            }
        });
    });
    for new in [&mut new_x, &mut new_m, &mut new_v] {
        // SAFETY: the blocks are all of the first n places, and each has been written from its first to its last.
        unsafe { new.set_len(n) };
    }
    (new_x, new_m, new_v)
}

#[cfg(test)]
impl AdamWStep {
    /// One with no part that could fall out unseen.
    pub(crate) fn example() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: 0.999,
            step_size: 0.01,
            root_correction: 0.5,
            grad_factor: 0.7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, wave};

    #[test]
    fn the_fused_body_equals_the_composition() -> Result<()> {
        let n = 40_000;
        let flat = |phase| -> Result<Tensor> { Ok(wave((n, 1), phase, &Device::Cpu)?.flatten_all()?) };
        let s = AdamWStep::example();
        let (x, g, m, v) = (flat(0.0)?, flat(1.0)?, flat(2.0)?, flat(3.0)?.sqr()?);
        let (fast, slow) = (adamw_step(&x, &g, &m, &v, &s)?, composed(&x, &g, &m, &v, &s)?);
        for (fast, slow) in [(fast.0, slow.0), (fast.1, slow.1), (fast.2, slow.2)] {
            assert_close(&fast, &slow, 1e-6);
        }
        Ok(())
    }
}
