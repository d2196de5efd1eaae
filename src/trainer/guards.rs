//! What a run refuses: to begin where nothing would be trained, to apply a gradient that is not finite, and to call it a success
//! if nothing has moved.

use super::{Trainer, step::StepGradient};
use crate::{
    adapter::peft,
    config::TrainConfig,
    dataset::Example,
    error::{Error, Result},
    model::params::Slot,
    optim::Schedule,
};
use candle_core::Tensor;

impl Trainer<'_> {
    /// A finished run whose adapter is `initial` (`[n]` f32), or has no B but zeros, has trained nothing: an error.
    #[expect(clippy::disallowed_methods, reason = "reads the parameters back once, at the end")]
    pub fn refuse_unmoved(&self, initial: &Tensor) -> Result<()> {
        let (values, initial): (Vec<f32>, Vec<f32>) = (self.params.flat().to_vec1()?, initial.to_vec1()?);
        let is_moving = |(_, slot): (_, &Slot)| slot.is_b() && values[slot.range()].iter().any(|&x| x != 0.0);
        match (values != initial, self.params.slots().any(is_moving)) {
            (true, true) => Ok(()),
            (false, _) => Err(dead("no tensor of the adapter has moved")),
            (true, false) => Err(dead("every B of the adapter is still zero")),
        }
    }

    /// A step whose every row lost its answer to `cutoff_len` has no loss: said before step 1, not hours later.
    pub fn refuse_empty_steps(&self) -> Result<()> {
        let Some((step, samples)) = self.plan().first_bare_step(self.train) else { return Ok(()) };
        let rows: Vec<String> = samples.indices.iter().take(8).map(|&i| self.place(&self.train[i])).collect();
        Err(Error::input(format!("step {} would have no label: {}", step + 1, rows.join(", ")))
            .hint("their answers were cut away; raise `cutoff_len`, or set `over_length` to `drop`")
            .hint_zh("这些行的答案已被截去；请增大 `cutoff_len`，或将 `over_length` 设为 `drop`"))
    }

    /// Data set and row of an example.
    fn place(&self, example: &Example) -> String {
        let name = self.dataset_names.get(example.origin.dataset).map_or("?", String::as_str);
        format!("{name} row {}", example.origin.row)
    }

    /// A loss that is not finite ends the run before it can reach the parameters.
    #[expect(clippy::disallowed_methods, reason = "reads the gradient back once, before the run ends")]
    pub(super) fn refuse_non_finite(&self, g: &StepGradient, rows: &[(usize, &Example)]) -> Result<()> {
        if g.loss.is_finite() && g.grad_norm.is_finite() {
            return Ok(());
        }
        let values: Vec<f32> = g.flat.to_vec1()?;
        let slot = peft::first_not_finite(&values, self.params.slots().map(|(_, slot)| slot));
        let tensor = slot.map_or(String::new(), |slot| format!("; first in the gradient of {}", slot.name));
        let shown: Vec<String> = rows.iter().take(8).map(|(_, e)| self.place(e)).collect();
        let more =
            if rows.len() > shown.len() { format!(" and {} more", rows.len() - shown.len()) } else { String::new() };
        Err(Error::run(format!(
            "step {}: loss {} and gradient norm {} are not finite{tensor}; rows of this step: {}{more}",
            self.progress.step + 1,
            g.loss,
            g.grad_norm,
            shown.join(", ")
        ))
        .hint(match self.progress.step {
            0 => "nothing was trained yet, so it is not the learning rate: fetch the weights of the model (or adapter) again",
            _ => "the parameters were not updated; lower `learning_rate`, or look at these rows with `bf16 = false`",
        })
        .hint_zh(match self.progress.step {
            0 => "训练尚未开始，与学习率无关：请重新下载模型（或适配器）的权重",
            _ => "本步参数未更新；请降低 `learning_rate`，或用 `bf16 = false` 检查这些行",
        }))
    }
}

fn dead(what: &str) -> Error {
    Error::run(format!("the run trained nothing: {what}"))
        .hint("look at grad_norm and lr in trainer_log.jsonl: one of them is 0, or too small for f32")
        .hint_zh("请查看 trainer_log.jsonl 中的 grad_norm 与 lr：其一为 0，或小到 f32 无法表示")
}
/// Errors: a run of so many steps has rate 0 in all of them, as one so short that it is all warmup: told before the first.
pub fn refuse_rate_zero(config: &TrainConfig, total_steps: usize) -> Result<()> {
    let schedule = Schedule::new(config, total_steps);
    if (0..total_steps).any(|step| schedule.lr(step) != 0.0) {
        return Ok(());
    }
    let what = match config.learning_rate {
        0.0 => "`learning_rate` is 0".into(),
        _ => format!("all {total_steps} steps are in the warmup and have rate 0"),
    };
    Err(Error::input(format!("nothing would be trained: {what}"))
        .hint("train more steps (a smaller batch, more rows or epochs), or set `warmup_ratio = 0`")
        .hint_zh("请增加训练步数（减小批大小、增加数据或轮数），或设 `warmup_ratio = 0`"))
}
