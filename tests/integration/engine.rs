//! What must not change a result: how a step is cut, whether its prefix is shared, how many threads compute it; and
//! that the gradient under dropout and noise is the gradient of the loss under them.

use crate::support::{on_everything, relative_distance, shipped, values};
use candle_core::{DType, Device, Tensor};
use couplet_train::{
    config::LoraConfig,
    dataset::{Example, IGNORE},
    model::{
        Batch, Grads, Noise, Params, Qwen3,
        qwen3::{DropoutPlan, Keep},
    },
    rng::Key,
    trainer::{
        Cut,
        step::{self, Random, StepGradient},
        validate::{self, Measure},
    },
};

/// The shipped model with an adapter whose B is not zero, and the first 12 shipped rows.
struct Bench {
    model: Qwen3,
    params: Params,
    rows: Vec<Example>,
    noise: Option<Noise>,
}

impl Bench {
    fn new(lora_dropout: f64) -> Self {
        Self::of(LoraConfig { lora_dropout, use_rslora: true, ..on_everything() })
    }

    fn dora(lora_dropout: f64) -> Self {
        Self::of(LoraConfig { lora_dropout, use_dora: true, ..on_everything() })
    }

    fn of(lora: LoraConfig) -> Self {
        let (model, params, rows) = shipped((DType::F32, &Device::Cpu), &lora, 12);
        Self { model, params, rows, noise: None }
    }

    fn gradient(&self, params: &Params, cut: Cut, dropout: Option<DropoutPlan>) -> StepGradient {
        let rows: Vec<(usize, &Example)> = self.rows.iter().enumerate().collect();
        let random = Random { dropout, noise: self.noise.clone() };
        step::gradient(&self.model, params, &rows, cut, &random, None, &|| false).unwrap().expect("not stopped")
    }

    /// ‖Δ‖/‖g‖ of the worst parameter.
    fn worst(&self, a: &StepGradient, b: &StepGradient) -> f64 {
        let (a, b) = (values(&a.flat), values(&b.flat));
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let distance = |range: std::ops::Range<usize>| {
            let (a, b) = (&a[range.clone()], &b[range]);
            norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
        };
        self.params.slots().map(|(_, slot)| distance(slot.range())).fold(0.0, f64::max)
    }
}

const WHOLE: Cut = Cut { max_rows: usize::MAX, share_prefix: false, keep: Keep::Lean };

/// `engine.md`'s bound in f32, per tensor: 5e-6.
#[test]
fn the_cut_and_the_shared_prefix_change_no_gradient() {
    for bench in [Bench::new(0.0), Bench::dora(0.0)] {
        let whole = bench.gradient(&bench.params, WHOLE, None);
        for (max_rows, share_prefix) in [(1, false), (160, false), (400, true), (usize::MAX, true)] {
            let cut = Cut { max_rows, share_prefix, ..WHOLE };
            let other = bench.gradient(&bench.params, cut, None);
            let loss = (other.loss - whole.loss).abs() / whole.loss;
            let worst = bench.worst(&other, &whole);
            assert!(loss < 1e-6 && worst < 5e-6, "{cut:?}: loss {loss:.1e}, gradient {worst:.1e}");
        }
    }
}

/// The gradient of DoRA is not that of the loss, since lengths take no part in it: here it is that it does not depend on the cut.
#[test]
fn under_dropout_the_cut_changes_no_gradient_of_dora() {
    let bench = Bench::dora(0.3);
    let plan = Some(DropoutPlan { p: 0.3, key: Key::new(3, "dropout") });
    let whole = bench.gradient(&bench.params, WHOLE, plan);
    let cut = bench.gradient(&bench.params, Cut { max_rows: 100, ..WHOLE }, plan);
    assert!(bench.worst(&cut, &whole) < 5e-6, "{:.1e}", bench.worst(&cut, &whole));
    let plain = bench.gradient(&bench.params, WHOLE, None).loss;
    assert!((whole.loss - plain).abs() > 1e-4, "dropout does something");
}

/// Several instructions in one step: each goes by itself where that saves rows, and no gradient changes.
#[test]
fn instructions_in_one_step_are_grouped_and_change_no_gradient() {
    let mut bench = Bench::new(0.0);
    for (i, row) in bench.rows.iter_mut().enumerate().filter(|(i, _)| i % 3 != 0) {
        row.input_ids[8] += if i % 3 == 1 { 1 } else { 2 }; // another instruction, of a token that is not trained
    }
    let rows: Vec<(usize, &Example)> = bench.rows.iter().enumerate().collect();
    let shared = Cut { share_prefix: true, ..WHOLE };
    let groups: Vec<Vec<usize>> =
        shared.micro_batches(&rows).iter().map(|micro| micro.iter().map(|(i, _)| i % 3).collect()).collect();
    assert_eq!(groups, [vec![0; 4], vec![1; 4], vec![2; 4]]);
    let (whole, other) = (bench.gradient(&bench.params, WHOLE, None), bench.gradient(&bench.params, shared, None));
    let loss = (other.loss - whole.loss).abs() / whole.loss;
    let worst = bench.worst(&other, &whole);
    assert!(loss < 1e-6 && worst < 5e-6, "loss {loss:.1e}, gradient {worst:.1e}");
}

#[test]
fn threads_change_no_bit() {
    let cut = Cut { max_rows: 600, share_prefix: true, ..WHOLE };
    for use_dora in [false, true] {
        // With DoRA lengths are made where parameters are set.
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let gradient = pool.install(|| {
                let bench = if use_dora { Bench::dora(0.0) } else { Bench::new(0.0) };
                bench.gradient(&bench.params, cut, None)
            });
            (gradient.loss.to_bits(), values(&gradient.flat))
        };
        let one = bits(1);
        for threads in [2, 4] {
            assert!(bits(threads) == one, "{threads} threads, DoRA {use_dora}");
        }
    }
}

#[test]
fn what_a_block_keeps_changes_no_bit() {
    for (dropout, bench) in
        [(0.0, Bench::new(0.0)), (0.3, Bench::new(0.3)), (0.0, Bench::dora(0.0)), (0.3, Bench::dora(0.3))]
    {
        let plan = (dropout > 0.0).then(|| DropoutPlan { p: dropout, key: Key::new(3, "dropout") });
        let bits = |keep| {
            let gradient =
                bench.gradient(&bench.params, Cut { max_rows: 600, share_prefix: dropout == 0.0, keep }, plan);
            (gradient.loss.to_bits(), values(&gradient.flat))
        };
        let lean = bits(Keep::Lean);
        for keep in [Keep::Everything, Keep::Input] {
            assert!(bits(keep) == lean, "{keep:?}, dropout {dropout}");
        }
    }
}

#[test]
fn the_gradient_under_dropout_and_noise_is_that_of_the_loss_and_does_not_depend_on_the_cut() {
    for (dropout, alpha) in [(0.3, None), (0.0, Some(20.0)), (0.3, Some(5.0))] {
        let mut bench = Bench::new(dropout);
        let lengths = (0..).zip(&bench.rows).map(|(i, row)| (i, row.input_ids.len()));
        bench.noise = alpha.map(|alpha| Noise::new(alpha, Key::new(3, "neftune"), lengths));
        let plan = (dropout > 0.0).then(|| DropoutPlan { p: dropout, key: Key::new(3, "dropout") });
        is_the_gradient_of_its_loss(&bench, plan);
        let random = bench.gradient(&bench.params, WHOLE, plan).loss;
        bench.noise = None;
        let plain = bench.gradient(&bench.params, WHOLE, None).loss;
        assert!((random - plain).abs() > 1e-4, "dropout {dropout}, noise {alpha:?} do something");
    }
}

fn is_the_gradient_of_its_loss(bench: &Bench, plan: Option<DropoutPlan>) {
    let whole = bench.gradient(&bench.params, WHOLE, plan);
    let cut = bench.gradient(&bench.params, Cut { max_rows: 100, ..WHOLE }, plan);
    assert!(bench.worst(&cut, &whole) < 5e-6, "{:.1e}", bench.worst(&cut, &whole));

    // Along the gradient itself: (L(θ+h·u) − L(θ−h·u)) / 2h = ‖g‖ for u = g/‖g‖.
    let h = 2e-2;
    let unit = (&whole.flat / whole.grad_norm).unwrap();
    let loss_at = |h: f64| {
        let mut moved = bench.params.clone();
        moved.set((bench.params.flat() + (&unit * h).unwrap()).unwrap()).unwrap();
        bench.gradient(&moved, WHOLE, plan).loss
    };
    let slope = (loss_at(h) - loss_at(-h)) / (2.0 * h);
    let difference = (slope - whole.grad_norm).abs() / whole.grad_norm;
    assert!(difference < 2e-2, "slope {slope}, norm {}", whole.grad_norm);

    // And across it: a direction of alternating signs, which a mistake in a single projection would turn.
    let signs: Vec<f32> = (0..bench.params.len()).map(|i| if i.is_multiple_of(2) { 1.0 } else { -1.0 }).collect();
    let across = Tensor::from_vec(signs, bench.params.len(), &Device::Cpu).unwrap();
    let across = (across / (bench.params.len() as f64).sqrt()).unwrap();
    let want: f64 = values(&across).iter().zip(values(&whole.flat)).map(|(a, g)| a * g).sum();
    let loss_across = |h: f64| {
        let mut moved = bench.params.clone();
        moved.set((bench.params.flat() + (&across * h).unwrap()).unwrap()).unwrap();
        bench.gradient(&moved, WHOLE, plan).loss
    };
    let slope = (loss_across(0.2) - loss_across(-0.2)) / 0.4;
    assert!((slope - want).abs() < 2e-2 * whole.grad_norm, "slope {slope}, want {want}");
}

/// Rows and labels that no one trains: the same sums, with zeros added.
#[test]
fn a_micro_batch_that_is_filled_up_has_the_same_gradient() {
    let bench = Bench::new(0.0);
    let rows: Vec<(usize, &Example)> = bench.rows.iter().enumerate().collect();
    for share_prefix in [false, true] {
        let (batch, _) = Cut { share_prefix, ..WHOLE }.batches(&rows).next().unwrap().unwrap();
        let filled = batch.filled_up();
        assert_eq!((filled.ids.len() % 64, filled.targets.len() % 32), (0, 0));
        assert!(filled.ids.len() > batch.ids.len() && filled.targets.len() >= batch.targets.len());
        let train = |batch| {
            let mut grads = Grads::new(&bench.params).unwrap();
            let how = (None, Keep::Lean);
            let nll = bench.model.train(batch, &bench.params, &mut grads, 0.01, how).unwrap();
            (values(&nll), values(&grads.flat(&bench.params).unwrap()))
        };
        let ((nll, want), (filled_nll, got)) = (train(&batch), train(&filled));
        assert!(filled_nll[nll.len()..].iter().all(|nll| *nll == 0.0));
        assert!(relative_distance(&filled_nll[..nll.len()], &nll, &nll) < 1e-6);
        assert!(relative_distance(&got, &want, &want) < 1e-6);
    }
}

/// LlamaFactory's `eval_accuracy`, written out: the likeliest token at every place that predicts a label, row by row, then the
/// mean of the rows' shares.
#[test]
fn accuracy_is_the_mean_share_of_labels_that_are_the_likeliest_token() {
    let bench = Bench::new(0.0);
    let share = |row: &Example| {
        let labels = row.labels();
        let alone = [(0, row.input_ids.as_slice(), labels.as_slice())];
        let batch = Batch::pack(&alone, IGNORE, false).unwrap();
        let logits: Vec<Vec<f32>> = bench.model.logits(&batch, &bench.params).unwrap().to_vec2().unwrap();
        let likeliest = |row: &Vec<f32>| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        let labels: Vec<u32> = labels.iter().skip(1).copied().filter(|label| *label != IGNORE).collect();
        assert_eq!(labels.len(), logits.len());
        let right = logits.iter().zip(&labels).filter(|(row, label)| likeliest(row) == **label as usize).count();
        right as f64 / labels.len() as f64
    };
    let want = bench.rows.iter().map(share).sum::<f64>() / bench.rows.len() as f64;
    assert!(want > 0.0 && want < 1.0, "{want} tells nothing");

    let cut = Cut { max_rows: 200, share_prefix: true, keep: Keep::Lean };
    let evaluate = |accuracy| {
        let how = Measure { batch_size: 5, cut, accuracy, each: true };
        validate::evaluate(&bench.model, &bench.params, &bench.rows, how, &|| false).unwrap().expect("not stopped")
    };
    let (with, without) = (evaluate(true), evaluate(false));
    assert_eq!((with.loss, without.accuracy), (without.loss, None), "the loss is the same to the last bit");
    assert!((with.accuracy.unwrap() - want).abs() < 1e-12, "{:?}, want {want}", with.accuracy);
    assert_eq!((with.each.len(), with.each[0].0, with.each[0].1.loss), (1, 0, with.loss), "one data set is all");
}
