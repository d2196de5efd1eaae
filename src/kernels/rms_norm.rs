//! RMSNorm with a frozen weight: `y = x / rms(x) · w` over the last dimension.

use super::cpu;
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};

/// `x` `[T, D]`, `w` `[D]` → `y` `[T, D]` in the dtype of `x`, and `1/rms` `[T, 1]` in f32.
///
/// The mean square is taken in f32. In bf16 the normalised value is rounded before it is multiplied by `w`, and the
/// product again, as Qwen3 in PyTorch does.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    if let (Some(xs), Some(ws)) = (cpu::f32s(x), cpu::f32s(w)) {
        return forward_cpu(&xs, &ws, eps as f32, x.dims2()?);
    }
    let x32 = x.to_dtype(DType::F32)?;
    let inv_rms = ((x32.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?).recip()?; // [T, 1]
    let y = x32.broadcast_mul(&inv_rms)?.to_dtype(x.dtype())?.broadcast_mul(w)?;
    Ok((y, inv_rms))
}

/// Rebuilds `y` from the saved `1/rms`, bit for bit as [`forward`] made it.
pub fn rebuild(x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
    if let (Some(xs), Some(ws), Some(inv)) = (cpu::f32s(x), cpu::f32s(w), cpu::f32s(inv_rms)) {
        let width = ws.len();
        let mut y = vec![0f32; xs.len()];
        cpu::for_rows(&mut y, width, |t, row| scale_row(&xs[t * width..][..width], &ws, inv[t], row));
        return Ok(Tensor::from_vec(y, x.shape(), &Device::Cpu)?);
    }
    Ok(x.to_dtype(DType::F32)?.broadcast_mul(inv_rms)?.to_dtype(x.dtype())?.broadcast_mul(w)?)
}

/// With x̂ = x/rms(x) and h = dy·w: `dx = (h − x̂·mean_D(h·x̂)) / rms(x)`. `w` is frozen: no ∂w.
pub fn backward(dy: &Tensor, x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
    if let (Some(dys), Some(xs), Some(ws), Some(inv)) = (cpu::f32s(dy), cpu::f32s(x), cpu::f32s(w), cpu::f32s(inv_rms))
    {
        return backward_cpu(&dys, &xs, &ws, &inv, x.dims2()?);
    }
    let h = dy.broadcast_mul(w)?.to_dtype(DType::F32)?;
    let x_hat = x.to_dtype(DType::F32)?.broadcast_mul(inv_rms)?;
    let mean = (&h * &x_hat)?.mean_keepdim(D::Minus1)?; // [T, 1]
    let dx = (h - x_hat.broadcast_mul(&mean)?)?.broadcast_mul(inv_rms)?;
    Ok(dx.to_dtype(x.dtype())?)
}

#[inline(always)]
fn scale_row(x: &[f32], w: &[f32], inv: f32, y: &mut [f32]) {
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = x * inv * w;
    }
}

fn forward_cpu(x: &[f32], w: &[f32], eps: f32, (rows, width): (usize, usize)) -> Result<(Tensor, Tensor)> {
    let mut inv = vec![0f32; rows];
    cpu::for_rows(&mut inv, 1, |t, out| {
        let row = &x[t * width..][..width];
        out[0] = 1.0 / (cpu::dot(row, row) / width as f32 + eps).sqrt();
    });
    let mut y = vec![0f32; x.len()];
    cpu::for_rows(&mut y, width, |t, row| scale_row(&x[t * width..][..width], w, inv[t], row));
    Ok((Tensor::from_vec(y, (rows, width), &Device::Cpu)?, Tensor::from_vec(inv, (rows, 1), &Device::Cpu)?))
}

fn backward_cpu(dy: &[f32], x: &[f32], w: &[f32], inv: &[f32], (rows, width): (usize, usize)) -> Result<Tensor> {
    let mut dx = vec![0f32; x.len()];
    cpu::for_rows(&mut dx, width, |t, out| {
        let (dy, x, r) = (&dy[t * width..][..width], &x[t * width..][..width], inv[t]);
        for ((out, dy), w) in out.iter_mut().zip(dy).zip(w) {
            *out = dy * w;
        }
        let mean = cpu::dot(out, x) * r / width as f32;
        for (out, x) in out.iter_mut().zip(x) {
            *out = (*out - x * r * mean) * r;
        }
    });
    Ok(Tensor::from_vec(dx, (rows, width), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::Var;

    /// Reference: RMSNorm out of differentiable tensor ops.
    fn reference(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        Ok(x.broadcast_mul(&(mean_square + eps)?.powf(-0.5)?)?.broadcast_mul(w)?)
    }

    #[test]
    fn agrees_with_the_reference_forward_and_backward() -> Result<()> {
        for device in devices() {
            for (rows, width) in [(3, 8), (1, 1), (7, 130), (2, 64)] {
                let x = Var::from_tensor(&wave((rows, width), 0.0, &device)?)?;
                let w = wave((1, width), 2.0, &device)?.squeeze(0)?;
                let dy = wave((rows, width), 5.0, &device)?; // uneven on purpose: ∂Σy alone hides mistakes that cancel
                let slow = reference(&x, &w, 1e-6)?;
                let (fast, inv_rms) = forward(&x, &w, 1e-6)?;
                assert_close(&fast, &slow, 1e-6);
                assert_close(&rebuild(&x, &w, &inv_rms)?, &fast, 0.0);
                let want = (slow * &dy)?.backward()?;
                assert_close(&backward(&dy, &x, &w, &inv_rms)?, want.get(&x).expect("x is a Var"), 1e-5);
            }
        }
        Ok(())
    }

    #[test]
    fn bf16_rounds_before_and_after_the_weight() -> Result<()> {
        let x = wave((4, 32), 0.0, &Device::Cpu)?.to_dtype(DType::BF16)?;
        let w = wave((1, 32), 1.0, &Device::Cpu)?.squeeze(0)?.to_dtype(DType::BF16)?;
        let (y, inv_rms) = forward(&x, &w, 1e-6)?;
        let normed = x.to_dtype(DType::F32)?.broadcast_mul(&inv_rms)?.to_dtype(DType::BF16)?;
        assert_close(&y, &normed.broadcast_mul(&w)?, 0.0);
        assert_close(&rebuild(&x, &w, &inv_rms)?, &y, 0.0);
        Ok(())
    }
}
