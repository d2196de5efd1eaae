//! `couplet-train doctor`: what this binary was built for, what the machine has, and where training would run.

use crate::machine;
use candle_core::DType;
use couplet_train::{
    config::DeviceChoice,
    device::{self, Surroundings},
    error::{Error, Result, gigabytes},
    kernels::{
        self,
        card::{Built, Card, Driver},
    },
    report::{Console, Header, Look},
};
use std::io::{IsTerminal, stderr, stdout};

/// Prints what it finds. Returns the exit code: 1 where a binary that was built for cards can use none.
pub fn run(look: Look) -> Result<u8> {
    let threads = rayon::current_num_threads();
    let name = machine::cpu_name().unwrap_or_else(|| std::env::consts::ARCH.into());
    let [f32, bf16] = [DType::F32, DType::BF16].map(kernels::instruction_set);
    let memory = machine::available_memory();
    let machine = Machine {
        cpu: format!("{name}; f32: {f32}, bf16: {bf16}; {threads} threads"),
        memory: memory.map_or_else(|| "unknown".into(), |free| format!("{} free", gigabytes(free))),
        loaded: device::driver_version(),
    };
    let (header, wrong) = found(&machine, &Surroundings::read(DeviceChoice::Auto, true))?;
    let colour = look.color && stdout().is_terminal();
    Console::new(stdout(), Look { color: colour, ..look }).header(&header);
    wrong.iter().for_each(|err| Console::new(stderr(), look).error(err));
    Ok(u8::from(wrong.is_some()))
}

/// What was read from the machine besides its cards.
struct Machine {
    cpu: String,
    memory: String,
    /// Version of the NVIDIA driver in the kernel.
    loaded: Option<String>,
}

/// What to print, and why no card can be used by a binary that was built for cards.
fn found(machine: &Machine, around: &Surroundings) -> Result<(Header, Option<Error>)> {
    let mut header = Header::default();
    header.row("program", "程序", concat!("couplet-train ", env!("CARGO_PKG_VERSION")));
    header.row("built for", "编译目标", built_for(around.built.as_ref()));
    header.row("CPU", "CPU", &*machine.cpu);
    header.row("memory", "内存", &*machine.memory);
    header.row("driver", "显卡驱动", driver(machine.loaded.as_deref(), around));
    let cards = around.driver.iter().flat_map(|driver| driver.cards.iter().flatten());
    let cards: Vec<String> = cards.map(|card| line(card, around.built.as_ref())).collect();
    if !cards.is_empty() {
        header.row("cards", "显卡", cards.join("\n"));
    }
    let decided = device::decide(DeviceChoice::Auto, around, 0)?;
    let auto = decided.card.map_or_else(|| "the CPU".into(), |card| format!("cuda:{}", card.index));
    header.row("device=auto", "device=auto", auto);
    Ok((header, decided.passed_over))
}

fn built_for(built: Option<&Built>) -> String {
    let Some(Built { toolkit, own, candle }) = built else {
        return format!("the CPU alone; for cards: {}", device::CUDA_BUILD);
    };
    let own = own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let candle = candle.map_or_else(|| "not known".into(), |code| code.to_string());
    format!("CUDA {toolkit}; our kernels: {own}; candle's: {candle}")
}

fn driver(loaded: Option<&str>, around: &Surroundings) -> String {
    let loaded = match (loaded, around.nvidia_driver) {
        (Some(version), _) => version.to_owned(),
        (None, true) => "there is one".into(),
        (None, false) => "none is loaded".into(),
    };
    match &around.driver {
        Some(Driver { version: Some(version), .. }) => format!("{loaded}; libcuda.so.1 is for CUDA {version}"),
        None if around.nvidia_driver => format!("{loaded}, but this binary cannot use it"),
        _ => loaded,
    }
}

/// `cuda:0, NVIDIA H200, 149.3 of 150.8 GB free, compute capability 9.0`
fn line(card: &Card, built: Option<&Built>) -> String {
    let memory = card.memory.map_or_else(|| "lets nobody in".into(), device::free_of);
    let (index, name, capability) = (card.index, &card.name, card.capability);
    let code = if built.is_some_and(|built| built.runs_on(capability)) { "" } else { ": no code for it" };
    format!("cuda:{index}, {name}, {memory}, compute capability {capability}{code}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet_train::kernels::card::{Capability, CardMemory, CudaVersion, own_code};

    fn machine(loaded: Option<&str>) -> Machine {
        Machine { cpu: "a CPU".into(), memory: "3.0 GB free".into(), loaded: loaded.map(str::to_owned) }
    }

    fn card(index: usize, major: u32, free: Option<u64>) -> Card {
        let memory = free.map(|free| CardMemory { free, total: 80_000_000_000 });
        Card { index, name: "NVIDIA X".into(), capability: Capability { major, minor: 0 }, memory }
    }

    fn with_cuda(version: u32, cards: Vec<Card>) -> Surroundings {
        let built = Built { toolkit: CudaVersion(13000), own: own_code(), candle: "compute_90a".parse().ok() };
        let driver = Driver { version: Some(CudaVersion(version)), cards: Ok(cards) };
        Surroundings { built: Some(built), driver: Some(driver), nvidia_driver: true, visible: None }
    }

    fn rows(header: &Header) -> Vec<(&str, &str)> {
        // The first is the program, the next but one the CPU and its memory.
        header
            .rows
            .iter()
            .map(|(name, _, text)| (*name, text.as_str()))
            .filter(|(name, _)| *name != "program")
            .collect()
    }

    #[test]
    fn without_cuda_it_says_so_and_whether_a_driver_is_there() {
        for (nvidia_driver, loaded, want) in [
            (false, None, "none is loaded"),
            (true, Some("580.65.06"), "580.65.06, but this binary cannot use it"),
            (true, None, "there is one, but this binary cannot use it"),
        ] {
            let around = Surroundings { built: None, driver: None, nvidia_driver, visible: None };
            let (header, wrong) = found(&machine(loaded), &around).unwrap();
            assert!(wrong.is_none(), "nothing is wrong with a CPU");
            let want = [
                ("built for", "the CPU alone; for cards: cargo build --release --features cuda"),
                ("CPU", "a CPU"),
                ("memory", "3.0 GB free"),
                ("driver", want),
                ("device=auto", "the CPU"),
            ];
            assert_eq!(rows(&header), want);
        }
    }

    #[test]
    fn with_cuda_it_lists_the_cards_and_says_which_one_auto_takes() {
        let around = with_cuda(13000, vec![card(0, 9, Some(1_000_000_000)), card(1, 9, Some(79_000_000_000))]);
        let (header, wrong) = found(&machine(Some("580.65.06")), &around).unwrap();
        assert!(wrong.is_none());
        let rows = rows(&header);
        assert_eq!(rows[0].1, "CUDA 13.0; our kernels: sm_80, sm_90, compute_80; candle's: compute_90a");
        let want = [
            ("driver", "580.65.06; libcuda.so.1 is for CUDA 13.0"),
            (
                "cards",
                "cuda:0, NVIDIA X, 1.0 of 80.0 GB free, compute capability 9.0\n\
                 cuda:1, NVIDIA X, 79.0 of 80.0 GB free, compute capability 9.0",
            ),
            ("device=auto", "cuda:1"),
        ];
        assert_eq!(rows[3..], want);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_out() {
        for (around, card, want) in [
            (
                with_cuda(13000, vec![card(0, 8, None)]),
                Some("cuda:0, NVIDIA X, lets nobody in, compute capability 8.0: no code for it"),
                "cuda:0 (NVIDIA X) has compute capability 8.0",
            ),
            (with_cuda(12080, vec![]), None, "the NVIDIA driver is too old: it knows CUDA 12.8"),
        ] {
            let (header, wrong) = found(&machine(None), &around).unwrap();
            assert_eq!(rows(&header).iter().find(|(name, _)| *name == "cards").map(|(_, text)| *text), card);
            assert_eq!(rows(&header).last(), Some(&("device=auto", "the CPU")));
            let wrong = wrong.expect("built for cards, and none can be used");
            assert!(wrong.to_string().starts_with(want) && wrong.hint_text(true).is_some(), "{wrong}");
        }
    }
}
