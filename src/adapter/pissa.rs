//! The folders that PiSSA leaves beside an adapter, named and filled as by LlamaFactory and PEFT.
//!
//! ```text
//! pissa_init/       A₀ and B₀, which the base lacks: the adapter itself fits only W − s·B₀·A₀
//! pissa_backup/     the trained A and B, without the word that the base lacks something
//! pissa_converted/  [A; A₀] and [B, −B₀]: the same over the whole base, W + s·(B·A − B₀·A₀), as a plain LoRA of twice the rank
//! ```
//!
//! LlamaFactory writes none of them without `pissa_convert`. Here `pissa_init/` is always there: who reads the adapter needs it, and
//! so does a run that goes on. PEFT draws A₀ and B₀ again when it loads such an adapter, which are others after a few rounds.

use super::peft::{self, CONFIG, Existing, WEIGHTS};
use crate::{
    config::{LoraConfig, Pissa},
    error::{Error, Result},
    fs,
    model::params::{Layout, Slot},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The folder of what the base lacks.
pub const INIT: &str = "pissa_init";
/// The folder of the trained matrices.
pub const BACKUP: &str = "pissa_backup";
/// The folder of the plain adapter.
pub const CONVERTED: &str = "pissa_converted";

/// What README.md in the folders says.
struct About {
    init: &'static str,
    backup: &'static str,
    converted: &'static str,
}

/// Of an adapter that began by PiSSA.
const OF_PISSA: About = About {
    init: "# What the base lacks\n\n\
    PiSSA began with these matrices and took s·B·A out of the base. They are no adapter to use; whoever reads the one in the folder \
    above needs them.\n",
    backup: "# The trained matrices of PiSSA\n\n\
    They fit only the base without what `../pissa_init` holds. Over the whole base use `../pissa_converted`.\n",
    converted: "# A plain LoRA\n\n\
    What PiSSA has learned, as an adapter of twice the rank over the whole base. Any program that reads PEFT's adapters can use it.\n",
};

/// Of a plain one, over a base that LlamaFactory's scripts/pissa_init.py may have saved without what the adapter replaced.
const OF_A_PLAIN_ONE: About = About {
    init: "# Where training began\n\nThe adapter before the first step. With it the base that was trained on is what it was.\n",
    backup: "# The trained matrices\n\n\
        The adapter of the folder above once more. It fits the base that was trained on. Over the base as it was before use \
        `../pissa_converted`.\n",
    converted: "# What training has changed\n\n\
        A plain LoRA of twice the rank. It fits the base as it was before what the starting adapter, `../pissa_init`, replaced was \
        taken out; over the base that was trained on it is wrong, unless that adapter did nothing.\n",
};

impl About {
    fn of(lora: &LoraConfig) -> &'static Self {
        if lora.pissa.pissa_init { &OF_PISSA } else { &OF_A_PLAIN_ONE }
    }
}

/// An adapter in memory: its matrices, which lie end to end in the values, and what it is for.
#[derive(Clone, Copy)]
pub struct Matrices<'a> {
    /// The matrices.
    pub slots: &'a [Slot],
    /// Their values.
    pub values: &'a [f32],
    /// Rank, alpha and targets.
    pub lora: &'a LoraConfig,
    /// The base, as its configuration names it.
    pub base_model: &'a str,
}

/// Writes `pissa_init/` into `out`, and removes what an earlier end of the run has left there.
pub fn begin(out: &Path, start: Matrices) -> Result<()> {
    for name in [BACKUP, CONVERTED].into_iter().filter(|name| out.join(name).is_dir()) {
        fs::remove_durable_dir(out, name)?;
    }
    write(out, INIT, start, About::of(start.lora).init)
}

/// Writes `pissa_backup/` and `pissa_converted/`: `trained` began as `start` (values of the same matrices).
pub fn end(out: &Path, trained: Matrices, start: &[f32]) -> Result<()> {
    let about = About::of(trained.lora);
    write(out, BACKUP, trained, about.backup)?;
    let (mut layout, mut values) = (Layout::default(), Vec::with_capacity(2 * start.len()));
    for slot in trained.slots {
        let (rows, columns) = slot.shape;
        let shape = if slot.is_b() { (rows, 2 * columns) } else { (2 * rows, columns) };
        layout.push(slot.name.clone(), shape);
        values.extend(joined(slot.is_b(), columns, &trained.values[slot.range()], &start[slot.range()]));
    }
    let lora = converted(trained.lora);
    write(out, CONVERTED, Matrices { slots: layout.slots(), values: &values, lora: &lora, ..trained }, about.converted)
}

fn write(out: &Path, name: &str, matrices: Matrices, about: &str) -> Result<()> {
    let (header, values) = peft::weights_parts(matrices.slots, matrices.values)?;
    let plain = LoraConfig { pissa: Pissa::default(), ..matrices.lora.clone() };
    fs::write_durable_dir(out, name, |temp| {
        fs::write_parts_synced(&temp.join(WEIGHTS), &[&header, &values])?;
        fs::write_file_synced(&temp.join(CONFIG), peft::config_text(&plain, matrices.base_model).as_bytes())?;
        fs::write_file_synced(&temp.join("README.md"), about.as_bytes()).map(drop)
    })
}

/// The plain LoRA of the same scale s and twice the rank.
pub fn converted(lora: &LoraConfig) -> LoraConfig {
    let factor = if lora.use_rslora { 2f64.sqrt() } else { 2.0 };
    LoraConfig {
        lora_rank: 2 * lora.lora_rank,
        lora_alpha: factor * lora.lora_alpha,
        pissa: Pissa::default(),
        ..lora.clone()
    }
}

/// [A; A₀], or [B, −B₀] of matrices with so many columns.
pub(super) fn joined(is_b: bool, columns: usize, own: &[f32], start: &[f32]) -> Vec<f32> {
    if !is_b {
        return [own, start].concat();
    }
    let rows = own.chunks_exact(columns).zip(start.chunks_exact(columns));
    rows.flat_map(|(own, start)| own.iter().copied().chain(start.iter().map(|x| -x))).collect()
}

/// What the base lacks under the PiSSA adapter in `dir`, whose shape is `lora`: from `pissa_init/` in it, or for a `checkpoint-N`
/// in the folder above.
///
/// Errors: it is not there, is damaged, or has another shape.
pub fn start_of(dir: &Path, lora: &LoraConfig) -> Result<Existing> {
    let found = beside(dir).ok_or_else(|| {
        Error::file(
            dir,
            format!("a PiSSA adapter: it fits only the base without what {INIT}/ holds, which is not there"),
        )
        .hint(format!("put {INIT}/ beside it, or take the {CONVERTED}/ that a run with `pissa_convert: true` writes"))
        .hint_zh(format!("请把 {INIT}/ 放在其旁，或改用以 `pissa_convert: true` 训练所写出的 {CONVERTED}/"))
    })?;
    let start = Existing::read(&found)?;
    let shape = |lora: &LoraConfig| (lora.lora_rank, lora.scale(), lora.lora_target.clone());
    if shape(&start.lora) == shape(lora) {
        return Ok(start);
    }
    Err(Error::file(&found, "has another rank, scale or targets than the adapter that began with it")
        .hint("the two are not of the same run; put back the one that is")
        .hint_zh("两者不属于同一次训练；请放回原来的文件夹"))
}

fn beside(dir: &Path) -> Option<PathBuf> {
    let is_there = |dir: &Path| Some(dir.join(INIT)).filter(|path| path.is_dir());
    let whole = dir.canonicalize().ok()?;
    let is_checkpoint = whole.file_name()?.to_str()?.starts_with("checkpoint-");
    is_there(dir).or_else(|| is_there(whole.parent().filter(|_| is_checkpoint)?))
}

/// Refuses the half of a PiSSA adapter that looks like a plain one: `pissa_init/` and `pissa_backup/` of a run.
pub(super) fn refuse_half(dir: &Path) -> Result<()> {
    let whole = dir.canonicalize().unwrap_or(dir.to_owned());
    let (Some(name), Some(above)) = (whole.file_name().and_then(|name| name.to_str()), whole.parent()) else {
        return Ok(());
    };
    let of_pissa = || {
        let text = std::fs::read_to_string(above.join(CONFIG)).unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        json["init_lora_weights"].as_str().is_some_and(|init| init.starts_with("pissa"))
    };
    if ![INIT, BACKUP].contains(&name) || !of_pissa() {
        return Ok(());
    }
    Err(Error::file(dir, "fits only the base without what PiSSA took out of it, and would be wrong over the whole")
        .hint(format!("take the folder above it, or the {CONVERTED}/ beside it"))
        .hint_zh(format!("请改用其上一级目录，或其旁的 {CONVERTED}/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::{check, merge::Merge},
        config::Projection,
        model::{Checkpoint, Qwen3Config, lora},
        testing::{assert_close, wave},
    };
    use candle_core::{Device, Tensor};

    fn lora(use_rslora: bool) -> LoraConfig {
        LoraConfig {
            lora_rank: 3,
            lora_alpha: 5.0,
            lora_dropout: 0.0,
            lora_target: vec![Projection::KProj, Projection::DownProj],
            use_dora: false,
            use_rslora,
            pissa: Pissa { pissa_init: true, pissa_iter: 4, pissa_convert: true },
        }
    }

    fn tiny() -> (Qwen3Config, Checkpoint) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3");
        (Qwen3Config::load(&dir).unwrap(), Checkpoint::open(&dir).unwrap())
    }

    fn values(slots: &[Slot], phase: f64) -> Vec<f32> {
        let one = |slot: &Slot| wave(slot.shape, phase + slot.range().start as f64, &Device::Cpu).unwrap();
        slots
            .iter()
            .flat_map(|slot| (one(slot) * 0.1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
            .collect()
    }

    /// A run's folder with everything that PiSSA leaves, and the trained and first values.
    fn run(dir: &Path, lora: &LoraConfig) -> (Vec<Slot>, Vec<f32>, Vec<f32>) {
        let slots = crate::model::lora::layout(&tiny().0, lora).slots().to_vec();
        let (start, trained) = (values(&slots, 0.2), values(&slots, 0.9));
        let of = |values| Matrices { slots: &slots, values, lora, base_model: "m" };
        begin(dir, of(&start)).unwrap();
        end(dir, of(&trained), &start).unwrap();
        let (header, bytes) = peft::weights_parts(&slots, &trained).unwrap();
        std::fs::write(dir.join(WEIGHTS), [header, bytes.into_owned()].concat()).unwrap();
        std::fs::write(dir.join(CONFIG), peft::config_text(lora, "m")).unwrap();
        (slots, start, trained)
    }

    #[test]
    fn the_adapter_with_what_it_began_with_is_the_converted_one() {
        let (config, base) = tiny();
        for use_rslora in [false, true] {
            let (dir, lora) = (tempfile::tempdir().unwrap(), lora(use_rslora));
            run(dir.path(), &lora);
            let [own, plain] =
                [dir.path().to_owned(), dir.path().join(CONVERTED)].map(|dir| Existing::open(&dir).unwrap());
            assert_eq!((&own.lora, plain.lora.lora_rank), (&plain.lora, 6));
            assert!((own.lora.scale() - lora.scale()).abs() < 1e-12);
            let layout = lora::layout(&config, &own.lora);
            own.refuse_strangers(layout.slots().iter()).unwrap();
            for slot in layout.slots() {
                assert_eq!(own.values(slot).unwrap(), plain.values(slot).unwrap(), "{}", slot.name);
            }
            assert!(check::inspect(&own, &config).unwrap() == check::inspect(&plain, &config).unwrap());
            let merged = |adapter| {
                let out = tempfile::tempdir().unwrap();
                Merge::new(&config, &base, &[adapter], None)
                    .unwrap()
                    .write(out.path(), u64::MAX, &mut |_, _| Ok(()))
                    .unwrap();
                std::fs::read(out.path().join("model.safetensors")).unwrap()
            };
            assert!(merged(own) == merged(plain));
        }
    }

    #[test]
    fn the_converted_one_is_what_training_has_changed() {
        let (dir, lora) = (tempfile::tempdir().unwrap(), lora(true));
        let (slots, start, trained) = run(dir.path(), &lora);
        let plain = Existing::open(&dir.path().join(CONVERTED)).unwrap();
        let matrix = |values: &[f32], slot: &Slot| Tensor::from_vec(values.to_vec(), slot.shape, &Device::Cpu).unwrap();
        let layout = lora::layout(&tiny().0, &plain.lora);
        let pairs = |slots: &[Slot]| slots.len() / 2;
        for (i, (a, b)) in layout.pairs().enumerate() {
            let product = |values: &[f32]| {
                let (a, b) = (&slots[i], &slots[pairs(&slots) + i]);
                matrix(&values[b.range()], b).matmul(&matrix(&values[a.range()], a)).unwrap()
            };
            let want = (product(&trained) - product(&start)).unwrap();
            let got = matrix(&plain.values(b).unwrap(), b).matmul(&matrix(&plain.values(a).unwrap(), a)).unwrap();
            assert_close(&got, &want, 1e-6);
        }
    }

    #[test]
    fn an_adapter_that_would_be_wrong_is_refused() {
        let (dir, lora) = (tempfile::tempdir().unwrap(), lora(false));
        run(dir.path(), &lora);
        for name in [INIT, BACKUP] {
            let err = Existing::open(&dir.path().join(name)).err().unwrap().to_string();
            assert!(
                err.ends_with(
                    "fits only the base without what PiSSA took out of it, and would be wrong over the whole"
                )
            );
        }
        let checkpoint = dir.path().join("checkpoint-5");
        std::fs::create_dir(&checkpoint).unwrap();
        for name in [CONFIG, WEIGHTS] {
            std::fs::copy(dir.path().join(name), checkpoint.join(name)).unwrap();
        }
        assert_eq!(Existing::open(&checkpoint).unwrap().lora.lora_rank, 6, "it is in the folder above");
        let elsewhere = LoraConfig { lora_alpha: 6.0, ..lora.clone() };
        std::fs::write(dir.path().join(INIT).join(CONFIG), peft::config_text(&elsewhere, "m")).unwrap();
        let err = Existing::open(dir.path()).err().unwrap().to_string();
        assert!(err.ends_with("has another rank, scale or targets than the adapter that began with it"), "{err}");
        std::fs::remove_dir_all(dir.path().join(INIT)).unwrap();
        for dir in [dir.path(), &checkpoint] {
            let err = Existing::open(dir).err().unwrap().to_string();
            assert!(err.contains(": a PiSSA adapter: it fits only the base without what pissa_init/ holds"), "{err}");
            assert!(Existing::open_own(dir).unwrap().lora.pissa.pissa_init, "the matrices alone can be read");
        }
        let plain = Existing::open(&dir.path().join(CONVERTED)).unwrap();
        assert!(plain.refuse_misfit(&tiny().0).is_ok() && !plain.lora.pissa.pissa_init);
    }
}
