//! SwiGLU: `y = silu(gate)·up`, silu(g) = g·σ(g).

use super::cpu;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};

/// `gate`, `up` `[T, F]` → `[T, F]`. In bf16 silu(gate) is rounded before the product.
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if let (Some(g), Some(u)) = (cpu::f32s(gate), cpu::f32s(up)) {
        let width = gate.dim(1)?;
        let mut y = vec![0f32; g.len()];
        cpu::for_rows(&mut y, width, |t, y| {
            let (g, u) = (&g[t * width..][..width], &u[t * width..][..width]);
            for ((y, g), u) in y.iter_mut().zip(g).zip(u) {
                *y = g / (1.0 + cpu::exp(-g)) * u;
            }
        });
        return Ok(Tensor::from_vec(y, gate.shape(), &Device::Cpu)?);
    }
    Ok((silu(gate)? * up)?)
}

/// silu in f32 with one rounding, as PyTorch and CUDA have it; candle's bf16 body on the CPU rounds three times.
fn silu(gate: &Tensor) -> Result<Tensor> {
    Ok(gate.to_dtype(DType::F32)?.silu()?.to_dtype(gate.dtype())?)
}

/// `dy` `[T, F]` → (`dgate`, `dup`): with σ = σ(g), `dgate = dy·up·σ·(1 + g·(1 − σ))` and `dup = dy·g·σ`.
pub fn backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    if let (Some(dy), Some(g), Some(u)) = (cpu::f32s(dy), cpu::f32s(gate), cpu::f32s(up)) {
        let width = gate.dim(1)?;
        let (mut dgate, mut dup) = (vec![0f32; g.len()], vec![0f32; g.len()]);
        cpu::for_rows2(&mut dgate, &mut dup, width, |t, dgate, dup| {
            let at = t * width;
            let (dy, g, u) = (&dy[at..][..width], &g[at..][..width], &u[at..][..width]);
            for i in 0..width {
                let s = 1.0 / (1.0 + cpu::exp(-g[i]));
                dgate[i] = dy[i] * u[i] * s * (1.0 + g[i] * (1.0 - s));
                dup[i] = dy[i] * g[i] * s;
            }
        });
        let tensor = |v| Tensor::from_vec(v, gate.shape(), &Device::Cpu);
        return Ok((tensor(dgate)?, tensor(dup)?));
    }
    let dup = (dy * silu(gate)?)?;
    // dsilu in f32, as PyTorch's silu_backward computes it: one rounding at the end.
    let (dsilu, g32) = ((dy * up)?.to_dtype(DType::F32)?, gate.to_dtype(DType::F32)?);
    let s = candle_nn::ops::sigmoid(&g32)?;
    let slope = (&s * ((g32 * (1.0 - &s)?)? + 1.0)?)?;
    Ok(((dsilu * slope)?.to_dtype(gate.dtype())?, dup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
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
                let (dgate, dup) = backward(&dy, &gate, &up)?;
                assert_close(&dgate, want.get(&gate).expect("a Var"), 1e-6);
                assert_close(&dup, want.get(&up).expect("a Var"), 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn bf16_agrees_with_f32_to_its_precision() -> Result<()> {
        let (gate, up) = (wave((4, 16), 0.0, &Device::Cpu)?, wave((4, 16), 1.0, &Device::Cpu)?);
        let dy = wave((4, 16), 2.0, &Device::Cpu)?;
        let half = |t: &Tensor| t.to_dtype(DType::BF16);
        let (dgate, dup) = backward(&half(&dy)?, &half(&gate)?, &half(&up)?)?;
        let (want_gate, want_up) = backward(&dy, &gate, &up)?;
        assert_close(&dgate.to_dtype(DType::F32)?, &want_gate, 2e-2);
        assert_close(&dup.to_dtype(DType::F32)?, &want_up, 2e-2);
        Ok(())
    }
}
