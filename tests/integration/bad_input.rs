//! Whatever can be wrong with the input, and what the user is told: one table, one snapshot of all messages.
//!
//! Every case breaks one thing in a small run that works. The binary must name place, fact and a way out in both languages,
//! exit with 2 (1 once training has begun), and leave nothing torn. Updating the snapshot after a change of wording:
//! `INSTA_UPDATE=always cargo test --release bad_input`.

use crate::support::{Ended, Workspace, fixtures};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Write};

const RECIPE: &str = r#"[model]
model_name_or_path = "model"
device = "cpu"

[data]
dataset = ["couplets"]
dataset_dir = "data"
template = "qwen3"
cutoff_len = 256

[lora]
lora_rank = 2

[train]
per_device_train_batch_size = 2
learning_rate = 1e-3
max_steps = 1
warmup_ratio = 0
disable_shuffling = true

[output]
output_dir = "out"
plot_loss = false
"#;

const YAML: &str = "model_name_or_path: model
stage: sft
do_train: true
finetuning_type: lora
dataset: couplets
template: qwen3
cutoff_len: 256
output_dir: out
max_steps: 1
per_device_train_batch_size: 2
use_cpu: true
";

const WEIGHTS: &str = "model/model.safetensors";
const INDEX: &str = "model/model.safetensors.index.json";

/// What is broken; the arguments of the run; what breaks it.
type Case = (&'static str, &'static [&'static str], fn(&Workspace));

/// The run of the recipe.
const TRAIN: &[&str] = &["recipe.toml"];

/// Raw couplets.
const PREPARE: &[&str] = &["data", "prepare", "pairs.txt"];

/// Exit code 2: found before training.
const REFUSED: &[Case] = &[
    // The model.
    ("model: no such folder", &["recipe.toml", "model_name_or_path=./modle"], |_| {}),
    ("model: a file", &["recipe.toml", "model_name_or_path=model/config.json"], |_| {}),
    ("model: a hub name without a network", &["recipe.toml", "model_name_or_path=Qwen/Qwen3-0.6B"], |_| {}),
    ("model: an empty folder", &["recipe.toml", "model_name_or_path=./empty"], |w| w.write("empty/x", "")),
    ("model: config.json cannot be read", TRAIN, |w| {
        remove(w, "model/config.json");
        w.write("model/config.json/x", ""); // a folder; permissions do not stop a test that runs as root
    }),
    ("model: config.json is broken", TRAIN, |w| w.write("model/config.json", "{\"hidden_size\": 32,\n")),
    ("model: config.json lacks a key", TRAIN, |w| drop(config(w, |c| c.remove("hidden_size")))),
    ("model: config.json has a negative size", TRAIN, |w| set(w, "vocab_size", json!(-1))),
    ("model: another architecture", TRAIN, |w| set(w, "architectures", json!(["LlamaForCausalLM"]))),
    ("model: a mixture of experts", TRAIN, |w| set(w, "architectures", json!(["Qwen3MoeForCausalLM"]))),
    ("model: quantised, bitsandbytes", TRAIN, |w| quantised(w, "bitsandbytes")),
    ("model: quantised, GPTQ", TRAIN, |w| quantised(w, "gptq")),
    ("model: quantised, AWQ", TRAIN, |w| quantised(w, "awq")),
    ("model: quantised, FP8", TRAIN, |w| quantised(w, "fp8")),
    ("model: an int8 tensor", TRAIN, int8),
    ("model: rope_scaling", TRAIN, |w| set(w, "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}))),
    ("model: sliding window", TRAIN, |w| {
        set(w, "use_sliding_window", json!(true));
        set(w, "sliding_window", json!(4096));
    }),
    ("model: attention bias", TRAIN, |w| set(w, "attention_bias", json!(true))),
    ("model: no weights", TRAIN, |w| remove(w, WEIGHTS)),
    ("model: the index is broken", TRAIN, |w| w.write(INDEX, "{")),
    ("model: the index has no map", TRAIN, |w| w.write(INDEX, "{}")),
    ("model: a shard is missing", TRAIN, |w| {
        w.write(INDEX, r#"{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}"#);
    }),
    ("model: weights are cut off", TRAIN, |w| cut(w, WEIGHTS)),
    ("model: weights are no safetensors", TRAIN, |w| w.write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n")),
    ("model: a tensor is missing", TRAIN, |w| {
        weights(w, |t| drop(t.remove("model.layers.1.mlp.up_proj.weight").expect("a tensor")));
    }),
    ("model: a tensor has the wrong shape", TRAIN, |w| {
        weights(w, |t| drop(t.insert("model.norm.weight".into(), tensor(7))));
    }),
    ("tokenizer: missing", TRAIN, |w| remove(w, "model/tokenizer.json")),
    ("tokenizer: broken", TRAIN, |w| cut(w, "model/tokenizer.json")),
    ("tokenizer: lacks a control token", TRAIN, |w| {
        replace(w, "model/tokenizer.json", "<|im_end|>", "<|the_end|>");
    }),
    ("tokenizer: has more ids than the model", TRAIN, |w| {
        set(w, "vocab_size", json!(1000));
        weights(w, |t| {
            let name = "model.embed_tokens.weight".to_owned();
            let rows = t[&name].narrow(0, 0, 1000).expect("rows");
            t.insert(name, rows);
        });
    }),
    ("adapter: no such folder", &["recipe.toml", "adapter_name_or_path=adapter"], |_| {}),
    ("adapter: cut off", &["recipe.toml", "adapter_name_or_path=init_adapter"], |w| {
        cut(w, "init_adapter/adapter_model.safetensors");
    }),
    ("adapter: of another base", &["recipe.toml", "adapter_name_or_path=other"], |w| {
        let other = fixtures().join("parity/attention_rslora/init_adapter");
        crate::support::copy_dir(&other, &w.path("other"));
    }),
    ("adapter: DoRA without magnitudes", &["recipe.toml", "adapter_name_or_path=init_adapter"], |w| {
        json_file(w, "init_adapter/adapter_config.json", |c| c["use_dora"] = json!(true));
    }),
    // The config.
    ("config: no such file", &["--config", "recipes.toml"], |_| {}),
    ("config: every step in the warmup", &["recipe.toml", "warmup_ratio=0.9"], |_| {}),
    ("config: a folder", &["--config", "data.toml"], |w| w.write("data.toml/x", "")),
    ("config: not a config by its name", &["--config", "model/model.safetensors"], |_| {}),
    ("config: not UTF-8", TRAIN, |w| w.write("recipe.toml", b"# \xb6\xd4\xc1\xaa\n")),
    ("config: TOML that cannot be parsed", TRAIN, |w| replace(w, "recipe.toml", "lora_rank = 2", "lora_rank = = 2")),
    ("config: YAML that cannot be parsed", &["run.yaml"], |w| replace(w, "run.yaml", "stage: sft", "stage: [sft")),
    ("config: JSON that cannot be parsed", &["run.json"], |w| w.write("run.json", "{\"stage\": \"sft\",}")),
    ("config: unknown key", TRAIN, |w| replace(w, "recipe.toml", "lora_rank", "lora_rnak")),
    ("config: unknown key in YAML", &["run.yaml"], |w| replace(w, "run.yaml", "cutoff_len", "cut_off_len")),
    ("config: unknown section", TRAIN, |w| replace(w, "recipe.toml", "[train]", "[training]")),
    ("config: a key in another section", TRAIN, |w| replace(w, "recipe.toml", "lora_rank = 2", "learning_rate = 1e-4")),
    ("config: wrong type", TRAIN, |w| replace(w, "recipe.toml", "lora_rank = 2", "lora_rank = \"two\"")),
    ("config: a negative number", TRAIN, |w| {
        replace(w, "recipe.toml", "learning_rate = 1e-3", "learning_rate = -1e-3")
    }),
    ("config: NaN", TRAIN, |w| replace(w, "recipe.toml", "learning_rate = 1e-3", "learning_rate = nan")),
    ("config: NaN in YAML", &["run.yaml"], |w| replace(w, "run.yaml", "max_steps: 1", "warmup_ratio: .nan")),
    ("config: a key that must be there", TRAIN, |w| replace(w, "recipe.toml", "output_dir = \"out\"", "")),
    ("config: not supported yet", &["run.yaml"], |w| replace(w, "run.yaml", "max_steps: 1", "pure_bf16: true")),
    ("config: another template", &["run.yaml"], |w| replace(w, "run.yaml", "template: qwen3", "template: llama3")),
    ("config: for another command", &["run.yaml"], |w| replace(w, "run.yaml", "do_train: true", "export_dir: merged")),
    ("config: a quantised base", &["run.yaml"], |w| {
        replace(w, "run.yaml", "model_name_or_path: model", "model_name_or_path: Qwen/Qwen3-14B\nquantization_bit: 4");
    }),
    ("config: a quantised base of unknown size", &["run.yaml", "quantization_bit=4"], |_| {}),
    ("override: unknown key", &["recipe.toml", "lora_rnak=8"], |_| {}),
    ("config: a full-width digit", TRAIN, |w| replace(w, "recipe.toml", "lora_rank = 2", "lora_rank = ２")),
    ("config: a full-width colon in YAML", &["run.yaml"], |w| {
        replace(w, "run.yaml", "cutoff_len: 256", "cutoff_len：256")
    }),
    ("override: a full-width sign", &["recipe.toml", "lora_rank＝2"], |_| {}),
    ("override: no key", &["recipe.toml", "=5"], |_| {}),
    ("override: no value", &["recipe.toml", "lora_rank"], |_| {}),
    ("override: wrong type", &["recipe.toml", "learning_rate=fast"], |_| {}),
    #[cfg(not(feature = "cuda"))]
    ("device: a card this binary cannot use", &["recipe.toml", "device=cuda:0"], |_| {}),
    // The data.
    ("data: not registered", &["recipe.toml", "dataset=couplet"], |_| {}),
    ("data: no such file", &["recipe.toml", "dataset=data/couplet.json"], |w| w.write("data/couples.json", "[]")),
    ("data: no registry", &["recipe.toml", "dataset_dir=dat"], |_| {}),
    ("data: the registry is broken", TRAIN, |w| w.write("data/dataset_info.json", "{\"couplets\": ")),
    ("data: the file is missing", TRAIN, |w| remove(w, "data/couplets.json")),
    ("data: a format that is not known", TRAIN, |w| entry(w, json!({"formatting": "share_gpt"}))),
    ("data: a column that is not known", TRAIN, |w| entry(w, json!({"columns": {"promt": "instruction"}}))),
    ("data: tags that leave the roles unset", TRAIN, |w| {
        entry(w, json!({"formatting": "sharegpt", "tags": {"role_tag": "role"}}));
    }),
    ("data: Alpaca registered as ShareGPT", TRAIN, |w| entry(w, json!({"formatting": "sharegpt"}))),
    ("data: roles out of turn", TRAIN, |w| {
        talk(w, json!([{"from": "human", "value": "天"}, {"from": "human", "value": "地"}]))
    }),
    ("data: a role that is not known", TRAIN, |w| {
        talk(w, json!([{"from": "user", "value": "天"}, {"from": "gpt", "value": "地"}]))
    }),
    ("data: a conversation without a last answer", TRAIN, |w| talk(w, json!([{"from": "human", "value": "天"}]))),
    ("data: a call that is no JSON", TRAIN, |w| {
        talk(w, json!([{"from": "human", "value": "天"}, {"from": "function_call", "value": "晴"}]));
    }),
    ("data: on a hub", TRAIN, |w| entry(w, json!({"hf_hub_url": "me/couplets"}))),
    ("data: a program", TRAIN, |w| entry(w, json!({"script_url": "couplets"}))),
    ("data: in a cloud", TRAIN, |w| entry(w, json!({"cloud_file_name": "s3://couplets.json"}))),
    ("data: another split", TRAIN, |w| entry(w, json!({"split": "test"}))),
    ("data: text", TRAIN, |w| named(w, "couplets.txt", "天 地\n")),
    ("data: Arrow", TRAIN, |w| named(w, "couplets.arrow", "")),
    ("data: a folder of two types", TRAIN, |w| {
        named(w, "parts/a.json", "[]");
        w.write("data/parts/b.csv", "");
        entry(w, json!({"file_name": "parts"}));
    }),
    ("data: a packed file that is cut off", TRAIN, |w| named(w, "couplets.json.gz", b"\x1f\x8b\x08\0\0\0\0\0")),
    ("data: csv with a field too many", TRAIN, |w| {
        named(w, "couplets.csv", "instruction,input,output\n对,天,地\n对,天,地,玄\n");
    }),
    ("data: csv with a quote that is not closed", TRAIN, |w| {
        named(w, "couplets.csv", "instruction,input,output\n对,天,\"地\n");
    }),
    ("data: every response is empty", TRAIN, |w| {
        json_file(w, "data/couplets.json", |rows| {
            rows.as_array_mut().expect("a list").iter_mut().for_each(|row| row["output"] = json!(""));
        });
    }),
    ("data: nothing left but rows without a response", &["recipe.toml", "on_bad_row=skip"], |w| {
        w.write("data/couplets.json", "{\"instruction\": \"对\", \"input\": \"天\", \"output\": null}\n");
    }),
    ("data: nothing left to train, for two reasons", &["recipe.toml", "on_bad_row=skip", "over_length=drop"], |w| {
        let row = |output: Value| json!({"instruction": "对", "input": "天", "output": output});
        w.write("data/couplets.json", json!([row(Value::Null), row(json!("长".repeat(300)))]).to_string());
    }),
    ("data: nothing left to evaluate", &["recipe.toml", "on_bad_row=skip", "eval_dataset=data/held_out.jsonl"], |w| {
        row(w, 2, |r| *r = json!("a loss among the rows that are trained"));
        w.write(
            "data/held_out.jsonl",
            "{\"instruction\": \"对\", \"input\": [\"天\"], \"output\": \"地\"}\n".repeat(2),
        );
    }),
    ("data: one object over several lines", TRAIN, |w| {
        w.write("data/couplets.json", format!("{:#}\n", json!({"instruction": "对", "input": "天", "output": "地"})));
    }),
    ("data: a column that no row has", TRAIN, |w| {
        json_file(w, "data/dataset_info.json", |r| r["couplets"]["columns"]["response"] = json!("下联"));
    }),
    ("data: JSON broken at row 3", TRAIN, |w| {
        let rows: Vec<String> =
            (0..4).map(|n| format!("{{\"instruction\": \"对\", \"input\": \"{n}\", \"output\": \"地\"}}")).collect();
        w.write("data/couplets.json", format!("[\n{}\n]", rows.join(",\n").replace("\"2\",", "\"2\"")));
    }),
    ("data: JSON Lines broken at row 2", TRAIN, |w| {
        w.write(
            "data/couplets.json",
            "{\"instruction\": \"对\", \"input\": \"天\", \"output\": \"地\"}\n{\"instruction\": \"对\",\n",
        );
    }),
    ("data: response missing", TRAIN, |w| row(w, 2, |r| drop(r.as_object_mut().expect("a row").remove("output")))),
    ("data: response null", TRAIN, |w| row(w, 2, |r| r["output"] = Value::Null)),
    ("data: response is a number", TRAIN, |w| row(w, 2, |r| r["output"] = json!(3))),
    ("data: input is a list", TRAIN, |w| row(w, 2, |r| r["input"] = json!(["天"]))),
    ("data: a row is no object", TRAIN, |w| row(w, 2, |r| *r = json!("天 地"))),
    ("data: plain text", TRAIN, |w| w.write("data/couplets.json", "天 地\n")),
    ("data: not UTF-8", TRAIN, |w| w.write("data/couplets.json", b"[{\"output\": \"\xb5\xd8\"}]")),
    ("data: no rows", TRAIN, |w| w.write("data/couplets.json", "[]")),
    ("data: a row longer than cutoff_len", TRAIN, |w| row(w, 2, |r| r["output"] = json!("长".repeat(300)))),
    ("data: nothing left to train", &["recipe.toml", "over_length=drop", "cutoff_len=8"], |_| {}),
    ("data: everything held out", &["recipe.toml", "val_size=1000"], |_| {}),
    // Raw couplets.
    ("prepare: no such file", PREPARE, |_| {}),
    ("prepare: not UTF-8", PREPARE, |w| w.write("pairs.txt", b"\xe5\xa4\xa9 \xe5\x9c\xb0\n\xcc\xec \xb5\xd8\n")),
    ("prepare: parquet", PREPARE, |w| w.write("pairs.txt", b"PAR1\x15\x04")),
    ("prepare: a workbook", PREPARE, |w| w.write("pairs.txt", b"PK\x03\x04\x14\0")),
    ("prepare: empty", PREPARE, |w| w.write("pairs.txt", "\n \n")),
    ("prepare: nothing parts the sides", PREPARE, |w| w.write("pairs.txt", "春风又绿江南岸\n明月何时照我还我\n")),
    ("prepare: mostly no pairs", &["data", "prepare", "pairs.txt", "--format", "csv"], |w| {
        w.write("pairs.txt", "上联,下联\n天,地\n春风又绿江南岸\n明月何时照我还\n");
    }),
    ("prepare: columns without known names", &["data", "prepare", "pairs.csv"], |w| {
        w.write("pairs.csv", "x,y,z\n1,天,地\n");
    }),
    ("prepare: columns of lines", &["data", "prepare", "pairs.txt", "--columns", "1,2"], |w| {
        w.write("pairs.txt", "天高 地厚\n风清 月白\n");
    }),
    ("prepare: a column that is not there", &["data", "prepare", "pairs.csv", "--columns", "x,w"], |w| {
        w.write("pairs.csv", "x,y,z\n1,天,地\n");
    }),
    ("prepare: a quote that is not closed", &["data", "prepare", "pairs.csv"], |w| {
        w.write("pairs.csv", "上联,下联\n天,地\n\"风,雨\n");
    }),
    ("prepare: JSON that is broken", &["data", "prepare", "pairs.json"], |w| {
        w.write("pairs.json", "[\n{\"上联\": \"天\", \"下联\": \"地\"},\n{\"上联\": \"天\",}]\n");
    }),
    ("prepare: two files of another length", &["data", "prepare", "--upper", "in.txt", "--lower", "out.txt"], |w| {
        w.write("in.txt", "天\n风\n");
        w.write("out.txt", "地\n");
    }),
    ("prepare: every row dropped", PREPARE, |w| w.write("pairs.txt", "天 天\n春风 明月夜\n")),
    ("prepare: none taken", &["data", "prepare", "pairs.txt", "--take", "0"], |w| w.write("pairs.txt", "天 地\n")),
    ("prepare: more than there is", &["data", "prepare", "pairs.txt", "--take", "3"], |w| {
        w.write("pairs.txt", "天 地\n风 雨\n");
    }),
    ("prepare: larger parts than there is", &["data", "prepare", "pairs.txt", "--split", "9/9/9"], |w| {
        w.write("pairs.txt", "天 地\n风 雨\n");
    }),
    ("prepare: there already", PREPARE, |w| {
        w.write("pairs.txt", "天 地\n风 雨\n");
        w.write("data/pairs_test.json", "[]");
    }),
    ("prepare: another data set of that name", &["data", "prepare", "pairs.txt", "--name", "couplets"], |w| {
        w.write("pairs.txt", "天 地\n风 雨\n");
    }),
    ("prepare: no name", &["data", "prepare", "pairs.txt", "--name", "a b"], |w| w.write("pairs.txt", "天 地\n")),
    ("prepare: a wording twice", &["data", "prepare", "pairs.txt", "--instruction-file", "wordings.txt"], |w| {
        w.write("pairs.txt", "天 地\n");
        w.write("wordings.txt", "对下联\n\n对下联\n");
    }),
    // The output folder.
    ("output: a file is in the way", &["recipe.toml", "output_dir=data/couplets.json"], |_| {}),
    ("output: below a file", &["recipe.toml", "output_dir=data/couplets.json/out"], |_| {}),
    ("output: another program's results", TRAIN, |w| w.write("out/adapter_config.json", "{}")),
    ("output: another config's results", &["recipe.toml", "learning_rate=1e-4"], |w| {
        drop(w.train(&["recipe.toml", "-q"]));
        remove(w, "out/adapter_model.safetensors"); // so that the check for torn files sees only what the next run does
    }),
    ("output: a receipt that is torn", TRAIN, |w| w.write("out/run.json", "{\"status\": \"runn")),
];

/// Exit code 1: the run itself fails.
const FAILED: &[Case] = &[
    ("run: weights hold NaN", TRAIN, |w| poison(w, f32::NAN)),
    ("run: weights hold infinity", &["run.yaml", "disable_shuffling=true"], |w| poison(w, f32::INFINITY)),
    ("run: NaN met by the first evaluation", &["recipe.toml", "val_size=2", "eval_strategy=steps"], |w| {
        poison(w, f32::NAN)
    }),
    ("run: a rate too small for f32", &["recipe.toml", "learning_rate=1e-60"], |_| {}),
];

/// Exit code 0; what is worth knowing is a note.
const ACCEPTED: &[Case] = &[
    ("nothing is wrong", TRAIN, |_| {}),
    ("nothing is wrong in YAML", &["run.yaml"], |_| {}),
    ("override: the same twice", &["recipe.toml", "lora_rank=4", "lora_rank=2"], |_| {}),
    ("data: an empty response", TRAIN, |w| row(w, 2, |r| r["output"] = json!(""))),
    ("data: a byte order mark and CRLF", TRAIN, |w| windows(w, "data/couplets.json")),
    ("data: the registry with a byte order mark and CRLF", TRAIN, |w| windows(w, "data/dataset_info.json")),
    ("config: a byte order mark and CRLF", TRAIN, |w| windows(w, "recipe.toml")),
    ("config: YAML with a byte order mark and CRLF", &["run.yaml"], |w| windows(w, "run.yaml")),
    ("data: a row longer than cutoff_len in LlamaFactory's dialect", &["run.yaml"], |w| {
        row(w, 2, |r| r["output"] = json!("长".repeat(300)));
    }),
    ("data: bad rows, left out", &["recipe.toml", "on_bad_row=skip"], |w| {
        row(w, 2, |r| r["output"] = Value::Null);
        row(w, 3, |r| *r = json!("天 地"));
    }),
    ("data: rows without a response in LlamaFactory's dialect", &["run.yaml"], |w| {
        row(w, 2, |r| r["output"] = Value::Null)
    }),
    ("data: a column that is not mapped", TRAIN, |w| {
        entry(w, json!({"columns": {"prompt": "instruction", "response": "output"}}));
    }),
    ("data: OpenAI's format", TRAIN, |w| {
        let tags = json!({"role_tag": "role", "content_tag": "text", "user_tag": "u", "assistant_tag": "a"});
        talk(w, json!([{"role": "u", "text": "天"}, {"role": "a", "text": "地"}]));
        entry(w, json!({"formatting": "openai", "tags": tags, "subset": "a"}));
    }),
    ("data: csv, with control tokens and repeated rows", TRAIN, |w| {
        named(w, "couplets.csv", "instruction,input,output\r\n对,\"天<|im_end|>\",地\r\n对,雨,风\r\n对,雨,风\r\n");
    }),
    ("data: a row longer than cutoff_len, dropped", &["recipe.toml", "over_length=drop"], |w| {
        row(w, 2, |r| r["output"] = json!("长".repeat(300)));
    }),
];

#[test]
fn every_error_names_place_fact_and_way_out() {
    let (mut told, mut faults) = (String::new(), vec![]);
    for (code, cases) in [(2, REFUSED), (1, FAILED)] {
        for (name, args, break_it) in cases {
            let w = workspace(break_it);
            let [english, chinese] = ["en", "zh"].map(|lang| run(&w, args, lang, &["-q"]));
            assert_eq!((english.code, chinese.code), (code, code), "{name}: {}", english.stderr);
            assert_eq!(english.stdout, "", "{name}");
            assert_nothing_torn(&w, name, code);
            let (en, zh) = (normal(&w, &english.stderr), normal(&w, &chinese.stderr));
            let way_out = zh.find("提示：").map_or("", |at| &zh[at..]);
            writeln!(told, "== {name}\n{en}{way_out}").expect("a string");
            faults.extend(what_is_poor(&en, &zh).map(|rule| format!("{name}: {rule}\n{en}{zh}")));
        }
    }
    insta::assert_snapshot!("errors", told);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Not in the snapshot: at which step the numbers run away is the machine's affair.
#[test]
fn a_rate_that_is_far_too_high_ends_the_run() {
    let w = workspace(&|_| {});
    let ended = run(&w, &["recipe.toml", "learning_rate=1e30", "max_steps=9"], "en", &["-q"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let (fact, way_out) = ended.stderr.split_once("\nhint: ").expect("a hint");
    assert!(fact.contains("are not finite; first in the gradient of model.layers."), "{fact}");
    assert!(fact.contains("; rows of this step: couplets row "), "{fact}");
    assert!(way_out.starts_with("the parameters were not updated; lower `learning_rate`"), "{way_out}");
    assert_nothing_torn(&w, "a rate that is far too high", 1);
}

/// The first rule that a message in English and Chinese breaks.
fn what_is_poor(en: &str, zh: &str) -> Option<&'static str> {
    let Some((fact, _)) = en.strip_prefix("error: ").and_then(|text| text.split_once("\nhint: ")) else {
        return Some("no hint");
    };
    let Some((fact_zh, hint_zh)) = zh.strip_prefix("错误：").and_then(|text| text.split_once("\n提示：")) else {
        return Some("no Chinese hint");
    };
    let is_chinese = |c: char| ('\u{4e00}'..='\u{9fff}').contains(&c);
    let noise = ["os error", "Error {", "Err(", "Some(", ".rs:", "backtrace"];
    [
        (fact != fact_zh, "the facts differ"),
        (!hint_zh.chars().any(is_chinese), "the Chinese hint is English"),
        (noise.iter().any(|noise| en.contains(noise)), "words of the machine"),
    ]
    .into_iter()
    .find_map(|(broken, rule)| broken.then_some(rule))
}

#[test]
fn what_is_accepted_is_trained_and_told() {
    let mut told = String::new();
    for (name, args, change) in ACCEPTED {
        let w = workspace(change);
        let ended = run(&w, args, "en", &[]);
        assert_eq!(ended.code, 0, "{name}: {}", ended.stderr);
        assert!(w.path("out/adapter_model.safetensors").is_file(), "{name}");
        let notes = ended.stderr.lines().filter(|line| line.starts_with("note: ") || line.starts_with("data "));
        writeln!(told, "== {name}\n{}\n", notes.collect::<Vec<_>>().join("\n")).expect("a string");
    }
    insta::assert_snapshot!("notes", told);
}

#[test]
fn a_path_of_the_products_that_is_not_there_is_refused_at_the_start() {
    let w = workspace(&|_| ());
    let args: &[&str] = &["train", "--config", "recipe.toml"];
    let ended = w.run_with(args, &[("COUPLET_TRAIN_KERNELS", "mmx")]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    let want = "COUPLET_TRAIN_KERNELS=mmx: one of amx, avx512-bf16, f32, plain was expected";
    assert!(ended.stderr.contains(want), "{}", ended.stderr);
    let bf16 = [args, &["bf16=true"]].concat();
    let ended = w.run_with(&bf16, &[("COUPLET_TRAIN_KERNELS", "plain")]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("products plain"), "the header names it: {}", ended.stderr);
}

/// A small run that works, then `break_it`.
fn workspace(break_it: &dyn Fn(&Workspace)) -> Workspace {
    let w = Workspace::of_fixture("parity/all_targets");
    w.write("recipe.toml", RECIPE);
    w.write("run.yaml", YAML);
    break_it(&w);
    w
}

fn run(w: &Workspace, args: &[&str], lang: &str, flags: &[&str]) -> Ended {
    w.run_with(&[args, flags].concat(), &[("COUPLET_TRAIN_LANG", lang)])
}

/// The message without what differs between machines.
fn normal(w: &Workspace, text: &str) -> String {
    let text = text.replace(&w.dir().display().to_string(), "DIR");
    let shown = text.split_inclusive('\n').map(|line| {
        let memory = ["; this machine has ", "; a smaller Qwen3", "；本机空闲内存 ", "；更小的 Qwen3"];
        let cut = memory.iter().find_map(|words| line.find(words));
        cut.map_or(line.to_owned(), |at| format!("{} …\n", &line[..at]))
    });
    shown.collect()
}

/// No adapter, no temporary file; of a run that had begun, a receipt that says so.
fn assert_nothing_torn(w: &Workspace, name: &str, code: i32) {
    let Ok(entries) = std::fs::read_dir(w.path("out")) else {
        assert_eq!(code, 2, "{name}: a run that began left nothing");
        return;
    };
    let names: Vec<String> = entries.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).collect();
    let torn = names
        .iter()
        .find(|n| (n.starts_with('.') && *n != ".lock") || n.ends_with(".tmp") || *n == "adapter_model.safetensors");
    assert_eq!(torn, None, "{name}");
    if code == 1 {
        assert_eq!(w.json("out/run.json")["status"], "running", "{name}");
    }
}

fn remove(w: &Workspace, name: &str) {
    std::fs::remove_file(w.path(name)).expect("a removed file");
}

/// Keeps the first half.
fn cut(w: &Workspace, name: &str) {
    let bytes = std::fs::read(w.path(name)).expect("a file");
    w.write(name, &bytes[..bytes.len() / 2]);
}

fn replace(w: &Workspace, name: &str, from: &str, to: &str) {
    let text = w.read(name);
    assert!(text.contains(from), "{name} has no {from}");
    w.write(name, text.replace(from, to));
}

/// As an editor on Windows saves it.
fn windows(w: &Workspace, name: &str) {
    w.write(name, format!("\u{feff}{}", w.read(name).replace('\n', "\r\n")));
}

fn json_file<T>(w: &Workspace, name: &str, edit: impl FnOnce(&mut Value) -> T) -> T {
    let mut json = w.json(name);
    let out = edit(&mut json);
    w.write(name, json.to_string());
    out
}

fn config<T>(w: &Workspace, edit: impl FnOnce(&mut serde_json::Map<String, Value>) -> T) -> T {
    json_file(w, "model/config.json", |json| edit(json.as_object_mut().expect("an object")))
}

fn set(w: &Workspace, key: &str, value: Value) {
    config(w, |c| drop(c.insert(key.into(), value)));
}

fn quantised(w: &Workspace, method: &str) {
    set(w, "quantization_config", json!({"quant_method": method}));
}

/// Edits the entry of the data set.
fn entry(w: &Workspace, changes: Value) {
    json_file(w, "data/dataset_info.json", |registry| {
        for (key, value) in changes.as_object().expect("changes") {
            registry["couplets"][key] = value.clone();
        }
    });
}

/// The data set in another file, under the default columns.
fn named(w: &Workspace, file_name: &str, bytes: impl AsRef<[u8]>) {
    w.write(&format!("data/{file_name}"), bytes);
    w.write("data/dataset_info.json", json!({"couplets": {"file_name": file_name}}).to_string());
}

/// The data set as one conversation.
fn talk(w: &Workspace, messages: Value) {
    named(w, "talk.json", json!([{"conversations": messages}]).to_string());
    entry(w, json!({"formatting": "sharegpt"}));
}

/// Edits a row of the data set, from 1.
fn row(w: &Workspace, number: usize, edit: impl FnOnce(&mut Value)) {
    json_file(w, "data/couplets.json", |rows| edit(&mut rows[number - 1]));
}

fn weights(w: &Workspace, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = w.path(WEIGHTS);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).expect("weights");
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).expect("saved weights");
}

fn tensor(n: usize) -> Tensor {
    Tensor::ones(n, candle_core::DType::F32, &Device::Cpu).expect("a tensor")
}

/// Puts one bad number into the final norm, which every token passes.
fn poison(w: &Workspace, number: f32) {
    weights(w, |t| {
        let n = t["model.norm.weight"].elem_count();
        let mut values = vec![1f32; n];
        values[3] = number;
        t.insert("model.norm.weight".into(), Tensor::from_vec(values, n, &Device::Cpu).expect("a tensor"));
    });
}

/// One tensor of the checkpoint as int8, as LLM.int8 checkpoints have them.
fn int8(w: &Workspace) {
    use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
    let bytes = std::fs::read(w.path(WEIGHTS)).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("weights");
    let quantised = vec![1u8; 64];
    let views = tensors.iter().map(|(name, view)| match name {
        "model.layers.0.mlp.up_proj.weight" => {
            (name, TensorView::new(Dtype::I8, vec![8, 8], &quantised).expect("a view"))
        }
        name => (name, view),
    });
    w.write(WEIGHTS, serialize(views, None).expect("a checkpoint"));
}
