//! Rotary position embedding, Qwen3's layout: the first half of a head is rotated against the second.

use super::cpu;
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};

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

/// `[x1, x2]` → `[x1·cos − s·x2·sin, x2·cos + s·x1·sin]`
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, sign: f32) -> Result<Tensor> {
    let (_rows, heads, width) = x.dims3()?;
    let half = width / 2;
    if let (Some(xs), Some(c), Some(s)) = (cpu::f32s(x), cpu::f32s(cos), cpu::f32s(sin)) {
        let mut y = vec![0f32; xs.len()];
        cpu::for_rows(&mut y, heads * width, |t, out| {
            let (c, s) = (&c[t * half..][..half], &s[t * half..][..half]);
            let x = &xs[t * heads * width..][..heads * width];
            for (x, y) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                let (x1, x2) = x.split_at(half);
                let (y1, y2) = y.split_at_mut(half);
                for i in 0..half {
                    y1[i] = x1[i] * c[i] - sign * x2[i] * s[i];
                    y2[i] = x2[i] * c[i] + sign * x1[i] * s[i];
                }
            }
        });
        return Ok(Tensor::from_vec(y, x.shape(), &Device::Cpu)?);
    }
    let (c, s) = (cos.unsqueeze(1)?, (sin.unsqueeze(1)? * f64::from(sign))?);
    let (x1, x2) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let y1 = (x1.broadcast_mul(&c)? - x2.broadcast_mul(&s)?)?;
    let y2 = (x2.broadcast_mul(&c)? + x1.broadcast_mul(&s)?)?;
    Ok(Tensor::cat(&[y1, y2], D::Minus1)?)
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
        let (cos, sin) = tables(&[3, 9], 4, 1e6, DType::F32, &Device::Cpu)?;
        let x = wave((2, 2, 4), 0.0, &Device::Cpu)?;
        let strided = x.t()?.contiguous()?.t()?; // not contiguous: takes the other body
        assert_close(&forward(&x, &cos, &sin)?, &forward(&strided, &cos, &sin)?, 1e-7);
        Ok(())
    }
}
