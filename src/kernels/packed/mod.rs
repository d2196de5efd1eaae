//! Products on the CPU's matrix and vector units, and the frozen weights packed for them once, when a model is loaded.
//!
//! Operands are bf16 or f32, every sum is taken in f32 and, for bf16, rounded once. Weights are kept in one packing
//! (`layout`) that serves `x·Wᵀ`, `dy·W`, generation in f32 and the look-up of rows. `blocked` holds the loops; a file for
//! each way to multiply a tile. Which one multiplies bf16 is found when the program runs, and `COUPLET_TRAIN_KERNELS`
//! forces one, to compare results.

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
    kernels::{cpu::Element, matrix::Matrix},
};
use blocked::{Bits, Kernel, Left, Out, Right};
use candle_core::{DType, Device, Layout, Storage, StorageRef, Tensor, bail};
use float::{FEW, Float, FloatFew, Vectors};
use half::bf16;
use std::{mem::MaybeUninit, sync::OnceLock};

pub use layout::{Packable, Packed, PackedBf16, PackedF32};
pub use peak::peak;

/// A way to multiply in bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductPath {
    /// AMX-BF16: tiles of 16x16 sums.
    Amx,
    /// AVX512-BF16: vectors of 16 sums.
    Avx512Bf16,
    /// Multiply-adds in f32, AVX-512, AVX2 or NEON, of weights widened on the way.
    F32,
    /// The same without vectors.
    Plain,
}

/// The variable that forces a path.
const VARIABLE: &str = "COUPLET_TRAIN_KERNELS";

impl ProductPath {
    const ALL: [ProductPath; 4] = [ProductPath::Amx, ProductPath::Avx512Bf16, ProductPath::F32, ProductPath::Plain];

    /// As the environment variable `COUPLET_TRAIN_KERNELS` calls it.
    pub fn name(self) -> &'static str {
        match self {
            ProductPath::Amx => "amx",
            ProductPath::Avx512Bf16 => "avx512-bf16",
            ProductPath::F32 => "f32",
            ProductPath::Plain => "plain",
        }
    }

    /// Those that CPU and operating system have.
    pub fn available() -> Vec<ProductPath> {
        ProductPath::ALL.into_iter().filter(|path| path.is_there()).collect()
    }

    fn is_there(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            ProductPath::Amx => amx::Amx::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            ProductPath::Avx512Bf16 => avx512::Avx512Bf16::new().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            ProductPath::Amx | ProductPath::Avx512Bf16 => false,
            ProductPath::F32 => !matches!(pulp::Arch::new(), pulp::Arch::Scalar),
            ProductPath::Plain => true,
        }
    }

    /// The path of this process: the fastest, or the one that `COUPLET_TRAIN_KERNELS` names.
    ///
    /// Errors: the variable names no path, or one that is not there.
    pub fn chosen() -> Result<ProductPath> {
        static CHOSEN: OnceLock<ProductPath> = OnceLock::new();
        if let Some(path) = CHOSEN.get() {
            return Ok(*path);
        }
        let asked = std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned());
        let path = choose(asked.as_deref(), &ProductPath::available(), peak::fastest)?;
        Ok(*CHOSEN.get_or_init(|| path))
    }
}

/// The path that was asked for, or the `fastest`.
fn choose(
    asked: Option<&str>,
    available: &[ProductPath],
    fastest: impl Fn(&[ProductPath]) -> Option<ProductPath>,
) -> Result<ProductPath> {
    let Some(asked) = asked else {
        // `avx512-bf16` multiplies twice as fast as `f32` on Zen 4 and half as fast on Sapphire Rapids, so CPU and
        // instruction set do not tell. `plain` cannot win.
        let quick = available.iter().copied().filter(|path| *path != ProductPath::Plain);
        return Ok(fastest(&quick.collect::<Vec<_>>()).unwrap_or(ProductPath::Plain));
    };
    let names = |paths: &[ProductPath]| paths.iter().map(|path| path.name()).collect::<Vec<_>>().join(", ");
    let refused = |fact: String| {
        Error::input(format!("{VARIABLE}={asked}: {fact}"))
            .hint(format!("this machine has {}; without the variable the fastest is used", names(available)))
            .hint_zh(format!("本机可用：{}；不设此变量则用最快的", names(available)))
    };
    match ProductPath::ALL.into_iter().find(|path| path.name() == asked) {
        None => Err(refused(format!("one of {} was expected", names(&ProductPath::ALL)))),
        Some(path) if !available.contains(&path) => {
            Err(refused("this CPU or operating system does not have it".into()))
        }
        Some(path) => Ok(path),
    }
}

/// `a·b` into `out` on `path`, which has to be there, for every (b, out).
fn multiply(path: ProductPath, a: &Matrix<u16>, work: Vec<(Right<bf16>, Out)>) {
    let there = "only paths that are there are chosen";
    match path {
        #[cfg(target_arch = "x86_64")]
        ProductPath::Amx => with(&amx::Amx::new().expect(there), a, work),
        #[cfg(target_arch = "x86_64")]
        ProductPath::Avx512Bf16 => with(&avx512::Avx512Bf16::new().expect(there), a, work),
        #[cfg(not(target_arch = "x86_64"))]
        ProductPath::Amx | ProductPath::Avx512Bf16 => unreachable!("{there}"),
        ProductPath::F32 => with(&Float::<bf16>::new(Vectors::Widest), a, work),
        ProductPath::Plain => with(&Float::<bf16>::new(Vectors::Plain), a, work),
    }
}

/// Lays `a` out once.
fn with<K: Kernel>(kernel: &K, a: &Matrix<Bits<K>>, work: Vec<(Right<K::Weight>, Out)>) {
    let a = Left::same(a);
    work.into_iter().for_each(|(b, out)| blocked::multiply(kernel, &a, &b, out));
}

/// The vectors of f32 products.
fn vectors() -> Result<Vectors> {
    Ok(if ProductPath::chosen()? == ProductPath::Plain { Vectors::Plain } else { Vectors::Widest })
}

/// What a product is written as.
trait Written: Element {
    fn out(place: &mut [MaybeUninit<Self>]) -> Out<'_>;
}

impl Written for bf16 {
    fn out(place: &mut [MaybeUninit<Self>]) -> Out<'_> {
        Out::Bf16(place)
    }
}

impl Written for f32 {
    fn out(place: &mut [MaybeUninit<Self>]) -> Out<'_> {
        Out::F32(place)
    }
}

/// `[rows, columns[i]]` each, of which `fill` writes every element.
fn new_all<E: Written>(rows: usize, columns: &[usize], fill: impl FnOnce(Vec<Out>)) -> Result<Vec<Tensor>> {
    let mut values: Vec<Vec<E>> = columns.iter().map(|n| Vec::with_capacity(rows * n)).collect();
    let places = values.iter_mut().zip(columns);
    fill(places.map(|(values, n)| E::out(&mut values.spare_capacity_mut()[..rows * n])).collect());
    let tensor = |(mut values, n): (Vec<E>, &usize)| {
        // SAFETY: the product has written every element.
        unsafe { values.set_len(rows * n) };
        Ok(Tensor::from_vec(values, (rows, *n), &Device::Cpu)?)
    };
    values.into_iter().zip(columns).map(tensor).collect()
}

/// `[rows, columns]`, of which `fill` writes every element.
fn new<E: Written>((rows, columns): (usize, usize), fill: impl FnOnce(Out)) -> Result<Tensor> {
    let mut one = new_all::<E>(rows, &[columns], |mut outs| fill(outs.remove(0)))?;
    Ok(one.remove(0))
}

/// Whether `t` is what these products are for.
pub(in crate::kernels) fn is_cpu_bf16(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::BF16
}

/// The bits of a matrix of `T` on the CPU, whatever its strides.
fn bits<'a, T: Packable>((storage, layout): &'a (StorageRef, &Layout)) -> Result<Matrix<'a, T::Bits>> {
    let Storage::Cpu(storage) = &**storage else {
        return Err(Error::run("internal error: a matrix on the CPU expected"));
    };
    Ok(Matrix::new(bytemuck::cast_slice(storage.as_slice::<T>()?), layout)?)
}

/// What rows are multiplied by.
#[derive(Clone, Copy)]
pub(in crate::kernels) enum Factor<'a, T> {
    /// `Wᵀ`.
    Transposed(&'a Packed<T>),
    /// `W`.
    Frozen(&'a Packed<T>),
    /// Any strides; of `T` on the CPU.
    Matrix(&'a Tensor),
}

/// `x·f` for every factor `f`, `x` `[T, depth]` bf16 on the CPU with any strides → `[T, columns of f]` bf16.
pub(in crate::kernels) fn products_bf16(x: &Tensor, factors: &[Factor<bf16>]) -> Result<Vec<Tensor>> {
    let path = ProductPath::chosen()?;
    products::<bf16>(x, factors, |x, work| multiply(path, x, work))
}

/// As [`products_bf16`], in f32. A row gives the same bits alone and among others.
pub(in crate::kernels) fn products_f32(x: &Tensor, factors: &[Factor<f32>]) -> Result<Vec<Tensor>> {
    let kernel = Float::<f32>::new(vectors()?);
    products::<f32>(x, factors, |x, work| with(&kernel, x, work))
}

fn products<T: Packable + Written>(
    x: &Tensor,
    factors: &[Factor<T>],
    multiply: impl FnOnce(&Matrix<T::Bits>, Vec<(Right<T>, Out)>),
) -> Result<Vec<Tensor>> {
    let tensors = factors.iter().map(|factor| if let Factor::Matrix(b) = factor { Some(*b) } else { None });
    let storages: Vec<_> = tensors.map(|b| b.map(Tensor::storage_and_layout)).collect();
    let rights: Result<Vec<Right<T>>> = factors
        .iter()
        .zip(&storages)
        .map(|(factor, storage)| match (factor, storage) {
            (Factor::Transposed(w), _) => Ok(Right::Forward(w)),
            (Factor::Frozen(w), _) => Ok(Right::Backward(w)),
            (Factor::Matrix(_), Some(storage)) => Ok(Right::Plain(bits::<T>(storage)?)),
            (Factor::Matrix(_), None) => unreachable!("every matrix has its storage"),
        })
        .collect();
    let (rights, x) = (rights?, x.storage_and_layout());
    let x = bits::<T>(&x)?;
    let columns: Vec<usize> = rights.iter().map(Right::columns).collect();
    new_all::<T>(x.rows, &columns, |outs| multiply(&x, rights.into_iter().zip(outs).collect()))
}

/// `y + a·b` in place of `y`, bits of bf16, `[m, n]`: the product is rounded, then the sum.
pub(in crate::kernels) fn add_product(
    y: &mut [u16],
    shape: (usize, usize),
    a: &Matrix<u16>,
    b: Matrix<u16>,
) -> candle_core::Result<()> {
    let path = path_of(shape, a, &b)?;
    multiply(path, a, vec![(Right::Plain(b), Out::AddBf16(y))]);
    Ok(())
}

/// `y + a·b` in place of `y`, `[m, n]` f32, of which nothing is rounded.
pub(in crate::kernels) fn add_product_f32(
    y: &mut [f32],
    shape: (usize, usize),
    a: &Matrix<u16>,
    b: Matrix<u16>,
) -> candle_core::Result<()> {
    let path = path_of(shape, a, &b)?;
    // A tile has a dozen rows and 32 columns: the narrow side of a rank-sized product is the one of rows.
    match shape.1 < shape.0 {
        true => multiply(path, &b.transposed(), vec![(Right::Plain(a.transposed()), Out::AddF32Transposed(y))]),
        false => multiply(path, a, vec![(Right::Plain(b), Out::AddF32(y))]),
    }
    Ok(())
}

/// The path for `a·b`. Errors: it is not `[m, n]`.
fn path_of((m, n): (usize, usize), a: &Matrix<u16>, b: &Matrix<u16>) -> candle_core::Result<ProductPath> {
    if (m, n) != (a.rows, b.columns) || a.columns != b.rows {
        bail!("product: [{m}, {n}] = [{}, {}]·[{}, {}]", a.rows, a.columns, b.rows, b.columns);
    }
    ProductPath::chosen().map_err(candle_core::Error::wrap)
}

impl PackedBf16 {
    /// `x` `[T, in]` bf16 → `x·Wᵀ` `[T, out]` bf16, on a path of [`ProductPath::available`].
    pub fn forward_on(&self, path: ProductPath, x: &Tensor) -> Result<Tensor> {
        let factor = [Factor::Transposed(self)];
        Ok(products::<bf16>(x, &factor, |x, work| multiply(path, x, work))?.remove(0))
    }

    /// `dy` `[T, out]` bf16 → `dy·W` `[T, in]` bf16, on a path of [`ProductPath::available`].
    pub fn backward_on(&self, path: ProductPath, dy: &Tensor) -> Result<Tensor> {
        let factor = [Factor::Frozen(self)];
        Ok(products::<bf16>(dy, &factor, |dy, work| multiply(path, dy, work))?.remove(0))
    }

    /// `x` `[T, in]` f32 → `x·Wᵀ` `[T, out]` f32, W widened exactly: for generation.
    ///
    /// A row gives the same bits alone and among others.
    pub fn infer(&self, x: &Tensor) -> Result<Tensor> {
        self.infer_on(vectors()?, x)
    }

    fn infer_on(&self, vectors: Vectors, x: &Tensor) -> Result<Tensor> {
        let x = x.storage_and_layout();
        let x = bits::<f32>(&x)?;
        new::<f32>((x.rows, self.shape().0), |out| {
            let w = Right::Forward(self);
            match x.rows <= FEW + 1 {
                true => blocked::multiply(&FloatFew(vectors), &float::left(&x), &w, out),
                false => blocked::multiply(&Float::<bf16>::new(vectors), &float::left(&x), &w, out),
            }
        })
    }
}

impl PackedF32 {
    /// `x` `[T, in]` f32 → `x·Wᵀ` `[T, out]` f32. A row gives the same bits alone and among others.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(products_f32(x, &[Factor::Transposed(self)])?.remove(0))
    }

    /// `dy` `[T, out]` f32 → `dy·W` `[T, in]` f32.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        Ok(products_f32(dy, &[Factor::Frozen(self)])?.remove(0))
    }
}

impl<T: Packable> Packed<T> {
    /// Rows `ids` of `W`, `[T, in]`. `ids`: `[T]` u32.
    #[expect(clippy::disallowed_methods, reason = "ids on the CPU: no device stops")]
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_vec1::<u32>()?;
        Ok(Tensor::from_vec(self.gather(&ids)?, (ids.len(), self.shape().1), &Device::Cpu)?)
    }

    /// `W` `[out, in]`, an ordinary tensor.
    pub fn unpack(&self) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.unpacked(), self.shape(), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, wave};
    use blocked::{rounded, widened};

    /// (out, in): around the sides of panels, blocks and vectors, and over several blocks of the depth.
    const WEIGHTS: [(usize, usize); 9] =
        [(1, 1), (2, 31), (31, 2), (33, 63), (63, 33), (65, 64), (40, 65), (96, 1100), (1100, 40)];

    /// Rows: around the heights of tiles.
    const ROWS: [usize; 12] = [1, 2, 3, 5, 7, 13, 15, 17, 31, 33, 64, 70];

    fn bits(shape: (usize, usize), phase: f64) -> Vec<u16> {
        let values = wave(shape, phase, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(rounded).collect()
    }

    fn tensor(bits: &[u16], shape: (usize, usize)) -> Tensor {
        Tensor::from_vec(bytemuck::cast_vec::<u16, bf16>(bits.to_vec()), shape, &Device::Cpu).unwrap()
    }

    fn pack(bits: &[u16], shape: (usize, usize)) -> PackedBf16 {
        let w = tensor(bits, shape);
        PackedBf16::pack(shape, 32, |rows| Ok(w.narrow(0, rows.start, rows.len())?)).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f64> {
        t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `a·b` in f64, and the sum of absolute terms, to which an error of f32 is relative.
    fn slow(a: &Matrix<u16>, b: &Matrix<u16>) -> Vec<(f64, f64)> {
        let f = |x: u16| f64::from(widened(x));
        let element = |row: usize, column: usize| {
            (0..a.columns).fold((0.0, 0.0), |(sum, size), k| {
                let term = f(a.get(row, k)) * f(b.get(k, column));
                (sum + term, size + term.abs())
            })
        };
        (0..a.rows).flat_map(|row| (0..b.columns).map(move |column| element(row, column))).collect()
    }

    /// Each `got` within half a unit of bf16 (2⁻⁸) of `want`, and f32's error of the sum.
    fn assert_rounded(got: &Tensor, want: &[(f64, f64)], what: &str) {
        for (i, (got, (want, size))) in values(got).into_iter().zip(want).enumerate() {
            let allowed = want.abs() / 256.0 + size * 1e-6 + 1e-30;
            assert!((got - want).abs() <= allowed, "{what}, element {i}: got {got}, want {want}");
        }
    }

    type Multiply = Box<dyn Fn(&Matrix<u16>, Vec<(Right<bf16>, Out)>) + Send + Sync>;

    /// Every way to multiply that this machine can run, by name.
    fn ways() -> Vec<(String, Multiply)> {
        let mut ways: Vec<(String, Multiply)> = vec![];
        for path in ProductPath::available() {
            ways.push((path.name().into(), Box::new(move |a, work| multiply(path, a, work))));
        }
        #[cfg(target_arch = "x86_64")]
        ways.push(("a model of amx".into(), Box::new(|a, work| with(&amx::Amx::modelled(), a, work))));
        ways
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "says what could not be tested here")]
    fn every_path_of_this_machine_agrees_with_f64_over_odd_sizes() {
        let missing: Vec<_> =
            ProductPath::ALL.into_iter().filter(|path| !path.is_there()).map(ProductPath::name).collect();
        eprintln!("paths that this machine cannot run, so they are not tested: {missing:?}");
        for (n, k) in WEIGHTS {
            let w = bits((n, k), 1.0);
            let packed = pack(&w, (n, k));
            let w = Matrix::dense(&w, n, k);
            let w_t = Matrix { rows: k, columns: n, row_stride: 1, column_stride: k, ..w };
            for rows in ROWS {
                let (x, dy) = (bits((rows, k), 0.0), bits((rows, n), 2.0));
                let (x, dy) = (Matrix::dense(&x, rows, k), Matrix::dense(&dy, rows, n));
                let (forward, backward) = (slow(&x, &w_t), slow(&dy, &w));
                for (name, multiply) in ways() {
                    let what = format!("{name}, {rows} rows, W [{n}, {k}]");
                    let got = new::<bf16>((rows, n), |out| multiply(&x, vec![(Right::Forward(&packed), out)])).unwrap();
                    assert_rounded(&got, &forward, &format!("forward on {what}"));
                    let got =
                        new::<bf16>((rows, k), |out| multiply(&dy, vec![(Right::Backward(&packed), out)])).unwrap();
                    assert_rounded(&got, &backward, &format!("backward on {what}"));
                }
            }
        }
    }

    #[test]
    fn ordinary_matrices_of_any_strides_multiply_round_and_add() {
        for (m, k, n) in [(1, 1, 1), (5, 3, 33), (8, 70, 40), (40, 8, 70), (70, 33, 16), (17, 64, 65)] {
            let (a, b, y) = (bits((m, k), 0.0), bits((k, n), 1.0), bits((m, n), 2.0));
            let a_t: Vec<u16> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let b_t: Vec<u16> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
            let (a, b) = (Matrix::dense(&a, m, k), Matrix::dense(&b, k, n));
            let want = slow(&a, &b);
            let as_ = [a, Matrix { row_stride: 1, column_stride: m, values: &a_t, ..a }];
            let bs = [b, Matrix { row_stride: 1, column_stride: k, values: &b_t, ..b }];
            for (name, multiply) in ways() {
                let what = format!("{name}, [{m}, {k}]·[{k}, {n}]");
                for (a, b) in as_.iter().flat_map(|a| bs.iter().map(move |b| (a, b))) {
                    let product = new::<bf16>((m, n), |out| multiply(a, vec![(Right::Plain(*b), out)])).unwrap();
                    assert_rounded(&product, &want, &what);
                    let exact = new::<f32>((m, n), |out| multiply(a, vec![(Right::Plain(*b), out)])).unwrap();
                    for (got, (want, size)) in values(&exact).into_iter().zip(&want) {
                        assert!((got - want).abs() <= size * 1e-6, "{what} in f32: got {got}, want {want}");
                    }
                    let mut sum = y.clone();
                    multiply(a, vec![(Right::Plain(*b), Out::AddBf16(&mut sum))]);
                    let base = values(&exact).into_iter().map(|x| x as f32);
                    let mut sums = vec![0.5f32; m * n];
                    multiply(a, vec![(Right::Plain(*b), Out::AddF32(&mut sums))]);
                    assert_eq!(sums, base.clone().map(|x| 0.5 + x).collect::<Vec<_>>(), "{what}: added");
                    let mut sums = vec![0.5f32; m * n];
                    multiply(a, vec![(Right::Plain(*b), Out::AddF32Transposed(&mut sums))]);
                    let turned: Vec<f32> = (0..m * n).map(|i| sums[i % n * m + i / n]).collect();
                    assert_eq!(turned, base.map(|x| 0.5 + x).collect::<Vec<_>>(), "{what}: added by columns");
                    for ((got, y), product) in sum.iter().zip(&y).zip(values(&product)) {
                        assert_eq!(*got, rounded(widened(*y) + product as f32), "{what}: the rounded sum");
                    }
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (n, k, rows) = (333, 2100, 70);
        let (w, x, dy) = (bits((n, k), 1.0), bits((rows, k), 0.0), bits((rows, n), 2.0));
        let packed = pack(&w, (n, k));
        for (_, multiply) in ways() {
            let both = || {
                let x = Matrix::dense(&x, rows, k);
                let y = new::<f32>((rows, n), |out| multiply(&x, vec![(Right::Forward(&packed), out)])).unwrap();
                let dy = Matrix::dense(&dy, rows, n);
                (y, new::<f32>((rows, k), |out| multiply(&dy, vec![(Right::Backward(&packed), out)])).unwrap())
            };
            let want = both();
            for threads in [1, 2, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let got = pool.install(both);
                assert_close(&got.0, &want.0, 0.0);
                assert_close(&got.1, &want.1, 0.0);
            }
        }
    }

    #[test]
    fn a_row_of_generation_gives_the_same_bits_alone_and_among_others() {
        for (n, k) in WEIGHTS {
            let packed = pack(&bits((n, k), 1.0), (n, k));
            let wide = packed.unpack().unwrap().to_dtype(DType::F32).unwrap();
            for vectors in [Vectors::Widest, Vectors::Plain] {
                let x = wave((23, k), 0.3, &Device::Cpu).unwrap();
                let all = packed.infer_on(vectors, &x).unwrap();
                assert_close(&all, &x.matmul(&wide.t().unwrap()).unwrap(), 1e-5 * (k as f64).sqrt());
                for (start, len) in [(0, 1), (22, 1), (3, 2), (7, 3), (11, 5), (2, 7), (0, 22)] {
                    let some = packed.infer_on(vectors, &x.narrow(0, start, len).unwrap()).unwrap();
                    assert_close(&some, &all.narrow(0, start, len).unwrap(), 0.0);
                }
            }
        }
    }

    #[test]
    fn f32_agrees_with_f64_over_odd_sizes_whatever_rows_and_threads_are_beside() {
        for (n, k) in WEIGHTS {
            let w = wave((n, k), 1.0, &Device::Cpu).unwrap();
            let packed = PackedF32::pack((n, k), 32, |rows| Ok(w.narrow(0, rows.start, rows.len())?)).unwrap();
            let wide = w.to_dtype(DType::F64).unwrap();
            for rows in ROWS {
                let (x, dy) =
                    (wave((rows, k), 0.0, &Device::Cpu).unwrap(), wave((rows, n), 2.0, &Device::Cpu).unwrap());
                for vectors in [Vectors::Widest, Vectors::Plain] {
                    let kernel = Float::<f32>::new(vectors);
                    let one = |a: &Tensor, factor| {
                        products::<f32>(a, &[factor], |a, work| with(&kernel, a, work)).unwrap().remove(0)
                    };
                    let both = |x: &Tensor, dy: &Tensor| {
                        (one(x, Factor::Transposed(&packed)), one(dy, Factor::Frozen(&packed)))
                    };
                    let (y, dx) = both(&x, &dy);
                    let f64s = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
                    assert_close(&y, &f64s(&x).matmul(&wide.t().unwrap()).unwrap(), 1e-6 * (k as f64).sqrt());
                    assert_close(&dx, &f64s(&dy).matmul(&wide).unwrap(), 1e-6 * (n as f64).sqrt());
                    let one = |t: &Tensor| t.narrow(0, rows - 1, 1).unwrap();
                    let (y_one, dx_one) = both(&one(&x), &one(&dy));
                    assert_close(&y_one, &one(&y), 0.0);
                    assert_close(&dx_one, &one(&dx), 0.0);
                    let strided = |t: &Tensor| t.t().unwrap().contiguous().unwrap().t().unwrap();
                    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
                    let (y_alone, dx_alone) = alone.install(|| both(&strided(&x), &strided(&dy)));
                    assert_close(&y_alone, &y, 0.0);
                    assert_close(&dx_alone, &dx, 0.0);
                }
            }
        }
    }

    #[test]
    fn what_is_packed_unpacks_and_gives_its_rows() {
        fn case<T: Packable>((n, k): (usize, usize)) {
            let w = wave((n, k), 1.0, &Device::Cpu).unwrap().to_dtype(T::DTYPE).unwrap();
            let packed = Packed::<T>::pack((n, k), 32, |rows| Ok(w.narrow(0, rows.start, rows.len())?)).unwrap();
            assert_eq!(packed.shape(), (n, k));
            assert_close(&packed.unpack().unwrap(), &w, 0.0);
            let ids = Tensor::new(&[n as u32 - 1, 0, n as u32 / 2], &Device::Cpu).unwrap();
            assert_close(&packed.rows(&ids).unwrap(), &w.index_select(&ids, 0).unwrap(), 0.0);
            assert!(packed.gather(&[n as u32]).is_err());
            assert!(Packed::<T>::pack((n, k + 1), 32, |_| Ok(w.clone())).is_err());
        }
        for shape in WEIGHTS {
            case::<bf16>(shape);
            case::<f32>(shape);
        }
    }

    #[test]
    fn blocks_are_turned_the_same_way_by_all() {
        fn case<T: Packable>() {
            let block: Vec<u32> = (0..T::BLOCK as u32).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect();
            let value = |words: &[u32], row: usize, column: usize| {
                let mut values = [T::zeroed(); 2];
                T::take(words[row / T::PER_WORD * 32 + column], &mut values[..T::PER_WORD]);
                bytemuck::bytes_of(&values[row % T::PER_WORD]).to_vec()
            };
            let mut turned = vec![0; T::BLOCK];
            T::turn(&block, &mut turned);
            for (j, i) in (0..32).flat_map(|j| (0..32).map(move |i| (j, i))) {
                assert_eq!(value(&turned, j, i), value(&block, i, j), "input {i}, output {j}");
            }
            let plain = if T::PER_WORD == 2 { layout::turn_pairs } else { layout::turn_words };
            let mut slow = vec![0; T::BLOCK];
            plain(&block, &mut slow);
            assert_eq!(turned, slow);
        }
        case::<bf16>();
        case::<f32>();
    }

    #[test]
    fn the_fastest_path_is_taken_and_another_forced_by_name_or_refused() {
        let here = [ProductPath::Avx512Bf16, ProductPath::F32, ProductPath::Plain];
        let last = |paths: &[ProductPath]| paths.last().copied();
        assert_eq!(choose(None, &here, last).unwrap(), ProductPath::F32, "plain does not take part");
        assert_eq!(choose(None, &here, |paths| paths.first().copied()).unwrap(), ProductPath::Avx512Bf16);
        assert_eq!(choose(None, &[ProductPath::Plain], last).unwrap(), ProductPath::Plain, "where nothing else is");
        assert_eq!(choose(Some("plain"), &here, |_| unreachable!("forced")).unwrap(), ProductPath::Plain);
        for (asked, want) in [
            ("amx", "COUPLET_TRAIN_KERNELS=amx: this CPU or operating system does not have it"),
            ("", "COUPLET_TRAIN_KERNELS=: one of amx, avx512-bf16, f32, plain was expected"),
            ("AVX2", "COUPLET_TRAIN_KERNELS=AVX2: one of amx, avx512-bf16, f32, plain was expected"),
        ] {
            assert_eq!(choose(Some(asked), &here, last).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_and_keeps_what_is_not_a_number() {
        let mut x = 1u32;
        for _ in 0..20_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(x);
            let want = bf16::from_f32(value);
            assert_eq!(rounded(value), want.to_bits(), "{value}");
        }
        for value in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE / 4.0] {
            assert_eq!(rounded(value), bf16::from_f32(value).to_bits(), "{value}");
        }
    }
}
