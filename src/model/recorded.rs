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
    error::Result,
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

impl Recorder {
    /// Whether passes of `model` can be recorded: on a card, in bf16, with heads that attention has a kernel for, and not where
    /// training is `random`, with dropout or noise on the embeddings, which would have to be uploaded.
    pub fn is_possible(model: &Qwen3, random: bool) -> bool {
        model.device().is_cuda() && !random && has_attention(model.dtype(), model.config().head_dim)
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

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::{
        config::{LoraConfig, Projection},
        model::{Checkpoint, Qwen3Config},
        rng::Key,
        testing::devices,
    };
    use candle_core::Device;
    use std::path::Path;

    /// Three samples behind a common beginning; everything but the lengths is of this `kind`.
    fn batch(kind: u32) -> Batch {
        let sample = |i: u32, len: u32| -> Vec<u32> {
            (0..5).chain((0..len).map(|place| 10 + (kind * 97 + i * 31 + place * 7) % 6000)).collect()
        };
        let samples = [sample(0, 9 + kind), sample(1, 14 - kind), sample(2, 11)];
        let labels: Vec<Vec<u32>> = samples
            .iter()
            .map(|ids| ids.iter().enumerate().map(|(i, id)| if i + 4 < ids.len() { 0 } else { *id }).collect())
            .collect();
        let rows: Vec<(u64, &[u32], &[u32])> =
            samples.iter().zip(&labels).map(|(ids, labels)| (0, ids.as_slice(), labels.as_slice())).collect();
        Batch::pack(&rows, 0, true).expect("labels")
    }

    /// One shape, other tokens, other lengths, another scale: bit for bit the pass that is queued operation by operation.
    #[test]
    fn a_recorded_pass_gives_the_bits_of_a_usual_one_whatever_is_in_it() -> Result<()> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3");
        let lora = |use_dora| LoraConfig {
            lora_rank: 4,
            lora_alpha: 6.0,
            lora_dropout: 0.0,
            lora_target: Projection::ALL.to_vec(),
            use_dora,
            use_rslora: false,
            pissa: Default::default(),
        };
        let cards = devices().into_iter().filter(Device::is_cuda);
        for (device, lora) in cards.flat_map(|card| [(card.clone(), lora(false)), (card, lora(true))]) {
            let (config, checkpoint) = (Qwen3Config::load(&dir)?, Checkpoint::open(&dir)?);
            let (model, layout) = Qwen3::load(&config, &checkpoint, &lora, DType::BF16, &device)?;
            let mut params = Params::new(layout, DType::BF16, &device, |slot| {
                let key = Key::new(7, &slot.name);
                Ok((0..(slot.shape.0 * slot.shape.1) as u64).map(|i| (key.uniform(i) - 0.5) * 0.1).collect())
            })?;
            params.begin_magnitudes()?;
            let mut recorder = Recorder::new(&params)?;
            for kind in 0..4 {
                let (batch, scale) = (batch(kind), 0.1 + f64::from(kind));
                recorder.begin()?;
                let losses = recorder.train(&model, &batch, &params, scale, Keep::Lean)?;
                let mut grads = Grads::new(&params)?;
                let want = model.train(&batch.filled_up(), &params, &mut grads, scale, (None, Keep::Lean))?;
                assert_eq!(
                    losses.to_vec1::<f32>()?,
                    want.narrow(0, 0, batch.targets.len())?.to_vec1::<f32>()?,
                    "{kind}"
                );
                let flat = grads.flat(&params)?;
                assert!(
                    recorder.grads().flat(&params)?.to_vec1::<f32>()? == flat.to_vec1::<f32>()?,
                    "{kind}: gradients"
                );
                params.set_in_place((params.flat() - (flat * 1e-3)?)?)?;
            }
            assert_eq!(recorder.recordings.len(), 1, "one shape");
            assert!(recorder.recordings[0].pass.is_some());
        }
        Ok(())
    }
}
