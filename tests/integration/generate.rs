//! Generation. Its reference is training's forward pass over whole sequences: no cache, no batch, other products.

use crate::support::{Ended, Workspace, children_answer, copy_dir, fixtures, root, values};
use candle_core::{DType, Device};
use couplet_train::{
    adapter::peft,
    config::{DataConfig, LoraConfig, Projection, TemplateName},
    dataset::{self, IGNORE, Tokenizer},
    generate::{Answer, Conversation, Finish, How, Limits, Sampling, Session, Speaker, generate, score},
    kernels::Segments,
    model::{AdapterWeights, Batch, Checkpoint, Params, Qwen3, Qwen3Config},
    rng::Key,
};
use serde_json::{Value, json};
use std::path::Path;

/// A model, an adapter whose B is not zero, and the same adapter laid out for generation.
struct Subject {
    model: Qwen3,
    params: Params,
    adapter: AdapterWeights,
}

impl Subject {
    /// The shipped model with a drawn adapter.
    fn tiny(dtype: DType) -> Self {
        let lora = LoraConfig {
            lora_rank: 4,
            lora_alpha: 6.0,
            lora_dropout: 0.0,
            lora_target: vec![Projection::QProj, Projection::VProj, Projection::OProj, Projection::DownProj],
            use_dora: false,
            use_rslora: true,
            pissa: Default::default(),
        };
        let draw = |slot: &couplet_train::model::params::Slot| {
            let key = Key::new(7, &slot.name);
            Ok((0..(slot.shape.0 * slot.shape.1) as u64).map(|i| (key.uniform(i) - 0.5) * 0.2).collect())
        };
        Self::new(&root().join("data/tiny_qwen3"), &lora, dtype, draw)
    }

    /// A recorded run: untied head, f32 weights, a trained adapter.
    fn recorded() -> Self {
        let dir = fixtures().join("parity/attention_rslora");
        let existing = peft::Existing::open(&dir.join("final_adapter")).expect("the adapter");
        Self::new(&dir.join("model"), &existing.lora, DType::F32, |slot| existing.values(slot))
    }

    fn new(
        dir: &Path,
        lora: &LoraConfig,
        dtype: DType,
        values: impl FnMut(&couplet_train::model::params::Slot) -> couplet_train::error::Result<Vec<f32>>,
    ) -> Self {
        let config = Qwen3Config::load(dir).expect("config.json");
        let checkpoint = Checkpoint::open(dir).expect("weights");
        let (model, layout) = Qwen3::load(&config, &checkpoint, lora, dtype, &Device::Cpu).expect("a model");
        let params = Params::new(layout, DType::F32, &Device::Cpu, values).expect("parameters");
        let adapter = AdapterWeights::new(config.num_hidden_layers, lora, &params).expect("an adapter");
        Self { model, params, adapter }
    }

    /// The logits after `ids`, by training's forward pass.
    fn reference(&self, ids: &[u32]) -> Vec<f64> {
        let batch = Batch {
            ids: ids.to_vec(),
            positions: (0..ids.len() as u32).collect(),
            segments: Segments::new(0, &[ids.len()]),
            samples: vec![0; ids.len()],
            label_rows: vec![ids.len() as u32 - 1],
            targets: vec![0],
            noise: None,
        };
        values(&self.model.logits(&batch, &self.params).expect("logits"))
    }
}

/// Ragged, two of them with a common beginning, and one longer than a block of the cache.
fn prompts() -> Vec<Vec<u32>> {
    let ids = |n: u32, step: u32| (0..n).map(|i| 5 + i * step % 700).collect::<Vec<u32>>();
    vec![ids(20, 37), ids(27, 37), ids(3, 91), vec![12], ids(45, 13)]
}

fn slices(prompts: &[Vec<u32>]) -> Vec<&[u32]> {
    prompts.iter().map(Vec::as_slice).collect()
}

fn largest(logits: &[f64]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
    best.expect("a vocabulary") as u32
}

#[test]
fn greedy_with_the_cache_equals_the_whole_sequence_again() {
    for (name, subject) in [("tiny", Subject::tiny(DType::F32)), ("recorded", Subject::recorded())] {
        let mut sequences = prompts();
        let (mut session, mut logits) =
            Session::open(&subject.model, Some(&subject.adapter), &slices(&sequences)).unwrap();
        for step in 0..14 {
            let mut tokens = vec![];
            for (row, sequence) in sequences.iter_mut().enumerate() {
                let want = subject.reference(sequence);
                let scale = want.iter().fold(0f64, |max, x| max.max(x.abs()));
                let off = logits.row(row).iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
                assert!(off < 1e-5 * scale, "{name}, row {row}, step {step}: {off:.1e} of {scale:.1}");
                let token = Sampling::GREEDY.choose(logits.row(row), sequence, 0).unwrap();
                assert_eq!(token, largest(&want), "{name}, row {row}, step {step}");
                sequence.push(token);
                tokens.push(token);
            }
            logits = session.step(&tokens).unwrap();
        }
    }
}

#[test]
fn the_adapter_can_be_switched_off() {
    let subject = Subject::tiny(DType::F32);
    let mut none = subject.params.clone();
    none.set((subject.params.flat() * 0.0).unwrap()).unwrap();
    let base = Subject { params: none, ..Subject::tiny(DType::F32) };
    for prompt in prompts() {
        let (_, logits) = Session::open(&subject.model, None, &[&prompt]).unwrap();
        let (want, with) = (base.reference(&prompt), subject.reference(&prompt));
        let off =
            |want: &[f64]| logits.row(0).iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
        assert!(off(&want) < 1e-4 && off(&with) > 1e-2, "{:.1e} {:.1e}", off(&want), off(&with));
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_row_gives_the_same_bits_alone_and_in_a_batch() {
    for dtype in [DType::F32, DType::BF16] {
        let subject = Subject::tiny(dtype);
        let prompts = prompts();
        let (mut all, mut logits) = Session::open(&subject.model, Some(&subject.adapter), &slices(&prompts)).unwrap();
        let mut alone: Vec<_> = prompts
            .iter()
            .map(|prompt| Session::open(&subject.model, Some(&subject.adapter), &[prompt]).unwrap())
            .collect();
        for step in 0..6 {
            let tokens: Vec<u32> = (0..prompts.len() as u32).map(|row| 40 + 7 * row + step).collect();
            for (row, (session, own)) in alone.iter_mut().enumerate() {
                assert_eq!(bits(logits.row(row)), bits(own.row(0)), "{dtype:?}, row {row}, step {step}");
                *own = session.step(&tokens[row..=row]).unwrap();
            }
            logits = all.step(&tokens).unwrap();
        }
    }
}

#[test]
fn bf16_weights_lose_nothing_that_the_checkpoint_has() {
    let [full, half] = [DType::F32, DType::BF16].map(Subject::tiny);
    for prompt in prompts() {
        let [full, half] =
            [&full, &half].map(|s| Session::open(&s.model, Some(&s.adapter), &[&prompt]).unwrap().1.row(0).to_vec());
        let off = full.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-4, "{off:.1e}: the shipped checkpoint is bf16, only the order of sums differs");
    }
}

#[test]
fn rows_fork_reorder_and_end() {
    let subject = Subject::tiny(DType::F32);
    let prompts = prompts();
    let (mut session, _) = Session::open(&subject.model, Some(&subject.adapter), &slices(&prompts[..3])).unwrap();
    session.select(&[2, 0, 0, 1]);
    session.step(&[50, 60, 61, 70]).unwrap();
    session.select(&[3, 2, 1]);
    assert_eq!((session.rows(), session.len(0)), (3, prompts[1].len() + 1));
    let logits = session.feed(&[&[8], &[9, 10], &[9, 10]]).unwrap();
    for (row, (prompt, more)) in [(1, &[70, 8][..]), (0, &[61, 9, 10]), (0, &[60, 9, 10])].into_iter().enumerate() {
        let whole = [&prompts[prompt], more].concat();
        let (_, fresh) = Session::open(&subject.model, Some(&subject.adapter), &[&whole]).unwrap();
        assert_eq!(bits(logits.row(row)), bits(fresh.row(0)), "row {row}");
    }
}

#[test]
fn scores_are_the_losses_of_training() {
    let subject = Subject::recorded();
    let prompts = prompts();
    let targets: Vec<Vec<u32>> = vec![vec![7, 9, 600], vec![1], vec![], vec![3, 4, 5, 6, 7, 8], vec![700, 2]];
    let pairs: Vec<(&[u32], &[u32])> = prompts.iter().zip(&targets).map(|(p, t)| (&p[..], &t[..])).collect();
    let scores = score(&subject.model, Some(&subject.adapter), &pairs).unwrap();
    for ((prompt, target), scores) in pairs.iter().zip(&scores) {
        assert_eq!(scores.len(), target.len());
        if target.is_empty() {
            continue;
        }
        let ids = [*prompt, *target].concat();
        let labels = [vec![IGNORE; prompt.len()], target.to_vec()].concat();
        let batch = Batch::pack(&[(0, &ids, &labels)], IGNORE, false).unwrap();
        let want = values(&subject.model.nll(&batch, &subject.params).unwrap());
        for (got, want) in scores.iter().zip(&want) {
            assert!((f64::from(-got) - want).abs() < 1e-6 * want.abs().max(1.0), "{got} {want}");
        }
    }
    assert!(score(&subject.model, None, &[(&[], &[1])]).is_err(), "an empty prompt");
}

const SAMPLED: Sampling =
    Sampling { do_sample: true, temperature: 1.2, top_k: 40, top_p: 0.95, repetition_penalty: 1.1, seed: 3 };

fn how(sampling: Sampling, stop: Vec<u32>) -> How<'static> {
    How { sampling, limits: Limits { max_new_tokens: 10, stop }, interrupted: &|| false }
}

#[test]
fn an_answer_does_not_depend_on_its_batch() {
    let subject = Subject::tiny(DType::BF16);
    let prompts = prompts();
    let how = how(SAMPLED, vec![]);
    let ask = |prompts: &[Vec<u32>], first: usize| {
        generate(&subject.model, Some(&subject.adapter), prompts, (2, first), &how, &mut |_| Ok(())).unwrap()
    };
    let all = ask(&prompts, 0);
    let single: Vec<Vec<Answer>> = (0..prompts.len()).flat_map(|i| ask(&prompts[i..=i], i)).collect();
    assert_eq!(all, single);
    assert!(all.iter().all(|answers| answers[0] != answers[1]), "two draws");
    assert!(all.iter().flatten().all(|answer| answer.ids.len() == 10 && answer.finish == Finish::Length));
}

#[test]
fn answers_end_where_they_should() {
    let subject = Subject::tiny(DType::F32);
    let prompts = prompts();
    let ask = |how: &How| {
        let mut told = vec![];
        let answers = generate(&subject.model, Some(&subject.adapter), &prompts, (1, 0), how, &mut |token| {
            told.push(token);
            Ok(())
        });
        (answers.unwrap().concat(), told)
    };
    let (free, told) = ask(&how(Sampling::GREEDY, vec![]));
    for (i, answer) in free.iter().enumerate() {
        let heard: Vec<u32> = told.iter().filter(|token| token.prompt == i).map(|token| token.id).collect();
        assert_eq!(heard, answer.ids, "every token is told");
    }
    let stop = free[0].ids[3];
    let (stopped, _) = ask(&how(Sampling::GREEDY, vec![stop]));
    for (free, stopped) in free.iter().zip(&stopped) {
        let end = free.ids.iter().position(|id| *id == stop);
        assert_eq!(stopped.ids, free.ids[..end.unwrap_or(10)], "without the token that ends it");
        assert_eq!(stopped.finish, if end.is_some() { Finish::Stop } else { Finish::Length });
    }
    let at_once = How { interrupted: &|| true, ..how(Sampling::GREEDY, vec![]) };
    let (none, _) = ask(&at_once);
    assert!(none.iter().all(|answer| answer.ids.is_empty() && answer.finish == Finish::Interrupted));
}

#[test]
fn a_conversation_goes_on_from_what_it_has() {
    let subject = Subject::tiny(DType::F32);
    let how = how(Sampling::GREEDY, vec![]);
    let mut conversation = Conversation::new(&subject.model, Some(&subject.adapter));
    let mut dialogue: Vec<u32> = prompts()[0].clone();
    for turn in 0..4 {
        let got = conversation.answer(&dialogue, turn, &how, &mut |_| Ok(())).unwrap();
        let fresh = generate(
            &subject.model,
            Some(&subject.adapter),
            std::slice::from_ref(&dialogue),
            (1, turn as usize),
            &how,
            &mut |_| Ok(()),
        );
        assert_eq!(got, fresh.unwrap()[0][0], "turn {turn}");
        // The third turn forgets most of the dialogue, as `clear` does.
        dialogue = if turn == 1 { prompts()[1].clone() } else { [&dialogue[..], &got.ids, &[9, 8, 7]].concat() };
    }
}

#[test]
fn prompts_are_those_of_training() {
    let tokenizer = Tokenizer::load(&root().join("data/tiny_qwen3")).unwrap();
    for (template, enable_thinking, system) in [
        (TemplateName::Qwen3, Some(false), None),
        (TemplateName::Qwen3, Some(true), Some("你是对联大师")),
        (TemplateName::Qwen3, None, None),
        (TemplateName::Qwen3Nothink, Some(false), None),
    ] {
        let data = DataConfig {
            dataset: vec!["couplets_valid".into()],
            dataset_dir: root().join("data"),
            max_samples: Some(5),
            template,
            enable_thinking,
            default_system: system.map(str::to_owned),
            ..couplet_train::testing::data_config()
        };
        let splits = dataset::load(&data, 42, &tokenizer).unwrap();
        let receipt = json!({
            "template": template, "enable_thinking": enable_thinking, "default_system": system,
            "instruction": splits.summary.instruction,
        });
        let speaker = Speaker::from_receipt(&receipt).unwrap();
        let rows: Value =
            serde_json::from_str(&std::fs::read_to_string(root().join("data/couplets_valid.json")).unwrap()).unwrap();
        for (row, example) in rows.as_array().unwrap().iter().zip(&splits.train) {
            let prompt = speaker.prompt(&tokenizer, &[], row["input"].as_str().unwrap()).unwrap();
            let learned = example.trained.positions().next().expect("an answer");
            assert_eq!(prompt, example.input_ids[..learned], "{template:?} {enable_thinking:?}");
            let whole = speaker.question(row["input"].as_str().unwrap());
            assert_eq!(speaker.question(&whole), whole, "an instruction that is there is not put there again");
        }
    }
    assert!(Speaker::from_receipt(&json!({"template": "llama3"})).is_err());
}

#[test]
fn the_context_has_an_end() {
    let dir = Workspace::new();
    copy_dir(&root().join("data/tiny_qwen3"), dir.dir());
    let config =
        dir.read("config.json").replace("\"max_position_embeddings\": 4096", "\"max_position_embeddings\": 24");
    dir.write("config.json", config);
    let lora = LoraConfig {
        lora_rank: 1,
        lora_alpha: 1.0,
        lora_dropout: 0.0,
        lora_target: vec![],
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    };
    let subject = Subject::new(dir.dir(), &lora, DType::F32, |_| unreachable!("no adapter"));
    let how = how(Sampling::GREEDY, vec![]);
    let ask = |n: usize| generate(&subject.model, None, &[vec![7; n]], (1, 0), &how, &mut |_| Ok(()));
    assert_eq!(ask(20).unwrap()[0][0].ids.len(), 5, "positions 20 to 23, and the token they predict");
    assert_eq!(ask(24).unwrap()[0][0].ids.len(), 1);
    let err = ask(25).unwrap_err();
    assert!(err.to_string().starts_with("25 tokens are more than the 24 of the model's context"), "{err}");
}

/// A folder with a recorded model (`model`), its adapter (`run`) and the receipt a run would have left there.
fn trained() -> Workspace {
    let work = Workspace::of_fixture("parity/clip_nonzero_b");
    copy_dir(&work.path("final_adapter"), &work.path("run"));
    let receipt = json!({
        "status": "complete",
        "config": {"model": {"model_name_or_path": "model", "model_revision": "main", "cache_dir": null}},
        "speak": {
            "template": "qwen3", "enable_thinking": false, "default_system": null,
            "instruction": {"text": "对下联：", "rows": 3, "shared": true}, "joined_by": "\n", "punctuation": {},
        },
    });
    work.write("run/run.json", receipt.to_string());
    work
}

fn lines(ended: &Ended) -> Vec<&str> {
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    ended.stdout.lines().collect()
}

#[test]
fn generate_asks_as_training_did_and_compares() {
    let work = trained();
    let ask = |words: &[&str]| work.run(&[&["generate", "device=cpu", "max_new_tokens=6"], words].concat());
    let json_of = |words: &[&str]| -> Vec<Value> {
        lines(&ask(words)).into_iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };

    let one = ask(&["--adapter", "run", "海内存知己"]);
    assert!(one.stderr.contains("instruction  对下联：") && one.stderr.contains(" chars/s;"), "{}", one.stderr);
    assert_eq!(one.code, 0, "{}", one.stderr);

    work.write("texts.txt", "\u{feff}海内存知己\r\n风\n\n");
    let both = json_of(&["--adapter", "run", "--compare", "--json", "--file", "texts.txt"]);
    let order: Vec<_> =
        both.iter().map(|line| (line["prompt"].as_str().unwrap(), line["model"].as_str().unwrap())).collect();
    assert_eq!(order, [("海内存知己", "base"), ("海内存知己", "run"), ("风", "base"), ("风", "run")]);
    assert_ne!(both[0]["outputs"], both[1]["outputs"], "the adapter changes the answer");
    for line in &both {
        let output = &line["outputs"][0];
        assert!(
            output["tokens"].as_u64() <= Some(6)
                && ["stop", "length"].contains(&output["finish_reason"].as_str().unwrap())
        );
        assert!(line["seconds"].as_f64() > Some(0.0));
    }
    let base = json_of(&["--base", "model", "--json", "--instruction", "对下联：", "海内存知己"]);
    assert_eq!(base[0]["outputs"], both[0]["outputs"], "the base alone, asked the same");
    let raw = json_of(&["--adapter", "run", "--json", "--raw", "对下联：\n海内存知己"]);
    assert_eq!(raw[0]["outputs"], both[1]["outputs"], "the instruction by hand");

    let side_by_side = ask(&["--adapter", "run", "--compare", "海内存知己", "风"]);
    let heads: Vec<&str> = lines(&side_by_side).iter().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(heads, ["海内存知己", "base", "run", "风", "base", "run"]);
    let judged: Vec<bool> = lines(&side_by_side).iter().map(|line| line.contains("   length ")).collect();
    assert_eq!(judged, [false, true, true, false, false, false], "one character is no line: {}", side_by_side.stdout);

    let typed = ask(&["--adapter", "run", "--json", "上联：“海内存知己”。"]);
    let line: Value = serde_json::from_str(lines(&typed)[0]).expect("JSON");
    assert_eq!(line["outputs"], both[1]["outputs"], "what stands around a line is no part of it");
    assert!(typed.stderr.contains("note: 海内存知己: "), "and that is said: {}", typed.stderr);

    let drawn = |seed: &str| json_of(&["--adapter", "run", "--json", "--n", "3", "temperature=1.5", seed, "风"]);
    assert_eq!(drawn("seed=1")[0]["outputs"], drawn("seed=1")[0]["outputs"]);
    assert_ne!(drawn("seed=1")[0]["outputs"], drawn("seed=2")[0]["outputs"]);
    assert_eq!(drawn("seed=1")[0]["outputs"].as_array().map(Vec::len), Some(3));
}

#[test]
fn generate_says_what_is_wrong_or_assumed() {
    let work = trained();
    copy_dir(&fixtures().join("parity/attention_rslora/final_adapter"), &work.path("other"));
    copy_dir(&work.path("final_adapter"), &work.path("bare"));
    copy_dir(&work.path("run"), &work.path("moved"));
    let elsewhere = work
        .read("moved/run.json")
        .replace("\"model\":{\"model_name_or_path\":\"model\"", "\"model\":{\"model_name_or_path\":\"./gone\"");
    work.write("moved/run.json", elsewhere);
    work.write("recipe.toml", "[model]\n");
    copy_dir(&work.path("final_adapter"), &work.path("rank"));
    let mut config = work.json("rank/adapter_config.json");
    config["r"] = json!(3);
    work.write("rank/adapter_config.json", config.to_string());
    for step in ["checkpoint-10", "checkpoint-20"] {
        copy_dir(&work.path("final_adapter"), &work.path("unfinished").join(step));
    }
    copy_dir(&work.path("model"), &work.path("whole"));
    work.write("lines.txt", format!("风\n\n  \n{}\n雨\n", "长".repeat(45_000)));
    for (words, want) in [
        (&["风"][..], "no model to ask\nhint: name a trained adapter with `--adapter"),
        (&["--adapter", "run", " "], "text 1 is empty\nhint: "),
        (&["--adapter", "run"], "no text to answer\nhint: "),
        (&["--adapter", "run", "--file", "nothing.txt"], "nothing.txt: cannot be read"),
        (&["--adapter", "run", "风", "temperatur=1"], "unknown key `temperatur`\nhint: did you mean `temperature`?"),
        (&["--adapter", "run", "风", "--n", "2", "do_sample=false"], "without sampling they are all the same\nhint: "),
        (&["--adapter", "other", "--base", "model", "风"], "was expected from the config"),
        (&["--adapter", "moved", "风"], "the base of moved: ./gone"),
        (&["recipe.toml", "风"], "a TOML recipe trains"),
        (&["--adapter", "nowhere", "风"], "nowhere/adapter_config.json: cannot be read"),
        (&["--adapter", "unfinished", "风"], "or take its newest checkpoint: unfinished/checkpoint-20"),
        (&["--adapter", "whole", "风"], "whole: is a whole model and no adapter"),
        (&["--adapter", "rank", "--base", "model", "风"], "adapter_config.json: r is 3, but the matrices in"),
        (&["--adapter", "run", "--file", "lines.txt"], "error: lines.txt:4: "),
    ] {
        let ended = work.run(&[&["generate", "device=cpu"], words].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(want) && ended.stderr.contains("hint: "), "{words:?}: {}", ended.stderr);
    }
    for (words, want) in [
        (&["--adapter", "bare", "--base", "model"][..], "note: bare has no run.json: how it was asked in training"),
        (&["--adapter", "run", "template=qwen3_nothink"], "note: not asked as in training: template"),
        (&["--adapter", "run", "--instruction", "续写："], "note: not asked as in training: instruction"),
    ] {
        let ended = work.run(&[&["generate", "device=cpu", "max_new_tokens=2", "风"], words].concat());
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(want), "{words:?}: {}", ended.stderr);
    }
    let mut receipt = work.json("run/run.json");
    receipt["digests"] = json!({"base": "00"});
    work.write("run/run.json", receipt.to_string());
    let other = work.run(&["generate", "--adapter", "run", "风", "device=cpu", "max_new_tokens=2"]);
    assert!(other.stderr.contains("note: run was trained on another base"), "{}", other.stderr);
}

#[test]
fn chat_reads_a_pipe_and_llamafactorys_inference_config() {
    let work = trained();
    work.write(
        "chat.yaml",
        "model_name_or_path: model\nadapter_name_or_path: run\ntemplate: qwen3\ninfer_backend: huggingface\n",
    );
    let said = "海内存知己\n\nclear\n海内存知己\nexit\n风\n";
    let greedy = ["do_sample=false", "max_new_tokens=4", "device=cpu"];
    let spoken = work.run_with_input(&[&["chat", "--adapter", "run"], &greedy[..]].concat(), said);
    let answers = lines(&spoken);
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!(answers[0], answers[1], "`clear` forgets, `exit` leaves");
    for words in [&["chat.yaml"][..], &["chat", "chat.yaml"], &["--config", "chat.yaml"], &["train", "chat.yaml"]] {
        let again = work.run_with_input(&[words, &greedy, &["enable_thinking=false"]].concat(), said);
        assert_eq!(lines(&again), answers, "{words:?}");
        assert!(again.stderr.contains("ignored: infer_backend"), "{}", again.stderr);
    }
    let wrong = work.run(&["chat", "--adapter", "run", "风"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("`风` is neither `key=value` nor a config file"), "{}", wrong.stderr);
}

/// Ctrl-C after the first character: what is there stays, and the shell is told.
#[cfg(unix)]
#[test]
fn a_signal_ends_an_answer_with_its_code() {
    use std::io::Read;
    children_answer(2);
    let tiny = root().join("data/tiny_qwen3");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_couplet-train"))
        .args(["generate", "海", "device=cpu", "max_new_tokens=4000", "temperature=3", "top_k=0", "top_p=1", "--base"])
        .arg(tiny)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut out = child.stdout.take().expect("piped");
    out.read_exact(&mut [0; 3]).expect("a character");
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill").success());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).expect("the rest");
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert_eq!(rest.last(), Some(&b'\n'));
}

#[test]
fn blank_lines_are_left_out() {
    let work = trained();
    let ended = work.run_with_input(
        &["generate", "--adapter", "run", "--json", "device=cpu", "max_new_tokens=2"],
        "风\n\n\t\n雨\n\n",
    );
    assert_eq!((ended.code, ended.stdout.lines().count()), (0, 2), "{}", ended.stderr);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let work = trained();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_couplet-train"));
    command.args(["generate", "--adapter", "run", "--json", "device=cpu", "max_new_tokens=2", "风", "雨"]);
    command.current_dir(work.dir()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(0) && !said.contains("error"), "{said}");
}

#[test]
fn a_line_that_is_not_utf8_is_said_with_a_way_out() {
    let work = trained();
    std::fs::write(work.path("gbk"), [0xb7, 0xe7, b'\n']).expect("a written file");
    let (piped, saved) = ("convert what is piped: … | iconv ", "save the file as UTF-8, e.g. iconv ");
    for (args, name, hint) in [
        (&["chat", "device=cpu"][..], "stdin", piped),
        (&["generate", "device=cpu"], "stdin", piped),
        (&["generate", "--file", "gbk"], "gbk", saved),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_couplet-train"));
        command.args([args, &["--adapter", "run"]].concat()).current_dir(work.dir()).env("COUPLET_TRAIN_LANG", "en");
        let stdin = std::fs::File::open(work.path("gbk")).expect("a file");
        let ended = command.stdin(stdin).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        let want = format!("error: {name}: not UTF-8 at byte 0 (line 1)\nhint: {hint}");
        assert!(ended.status.code() == Some(2) && said.contains(&want), "{args:?}: {said}");
    }
}
