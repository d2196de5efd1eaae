//! Launches of `swiglu.cu`: silu(gate)·up and its gradients.

use super::launch::{Address, Argument, Launch, Real};

/// Threads of a block.
const THREADS: usize = 256;

/// `n` elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elements {
    pub real: Real,
    pub n: usize,
}

impl Elements {
    /// `gate`, `up` → `y`
    pub fn forward(&self, [gate, up]: [Address; 2], y: Address) -> Launch {
        self.launch("forward", &[gate, up, y])
    }

    /// `dy`, `gate`, `up` → `dgate`, `dup`, and `y` once more. These may lie where `gate`, `up` and `dy` do.
    pub fn backward(&self, [dy, gate, up]: [Address; 3], [dgate, dup, y]: [Address; 3]) -> Launch {
        self.launch("backward", &[dy, gate, up, dgate, dup, y])
    }

    fn launch(&self, kernel: &str, addresses: &[Address]) -> Launch {
        let n = self.real.per_access(0, addresses); // the kernel takes what is left over at the end one by one
        let mut arguments: Vec<Argument> = addresses.iter().map(|&a| a.into()).collect();
        arguments.push((self.n as u64).into());
        let kernel = format!("swiglu_{kernel}_{}", self.real.suffix(n));
        Launch::rows("swiglu", kernel, self.n.div_ceil(n * THREADS), THREADS, arguments)
    }
}

#[cfg(all(test, feature = "cuda-host"))]
mod tests {
    use super::*;
    use crate::{
        error::Result,
        kernels::{
            cuda::host::{Buffer, Counters, assert_same, run, run_counted, wave},
            swiglu,
        },
    };
    use candle_core::{DType, Tensor};

    /// One element, ends that are no whole access, one row of Qwen3-0.6B and of Qwen3-14B.
    const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 5), (7, 130), (1, 3072), (2, 2055), (1, 17_408)];

    /// Large and small gates: where the exponential overflows, silu is 0 and not a NaN.
    fn operands(dtype: DType, shape: (usize, usize)) -> Result<[Tensor; 3]> {
        let gate = (wave(shape, 0.0, DType::F32) * 120.0)?.to_dtype(dtype)?;
        Ok([wave(shape, 5.0, dtype), gate, wave(shape, 1.0, dtype)])
    }

    fn forward(gate: &Tensor, up: &Tensor) -> (Tensor, Counters) {
        let of = Elements { real: Real::of(gate.dtype()), n: gate.elem_count() };
        let [mut g, mut u] = [gate, up].map(Buffer::input);
        let mut y = Buffer::output(gate.dtype(), of.n);
        let launch = of.forward([g.at(), u.at()], y.at());
        let counters =
            run_counted(&[launch], &mut [&mut g, &mut u, &mut y]).unwrap_or_else(|wrong| panic!("{of:?}: {wrong}"));
        (y.tensor(gate.dtype(), gate.shape()), counters)
    }

    #[test]
    fn forward_agrees_with_the_cpu() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            for shape in SHAPES {
                let [_, gate, up] = operands(dtype, shape)?;
                assert_same(&forward(&gate, &up).0, &swiglu::forward(&gate, &up)?, 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn backward_agrees_with_the_cpu_also_in_place() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            for shape in SHAPES {
                let [dy, gate, up] = operands(dtype, shape)?;
                let want = swiglu::backward(&dy, &gate, &up)?;
                let of = Elements { real: Real::of(dtype), n: gate.elem_count() };
                for in_place in [false, true] {
                    let mut operands = [&dy, &gate, &up].map(Buffer::in_out);
                    let mut results = [(); 3].map(|()| Buffer::output(dtype, of.n));
                    let [d, g, u] = operands.each_ref().map(Buffer::at);
                    let to = if in_place { [g, u, d] } else { results.each_ref().map(Buffer::at) };
                    let launch = of.backward([d, g, u], to);
                    let mut buffers: Vec<&mut Buffer> = operands.iter_mut().chain(&mut results).collect();
                    run(&[launch], &mut buffers).unwrap_or_else(|wrong| panic!("{of:?}: {wrong}"));
                    let [d, g, u] = operands;
                    let got = if in_place { [g, u, d] } else { results };
                    for (got, want) in got.iter().zip([&want.0, &want.1, &want.2]) {
                        assert_same(&got.tensor(dtype, shape), want, 2e-6);
                    }
                    assert_same(&got[2].tensor(dtype, shape), &forward(&gate, &up).0, 0.0);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn operands_are_moved_once_in_whole_sectors() -> Result<()> {
        let [_, gate, up] = operands(DType::BF16, (2, 17_408))?;
        let (_, counted) = forward(&gate, &up);
        let one = 2 * 17_408 * 2 / 32;
        assert_eq!((counted.load_sectors, counted.store_sectors), (2 * one, one));
        assert_eq!((counted.load_ideal, counted.store_ideal), (2 * one, one));
        Ok(())
    }
}
