//! A pass under NEFTune against a recorded one of PyTorch: `tests/fixtures/neftune/README.md`.

use crate::support::{fixtures, relative_distance, values};
use candle_core::{DType, Device};
use couplet_train::{
    adapter::peft,
    model::{Batch, Checkpoint, Grads, Noise, Params, Qwen3, Qwen3Config, qwen3::Keep},
    rng::Key,
    trainer::padded_length,
};
use serde_json::Value;

const NO: u32 = u32::MAX;

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join(name)).expect(name)).expect(name)
}

/// Ids and labels of the rows of the recording.
fn rows() -> Vec<(Vec<u32>, Vec<u32>)> {
    let numbers = |row: &Value, key: &str| -> Vec<u32> {
        let number = |x: &Value| u32::try_from(x.as_i64().expect("a number")).unwrap_or(NO);
        row[key].as_array().expect(key).iter().map(number).collect()
    };
    let all = json("parity/clip_nonzero_b/tokens.json");
    let rows = all.as_array().expect("rows").iter().take(3);
    rows.map(|row| (numbers(row, "input_ids"), numbers(row, "labels"))).collect()
}

#[test]
fn the_same_noise_gives_the_losses_and_gradients_of_pytorch() {
    let (reference, tensors) = (
        json("neftune/reference.json"),
        Checkpoint::open_file(&fixtures().join("neftune/reference.safetensors")).expect("tensors"),
    );
    let dir = fixtures().join("parity/clip_nonzero_b");
    let config = Qwen3Config::load(&dir.join("model")).expect("config.json");
    let adapter = peft::Existing::open(&dir.join("init_adapter")).expect("the adapter");
    let checkpoint = Checkpoint::open(&dir.join("model")).expect("the weights");
    let (model, layout) = Qwen3::load(&config, &checkpoint, &adapter.lora, DType::F32, &Device::Cpu).expect("a model");
    let params = Params::new(layout, DType::F32, &Device::Cpu, |slot| adapter.values(slot)).expect("adapter values");

    let rows = rows();
    let samples: Vec<_> = (0..).zip(&rows).map(|(i, (ids, labels))| (i, &ids[..], &labels[..])).collect();
    let mut batch = Batch::pack(&samples, NO, false).expect("a batch");
    let added = (0..rows.len()).flat_map(|i| tensors.values(&format!("noise.{i}")).expect("noise"));
    batch.noise = Some(added.collect());

    let want: Vec<f64> =
        reference["nll"].as_array().expect("nll").iter().map(|x| x.as_f64().expect("a loss")).collect();
    for keep in [Keep::Lean, Keep::Input] {
        let mut grads = Grads::new(&params).expect("gradients");
        let nll = model.train(&batch, &params, &mut grads, 1.0 / want.len() as f64, (None, keep)).expect("a pass");
        assert!(relative_distance(&values(&nll), &want, &want) < 1e-6, "{keep:?}");
        for (id, slot) in params.slots() {
            let want = tensors.values(&peft::file_name(slot)).expect(&slot.name);
            let want: Vec<f64> = want.into_iter().map(f64::from).collect();
            let got = values(&grads.get(id).expect("a view").expect("a gradient"));
            let off = relative_distance(&got, &want, &want);
            assert!(off < 1e-5, "{keep:?}: the gradient of {} is off by {off:.1e}", slot.name);
        }
    }
    let heard = values(&model.nll(&batch, &params).expect("losses"));
    assert!(relative_distance(&heard, &want, &want) > 1e-3, "an evaluation has no noise");
}

#[test]
fn our_noise_is_as_large_as_that_of_transformers() {
    let reference = json("neftune/reference.json");
    let (alpha, width) = (reference["alpha"].as_f64().expect("alpha"), reference["width"].as_u64().expect("width"));
    let rows = rows();
    let length = padded_length(rows.iter().map(|(ids, _)| ids.len()));
    assert_eq!(length as u64, reference["length"].as_u64().expect("length"));
    let samples: Vec<_> = (0..).zip(&rows).map(|(i, (ids, labels))| (i, &ids[..], &labels[..])).collect();
    let batch = Batch::pack(&samples, NO, false).expect("a batch");
    let ours = Noise::new(alpha, Key::new(42, "neftune"), (0..3).map(|i| (i, length))).values(&batch, width as usize);
    let tensors = Checkpoint::open_file(&fixtures().join("neftune/reference.safetensors")).expect("tensors");
    let theirs: Vec<f32> = (0..3).flat_map(|i| tensors.values(&format!("noise.{i}")).expect("noise")).collect();
    assert_eq!(ours.len(), theirs.len());
    let largest = |x: &[f32]| x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let size = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!((largest(&ours) / largest(&theirs) - 1.0).abs() < 0.01);
    assert!((size(&ours) / size(&theirs) - 1.0).abs() < 0.03);
}
