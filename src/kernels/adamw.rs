//! One AdamW update over flat f32 buffers.

use super::cpu;
use crate::error::Result;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::mem::MaybeUninit;

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

/// `x`, `g`, `m`, `v`: `[n]` f32 → new (`x`, `m`, `v`). `parts`, behind each other: how many of the n, and their scalars.
pub fn adamw_step(
    x: &Tensor,
    g: &Tensor,
    m: &Tensor,
    v: &Tensor,
    parts: &[(usize, AdamWStep)],
) -> Result<(Tensor, Tensor, Tensor)> {
    assert_eq!(parts.iter().map(|(n, _)| n).sum::<usize>(), x.elem_count(), "every parameter is in a part");
    if let (Some(xs), Some(gs), Some(ms), Some(vs)) = (cpu::f32s(x), cpu::f32s(g), cpu::f32s(m), cpu::f32s(v)) {
        let (x, m, v) = fused([&xs, &gs, &ms, &vs], parts);
        let n = x.len();
        let tensor = |data: Vec<f32>| Tensor::from_vec(data, n, &Device::Cpu);
        return Ok((tensor(x)?, tensor(m)?, tensor(v)?));
    }
    #[cfg(feature = "cuda")]
    if let Some(all) = super::cuda::adamw_step([x, g, m, v], parts)? {
        return Ok(all);
    }
    composed_in_parts([x, g, m, v], parts)
}

fn composed_in_parts(all: [&Tensor; 4], parts: &[(usize, AdamWStep)]) -> Result<(Tensor, Tensor, Tensor)> {
    let [mut xs, mut ms, mut vs] = [(); 3].map(|()| Vec::with_capacity(parts.len()));
    let mut start = 0;
    for (n, s) in parts {
        let part = |of: usize| all[of].narrow(0, start, *n);
        let (x, m, v) = composed(&part(0)?, &part(1)?, &part(2)?, &part(3)?, s)?;
        xs.push(x);
        ms.push(m);
        vs.push(v);
        start += n;
    }
    Ok((Tensor::cat(&xs, 0)?, Tensor::cat(&ms, 0)?, Tensor::cat(&vs, 0)?))
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
fn fused([x, g, m, v]: [&[f32]; 4], parts: &[(usize, AdamWStep)]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let n = x.len();
    assert_eq!((g.len(), m.len(), v.len()), (n, n, n), "one gradient and two moments for every parameter");
    let mut new = [(); 3].map(|()| Vec::with_capacity(n));
    {
        let mut to = new.each_mut().map(|to| &mut to.spare_capacity_mut()[..n]);
        let mut start = 0;
        for (len, s) in parts {
            let part = to.each_mut().map(|to| std::mem::take(to).split_at_mut(*len));
            let [(to_x, rest_x), (to_m, rest_m), (to_v, rest_v)] = part;
            fused_part([x, g, m, v].map(|from| &from[start..][..*len]), [to_x, to_m, to_v], s);
            to = [rest_x, rest_m, rest_v];
            start += len;
        }
        assert_eq!(start, n, "every parameter is in a part");
    }
    for new in &mut new {
        // SAFETY: the parts are all of the first n places, and each has been written from its first to its last.
        unsafe { new.set_len(n) };
    }
    let [x, m, v] = new;
    (x, m, v)
}

/// Writes every place of `to`.
fn fused_part([x, g, m, v]: [&[f32]; 4], to: [&mut [MaybeUninit<f32>]; 3], s: &AdamWStep) {
    const BLOCK: usize = 16 * 1024;
    let (beta1, beta2, eps) = (s.beta1 as f32, s.beta2 as f32, s.eps as f32);
    let (keep1, keep2) = ((1.0 - s.beta1) as f32, (1.0 - s.beta2) as f32);
    let (decay, step_size, root_correction) = (s.decay as f32, s.step_size as f32, s.root_correction as f32);
    let factor = s.grad_factor as f32;
    let [to_x, to_m, to_v] = to.map(|to| to.par_chunks_mut(BLOCK));
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
        let other = AdamWStep { decay: 0.99, step_size: 0.16, ..s };
        for parts in [&[(n, s)][..], &[(17_001, s), (n - 17_001, other)]] {
            let (fast, slow) = (adamw_step(&x, &g, &m, &v, parts)?, composed_in_parts([&x, &g, &m, &v], parts)?);
            for (fast, slow) in [(fast.0, slow.0), (fast.1, slow.1), (fast.2, slow.2)] {
                assert_close(&fast, &slow, 1e-6);
            }
        }
        let (whole, _, _) = adamw_step(&x, &g, &m, &v, &[(n, s)])?;
        let (parted, _, _) = adamw_step(&x, &g, &m, &v, &[(5, s), (n - 5, other)])?;
        let same = whole.eq(&parted)?.to_vec1::<u8>()?;
        assert!(same[..5].iter().all(|same| *same == 1) && same[5..].iter().filter(|same| **same == 0).count() > n / 2);
        Ok(())
    }
}
