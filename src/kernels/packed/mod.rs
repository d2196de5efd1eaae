//! Products in bf16 on the CPU's matrix units, and the frozen weights packed for them once, when a model is loaded.
//!
//! Operands are bf16, every sum is taken in f32 and rounded once. Weights are kept in one packing (`layout`) that serves
//! `x·Wᵀ`, `dy·W`, generation in f32 and the look-up of rows. `blocked` holds the loops; a file for each way to multiply
//! a tile. Which one is used is found when the program runs, and `COUPLET_TRAIN_KERNELS` forces one, to compare results.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocked;
mod float;
mod layout;
mod peak;

use crate::{
    error::{Error, Result},
    kernels::{cpu, matrix::Matrix},
};
use blocked::{Kernel, Left, Out, Right};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor, bail};
use float::{FEW, Float, FloatFew, Vectors};
use half::bf16;
use std::sync::OnceLock;

pub use layout::PackedBf16;
pub use peak::peak;

/// A way to multiply in bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// AMX-BF16: tiles of 16x16 sums.
    Amx,
    /// AVX512-BF16: vectors of 16 sums.
    Avx512Bf16,
    /// Multiply-adds in f32, AVX2 or NEON, of weights widened on the way.
    F32,
    /// The same without vectors.
    Plain,
}

/// The variable that forces a path.
const VARIABLE: &str = "COUPLET_TRAIN_KERNELS";

impl Path {
    const ALL: [Path; 4] = [Path::Amx, Path::Avx512Bf16, Path::F32, Path::Plain];

    /// As the environment variable `COUPLET_TRAIN_KERNELS` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Path::Amx => "amx",
            Path::Avx512Bf16 => "avx512-bf16",
            Path::F32 => "f32",
            Path::Plain => "plain",
        }
    }

    /// Those that CPU and operating system have, the fastest first.
    pub fn available() -> Vec<Path> {
        Path::ALL.into_iter().filter(|path| path.is_there()).collect()
    }

    fn is_there(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Amx => amx::Amx::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Bf16 => avx512::Avx512Bf16::new().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Path::Amx | Path::Avx512Bf16 => false,
            Path::F32 => !matches!(pulp::Arch::new(), pulp::Arch::Scalar),
            Path::Plain => true,
        }
    }

    /// The path of this process: the fastest, or the one that `COUPLET_TRAIN_KERNELS` names.
    ///
    /// Errors: the variable names no path, or one that is not there.
    pub fn chosen() -> Result<Path> {
        static CHOSEN: OnceLock<Path> = OnceLock::new();
        if let Some(path) = CHOSEN.get() {
            return Ok(*path);
        }
        let asked = std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned());
        let path = choose(asked.as_deref(), &Path::available())?;
        Ok(*CHOSEN.get_or_init(|| path))
    }
}

fn choose(asked: Option<&str>, available: &[Path]) -> Result<Path> {
    let Some(asked) = asked else { return Ok(available[0]) };
    let names = |paths: &[Path]| paths.iter().map(|path| path.name()).collect::<Vec<_>>().join(", ");
    let refused = |fact: String| {
        Error::input(format!("{VARIABLE}={asked}: {fact}"))
            .hint(format!("this machine has {}; without the variable the first is used", names(available)))
            .hint_zh(format!("本机可用：{}；不设此变量则用第一个", names(available)))
    };
    match Path::ALL.into_iter().find(|path| path.name() == asked) {
        None => Err(refused(format!("one of {} was expected", names(&Path::ALL)))),
        Some(path) if !available.contains(&path) => Err(refused("this CPU or operating system does not have it".into())),
        Some(path) => Ok(path),
    }
}

/// `a·b` into `out` on `path`, which has to be there.
fn multiply(path: Path, a: &Matrix<u16>, b: &Right, out: Out) {
    let there = "only paths that are there are chosen";
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Amx => with(&amx::Amx::new().expect(there), a, b, out),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512Bf16 => with(&avx512::Avx512Bf16::new().expect(there), a, b, out),
        #[cfg(not(target_arch = "x86_64"))]
        Path::Amx | Path::Avx512Bf16 => unreachable!("{there}"),
        Path::F32 => with(&Float(Vectors::Widest), a, b, out),
        Path::Plain => with(&Float(Vectors::Plain), a, b, out),
    }
}

fn with<K: Kernel>(kernel: &K, a: &Matrix<u16>, b: &Right, out: Out) {
    blocked::multiply(kernel, &Left::pairs(a), b, out);
}

/// `[rows, columns]` bf16, of which `fill` writes every element.
fn new_bf16((rows, columns): (usize, usize), fill: impl FnOnce(Out)) -> Result<Tensor> {
    let mut values: Vec<u16> = Vec::with_capacity(rows * columns);
    fill(Out::Bf16(&mut values.spare_capacity_mut()[..rows * columns]));
    // SAFETY: the product has written every element.
    unsafe { values.set_len(rows * columns) };
    Ok(Tensor::from_vec(bytemuck::cast_vec::<u16, bf16>(values), (rows, columns), &Device::Cpu)?)
}

/// `[rows, columns]` f32, of which `fill` writes every element.
fn new_f32((rows, columns): (usize, usize), fill: impl FnOnce(Out)) -> Result<Tensor> {
    let mut values: Vec<f32> = Vec::with_capacity(rows * columns);
    fill(Out::F32(&mut values.spare_capacity_mut()[..rows * columns]));
    // SAFETY: the product has written every element.
    unsafe { values.set_len(rows * columns) };
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}

/// Whether `t` is what these products are for.
pub(in crate::kernels) fn is_cpu_bf16(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::BF16
}

/// Calls `f` with the bits of a bf16 matrix on the CPU, whatever its strides.
fn with_matrix<T>(t: &Tensor, f: impl FnOnce(Matrix<u16>) -> T) -> Result<T> {
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cpu(CpuStorage::BF16(values)) = &*storage else {
        return Err(Error::run("internal error: bf16 on the CPU expected"));
    };
    Ok(f(Matrix::new(bytemuck::cast_slice(values), layout)?))
}

/// `a·b`: `a` `[m, k]`, `b` `[k, n]`, both bf16 on the CPU with any strides → `[m, n]` bf16.
pub(in crate::kernels) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (path, shape) = (Path::chosen()?, (a.dim(0)?, b.dim(1)?));
    with_matrix(a, |a| with_matrix(b, |b| new_bf16(shape, |out| multiply(path, &a, &Right::Plain(b), out))))??
}

/// As [`product`], without rounding: `[m, n]` f32.
pub(in crate::kernels) fn product_f32(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (path, shape) = (Path::chosen()?, (a.dim(0)?, b.dim(1)?));
    with_matrix(a, |a| with_matrix(b, |b| new_f32(shape, |out| multiply(path, &a, &Right::Plain(b), out))))??
}

/// `y + a·b` in place of `y`, bits of bf16, `[m, n]`: the product is rounded, then the sum.
pub(in crate::kernels) fn add_product(
    y: &mut [u16],
    (m, n): (usize, usize),
    a: &Matrix<u16>,
    b: Matrix<u16>,
) -> candle_core::Result<()> {
    if (m, n) != (a.rows, b.columns) || a.columns != b.rows {
        bail!("product: [{m}, {n}] = [{}, {}]·[{}, {}]", a.rows, a.columns, b.rows, b.columns);
    }
    multiply(Path::chosen().map_err(candle_core::Error::wrap)?, a, &Right::Plain(b), Out::AddBf16(y));
    Ok(())
}

impl PackedBf16 {
    /// `x` `[T, in]` bf16 → `x·Wᵀ` `[T, out]` bf16.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_on(Path::chosen()?, x)
    }

    /// `dy` `[T, out]` bf16 → `dy·W` `[T, in]` bf16.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        self.backward_on(Path::chosen()?, dy)
    }

    /// [`Self::forward`] on a path of [`Path::available`].
    pub fn forward_on(&self, path: Path, x: &Tensor) -> Result<Tensor> {
        let shape = (x.dim(0)?, self.shape().0);
        with_matrix(x, |x| new_bf16(shape, |out| multiply(path, &x, &Right::Forward(self), out)))?
    }

    /// [`Self::backward`] on a path of [`Path::available`].
    pub fn backward_on(&self, path: Path, dy: &Tensor) -> Result<Tensor> {
        let shape = (dy.dim(0)?, self.shape().1);
        with_matrix(dy, |dy| new_bf16(shape, |out| multiply(path, &dy, &Right::Backward(self), out)))?
    }

    /// `x` `[T, in]` f32 → `x·Wᵀ` `[T, out]` f32, W widened exactly: for generation.
    ///
    /// A row gives the same bits alone and among others.
    pub fn infer(&self, x: &Tensor) -> Result<Tensor> {
        let vectors = if Path::chosen()? == Path::Plain { Vectors::Plain } else { Vectors::Widest };
        self.infer_on(vectors, x)
    }

    fn infer_on(&self, vectors: Vectors, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let xs = cpu::f32s(&x).ok_or_else(|| Error::run("internal error: f32 on the CPU expected"))?;
        let (rows, depth) = x.dims2()?;
        let x = Matrix::dense(&xs, rows, depth);
        new_f32((rows, self.shape().0), |out| {
            let w = Right::Forward(self);
            match rows <= 2 * FEW {
                true => blocked::multiply(&FloatFew(vectors), &float::left(&x), &w, out),
                false => blocked::multiply(&Float(vectors), &float::left(&x), &w, out),
            }
        })
    }

    /// Rows `ids` of `W`, `[T, in]` bf16. `ids`: `[T]` u32.
    #[expect(clippy::disallowed_methods, reason = "ids on the CPU: no device stops")]
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_vec1::<u32>()?;
        let values = bytemuck::cast_vec::<u16, bf16>(self.gather(&ids)?);
        Ok(Tensor::from_vec(values, (ids.len(), self.shape().1), &Device::Cpu)?)
    }

    /// `W` `[out, in]` bf16, an ordinary tensor.
    pub fn unpack(&self) -> Result<Tensor> {
        Ok(Tensor::from_vec(bytemuck::cast_vec::<u16, bf16>(self.unpacked()), self.shape(), &Device::Cpu)?)
    }
}
