//! Trajectories against recorded PyTorch + PEFT runs, which LlamaFactory reproduces: `tests/fixtures/parity/README.md`.

use crate::support::{Workspace, adapter_distance, assert_near, fixtures, relative_distance, values};
use candle_core::{DType, Device};
use couplet_train::{
    adapter::peft,
    config::{CountedTokens, Interval, SchedulerType, TrainConfig},
    dataset::{Example, IGNORE, Origin},
    model::{Batch, Checkpoint, Grads, Params, Qwen3, Qwen3Config, qwen3::Keep},
    testing::{devices, train_config},
    trainer::{
        Choice, Cut, Progress, Trainer,
        event::{Event, Observer, Step},
    },
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One recorded run.
struct Case {
    dir: PathBuf,
    settings: Value,
    trajectory: Value,
    train: Vec<Example>,
}

impl Case {
    fn read(dir: &Path) -> Self {
        let json = |name: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(dir.join(name)).expect(name)).expect(name)
        };
        let ids = |row: &Value, key: &str| -> Vec<u32> {
            let id = |v: &Value| u32::try_from(v.as_i64().expect("an id")).unwrap_or(IGNORE);
            row[key].as_array().expect(key).iter().map(id).collect()
        };
        let example = |(i, row): (usize, &Value)| {
            let (input_ids, labels) = (ids(row, "input_ids"), ids(row, "labels"));
            let example = Example::new(input_ids, &labels, Origin { dataset: 0, row: i + 1 });
            assert_eq!(example.labels(), labels, "row {i}: a label that is another id");
            example
        };
        let tokens = json("tokens.json");
        let train = tokens.as_array().expect("rows").iter().enumerate().map(example).collect();
        Self { dir: dir.to_owned(), settings: json("case.json"), trajectory: json("trajectory.json"), train }
    }

    fn number(&self, key: &str) -> f64 {
        self.settings[key].as_f64().expect(key)
    }

    fn dtype(&self) -> DType {
        if self.settings["dtype"] == "bf16" { DType::BF16 } else { DType::F32 }
    }

    fn train_config(&self) -> TrainConfig {
        TrainConfig {
            per_device_train_batch_size: self.number("bs") as usize,
            gradient_accumulation_steps: self.number("ga") as usize,
            learning_rate: self.number("lr"),
            loraplus_lr_ratio: Some(self.number("loraplus")).filter(|ratio| *ratio > 0.0),
            num_train_epochs: self.number("epochs"),
            lr_scheduler_type: match self.settings["sched"].as_str().expect("sched") {
                "cosine" => SchedulerType::Cosine,
                "linear" => SchedulerType::Linear,
                "constant" => SchedulerType::Constant,
                _ => SchedulerType::ConstantWithWarmup,
            },
            max_steps: usize::try_from(self.settings["max_steps"].as_i64().expect("max_steps")).ok(),
            warmup_ratio: self.number("warmup_ratio"),
            warmup_steps: self.number("warmup_steps") as usize,
            weight_decay: self.number("wd"),
            max_grad_norm: self.number("clip"),
            disable_shuffling: true,
            ..train_config()
        }
    }

    fn load(&self, device: &Device) -> (Qwen3, Params) {
        let model = self.dir.join("model");
        let config = Qwen3Config::load(&model).expect("config.json");
        let adapter = peft::Existing::open(&self.dir.join("init_adapter")).expect("the adapter");
        let checkpoint = Checkpoint::open(&model).expect("the weights");
        let dtype = self.dtype();
        let (model, layout) = Qwen3::load(&config, &checkpoint, &adapter.lora, dtype, device).expect("a model");
        let params = Params::new(layout, dtype, device, |slot| adapter.values(slot)).expect("adapter values");
        adapter.refuse_strangers(params.slots().map(|(_, slot)| slot)).expect("no stranger");
        (model, params)
    }
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Observer for Steps {
    fn on_event(&mut self, event: &Event) -> couplet_train::error::Result<()> {
        if let Event::Step(step) = event {
            self.0.push(step.clone());
        }
        Ok(())
    }
}

/// Largest relative differences of a run to its recording.
#[derive(Debug)]
struct Difference {
    loss: f64,
    grad_norm: f64,
    lr: f64,
    adapter: f64,
}

fn run(case: &Case, cut: Cut, device: &Device) -> Difference {
    let (model, params) = case.load(device);
    let start: Vec<f64> = values(params.flat());
    let config = case.train_config();
    let mut trainer = Trainer {
        optim: Trainer::optimizer(&config, &params).expect("an optimizer"),
        model: &model,
        params,
        config: &config,
        train: &case.train,
        eval: &[],
        dataset_names: &["couplets".to_owned()],
        leaks: &[],
        lora_dropout: 0.0,
        each_dataset: false,
        cut,
        recorder: None,
        logging_steps: Interval::Steps(1),
        counted_tokens: CountedTokens::No,
        saver: None,
        choice: Choice::default(),
        stop: &|| false,
        write: None,
        progress: Progress::default(),
    };
    let mut steps = Steps::default();
    trainer.fit(&mut steps).expect("a run");

    let recorded = case.trajectory["steps"].as_array().expect("steps");
    assert_eq!(steps.0.len(), recorded.len());
    let worst = |key: &str, got: fn(&Step) -> f64| {
        let pairs = steps.0.iter().zip(recorded).map(|(step, want)| (got(step), want[key].as_f64().expect(key)));
        pairs.map(|(got, want)| if want == 0.0 { got.abs() } else { ((got - want) / want).abs() }).fold(0.0, f64::max)
    };
    let got = values(trainer.params.flat());
    let want = adapter_values(&case.dir.join("final_adapter"), &trainer.params);
    let update: Vec<f64> = want.iter().zip(&start).map(|(w, s)| w - s).collect();
    Difference {
        loss: worst("loss", |s| s.loss),
        grad_norm: worst("grad_norm", |s| s.grad_norm),
        lr: worst("lr", |s| s.lr),
        adapter: relative_distance(&got, &want, &update),
    }
}

fn adapter_values(dir: &Path, params: &Params) -> Vec<f64> {
    let adapter = peft::Existing::open(dir).expect("an adapter");
    params.slots().flat_map(|(_, slot)| adapter.values(slot).expect(&slot.name)).map(f64::from).collect()
}

const CASES: [&str; 10] = [
    "all_targets",
    "attention_rslora",
    "on_prompt",
    "bf16",
    "clip_nonzero_b",
    "truncation",
    "loraplus",
    "dora",
    "dora_rslora_loraplus",
    "dora_bf16",
];

/// Bounds of loss, gradient norm and adapter: `tests/fixtures/parity/README.md`.
fn bounds(dtype: DType) -> (f64, f64, f64) {
    if dtype == DType::BF16 { (6e-4, 6e-3, 5e-2) } else { (1e-5, 1e-4, 1e-3) }
}

/// Everything in one micro-batch and a sample or two at a time, with the
/// shared prefix and without.
#[test]
fn trajectories_equal_the_recorded_runs() {
    for device in devices() {
        for name in CASES {
            let case = Case::read(&fixtures().join("parity").join(name));
            for (max_rows, share_prefix) in [(100_000, false), (100_000, true), (64, false), (150, true)] {
                let cut = Cut { max_rows, share_prefix, keep: Keep::Lean };
                let d = run(&case, cut, &device);
                println!("{name} on {device:?}, {cut:?}: {d:?}");
                let (loss, grad_norm, adapter) = bounds(case.dtype());
                assert!(d.loss <= loss && d.grad_norm <= grad_norm && d.adapter <= adapter, "{name}: {d:?}");
                assert!(d.lr <= 1e-12, "{name}: {d:?}");
            }
        }
    }
}

/// The same runs from `train.yaml` to the files: config, data set, template and logs take part too.
#[test]
fn the_binary_repeats_the_recorded_runs() {
    for name in CASES {
        let case = Case::read(&fixtures().join("parity").join(name));
        let run = Workspace::of_fixture(&format!("parity/{name}"));
        run.train(&["train.yaml", "--progress", "none"]);
        let state = run.json("lf_out/trainer_state.json");
        let logged = state["log_history"].as_array().expect("entries").split_last().expect("entries").1;
        let recorded = case.trajectory["steps"].as_array().expect("steps");
        assert_eq!(logged.len(), recorded.len(), "{name}: one entry a step");
        let (loss, grad_norm, adapter) = bounds(case.dtype());
        for (got, want) in logged.iter().zip(recorded) {
            let what = |key: &str| format!("{name}, step {}: {key}", want["step"]);
            assert_near(&got["loss"], &want["loss"], loss, &what("loss"));
            assert_near(&got["grad_norm"], &want["grad_norm"], grad_norm, &what("grad_norm"));
            assert_near(&got["learning_rate"], &want["lr"], 1e-12, &what("lr"));
            assert_eq!((&got["step"], &got["epoch"]), (&want["step"], &want["epoch"]), "{}", what("epoch"));
        }
        let padded: u64 = recorded.iter().filter_map(|step| step["padded_tokens"].as_u64()).sum();
        assert_eq!(state["num_input_tokens_seen"], padded, "{name}: padded tokens");
        let off =
            adapter_distance(&run.path("lf_out"), &case.dir.join("final_adapter"), &case.dir.join("init_adapter"));
        assert!(off <= adapter, "{name}: the adapter is off by {off:.1e}");
        println!("{name}: the adapter is off by {off:.1e}");
    }
}

fn pack(samples: &[(usize, &Example)]) -> Batch {
    Cut { max_rows: usize::MAX, share_prefix: false, keep: Keep::Lean }
        .batches(samples)
        .next()
        .expect("samples")
        .expect("a batch")
        .0
}

/// Step 1, tensor by tensor: the nll of every label and the gradient of every parameter.
#[test]
fn the_first_step_agrees_label_by_label_and_tensor_by_tensor() {
    for name in CASES {
        let case = Case::read(&fixtures().join("parity").join(name));
        let (model, params) = case.load(&Device::Cpu);
        let config = case.train_config();
        let micro = config.per_device_train_batch_size;
        let first: Vec<(usize, &Example)> =
            case.train.iter().take(micro * config.gradient_accumulation_steps).enumerate().collect();
        let (tight, loose) = if case.dtype() == DType::BF16 { (4e-2, 3e-2) } else { (2e-5, 1e-5) };

        let recorded = case.trajectory["steps"][0]["first_micro_batch_nll"].as_array().expect("nll");
        let want: Vec<f64> = recorded
            .iter()
            .flat_map(|row| row.as_array().expect("a row"))
            .map(|x| x.as_f64().expect("a loss"))
            .collect();
        let got = values(&model.nll(&pack(&first[..micro]), &params).expect("losses"));
        assert_eq!(got.len(), want.len(), "{name}: labels of the first micro-batch");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() <= tight, "{name}: label {i}: {got} instead of {want}");
        }

        let labels: usize = first.iter().map(|(_, e)| e.label_count()).sum();
        let mut grads = Grads::new(&params).expect("gradients");
        model.train(&pack(&first), &params, &mut grads, 1.0 / labels as f64, (None, Keep::Lean)).expect("gradients");
        let recorded = Checkpoint::open_file(&case.dir.join("grads_step1.safetensors")).expect("gradients");
        assert_eq!(recorded.names().count(), params.slots().count());
        for (id, slot) in params.slots() {
            let name_in_file = format!("base_model.model.{}.weight", slot.name);
            let shape = if slot.is_magnitude() { vec![slot.shape.1] } else { vec![slot.shape.0, slot.shape.1] };
            let want = values(&recorded.tensor(&name_in_file, &shape, DType::F32, &Device::Cpu).expect("a gradient"));
            let got = values(&grads.get(id).expect("a view").expect("every trainable tensor receives a gradient"));
            assert!(got.iter().all(|g| g.is_finite()));
            if want.iter().all(|g| *g == 0.0) {
                assert!(got.iter().all(|g| *g == 0.0), "{name}: {} has no gradient while B is zero", slot.name);
                continue;
            }
            let distance = relative_distance(&got, &want, &want);
            assert!(distance <= loose, "{name}: gradient of {} is off by {distance:.1e}", slot.name);
        }
    }
}
