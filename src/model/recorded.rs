//! Training passes of a card, recorded once for every shape of micro-batch and then queued with one call each.
//!
//! Queueing a pass operation by operation takes the host some microseconds for each, about seventy a block; a small model's card
//! is done sooner. Micro-batches are filled up to a few shapes, so that the recording of one serves the next: it is put in
//! place of the one that was recorded. The first of a shape runs as usual (code is loaded, small uploads are kept), the second
//! is recorded, all later ones are launched; every one of them with the same kernels on the same shapes, so with the same bits.

use super::{
    params::{Grads, Params},
    qwen3::{Batch, Inputs, Keep, Qwen3},
};
use crate::{
    error::{Error, Result},
    kernels::{AttentionLists, Graph, card::has_attention, remembered},
};
use candle_core::{DType, Tensor};

/// Shapes whose recordings are kept; the one not used for longest goes first.
const KEPT: usize = 16;

/// Recorded passes of one model, and the gradients that they add to.
pub struct Recorder {
    /// What the recordings read.
    params: Tensor,
    grads: Grads,
    recordings: Vec<Recording>,
}

/// A micro-batch of one shape.
struct Recording {
    shape: Shape,
    /// After the second one of the shape.
    pass: Option<Pass>,
}

/// What a recorded pass depends on besides the values in its tensors.
#[derive(PartialEq)]
struct Shape {
    tensors: Vec<Vec<usize>>,
    counts: Vec<usize>,
    keep: Keep,
}

struct Pass {
    inputs: Placed,
    /// `[L]` f32
    losses: Tensor,
    graph: Graph,
}

/// All that a pass reads but weights and parameters.
struct Placed {
    inputs: Inputs,
    lists: [AttentionLists; 2],
}

/// The variable that asks for recorded passes.
const VARIABLE: &str = "COUPLET_TRAIN_GRAPHS";

impl Recorder {
    /// Whether `COUPLET_TRAIN_GRAPHS=on` asks for recorded passes. Not so by itself before it has been seen on a card.
    ///
    /// Errors: it says something else; or they cannot be recorded: on the CPU, in another dtype than bf16, with heads
    /// that attention has no kernel for, or where training is `random`: with dropout, or noise on the embeddings.
    pub fn is_asked_for(model: &Qwen3, random: bool) -> Result<bool> {
        let value = std::env::var(VARIABLE).unwrap_or_else(|_| "off".into());
        if !matches!(value.as_str(), "on" | "off") {
            return Err(Error::input(format!("{VARIABLE}={value}: on or off was expected")));
        }
        let possible = model.device().is_cuda() && !random && has_attention(model.dtype(), model.config().head_dim);
        match (value == "on", possible) {
            (true, false) => Err(Error::input(format!(
                "{VARIABLE}=on: passes are recorded on a card, in bf16, with heads of 64 or 128, and without \
                 `lora_dropout` and `neftune_noise_alpha`"
            ))
            .hint("leave it out")
            .hint_zh("请去掉该环境变量")),
            (asked, _) => Ok(asked),
        }
    }

    /// Nothing recorded yet, for the parameters of a model on a card.
    pub fn new(params: &Params) -> Result<Self> {
        Ok(Self { params: params.computing().clone(), grads: Grads::new(params)?, recordings: vec![] })
    }

    /// The gradients, zero: for a new step.
    pub fn begin(&mut self) -> Result<()> {
        self.grads.reset()
    }

    /// The gradients so far.
    pub fn grads(&self) -> &Grads {
        &self.grads
    }

    /// [`Qwen3::train`] with nothing random. Where `params` are in another place than before, everything is recorded anew.
    pub fn train(&mut self, model: &Qwen3, batch: &Batch, params: &Params, scale: f64, keep: Keep) -> Result<Tensor> {
        if self.params.id() != params.computing().id() {
            (self.params, self.recordings) = (params.computing().clone(), vec![]);
        }
        let labels = batch.targets.len();
        let inputs = Placed::new(model, &batch.filled_up(), scale)?;
        let shape = inputs.shape(keep);
        let found = self.recordings.iter().position(|recording| recording.shape == shape);
        let losses = match found.map(|i| self.recordings.remove(i)) {
            None => {
                self.recordings.insert(0, Recording { shape, pass: None });
                self.recordings.truncate(KEPT);
                remembered(model.device(), || model.train_on(&inputs.inputs, params, &mut self.grads, (None, keep)))?
            }
            Some(mut recording) => {
                let pass = match recording.pass.take() {
                    Some(pass) => pass.put(&inputs)?,
                    None => Pass::record(model, inputs, params, &mut self.grads, keep)?,
                };
                pass.graph.launch()?;
                self.grads.receives_all();
                let losses = pass.losses.copy()?;
                recording.pass = Some(pass);
                self.recordings.insert(0, recording);
                losses
            }
        };
        Ok(losses.narrow(0, 0, labels)?)
    }
}

impl Pass {
    fn record(model: &Qwen3, inputs: Placed, params: &Params, grads: &mut Grads, keep: Keep) -> Result<Self> {
        let labels = inputs.inputs.labels.len();
        let losses = Tensor::zeros(labels, DType::F32, model.device())?;
        let graph = Graph::record(model.device(), || {
            let made = model.train_on(&inputs.inputs, params, grads, (None, keep))?;
            Ok(losses.slice_set(&made, 0, 0)?)
        })?;
        inputs.lists.iter().for_each(AttentionLists::claim);
        Ok(Self { inputs, losses, graph })
    }

    /// Another micro-batch of the shape in place of the one before.
    fn put(self, other: &Placed) -> Result<Self> {
        for (to, from) in self.inputs.tensors().into_iter().zip(other.tensors()) {
            to.slice_set(from, 0, 0)?;
        }
        Ok(self)
    }
}

impl Placed {
    fn new(model: &Qwen3, batch: &Batch, scale: f64) -> Result<Self> {
        let (inputs, config) = (model.inputs(batch, scale)?, model.config());
        let groups = config.num_attention_heads / config.num_key_value_heads;
        let [all, last] = inputs.segments().map(|segments| AttentionLists::new(segments, groups, model.device()));
        Ok(Self { lists: [all?, last?], inputs })
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.inputs.tensors().into_iter().chain(self.lists.iter().flat_map(AttentionLists::tensors)).collect()
    }

    fn shape(&self, keep: Keep) -> Shape {
        Shape {
            tensors: self.tensors().into_iter().map(|tensor| tensor.dims().to_vec()).collect(),
            counts: self.lists.iter().flat_map(AttentionLists::counts).collect(),
            keep,
        }
    }
}
