//! The cut and the shared prefix over models and samples of random shapes: in f64 the gradients agree to 1e-10, so that
//! what is computed is the same thing, and in f32 to what its sums allow.

use candle_core::{DType, Device, Tensor};
use couplet_train::{
    config::{LoraConfig, Projection},
    dataset::{Example, IGNORE, Origin},
    model::{Params, Qwen3, Qwen3Config, qwen3::Keep},
    rng::Key,
    trainer::{
        Cut,
        step::{self, Random, StepGradient},
    },
};

/// Numbers of one case.
struct Draw {
    key: Key,
    drawn: u64,
}

impl Draw {
    fn new(seed: u64) -> Self {
        Self { key: Key::new(seed, "geometries"), drawn: 0 }
    }

    fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        ((self.key.uniform(self.drawn) * n as f32) as usize).min(n - 1)
    }

    fn one_of(&mut self, values: &[usize]) -> usize {
        values[self.below(values.len())]
    }
}

/// `small`: with heads and rows of a few values, whose normalised gradients are small differences of large numbers: f32
/// is 10⁻⁵ away from f64 there, whatever the cut.
fn config(draw: &mut Draw, small: bool) -> Qwen3Config {
    let kv = 1 + draw.below(3);
    let (hidden, head_dims) = if small { (5, [2, 6, 16, 34]) } else { (32, [16, 32, 34, 64]) };
    Qwen3Config {
        vocab_size: 40 + draw.below(30),
        hidden_size: hidden + draw.below(40),
        intermediate_size: 3 + draw.below(60),
        num_hidden_layers: 1 + draw.below(3),
        num_attention_heads: kv * (1 + draw.below(4)),
        num_key_value_heads: kv,
        head_dim: draw.one_of(&head_dims),
        tie_word_embeddings: draw.below(2) == 0,
        rope_theta: 1e4,
        ..couplet_train::testing::qwen3_0_6b()
    }
}

/// One to nine samples of at most two instructions, trained on their last tokens or on scattered ones.
fn samples(draw: &mut Draw, vocab: usize) -> Vec<Example> {
    let prefixes: Vec<Vec<u32>> =
        (0..1 + draw.below(2)).map(|_| (0..2 + draw.below(12)).map(|_| draw.below(vocab) as u32).collect()).collect();
    let rows = 1 + draw.below(9);
    let sample = |draw: &mut Draw, row: usize| {
        let mut input_ids = prefixes[draw.below(prefixes.len())].clone();
        let instruction = input_ids.len();
        input_ids.extend((0..2 + draw.below(18)).map(|_| draw.below(vocab) as u32));
        let scattered = draw.below(6) == 0; // over the instruction too, which then cannot be shared whole
        let from = instruction + draw.below(input_ids.len() - instruction);
        let trained: Vec<bool> = (0..input_ids.len()).map(|_| draw.below(2) == 0).collect();
        let label = |i: usize| i + 1 == input_ids.len() || if scattered { trained[i] } else { i >= from };
        let labels = input_ids.iter().enumerate().map(|(i, id)| if label(i) { *id } else { IGNORE });
        let labels: Vec<u32> = labels.collect();
        Example::new(input_ids, &labels, Origin { dataset: 0, row })
    };
    (0..rows).map(|row| sample(draw, row)).collect()
}

struct Bench {
    model: Qwen3,
    params: Params,
    rows: Vec<Example>,
}

impl Bench {
    fn new(seed: u64, dtype: DType) -> Self {
        let mut draw = Draw::new(seed);
        let config = config(&mut draw, dtype == DType::F64);
        let lora = LoraConfig {
            lora_rank: 1 + draw.below(5),
            lora_alpha: 3.0,
            lora_dropout: 0.0,
            lora_target: Projection::ALL.to_vec(),
            use_dora: seed % 2 == 1,
            use_rslora: false,
            pissa: Default::default(),
        };
        let values = |name: &str, n: usize, size: f32| -> Vec<f32> {
            let key = Key::new(seed, name);
            (0..n as u64).map(|i| (key.uniform(i) - 0.5) * size).collect()
        };
        let weight = |name: &str, shape: &[usize]| {
            let mut values = values(name, shape.iter().product(), 0.6);
            if shape.len() == 1 {
                values.iter_mut().for_each(|x| *x += 1.0); // a norm
            }
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
        };
        let (model, layout) = Qwen3::build(&config, &lora, dtype, &Device::Cpu, weight).unwrap();
        let params =
            Params::new(layout, dtype, &Device::Cpu, |slot| Ok(values(&slot.name, slot.shape.0 * slot.shape.1, 0.4)));
        Self { model, params: params.unwrap(), rows: samples(&mut draw, config.vocab_size) }
    }

    fn gradient(&self, cut: Cut) -> StepGradient {
        let rows: Vec<(usize, &Example)> = self.rows.iter().enumerate().collect();
        step::gradient(&self.model, &self.params, &rows, cut, &Random::default(), None, &|| false)
            .unwrap()
            .expect("not stopped")
    }
}

/// ‖Δg‖/‖g‖ of the worst matrix; one whose gradient is nothing (the norm in the denominator) is held against the whole.
fn worst(bench: &Bench, a: &StepGradient, b: &StepGradient) -> f64 {
    let values = |g: &StepGradient| g.flat.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let (a, b) = (values(a), values(b));
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let all = norm(&b);
    let distance = |range: std::ops::Range<usize>| {
        let difference: Vec<f64> = a[range.clone()].iter().zip(&b[range.clone()]).map(|(a, b)| a - b).collect();
        norm(&difference) / norm(&b[range]).max(1e-3 * all)
    };
    bench.params.slots().map(|(_, slot)| distance(slot.range())).fold(0.0, f64::max)
}

fn the_cut_changes_nothing(cases: u64, dtype: DType, bound: f64) {
    let mut shared = 0;
    for seed in 0..cases {
        let bench = Bench::new(seed, dtype);
        let mut draw = Draw::new(seed + 1_000_000);
        let whole = bench.gradient(Cut { max_rows: usize::MAX, share_prefix: false, keep: Keep::Lean });
        for share_prefix in [false, true] {
            for max_rows in [usize::MAX, 1 + draw.below(120), 1] {
                let cut = Cut { max_rows, share_prefix, keep: Keep::Lean };
                let rows: Vec<(usize, &Example)> = bench.rows.iter().enumerate().collect();
                let fed = |cut: Cut| cut.batches(&rows).map(|batch| batch.unwrap().0.ids.len()).sum::<usize>();
                shared += usize::from(fed(cut) < fed(Cut { share_prefix: false, ..cut }));
                let other = bench.gradient(cut);
                let loss = (other.loss - whole.loss).abs() / whole.loss;
                let worst = worst(&bench, &other, &whole);
                assert!(loss < bound && worst < bound, "case {seed}, {cut:?}: loss {loss:.1e}, gradient {worst:.1e}");
            }
        }
    }
    assert!(2 * shared as u64 > cases, "so few shared a prefix: {shared}");
}

#[test]
fn in_f64_the_cut_and_the_prefix_change_nothing_to_1e_10() {
    the_cut_changes_nothing(120, DType::F64, 1e-10);
}

#[test]
fn in_f32_the_cut_and_the_prefix_change_what_its_sums_allow() {
    the_cut_changes_nothing(120, DType::F32, 5e-6);
}
