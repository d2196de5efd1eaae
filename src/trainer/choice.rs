//! Choosing among evaluations: which is the best, when to give up, and the way back to the best at the end.

use super::{
    Trainer,
    checkpoint::{self, Skipped},
    event::{Event, Observer, Trouble},
    progress::Best,
};
use crate::error::Result;
use candle_core::Tensor;

/// Choosing among evaluations.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Return to the best checkpoint at the end.
    pub load_best: bool,
    /// What is compared: a name that [`event::Evaluated::metric`] knows.
    pub metric: String,
    /// A larger metric is better.
    pub greater_is_better: bool,
    /// Stop after so many evaluations without a better one.
    pub patience: Option<usize>,
}

impl Trainer<'_> {
    /// The evaluation to return to at the end: the best whose checkpoint is not lost. `None` also where none is asked for.
    pub(super) fn best(&self) -> Option<Best> {
        // What was evaluated just now is in memory, whatever its save comes to.
        let now = self.progress.evaluated.as_ref().map(|evaluation| evaluation.step);
        let now = now.filter(|step| *step == self.progress.step);
        let is_lost = |step| now != Some(step) && self.saver.as_ref().is_some_and(|saver| saver.has_lost(step));
        self.progress.best(&self.choice, |step| !is_lost(step)).filter(|_| self.choice.load_best)
    }

    pub(super) fn patience_is_over(&self) -> bool {
        self.choice.patience.is_some_and(|patience| self.progress.evaluations_since_best(&self.choice) >= patience)
    }

    /// After a resume: the best whose checkpoint is sound. Returns the first that is not.
    pub(super) fn lose_unsound_best(&mut self) -> Option<Skipped> {
        let mut first = None;
        while let (Some(best), Some(saver)) = (self.best(), &mut self.saver) {
            let path = saver.folder(best.step);
            let Err(err) = checkpoint::adapter(&path) else { break };
            saver.lose(best.step);
            first.get_or_insert(Skipped { path, reason: err.to_string() });
        }
        first
    }

    /// `load_best_model_at_end`: the parameters of the best evaluation, which is returned. One that cannot be read is told,
    /// and the next best taken: it must not cost the whole run.
    pub(super) fn load_best(&mut self, observer: &mut dyn Observer) -> Result<Option<Best>> {
        while let (Some(best), Some(saver)) = (self.best(), &mut self.saver) {
            if best.step == self.progress.step {
                return Ok(Some(best));
            }
            let path = saver.folder(best.step);
            match checkpoint::adapter(&path).and_then(|adapter| adapter.flat(&self.params)) {
                Ok(flat) => {
                    let n = flat.len();
                    self.params.set(Tensor::from_vec(flat, n, self.model.device())?)?;
                    self.progress.evaluated = None;
                    self.progress.returned = true;
                    return Ok(Some(best));
                }
                Err(err) => {
                    saver.lose(best.step);
                    let what = format!("{}: the best evaluation cannot be returned to: {err}", path.display());
                    observer.on_event(&Event::Trouble(Trouble { what }))?;
                }
            }
        }
        Ok(None)
    }
}
