//! Products and sums of products, straight on the `gemm` crate where candle's matmul would fill its output with zeros
//! first, read `/proc/cpuinfo` at every call, and could not add to what is there.

use super::{
    cpu::{self, Element},
    matrix::Matrix,
    packed::{self, Factor, is_cpu_bf16},
    wide::{nearest, wide},
};
use crate::error::{Error, Result};
use candle_core::{CpuStorage, D, DType, Device, InplaceOp2, InplaceOp3, Layout, Storage, Tensor, WithDType, bail};
use gemm::Parallelism;
use half::bf16;

/// `a + b`, equal shapes.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    for body in [add_cpu::<f32>, add_cpu::<bf16>] {
        if let Some(sum) = body(a, b)? {
            return Ok(sum);
        }
    }
    nearest(Tensor::add, a, b)
}

fn add_cpu<T: Element>(a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    let (Some(xs), Some(ys)) = (cpu::values::<T>(a), cpu::values::<T>(b)) else { return Ok(None) };
    if a.dims() != b.dims() || xs.is_empty() {
        return Ok(None);
    }
    let (xs, ys, width) = (&*xs, &*ys, a.dim(D::Minus1)?);
    let sum = cpu::rows(xs.len() / width, width, |t, sum| {
        let (x, y) = (&xs[t * width..][..width], &ys[t * width..][..width]);
        sum.fill(x.iter().zip(y).map(|(x, y)| T::round(x.widen() + y.widen())))
    });
    Ok(Some(Tensor::from_vec(sum, a.shape(), &Device::Cpu)?))
}

/// `y + x`, equal shapes. `y` is consumed: on the CPU its memory becomes the sum, so no one else may hold it.
pub fn add_to(y: Tensor, x: &Tensor) -> Result<Tensor> {
    if cpu::is_plain(&y) && cpu::is_plain(x) && y.dims() == x.dims() && y.dtype() == x.dtype() {
        y.inplace_op2(x, &AddTo)?;
        return Ok(y);
    }
    add(&y, x)
}

struct AddTo;

impl AddTo {
    fn run<T: Element>(y: &mut [T], x: &[T]) {
        cpu::for_blocks(y, |at, y| {
            for (y, x) in y.iter_mut().zip(&x[at..]) {
                *y = T::round(y.widen() + x.widen());
            }
        });
    }
}

impl InplaceOp2 for AddTo {
    fn name(&self) -> &'static str {
        "add_to"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, y_at: &Layout, x: &CpuStorage, x_at: &Layout) -> candle_core::Result<()> {
        let (Some((y_start, y_end)), Some((x_start, x_end))) = (y_at.contiguous_offsets(), x_at.contiguous_offsets())
        else {
            bail!("add_to: contiguous tensors expected");
        };
        match (y, x) {
            (CpuStorage::F32(y), CpuStorage::F32(x)) => Self::run(&mut y[y_start..y_end], &x[x_start..x_end]),
            (CpuStorage::BF16(y), CpuStorage::BF16(x)) => Self::run(&mut y[y_start..y_end], &x[x_start..x_end]),
            _ => bail!("add_to: f32 or bf16 expected"),
        }
        Ok(())
    }
}

/// `a·b`: `a` `[m, k]`, `b` `[k, n]` (any strides) → `[m, n]`.
pub fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if is_cpu_bf16(a) && is_cpu_bf16(b) {
        return Ok(packed::products_bf16(a, &[Factor::Matrix(b)])?.remove(0));
    }
    match [a, b].map(|t| t.device().is_cpu().then_some(t.dtype())) {
        [Some(DType::F32), Some(DType::F32)] => product_cpu::<f32>(a, b),
        [Some(DType::F64), Some(DType::F64)] => product_cpu::<f64>(a, b),
        _ => Ok(a.matmul(b)?),
    }
}

fn product_cpu<T: WithDType + Default>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (m, n) = (a.dim(0)?, b.dim(1)?);
    let ((a_storage, a_layout), (b_storage, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    let (Storage::Cpu(a), Storage::Cpu(b)) = (&*a_storage, &*b_storage) else {
        return Err(Error::run("internal error: storage on the CPU expected"));
    };
    let (a, b) = (T::cpu_storage_as_slice(a)?, T::cpu_storage_as_slice(b)?);
    let mut out: Vec<T> = Vec::with_capacity(m * n);
    multiply(out.as_mut_ptr(), (m, n), false, Matrix::new(a, a_layout)?, Matrix::new(b, b_layout)?)?;
    // SAFETY: `multiply` has written all m·n elements, for which the vector has room.
    unsafe { out.set_len(m * n) };
    Ok(Tensor::from_vec(out, (m, n), &Device::Cpu)?)
}

/// `scale·a·b`: `a` `[m, k]`, `b` `[k, n]`, any strides. On the CPU the product is rounded before it is scaled.
pub fn scaled_product(a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = super::cuda::product(a, b, scale, a.dtype())? {
        return Ok(y);
    }
    scaled(&product(a, b)?, scale)
}

/// `x·scale` with the scalar in f32 and one rounding: candle would round the scalar to bf16 first.
pub(super) fn scaled(x: &Tensor, scale: f64) -> Result<Tensor> {
    if scale == 1.0 {
        return Ok(x.clone());
    }
    Ok((wide(x)? * scale)?.to_dtype(x.dtype())?)
}

/// `y + a·b`: `y` `[m, n]`, `a` `[m, k]`, `b` `[k, n]` (any strides). `y` is consumed: its memory becomes the sum.
pub fn add_product(y: Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if y.is_contiguous() && y.dtype() == a.dtype() && adds_in_place(&y, a, b) {
        y.inplace_op3(a, b, &AddProduct)?;
        return Ok(y);
    }
    nearest(Tensor::add, &y, &a.matmul(b)?)
}

/// Adds `a·b` to the elements of `flat` from `start` on, which are an `[m, n]` matrix, row-major: `a` `[m, k]`, `b` `[k, n]`,
/// both f32 or both bf16, any strides. Nothing is rounded to bf16.
///
/// `flat`: `[len]` f32, whose memory neither `a` nor `b` shares. Nobody else may be reading it.
pub fn add_product_at(flat: &Tensor, start: usize, a: &Tensor, b: &Tensor) -> Result<()> {
    let shape = (a.dim(0)?, b.dim(1)?);
    if flat.dtype() == DType::F32 && adds_in_place(flat, a, b) {
        let place = flat.narrow(0, start, shape.0 * shape.1)?.reshape(shape)?;
        return Ok(place.inplace_op3(a, b, &AddProduct)?);
    }
    let (product, before) = (product(&wide(a)?, &wide(b)?)?.flatten_all()?, flat.narrow(0, start, shape.0 * shape.1)?);
    Ok(flat.slice_set(&(before + product)?, 0, start)?)
}

/// Whether [`AddProduct`] has a body for these, `y` contiguous.
fn adds_in_place(y: &Tensor, a: &Tensor, b: &Tensor) -> bool {
    let here = y.device().is_cpu() || (cfg!(feature = "cuda") && y.device().is_cuda());
    let dtypes = [y, a, b].map(Tensor::dtype);
    use DType::{BF16, F32};
    here && matches!(dtypes, [F32, F32, F32] | [BF16, BF16, BF16] | [F32, BF16, BF16])
}

pub(super) fn is_cpu_f32(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::F32
}

struct AddProduct;

impl InplaceOp3 for AddProduct {
    fn name(&self) -> &'static str {
        "add_product"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<()> {
        let Some((start, end)) = y_layout.contiguous_offsets() else {
            bail!("add_product: the sum must be contiguous");
        };
        let shape = y_layout.shape().dims2()?;
        // Candle holds a write lock on `y`: an `a` or `b` of the same memory would wait for it for ever.
        match (y, a, b) {
            (CpuStorage::F32(y), CpuStorage::F32(a), CpuStorage::F32(b)) => {
                multiply(y[start..end].as_mut_ptr(), shape, true, Matrix::new(a, a_layout)?, Matrix::new(b, b_layout)?)
            }
            (CpuStorage::BF16(y), CpuStorage::BF16(a), CpuStorage::BF16(b)) => {
                let (a, b): (&[u16], &[u16]) = (bytemuck::cast_slice(a), bytemuck::cast_slice(b));
                let y = bytemuck::cast_slice_mut(&mut y[start..end]);
                packed::add_product(y, shape, &Matrix::new(a, a_layout)?, Matrix::new(b, b_layout)?)
            }
            (CpuStorage::F32(y), CpuStorage::BF16(a), CpuStorage::BF16(b)) => {
                let (a, b): (&[u16], &[u16]) = (bytemuck::cast_slice(a), bytemuck::cast_slice(b));
                let (a, b) = (Matrix::new(a, a_layout)?, Matrix::new(b, b_layout)?);
                packed::add_product_f32(&mut y[start..end], shape, &a, b)
            }
            _ => bail!("add_product: f32 or bf16 expected"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        y: &mut candle_core::CudaStorage,
        y_layout: &Layout,
        a: &candle_core::CudaStorage,
        a_layout: &Layout,
        b: &candle_core::CudaStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<()> {
        super::cuda::add_product((y, y_layout), (a, a_layout), (b, b_layout)).map_err(candle_core::Error::wrap)
    }
}

/// Writes (or with `add` adds) `a·b` into the `m·n` elements at `out`, row-major.
fn multiply<T: WithDType + Default>(
    out: *mut T,
    (m, n): (usize, usize),
    add: bool,
    a: Matrix<T>,
    b: Matrix<T>,
) -> candle_core::Result<()> {
    let k = a.columns;
    if (m, n) != (a.rows, b.columns) || k != b.rows || k == 0 {
        bail!("product: [{m}, {n}] = [{}, {k}]·[{}, {}]", a.rows, b.rows, b.columns);
    }
    let threads = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    // SAFETY: both callers hand in m·n writable elements that neither operand overlaps; without `add` they are only
    // written, never read. Every element of a `Matrix` lies inside its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            n as isize,
            add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::from_f64(1.0),
            T::from_f64(1.0),
            false,
            false,
            false,
            threads,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};

    #[test]
    fn sums_agree_with_candle() -> Result<()> {
        for device in devices() {
            for (m, n) in [(1, 1), (3, 7), (130, 300)] {
                let (a, b) = (wave((m, n), 0.0, &device)?, wave((m, n), 1.0, &device)?);
                assert_close(&add(&a, &b)?, &(&a + &b)?, 0.0);
                assert_close(&add_to(a.copy()?, &b)?, &(&a + &b)?, 0.0);
                let (half_a, half_b) = (a.to_dtype(DType::BF16)?, b.to_dtype(DType::BF16)?);
                let rounded_sum = (wide(&half_a)? + wide(&half_b)?)?.to_dtype(DType::BF16)?;
                assert_close(&add(&half_a, &half_b)?, &rounded_sum, 0.0);
                assert_close(&add_to(half_a.copy()?, &half_b)?, &rounded_sum, 0.0);
                let half_strided = half_a.t()?.contiguous()?.t()?;
                assert_close(&add(&half_strided, &half_b)?, &rounded_sum, 0.0);
                let (strided, b) = (wave((n, m), 0.0, &device)?.t()?, wave((m, n), 1.0, &device)?);
                assert_close(&add(&strided, &b)?, &(&strided + &b)?, 0.0);
            }
        }
        Ok(())
    }

    #[test]
    fn a_product_is_added_over_odd_sizes_and_strides() -> Result<()> {
        for device in devices() {
            for (m, k, n) in [(1, 1, 1), (5, 3, 7), (64, 8, 200), (33, 16, 1)] {
                let y = wave((m, n), 2.0, &device)?;
                let (a, b) = (wave((m, k), 0.0, &device)?, wave((k, n), 1.0, &device)?);
                let want = (&y + a.matmul(&b)?)?;
                let fresh = || -> Result<Tensor> { Ok(y.copy()?) };
                assert_close(&product(&a, &b)?, &a.matmul(&b)?, 1e-5);
                assert_close(&add_product(fresh()?, &a, &b)?, &want, 1e-5);
                let (a_t, b_t) = (a.t()?.contiguous()?.t()?, b.t()?.contiguous()?.t()?);
                assert_close(&add_product(fresh()?, &a_t, &b_t)?, &want, 1e-5);
                assert_close(&product(&a_t, &b_t)?, &a.matmul(&b)?, 1e-5);
                let wide = Tensor::cat(&[&a, &a], 1)?; // a view with an offset
                assert_close(&add_product(fresh()?, &wide.narrow(1, k, k)?, &b)?, &want, 1e-5);
            }
            for (m, k, n) in [(1, 1, 1), (5, 3, 7), (64, 40, 8), (8, 70, 200)] {
                for dtype in [DType::F32, DType::BF16] {
                    let (a, b) =
                        (wave((m, k), 0.0, &device)?.to_dtype(dtype)?, wave((k, n), 1.0, &device)?.to_dtype(dtype)?);
                    let flat = wave((1, m * n + 5), 2.0, &device)?.flatten_all()?;
                    let before = flat.copy()?;
                    add_product_at(&flat, 3, &a, &b)?;
                    let product = a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.flatten_all()?;
                    let want = (before.narrow(0, 3, m * n)? + &product)?;
                    assert_close(&flat.narrow(0, 3, m * n)?, &want, 1e-5);
                    let beside = |t: &Tensor| Ok::<_, Error>((t.narrow(0, 0, 3)?, t.narrow(0, 3 + m * n, 2)?));
                    let ((got, got_end), (want, want_end)) = (beside(&flat)?, beside(&before)?);
                    assert_close(&got, &want, 0.0);
                    assert_close(&got_end, &want_end, 0.0);
                }
            }
            let wrong =
                add_product(wave((2, 2), 0.0, &device)?, &wave((2, 3), 0.0, &device)?, &wave((2, 2), 0.0, &device)?);
            assert!(wrong.is_err());
        }
        Ok(())
    }
}
