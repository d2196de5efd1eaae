//! q/k-norm and rotary embedding in one pass over memory: RMSNorm of every head, then its rotation.

use super::{
    cpu::{self, Blank, Element, Filled, Values},
    rms_norm, rope,
};
use crate::error::Result;
use candle_core::{Device, Tensor};
use half::bf16;

/// What heads are normed by and how they turn.
#[derive(Clone, Copy)]
pub struct NormRope<'a> {
    /// The frozen weight of the norm, `[E]`.
    pub w: &'a Tensor,
    /// Cosines of every row's angles, `[T, E/2]`.
    pub cos: &'a Tensor,
    /// Their sines.
    pub sin: &'a Tensor,
}

impl NormRope<'_> {
    /// `x` `[T, N·E]` (N heads) → normed and rotated `[T, N, E]`, and `1/rms` `[T·N, 1]` in f32.
    ///
    /// The same bits as [`rms_norm::forward`] of the heads and then [`rope::forward`].
    pub fn forward(self, x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        if let Some(heads) = Heads::<f32>::new(x, self)? {
            return heads.forward(eps as f32);
        }
        if let Some(heads) = Heads::<bf16>::new(x, self)? {
            return heads.forward(eps as f32);
        }
        #[cfg(feature = "cuda")]
        if let Some(both) = super::cuda::norm_rope_forward(x, self, None, eps)? {
            return Ok(both);
        }
        let (heads, shape) = self.heads(x)?;
        let (normed, inv_rms) = rms_norm::forward(&heads, self.w, eps)?;
        Ok((rope::forward(&normed.reshape(shape)?, self.cos, self.sin)?, inv_rms))
    }

    /// Makes the first result of [`Self::forward`] again out of the second, bit for bit.
    pub fn rebuild(self, x: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
        if let (Some(heads), Some(inv)) = (Heads::<f32>::new(x, self)?, cpu::f32s(inv_rms)) {
            return heads.rebuild(&inv);
        }
        if let (Some(heads), Some(inv)) = (Heads::<bf16>::new(x, self)?, cpu::f32s(inv_rms)) {
            return heads.rebuild(&inv);
        }
        #[cfg(feature = "cuda")]
        if let Some((y, _)) = super::cuda::norm_rope_forward(x, self, Some(inv_rms), 0.0)? {
            return Ok(y);
        }
        let (heads, shape) = self.heads(x)?;
        rope::forward(&rms_norm::rebuild(&heads, self.w, inv_rms)?.reshape(shape)?, self.cos, self.sin)
    }

    /// `dy` `[T, N, E]` → `dx` `[T, N·E]`: the inverse rotation, then [`rms_norm::backward`].
    pub fn backward(self, dy: &Tensor, x: &Tensor, inv_rms: &Tensor) -> Result<Tensor> {
        let inv = cpu::f32s(inv_rms);
        if let (Some(heads), Some(dy), Some(inv)) = (Heads::<f32>::new(x, self)?, cpu::values(dy), &inv) {
            return heads.backward(&dy, inv);
        }
        if let (Some(heads), Some(dy), Some(inv)) = (Heads::<bf16>::new(x, self)?, cpu::values(dy), &inv) {
            return heads.backward(&dy, inv);
        }
        #[cfg(feature = "cuda")]
        if let Some(dx) = super::cuda::norm_rope_backward(dy, x, self, inv_rms)? {
            return Ok(dx);
        }
        let (heads, _) = self.heads(x)?;
        let d_normed = rope::backward(dy, self.cos, self.sin)?.reshape(heads.shape())?;
        Ok(rms_norm::backward(&d_normed, &heads, self.w, inv_rms)?.reshape(x.shape())?)
    }

    /// `x` as `[T·N, E]`, and (T, N, E).
    fn heads(self, x: &Tensor) -> Result<(Tensor, (usize, usize, usize))> {
        let ((rows, width), e) = (x.dims2()?, self.w.dim(0)?);
        Ok((x.reshape(((), e))?, (rows, width / e, e)))
    }
}

/// The widest head for the scratch of the fused bodies; wider ones are composed.
const WIDEST: usize = 256;

/// Heads on the CPU.
struct Heads<'a, T> {
    x: Values<'a, T>,
    w: Values<'a, T>,
    cos: Values<'a, T>,
    sin: Values<'a, T>,
    /// (T, N, E)
    shape: (usize, usize, usize),
}

impl<'a, T: Element> Heads<'a, T> {
    fn new(x: &'a Tensor, by: NormRope<'a>) -> Result<Option<Self>> {
        let ((rows, width), e) = (x.dims2()?, by.w.dim(0)?);
        let (Some(x), Some(w)) = (cpu::values(x), cpu::values(by.w)) else { return Ok(None) };
        let (Some(cos), Some(sin)) = (cpu::values(by.cos), cpu::values(by.sin)) else { return Ok(None) };
        // What does not fit is composed, which says what is wrong.
        let fits = e <= WIDEST && e % 2 == 0 && width % e == 0;
        let fits = fits && cos.len() == rows * e / 2 && sin.len() == cos.len();
        Ok(fits.then_some(Self { x, w, cos, sin, shape: (rows, width / e, e) }))
    }

    fn forward(&self, eps: f32) -> Result<(Tensor, Tensor)> {
        let rows = self.rows();
        let (y, inv) = cpu::rows2(rows.count, (rows.e, 1), |head, y, inv| {
            let inv_rms = rms_norm::inverse(rows.head(head), eps);
            rows.turn(head, inv_rms, y) + inv.fill(std::iter::once(inv_rms))
        });
        let inv = Tensor::from_vec(inv, (rows.count, 1), &Device::Cpu)?;
        Ok((Tensor::from_vec(y, self.shape, &Device::Cpu)?, inv))
    }

    fn rebuild(&self, inv: &[f32]) -> Result<Tensor> {
        let rows = self.rows();
        let y = cpu::rows(rows.count, rows.e, |head, y| rows.turn(head, inv[head], y));
        Ok(Tensor::from_vec(y, self.shape, &Device::Cpu)?)
    }

    fn backward(&self, dy: &[T], inv: &[f32]) -> Result<Tensor> {
        let rows = self.rows();
        let dx = cpu::rows(rows.count, rows.e, |head, dx| {
            let (cos, sin) = rows.angles(head);
            let mut d_normed = [T::round(0.0); WIDEST];
            let d_normed = &mut d_normed[..rows.e];
            put(d_normed, rope::turned(&dy[head * rows.e..][..rows.e], cos, sin, -1.0));
            dx.fill(rms_norm::backward_row(d_normed, rows.head(head), rows.w, inv[head]))
        });
        Ok(Tensor::from_vec(dx, (self.shape.0, self.shape.1 * self.shape.2), &Device::Cpu)?)
    }

    fn rows(&self) -> Rows<'_, T> {
        let (rows, heads, e) = self.shape;
        Rows { x: &self.x, w: &self.w, cos: &self.cos, sin: &self.sin, heads, e, count: rows * heads }
    }
}

/// [`Heads`] as slices, which threads can share.
struct Rows<'a, T> {
    x: &'a [T],
    w: &'a [T],
    cos: &'a [T],
    sin: &'a [T],
    heads: usize,
    e: usize,
    /// T·N
    count: usize,
}

impl<'a, T: Element> Rows<'a, T> {
    #[inline(always)]
    fn head(&self, head: usize) -> &'a [T] {
        &self.x[head * self.e..][..self.e]
    }

    #[inline(always)]
    fn angles(&self, head: usize) -> (&'a [T], &'a [T]) {
        let half = self.e / 2;
        let at = head / self.heads * half;
        (&self.cos[at..][..half], &self.sin[at..][..half])
    }

    /// A head, normed and rotated.
    #[inline(always)]
    fn turn(&self, head: usize, inv_rms: f32, mut y: Blank<T>) -> Filled {
        let (cos, sin) = self.angles(head);
        let mut normed = [T::round(0.0); WIDEST];
        let normed = &mut normed[..self.e];
        normed.iter_mut().zip(rms_norm::scaled(self.head(head), inv_rms, self.w)).for_each(|(to, value)| *to = value);
        let (first, second) = y.split_at(self.e / 2);
        first.fill_both(second, rope::turned(normed, cos, sin, 1.0))
    }
}

/// Writes pairs into the two halves of a head.
#[inline(always)]
fn put<T>(head: &mut [T], pairs: impl Iterator<Item = (T, T)>) {
    let (first, second) = head.split_at_mut(head.len() / 2);
    first.iter_mut().zip(second).zip(pairs).for_each(|((first, second), (a, b))| (*first, *second) = (a, b));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::DType;

    #[test]
    fn gives_the_bits_of_the_norm_and_then_the_rotation() -> Result<()> {
        for device in devices() {
            for dtype in [DType::F32, DType::BF16, DType::F64] {
                for (positions, n, e) in [(&[0u32, 7, 3][..], 2, 8), (&[5], 3, 130), (&[1, 2], 1, 64), (&[9], 2, 300)] {
                    let half = |shape: (usize, usize), phase| -> Result<Tensor> {
                        Ok(wave(shape, phase, &device)?.to_dtype(dtype)?)
                    };
                    let (t, eps) = (positions.len(), 1e-6);
                    let (x, dy) = (half((t, n * e), 0.0)?, half((t, n * e), 5.0)?.reshape((t, n, e))?);
                    let w = half((1, e), 2.0)?.squeeze(0)?;
                    let (cos, sin) = rope::tables(positions, e, 1e4, dtype, &device)?;
                    let by = NormRope { w: &w, cos: &cos, sin: &sin };

                    // A card sums a row of the norm with a block, and a head with a warp: in another order.
                    let tolerance = match (device.is_cpu(), dtype) {
                        (true, _) => 0.0,
                        (false, DType::BF16) => 1.0 / 64.0,
                        (false, _) => 2e-6,
                    };
                    let (y, inv_rms) = by.forward(&x, eps)?;
                    let heads = x.reshape(((), e))?;
                    let (normed, want_inv) = rms_norm::forward(&heads, &w, eps)?;
                    let want = rope::forward(&normed.reshape((t, n, e))?, &cos, &sin)?;
                    assert_close(&y, &want, tolerance);
                    assert_close(&inv_rms, &want_inv, tolerance);
                    assert_close(&by.rebuild(&x, &inv_rms)?, &y, 0.0);
                    let d_normed = rope::backward(&dy, &cos, &sin)?.reshape(((), e))?;
                    let want = rms_norm::backward(&d_normed, &heads, &w, &inv_rms)?;
                    assert_close(&by.backward(&dy, &x, &inv_rms)?, &want.reshape((t, n * e))?, tolerance);
                }
            }
        }
        Ok(())
    }
}
