//! Adapters merged into the base before training: as LlamaFactory does it (`tests/fixtures/merged/README.md`), as training over
//! the exported merge does it, and remembered by what was trained over them.

use crate::support::{Workspace, adapter_distance, assert_near, copy_dir, fixtures};
use serde_json::Value;

const NEW: [&str; 2] = ["adapter_name_or_path=final_adapter", "create_new_adapter=true"];

#[test]
fn one_adapter_is_merged_and_the_next_continued_as_llamafactory_does() {
    let f32 = (1e-5, 1e-4, 1e-3);
    for (case, (loss, grad_norm, adapter)) in
        [("clip_nonzero_b", f32), ("bf16", (6e-4, 6e-3, 5e-2)), ("dora_rslora_loraplus", f32)]
    {
        let work = Workspace::of_fixture(&format!("parity/{case}"));
        work.train(&["train.yaml", "--progress", "none", "adapter_name_or_path=final_adapter,init_adapter"]);
        let recorded = std::fs::read_to_string(fixtures().join(format!("merged/{case}.json"))).expect("a recording");
        let recorded: Vec<Value> = serde_json::from_str(&recorded).expect("steps");
        let state = work.json("lf_out/trainer_state.json");
        for (got, want) in state["log_history"].as_array().expect("entries").iter().zip(&recorded) {
            let what = |key: &str| format!("{case}, step {}: {key}", want["step"]);
            assert_near(&got["loss"], &want["loss"], loss, &what("loss"));
            assert_near(&got["grad_norm"], &want["grad_norm"], grad_norm, &what("grad_norm"));
        }
        let theirs = fixtures().join("merged").join(case);
        let off = adapter_distance(&work.path("lf_out"), &theirs, &work.path("init_adapter"));
        assert!(off <= adapter, "{case}: the adapter is off by {off:.1e}");
    }
}

#[test]
fn a_new_adapter_over_merged_ones_is_that_over_the_exported_merge_and_remembers_them() {
    for case in ["clip_nonzero_b", "dora_rslora_loraplus"] {
        is_that_over_the_exported_merge(case);
    }
}

fn is_that_over_the_exported_merge(case: &str) {
    let work = Workspace::of_fixture(&format!("parity/{case}"));
    let done = |args: &[&str]| {
        let ended = work.run(args);
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        ended.stdout
    };
    let ended = work.train(&[&["train.yaml", "output_dir=over"], &NEW[..]].concat());
    assert!(ended.stderr.contains("merged"), "{}", ended.stderr);
    let base = "model_name_or_path=model";
    done(&["export", base, NEW[0], "template=qwen3_nothink", "export_dir=merged"]);
    work.train(&["train.yaml", "output_dir=plain", "model_name_or_path=merged", "adapter_name_or_path=null"]);
    let bytes = |file: &str| std::fs::read(work.path(file)).expect(file);
    assert!(bytes("over/adapter_model.safetensors") == bytes("plain/adapter_model.safetensors"));
    assert_eq!(work.json("over/run.json")["merged"], serde_json::json!(["final_adapter"]));

    for adapter in ["over", "plain"] {
        let ended = work.run(&["export", "--adapter", adapter, &format!("export_dir={adapter}_merged")]);
        assert!(ended.stderr.contains("read back and compared with base + adapter"), "{adapter}: {}", ended.stderr);
    }
    assert!(bytes("over_merged/model.safetensors") == bytes("plain_merged/model.safetensors"));
    let answers = ["over", "plain"].map(|adapter| done(&["generate", "--adapter", adapter, "春风送暖"]));
    assert_eq!(answers[0], answers[1]);
    let checked = ["over", "plain"].map(|adapter| done(&["adapter", "check", adapter]));
    assert!(checked[0].contains("\nmerged    final_adapter\n") && checked[0].ends_with("\nOK\n"), "{}", checked[0]);
    let logits = |text: &str| text.lines().find(|line| line.starts_with("logits")).map(str::to_owned);
    assert_eq!(logits(&checked[0]), logits(&checked[1]));

    copy_dir(&work.path("init_adapter"), &work.path("final_adapter"));
    for words in [&["generate", "--adapter", "over", "春风送暖"][..], &["adapter", "check", "over"]] {
        let ended = work.run(words);
        assert_ne!(ended.code, 0, "{words:?}");
        assert!(ended.stderr.contains("final_adapter: no longer what over was trained over"), "{}", ended.stderr);
    }
}

#[test]
fn of_several_adapters_in_a_config_the_last_answers_over_the_others_as_in_llamafactory() {
    let work = Workspace::of_fixture("parity/clip_nonzero_b");
    work.train(&[&["train.yaml", "output_dir=over", "max_steps=2"], &NEW[..]].concat());
    let said = |words: &[&str]| {
        let ended = work.run_with_input(words, "春风送暖\n");
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
        (ended.stdout, ended.stderr)
    };
    work.write(
        "chat.yaml",
        "model_name_or_path: model\nadapter_name_or_path: final_adapter,over\ntemplate: qwen3_nothink\n",
    );
    let greedy = ["do_sample=false", "max_new_tokens=8", "device=cpu"];
    let (want, _) = said(&[&["chat", "--adapter", "over"], &greedy[..]].concat());
    let (got, told) = said(&[&["chat.yaml"], &greedy[..]].concat());
    assert_eq!(got, want);
    assert!(!told.contains("does not name before it"), "{told}");
    let (other, told) = said(&[&["chat.yaml", "adapter_name_or_path=init_adapter,over"], &greedy[..]].concat());
    assert_ne!(other, want, "other weights below");
    assert!(told.contains("over was trained over final_adapter"), "{told}");
    let (side_by_side, _) =
        said(&[&["generate", "--adapter", "final_adapter", "--adapter", "init_adapter", "风"], &greedy[..]].concat());
    assert!(side_by_side.contains("init_adapter"), "{side_by_side}");
}

#[test]
fn an_adapter_that_is_missing_below_another_is_told() {
    let work = Workspace::of_fixture("parity/clip_nonzero_b");
    work.train(&[&["train.yaml", "output_dir=over", "max_steps=2"], &NEW[..]].concat());
    let again = |adapters: &str, out: &str| {
        let adapters = format!("adapter_name_or_path={adapters}");
        work.train(&["train.yaml", "max_steps=2", &adapters, &format!("output_dir={out}")]).stderr
    };
    let told = "over was trained over final_adapter, which `adapter_name_or_path` does not name before it";
    assert!(again("over", "a").contains(told));
    assert!(!again("final_adapter,over", "b").contains("does not name before it"));
}
