//! AMX-BF16 (Sapphire Rapids and later): eight registers of 16 rows x 64 bytes, and an instruction that multiplies two.
//!
//! A tile of the product is 32x32, four of the registers; two more hold 16 rows of `A` each, the last two 16 columns of
//! `B` each. `A` lies so that the 32 values of a step are one register's 1,024 bytes; `B` is used as it is packed.
//!
//! What the loops do with the registers is the trait [`Registers`]: the CPU's, and in tests a model of them in plain
//! code, so that order and addresses are tested on every machine.

use super::{
    blocked::{Kernel, put_pairs},
    layout::{SIDE, Words},
};
use half::bf16;
use std::marker::PhantomData;

/// The path over some registers.
pub(super) struct Amx<R>(PhantomData<R>);

/// Four sums `C`, of which `TWO` says whether the lower two (rows 16 to 31) are used.
///
/// # Safety
/// Pointers reach as far as each function says, and [`Registers::enter`] was called on this thread.
pub(super) trait Registers {
    /// Claims the registers for this thread.
    unsafe fn enter();
    /// Gives them back.
    unsafe fn leave();
    /// A set to work with.
    fn new() -> Self;
    /// `C = 0`.
    unsafe fn zero<const TWO: bool>(&mut self);
    /// `C` from `[16 or 32][32]` f32.
    unsafe fn load<const TWO: bool>(&mut self, c: *const f32);
    /// `C` into `[16 or 32][32]` f32.
    unsafe fn store<const TWO: bool>(&self, c: *mut f32);
    /// `C += A·B` over 32 values of the depth: `a` `[1 or 2][16 rows][16 pairs]`, `b` `[16 pairs][32 columns]`.
    unsafe fn step<const TWO: bool>(&mut self, a: *const u32, b: *const u32);
}

const ROWS: usize = 32;

/// Words of `A` and of `B` in a step.
const STEP: usize = ROWS * 16;

impl<R: Registers + Sync> Kernel for Amx<R> {
    type Weight = bf16;
    type Word = u32;
    const VALUES: usize = 2;
    const ROWS: usize = ROWS;
    const STEP: usize = 32;
    const DEPTH: usize = 512;
    const FETCHES: bool = false;

    #[inline(always)]
    fn put(tile: &mut [u32], row: usize, i: usize, values: &[u16; SIDE]) {
        put_pairs::<ROWS>(tile, row, i, values);
    }

    fn run(&self, task: impl FnOnce()) {
        // SAFETY: whoever made `self` has seen that the registers are there and may be used.
        unsafe { R::enter() };
        task();
        // SAFETY: as above.
        unsafe { R::leave() };
    }

    fn right<'a>(&self, pairs: &'a [u32], _: &'a mut Words) -> &'a [u32] {
        pairs
    }

    fn tile(&self, a: &[u32], b: &[u32], rows: usize, _: usize, first: bool, c: &mut [f32]) {
        assert!(a.len() == b.len() && a.len().is_multiple_of(STEP) && c.len() >= ROWS * SIDE);
        // SAFETY: `run` has entered, and the lengths were checked above.
        unsafe {
            match rows > 16 {
                true => tile::<R, true>(a, b, first, c.as_mut_ptr()),
                false => tile::<R, false>(a, b, first, c.as_mut_ptr()),
            }
        }
    }
}

/// # Safety
/// As [`Registers`]; `a` and `b` hold whole steps, `c` 32x32 elements.
unsafe fn tile<R: Registers, const TWO: bool>(a: &[u32], b: &[u32], first: bool, c: *mut f32) {
    let mut registers = R::new();
    // SAFETY: the caller's promise.
    unsafe {
        match first {
            true => registers.zero::<TWO>(),
            false => registers.load::<TWO>(c),
        }
        for (a, b) in a.chunks_exact(STEP).zip(b.chunks_exact(STEP)) {
            registers.step::<TWO>(a.as_ptr(), b.as_ptr());
        }
        registers.store::<TWO>(c);
    }
}

pub(super) use hardware::busy;

mod hardware {
    use super::{Amx, Registers};
    use std::{
        arch::{asm, x86_64::__cpuid_count},
        marker::PhantomData,
        sync::OnceLock,
    };

    /// The CPU's registers: `tmm0` to `tmm3` are `C`, `tmm4` and `tmm5` rows, `tmm6` and `tmm7` columns.
    ///
    /// Nothing is kept here; between the calls of one tile the values stay in the registers, which no compiled code uses
    /// by itself.
    pub(in super::super) struct Hardware;

    impl Amx<Hardware> {
        /// Where CPU and kernel have and allow it.
        pub(in super::super) fn new() -> Option<Self> {
            static ALLOWED: OnceLock<bool> = OnceLock::new();
            ALLOWED.get_or_init(|| on_cpu() && permitted()).then_some(Self(PhantomData))
        }
    }

    /// CPUID 7.0: EDX bit 22 AMX-BF16, bit 24 AMX-TILE.
    fn on_cpu() -> bool {
        // The leaf is only read where it exists.
        is_x86_feature_detected!("avx2") && __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == (1 << 22 | 1 << 24)
    }

    /// Asks Linux for the registers, which a process may use only after asking, then in all of its threads.
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const TILE_DATA: usize = 18;
        let refused: isize;
        // SAFETY: a system call that touches no memory of ours; the kernel changes rax, rcx and r11 alone.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => refused,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        refused == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }

    /// What `ldtilecfg` reads: palette 1, eight registers of 16 rows of 64 bytes, the rest zero.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    static CONFIG: Config = {
        let (mut bytes, mut rows) = ([0; 16], [0; 16]);
        let mut i = 0;
        while i < 8 {
            (bytes[i], rows[i]) = (64, 16);
            i += 1;
        }
        Config { palette: 1, start_row: 0, reserved: [0; 14], bytes, rows }
    };

    /// Multiplies registers `times` times; the FLOP that were. For measuring what the CPU can do.
    pub(in super::super) fn busy(times: u64) -> u64 {
        assert!(Amx::<Hardware>::new().is_some());
        // SAFETY: the registers are there and may be used; the loop touches no memory.
        unsafe {
            Hardware::enter();
            asm!(
                "tilezero %tmm4", "tilezero %tmm6",
                "2:",
                "tdpbf16ps %tmm6, %tmm4, %tmm0", "tdpbf16ps %tmm6, %tmm4, %tmm1",
                "tdpbf16ps %tmm6, %tmm4, %tmm2", "tdpbf16ps %tmm6, %tmm4, %tmm3",
                "dec {times}",
                "jnz 2b",
                times = inout(reg) times.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm6") _,
                options(att_syntax, nostack, nomem),
            );
            Hardware::leave();
        }
        times.max(1) * (4 * 16 * 16 * 32 * 2)
    }

    /// Bytes between two rows of 32 words.
    const STRIDE: usize = 128;

    impl Registers for Hardware {
        unsafe fn enter() {
            // SAFETY: 64 bytes that the instruction only reads; it changes the tile registers alone.
            unsafe {
                asm!(
                    "ldtilecfg ({0})",
                    in(reg) &raw const CONFIG,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(att_syntax, nostack, preserves_flags, readonly),
                );
            }
        }

        unsafe fn leave() {
            // SAFETY: changes the tile registers alone.
            unsafe {
                asm!(
                    "tilerelease",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(att_syntax, nostack, preserves_flags, nomem),
                );
            }
        }

        #[inline(always)]
        fn new() -> Self {
            Self
        }

        #[inline(always)]
        unsafe fn zero<const TWO: bool>(&mut self) {
            // SAFETY: changes the tile registers alone.
            unsafe {
                asm!(
                    "tilezero %tmm0", "tilezero %tmm1", "tilezero %tmm2", "tilezero %tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(att_syntax, nostack, preserves_flags, nomem),
                );
            }
        }

        #[inline(always)]
        unsafe fn load<const TWO: bool>(&mut self, c: *const f32) {
            // SAFETY: the caller promises 16 rows of 128 bytes, 32 with `TWO`.
            unsafe {
                asm!(
                    "tileloadd ({c},{stride},1), %tmm0", "tileloadd 64({c},{stride},1), %tmm1",
                    c = in(reg) c, stride = in(reg) STRIDE,
                    out("tmm0") _, out("tmm1") _,
                    options(att_syntax, nostack, preserves_flags, readonly),
                );
                if TWO {
                    asm!(
                        "tileloadd 2048({c},{stride},1), %tmm2", "tileloadd 2112({c},{stride},1), %tmm3",
                        c = in(reg) c, stride = in(reg) STRIDE,
                        out("tmm2") _, out("tmm3") _,
                        options(att_syntax, nostack, preserves_flags, readonly),
                    );
                }
            }
        }

        #[inline(always)]
        unsafe fn store<const TWO: bool>(&self, c: *mut f32) {
            // SAFETY: the caller promises 16 rows of 128 bytes, 32 with `TWO`.
            unsafe {
                asm!(
                    "tilestored %tmm0, ({c},{stride},1)", "tilestored %tmm1, 64({c},{stride},1)",
                    c = in(reg) c, stride = in(reg) STRIDE,
                    options(att_syntax, nostack, preserves_flags),
                );
                if TWO {
                    asm!(
                        "tilestored %tmm2, 2048({c},{stride},1)", "tilestored %tmm3, 2112({c},{stride},1)",
                        c = in(reg) c, stride = in(reg) STRIDE,
                        options(att_syntax, nostack, preserves_flags),
                    );
                }
            }
        }

        #[inline(always)]
        unsafe fn step<const TWO: bool>(&mut self, a: *const u32, b: *const u32) {
            // SAFETY: the caller promises 16 rows of 64 bytes at `a`, 32 with `TWO`, and 16 rows of 128 bytes at `b`.
            unsafe {
                if TWO {
                    asm!(
                        "tileloadd ({b},{b_stride},1), %tmm6",
                        "tileloadd ({a},{a_stride},1), %tmm4",
                        "tdpbf16ps %tmm6, %tmm4, %tmm0",
                        "tileloadd 1024({a},{a_stride},1), %tmm5",
                        "tdpbf16ps %tmm6, %tmm5, %tmm2",
                        "tileloadd 64({b},{b_stride},1), %tmm7",
                        "tdpbf16ps %tmm7, %tmm4, %tmm1",
                        "tdpbf16ps %tmm7, %tmm5, %tmm3",
                        a = in(reg) a, b = in(reg) b, a_stride = in(reg) STRIDE / 2, b_stride = in(reg) STRIDE,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(att_syntax, nostack, preserves_flags, readonly),
                    );
                } else {
                    asm!(
                        "tileloadd ({b},{b_stride},1), %tmm6",
                        "tileloadd ({a},{a_stride},1), %tmm4",
                        "tdpbf16ps %tmm6, %tmm4, %tmm0",
                        "tileloadd 64({b},{b_stride},1), %tmm7",
                        "tdpbf16ps %tmm7, %tmm4, %tmm1",
                        a = in(reg) a, b = in(reg) b, a_stride = in(reg) STRIDE / 2, b_stride = in(reg) STRIDE,
                        out("tmm0") _, out("tmm1") _,
                        out("tmm4") _, out("tmm6") _, out("tmm7") _,
                        options(att_syntax, nostack, preserves_flags, readonly),
                    );
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn registers_that_are_not_there_are_not_used() {
            if on_cpu() {
                // The kernel may still refuse; then the next path is taken.
                assert_eq!(Amx::<Hardware>::new().is_some(), permitted());
            } else {
                assert!(!permitted(), "the kernel refuses what the CPU does not have");
                assert!(Amx::<Hardware>::new().is_none());
            }
        }
    }
}

#[cfg(test)]
pub(super) mod model {
    //! The registers in plain code.

    use super::{super::blocked::widened, Amx, PhantomData, Registers, SIDE};

    pub(in super::super) struct Model([[f32; 256]; 4]);

    impl Amx<Model> {
        pub(in super::super) fn modelled() -> Self {
            Self(PhantomData)
        }
    }

    /// `(register, row, column)` of every element of `C`.
    fn elements(two: bool) -> impl Iterator<Item = (usize, usize, usize)> {
        let registers = if two { 0..4 } else { 0..2 };
        registers.flat_map(|r| (0..256).map(move |e| (r, e / 16, e % 16)))
    }

    impl Registers for Model {
        unsafe fn enter() {}

        unsafe fn leave() {}

        fn new() -> Self {
            Self([[f32::NAN; 256]; 4])
        }

        unsafe fn zero<const TWO: bool>(&mut self) {
            self.0 = [[0.0; 256]; 4];
        }

        unsafe fn load<const TWO: bool>(&mut self, c: *const f32) {
            for (r, row, column) in elements(TWO) {
                let at = (r / 2 * 16 + row) * SIDE + r % 2 * 16 + column;
                // SAFETY: the caller promises 16 or 32 rows of 32.
                self.0[r][row * 16 + column] = unsafe { *c.add(at) };
            }
        }

        unsafe fn store<const TWO: bool>(&self, c: *mut f32) {
            for (r, row, column) in elements(TWO) {
                let at = (r / 2 * 16 + row) * SIDE + r % 2 * 16 + column;
                // SAFETY: the caller promises 16 or 32 rows of 32.
                unsafe { *c.add(at) = self.0[r][row * 16 + column] };
            }
        }

        unsafe fn step<const TWO: bool>(&mut self, a: *const u32, b: *const u32) {
            for (r, row, column) in elements(TWO) {
                for pair in 0..16 {
                    // SAFETY: the caller promises one or two registers of `A` and 16 rows of 32 words of `B`.
                    let (x, w) =
                        unsafe { (*a.add(r / 2 * 256 + row * 16 + pair), *b.add(pair * SIDE + r % 2 * 16 + column)) };
                    let c = &mut self.0[r][row * 16 + column];
                    *c = widened(w as u16).mul_add(widened(x as u16), *c);
                    *c = widened((w >> 16) as u16).mul_add(widened((x >> 16) as u16), *c);
                }
            }
        }
    }
}
