//! Where to compute: the CPU, or a CUDA card where this binary was built for one. Which card, and why none.

mod refusal;

use crate::{
    config::DeviceChoice,
    error::{Error, Result},
    kernels::{
        self, ProductPath,
        card::{Built, Card, CardMemory, CudaVersion, Driver},
    },
};
use candle_core::Device;
use std::path::Path;

/// Models from this many parameters on are not trained on the CPU by accident where a card might have been meant.
const SMALL: usize = 1_000_000_000;

/// How to build the binary that uses the card.
pub const CUDA_BUILD: &str = "cargo build --release --features cuda";

/// What a machine and a build have; read once, so that the rule below is a pure function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// What this binary holds for cards; `None`: it was built without CUDA.
    pub built: Option<Built>,
    /// What the driver says to a binary that can ask it.
    pub driver: Option<Driver>,
    /// An NVIDIA driver is loaded on this machine.
    pub nvidia_driver: bool,
    /// `CUDA_VISIBLE_DEVICES`
    pub visible: Option<String>,
}

impl Surroundings {
    /// Of this process. Where a choice among cards may depend on it, or `memory` asks for it, also what is free on them: that
    /// costs some tenths of a second a card.
    pub fn read(choice: DeviceChoice, memory: bool) -> Self {
        let driver = match (choice, memory) {
            (DeviceChoice::Cpu, false) => None,
            (DeviceChoice::Auto, false) => {
                let driver = kernels::driver(false);
                let is_one_of_many = |driver: &Driver| driver.cards.as_ref().is_ok_and(|cards| cards.len() > 1);
                if driver.as_ref().is_some_and(is_one_of_many) { kernels::driver(true) } else { driver }
            }
            (_, memory) => kernels::driver(memory),
        };
        Self {
            built: kernels::built(),
            driver,
            nvidia_driver: Path::new(MODULE).exists() || Path::new("/dev/nvidiactl").exists(),
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
        }
    }
}

/// The driver in the kernel says its version here.
const MODULE: &str = "/proc/driver/nvidia/version";

/// The version of the NVIDIA driver that is loaded, such as `580.65.06`. Linux tells.
pub fn driver_version() -> Option<String> {
    version_in(&std::fs::read_to_string(MODULE).ok()?).map(str::to_owned)
}

/// The first word of numbers and dots.
fn version_in(text: &str) -> Option<&str> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version)
}

/// A device, ready to compute.
pub struct Opened {
    /// For tensors.
    pub device: Device,
    /// What it is, its memory as it was just after it was opened; `None`: the CPU.
    pub card: Option<Card>,
    /// The newest CUDA that its driver knows.
    pub driver: Option<CudaVersion>,
    /// Why `auto` took the CPU in a binary that was built for cards.
    pub passed_over: Option<Error>,
}

impl Opened {
    /// `cuda:0, NVIDIA H200, 149.3 of 150.8 GB free, compute capability 9.0, driver 580.65.06 for CUDA 13.0`
    pub fn describe(&self) -> Option<String> {
        let card = self.card.as_ref()?;
        let memory = card.memory.map(|memory| format!(", {}", free_of(memory))).unwrap_or_default();
        let module = driver_version().map(|version| format!(" {version}")).unwrap_or_default();
        let driver = self.driver.map(|version| format!(", driver{module} for CUDA {version}")).unwrap_or_default();
        let (index, name, capability) = (card.index, &card.name, card.capability);
        Some(format!("cuda:{index}, {name}{memory}, compute capability {capability}{driver}"))
    }
}

/// `149.3 of 150.8 GB free`
pub fn free_of(memory: CardMemory) -> String {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    format!("{:.1} of {:.1} GB free", gb(memory.free), gb(memory.total))
}

/// Opens the device of the recipe for a model of `parameters` weights.
///
/// Errors: as [`decide`]; a card that does not open; on the CPU, as [`ProductPath::chosen`].
pub fn open(choice: DeviceChoice, parameters: usize) -> Result<Opened> {
    let around = Surroundings::read(choice, false);
    let Decided { card, passed_over } = decide(choice, &around, parameters)?;
    let Some(card) = card else {
        ProductPath::chosen()?;
        return Ok(Opened { device: Device::Cpu, card: None, driver: None, passed_over });
    };
    let place = format!("cuda:{} ({})", card.index, card.name);
    let device = kernels::open_card(card.index).map_err(|err| refusal::failed(&place, &err.to_string()))?;
    let memory = kernels::card_memory(&device);
    let driver = around.driver.and_then(|driver| driver.version);
    Ok(Opened { device, card: Some(Card { memory, ..card }), driver, passed_over: None })
}

/// What [`decide`] decides.
#[derive(Debug)]
pub struct Decided {
    /// The card to use, or `None` for the CPU.
    pub card: Option<Card>,
    /// As [`Opened::passed_over`].
    pub passed_over: Option<Error>,
}

/// The card to use, or the CPU.
///
/// `auto` takes, among the cards that this binary has code for, the one with most free memory, the first of equals.
///
/// Errors: a card is asked for that is not there or cannot be used, or in a binary without CUDA; `auto` would put a large model
/// on the CPU where a card might have been meant.
pub fn decide(choice: DeviceChoice, around: &Surroundings, parameters: usize) -> Result<Decided> {
    let without_cuda = |what: String| {
        Error::input(what)
            .hint(format!("build it with `{CUDA_BUILD}`, or say `device=cpu` to train on the CPU all the same"))
            .hint_zh(format!("请用 `{CUDA_BUILD}` 编译；若坚持用 CPU 训练，请加 `device=cpu`"))
    };
    let visible = around.visible.as_deref();
    let cpu = Decided { card: None, passed_over: None };
    match (choice, around.built.as_ref().zip(around.driver.as_ref())) {
        (DeviceChoice::Cpu, _) => Ok(cpu),
        (DeviceChoice::Cuda(index), Some((built, driver))) => {
            let card = refusal::named(index, driver, built, visible)?.clone();
            Ok(Decided { card: Some(card), passed_over: None })
        }
        (DeviceChoice::Cuda(card), None) => {
            Err(without_cuda(format!("device = \"cuda:{card}\", but this binary was built without CUDA")))
        }
        (DeviceChoice::Auto, Some((built, driver))) => match refusal::usable(driver, built, visible) {
            Ok(cards) => Ok(Decided { card: most_free(&cards).cloned(), passed_over: None }),
            Err(why) if parameters > SMALL => Err(why),
            Err(why) => Ok(Decided { card: None, passed_over: Some(why) }),
        },
        (DeviceChoice::Auto, None) if around.nvidia_driver && parameters > SMALL => Err(without_cuda(format!(
            "an NVIDIA driver is present, but this binary was built without CUDA; {:.1} billion parameters would train \
             on the CPU",
            parameters as f64 / 1e9
        ))),
        (DeviceChoice::Auto, None) => Ok(cpu),
    }
}

/// The first of those with most free memory; one that lets nobody in only where all are so.
fn most_free<'a>(cards: &[&'a Card]) -> Option<&'a Card> {
    let free = |card: &Card| card.memory.map(|memory| memory.free);
    cards.iter().copied().rev().max_by_key(|card| free(card))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::card::{Capability, own_code};

    const BIG: usize = 14_000_000_000;

    fn card(index: usize, (major, minor): (u32, u32), free: Option<u64>) -> Card {
        let memory = free.map(|free| CardMemory { free, total: 80_000_000_000 });
        Card { index, name: "NVIDIA".into(), capability: Capability { major, minor }, memory }
    }

    fn built_for_9_0() -> Built {
        Built { toolkit: CudaVersion(13000), own: own_code(), candle: "compute_90a".parse().ok() }
    }

    fn with_cuda(cards: Result<Vec<Card>, &str>) -> Surroundings {
        let driver = Driver { version: Some(CudaVersion(13000)), cards: cards.map_err(str::to_owned) };
        Surroundings { built: Some(built_for_9_0()), driver: Some(driver), nvidia_driver: true, visible: None }
    }

    #[test]
    fn auto_takes_the_card_with_most_free_memory() {
        let h = |index, free| card(index, (9, 0), free);
        for (cards, want, why) in [
            (vec![h(0, None)], 0, "the only one, where nobody looked"),
            (vec![h(0, Some(10)), h(1, Some(70)), h(2, Some(30))], 1, "the emptiest"),
            (vec![h(0, Some(40)), h(1, Some(40))], 0, "the first of equals"),
            (vec![h(0, None), h(1, Some(5))], 1, "one that lets nobody in comes last"),
            (vec![h(0, None), h(1, None)], 0, "all let nobody in"),
            (vec![card(0, (8, 0), Some(99)), h(1, Some(5))], 1, "it must have code for it"),
        ] {
            let decided = decide(DeviceChoice::Auto, &with_cuda(Ok(cards)), BIG).unwrap();
            assert_eq!(decided.card.map(|card| card.index), Some(want), "{why}");
        }
    }

    #[test]
    fn a_large_model_does_not_land_on_the_cpu_by_accident() {
        let cpu_only = |nvidia_driver| Surroundings { built: None, driver: None, nvidia_driver, visible: None };
        let two = || with_cuda(Ok(vec![card(0, (9, 0), Some(1)), card(1, (9, 0), Some(2))]));
        let none = || with_cuda(Err("CUDA_ERROR_NO_DEVICE"));
        use DeviceChoice::{Auto, Cpu, Cuda};
        for (choice, around, parameters, want, why) in [
            (Auto, cpu_only(false), BIG, Ok(None), "no card at all"),
            (Auto, cpu_only(true), 6_000_000, Ok(None), "a small model is quick anyway"),
            (Auto, cpu_only(true), BIG, Err("an NVIDIA driver is present"), "the wrong binary"),
            (Cpu, cpu_only(true), BIG, Ok(None), "forced"),
            (Cpu, two(), BIG, Ok(None), "forced"),
            (Auto, two(), BIG, Ok(Some(1)), "the normal case on a GPU machine"),
            (Auto, none(), 6_000_000, Ok(None), "a CUDA binary without a card"),
            (Auto, none(), BIG, Err("the NVIDIA driver shows no card"), "nobody takes this binary for a CPU"),
            (Cuda(0), two(), BIG, Ok(Some(0)), "asked for"),
            (Cuda(2), two(), 1, Err("there is no cuda:2; the driver shows cuda:0 (NVIDIA), cuda:1"), "one too many"),
            (Cuda(1), cpu_only(true), 1, Err("device = \"cuda:1\", but"), "asked for in vain"),
            (Cuda(0), none(), 1, Err("the NVIDIA driver shows no card"), "asked for in vain"),
        ] {
            match (decide(choice, &around, parameters), want) {
                (Ok(got), Ok(want)) => {
                    assert_eq!(got.card.map(|card| card.index), want, "{why}");
                    let told = around.built.is_some() && choice == Auto && want.is_none();
                    assert_eq!(got.passed_over.is_some(), told, "{why}: not unseen");
                }
                (Err(err), Err(want)) => {
                    assert!(err.to_string().starts_with(want), "{why}: {err}");
                    assert!(err.hint_text(false).is_some_and(|hint| hint.contains("device=")), "{why}");
                    assert!(err.hint_text(true).is_some_and(|hint| hint.contains("device=")), "{why}");
                }
                (got, want) => panic!("{why}: got {got:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn the_driver_says_its_version_in_its_first_line() {
        for (text, want) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:12:00 UTC 2025\nGCC version:",
                "580.65.06",
            ),
            ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n", "575.57.08"),
        ] {
            assert_eq!(version_in(text), Some(want));
        }
        assert_eq!(version_in("nothing of the kind"), None);
    }

    #[test]
    fn a_card_is_described_in_one_line() {
        let memory = CardMemory { free: 149_300_000_000, total: 150_800_000_000 };
        let card = Card { name: "NVIDIA H200".into(), memory: Some(memory), ..card(1, (9, 0), None) };
        let opened =
            Opened { device: Device::Cpu, card: Some(card), driver: Some(CudaVersion(13000)), passed_over: None };
        let line = opened.describe().unwrap();
        let start = "cuda:1, NVIDIA H200, 149.3 of 150.8 GB free, compute capability 9.0, driver";
        assert!(line.starts_with(start) && line.ends_with(" for CUDA 13.0"), "{line}");
    }
}
