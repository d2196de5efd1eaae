//! `B·A` of one adapter, summed in the order of the rank: the bits that a BLAS gives for such small inner dimensions.
//!
//! A merged model is compared with other programs' to the last bit, so this product must not depend on how a kernel for
//! large products groups its sums.

use super::cpu::for_rows;

/// `b` `[n, r]` and `a` `[r, width]`, row-major → `[n, width]`. Every value is r fused multiply-adds, from the first on.
///
/// Panics when the lengths do not fit.
pub fn ordered_product(b: &[f32], a: &[f32], rank: usize) -> Vec<f32> {
    let (rows, width) = (b.len() / rank, a.len() / rank);
    assert_eq!((rows * rank, width * rank), (b.len(), a.len()), "rank {rank}");
    let mut out = vec![0f32; rows * width];
    for_rows(&mut out, width, |row, out| {
        for (factor, a) in b[row * rank..][..rank].iter().zip(a.chunks_exact(width)) {
            out.iter_mut().zip(a).for_each(|(out, a)| *out = factor.mul_add(*a, *out));
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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
