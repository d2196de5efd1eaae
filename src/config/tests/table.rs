//! The table as its users see it: every key driven, converted, explained, and the committed pages current.

use super::*;
use crate::config::{
    keys::all,
    kind::Kind,
    table::{Answer, Command, Read},
};
use std::{fs, path::PathBuf};

/// A value other than the default, and what else must be said for it to hold.
fn example(name: &str, kind: Kind) -> (String, &'static str) {
    let value = match name {
        "dataset" => "other, d",
        "over_length" => "drop",
        "on_bad_row" => "skip",
        "model_name_or_path" | "output_dir" | "dataset_dir" => "other/folder",
        "device" => "cuda:1",
        "lora_target" => "v_proj",
        "template" => "qwen3_nothink",
        "eval_dataset" | "test_dataset" => "held_out",
        "metric_for_best_model" => "eval_loss_per_token",
        "mix_strategy" => "interleave_over",
        "train_sampling_strategy" => "sequential",
        "interleave_probs" => return ("\"1.0\"".into(), "mix_strategy: interleave_under\n"),
        "lr_scheduler_kwargs" => return ("{num_cycles: 2}".into(), "lr_scheduler_type: cosine\n"),
        "eval_strategy" => return ("epoch".into(), "val_size: 5\n"),
        "early_stopping_steps" => return ("3".into(), "val_size: 5\neval_strategy: epoch\n"),
        "sample_prompts" => return ("[\"a, b\"]".into(), "val_size: 5\n"),
        "eval_couplets" => return ("3".into(), "val_size: 5\n"),
        "load_best_model_at_end" => {
            return ("true".into(), "val_size: 5\neval_strategy: epoch\nsave_strategy: epoch\n");
        }
        "preprocessing_batch_size" | "preprocessing_num_workers" => return ("7".into(), "packing: true\n"),
        "pissa_iter" => return ("7".into(), "pissa_init: true\n"),
        "warmup_steps" => "3",
        "overwrite_output_dir" | "plot_loss" | "greater_is_better" => "true",
        _ => match kind {
            Kind::Text | Kind::Secret => "a/name",
            Kind::Flag => "true",
            Kind::Whole(_) | Kind::Steps | Kind::Limit => "7",
            Kind::Share | Kind::BelowOne | Kind::ShareOrCount => "0.25",
            Kind::Positive | Kind::NonNegative => "0.125",
            Kind::Thinking => "none",
            Kind::Resume => "o/checkpoint-5",
            Kind::Choice { now, .. } => now.last().copied().unwrap_or_default(),
            Kind::List | Kind::Texts => "a",
            Kind::Shares => "1.0",
            Kind::Table => "{}",
        },
    };
    (value.into(), "")
}

fn read_in_training() -> impl Iterator<Item = (&'static str, &'static Read)> {
    all().filter_map(|key| Some((key.name, key.read_by(Command::Train)?)))
}

/// A token must show nowhere, so it is no part of what is compared, written or converted.
fn unsecret() -> impl Iterator<Item = (&'static str, &'static Read)> {
    read_in_training().filter(|(_, read)| read.kind != Kind::Secret)
}

fn with(base: &str, name: &str, line: &str) -> String {
    let rest: String = base.lines().filter(|l| !l.starts_with(&format!("{name}:"))).map(|l| format!("{l}\n")).collect();
    rest + line
}

/// Keys that decide which command runs, or have only one value so far.
const NO_RECIPE: [&str; 5] = ["stage", "finetuning_type", "optim", "do_train", "do_eval"];

#[test]
fn every_key_that_is_read_changes_the_recipe() {
    for (name, read) in unsecret().filter(|(name, _)| !NO_RECIPE.contains(name)) {
        let (value, besides) = example(name, read.kind);
        let base = format!("{YAML}{besides}");
        let before = self::read(Format::Yaml, &base, &[]).unwrap().recipe;
        let text = with(&base, name, &format!("{name}: {value}\n"));
        let after = self::read(Format::Yaml, &text, &[]).unwrap_or_else(|err| panic!("{name}: {err}")).recipe;
        let changed = after.diff(&serde_json::to_value(&before).unwrap());
        assert!(!changed.is_empty(), "{name}: {value} changes nothing");
        let leaf = match name {
            "use_cpu" => "device",
            "group_by_length" => "train_sampling_strategy",
            "neat_packing" => "packing",
            _ => name,
        };
        assert!(changed.iter().any(|difference| difference.key == leaf), "{name} changes {changed:?}");
    }
}

#[test]
fn every_field_of_a_recipe_is_used_outside_of_the_config() {
    fn walk(dir: &Path, text: &mut String) {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true if entry.ends_with("config") => {}
                true => walk(&entry, text),
                false if entry.extension().is_some_and(|e| e == "rs") => {
                    let file = fs::read_to_string(&entry).unwrap();
                    text.push_str(file.split("\n#[cfg(test)]\nmod tests").next().unwrap());
                }
                false => {}
            }
        }
    }
    let mut text = String::new();
    walk(&root().join("src"), &mut text);
    let recipe = serde_json::to_value(yaml("")).unwrap();
    for (section, fields) in recipe.as_object().unwrap() {
        for field in fields.as_object().into_iter().flatten().map(|(field, _)| field) {
            assert!(text.contains(&format!(".{field}")), "[{section}] {field} is read by nothing");
        }
    }
}

#[test]
fn every_other_key_is_ignored_once_or_refused() {
    for key in all() {
        let given = format!("{YAML}{}: true\n", key.name);
        match (key.answer, read(Format::Yaml, &given, &[])) {
            (Answer::Ignored, Ok(loaded)) => {
                assert_eq!(loaded.notices[0].en, format!("ignored: {}", key.name));
                assert_eq!(loaded.recipe, yaml(""), "{}", key.name);
            }
            (Answer::Ignored, Err(err)) => panic!("{}: {err}", key.name),
            (Answer::Refused(off), result) => {
                assert_eq!(result.is_ok(), off.contains(&"true"), "{}", key.name);
                for off in off {
                    let quiet = read(Format::Yaml, &format!("{YAML}{}: {off}\n", key.name), &[]).unwrap();
                    assert_eq!(quiet.recipe, yaml(""), "{}: {off}", key.name);
                }
            }
            (Answer::Read(_), _) => {}
        }
        // In TOML nobody has to carry a key along.
        let section = key.read_by(Command::Train).and_then(|read| read.home);
        if section.is_none() {
            assert!(read(Format::Toml, &format!("{TOML}[train]\n{} = 99\n", key.name), &[]).is_err(), "{}", key.name);
        }
    }
}

fn convert_text(text: &str, name: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    convert(&path, &[]).unwrap_or_else(|err| panic!("{err}\n{text}")).0
}

/// There and back: the same recipe in both, and the same text the second time.
fn goes_round(yaml_text: &str) {
    let toml = convert_text(yaml_text, "c.yaml");
    let back = convert_text(&toml, "c.toml");
    let recipe = |format, text: &str| {
        let mut recipe = read(format, text, &[]).unwrap_or_else(|err| panic!("{err}\n{text}")).recipe;
        recipe.dialect = Dialect::Toml;
        recipe
    };
    let first = recipe(Format::Yaml, yaml_text);
    assert_eq!(recipe(Format::Toml, &toml), first, "{toml}");
    assert_eq!(recipe(Format::Yaml, &back), first, "{back}");
    assert_eq!(convert_text(&back, "c.yaml"), toml);
    assert_eq!(convert_text(&toml, "c.toml"), back);
}

#[test]
fn every_key_survives_the_way_to_toml_and_back() {
    goes_round(YAML);
    for (name, read) in unsecret() {
        let (value, besides) = match name {
            "do_eval" => ("true".into(), "val_size: 5\n"),
            _ => example(name, read.kind),
        };
        goes_round(&with(&format!("{YAML}{besides}"), name, &format!("{name}: {value}\n")));
    }
}

#[test]
fn a_key_without_effect_is_not_carried_over() {
    for (lines, idle) in [
        ("preprocessing_num_workers: 16\n", "preprocessing_num_workers"),
        ("preprocessing_batch_size: 10\n", "preprocessing_batch_size"),
        ("pissa_iter: 4\n", "pissa_iter"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        fs::write(&path, format!("{YAML}{lines}")).unwrap();
        let (toml, notices) = convert(&path, &[]).unwrap();
        assert!(!toml.contains(idle), "{toml}");
        assert_eq!(notices[0].en, format!("ignored: {idle}"), "and it is said");
        assert!(read(Format::Toml, &toml, &[]).unwrap().notices.is_empty(), "of its own it says nothing");
    }
    assert!(
        convert_text(&format!("{YAML}packing: true\npreprocessing_num_workers: 16\n"), "c.yaml")
            .contains("num_workers = 16")
    );
}

#[test]
fn a_token_is_read_and_shown_nowhere() {
    let secrets: Vec<&str> =
        read_in_training().filter(|(_, read)| read.kind == Kind::Secret).map(|(name, _)| name).collect();
    assert_eq!(secrets, ["hf_hub_token", "ms_hub_token"]);
    let tokens = |recipe: &Recipe| {
        let tokens = recipe.model.tokens.clone();
        [tokens.hugging_face, tokens.model_scope].map(|token| token.map(|token| token.reveal().to_owned()))
    };
    let text = format!("{YAML}hf_hub_token: secret-1\nms_hub_token: 'secret-2'\n");
    let loaded = read(Format::Yaml, &text, &[]).unwrap();
    assert_eq!(tokens(&loaded.recipe), [Some("secret-1".into()), Some("secret-2".into())]);
    let said = read(Format::Yaml, &text, &["hf_hub_token=123"]).unwrap();
    assert_eq!(tokens(&said.recipe)[0].as_deref(), Some("123"), "a word, whatever YAML thinks");
    assert!(
        loaded.recipe.diff(&serde_json::to_value(yaml("")).unwrap()).is_empty(),
        "and nothing that tells runs apart"
    );
    let shown = [format!("{loaded:?}"), serde_json::to_string(&loaded.recipe).unwrap(), convert_text(&text, "c.yaml")];
    assert!(shown.iter().all(|shown| !shown.contains("secret")), "{shown:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    fs::write(&path, &text).unwrap();
    let notices = convert(&path, &[]).unwrap().1;
    assert!(notices.iter().any(|notice| notice.en.starts_with("`hf_hub_token` was not written")), "{notices:?}");

    for (format, lines, overrides) in [
        (Format::Yaml, "hf_hub_token: [secret]\n", vec![]),
        (Format::Yaml, "hf_hub_token: {secret: secret}\n", vec![]),
        (Format::Yaml, "hf_hub_token:\n  [secret]\n", vec![]),
        (Format::Yaml, "hf_hub_token: \"secret\n", vec![]),
        (Format::Yaml, "hf_hub_token: secret\nhf_hub_token: secret\n", vec![]),
        (Format::Yaml, "om_hub_token: secret\n", vec![]),
        (Format::Yaml, "hub_token: secret\n", vec![]),
        (Format::Yaml, "hf_hub_tokn: hf_secretsecret\n", vec![]),
        (Format::Yaml, "", vec!["hub_token=secret"]),
        (Format::Yaml, "", vec!["hf_secretsecret"]),
        (Format::Toml, "[model]\nhf_hub_token = [\"secret\"]\n", vec![]),
        (Format::Toml, "[train]\nhf_hub_token = \"secret\"\n", vec![]),
        (Format::Json, "{\"model_name_or_path\": 1, \"hf_hub_token\": \"secret\" \"secret\"}", vec![]),
    ] {
        let base = match format {
            Format::Yaml => YAML,
            Format::Toml | Format::Json => "",
        };
        let err = read(format, &format!("{base}{lines}"), &overrides).expect_err(lines);
        let hints = [false, true].map(|chinese| err.hint_text(chinese).unwrap_or_default().to_owned());
        assert!(!err.to_string().contains("secret") && hints.iter().all(|hint| !hint.contains("secret")), "{err}");
    }
}

#[test]
fn odd_values_survive_too() {
    for lines in [
        "default_system: 'a: \"b\" # c'\n",
        "default_system: \"one\\ntwo 下联\"\n",
        "sample_prompts: ['1', 'a, b', 'no']\nval_size: 0.1\n",
        "enable_thinking: null\n",
        "max_steps: -1\nsave_total_limit: -1\nadapter_name_or_path: null\n",
        "logging_steps: 0.02\neval_strategy: steps\neval_steps: 0.1\nval_size: 5\nsave_steps: 0.2\n",
        "warmup_steps: 3\nwarmup_ratio: 0.2\n",
        "warmup_steps: 0.05\nlearning_rate: 1e-05\nadam_epsilon: 1e-08\n",
        "resume_from_checkpoint: false\n",
        "adapter_name_or_path: a, b\ncreate_new_adapter: true\n",
        "lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs: {decay_type: 1-sqrt, min_lr_ratio: 0.1}\n",
        "pissa_init: true\n",
        "pissa_init: true\npissa_iter: -1\npissa_convert: true\n",
        "pissa_convert: true\n",
        "evaluation_strategy: steps\nval_size: 10\nuse_cpu: true\nmodel_revision: '1.0'\nreport_to: wandb\n",
    ] {
        goes_round(&format!("{YAML}{lines}"));
    }
}

#[test]
fn a_converted_file_explains_itself() {
    let toml = convert_text(&format!("{YAML}lora_rank: 16\nreport_to: wandb\n"), "c.yaml");
    assert!(toml.starts_with("[model]\nmodel_name_or_path = \"m\"  # the base model"), "{toml}");
    assert!(toml.contains("[lora]\nlora_rank = 16  # rank r: A is r × in, B is out × r / 秩"), "{toml}");
    assert!(toml.contains("over_length = \"truncate\"  # "), "what the YAML did without saying so: {toml}");
    assert!(!["report_to", "lora_alpha", "pissa"].iter().any(|name| toml.contains(name)), "{toml}");
    let yaml = convert_text(TOML, "c.toml");
    assert!(yaml.starts_with("stage: sft\ndo_train: true\nfinetuning_type: lora\n"), "{yaml}");
    assert!(yaml.contains("\nover_length: error  # ") && yaml.contains("\nwarmup_ratio: 0.1  # "), "{yaml}");
}

#[test]
fn what_does_not_train_has_no_toml_and_is_told_how_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    for (more, fact, command) in [
        ("", "this config asks a model, and only training has a TOML form", "chat"),
        ("export_dir: x\n", "this config exports a model, and only training has a TOML form", "export"),
        ("do_predict: true\n", "this config evaluates a model, and only training has a TOML form", "evaluate"),
    ] {
        fs::write(&path, format!("model_name_or_path: m\ntemplate: qwen3\n{more}")).unwrap();
        let err = convert(&path, &[]).expect_err(more);
        assert_eq!(err.to_string(), format!("{}: {fact}", path.display()));
        let hint = format!("it runs as it is: `couplet-train {command} {}`", path.display());
        assert_eq!(err.hint_text(false), Some(hint.as_str()));
    }
    fs::write(&path, "model: m\ntrain_dataset: d\nmicro_batch_size: 2\n").unwrap();
    let err = convert(&path, &[]).expect_err("the v1 dialect");
    let hint = "write LlamaFactory's usual keys; for `model`: model_name_or_path; `train_dataset`: dataset; \
                `micro_batch_size`: per_device_train_batch_size";
    assert_eq!(err.hint_text(false), Some(hint));
}

#[test]
fn shipped_configs_go_round() {
    for entry in fs::read_dir(root().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let yaml = match Format::of(&path).unwrap() {
            Format::Toml => convert_text(&text, "c.toml"),
            _ => text,
        };
        goes_round(&yaml);
    }
}

#[test]
fn a_key_is_explained_in_both_languages() {
    for (name, en, zh) in [
        (
            "lora_rank",
            "lora_rank: read by train\n  rank r: A is r × in, B is out × r\n  takes   a whole number of at least 1\n  \
             absent  8\n  TOML    [lora]\n",
            "lora_rank: 用于 train\n  秩 r：A 为 r × in，B 为 out × r\n  取值    不小于 1 的整数\n  默认值  8\n  TOML    [lora]\n",
        ),
        (
            "pure_bf16",
            "pure_bf16: not supported, but for false\n  use `bf16: true`: the base is bf16, the adapter stays f32\n",
            "pure_bf16: 不支持，只能为 false\n  请用 `bf16: true`：基座为 bf16，适配器保持 f32\n",
        ),
        (
            "flash_attn",
            "flash_attn: accepted without effect\n  it changes speed or memory, not the result\n",
            "flash_attn: 可写，但不起作用\n  只影响速度或显存，不影响结果\n",
        ),
    ] {
        assert_eq!((explain(name, false).unwrap().as_str(), explain(name, true).unwrap().as_str()), (en, zh));
    }
    let old = explain("evaluation_strategy", false).unwrap();
    assert!(old.starts_with("evaluation_strategy → eval_strategy\neval_strategy: read by train\n"), "{old}");
    for (name, fact, hint) in [
        ("lora_rnak", "there is no key `lora_rnak`", "did you mean `lora_rank`?"),
        ("zzz", "there is no key `zzz`", "`couplet-train config explain` lists all keys"),
        (
            "micro_batch_size",
            "`micro_batch_size` is a key of LlamaFactory's v1 dialect, which is not read",
            "here it is per_device_train_batch_size",
        ),
    ] {
        let err = explain(name, false).expect_err(name);
        assert_eq!((err.to_string().as_str(), err.hint_text(false)), (fact, Some(hint)));
    }
    for key in all() {
        assert!(explain(key.name, false).is_ok() && explain(key.name, true).is_ok(), "{}", key.name);
        assert!(overview(false).contains(key.name) && overview(true).contains(key.name), "{}", key.name);
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_committed_pages_are_what_the_table_says() {
    for (name, text, command) in [
        ("docs/config.md", reference(), "explain --markdown"),
        ("docs/config.schema.json", format!("{:#}\n", schema(Dialect::Toml)), "schema"),
        ("docs/llamafactory.schema.json", format!("{:#}\n", schema(Dialect::LlamaFactory)), "schema --llamafactory"),
    ] {
        let committed = fs::read_to_string(root().join(name)).unwrap_or_default().replace("\r\n", "\n");
        assert!(committed == text, "{name} is not current; write it anew: couplet-train config {command} > {name}");
    }
}

#[test]
fn the_schema_admits_what_the_parser_admits() {
    let of = |dialect| schema(dialect)["properties"].clone();
    let (flat, sections) = (of(Dialect::LlamaFactory), of(Dialect::Toml));
    for key in all() {
        assert!(flat[key.name].is_object(), "{}", key.name);
        let home = key.read_by(Command::Train).and_then(|read| read.home);
        for section in sections.as_object().unwrap().keys() {
            let stands = sections[section]["properties"][key.name].is_object();
            assert_eq!(stands, home.is_some_and(|home| home.name() == section), "{} in [{section}]", key.name);
        }
    }
    assert_eq!(sections["lora"]["properties"]["lora_rank"]["minimum"], 1);
    assert_eq!(sections["train"]["properties"]["lr_scheduler_type"]["default"], "cosine");
    assert_eq!(flat["lr_scheduler_type"]["default"], "linear");
    assert_eq!(flat["pure_bf16"]["enum"], json!([false, null]));
    assert_eq!(flat["flash_attn"]["deprecated"], true);
}
