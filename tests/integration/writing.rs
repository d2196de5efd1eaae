//! What the model writes while it is trained: samples and judged couplets at every evaluation, the best of them, the verdict.

use crate::support::{Ended, Workspace, root};
use serde_json::Value;

/// 400 rows, 50 steps, an evaluation and a checkpoint every 10.
fn train(w: &Workspace, more: &[&str]) -> Ended {
    let config = root().join("configs/tiny_couplets.toml").display().to_string();
    let model = format!("model_name_or_path={}", root().join("data/tiny_qwen3").display());
    let data = format!("dataset_dir={}", root().join("data").display());
    let keys = [
        "max_samples=400",
        "per_device_train_batch_size=8",
        "learning_rate=4e-3",
        "eval_steps=10",
        "save_steps=10",
        "output_dir=out",
        "eval_couplets=40",
        "sample_prompts=[春风送暖千山绿, 天]",
    ];
    w.run(&[&["--config", &config, &model, &data][..], &keys, more].concat())
}

/// (step, share that passes) of every evaluation in the log.
fn passes(w: &Workspace) -> Vec<(u64, f64)> {
    let lines = w.read("out/trainer_log.jsonl");
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter_map(|line| Some((line["current_steps"].as_u64()?, line["eval_couplet_pass"].as_f64()?))).collect()
}

#[test]
fn the_model_writes_at_every_evaluation_and_the_best_is_kept() {
    let w = Workspace::new();
    let best = ["load_best_model_at_end=true", "metric_for_best_model=couplet_pass", "test_dataset=couplets_test"];
    let ended = train(&w, &best);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let passes = passes(&w);
    assert_eq!(passes.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 10, 20, 30, 40, 50]);
    assert_eq!(passes[0].1, 0.0, "the base writes no couplets");
    assert!(passes[5].1 > 0.1, "the tuned model does: {passes:?}");

    let highest = passes[1..].iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let state = w.json("out/trainer_state.json");
    assert_eq!(state["best_metric"], highest);
    let first = passes.iter().find(|(_, share)| *share == highest).expect("the best").0;
    assert_eq!(state["best_global_step"], first, "the first of the best");
    assert_eq!(w.json("out/eval_results.json")["eval_couplet_pass"], highest, "what is kept is the best");
    assert!(w.path("out/training_eval_couplet_pass.png").is_file());
    assert!(ended.stderr.contains("  春风送暖千山绿  →  "), "{}", ended.stderr);

    let log = w.read("out/trainer_log.jsonl");
    let last: Value =
        serde_json::from_str(log.lines().rfind(|line| line.contains("samples")).expect("a line")).unwrap();
    assert_eq!(last["samples"][1]["prompt"], "天");
    // The same question, asked of the finished adapter.
    let asked = w.run(&["generate", "--adapter", "out/checkpoint-50", "device=cpu", "max_new_tokens=64", "天"]);
    let answer = last["samples"][1]["answer"].as_str().expect("a text");
    assert!(asked.stdout.contains(answer), "{answer}\n{}", asked.stdout);

    let receipt = w.json("out/run.json");
    let verdict = &receipt["results"]["verdict"];
    let score = |rows: &str| verdict["scores"][rows]["loss"].as_f64().expect("a score");
    assert!(score("train") < score("held_out") && score("test") > 1.0, "{verdict}");
    assert_eq!(verdict["scores"]["test"]["rows"], 400);
    assert!(ended.stderr.contains("generalisation gap +"), "{}", ended.stderr);

    // One formula: `evaluate` says the same of the same rows.
    let data = format!("dataset_dir={}", root().join("data").display());
    let more = ["dataset=couplets_valid", "max_samples=40", "max_new_tokens=40", "output_dir=eval", "device=cpu"];
    let again = w.run(&[&["evaluate", "--adapter", "out", &data][..], &more].concat());
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(w.json("eval/couplet_eval.json")["tuned"]["pass"]["value"], highest);
}

#[test]
fn a_stopped_run_remembers_what_was_written() {
    let (whole, stopped) = (Workspace::new(), Workspace::new());
    let steps = ["max_steps=20", "eval_steps=5", "save_steps=5"];
    assert_eq!(train(&whole, &steps).code, 0);
    let ended = train(&stopped, &[&steps[..], &["max_seconds=1.5"]].concat());
    assert!(ended.code == 75 || ended.code == 0, "{}", ended.stderr);
    assert_eq!(train(&stopped, &steps).code, 0);
    assert_eq!(passes(&stopped), passes(&whole));
    let adapter = |w: &Workspace| std::fs::read(w.path("out/adapter_model.safetensors")).expect("an adapter");
    assert!(adapter(&stopped) == adapter(&whole), "another adapter");
}

#[test]
fn what_cannot_be_written_is_refused_before_the_run() {
    for (keys, want) in [
        (&["eval_dataset=", "eval_strategy=no", "eval_couplets=0"][..], "`sample_prompts` is answered at evaluations"),
        (&["eval_dataset=", "eval_strategy=no", "sample_prompts="][..], "`eval_couplets` is answered at evaluations"),
        (&["eval_couplets=0", "metric_for_best_model=couplet_pass"], "`metric_for_best_model` is `eval_couplet_pass`"),
        (&["sample_prompts=[\"\"]"], "`sample_prompts` must be a text, or a list of texts"),
        (&["test_dataset=nowhere"], "\"nowhere\""),
    ] {
        let w = Workspace::new();
        let ended = train(&w, keys);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(want) && ended.stderr.contains("hint: "), "{keys:?}: {}", ended.stderr);
        assert!(!w.path("out/run.json").exists());
    }
}
