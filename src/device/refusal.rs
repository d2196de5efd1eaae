//! Why a card cannot be used, in one sentence, and the way out. What the driver said and what the binary holds go in, so that
//! all of it is tested without a card.

use crate::{
    error::{Error, Result},
    kernels::card::{Built, Card, CudaVersion, Driver},
};

/// An error of the driver that users can do something about.
struct Known {
    /// As the driver names it.
    name: &'static str,
    what: &'static str,
    hint: &'static str,
    hint_zh: &'static str,
}

const NO_DEVICE: &str = "CUDA_ERROR_NO_DEVICE";

const KNOWN: &[Known] = &[
    Known {
        name: NO_DEVICE,
        what: "the NVIDIA driver shows no card",
        hint: "`nvidia-smi -L` lists them; CUDA_VISIBLE_DEVICES hides some or all, a container needs `--gpus all`",
        hint_zh: "用 `nvidia-smi -L` 查看显卡；CUDA_VISIBLE_DEVICES 会隐藏显卡，容器需要 `--gpus all`",
    },
    Known {
        name: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        what: "libcuda.so.1 and the NVIDIA driver in the kernel are of different versions",
        hint: "after an update of the driver: restart the machine; in a container: restart it",
        hint_zh: "更新驱动后请重启机器；若在容器内，请重启容器",
    },
    Known {
        name: "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        what: "the libcuda.so.1 that was found is a forward-compatibility package, which this card does not take",
        hint: "leave `cuda-compat` out of LD_LIBRARY_PATH, and update the driver itself",
        hint_zh: "请从 LD_LIBRARY_PATH 去掉 `cuda-compat`，并更新驱动本身",
    },
    Known {
        name: "CUDA_ERROR_STUB_LIBRARY",
        what: "the libcuda.so.1 that was found is the toolkit's stub, which only serves for linking",
        hint: "leave `lib64/stubs` out of LD_LIBRARY_PATH",
        hint_zh: "请从 LD_LIBRARY_PATH 去掉 `lib64/stubs`",
    },
    Known {
        name: "CUDA_ERROR_SYSTEM_NOT_READY",
        what: "the cards of this machine are connected by NVSwitch, and their Fabric Manager does not run",
        hint: "`systemctl start nvidia-fabricmanager`; its version must be the driver's",
        hint_zh: "请执行 `systemctl start nvidia-fabricmanager`，其版本须与驱动一致",
    },
    Known {
        name: "CUDA_ERROR_DEVICE_UNAVAILABLE",
        what: "another process has the card for itself",
        hint: "`nvidia-smi` shows who; take another card, or let several in with `nvidia-smi -c 0`",
        hint_zh: "用 `nvidia-smi` 查看占用者；请换一块显卡，或用 `nvidia-smi -c 0` 允许多个进程",
    },
    Known {
        name: "CUDA_ERROR_INVALID_DEVICE",
        what: "the driver has no card of this number",
        hint: "`couplet-train doctor` lists those that there are",
        hint_zh: "用 `couplet-train doctor` 查看有哪些显卡",
    },
    Known {
        name: "CUDA_ERROR_OUT_OF_MEMORY",
        what: "the card's memory is taken before anything is loaded",
        hint: "`nvidia-smi` shows by whom; end that, or take another card",
        hint_zh: "用 `nvidia-smi` 查看占用者；请结束它，或换一块显卡",
    },
    Known {
        name: "CUDA_ERROR_NO_BINARY_FOR_GPU",
        what: "this binary has no code for the card",
        hint: "`couplet-train doctor` shows what it was built for; build it for this card with CUDA_COMPUTE_CAP",
        hint_zh: "用 `couplet-train doctor` 查看程序支持的显卡；请用 CUDA_COMPUTE_CAP 为该显卡重新编译",
    },
    Known {
        name: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        what: "the NVIDIA driver is older than the compiler that made the kernels",
        hint: "update the driver: one for CUDA 13.0 is 580 or newer",
        hint_zh: "请更新驱动：CUDA 13.0 需要 580 或更新的驱动",
    },
    Known {
        name: "CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
        what: "the driver's compiler for kernels, libnvidia-ptxjitcompiler.so.1, is missing",
        hint: "it belongs to the driver: install it completely, in a container with the capability `compute`",
        hint_zh: "它属于驱动：请完整安装驱动；容器需要 `compute` 能力",
    },
    Known {
        name: "CUDA_ERROR_ECC_UNCORRECTABLE",
        what: "the card's memory has an error that it cannot correct",
        hint: "`nvidia-smi -q -d ECC` shows it; the card must be reset or replaced",
        hint_zh: "用 `nvidia-smi -q -d ECC` 查看；该显卡须重置或更换",
    },
    Known {
        name: "CUDA_ERROR_UNKNOWN",
        what: "the NVIDIA driver does not start (CUDA_ERROR_UNKNOWN)",
        hint: "often the kernel module nvidia_uvm is not loaded (`nvidia-modprobe -u`), or a container lacks /dev/nvidia-uvm",
        hint_zh: "常见原因：未加载内核模块 nvidia_uvm（`nvidia-modprobe -u`），或容器中缺少 /dev/nvidia-uvm",
    },
    Known {
        name: "CUDA_ERROR_MPS_",
        what: "the NVIDIA driver is to work through a Multi-Process Service that does not answer",
        hint: "restart `nvidia-cuda-mps-control -d`, or unset CUDA_MPS_PIPE_DIRECTORY",
        hint_zh: "请重启 `nvidia-cuda-mps-control -d`，或取消设置 CUDA_MPS_PIPE_DIRECTORY",
    },
];

/// The cards of `driver` that this binary has code for. `visible`: what CUDA_VISIBLE_DEVICES says.
///
/// Errors: the driver is too old, or fails, or shows no card, or the binary has code for none.
pub fn usable<'a>(driver: &'a Driver, built: &Built, visible: Option<&str>) -> Result<Vec<&'a Card>> {
    let cards = shown(driver, built, visible)?;
    let usable: Vec<&Card> = cards.iter().filter(|card| built.runs_on(card.capability)).collect();
    if usable.is_empty() { Err(no_code(&cards[0], built)) } else { Ok(usable) }
}

/// Card `index` of `driver`. Errors: as [`usable`]; it is not there; this binary has no code for it.
pub fn named<'a>(index: usize, driver: &'a Driver, built: &Built, visible: Option<&str>) -> Result<&'a Card> {
    let cards = shown(driver, built, visible)?;
    let card = cards.iter().find(|card| card.index == index).ok_or_else(|| not_there(index, cards))?;
    if built.runs_on(card.capability) { Ok(card) } else { Err(no_code(card, built)) }
}

/// All cards of `driver`, at least one.
fn shown<'a>(driver: &'a Driver, built: &Built, visible: Option<&str>) -> Result<&'a [Card]> {
    refuse_old(driver.version, built.toolkit)?;
    match &driver.cards {
        Ok(cards) if cards.is_empty() => Err(no_card(visible)),
        Ok(cards) => Ok(cards),
        Err(name) if name == NO_DEVICE => Err(no_card(visible)),
        Err(name) => Err(failed("", name)),
    }
}

/// An error of the driver or of candle, `text`, as users understand it. `place`, which may be empty: where it happened.
pub fn failed(place: &str, text: &str) -> Error {
    let colon = if place.is_empty() { "" } else { ": " };
    match KNOWN.iter().find(|known| text.contains(known.name)) {
        Some(known) => error(format!("{place}{colon}{}", known.what), known.hint, known.hint_zh),
        None => error(
            format!("{} cannot be used: {text}", if place.is_empty() { "the NVIDIA driver" } else { place }),
            "`nvidia-smi` shows whether it works at all",
            "用 `nvidia-smi` 检查驱动是否正常",
        ),
    }
}

fn refuse_old(version: Option<CudaVersion>, toolkit: CudaVersion) -> Result<()> {
    let Some(version) = version.filter(|version| *version < toolkit) else { return Ok(()) };
    Err(error(
        format!("the NVIDIA driver is too old: it knows CUDA {version}, this binary was built with CUDA {toolkit}"),
        "update the driver (`nvidia-smi` shows its version; CUDA 13.0 needs 580 or newer)",
        "请更新驱动（`nvidia-smi` 显示其版本；CUDA 13.0 需要 580 或更新的驱动）",
    ))
}

fn no_card(visible: Option<&str>) -> Error {
    let hidden = visible.map(|list| format!("CUDA_VISIBLE_DEVICES is \"{list}\"")).unwrap_or_default();
    failed(&hidden, NO_DEVICE)
}

fn not_there(index: usize, cards: &[Card]) -> Error {
    let list: Vec<String> = cards.iter().map(|card| format!("cuda:{} ({})", card.index, card.name)).collect();
    error(
        format!("there is no cuda:{index}; the driver shows {}", list.join(", ")),
        "they are counted as CUDA_VISIBLE_DEVICES leaves them; `device=auto` takes the one with most free memory",
        "编号以 CUDA_VISIBLE_DEVICES 之后为准；`device=auto` 选用空闲显存最多的一块",
    )
}

fn no_code(card: &Card, built: &Built) -> Error {
    let (index, name, capability) = (card.index, &card.name, card.capability);
    let (whose, code) = match built.candle {
        Some(candle) if !candle.runs_on(capability) => ("candle's kernels", candle.to_string()),
        _ => ("its kernels", built.own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let what = format!(
        "cuda:{index} ({name}) has compute capability {capability}, for which this binary has no code: {whose} are {code}"
    );
    if !built.own.iter().any(|code| code.runs_on(capability)) {
        return error(what, "cards of 8.0 (A100) and newer can be used", "可使用计算能力 8.0（A100）及更新的显卡");
    }
    let build = format!("CUDA_COMPUTE_CAP={}{} {}", capability.major, capability.minor, super::CUDA_BUILD);
    error(what, &format!("build it for this card: `{build}`"), &format!("请为该显卡重新编译：`{build}`"))
}

fn error(what: String, hint: &str, hint_zh: &str) -> Error {
    Error::input(what)
        .hint(format!("{hint}; `device=cpu` needs no card"))
        .hint_zh(format!("{hint_zh}；`device=cpu` 不需要显卡"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::card::{Capability, Code, own_code};

    fn card(index: usize, name: &str, major: u32, minor: u32) -> Card {
        Card { index, name: name.into(), capability: Capability { major, minor }, memory: None }
    }

    fn driver(version: u32, cards: Result<Vec<Card>, &str>) -> Driver {
        Driver { version: Some(CudaVersion(version)), cards: cards.map_err(str::to_owned) }
    }

    fn built(candle: &str) -> Built {
        Built { toolkit: CudaVersion(13000), own: own_code(), candle: candle.parse::<Code>().ok() }
    }

    #[test]
    fn every_reason_is_one_sentence_and_a_way_out() {
        let (h200, a100, t4) = (card(0, "NVIDIA H200", 9, 0), card(0, "NVIDIA A100", 8, 0), card(0, "Tesla T4", 7, 5));
        let new = card(0, "NVIDIA B200", 10, 0);
        for (said, candle, visible, want, way_out) in [
            (
                driver(12040, Ok(vec![h200.clone()])),
                "compute_90a",
                None,
                "the NVIDIA driver is too old: it knows CUDA 12.4, this binary was built with CUDA 13.0",
                "580 or newer",
            ),
            (
                driver(12040, Err("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")),
                "compute_90a",
                None,
                "the NVIDIA driver is too old: it knows CUDA 12.4, this binary was built with CUDA 13.0",
                "update the driver",
            ),
            (driver(13000, Err(NO_DEVICE)), "compute_90a", None, "the NVIDIA driver shows no card", "`nvidia-smi -L`"),
            (
                driver(13000, Ok(vec![])),
                "compute_90a",
                Some(""),
                "CUDA_VISIBLE_DEVICES is \"\": the NVIDIA driver shows no card",
                "CUDA_VISIBLE_DEVICES hides",
            ),
            (
                driver(13000, Err("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")),
                "compute_90a",
                None,
                "libcuda.so.1 and the NVIDIA driver in the kernel are of different versions",
                "restart the machine",
            ),
            (
                driver(13000, Err("CUDA_ERROR_SYSTEM_NOT_READY")),
                "compute_90a",
                None,
                "the cards of this machine are connected by NVSwitch, and their Fabric Manager does not run",
                "systemctl start nvidia-fabricmanager",
            ),
            (
                driver(13000, Err("CUDA_ERROR_MPS_CONNECTION_FAILED")),
                "compute_90a",
                None,
                "the NVIDIA driver is to work through a Multi-Process Service that does not answer",
                "nvidia-cuda-mps-control",
            ),
            (
                driver(13000, Err("CUDA_ERROR_OPERATING_SYSTEM")),
                "compute_90a",
                None,
                "the NVIDIA driver cannot be used: CUDA_ERROR_OPERATING_SYSTEM",
                "`nvidia-smi`",
            ),
            (
                driver(13000, Ok(vec![a100])),
                "compute_90a",
                None,
                "cuda:0 (NVIDIA A100) has compute capability 8.0, for which this binary has no code: candle's kernels are \
                 compute_90a",
                "`CUDA_COMPUTE_CAP=80 cargo build --release --features cuda`",
            ),
            (
                driver(13000, Ok(vec![new])),
                "compute_90a",
                None,
                "cuda:0 (NVIDIA B200) has compute capability 10.0, for which this binary has no code: candle's kernels are \
                 compute_90a",
                "`CUDA_COMPUTE_CAP=100 cargo",
            ),
            (
                driver(13000, Ok(vec![t4])),
                "compute_75",
                None,
                "cuda:0 (Tesla T4) has compute capability 7.5, for which this binary has no code: its kernels are sm_80, \
                 sm_90, compute_80",
                "8.0 (A100) and newer",
            ),
        ] {
            let err = usable(&said, &built(candle), visible).expect_err(want);
            assert_eq!(err.to_string(), want);
            let hint = err.hint_text(false).expect("a way out");
            assert!(hint.contains(way_out) && hint.ends_with("`device=cpu` needs no card"), "{want}: {hint}");
            assert!(err.hint_text(true).is_some_and(|zh| zh.ends_with("`device=cpu` 不需要显卡")), "{want}");
            let one = named(0, &said, &built(candle), visible).expect_err(want);
            assert_eq!(one.to_string(), want, "asked for by number");
        }
        assert_eq!(usable(&driver(13000, Ok(vec![h200.clone()])), &built("compute_90a"), None).unwrap(), [&h200]);
        let silent = Driver { version: None, cards: Ok(vec![h200]) };
        assert!(usable(&silent, &built("?"), None).is_ok(), "what is not known is no reason");
    }

    #[test]
    fn a_card_is_found_by_its_number_or_all_are_listed() {
        let cards = vec![card(0, "NVIDIA A100", 8, 0), card(1, "NVIDIA H200", 9, 0)];
        let (two, built) = (driver(13010, Ok(cards)), built("compute_90a"));
        assert_eq!(named(1, &two, &built, None).unwrap().name, "NVIDIA H200");
        let err = named(2, &two, &built, Some("0,1")).unwrap_err();
        assert_eq!(err.to_string(), "there is no cuda:2; the driver shows cuda:0 (NVIDIA A100), cuda:1 (NVIDIA H200)");
        let err = named(0, &two, &built, None).unwrap_err();
        assert!(err.to_string().starts_with("cuda:0 (NVIDIA A100) has compute capability 8.0, for which"), "{err}");
        assert_eq!(usable(&two, &built, None).unwrap().len(), 1, "auto passes it over");
    }

    #[test]
    fn what_candle_says_is_understood() {
        let err = failed("cuda:0", "DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"the provided PTX …\")");
        assert_eq!(err.to_string(), "cuda:0: the NVIDIA driver is older than the compiler that made the kernels");
        for (i, known) in KNOWN.iter().enumerate() {
            let first = KNOWN.iter().position(|other| known.name.contains(other.name));
            assert_eq!(first, Some(i), "{} is never reached", known.name);
        }
    }
}
