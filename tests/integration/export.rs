//! Exported models are LlamaFactory's to the last bit, and adapters that do nothing or belong elsewhere are found out.

use crate::support::{Workspace, copy_dir, fixtures, values};
use candle_core::{Device, Tensor, safetensors::load};
use std::{collections::HashMap, path::Path};

const EXPORT: &[&str] = &["export", "--base", "model", "--adapter", "final_adapter", "export_dir=merged"];

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    load(path, &Device::Cpu).expect("safetensors")
}

#[test]
fn a_merged_model_is_llamafactorys_to_the_last_bit() {
    for case in ["truncation", "bf16", "dora", "dora_bf16"] {
        let w = Workspace::of_fixture(&format!("parity/{case}"));
        let ended = w.run(EXPORT);
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "merged\n"), "{case}: {}", ended.stderr);
        assert!(ended.stderr.contains("same first choice at 100.0 %"), "{case}: {}", ended.stderr);
        let (ours, base) = (tensors(&w.path("merged/model.safetensors")), tensors(&w.path("model/model.safetensors")));
        let theirs = tensors(&w.path("merged.safetensors"));
        assert!(theirs.len() >= 6);
        for (name, tensor) in &ours {
            let want = theirs.get(name).unwrap_or(&base[name]);
            assert_eq!((tensor.dtype(), tensor.dims()), (want.dtype(), want.dims()), "{case}: {name}");
            assert!(values(tensor) == values(want), "{case}: {name}");
        }
        assert_eq!(ours.len(), base.len());
    }
}

#[test]
fn llamafactorys_export_config_runs_as_it_is() {
    let w = Workspace::of_fixture("parity/truncation");
    w.write(
        "merge.yaml",
        "### model\nmodel_name_or_path: model\nadapter_name_or_path: final_adapter\ntemplate: qwen3_nothink\n\
         trust_remote_code: true\n\n### export\nexport_dir: saves/merged\nexport_size: 5\n\
         export_device: cpu  # choices: [cpu, auto]\nexport_legacy_format: false\n",
    );
    let ended = w.run(&["merge.yaml", "infer_dtype=bfloat16"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "saves/merged\n"), "{}", ended.stderr);
    assert_eq!(w.json("saves/merged/config.json")["torch_dtype"], "bfloat16");
    let one = &tensors(&w.path("saves/merged/model.safetensors"))["model.norm.weight"];
    assert_eq!(one.dtype(), candle_core::DType::BF16);
    assert!(!w.read("saves/merged/Modelfile").contains("<think>"), "as its template says");
}

#[test]
fn what_cannot_be_exported_is_said_and_leaves_nothing() {
    let w = Workspace::of_fixture("parity/truncation");
    copy_dir(&fixtures().join("parity/attention_rslora/final_adapter"), &w.path("other"));
    w.write("taken/file", "");
    for (args, want, why) in [
        (&["export", "--adapter", "final_adapter"][..], "error: `export_dir` is missing", "no place"),
        (&["export", "--base", "model", "export_dir=out"], "error: no adapter to merge", "nothing to merge"),
        (
            &["export", "--base", "model", "--adapter", "final_adapter", "export_dir=taken"],
            "holds files already",
            "taken",
        ),
        (
            &["export", "--base", "model", "--adapter", "other", "export_dir=out"],
            "[4, 32] was expected from the config",
            "foreign",
        ),
        (&["export", "--base", "gone", "--adapter", "final_adapter", "export_dir=out"], "error: gone: ", "no base"),
        (
            &["export", "--base", "model", "--adapter", "final_adapter", "export_dir=out", "extra"],
            "neither `key=value`",
            "a word",
        ),
    ] {
        let ended = w.run(args);
        assert_eq!(ended.code, 2, "{why}: {}", ended.stderr);
        assert!(ended.stderr.contains(want), "{why}: {}", ended.stderr);
        assert!(ended.stderr.contains("\nhint: "), "{why}: {}", ended.stderr);
        assert!(!w.path("out").exists(), "{why}");
    }
}

#[test]
fn an_adapter_is_checked() {
    let w = Workspace::of_fixture("parity/all_targets");
    copy_dir(&fixtures().join("parity/attention_rslora/final_adapter"), &w.path("other"));
    let check = |dir: &str| w.run(&["adapter", "check", dir, "--base", "model"]);
    let good = check("final_adapter");
    assert_eq!(good.code, 0, "{}", good.stderr);
    assert!(good.stdout.contains("\nlogits    moved by up to ") && good.stdout.ends_with("\nOK\n"), "{}", good.stdout);
    for (dir, want) in [("init_adapter", "every B is zero"), ("other", "[4, 32] was expected from the config")] {
        let bad = check(dir);
        assert_eq!(bad.code, 1, "{dir}: {}", bad.stderr);
        assert!(bad.stderr.contains(want) && !bad.stdout.contains("OK"), "{dir}: {}", bad.stderr);
    }
}

/// What a copy that was cut leaves.
fn cut(w: &Workspace, adapter: &str) {
    let file = format!("{adapter}/adapter_model.safetensors");
    let bytes = std::fs::read(w.path(&file)).expect("an adapter");
    w.write(&file, &bytes[..bytes.len() / 2]);
}

#[test]
fn an_adapter_that_is_cut_is_a_finding_with_a_way_out() {
    let w = Workspace::of_fixture("parity/all_targets");
    let check = |dir: &str, env: &[(&str, &str)]| {
        let bad = w.run_with(&["adapter", "check", dir, "--base", "model"], env);
        assert!(bad.code == 1 && !bad.stdout.contains("OK"), "{dir}: {}{}", bad.stdout, bad.stderr);
        assert!(bad.stderr.contains(&format!("{dir}/adapter_model.safetensors: ")), "{dir}: {}", bad.stderr);
        assert!(bad.stderr.contains("its header describes"), "{dir}: {}", bad.stderr);
        bad.stderr
    };
    copy_dir(&w.path("final_adapter"), &w.path("whole"));
    for step in [2, 4, 6] {
        copy_dir(&w.path("whole"), &w.path(&format!("final_adapter/checkpoint-{step}")));
    }
    ["final_adapter", "final_adapter/checkpoint-6"].iter().for_each(|adapter| cut(&w, adapter));
    for dir in ["final_adapter", "final_adapter/checkpoint-6"] {
        let said = check(dir, &[]);
        assert!(said.contains("that of final_adapter/checkpoint-4 is sound: use it"), "{said}");
        let said = check(dir, &[("COUPLET_TRAIN_LANG", "zh")]);
        assert!(said.contains("final_adapter/checkpoint-4 中的适配器完好"), "{said}");
    }
    ["checkpoint-2", "checkpoint-4"].iter().for_each(|step| cut(&w, &format!("final_adapter/{step}")));
    let said = check("final_adapter", &[]);
    assert!(said.contains("hint: the adapter is damaged or was cut off; use that of a checkpoint"), "{said}");
    assert_eq!(w.run(&["adapter", "check", "nowhere", "--base", "model"]).code, 2);
}

#[test]
fn an_adapter_of_a_run_that_diverged_is_warned_of() {
    let w = Workspace::of_fixture("parity/all_targets");
    let check = |results: serde_json::Value| {
        let receipt = serde_json::json!({"speak": {"template": "qwen3"}, "results": results});
        w.write("final_adapter/run.json", receipt.to_string());
        let checked = w.run(&["adapter", "check", "final_adapter", "--base", "model"]);
        assert!(checked.code == 0 && checked.stdout.ends_with("\nOK\n"), "{}{}", checked.stdout, checked.stderr);
        checked.stdout.lines().find_map(|line| line.strip_prefix("warning   ")).map(str::to_owned)
    };
    let results = |after: f64, diverged: Option<f64>| serde_json::json!({"eval_loss_before": 7.05, "eval_loss": after, "verdict": {"diverged": diverged}});
    assert_eq!(check(results(4.2, None)), None);
    assert_eq!(check(results(7.06, None)), None, "noise");
    let warned = check(results(812.3, Some(812.3)));
    let want = "the run diverged: its run.json has a held-out loss of 7.050 before training and 812.300 after; train again with a \
                smaller learning_rate";
    assert_eq!(warned.as_deref(), Some(want));
    let warned = check(results(8.0, None)).expect("a warning");
    assert!(warned.starts_with("the run made its model worse: "), "{warned}");
    let no_number = check(results(f64::NAN, Some(1.0))).expect("a warning");
    assert!(no_number.contains(" and NaN after"), "{no_number}");
}

/// Ctrl-C while the folder is filled: a file of the base that is a pipe holds it up.
#[cfg(unix)]
#[test]
fn a_signal_leaves_nothing_of_an_export() {
    let w = Workspace::of_fixture("parity/truncation");
    let ended = w.interrupted(EXPORT, "model/added_tokens.json", "");
    assert_eq!((ended.code, ended.stdout.as_str()), (130, ""), "{}", ended.stderr);
    assert!(ended.stderr.ends_with("stopped by SIGINT: nothing was written\n"), "{}", ended.stderr);
    let left: Vec<String> = (std::fs::read_dir(w.dir()).expect("a folder").flatten())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("merged") && name != "merged.safetensors")
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn an_adapter_that_is_no_number_is_not_merged() {
    let w = Workspace::of_fixture("parity/truncation");
    let file = w.path("final_adapter/adapter_model.safetensors");
    let mut bytes = std::fs::read(&file).expect("an adapter");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).expect("a written file");
    let ended = w.run(EXPORT);
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("error: final_adapter: ") && ended.stderr.contains(" is not finite"),
        "{}",
        ended.stderr
    );
    assert!(!w.path("merged").exists());
}

#[test]
fn an_adapter_of_another_base_of_the_same_shape_is_found_out() {
    let w = Workspace::of_fixture("parity/truncation");
    let receipt = |digest: &str| {
        let speak = serde_json::json!({"template": "qwen3"});
        let config = serde_json::json!({"model": {"model_name_or_path": "theirs"}});
        let digests = serde_json::json!({"base": digest});
        w.write(
            "final_adapter/run.json",
            serde_json::json!({"speak": speak, "config": config, "digests": digests}).to_string(),
        );
    };
    receipt("00");
    let check = w.run(&["adapter", "check", "final_adapter", "--base", "model"]);
    assert_eq!(check.code, 1, "{}", check.stderr);
    assert!(!check.stdout.contains("OK"), "{}", check.stdout);
    let want = "error: final_adapter: was trained on another base than this one: on `theirs`";
    assert!(check.stderr.contains(want), "{}", check.stderr);
    let export = w.run(EXPORT);
    assert_eq!(export.code, 0, "{}", export.stderr);
    assert!(
        export.stderr.contains("note: final_adapter was trained on another base than this one"),
        "{}",
        export.stderr
    );
}
