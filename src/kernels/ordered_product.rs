//! What merging an adapter computes, with the sums in the order of other programs: `B·A` in the order of the rank, which a BLAS has
//! for such small inner dimensions, and the length of a row in the eight sums that PyTorch's CPU kernel has.
//!
//! A merged model is compared with other programs' to the last bit, so neither must depend on how a kernel for large products
//! groups its sums, or on the vectors of the CPU.

use super::cpu::for_rows;
use pulp::{Arch, Simd, WithSimd};

/// `b` `[n, r]` and `a` `[r, width]`, row-major → `[n, width]`. Every value is r fused multiply-adds, from the first on.
///
/// Panics when the lengths do not fit.
pub fn ordered_product(b: &[f32], a: &[f32], rank: usize) -> Vec<f32> {
    let (rows, width) = (b.len() / rank, a.len() / rank);
    assert_eq!((rows * rank, width * rank), (b.len(), a.len()), "rank {rank}");
    let mut out = vec![0f32; rows * width];
    for_rows(&mut out, width, |row, out| Arch::new().dispatch(Row { b: &b[row * rank..][..rank], a, out }));
    out
}

/// One row: `b` `[r]`, `a` `[r, width]`, `out` `[width]`, zero. A closure with `mul_add` would call a function for every value.
struct Row<'a> {
    b: &'a [f32],
    a: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (&factor, a) in self.b.iter().zip(self.a.chunks_exact(self.out.len())) {
            let ((xs, last_xs), (outs, last_outs)) = (S::as_simd_f32s(a), S::as_mut_simd_f32s(self.out));
            for (out, x) in outs.iter_mut().zip(xs) {
                *out = simd.mul_add_f32s(simd.splat_f32s(factor), *x, *out);
            }
            for (out, x) in last_outs.iter_mut().zip(last_xs) {
                *out = factor.mul_add(*x, *out);
            }
        }
    }
}

/// ‖row‖ in f32: of every eighth value a sum of squares, these added from the first on, then the squares of what is left over, each in
/// one rounding with its addition.
pub fn ordered_norm(row: &[f32]) -> f32 {
    let (chunks, tail) = row.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x * x);
    }
    let [first, rest @ ..] = sums;
    let whole = rest.into_iter().fold(first, |sum, x| sum + x);
    tail.iter().fold(whole, |sum, x| x.mul_add(*x, sum)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torch.linalg.norm (PyTorch 2.11.0, on a CPU) gives these bits, all but the first of them not the nearest to the exact length.
    #[test]
    fn a_row_is_as_long_as_pytorch_says() {
        for (width, x, bits) in [
            (1, 0.3, 0x3e99_999a),
            (7, 0.021, 0x3fb7_cf13),
            (8, 0.3, 0x41e0_c810),
            (33, 0.3, 0x42b8_cd8c),
            (300, 0.3, 0x4392_78ea),
            (1024, 0.1, 0x4336_1e95),
            (5120, 0.3, 0x4498_785c),
        ] {
            let row: Vec<f32> = (1..=width).map(|i: u32| (i * i % 97) as f32 * x).collect();
            assert_eq!(ordered_norm(&row).to_bits(), bits, "{width} values");
        }
    }

    #[test]
    fn every_sum_is_in_the_order_of_the_rank() {
        for (rows, rank, width) in [(1, 1, 1), (3, 2, 5), (7, 16, 33), (2, 5, 64)] {
            let wave = |n: usize, phase: f32| (0..n).map(|i| (phase + 1.3 * i as f32).sin()).collect::<Vec<_>>();
            let (b, a) = (wave(rows * rank, 0.1), wave(rank * width, 0.7));
            let got = ordered_product(&b, &a, rank);
            for row in 0..rows {
                for column in 0..width {
                    let term = |sum: f32, k: usize| b[row * rank + k].mul_add(a[k * width + column], sum);
                    assert_eq!(got[row * width + column], (0..rank).fold(0.0, term), "{row}, {column}");
                }
            }
        }
    }
}
