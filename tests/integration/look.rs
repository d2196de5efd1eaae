//! `data show` and `data stats`: what is shown of rows is what training makes of them, and what has leaked is found.

use crate::support::{Ended, Workspace, root};
use serde_json::{Value, json};

/// A folder with a tokenizer and nothing else of a model, data, and a config in each dialect.
fn folder() -> Workspace {
    let w = Workspace::new();
    let tokenizer = std::fs::read(root().join("data/tiny_qwen3/tokenizer.json")).expect("the tokenizer");
    std::fs::create_dir_all(w.path("model")).expect("a folder");
    std::fs::create_dir_all(w.path("data")).expect("a folder");
    w.write("model/tokenizer.json", tokenizer);
    let row = |input: &str, output: &str| json!({"instruction": "对下联", "input": input, "output": output});
    let rows = |rows: &[(&str, &str)]| Value::from(rows.iter().map(|(a, b)| row(a, b)).collect::<Vec<_>>()).to_string();
    w.write(
        "data/train.json",
        rows(&[
            ("海内存知己", "天涯若比邻"),
            ("白日依山尽", "黄河入海流"),
            ("海内存知己", "天涯若比邻"),
            ("白日依山尽", "明月照人来"),
            ("两个黄鹂鸣翠柳", "一行白鹭上青天"),
            ("春风，得意人", "秋月，无边夜"),
        ]),
    );
    w.write(
        "data/valid.json",
        rows(&[("千山鸟飞绝", "万径人踪灭"), ("海内存知己", "天涯若比邻"), ("白日依山近", "万里送行舟")]),
    );
    w.write("data/test.json", rows(&[("两个黄鹂鸣翠竹", "一行白鹭上青天"), ("孤帆远影碧空尽", "一行白鹭上青天")]));
    w.write(
        "data/dataset_info.json",
        json!({"train": {"file_name": "train.json"}, "valid": {"file_name": "valid.json"}, "test": {"file_name": "test.json"}})
            .to_string(),
    );
    w.write(
        "run.toml",
        "[model]\nmodel_name_or_path = \"model\"\n[data]\ndataset = [\"train\"]\neval_dataset = [\"valid\"]\n\
         test_dataset = [\"test\"]\ncutoff_len = 64\n[train]\nper_device_train_batch_size = 3\ngradient_accumulation_steps = 1\n\
         [output]\noutput_dir = \"out\"\n",
    );
    w.write(
        "run.yaml",
        "model_name_or_path: model\nstage: sft\ndo_train: true\ndataset: train\neval_dataset: valid\ntemplate: qwen3\n\
         cutoff_len: 20\noutput_dir: out\nfinetuning_type: lora\n",
    );
    w
}

/// What a command prints; it must succeed.
fn printed(w: &Workspace, args: &[&str]) -> String {
    let Ended { code, stdout, stderr } = w.run(args);
    assert_eq!(code, 0, "{args:?}: {stderr}");
    stdout
}

fn json_lines(w: &Workspace, args: &[&str]) -> Vec<Value> {
    printed(w, args).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_row_is_shown_as_it_is_trained() {
    let w = folder();
    insta::assert_snapshot!("show", printed(&w, &["data", "show", "run.toml"]));
    let chinese =
        w.run_with(&["data", "show", "run.toml", "--row", "2", "--split", "valid"], &[("COUPLET_TRAIN_LANG", "zh")]);
    insta::assert_snapshot!("show_zh", chinese.stdout);
    insta::assert_snapshot!("show_cut", printed(&w, &["data", "show", "run.yaml", "--row", "5"]));
}

#[test]
fn what_is_shown_is_what_is_tokenised() {
    let w = folder();
    let rows = json_lines(&w, &["data", "show", "run.yaml", "--rows", "1..3", "--json"]);
    let places: Vec<(&str, u64)> =
        rows.iter().map(|row| (row["split"].as_str().unwrap(), row["row"].as_u64().unwrap())).collect();
    assert_eq!(places, [("train", 1), ("train", 2), ("train", 3), ("valid", 1), ("valid", 2), ("valid", 3)]);

    let data = couplet_train::config::DataConfig {
        dataset: vec!["train".into()],
        dataset_dir: w.path("data"),
        enable_thinking: Some(true),
        cutoff_len: 20,
        over_length: couplet_train::config::OverLength::Truncate,
        ..couplet_train::testing::data_config()
    };
    let tokenizer = couplet_train::dataset::Tokenizer::load(&w.path("model")).unwrap();
    let splits = couplet_train::dataset::load(&data, 42, &tokenizer).unwrap();
    for (row, want) in rows.iter().zip(&splits.train).take(3) {
        assert_eq!(row["input_ids"], json!(want.input_ids));
        let labels = want.labels().into_iter().map(|label| if label == u32::MAX { -100 } else { i64::from(label) });
        assert_eq!(row["labels"], json!(labels.collect::<Vec<_>>()));
        assert_eq!(row["learned"], json!(want.label_count()));
        assert_eq!(row["shared"], json!(splits.summary.common_prefix));
        let stretches = row["stretches"].as_array().unwrap();
        let text: String = stretches.iter().map(|stretch| stretch["text"].as_str().unwrap()).collect();
        let (first, second) = [("海内存知己", "天涯若比邻"), ("白日依山尽", "黄河入海流")][(want.origin.row + 1) % 2];
        assert_eq!(
            text,
            format!(
                "<|im_start|>user\n对下联\n{first}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{second}<|im_end|>\n"
            ),
            "nothing of the row is left out, what is cut off neither"
        );
        assert!(row["cut_off"].as_u64() > Some(0) && row["tokens"] == 20, "{row}");
    }
}

#[test]
fn data_are_named_in_several_ways() {
    let w = folder();
    let want = json_lines(&w, &["data", "show", "run.toml", "--json"]);
    for args in [
        &["data", "show", "--config", "run.toml", "--json"][..],
        &["data", "show", "--model", "model", "--data", "train", "--json"],
        &["data", "show", "--model", "model", "--data", "data/train.json", "--json"],
        &["data", "show", "run.yaml", "enable_thinking=false", "cutoff_len=64", "--json"],
    ] {
        assert_eq!(json_lines(&w, args), want, "{args:?}");
    }
    w.write("alone.json", r#"[{"instruction": "对下联", "input": "天", "output": "地"}]"#);
    let alone = json_lines(&w, &["data", "show", "--model", "model", "--data", "alone.json", "--json"]);
    assert_eq!((&alone[0]["file"], &alone[0]["learned"]), (&json!("alone.json"), &json!(3)));
    for (args, want) in [
        (&["data", "show"][..], "no config file"),
        (&["data", "stats", "--model", "model"], "no config file"),
        (&["data", "show", "run.toml", "--row", "9"], "no row 9 is read: data/train.json has rows 1 to 6"),
        (
            &["data", "show", "run.toml", "--row", "3", "--split", "train", "max_samples=2"],
            "no row 3 is read: data/train.json has rows 1 to 6, and `max_samples` ends it at row 2",
        ),
        (&["data", "show", "run.toml", "test_dataset=null", "--split", "test", "--row", "1"], "no row is tested"),
        (&["data", "show", "run.toml", "eval_dataset=null", "--split", "valid"], "no row is held out"),
        (&["data", "show", "run.toml", "--rows", "5..3"], "write the first row and the last"),
        (&["data", "show", "--model", "model", "--data", "trian"], "no data set named \"trian\""),
        (
            &["data", "show", "--model", "model", "--data", "data/trian.json"],
            "data/trian.json: does not exist; nor has ",
        ),
    ] {
        let ended = w.run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ended.stderr.contains(want), "{args:?}: {}", ended.stderr);
    }
}

/// A row that was asked for is shown in its place, also where training does without it.
#[test]
fn rows_that_are_left_out_are_told_in_their_place() {
    let w = folder();
    let row = |output: Value| json!({"instruction": "对下联", "input": "天", "output": output});
    w.write("data/train.json", json!([row(json!("地")), row(json!(null)), row(json!("海")), [1]]).to_string());
    let args = ["data", "show", "run.toml", "on_bad_row=skip", "--rows", "1..4", "--json"];
    let rows = json_lines(&w, &args);
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row["split"].as_str().unwrap(), row["row"].as_u64().unwrap(), row["left_out"].as_str()))
        .collect();
    let left_out = [("train", 2, Some("no_response")), ("train", 4, Some("not_object"))];
    assert_eq!((told[1], told[3]), (left_out[0], left_out[1]));
    assert_eq!((told.len(), told[0].2, told[4]), (4 + 3 + 2, None, ("valid", 1, None)), "and rows of valid and test");
    let text = printed(&w, &["data", "show", "run.toml", "on_bad_row=skip", "--row", "2", "--split", "train"]);
    assert_eq!(
        text,
        "data/train.json row 2 (train, training): left out (no_response): data/train.json:1:59: row 2: `output` (the \
         response) is null, not a string\n"
    );
    w.write("data/train.json", json!([row(json!(null))]).to_string());
    let text = printed(&w, &["data", "show", "run.toml", "on_bad_row=skip", "eval_dataset=null", "test_dataset=null"]);
    assert!(text.starts_with("data/train.json row 1 (train, training): left out (no_response)"), "{text}");
}

#[test]
fn data_in_numbers() {
    let w = folder();
    insta::assert_snapshot!("stats", printed(&w, &["data", "stats", "run.toml"]));
    let chinese = w.run_with(&["data", "stats", "run.toml", "cutoff_len=20"], &[("COUPLET_TRAIN_LANG", "zh")]);
    insta::assert_snapshot!("stats_zh", chinese.stdout);
    insta::assert_snapshot!("stats_json", {
        let stats: Value = serde_json::from_str(&printed(&w, &["data", "stats", "run.toml", "--json"])).unwrap();
        format!("{stats:#}")
    });
    printed(&w, &["data", "stats", "run.toml", "--plot", "lengths.png"]);
    assert!(std::fs::read(w.path("lengths.png")).unwrap().starts_with(b"\x89PNG"));
    let svg = w.run(&["data", "stats", "run.toml", "--plot", "lengths.svg"]);
    assert!(svg.code == 2 && svg.stderr.contains("lengths.svg: the picture is a PNG"), "{}", svg.stderr);
    assert!(!w.path("lengths.svg").exists());
}

/// A row that is taken several times on purpose is no repeat of itself, whichever command looks.
#[test]
fn rows_drawn_several_times_are_no_repeats() {
    let w = folder();
    let lines = |texts: &[(&str, &str)]| {
        let row =
            |(asked, answered): &(&str, &str)| json!({"instruction": "对下联", "input": asked, "output": answered});
        Value::from(texts.iter().map(row).collect::<Vec<_>>()).to_string()
    };
    w.write(
        "data/few.json",
        lines(&[("海内存知己", "天涯若比邻"), ("白日依山尽", "黄河入海流"), ("海内存知己", "天涯若比邻")]),
    );
    w.write("data/one.json", lines(&[("两个黄鹂鸣翠柳", "一行白鹭上青天")]));
    let registry = json!({"few": {"file_name": "few.json", "num_samples": 9}, "one": {"file_name": "one.json"}});
    w.write("data/dataset_info.json", registry.to_string());
    for over in [&["dataset=few"][..], &["dataset=few,one", "mix_strategy=interleave_over"]] {
        let args = [&["data", "stats", "run.toml", "eval_dataset=null", "test_dataset=null", "--json"], over].concat();
        let stats: Value = serde_json::from_str(&printed(&w, &args)).unwrap();
        let place = |row| json!({"file": "data/few.json", "row": row});
        assert_eq!(stats["doubles"], json!([{"row": place(3), "first": place(1)}]), "{over:?}");
        assert_eq!((&stats["alike"]["rows"], &stats["contradictions"]), (&json!(2), &json!([])), "{over:?}");
    }
}

#[test]
fn nothing_in_a_data_file_speaks_to_the_terminal() {
    let w = folder();
    let (asked, answered) = ("天\u{1b}[2J\r\u{9b}1m", "地\u{7}\t\u{85}月");
    let column = "x\u{1b}]0;owned\u{7}\u{9b}2J\nnote: all is well";
    let rows = json!([{"instruction": "对\u{1b}下联", "input": asked, "output": answered, column: "y"}]);
    w.write("alone.json", rows.to_string());
    let args = ["data", "show", "--model", "model", "--data", "alone.json"];
    let text = printed(&w, &args);
    for part in ["对<1B>下联⏎", "天<1B>[2J␍<9B>1m", "地<07>⇥<85>月"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let stats = printed(&w, &["data", "stats", "--model", "model", "--data", "alone.json"]);
    for text in [text, stats] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
    let model = format!("model_name_or_path={}", root().join("data/tiny_qwen3").display());
    w.write("pairs.csv", format!("上联,下联,{}\n海内存知己,天涯若比邻,y\n", column.replace('\n', " ")));
    for args in [
        &args[..],
        &["data", "stats", "--model", "model", "--data", "alone.json"],
        &[
            "plan",
            "run.toml",
            &model,
            "dataset=alone.json",
            "eval_dataset=null",
            "test_dataset=null",
            "warmup_ratio=0",
            "device=cpu",
            "--no-probe",
        ],
        &["data", "prepare", "pairs.csv", "--out", "out", "--split", "none"],
    ] {
        let Ended { stdout, stderr, .. } = w.run(args);
        let told = stdout + &stderr;
        assert!(told.contains("owned"), "the column is named: {told:?}");
        assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
        assert!(!told.contains("\nnote: all is well"), "{told}");
    }
    let row = &json_lines(&w, &[&args[..], &["--json"]].concat())[0];
    let stretches = row["stretches"].as_array().unwrap();
    let whole: String = stretches.iter().map(|stretch| stretch["text"].as_str().unwrap()).collect();
    assert!(whole.contains(asked) && whole.contains(answered), "JSON has them as they are: {whole:?}");
}

#[test]
fn a_run_says_what_has_leaked() {
    let w = folder();
    let model = format!("model_name_or_path={}", root().join("data/tiny_qwen3").display());
    let ended = w.run(&["run.toml", &model, "max_steps=1", "warmup_ratio=0", "device=cpu"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let line = |start: &str| ended.stderr.lines().find(|line| line.contains(start)).unwrap_or_default().to_owned();
    assert_eq!(
        line("leaks"),
        "leaks     of 3 held-out rows 1 equal a training row, 1 have a line one character from one's; the first: \
         data/valid.json row 2, like data/train.json row 1"
    );
    assert!(line("2 test rows").ends_with("the first: data/test.json row 1, like data/train.json row 5"));
    let chinese = [("COUPLET_TRAIN_LANG", "zh")];
    let ended =
        w.run_with(&["run.toml", &model, "max_steps=1", "warmup_ratio=0", "device=cpu", "output_dir=zh"], &chinese);
    let told = ended.stderr.lines().find(|line| line.starts_with("泄漏")).unwrap_or_default();
    assert!(
        told.contains("of 3 held-out rows 1 equal a training row"),
        "values of the header read the same in both languages: {told}"
    );
    let receipt = w.json("out/run.json");
    let leaks = &receipt["data"]["leaks"];
    assert_eq!((&leaks[0]["of"], &leaks[0]["rows"], &leaks[0]["equal"]), (&json!("eval"), &json!(3), &json!(1)));
    assert_eq!((&leaks[1]["of"], &leaks[1]["one_character"]), (&json!("test"), &json!(1)));
    assert_eq!(leaks[0]["found"][0]["train"], json!({"file": "data/train.json", "row": 1}));
    let card = w.read("out/README.md");
    assert!(card.contains("Leaks: of 3 held-out rows 1 equal a training row"), "{card}");
}

#[test]
fn what_prepare_keeps_for_its_shape_is_a_couplet_in_the_numbers() {
    let w = folder();
    w.write("pairs.txt", "读《离骚》 饮浊酒\n海内存知己 天涯若比邻\n");
    printed(&w, &["data", "prepare", "pairs.txt", "--out", "prepared"]);
    let args = ["data", "stats", "--model", "model", "--data", "prepared/pairs.json", "--json"];
    let stats = &json_lines(&w, &args)[0];
    let shapes = json!([{"characters": [3], "rows": 1}, {"characters": [5], "rows": 1}]);
    assert_eq!(stats["couplets"], json!({"rows": 2, "shapes": shapes}));
}

/// Shipped couplets, and to every one of some another that is like it: by a character on either side, by a line, mirrored, and cut
/// to lines of three characters and fewer.
fn shipped_with_near_duplicates(rows: usize) -> Vec<[String; 2]> {
    let shipped: Vec<Value> =
        serde_json::from_slice(&std::fs::read(root().join("data/couplets_train.json")).unwrap()).unwrap();
    let side = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let mut all: Vec<[String; 2]> =
        shipped.iter().take(rows).map(|row| [side(row, "input"), side(row, "output")]).collect();
    let other = |line: &str, at: usize| -> String {
        line.chars().enumerate().map(|(i, c)| if i == at { if c == '云' { '烟' } else { '云' } } else { c }).collect()
    };
    let first = |line: &str, count: usize| line.chars().take(count).collect::<String>();
    for at in 0..rows {
        let [upper, lower] = all[at].clone();
        let (near_upper, near_lower) = (other(&upper, at % 4), other(&lower, at % 3));
        let another = all[at + 1..rows].iter().find(|[a, _]| a.chars().count() == upper.chars().count());
        let [another_upper, another_lower] = another.unwrap_or(&all[at]).clone();
        all.push(match at % 8 {
            0 => [near_upper, lower],
            1 => [near_upper, another_lower],
            2 => [upper, another_lower],
            3 => [another_upper, lower],
            4 => [another_upper, near_lower],
            5 => [near_lower, near_upper],
            6 => [first(&upper, 1 + at / 8 % 4), first(&lower, 1 + at / 8 % 4)],
            _ => continue,
        });
    }
    all
}

/// What is split belongs together by the same measure that tells what has leaked.
#[test]
fn what_prepare_splits_does_not_leak() {
    use couplet_train::dataset::near;
    let w = Workspace::new();
    let rows = shipped_with_near_duplicates(1600);
    w.write("pairs.txt", rows.iter().map(|[a, b]| format!("{a} {b}\n")).collect::<String>());
    let pairs: Vec<near::Pair> = rows.iter().map(|[a, b]| [a.as_str(), b]).collect();
    let careless = near::leaks(&pairs[..1600], &pairs[1600..]);
    for likeness in [near::Likeness::OneCharacter, near::Likeness::SharedLine, near::Likeness::NearLine] {
        assert!(careless.iter().any(|leak| leak.likeness == likeness), "{likeness:?} is among them");
    }
    printed(&w, &["data", "prepare", "pairs.txt", "--format", "lines", "--split", "rest/200/200"]);
    w.write("c.toml", "[train]\neval_strategy = \"no\"\n");
    let model = root().join("data/tiny_qwen3").display().to_string();
    let data =
        ["dataset=pairs", "eval_dataset=pairs_valid", "test_dataset=pairs_test", "dataset_dir=data", "output_dir=o"];
    let args = [&["data", "stats", "--json", "--config", "c.toml", "--model", &model][..], &data].concat();
    let stats = &json_lines(&w, &args)[0];
    assert!(stats["alike"]["rows"].as_u64() > Some(500), "{}", stats["alike"]);
    for (leaks, of) in [(&stats["leaks"][0], "eval"), (&stats["leaks"][1], "test")] {
        assert_eq!((&leaks["of"], &leaks["rows"], &leaks["found"]), (&json!(of), &json!(200), &json!([])));
    }
}

#[test]
fn nothing_has_leaked_into_the_shipped_data() {
    let w = Workspace::new();
    let model = root().join("data/tiny_qwen3").display().to_string();
    let dir = format!("dataset_dir={}", root().join("data").display());
    let held_out = "eval_dataset=couplets_valid,couplets_test";
    let args = ["data", "stats", "--json", "--model", &model, &dir, "dataset=couplets_train", held_out, "output_dir=o"];
    w.write("c.toml", "[train]\neval_strategy = \"no\"\n");
    let stats: Value = serde_json::from_str(&printed(&w, &[&args[..], &["--config", "c.toml"]].concat())).unwrap();
    let leaks = &stats["leaks"][0];
    assert_eq!((&leaks["rows"], &leaks["found"]), (&json!(1200), &json!([])));
    assert_eq!((&stats["doubles"], &stats["alike"]["rows"]), (&json!([]), &json!(0)));
    assert_eq!(
        stats["couplets"],
        json!({"rows": 12000, "shapes": [{"characters": [5], "rows": 6000}, {"characters": [7], "rows": 6000}]})
    );
}
