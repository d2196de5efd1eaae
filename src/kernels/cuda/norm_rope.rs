//! Launches of `norm_rope.cu`: the norm of every q or k head and its rotation in one pass.

use super::launch::{Address, Argument, Launch, Real, narrow};

/// Warps of a block; each takes one head of one row.
const WARPS: usize = 8;

/// `rows` of `heads` heads of `width` elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub real: Real,
    pub rows: usize,
    pub heads: usize,
    /// E, even.
    pub width: usize,
}

impl Heads {
    /// `x` `[T, N, E]`, `w` `[E]`, `cos`, `sin` `[T, E/2]` → `y` `[T, N, E]` and `inv_rms` `[T·N]` f32. Where `saved` is there
    /// it is used instead of 1/rms, `inv_rms` is not written, and `y` has the bits it had.
    pub fn forward(&self, [x, w, cos, sin, saved]: [Address; 5], [y, inv_rms]: [Address; 2], eps: f32) -> Launch {
        let mut arguments: Vec<Argument> = [x, w, cos, sin, saved, y, inv_rms].map(Into::into).into();
        arguments.extend(self.counts());
        arguments.push(eps.into());
        self.launch("forward", &[x, w, cos, sin, y], arguments)
    }

    /// `dy`, `x` `[T, N, E]`, `w`, `cos`, `sin`, `inv_rms` → `dx` `[T, N, E]`.
    pub fn backward(&self, [dy, x, w, cos, sin, inv_rms]: [Address; 6], dx: Address) -> Launch {
        let mut arguments: Vec<Argument> = [dy, x, w, cos, sin, inv_rms, dx].map(Into::into).into();
        arguments.extend(self.counts());
        self.launch("backward", &[dy, x, w, cos, sin, dx], arguments)
    }

    fn counts(&self) -> [Argument; 3] {
        [self.rows * self.heads, self.heads, self.width / 2].map(|n| narrow(n).into())
    }

    fn launch(&self, kernel: &str, addresses: &[Address], arguments: Vec<Argument>) -> Launch {
        // Halves of a head are read in pairs, 8 bytes at most; the rule for 16 covers them.
        let n = self.real.per_access(self.width / 2, addresses);
        let kernel = format!("norm_rope_{kernel}_{}", self.real.suffix(n));
        Launch::rows("norm_rope", kernel, (self.rows * self.heads).div_ceil(WARPS), 32 * WARPS, arguments)
    }
}

#[cfg(all(test, feature = "cuda-host"))]
mod tests {
    use super::*;
    use crate::{
        error::Result,
        kernels::{
            cuda::host::{Buffer, Counters, assert_same, run, run_counted, wave},
            rms_norm, rope,
        },
    };
    use candle_core::{DType, Device, Tensor};

    /// (rows, heads, E): one of each, odd halves, more heads than warps, Qwen3's heads and half of them.
    const SHAPES: [(usize, usize, usize); 7] =
        [(1, 1, 2), (5, 3, 8), (2, 1, 34), (3, 9, 48), (4, 2, 64), (3, 16, 128), (2, 5, 256)];
    const EPS: f64 = 1e-6;

    struct Case {
        of: Heads,
        dtype: DType,
        x: Tensor, // [T·N, E]
        w: Tensor,
        cos: Tensor,
        sin: Tensor,
    }

    fn cases() -> impl Iterator<Item = Case> {
        let both = [DType::F32, DType::BF16].into_iter();
        both.flat_map(|dtype| SHAPES.map(|shape| (dtype, shape))).map(|(dtype, (rows, heads, width))| {
            let positions: Vec<u32> = (0..rows as u32).map(|t| 7 * t % 31).collect();
            let (cos, sin) = rope::tables(&positions, width, 1e6, dtype, &Device::Cpu).expect("tables");
            let x = wave((rows * heads, width), 0.0, dtype);
            let of = Heads { real: Real::of(dtype), rows, heads, width };
            Case { of, dtype, x, w: wave(width, 1.0, dtype), cos, sin }
        })
    }

    impl Case {
        /// `y` and 1/rms by the CPU's kernels one after the other.
        fn on_the_cpu(&self) -> Result<(Tensor, Tensor)> {
            let (normed, inv) = rms_norm::forward(&self.x, &self.w, EPS)?;
            let shape = (self.of.rows, self.of.heads, self.of.width);
            Ok((rope::forward(&normed.reshape(shape)?, &self.cos, &self.sin)?, inv))
        }

        /// `y` and 1/rms by the kernel, with 1/rms given or not.
        fn on_the_harness(&self, saved: Option<&Tensor>) -> (Tensor, Tensor, Counters) {
            let Heads { rows, heads, width, .. } = self.of;
            let [mut x, mut w, mut cos, mut sin] = [&self.x, &self.w, &self.cos, &self.sin].map(Buffer::input);
            let mut given = saved.map(Buffer::input);
            let mut y = Buffer::output(self.dtype, rows * heads * width);
            let mut inv = Buffer::output(DType::F32, rows * heads);
            let of_saved = given.as_ref().map_or(Address::NULL, Buffer::at);
            let launch =
                self.of.forward([x.at(), w.at(), cos.at(), sin.at(), of_saved], [y.at(), inv.at()], EPS as f32);
            let mut buffers = vec![&mut x, &mut w, &mut cos, &mut sin, &mut y, &mut inv];
            buffers.extend(given.as_mut());
            let counters =
                run_counted(&[launch], &mut buffers).unwrap_or_else(|wrong| panic!("{:?}: {wrong}", self.of));
            (y.tensor(self.dtype, (rows, heads, width)), inv.tensor(DType::F32, (rows * heads, 1)), counters)
        }
    }

    #[test]
    fn forward_agrees_with_norm_and_rotation_on_the_cpu() -> Result<()> {
        for case in cases() {
            let (want, want_inv) = case.on_the_cpu()?;
            let (y, inv, _) = case.on_the_harness(None);
            assert_same(&inv, &want_inv, 1e-6);
            assert_same(&y, &want, 2e-6);
        }
        Ok(())
    }

    #[test]
    fn with_the_saved_norm_it_has_the_bits_of_the_cpu() -> Result<()> {
        for case in cases() {
            let (want, inv) = case.on_the_cpu()?;
            let (y, ..) = case.on_the_harness(Some(&inv));
            crate::testing::assert_close(&y, &want, 0.0);
        }
        Ok(())
    }

    #[test]
    fn backward_agrees_with_the_cpu() -> Result<()> {
        for case in cases() {
            let Heads { rows, heads, width, .. } = case.of;
            let dy = wave((rows, heads, width), 5.0, case.dtype);
            let (_, inv) = rms_norm::forward(&case.x, &case.w, EPS)?;
            let d_normed = rope::backward(&dy, &case.cos, &case.sin)?.reshape((rows * heads, width))?;
            let want = rms_norm::backward(&d_normed, &case.x, &case.w, &inv)?;
            let operands = [&dy, &case.x, &case.w, &case.cos, &case.sin, &inv];
            let [mut dy, mut x, mut w, mut cos, mut sin, mut inv] = operands.map(Buffer::input);
            let mut dx = Buffer::output(case.dtype, rows * heads * width);
            let addresses = [&dy, &x, &w, &cos, &sin, &inv].map(|b| b.at());
            let launch = case.of.backward(addresses, dx.at());
            run(&[launch], &mut [&mut dy, &mut x, &mut w, &mut cos, &mut sin, &mut inv, &mut dx])
                .unwrap_or_else(|wrong| panic!("{:?}: {wrong}", case.of));
            assert_same(&dx.tensor(case.dtype, (rows * heads, width)), &want, 5e-6);
        }
        Ok(())
    }

    #[test]
    fn a_head_of_128_moves_whole_sectors() {
        let case = cases().find(|c| c.dtype == DType::BF16 && c.of.width == 128).expect("Qwen3's heads");
        let (.., counted) = case.on_the_harness(None);
        assert_eq!((counted.load_sectors, counted.store_sectors), (counted.load_ideal, counted.store_ideal));
        // x twice (the second time from L1), w, cos and sin of half a head each: 256 bytes a head.
        assert_eq!(counted.load_sectors, 3 * 16 * (2 + 1 + 1) * 256 / 32);
    }
}
