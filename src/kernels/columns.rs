//! Rows whose columns have a factor each: what DoRA's magnitudes do to a projection, forward and backward.
//!
//! Factors are f32 (f64 beside f64), every value is computed in f32 and rounded once.

use super::{
    cpu::{self, Element},
    wide::wide,
};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use half::bf16;
use rayon::prelude::*;

/// `x·diag(c)`: `x` `[T, n]`, `c` `[1, n]`.
pub fn scale_columns(x: &Tensor, c: &Tensor) -> Result<Tensor> {
    refuse_misfit(x, &[], c)?;
    for body in [scale_cpu::<f32>, scale_cpu::<bf16>] {
        if let Some(scaled) = body(x, c)? {
            return Ok(scaled);
        }
    }
    Ok(wide(x)?.broadcast_mul(c)?.to_dtype(x.dtype())?)
}

/// `(base − seen) + c·(seen + update)`, all `[T, n]` but `c` `[1, n]`: a projection and its update under a magnitude, where the
/// update saw `seen` of the projection. That is all of it, but under dropout; and then a small c costs no digits.
pub fn blend_columns(base: &Tensor, seen: &Tensor, update: &Tensor, c: &Tensor) -> Result<Tensor> {
    refuse_misfit(base, &[seen, update], c)?;
    for body in [blend_cpu::<f32>, blend_cpu::<bf16>] {
        if let Some(blended) = body([base, seen, update], c)? {
            return Ok(blended);
        }
    }
    let seen = wide(seen)?;
    let sum = (&seen + wide(update)?)?.broadcast_mul(c)?;
    Ok(((wide(base)? - seen)? + sum)?.to_dtype(base.dtype())?)
}

/// Σₜ aₜ·bₜ of every column, `[1, n]` in f32 (f64): `a`, `b` `[T, n]`.
pub fn column_dots(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    refuse_misfit(a, &[b], a)?;
    for body in [dots_cpu::<f32>, dots_cpu::<bf16>] {
        if let Some(sums) = body(a, b)? {
            return Ok(sums);
        }
    }
    let terms = (wide(a)? * wide(b)?)?;
    Ok(Tensor::ones((1, terms.dim(0)?), terms.dtype(), terms.device())?.matmul(&terms)?)
}

/// Errors: the `others` are not `x`'s like, or `c` has not its columns.
fn refuse_misfit(x: &Tensor, others: &[&Tensor], c: &Tensor) -> Result<()> {
    let alike = |t: &&Tensor| t.dims() == x.dims() && t.dtype() == x.dtype();
    if others.iter().all(alike) && c.dim(1)? == x.dims2()?.1 {
        return Ok(());
    }
    let shapes: Vec<_> = others.iter().map(|t| (t.dims(), t.dtype())).collect();
    Err(Error::run(format!("internal error: columns of {:?} with {shapes:?} and {:?}", x.dims(), c.dims())))
}

fn scale_cpu<T: Element>(x: &Tensor, c: &Tensor) -> Result<Option<Tensor>> {
    let (Some(xs), Some(c)) = (cpu::values::<T>(x), cpu::f32s(c)) else { return Ok(None) };
    let (xs, c, (rows, width)) = (&*xs, &*c, x.dims2()?);
    let scaled = cpu::rows(rows, width, |t, row| {
        let x = &xs[t * width..][..width];
        row.fill(x.iter().zip(c).map(|(x, c)| T::round(x.widen() * c)))
    });
    Ok(Some(Tensor::from_vec(scaled, (rows, width), &Device::Cpu)?))
}

fn blend_cpu<T: Element>([base, seen, update]: [&Tensor; 3], c: &Tensor) -> Result<Option<Tensor>> {
    let (Some(bs), Some(ss)) = (cpu::values::<T>(base), cpu::values::<T>(seen)) else { return Ok(None) };
    let (Some(us), Some(c)) = (cpu::values::<T>(update), cpu::f32s(c)) else { return Ok(None) };
    let (bs, ss, us, c, (rows, width)) = (&*bs, &*ss, &*us, &*c, base.dims2()?);
    let blended = cpu::rows(rows, width, |t, row| {
        let [b, s, u] = [bs, ss, us].map(|values| &values[t * width..][..width]);
        let value =
            |(((b, s), u), c): (((&T, &T), &T), &f32)| T::round((b.widen() - s.widen()) + c * (s.widen() + u.widen()));
        row.fill(b.iter().zip(s).zip(u).zip(c).map(value))
    });
    Ok(Some(Tensor::from_vec(blended, (rows, width), &Device::Cpu)?))
}

/// Columns of a task: their sums stay in the nearest cache while the rows pass by.
const COLUMNS: usize = 256;

/// A sum runs over the rows from the first to the last: it does not depend on the number of threads.
fn dots_cpu<T: Element>(a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    let (Some(xs), Some(ys)) = (cpu::values::<T>(a), cpu::values::<T>(b)) else { return Ok(None) };
    let (xs, ys, (rows, width)) = (&*xs, &*ys, a.dims2()?);
    let mut sums = vec![0f32; width];
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, sums)| {
        cpu::vectorized(|| {
            for t in 0..rows {
                let at = t * width + task * COLUMNS;
                for ((sum, x), y) in sums.iter_mut().zip(&xs[at..]).zip(&ys[at..]) {
                    *sum += x.widen() * y.widen();
                }
            }
        });
    });
    Ok(Some(Tensor::from_vec(sums, (1, width), &Device::Cpu)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::DType;

    /// Every body against the formula in f64.
    #[test]
    fn every_device_and_type_computes_the_formulas() -> Result<()> {
        for device in devices() {
            for dtype in [DType::F32, DType::BF16, DType::F64] {
                for (rows, width) in [(1, 1), (5, 3), (70, 300), (3, 1031)] {
                    let of = |phase| -> Result<Tensor> { Ok(wave((rows, width), phase, &device)?.to_dtype(dtype)?) };
                    let [base, seen, update] = [of(0.0)?, of(1.0)?, of(2.0)?];
                    let factors = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                    let c = wave((1, width), 3.0, &device)?.to_dtype(factors)?;
                    let exact = |t: &Tensor| t.to_dtype(DType::F64);
                    let (b, s, u, k) = (exact(&base)?, exact(&seen)?, exact(&update)?, exact(&c)?);
                    let tolerance = match dtype {
                        DType::F64 => 1e-12,
                        DType::F32 => 1e-6,
                        _ => 4e-3, // half a step of bf16
                    };
                    assert_close(&scale_columns(&base, &c)?, &b.broadcast_mul(&k)?, tolerance);
                    let want = ((&b - &s)? + (&s + u)?.broadcast_mul(&k)?)?;
                    assert_close(&blend_columns(&base, &seen, &update, &c)?, &want, tolerance);
                    let sums = column_dots(&base, &seen)?;
                    assert_eq!((sums.dims(), sums.dtype()), (&[1, width][..], factors));
                    let tolerance = if dtype == DType::F64 { 1e-12 } else { 1e-5 };
                    assert_close(&sums, &(b * s)?.sum_keepdim(0)?, tolerance);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn factors_of_one_and_no_update_change_no_bit_and_small_ones_cost_none() -> Result<()> {
        let (base, nothing) = (wave((7, 40), 0.0, &Device::Cpu)?, Tensor::zeros((7, 40), DType::F32, &Device::Cpu)?);
        let ones = Tensor::ones((1, 40), DType::F32, &Device::Cpu)?;
        assert_close(&blend_columns(&base, &base, &nothing, &ones)?, &base, 0.0);
        let small = blend_columns(&base, &base, &nothing, &(&ones * 2f64.powi(-20))?)?;
        assert_close(&(small * 2f64.powi(20))?, &base, 0.0);
        assert!(scale_columns(&base, &ones.narrow(1, 0, 39)?).is_err(), "a factor is missing");
        assert!(column_dots(&base, &base.narrow(0, 0, 6)?).is_err(), "a row is missing");
        Ok(())
    }
}
