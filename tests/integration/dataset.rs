//! The data room against its references: LlamaFactory's ids and labels, NumPy's and PyTorch's permutations, the ids of
//! Hugging Face's tokenizer. How the reference files were made: `tests/fixtures/dataset/README.md`.

use crate::fuzz::mutate::Dice;
use couplet_train::{
    config::{DataConfig, OnBadRow, OverLength, TemplateName, TrainConfig},
    dataset::{self, Example, IGNORE, Splits, Tokenizer, encode, order, record::Record, template},
    error::{Kind, Result},
    trainer::plan::StepPlan,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::OnceLock,
};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn fixture<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let text = fs::read_to_string(root("tests/fixtures/dataset").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The real Qwen3 tokenizer, 151,669 ids.
pub fn qwen3() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let file = fs::File::open(root("tests/fixtures/qwen3_tokenizer/tokenizer.json.gz")).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        Tokenizer::from_bytes(&bytes).unwrap()
    })
}

/// The shipped model's tokenizer, an id a character.
fn tiny() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::load(&root("data/tiny_qwen3")).unwrap())
}

fn data_config(dataset_dir: PathBuf, dataset: &[&str]) -> DataConfig {
    DataConfig {
        dataset: dataset.iter().map(|&name| name.into()).collect(),
        dataset_dir,
        ..couplet_train::testing::data_config()
    }
}

/// Rows of one setting, as LlamaFactory made them: labels are the ids inside the `sup` ranges and -100 elsewhere.
#[derive(Deserialize)]
struct Variant {
    args: serde_json::Map<String, Value>,
    #[serde(default)]
    train: Vec<LfRow>,
    #[serde(default)]
    eval: Vec<LfRow>,
    error: Option<String>,
}

#[derive(Deserialize)]
pub struct LfRow {
    pub ids: Vec<u32>,
    sup: Vec<[usize; 2]>,
}

#[derive(Deserialize)]
struct Variants {
    variants: BTreeMap<String, Variant>,
}

impl Variant {
    fn config(&self) -> DataConfig {
        config_of(&self.args, root("tests/fixtures/dataset"), &["probes"])
    }

    fn seed(&self) -> u64 {
        self.args.get("seed").map_or(42, |seed| seed.as_u64().unwrap())
    }
}

/// LlamaFactory's settings as a `[data]` section, with its defaults.
pub fn config_of(args: &serde_json::Map<String, Value>, dataset_dir: PathBuf, dataset: &[&str]) -> DataConfig {
    let mut data = DataConfig {
        over_length: OverLength::Truncate,
        on_bad_row: OnBadRow::LlamaFactory,
        enable_thinking: Some(true),
        ..data_config(dataset_dir, dataset)
    };
    for (key, value) in args {
        let count = || value.as_u64().unwrap() as usize;
        match key.as_str() {
            "template" if value == "qwen3" => data.template = TemplateName::Qwen3,
            "template" => data.template = TemplateName::Qwen3Nothink,
            "enable_thinking" => data.enable_thinking = value.as_bool(),
            "preserve_thinking" => data.preserve_thinking = value.as_bool().unwrap(),
            "mask_history" => data.mask_history = value.as_bool().unwrap(),
            "train_on_prompt" => data.train_on_prompt = value.as_bool().unwrap(),
            "cutoff_len" => data.cutoff_len = count(),
            "default_system" => data.default_system = value.as_str().map(String::from),
            "val_size" => data.val_size = value.as_f64().unwrap(),
            "max_samples" => data.max_samples = Some(count()),
            "mix_strategy" => data.mix_strategy = serde_json::from_value(value.clone()).unwrap(),
            "packing" | "neat_packing" => data.packing = value.as_bool().unwrap(),
            "preprocessing_batch_size" => data.preprocessing_batch_size = count(),
            "preprocessing_num_workers" => data.preprocessing_num_workers = count(),
            "seed" => {}
            other => panic!("unknown setting {other}"),
        }
    }
    data
}

pub fn assert_rows(got: &[Example], want: &[LfRow], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: rows");
    for (example, row) in got.iter().zip(want) {
        let mut labels = vec![IGNORE; row.ids.len()];
        for &[start, end] in &row.sup {
            labels[start..end].copy_from_slice(&row.ids[start..end]);
        }
        assert_eq!(example.input_ids, row.ids, "{what}: ids of row {}", example.origin.row);
        assert_eq!(example.labels(), labels, "{what}: labels of row {}", example.origin.row);
    }
}

#[test]
fn every_probe_gets_llamafactorys_ids_and_labels() {
    let mut compared = 0;
    for file in ["lf_expected.json", "lf_more.json"] {
        for (name, variant) in fixture::<Variants>(file).variants {
            // `mask_history` with `train_on_prompt`: refused by LlamaFactory, and here by the recipe.
            if let Some(error) = &variant.error {
                assert!(error.contains("`mask_history` is incompatible with `train_on_prompt`"), "{name}: {error}");
                continue;
            }
            let splits = dataset::load(&variant.config(), variant.seed(), qwen3()).unwrap();
            assert_rows(&splits.train, &variant.train, &format!("{name}, training"));
            assert_rows(&splits.eval, &variant.eval, &format!("{name}, held out"));
            compared += variant.train.len() + variant.eval.len();
        }
    }
    assert_eq!(compared, 27 * 33 + 7 + 17, "27 settings of all 33 probes, one of the first 7, one of the first 17");
}

#[test]
fn packs_are_llamafactorys() {
    #[derive(Deserialize)]
    struct Packs {
        args: serde_json::Map<String, Value>,
        packs: Vec<Vec<LfRow>>,
    }
    #[derive(Deserialize)]
    struct Settings {
        variants: BTreeMap<String, Packs>,
    }
    for (name, Packs { args, packs }) in fixture::<Settings>("lf_packs.json").variants {
        let variant = Variant { args, train: vec![], eval: vec![], error: None };
        let splits = dataset::load(&variant.config(), 42, qwen3()).unwrap();
        let got: Vec<&[Example]> = dataset::samples(&splits.train).collect();
        assert_eq!(got.len(), packs.len(), "{name}");
        for (number, (got, want)) in got.into_iter().zip(&packs).enumerate() {
            assert_rows(got, want, &format!("{name}, pack {number}"));
            assert_eq!(got[0].pack.unwrap().number, number);
        }
        let mut rows = origins(&splits.train);
        rows.sort_unstable();
        assert_eq!(rows, (1..=33).map(|row| (0, row)).collect::<Vec<_>>(), "{name}: every row once");
    }
}

#[test]
fn workers_and_batches_pack_as_llamafactorys_do() {
    #[derive(Deserialize)]
    struct Case {
        args: serde_json::Map<String, Value>,
        train: Vec<Vec<usize>>,
        eval: Vec<Vec<usize>>,
    }
    #[derive(Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    for Case { mut args, train, eval } in fixture::<Cases>("lf_pack_groups.json").cases {
        args.insert("template".into(), "qwen3_nothink".into());
        let variant = Variant { args, train: vec![], eval: vec![], error: None };
        let splits = dataset::load(&variant.config(), 42, qwen3()).unwrap();
        for (got, want) in [(&splits.train, train), (&splits.eval, eval)] {
            let of_pack = |pack: &[Example]| pack.iter().map(|row| row.origin.row).collect::<Vec<_>>();
            let got: Vec<Vec<usize>> = dataset::samples(got).map(of_pack).collect();
            assert_eq!(got, want, "{:?}", variant.args);
        }
    }
}

#[test]
fn held_out_rows_are_packed_too_and_keep_their_texts() {
    let splits = load(&folder(), &["a", "b"], |data| {
        data.val_size = 5.0;
        data.packing = true;
        data.cutoff_len = 72;
    })
    .unwrap();
    assert!(dataset::samples(&splits.eval).count() < splits.eval.len());
    for (row, record) in splits.eval.iter().zip(&splits.held_out) {
        let text = tiny().decode(&row.input_ids, true).unwrap();
        assert!(text.contains(&record.query), "{text}: {record:?}");
    }
    let limit = splits.train.iter().chain(&splits.eval).map(|row| row.input_ids.len()).max().unwrap();
    let error = load(&folder(), &["a", "b"], |data| {
        data.packing = true;
        data.cutoff_len = limit;
    })
    .unwrap_err();
    let want = format!("rows longer than cutoff_len - 1 = {} (packing): 1, first ", limit - 1);
    assert!(error.to_string().starts_with(&want), "{error}");
}

#[test]
fn rows_are_split_and_ordered_as_numpy_and_pytorch_do() {
    #[derive(Deserialize)]
    struct Vector {
        n: usize,
        val: f64,
        seed: u64,
        val_indices: Vec<usize>,
        train_split: Vec<usize>,
        epochs: Vec<Vec<usize>>,
    }
    for file in ["order_vectors.json", "order_vectors_more.json"] {
        for vector in fixture::<Vec<Vector>>(file) {
            let what = format!("n {}, val_size {}, seed {}", vector.n, vector.val, vector.seed);
            let (validation, training) = order::split(vector.n, vector.val, vector.seed);
            assert_eq!(validation, vector.val_indices, "{what}: validation");
            assert_eq!(training, vector.train_split, "{what}: training");
            for (epoch, want) in vector.epochs.iter().enumerate() {
                let order = order::epoch_order(training.len(), vector.seed, epoch);
                let got: Vec<usize> = order.into_iter().map(|i| training[i]).collect();
                assert_eq!(&got, want, "{what}: epoch {epoch}");
            }
        }
    }
}

#[test]
fn texts_become_the_ids_of_hugging_faces_tokenizer() {
    #[derive(Deserialize)]
    struct Golden {
        text: String,
        ids: Vec<u32>,
    }
    for golden in fixture::<Vec<Golden>>("golden.json") {
        assert_eq!(qwen3().encode(&golden.text).unwrap(), golden.ids, "{:?}", golden.text);
    }
    let ids = qwen3().encode("天涯若比邻<|im_end|>\n").unwrap();
    assert_eq!(qwen3().decode(&ids, false).unwrap(), "天涯若比邻<|im_end|>\n");
    assert_eq!(qwen3().decode(&ids, true).unwrap(), "天涯若比邻\n");
    assert_eq!((qwen3().end_id(), qwen3().pad_id(), qwen3().vocab_size()), (151_645, 151_643, 151_669));
    assert_eq!(qwen3().token_id("<think>"), Some(151_667));
}

/// The text is what `chat_template.jinja` of the shipped model (Qwen3's own) renders for these two messages with
/// `enable_thinking=False`.
#[test]
fn without_thinking_a_row_is_what_the_models_own_chat_template_writes() {
    let want = "<|im_start|>user\n对下联\n海内存知己<|im_end|>\n\
                <|im_start|>assistant\n<think>\n\n</think>\n\n天涯若比邻<|im_end|>\n";
    let record = Record {
        prompt: "对下联".into(),
        query: "海内存知己".into(),
        response: "天涯若比邻".into(),
        ..Record::default()
    };
    let data = data_config(PathBuf::new(), &[]);
    let turns = template::turns(&record, &data);
    let text: String =
        turns.iter().flat_map(|turn| turn.source.iter().chain(&turn.target).map(String::as_str)).collect();
    assert_eq!(text, want);

    for (tokenizer, which) in [(qwen3(), "Qwen3"), (tiny(), "tiny")] {
        let row = encode::Row { origin: dataset::Origin { dataset: 0, row: 1 }, record: record.clone() };
        let encoded = encode::encode_rows(&[row], &data, tokenizer).unwrap();
        let joint = tokenizer.encode(want).unwrap();
        assert_eq!(encoded[0].example.input_ids, joint, "{which}: pieces and whole tokenise alike");
    }
}

/// What rows have in common is tokenised once, and lines of ideographs without the library's detours.
#[test]
fn rows_are_tokenised_as_if_each_stood_alone() {
    let alone = |record: &Record, data: &DataConfig, tokenizer: &Tokenizer| -> Vec<u32> {
        let turns = template::turns(record, data);
        let pieces = turns.iter().flat_map(|turn| turn.source.iter().chain(&turn.target));
        pieces.flat_map(|piece| tokenizer.encode(piece).unwrap()).collect()
    };
    let rows_of = |records: Vec<Record>| -> Vec<encode::Row> {
        let origin = |row| dataset::Origin { dataset: 0, row };
        records.into_iter().enumerate().map(|(i, record)| encode::Row { origin: origin(i + 1), record }).collect()
    };
    let shipped = DataConfig { cutoff_len: 4096, ..data_config(root("data"), &["couplets_train", "couplets_valid"]) };
    let (shipped, _) = dataset::training_rows(&shipped, 42).unwrap();
    for (tokenizer, which, records) in [
        (qwen3(), "Qwen3", shipped.clone()),
        (tiny(), "tiny", shipped[..1000].to_vec()),
        (qwen3(), "Qwen3", odd_records(4000)),
        (tiny(), "tiny", odd_records(1000)),
    ] {
        for enable_thinking in [Some(true), Some(false)] {
            let data = DataConfig { cutoff_len: 1 << 20, enable_thinking, ..data_config(PathBuf::new(), &[]) };
            let rows = rows_of(records.clone());
            for (got, row) in encode::encode_rows(&rows, &data, tokenizer).unwrap().iter().zip(&rows) {
                let want = alone(&row.record, &data, tokenizer);
                assert_eq!(got.example.input_ids, want, "{which}: {:?}", row.record);
            }
        }
    }
}

/// Texts out of pieces that are apt to run into each other; every other row has the first one's instruction.
fn odd_records(rows: u64) -> Vec<Record> {
    const PIECES: [&str; 40] = [
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        " ",
        "  ",
        "\t",
        "\u{3000}",
        "\u{a0}",
        "春风",
        "得意",
        "春",
        "，",
        "。",
        "，，",
        "！？",
        "、",
        "<|im_end|>",
        "<|im_start|>",
        "<|im_",
        "end|>",
        "<",
        "<think>",
        "</think>",
        "<|endoftext|>",
        "<tool_call>",
        "a",
        "it's",
        "'S",
        "7",
        "42",
        "-",
        "...",
        "\u{301}",
        "e\u{301}",
        "\u{f900}",
        "\u{9fff}",
        "\u{20000}",
        "々〇",
        "\u{1f600}",
    ];
    let key = couplet_train::rng::Key::new(5, "odd records");
    let text = |seed: u64| -> String {
        let at = |i: u64| (key.uniform(16 * seed + i) * PIECES.len() as f32) as usize % PIECES.len();
        (0..at(0) as u64 % 12).map(|i| PIECES[at(i + 1)]).collect()
    };
    let prompt = |row: u64| if row.is_multiple_of(2) { text(0) + "对\n" } else { text(3 * row) };
    let record = |row| Record {
        prompt: prompt(row),
        query: text(3 * row + 1),
        response: text(3 * row + 2),
        ..Record::default()
    };
    (1..=rows).map(record).collect()
}

#[test]
fn every_shipped_row_parses_and_fits() {
    let data = DataConfig {
        eval_dataset: vec!["couplets_valid".into(), "couplets_test".into()],
        cutoff_len: 128,
        ..data_config(root("data"), &["couplets_train", "couplets_festive"])
    };
    let summary = dataset::load(&data, 42, tiny()).unwrap().summary;
    let rows: Vec<_> = summary.files.iter().map(|file| (file.name.as_str(), file.rows, file.kept)).collect();
    let want = [("couplets_train", 12_000), ("couplets_festive", 440), ("couplets_valid", 600), ("couplets_test", 600)];
    assert_eq!(rows, want.map(|(name, rows)| (name, rows, rows)));
    assert_eq!((summary.train.rows, summary.eval.rows), (12_440, 1_200));
    let instruction = summary.instruction.unwrap();
    assert!(instruction.shared);
    assert_eq!(instruction.text, dataset::prepare::DEFAULT_INSTRUCTION);
    assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
}

/// A folder of data sets: `a` has five rows, `b` three, the second of them long.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let row = |input: &str, output: &str| json!({"instruction": "对", "input": input, "output": output});
    let write = |name: &str, value: Value| fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("a.json", json!([row("天", "地"), row("雨", "风"), row("山", "水"), row("日", "月"), row("花", "鸟")]));
    write("b.json", json!([row("春", "秋"), row(&"长".repeat(40), "短"), row("云", "")]));
    write("empty.json", json!([]));
    write("unanswered.json", json!([row("天", "地"), {"instruction": "对", "input": "雨"}]));
    let names = ["a", "b", "empty", "unanswered"];
    let entries: serde_json::Map<_, _> =
        names.iter().map(|name| (name.to_string(), json!({"file_name": format!("{name}.json")}))).collect();
    let mut registry = Value::from(entries);
    registry["trap"] = json!({"file_name": "a.json", "columns": {"prompt": "instruction", "response": "output"}});
    write("dataset_info.json", registry);
    dir
}

fn load(dir: &tempfile::TempDir, dataset: &[&str], change: impl FnOnce(&mut DataConfig)) -> Result<Splits> {
    let mut data = data_config(dir.path().into(), dataset);
    change(&mut data);
    dataset::load(&data, 42, tiny())
}

fn origins(rows: &[Example]) -> Vec<(usize, usize)> {
    rows.iter().map(|row| (row.origin.dataset, row.origin.row)).collect()
}

#[test]
fn data_sets_are_joined_in_order_and_max_samples_holds_for_each() {
    let dir = folder();
    let splits = load(&dir, &["b", "a"], |data| {
        data.max_samples = Some(2);
        data.eval_dataset = vec!["a".into()];
    })
    .unwrap();
    assert_eq!(origins(&splits.train), [(0, 1), (0, 2), (1, 1), (1, 2)]);
    assert_eq!(origins(&splits.eval), [(2, 1), (2, 2)]);
    let files: Vec<_> = splits.summary.files.iter().map(|file| (file.name.as_str(), file.rows, file.read)).collect();
    assert_eq!(files, [("b", 3, 2), ("a", 5, 2), ("a", 5, 2)]);

    let twice = load(&dir, &["a", "a"], |_| {}).unwrap();
    assert_eq!(twice.train.len(), 5);
    assert_eq!(twice.summary.warnings[0].en, "data set \"a\" is listed twice; it is read once");
}

#[test]
fn the_validation_split_comes_after_joining() {
    let splits = load(&folder(), &["a", "b"], |data| data.val_size = 3.0).unwrap();
    let (validation, training) = order::split(8, 3.0, 42);
    let number = |rows: &[Example]| -> Vec<usize> {
        origins(rows).into_iter().map(|(dataset, row)| dataset * 5 + row - 1).collect()
    };
    assert_eq!((number(&splits.eval), number(&splits.train)), (validation, training));
}

#[test]
fn long_rows_are_refused_dropped_or_cut_as_asked() {
    let dir = folder();
    let with = |over_length| {
        load(&dir, &["a", "b"], |data| {
            data.cutoff_len = 40;
            data.over_length = over_length;
        })
    };
    let error = with(OverLength::Error).unwrap_err();
    let path = dir.path().join("b.json");
    let want = format!("rows longer than cutoff_len = 40: 1, first {} row 2 (", path.display());
    assert!(error.to_string().starts_with(&want), "{error}");
    assert!(error.hint_text(false).unwrap().starts_with("raise cutoff_len (the longest row has "));

    let dropped = with(OverLength::Drop).unwrap();
    assert_eq!(dropped.train.len(), 7);
    assert!(dropped.summary.warnings.iter().any(|warning| warning.en.contains("= 40, left out: 1, first ")));
    assert_eq!((dropped.summary.files[1].kept, dropped.summary.files[1].skipped), (2, 1));

    let cut = with(OverLength::Truncate).unwrap();
    assert_eq!((cut.train.len(), cut.summary.train.max), (8, 40));
    assert_eq!((cut.summary.files[1].truncated, cut.summary.over_long), (1, 1));
    assert_eq!(cut.summary.over_long_rows[0].origin, dataset::Origin { dataset: 1, row: 2 });
    assert!(
        cut.summary.warnings.iter().any(|warning| warning.zh.contains("超过 cutoff_len = 40 的行，已截断尾部：1，"))
    );
}

#[test]
fn what_is_lost_in_silence_elsewhere_is_said() {
    let dir = folder();
    let warning = |dataset: &str| load(&dir, &[dataset], |_| {}).unwrap().summary.warnings.remove(0).en;
    assert!(warning("trap").ends_with("a.json: not mapped to anything, so not used: input"));
    assert!(warning("b").ends_with("b.json: rows with an empty response, which teach to answer nothing: 1"));

    let summary = load(&dir, &["trap"], |_| {}).unwrap().summary;
    assert_eq!(summary.instruction, None, "no row has an input that it could stand before");
    assert!(summary.common_prefix < summary.train.min);
}

#[test]
fn nothing_to_train_on_is_an_error_of_the_input() {
    let dir = folder();
    let a = dir.path().join("a.json").display().to_string();
    for (dataset, val_size, cutoff_len, want) in [
        (vec![], 0.0, 99, "no data set is named"),
        (vec!["empty"], 0.0, 99, "holds no rows"),
        (vec!["a"], 5.0, 99, "val_size = 5 holds out all 5 rows"),
        (vec!["a"], 0.0, 5, &format!("a.json (5 rows: 5 longer than cutoff_len, first {a}: row 1: 31 tokens)")),
        (vec!["unanswered"], 0.0, 99, "row 2: `output` (the response) is missing"),
        (vec!["c"], 0.0, 99, "no data set named \"c\""),
    ] {
        let error = load(&dir, &dataset, |data| {
            data.val_size = val_size;
            data.cutoff_len = cutoff_len;
            data.over_length = OverLength::Drop;
        });
        let error = error.unwrap_err();
        assert!(error.to_string().ends_with(want), "{error}");
        assert_eq!(error.kind(), Kind::Input, "{want}");
        assert!(error.hint_text(false).is_some() && error.hint_text(true) != error.hint_text(false), "{want}");
    }
}

/// F23, over ten thousand corpora of up to eight rows: what is loaded under `error` or `drop` has a label in every row, and a
/// step of cut rows that has none is found before the first.
#[test]
fn no_step_is_without_a_label() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dataset_info.json"), r#"{"rows": {"file_name": "rows.jsonl"}}"#).unwrap();
    let (mut refused, mut whole, mut bare) = (0, 0, 0);
    for number in 0..10_000 {
        let mut dice = Dice::new("corpora", 23, number);
        let mut text = |most: usize| "长".repeat(dice.below(most));
        let rows: Vec<String> = (0..=text(8).chars().count())
            .map(|_| {
                let history = if text(3).is_empty() { json!([[text(20), text(20)]]) } else { json!([]) };
                json!({"instruction": "对", "input": text(50), "output": text(20) + "短", "history": history})
                    .to_string()
            })
            .collect();
        fs::write(dir.path().join("rows.jsonl"), rows.join("\n")).unwrap();
        let loaded = load(&dir, &["rows"], |data| {
            data.cutoff_len = 4 + dice.below(80);
            data.over_length = [OverLength::Error, OverLength::Drop, OverLength::Truncate][number as usize % 3];
            (data.mask_history, data.packing) = (dice.below(2) == 0, dice.below(4) == 0);
        });
        let splits = match loaded {
            Ok(splits) => splits,
            Err(error) => {
                let error = error.to_string();
                let is_told =
                    error.starts_with("rows longer than ") || error.starts_with("no row is left to train on ");
                assert!(is_told && number % 3 != 2 || error.contains("answer was cut away whole"), "{error}");
                refused += 1;
                continue;
            }
        };
        let config = TrainConfig {
            per_device_train_batch_size: 1 + dice.below(2),
            gradient_accumulation_steps: 1 + dice.below(2),
            num_train_epochs: 2.0,
            ..couplet_train::testing::train_config()
        };
        let plan = StepPlan::of(&splits.train, &config);
        let samples: Vec<&[Example]> = dataset::samples(&splits.train).collect();
        let labels = |sample: &usize| -> usize { samples[*sample].iter().map(|row| row.predicted().count()).sum() };
        let orders = [plan.order(0), plan.order(1)];
        let steps = orders.iter().flat_map(|order| order.chunks(plan.samples_per_step()));
        let first = steps.map(|step| step.iter().map(labels).sum::<usize>()).position(|labels| labels == 0);
        assert_eq!(plan.first_bare_step(&splits.train).map(|(step, _)| step), first, "corpus {number}");
        assert!(first.is_none() || number % 3 == 2, "corpus {number}: rows that fit have a label");
        *if first.is_some() { &mut bare } else { &mut whole } += 1;
    }
    assert!(refused > 100 && whole > 100 && bare > 100, "{refused} {whole} {bare}");
}

#[test]
fn a_tokenizer_without_the_chat_format_is_refused() {
    let error = Tokenizer::load(&root("tests/fixtures/dataset")).err().unwrap();
    assert!(error.to_string().contains("tokenizer.json: cannot read"), "{error}");
    assert!(error.hint_text(true).is_some());

    let text = fs::read_to_string(root("data/tiny_qwen3/tokenizer.json")).unwrap();
    let error = Tokenizer::from_bytes(text.replace("<|im_end|>", "<|other|>").as_bytes()).err().unwrap();
    assert!(error.to_string().starts_with("<|im_end|> is "), "{error}");
    let thoughtless = Tokenizer::from_bytes(text.replace("</think>", "</other>").as_bytes()).unwrap();
    assert!(thoughtless.check_template(TemplateName::Qwen3).is_err());
    assert!(thoughtless.check_template(TemplateName::Qwen3Nothink).is_ok());
    assert!(Tokenizer::from_bytes(b"{}").is_err());
}

/// `num_samples`, `mix_strategy`, `interleave_probs` and `max_samples` together, against LlamaFactory's own loader.
#[test]
fn data_sets_are_drawn_and_mixed_as_llamafactory_does() {
    let want: Value = serde_json::from_str(include_str!("../fixtures/mix/lf_rows.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    crate::support::copy_dir(&root("tests/fixtures/lf_run/data"), dir.path());
    let path = dir.path().join("dataset_info.json");
    let mut registry: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (name, count) in want["num_samples"].as_object().unwrap() {
        registry[name]["num_samples"] = count.clone();
    }
    fs::write(&path, registry.to_string()).unwrap();
    let tokenizer = Tokenizer::load(&root("tests/fixtures/parity/tokenizer")).unwrap();
    for case in want["cases"].as_array().unwrap() {
        let settings = &case["settings"];
        let data = DataConfig {
            enable_thinking: Some(true),
            max_samples: settings["max_samples"].as_u64().map(|n| n as usize),
            mix_strategy: serde_json::from_value(settings["mix_strategy"].clone()).unwrap_or_default(),
            interleave_probs: settings["interleave_probs"]
                .as_str()
                .map(|shares| shares.split(',').map(|share| share.parse().unwrap()).collect())
                .unwrap_or_default(),
            ..data_config(dir.path().into(), &["couplets", "dialogues"])
        };
        let splits = dataset::load(&data, want["seed"].as_u64().unwrap(), &tokenizer).unwrap();
        let got: Vec<[u64; 2]> = (splits.train.iter().map(|row| &row.input_ids))
            .map(|ids| [ids.len() as u64, ids.iter().map(|&id| u64::from(id)).sum()])
            .collect();
        assert_eq!(json!(got), case["rows"], "{settings}");
        assert!(splits.summary.files.iter().all(|file| file.drawn));
    }
}
