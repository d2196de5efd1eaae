//! `plan`: what it says is what the run then does; it answers without the model, and leaves nothing behind.

use crate::support::{Workspace, fixtures, root};
use couplet_train::{
    config::DataConfig,
    dataset::{self, Tokenizer, approximate},
};
use serde_json::Value;
use std::io::Read;

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

    // What was planned stands beside what was measured.
    assert!(run.stderr.contains("\nplanned: "), "{}", run.stderr);
    let receipt = work.json("out/run.json");
    let number = |value: &Value| value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
    for pointer in ["/predicted/train_seconds", "/measured/train_seconds"] {
        assert!(receipt.pointer(pointer).and_then(number).is_some(), "{pointer}: {receipt}");
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
    assert!(!work.path("out/adapter_model.safetensors").exists());
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

    let unknown = work.run(&[&args[..], &["model_name_or_path=Qwen/Qwen3-30B-A3B"]].concat());
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("Qwen/Qwen3-30B-A3B is not on this machine"), "{}", unknown.stderr);
}

#[test]
fn without_data_it_says_what_does_not_depend_on_them() {
    let work = Workspace::new();
    work.write("recipe.toml", std::fs::read(root().join("configs/qwen3_14b_lora.toml")).expect("the recipe"));
    let [_, data] = overrides();
    let plan = work.run(&["plan", "recipe.toml", "device=cpu", &data]);
    assert_eq!(plan.code, 2);
    assert!(row(&plan.stdout, "memory").starts_with("at most, on a CPU: "), "{}", plan.stdout);
    assert!(plan.stderr.contains("no data set named \"couplets_50k\""), "{}", plan.stderr);
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
