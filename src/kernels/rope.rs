//! Rotary position embedding, Qwen3's layout: the first half of a head is rotated against the second.

use super::{
    cpu::{self, Element},
    wide::nearest,
};
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};
use half::bf16;

/// cos and sin of every row's angles, `[T, E/2]` each, in `dtype`.
///
/// Angles are computed in f32 as PyTorch does: position × θ^(−2i/E).
pub fn tables(
    positions: &[u32],
    head_dim: usize,
    theta: f64,
    dtype: DType,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let half = head_dim / 2;
    let inv_freq: Vec<f32> = (0..half).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32)).collect();
    let angles = positions.iter().flat_map(|&p| inv_freq.iter().map(move |f| p as f32 * f));
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos(), a.sin())).unzip();
    let to_tensor = |v: Vec<f32>| Tensor::from_vec(v, (positions.len(), half), device)?.to_dtype(dtype);
    Ok((to_tensor(cos)?, to_tensor(sin)?))
}

/// `x` `[T, N, E]` (N heads), `cos`, `sin` `[T, E/2]` → rotated `[T, N, E]`.
pub fn forward(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotate(x, cos, sin, 1.0)
}

/// The inverse rotation: `dy` `[T, N, E]` → `dx`.
pub fn backward(dy: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotate(dy, cos, sin, -1.0)
}

/// `[x1, x2]` → `[x1·cos − s·x2·sin, x2·cos + s·x1·sin]`. In bf16 every product and sum is rounded, as autocast does.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, sign: f32) -> Result<Tensor> {
    for body in [rotate_cpu::<f32>, rotate_cpu::<bf16>] {
        if let Some(y) = body(x, cos, sin, sign)? {
            return Ok(y);
        }
    }
    rotate_composed(x, cos, sin, sign)
}

fn rotate_composed(x: &Tensor, cos: &Tensor, sin: &Tensor, sign: f32) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (c, s) = (cos.unsqueeze(1)?, (sin.unsqueeze(1)? * f64::from(sign))?);
    let (x1, x2) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let product = |a, b| nearest(Tensor::broadcast_mul, a, b);
    let y1 = nearest(Tensor::sub, &product(&x1, &c)?, &product(&x2, &s)?)?;
    let y2 = nearest(Tensor::add, &product(&x2, &c)?, &product(&x1, &s)?)?;
    Ok(Tensor::cat(&[y1, y2], D::Minus1)?)
}

fn rotate_cpu<T: Element>(x: &Tensor, cos: &Tensor, sin: &Tensor, sign: f32) -> Result<Option<Tensor>> {
    let (Some(xs), Some(c), Some(s)) = (cpu::values::<T>(x), cpu::values::<T>(cos), cpu::values::<T>(sin)) else {
        return Ok(None);
    };
    let (xs, c, s) = (&*xs, &*c, &*s);
    let (rows, heads, width) = x.dims3()?;
    let half = width / 2;
    let y = cpu::rows(rows * heads, width, |head, mut y| {
        let at = head / heads * half;
        let (c, s) = (&c[at..][..half], &s[at..][..half]);
        let (y1, y2) = y.split_at(half);
        y1.fill_both(y2, turned(&xs[head * width..][..width], c, s, sign))
    });
    Ok(Some(Tensor::from_vec(y, x.shape(), &Device::Cpu)?))
}

/// One head `x`, rotated: pairs of an element of the first half and its partner in the second.
#[inline(always)]
pub(super) fn turned<'a, T: Element>(
    x: &'a [T],
    cos: &'a [T],
    sin: &'a [T],
    sign: f32,
) -> impl Iterator<Item = (T, T)> + use<'a, T> {
    let (x1, x2) = x.split_at(x.len() / 2);
    x1.iter().zip(x2).zip(cos.iter().zip(sin)).map(move |((x1, x2), (c, s))| {
        let (x1, x2, c, s) = (x1.widen(), x2.widen(), c.widen(), sign * s.widen());
        let product = |a: f32, b: f32| T::round(a * b).widen();
        (T::round(product(x1, c) - product(x2, s)), T::round(product(x2, c) + product(x1, s)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::Var;

    #[test]
    fn agrees_with_the_reference_forward_and_backward() -> Result<()> {
        for device in devices() {
            let (cos, sin) = tables(&[0, 1, 2, 7, 0], 8, 1e4, DType::F32, &device)?;
            let x = Var::from_tensor(&wave((5, 3, 8), 0.0, &device)?)?;
            let dy = wave((5, 3, 8), 5.0, &device)?;
            // candle's differentiable rope wants [batch, heads, rows, dim].
            let by_head = x.as_tensor().transpose(0, 1)?.unsqueeze(0)?.contiguous()?;
            let slow = candle_nn::rotary_emb::rope_slow(&by_head, &cos, &sin)?.squeeze(0)?.transpose(0, 1)?;
            assert_close(&forward(&x, &cos, &sin)?, &slow, 1e-6);
            let want = (slow * &dy)?.backward()?;
            assert_close(&backward(&dy, &cos, &sin)?, want.get(&x).expect("x is a Var"), 1e-6);
        }
        Ok(())
    }

    #[test]
    fn the_fused_body_equals_the_composition() -> Result<()> {
        for (heads, width) in [(2, 4), (3, 64), (1, 34)] {
            for (dtype, tolerance) in [(DType::F32, 1e-7), (DType::BF16, 0.0)] {
                let (cos, sin) = tables(&[3, 9], width, 1e6, dtype, &Device::Cpu)?;
                let x = wave((2, heads, width), 0.0, &Device::Cpu)?.to_dtype(dtype)?;
                assert_close(&forward(&x, &cos, &sin)?, &rotate_composed(&x, &cos, &sin, 1.0)?, tolerance);
                assert_close(&backward(&x, &cos, &sin)?, &rotate_composed(&x, &cos, &sin, -1.0)?, tolerance);
            }
        }
        Ok(())
    }
}
