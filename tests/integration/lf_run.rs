//! A whole run of LlamaFactory, run again by the binary: `tests/fixtures/lf_run/README.md`.

use crate::support::{Workspace, adapter_distance, assert_near};
use serde_json::Value;

const LOSS: f64 = 1e-5;
const GRAD_NORM: f64 = 1e-4;
const RATE: f64 = 1e-12;
const ADAPTER: f64 = 1e-3;

/// Keys whose values are the clock's.
fn is_time(key: &str) -> bool {
    key.ends_with("_time") || key.ends_with("_runtime") || key.ends_with("_per_second") || key == "throughput"
}

/// The same keys in the same order, and values as near as their kind allows. Returns the largest relative difference
/// of a loss and of a gradient norm.
fn assert_entry(got: &Value, want: &Value, place: &str) -> (f64, f64) {
    let (got, want) = (got.as_object().expect(place), want.as_object().expect(place));
    let keys = |entry: &serde_json::Map<String, Value>| entry.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(got), keys(want), "{place}");
    let (mut loss, mut grad_norm) = (0.0, 0.0);
    for (key, want) in want {
        let (got, what) = (&got[key], format!("{place}: {key}"));
        match key.as_str() {
            "loss" | "eval_loss" | "train_loss" => loss = f64::max(loss, assert_near(got, want, LOSS, &what)),
            "grad_norm" => grad_norm = assert_near(got, want, GRAD_NORM, &what),
            "lr" | "learning_rate" => drop(assert_near(got, want, RATE, &what)),
            key if is_time(key) => assert_eq!(got.is_string(), want.is_string(), "{what}"),
            _ => assert_eq!(got, want, "{what}"),
        }
    }
    (loss, grad_norm)
}

#[test]
fn a_whole_llamafactory_run_is_repeated() {
    let run = Workspace::of_fixture("lf_run");
    run.train(&["--config", "train.yaml"]);
    let (mut loss, mut grad_norm) = (0.0, 0.0);
    let mut compare = |got: &Value, want: &Value, place: &str| {
        let (l, g) = assert_entry(got, want, place);
        (loss, grad_norm) = (f64::max(loss, l), f64::max(grad_norm, g));
    };

    let lines = |name: &str| -> Vec<Value> {
        run.read(name).lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    };
    let (mut got, want) = (lines("lf_out/trainer_log.jsonl"), lines("expected/trainer_log.jsonl"));
    let last = got.pop().expect("the plan and what the run took");
    assert!(last["planned"].is_object() && last["measured"].is_object(), "behind LlamaFactory's lines: {last}");
    assert_eq!(got.len(), want.len(), "lines of the log");
    for (n, (got, want)) in got.iter().zip(&want).enumerate() {
        compare(got, want, &format!("trainer_log.jsonl:{}", n + 1));
    }

    for name in ["all_results.json", "train_results.json", "eval_results.json"] {
        compare(&run.json(&format!("lf_out/{name}")), &run.json(&format!("expected/{name}")), name);
    }

    let [mut got, mut want] = ["lf_out", "expected"].map(|dir| run.json(&format!("{dir}/trainer_state.json")));
    let (got_history, want_history) = (got["log_history"].take(), want["log_history"].take());
    compare(&got, &want, "trainer_state.json");
    let (got, want) = (got_history.as_array().expect("a list"), want_history.as_array().expect("a list"));
    assert_eq!(got.len(), want.len(), "entries of log_history");
    for (n, (got, want)) in got.iter().zip(want).enumerate() {
        compare(got, want, &format!("log_history[{n}]"));
    }

    let adapter = adapter_distance(&run.path("lf_out"), &run.path("expected"), &run.path("init_adapter"));
    println!("lf_run: loss {loss:.1e}, grad_norm {grad_norm:.1e}, adapter {adapter:.1e}");
    assert!(adapter <= ADAPTER, "adapter off by {adapter:.1e}");
}
