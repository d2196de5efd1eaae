//! Every shipped recipe parses, resolves and says what its comments promise.

use couplet_train::config::{self, Dialect, EvalStrategy, Interval, Loaded, Projection};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

fn load(name: &str, overrides: &[&str]) -> Loaded {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    config::load(&folder().join(name), &overrides).unwrap_or_else(|err| panic!("{err}"))
}

#[test]
fn every_file_in_configs_loads() {
    let mut names: Vec<String> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["qwen3_0.6b_lora.toml", "qwen3_14b_lora.toml", "qwen3_14b_lora.yaml", "tiny_couplets.toml"]);
    for name in &names {
        let Loaded { recipe, notices } = load(name, &[]);
        recipe.validate().unwrap_or_else(|err| panic!("{name}: {err}"));
        assert_eq!(recipe.lora.lora_target, Projection::ALL, "{name}");
        assert_eq!(recipe.data.enable_thinking, Some(false), "{name}");
        if recipe.dialect == Dialect::Toml {
            assert_eq!(notices, [], "{name}: nothing of ours is ignored");
        }
    }
}

#[test]
fn every_key_of_a_recipe_is_explained_in_both_languages() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
            let comment = line.split_once(" # ").map_or("", |(_, comment)| comment);
            let (english, chinese) = comment.rsplit_once(" / ").unwrap_or_default();
            assert!(english.len() > 3 && !chinese.is_ascii(), "{}: {line}", path.display());
        }
    }
}

#[test]
fn the_14b_yaml_is_the_14b_toml() {
    let toml = load("qwen3_14b_lora.toml", &[]).recipe;
    let Loaded { recipe: yaml, notices } = load("qwen3_14b_lora.yaml", &[]);
    let differences: Vec<String> =
        toml.diff(&serde_json::to_value(&yaml).unwrap()).into_iter().map(|difference| difference.key).collect();
    assert_eq!(
        differences,
        ["dialect", "on_bad_row", "over_length", "save_steps"],
        "`on_bad_row` and `over_length` are no keys of LlamaFactory's; steps are not used"
    );
    assert_eq!(notices.len(), 1, "truncation: {notices:?}");
    let mut same = load("qwen3_14b_lora.yaml", &["on_bad_row=error", "over_length=error", "save_steps=200"]).recipe;
    same.dialect = Dialect::Toml;
    assert_eq!(same, toml);
}

#[test]
fn the_quick_start_is_250_steps() {
    let recipe = load("tiny_couplets.toml", &[]).recipe;
    let per_step = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps;
    assert_eq!(recipe.data.max_samples.map(|rows| rows / per_step), Some(250));
    assert_eq!((recipe.train.num_train_epochs, recipe.lora.scale()), (1.0, 2.0));
    assert_eq!((recipe.train.eval_strategy, recipe.train.eval_steps), (EvalStrategy::Steps, Interval::Steps(125)));
}
