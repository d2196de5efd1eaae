//! The largest singular values of a matrix and their vectors, by subspace iteration.
//!
//! [`Effort::Rounds`] is the randomised method of Halko, Martinsson and Tropp (2011, algorithms 4.4 and 5.1) with as many vectors
//! as are wanted: what PyTorch's `svd_lowrank(w, q=rank, niter=rounds)` does, from other random numbers. [`Effort::Converged`]
//! goes on until nothing is left to gain, with spare vectors and Chebyshev polynomials of WᵀW between two rounds.
//!
//! On the CPU; rounds multiply in f32, as PyTorch does, exact values in f64, and everything small is in f64. No sum depends on the
//! number of threads. Vectors are rows here; `p` of them are carried along.

use super::product;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// So many rounds of products with W and Wᵀ, and no more.
    Rounds(usize),
    /// Until `W·v` is `σ·u` to eleven digits: f32 cannot tell the result from that of a full decomposition.
    Converged,
}

/// Triplets from the largest value on: `W ≈ Σ values[j]·left[j]ᵀ·right[j]`.
pub struct Singular {
    /// σ, `r` of them.
    pub values: Vec<f64>,
    /// `[r, out]`, unit rows; zero where σ is.
    pub left: Tensor,
    /// `[r, in]`, the same.
    pub right: Tensor,
}

/// ‖W·v − σ·u‖ over the largest σ, at most.
const TOLERANCE: f64 = 1e-11;
/// Spare vectors, at least: the more, the fewer rounds.
const SPARE: usize = 16;
/// Rounds of polynomials, at most.
const MOST_ROUNDS: usize = 1000;
/// How much a polynomial may raise the largest direction over the smallest, so that rounding does not swallow the latter.
const GROWTH: f64 = 1e7;
/// Degree of a polynomial, at most.
const DEGREE: usize = 24;
/// Sweeps of rotations over all pairs of rows, at most; about ten are usual.
const MOST_SWEEPS: usize = 60;

/// The `rank` largest singular triplets of `w` `[out, in]`, from a start of `random(0), random(1), …`.
///
/// Errors: `w` has fewer values; it is not finite; they do not converge.
pub fn largest(w: &Tensor, rank: usize, effort: Effort, random: &dyn Fn(u64) -> f64) -> Result<Singular> {
    let w = w.to_dtype(if effort == Effort::Converged { DType::F64 } else { DType::F32 })?;
    let (out, width) = w.dims2()?;
    if rank > out.min(width) {
        return Err(Error::run(format!("internal error: {rank} singular values of a matrix [{out}, {width}]")));
    }
    if out >= width {
        return tall(&w, rank, effort, random);
    }
    let Singular { values, left, right } = tall(&w.t()?, rank, effort, random)?;
    Ok(Singular { values, left: right, right: left })
}

/// [`largest`] of `a` `[m, n]` with m ≥ n.
fn tall(a: &Tensor, rank: usize, effort: Effort, random: &dyn Fn(u64) -> f64) -> Result<Singular> {
    let (a_t, n) = (a.t()?, a.dim(1)?);
    let (p, rounds) = match effort {
        Effort::Rounds(rounds) => (rank, rounds),
        Effort::Converged => ((rank + rank.max(SPARE)).min(n), 2),
    };
    let start: Vec<f64> = (0..(p * n) as u64).map(random).collect();
    let start = Tensor::from_vec(start, (p, n), &Device::Cpu)?;
    let mut q = orthonormal(&product(&start.to_dtype(a.dtype())?, &a_t)?)?.0;
    for _ in 0..rounds {
        let z = orthonormal(&product(&q, a)?)?.0;
        q = orthonormal(&product(&z, &a_t)?)?.0;
    }
    if effort != Effort::Converged {
        return within(a, &q);
    }
    for _ in 0..MOST_ROUNDS {
        let found = within(a, &q)?;
        let image = product(&found.right, &a_t)?;
        if found.is_exact(&image, rank)? {
            return found.first(rank);
        }
        q = orthonormal(&product(&found.sharpened(a, &a_t, &image)?, &a_t)?)?.0;
    }
    Err(Error::run(format!("the largest {rank} singular values are not exact after {MOST_ROUNDS} rounds"))
        .hint("set `pissa_iter` to 16: near values will do as well")
        .hint_zh("请将 `pissa_iter` 设为 16：近似值同样可用"))
}

/// The singular triplets of `a` within the span of the orthonormal `q` `[p, m]`, which are those of `q·a`.
fn within(a: &Tensor, q: &Tensor) -> Result<Singular> {
    let (z, l) = orthonormal(&product(q, a)?)?;
    let p = q.dim(0)?;
    let (values, turn, rows) = decompose(l, p)?;
    if !values.iter().all(|value| value.is_finite()) {
        return Err(Error::input("a weight is not finite")
            .hint("the file is damaged; fetch it again")
            .hint_zh("文件已损坏；请重新下载"));
    }
    let matrix = |values| Tensor::from_vec(values, (p, p), &Device::Cpu)?.to_dtype(a.dtype());
    Ok(Singular { values, left: product(&matrix(turn)?, q)?, right: product(&matrix(rows)?, &z)? })
}

impl Singular {
    /// Whether the first `rank` are triplets of A: `image` are the A·v, and Aᵀ·u is σ·v as [`within`] makes them.
    fn is_exact(&self, image: &Tensor, rank: usize) -> Result<bool> {
        let (image, left) = (numbers(image)?, numbers(&self.left)?);
        let m = self.left.dim(1)?;
        let off = |j: usize| {
            let pairs = image[j * m..][..m].iter().zip(&left[j * m..][..m]);
            pairs.map(|(image, u)| (image - self.values[j] * u).powi(2)).sum::<f64>().sqrt()
        };
        Ok((0..rank).all(|j| off(j) <= TOLERANCE * self.values[0]))
    }

    fn first(self, rank: usize) -> Result<Self> {
        Ok(Self {
            values: self.values[..rank].to_vec(),
            left: self.left.narrow(0, 0, rank)?,
            right: self.right.narrow(0, 0, rank)?,
        })
    }

    /// `T(AᵀA)·v` of every v, where the polynomial T stays within ±1 up to the smallest σ² found and grows beyond: Chebyshev's.
    fn sharpened(&self, a: &Tensor, a_t: &Tensor, image: &Tensor) -> Result<Tensor> {
        let top = self.values[0].powi(2);
        let bottom = self.values.last().map_or(0.0, |value| value.powi(2)).max(1e-20 * top);
        let growth = (2.0 * top / bottom - 1.0).max(1.0).acosh();
        let degree = ((2.0 * GROWTH).ln() / growth).clamp(1.0, DEGREE as f64) as usize;
        let shifted =
            |image: &Tensor, x: &Tensor| -> Result<Tensor> { Ok(((product(image, a)? * (2.0 / bottom))? - x)?) };
        let (mut before, mut x) = (self.right.clone(), shifted(image, &self.right)?);
        for _ in 1..degree {
            let next = ((shifted(&product(&x, a_t)?, &x)? * 2.0)? - &before)?;
            (before, x) = (x, next);
        }
        Ok(x)
    }
}

/// Gram–Schmidt on `rows` `[p, n]`, every row twice: `q` `[p, n]` and lower triangular `l` `[p, p]` with rows = l·q.
///
/// A row that those before it span becomes zero.
fn orthonormal(rows: &Tensor) -> Result<(Tensor, Vec<f64>)> {
    let (p, n) = rows.dims2()?;
    let (mut q, mut l) = (numbers(rows)?, vec![0.0; p * p]);
    for j in 0..p {
        let (done, rest) = q.split_at_mut(j * n);
        let (row, l) = (&mut rest[..n], &mut l[j * p..][..p]);
        let before = dot(row, row).sqrt();
        for _ in 0..2 {
            let along: Vec<f64> = done.par_chunks_exact(n).map(|other| dot(other, row)).collect();
            row.par_chunks_mut(1 << 12).enumerate().for_each(|(i, part)| {
                for (other, along) in done.chunks_exact(n).zip(&along) {
                    part.iter_mut().zip(&other[i << 12..]).for_each(|(x, other)| *x -= along * other);
                }
            });
            l.iter_mut().zip(along).for_each(|(l, along)| *l += along);
        }
        let norm = dot(row, row).sqrt();
        let is_new = norm > 1e-14 * before || !norm.is_finite();
        l[j] = if is_new { norm } else { 0.0 };
        row.iter_mut().for_each(|x| *x = if is_new { *x / norm } else { 0.0 });
    }
    Ok((Tensor::from_vec(q, (p, n), &Device::Cpu)?.to_dtype(rows.dtype())?, l))
}

/// Singular values of `l` `[p, p]`, falling, with `turn` and `rows` `[p, p]`: turn·l = values·rows. Jacobi's rotations of pairs of
/// rows (Hestenes 1958), until all are orthogonal.
///
/// Errors: they do not become so in [`MOST_SWEEPS`].
fn decompose(mut l: Vec<f64>, p: usize) -> Result<(Vec<f64>, Vec<f64>, Vec<f64>)> {
    let mut turn = vec![0.0; p * p];
    (0..p).for_each(|i| turn[i * p + i] = 1.0);
    rotate_all((&mut l, &mut turn), p, MOST_SWEEPS)?;
    let floor = rounding(p) * longest(&l, p);
    let is_nothing = |norm: &f64| *norm <= floor && floor.is_finite();
    let norms = l.chunks_exact(p).map(|row| dot(row, row).sqrt());
    let norms: Vec<f64> = norms.map(|norm| if is_nothing(&norm) { 0.0 } else { norm }).collect();
    let mut order: Vec<usize> = (0..p).collect();
    order.sort_by(|&i, &j| norms[j].total_cmp(&norms[i]));
    let sorted = |matrix: &[f64]| order.iter().flat_map(|&i| matrix[i * p..][..p].to_vec()).collect::<Vec<_>>();
    let unit = |(x, &norm): (&f64, &f64)| if norm > 0.0 { x / norm } else { 0.0 };
    let values: Vec<f64> = order.iter().map(|&i| norms[i]).collect();
    let rows = sorted(&l)
        .chunks_exact(p)
        .zip(&values)
        .flat_map(|(row, norm)| row.iter().map(move |x| unit((x, norm))))
        .collect();
    Ok((values, sorted(&turn), rows))
}

/// What rounding leaves of a sum of `p` terms, relative to their lengths: √p·ε, as in LAPACK.
fn rounding(p: usize) -> f64 {
    (p as f64).sqrt() * f64::EPSILON
}

/// Length of the longest row of `l` `[p, p]`.
fn longest(l: &[f64], p: usize) -> f64 {
    l.chunks_exact(p).map(|row| dot(row, row)).fold(0.0, f64::max).sqrt()
}

/// Turns rows of `l` until all pairs are orthogonal but for rounding, and those of `turn` with them; returns in how many sweeps.
/// Rows that are nothing but rounding beside the longest are left as they are: they have no direction, and would not come to rest.
fn rotate_all((l, turn): (&mut [f64], &mut [f64]), p: usize, most: usize) -> Result<usize> {
    for sweep in 1..=most {
        let mut turned = false;
        let floor = (rounding(p) * longest(l, p)).powi(2);
        for j in 1..p {
            for i in 0..j {
                let [x, y] = [i, j].map(|i| &l[i * p..][..p]);
                let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
                if xx.min(yy) <= floor || xy.abs() <= rounding(p) * (xx * yy).sqrt() || !xy.is_finite() {
                    continue;
                }
                turned = true;
                let zeta = (yy - xx) / (2.0 * xy);
                let tan = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cos = 1.0 / (1.0 + tan * tan).sqrt();
                // The longer of the two goes first, so that fewer sweeps will do (de Rijk 1989).
                let by = if yy > xx { (cos * tan, -cos) } else { (cos, cos * tan) };
                rotate(l, p, (i, j), by);
                rotate(turn, p, (i, j), by);
            }
        }
        if !turned {
            return Ok(sweep);
        }
    }
    Err(Error::run(format!("{p} singular values are not exact after {most} sweeps of rotations"))
        .hint("lower `lora_rank`, or train without `pissa_init`")
        .hint_zh("请降低 `lora_rank`，或不用 `pissa_init`"))
}

/// Rows i < j of `matrix` `[p, p]` become c·xᵢ − s·xⱼ and s·xᵢ + c·xⱼ.
fn rotate(matrix: &mut [f64], p: usize, (i, j): (usize, usize), (c, s): (f64, f64)) {
    let (above, below) = matrix.split_at_mut(j * p);
    for (x, y) in above[i * p..][..p].iter_mut().zip(&mut below[..p]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

/// Eight sums at a time, so that they become vector code; always the same ones.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0.0; 8];
    for (x, y) in xs.zip(ys) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum::<f64>() + rest
}

#[expect(clippy::disallowed_methods, reason = "on the CPU, before a run")]
fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(i: u64) -> f64 {
        (0.7 + 1.3 * i as f64).sin() + (0.2 + 2.9 * (i * i % 1013) as f64).cos()
    }

    /// U·diag(values)·Vᵀ `[out, in]` with orthogonal U and V.
    fn with_values(out: usize, width: usize, values: &[f64]) -> Tensor {
        let block = |n: usize, phase: u64| {
            let start = (0..(values.len() * n) as u64).map(|i| random(i + phase)).collect();
            orthonormal(&Tensor::from_vec(start, (values.len(), n), &Device::Cpu).unwrap()).unwrap().0
        };
        let (u, v) = (block(out, 0), block(width, 77));
        let s = Tensor::from_vec(values.to_vec(), (values.len(), 1), &Device::Cpu).unwrap();
        u.t().unwrap().matmul(&v.broadcast_mul(&s).unwrap()).unwrap()
    }

    fn frobenius(t: &Tensor) -> f64 {
        numbers(t).unwrap().iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Σ σ·u·vᵀ
    fn sum_of(found: &Singular) -> Tensor {
        let s = Tensor::from_vec(found.values.clone(), (found.values.len(), 1), &Device::Cpu).unwrap();
        let [left, right] = [&found.left, &found.right].map(|t| t.to_dtype(DType::F64).unwrap());
        left.t().unwrap().contiguous().unwrap().matmul(&right.broadcast_mul(&s).unwrap()).unwrap()
    }

    fn falling(n: usize, ratio: f64) -> Vec<f64> {
        (0..n).map(|i| 3.0 * ratio.powi(i as i32)).collect()
    }

    /// Slow spectra and fast ones, wide and tall, values that repeat, fewer than are asked for, none.
    #[test]
    fn converged_values_and_their_part_are_those_of_the_matrix() {
        let mut two_outliers = vec![500.0, 300.0];
        two_outliers.extend(falling(60, 0.97));
        let cases = [
            (40, 30, falling(30, 0.95), 4),
            (30, 40, falling(30, 0.5), 8),
            (300, 200, falling(200, 0.99), 8),
            (200, 90, two_outliers, 6),
            (50, 50, vec![2.0; 50], 50),
            (60, 20, vec![2.0, 1.0, 1.0, 1.0, 0.5], 2),
            (33, 65, vec![2.0, 1.0], 5),
            (5, 9, vec![0.0], 2),
            (1, 7, vec![1.5], 1),
        ];
        for (out, width, values, rank) in cases {
            let w = with_values(out, width, &values);
            let found = largest(&w, rank, Effort::Converged, &random).unwrap();
            let what = format!("[{out}, {width}], {rank} of {} values", values.len());
            for (j, got) in found.values.iter().enumerate() {
                let want = values.get(j).copied().unwrap_or(0.0);
                assert!((got - want).abs() <= 1e-12 * values[0], "{what}: value {j} is {got}, not {want}");
            }
            // Where the last one wanted is also the first that is not, any of them will do.
            let rest: f64 = values.iter().skip(rank).map(|value| value * value).sum::<f64>().sqrt();
            let left = frobenius(&(&w - sum_of(&found)).unwrap());
            assert!((left - rest).abs() <= 1e-10 * values[0], "{what}: {left} is left, not {rest}");
            if values.get(rank).is_none_or(|next| *next < values[rank - 1]) {
                let best = with_values_of(out, width, &values, rank);
                let off = frobenius(&(best - sum_of(&found)).unwrap());
                assert!(off <= 1e-8 * values[0], "{what}: off by {off:.1e}");
            }
        }
    }

    /// The first `rank` terms of [`with_values`].
    fn with_values_of(out: usize, width: usize, values: &[f64], rank: usize) -> Tensor {
        let kept: Vec<f64> = values.iter().enumerate().map(|(i, value)| if i < rank { *value } else { 0.0 }).collect();
        with_values(out, width, &kept)
    }

    #[test]
    fn rounds_come_closer_and_are_honest_about_what_they_have() {
        let (values, rank) = (falling(60, 0.93), 5);
        let w = with_values(90, 60, &values);
        let best: f64 = values.iter().skip(rank).map(|value| value * value).sum::<f64>().sqrt();
        let mut before = f64::INFINITY;
        for rounds in [0, 1, 4, 16, 64] {
            let found = largest(&w, rank, Effort::Rounds(rounds), &random).unwrap();
            let left = frobenius(&(&w - sum_of(&found)).unwrap());
            assert!(left < before && left >= best - 1e-6, "{rounds} rounds leave {left}");
            // Wᵀ·u is σ·v in any case: what is taken out is a projection of W.
            let [u, v] = [&found.left, &found.right].map(|t| t.to_dtype(DType::F64).unwrap());
            let s = Tensor::from_vec(found.values.clone(), (rank, 1), &Device::Cpu).unwrap();
            let off = frobenius(&(u.matmul(&w).unwrap() - v.broadcast_mul(&s).unwrap()).unwrap());
            assert!(off < 3e-6, "{rounds} rounds: {off:.1e}");
            before = left;
        }
        assert!(before - best < 1e-5, "{before} {best}");
    }

    #[test]
    fn vectors_are_orthonormal_and_the_same_with_any_number_of_threads() {
        let w = with_values(700, 300, &falling(300, 0.98));
        for effort in [Effort::Rounds(4), Effort::Converged] {
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| largest(&w, 12, effort, &random)).unwrap();
                (numbers(&found.left).unwrap(), numbers(&found.right).unwrap(), found)
            };
            let (one, three) = (with(1), with(3));
            assert!(one.0 == three.0 && one.1 == three.1 && one.2.values == three.2.values, "{effort:?}");
            for rows in [&one.2.left, &one.2.right] {
                let bound = if rows.dtype() == DType::F64 { 1e-12 } else { 3e-6 };
                let rows = rows.to_dtype(DType::F64).unwrap();
                let gram = rows.matmul(&rows.t().unwrap().contiguous().unwrap()).unwrap();
                let unit = Tensor::eye(12, DType::F64, &Device::Cpu).unwrap();
                assert!(frobenius(&(gram - unit).unwrap()) < bound);
            }
        }
    }

    /// A slow spectrum, one whose smallest values rounding swallows, values that repeat, and fewer than there are rows.
    #[test]
    fn rotations_of_many_rows_end_soon() {
        let p = 200;
        for (values, most) in [(falling(p, 0.99), 15), (falling(p, 0.8), 30), (vec![2.0; p], 2), (falling(20, 0.9), 15)]
        {
            let l = orthonormal(&with_values(p, p, &values)).unwrap().1;
            let mut turn = numbers(&Tensor::eye(p, DType::F64, &Device::Cpu).unwrap()).unwrap();
            let sweeps = rotate_all((&mut l.clone(), &mut turn), p, MOST_SWEEPS).unwrap();
            assert!(sweeps <= most, "{sweeps} sweeps for values from {} to {:?}", values[0], values.last());
            let (found, turn, rows) = decompose(l.clone(), p).unwrap();
            for (j, got) in found.iter().enumerate() {
                let want = values.get(j).copied().unwrap_or(0.0);
                assert!((got - want).abs() <= 1e-12 * values[0], "value {j} is {got}, not {want}");
            }
            let [whole, left, right] = [l, turn, rows].map(|m| Tensor::from_vec(m, (p, p), &Device::Cpu).unwrap());
            let found = Tensor::from_vec(found, (p, 1), &Device::Cpu).unwrap();
            let off = left.matmul(&whole).unwrap() - right.broadcast_mul(&found).unwrap();
            assert!(frobenius(&off.unwrap()) <= 1e-12 * values[0], "turn·l is values·rows");
        }
        let mut rows = numbers(&with_values(p, p, &falling(p, 0.99))).unwrap();
        let err = rotate_all((&mut rows, &mut vec![0.0; p * p]), p, 2).unwrap_err();
        assert_eq!(err.to_string(), "200 singular values are not exact after 2 sweeps of rotations");
    }

    #[test]
    fn a_matrix_that_is_not_finite_is_refused() {
        let mut values = vec![0.5; 30];
        values[7] = f64::NAN;
        let w = Tensor::from_vec(values, (6, 5), &Device::Cpu).unwrap();
        for effort in [Effort::Rounds(2), Effort::Converged] {
            assert_eq!(largest(&w, 2, effort, &random).err().unwrap().to_string(), "a weight is not finite");
        }
        assert!(largest(&w, 6, Effort::Rounds(2), &random).is_err());
    }
}
