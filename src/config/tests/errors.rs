//! Every error a config can meet, word for word: place, fact, way out.

use super::*;

/// First line of the error and its English hint.
fn refused(format: Format, text: &str, overrides: &[&str]) -> (String, String) {
    let err = read(format, text, overrides).expect_err(text);
    assert!(err.hint_text(true).is_some_and(|zh| !zh.is_ascii()), "a Chinese hint for: {err}");
    let first = err.to_string().lines().next().unwrap_or_default().to_owned();
    (first, err.hint_text(false).unwrap_or_default().to_owned())
}

#[test]
fn a_whole_error_shows_the_line() {
    let err = read(Format::Toml, "[lora]\nlora_rank = 0 # 秩\n", &[]).unwrap_err();
    let want = "c.toml:2:13: `lora_rank` must be a whole number of at least 1, found 0\n\
                2 | lora_rank = 0 # 秩\n  |             ^";
    assert_eq!(err.to_string(), want);
    assert_eq!(err.hint_text(false), Some("without the key it is 8"));
    assert_eq!(err.hint_text(true), Some("`lora_rank` 应为不小于 1 的整数；不写时为 8"));
}

#[test]
fn toml_errors_name_place_and_way_out() {
    for (text, want, hint) in [
        ("lora_rank = 8", "c.toml:1:1: `lora_rank` stands outside a section", "it belongs in [lora]"),
        ("save_steps = 8", "c.toml:1:1: `save_steps` stands outside a section", "it belongs in [output]"),
        ("[train]\nlora_rank = 8", "c.toml:2:1: `lora_rank` belongs in [lora], not in [train]", "move it to [lora]"),
        (
            "[train]\nsave_steps = 8",
            "c.toml:2:1: `save_steps` belongs in [output], not in [train]",
            "move it to [output]",
        ),
        ("[lroa]\nlora_rank = 8", "c.toml:1:2: there is no section [lroa]", "did you mean [lora]?"),
        (
            "[generate]\n",
            "c.toml:1:2: there is no section [generate]",
            "the sections are [model], [data], [lora], [train], [output]",
        ),
        (
            "lora = 3",
            "c.toml:1:1: [lora] must be a section, not a value",
            "write `[lora]` on a line of its own and its keys below",
        ),
        ("[lora]\n lora_rnak = 8", "c.toml:2:2: unknown key `lora_rnak`", "did you mean `lora_rank`?"),
        (
            "[lora]\nzzz = 8",
            "c.toml:2:1: unknown key `zzz`",
            "keys have LlamaFactory's names; remove what is not one of them",
        ),
        (
            "[lora]\nlora_rank = \"8\"",
            "c.toml:2:13: `lora_rank` must be a whole number of at least 1, found \"8\"",
            "without the key it is 8",
        ),
        (
            "[lora]\nlora_rank = 8.0",
            "c.toml:2:13: `lora_rank` must be a whole number of at least 1, found 8.0",
            "without the key it is 8",
        ),
        (
            "[lora]\nlora_alpha = -1",
            "c.toml:2:14: `lora_alpha` must be a number above 0, found -1",
            "correct the value, or remove the key",
        ),
        (
            "[lora]\nlora_dropout = 1.0",
            "c.toml:2:16: `lora_dropout` must be a number from 0 to below 1, found 1.0",
            "without the key it is 0",
        ),
        (
            "[lora]\nlora_target = [1]",
            "c.toml:2:15: `lora_target` must be a list of strings, or one string with commas, found a list",
            "without the key it is all",
        ),
        (
            "[train]\nlearning_rate = nan",
            "c.toml:2:17: `learning_rate` must be a number above 0, found NaN",
            "without the key it is 5e-5",
        ),
        (
            "[train]\nlearning_rate = inf",
            "c.toml:2:17: `learning_rate` must be a number above 0, found inf",
            "without the key it is 5e-5",
        ),
        (
            "[train]\nbf16 = \"true\"",
            "c.toml:2:8: `bf16` must be true or false, found \"true\"",
            "without the key it is false",
        ),
        (
            "[train]\neval_strategy = false",
            "c.toml:2:17: `eval_strategy` must be `no`, `steps` or `epoch`, found false",
            "without the key it is no",
        ),
        (
            "[train]\nseed = 2024-01-01",
            "c.toml:2:8: `seed` must be a whole number of at least 0, found a date",
            "without the key it is 42",
        ),
        (
            "[data]\ndataset = \"a,,b\"",
            "c.toml:2:11: `dataset` must be a list of strings, or one string with commas, found \"a,,b\"",
            "correct the value",
        ),
        (
            "[train]\nseed = 1\nseed = 2",
            "c.toml:3:1: duplicate key",
            "this file is read as TOML: `key = value`, strings in quotes, keys below their [section]",
        ),
        (
            "[output]\nreport_to = \"none\"",
            "c.toml:2:1: `report_to` has no effect here",
            "remove it: the run is written to `output_dir` and nowhere else",
        ),
        (
            "[model]\nuse_cpu = true",
            "c.toml:2:1: `use_cpu` is only said in LlamaFactory's YAML or JSON",
            "say `device = \"cpu\"` in [model]",
        ),
        (
            "[train]\nstage = \"sft\"",
            "c.toml:2:1: `stage` is only said in LlamaFactory's YAML or JSON",
            "remove it: a TOML recipe always trains LoRA on instructions with AdamW",
        ),
        (
            "[data]\nstreaming = true",
            "c.toml:2:1: `streaming: true` is not supported yet",
            "remove the key, or set it to false: all rows are read before training",
        ),
        (
            "",
            "c.toml: `model_name_or_path` is missing",
            "say for example `model_name_or_path = \"Qwen/Qwen3-0.6B\"` in [model]",
        ),
    ] {
        assert_eq!(refused(Format::Toml, text, &[]), (want.into(), hint.into()), "{text}");
    }
}

/// F27: a recipe with one value changed is taken, or refused at its line.
#[test]
fn a_mutated_recipe_is_taken_or_refused_at_its_line() {
    // Of no number: not finite, negative, of another type, in quotes, in other digits, beyond 64 bits, nothing.
    const NO_NUMBER: [&str; 14] = [
        "nan",
        "inf",
        "-inf",
        "-1",
        "true",
        "[]",
        "{}",
        "\"1e-4\"",
        "\"１６\"",
        "１６",
        "1e400",
        "99999999999999999999",
        "2024-01-01",
        "",
    ];
    let whole = [
        "lora.lora_rank",
        "train.per_device_train_batch_size",
        "train.gradient_accumulation_steps",
        "data.cutoff_len",
        "data.max_samples",
    ];
    let positive = ["train.learning_rate", "train.num_train_epochs", "train.adam_epsilon", "lora.lora_alpha"];
    let text = ["model.model_name_or_path", "data.dataset_dir", "output.output_dir"];
    let number = |also: &[&'static str]| [&NO_NUMBER, also].concat();
    let mut verdicts = 0;
    for (keys, good, bad) in [
        (&whole[..], &["2", "0x10", "1_000", "4294967295"][..], number(&["0", "16.0", "1e3", "4294967296"])),
        (&positive, &["1e-4", "3", "0.5"], number(&["0", "0.0", "-0.0"])),
        (&["lora.lora_dropout", "train.adam_beta1"], &["0", "0.5"], number(&["1", "1.0"])),
        (
            &text,
            &["\"../a/../b\"", "\"/a/../b\"", "\"a b\"", "\"１６\""],
            vec!["\"\"", "\" \"", "3", "true", "[]", "nan", "１６", "\"a", "2024-01-01"],
        ),
    ] {
        for path in keys {
            let (section, key) = path.split_once('.').unwrap();
            let missing: String =
                TOML.lines().filter(|line| !line.starts_with(key)).map(|l| format!("{l}\n")).collect();
            let with = |key: &str, value: &str| {
                let sections = format!("{missing}[lora]\n[train]\n");
                sections.replace(&format!("[{section}]\n"), &format!("[{section}]\n{key} = {value}\n"))
            };
            for value in good {
                read(Format::Toml, &with(key, value), &[]).unwrap_or_else(|err| panic!("{key} = {value}: {err}"));
            }
            for value in &bad {
                let text = with(key, value);
                let line = 1 + text.lines().position(|line| line.starts_with(key)).unwrap();
                let (fact, hint) = refused(Format::Toml, &text, &[]);
                assert!(fact.starts_with(&format!("c.toml:{line}:")) && !hint.is_empty(), "{key} = {value}: {fact}");
            }
            let slip = format!("{}{}", &key[..2], &key[3..]);
            let (fact, hint) = refused(Format::Toml, &with(&slip, good[0]), &[]);
            assert!(fact.ends_with(&format!("unknown key `{slip}`")), "{fact}");
            assert_eq!(hint, format!("did you mean `{key}`?"), "{slip}");
            verdicts += good.len() + bad.len() + 1;
        }
    }
    assert_eq!(verdicts, 279);
}

#[test]
fn yaml_errors_name_place_and_way_out() {
    for (line, want, hint) in [
        (
            "lora_rank: 0",
            "c.yaml:7:12: `lora_rank` must be a whole number of at least 1, found 0",
            "without the key it is 8",
        ),
        (
            "seed: 4294967296",
            "c.yaml:7:7: `seed` must be at most 4294967295, found 4294967296",
            "without the key it is 42",
        ),
        (
            "num_train_epochs: 0",
            "c.yaml:7:19: `num_train_epochs` must be a number above 0, found 0",
            "without the key it is 3.0",
        ),
        (
            "learning_rate: .nan",
            "c.yaml:7:16: `learning_rate` must be a number above 0, found NaN",
            "without the key it is 5e-5",
        ),
        ("bf16: 'true'", "c.yaml:7:7: `bf16` must be true or false, found \"true\"", "without the key it is false"),
        (
            "logging_steps: 1.5",
            "c.yaml:7:16: `logging_steps` must be a whole number of at least 1, or a share of all steps below 1, found 1.5",
            "without the key it is 500",
        ),
        (
            "max_steps: 0",
            "c.yaml:7:12: `max_steps` must be a whole number of at least 1, or -1 for no limit, found 0",
            "correct the value, or remove the key",
        ),
        (
            "seed: {a: 1}",
            "c.yaml:7:7: `seed` must be a whole number of at least 0, found a table",
            "without the key it is 42",
        ),
        ("dataset: e", "c.yaml:7:1: `dataset` is given twice", "keep one of the two"),
        (
            "eval_strategy: steps\nevaluation_strategy: epoch",
            "c.yaml:8:1: `evaluation_strategy` is given twice",
            "keep one of the two",
        ),
        ("\"lora_rnak\": 8", "c.yaml:7:1: unknown key `lora_rnak`", "did you mean `lora_rank`?"),
        (
            "lora_target: q_porj",
            "c.yaml:7:14: `lora_target` names `q_porj`, which a Qwen3 block does not have",
            "did you mean `q_proj`?",
        ),
        ("lora_target: []", "c.yaml:7:14: `lora_target` names no projection", "say `all`, or some of the seven"),
        (
            "device: gpu",
            "c.yaml:7:9: `device` must be `auto`, `cpu` or `cuda:N`, found \"gpu\"",
            "the first card is `cuda:0`",
        ),
        (
            "device: cuda:0\nuse_cpu: true",
            "c.yaml:8:10: `use_cpu` contradicts `device` (cuda:0)",
            "remove one of the two",
        ),
        (
            "dataset_dir: ONLINE",
            "c.yaml:7:14: `dataset_dir: ONLINE` is not supported: data sets are local files",
            "download the data and give the folder of its dataset_info.json",
        ),
        (
            "finetuning_type: full",
            "c.yaml:7:18: `finetuning_type` is `full`, which is not supported yet",
            "supported: `lora`",
        ),
        (
            "lr_scheduler_type: reduce_lr_on_plateau",
            "c.yaml:7:20: `lr_scheduler_type` is `reduce_lr_on_plateau`, which is not supported yet",
            "a rate that follows the evaluations is known for no step beforehand: use `cosine`, and `early_stopping_steps` \
             to stop in time",
        ),
        (
            "lr_scheduler_type: cosine\nlr_scheduler_kwargs: {num_cycle: 2}",
            "c.yaml:8:22: schedule `cosine` has no parameter `num_cycle`",
            "did you mean `num_cycles`?",
        ),
        (
            "lr_scheduler_kwargs: {num_cycles: 2}",
            "c.yaml:7:22: schedule `linear` has no parameter `num_cycles`",
            "it has none: remove `lr_scheduler_kwargs`",
        ),
        (
            "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {min_lr: 2}",
            "c.yaml:8:22: schedule `polynomial` has no parameter `min_lr`",
            "it has lr_end, power",
        ),
        (
            "lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs: {decay_type: sqrt}",
            "c.yaml:8:22: `decay_type` in `lr_scheduler_kwargs` must be `linear`, `cosine` or `1-sqrt`, found \"sqrt\"",
            "correct the value, or remove it",
        ),
        (
            "lr_scheduler_type: cosine_with_min_lr",
            "c.yaml:7:20: schedule `cosine_with_min_lr` needs its minimum",
            "say for example `lr_scheduler_kwargs: {min_lr_rate: 0.1}`, a tenth of `learning_rate`",
        ),
        (
            "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 0, min_lr_rate: 0.1}",
            "c.yaml:8:22: `min_lr` and `min_lr_rate` both say the minimum",
            "keep one of the two",
        ),
        (
            "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {lr_end: 1e-3}",
            "c.yaml:7:20: schedule `polynomial` ends at 1e-3, not below `learning_rate`",
            "set `lr_end` in `lr_scheduler_kwargs` below `learning_rate`",
        ),
        (
            "lr_scheduler_kwargs: 5",
            "c.yaml:7:22: `lr_scheduler_kwargs` must be a table of names and values, for example {num_cycles: 2}, found 5",
            "correct the value, or remove the key",
        ),
        (
            "optim: adafactor",
            "c.yaml:7:8: `optim` is `adafactor`, which is not supported yet",
            "supported: `adamw_torch`, `adamw_torch_fused`, `adamw_torch_xla`, `adamw_torch_npu_fused`, `adamw_apex_fused`, \
             `adamw_anyprecision`, `paged_adamw` or `paged_adamw_32bit`",
        ),
        (
            "optim: adam",
            "c.yaml:7:8: `optim` must be `adamw_torch`, `adamw_torch_fused`, `adamw_torch_xla`, `adamw_torch_npu_fused`, \
             `adamw_apex_fused`, `adamw_anyprecision`, `paged_adamw` or `paged_adamw_32bit`, found \"adam\"",
            "without the key it is adamw_torch",
        ),
        (
            "pure_bf16: true",
            "c.yaml:7:1: `pure_bf16: true` is not supported yet",
            "remove the key, or set it to false: use `bf16: true`: the base is bf16, the adapter stays f32",
        ),
        (
            "loraplus_lr_ratio: 0",
            "c.yaml:7:20: `loraplus_lr_ratio` must be a number above 0, found 0",
            "correct the value, or remove the key",
        ),
        (
            "resume_from_checkpoint: 5",
            "c.yaml:7:25: `resume_from_checkpoint` must be true, false, or the folder of a checkpoint, found 5",
            "correct the value, or remove the key",
        ),
        (
            "save_steps: 0",
            "c.yaml:7:13: `save_steps` must be a whole number of at least 1, or a share of all steps below 1, found 0",
            "without the key it is 500",
        ),
        (
            "save_strategy: best",
            "c.yaml:7:16: `save_strategy` is `best`, which is not supported yet",
            "supported: `no`, `steps` or `epoch`",
        ),
        (
            "save_total_limit: 0",
            "c.yaml:7:19: `save_total_limit` must be a whole number of at least 1, or -1 for no limit, found 0",
            "correct the value",
        ),
        (
            "metric_for_best_model: eval_accuracy",
            "c.yaml:7:24: `metric_for_best_model` is \"eval_accuracy\", which no evaluation gives",
            "it may be one of eval_loss, eval_loss_per_token, eval_couplet_pass",
        ),
        (
            "metric_for_best_model: accurate\ncompute_accuracy: true\neval_on_each_dataset: true\neval_dataset: a",
            "c.yaml:7:24: `metric_for_best_model` is \"accurate\", which no evaluation gives",
            "it may be one of eval_loss, eval_loss_per_token, eval_couplet_pass, eval_a_loss, eval_accuracy, eval_a_accuracy",
        ),
        (
            "max_seconds: 0",
            "c.yaml:7:14: `max_seconds` must be a number above 0, found 0",
            "correct the value, or remove the key",
        ),
        (
            "ignore_data_skip: true",
            "c.yaml:7:1: `ignore_data_skip: true` is not supported yet",
            "remove the key, or set it to false: a resumed run goes on with the next row",
        ),
        (
            "early_stopping_steps: 3",
            "c.yaml: `early_stopping_steps` counts evaluations, but there are none",
            "set `eval_strategy` to \"steps\" or \"epoch\", or remove `early_stopping_steps`",
        ),
        (
            "load_best_model_at_end: true",
            "c.yaml: `load_best_model_at_end` chooses by evaluations, but there are none",
            "set `eval_strategy` to the value of `save_strategy`, or remove `load_best_model_at_end`",
        ),
        (
            "load_best_model_at_end: true\nval_size: 5\neval_strategy: epoch",
            "c.yaml: `load_best_model_at_end` needs `save_strategy` and `eval_strategy` to be the same",
            "set both to \"steps\" or both to \"epoch\", or remove `load_best_model_at_end`",
        ),
        (
            "load_best_model_at_end: true\nval_size: 5\neval_strategy: steps\neval_steps: 200",
            "c.yaml: `load_best_model_at_end` needs `save_steps` (500) to be a multiple of `eval_steps` (200)",
            "set `save_steps` to 600, or remove `load_best_model_at_end`",
        ),
        (
            "load_best_model_at_end: true\nval_size: 5\neval_strategy: steps\neval_steps: 0.1",
            "c.yaml: `load_best_model_at_end` needs `save_steps` (500) to be a multiple of `eval_steps` (0.1)",
            "set `save_steps` to 0.1, or remove `load_best_model_at_end`",
        ),
        (
            "interleave_probs: 0.5,0.5",
            "c.yaml: `interleave_probs` says how data sets are interleaved, but they are joined",
            "set `mix_strategy` to \"interleave_under\" or \"interleave_over\", or remove `interleave_probs`",
        ),
        (
            "mix_strategy: interleave_over\ninterleave_probs: 0.5,0.5",
            "c.yaml: `interleave_probs` has 2 shares for 1 data sets",
            "give one share for every data set",
        ),
        (
            "mix_strategy: interleave_once",
            "c.yaml:7:15: `mix_strategy` is `interleave_once`, which is not supported yet",
            "supported: `concat`, `interleave_under` or `interleave_over`",
        ),
        ("do_eval: true", "c.yaml:7:10: `do_eval` needs held-out rows", "give `eval_dataset` or `val_size`"),
        (
            "val_size: 0.1\neval_dataset: e",
            "c.yaml: `val_size` and `eval_dataset` both say which rows are held out",
            "keep one of the two",
        ),
        (
            "mask_history: true\ntrain_on_prompt: true",
            "c.yaml: `mask_history` trains only the last answer, `train_on_prompt` trains everything",
            "keep one of the two",
        ),
        (
            "eval_strategy: epoch",
            "c.yaml: `eval_strategy` asks for evaluation, but no rows are held out",
            "give `eval_dataset` or `val_size`, or set `eval_strategy` to \"no\"",
        ),
    ] {
        assert_eq!(refused(Format::Yaml, &format!("{YAML}{line}\n"), &[]), (want.into(), hint.into()), "{line}");
    }
}

#[test]
fn configs_of_other_commands_are_named() {
    let training = "a training config says `stage: sft` and `do_train: true`; \
                    without `do_train: true` a file that names its model runs `couplet-train evaluate`";
    for (text, want, hint) in [
        (
            "do_train: true\nexport_dir: x\n",
            "c.yaml:2:13: this config trains and exports a model",
            "one at a time: without `do_train` it exports, without `export_dir` it trains",
        ),
        (
            "do_train: true\ndo_predict: true\n",
            "c.yaml:2:13: this config trains and predicts",
            "one at a time: without `do_predict` it trains, without `do_train` it evaluates",
        ),
        ("stage: sft\ndo_predict: true\ntemplate: llama3\n", "c.yaml:2:13: this config predicts", training),
        ("stage: sft\ndo_train: false\n", "c.yaml:2:11: this config does not train", training),
        ("stage: sft\ndo_eval: true\n", "c.yaml:2:10: this config only evaluates", training),
        (
            "model_name_or_path: m\ntemplate: qwen3\ninfer_backend: huggingface\n",
            "c.yaml: this config neither names a `stage` nor says `do_train: true`",
            training,
        ),
        (
            "model: m\npeft_config:\n  name: lora\n  r: 8\n",
            "c.yaml:1:1: `model` is a key of LlamaFactory's v1 dialect, which is not read",
            "write LlamaFactory's usual keys; for `model`: model_name_or_path; `peft_config`: lora_rank, lora_alpha, \
             lora_dropout, lora_target",
        ),
        ("stage: dpo\n", "c.yaml:1:8: `stage` is `dpo`, which is not supported yet", "supported: `sft`"),
        (
            "stage: sft\ntemplate: llama3\n",
            "c.yaml:2:11: `template` must be `qwen3` or `qwen3_nothink`, found \"llama3\"",
            "only Qwen3 is trained: `qwen3` for hybrid models, `qwen3_nothink` for the -2507-Instruct ones",
        ),
        (
            "stage: sft\nmodel_name_or_path: m\ndataset: d\noutput_dir: o\n",
            "c.yaml: `template` is missing",
            "say for example `template: qwen3`",
        ),
        ("# nothing\n", "c.yaml: the file holds no keys", "begin with `model_name_or_path: Qwen/Qwen3-0.6B`"),
    ] {
        assert_eq!(refused(Format::Yaml, text, &[]), (want.into(), hint.into()), "{text}");
    }
}

#[test]
fn a_quantised_base_is_refused_with_what_it_needs_instead() {
    for (model, need) in [
        ("Qwen/Qwen3-14B", "the weights of Qwen3-14B need 29.5 GB in bf16"),
        ("models/Qwen3-4B-Instruct-2507/", "the weights of Qwen3-4B need 8.0 GB in bf16"),
        ("my/model", "the base in bf16 needs 2 bytes per parameter"),
    ] {
        let text = format!("quantization_bit: 4\n{}", YAML.replace("path: m", &format!("path: {model}")));
        let want = "c.yaml:1:1: a quantised base (`quantization_bit`) is not supported yet";
        let (fact, hint) = refused(Format::Yaml, &text, &[]);
        assert_eq!(fact, want, "{model}");
        // What fits follows, and differs between machines.
        assert!(hint.starts_with(&format!("remove the key and set bf16 to true: {need}; ")), "{model}: {hint}");
    }
}

#[test]
fn override_errors_name_the_override() {
    let shape = "write for example `learning_rate=1e-4`, without blanks around the `=`";
    for (text, want, hint) in [
        ("lora_rank", "override `lora_rank` is not `key=value`", shape),
        (
            "lora_rank=0",
            "override `lora_rank=0`: `lora_rank` must be a whole number of at least 1, found 0",
            "without the key it is 8",
        ),
        ("lora_rnak=8", "override `lora_rnak=8`: unknown key `lora_rnak`", "did you mean `lora_rank`?"),
        ("=5", "override `=5` has no key before its `=`", shape),
        ("lora_rank＝16", "override `lora_rank＝16` is not `key=value`", "full-width `＝`: type `=`"),
        ("lora_rank：16", "override `lora_rank：16` is not `key=value`", "full-width `：`: type `=`"),
        (" lora_rank：16", "override ` lora_rank：16` is not `key=value`", "full-width `：`: type `=`"),
        ("hf_hub_token：abc", "override `hf_hub_token：***` is not `key=value`", "full-width `：`: type `=`"),
        ("hf_hub_token ＝ abc", "override `hf_hub_token ＝ ***` is not `key=value`", "full-width `＝`: type `=`"),
        (
            "hf_hub_token：abc==",
            "override `hf_hub_token：*****`: unknown key `hf_hub_token：***`",
            "full-width `：`: type `:`",
        ),
        (
            "lora_rank=１６",
            "override `lora_rank=１６`: `lora_rank` must be a whole number of at least 1, found \"１６\"",
            "full-width `１６`: type `16`",
        ),
        (
            "lora_target=q_proj，v_proj",
            "override `lora_target=q_proj，v_proj`: `lora_target` names `q_proj，v_proj`, which a Qwen3 block does not have",
            "full-width `，`: type `,`",
        ),
        (
            "device=cuda：0",
            "override `device=cuda：0`: `device` must be `auto`, `cpu` or `cuda:N`, found \"cuda：0\"",
            "full-width `：`: type `:`",
        ),
        (
            "train.seed=8",
            "override `train.seed=8`: unknown key `train.seed`",
            "keys have LlamaFactory's names; remove what is not one of them",
        ),
        (
            "lora_target=x",
            "override `lora_target=x`: `lora_target` names `x`, which a Qwen3 block does not have",
            "say `all`, or some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
        ),
        (
            "pure_bf16=true",
            "override `pure_bf16=true`: `pure_bf16: true` is not supported yet",
            "remove the key, or set it to false: use `bf16: true`: the base is bf16, the adapter stays f32",
        ),
    ] {
        for (format, file) in [(Format::Toml, TOML), (Format::Yaml, YAML)] {
            assert_eq!(refused(format, file, &[text]), (want.into(), hint.into()), "{text}");
        }
    }
}

#[test]
fn full_width_characters_are_named_as_the_cause() {
    for (format, text, want, hint) in [
        (Format::Toml, "[lora]\nlora_rank = １６\n", "c.toml:2:13: ", "full-width `１６`: type `16`"),
        (Format::Toml, "[lora]\nlora_rank ＝ 16 # 秩：八\n", "c.toml:2:11: ", "full-width `＝`: type `=`"),
        (Format::Toml, "[lora]\nlora_rank：16\n", "c.toml:2:13: ", "full-width `：`: type `=`"),
        (
            Format::Toml,
            "[lora]\nlora_target = [\"q_proj\"，\"v_proj\"]\n",
            "c.toml:2:24: ",
            "full-width `，`: type `,`",
        ),
        (Format::Toml, "[lora]\n  lora_rank：16\n", "c.toml:2:15: ", "full-width `：`: type `=`"),
        (Format::Toml, "[lora]\n    lora_rank：16\n", "c.toml:2:17: ", "full-width `：`: type `=`"),
        (Format::Toml, "[lora]\n\tlora_rank ＝ 16\n", "c.toml:2:12: ", "full-width `＝`: type `=`"),
        (Format::Toml, "[lora]\n ＃ 秩\nlora_rank = 16\n", "c.toml:2:", "full-width `＃`: type `#`"),
        (Format::Toml, "[lora]\nlora_rank = 16，\n", "c.toml:2:", "full-width `，`: type `,`"),
        (Format::Toml, "[train]\nbf16 = true，\n", "c.toml:2:", "full-width `，`: type `,`"),
        (Format::Toml, "[lora]\nlora_rank = 1６\n", "c.toml:2:", "full-width `６`: type `6`"),
        (Format::Toml, "[data]\ndefault_system = \"你好”\n", "c.toml:2:", "full-width `”`: type `\"`"),
        (Format::Toml, "【lora】\nlora_rank = 16\n", "c.toml:1:", "full-width `【`: type `[`"),
        (Format::Yaml, "stage: sft\nlora_rank：16\nbf16: true\n", "c.yaml:2:1: ", "full-width `：`: type `:`"),
        (
            Format::Yaml,
            "stage: sft\nlora_rank: １６\ndo_train: true\n",
            "c.yaml:2:12: ",
            "full-width `１６`: type `16`",
        ),
        (Format::Yaml, "lora_rank：16\n", "c.yaml:1:1: ", "full-width `：`: type `:`"),
        (Format::Yaml, "stage: sft\nｌora_rank: 16\n", "c.yaml:2:1: ", "full-width `ｌ`: type `l`"),
        (Format::Yaml, "stage: sft\ntemplate: ｑwen3\n", "c.yaml:2:11: ", "full-width `ｑ`: type `q`"),
        (Format::Json, "{“stage”: \"sft\"}", "c.json:1:2: ", "full-width `“`: type `\"`"),
        (Format::Json, "{\"stage\": \"sft\"，\"lora_rank\": 8}", "c.json:1:16: ", "full-width `，`: type `,`"),
        (Format::Json, "{\"default_system\": \"你好\"，\"seed\": 8}", "c.json:1:24: ", "full-width `，`: type `,`"),
    ] {
        let (first, found) = refused(format, text, &[]);
        assert!(first.starts_with(want), "{text}: {first}");
        assert_eq!(found, hint, "{text}");
    }
    // In a text they are meant, with quotes or without.
    for line in
        ["\"你是高手，请对下联。", "你好，世界。", "hello，world", "\"\"\"\n你好，世界。", "\"\"\"\n你好，\\d\n\"\"\""]
    {
        let hint = refused(Format::Toml, &format!("[data]\ndefault_system = {line}\n"), &[]).1;
        assert!(hint.contains("strings in quotes"), "{line}: {hint}");
    }
    let text = format!("{TOML}[data2]\n");
    assert!(!refused(Format::Toml, &text, &[]).1.contains("full-width"));
    let text = format!("{YAML}default_system: 你好，世界：好\nseed: [1\n");
    assert!(!refused(Format::Yaml, &text, &[]).1.contains("full-width"));
}

#[test]
fn broken_files_are_shown_where_they_break() {
    for (format, text, want) in [
        (Format::Toml, "[model\n", "c.toml:1:7: "),
        (Format::Yaml, "a: b: c\n", "c.yaml:1:5: "),
        (Format::Yaml, "stage: sft\n\tx: 1\n", "c.yaml:2:1: a tab at the beginning of a line"),
        (Format::Yaml, "- a\n", "c.yaml:1:1: the file must hold `key: value` lines"),
        (Format::Yaml, "a: 1\n---\nb: 2\n", "c.yaml:3:1: a second document begins here; one is read"),
        (Format::Yaml, "<<: {a: 1}\n", "c.yaml:1:1: merge keys (`<<`) are not read"),
        (Format::Json, "{\"a\": 1,}", "c.json:1:9: trailing comma"),
        (Format::Json, "[1]", "c.json:1:1: invalid type: sequence, expected one object of keys and values"),
        (Format::Json, "{\"seed\": 1, \"stage\": \"sft\",\n \"seed\": -2}", "c.json:2:2: `seed` is given twice"),
        (Format::Json, "{\"stage\": \"sft\", \"seed\" : -2}", "c.json:1:27: `seed` must be"),
    ] {
        let (first, _) = refused(format, text, &[]);
        assert!(first.starts_with(want), "{text}: {first}");
    }
}
