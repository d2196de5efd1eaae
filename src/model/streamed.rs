//! A forward pass that holds one block at a time: what a check of a large model needs, in a few GB.

use super::{
    config::Qwen3Config,
    params::{Layout, Params, Slot},
    qwen3::{Batch, Block, Keep, PassRows},
    weights::{Change, Checkpoint},
};
use crate::{
    config::LoraConfig,
    error::Result,
    kernels::{FrozenWeight, rms_norm},
};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// Bytes of the head that are in memory at a time, in f32.
const HEAD_BYTES: usize = 128 << 20;

/// Logits `[L, V]` of the label rows in f32 on the CPU, from weights read as they are needed.
///
/// `change`: of the matrices of blocks while they are read. `adapter`: its LoRA and the values of its matrices. Errors: a tensor
/// is missing or has another shape.
#[expect(clippy::type_complexity, reason = "a description and where its values come from")]
pub fn logits(
    config: &Qwen3Config,
    checkpoint: &Checkpoint,
    change: Option<&Change>,
    adapter: Option<(&LoraConfig, &dyn Fn(&Slot) -> Result<Vec<f32>>)>,
    batch: &Batch,
) -> Result<Tensor> {
    let none = LoraConfig {
        lora_rank: 1,
        lora_alpha: 1.0,
        lora_dropout: 0.0,
        lora_target: vec![],
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    };
    let lora = adapter.map_or(&none, |(lora, _)| lora);
    let vector = |name: &str, width| checkpoint.tensor(name, &[width], DType::F32, &Device::Cpu);
    let matrix = |name: &str, shape| checkpoint.frozen_changed(name, shape, (DType::F32, &Device::Cpu), change);
    let rows = PassRows::new(batch, config, DType::F32, &Device::Cpu)?;
    let mut x = embed(config, checkpoint, &batch.ids)?;
    for layer in 0..config.num_hidden_layers {
        let mut layout = Layout::default();
        let block = Block::build(config, lora, layer, &vector, &matrix, &mut layout)?;
        let params = Params::new(layout, DType::F32, &Device::Cpu, |slot| match adapter {
            Some((_, values)) => values(slot),
            None => Ok(vec![]),
        })?;
        let rows = if layer + 1 == config.num_hidden_layers { &rows.last } else { &rows.all };
        (x, _) = block.forward(x, rows, &params, (None, Keep::Lean))?;
    }
    let (y, _) = rms_norm::forward(&x, &vector("model.norm.weight", config.hidden_size)?, config.rms_norm_eps)?;
    let head = if config.tie_word_embeddings { EMBEDDING } else { "lm_head.weight" };
    let chunks = pieces(config.vocab_size, 4 * config.hidden_size, HEAD_BYTES);
    let logits: Result<Vec<Tensor>> =
        chunks.map(|ids| FrozenWeight::new(checkpoint.rows(head, ids)?.to_dtype(DType::F32)?)?.forward(&y)).collect();
    Ok(Tensor::cat(&logits?, 1)?)
}

const EMBEDDING: &str = "model.embed_tokens.weight";

/// The rows of the embedding that `ids` name, `[T, D]`.
fn embed(config: &Qwen3Config, checkpoint: &Checkpoint, ids: &[u32]) -> Result<Tensor> {
    checkpoint.expect_shape(EMBEDDING, &[config.vocab_size, config.hidden_size])?;
    let row = |&id: &u32| checkpoint.rows(EMBEDDING, id as usize..id as usize + 1);
    let rows: Result<Vec<Tensor>> = ids.iter().map(row).collect();
    Ok(Tensor::cat(&rows?, 0)?.to_dtype(DType::F32)?)
}

/// `rows` rows of `row_bytes` each, in pieces of at most `bytes` and at least one row.
pub fn pieces(rows: usize, row_bytes: usize, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (bytes / row_bytes.max(1)).max(1);
    (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Projection,
        model::Qwen3,
        testing::{assert_close, wave},
    };
    use std::path::Path;

    #[test]
    fn the_model_in_pieces_says_what_the_whole_model_says() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3");
        let (config, checkpoint) = (Qwen3Config::load(&dir).unwrap(), Checkpoint::open(&dir).unwrap());
        let lora = LoraConfig {
            lora_rank: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            lora_target: Projection::ALL.to_vec(),
            use_dora: false,
            use_rslora: false,
            pissa: Default::default(),
        };
        let values =
            |slot: &Slot| Ok(wave(slot.shape, 0.3, &Device::Cpu)?.affine(0.05, 0.0)?.flatten_all()?.to_vec1()?);
        let (ids, no) = (vec![5u32, 90, 400, 77, 1000, 31], u32::MAX);
        let batch = Batch::pack(&[(0, &ids, &[no, no, no, 77, no, 31])], no, false).unwrap();
        let none = LoraConfig { lora_target: vec![], ..lora.clone() };
        for (lora, adapter) in [(&none, None), (&lora, Some((&lora, &values as &dyn Fn(&Slot) -> Result<Vec<f32>>)))] {
            let (model, layout) = Qwen3::load(&config, &checkpoint, lora, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(layout.slots(), crate::model::lora::layout(&config, lora).slots(), "declared in the same order");
            let params = Params::new(layout, DType::F32, &Device::Cpu, values).unwrap();
            let want = model.logits(&batch, &params).unwrap();
            let got = logits(&config, &checkpoint, None, adapter, &batch).unwrap();
            assert_close(&got, &want, 0.0);
        }
    }

    #[test]
    fn pieces_cover_all_rows_once() {
        for (rows, row_bytes, bytes, want) in [
            (10, 4, 16, &[(0, 4), (4, 8), (8, 10)][..]),
            (2, 100, 16, &[(0, 1), (1, 2)]),
            (0, 4, 16, &[]),
            (3, 4, 99, &[(0, 3)]),
        ] {
            assert_eq!(pieces(rows, row_bytes, bytes).map(|p| (p.start, p.end)).collect::<Vec<_>>(), want);
        }
    }
}
