//! Events for the tests of this room: by hand, and those of the LlamaFactory run in `tests/fixtures/lf_report`.

use crate::{
    config::*,
    testing::{data_config, train_config},
    trainer::event::{EvalPhase, Evaluated, Event, Finished, Logged, Started, Step},
};
use serde_json::Value;
use std::path::Path;

pub fn started(total_steps: usize) -> Event {
    Event::Started(Started { total_steps, samples_per_step: 4, eval_samples: 5, resumed_at: 0, leaks: vec![] })
}

pub fn step(step: usize, loss: f64, seconds: f64) -> Event {
    Event::Step(Step {
        step,
        epoch: step as f64 / 10.0,
        loss,
        grad_norm: 0.5,
        lr: 2e-4,
        samples: 4,
        tokens: 80,
        seconds,
    })
}

pub fn logged(step: usize, total_steps: usize, loss: f64) -> Logged {
    Logged {
        step,
        total_steps,
        epoch: step as f64 / 10.0,
        loss,
        grad_norm: 0.5,
        lr: 2e-4,
        num_input_tokens_seen: None,
        elapsed: step as f64,
    }
}

pub fn evaluated(step: usize, total_steps: usize, loss: f64, when: EvalPhase) -> Evaluated {
    Evaluated {
        step,
        total_steps,
        epoch: step as f64 / 10.0,
        loss,
        loss_per_token: loss + 0.01,
        samples: 5,
        batches: 3,
        runtime: 1.25,
        elapsed: step as f64,
        when,
        num_input_tokens_seen: None,
        written: None,
        accuracy: None,
        each: vec![],
    }
}

pub fn finished(step: usize, epoch: f64) -> Finished {
    Finished {
        step,
        total_steps: step,
        epoch,
        train_loss: 3.5,
        runtime: 20.0,
        samples_seen: 40.0,
        best: None,
        total_flos: 1e9,
        num_input_tokens_seen: None,
    }
}

/// A file of the LlamaFactory run.
pub fn lf_text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lf_report").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The events that the LlamaFactory run amounts to, read back from its own files.
///
pub fn lf_events() -> Vec<Event> {
    let state: Value = serde_json::from_str(&lf_text("trainer_state.json")).unwrap();
    let total = state["max_steps"].as_u64().unwrap() as usize;
    let mut events: Vec<_> = state["log_history"].as_array().unwrap().iter().map(|e| lf_event(e, total)).collect();
    let mut last: Value = serde_json::from_str(&lf_text("eval_results.json")).unwrap();
    last["step"] = total.into();
    let Event::Evaluated(last) = lf_event(&last, total) else { panic!("an evaluation") };
    events.push(Event::Evaluated(Evaluated { when: EvalPhase::Final, ..last }));
    events
}

/// A time that rounds to `rounded` and gives the rates seen: the file has lost the digits behind.
fn unrounded(rounded: f64, rates: &[(f64, f64)]) -> f64 {
    let fits = |time: &f64| rates.iter().all(|(count, rate)| (count / time - rate).abs() < 4.9e-4);
    let mut times = (-490..490).map(|i| rounded + i as f64 * 1e-7);
    times.find(fits).expect("some time gives these rates")
}

fn lf_event(entry: &Value, total_steps: usize) -> Event {
    let number = |key: &str| entry[key].as_f64().unwrap_or_else(|| panic!("{key} in {entry}"));
    let (step, epoch, tokens) = (number("step") as usize, number("epoch"), number("num_input_tokens_seen"));
    let num_input_tokens_seen = Some(tokens as u64);
    if entry.get("loss").is_some() {
        let elapsed = unrounded(number("train_runtime"), &[(tokens, number("train_tokens_per_second"))]);
        let (loss, grad_norm, lr) = (number("loss"), number("grad_norm"), number("learning_rate"));
        return Event::Logged(Logged { step, total_steps, epoch, loss, grad_norm, lr, num_input_tokens_seen, elapsed });
    }
    if entry.get("eval_loss").is_some() {
        let mut e = evaluated(step, total_steps, number("eval_loss"), EvalPhase::During);
        e.runtime = unrounded(
            number("eval_runtime"),
            &[(5.0, number("eval_samples_per_second")), (3.0, number("eval_steps_per_second"))],
        );
        return Event::Evaluated(Evaluated { epoch, num_input_tokens_seen, ..e });
    }
    Event::Finished(Finished {
        step,
        total_steps,
        epoch,
        train_loss: number("train_loss"),
        runtime: unrounded(number("train_runtime"), &[(32.5, number("train_samples_per_second"))]),
        samples_seen: 32.5, // 13 training rows × 2.5 epochs
        best: None,
        total_flos: number("total_flos"),
        num_input_tokens_seen,
    })
}

/// The recipe of `tests/fixtures/lf_report/train.yaml`, as far as reports look at it.
pub fn recipe(output_dir: &Path) -> Recipe {
    Recipe {
        dialect: Dialect::LlamaFactory,
        model: ModelConfig {
            model_name_or_path: "Qwen/Qwen3-0.6B".into(),
            adapter_name_or_path: vec![],
            create_new_adapter: false,
            cache_dir: None,
            model_revision: "main".into(),
            tokens: Default::default(),
            device: DeviceChoice::Cpu,
        },
        data: DataConfig {
            dataset: vec!["couplets".into()],
            cutoff_len: 56,
            over_length: OverLength::Truncate,
            val_size: 5.0,
            enable_thinking: Some(true),
            ..data_config()
        },
        lora: LoraConfig {
            lora_rank: 2,
            lora_alpha: 4.0,
            lora_dropout: 0.0,
            lora_target: vec![Projection::GateProj, Projection::UpProj, Projection::DownProj],
            use_dora: false,
            use_rslora: false,
            pissa: Default::default(),
        },
        train: TrainConfig {
            per_device_train_batch_size: 2,
            per_device_eval_batch_size: 2,
            gradient_accumulation_steps: 2,
            learning_rate: 1e-5,
            num_train_epochs: 2.5,
            lr_scheduler_type: SchedulerType::Cosine,
            warmup_ratio: 0.1,
            seed: 16,
            eval_strategy: EvalStrategy::Steps,
            eval_steps: Interval::Steps(3),
            ..train_config()
        },
        output: OutputConfig {
            output_dir: output_dir.to_owned(),
            overwrite_output_dir: false,
            logging_steps: Interval::Steps(2),
            plot_loss: true,
            include_num_input_tokens_seen: crate::config::CountedTokens::All,
            save_strategy: SaveStrategy::No,
            save_steps: Interval::Steps(500),
            save_total_limit: None,
            save_only_model: false,
            resume_from_checkpoint: Resume::Auto,
            load_best_model_at_end: false,
            metric_for_best_model: "eval_loss".into(),
            greater_is_better: false,
        },
    }
}
