//! Products by cuBLAS into memory that is there already, which candle's matmul cannot: it always makes a new tensor.

use super::{
    device::{in_place, output, place},
    launch::{Address, Real},
};
use crate::error::{Error, Result};
use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Storage, Tensor,
    backend::BackendStorage,
    cuda_backend::{
        CudaStorageSlice,
        cudarc::{
            cublas::{
                result::gemm_ex,
                sys::{
                    cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cublasSetWorkspace_v2, cudaDataType_t,
                },
            },
            driver::DevicePtr,
        },
    },
};
use std::ffi::c_int;

/// A matrix on a card: of the two strides one is 1.
struct Matrix {
    at: u64,
    kind: cudaDataType_t,
    rows: usize,
    columns: usize,
    /// Whether a column, not a row, lies in one piece.
    by_columns: bool,
    /// Elements from one row (column) to the next.
    leading: usize,
}

impl Matrix {
    fn new(storage: &CudaStorage, layout: &Layout) -> Result<Self> {
        let stream = storage.device.cuda_stream();
        let (base, kind) = match &storage.slice {
            CudaStorageSlice::F32(slice) => (slice.device_ptr(&stream).0, cudaDataType_t::CUDA_R_32F),
            CudaStorageSlice::BF16(slice) => (slice.device_ptr(&stream).0, cudaDataType_t::CUDA_R_16BF),
            _ => return Err(Error::run("internal error: a product of f32 or bf16 expected")),
        };
        let (rows, columns) = layout.shape().dims2()?;
        let (by_columns, leading) = leading((rows, columns), (layout.stride()[0], layout.stride()[1]))
            .ok_or_else(|| Error::run("internal error: a product of matrices with gaps in both directions"))?;
        let at = base + (layout.start_offset() * storage.dtype().size_in_bytes()) as u64;
        Ok(Self { at, kind, rows, columns, by_columns, leading })
    }

    /// By rows, without gaps.
    fn dense(at: Address, real: Real, (rows, columns): (usize, usize)) -> Self {
        let kind = match real {
            Real::F32 => cudaDataType_t::CUDA_R_32F,
            Real::Bf16 => cudaDataType_t::CUDA_R_16BF,
        };
        Self { at: at.0, kind, rows, columns, by_columns: false, leading: columns }
    }

    /// cuBLAS counts by columns: to it a matrix by rows is its transpose.
    fn operation(&self) -> cublasOperation_t {
        if self.by_columns { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }
    }
}

/// Whether a matrix of this shape and these strides lies by columns, and how far apart they (its rows) are. `None`: neither
/// rows nor columns lie in one piece.
fn leading((rows, columns): (usize, usize), (row_stride, column_stride): (usize, usize)) -> Option<(bool, usize)> {
    let by_rows = (column_stride == 1 || columns == 1).then_some((false, if rows == 1 { columns } else { row_stride }));
    let by_columns = (row_stride == 1 || rows == 1).then_some((true, if columns == 1 { rows } else { column_stride }));
    let far_enough = |(by_columns, leading): &(bool, usize)| *leading >= if *by_columns { rows } else { columns };
    by_rows.filter(far_enough).or(by_columns.filter(far_enough))
}

/// What cuBLAS may use for one product at a time: NVIDIA recommends 32 MiB for Hopper, less for others (cuBLAS's documentation,
/// `cublasSetWorkspace`).
const WORKSPACE: usize = 32 << 20;

/// Gives cuBLAS a workspace of its own on `card`, for as long as the program runs. Without one it takes memory from a pool
/// where it needs some, and may multiply in another way where it gets none: under a recording, for one.
pub(super) fn give_workspace(card: &CudaDevice) -> Result<()> {
    // SAFETY: nothing is read that cuBLAS has not written.
    let memory = unsafe { card.alloc::<u8>(WORKSPACE) }?;
    let at = memory.device_ptr(&card.cuda_stream()).0;
    // SAFETY: the memory is never freed, as the handle is never told of another.
    let given = unsafe { cublasSetWorkspace_v2(*card.cublas_handle().handle(), at as *mut _, WORKSPACE) };
    std::mem::forget(memory);
    given.result().map_err(|why| Error::run(format!("cuBLAS takes no workspace: {why}")))
}

/// `y ← scale·a·b + keep·y`. Sums are taken in f32.
fn multiply(card: &CudaDevice, y: &Matrix, [a, b]: [&Matrix; 2], scale: f32, keep: f32) -> Result<()> {
    if (y.rows, y.columns) != (a.rows, b.columns) || a.columns != b.rows || a.columns == 0 {
        let shapes = [y, a, b].map(|m| (m.rows, m.columns));
        return Err(Error::run(format!("internal error: a product of other shapes: {shapes:?}")));
    }
    let int = |n: usize| c_int::try_from(n).map_err(|_| Error::run("internal error: a matrix beyond cuBLAS's limits"));
    let blas = card.cublas_handle();
    // SAFETY: the three matrices lie in memory of live tensors, `y` in one that the caller has for itself; shapes and
    // strides have been checked above and when they were made; both factors live through the call (they are read on the host).
    let done = unsafe {
        gemm_ex(
            *blas.handle(),
            b.operation(),
            a.operation(),
            int(y.columns)?,
            int(y.rows)?,
            int(a.columns)?,
            (&raw const scale).cast(),
            b.at as *const _,
            b.kind,
            int(b.leading)?,
            a.at as *const _,
            a.kind,
            int(a.leading)?,
            (&raw const keep).cast(),
            y.at as *mut _,
            y.kind,
            int(y.leading)?,
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    };
    done.map_err(|why| Error::run(format!("cuBLAS cannot multiply: {why}")))
}

/// `y ← y + a·b`: all f32, all bf16, or products of bf16 added to f32. `y` is contiguous.
pub(in crate::kernels) fn add_product(
    (y, y_layout): (&mut CudaStorage, &Layout),
    (a, a_layout): (&CudaStorage, &Layout),
    (b, b_layout): (&CudaStorage, &Layout),
) -> Result<()> {
    let (real, at) = in_place(y, y_layout)?;
    let sum = Matrix::dense(at, real, y_layout.shape().dims2()?);
    multiply(y.device(), &sum, [&Matrix::new(a, a_layout)?, &Matrix::new(b, b_layout)?], 1.0, 1.0)
}

/// `scale·a·b` in `dtype`, f32 or that of `a` and `b`, rounded once. `None`: not on a card, or other types.
pub(in crate::kernels) fn product(a: &Tensor, b: &Tensor, scale: f64, dtype: DType) -> Result<Option<Tensor>> {
    let Some((card, real)) = place(a).filter(|_| a.dtype() == b.dtype()) else { return Ok(None) };
    let shape = (a.dim(0)?, b.dim(1)?);
    let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    let (Storage::Cuda(a), Storage::Cuda(b)) = (&*a, &*b) else { return Ok(None) };
    let (y, at) = output(&card, dtype, shape)?;
    let sum = Matrix::dense(at, if dtype == DType::F32 { Real::F32 } else { real }, shape);
    multiply(&card, &sum, [&Matrix::new(a, a_layout)?, &Matrix::new(b, b_layout)?], scale as f32, 0.0)?;
    Ok(Some(y))
}
