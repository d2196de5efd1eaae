//! Small dense products in registers, on one thread: what a few rows of scores, and everything made of them, cost.
//!
//! A right operand lies in panels of [`panel`] columns, so that its vectors are whole whatever the sizes are. Every element
//! of a product is one chain of multiply-adds over `k` from the first on: its bits depend on no tile.

use crate::kernels::cpu::Element;
use pulp::Simd;
use std::ops::Range;

/// Columns of a panel.
pub(super) const fn panel<S: Simd>() -> usize {
    2 * S::F32_LANES
}

/// Rows of a tile: two vectors each, with two of the right operand and one of the left, are what AVX2's sixteen registers hold.
pub(super) const ROWS: usize = 6;

/// An `[m, k]` operand: element (i, p) lies at `i·row + p·column`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// A `[k, n]` operand in panels: their row p lies at `p·row` behind the panel's start, panels are `panel` apart.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) panel: usize,
}

/// `c = a·b`, or with `add` `c += a·b`, over `m` rows of `c` (`c_row` apart) and `n` columns, whole panels.
#[inline(always)]
pub(super) fn product<S: Simd>(
    simd: S,
    (m, k, n): (usize, usize, usize),
    a: Left,
    b: Right,
    c: &mut [f32],
    c_row: usize,
    add: bool,
) {
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * a.row + (k - 1) * a.column < a.values.len(), "the left operand is too short");
    for (i, at) in (0..n).step_by(panel::<S>()).enumerate() {
        let b = Right { values: &b.values[i * b.panel..], ..b };
        let mut row = 0;
        while row < m {
            let a = Left { values: &a.values[row * a.row..], ..a };
            let c = &mut c[row * c_row + at..];
            row += match m - row {
                1 => tile::<S, 1>(simd, k, a, b, c, c_row, add),
                2 | 3 => tile::<S, 2>(simd, k, a, b, c, c_row, add),
                4 | 5 => tile::<S, 4>(simd, k, a, b, c, c_row, add),
                _ => tile::<S, ROWS>(simd, k, a, b, c, c_row, add),
            };
        }
    }
}

/// M rows of one panel. Returns M.
#[inline(always)]
fn tile<S: Simd, const M: usize>(
    simd: S,
    k: usize,
    a: Left,
    b: Right,
    c: &mut [f32],
    c_row: usize,
    add: bool,
) -> usize {
    let mut sums = [[simd.splat_f32s(0.0); 2]; M];
    for p in 0..k {
        let b = vectors::<S>(&b.values[p * b.row..]);
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `product` has checked the last element of the last row, and this one lies no further.
            let x = simd.splat_f32s(unsafe { *a.values.get_unchecked(i * a.row + p * a.column) });
            *sums = [simd.mul_add_e_f32s(x, b[0], sums[0]), simd.mul_add_e_f32s(x, b[1], sums[1])];
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let c = S::as_mut_simd_f32s(&mut c[i * c_row..][..panel::<S>()]).0;
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = if add { simd.add_f32s(*c, sum) } else { sum };
        }
    }
    M
}

/// The first panel row of `values`.
#[inline(always)]
fn vectors<S: Simd>(values: &[f32]) -> [S::f32s; 2] {
    let vectors = S::as_simd_f32s(&values[..panel::<S>()]).0;
    [vectors[0], vectors[1]]
}

/// Keys or values of one head, widened: rows of `width` features that are the `k` or the `n` of a product.
pub(super) struct Packed {
    values: Vec<f32>,
    /// Row n lies at `n / panel · panel_stride + n % panel · row`, its features `feature` apart.
    shape: Shape,
}

struct Shape {
    panel: usize,
    panel_stride: usize,
    row: usize,
    feature: usize,
    right_row: usize,
    right_panel: usize,
}

impl Packed {
    /// Rows are `k`, features `n`: `p·V`.
    pub(super) fn rows<S: Simd>(rows: usize, width: usize) -> Self {
        let (panel, padded) = (panel::<S>(), width.next_multiple_of(panel::<S>()));
        let shape = Shape {
            panel,
            panel_stride: panel * padded,
            row: padded,
            feature: 1,
            right_row: padded,
            right_panel: panel,
        };
        Self { values: vec![0.0; rows.next_multiple_of(panel) * padded], shape }
    }

    /// Rows are `n`, features `k`: `q·Kᵀ`.
    pub(super) fn columns<S: Simd>(rows: usize, width: usize) -> Self {
        let panel = panel::<S>();
        let stride = panel * width;
        let shape =
            Shape { panel, panel_stride: stride, row: 1, feature: panel, right_row: panel, right_panel: stride };
        Self { values: vec![0.0; rows.next_multiple_of(panel) * width], shape }
    }

    /// Puts `rows` from row `at` on.
    #[inline(always)]
    pub(super) fn put<'a, T: Element>(&mut self, at: usize, rows: impl Iterator<Item = &'a [T]>) {
        let Shape { panel, panel_stride, row, feature, .. } = self.shape;
        for (n, values) in (at..).zip(rows) {
            let out = &mut self.values[n / panel * panel_stride + n % panel * row..];
            if feature == 1 {
                out.iter_mut().zip(values).for_each(|(out, x)| *out = x.widen());
            } else {
                out.iter_mut().step_by(feature).zip(values).for_each(|(out, x)| *out = x.widen());
            }
        }
    }

    /// Zeros in the rows of `range`.
    #[inline(always)]
    pub(super) fn clear(&mut self, range: Range<usize>, width: usize) {
        let Shape { panel, panel_stride, row, feature, .. } = self.shape;
        for n in range {
            let out = &mut self.values[n / panel * panel_stride + n % panel * row..];
            out.iter_mut().step_by(feature).take(width).for_each(|out| *out = 0.0);
        }
    }

    pub(super) fn right(&self) -> Right<'_> {
        Right { values: &self.values, row: self.shape.right_row, panel: self.shape.right_panel }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, WithSimd};

    /// One product over odd sizes in both packings, alone and added, and with the left operand transposed.
    struct Case {
        m: usize,
        k: usize,
        n: usize,
    }

    impl WithSimd for Case {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let Case { m, k, n } = self;
            let wave = |n: usize, phase: f32| (0..n).map(|i| (phase + 1.3 * i as f32).sin()).collect::<Vec<_>>();
            let (a, b, start) = (wave(m * k, 0.1), wave(k * n, 0.7), wave(m * n, 2.0));
            let transposed: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let (mut rows, mut columns) = (Packed::rows::<S>(k, n), Packed::columns::<S>(n, k));
            rows.put(0, b.chunks(n));
            let b_t: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            columns.put(0, b_t.chunks(k));
            let padded = n.next_multiple_of(panel::<S>());
            let lefts = [Left { values: &a, row: k, column: 1 }, Left { values: &transposed, row: 1, column: m }];
            for (left, right) in lefts.into_iter().flat_map(|left| [(left, rows.right()), (left, columns.right())]) {
                for add in [false, true] {
                    let mut c = vec![0f32; m * padded];
                    c.chunks_mut(padded).zip(start.chunks(n)).for_each(|(c, s)| c[..n].copy_from_slice(s));
                    product(simd, (m, k, padded), left, right, &mut c, padded, add);
                    for (i, start) in start.iter().enumerate() {
                        let (row, column) = (i / n, i % n);
                        let sum: f64 = (0..k).map(|p| f64::from(a[row * k + p]) * f64::from(b[p * n + column])).sum();
                        let want = if add { f64::from(*start) + sum } else { sum };
                        let got = f64::from(c[row * padded + column]);
                        assert!(
                            (got - want).abs() < 1e-5,
                            "[{m}, {k}]·[{k}, {n}], add {add}, ({row}, {column}): {got} {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_agree_with_f64_over_odd_sizes() {
        for (m, k, n) in [(1, 1, 1), (2, 3, 5), (3, 64, 17), (5, 7, 33), (6, 16, 16), (13, 40, 31), (24, 65, 64)] {
            Arch::new().dispatch(Case { m, k, n });
            pulp::Scalar.vectorize(Case { m, k, n });
        }
    }
}
