//! Launches of `adamw.cu`: the gradient norm with the factor that clips it, and the update of all parameters.

use super::launch::{Address, Argument, Launch, narrow};
use crate::kernels::AdamWStep;

/// Threads of a block, and values that one block of the first stage sums; as in `adamw.cu`.
const THREADS: usize = 256;
const A_BLOCK: usize = 16 * THREADS;

/// Partial sums of a buffer of `n` values: f64 that [`norm`] needs room for.
pub(super) fn partial_sums(n: usize) -> usize {
    n.div_ceil(A_BLOCK)
}

/// `g` `[n]` f32 → `total` = Σ g² (f64) and `factor` (f32), min(1, `max_norm`/(√total + 1e-6)); 1 where `max_norm` is 0.
/// `sums` has room for [`partial_sums`]. `g` lies at a multiple of 16 bytes.
pub(super) fn norm(g: Address, sums: Address, [total, factor]: [Address; 2], n: usize, max_norm: f64) -> [Launch; 2] {
    let blocks = partial_sums(n);
    let first = [g.into(), sums.into(), (n as u64).into()];
    let second = [sums.into(), total.into(), factor.into(), narrow(blocks).into(), max_norm.into()];
    [
        Launch::rows("adamw", "adamw_squares".into(), blocks, THREADS, first),
        Launch::rows("adamw", "adamw_norm".into(), 1, THREADS, second),
    ]
}

/// `x`, `g`, `m`, `v` `[n]` f32 → new `x`, `m`, `v`, which may lie where the old ones do. The gradient is multiplied by the f32
/// at `factor`, not by that of `step`. All lie at multiples of 16 bytes.
pub(super) fn update(
    [x, g, m, v]: [Address; 4],
    [new_x, new_m, new_v]: [Address; 3],
    factor: Address,
    step: &AdamWStep,
    n: usize,
) -> Launch {
    let mut arguments: Vec<Argument> = [x, g, m, v, new_x, new_m, new_v, factor].map(Into::into).into();
    // In the order of the kernel's struct.
    let scalars = [
        step.beta1,
        1.0 - step.beta1,
        step.beta2,
        1.0 - step.beta2,
        step.eps,
        step.decay,
        step.step_size,
        step.root_correction,
    ];
    arguments.push(scalars.map(|x| x as f32).into());
    arguments.push((n as u64).into());
    Launch::rows("adamw", "adamw_step".into(), n.div_ceil(4 * THREADS), THREADS, arguments)
}

#[cfg(all(test, feature = "cuda-host"))]
mod tests {
    use super::*;
    use crate::{
        error::Result,
        kernels::{
            adamw_step,
            cuda::host::{Buffer, run, run_counted, wave},
            reduce,
        },
    };
    use candle_core::{DType, Device, Tensor};

    const LENGTHS: [usize; 6] = [1, 3, 1023, 4096, 5000, 40_001];

    #[test]
    fn the_update_has_the_bits_of_the_cpu_also_in_place() -> Result<()> {
        let step = AdamWStep::example();
        for n in LENGTHS {
            let [x, g, m] = [0.0, 1.0, 2.0].map(|phase| wave(n, phase, DType::F32));
            let v = wave(n, 3.0, DType::F32).sqr()?;
            let want = adamw_step(&x, &g, &m, &v, &[(n, step)])?;
            for in_place in [false, true] {
                let mut g = Buffer::input(&g);
                let [mut x, mut m, mut v] = [&x, &m, &v].map(Buffer::in_out);
                let mut factor = Buffer::input(&Tensor::new(&[0.7f32], &Device::Cpu)?);
                let [mut new_x, mut new_m, mut new_v] = [(); 3].map(|()| Buffer::output(DType::F32, n));
                let to = if in_place { [&x, &m, &v] } else { [&new_x, &new_m, &new_v] }.map(|b| b.at());
                let launch = update([x.at(), g.at(), m.at(), v.at()], to, factor.at(), &step, n);
                let mut buffers = [&mut x, &mut g, &mut m, &mut v, &mut new_x, &mut new_m, &mut new_v, &mut factor];
                let counted =
                    run_counted(&[launch], &mut buffers).unwrap_or_else(|wrong| panic!("{n} values: {wrong}"));
                let got = if in_place { [x, m, v] } else { [new_x, new_m, new_v] };
                for (got, want) in got.iter().zip([&want.0, &want.1, &want.2]) {
                    crate::testing::assert_close(&got.tensor(DType::F32, n), want, 0.0);
                }
                if n == 4096 {
                    let (one, blocks) = (n as u64 * 4 / 32, 4 * 8); // and the factor, a sector for each warp
                    assert_eq!((counted.load_sectors, counted.store_sectors), (4 * one + blocks, 3 * one));
                }
            }
        }
        Ok(())
    }

    fn norm_and_factor(g: &Tensor, max_norm: f64) -> (f64, f32) {
        let n = g.elem_count();
        let mut x = Buffer::input(g);
        let mut sums = Buffer::output(DType::F64, partial_sums(n));
        let (mut total, mut factor) = (Buffer::output(DType::F64, 1), Buffer::output(DType::F32, 1));
        let launches = norm(x.at(), sums.at(), [total.at(), factor.at()], n, max_norm);
        run(&launches, &mut [&mut x, &mut sums, &mut total, &mut factor]).expect("right launches");
        let first = |b: &Buffer, dtype| b.tensor(dtype, 1).to_dtype(DType::F64).and_then(|t| t.to_vec1::<f64>());
        let (total, factor) = (first(&total, DType::F64).expect("f64"), first(&factor, DType::F32).expect("f32"));
        (total[0].sqrt(), factor[0] as f32)
    }

    #[test]
    fn norm_and_factor_agree_with_the_cpu() -> Result<()> {
        for n in LENGTHS {
            let g = wave(n, 1.0, DType::F32);
            let want = reduce::sum_of_squares(&g)?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt();
            for (max_norm, want_factor) in [(0.0, 1.0), (1e9, 1.0), (0.1, 0.1 / (want + 1e-6))] {
                let (norm, factor) = norm_and_factor(&g, max_norm);
                assert!((norm - want).abs() <= 1e-6 * want, "{n} values: got {norm}, want {want}");
                assert!(
                    (f64::from(factor) - want_factor).abs() <= 1e-6 * want_factor,
                    "{n} values, at most {max_norm}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn a_nan_is_not_clipped_away() -> Result<()> {
        let (norm, factor) = norm_and_factor(&Tensor::new(&[1.0, f32::NAN, 2.0], &Device::Cpu)?, 1.0);
        assert!(norm.is_nan() && factor.is_nan());
        Ok(())
    }
}
