//! DoRA through the binary: trained from nothing and from PEFT's files, gone on with after an interruption, answering, measured,
//! checked and exported. Its trajectories and merged weights are among those of `parity`, `export` and `merged`.

use crate::support::Workspace;
use std::collections::BTreeMap;

/// A new adapter, with all that DoRA does besides under dropout.
const NEW: [&str; 5] =
    ["train.yaml", "adapter_name_or_path=null", "lora_dropout=0.2", "save_strategy=steps", "save_steps=5"];

fn done(work: &Workspace, args: &[&str]) -> String {
    let ended = work.run(args);
    assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
    ended.stdout
}

/// Every tensor of an adapter, in f32.
fn tensors(work: &Workspace, dir: &str) -> BTreeMap<String, Vec<f32>> {
    let file = work.path(dir).join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).expect("an adapter");
    tensors.into_iter().map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

#[test]
fn a_run_that_goes_on_ends_with_the_same_bytes() {
    for bf16 in ["bf16=false", "bf16=true"] {
        let work = Workspace::of_fixture("parity/dora");
        work.train(&[&NEW[..], &["output_dir=whole", bf16]].concat());
        work.train(&[&NEW[..], &["output_dir=rest", "resume_from_checkpoint=whole/checkpoint-5", bf16]].concat());
        for file in ["adapter_model.safetensors", "checkpoint-12/optimizer.safetensors"] {
            let bytes = |dir: &str| std::fs::read(work.path(dir).join(file)).expect(file);
            assert!(bytes("whole") == bytes("rest"), "{bf16}: {file}");
        }
        assert_eq!(work.json("whole/adapter_config.json")["use_dora"], true);
    }
}

/// Magnitudes begin as the lengths of the rows, and every one of them is trained.
#[test]
fn a_new_adapter_has_magnitudes_that_were_trained() {
    let work = Workspace::of_fixture("parity/dora");
    let header = work.train(&NEW).stderr;
    assert!(header.contains("DoRA, r 4, alpha 8"), "{header}");
    let (trained, begun) = (tensors(&work, "lf_out"), tensors(&work, "init_adapter"));
    assert_eq!(trained.keys().collect::<Vec<_>>(), begun.keys().collect::<Vec<_>>(), "PEFT's names");
    let magnitudes: Vec<_> = trained.iter().filter(|(name, _)| name.ends_with(".lora_magnitude_vector")).collect();
    assert_eq!(magnitudes.len(), 14);
    for (name, values) in magnitudes {
        // PEFT's own begin where ours do: both have a B of zero.
        for (now, then) in values.iter().zip(&begun[name]) {
            assert!(now != then && (now / then - 1.0).abs() < 0.2, "{name}: {now}, began as {then}");
        }
    }
}

/// PEFT's own start: every B is zero, and whether the magnitudes are those of the rows only the base knows.
#[test]
fn a_check_says_that_only_the_base_can_tell() {
    let work = Workspace::of_fixture("parity/dora");
    for (lang, want) in [("en", "every B is zero: only the base can tell"), ("zh", "所有 B 均为零")] {
        let check = |adapter: &str| {
            work.run_with(&["adapter", "check", adapter, "--base", "model"], &[("COUPLET_TRAIN_LANG", lang)]).stdout
        };
        let (begun, trained) = (check("init_adapter"), check("final_adapter"));
        assert!(begun.contains(&format!("\nzero      {want}")), "{begun}");
        assert!(!trained.contains("\nzero "), "{trained}");
    }
}

/// A damaged one, whose gradient would be no number.
#[test]
fn a_magnitude_of_zero_is_refused() {
    let work = Workspace::of_fixture("parity/dora");
    let file = work.path("init_adapter/adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).expect("an adapter");
    let name = "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector";
    let zeros = tensors[name].zeros_like().expect("zeros");
    tensors.insert(name.into(), zeros);
    candle_core::safetensors::save(&tensors, &file).expect("written");
    let ended = work.run(&["train.yaml"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    let want = "the magnitude of row 0 of model.layers.0.mlp.down_proj is 0: DoRA would divide by it";
    assert!(ended.stderr.contains(want), "{}", ended.stderr);
}

#[test]
fn an_adapter_answers_and_is_measured_as_the_merged_model_is() {
    let work = Workspace::of_fixture("parity/dora_rslora_loraplus");
    let checked = done(&work, &["adapter", "check", "final_adapter", "--base", "model"]);
    assert!(checked.contains("lora      DoRA, r 4") && checked.ends_with("\nOK\n"), "{checked}");
    let template = "template=qwen3_nothink";
    let adapter = ["--base", "model", "--adapter", "final_adapter", template];
    done(&work, &[&["export"], &adapter[..], &["export_dir=merged"]].concat());
    let merged = ["--base", "merged", template];
    let of = |command: &[&str]| [&adapter[..], &merged[..]].map(|who| done(&work, &[command, who].concat()));
    let answers = of(&["generate", "春风送暖千山绿", "一窗明月"]);
    assert_eq!(answers[0], answers[1]);
    assert!(!answers[0].trim().is_empty());
}
