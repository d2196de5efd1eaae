//! Products of a few rows with an f32 matrix as it is stored: A of an adapter in generation.
//!
//! A step of generation multiplies one row (or a few), so it is as fast as memory. A GEMM packs its operands first, which
//! reads and writes them once more. Here every value is read once. (Frozen weights are packed already: `packed`.)
//!
//! A sum runs over `k` in an order that depends on nothing but the CPU's vector width. So a row gives the same bits alone
//! and among others, and a text does not depend on the batch it is generated in.

use super::{cpu, product};
use crate::error::Result;
use candle_core::{Device, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of weights a task should read at least; below it the hand-over costs more than the work.
const GRAIN: usize = 128 * 1024;

/// Up to so many rows of `x` stay in the cache while the weights pass by.
const FEW: usize = 16;

/// `x` `[T, k]`, `w` `[n, k]` → `x·Wᵀ` `[T, n]` in the dtype of `x`.
///
/// On the CPU both are f32; elsewhere both have one dtype and candle multiplies.
pub fn row_product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (rows, k) = x.dims2()?;
    let n = w.dim(0)?;
    match (cpu::f32s(x), cpu::f32s(w)) {
        (Some(xs), Some(ws)) if w.dim(1)? == k => {
            Ok(Tensor::from_vec(multiply(&xs, &ws, (rows, k, n)), (rows, n), &Device::Cpu)?)
        }
        _ => product(x, &w.t()?),
    }
}

/// `y + xa·Bᵀ`, the second half of a low-rank update: `y` `[T, n]`, `xa` `[T, r]`, `b_t` = Bᵀ `[r, n]`.
pub fn add_low_rank(y: Tensor, xa: &Tensor, b_t: &Tensor) -> Result<Tensor> {
    let (Some(ys), Some(xas), Some(bs)) = (cpu::f32s(&y), cpu::f32s(xa), cpu::f32s(b_t)) else {
        return Ok((&y + xa.matmul(b_t)?)?);
    };
    let (rank, n) = b_t.dims2()?;
    let mut out = ys.to_vec();
    cpu::for_rows(&mut out, n, |t, out| {
        for (xa, b) in xas[t * rank..][..rank].iter().zip(bs.chunks_exact(n)) {
            cpu::axpy(*xa, b, out);
        }
    });
    Ok(Tensor::from_vec(out, y.shape(), &Device::Cpu)?)
}

fn multiply(x: &[f32], w: &[f32], (rows, k, n): (usize, usize, usize)) -> Vec<f32> {
    let mut out = vec![0f32; rows * n];
    let columns = (GRAIN / (k * size_of::<f32>()).max(1)).max(1).next_multiple_of(2);
    // One task owns `columns` columns of every row.
    let mut tasks: Vec<Vec<&mut [f32]>> = (0..n.div_ceil(columns)).map(|_| Vec::with_capacity(rows)).collect();
    for row in out.chunks_mut(n) {
        row.chunks_mut(columns).zip(&mut tasks).for_each(|(part, task)| task.push(part));
    }
    tasks.into_par_iter().zip(w.par_chunks((columns * k).max(1))).for_each(|(out, w)| {
        Arch::new().dispatch(Task { x, w, out, k });
    });
    out
}

/// Some columns of the product.
struct Task<'a> {
    x: &'a [f32],
    w: &'a [f32],
    out: Vec<&'a mut [f32]>,
    k: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (rows, columns) = (self.out.len(), self.w.len() / self.k);
        // No closures here: the vector instructions of this function do not reach into them.
        match rows {
            // One weight row after the other: a single stream, which the hardware fetches ahead best.
            1 => {
                for j in 0..columns {
                    self.column::<S, 1>(simd, j, 0..1);
                }
            }
            2..=FEW => {
                for j in (0..columns).step_by(2) {
                    self.fetch(j + 2);
                    self.pair(simd, j, 0..rows);
                }
            }
            // Many rows: the task's weights stay in the cache and the rows pass by, three at a time.
            _ => {
                for t in (0..rows).step_by(3) {
                    for j in (0..columns).step_by(2) {
                        self.pair(simd, j, t..rows.min(t + 3));
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    /// Asks for the weights of columns `j` and `j + 1`, which are needed when those before them are done.
    #[inline(always)]
    fn fetch(&self, j: usize) {
        let start = (j * self.k).min(self.w.len());
        let end = (start + 2 * self.k).min(self.w.len());
        self.w[start..end].iter().step_by(64 / size_of::<f32>()).for_each(fetch_line);
    }

    /// Columns `j` and, where there is one, `j + 1`.
    #[inline(always)]
    fn pair<S: Simd>(&mut self, simd: S, j: usize, rows: Range<usize>) {
        match (j + 1) * self.k < self.w.len() {
            true => self.column::<S, 2>(simd, j, rows),
            false => self.column::<S, 1>(simd, j, rows),
        }
    }

    /// Columns `j..j + N` of some rows, three rows at a time: their sums and two weights are what AVX2's sixteen registers hold.
    #[inline(always)]
    fn column<S: Simd, const N: usize>(&mut self, simd: S, j: usize, rows: Range<usize>) {
        let mut t = rows.start;
        while t < rows.end {
            t += match rows.end - t {
                1 => self.tile::<S, 1, N>(simd, t, j),
                2 => self.tile::<S, 2, N>(simd, t, j),
                _ => self.tile::<S, 3, N>(simd, t, j),
            };
        }
    }

    /// M rows times N columns, each weight loaded once for all rows. Returns M.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, t: usize, j: usize) -> usize {
        let x: [&[f32]; M] = std::array::from_fn(|m| &self.x[(t + m) * self.k..][..self.k]);
        let w: [&[f32]; N] = std::array::from_fn(|n| &self.w[(j + n) * self.k..][..self.k]);
        let steps = self.k / (2 * S::F32_LANES);
        let xs: [&[[S::f32s; 2]]; M] = x.map(|x| &S::as_simd_f32s(x).0.as_chunks().0[..steps]);
        let ws: [&[[S::f32s; 2]]; N] = w.map(|w| &S::as_simd_f32s(w).0.as_chunks().0[..steps]);
        let mut sums = [[[simd.splat_f32s(0.0); 2]; M]; N];
        for step in 0..steps {
            for n in 0..N {
                let [w0, w1] = ws[n][step];
                for m in 0..M {
                    let [x0, x1] = xs[m][step];
                    let [s0, s1] = sums[n][m];
                    sums[n][m] = [simd.mul_add_e_f32s(w0, x0, s0), simd.mul_add_e_f32s(w1, x1, s1)];
                }
            }
        }
        let done = 2 * S::F32_LANES * steps;
        for n in 0..N {
            for m in 0..M {
                let [s0, s1] = sums[n][m];
                let tail: f32 = w[n][done..].iter().zip(&x[m][done..]).map(|(w, x)| w * x).sum();
                self.out[t + m][j + n] = simd.reduce_sum_f32s(simd.add_f32s(s0, s1)) + tail;
            }
        }
        M
    }
}

/// Asks the memory for the cache line of `value`.
#[inline(always)]
fn fetch_line<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing; any address is allowed, and this one belongs to a live value.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, wave};

    const SHAPES: [(usize, usize, usize); 7] =
        [(1, 64, 4), (1, 1024, 300), (3, 130, 7), (4, 2, 1), (16, 96, 33), (5, 31, 5), (150, 72, 9)];

    #[test]
    fn agrees_with_candle() -> Result<()> {
        for device in devices() {
            for (rows, k, n) in SHAPES {
                let (x, w) = (wave((rows, k), 0.0, &device)?, wave((n, k), 1.0, &device)?);
                assert_close(&row_product(&x, &w)?, &x.matmul(&w.t()?)?, 1e-5 * (k as f64).sqrt());
                let strided = w.t()?.contiguous()?.t()?;
                assert_close(&row_product(&x, &strided)?, &x.matmul(&w.t()?)?, 1e-5 * (k as f64).sqrt());
            }
        }
        Ok(())
    }

    #[test]
    fn a_row_gives_the_same_bits_alone_and_among_others() -> Result<()> {
        for (rows, k, n) in SHAPES {
            let (x, w) = (wave((rows, k), 0.0, &Device::Cpu)?, wave((n, k), 1.0, &Device::Cpu)?);
            let all = row_product(&x, &w)?;
            for t in 0..rows {
                assert_close(&row_product(&x.narrow(0, t, 1)?, &w)?, &all.narrow(0, t, 1)?, 0.0);
            }
        }
        Ok(())
    }

    #[test]
    fn a_low_rank_update_is_added() -> Result<()> {
        for device in devices() {
            for (rows, rank, n) in [(1, 1, 1), (3, 8, 130), (2, 5, 33)] {
                let (y, xa) = (wave((rows, n), 0.0, &device)?, wave((rows, rank), 1.0, &device)?);
                let b_t = wave((rank, n), 2.0, &device)?;
                assert_close(&add_low_rank(y.clone(), &xa, &b_t)?, &(y + xa.matmul(&b_t)?)?, 1e-6);
            }
        }
        Ok(())
    }
}
