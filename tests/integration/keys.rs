//! Every key that training reads, driven through the binary: each changes the plan, the data, the numbers or the files.

use crate::support::{Workspace, copy_dir};
use couplet_train::config::table::{Answer, Command, TABLE};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// What a short run of the fixture is told in any case.
const SHORT: [&str; 6] =
    ["train.yaml", "max_steps=3", "use_cpu=null", "device=cpu", "logging_steps=1", "adapter_name_or_path=null"];

/// A key's value that must show, and what must be said besides for it to matter.
const DRIVEN: &[(&str, &str, &[&str])] = &[
    ("model_name_or_path", "nowhere", &[]),
    ("adapter_name_or_path", "init_adapter", &[]),
    ("cache_dir", "elsewhere", &["model_name_or_path=Qwen/Qwen3-0.6B"]),
    ("model_revision", "v2", &["model_name_or_path=Qwen/Qwen3-0.6B"]),
    ("device", "cuda:9", &[]),
    ("use_cpu", "true", &["device=cuda:0"]),
    ("dataset", "dialogues,couplets", &[]),
    ("eval_dataset", "couplets", &["val_size=0"]),
    ("test_dataset", "couplets", &[]),
    ("dataset_dir", "nowhere", &[]),
    ("template", "qwen3_nothink", &[]),
    ("cutoff_len", "40", &[]),
    ("over_length", "drop", &["cutoff_len=40"]),
    ("on_bad_row", "error", &["dataset=ragged"]),
    ("max_samples", "9", &[]),
    ("mix_strategy", "interleave_under", &[]),
    ("interleave_probs", "0.75,0.25", &["mix_strategy=interleave_over"]),
    ("val_size", "5", &[]),
    ("mask_history", "true", &[]),
    ("train_on_prompt", "true", &[]),
    ("enable_thinking", "null", &[]),
    ("preserve_thinking", "true", &["mask_history=true"]),
    ("default_system", "对联", &[]),
    ("eval_on_each_dataset", "true", &["val_size=0", "eval_dataset=couplets,dialogues"]),
    ("packing", "true", &["cutoff_len=120"]),
    ("neat_packing", "true", &["cutoff_len=120"]),
    ("preprocessing_batch_size", "5", &["cutoff_len=120", "packing=true"]),
    ("preprocessing_num_workers", "4", &["cutoff_len=120", "packing=true"]),
    ("lora_rank", "4", &[]),
    ("lora_alpha", "5", &[]),
    ("lora_dropout", "0.25", &[]),
    ("lora_target", "q_proj", &[]),
    ("use_dora", "true", &[]),
    ("use_rslora", "true", &[]),
    ("pissa_init", "true", &[]),
    ("pissa_iter", "1", &["pissa_init=true"]),
    ("pissa_convert", "true", &["pissa_init=true"]),
    ("create_new_adapter", "true", &["adapter_name_or_path=init_adapter"]),
    ("loraplus_lr_ratio", "16", &[]),
    ("stage", "dpo", &[]),
    ("finetuning_type", "full", &[]),
    ("do_train", "false", &[]),
    ("per_device_train_batch_size", "3", &[]),
    ("per_device_eval_batch_size", "1", &[]),
    ("gradient_accumulation_steps", "2", &[]),
    ("learning_rate", "1e-2", &[]),
    ("num_train_epochs", "0.5", &["max_steps=null"]),
    ("max_steps", "2", &[]),
    ("lr_scheduler_type", "linear", &[]),
    ("lr_scheduler_kwargs", "{num_cycles: 2}", &[]),
    ("warmup_ratio", "0.6", &[]),
    ("warmup_steps", "2", &["warmup_ratio=null"]),
    ("optim", "lion_8bit", &[]),
    ("weight_decay", "0.5", &[]),
    ("adam_beta1", "0.5", &[]),
    ("adam_beta2", "0.5", &[]),
    ("adam_epsilon", "1e-3", &[]),
    ("max_grad_norm", "0.1", &[]),
    ("neftune_noise_alpha", "5", &[]),
    ("bf16", "true", &[]),
    ("seed", "7", &[]),
    ("data_seed", "7", &[]),
    ("disable_shuffling", "true", &[]),
    ("train_sampling_strategy", "sequential", &[]),
    ("group_by_length", "true", &[]),
    ("shared_prefix", "off", &[]),
    ("gradient_checkpointing", "on", &[]),
    ("micro_batch_tokens", "300", &[]),
    ("max_seconds", "1e-6", &[]),
    ("output_dir", "train.yaml", &[]),
    ("overwrite_output_dir", "true", &["output_dir=occupied"]),
    ("logging_steps", "0.5", &[]),
    ("plot_loss", "false", &[]),
    ("include_num_input_tokens_seen", "non_padding", &[]),
    ("eval_strategy", "no", &[]),
    ("eval_steps", "0.3", &[]),
    ("compute_accuracy", "true", &[]),
    ("early_stopping_steps", "1", &["eval_steps=1", "learning_rate=1"]),
    ("sample_prompts", "云落长花", &[]),
    ("eval_couplets", "2", &[]),
    ("save_strategy", "steps", &[]),
    ("save_steps", "0.3", &["save_strategy=steps"]),
    ("save_total_limit", "2", &["save_strategy=steps", "save_steps=1"]),
    ("save_only_model", "true", &["save_strategy=steps"]),
    ("resume_from_checkpoint", "true", &[]),
    ("load_best_model_at_end", "true", &["eval_steps=1", "save_steps=1", "save_strategy=steps", "learning_rate=1"]),
    ("metric_for_best_model", "eval_loss_per_token", BEST),
    ("greater_is_better", "true", BEST),
    ("do_eval", "true", &["val_size=0", "eval_strategy=no"]),
];

/// What must show nowhere; `hub_secrets` drives them.
const SECRET: [&str; 2] = ["hf_hub_token", "ms_hub_token"];

const BEST: &[&str] = &["eval_steps=1", "save_steps=1", "save_strategy=steps", "load_best_model_at_end=true"];

/// What a run shows, but for times: what it said before it trained, its exit code, its files and the numbers in them.
#[derive(Debug, PartialEq)]
struct Seen {
    code: i32,
    said: String,
    files: BTreeMap<String, Vec<u8>>,
    numbers: Vec<String>,
}

impl Seen {
    fn of(args: &[&str]) -> Self {
        let work = Workspace::of_fixture("lf_run");
        copy_dir(&work.path("init_adapter"), &work.path("occupied"));
        let ended = work.run(&[&SHORT[..], args].concat());
        let is_timed = |line: &&str| [" s)", "/s"].iter().any(|unit| line.contains(unit));
        let said: String =
            ended.stderr.lines().filter(|line| !is_timed(line)).map(|line| format!("{line}\n")).collect();
        let mut seen = Self { code: ended.code, said, files: BTreeMap::new(), numbers: vec![] };
        for dir in ["lf_out", "occupied"] {
            seen.look(&work.path(dir), dir);
        }
        seen
    }

    fn look(&mut self, dir: &Path, name: &str) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("an entry")) {
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                self.look(&entry.path(), &name);
                continue;
            }
            let bytes = std::fs::read(entry.path()).expect("a file");
            let adapter = name.ends_with("adapter_model.safetensors") || name.ends_with("adapter_config.json");
            if name.ends_with("trainer_log.jsonl") || name.ends_with("_results.json") {
                self.numbers.push(format!("{name}: {}", untimed(&bytes)));
            }
            self.files.insert(name, if adapter { bytes } else { vec![] });
        }
        self.numbers.sort();
    }
}

/// JSON without what the clock decides.
fn untimed(bytes: &[u8]) -> String {
    let times = ["_time", "_runtime", "_per_second", "throughput", "planned", "measured"];
    let is_time = |key: &str| times.iter().any(|end| key.ends_with(end));
    let values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().map(|value| value.expect("JSON"));
    let untimed = values.map(|mut value| {
        value.as_object_mut().expect("an object").retain(|key, _| !is_time(key));
        value.to_string()
    });
    untimed.collect()
}

#[test]
fn every_key_that_training_reads_changes_what_a_run_does() {
    let mut keys = TABLE.iter().flat_map(|(_, keys)| keys.iter()).filter(|key| key.read_by(Command::Train).is_some());
    let is_driven = |name: &str| DRIVEN.iter().any(|(driven, ..)| *driven == name) || SECRET.contains(&name);
    assert!(keys.all(|key| is_driven(key.name)), "every key is driven");
    let mut without: BTreeMap<&[&str], Seen> = BTreeMap::new();
    assert_eq!(Seen::of(&[]), Seen::of(&[]), "a run is the same twice");
    for (name, value, besides) in DRIVEN {
        let before = without.entry(besides).or_insert_with(|| Seen::of(besides));
        let changed = Seen::of(&[besides, &[format!("{name}={value}").as_str()][..]].concat());
        assert!(changed != *before, "{name}={value} changes nothing: {changed:#?}");
    }
}

#[test]
fn a_key_without_effect_has_none() {
    let base = Seen::of(&[]);
    let ignored = TABLE.iter().flat_map(|(_, keys)| keys.iter()).filter(|key| key.answer == Answer::Ignored);
    let given: Vec<String> = ignored.map(|key| format!("{}=1", key.name)).collect();
    let all: Vec<&str> = given.iter().map(String::as_str).collect();
    let with = Seen::of(&all);
    assert_eq!((with.code, with.files, with.numbers), (0, base.files, base.numbers));
    let note = with.said.lines().find(|line| line.starts_with("note: ignored: ")).expect("one notice");
    assert!(given.iter().all(|given| note.contains(given.trim_end_matches("=1"))), "{note}");
}
