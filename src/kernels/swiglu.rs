//! SwiGLU: `y = silu(gate)·up`, silu(g) = g·σ(g).

use super::{
    cpu::{self, Blank, Element},
    wide::{nearest, wide},
};
use crate::error::Result;
use candle_core::{Device, Tensor};
use half::bf16;

/// `gate`, `up` `[T, F]` → `[T, F]`. In bf16 silu(gate) is rounded before the product.
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    for body in [forward_cpu::<f32>, forward_cpu::<bf16>] {
        if let Some(y) = body(gate, up)? {
            return Ok(y);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(y) = super::cuda::swiglu_forward(gate, up)? {
        return Ok(y);
    }
    nearest(Tensor::mul, &silu(gate)?, up)
}

/// silu in f32 with one rounding, as PyTorch and CUDA have it; candle's bf16 body on the CPU rounds three times.
fn silu(gate: &Tensor) -> Result<Tensor> {
    Ok(wide(gate)?.silu()?.to_dtype(gate.dtype())?)
}

/// `dy` `[T, F]` → (`dgate`, `dup`, `y`): with σ = σ(g), `dgate = dy·up·σ·(1 + g·(1 − σ))` and `dup = dy·g·σ`; and what
/// [`forward`] gave once more, bit for bit, since both need the same exponential.
pub fn backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    for body in [backward_cpu::<f32>, backward_cpu::<bf16>] {
        if let Some(all) = body(dy, gate, up)? {
            return Ok(all);
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(all) = super::cuda::swiglu_backward(dy, gate, up)? {
        return Ok(all);
    }
    let (dgate, dup) = backward_composed(dy, gate, up)?;
    Ok((dgate, dup, forward(gate, up)?))
}

fn backward_composed(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let dup = nearest(Tensor::mul, dy, &silu(gate)?)?;
    // dsilu in f32, as PyTorch's silu_backward computes it: one rounding at the end.
    let (dsilu, g) = (wide(&nearest(Tensor::mul, dy, up)?)?, wide(gate)?);
    let s = candle_nn::ops::sigmoid(&g)?;
    let slope = (&s * ((g * (1.0 - &s)?)? + 1.0)?)?;
    Ok(((dsilu * slope)?.to_dtype(gate.dtype())?, dup))
}

fn forward_cpu<T: Element>(gate: &Tensor, up: &Tensor) -> Result<Option<Tensor>> {
    let (Some(g), Some(u)) = (cpu::values::<T>(gate), cpu::values::<T>(up)) else { return Ok(None) };
    let (g, u) = (&*g, &*u);
    let (rows, width) = gate.dims2()?;
    let y = cpu::rows(rows, width, |t, y| {
        let (g, u) = (&g[t * width..][..width], &u[t * width..][..width]);
        y.fill(g.iter().zip(u).map(|(g, u)| {
            let g = g.widen();
            let silu = T::round(g / (1.0 + cpu::exp(-g)));
            T::round(silu.widen() * u.widen())
        }))
    });
    Ok(Some(Tensor::from_vec(y, (rows, width), &Device::Cpu)?))
}

fn backward_cpu<T: Element>(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let (Some(dy), Some(g), Some(u)) = (cpu::values::<T>(dy), cpu::values::<T>(gate), cpu::values::<T>(up)) else {
        return Ok(None);
    };
    let (dy, g, u) = (&*dy, &*g, &*u);
    let (rows, width) = gate.dims2()?;
    let [dgate, dup, y] = cpu::rows3(rows, width, |t, places| {
        let at = t * width;
        let (dy, g, u) = (&dy[at..][..width], &g[at..][..width], &u[at..][..width]);
        let values = dy.iter().zip(g).zip(u).map(|((dy, g), u)| {
            let (dy, g, u) = (dy.widen(), g.widen(), u.widen());
            let denominator = 1.0 + cpu::exp(-g);
            let s = 1.0 / denominator;
            let dsilu = T::round(dy * u).widen();
            let dgate = T::round(dsilu * (s * (1.0 + g * (1.0 - s))));
            [dgate, T::round(dy * T::round(g * s).widen()), T::round(T::round(g / denominator).widen() * u)]
        });
        Blank::fill_three(places, values)
    });
    let tensor = |v| Tensor::from_vec(v, gate.shape(), &Device::Cpu);
    Ok(Some((tensor(dgate)?, tensor(dup)?, tensor(y)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::DType;
    use candle_core::Var;

    #[test]
    fn agrees_with_autograd_forward_and_backward() -> Result<()> {
        for device in devices() {
            for (rows, width) in [(3, 8), (1, 1), (5, 67)] {
                let gate = Var::from_tensor(&(wave((rows, width), 0.0, &device)? * 4.0)?)?;
                let up = Var::from_tensor(&wave((rows, width), 2.0, &device)?)?;
                let dy = wave((rows, width), 5.0, &device)?;
                let slow = (gate.silu()? * up.as_tensor())?;
                assert_close(&forward(&gate, &up)?, &slow, 1e-6);
                let want = (slow * &dy)?.backward()?;
                let (dgate, dup, y) = backward(&dy, &gate, &up)?;
                assert_close(&y, &forward(&gate, &up)?, 0.0);
                assert_close(&dgate, want.get(&gate).expect("a Var"), 1e-6);
                assert_close(&dup, want.get(&up).expect("a Var"), 1e-6);
            }
        }
        Ok(())
    }

    /// Both round at the same places; the last bit of an exponential may tip one rounding, which a product makes 2^-7.
    #[test]
    fn bf16_equals_the_composition() -> Result<()> {
        let half = |phase: f64, scale: f64| -> Result<Tensor> {
            Ok((wave((40, 67), phase, &Device::Cpu)? * scale)?.to_dtype(DType::BF16)?)
        };
        let (gate, up, dy) = (half(0.0, 6.0)?, half(1.0, 1.0)?, half(2.0, 1.0)?);
        let y = nearest(Tensor::mul, &silu(&gate)?, &up)?;
        let (dgate, dup, again) = backward(&dy, &gate, &up)?;
        assert_close(&again, &forward(&gate, &up)?, 0.0);
        let (want_gate, want_up) = backward_composed(&dy, &gate, &up)?;
        for (got, want) in [(forward(&gate, &up)?, y), (dgate, want_gate), (dup, want_up)] {
            assert_close(&got, &want, 1.0 / 128.0);
            let differ = got.ne(&want)?.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
            assert!(differ < 1e-3, "{differ} of the values differ");
        }
        Ok(())
    }
}
