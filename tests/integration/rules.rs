//! Rules while generating, with the shipped model: the command, and ranking held to its formula.

use crate::support::{Workspace, root};
use candle_core::{DType, Device};
use couplet_train::{
    config::{LoraConfig, Rules, TemplateName},
    dataset::Tokenizer,
    eval::couplet::judge,
    generate::{
        Choice, Speaker, lines,
        rank::{Scorer, Weights},
        rules::{Plan, TokenTable},
        search::Beam,
    },
    model::{Checkpoint, Qwen3, Qwen3Config},
};
use serde_json::Value;

const UPPERS: [&str; 4] = ["海内存知己", "白日依山尽，山山有雪", "无边落木萧萧下", "两个黄鹂鸣翠柳"];

fn ask(words: &[&str]) -> crate::support::Ended {
    let base = root().join("data/tiny_qwen3");
    let base = base.to_str().expect("UTF-8");
    Workspace::new().run(&[&["generate", "device=cpu", "--base", base], words].concat())
}

#[test]
fn the_command_writes_lines_that_pass_the_judge() {
    let ended = ask(&[&["rules=strict", "candidates=3", "--n", "2", "--json"], &UPPERS[..]].concat());
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("strict; the best of 3, beta 0.3, gamma 1"), "{}", ended.stderr);
    let rows: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), UPPERS.len());
    for (row, upper) in rows.iter().zip(UPPERS) {
        let outputs = row["outputs"].as_array().expect("outputs");
        let texts: Vec<&str> = outputs.iter().map(|output| output["text"].as_str().expect("a text")).collect();
        assert_eq!((row["prompt"].as_str(), outputs.len()), (Some(upper), 2));
        assert_ne!(texts[0], texts[1]);
        for text in texts {
            let verdict = judge(upper, text);
            assert!(verdict.passes() && verdict.tail.is_none(), "{upper} {text}: {:?}", verdict.faults);
        }
        assert!(outputs.iter().all(|output| output["finish_reason"] == "stop"), "{row}");
        assert!(outputs[0]["score"].as_f64() >= outputs[1]["score"].as_f64(), "{row}");
    }
}

#[test]
fn given_characters_stand_where_they_are_given() {
    let line = ask(&["rules=strict", "--pattern", "-涯--邻", "上联：海内存知己。"]);
    let text = line.stdout.trim();
    let characters: Vec<char> = text.chars().collect();
    assert_eq!((line.code, characters.len(), characters[1], characters[4]), (0, 5, '涯', '邻'), "{}", line.stderr);
    assert!(judge("海内存知己", text).passes(), "{text}");
    assert!(line.stderr.contains("removed the heading"), "{}", line.stderr);
}

#[test]
fn what_cannot_be_is_said() {
    for (words, code, want) in [
        (&["rules=strict", "--pattern", "-河", "海内存知己"][..], 2, "has 2 places in 1 clause(s), the line has 5"),
        (&["rules=strict", "--pattern", "--海--", "海内存知己"], 2, "「海」 stands in the first line\nhint: "),
        (&["--pattern", "-涯---", "海内存知己"], 2, "--pattern without rules\nhint: "),
        (&["rules=loose", "海内存知己"], 2, "`rules` must be"),
        (&["rules=strict", "，。"], 2, "text 1: no characters in the first line"),
        (&["rules=strict", "candidates=1", "江山"], 0, "江山: the first line's last 「山」 is not oblique"),
        (
            &["rules=shape", "candidates=1", "temperature=0.5", "max_new_tokens=9", "江月"],
            0,
            "nothing is sampled; without effect: temperature, max_new_tokens",
        ),
    ] {
        let ended = ask(words);
        assert_eq!(ended.code, code, "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(want), "{words:?}: {}", ended.stderr);
    }
    let chat = Workspace::new().run(&["chat", "rules=strict"]);
    assert!(chat.code == 2 && chat.stderr.contains("a conversation keeps no rules"), "{}", chat.stderr);
}

#[test]
fn lines_are_ranked_by_the_formula() {
    let dir = root().join("data/tiny_qwen3");
    let lora = LoraConfig {
        lora_rank: 1,
        lora_alpha: 1.0,
        lora_dropout: 0.0,
        lora_target: vec![],
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    };
    let geometry = Qwen3Config::load(&dir).expect("config.json");
    let checkpoint = Checkpoint::open(&dir).expect("weights");
    let (model, _) = Qwen3::load(&geometry, &checkpoint, &lora, DType::F32, &Device::Cpu).expect("a model");
    let tokenizer = Tokenizer::load(&dir).expect("a tokenizer");
    let speaker = Speaker::plain(TemplateName::Qwen3, Some(false));
    let scorer = Scorer { model: &model, adapter: None, tokenizer: &tokenizer, speaker: &speaker };
    let table = TokenTable::new(&tokenizer).expect("a table");
    let uppers = UPPERS.map(|upper| (upper, Plan::new(upper, Rules::Strict, None).expect("a plan")));
    let beam = Beam { width: 6, n: 6 };
    let found = |weights| lines(scorer, &table, &uppers, Choice { beam, weights }, &|| false).expect("lines");

    let weights = Weights { beta: 0.7, gamma: 0.4 };
    for ((upper, _), ranked) in uppers.iter().zip(found(weights)) {
        assert_eq!(ranked.len(), 6);
        assert!(ranked.is_sorted_by(|a, b| a.score >= b.score));
        for line in &ranked {
            let pairs = [(*upper, line.text.as_str()), ("", &line.text), (&line.text, *upper)];
            let want = scorer.log_p(&pairs).expect("scores");
            let place = format!("{upper} {}", line.text);
            // A character may also be written in parts; then the search's log p is that of its own tokens.
            if line.ids == tokenizer.encode(&line.text).expect("ids") {
                assert!((line.given - want[0]).abs() < 1e-3, "{place}: log p {} as scored {}", line.given, want[0]);
            }
            assert!((line.alone - want[1]).abs() < 1e-3 && (line.back - want[2]).abs() < 1e-3, "{place}");
            let characters = couplet_train::prosody::characters(&line.text).count() as f64;
            let sum = line.given - 0.7 * line.alone + 0.4 * line.back;
            assert!((line.score - sum / characters).abs() < 1e-9, "{place}");
        }
    }
    for ranked in found(Weights::NONE) {
        assert!(ranked.is_sorted_by(|a, b| a.given >= b.given), "without weights, the most likely first");
        assert!(ranked.iter().all(|line| (line.alone, line.back) == (0.0, 0.0)));
    }
}
