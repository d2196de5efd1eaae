//! Where to compute: the CPU, or a CUDA card where this binary was built for one.

use crate::{
    config::DeviceChoice,
    error::{Error, Result},
    kernels::ProductPath,
};
use candle_core::Device;
use std::path::Path;

/// Models from this many parameters on are not trained on the CPU by accident when an NVIDIA driver is there.
const SMALL: usize = 1_000_000_000;

/// How to build the binary that uses the card.
pub const CUDA_BUILD: &str = "cargo build --release --features cuda";

/// What a machine and a build have; read once, so that the rule below is a pure function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// This binary was built with `--features cuda`.
    pub built_with_cuda: bool,
    /// An NVIDIA driver is loaded on this machine.
    pub nvidia_driver: bool,
}

impl Surroundings {
    /// Of this process.
    pub fn read() -> Self {
        Self {
            built_with_cuda: cfg!(feature = "cuda"),
            nvidia_driver: Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists(),
        }
    }
}

/// Opens the device of the recipe for a model of `parameters` weights.
///
/// Errors: as [`decide`]; a card that does not open; on the CPU, as [`ProductPath::chosen`].
pub fn open(choice: DeviceChoice, parameters: usize) -> Result<Device> {
    match decide(choice, Surroundings::read(), parameters)? {
        None => ProductPath::chosen().map(|_| Device::Cpu),
        Some(card) => open_cuda(card).map_err(|err| {
            Error::input(format!("device cuda:{card} cannot be opened: {err}"))
                .hint("`nvidia-smi` lists the cards; `device=cpu` trains without one")
                .hint_zh("用 `nvidia-smi` 查看显卡；`device=cpu` 可不用显卡训练")
        }),
    }
}

/// The card to use, or `None` for the CPU.
///
/// Errors: a card is asked for in a binary without CUDA; `auto` would put a large model on the CPU beside an idle card.
pub fn decide(choice: DeviceChoice, around: Surroundings, parameters: usize) -> Result<Option<usize>> {
    let without_cuda = |what: String| {
        Error::input(what)
            .hint(format!("build it with `{CUDA_BUILD}`, or say `device=cpu` to train on the CPU all the same"))
            .hint_zh(format!("请用 `{CUDA_BUILD}` 编译；若坚持用 CPU 训练，请加 `device=cpu`"))
    };
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda(card) if around.built_with_cuda => Ok(Some(card)),
        DeviceChoice::Cuda(card) => {
            Err(without_cuda(format!("device = \"cuda:{card}\", but this binary was built without CUDA")))
        }
        DeviceChoice::Auto if around.built_with_cuda => Ok(around.nvidia_driver.then_some(0)),
        DeviceChoice::Auto if around.nvidia_driver && parameters > SMALL => Err(without_cuda(format!(
            "an NVIDIA driver is present, but this binary was built without CUDA; {:.1} billion parameters would train \
             on the CPU",
            parameters as f64 / 1e9
        ))),
        DeviceChoice::Auto => Ok(None),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(card: usize) -> Result<Device> {
    let device = Device::new_cuda(card)?;
    crate::kernels::keep_freed_memory(&device)?;
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_card: usize) -> Result<Device> {
    unreachable!("decide() returns a card only in a build with CUDA")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_model_does_not_land_on_the_cpu_by_accident() {
        let here = |built_with_cuda, nvidia_driver| Surroundings { built_with_cuda, nvidia_driver };
        use DeviceChoice::{Auto, Cpu, Cuda};
        let big = 14_000_000_000;
        for (choice, around, parameters, want, why) in [
            (Auto, here(false, false), big, Ok(None), "no card at all"),
            (Auto, here(false, true), 6_000_000, Ok(None), "a small model is quick anyway"),
            (Auto, here(false, true), big, Err("an NVIDIA driver is present"), "the wrong binary"),
            (Cpu, here(false, true), big, Ok(None), "forced"),
            (Auto, here(true, true), big, Ok(Some(0)), "the normal case on a GPU machine"),
            (Auto, here(true, false), 6_000_000, Ok(None), "a CUDA binary without a driver"),
            (Cuda(1), here(true, true), big, Ok(Some(1)), "asked for"),
            (Cuda(1), here(false, true), 1, Err("device = \"cuda:1\", but"), "asked for in vain"),
        ] {
            match (decide(choice, around, parameters), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{why}"),
                (Err(err), Err(want)) => {
                    assert!(err.to_string().starts_with(want), "{why}: {err}");
                    assert!(err.hint_text(false).is_some_and(|h| h.contains(CUDA_BUILD)), "{why}");
                }
                (got, want) => panic!("{why}: got {got:?}, want {want:?}"),
            }
        }
    }
}
