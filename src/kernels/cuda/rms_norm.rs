//! Launches of `rms_norm.cu`: RMSNorm, with or without the residual sum before it and the residual gradient after it.

use super::launch::{Address, Argument, Launch, Real, narrow};

/// What all three kernels need to know: `rows` of `width` elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub real: Real,
    pub rows: usize,
    pub width: usize,
}

impl Rows {
    fn launch<const N: usize>(&self, kernel: &str, per_access: usize, arguments: [Argument; N]) -> Launch {
        let kernel = format!("rms_norm_{kernel}_{}", self.real.suffix(per_access));
        Launch::rows("rms_norm", kernel, self.rows, threads(self.width / per_access), arguments)
    }

    /// `x` (`+ more` → `sum`, where there is more), `w` → `y` and `inv_rms` (f32, one a row).
    pub fn forward(&self, [x, more, w, sum]: [Address; 4], [y, inv_rms]: [Address; 2], eps: f32) -> Launch {
        let n = self.real.per_access(self.width, &[x, more, w, sum, y]);
        let operands = [x, more, w, sum, y, inv_rms].map(Into::into);
        let [x, more, w, sum, y, inv_rms] = operands;
        self.launch("forward", n, [x, more, w, sum, y, inv_rms, narrow(self.width).into(), eps.into()])
    }

    /// `x`, `w`, `inv_rms` → `y`, bit for bit as forward made it.
    pub fn rebuild(&self, [x, w, inv_rms]: [Address; 3], y: Address) -> Launch {
        let n = self.real.per_access(self.width, &[x, w, y]);
        self.launch("rebuild", n, [x.into(), w.into(), inv_rms.into(), y.into(), narrow(self.width).into()])
    }

    /// `dy`, `x`, `w`, `inv_rms` (and the gradient `past` the norm, where there is one) → `dx`.
    pub fn backward(&self, [dy, x, w, inv_rms, past]: [Address; 5], dx: Address) -> Launch {
        let n = self.real.per_access(self.width, &[dy, x, w, past, dx]);
        let operands = [dy, x, w, inv_rms, past, dx].map(Into::into);
        let [dy, x, w, inv_rms, past, dx] = operands;
        self.launch("backward", n, [dy, x, w, inv_rms, past, dx, narrow(self.width).into()])
    }
}

/// Whole warps, as few accesses a thread as 512 threads leave, and these spread evenly.
fn threads(accesses: usize) -> usize {
    let each = accesses.div_ceil(512).max(1);
    accesses.div_ceil(each).next_multiple_of(32).max(32)
}

#[cfg(all(test, feature = "cuda-host"))]
mod tests {
    use super::*;
    use crate::kernels::{
        add,
        cuda::host::{Buffer, assert_same, run, run_counted, wave},
        rms_norm,
    };
    use candle_core::{DType, Tensor};

    /// Odd widths, one row, the hidden sizes of Qwen3 0.6B, 4B and 14B, and one that takes a second round of 512 threads.
    const SHAPES: [(usize, usize); 9] =
        [(1, 1), (3, 8), (7, 31), (2, 64), (5, 130), (4, 1024), (3, 2560), (2, 5120), (1, 9000)];

    struct Case {
        of: Rows,
        dtype: DType,
        x: Tensor,
        more: Tensor,
        w: Tensor,
        dy: Tensor,
    }

    fn cases() -> impl Iterator<Item = Case> {
        let both = [DType::F32, DType::BF16].into_iter();
        both.flat_map(|dtype| SHAPES.map(|shape| (dtype, shape))).map(|(dtype, (rows, width))| Case {
            of: Rows { real: Real::of(dtype), rows, width },
            dtype,
            x: wave((rows, width), 0.0, dtype),
            more: wave((rows, width), 3.0, dtype),
            w: wave(width, 1.0, dtype),
            dy: wave((rows, width), 5.0, dtype),
        })
    }

    const EPS: f64 = 1e-6;

    #[test]
    fn forward_agrees_with_the_cpu_with_and_without_the_sum() -> crate::error::Result<()> {
        for Case { of, dtype, x, more, w, .. } in cases() {
            let (rows, width) = (of.rows, of.width);
            for fused in [false, true] {
                let sum = if fused { add(&x, &more)? } else { x.clone() };
                let (want, want_inv) = rms_norm::forward(&sum, &w, EPS)?;
                let [mut x, mut more, mut w] = [&x, &more, &w].map(Buffer::input);
                let [mut y, mut written] = [(); 2].map(|()| Buffer::output(dtype, rows * width));
                let mut inv = Buffer::output(DType::F32, rows);
                let [of_more, of_sum] = if fused { [more.at(), written.at()] } else { [Address::NULL; 2] };
                let launch = of.forward([x.at(), of_more, w.at(), of_sum], [y.at(), inv.at()], EPS as f32);
                run(&[launch], &mut [&mut x, &mut more, &mut w, &mut y, &mut written, &mut inv])
                    .unwrap_or_else(|wrong| panic!("{rows} x {width}: {wrong}"));
                assert_same(&inv.tensor(DType::F32, (rows, 1)), &want_inv, 1e-6);
                assert_same(&y.tensor(dtype, (rows, width)), &want, 2e-6);
                if fused {
                    crate::testing::assert_close(&written.tensor(dtype, (rows, width)), &sum, 0.0);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn rebuild_has_the_bits_of_the_cpu() -> crate::error::Result<()> {
        for Case { of, dtype, x, w, .. } in cases() {
            let (rows, width) = (of.rows, of.width);
            let (want, inv) = rms_norm::forward(&x, &w, EPS)?;
            let [mut x, mut w, mut inv] = [&x, &w, &inv].map(Buffer::input);
            let mut y = Buffer::output(dtype, rows * width);
            let launch = of.rebuild([x.at(), w.at(), inv.at()], y.at());
            run(&[launch], &mut [&mut x, &mut w, &mut inv, &mut y]).expect("a right launch");
            crate::testing::assert_close(&y.tensor(dtype, (rows, width)), &want, 0.0);
        }
        Ok(())
    }

    #[test]
    fn backward_agrees_with_the_cpu_with_and_without_the_gradient_past_it() -> crate::error::Result<()> {
        for Case { of, dtype, x, more, w, dy } in cases() {
            let (rows, width) = (of.rows, of.width);
            let (_, inv) = rms_norm::forward(&x, &w, EPS)?;
            let through = rms_norm::backward(&dy, &x, &w, &inv)?;
            for fused in [false, true] {
                let want = if fused { add(&through, &more)? } else { through.clone() };
                let [mut dy, mut x, mut w, mut inv, mut past] = [&dy, &x, &w, &inv, &more].map(Buffer::input);
                let mut dx = Buffer::output(dtype, rows * width);
                let of_past = if fused { past.at() } else { Address::NULL };
                let launch = of.backward([dy.at(), x.at(), w.at(), inv.at(), of_past], dx.at());
                run(&[launch], &mut [&mut dy, &mut x, &mut w, &mut inv, &mut past, &mut dx])
                    .unwrap_or_else(|wrong| panic!("{rows} x {width}: {wrong}"));
                assert_same(&dx.tensor(dtype, (rows, width)), &want, 5e-6);
            }
        }
        Ok(())
    }

    /// Qwen3-14B: whole sectors, and of DRAM no more than every operand once (the second reading of a row is L1's).
    #[test]
    fn a_wide_row_moves_whole_sectors() {
        let (rows, width) = (2, 5120);
        let of = Rows { real: Real::Bf16, rows, width };
        let [mut x, mut w] =
            [Buffer::input(&wave((rows, width), 0.0, DType::BF16)), Buffer::input(&wave(width, 1.0, DType::BF16))];
        let (mut y, mut inv) = (Buffer::output(DType::BF16, rows * width), Buffer::output(DType::F32, rows));
        let launch = of.forward([x.at(), Address::NULL, w.at(), Address::NULL], [y.at(), inv.at()], 1e-6);
        assert_eq!(launch.block, [320, 1, 1], "two accesses for each of 320 threads");
        let counted = run_counted(&[launch], &mut [&mut x, &mut w, &mut y, &mut inv]).expect("a right launch");
        let row = (width * 2 / 32) as u64;
        assert_eq!((counted.load_sectors, counted.load_ideal), (2 * 3 * row, 2 * 3 * row), "x twice, w once");
        assert_eq!((counted.store_sectors, counted.store_ideal), (2 * row + 2, 2 * row + 2), "y and 1/rms");
    }

    #[test]
    fn threads_are_whole_warps_and_evenly_loaded() {
        for (accesses, want) in
            [(0, 32), (1, 32), (33, 64), (128, 128), (512, 512), (640, 320), (1024, 512), (9000, 512)]
        {
            assert_eq!(threads(accesses), want, "{accesses} accesses");
        }
    }
}
