//! Cards, and what this binary holds for them: plain data, so that everything that follows from it is tested without a card.
//!
//! `cuda::cards` reads it from the driver; `device` chooses and refuses.

use candle_core::DType;
use std::{fmt, str::FromStr};

/// A card that the driver shows to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The driver's number for it, counted after `CUDA_VISIBLE_DEVICES`.
    pub index: usize,
    /// `NVIDIA H200`
    pub name: String,
    /// What its processors can do.
    pub capability: Capability,
    /// `None`: nobody looked, or the card lets nobody in.
    pub memory: Option<CardMemory>,
}

/// Bytes of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardMemory {
    /// What the next allocation may take.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// Bytes of this process's tensors on a card, and of the pool that they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// In tensors now.
    pub used: u64,
    /// In tensors at the most since [`forget_peak`](super::forget_peak).
    pub peak: u64,
    /// Taken from the card now; what is not in tensors is kept for the next ones.
    pub reserved: u64,
    /// Taken from the card at the most since then.
    pub peak_reserved: u64,
}

/// What the driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it knows; `None`: it does not say.
    pub version: Option<CudaVersion>,
    /// Every card that it shows, or the name of its error: `CUDA_ERROR_NO_DEVICE`.
    pub cards: Result<Vec<Card>, String>,
}

/// A compute capability: 9.0 of H100 and H200, 8.0 of A100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// The generation.
    pub major: u32,
    /// Its member.
    pub minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A version of CUDA as its libraries have it: 13000 is 13.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion(pub u32);

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

impl FromStr for CudaVersion {
    type Err = std::num::ParseIntError;

    /// `13.0`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self(1000 * major.parse::<u32>()? + 10 * minor.parse::<u32>()?))
    }
}

/// A piece of code for cards, and on which of them it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Machine code, `sm_80`: that generation, from that member on.
    Machine(Capability),
    /// PTX, `compute_80`: that capability and every later one; the driver compiles it.
    Ptx(Capability),
    /// PTX with instructions of one family, `compute_120f`: that generation, from that member on.
    PtxOfFamily(Capability),
    /// PTX with instructions of one architecture, `compute_90a`: that capability alone.
    PtxOfOne(Capability),
}

impl Code {
    /// Whether a card of this capability can run it.
    pub fn runs_on(self, card: Capability) -> bool {
        match self {
            Self::Machine(made_for) | Self::PtxOfFamily(made_for) => card.major == made_for.major && card >= made_for,
            Self::Ptx(made_for) => card >= made_for,
            Self::PtxOfOne(made_for) => card == made_for,
        }
    }

    /// The code of a PTX text, by its line `.target sm_90a`; `None`: it has none, as where only types were checked.
    pub fn of_ptx(text: &str) -> Option<Self> {
        let target = text.lines().find_map(|line| line.trim().strip_prefix(".target"))?;
        let name = target.trim().split([',', ' ']).next()?;
        format!("compute_{}", name.strip_prefix("sm_")?).parse().ok()
    }
}

impl FromStr for Code {
    type Err = String;

    /// nvcc's name: `sm_80`, `compute_80`, `compute_90a`, `compute_120f`.
    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("`{name}` names no code for a card");
        let (kind, number) = name.split_once('_').ok_or_else(unknown)?;
        let digits = number.trim_end_matches(['a', 'f']);
        let number_of = |digits: &str| digits.parse::<u32>().map_err(|_| unknown());
        let all = number_of(digits)?;
        let of = Capability { major: all / 10, minor: all % 10 };
        match (kind, &number[digits.len()..]) {
            ("sm", "") => Ok(Self::Machine(of)),
            ("compute", "") => Ok(Self::Ptx(of)),
            ("compute", "f") => Ok(Self::PtxOfFamily(of)),
            ("compute", "a") => Ok(Self::PtxOfOne(of)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, of, suffix) = match self {
            Self::Machine(of) => ("sm", of, ""),
            Self::Ptx(of) => ("compute", of, ""),
            Self::PtxOfFamily(of) => ("compute", of, "f"),
            Self::PtxOfOne(of) => ("compute", of, "a"),
        };
        write!(f, "{kind}_{}{}{suffix}", of.major, of.minor)
    }
}

/// What a binary was built with for cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The toolkit. Its libraries and its PTX want a driver that knows at least this CUDA.
    pub toolkit: CudaVersion,
    /// Our own kernels. One that runs is enough.
    pub own: Vec<Code>,
    /// candle's, which are compiled for one architecture, `CUDA_COMPUTE_CAP` of the build; `None`: not known.
    pub candle: Option<Code>,
}

impl Built {
    /// Whether there is code for a card of this capability.
    pub fn runs_on(&self, card: Capability) -> bool {
        self.own.iter().any(|code| code.runs_on(card)) && self.candle.is_none_or(|code| code.runs_on(card))
    }
}

/// Whether a card has a kernel of ours for attention with heads of this width. Otherwise candle's operations compute it there,
/// with all scores of a sample in memory at once.
pub fn has_attention(dtype: DType, width: usize) -> bool {
    dtype == DType::BF16 && matches!(width, 64 | 128)
}

/// Our own kernels' code, as build.rs has nvcc make it where the feature `cuda` is on.
pub fn own_code() -> Vec<Code> {
    let names = env!("COUPLET_TRAIN_CUDA_CODE").split(' ');
    names.map(|name| name.parse().expect("build.rs says it in nvcc's names")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(text: &str) -> Capability {
        let (major, minor) = text.split_once('.').unwrap();
        Capability { major: major.parse().unwrap(), minor: minor.parse().unwrap() }
    }

    #[test]
    fn code_runs_on_the_cards_it_was_made_for() {
        for (code, runs, does_not) in [
            ("sm_80", &["8.0", "8.6", "8.9"][..], &["7.5", "9.0", "12.0"][..]),
            ("sm_90", &["9.0"], &["8.9", "10.0"]),
            ("compute_80", &["8.0", "9.0", "12.1"], &["7.5"]),
            ("compute_90a", &["9.0"], &["8.9", "10.0", "12.0"]),
            ("compute_120f", &["12.0", "12.1"], &["9.0", "10.0"]),
        ] {
            let parsed: Code = code.parse().unwrap();
            assert_eq!(parsed.to_string(), code);
            runs.iter().for_each(|card| assert!(parsed.runs_on(capability(card)), "{code} on {card}"));
            does_not.iter().for_each(|card| assert!(!parsed.runs_on(capability(card)), "{code} on {card}"));
        }
        for wrong in ["", "sm", "sm_", "sm_90a", "sass_80", "compute_x"] {
            assert!(wrong.parse::<Code>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ptx_text_says_for_which_card_it_is() {
        let ptx = "//\n// Generated by NVIDIA NVVM Compiler\n.version 9.0\n.target sm_90a\n.address_size 64\n";
        assert_eq!(Code::of_ptx(ptx), Some(Code::PtxOfOne(capability("9.0"))));
        assert_eq!(Code::of_ptx(".version 9.0\n.target sm_80, texmode_independent\n"), "compute_80".parse().ok());
        assert_eq!(Code::of_ptx(""), None, "what a stand-in for nvcc leaves");
    }

    #[test]
    fn both_kinds_of_kernels_must_run() {
        let code = |name: &str| name.parse::<Code>().unwrap();
        assert_eq!(own_code(), [code("sm_80"), code("sm_90"), code("compute_80")], "what docs/gpu.md says");
        let built = |candle| Built { toolkit: CudaVersion(13000), own: own_code(), candle };
        for (candle, card, want, why) in [
            (Some(code("compute_90a")), "9.0", true, "the card it was built for"),
            (Some(code("compute_90a")), "8.0", false, "candle's kernels are too new"),
            (Some(code("compute_90a")), "12.0", false, "and of one architecture"),
            (Some(code("compute_80")), "8.9", true, "machine code of the generation"),
            (Some(code("compute_80")), "12.0", true, "PTX for what comes after"),
            (Some(code("compute_75")), "7.5", false, "ours begin with 8.0"),
            (None, "9.0", true, "nobody knows of candle's"),
        ] {
            assert_eq!(built(candle).runs_on(capability(card)), want, "{card}: {why}");
        }
    }

    #[test]
    fn versions_read_as_they_are_written() {
        for (number, text) in [(13000, "13.0"), (12080, "12.8"), (11040, "11.4")] {
            assert_eq!(CudaVersion(number).to_string(), text);
            assert_eq!(text.parse(), Ok(CudaVersion(number)));
        }
        assert!("thirteen".parse::<CudaVersion>().is_err());
    }
}
