//! What `evaluate` says and leaves, against numbers counted here and the trainer's own loss.

use crate::support::{Ended, Workspace, assert_near, copy_dir, fixtures, root};
use couplet_train::{
    config::DataConfig,
    dataset::{Tokenizer, record::Record},
    eval::{
        couplet::judge,
        suite::{Writer, answers, are_couplets, cases, pass_rate},
        text_metrics,
    },
    generate::{How, Limits, Sampling},
    model::{Checkpoint, Qwen3, Qwen3Config},
    testing::data_config,
};
use serde_json::{Value, json};

const FILES: [&str; 5] = [
    "all_results.json",
    "couplet_eval.json",
    "eval_results.json",
    "generated_predictions.jsonl",
    "predict_results.json",
];

fn evaluate(w: &Workspace, more: &[&str]) -> Ended {
    let base = root().join("data/tiny_qwen3").display().to_string();
    let data = format!("dataset_dir={}", root().join("data").display());
    w.run(&[&["evaluate", "--base", &base, &data, "device=cpu"][..], more].concat())
}

fn lines(w: &Workspace, name: &str) -> Vec<Value> {
    w.read(name).lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn shipped(n: usize) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("data/couplets_test.json")).expect("the data");
    serde_json::from_str::<Vec<Value>>(&text).expect("rows").into_iter().take(n).collect()
}

#[test]
fn the_base_is_evaluated_on_shipped_couplets() {
    let w = Workspace::new();
    let ended = evaluate(&w, &["dataset=couplets_test", "max_samples=80", "max_new_tokens=12", "output_dir=out"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let mut names: Vec<_> = std::fs::read_dir(w.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, FILES, "and no other");

    let rows = shipped(80);
    let predictions = lines(&w, "out/generated_predictions.jsonl");
    assert_eq!(predictions.len(), 80);
    let (mut shape, mut no_shared, mut scores) = (0, 0, vec![]);
    for (row, line) in rows.iter().zip(&predictions) {
        let keys: Vec<_> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["prompt", "predict", "label"]);
        let [upper, lower] = ["input", "output"].map(|key| row[key].as_str().unwrap());
        let prompt = format!(
            "<|im_start|>user\n{}\n{upper}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            row["instruction"].as_str().unwrap()
        );
        assert_eq!((line["prompt"].as_str(), line["label"].as_str()), (Some(&*prompt), Some(&*format!("{lower}\n"))));
        let written = line["predict"].as_str().unwrap();
        scores.push(text_metrics::score(written, line["label"].as_str().unwrap(), &[]));
        let raw = judge(upper, written.trim());
        shape += usize::from(raw.shape);
        no_shared += usize::from(!upper.chars().any(|c| written.contains(c)));
    }
    let (predict, summary) = (w.json("out/predict_results.json"), w.json("out/couplet_eval.json"));
    for (key, want) in serde_json::to_value(text_metrics::mean(&scores)).unwrap().as_object().unwrap() {
        assert_near(&predict[key], want, 1e-12, key);
    }
    let raw = &summary["base"]["raw"];
    assert_eq!(raw["shape"]["value"].as_f64(), Some(shape as f64 / 80.0));
    assert_eq!(raw["no_shared"]["value"].as_f64(), Some(no_shared as f64 / 80.0));
    for key in ["pass", "shape", "end", "opp", "all", "pos", "seg", "no_shared", "finish", "bleu-4", "recall_of_32"] {
        let cell = &summary["base"][key];
        let number = |part: &str| cell[part].as_f64().unwrap_or_else(|| panic!("{key}.{part}: {cell}"));
        assert!(number("low") <= number("value") && number("value") <= number("high"), "{key}: {cell}");
        assert_eq!(cell["n"], 80, "{key}");
    }
    assert_eq!(summary["reference"]["pass"]["value"], 1.0);
    assert!(summary["repaired"]["pass"]["value"].as_f64().unwrap() < 0.9, "{}", summary["repaired"]["pass"]);
    assert!(summary["base"].get("in_train").is_none(), "no training data is known");
    assert_eq!(summary["separation"]["shape"], json!({"auc": 0.5, "weak": true}));
    assert_eq!(w.json("out/eval_results.json")["eval_loss"], summary["base"]["eval_loss"]);
    assert!(ended.stdout.contains("re-paired") && ended.stdout.contains("\nshape ~"), "{}", ended.stdout);

    let again = evaluate(&w, &["dataset=couplets_test", "max_samples=1", "output_dir=out"]);
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("holds the results of an evaluation already"), "{}", again.stderr);
    let over = ["dataset=couplets_test", "max_samples=2", "max_new_tokens=4", "output_dir=out"];
    let replaced = evaluate(&w, &[&over[..], &["overwrite_output_dir=true"]].concat());
    assert_eq!(replaced.code, 0, "{}", replaced.stderr);
    assert_eq!(lines(&w, "out/generated_predictions.jsonl").len(), 2);
}

/// A recorded run: trained here, then evaluated on the rows that it held out.
#[test]
fn the_loss_is_the_trainers() {
    let w = Workspace::of_fixture("parity/all_targets");
    let rows = std::fs::read_to_string(w.path("data/dataset_info.json")).expect("a registry");
    let registry: Value = serde_json::from_str(&rows).expect("JSON");
    let name = registry.as_object().unwrap().keys().next().unwrap().clone();
    w.write(
        "train.toml",
        format!(
            "[model]\nmodel_name_or_path = \"model\"\ndevice = \"cpu\"\n[data]\ndataset = \"{name}\"\nval_size = 5\n\
             enable_thinking = true\n[train]\nmax_steps = 3\nlearning_rate = 0.01\nper_device_train_batch_size = 2\n\
             per_device_eval_batch_size = 3\neval_strategy = \"epoch\"\n[output]\noutput_dir = \"run\"\n"
        ),
    );
    w.train(&["--config", "train.toml"]);
    let dataset = format!("dataset={name}");
    let ended = w.run(&[
        "evaluate",
        "--adapter",
        "run",
        &dataset,
        "val_size=5",
        "max_new_tokens=4",
        "device=cpu",
        "output_dir=out",
    ]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let (of_run, now) = (w.json("run/eval_results.json"), w.json("out/eval_results.json"));
    assert_near(&now["eval_loss"], &of_run["eval_loss"], 1e-6, "eval_loss");
    let receipt = w.json("run/run.json");
    assert_near(&w.json("out/couplet_eval.json")["tuned"]["eval_loss"], &of_run["eval_loss"], 1e-6, "in the summary");
    let before = &receipt["results"]["eval_loss_before"];
    assert_near(&w.json("out/couplet_eval.json")["base"]["eval_loss"], before, 1e-6, "the base's");
    assert!(w.path("out/generated_predictions_base.jsonl").is_file());

    let into_run = w.run(&["evaluate", "--adapter", "run", &dataset, "output_dir=run"]);
    assert!(into_run.stderr.contains("holds a run, a model or data (run.json)"), "{}", into_run.stderr);
    copy_dir(&fixtures().join("parity/attention_rslora/model"), &w.path("other"));
    copy_dir(&fixtures().join("parity/tokenizer"), &w.path("other"));
    let foreign = w.run(&["evaluate", "--adapter", "run", "--base", "other", &dataset, "output_dir=no"]);
    assert_eq!(foreign.code, 2, "{}", foreign.stderr);
    assert!(foreign.stderr.contains("hint: ") && !w.path("no/couplet_eval.json").exists(), "{}", foreign.stderr);
}

#[test]
fn llamafactorys_predict_config_runs_as_it_is_on_rows_that_are_no_couplets() {
    let w = Workspace::of_fixture("parity/truncation");
    w.write("data/dataset_info.json", "{\"facts\": {\"file_name\": \"facts.json\"}}");
    w.write(
        "data/facts.json",
        "[{\"instruction\": \"Capital of France?\", \"input\": \"\", \"output\": \"Paris\"},\n\
          {\"instruction\": \"Capital of Italy?\", \"input\": \"\", \"output\": \"Rome\"}]",
    );
    w.write(
        "predict.yaml",
        "model_name_or_path: model\nadapter_name_or_path: final_adapter\ntrust_remote_code: true\nstage: sft\n\
         do_predict: true\nfinetuning_type: lora\neval_dataset: facts\ntemplate: qwen3_nothink\ncutoff_len: 2048\n\
         max_samples: 50\noverwrite_cache: true\npreprocessing_num_workers: 16\noutput_dir: saves/predict\n\
         overwrite_output_dir: true\nper_device_eval_batch_size: 1\npredict_with_generate: true\nmax_new_tokens: 3\n",
    );
    let ended = w.run(&["predict.yaml"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("couplet metrics are left out"), "{}", ended.stderr);
    let summary = w.json("saves/predict/couplet_eval.json");
    assert_eq!(summary["couplets"], false);
    assert!(summary["tuned"].get("shape").is_none() && summary.get("reference").is_none(), "{summary}");
    assert_eq!(summary["tuned"]["finish"]["n"], 2);
    assert_eq!(lines(&w, "saves/predict/generated_predictions.jsonl")[1]["label"], "Rome\n");
    assert!(!ended.stdout.contains("shape") && ended.stdout.contains("BLEU-4"), "{}", ended.stdout);

    let trained = w.read("predict.yaml").replace("do_predict: true", "do_eval: true");
    w.write("eval.yaml", trained.replace("saves/predict", "saves/eval"));
    let only = w.run(&["--config", "eval.yaml"]);
    assert_eq!(only.code, 0, "{}", only.stderr);
    assert!(w.json("saves/eval/eval_results.json")["eval_loss"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_cannot_be_evaluated_is_said_and_leaves_nothing() {
    let w = Workspace::new();
    w.write(
        "rows/dataset_info.json",
        json!({
            "no_answer": {"file_name": "a.json"}, "empty": {"file_name": "b.json"}, "asks_nothing": {"file_name": "c.json"},
            "unmapped": {"file_name": "b.json", "columns": {"prompt": "instruction", "query": "input"}},
            "long": {"file_name": "d.json"}
        })
        .to_string(),
    );
    w.write("rows/a.json", "[{\"instruction\": \"对\", \"input\": \"天\"}]");
    w.write("rows/b.json", "[{\"instruction\": \"对\", \"input\": \"天\", \"output\": \"\"}]");
    w.write("rows/c.json", "[{\"instruction\": \" \", \"input\": \"\", \"output\": \"地\"}]");
    let long = json!([{"instruction": "天".repeat(50_000), "input": "", "output": "地"}]);
    w.write("rows/d.json", long.to_string());
    for (args, want) in [
        (&["output_dir=out"][..], "error: no data set is named"),
        (&["dataset=no_answer", "dataset_dir=rows"], "a.json:1:2: row 1: `output` (the response) is missing"),
        (&["dataset=unmapped", "dataset_dir=rows"], "b.json:1:2: row 1: no column is mapped to `response`"),
        (&["dataset=empty", "dataset_dir=rows"], "b.json: row 1: no right answer to compare with"),
        (&["dataset=asks_nothing", "dataset_dir=rows"], "c.json: row 1: asks nothing"),
        (&["dataset=long", "dataset_dir=rows", "cutoff_len=100000"], "d.json: row 1: "),
        (&["dataset=couplets_tests"], "no data set named \"couplets_tests\""),
        (&["dataset=couplets_test", "n=8"], "several candidates without rules"),
        (&["dataset=couplets_test", "extra"], "`extra` is neither `key=value` nor a config file"),
    ] {
        let ended = evaluate(&w, &[args, &["output_dir=out", "max_samples=1"][..]].concat());
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(want), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("\nhint: "), "{args:?}: {}", ended.stderr);
        assert!(!w.path("out/couplet_eval.json").exists(), "{args:?}");
    }
}

#[test]
fn rules_make_right_lines_of_a_model_that_knows_nothing() {
    let w = Workspace::new();
    let strict = ["dataset=couplets_test", "max_samples=33", "rules=strict", "n=2", "output_dir=out"];
    let ended = evaluate(&w, &strict);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let summary = w.json("out/couplet_eval.json");
    for key in ["pass", "shape", "no_shared", "finish"] {
        assert_eq!(summary["base"][key]["value"], 1.0, "{key}");
    }
    assert_eq!(summary["generation"]["rules"], "strict");
}

/// The tiny model of the repository, its tokenizer, and how it is asked.
fn tiny() -> (Qwen3, Tokenizer, DataConfig) {
    let dir = root().join("data/tiny_qwen3");
    let config = Qwen3Config::load(&dir).expect("config.json");
    let none = couplet_train::config::LoraConfig {
        lora_rank: 1,
        lora_alpha: 1.0,
        lora_dropout: 0.0,
        lora_target: vec![],
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    };
    let checkpoint = Checkpoint::open(&dir).expect("weights");
    let device = candle_core::Device::Cpu;
    let (model, _) = Qwen3::load(&config, &checkpoint, &none, candle_core::DType::F32, &device).expect("a model");
    let data = DataConfig { cutoff_len: 128, enable_thinking: Some(true), ..data_config() };
    (model, Tokenizer::load(&dir).expect("a tokenizer"), data)
}

#[test]
fn rows_that_ask_the_same_are_each_others_references() {
    let (model, tokenizer, data) = tiny();
    let record = |query: &str, response: &str| Record {
        prompt: "对下联".into(),
        query: query.into(),
        response: response.into(),
        ..Record::default()
    };
    let records = [
        record("白日依山尽", "黄河入海流"),
        record("白日依山尽", "青山对酒开"),
        record("春风绿", "秋月明"),
        record("春风绿", "秋月明"),
    ];
    let cases_of = |records: &[Record]| cases(records, &data, &tokenizer).expect("cases");
    let cases = cases_of(&records);
    let further: Vec<Vec<&str>> = cases.iter().map(|case| case.further()).collect();
    assert_eq!(further, [vec!["青山对酒开"], vec!["黄河入海流"], vec![], vec![]]);
    assert!(are_couplets(&cases));
    let case = &cases[0];
    assert_eq!((case.upper.as_str(), case.label.as_str()), ("白日依山尽", "<think>\n\n</think>\n\n黄河入海流\n"));
    assert_eq!(case.target, [tokenizer.encode("黄河入海流").unwrap(), vec![tokenizer.end_id()]].concat());
    let thought = tokenizer.encode("<think>\n\n</think>\n\n").unwrap();
    assert_eq!(case.asked, [case.prompt.clone(), thought].concat(), "the trained thought is no part of the answer");

    let stop = vec![tokenizer.end_id()];
    let how = How { sampling: Sampling::GREEDY, limits: Limits { max_new_tokens: 4, stop }, interrupted: &|| false };
    let writer = Writer { model: &model, adapter: None, tokenizer: &tokenizer };
    assert_eq!(
        pass_rate(writer, &cases, None, &how, 3).expect("a share"),
        Some(0.0),
        "the base writes none in 4 tokens"
    );
    let limits = how.limits.clone();
    let stopped = How { sampling: Sampling::GREEDY, limits, interrupted: &|| true };
    assert_eq!(pass_rate(writer, &cases, None, &stopped, 3).expect("no error"), None);
    assert_eq!(
        answers(writer, &cases, &stopped, (3, true), &mut |_| {}).expect("no error"),
        [],
        "nothing after a signal"
    );
    let others = [record("one", "two")];
    assert!(!are_couplets(&cases_of(&others)));
}
