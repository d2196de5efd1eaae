//! `plan`: what it says is what the run then does; it answers without the model, and leaves nothing behind.

use crate::support::{Workspace, fixtures, on_everything, root, shipped};
use candle_core::{DType, Device};
use couplet_train::{
    config::{CountedTokens, DataConfig, Interval, TrainConfig},
    dataset::{self, Tokenizer, approximate},
    model::qwen3::Keep,
    testing::train_config,
    trainer::{Choice, Cut, Progress, Trainer},
};
use serde_json::Value;
use std::{cell::Cell, io::Read, time::Duration};

fn overrides() -> [String; 2] {
    [
        format!("model_name_or_path={}", root().join("data/tiny_qwen3").display()),
        format!("dataset_dir={}", root().join("data").display()),
    ]
}

/// The value of a row; its further lines are left out.
fn row<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find(|line| line.split("  ").next() == Some(name));
    line.unwrap_or_else(|| panic!("no row {name}:\n{text}"))[name.len()..].trim_start()
}

#[test]
fn a_plan_is_what_the_run_then_does() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe"));
    let [model, data] = overrides();
    let small = ["recipe.toml", "device=cpu", "max_samples=48", "output_dir=out", "num_train_epochs=2", &model, &data];

    let plan = work.run(&[&["plan"], &small[..]].concat());
    assert_eq!((plan.code, plan.stderr.as_str()), (0, ""));
    let left: Vec<_> = std::fs::read_dir(work.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["recipe.toml"], "a plan writes nothing");
    let run = work.train(&[&["--config"], &small[..]].concat());
    for name in ["model", "device", "lora", "rows", "tokens", "template", "steps", "rate", "output"] {
        assert_eq!(row(&plan.stdout, name), row(&run.stderr, name), "{name}");
    }
    // 48 rows of 75 tokens twice; the common prefix once in each of the six steps.
    assert!(row(&plan.stdout, "in all").contains(" through the model in 6 passes, "), "{}", plan.stdout);
    assert!(row(&plan.stdout, "rates").starts_with("0.000e0 in step 1, 2.000e-3 in step 2, "), "{}", plan.stdout);
    assert!(row(&plan.stdout, "fits").starts_with("yes: "), "{}", plan.stdout);
    assert!(row(&plan.stdout, "time").contains(": 6 steps of ") && !row(&plan.stdout, "time").contains('≈'));
    let estimated = work.run(&[&["plan", "--no-probe"], &small[..]].concat());
    assert!(row(&estimated.stdout, "time").starts_with("≈ "), "{}", estimated.stdout);

    let more = ["eval_couplets=4", "pissa_init=true", "output_dir=another", "--no-probe"];
    let with_more = work.run(&[&["plan"], &small[..], &more].concat());
    let without = "; without what the model writes at evaluations and PiSSA's search for singular values";
    assert!(row(&with_more.stdout, "time").ends_with(without), "{}{}", with_more.stdout, with_more.stderr);

    // What was planned stands beside what was measured.
    assert!(run.stderr.contains("\nplanned: "), "{}", run.stderr);
    let receipt = work.json("out/run.json");
    let number = |value: &Value| value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
    for pointer in ["/predicted/train_seconds", "/measured/train_seconds"] {
        assert!(receipt.pointer(pointer).and_then(number).is_some(), "{pointer}: {receipt}");
    }
    let log = work.read("out/trainer_log.jsonl");
    let last: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["percentage"], 100.0, "what viewers read of the last line");
    for (key, of_receipt) in [("planned", "predicted"), ("measured", "measured")] {
        for what in ["train_seconds", "peak_memory_bytes"] {
            assert_eq!(last[key][what], receipt[of_receipt][what], "{key} {what}");
        }
    }
}

/// F27: the largest rank that a config takes.
#[test]
#[cfg(target_os = "linux")] // where the free memory is known
fn a_rank_that_no_memory_holds_is_refused() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe"));
    let [model, data] = overrides();
    let run = work.run(&["recipe.toml", "device=cpu", "lora_rank=4294967295", "output_dir=out", &model, &data]);
    assert!(run.code == 2 && run.stderr.contains("error: the run needs about "), "{}", run.stderr);
    assert!(
        run.stderr.contains("\nhint: `lora_rank = ") && run.stderr.contains("` would fit; else "),
        "{}",
        run.stderr
    );
    assert!(!work.path("out/adapter_model.safetensors").exists());
    let plan = work.run(&["plan", "recipe.toml", "device=cpu", "lora_rank=4294967295", &model, &data]);
    assert!(row(&plan.stdout, "fits").contains("; `lora_rank = "), "{}{}", plan.stdout, plan.stderr);
}

#[test]
fn a_model_that_is_not_here_is_known_by_its_name() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/qwen3_14b_lora.toml")).expect("the recipe"));
    let [_, data] = overrides();
    let args = ["plan", "recipe.toml", "device=cpu", "dataset=couplets_test", "max_samples=64", &data];
    let plan = work.run(&args);
    assert_eq!((plan.code, plan.stderr.as_str()), (0, ""));
    assert!(row(&plan.stdout, "model").starts_with("Qwen/Qwen3-14B: 14,768,307,200 parameters"), "{}", plan.stdout);
    assert!(row(&plan.stdout, "lora").ends_with("up_proj down_proj"), "{}", plan.stdout);
    assert!(plan.stdout.contains("weights 29.54 GB"), "{}", plan.stdout);
    for estimated in ["tokens", "in all", "time"] {
        assert!(row(&plan.stdout, estimated).starts_with("≈ "), "{estimated}: {}", plan.stdout);
    }
    assert!(plan.stdout.contains("\nnote: ≈ Qwen/Qwen3-14B is not on this machine"), "{}", plan.stdout);

    assert!(row(&plan.stdout, "disk").ends_with(" are free"), "{}", plan.stdout);
    assert!(row(&plan.stdout, "download").starts_with("29.54 GB → "), "{}", plan.stdout);
    let much = ["num_train_epochs=100000", "max_steps=100000", "save_strategy=steps", "save_steps=1"];
    let much = work.run(&[&args[..], &much, &["save_total_limit=100000"]].concat());
    assert!(much.stdout.contains(" are free, but the checkpoints will take "), "{}{}", much.stdout, much.stderr);

    let unknown = work.run(&[&args[..], &["model_name_or_path=Qwen/Qwen3-30B-A3B"]].concat());
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("Qwen/Qwen3-30B-A3B is not on this machine"), "{}", unknown.stderr);
}

#[test]
fn without_model_and_data_it_says_what_does_not_depend_on_them() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/qwen3_14b_lora.toml")).expect("the recipe"));
    let [_, data] = overrides();
    let args = ["plan", "recipe.toml", "device=cpu", &data];
    let plan = work.run(&args);
    assert_eq!((plan.code, plan.stderr.as_str()), (0, ""));
    let of = |name: &str| row(&plan.stdout, name);
    assert!(of("model").starts_with("Qwen/Qwen3-14B: 14,768,307,200 parameters"), "{}", plan.stdout);
    assert_eq!(of("rows"), "assumed: full ones, 128 tokens each, all trained");
    assert!(of("steps").starts_with("5 epochs of rows that are not here; 8 samples a step (1 × 8)"), "{}", plan.stdout);
    assert!(of("memory").starts_with("at most ") && plan.stdout.contains("weights 29.54 GB, "), "{}", plan.stdout);
    assert!(["yes: ", "no: "].iter().any(|says| of("fits").starts_with(says)), "{}", plan.stdout);
    assert!(of("on a card").contains(" GB at 1,872 tokens at once; at the least "), "{}", plan.stdout);
    assert!(of("disk").contains(" GB with one checkpoint"), "{}", plan.stdout);
    assert!(of("time").starts_with("≈ ") && of("time").contains(" a step at the most; "), "{}", plan.stdout);
    assert!(plan.stdout.contains("no data set named \"couplets_50k\""), "{}", plan.stdout);
    assert!(
        plan.stdout.contains("  couplet-train data prepare PAIRS.txt --out "),
        "how they are made: {}",
        plan.stdout
    );

    // An upper bound of what is then planned for rows that are there.
    let total = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("memory")).expect("memory").to_owned();
        line.split(' ').find_map(|word| word.parse::<f64>().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    for more in [&["max_samples=64"][..], &["max_samples=512", "per_device_train_batch_size=64"]] {
        let (known, all) = (["dataset=couplets_train,couplets_festive"], [&args[..], more].concat());
        let (known, assumed) = (work.run(&[&all[..], &known].concat()), work.run(&all));
        assert!(total(&known.stdout) <= total(&assumed.stdout), "{}{}", known.stdout, assumed.stdout);
    }
    let small = work.run(&[&args[..], &["micro_batch_tokens=1024", "lora_rank=512", "max_steps=40"]].concat());
    assert!(row(&small.stdout, "steps").starts_with("40 (max_steps); "), "{}", small.stdout);
}

#[test]
fn estimated_tokens_are_near_those_of_qwen3() {
    let mut bytes = vec![];
    let file = std::fs::File::open(fixtures().join("qwen3_tokenizer/tokenizer.json.gz")).expect("the fixture");
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
    let data = DataConfig {
        dataset: vec!["couplets_test".into(), "couplets_festive".into()],
        dataset_dir: root().join("data"),
        cutoff_len: 256,
        ..couplet_train::testing::data_config()
    };
    let summary = |tokenizer: Tokenizer| dataset::load(&data, 42, &tokenizer).expect("the shipped rows").summary;
    let (real, near) = (summary(Tokenizer::from_bytes(&bytes).unwrap()), summary(approximate::tokenizer().unwrap()));
    let own = |s: &dataset::Summary| s.train.mean - s.common_prefix as f64;
    for (what, real, near, off) in [
        ("trained", real.train.trained_tokens as f64, near.train.trained_tokens as f64, 0.08),
        ("a row's own", own(&real), own(&near), 0.08),
        ("instruction", real.common_prefix as f64, near.common_prefix as f64, 0.4),
    ] {
        assert!((near / real - 1.0).abs() < off, "{what}: {near} for {real}");
    }
}

#[test]
fn one_of_a_thing_and_a_constant_rate_are_said_as_such() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe"));
    let [model, data] = overrides();
    let more = ["max_samples=16", "num_train_epochs=1", "lr_scheduler_type=constant", "warmup_ratio=0"];
    let args = [&["plan", "--no-probe", "recipe.toml", "device=cpu", &model, &data][..], &more].concat();
    let plan = work.run(&args);
    let time = row(&plan.stdout, "time");
    assert!(time.contains(": 1 step of ") && time.contains(", 1 evaluation;"), "{time}");
    assert_eq!(row(&plan.stdout, "rates"), "2.000e-3 in every step");
    let nothing = work.run(&[&args[..], &["lr_scheduler_type=cosine", "max_steps=1", "warmup_ratio=0.1"]].concat());
    assert!(nothing.stdout.contains("nothing would be trained: all 1 steps are in the warmup"), "{}", nothing.stdout);

    // The plan is all that the command says.
    let quiet = work.run(&[&args[..], &["-q"]].concat());
    assert_eq!(row(&quiet.stdout, "rates"), row(&plan.stdout, "rates"));
    let nothing = work.run(&["plan"]);
    assert_eq!(nothing.code, 2);
    assert!(nothing.stderr.contains("\nhint: couplet-train plan configs/"), "{}", nothing.stderr);
}

#[test]
fn a_path_that_leads_nowhere_stands_for_no_model() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/qwen3_14b_lora.toml")).expect("the recipe"));
    let [_, data] = overrides();
    for path in ["./Qwen3-14B", "/nowhere/Qwen3-14B", "a/b/Qwen3-14B"] {
        let model = format!("model_name_or_path={path}");
        let plan = work.run(&["plan", "recipe.toml", "device=cpu", "dataset=couplets_test", &data, &model]);
        assert_eq!((plan.code, plan.stdout.as_str()), (2, ""), "{path}");
        assert!(plan.stderr.contains("no such folder"), "{path}: {}", plan.stderr);
    }
}

#[test]
fn a_probe_ends_between_micro_batches() {
    let (model, params, rows) = shipped((DType::F32, &Device::Cpu), &on_everything(), 8);
    let config = TrainConfig { per_device_train_batch_size: 4, disable_shuffling: true, ..train_config() };
    let (asked, stop_after) = (Cell::new(0), Cell::new(usize::MAX));
    let stop = || asked.replace(asked.get() + 1) >= stop_after.get();
    let trainer = Trainer {
        optim: Trainer::optimizer(&config, &params).expect("an optimizer"),
        model: &model,
        params,
        config: &config,
        train: &rows,
        eval: &[],
        dataset_names: &[],
        leaks: &[],
        lora_dropout: 0.0,
        each_dataset: false,
        cut: Cut { max_rows: 1, share_prefix: true, keep: Keep::Lean }, // every sample alone
        recorder: None,
        logging_steps: Interval::Steps(1),
        counted_tokens: CountedTokens::No,
        saver: None,
        choice: Choice::default(),
        stop: &stop,
        write: None,
        progress: Progress::default(),
    };
    for (steps, patience, end, micro_batches, why) in [
        (5, Duration::MAX, usize::MAX, 8, "an epoch has no more"),
        (1, Duration::MAX, usize::MAX, 4, "one step"),
        (5, Duration::ZERO, usize::MAX, 1, "no patience: one, in the middle of a step"),
        (5, Duration::MAX, 3, 3, "stopped"),
        (5, Duration::MAX, 0, 0, "stopped at once"),
    ] {
        asked.set(0);
        stop_after.set(end);
        let (took, probed) = trainer.probe(steps, patience).expect("a probe");
        let fed: usize = rows[..micro_batches].iter().map(|row| row.input_ids.len() - 1).sum();
        assert_eq!((probed.fed, took.is_zero()), (fed, micro_batches == 0), "{why}");
    }
}

#[test]
fn what_a_card_needs_is_cut_as_on_a_card() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/qwen3_14b_lora.toml")).expect("the recipe"));
    let [_, data] = overrides();
    let of = |more: &str| {
        let small = ["dataset=couplets_test", "max_samples=64", "per_device_train_batch_size=64", more];
        let plan = work.run(&[&["plan", "--no-probe", "recipe.toml", "device=cpu", &data][..], &small].concat());
        row(&plan.stdout, "on a card").to_owned()
    };
    let (by_itself, asked) = (of("seed=42"), of("micro_batch_tokens=1872"));
    let need = |text: &str| text.split(" GB at 1,872 tokens at once").next().map(str::parse::<f64>);
    let (Some(Ok(own)), Some(Ok(said))) = (need(&by_itself), need(&asked)) else { panic!("{by_itself}\n{asked}") };
    assert_eq!(own, said, "1,872 are a card's own");
    assert!(own > 32.0 && by_itself.ends_with(", at 256"), "{by_itself}");
}

#[test]
fn what_lies_in_the_output_directory_is_planned_with() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe"));
    let [model, data] = overrides();
    let small = ["recipe.toml", "device=cpu", "max_samples=48", "num_train_epochs=2", "save_steps=2", &model, &data];
    let plan = |more: &[&str]| work.run(&[&["plan", "--no-probe"], &small[..], more].concat());
    work.write("project/.git", "");
    for (refused, why) in [
        ("output_dir=project", "it is a model, a data set or a project"),
        ("output_dir=recipe.toml", "is a file"),
        ("resume_from_checkpoint=/nowhere", "names no folder"),
    ] {
        let plan = plan(&[refused]);
        assert_eq!((plan.code, plan.stdout.as_str()), (2, ""), "{refused}");
        assert!(plan.stderr.contains(why), "{refused}: {}", plan.stderr);
    }

    work.train(&[&["--config"], &small[..], &["output_dir=out"]].concat());
    let finished = plan(&["output_dir=out"]);
    assert!(finished.stdout.contains("\nnote: `output_dir` holds a finished run"), "{}", finished.stdout);
    let taken = plan(&["output_dir=out", "lora_rank=4"]);
    assert_eq!((taken.code, taken.stderr.as_str()), (0, ""));
    let refused = "\nnote: training would refuse: out: holds the results of another config:\n  lora_rank: 16 there, 4 now\n  \
                   choose another `output_dir`, or replace them with `overwrite_output_dir=true`\n";
    assert!(taken.stdout.contains(refused), "{}", taken.stdout);
    assert!(row(&taken.stdout, "lora").starts_with("r 4, "), "{}", taken.stdout);
    let from = ["output_dir=out2", "resume_from_checkpoint=out/checkpoint-4"];
    let on = plan(&from);
    assert!(on.stdout.contains("\nnote: goes on after step 4, from out/checkpoint-4"), "{}{}", on.stdout, on.stderr);
    assert!(row(&on.stdout, "time").contains(": 2 steps of "), "what is left: {}", on.stdout);
    assert!(row(&on.stdout, "steps").starts_with("6 = "), "{}", on.stdout);
    assert!(!work.path("out2").exists(), "a plan writes nothing");
    let run = work.train(&[&["--config"], &small[..], &from].concat());
    assert!(run.stderr.contains("\ntime  ") && run.stderr.contains(": 2 steps of "), "what is left: {}", run.stderr);
    let another = plan(&["output_dir=out3", from[1], "lora_rank=4"]);
    assert!(another.code == 2 && another.stderr.contains("was made by another run"), "{}", another.stderr);
}

#[test]
fn weights_that_cannot_be_used_are_said_below_the_plan() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe"));
    let base = root().join("data/tiny_qwen3");
    for name in ["config.json", "tokenizer.json"] {
        work.write(&format!("model/{name}"), std::fs::read(base.join(name)).expect(name));
    }
    let [_, data] = overrides();
    let small = ["recipe.toml", "device=cpu", "max_samples=16", "model_name_or_path=model", &data];
    let refused = |more: &[&str], why: &str| {
        let plan = work.run(&[&["plan"], &small[..], more].concat());
        assert_eq!((plan.code, plan.stderr.as_str()), (0, ""), "{why}");
        assert!(row(&plan.stdout, "time").starts_with("≈ "), "{}", plan.stdout);
        assert!(plan.stdout.lines().any(|line| line.starts_with("note: ") && line.contains(why)), "{}", plan.stdout);
    };
    refused(&[], "no model.safetensors");
    let weights = std::fs::read(base.join("model.safetensors")).expect("the weights");
    work.write("model/model.safetensors", &weights[..weights.len() - 1]);
    refused(&[], "its header describes");
    refused(&["--no-probe"], "its header describes");
    // Of another geometry, which its header shows.
    work.write("model/model.safetensors", &weights);
    let config = work.read("model/config.json").replace("\"intermediate_size\": 768", "\"intermediate_size\": 512");
    work.write("model/config.json", config);
    refused(&["--no-probe"], "was expected from the config");
}

#[test]
fn an_estimate_refuses_no_row() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/qwen3_14b_lora.toml")).expect("the recipe"));
    let [_, data] = overrides();
    let plan = |more: &[&str]| {
        let args =
            ["plan", "--no-probe", "recipe.toml", "device=cpu", "dataset=couplets_test", "max_samples=64", &data];
        let plan = work.run(&[&args[..], more].concat());
        assert_eq!((plan.code, plan.stderr.as_str()), (0, ""), "{more:?}");
        plan.stdout
    };
    // `≈` stands before rows that an estimate leaves out, and before samples that it fills packs with.
    for (more, kept, [mark, mark_of_steps], said) in [
        (&["cutoff_len=62"][..], "64 kept + 0 skipped", ["", ""], "`over_length` refuses those that are"),
        (&["cutoff_len=62", "over_length=drop"], " skipped (", ["≈ ", "≈ "], "`over_length` leaves out those that are"),
        (
            &["cutoff_len=62", "over_length=truncate"],
            "64 kept + 0 skipped, ≈ ",
            ["", ""],
            "`over_length` cuts those that are",
        ),
        (&["packing=true"], "64 kept + 0 skipped", ["", "≈ "], "\npacks      ≈ "),
        (
            &["cutoff_len=4", "over_length=drop"],
            "64 kept + 0 skipped",
            ["≈ ", "≈ "],
            "≈ 128 rows may be longer than cutoff_len 4",
        ),
    ] {
        let plan = plan(more);
        assert!(row(&plan, "data").starts_with(&format!("{mark}couplets_test: 64 rows ")), "{more:?}: {plan}");
        assert_eq!(row(&plan, "rows").starts_with("≈ "), !mark.is_empty(), "{more:?}: {plan}");
        assert!(row(&plan, "data").contains(kept) && plan.contains(said), "{more:?}: {plan}");
        assert_eq!(row(&plan, "steps").starts_with("≈ "), !mark_of_steps.is_empty(), "{more:?}: {plan}");
    }
}

/// F25: rows cost little more than their ids; there is no second list for their labels, and their texts are let go on the way. A
/// row of 77 tokens takes 574 bytes where there are five million, 1,260 with a list of labels and the texts beside, and about a
/// thousand with the texts alone.
#[test]
#[cfg(target_os = "linux")] // where a process knows its peak
fn texts_do_not_stand_beside_their_tokens() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe"));
    work.write("data/dataset_info.json", r#"{"many": {"file_name": "many.jsonl"}}"#);
    let of = |rows: usize| {
        let digits = ["零", "一", "二", "三", "四", "五", "六", "七", "八", "九"];
        let line = |n: usize| (0..7).map(|place| digits[n / 10usize.pow(place) % 10]).collect::<String>();
        let instruction = "请为以下上联生成一个对仗工整、寓意吉祥的下联，注意词性对应和平仄协调。";
        let row = |n| {
            format!(
                "{{\"instruction\": \"{instruction}\", \"input\": \"{}\", \"output\": \"{}\"}}\n",
                line(n),
                line(n * 7)
            )
        };
        work.write("data/many.jsonl", (0..rows).map(row).collect::<String>());
        let [model, _] = overrides();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_couplet-train"));
        command.args([
            "plan",
            "recipe.toml",
            "--no-probe",
            "device=cpu",
            "dataset_dir=data",
            "dataset=many",
            "eval_dataset=[]",
        ]);
        command.args(["max_samples=null", "eval_strategy=no", "output_dir=out", &model]).current_dir(work.dir());
        let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("a plan");
        let mut peak = 0;
        let status = loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            peak = line.and_then(|kib| kib.parse::<usize>().ok()).map_or(peak, |kib| 1024 * kib);
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(status.success() && peak > 0);
        peak
    };
    let (few, many) = (of(70_000), of(270_000)); // more than are tokenised at once
    let a_row = (many - few) / 200_000;
    assert!(a_row < 900, "{a_row} bytes a row: {few} of 70,000, {many} of 270,000");
}
