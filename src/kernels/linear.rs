//! Products with a frozen weight: `x·Wᵀ` forward, `dy·W` backward, and never a `dW`.

use super::{
    Packed, PackedBf16, PackedF32,
    packed::{self, is_cpu_bf16},
    product::{add_product, add_to, is_cpu_f32, product, scaled, scaled_product},
    row_product, wide,
};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// A frozen matrix `W` `[out, in]` (a projection, the tied embedding or the head) in the compute dtype.
#[derive(Debug, Clone)]
pub struct FrozenWeight {
    w: Form,
}

/// How a weight is kept.
#[derive(Debug, Clone)]
enum Form {
    /// As it is: anything on a card, and f64.
    Plain(Tensor),
    /// bf16 on the CPU.
    Bf16(PackedBf16),
    /// f32 on the CPU.
    F32(PackedF32),
}

/// Values that are read at a time where a weight is packed.
const PIECE: usize = 8 << 20;

impl FrozenWeight {
    /// `w`: `[out, in]`, f32 or bf16 (or f64 on the CPU).
    pub fn new(w: Tensor) -> Result<Self> {
        let shape = w.dims2()?;
        Self::read(shape, (w.dtype(), w.device()), || Ok(w.clone()), |rows| Ok(w.narrow(0, rows.start, rows.len())?))
    }

    /// `[out, in]` in `dtype` on `device`, from where it is read: `whole()` or, where a weight is packed, piece by piece
    /// `rows(range)` in any float dtype, all rows in order.
    pub fn read(
        shape: (usize, usize),
        (dtype, device): (DType, &Device),
        whole: impl FnOnce() -> Result<Tensor>,
        rows: impl FnMut(Range<usize>) -> Result<Tensor>,
    ) -> Result<Self> {
        let piece = PIECE / shape.1.max(1);
        let w = match (device, dtype) {
            (Device::Cpu, DType::BF16) => Form::Bf16(PackedBf16::pack(shape, piece, rows)?),
            (Device::Cpu, DType::F32) => Form::F32(PackedF32::pack(shape, piece, rows)?),
            _ => Form::Plain(whole()?),
        };
        Ok(Self { w })
    }

    /// (out, in)
    pub fn shape(&self) -> Result<(usize, usize)> {
        match &self.w {
            Form::Plain(w) => Ok(w.dims2()?),
            Form::Bf16(w) => Ok(w.shape()),
            Form::F32(w) => Ok(w.shape()),
        }
    }

    /// `x` `[T, in]` → `x·Wᵀ` `[T, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(products(x, &[Factor::Transposed(self)])?.remove(0))
    }

    /// As [`Self::forward`], but in the type of its sums: nothing is rounded to bf16.
    pub fn forward_wide(&self, x: &Tensor) -> Result<Tensor> {
        match &self.w {
            Form::Plain(w) => {
                #[cfg(feature = "cuda")]
                if let Some(y) = super::cuda::product(x, &w.t()?, 1.0, DType::F32)? {
                    return Ok(y);
                }
                product(&wide(x)?, &wide(w)?.t()?)
            }
            Form::Bf16(w) => w.infer(&wide(x)?),
            Form::F32(w) => w.forward(x),
        }
    }

    /// ‖w‖² of every row of W, `[out]` f64.
    pub fn squares(&self) -> Result<Tensor> {
        let packed = match &self.w {
            Form::Plain(w) => {
                let piece = (PIECE / w.dim(1)?.max(1)).max(1);
                let squares = |start| -> Result<Tensor> {
                    let rows = w.narrow(0, start, piece.min(w.dim(0)? - start))?;
                    Ok(rows.to_dtype(DType::F64)?.sqr()?.sum(1)?)
                };
                return Ok(Tensor::cat(&(0..w.dim(0)?).step_by(piece).map(squares).collect::<Result<Vec<_>>>()?, 0)?);
            }
            Form::Bf16(w) => w.squares(),
            Form::F32(w) => w.squares(),
        };
        Ok(Tensor::new(packed, &Device::Cpu)?)
    }

    /// `dy` `[T, out]` → `dx = dy·W` `[T, in]`.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        Ok(products(dy, &[Factor::Frozen(self)])?.remove(0))
    }

    /// Whether [`Self::add_backward`] is one pass: where products are cuBLAS's. On the CPU it is better to lay the rows of dy
    /// out once for all their [`products`] and to add afterwards.
    pub fn adds_while_multiplying(&self) -> bool {
        matches!(self.w, Form::Plain(_))
    }

    /// `sum + dy·W`, see [`Self::backward`]. `sum` is consumed.
    pub fn add_backward(&self, sum: Tensor, dy: &Tensor) -> Result<Tensor> {
        match &self.w {
            Form::Plain(w) => add_product(sum, dy, w),
            _ => add_to(sum, &self.backward(dy)?),
        }
    }

    /// As [`Self::forward`] for the few rows of generation: on the CPU `x` is f32 whatever W is, elsewhere it has W's dtype.
    pub fn infer(&self, x: &Tensor) -> Result<Tensor> {
        match &self.w {
            Form::Plain(w) => row_product(x, w),
            Form::Bf16(w) => w.infer(x),
            Form::F32(w) => w.forward(x),
        }
    }

    fn bf16(&self) -> Option<&PackedBf16> {
        if let Form::Bf16(w) = &self.w { Some(w) } else { None }
    }

    fn f32(&self) -> Option<&PackedF32> {
        if let Form::F32(w) = &self.w { Some(w) } else { None }
    }

    /// Rows `ids` of `W`, `[T, in]`: the embedding look-up. `ids`: `[T]` u32.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.w {
            Form::Plain(w) => Ok(w.index_select(ids, 0)?),
            Form::Bf16(w) => w.rows(ids),
            Form::F32(w) => w.rows(ids),
        }
    }
}

/// What rows are multiplied by.
#[derive(Debug, Clone, Copy)]
pub enum Factor<'a> {
    /// `Wᵀ`, as in [`FrozenWeight::forward`].
    Transposed(&'a FrozenWeight),
    /// `W`, as in [`FrozenWeight::backward`].
    Frozen(&'a FrozenWeight),
    /// A matrix of the dtype of the rows, any strides, and what the product is multiplied by.
    Scaled(&'a Tensor, f64),
}

/// `x·f` for every factor `f`: `x` `[T, depth]` → `[T, columns of f]`. On the CPU the rows are laid out for the products once.
pub fn products(x: &Tensor, factors: &[Factor]) -> Result<Vec<Tensor>> {
    if factors.is_empty() {
        return Ok(vec![]);
    }
    if let Some(packed) = packed_factors(factors, FrozenWeight::bf16).filter(|_| is_cpu_bf16(x)) {
        return rescaled(packed::products_bf16(x, &packed)?, factors);
    }
    if let Some(packed) = packed_factors(factors, FrozenWeight::f32).filter(|_| is_cpu_f32(x)) {
        return rescaled(packed::products_f32(x, &packed)?, factors);
    }
    let one = |factor: &Factor| match factor {
        Factor::Transposed(FrozenWeight { w: Form::Plain(w) }) => product(x, &w.t()?),
        Factor::Frozen(FrozenWeight { w: Form::Plain(w) }) => product(x, w),
        Factor::Scaled(b, scale) => scaled_product(x, b, *scale),
        _ => Err(Error::run(format!("internal error: {:?} rows times a packed weight", x.dtype()))),
    };
    factors.iter().map(one).collect()
}

/// The factors for the packed products, where all weights are `packed` in this way.
fn packed_factors<'a, T>(
    factors: &[Factor<'a>],
    packed: impl Fn(&'a FrozenWeight) -> Option<&'a Packed<T>>,
) -> Option<Vec<packed::Factor<'a, T>>> {
    let one = |factor: &Factor<'a>| match factor {
        Factor::Transposed(w) => packed(w).map(packed::Factor::Transposed),
        Factor::Frozen(w) => packed(w).map(packed::Factor::Frozen),
        Factor::Scaled(b, _) => Some(packed::Factor::Matrix(b)),
    };
    factors.iter().map(one).collect()
}

/// The products of packed weights know of no scale.
fn rescaled(products: Vec<Tensor>, factors: &[Factor]) -> Result<Vec<Tensor>> {
    let one = |(product, factor): (Tensor, &Factor)| match factor {
        Factor::Scaled(_, scale) => scaled(&product, *scale),
        _ => Ok(product),
    };
    products.into_iter().zip(factors).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};
    use candle_core::Var;

    #[test]
    fn agrees_with_autograd() -> Result<()> {
        for device in devices() {
            let x = Var::from_tensor(&wave((5, 7), 0.0, &device)?)?;
            let w = wave((3, 7), 1.0, &device)?;
            let dy = wave((5, 3), 2.0, &device)?;
            let weight = FrozenWeight::new(w.clone())?;
            let slow = x.matmul(&w.t()?)?;
            assert_close(&weight.forward(&x)?, &slow, 1e-6);
            let want = (slow * &dy)?.backward()?;
            assert_close(&weight.backward(&dy)?, want.get(&x).expect("x is a Var"), 1e-6);
            let b = wave((7, 2), 3.0, &device)?;
            let both = products(&x, &[Factor::Transposed(&weight), Factor::Scaled(&b, 0.3)])?;
            assert_close(&both[0], &weight.forward(&x)?, 0.0);
            assert_close(&both[1], &(x.matmul(&b)? * 0.3)?, 1e-6);
            let ids = Tensor::new(&[2u32, 0, 2], &device)?;
            assert_close(&weight.rows(&ids)?, &w.index_select(&ids, 0)?, 0.0);
        }
        Ok(())
    }

    #[test]
    fn what_a_row_norm_is_made_of_is_not_rounded() -> Result<()> {
        for device in devices() {
            for dtype in [DType::F32, DType::BF16, DType::F64] {
                for (out, width) in [(1, 1), (33, 65), (70, 40), (64, 1030)] {
                    let (w, x) = (wave((out, width), 1.0, &device)?, wave((3, width), 0.0, &device)?);
                    let (w, x) = (w.to_dtype(dtype)?, x.to_dtype(dtype)?);
                    let weight = FrozenWeight::new(w.clone())?;
                    let (w, exact) = (w.to_dtype(DType::F64)?, x.to_dtype(DType::F64)?);
                    assert_close(&weight.squares()?, &w.sqr()?.sum(1)?, 1e-13);
                    let sums = weight.forward_wide(&x)?;
                    assert_eq!(sums.dtype(), if dtype == DType::F64 { DType::F64 } else { DType::F32 });
                    assert_close(&sums, &exact.matmul(&w.t()?)?, 1e-5);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn bf16_on_the_cpu_is_packed_and_says_the_same() -> Result<()> {
        let w = wave((70, 40), 1.0, &Device::Cpu)?.to_dtype(DType::BF16)?;
        let wide = w.to_dtype(DType::F32)?;
        let read = |rows: Range<usize>| Ok(wide.narrow(0, rows.start, rows.len())?);
        let read = FrozenWeight::read((70, 40), (DType::BF16, &Device::Cpu), || unreachable!("packed"), read)?;
        for weight in [FrozenWeight::new(w.clone())?, read] {
            assert!(matches!(weight.w, Form::Bf16(_)));
            assert_eq!(weight.shape()?, (70, 40));
            let x = wave((5, 40), 0.0, &Device::Cpu)?.to_dtype(DType::BF16)?;
            let dy = wave((5, 70), 2.0, &Device::Cpu)?.to_dtype(DType::BF16)?;
            let slow = |a: &Tensor, b: &Tensor| a.to_dtype(DType::F32)?.matmul(b);
            assert_close(&weight.forward(&x)?, &slow(&x, &wide.t()?)?, 8e-3);
            assert_close(&weight.backward(&dy)?, &slow(&dy, &wide)?, 8e-3);
            let x = x.to_dtype(DType::F32)?;
            assert_close(&weight.infer(&x)?, &x.matmul(&wide.t()?)?, 1e-5);
            let ids = Tensor::new(&[69u32, 0, 33], &Device::Cpu)?;
            assert_close(&weight.rows(&ids)?, &w.index_select(&ids, 0)?, 0.0);
            assert!(weight.rows(&Tensor::new(&[70u32], &Device::Cpu)?).is_err());
        }
        Ok(())
    }
}
