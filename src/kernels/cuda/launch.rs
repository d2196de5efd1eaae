//! What a kernel is launched with. The same description goes to the CUDA driver and, in tests, to the host harness.

/// An address in the memory of the device (of the host harness: in that of this process).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub u64);

impl Address {
    /// Of nothing: what an optional operand of a kernel has when it is not there.
    pub const NULL: Self = Self(0);

    /// Whether 16 bytes at once may be read and written from here on.
    pub fn is_wide(self) -> bool {
        self.0.is_multiple_of(16)
    }
}

/// One argument of a kernel, as the bytes of its parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Argument {
    /// Little endian, as on every machine with CUDA: a parameter of 4 bytes is the first 4.
    pub words: [u64; 4],
    /// Bytes of the parameter. The driver takes as many as the kernel declares; the host harness compares.
    #[cfg_attr(not(all(test, feature = "cuda-host")), expect(dead_code, reason = "for the host harness"))]
    pub size: u64,
}

impl From<u64> for Argument {
    fn from(x: u64) -> Self {
        Self { words: [x, 0, 0, 0], size: 8 }
    }
}

impl From<Address> for Argument {
    fn from(at: Address) -> Self {
        at.0.into()
    }
}

impl From<f64> for Argument {
    fn from(x: f64) -> Self {
        x.to_bits().into()
    }
}

impl From<u32> for Argument {
    fn from(x: u32) -> Self {
        Self { words: [x.into(), 0, 0, 0], size: 4 }
    }
}

impl From<f32> for Argument {
    fn from(x: f32) -> Self {
        x.to_bits().into()
    }
}

/// A struct of eight floats, passed by value.
impl From<[f32; 8]> for Argument {
    fn from(x: [f32; 8]) -> Self {
        let word = |i: usize| u64::from(x[2 * i].to_bits()) | u64::from(x[2 * i + 1].to_bits()) << 32;
        Self { words: [word(0), word(1), word(2), word(3)], size: 32 }
    }
}

/// A kernel, its grid and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// The `.cu` file, without its ending.
    pub source: &'static str,
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// In the order of the kernel's parameters.
    pub arguments: Vec<Argument>,
}

impl Launch {
    /// Blocks in one row, threads in one row, no dynamic shared memory.
    pub fn rows(
        source: &'static str,
        kernel: String,
        blocks: usize,
        threads: usize,
        arguments: impl Into<Vec<Argument>>,
    ) -> Self {
        let (blocks, threads) = (narrow(blocks), narrow(threads));
        Self {
            source,
            kernel,
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: 0,
            arguments: arguments.into(),
        }
    }

    /// What a kernel has to be allowed before a block of it may have this much dynamic shared memory; 0: nothing.
    pub fn shared_to_allow(&self) -> u32 {
        // 48 KB are free, static ones included; of these no kernel has more than 8.
        const FREE: u32 = 40 * 1024;
        if self.shared_bytes > FREE { self.shared_bytes } else { 0 }
    }
}

/// The element type of a kernel: its name in kernels' names, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Real {
    F32,
    Bf16,
}

impl Real {
    /// Elements that a thread reads at once, where everything read and written lies at a multiple of 16 bytes and rows are
    /// multiples of it; else 1.
    pub fn per_access(self, width: usize, addresses: &[Address]) -> usize {
        let wide = 16 / self.bytes();
        if width.is_multiple_of(wide) && addresses.iter().all(|a| a.is_wide()) { wide } else { 1 }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// `f32`, `bf16`: how kernels' names end; `_wide` behind it where accesses are.
    pub fn suffix(self, per_access: usize) -> String {
        let name = match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        };
        format!("{name}{}", if per_access > 1 { "_wide" } else { "" })
    }
}

/// A count as kernels take it.
///
/// Panics from 2³² on: no tensor of a micro-batch has that many rows, and kernels index elements in 64 bits.
pub(super) fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("a count of rows or columns fits u32")
}
