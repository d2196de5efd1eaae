//! The gradient norm over all trainable parameters, and the factor that bounds it.

use crate::{error::Result, kernels::reduce};
use candle_core::{DType, Tensor};

/// L2 norm of the flat gradient, before clipping. Reads one scalar back from the device.
#[expect(clippy::disallowed_methods, reason = "the step's one look at the gradient: a NaN must stop before the update")]
pub fn grad_norm(flat: &Tensor) -> Result<f64> {
    Ok(reduce::sum_of_squares(flat)?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt())
}

/// What the gradient is multiplied by so that its norm does not exceed `max_norm`: `min(1, max/(norm + 1e-6))`.
///
/// As `torch.nn.utils.clip_grad_norm_`, small number included. `max_norm` 0 turns clipping off.
pub fn factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn a_long_gradient_is_shortened_and_a_short_one_kept() -> Result<()> {
        for device in devices() {
            let norm = grad_norm(&Tensor::new(&[3f32, 4.0], &device)?)?;
            assert!((norm - 5.0).abs() < 1e-6);
            assert!((factor(norm, 1.0) - 1.0 / 5.000001).abs() < 1e-12);
            assert_eq!((factor(norm, 10.0), factor(norm, 0.0)), (1.0, 1.0));
        }
        Ok(())
    }
}
