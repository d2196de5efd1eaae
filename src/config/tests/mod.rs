//! The room as a whole: text in, recipe or error out.

use super::*;
use serde_json::json;

mod errors;
mod table;

const YAML: &str = "model_name_or_path: m\nstage: sft\ndo_train: true\ndataset: d\ntemplate: qwen3\noutput_dir: o\n";
const TOML: &str = "[model]\nmodel_name_or_path = \"m\"\n[data]\ndataset = [\"d\"]\n[output]\noutput_dir = \"o\"\n";

fn read(format: Format, text: &str, overrides: &[&str]) -> Result<Loaded> {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    let name = match format {
        Format::Toml => "c.toml",
        Format::Yaml => "c.yaml",
        Format::Json => "c.json",
    };
    from_str(text, format, Path::new(name), &overrides)
}

fn yaml(lines: &str) -> Recipe {
    read(Format::Yaml, &format!("{YAML}{lines}"), &[]).unwrap_or_else(|err| panic!("{lines}: {err}")).recipe
}

#[test]
fn defaults_follow_the_dialect() {
    let theirs = serde_json::to_value(yaml("")).unwrap();
    let want = json!({
        "dialect": "llamafactory",
        "model": {"model_name_or_path": "m", "adapter_name_or_path": null, "create_new_adapter": false, "cache_dir": null, "model_revision": "main",
            "device": "auto"},
        "data": {"dataset": ["d"], "eval_dataset": [], "test_dataset": [], "dataset_dir": "data", "template": "qwen3", "cutoff_len": 2048,
            "over_length": "truncate", "on_bad_row": "llamafactory", "max_samples": null, "mix_strategy": "concat", "interleave_probs": [], "eval_on_each_dataset": false, "val_size": 0.0, "mask_history": false, "train_on_prompt": false,
            "enable_thinking": true, "preserve_thinking": false, "default_system": null, "packing": false,
            "preprocessing_batch_size": 1000, "preprocessing_num_workers": 1},
        "lora": {"lora_rank": 8, "lora_alpha": 16.0, "lora_dropout": 0.0, "lora_target":
            ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "use_dora": false, "use_rslora": false,
            "pissa_init": false, "pissa_iter": 16, "pissa_convert": false},
        "train": {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "gradient_accumulation_steps": 1,
            "learning_rate": 5e-5, "loraplus_lr_ratio": null, "num_train_epochs": 3.0, "max_steps": null, "lr_scheduler_type": "linear", "lr_scheduler_kwargs": {},
            "warmup_ratio": 0.0, "warmup_steps": 0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999,
            "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "neftune_noise_alpha": null, "bf16": false, "seed": 42, "data_seed": null,
            "disable_shuffling": false, "train_sampling_strategy": "random", "shared_prefix": true, "gradient_checkpointing": "auto", "micro_batch_tokens": null, "eval_strategy": "no", "eval_steps": 500,
            "compute_accuracy": false, "early_stopping_steps": null, "sample_prompts": [], "eval_couplets": 0, "max_seconds": null},
        "output": {"output_dir": "o", "overwrite_output_dir": false, "logging_steps": 500, "plot_loss": false,
            "include_num_input_tokens_seen": "no", "save_strategy": "steps", "save_steps": 500, "save_total_limit": null,
            "save_only_model": false, "resume_from_checkpoint": "auto", "load_best_model_at_end": false,
            "metric_for_best_model": "eval_loss", "greater_is_better": false},
    });
    assert_eq!(theirs, want);
    let ours = read(Format::Toml, TOML, &[]).unwrap();
    assert_eq!(ours.notices, []);
    let changed: Vec<_> = ours.recipe.diff(&theirs).into_iter().map(|d| format!("{} {}", d.key, d.new)).collect();
    let want = [
        "dialect \"toml\"",
        "enable_thinking false",
        "eval_steps 10",
        "logging_steps 10",
        "lr_scheduler_type \"cosine\"",
        "on_bad_row \"error\"",
        "over_length \"error\"",
        "plot_loss true",
        "save_steps 200",
        "save_total_limit 3",
        "warmup_ratio 0.1",
    ];
    assert_eq!(changed, want);
}

#[test]
fn a_yaml_with_the_keys_people_copy_loads_with_notices_only() {
    let text = "### model\nmodel_name_or_path: Qwen/Qwen3-4B-Instruct-2507\ntrust_remote_code: true\n\n\
        stage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\n\
        dataset: couplets\ntemplate: qwen3_nothink\ncutoff_len: 2048\nmax_samples: 1000\n\
        preprocessing_num_workers: 16\ndataloader_num_workers: 4\n\
        output_dir: saves/couplets\nlogging_steps: 10\nsave_steps: 500\nplot_loss: true\noverwrite_output_dir: true\n\
        save_only_model: false\nreport_to: none  # choices\n\
        per_device_train_batch_size: 1\ngradient_accumulation_steps: 8\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\n\
        lr_scheduler_type: cosine\nwarmup_ratio: 0.1\nbf16: true\nddp_timeout: 180000000\nresume_from_checkpoint: null\n\
        # eval_strategy: steps\n";
    let loaded = read(Format::Yaml, text, &[]).unwrap();
    let notices: Vec<_> = loaded.notices.iter().map(|notice| notice.en.as_str()).collect();
    let want = [
        "ignored: trust_remote_code, preprocessing_num_workers, dataloader_num_workers, ddp_timeout",
        "rows of more than 2048 tokens are cut, as LlamaFactory does; over_length=error refuses them",
    ];
    assert_eq!(notices, want);
    let recipe = loaded.recipe;
    assert_eq!((recipe.train.learning_rate, recipe.train.gradient_accumulation_steps), (1e-4, 8));
    assert_eq!((recipe.data.max_samples, recipe.data.template), (Some(1000), TemplateName::Qwen3Nothink));
    assert!(recipe.train.bf16 && recipe.output.plot_loss && recipe.output.overwrite_output_dir);
}

#[test]
fn the_last_of_equal_overrides_holds_and_a_note_says_so() {
    for (format, file) in [(Format::Toml, TOML), (Format::Yaml, YAML)] {
        let overrides = ["lora_rank=8", "seed=1", "lora_rank=16", "eval_strategy=no", "evaluation_strategy=no"];
        let loaded = read(format, file, &overrides).unwrap();
        assert_eq!(loaded.recipe.lora.lora_rank, 16);
        let want = "given more than once on the command line, the last one holds: lora_rank, eval_strategy";
        assert_eq!(loaded.notices[0].en, want);
        assert!(read(format, file, &["lora_rank=8", "seed=1"]).unwrap().notices.iter().all(|notice| notice.en != want));
    }
    let (config, notices) =
        inference(None, &["top_k=1".into(), "top_k=2".into()], crate::config::table::Command::Chat).unwrap();
    assert_eq!((config.generation.top_k, notices.len()), (Some(2), 1));
}

#[test]
fn the_yaml_of_a_parity_run_loads() {
    let recipe = yaml(
        "adapter_name_or_path: init_adapter\nlora_target: q_proj,v_proj\nlora_rank: 4\nlora_alpha: 32\nlora_dropout: 0.0\n\
         use_rslora: true\nuse_dora: false\n# loraplus off\ndataset_dir: data\nenable_thinking: false\ncutoff_len: 56\n\
         train_on_prompt: true\ndisable_shuffling: true\noverwrite_cache: true\nlogging_steps: 1\nsave_strategy: \"no\"\n\
         save_steps: 500\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 4\nlearning_rate: 1e-05\n\
         num_train_epochs: 3.0\nmax_steps: -1\nlr_scheduler_type: constant_with_warmup\nwarmup_steps: 3\nweight_decay: 0.01\n\
         max_grad_norm: 0.3\nbf16: false\nflash_attn: sdpa\ndisable_gradient_checkpointing: true\n\
         include_num_input_tokens_seen: true\nuse_cpu: true\nreport_to: none\nseed: 101\n",
    );
    assert_eq!(recipe.model.device, DeviceChoice::Cpu);
    assert_eq!(recipe.model.continued(), Some(Path::new("init_adapter")));
    assert_eq!(recipe.lora.lora_target, [Projection::QProj, Projection::VProj]);
    assert_eq!((recipe.lora.lora_alpha, recipe.lora.scale()), (32.0, 16.0));
    assert_eq!((recipe.train.learning_rate, recipe.train.max_steps, recipe.train.seed), (1e-5, None, 101));
    assert_eq!((recipe.train.warmup_steps, recipe.train.lr_scheduler_type), (3, SchedulerType::ConstantWithWarmup));
    assert_eq!(recipe.data.enable_thinking, Some(false));
}

#[test]
fn values_are_read_as_llamafactory_reads_them() {
    type Pick = fn(&Recipe) -> String;
    let rate: Pick = |r| format!("{:?}", r.train.learning_rate);
    let evaluation: Pick = |r| format!("{:?} {}", r.train.eval_strategy, r.train.eval_steps);
    let thinking: Pick = |r| format!("{:?}", r.data.enable_thinking);
    let warmup: Pick = |r| format!("{} {}", r.train.warmup_ratio, r.train.warmup_steps);
    let targets: Pick = |r| r.lora.lora_target.iter().map(|t| t.name()).collect::<Vec<_>>().join(" ");
    let sets: Pick = |r| r.data.dataset.join("|");
    let device: Pick = |r| format!("{:?}", r.model.device);
    let saving: Pick =
        |r| format!("{:?} {} {:?}", r.output.save_strategy, r.output.save_steps, r.output.save_total_limit);
    let resume: Pick = |r| format!("{:?}", r.output.resume_from_checkpoint);
    let schedule: Pick =
        |r| format!("{:?}{}", r.train.lr_scheduler_type, scheduler::in_words(&r.train.lr_scheduler_kwargs));
    let sampling: Pick = |r| format!("{:?}", r.train.train_sampling_strategy);
    let counted: Pick = |r| format!("{:?}", r.output.include_num_input_tokens_seen);
    let mix: Pick = |r| format!("{:?} {:?}", r.data.mix_strategy, r.data.interleave_probs);
    let metric: Pick = |r| format!("{} {}", r.output.metric_for_best_model, r.output.greater_is_better);
    let pissa: Pick = |r| {
        let Pissa { pissa_init, pissa_iter, pissa_convert } = r.lora.pissa;
        format!("{pissa_init} {pissa_iter} {pissa_convert}")
    };
    for (lines, pick, want, why) in [
        ("learning_rate: 5e-5", rate, "5e-5", "no point: a string to plain YAML 1.1"),
        ("learning_rate: '2e-4'", rate, "0.0002", "in quotes"),
        ("learning_rate: null", rate, "5e-5", "null is the default"),
        ("learning_rate:", rate, "5e-5", "and so is nothing"),
        ("eval_strategy: no", evaluation, "No 500", "a bare no is false to YAML"),
        ("eval_strategy: \"no\"", evaluation, "No 500", "in quotes"),
        ("eval_strategy: steps\nval_size: 0.1\nlogging_steps: 7", evaluation, "Steps 7", "eval_steps is logging_steps"),
        ("evaluation_strategy: epoch\nval_size: 5\neval_steps: 3", evaluation, "Epoch 3", "the older spelling"),
        ("enable_thinking: null", thinking, "None", "null is a value here"),
        ("enable_thinking: none", thinking, "None", "the word too"),
        ("enable_thinking: no", thinking, "Some(false)", "YAML 1.1"),
        ("warmup_steps: 5", warmup, "0 5", "a number"),
        ("warmup_steps: 5\nwarmup_ratio: 0.2", warmup, "0.2 0", "a given share holds, as in transformers 5"),
        ("warmup_steps: 5\nwarmup_ratio: 0", warmup, "0 0", "also one of nothing"),
        ("warmup_steps: 5\nwarmup_ratio: null", warmup, "0 5", "which null is not"),
        ("warmup_steps: 0.05", warmup, "0.05 0", "below 1 it is a share"),
        ("lora_target: [v_proj, q_proj, v_proj]", targets, "q_proj v_proj", "block order, once each"),
        ("lora_target:\n  - down_proj\n  - o_proj", targets, "o_proj down_proj", "a list over lines"),
        ("lora_target: \"v_proj , k_proj\"", targets, "k_proj v_proj", "commas with blanks"),
        ("max_samples: &n 3\ncutoff_len: *n", |r| r.data.cutoff_len.to_string(), "3", "an alias"),
        ("device: cuda:1", device, "Cuda(1)", "our key in their dialect"),
        ("use_cpu: true", device, "Cpu", "their key for it"),
        ("max_steps: 7", |r| format!("{:?}", r.train.max_steps), "Some(7)", "a limit"),
        ("save_strategy: no", saving, "No 500 None", "a bare no is false to YAML"),
        ("save_strategy: epoch\nsave_total_limit: 1", saving, "Epoch 500 Some(1)", "1 stays 1 in the recipe"),
        ("save_steps: '8'\nsave_total_limit: -1", saving, "Steps 8 None", "no limit in numbers"),
        ("save_steps: 500.0", saving, "Steps 500 None", "transformers takes it for a number with a fraction"),
        ("save_steps: 0.25", saving, "Steps 0.25 None", "a share of all steps"),
        ("eval_strategy: steps\nval_size: 5\nlogging_steps: 0.1", evaluation, "Steps 0.1", "eval_steps too"),
        ("resume_from_checkpoint: null", resume, "Auto", "not said"),
        ("resume_from_checkpoint: true", resume, "Always", "the newest"),
        ("resume_from_checkpoint: no", resume, "Never", "YAML 1.1"),
        ("resume_from_checkpoint: o/checkpoint-5", resume, "From(\"o/checkpoint-5\")", "this one"),
        ("metric_for_best_model: accuracy\ncompute_accuracy: true", metric, "eval_accuracy true", "more is better"),
        (
            "metric_for_best_model: a_loss\neval_on_each_dataset: true\neval_dataset: a,b",
            metric,
            "eval_a_loss false",
            "one data set",
        ),
        ("lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: 2}", schedule, "Polynomial (power 2)", "a table"),
        (
            "lr_scheduler_type: cosine\nlr_scheduler_kwargs:\n  num_cycles: '1.5'",
            schedule,
            "Cosine (num_cycles 1.5)",
            "over lines, a number in quotes",
        ),
        (
            "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: '{\"power\": 2, \"lr_end\": 1e-6}'",
            schedule,
            "Polynomial (lr_end 0.000001, power 2)",
            "JSON in a string",
        ),
        ("optim: paged_adamw_32bit", schedule, "Linear", "AdamW by another name"),
        ("group_by_length: true", sampling, "GroupByLength", "the older spelling"),
        ("train_sampling_strategy: sequential", sampling, "Sequential", "the present one"),
        ("include_num_input_tokens_seen: true", counted, "All", "as transformers 5 reads it"),
        ("include_num_input_tokens_seen: non_padding", counted, "NonPadding", "a word"),
        ("include_num_input_tokens_seen: no", counted, "No", "YAML 1.1"),
        ("mix_strategy: interleave_under\ninterleave_probs: [1.0]", mix, "InterleaveUnder [1.0]", "a list"),
        ("lr_scheduler_kwargs: {}", schedule, "Linear", "nothing said"),
        ("metric_for_best_model: loss", metric, "eval_loss false", "Hugging Face adds the eval_"),
        ("pissa_init: true", pissa, "true 16 false", "converted only where it is asked for"),
        ("pissa_init: true\npissa_iter: -1\npissa_convert: true", pissa, "true -1 true", "as it is asked for"),
        ("pissa_iter: 3", pissa, "false 16 false", "alone it decides nothing"),
        ("pissa_convert: true", pissa, "false 16 true", "of an adapter that is continued"),
    ] {
        assert_eq!(pick(&yaml(lines)), want, "{lines}: {why}");
    }
    for (lines, want) in [("", "false 16 false"), ("[lora]\npissa_init = true\n", "true 16 true")] {
        assert_eq!(pissa(&read(Format::Toml, &format!("{TOML}{lines}"), &[]).unwrap().recipe), want, "TOML converts");
    }
    let two = read(Format::Yaml, &YAML.replace("dataset: d", "dataset: a, b"), &[]).unwrap().recipe;
    assert_eq!(sets(&two), "a|b", "comma-separated");
}

#[test]
fn harmless_values_of_unsupported_keys_pass() {
    yaml(
        "use_dora: false\npissa_init: no\npacking: false\nneat_packing: false\nstreaming: false\nfp16: false\npure_bf16: false\n\
         loraplus_lr_ratio: null\nquantization_bit: null\nresume_from_checkpoint: false\nmix_strategy: concat\n\
         label_smoothing_factor: 0.0\nload_best_model_at_end: false\ndo_eval: false\ndo_predict: false\nexport_dir: null\n\
         ignore_pad_token_for_loss: true\nignore_data_skip: false\nsave_safetensors: true\nlogging_strategy: steps\noptim: adamw_torch_fused\n",
    );
}

#[test]
fn overrides_win_in_both_dialects() {
    let overrides =
        ["lora_rank=4", "learning_rate=1e-3", "lora_target=[q_proj,k_proj]", "max_samples=", "seed=1", "seed=2"];
    for (format, text) in
        [(Format::Yaml, format!("{YAML}lora_rank: 16\nmax_samples: 9\n")), (Format::Toml, TOML.into())]
    {
        let recipe = read(format, &text, &overrides).unwrap().recipe;
        assert_eq!((recipe.lora.lora_rank, recipe.lora.lora_alpha), (4, 8.0), "alpha follows the rank");
        assert_eq!(recipe.train.learning_rate, 1e-3);
        assert_eq!(recipe.lora.lora_target, [Projection::QProj, Projection::KProj]);
        assert_eq!((recipe.data.max_samples, recipe.train.seed), (None, 2), "nothing is null; the last one wins");
    }
    let text = ["model_revision=1.0", "default_system=a: {b", "over_length=drop", "eval_strategy=no", "dataset=x,y"];
    let recipe = read(Format::Yaml, YAML, &text).unwrap().recipe;
    assert_eq!(recipe.model.model_revision, "1.0", "a name, not a number");
    let named = |word: &str| read(Format::Yaml, YAML, &[&format!("dataset={word}")]).unwrap().recipe.data.dataset;
    for word in ["2024", "007", "1e3", "true"] {
        assert_eq!(named(word), [word], "a data set's name is a name");
    }
    assert_eq!(recipe.data.default_system.as_deref(), Some("a: {b"), "what is no YAML is text");
    assert_eq!((recipe.data.over_length, recipe.data.dataset.len()), (OverLength::Drop, 2));
    let none = read(Format::Toml, TOML, &["enable_thinking=null"]).unwrap().recipe;
    assert_eq!(none.data.enable_thinking, None, "null can be said to TOML too");
}

#[test]
fn json_is_llamafactorys_too() {
    let text = r#"{"model_name_or_path": "m", "stage": "sft", "dataset": "a,b", "template": "qwen3",
        "output_dir": "\u8f93", "learning_rate": "1e-4", "lora_rank": 4, "plot_loss": true, "max_steps": null}"#;
    let recipe = read(Format::Json, text, &[]).unwrap().recipe;
    assert_eq!((recipe.train.learning_rate, recipe.lora.lora_rank), (1e-4, 4));
    assert_eq!((recipe.data.dataset.len(), recipe.output.output_dir.to_str()), (2, Some("输")));
}

#[test]
fn byte_order_mark_and_crlf_are_no_matter() {
    for (format, text) in [(Format::Yaml, YAML), (Format::Toml, TOML)] {
        let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        assert_eq!(read(format, &windows, &[]).unwrap(), read(format, text, &[]).unwrap());
    }
}

#[test]
fn notices_warn_of_surprising_pairs() {
    let of = |lines: &str, overrides: &[&str]| -> Vec<String> {
        let text = YAML.replace("path: m", "path: Qwen/Qwen3-14B");
        let loaded = read(Format::Yaml, &format!("{text}{lines}"), overrides).unwrap();
        loaded.notices.iter().map(|notice| notice.en.split([' ', ':']).next().unwrap().to_owned()).collect()
    };
    assert_eq!(of("", &[]), ["rows", "enable_thinking"]);
    assert_eq!(of("enable_thinking: true\n", &["over_length=truncate"]), [""; 0], "what is said is no surprise");
    assert_eq!(of("", &["template=qwen3_nothink", "over_length=error"]), ["Qwen/Qwen3-14B"], "a hybrid model");
    assert_eq!(of("enable_thinking: no\nreport_to: wandb\n", &["over_length=drop"]), ["ignored"]);
    let silent = ["enable_thinking=true", "over_length=drop"];
    let with = |text: &'static str| [silent[0], silent[1], text];
    assert_eq!(of("save_total_limit: 1\n", &silent), ["save_total_limit"], "two are kept");
    assert_eq!(of("save_total_limit: 1\n", &with("save_strategy=no")), [""; 0], "none are kept");
    assert_eq!(of("warmup_ratio: 0.1\nwarmup_steps: 5\n", &silent), ["warmup_ratio"], "versions differ");
    let early = "early_stopping_steps: 3\neval_strategy: epoch\nsave_strategy: epoch\nval_size: 5\n";
    assert_eq!(of(early, &silent), ["early_stopping_steps"], "the last is written");
    assert_eq!(of(early, &with("load_best_model_at_end=true")), [""; 0], "the best is written");
}

#[test]
fn a_file_is_chosen_by_its_extension() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("a.yml"), YAML).unwrap();
    std::fs::write(path("a.TOML"), TOML).unwrap();
    std::fs::write(path("latin.toml"), b"# caf\xe9").unwrap();
    assert_eq!(load(&path("a.yml"), &[]).unwrap().recipe.dialect, Dialect::LlamaFactory);
    assert_eq!(load(&path("a.TOML"), &[]).unwrap().recipe.dialect, Dialect::Toml);
    for (name, want) in [
        ("a.ini", "not a config: the name must end in .toml, .yaml, .yml or .json"),
        ("gone.toml", "cannot read the config"),
        ("latin.toml", "not UTF-8 at byte 5 (line 1)"),
    ] {
        assert!(load(&path(name), &[]).unwrap_err().to_string().contains(want), "{name}");
    }
}

#[test]
fn a_difference_names_key_old_and_new() {
    let old = serde_json::to_value(yaml("lora_rank: 4\n")).unwrap();
    assert_eq!(yaml("lora_rank: 4\n").diff(&old), []);
    let new = yaml("lora_rank: 4\nlearning_rate: 1e-3\nlora_target: q_proj\ndevice: cuda:1\n");
    let got: Vec<_> = new.diff(&old).into_iter().map(|d| format!("{}: {} → {}", d.key, d.old, d.new)).collect();
    assert_eq!(got[0], "device: \"auto\" → {\"cuda\":1}");
    assert_eq!(got[1], "learning_rate: 0.00005 → 0.001");
    assert!(got[2].starts_with("lora_target: [\"q_proj\",\"k_proj\"") && got.len() == 3, "{got:?}");
    assert_eq!(new.diff(&json!({}))[0].old, json!(null), "a key the other side lacks");
}

#[test]
fn a_receipt_of_an_earlier_version_is_no_other_config() {
    let mut old = serde_json::to_value(yaml("")).unwrap();
    old["output"].as_object_mut().unwrap().retain(|key, _| !key.starts_with("save_"));
    assert_eq!(yaml("").diff(&old), [], "that version knew no save_steps");
    let diff = yaml("save_steps: 7\n").diff(&old);
    assert_eq!(
        (diff.len(), diff[0].key.as_str(), &diff[0].new),
        (1, "save_steps", &json!(7)),
        "another than its default"
    );
    old["output"]["page"] = json!(true);
    let diff = yaml("").diff(&old);
    assert_eq!((diff.len(), diff[0].key.as_str(), &diff[0].new), (1, "page", &json!(null)), "a later version's key");
}

#[test]
fn a_key_that_an_earlier_version_did_not_know_differs_by_its_value() {
    let toml = |lines: &str| read(Format::Toml, &format!("{TOML}{lines}"), &[]).unwrap().recipe;
    for (plain, set) in [
        (yaml(""), yaml("use_dora: true\nneftune_noise_alpha: 5\n")),
        (toml(""), toml("[lora]\nuse_dora = true\n[train]\nneftune_noise_alpha = 5.0\n")),
    ] {
        let mut old = serde_json::to_value(&plain).unwrap();
        old["lora"].as_object_mut().unwrap().remove("use_dora");
        old["train"].as_object_mut().unwrap().remove("neftune_noise_alpha");
        assert_eq!(plain.diff(&old), [], "what holds without the keys is what was done");
        let got: Vec<_> = set.diff(&old).into_iter().map(|d| format!("{}: {} → {}", d.key, d.old, d.new)).collect();
        assert_eq!(got, ["neftune_noise_alpha: null → 5.0", "use_dora: null → true"]);
        assert_eq!(set.changes_that_matter(&old).len(), 2, "and such a run does not go on");
    }
}

#[test]
fn only_what_shapes_the_result_holds_a_resume_up() {
    let old = serde_json::to_value(yaml("")).unwrap();
    let keys = |lines: &str| yaml(lines).changes_that_matter(&old).into_iter().map(|d| d.key).collect::<Vec<_>>();
    let harmless = "num_train_epochs: 9\nmax_steps: 7\nlogging_steps: 1\nplot_loss: true\nval_size: 5\neval_strategy: steps\n\
        eval_steps: 5\nsave_strategy: steps\nsave_steps: 5\nsave_total_limit: 2\n\
        save_only_model: true\nload_best_model_at_end: true\ngreater_is_better: true\nearly_stopping_steps: 3\n\
        max_seconds: 60\nresume_from_checkpoint: x\noverwrite_output_dir: true\ncache_dir: x\ndevice: cpu\n\
        micro_batch_tokens: 64\nshared_prefix: off\ninclude_num_input_tokens_seen: true\ndataset_dir: moved\n";
    assert_eq!(keys(harmless), ["val_size"], "the rows held out are not trained");
    for key in ["lora_rank: 4", "seed: 1", "bf16: true", "per_device_train_batch_size: 2", "lora_target: q_proj"] {
        let name = key.split(':').next().unwrap();
        assert!(keys(key).contains(&name.to_owned()), "{key}");
    }
    assert_eq!(keys("per_device_eval_batch_size: 2"), ["per_device_eval_batch_size"], "eval_loss is a mean of batches");
    let all = serde_json::to_value(yaml("")).unwrap();
    let exists =
        |key: &&&str| all.get(**key).is_some() || all.as_object().unwrap().values().any(|s| s.get(**key).is_some());
    assert_eq!(MAY_CHANGE.iter().filter(exists).count(), MAY_CHANGE.len(), "every name in the list is a key");
}

#[test]
fn adapters_are_merged_or_trained_on_as_in_llamafactory() {
    for (lines, merged, continued) in [
        ("", &[][..], None),
        ("create_new_adapter: true\n", &[], None),
        ("adapter_name_or_path: a\n", &[], Some("a")),
        ("adapter_name_or_path: a, b,c\n", &["a", "b"], Some("c")),
        ("adapter_name_or_path: a\ncreate_new_adapter: true\n", &["a"], None),
        ("adapter_name_or_path: [a, b]\ncreate_new_adapter: true\n", &["a", "b"], None),
    ] {
        let model = yaml(lines).model;
        assert_eq!(model.merged(), merged.iter().map(Path::new).collect::<Vec<_>>(), "{lines}");
        assert_eq!(model.continued(), continued.map(Path::new), "{lines}");
    }
}
