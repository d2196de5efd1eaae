//! The binary as it is used: help, the ways to name a recipe, running again, languages, and what a run leaves.
//!
//! Training here is the quick start on a few rows: the shipped model and data, made small by overrides.

use crate::support::{Ended, Workspace, copy_dir, root};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::SystemTime};

const ADAPTER: &str = "adapter_model.safetensors";

/// A folder with the recipe and the paths to what the repository ships.
struct QuickStart {
    work: Workspace,
    model: String,
    data: String,
}

impl QuickStart {
    fn new() -> Self {
        let work = Workspace::new();
        let recipe = std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe");
        work.write("recipe.toml", recipe);
        Self {
            work,
            model: format!("model_name_or_path={}", root().join("data/tiny_qwen3").display()),
            data: format!("dataset_dir={}", root().join("data").display()),
        }
    }

    /// `first`, then overrides that make it two steps without evaluation, then `more`, which win.
    fn args<'a>(&'a self, first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        let small = ["device=cpu", "max_steps=2", "max_samples=12", "per_device_train_batch_size=4", "logging_steps=1"];
        let silent = ["eval_strategy=no", "eval_dataset=null"];
        [first, &[&self.model, &self.data], &small, &silent, more].concat()
    }

    fn train(&self, more: &[&str]) -> Ended {
        self.work.train(&self.args(&["--config", "recipe.toml"], more))
    }

    fn run(&self, more: &[&str]) -> Ended {
        self.work.run(&self.args(&["--config", "recipe.toml"], more))
    }

    fn adapter(&self, dir: &str) -> Vec<u8> {
        std::fs::read(self.work.path(dir).join(ADAPTER)).expect("an adapter")
    }

    /// Every file of a folder: its bytes and when it was written.
    fn state(&self, dir: &str) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
        let entries = std::fs::read_dir(self.work.path(dir)).expect("a folder").map(|entry| entry.expect("an entry"));
        // Not the lock, and not the checkpoints: they are folders.
        let entries = entries.filter(|entry| entry.path().is_file() && entry.file_name() != ".lock");
        let file = |entry: std::fs::DirEntry| {
            let written = entry.metadata().and_then(|meta| meta.modified()).expect("a time");
            let bytes = std::fs::read(entry.path()).expect("a file");
            (entry.file_name().into_string().expect("a name"), (bytes, written))
        };
        entries.map(file).collect()
    }
}

#[test]
fn help_is_this() {
    let folder = Workspace::new();
    let wide = [("COLUMNS", "100")];
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_train", &["train", "--help"]),
        ("help_plan", &["plan", "--help"]),
        ("help_generate", &["generate", "--help"]),
        ("help_chat", &["chat", "--help"]),
        ("help_evaluate", &["evaluate", "--help"]),
        ("help_config", &["config", "--help"]),
        ("help_data_prepare", &["data", "prepare", "--help"]),
        ("help_data_show", &["data", "show", "--help"]),
        ("help_data_stats", &["data", "stats", "--help"]),
    ] {
        let help = folder.run_with(args, &wide);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{args:?}");
        let widest = help.stdout.lines().map(unicode_width::UnicodeWidthStr::width).max();
        assert!(widest <= Some(100), "{args:?}: {widest:?} columns");
        insta::assert_snapshot!(name, help.stdout);
    }
    let bare = folder.run_with(&[], &wide);
    assert_eq!(bare.code, 0);
    assert!(bare.stdout.starts_with("Quick start"), "{}", bare.stdout);
    assert!(bare.stdout.contains("Usage: couplet-train"), "{}", bare.stdout);
    let version = folder.run(&["--version"]);
    assert_eq!((version.code, version.stdout), (0, format!("couplet-train {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
#[cfg(not(feature = "cuda"))]
fn the_doctor_says_what_is_here() {
    let folder = Workspace::new();
    let doctor = folder.run(&["doctor"]);
    assert_eq!((doctor.code, doctor.stderr.as_str()), (0, ""));
    let rows: Vec<(&str, &str)> =
        doctor.stdout.lines().map(|line| (line[..11].trim_end(), line[11..].trim_start())).collect();
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["program", "built for", "CPU", "memory", "driver", "device=auto"], "{}", doctor.stdout);
    assert_eq!(rows[0].1, format!("couplet-train {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(rows[1].1, "the CPU alone; for cards: cargo build --release --features cuda");
    assert!(rows[2].1.contains("; f32: ") && rows[2].1.ends_with(" threads"), "{}", doctor.stdout);
    assert_eq!(rows[5].1, "the CPU");
    let chinese = folder.run_with(&["doctor"], &[("COUPLET_TRAIN_LANG", "zh")]);
    assert!(chinese.stdout.contains("编译目标") && chinese.stdout.contains("显卡驱动"), "{}", chinese.stdout);
}

#[test]
fn wrong_usage_is_exit_2() {
    let folder = Workspace::new();
    folder.write("recipe.toml", std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe"));
    for (args, want) in [
        (&["--no-such-flag"][..], "unexpected argument '--no-such-flag'"),
        (&["lora_rank=8"], "no config file"),
        (&["train"], "no config file"),
        (&["-q", "-v", "recipe.toml"], "cannot be used with"),
        (&["--progress", "loud", "recipe.toml"], "invalid value 'loud'"),
        (
            &["genrate"],
            "hint: did you mean `generate`? commands: train, plan, generate, chat, evaluate, export, adapter, data, config, doctor;",
        ),
        (&["-q", "plan", "recipe.toml"], "hint: options follow the command: `couplet-train plan …`"),
        (&["data", "prepare", "none.txt", "--separator", "->"], "none.txt: cannot read: no such file"),
        (&["recipe.toml", "output_dir=~/zz"], "`output_dir` begins with `~`, which only a shell replaces: ~/zz"),
        (&["data", "prepare", "pairs.txt", "--out=~/zz"], "~/zz: begins with `~`"),
        (&["data", "prepare", "pairs.txt", "--split", "9"], "`9` is no split"),
        (&["data", "prepare", "pairs.txt", "--keep", "sides"], "reasons are characters, shape, copied"),
        (&["data", "prepare", "--upper", "in.txt"], "--lower <FILE>"),
        (&["data", "prepare", "none.txt"], "none.txt: cannot read: no such file"),
        (&["data", "prepare", "-", "-"], "standard input (`-`) is named twice"),
        (&["data", "prepare", "--upper", "-", "--lower", "-"], "standard input (`-`) is named twice"),
        (&["data", "prepare", "x", "--instruction", "a.txt"], "a.txt: cannot read: no such file"),
        (&["export", "export_dir=out", "export_quantization_bit=4"], "`export_quantization_bit` is not supported"),
        (&["generate", "chat.yaml"], "chat.yaml: there is no such config file"),
        (&["data"], "Usage: couplet-train data"),
        (&["data", "prepare"], "required arguments were not provided"),
    ] {
        let ended = folder.run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ended.stderr.contains(want), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn the_quick_start_leaves_a_complete_run() {
    let start = QuickStart::new();
    let more = ["max_samples=64", "output_dir=out", "device=cpu", "logging_steps=2", &start.model, &start.data];
    let ended = start.work.train(&[&["--config", "recipe.toml"], &more[..]].concat());
    for said in ["466,944 trainable parameters", "held-out loss before training", "step 2/4", "held-out loss  "] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains('\u{1b}'), "no colour and no cursor movement where there is no terminal");

    let files = start.state("out");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let want = [
        "README.md",
        "adapter_config.json",
        ADAPTER,
        "all_results.json",
        "chat_template.jinja",
        "eval_results.json",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_results.json",
        "trainer_log.jsonl",
        "trainer_state.json",
        "training_eval_loss.png",
        "training_loss.png",
    ];
    assert_eq!(names, want);
    for (name, (bytes, _)) in files.iter().filter(|(name, _)| name.ends_with(".png")) {
        assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{name} is no PNG");
        assert!(bytes.ends_with(b"IEND\xaeB`\x82"), "{name} is cut off");
    }
    let log = String::from_utf8(files["trainer_log.jsonl"].0.clone()).expect("UTF-8");
    assert_eq!(
        log.lines().count(),
        6,
        "what was read, two logged steps, an evaluation, the end, and beside it the plan:\n{log}"
    );
    let first: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    let rows = |set: &serde_json::Value| ["read", "kept", "skipped"].map(|key| set[key].as_u64().expect(key));
    let sets = first["data"].as_array().expect("data sets");
    assert!(!sets.is_empty() && sets.iter().map(rows).all(|[read, kept, skipped]| read > 0 && read == kept + skipped));

    let receipt = start.work.json("out/run.json");
    assert_eq!(receipt["status"], "complete");
    for digest in ["base", "data", "tokenizer", "binary"] {
        let hex = receipt["digests"][digest].as_str().unwrap_or_default();
        assert!(hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}: {hex:?}");
    }
    let tokenizer = std::fs::read(root().join("data/tiny_qwen3/tokenizer.json")).expect("a tokenizer");
    assert_eq!(files["tokenizer.json"].0, tokenizer, "the base's own");
    let loss = |key: &str| receipt["results"][key].as_f64().expect(key);
    assert!(loss("eval_loss") < loss("eval_loss_before") - 1.0, "four steps teach a lot: {}", receipt["results"]);
    assert_eq!(start.work.json("out/eval_results.json")["eval_loss"], receipt["results"]["eval_loss"]);
}

#[test]
fn a_recipe_is_named_in_three_ways() {
    let start = QuickStart::new();
    let ways = [&["--config", "recipe.toml"][..], &["recipe.toml"], &["train", "recipe.toml"]];
    let logs: Vec<Value> = (ways.iter().zip(["output_dir=a", "output_dir=b", "output_dir=c"]))
        .map(|(way, dir)| {
            start.work.train(&start.args(way, &[dir, "seed=7"]));
            let receipt = start.work.json(&format!("{}/run.json", &dir["output_dir=".len()..]));
            json!([receipt["results"], receipt["config"]["train"], receipt["digests"]])
        })
        .collect();
    assert_eq!(logs[0], logs[1]);
    assert_eq!(logs[0], logs[2]);
    assert_eq!(logs[0][1]["seed"], 7, "overrides count");
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let start = QuickStart::new();
    for (dir, threads) in [("a", "2"), ("b", "2"), ("c", "1")] {
        let dir = format!("output_dir={dir}");
        start.work.train_with(&start.args(&["recipe.toml"], &[&dir]), &[("RAYON_NUM_THREADS", threads)]);
    }
    assert!(start.adapter("a") == start.adapter("b"), "twice the same");
    assert!(start.adapter("a") == start.adapter("c"), "one thread or two");
    start.train(&["output_dir=d", "seed=43"]);
    assert!(start.adapter("a") != start.adapter("d"), "another seed");
}

#[test]
fn training_continues_from_an_adapter() {
    let start = QuickStart::new();
    let held_out = ["eval_dataset=couplets_valid", "learning_rate=2e-2"];
    start.train(&[&held_out[..], &["output_dir=a", "lora_rank=4", "lora_target=q_proj,v_proj"]].concat());
    let go_on = [&held_out[..], &["output_dir=b", "adapter_name_or_path=a"]].concat();
    let ended = start.train(&go_on);
    assert!(ended.stderr.contains("r 4, alpha 32"), "the adapter's own rank: {}", ended.stderr);
    assert!(ended.stderr.contains("are those of `adapter_name_or_path`"), "{}", ended.stderr);
    let result = |dir: &str, key: &str| start.work.json(&format!("{dir}/run.json"))["results"][key].clone();
    assert_eq!(result("b", "eval_loss_before"), result("a", "eval_loss"), "it starts where the other ended");
    assert_ne!(result("a", "eval_loss_before"), result("a", "eval_loss"), "training changed something");
    assert_ne!(start.adapter("a"), start.adapter("b"));

    let again = start.train(&go_on);
    assert!(again.stderr.contains("already complete"), "{}", again.stderr);
}

#[test]
fn a_finished_run_is_left_alone() {
    let start = QuickStart::new();
    start.train(&["output_dir=out"]);
    let before = start.state("out");
    let again = start.train(&["output_dir=out"]);
    assert!(again.stderr.starts_with("out: this run is already complete."), "{}", again.stderr);
    assert!(start.state("out") == before, "nothing was written");

    let other = start.run(&["output_dir=out", "learning_rate=1e-3"]);
    assert_eq!(other.code, 2);
    let want = "error: out: holds the results of another config:\n  learning_rate: 0.002 there, 0.001 now\n\
                hint: choose another `output_dir`, or replace them with `overwrite_output_dir=true`\n";
    assert_eq!(other.stderr, want);
    assert!(start.state("out") == before, "nothing was written");

    start.train(&["output_dir=out", "learning_rate=1e-3", "overwrite_output_dir=true"]);
    assert_ne!(start.adapter("out"), before[ADAPTER].0);
    assert_eq!(start.work.json("out/run.json")["config"]["train"]["learning_rate"], 0.001);
}

/// Questions without an input, each another instruction: an ordinary Alpaca set, `questions` in the folder `d`.
fn questions(start: &QuickStart, answer: &str) -> [&'static str; 3] {
    start.work.write("d/dataset_info.json", r#"{"questions": {"file_name": "questions.json"}}"#);
    let rows: Vec<Value> = "春夏秋冬梅兰竹菊"
        .chars()
        .map(|c| json!({"instruction": format!("{c}是什么？"), "input": "", "output": format!("{c}{answer}")}))
        .collect();
    start.work.write("d/questions.json", json!(rows).to_string());
    ["dataset=questions", "dataset_dir=d", "output_dir=out"]
}

#[test]
fn a_finished_run_is_looked_at() {
    let start = QuickStart::new();
    let questions = |answer| questions(&start, answer);
    let run = |more: &[&str]| start.run(&[&["dataset=questions", "dataset_dir=d", "output_dir=out"], more].concat());
    start.train(&questions("风"));
    let from = run(&["resume_from_checkpoint=out/checkpoint-2"]);
    assert_eq!(from.code, 0, "{}", from.stderr);
    assert!(from.stderr.ends_with(" To go on from out/checkpoint-2, name another output_dir.\n"), "{}", from.stderr);
    let past = run(&["save_steps=7", "logging_steps=3"]);
    assert!(past.code == 0 && past.stderr.contains("already complete"), "{}", past.stderr);
    let longer = run(&["max_steps=4"]);
    assert_eq!(longer.code, 2, "{}", longer.stderr);
    assert!(
        longer.stderr.contains("hint: go on with that run with `resume_from_checkpoint=true`"),
        "{}",
        longer.stderr
    );

    questions("雨");
    let edited = run(&[]);
    assert_eq!(edited.code, 2, "{}", edited.stderr);
    assert!(edited.stderr.contains("out: holds the results of another data set"), "{}", edited.stderr);
    std::fs::remove_dir_all(start.work.path("d")).expect("a folder");
    let gone = run(&[]);
    assert!(gone.code == 0 && gone.stderr.contains("already complete"), "needs no data: {}", gone.stderr);

    let whole = start.adapter("out");
    start.work.write(&format!("out/{ADAPTER}"), &whole[..whole.len() / 2]);
    let half = run(&[]);
    assert_eq!(half.code, 1, "{}", half.stderr);
    assert!(half.stderr.contains("out: the run is complete, but its adapter is damaged: "), "{}", half.stderr);
    std::fs::remove_file(start.work.path(&format!("out/{ADAPTER}"))).expect("a file");
    assert_eq!(run(&[]).code, 1);
}

#[test]
fn rows_without_a_common_instruction_are_asked_as_they_stand() {
    let start = QuickStart::new();
    start.train(&questions(&start, "风"));
    assert_eq!(start.work.json("out/run.json")["speak"]["instruction"], Value::Null);
    let asked = start.work.run(&["generate", "--adapter", "out", "device=cpu", "max_new_tokens=2", "松是什么？"]);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    assert!(asked.stderr.contains("share no instruction; each text is asked as it stands"), "{}", asked.stderr);
    assert!(asked.stderr.contains("instruction  –\n"), "{}", asked.stderr);
}

#[test]
fn an_early_end_is_said_everywhere() {
    let start = QuickStart::new();
    let choose = ["eval_strategy=steps", "eval_steps=1", "save_steps=1", "load_best_model_at_end=true"];
    let stop = ["early_stopping_steps=1", "max_steps=60", "learning_rate=0.1", "warmup_ratio=0", "output_dir=out"];
    let held_out = ["eval_dataset=couplets_valid"];
    let ended = start.train(&[&choose[..], &stop, &held_out].concat());
    let results = &start.work.json("out/run.json")["results"];
    let (steps, best) = (&results["steps"], &results["adapter_step"]);
    assert!(steps.as_u64() < Some(60), "it learns too well for this test: {results}");
    assert_eq!((&results["total_steps"], &results["stopped_early"]), (&json!(60), &json!(true)));
    assert_eq!(*best, start.work.json("out/trainer_state.json")["best_global_step"]);
    for said in
        [format!("; stopped early after step {steps} of 60"), format!("that of step {best}, the best (eval_loss ")]
    {
        assert!(ended.stderr.contains(&said), "{said}: {}", ended.stderr);
    }
    let card = start.work.read("out/README.md");
    assert!(card.contains(&format!("Stopped early after step {steps} of 60: ")), "{card}");
    assert!(card.contains(&format!("The adapter is that of step {best}, the best evaluation (`eval_loss` ")), "{card}");
}

/// Ten steps that throw the model away, told by what was measured before and after alone.
#[test]
fn a_run_that_diverged_is_called_that_and_its_adapter_is_warned_of() {
    let start = QuickStart::new();
    let wild =
        ["eval_dataset=couplets_valid", "max_steps=10", "learning_rate=1000", "warmup_ratio=0", "output_dir=out"];
    let ended = start.train(&[&wild[..], &["lr_scheduler_type=constant"]].concat());
    let verdict = "\nverdict        diverged: the held-out loss went from ";
    assert!(ended.stderr.contains(verdict), "{}", ended.stderr);
    assert!(!ended.stderr.contains("overfitting") && !ended.stderr.contains("stable"), "{}", ended.stderr);
    let checked = start.work.run(&["adapter", "check", "out"]);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert!(
        checked.stdout.contains("\nwarning   the run diverged: its run.json has a held-out loss of "),
        "{}",
        checked.stdout
    );
}

#[test]
fn an_unfinished_run_starts_again() {
    let start = QuickStart::new();
    start.train(&["output_dir=out"]);
    let whole = start.adapter("out");
    let mut receipt = start.work.json("out/run.json");
    receipt["status"] = json!("running");
    start.work.write("out/run.json", receipt.to_string());
    start.work.write(&format!("out/{ADAPTER}"), "half of it");
    start.work.write("out/notes.txt", "mine");
    for checkpoint in std::fs::read_dir(start.work.path("out")).expect("a folder").flatten() {
        if checkpoint.path().is_dir() {
            std::fs::remove_dir_all(checkpoint.path()).expect("a removed checkpoint");
        }
    }
    let ended = start.train(&["output_dir=out"]);
    assert!(ended.stderr.contains("note: the run that began here left no checkpoint"), "{}", ended.stderr);
    assert_eq!(start.adapter("out"), whole);
    assert_eq!(start.work.json("out/run.json")["status"], "complete");
    assert_eq!(start.work.read("out/notes.txt"), "mine", "a stranger's file stays");
}

#[test]
fn results_of_another_program_are_not_touched() {
    let start = QuickStart::new();
    start.work.write(&format!("out/{ADAPTER}"), "theirs");
    let before = start.state("out");
    let ended = start.run(&["output_dir=out"]);
    assert_eq!(ended.code, 2);
    let want = "error: out: holds another program's files (adapter_model.safetensors)\n\
                hint: choose another `output_dir`, or replace them with `overwrite_output_dir=true`\n";
    assert_eq!(ended.stderr, want);
    assert!(start.state("out") == before);
}

#[test]
fn flags_and_locale_choose_what_is_said() {
    let start = QuickStart::new();
    let said = |dir: &str, flags: &[&str], env: &[(&str, &str)]| {
        let dir = format!("output_dir={dir}");
        start.work.train_with(&start.args(&[&["recipe.toml"], flags].concat(), &[&dir]), env).stderr
    };
    assert_eq!(said("quiet", &["-q"], &[]), "");
    let none = said("none", &["--progress", "none"], &[]);
    assert!(none.starts_with("model  ") && none.contains("\ndone ") && !none.contains("step 1/2"), "{none}");
    let verbose = said("verbose", &["-v"], &[("NO_COLOR", "1")]);
    assert!(verbose.contains("step 1/2") && verbose.contains("grad_norm"), "{verbose}");
    let chinese = said("zh", &[], &[("COUPLET_TRAIN_LANG", "zh")]);
    for (label, line) in [("模型", "模型    "), ("steps", "步 1/2  轮次 "), ("done", "完成"), ("next", "下一步")]
    {
        assert!(chinese.contains(line), "{label}: {chinese}");
    }
    let locale = start.work.run_with(&start.args(&["recipe.toml"], &["output_dir=zh"]), &[("LANG", "zh_CN.UTF-8")]);
    assert!(locale.stderr.contains("此训练已完成"), "{}", locale.stderr);
    let wrong = start.work.run_with(&["recipe.toml", "lora_rnak=8"], &[("LC_ALL", "zh_CN.UTF-8")]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.stderr.starts_with("错误：") && wrong.stderr.contains("提示：是否想写 `lora_rank`？"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn raw_pairs_become_rows_and_are_trained() {
    let start = QuickStart::new();
    start.work.write("configs/tiny_couplets.toml", start.work.read("recipe.toml"));
    let registry = r#"{"mine": {"file_name": "mine.json"}}"#;
    start.work.write("data/dataset_info.json", registry);
    start
        .work
        .write("pairs.txt", "海内存知己 天涯若比邻\n两个黄鹂鸣翠柳\t一行白鹭上青天\n\n无边落木萧萧下 不尽长江滚滚来\n");
    let prepared = start.work.run(&["data", "prepare", "pairs.txt"]);
    assert_eq!((prepared.code, prepared.stderr.as_str()), (0, ""));
    insta::assert_snapshot!("prepared", prepared.stdout);
    let row = |first: &str, second: &str| json!({"instruction": couplet_train::dataset::prepare::DEFAULT_INSTRUCTION, "input": first, "output": second});
    let rows = [
        row("海内存知己", "天涯若比邻"),
        row("两个黄鹂鸣翠柳", "一行白鹭上青天"),
        row("无边落木萧萧下", "不尽长江滚滚来"),
    ];
    assert_eq!(start.work.json("data/pairs.json"), json!(rows));
    assert_eq!(start.work.json("data/dataset_info.json")["mine"]["file_name"], "mine.json", "other entries stay");
    let piped = start.work.run_with_input(&["data", "prepare", "-", "--name", "piped"], &start.work.read("pairs.txt"));
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    assert_eq!(start.work.json("data/piped.json"), json!(rows), "of standard input");
    #[cfg(unix)]
    {
        use std::{io::Write, os::unix::net::UnixStream};
        let (theirs, mut ours) = UnixStream::pair().expect("two sockets");
        ours.write_all(start.work.read("pairs.txt").as_bytes()).expect("they hold it");
        drop(ours);
        let socket = std::os::fd::OwnedFd::from(theirs).into();
        let piped = start.work.run_from(&["data", "prepare", "-", "--name", "socket"], socket);
        assert_eq!(piped.code, 0, "{}", piped.stderr);
        assert_eq!(start.work.json("data/socket.json"), json!(rows), "of a socket");
    }

    // The command it printed, on the shipped model.
    let command = prepared.stdout.lines().last().expect("a command");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    start.work.train(&[&words[..], &[&start.model, "max_steps=2", "device=cpu"]].concat());
    let receipt = start.work.json("outputs/pairs/run.json");
    let rows = ["train", "eval"].map(|split| receipt["data"][split]["rows"].as_u64());
    assert_eq!(rows, [Some(3), Some(0)]);
    assert_eq!(receipt["speak"]["instruction"]["text"], couplet_train::dataset::prepare::DEFAULT_INSTRUCTION);

    // `--output` is the older name of `--out`.
    let again = start.work.run(&["data", "prepare", "pairs.txt", "--output", "data"]);
    assert_eq!(again.code, 2);
    let want =
        "error: data/pairs.json: exists already\nhint: choose another name (--name), or replace it (--overwrite)\n";
    assert_eq!(again.stderr, want);
    let chinese = [("LANG", "zh_CN.UTF-8")];
    let replaced = start.work.run_with(&["data", "prepare", "pairs.txt", "--overwrite"], &chinese);
    assert!(replaced.code == 0 && replaced.stdout.contains("3 行 → data/pairs.json"), "{}", replaced.stdout);
}

/// Neither would be heard of otherwise.
#[cfg(unix)]
#[test]
fn a_signal_to_who_has_written_nothing_is_answered() {
    let work = Workspace::new();
    for args in [&["data", "prepare", "in.txt"][..], &["plan", "in.toml"]] {
        let pipe = args[args.len() - 1];
        let ended = work.interrupted(args, pipe, "");
        let want = (130, "", "stopped by SIGINT: nothing was written\n");
        assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), want, "{args:?}");
        std::fs::remove_file(work.path(pipe)).expect("a pipe");
    }
    assert_eq!(std::fs::read_dir(work.dir()).expect("a folder").count(), 0);
}

#[test]
fn a_preparation_whose_reader_leaves_is_no_error() {
    let work = Workspace::new();
    work.write("pairs.txt", "海内存知己 天涯若比邻\n");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_couplet-train"));
    command.args(["data", "prepare", "pairs.txt"]).current_dir(work.dir());
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
    assert!(work.path("data/pairs.json").is_file());
}

/// What a user has: another script, other punctuation, repeats, half a couplet; and everything that can be asked for.
#[test]
fn a_messy_file_is_cleaned_and_every_loss_is_said() {
    let work = Workspace::new();
    let train: Vec<Value> =
        serde_json::from_slice(&std::fs::read(root().join("data/couplets_train.json")).expect("data")).expect("rows");
    let side = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let mut lines: Vec<String> =
        train.iter().take(120).map(|row| format!("{}——{}", side(row, "input"), side(row, "output"))).collect();
    lines.push("國泰民安,風調雨順——花好月圓,人壽年豐".into());
    lines.push(lines[0].clone());
    lines.push("海内存知己——海内存知己".into());
    lines.push("年年卖萌处——岁岁读书人".into());
    lines.push("天涯若比邻".into());
    lines.push("一帆风顺——万事如意A".into());
    work.write("messy.txt", lines.join("\n"));
    work.write("wordings.txt", "请对下联。\n请对下联，要工整。\n请对下联，要有意境。\n");
    let asked = ["--simplify", "--punctuation", "full", "--keep", "register", "--split", "rest/10/10"];
    let worded = ["--instruction", "wordings.txt", "--balance", "length", "--tag", "--out", "out", "--name", "mine"];
    let args = [&["data", "prepare", "messy.txt"], &asked[..], &worded[..]].concat();
    let prepared = work.run(&args);
    assert_eq!((prepared.code, prepared.stderr.as_str()), (0, ""));
    insta::assert_snapshot!("prepared_messy", prepared.stdout);
    insta::assert_snapshot!("prepared_messy_dropped", work.read("out/mine_dropped.tsv"));
    let chinese = work.run_with(&[&args[..], &["--overwrite"]].concat(), &[("COUPLET_TRAIN_LANG", "zh")]);
    insta::assert_snapshot!("prepared_messy_zh", chinese.stdout);
    let all: Vec<Value> = ["out/mine.json", "out/mine_valid.json", "out/mine_test.json"]
        .iter()
        .flat_map(|name| work.json(name).as_array().expect("rows").clone())
        .collect();
    let simplified = all.iter().find(|row| row["input"] == "国泰民安，风调雨顺").expect("the row");
    assert_eq!(simplified["output"], "花好月圆，人寿年丰");
}

/// Paths of a recipe and of a LlamaFactory config count from the working directory, not from the file.
#[test]
fn paths_are_relative_to_the_working_directory() {
    let start = QuickStart::new();
    let recipe = start.work.read("recipe.toml");
    start.work.write("configs/recipe.toml", recipe);
    copy_dir(&root().join("data/tiny_qwen3"), &start.work.path("data/tiny_qwen3"));
    for name in ["dataset_info.json", "couplets_train.json"] {
        let bytes = std::fs::read(root().join("data").join(name)).expect("shipped data");
        start.work.write(&format!("data/{name}"), bytes);
    }
    let small =
        ["max_steps=1", "warmup_ratio=0", "max_samples=4", "eval_strategy=no", "eval_dataset=null", "device=cpu"];
    start.work.train(&[&["configs/recipe.toml"], &small[..]].concat());
    assert!(start.work.path("outputs/tiny_couplets").join(ADAPTER).is_file());
}
