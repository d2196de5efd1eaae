//! Adapters into the base: `round(W + s·B·A)` in f32 with one rounding, as PEFT's `merge_and_unload` does it; with DoRA
//! `round(m/‖V‖·V)` of V = W + s·B·A, row by row.
//!
//! Streamed: no more in memory than a piece of one matrix.

use super::{peft::Existing, pissa};
use crate::{
    config::Projection,
    error::{Error, Result},
    kernels::{ordered_norm, ordered_product},
    model::{Checkpoint, Qwen3Config, lora, shards, streamed::pieces},
};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::{ops::Range, path::Path};

/// Bytes of a matrix that are merged at a time, in f32.
const PIECE: usize = 64 << 20;

/// A base and what is merged into it.
pub struct Merge<'a> {
    base: &'a Checkpoint,
    adapters: &'a [Existing],
    /// Names of the base's tensors with their dtype in the result, in the order of the model.
    entries: Vec<shards::Entry>,
}

impl<'a> Merge<'a> {
    /// `adapters` are merged one after the other, each with its own rounding, as LlamaFactory does. `dtype`: what the base is
    /// converted to first, and the result is in; `None` keeps the base's, tensor by tensor.
    ///
    /// Errors: an adapter lacks a tensor, has one too many or of another shape: it belongs to another base.
    pub fn new(
        config: &Qwen3Config,
        base: &'a Checkpoint,
        adapters: &'a [Existing],
        dtype: Option<DType>,
    ) -> Result<Self> {
        adapters.iter().try_for_each(|adapter| adapter.refuse_misfit(config))?;
        // A tied head is the embedding; `save_pretrained` leaves the copy out.
        let kept = base.names().filter(|name| !(config.tie_word_embeddings && *name == "lm_head.weight"));
        let mut names: Vec<&str> = kept.collect();
        names.sort_by_key(|name| place_in_model(name));
        let entry = |name: &str| {
            let (stored, shape) = base.info(name).expect("the name of a tensor of this file");
            shards::Entry { name: name.to_owned(), dtype: dtype.unwrap_or(stored), shape: shape.to_vec() }
        };
        Ok(Self { base, adapters, entries: names.into_iter().map(entry).collect() })
    }

    /// Bytes of the merged weights.
    pub fn bytes(&self) -> u64 {
        shards::total(&self.entries)
    }

    /// Writes the weights into `dir`, in files of at most `max_bytes`, with their index; `progress` gets bytes done and in all.
    pub fn write(&self, dir: &Path, max_bytes: u64, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let shards = shards::split(self.entries.clone(), max_bytes);
        let (mut done, all) = (0, self.bytes());
        for (i, shard) in shards.iter().enumerate() {
            shards::write(&dir.join(shards::file_name(i, shards.len())), shard, |entry, put| {
                let width: usize = entry.shape.iter().skip(1).product();
                for rows in pieces(entry.shape[0], 4 * width, PIECE) {
                    let piece = self.piece(&entry.name, rows, entry.dtype)?;
                    put(&piece)?;
                    done += (piece.elem_count() * entry.dtype.size_in_bytes()) as u64;
                    progress(done, all)?;
                }
                Ok(())
            })?;
        }
        if shards.len() > 1 {
            crate::fs::write_file_synced(&dir.join("model.safetensors.index.json"), shards::index(&shards).as_bytes())?;
        }
        Ok(())
    }

    /// Rows of the merged tensor `name` in `dtype`.
    fn piece(&self, name: &str, rows: Range<usize>, dtype: DType) -> Result<Tensor> {
        merged(self.adapters, name, rows.clone(), self.base.rows(name, rows)?.to_dtype(dtype)?)
    }
}

/// `value`, which are `rows` of the tensor `name`, with one adapter after the other merged into it.
pub fn merged(adapters: &[Existing], name: &str, rows: Range<usize>, mut value: Tensor) -> Result<Tensor> {
    let Some((module, projection)) = adapted(name) else { return Ok(value) };
    for adapter in adapters.iter().filter(|adapter| adapter.lora.lora_target.contains(&projection)) {
        let delta = adapter.delta(module, rows.clone(), value.dim(1)?)?;
        let mut sum = (value.to_dtype(DType::F32)? + delta)?;
        if adapter.lora.use_dora {
            sum = adapter.brought_to_length(module, rows.clone(), &sum)?;
        }
        value = sum.to_dtype(value.dtype())?;
    }
    Ok(value)
}

/// The module and projection whose weight this is: `model.layers.0.self_attn.q_proj.weight`.
fn adapted(name: &str) -> Option<(&str, Projection)> {
    let module = name.strip_suffix(".weight")?;
    Projection::ALL.into_iter().find(|p| module.ends_with(p.path())).map(|projection| (module, projection))
}

/// Embedding, blocks by number, final norm, head: the order in which a model lists its tensors.
fn place_in_model(name: &str) -> (usize, usize, String) {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let part = match (name, layer) {
        ("model.embed_tokens.weight", _) => 0,
        (_, Some(_)) => 1,
        ("lm_head.weight", _) => 3,
        _ => 2,
    };
    (part, layer.unwrap_or(0), name.to_owned())
}

impl Existing {
    /// Errors: the adapter lacks a tensor, has one too many or of another shape: it belongs to another base.
    pub fn refuse_misfit(&self, config: &Qwen3Config) -> Result<()> {
        let layout = lora::layout(config, &self.lora);
        self.refuse_strangers(layout.slots().iter())?;
        layout.slots().iter().try_for_each(|slot| self.refuse_missing(slot))
    }

    /// A digest of all its tensors.
    pub fn whole_digest(&self) -> Result<String> {
        self.files().try_for_each(|file| file.names().try_for_each(|name| file.take_note(name)))?;
        Ok(self.digest())
    }

    /// `s·B·A` of a module for some rows of its weight, `[rows, width]` f32.
    #[expect(clippy::disallowed_methods, reason = "merging, not a step")]
    fn delta(&self, module: &str, rows: Range<usize>, width: usize) -> Result<Tensor> {
        let rank = self.rank_in_file();
        let matrix = |which: &str, rows: Range<usize>| -> Result<Vec<f32>> {
            let name = format!("base_model.model.{module}.lora_{which}.weight");
            let read = |file: &Checkpoint| -> Result<Vec<f32>> {
                Ok(file.rows(&name, rows.clone())?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
            };
            match &self.start {
                None => read(&self.tensors),
                Some(start) => Ok(pissa::joined(which == "B", rank, &read(&self.tensors)?, &read(start)?)),
            }
        };
        let (b, a) = (matrix("B", rows.clone())?, matrix("A", 0..rank)?);
        let product = ordered_product(&b, &a, self.lora.lora_rank);
        Ok((Tensor::from_vec(product, (rows.len(), width), &Device::Cpu)? * self.lora.scale())?)
    }

    /// Some rows of V, each as long as its magnitude, `[rows, width]` f32. Errors: a row is nothing.
    #[expect(clippy::disallowed_methods, reason = "merging, not a step")]
    fn brought_to_length(&self, module: &str, rows: Range<usize>, v: &Tensor) -> Result<Tensor> {
        let name = format!("base_model.model.{module}.lora_magnitude_vector");
        let magnitudes: Vec<f32> = self.tensors.rows(&name, rows.clone())?.to_dtype(DType::F32)?.to_vec1()?;
        let (width, mut values) = (v.dim(1)?, v.flatten_all()?.to_vec1::<f32>()?);
        let bring = |(row, magnitude): (&mut [f32], &f32)| {
            let norm = ordered_norm(row);
            row.iter_mut().for_each(|x| *x *= magnitude / norm);
            norm == 0.0
        };
        let nothing: Vec<bool> = values.par_chunks_mut(width).zip(&magnitudes).map(bring).collect();
        match nothing.iter().position(|nothing| *nothing) {
            None => Ok(Tensor::from_vec(values, v.shape(), &Device::Cpu)?),
            Some(row) => Err(Error::input(format!("row {} of {module} has no length to divide by", rows.start + row))
                .hint("the adapter is DoRA, and does not fit this base; take the one that it was trained on")
                .hint_zh("该适配器为 DoRA，与此基座不符；请使用训练它的基座")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::peft,
        config::LoraConfig,
        model::{Params, Qwen3, qwen3::Batch},
        testing::{assert_close, wave},
    };
    use std::path::PathBuf;

    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3")
    }

    /// An adapter with uneven values, on the disk.
    fn adapter(dir: &Path, config: &Qwen3Config, phase: f64, use_dora: bool) -> Existing {
        let lora = LoraConfig {
            lora_rank: 3,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            lora_target: vec![Projection::QProj, Projection::OProj, Projection::DownProj],
            use_dora,
            use_rslora: true,
            pissa: Default::default(),
        };
        let params = Params::new(lora::layout(config, &lora), DType::F32, &Device::Cpu, |slot| {
            let (size, mean) = if slot.is_magnitude() { (0.3, 1.0) } else { (0.03, 0.0) };
            Ok(wave(slot.shape, phase, &Device::Cpu)?.affine(size, mean)?.flatten_all()?.to_vec1()?)
        });
        peft::save(dir, &params.unwrap(), &lora, "base").unwrap();
        Existing::open(dir).unwrap()
    }

    fn f32(checkpoint: &Checkpoint, name: &str) -> Tensor {
        let (_, shape) = checkpoint.info(name).unwrap();
        checkpoint.tensor(name, shape, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn every_weight_is_the_rounded_sum_and_nothing_else_changes() {
        let (config, base) = (Qwen3Config::load(&tiny()).unwrap(), Checkpoint::open(&tiny()).unwrap());
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let adapters = [adapter(dirs[0].path(), &config, 0.1, false), adapter(dirs[1].path(), &config, 0.7, true)];
        let (plain, dora, both) = (&adapters[..1], &adapters[1..], &adapters[..]);
        let f32_too = |adapters| [(adapters, None), (adapters, Some(DType::F32))];
        for (adapters, dtype) in [plain, dora].into_iter().flat_map(f32_too).chain([(both, None)]) {
            let out = tempfile::tempdir().unwrap();
            let merge = Merge::new(&config, &base, adapters, dtype).unwrap();
            merge.write(out.path(), 2_000_000, &mut |_, _| Ok(())).unwrap();
            let merged = Checkpoint::open(out.path()).unwrap();
            assert_eq!(merged.names().collect::<Vec<_>>(), base.names().collect::<Vec<_>>());
            for name in base.names() {
                let dtype = dtype.unwrap_or(DType::BF16);
                let mut want = f32(&base, name).to_dtype(dtype).unwrap();
                for adapter in adapters {
                    let Some(module) = name.strip_suffix(".weight") else { continue };
                    let part = |which| format!("base_model.model.{module}.lora_{which}.weight");
                    if adapter.tensors.info(&part("A")).is_some() {
                        let (a, b) = (f32(&adapter.tensors, &part("A")), f32(&adapter.tensors, &part("B")));
                        let delta = (b.matmul(&a).unwrap() * (8.0 / 3f64.sqrt())).unwrap();
                        want = (want.to_dtype(DType::F32).unwrap() + delta).unwrap();
                        if adapter.lora.use_dora {
                            let m = f32(&adapter.tensors, &format!("base_model.model.{module}.lora_magnitude_vector"));
                            let norms = want.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
                            want = want.broadcast_mul(&(m / norms).unwrap().unsqueeze(1).unwrap()).unwrap();
                        }
                        want = want.to_dtype(dtype).unwrap();
                    }
                }
                assert_eq!(merged.info(name).unwrap().0, dtype, "{name}");
                // One rounding may fall on the other side where the sums differ in their last bit.
                let bound = if dtype == DType::F32 { 1e-7 } else { 4e-3 };
                assert_close(&f32(&merged, name), &want.to_dtype(DType::F32).unwrap(), bound);
            }
        }
    }

    #[test]
    fn merged_equals_unmerged() {
        for use_dora in [false, true] {
            merged_is_unmerged(use_dora);
        }
    }

    fn merged_is_unmerged(use_dora: bool) {
        let (config, base) = (Qwen3Config::load(&tiny()).unwrap(), Checkpoint::open(&tiny()).unwrap());
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let adapters = [adapter(dir.path(), &config, 0.4, use_dora)];
        let merge = Merge::new(&config, &base, &adapters, Some(DType::F32)).unwrap();
        merge.write(out.path(), u64::MAX, &mut |_, _| Ok(())).unwrap();
        let (ids, no) = (vec![5u32, 90, 400, 77, 1000, 31], u32::MAX);
        let batch = Batch::pack(&[(0, &ids, &[no, 90, 400, 77, 1000, 31])], no, false).unwrap();
        let (tuned, layout) = Qwen3::load(&config, &base, &adapters[0].lora, DType::F32, &Device::Cpu).unwrap();
        let params = Params::new(layout, DType::F32, &Device::Cpu, |slot| adapters[0].values(slot)).unwrap();
        let want = tuned.logits(&batch, &params).unwrap();
        let merged = Checkpoint::open(out.path()).unwrap();
        let got = crate::model::streamed::logits(&config, &merged, None, None, &batch).unwrap();
        let largest = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let off = (got - &want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off <= 1e-5 * largest, "{off} of {largest}");
        let untouched = crate::model::streamed::logits(&config, &base, None, None, &batch).unwrap();
        let moved = (untouched - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(moved > 0.01 * largest, "the adapter does something: {moved}");
    }

    #[test]
    fn an_adapter_of_another_base_is_refused() {
        let (config, base) = (Qwen3Config::load(&tiny()).unwrap(), Checkpoint::open(&tiny()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let fewer = Qwen3Config { num_hidden_layers: 5, ..config.clone() };
        let smaller = Qwen3Config { hidden_size: 128, ..config.clone() };
        let more = Qwen3Config { num_hidden_layers: 7, ..config.clone() };
        for (other, want) in [
            (fewer, "lora_A.weight is missing"),
            (smaller, "has shape [3, 128], [3, 256] was expected"),
            (more, "the adapter has a tensor base_model.model.model.layers.6."),
        ] {
            let adapters = [adapter(dir.path(), &other, 0.0, true)];
            let err = Merge::new(&config, &base, &adapters, None).err().unwrap().to_string();
            assert!(err.contains(want), "{err}");
        }
    }

    #[test]
    fn tensors_are_in_the_order_of_the_model() {
        let mut names = vec![
            "model.layers.10.a",
            "lm_head.weight",
            "model.norm.weight",
            "model.layers.2.a",
            "model.embed_tokens.weight",
        ];
        names.sort_by_key(|name| place_in_model(name));
        assert_eq!(
            names,
            [
                "model.embed_tokens.weight",
                "model.layers.2.a",
                "model.layers.10.a",
                "model.norm.weight",
                "lm_head.weight"
            ]
        );
    }
}
