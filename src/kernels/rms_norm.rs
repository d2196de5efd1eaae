//! RMSNorm with a frozen weight: `y = x / rms(x) · w` over the last dimension.

use super::{
    cpu::{self, Element},
    product::add_to,
    wide::{nearest, wide},
};
use crate::error::Result;
use candle_core::{D, Device, Tensor};
use half::bf16;

/// `x` `[T, D]`, `w` `[D]` → `y` `[T, D]` in the dtype of `x`, and `1/rms` `[T, 1]` in f32.
///
/// The mean square is taken in f32. In bf16 the normalised value is rounded before it is multiplied by `w`, and the
/// product again, as Qwen3 in PyTorch does.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    for body in [forward_cpu::<f32>, forward_cpu::<bf16>] {
        if let Some(both) = body(x, w, eps as f32)? {
            return Ok(both);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(both) = super::cuda::rms_norm_forward(x, w, eps)? {
        return Ok(both);
    }
    let inv_rms = ((wide(x)?.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?).recip()?; // [T, 1]
    Ok((rebuild_composed(x, w, &inv_rms)?, inv_rms))
}

/// [`forward`] of `x + more`: that sum first. `x` is consumed: on the CPU its memory becomes the sum.
pub fn forward_sum(x: Tensor, more: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, (Tensor, Tensor))> {
    #[cfg(feature = "cuda")]
    if let Some(all) = super::cuda::rms_norm_forward_sum(&x, more, w, eps)? {
        return Ok(all);
    }
    let sum = add_to(x, more)?;
    let normed = forward(&sum, w, eps)?;
    Ok((sum, normed))
}

/// Rebuilds `y` from the saved `1/rms`, bit for bit as [`forward`] made it.
pub fn rebuild(x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
    for body in [rebuild_cpu::<f32>, rebuild_cpu::<bf16>] {
        if let Some(y) = body(x, w, inv_rms)? {
            return Ok(y);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(y) = super::cuda::rms_norm_rebuild(x, w, inv_rms)? {
        return Ok(y);
    }
    rebuild_composed(x, w, inv_rms)
}

fn rebuild_composed(x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
    nearest(Tensor::broadcast_mul, &wide(x)?.broadcast_mul(inv_rms)?.to_dtype(x.dtype())?, w)
}

/// With x̂ = x/rms(x) and h = dy·w: `dx = (h − x̂·mean_D(h·x̂)) / rms(x)`. `w` is frozen: no ∂w. In bf16 h is rounded.
pub fn backward(dy: &Tensor, x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
    for body in [backward_cpu::<f32>, backward_cpu::<bf16>] {
        if let Some(dx) = body(dy, x, w, inv_rms)? {
            return Ok(dx);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(dx) = super::cuda::rms_norm_backward(dy, x, w, inv_rms, None)? {
        return Ok(dx);
    }
    backward_composed(dy, x, w, inv_rms)
}

/// [`backward`], and `past` `[T, D]` added: the gradient that goes past the norm.
pub fn backward_sum(dy: &Tensor, x: &Tensor, w: &Tensor, inv_rms: &Tensor, past: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(dx) = super::cuda::rms_norm_backward(dy, x, w, inv_rms, Some(past))? {
        return Ok(dx);
    }
    add_to(backward(dy, x, w, inv_rms)?, past)
}

fn backward_composed(dy: &Tensor, x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
    let h = wide(&nearest(Tensor::broadcast_mul, dy, w)?)?;
    let x_hat = wide(x)?.broadcast_mul(inv_rms)?;
    let mean = (&h * &x_hat)?.mean_keepdim(D::Minus1)?; // [T, 1]
    let dx = (h - x_hat.broadcast_mul(&mean)?)?.broadcast_mul(inv_rms)?;
    Ok(dx.to_dtype(x.dtype())?)
}

/// A row `x·inv·w`.
#[inline(always)]
pub(super) fn scaled<'a, T: Element>(x: &'a [T], inv: f32, w: &'a [T]) -> impl Iterator<Item = T> + use<'a, T> {
    x.iter().zip(w).map(move |(x, w)| T::round(T::round(x.widen() * inv).widen() * w.widen()))
}

/// 1/rms of a row.
#[inline(always)]
pub(super) fn inverse<T: Element>(x: &[T], eps: f32) -> f32 {
    1.0 / (cpu::dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// A row of [`backward`]; `r` is its 1/rms.
#[inline(always)]
pub(super) fn backward_row<'a, T: Element>(
    dy: &'a [T],
    x: &'a [T],
    w: &'a [T],
    r: f32,
) -> impl Iterator<Item = T> + use<'a, T> {
    let h = |dy: f32, w: f32| T::round(dy * w).widen();
    let mean = cpu::sum3(dy, w, x, |dy, w, x| h(dy, w) * x) * r / x.len() as f32;
    let rows = dy.iter().zip(w).zip(x);
    rows.map(move |((dy, w), x)| T::round((h(dy.widen(), w.widen()) - x.widen() * r * mean) * r))
}

fn forward_cpu<T: Element>(x: &Tensor, w: &Tensor, eps: f32) -> Result<Option<(Tensor, Tensor)>> {
    let (Some(xs), Some(w)) = (cpu::values::<T>(x), cpu::values::<T>(w)) else { return Ok(None) };
    let (xs, w, (rows, width)) = (&*xs, &*w, x.dims2()?);
    let (y, inv) = cpu::rows2(rows, (width, 1), |t, y, inv| {
        let x = &xs[t * width..][..width];
        let inv_rms = inverse(x, eps);
        y.fill(scaled(x, inv_rms, w)) + inv.fill(std::iter::once(inv_rms))
    });
    let inv = Tensor::from_vec(inv, (rows, 1), &Device::Cpu)?;
    Ok(Some((Tensor::from_vec(y, (rows, width), &Device::Cpu)?, inv)))
}

fn rebuild_cpu<T: Element>(x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Option<Tensor>> {
    let (Some(xs), Some(w), Some(inv)) = (cpu::values::<T>(x), cpu::values::<T>(w), cpu::f32s(inv_rms)) else {
        return Ok(None);
    };
    let (xs, w, inv, (rows, width)) = (&*xs, &*w, &*inv, x.dims2()?);
    let y = cpu::rows(rows, width, |t, y| y.fill(scaled(&xs[t * width..][..width], inv[t], w)));
    Ok(Some(Tensor::from_vec(y, (rows, width), &Device::Cpu)?))
}

fn backward_cpu<T: Element>(dy: &Tensor, x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Option<Tensor>> {
    let (Some(dys), Some(xs)) = (cpu::values::<T>(dy), cpu::values::<T>(x)) else { return Ok(None) };
    let (Some(w), Some(inv)) = (cpu::values::<T>(w), cpu::f32s(inv_rms)) else { return Ok(None) };
    let (dys, xs, w, inv, (rows, width)) = (&*dys, &*xs, &*w, &*inv, x.dims2()?);
    let dx = cpu::rows(rows, width, |t, dx| {
        dx.fill(backward_row(&dys[t * width..][..width], &xs[t * width..][..width], w, inv[t]))
    });
    Ok(Some(Tensor::from_vec(dx, (rows, width), &Device::Cpu)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::DType;
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
    fn bf16_rounds_where_the_composition_rounds() -> Result<()> {
        for (rows, width) in [(4, 32), (3, 1), (5, 130)] {
            let half = |t: Tensor| t.to_dtype(DType::BF16);
            let (x, dy) =
                (half(wave((rows, width), 0.0, &Device::Cpu)?)?, half(wave((rows, width), 5.0, &Device::Cpu)?)?);
            let w = half(wave((1, width), 1.0, &Device::Cpu)?.squeeze(0)?)?;
            let (y, inv_rms) = forward(&x, &w, 1e-6)?;
            let normed = half(x.to_dtype(DType::F32)?.broadcast_mul(&inv_rms)?)?;
            assert_close(&y, &nearest(Tensor::broadcast_mul, &normed, &w)?, 0.0);
            assert_close(&rebuild(&x, &w, &inv_rms)?, &y, 0.0);
            // Its mean is summed in another order, so one rounding of the last step may differ.
            let want = backward_composed(&dy, &x, &w, &inv_rms)?;
            assert_close(&backward(&dy, &x, &w, &inv_rms)?, &want, 1.0 / 128.0);
        }
        Ok(())
    }
}
