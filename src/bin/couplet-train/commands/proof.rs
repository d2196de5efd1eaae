//! Proof that an adapter does something, and that a merged model does the same: logits on a few rows.

use super::trained::Trained;
use candle_core::{DType, Tensor};
use couplet_train::{
    adapter::{
        check::{self, Proof},
        merge::merged,
        peft,
    },
    config::{DataConfig, Projection},
    dataset::{self, Example, Origin, Tokenizer, TrainedSpans},
    error::{Error, Result},
    generate::Speaker,
    model::{Batch, Checkpoint, Params, Qwen3, Qwen3Config, params::Slot, streamed, weights::Change},
    report::Lang,
    trainer::packed,
};
use std::path::Path;

/// Rows that are looked at.
const ROWS: usize = 8;

/// Logits that are looked at: some tens of MB, so that a proof does not take more memory than the training before it.
const POSITIONS: usize = 16;

/// Couplets of our own, for adapters whose data is not here.
const SAMPLES: [(&str, &str); 4] = [
    ("春风送暖千山绿", "旭日增辉万里红"),
    ("书山有路勤为径", "学海无涯苦作舟"),
    ("雨润桃花红满院", "风摇柳线绿盈堤"),
    ("一窗明月读书夜", "半榻清风入梦时"),
];

/// A few held-out rows (training rows where none are held out), laid out for one pass.
pub fn batch_of<'a>(held_out: &'a [Example], train: &'a [Example]) -> Result<Batch> {
    let rows = if held_out.iter().any(Example::is_trainable) { held_out } else { train };
    let rows: Vec<_> = rows.iter().filter(|row| row.is_trainable()).take(ROWS).enumerate().collect();
    let mut batch = packed(&rows, false)?;
    let every = batch.label_rows.len().div_ceil(POSITIONS);
    batch.label_rows = batch.label_rows.into_iter().step_by(every).collect();
    batch.targets = batch.targets.into_iter().step_by(every).collect();
    Ok(batch)
}

/// Rows of the data that the adapter was trained on, if it can still be read, else couplets of our own; and what they are.
pub fn sample(trained: Option<&Trained>, speaker: &Speaker, tokenizer: &Tokenizer) -> Result<(Batch, &'static str)> {
    let of_the_run = || {
        let config = &trained?.receipt.as_ref()?["config"];
        let mut data: DataConfig = serde_json::from_value(config["data"].clone()).ok()?;
        data.test_dataset = vec![];
        data.max_samples = Some(data.max_samples.unwrap_or(usize::MAX).min(8 * ROWS));
        let splits = dataset::load(&data, config["train"]["seed"].as_u64()?, tokenizer).ok()?;
        Some((
            batch_of(&splits.eval, &splits.train),
            if splits.eval.is_empty() { "training rows" } else { "held-out rows" },
        ))
    };
    if let Some((batch, what)) = of_the_run() {
        return Ok((batch?, what));
    }
    let mut rows = Vec::new();
    for (upper, lower) in SAMPLES {
        let mut input_ids = speaker.prompt(tokenizer, &[], upper)?;
        let asked = input_ids.len();
        input_ids.extend(tokenizer.encode(lower)?);
        let trained = TrainedSpans::of_stretches([(asked, false), (input_ids.len() - asked, true)]);
        rows.push(Example { input_ids, trained, origin: Origin { dataset: 0, row: rows.len() + 1 }, pack: None });
    }
    let rows: Vec<_> = rows.iter().enumerate().collect();
    Ok((packed(&rows, false)?, "sample couplets, because the data of the run is not here"))
}

/// Logits of base and of base + adapter, one block in memory at a time. `lower`: adapters that are merged into the base before,
/// with one rounding each to `dtype`, or the base's own. The base's digest is complete then.
pub fn streamed_logits(
    config: &Qwen3Config,
    base: &Checkpoint,
    (lower, dtype): (&[peft::Existing], Option<DType>),
    adapter: &peft::Existing,
    batch: &Batch,
) -> Result<(Tensor, Tensor)> {
    let change = |name: &str, rows, value: Tensor| {
        let dtype = dtype.or(base.info(name).map(|(dtype, _)| dtype)).unwrap_or(value.dtype());
        Ok(merged(lower, name, rows, value.to_dtype(dtype)?)?.to_dtype(value.dtype())?)
    };
    let change: Option<&Change> = if lower.is_empty() { None } else { Some(&change) };
    let untuned = streamed::logits(config, base, change, None, batch)?;
    base.take_note("model.embed_tokens.weight")?;
    if !config.tie_word_embeddings {
        base.take_note("lm_head.weight")?;
    }
    let values = |slot: &Slot| adapter.values(slot);
    let tuned = streamed::logits(config, base, change, Some((&adapter.lora, &values)), batch)?;
    Ok((untuned, tuned))
}

/// Reads the adapter of a finished run back from `dir`: whole, finite, alive. Returns a line that says so.
///
/// Errors: it is not. `model` is the one it was trained on, and still loaded; `idle` are the values with which it says what the
/// base says.
pub fn of_a_run(
    dir: &Path,
    model: &Qwen3,
    idle: &dyn Fn(&Slot) -> Result<Vec<f32>>,
    batch: &Batch,
    lang: Lang,
) -> Result<String> {
    let adapter = peft::Existing::open_own(dir)?;
    let proof = check::inspect(&adapter, model.config())?;
    refuse_dead(&proof, dir)?;
    let params = |values: &dyn Fn(&Slot) -> Result<Vec<f32>>| {
        Params::new(model.adapter_layout(&adapter.lora)?, model.dtype(), model.device(), values)
    };
    let tuned = params(&|slot| adapter.values(slot))?;
    let mut idle = params(idle)?;
    idle.begin_magnitudes()?;
    let moved = largest_difference(&model.logits(batch, &tuned)?, &model.logits(batch, &idle)?)?;
    refuse_motionless(moved, dir)?;
    let tensors = proof.tensors;
    Ok(match lang {
        Lang::En => {
            format!("read back from the disk: {tensors} tensors, all finite; they move the logits by up to {moved:.2}")
        }
        Lang::Zh => format!("已从磁盘读回：{tensors} 个张量，数值均有限；logits 最大变化 {moved:.2}"),
    })
}

/// Errors: every update is zero.
pub fn refuse_dead(proof: &Proof, dir: &Path) -> Result<()> {
    if !proof.is_dead() {
        return Ok(());
    }
    Err(Error::run(format!("{}: every B is zero: the adapter does nothing", dir.display()))
        .hint("it was saved before the first update; train it, or take a later checkpoint")
        .hint_zh("它在第一次更新之前就被保存；请继续训练，或改用之后的检查点"))
}

/// Errors: the logits do not move.
pub fn refuse_motionless(moved: f64, dir: &Path) -> Result<()> {
    if moved > 0.0 {
        return Ok(());
    }
    Err(Error::run(format!("{}: the adapter does not move a single logit", dir.display()))
        .hint("its updates are too small for the model's dtype; train longer, or with a higher `learning_rate`")
        .hint_zh("更新量小于模型精度所能表示；请延长训练或提高 `learning_rate`"))
}

/// max |a − b|
#[expect(clippy::disallowed_methods, reason = "a proof reads results back")]
pub fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok(f64::from((a - b)?.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()?))
}

/// `q_proj 1.23  k_proj 0.41 …`
pub fn updates(proof: &Proof) -> String {
    let one = |(projection, norm): &(Projection, f64)| format!("{} {norm:.3}", projection.name());
    proof.updates.iter().map(one).collect::<Vec<_>>().join("  ")
}
