//! Every format a data set comes in, against LlamaFactory's own reading of the same files (`tests/fixtures/formats/README.md`);
//! and what becomes of rows that are not as they should be.

use crate::{
    dataset::{LfRow, assert_rows, config_of, qwen3},
    support::{Workspace, copy_dir, fixtures},
};
use couplet_train::{
    config::{DataConfig, OnBadRow, OverLength},
    dataset::{self, Example, Reason, Splits},
    error::Result,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A data set under a setting, and the rows LlamaFactory made of it.
#[derive(Deserialize)]
struct Case {
    dataset: Vec<String>,
    args: Map<String, Value>,
    #[serde(default)]
    train: Vec<LfRow>,
    #[serde(default)]
    eval: Vec<LfRow>,
    packs: Option<Vec<Vec<LfRow>>>,
}

fn data_dir() -> PathBuf {
    fixtures().join("formats/data")
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(fixtures().join("formats/expected.json")).expect("the cases");
    serde_json::from_str(&text).expect("cases")
}

fn load(dir: &Path, case: &Case) -> Splits {
    let names: Vec<&str> = case.dataset.iter().map(String::as_str).collect();
    dataset::load(&config_of(&case.args, dir.into(), &names), 42, qwen3()).expect("rows")
}

/// What holds of every run: read = kept + skipped, for each data set and for each split.
fn assert_counted(splits: &Splits) {
    let summary = &splits.summary;
    for file in &summary.files {
        assert_eq!(file.read, file.kept + file.skipped, "{}", file.name);
        assert_eq!(file.skipped, file.reasons.iter().map(|skips| skips.rows).sum::<usize>(), "{}", file.name);
    }
    for (split, rows) in [(&summary.train, &splits.train), (&summary.eval, &splits.eval)] {
        assert_eq!((split.read, split.rows), (split.rows + split.skipped, rows.len()));
    }
    let read: usize = summary.files.iter().map(|file| file.read).sum();
    assert_eq!(read, summary.train.read + summary.eval.read);
}

#[test]
fn every_format_gets_llamafactorys_ids_and_labels() {
    let mut compared = 0;
    for case in cases() {
        let what = format!("{:?} {:?}", case.dataset, case.args);
        match case.dataset[0].as_str() {
            "openai" | "openai_tools" | "missing" | "parts" => continue, // these differ, see below
            name if name.contains("parquet") && !cfg!(feature = "parquet") => continue,
            _ => {}
        }
        let splits = load(&data_dir(), &case);
        assert_counted(&splits);
        let Some(packs) = &case.packs else {
            assert_rows(&splits.train, &case.train, &format!("{what}, training"));
            assert_rows(&splits.eval, &case.eval, &format!("{what}, held out"));
            compared += case.train.len() + case.eval.len();
            continue;
        };
        let got: Vec<&[Example]> = dataset::samples(&splits.train).collect();
        assert_eq!(got.len(), packs.len(), "{what}");
        got.into_iter().zip(packs).for_each(|(got, want)| assert_rows(got, want, &what));
        compared += splits.train.len();
    }
    assert!(compared > 550, "{compared} rows");
}

/// LlamaFactory adds to the system text; with the same words in the data we say the same.
#[test]
fn openais_format_differs_by_what_is_warned_about() {
    let dir = tempfile::tempdir().expect("a folder");
    copy_dir(&data_dir(), dir.path());
    for name in ["openai.json", "openai_tools.json"] {
        let path = dir.path().join(name);
        let mut rows: Value = serde_json::from_str(&fs::read_to_string(&path).expect("rows")).expect("rows");
        for row in rows.as_array_mut().expect("a list") {
            let has_tools = row["tools"].is_array(); // an empty list, too
            let messages = row["messages"].as_array_mut().expect("a list");
            let Some(first) = messages.first_mut().filter(|first| first["role"] == "system") else {
                if !has_tools {
                    messages.insert(0, json!({"role": "system", "content": "detailed thinking off"}));
                }
                continue;
            };
            let system = first["content"].as_str().expect("text").to_owned();
            let says = ["on", "off"].iter().any(|word| system.contains(&format!("detailed thinking {word}")));
            let added = match has_tools {
                true => "\n",
                false if says => "",
                false => "\ndetailed thinking off",
            };
            first["content"] = json!(system + added);
        }
        fs::write(&path, rows.to_string()).expect("a file");
    }
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.dataset[0].starts_with("openai")).collect();
    assert_eq!(cases.len(), 3);
    for case in &cases {
        let splits = load(dir.path(), case);
        assert_rows(&splits.train, &case.train, &case.dataset[0]);
        assert_counted(&splits);
        assert!(
            splits.summary.warnings[0].en.contains("LlamaFactory adds to the system text: \"detailed thinking off\"")
        );
        let plain = load(&data_dir(), case);
        assert_eq!(plain.train.len(), case.train.len());
        assert!(plain.train.iter().zip(&case.train).any(|(plain, lf)| plain.input_ids != lf.ids));
    }
}

/// pandas, which LlamaFactory reads csv with, takes `None`, `null` and `NA` for nothing and loses these rows without a word.
#[test]
fn words_of_a_csv_file_are_words() {
    let cases = cases();
    let case = cases.iter().find(|case| case.dataset == ["missing"]).expect("the case");
    let splits = load(&data_dir(), case);
    assert_eq!((case.train.len(), splits.train.len()), (1, 4));
    assert_rows(&splits.train[..1], &case.train, "the row both have");
    let answer = qwen3().decode(&splits.train[1].input_ids, true).expect("text");
    assert!(answer.ends_with("\nNone\n"), "{answer}");
}

/// LlamaFactory takes the files of a folder as the file system lists them: no order to rely on.
#[test]
fn files_of_a_folder_come_by_name() {
    let cases = cases();
    let case = cases.iter().find(|case| case.dataset == ["parts"]).expect("the case");
    let splits = load(&data_dir(), case);
    let sorted = |mut rows: Vec<Vec<u32>>| {
        rows.sort();
        rows
    };
    assert_eq!(
        sorted(splits.train.iter().map(|row| row.input_ids.clone()).collect()),
        sorted(case.train.iter().map(|row| row.ids.clone()).collect())
    );
    let file = &splits.summary.files[0];
    let places: Vec<_> = (1..=5)
        .map(|row| (Path::new(file.place(row).0).file_name().expect("a name").to_owned(), file.place(row).1))
        .collect();
    assert_eq!(
        places,
        [
            ("a.json".into(), 1),
            ("b.jsonl".into(), 1),
            ("b.jsonl".into(), 2),
            ("c.json".into(), 1),
            ("c.json".into(), 2)
        ]
    );
    let first = qwen3().decode(&splits.train[0].input_ids, true).expect("text");
    assert!(first.contains("大陆"), "{first}");
}

/// A folder with `rows` as `rows.json` (or under another name), registered as `rows`.
struct Set(tempfile::TempDir);

impl Set {
    fn new(file_name: &str, bytes: impl AsRef<[u8]>, entry: Value) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(file_name), bytes).expect("a file");
        let mut entry = entry;
        entry["file_name"] = json!(file_name);
        fs::write(dir.path().join("dataset_info.json"), json!({"rows": entry}).to_string()).expect("a file");
        Self(dir)
    }

    fn load(&self, change: impl FnOnce(&mut DataConfig)) -> Result<Splits> {
        let mut data = DataConfig {
            dataset: vec!["rows".into()],
            dataset_dir: self.0.path().into(),
            ..couplet_train::testing::data_config()
        };
        change(&mut data);
        dataset::load(&data, 42, qwen3())
    }

    fn digest(&self) -> String {
        self.load(|_| {}).expect("rows").summary.digest
    }
}

fn row(input: &str, output: &str) -> String {
    json!({"instruction": "对", "input": input, "output": output}).to_string()
}

#[test]
fn packed_files_hold_the_same_rows() {
    for (name, packed) in [("alpaca.jsonl", "alpaca.jsonl.gz"), ("rows.csv", "rows.csv.gz")] {
        let [plain, packed] =
            [name, packed].map(|name| Set::new(name, fs::read(data_dir().join(name)).expect("a file"), json!({})));
        let digest = |set: &Set| set.load(|data| data.on_bad_row = OnBadRow::Skip).expect("rows").summary.digest;
        assert_eq!(digest(&plain), digest(&packed), "{name}");
    }
    let tsv = Set::new("rows.tsv", fs::read(data_dir().join("rows.tsv")).expect("a file"), json!({}));
    let json = Set::new("rows.json", format!("[{}, {}]", row2("天", "地"), row2("雨", "风")), json!({}));
    assert_eq!(tsv.digest(), json.digest());
}

fn row2(input: &str, output: &str) -> String {
    json!({"instruction": "对下联", "input": input, "output": output}).to_string()
}

/// F20: what editors and systems do to a file.
#[test]
fn a_byte_order_mark_and_line_ends_change_nothing_and_other_encodings_are_placed() {
    let rows = [row("天", "地\u{feff}"), row("雨１２", "e\u{301}\u{200f}👨\u{200d}👩\u{200d}👧\t\r\n\0")];
    let plain = format!("[\n{},\n{}\n]\n", rows[0], rows[1]);
    let lines = format!("{}\n{}\n", rows[0], rows[1]);
    let csv = "instruction,input,output\n对,天,\"地\u{feff}\"\n对,雨１２,\"e\u{301}\u{200f}👨\u{200d}👩\u{200d}👧\t\r\n\0\"\n";
    let csv_windows = csv.replace("\u{feff}\"\n", "\u{feff}\"\r\n").replace("output\n", "output\r\n");
    let want = Set::new("rows.json", &plain, json!({})).digest();
    for (name, text, why) in [
        ("rows.json", format!("\u{feff}{plain}"), "a byte order mark"),
        ("rows.json", plain.replace('\n', "\r\n"), "CRLF"),
        ("rows.json", format!("\u{feff}{}", plain.replace('\n', "\r\n")), "both"),
        ("rows.jsonl", lines.clone(), "JSON Lines"),
        (
            "rows.jsonl",
            format!("\u{feff}{}", lines.replace('\n', "\r\n\r\n")),
            "JSON Lines of Windows, with blank lines",
        ),
        ("rows.jsonl", lines.trim_end().into(), "no last line end"),
        ("rows.csv", csv.into(), "csv"),
        ("rows.csv", format!("\u{feff}{csv_windows}"), "csv of Windows"),
    ] {
        assert_eq!(Set::new(name, text, json!({})).digest(), want, "{why}");
    }

    let utf16 = |bytes: fn(u16) -> [u8; 2]| {
        [0xfeff].into_iter().chain(plain.encode_utf16()).flat_map(bytes).collect::<Vec<u8>>()
    };
    let at_the_start = format!("not UTF-8 at byte {} (line 3, row 3)", lines.len());
    let behind = format!("not UTF-8 at byte {} (line 3, row 3)", lines.len() + 15);
    for (name, bytes, want) in [
        ("rows.json", utf16(u16::to_le_bytes), "not UTF-8 at byte 0 (line 1, row 1): it looks like UTF-16"),
        ("rows.json", utf16(u16::to_be_bytes), "not UTF-8 at byte 0 (line 1, row 1): it looks like UTF-16"),
        ("rows.json", b"[\n{\"output\": \"\xb5\xd8\"}]".to_vec(), "not UTF-8 at byte 14 (line 2, row 1)"),
        ("rows.jsonl", [lines.as_bytes(), b"{\"output\": \"caf\xe9\"}"].concat(), behind.as_str()),
        ("rows.jsonl", [lines.as_bytes(), b"\xff"].concat(), at_the_start.as_str()),
        ("rows.json", b"[\n{\"output\": \"\"},\n\xb5\xd8]".to_vec(), "not UTF-8 at byte 18 (line 3, row 2)"),
        ("rows.json", b"[\xb5\xd8]".to_vec(), "not UTF-8 at byte 1 (line 1, row 1)"),
        ("rows.csv", b"instruction,\xd7\xf7\na,b\n".to_vec(), "not UTF-8 at byte 12 (line 1, the header)"),
        ("rows.csv", b"instruction,output\na,b\nc,\xd7\xf7\n".to_vec(), "not UTF-8 at byte 25 (line 3, row 2)"),
        ("rows.csv", b"instruction,output\na,b\n\xd7\xf7,c\n".to_vec(), "not UTF-8 at byte 23 (line 3, row 2)"),
        (
            "rows.json",
            b"[{\"output\": \"\\ud83d\"}]".to_vec(),
            "rows.json:1:20: row 1 is not valid JSON: unexpected end of hex escape",
        ),
        (
            "rows.json",
            b"[{\"output\": \"a\0b\"}]".to_vec(),
            "rows.json:1:15: row 1 is not valid JSON: control character (\\u0000-\\u001F) found while parsing a string",
        ),
        ("rows.json", b"[{\"output\": \"a\xed\xa0\x80\"}]".to_vec(), "not UTF-8 at byte 14 (line 1, row 1)"),
        ("rows.json", vec![0; 99], "row 1: neither a JSON array of objects nor JSON Lines"),
    ] {
        let error = Set::new(name, bytes, json!({})).load(|_| {}).expect_err(want);
        assert!(error.to_string().ends_with(want), "{error}");
        assert!(error.hint_text(false).is_some() && error.hint_text(true) != error.hint_text(false), "{want}");
    }
}

/// F20: the tokenizer composes (NFC) and changes nothing else.
#[test]
fn text_survives_the_tokenizer_but_for_composition() {
    let characters = "对联，,天涯ＡＢ１２ae\u{301}\u{308}\u{1100}\u{1161}\u{11a8}👩\u{200d}🚀\u{fe0f}\u{200f}\u{202e}\0\t\r\n\u{1}\u{7f}\u{85}\u{2028} \u{3000}㈱𠀀\u{10ffff}\u{feff}\u{fffd}\u{e000}'s\"\\";
    let pieces = characters.chars().map(String::from).chain(["<|im_", "end|>", "<think", ">"].map(String::from));
    let pool: Vec<String> = pieces.collect();
    let mut state = 20_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for _ in 0..100_000 {
        let length = 1 + below(12);
        let text: String = (0..length).map(|_| pool[below(pool.len())].as_str()).collect();
        let ids = qwen3().encode(&text).expect("ids");
        let mut composed = tokenizers::NormalizedString::from(text.as_str());
        composed.nfc();
        assert_eq!(qwen3().decode(&ids, false).expect("text"), composed.get(), "{text:?}");
    }
}

/// F22: rows that answer or ask nothing are counted to the row, and no run learns to be silent.
#[test]
fn empty_answers_and_questions_are_counted() {
    for share in [0, 1, 10, 50, 99, 100] {
        let rows: Vec<String> = (0..100)
            .map(|n| match n < share {
                true => row(&format!("第{n}"), ["", " \n", "\u{3000}"][n % 3]),
                false => json!({"instruction": " ", "input": "", "output": format!("{n}")}).to_string(),
            })
            .collect();
        let set = Set::new("rows.jsonl", rows.join("\n"), json!({}));
        if share == 100 {
            let error = set.load(|_| {}).expect_err("refused");
            assert!(error.to_string().starts_with("every response is empty or blank, first "), "{error}");
            continue;
        }
        let file = set.load(|_| {}).expect("rows").summary.files.remove(0);
        assert_eq!((file.empty_responses, file.empty_questions, file.kept), (share, 100 - share, 100));
    }
}

/// F24: the text of every added token in every field has LlamaFactory's ids (in the table above), and is counted.
#[test]
fn rows_with_control_tokens_are_counted() {
    let cases = cases();
    let case = cases.iter().find(|case| case.dataset == ["control"]).expect("the case");
    let splits = load(&data_dir(), case);
    // 26 added tokens, six of them tags of thoughts and tools; five rows each, and one where the token is torn.
    assert_eq!((splits.train.len(), splits.summary.files[0].control_rows), (26 * 6, 20 * 5));
    assert!(splits.summary.warnings.iter().any(|warning| warning.en.contains("as in LlamaFactory: 100, first ")));
}

/// F25: of a row without end no more is held than the limit.
#[test]
fn a_row_that_is_too_large_is_an_error() {
    let large =
        Set::new("rows.json", format!("[{}, {}]", row("天", "地"), row("长", &"长".repeat(6 << 20))), json!({}));
    let error = large.load(|_| {}).expect_err("too large");
    assert!(error.to_string().ends_with("rows.json:1:54: row 2 is longer than 16 MB"), "{error}");
}

/// F26: repeats are counted to the row; where rows stand decides nothing but their order.
#[test]
fn repeated_rows_are_reported() {
    let rows: Vec<String> = (0..30).map(|n| row(&format!("第{}", n % 20), "对")).collect();
    let set = Set::new("rows.jsonl", rows.join("\n"), json!({}));
    let summary = set.load(|_| {}).expect("rows").summary;
    assert_eq!((summary.repeated, summary.leaks), (10, vec![]));
    let told = &summary.warnings.last().expect("a warning").en;
    assert!(told.starts_with("training rows that are the same as an earlier one: 10, first "), "{told}");
    assert!(told.ends_with("rows.jsonl row 1") && told.contains("rows.jsonl row 21, as "), "{told}");

    let held_out = set.load(|data| data.val_size = 15.0).expect("rows");
    let trained: Vec<&[u32]> = held_out.train.iter().map(|row| row.input_ids.as_slice()).collect();
    let leaked = held_out.eval.iter().filter(|row| trained.contains(&row.input_ids.as_slice())).count();
    assert!(leaked > 0);
    assert_eq!(held_out.summary.leaks[0].equal, leaked);

    let reversed: Vec<&str> = rows.iter().rev().map(String::as_str).collect();
    let reversed = Set::new("rows.jsonl", reversed.join("\n"), json!({})).load(|_| {}).expect("rows");
    let mut ids: Vec<_> = reversed.train.iter().map(|row| &row.input_ids).collect();
    ids.reverse();
    assert_eq!(ids, set.load(|_| {}).expect("rows").train.iter().map(|row| &row.input_ids).collect::<Vec<_>>());
}

#[test]
fn bad_rows_are_refused_or_left_out_and_counted() {
    let rows = [
        row("天", "地"),
        json!({"instruction": "对", "input": "雨"}).to_string(),
        "{".into(),
        row("山", "水"),
        row("长", &"长".repeat(99)),
    ];
    let set = Set::new("rows.jsonl", rows.join("\n"), json!({}));
    let with = |on_bad_row| {
        set.load(|data| {
            (data.on_bad_row, data.over_length, data.cutoff_len) = (on_bad_row, OverLength::Drop, 64);
        })
    };
    let error = with(OnBadRow::Error).expect_err("a bad row");
    assert!(error.to_string().ends_with("rows.jsonl:2:1: row 2: `output` (the response) is missing"), "{error}");
    assert!(error.hint_text(false).expect("a hint").ends_with("on_bad_row=skip leaves such rows out and counts them"));
    let error = with(OnBadRow::LlamaFactory).expect_err("a bad row");
    assert!(error.to_string().contains("rows.jsonl:3:1: row 3 is not valid JSON"), "{error}");

    let skipped = with(OnBadRow::Skip).expect("rows");
    assert_counted(&skipped);
    let file = &skipped.summary.files[0];
    let reasons: Vec<_> = file.reasons.iter().map(|skips| (skips.reason, skips.rows)).collect();
    assert_eq!(reasons, [(Reason::NoResponse, 1), (Reason::NotJson, 1), (Reason::TooLong, 1)]);
    assert!(file.reasons[2].first[0].contains("rows.jsonl: row 5: "), "{:?}", file.reasons[2].first);
    assert_eq!((file.rows, file.read, file.kept, file.skipped), (5, 5, 2, 3));
    assert_eq!(skipped.train.iter().map(|row| row.origin.row).collect::<Vec<_>>(), [1, 4]);
    let told: Vec<&str> = skipped.summary.warnings.iter().map(|warning| warning.en.as_str()).collect();
    assert!(told.iter().any(|told| told.contains("rows without a response, left out: 1, first ")), "{told:?}");

    let nothing = Set::new("rows.jsonl", "{\"instruction\": \"对\", \"output\": null}\n", json!({}));
    let error = nothing.load(|data| data.on_bad_row = OnBadRow::Skip).expect_err("nothing left");
    let path = nothing.0.path().join("rows.jsonl").display().to_string();
    let want = format!(
        "{path} (1 row: 1 without a response, first {path}:1:1: row 1: `output` (the response) is null, not a string)"
    );
    assert_eq!(error.to_string(), format!("no row is left to train on: {want}"));
}

/// The header, the receipt and the log: read = kept + skipped in each of them.
#[test]
fn a_run_says_what_became_of_its_rows() {
    let w = Workspace::of_fixture("lf_run");
    let args =
        ["train.yaml", "dataset=couplets,ragged", "test_dataset=ragged", "max_steps=2", "device=cpu", "use_cpu=null"];
    let ended = w.train(&args);
    let line = "ragged: 5 rows = 3 kept + 2 skipped (2 without a response)";
    assert_eq!(ended.stderr.matches(line).count(), 2, "trained and tested: {}", ended.stderr);
    let receipt = w.json("lf_out/run.json");
    for (set, name) in [
        (&receipt["data"]["files"][1], "ragged"),
        (&receipt["data"]["files"][0], "couplets"),
        (&receipt["test_data"]["files"][0], "ragged"),
    ] {
        let number = |key: &str| set[key].as_u64().expect(key);
        assert_eq!((set["name"].as_str(), number("read")), (Some(name), number("kept") + number("skipped")));
    }
    let log = w.read("lf_out/trainer_log.jsonl");
    let first: Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    let ragged = json!({"name": "ragged", "read": 5, "kept": 3, "skipped": 2, "reasons": {"no_response": 2}});
    assert_eq!((&first["data"][1], &first["data"][2]), (&ragged, &ragged));
    assert_eq!((&first["current_steps"], &first["percentage"]), (&json!(0), &json!(0.0)), "what viewers read");
    assert!(log.lines().skip(1).all(|line| !line.contains("\"data\"")));
}
