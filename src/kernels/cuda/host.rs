//! The host harness, seen from tests: buffers between guards, launches in both schedules, what was counted.
//!
//! `host/harness.cpp` says what a launch is checked for.

use super::launch::{Address, Launch, Real};
use candle_core::{DType, Device, Shape, Tensor};
use half::bf16;
use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_void},
};

/// Bytes before and behind a buffer that no one may touch.
const GUARD: usize = 512;
/// A NaN as f32 and bf16: what is not written, and what is read out of bounds, shows in every sum.
const POISON: u8 = 0xff;
/// What an allocation on a card is aligned to.
const ALIGNMENT: usize = 256;

/// Memory of the pretended device.
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
    writable: bool,
}

impl Buffer {
    fn new(bytes: usize, writable: bool) -> Self {
        let memory = vec![POISON; GUARD + ALIGNMENT + bytes + GUARD];
        let start = GUARD + memory[GUARD..].as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, bytes, writable }
    }

    fn with(data: &[u8], writable: bool) -> Self {
        let mut buffer = Self::new(data.len(), writable);
        buffer.data_mut().copy_from_slice(data);
        buffer
    }

    /// What kernels only read.
    pub fn input(t: &Tensor) -> Self {
        Self::with(&bytes(t), false)
    }

    /// What kernels read and write.
    pub fn in_out(t: &Tensor) -> Self {
        Self::with(&bytes(t), true)
    }

    /// What kernels write: `n` elements, poison until then.
    pub fn output(dtype: DType, n: usize) -> Self {
        Self::new(n * dtype.size_in_bytes(), true)
    }

    /// Token ids and the like.
    pub fn of_u32(values: &[u32]) -> Self {
        Self::with(bytemuck::cast_slice(values), false)
    }

    pub fn at(&self) -> Address {
        Address(self.memory[self.start..].as_ptr() as u64)
    }

    /// The contents as a tensor.
    pub fn tensor(&self, dtype: DType, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_raw_buffer(self.data(), dtype, shape.into().dims(), &Device::Cpu).expect("a buffer of this shape")
    }

    fn data(&self) -> &[u8] {
        &self.memory[self.start..][..self.bytes]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.bytes]
    }

    fn guards_are_whole(&self) -> bool {
        let whole = |guard: &[u8]| guard.iter().all(|&b| b == POISON);
        whole(&self.memory[..self.start]) && whole(&self.memory[self.start + self.bytes..])
    }
}

fn bytes(t: &Tensor) -> Vec<u8> {
    let flat = t.flatten_all().expect("a tensor");
    match t.dtype() {
        DType::F32 => bytemuck::cast_slice(&flat.to_vec1::<f32>().expect("f32")).to_vec(),
        DType::BF16 => flat.to_vec1::<bf16>().expect("bf16").iter().flat_map(|x| x.to_le_bytes()).collect(),
        other => panic!("no kernel reads {other:?}"),
    }
}

impl Real {
    pub fn of(dtype: DType) -> Self {
        if dtype == DType::BF16 { Self::Bf16 } else { Self::F32 }
    }
}

/// What a run cost. Sectors are 32 bytes of global memory; wavefronts are passes through the banks of shared memory; the
/// ideal of either moves every byte once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Counters {
    pub load_sectors: u64,
    pub load_ideal: u64,
    pub store_sectors: u64,
    pub store_ideal: u64,
    pub shared_wavefronts: u64,
    pub shared_ideal: u64,
    pub matrix_products: u64,
    pub block_barriers: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.load_sectors += other.load_sectors;
        self.load_ideal += other.load_ideal;
        self.store_sectors += other.store_sectors;
        self.store_ideal += other.store_ideal;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal += other.shared_ideal;
        self.matrix_products += other.matrix_products;
        self.block_barriers += other.block_barriers;
    }
}

#[repr(C)]
struct RawBuffer {
    at: *const c_void,
    bytes: u64,
    writable: u32,
}

#[repr(C)]
struct RawLaunch {
    kernel: *const c_char,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    shared_allowed: u32,
    arguments: *const *const c_void,
    sizes: *const u64,
    n_arguments: u64,
    buffers: *const RawBuffer,
    n_buffers: u64,
    backwards: u32,
    count: u32,
}

unsafe extern "C" {
    fn couplet_train_host_launch(
        launch: *const RawLaunch,
        counters: *mut Counters,
        message: *mut c_char,
        room: u64,
    ) -> i32;
    fn couplet_train_host_kernel(i: u64, most_threads: *mut u32) -> *const c_char;
}

/// kernel → registers a thread, of `resources.tsv`.
fn registers() -> HashMap<&'static str, u32> {
    let lines = include_str!("resources.tsv").lines().filter(|l| !l.starts_with('#')).skip(1);
    let register = |line: &'static str| {
        let mut fields = line.split('\t');
        Some((fields.next()?, fields.next()?.parse().ok()?))
    };
    lines.map(|line| register(line).expect("kernel, registers, …")).collect()
}

/// Whether a block of so many threads finds its registers: they are dealt out to warps in steps of 256.
fn has_registers(each: u32, threads: u32) -> bool {
    (each * 32).next_multiple_of(256) * threads.div_ceil(32) <= 65_536
}

/// Runs `launches` one after the other in both schedules, which must leave the same bytes in every buffer. `Err`: what is
/// wrong with the kernel or its launch.
pub(super) fn run(launches: &[Launch], buffers: &mut [&mut Buffer]) -> Result<(), String> {
    run_both(launches, buffers, false).map(drop)
}

/// [`run`], and what one schedule cost.
pub(super) fn run_counted(launches: &[Launch], buffers: &mut [&mut Buffer]) -> Result<Counters, String> {
    run_both(launches, buffers, true)
}

/// The same; counted or not.
pub(super) fn run_both(launches: &[Launch], buffers: &mut [&mut Buffer], count: bool) -> Result<Counters, String> {
    let before: Vec<Vec<u8>> = buffers.iter().map(|b| b.data().to_vec()).collect();
    let mut counters = Counters::default();
    for launch in launches {
        counters += run_one(launch, buffers, false, count)?;
    }
    let forwards: Vec<Vec<u8>> = buffers.iter().map(|b| b.data().to_vec()).collect();
    for (buffer, before) in buffers.iter_mut().zip(&before) {
        buffer.data_mut().copy_from_slice(before);
    }
    for launch in launches {
        run_one(launch, buffers, true, false)?;
    }
    match buffers.iter().zip(&forwards).position(|(b, forwards)| b.data() != forwards) {
        None => Ok(counters),
        Some(i) => Err(format!("{}: buffer {i} depends on the schedule: a race", launches[0].kernel)),
    }
}

fn run_one(launch: &Launch, buffers: &mut [&mut Buffer], backwards: bool, count: bool) -> Result<Counters, String> {
    let threads = launch.block.iter().product();
    if let Some(&each) = registers().get(launch.kernel.as_str()).filter(|each| !has_registers(**each, threads)) {
        return Err(format!("{}: {threads} threads of {each} registers are more than 65,536", launch.kernel));
    }
    let kernel = CString::new(launch.kernel.as_str()).expect("a name without NUL");
    let arguments: Vec<*const c_void> = launch.arguments.iter().map(|a| a.words.as_ptr().cast()).collect();
    let sizes: Vec<u64> = launch.arguments.iter().map(|a| a.size).collect();
    let raw = |b: &&mut Buffer| RawBuffer {
        at: b.data().as_ptr().cast(),
        bytes: b.bytes as u64,
        writable: b.writable.into(),
    };
    let raw_buffers: Vec<RawBuffer> = buffers.iter().map(raw).collect();
    let raw = RawLaunch {
        kernel: kernel.as_ptr(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        shared_allowed: launch.shared_to_allow(),
        arguments: arguments.as_ptr(),
        sizes: sizes.as_ptr(),
        n_arguments: arguments.len() as u64,
        buffers: raw_buffers.as_ptr(),
        n_buffers: raw_buffers.len() as u64,
        backwards: backwards.into(),
        count: count.into(),
    };
    let (mut counters, mut message) = (Counters::default(), [0u8; 1024]);
    // SAFETY: every pointer of `raw` outlives the call; the structs have the layout of harness.cpp; the kernel touches the
    // buffers, which are borrowed mutably for the call, and nothing else: the harness checks each access.
    let failed =
        unsafe { couplet_train_host_launch(&raw, &mut counters, message.as_mut_ptr().cast(), message.len() as u64) };
    if failed != 0 {
        let message = CStr::from_bytes_until_nul(&message).expect("the harness ends its message");
        return Err(format!("{}.cu: {}", launch.source, message.to_string_lossy()));
    }
    match buffers.iter().position(|b| !b.guards_are_whole()) {
        None => Ok(counters),
        Some(i) => Err(format!("{}: something was written beside buffer {i}", launch.kernel)),
    }
}

/// A wave in `dtype`.
pub(super) fn wave(shape: impl Into<Shape>, phase: f64, dtype: DType) -> Tensor {
    crate::testing::wave(shape, phase, &Device::Cpu).and_then(|t| Ok(t.to_dtype(dtype)?)).expect("a wave")
}

/// f32: equal to `tolerance`. bf16: the same roundings of sums that were added in another order, so few values may differ,
/// and those by one step.
#[track_caller]
pub(super) fn assert_same(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dtype(), want.dtype());
    if got.dtype() == DType::F32 {
        return crate::testing::assert_close(got, want, tolerance);
    }
    let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<bf16>()).expect("bf16");
    let (got, want) = (values(got), values(want));
    assert_eq!(got.len(), want.len());
    let mut others = 0;
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        // Neighbours of one sign are neighbours as integers.
        let steps = i32::from(g.to_bits()) - i32::from(w.to_bits());
        // Where the CPU's exponential ends at the smallest normal number, CUDA's goes on.
        let tiny = g.to_f32().abs().max(w.to_f32().abs()) < 1e-30;
        assert!(g == w || tiny || (steps.abs() == 1 && g.is_finite()), "element {i}: got {g}, want {w}");
        others += usize::from(g != w && !tiny);
    }
    assert!(others <= 1 + got.len() / 50, "{others} of {} values are rounded otherwise", got.len());
}

/// The harness itself: that it runs what is right and catches what is wrong.
mod tests {
    use super::*;
    use crate::kernels::cuda::launch::Argument;

    /// 64 values through kernel `name`.
    fn through(name: &str, threads: usize, more: &[Argument]) -> (Result<Counters, String>, Vec<f32>, Vec<f32>) {
        let x = wave(64, 0.3, DType::F32);
        let (mut input, mut output) = (Buffer::input(&x), Buffer::output(DType::F32, 64));
        let mut arguments: Vec<Argument> = vec![input.at().into(), output.at().into()];
        arguments.extend(more);
        let launch = Launch::rows("mutants", name.into(), 1, threads, arguments);
        let counters = run_counted(&[launch], &mut [&mut input, &mut output]);
        let values = |t: Tensor| t.to_vec1::<f32>().expect("f32");
        (counters, values(x), values(output.tensor(DType::F32, 64)))
    }

    #[test]
    fn a_right_kernel_runs_and_is_counted() {
        let (counters, x, y) = through("reverse", 64, &[]);
        let counters = counters.expect("nothing is wrong with it");
        assert!(y.iter().eq(x.iter().rev()));
        // Two warps, each reading and writing 128 bytes of either memory.
        let want = Counters {
            load_sectors: 8,
            load_ideal: 8,
            store_sectors: 8,
            store_ideal: 8,
            shared_wavefronts: 4,
            shared_ideal: 4,
            matrix_products: 0,
            block_barriers: 1,
        };
        assert_eq!(counters, want);
    }

    #[test]
    fn strides_cost_sectors_and_wavefronts() {
        for (stride, sectors, wavefronts) in [(1u32, 4, 1), (2, 8, 2), (8, 32, 8), (32, 32, 32), (33, 32, 1)] {
            let x = wave(64 * 33, 0.3, DType::F32);
            let (mut input, mut output) = (Buffer::input(&x), Buffer::output(DType::F32, 32));
            let arguments = [input.at().into(), output.at().into(), stride.into()];
            let launch = Launch::rows("mutants", "strided".into(), 1, 32, arguments);
            let counters = run_counted(&[launch], &mut [&mut input, &mut output]).expect("nothing is wrong with it");
            assert_eq!(counters.load_sectors, sectors, "stride {stride}");
            assert_eq!((counters.load_ideal, counters.store_sectors), (4, 4));
            assert_eq!(counters.shared_wavefronts, 2 * wavefronts, "stride {stride}: one write, one read");
            assert_eq!(counters.shared_ideal, 2);
        }
    }

    /// Kernel, threads, what is said of it.
    const MUTANTS: [(&str, usize, &str); 20] = [
        ("missing_barrier", 64, "reads shared memory that no one has written"),
        ("missing_second_barrier", 64, "race: thread"),
        ("missing_warp_barrier", 32, "reads shared memory that no one has written"),
        ("divergent_barrier", 64, "threads diverge"),
        ("two_barriers_for_one", 64, "threads diverge"),
        ("divergent_shuffle", 32, "lanes diverge: lane 0 of warp 0 waits for mask ffffffff, but lane 16"),
        ("shuffle_from_outside", 32, "asks lane 20, which does not take part"),
        ("misaligned_load", 32, "misaligned: a read of 16 bytes"),
        ("read_out_of_bounds", 64, "out of bounds: thread 63 reads 4 bytes"),
        ("write_out_of_bounds", 64, "out of bounds: thread 63 writes 4 bytes"),
        ("write_past_the_checks", 64, "something was written beside buffer 1"),
        ("write_into_an_input", 64, "writes into a buffer that is only read"),
        ("unwritten_shared_memory", 64, "reads shared memory that no one has written"),
        ("shared_out_of_bounds", 64, "leaves the block's shared memory"),
        ("half_of_dynamic", 64, "leaves the block's shared memory"),
        ("last_one_wins", 64, "depends on the schedule"),
        ("reverse", 65, "65 threads a block, but KERNEL says at most 64"),
        ("reverse", 1025, "1025 threads a block, 1 to 1024 are possible"),
        ("reverse", 0, "0 threads a block"),
        ("no_such", 64, "no such kernel"),
    ];

    #[test]
    fn every_mutant_is_caught() {
        for (name, threads, why) in MUTANTS {
            let (outcome, ..) = through(name, threads, &[]);
            let message = outcome.expect_err(name);
            assert!(message.contains(why), "{name}: {message}");
        }
        let (outcome, ..) = through("reverse", 64, &[1u32.into()]);
        assert!(outcome.expect_err("one too many").contains("3 arguments for 2 parameters"));
        let (outcome, ..) = through("strided", 32, &[Address::NULL.into()]);
        assert!(outcome.expect_err("a pointer for an int").contains("argument 2 has 8 bytes, its parameter 4"));
    }

    #[test]
    fn every_kernel_has_a_line_of_resources_and_its_largest_block_fits() {
        let limits = registers();
        let mut found = 0;
        for i in 0.. {
            let mut most_threads = 0;
            // SAFETY: the name is a literal of the harness, and the count is written before it returns one.
            let name = unsafe {
                let name = couplet_train_host_kernel(i, &mut most_threads);
                if name.is_null() {
                    break;
                }
                CStr::from_ptr(name).to_str().expect("an ASCII name")
            };
            if MUTANTS.iter().any(|(mutant, ..)| *mutant == name) || name == "strided" {
                continue;
            }
            let each = *limits.get(name).unwrap_or_else(|| panic!("{name} has no line in resources.tsv"));
            assert!(has_registers(each, most_threads), "{name}: {most_threads} threads of {each} registers");
            found += 1;
        }
        assert_eq!(found, limits.len(), "a line of resources.tsv without a kernel");
        assert!(has_registers(64, 1024) && !has_registers(65, 1024) && !has_registers(129, 512));
    }

    #[test]
    fn a_launch_after_a_failed_one_is_whole_again() {
        assert!(through("missing_barrier", 64, &[]).0.is_err());
        let (counters, x, y) = through("reverse", 64, &[]);
        assert!(counters.is_ok() && y.iter().eq(x.iter().rev()));
    }

    #[test]
    fn much_shared_memory_must_be_allowed_and_a_grid_has_limits() {
        let (mut x, mut y) = (Buffer::input(&wave(64, 0.3, DType::F32)), Buffer::output(DType::F32, 64));
        let arguments = [x.at().into(), y.at().into()];
        let launch = Launch::rows("mutants", "half_of_dynamic".into(), 1, 64, arguments);
        for (shared_bytes, fine) in [(64 * 4, true), (63 * 4, false), (200 << 10, true), (228 << 10, false)] {
            let launch = Launch { shared_bytes, ..launch.clone() };
            assert_eq!(run(&[launch], &mut [&mut x, &mut y]).is_ok(), fine, "{shared_bytes} bytes");
        }
        let launch = Launch { grid: [1, 65_536, 1], shared_bytes: 64 * 4, ..launch };
        let message = run(&[launch], &mut [&mut x, &mut y]).expect_err("a tall grid");
        assert!(message.contains("over the limits"), "{message}");
    }
}
