//! What a run will need before it begins: memory by part, how many rows go through the model at once, what blocks keep;
//! and the arithmetic of its steps.
//!
//! Letters: `T` rows and `L` labelled rows of the largest micro-batch, `n` trainable parameters.

mod memory;
mod out_of_memory;
mod work;

pub use memory::{Attended, Load, Memory, Shape};
pub use out_of_memory::{Held, Part, explained, with_facts};
pub use work::{Flop, Rows};

use crate::{
    config::GradientCheckpointing,
    error::{Error, Result, gigabytes},
    model::{Qwen3Config, qwen3::Keep},
};
use candle_core::{DType, Device};

/// Rows of one micro-batch when the recipe does not say: as many as keep the saved activations under 1 GiB on the CPU
/// and 8 GiB on a GPU.
///
/// It follows from the recipe alone and not from the memory that happens to be free, because the last bits of a result
/// depend on it: a run that goes on elsewhere, or later, must cut its steps alike.
pub fn micro_batch_rows(model: &Qwen3Config, dtype: DType, device: &Device) -> usize {
    if device.is_cpu() { rows_within(1 << 30, model, dtype) } else { rows_on_card(model, dtype) }
}

/// The same of a card, be there one or not.
pub fn rows_on_card(model: &Qwen3Config, dtype: DType) -> usize {
    rows_within(8 << 30, model, dtype)
}

fn rows_within(bytes: usize, model: &Qwen3Config, dtype: DType) -> usize {
    let a_row = memory::saved_values(model) * model.num_hidden_layers * dtype.size_in_bytes();
    (bytes / a_row).clamp(FEWEST_ROWS, 8192)
}

/// Fewer rows at once leave most of a device idle.
const FEWEST_ROWS: usize = 256;

/// Rows at once to try on a card whose free memory does not suffice for `first`, which it begins with.
///
/// Where less would not be trained at all, the memory that happens to be free may decide after all; the user is told.
pub fn rows_to_try(first: usize) -> impl Iterator<Item = usize> {
    let fewer = |rows: &usize| (*rows > FEWEST_ROWS).then(|| (rows / 2).max(FEWEST_ROWS));
    std::iter::successors(Some(first), fewer)
}

/// What blocks keep. It changes no bit, so it may follow from `free`, the bytes that can still be taken, where they are known.
///
/// `auto` keeps the lean set where it fits, else the input of every block; `off` all where it fits, else the lean set.
/// `need`: what a run of this `dtype` takes that keeps this. Errors: nothing fits.
pub fn keep(
    asked: GradientCheckpointing,
    need: &dyn Fn(Keep) -> Memory,
    free: Option<u64>,
    dtype: DType,
) -> Result<Keep> {
    let (wanted, all) = match asked {
        GradientCheckpointing::Auto => (Keep::Lean, &[Keep::Lean, Keep::Input][..]),
        GradientCheckpointing::On => (Keep::Input, &[Keep::Input][..]),
        GradientCheckpointing::Off => (Keep::Everything, &[Keep::Everything, Keep::Lean][..]),
    };
    let Some(free) = free else { return Ok(wanted) };
    let fits = |keep: &Keep| need(*keep).total() <= free;
    let last = *all.last().unwrap_or(&wanted);
    all.iter().copied().find(fits).ok_or_else(|| too_little(&need(last), free, asked, dtype))
}

/// The largest power of two below `rank` with which a run `fits`.
pub fn rank_that_fits(rank: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    (0..usize::BITS).rev().map(|n| 1 << n).find(|power| *power < rank && fits(*power))
}

fn too_little(need: &Memory, free: u64, asked: GradientCheckpointing, dtype: DType) -> Error {
    let (total, free, parts) = (gigabytes(need.total()), gigabytes(free), need.describe());
    let checkpointing = if asked == GradientCheckpointing::Off { "`gradient_checkpointing = \"auto\"`, " } else { "" };
    let (bf16, bf16_zh) = if dtype == DType::F32 { ("`bf16 = true`, ", "、`bf16 = true`") } else { ("", "") };
    Error::input(format!("the run needs about {total} of memory ({parts}), but {free} are free"))
        .hint(format!("{checkpointing}a smaller `micro_batch_tokens`, {bf16}or a smaller model needs less"))
        .hint_zh(format!("可用 {checkpointing}更小的 `micro_batch_tokens`{bf16_zh} 或更小的模型"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoraConfig;
    use memory::tests::qwen3_0_6b;

    #[test]
    fn blocks_keep_what_fits() {
        let shape = qwen3_0_6b(DType::BF16);
        let load = Load { rows: 2000, labels: 300, evaluated: 0 };
        let need = |keep| shape.memory(load, keep).total();
        assert!(need(Keep::Everything) > need(Keep::Lean) && need(Keep::Lean) > need(Keep::Input));
        use GradientCheckpointing::{Auto, Off, On};
        for (asked, free, want) in [
            (Auto, None, Some(Keep::Lean)),
            (Auto, Some(need(Keep::Everything)), Some(Keep::Lean)),
            (Auto, Some(need(Keep::Lean) - 1), Some(Keep::Input)),
            (Auto, Some(need(Keep::Input) - 1), None),
            (On, Some(u64::MAX), Some(Keep::Input)),
            (Off, Some(need(Keep::Everything)), Some(Keep::Everything)),
            (Off, Some(need(Keep::Everything) - 1), Some(Keep::Lean)),
            (Off, Some(need(Keep::Lean) - 1), None),
        ] {
            let got = keep(asked, &|keep| shape.memory(load, keep), free, DType::BF16);
            assert_eq!(got.as_ref().ok().copied(), want, "{asked:?} with {free:?}");
            if let Err(err) = got {
                assert!(err.to_string().contains("activations") && err.hint_text(true).is_some(), "{err}");
                assert!(!err.hint_text(false).unwrap().contains("bf16"), "it is already");
            }
        }
    }

    #[test]
    fn a_rank_that_fits_is_known() {
        let shape = qwen3_0_6b(DType::BF16);
        let load = Load { rows: 2000, labels: 300, evaluated: 0 };
        let need = |rank| {
            let lora = LoraConfig { lora_rank: rank, ..shape.lora.clone() };
            Shape { lora: &lora, ..shape }.memory(load, Keep::Input).total()
        };
        for (rank, free, want) in [
            (4_294_967_295, need(64), Some(64)),
            (4_294_967_295, need(64) - 1, Some(32)),
            (64, need(64), Some(32)),
            (64, need(1) - 1, None),
            (1, 0, None),
        ] {
            assert_eq!(rank_that_fits(rank, |rank| need(rank) <= free), want, "{rank} in {free}");
        }
    }

    #[test]
    fn a_card_without_room_gets_fewer_rows_at_once() {
        for (first, want) in
            [(8192, &[8192, 4096, 2048, 1024, 512, 256][..]), (668, &[668, 334, 256]), (256, &[256]), (10, &[10])]
        {
            assert_eq!(rows_to_try(first).collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn the_cut_follows_from_the_model_alone() {
        let shape = qwen3_0_6b(DType::F32);
        let rows = |dtype| micro_batch_rows(shape.model, dtype, &Device::Cpu);
        assert_eq!((rows(DType::F32), rows(DType::BF16)), (668, 1337));
        assert_eq!((rows_on_card(shape.model, DType::F32), rows_on_card(shape.model, DType::BF16)), (5349, 8192));
    }
}
