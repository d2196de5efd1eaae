//! One optimizer step: micro-batches → summed loss and gradients → one update.

use super::Cut;
use crate::{
    dataset::Example,
    error::{Error, Result},
    fs::fault,
    model::{Grads, Noise, Params, Qwen3, Recorder, qwen3::DropoutPlan},
    optim::clip,
    plan::{Part, explained},
};
use candle_core::{DType, Tensor};

/// Loss and gradient of one step, before the update.
pub struct StepGradient {
    /// Σ nll / Σ labels, in nats per supervised token.
    pub loss: f64,
    /// L2 norm of [`Self::flat`].
    pub grad_norm: f64,
    /// ∂loss/∂θ, `[n]` f32.
    pub flat: Tensor,
}

impl StepGradient {
    /// One element becomes NaN: for the fault suite.
    pub fn spoil(&mut self) -> Result<()> {
        let n = self.flat.elem_count();
        let factors: Vec<f32> = (0..n).map(|i| if i == n / 2 { f32::NAN } else { 1.0 }).collect();
        self.flat = (&self.flat * Tensor::from_vec(factors, n, self.flat.device())?)?;
        self.grad_norm = clip::grad_norm(&self.flat)?;
        Ok(())
    }
}

/// What is random in a step.
#[derive(Debug, Clone, Default)]
pub struct Random {
    /// Of the inputs of A.
    pub dropout: Option<DropoutPlan>,
    /// On the embeddings.
    pub noise: Option<Noise>,
}

/// Where the micro-batches of a step add their gradients.
enum Sums<'r> {
    Own(Grads),
    Recorded(&'r mut Recorder),
}

/// Forward and backward over all samples of a step. With a `recorder` nothing is random.
///
/// Every micro-batch adds Σ nll / N with N the labels of the whole step, so the cut changes no result. N counts a label
/// at position 0 although nothing predicts it, as the Hugging Face trainer does. `None`: `stop` said so between two
/// micro-batches.
#[expect(clippy::disallowed_methods, reason = "the step's one look at the loss, after all its micro-batches")]
pub fn gradient(
    model: &Qwen3,
    params: &Params,
    samples: &[(usize, &Example)],
    cut: Cut,
    random: &Random,
    recorder: Option<&mut Recorder>,
    stop: &dyn Fn() -> bool,
) -> Result<Option<StepGradient>> {
    let labels: usize = samples.iter().map(|(_, e)| e.label_count()).sum();
    let supervised: Vec<(usize, &Example)> = samples.iter().copied().filter(|(_, e)| e.is_trainable()).collect();
    if supervised.is_empty() {
        return Err(Error::run("no row of this step has a label: all their answers were cut away")
            .hint("raise `cutoff_len`, or set `over_length` to `drop`")
            .hint_zh("请增大 `cutoff_len`，或将 `over_length` 设为 `drop`"));
    }
    let mut sums = match recorder {
        Some(recorder) => recorder.begin().map(|()| Sums::Recorded(recorder))?,
        None => Sums::Own(Grads::new(params).map_err(|err| explained(err, Part::Adapter))?),
    };
    let mut losses = Vec::new();
    for packed in cut.batches(&supervised) {
        fault::phase("train");
        if stop() {
            return Ok(None);
        }
        let (mut batch, samples) = packed?;
        batch.noise = random.noise.as_ref().map(|noise| noise.values(&batch, model.config().hidden_size));
        let part = Part::MicroBatch { rows: batch.ids.len(), samples: samples.len(), keep: cut.keep };
        let scale = 1.0 / labels as f64;
        let nll = match &mut sums {
            Sums::Recorded(recorder) => recorder.train(model, &batch, params, scale, cut.keep),
            Sums::Own(grads) => model.train(&batch, params, grads, scale, (random.dropout, cut.keep)),
        };
        losses.push(nll.map_err(|err| explained(err, part))?);
    }
    let losses: Vec<f64> = Tensor::cat(&losses, 0)?.to_dtype(DType::F64)?.to_vec1()?;
    let flat = match &sums {
        Sums::Recorded(recorder) => recorder.grads().flat(params)?,
        Sums::Own(grads) => grads.flat(params)?,
    };
    Ok(Some(StepGradient {
        loss: losses.into_iter().sum::<f64>() / labels as f64,
        grad_norm: clip::grad_norm(&flat)?,
        flat,
    }))
}
