//! PiSSA against PEFT and LlamaFactory (`tests/fixtures/pissa/README.md`), and what becomes of an adapter whose base lacks something.

use crate::{
    resume::Run,
    support::{Workspace, assert_near, copy_dir, fixtures, relative_distance, values},
};
use candle_core::{DType, Device, Tensor};
use couplet_train::{
    adapter::{peft::Existing, pissa},
    model::{Batch, Checkpoint, Params, Principal, Qwen3, Qwen3Config, params::Slot, weights::Change},
};
use serde_json::Value;
use std::collections::HashMap;

const PISSA: [&str; 4] = ["adapter_name_or_path=null", "pissa_init=true", "pissa_iter=-1", "pissa_convert=true"];

/// Loss, gradient norm, and what training has done: the bounds of tests/fixtures/parity.
const CASES: [(&str, DType, f64, f64, f64); 3] = [
    ("all_targets", DType::F32, 1e-5, 1e-4, 1e-3),
    ("attention_rslora", DType::F32, 1e-5, 1e-4, 1e-3),
    ("bf16", DType::BF16, 6e-4, 6e-3, 5e-2),
];

struct Recorded {
    json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Recorded {
    fn read(case: &str) -> Self {
        let file = |end: &str| fixtures().join("pissa").join(format!("{case}.{end}"));
        let json = serde_json::from_str(&std::fs::read_to_string(file("json")).expect("a recording")).expect("JSON");
        Self { json, tensors: candle_core::safetensors::load(file("safetensors"), &Device::Cpu).expect("tensors") }
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// [A; A₀] and [B, −B₀] of a module.
    fn converted(&self, module: &str) -> [Tensor; 2] {
        let name = |m: &str| format!("converted.base_model.model.{module}.lora_{m}.weight");
        ["A", "B"].map(|m| self.get(&name(m)).to_dtype(DType::F64).expect("numbers"))
    }

    fn modules(&self) -> Vec<String> {
        let name = |name: &String| Some(name.strip_prefix("residual.")?.to_owned());
        let mut modules: Vec<String> = self.tensors.keys().filter_map(name).collect();
        modules.sort();
        modules
    }
}

/// The matrices A and B of a module in an adapter's file.
fn pair(tensors: &HashMap<String, Tensor>, module: &str) -> [Tensor; 2] {
    ["A", "B"].map(|m| {
        let name = format!("base_model.model.{module}.lora_{m}.weight");
        tensors.get(&name).unwrap_or_else(|| panic!("no {name}")).to_dtype(DType::F64).expect("numbers")
    })
}

/// The trained half of converted matrices, or the one they began with.
fn half([a, b]: &[Tensor; 2], which: usize) -> [Tensor; 2] {
    let r = a.dim(0).expect("a rank") / 2;
    [a.narrow(0, which * r, r).expect("A"), b.narrow(1, which * r, r).expect("B")]
}

fn product([a, b]: &[Tensor; 2]) -> Vec<f64> {
    values(&b.matmul(a).expect("a product"))
}

/// Rows of A and columns of B times ±1, so that the rows of `a` point as those of `like` do.
fn pointing_as([a, b]: &[Tensor; 2], like: &Tensor) -> [Tensor; 2] {
    let along = (a * like).and_then(|t| t.sum_keepdim(1)).expect("sums");
    let sign = along.sign().expect("signs");
    [a.broadcast_mul(&sign).expect("A"), b.broadcast_mul(&sign.t().expect("a row")).expect("B")]
}

#[track_caller]
fn assert_alike(got: &[f64], want: &[f64], bound: f64, what: &str) {
    let off = relative_distance(got, want, want);
    assert!(off <= bound, "{what}: off by {off:.1e}, bound {bound:.0e}");
}

fn run(case: &str, more: &[&str]) -> Workspace {
    let work = Workspace::of_fixture(&format!("parity/{case}"));
    work.train(&[&["train.yaml", "--progress", "none"], &PISSA[..], more].concat());
    work
}

fn tensors(work: &Workspace, folder: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(work.path(folder).join("adapter_model.safetensors"), &Device::Cpu).expect(folder)
}

#[test]
fn it_begins_trains_and_is_converted_as_by_peft_and_llamafactory() {
    for (case, dtype, loss, grad_norm, adapter) in CASES {
        let (want, work) = (Recorded::read(case), run(case, &[]));
        let init = tensors(&work, "lf_out/pissa_init");
        let base = Checkpoint::open(&work.path("model")).expect("the base");
        let own = Existing::open_own(&work.path("lf_out")).expect("an adapter");
        let start = pissa::start_of(&work.path("lf_out"), &own.lora).expect("what it began with");
        let geometry = Qwen3Config::load(&work.path("model")).expect("a config");
        let principal = Principal::of(&geometry, &start.lora, |slot| start.values(slot)).expect("matrices");
        let trained = tensors(&work, "lf_out");
        // PEFT's SVD in f32 is itself that far from one in f64: 4.3e-5 in A where two values are near each other, 5.3e-6 in B·A and
        // 3.1e-6 in what is left. In bf16 it takes out what it rounds afterwards, and a value may be rounded the other way.
        let (vectors, bound, rounding) = if dtype == DType::BF16 { (4e-3, 4e-3, 8e-3) } else { (1e-4, 2e-5, 5e-6) };
        let (mut got_change, mut want_change, mut pairs) = (vec![], vec![], vec![]);
        for module in want.modules() {
            let (module, weight) = (module.as_str(), format!("{module}.weight"));
            let what = |what: &str| format!("{case}, {module}: {what}");
            let converted = want.converted(module);
            let [a, b] = half(&converted, 1);
            let (ours, peft) = (pair(&init, module), [a, b.neg().expect("B")]);
            let turned = pointing_as(&ours, &peft[0]);
            assert_alike(&values(&turned[0]), &values(&peft[0]), vectors, &what("A"));
            assert_alike(&values(&turned[1]), &values(&peft[1]), vectors, &what("B"));
            assert_alike(&product(&ours), &product(&peft), bound, &what("B·A"));

            let left = want.get(&format!("residual.{module}"));
            let (out, width) = left.dims2().expect("a matrix");
            let whole = base.tensor(&weight, &[out, width], dtype, &Device::Cpu).expect("a weight");
            let got = values(&principal.without(&weight, 0..out, whole.clone()).expect("what is left"));
            let of_whole = relative_distance(&got, &values(left), &values(&whole));
            assert!(of_whole <= rounding, "{}: off by {of_whole:.1e}", what("residual"));

            let ours = pair(&tensors(&work, "lf_out/pissa_converted"), module);
            got_change.extend(product(&ours));
            want_change.extend(product(&converted));
            for (got, want) in half(&ours, 0).iter().zip(pair(&trained, module)) {
                assert_eq!(values(got), values(&want), "{}", what("first half"));
            }
            pairs.push((pointing_as(&half(&ours, 0), &peft[0]), half(&converted, 0)));
        }
        assert_alike(&got_change, &want_change, adapter, &format!("{case}: what training has done"));
        for m in [0, 1] {
            let [got, want]: [Vec<f64>; 2] = [0, 1].map(|side| {
                pairs.iter().flat_map(|(got, want)| values(if side == 0 { &got[m] } else { &want[m] })).collect()
            });
            assert_alike(&got, &want, adapter, &format!("{case}: trained matrices {m}"));
        }

        let state = work.json("lf_out/trainer_state.json");
        let steps = want.json["steps"].as_array().expect("steps");
        for (got, want) in state["log_history"].as_array().expect("entries").iter().zip(steps) {
            let what = |key: &str| format!("{case}, step {}: {key}", want["step"]);
            assert_near(&got["loss"], &want["loss"], loss, &what("loss"));
            assert_near(&got["grad_norm"], &want["grad_norm"], grad_norm, &what("grad_norm"));
        }
        for folder in want.json["folders"].as_array().expect("folders") {
            assert!(work.path("lf_out").join(folder.as_str().expect("a name")).is_dir(), "{folder}");
        }
        for (name, want) in want.json["configs"].as_object().expect("configs") {
            let folder = if name == "adapter" { String::new() } else { format!("pissa_{name}/") };
            let got = work.json(&format!("lf_out/{folder}adapter_config.json"));
            for (key, want) in want.as_object().expect("a config") {
                let same = match (got[key].as_f64(), want.as_f64()) {
                    (Some(got), Some(want)) => (got - want).abs() <= 1e-12 * want.abs(),
                    _ => got[key] == *want,
                };
                assert!(same, "{case}, {name}: {key} is {}, not {want}", got[key]);
            }
        }
    }
}

/// Base without what was taken out + adapter = base + converted adapter = base + the adapter as every command opens it.
#[test]
fn the_converted_adapter_says_over_the_base_what_training_ended_with() {
    let work = run("all_targets", &[]);
    let geometry = Qwen3Config::load(&work.path("model")).expect("a config");
    let base = Checkpoint::open(&work.path("model")).expect("the base");
    let (ids, no) = (vec![5u32, 90, 400, 77, 1000, 31], u32::MAX);
    let batch = Batch::pack(&[(0, &ids, &[no, 90, 400, 77, 1000, 31])], no, false).expect("a batch");
    let logits = |adapter: &Existing, change: Option<&Change>, values: &dyn Fn(&Slot) -> Vec<f32>| {
        let loaded = Qwen3::load_changed(&geometry, &base, change, &adapter.lora, (DType::F32, &Device::Cpu));
        let (model, layout) = loaded.expect("a model");
        let params = Params::new(layout, DType::F32, &Device::Cpu, |slot| Ok(values(slot))).expect("parameters");
        model.logits(&batch, &params).expect("logits")
    };
    let open = |folder: &str| Existing::open(&work.path(folder)).expect(folder);
    let own = Existing::open_own(&work.path("lf_out")).expect("the adapter");
    let start = pissa::start_of(&work.path("lf_out"), &own.lora).expect("what it began with");
    let principal = Principal::of(&geometry, &own.lora, |slot| start.values(slot)).expect("matrices");
    let change = |name: &str, rows, value| principal.without(name, rows, value);
    let want = logits(&own, Some(&change), &|slot| own.values(slot).expect("values"));
    let distance = |t: &Tensor| relative_distance(&values(t), &values(&want), &values(&want));
    for folder in ["lf_out", "lf_out/pissa_converted"] {
        let adapter = open(folder);
        let got = logits(&adapter, None, &|slot| adapter.values(slot).expect("values"));
        assert!(distance(&got) <= 1e-5, "{folder}: off by {:.1e}", distance(&got));
    }
    let plain = logits(&own, None, &|slot| own.values(slot).expect("values"));
    assert!(
        distance(&plain) > 0.1,
        "and over the whole base the trained matrices alone are wrong: {:.1e}",
        distance(&plain)
    );

    let done = |args: &[&str]| {
        let ended = work.run(args);
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        ended.stdout
    };
    for (adapter, out) in [("lf_out", "a"), ("lf_out/pissa_converted", "b")] {
        let base = ["template=qwen3_nothink", "--base", "model", "--adapter", adapter];
        done(&[&["export"], &base[..], &[&format!("export_dir={out}")]].concat());
        done(&["adapter", "check", adapter, "--base", "model"]);
    }
    let weights = |out: &str| std::fs::read(work.path(out).join("model.safetensors")).expect(out);
    assert!(weights("a") == weights("b"), "merged too");
    let answers = ["lf_out", "lf_out/pissa_converted"].map(|adapter| {
        done(&["generate", "--base", "model", "template=qwen3_nothink", "--adapter", adapter, "--raw", "春风送暖"])
    });
    assert_eq!(answers[0], answers[1]);
    // How the run asked is known in the folder below, too.
    let answers = ["lf_out", "lf_out/pissa_converted"].map(|adapter| {
        let asked = work.run(&["generate", "--adapter", adapter, "max_new_tokens=8", "春风送暖"]);
        assert!(asked.code == 0 && !asked.stderr.contains("no run.json"), "{adapter}: {}", asked.stderr);
        asked.stdout
    });
    assert_eq!(answers[0], answers[1]);
    for half in ["pissa_init", "pissa_backup"] {
        let ended = work.run(&["generate", "--base", "model", "--adapter", &format!("lf_out/{half}"), "春风送暖"]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("would be wrong over the whole"), "{}", ended.stderr);
        let ended = work.run(&["train.yaml", "output_dir=more", &format!("adapter_name_or_path=lf_out/{half}")]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("would be wrong over the whole"), "{}", ended.stderr);
    }
}

/// What was trained goes on where it was, over the same base and with the same rank.
#[test]
fn an_adapter_is_continued_over_what_its_base_lacks() {
    let work = run("all_targets", &["pissa_convert=false", "pissa_iter=3", "save_strategy=steps", "save_steps=4"]);
    let folders = |out: &str| pissa_folders(&work, out);
    assert_eq!(folders("lf_out"), ["pissa_init"], "it is always there");
    let short = ["train.yaml", "--progress", "none", "max_steps=1", "learning_rate=1e-9", "warmup_ratio=0"];
    let again = |adapter: &str, out: &str, more: &[&str]| {
        let (adapter, out) = (format!("adapter_name_or_path={adapter}"), format!("output_dir={out}"));
        work.train(&[&short[..], &[adapter.as_str(), &out], more].concat()).stderr
    };
    let first_loss = |out: &str| work.json(&format!("{out}/trainer_state.json"))["log_history"][0]["loss"].clone();
    let told = again("lf_out", "more", &["pissa_convert=true"]);
    assert!(told.contains("as in lf_out/pissa_init"), "{told}");
    assert_eq!(folders("more"), ["pissa_backup", "pissa_converted", "pissa_init"]);
    let bytes = |name: &str| std::fs::read(work.path(name)).expect(name);
    let init = |out: &str| bytes(&format!("{out}/pissa_init/adapter_model.safetensors"));
    assert!(init("more") == init("lf_out"));
    assert_eq!(work.json("more/adapter_config.json")["init_lora_weights"], "pissa_niter_3");
    // Nothing was taken out of the base that a plain one continues over: there is nothing to convert.
    let told = again("more/pissa_converted", "plain", &["pissa_init=true", "pissa_convert=true"]);
    assert_near(&first_loss("plain"), &first_loss("more"), 1e-5, "the same as a plain adapter");
    assert_eq!(folders("plain"), Vec::<String>::new());
    for note in [
        "note: `pissa_convert` is ignored: ",
        "note: rank, alpha, dropout, targets, DoRA, rsLoRA and PiSSA are those of ",
    ] {
        assert!(told.contains(note), "{told}");
    }

    again("lf_out", "merged", &["create_new_adapter=true"]);
    assert_near(&first_loss("merged"), &first_loss("more"), 1e-5, "and merged into the base");
    std::fs::remove_dir_all(work.path("lf_out/pissa_init")).expect("removed");
    for key in ["create_new_adapter=false", "create_new_adapter=true"] {
        let ended = work.run(&[&short[..], &["adapter_name_or_path=lf_out", "output_dir=refused", key]].concat());
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("it fits only the base without what pissa_init/ holds, which is not there"));
    }
}

fn pissa_folders(work: &Workspace, out: &str) -> Vec<String> {
    let entries = std::fs::read_dir(work.path(out)).expect("a folder").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("pissa"));
    names.sort();
    names
}

/// LlamaFactory's scripts/pissa_init.py: a base that lacks something and is saved so, an adapter beside it, and `pissa_convert`.
#[test]
fn an_adapter_over_a_base_that_was_saved_without_it_is_converted() {
    let work = run("all_targets", &["max_steps=1", "learning_rate=1e-9", "warmup_ratio=0"]);
    let start = ["adapter_name_or_path=lf_out/pissa_converted", "output_dir=converted", "pissa_convert=true"];
    let told = work.train(&[&["train.yaml", "--progress", "none"][..], &start].concat()).stderr;
    let fits = "fit the base as it was before what the starting adapter replaced was taken out";
    assert!(told.contains(&format!("note: pissa_converted/ will {fits}")), "{told}");
    assert_eq!(pissa_folders(&work, "converted"), ["pissa_backup", "pissa_converted", "pissa_init"]);
    assert!(
        work.read("converted/pissa_converted/README.md").contains("the starting adapter, `../pissa_init`, replaced")
    );
    assert!(work.read("lf_out/pissa_converted/README.md").contains("over the whole base"));
    let bytes = |name: &str| std::fs::read(work.path(name).join("adapter_model.safetensors")).expect(name);
    assert!(bytes("converted/pissa_init") == bytes("lf_out/pissa_converted") && bytes("converted") != bytes("lf_out"));
    let (init, trained) = (tensors(&work, "converted/pissa_init"), tensors(&work, "converted"));
    let converted = tensors(&work, "converted/pissa_converted");
    for module in Recorded::read("all_targets").modules() {
        let of = |tensors| product(&pair(tensors, &module));
        let want: Vec<f64> = of(&trained).iter().zip(of(&init)).map(|(after, before)| after - before).collect();
        assert_alike(&of(&converted), &want, 1e-9, &module);
    }
}

/// The configs that are shipped by LlamaFactory, with its lines for PiSSA.
#[test]
fn the_lines_people_copy_run_as_they_are() {
    let work = Workspace::of_fixture("parity/all_targets");
    let text = "model_name_or_path: model\ntrust_remote_code: true\nstage: sft\ndo_train: true\nfinetuning_type: lora\n\
        lora_rank: 8\nlora_target: all\npissa_init: true\npissa_iter: 16\npissa_convert: true\ndataset: couplets\n\
        dataset_dir: data\ntemplate: qwen3_nothink\ncutoff_len: 2048\nmax_samples: 1000\npreprocessing_num_workers: 16\n\
        dataloader_num_workers: 4\noutput_dir: saves\nlogging_steps: 10\nsave_steps: 500\nplot_loss: true\n\
        overwrite_output_dir: true\nsave_only_model: false\nreport_to: none\nper_device_train_batch_size: 1\n\
        gradient_accumulation_steps: 8\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\nlr_scheduler_type: cosine\n\
        warmup_ratio: 0.1\nbf16: true\nddp_timeout: 180000000\nresume_from_checkpoint: null\n";
    work.write("pissa.yaml", text);
    let told = work.train(&["pissa.yaml", "use_cpu=true"]).stderr;
    assert!(told.contains("the 8 largest singular values of 14 weights, found in 16 rounds, seed 42"), "{told}");
    assert!(!told.contains("will fit only the base"), "it is converted: {told}");
    assert_eq!(pissa_folders(&work, "saves"), ["pissa_backup", "pissa_converted", "pissa_init"]);
    let card = work.read("saves/README.md");
    assert!(card.contains("`pissa_converted/`"), "{card}");

    let told = work.train(&["pissa.yaml", "use_cpu=true", "pissa_convert=false", "output_dir=other"]).stderr;
    assert!(told.contains("note: the adapter will fit only the base without what pissa_init/ holds"), "{told}");
    let wide = work.run(&["pissa.yaml", "use_cpu=true", "lora_rank=48", "output_dir=wide"]);
    assert_eq!(wide.code, 2, "{}", wide.stderr);
    assert!(wide.stderr.contains("singular values of every weight, q_proj has 32"), "{}", wide.stderr);

    // A plan measures the same steps and looks for no singular values: there is no end to these rounds.
    let plan = work.run(&["plan", "pissa.yaml", "use_cpu=true", "pissa_iter=1000000000", "output_dir=planned"]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    assert!(
        plan.stdout.contains("PiSSA 0.00 GB") && plan.stdout.contains("measured in the first steps"),
        "{}",
        plan.stdout
    );
    let plan = work.run(&["plan", "pissa.yaml", "use_cpu=true", "lora_rank=48", "output_dir=planned"]);
    assert!(plan.code == 2 && plan.stderr.contains("q_proj has 32"), "{}", plan.stderr);
}

/// A run that goes on finds again what its base lacks: beside the checkpoints, else in the weights; and knows it.
#[test]
fn a_resumed_run_ends_with_the_same_bytes() {
    let keys = ["pissa_init=true", "pissa_iter=2", "pissa_convert=true"];
    let undisturbed = Run::new();
    let (code, told) = undisturbed.run(&keys);
    assert_eq!(code, Some(0), "{told}");
    let stopped = Run::new();
    let mut child = stopped.start(&keys);
    stopped.wait_for("checkpoint-6");
    child.kill().expect("a process to kill");
    child.wait().expect("an end");
    let bytes = |run: &Run, name: &str| std::fs::read(run.work.path("out").join(name)).expect(name);
    let init = "pissa_init/adapter_model.safetensors";
    let same = |run: &Run, what: &str| {
        for folder in ["", "pissa_init/", "pissa_backup/", "pissa_converted/", "checkpoint-16/"] {
            let name = format!("{folder}adapter_model.safetensors");
            assert!(bytes(run, &name) == bytes(&undisturbed, &name), "{what}: {name}");
        }
        let optimizer = "checkpoint-16/optimizer.safetensors";
        assert!(bytes(run, optimizer) == bytes(&undisturbed, optimizer), "{what}: other moments");
    };
    for (what, told) in [("beside the checkpoints", "as in out/pissa_init"), ("drawn again", "found in 2 rounds")] {
        let run = stopped.copy();
        if what == "drawn again" {
            std::fs::remove_dir_all(run.work.path("out/pissa_init")).expect("removed");
        }
        let (code, said) = run.run(&keys);
        assert_eq!(code, Some(0), "{what}: {said}");
        assert!(said.contains(told) && said.contains("goes on after step"), "{what}: {said}");
        same(&run, what);
    }
    let elsewhere = Run::new();
    copy_dir(&stopped.work.path("out"), &elsewhere.work.path("before"));
    let from = stopped.checkpoints().pop().expect("a checkpoint");
    let (code, said) = elsewhere.run(&[&keys[..], &[&format!("resume_from_checkpoint=before/{from}")]].concat());
    assert_eq!(code, Some(0), "{said}");
    same(&elsewhere, "from another folder");

    // Another config is told as such, before what the base lacks is looked at.
    let other = Run::new();
    let before = stopped.work.path("out").join(from).display().to_string();
    let (code, said) = other.run(&[&keys[..], &["lora_rank=4", &format!("resume_from_checkpoint={before}")]].concat());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(": was made by another run:\n  lora_rank: 16 then, 4 now"), "{said}");

    let changed = stopped.copy();
    let mut damaged = bytes(&changed, init);
    *damaged.last_mut().expect("a byte") ^= 1;
    std::fs::write(changed.work.path("out").join(init), damaged).expect("written");
    let (code, said) = changed.run(&keys);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("\n  pissa: digest "), "{said}");
    let cut = stopped.copy();
    let half = bytes(&cut, init)[..500].to_vec();
    std::fs::write(cut.work.path("out").join(init), half).expect("written");
    let (code, said) = cut.run(&keys);
    assert_eq!(code, Some(2), "{said}");
    // Nothing of it was downloaded, and nothing is to be fetched; that it may be deleted was tried above.
    assert!(said.contains("delete out/pissa_init: ") && !said.contains("fetch"), "{said}");
    let (code, said) = stopped.run(&["pissa_init=true", "pissa_iter=3", "pissa_convert=true"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("\n  pissa_iter: 2 there, 3 now"), "{said}");

    // A finished run that is replaced leaves nothing of it.
    let (code, said) = undisturbed.run(&["overwrite_output_dir=true", "max_steps=2"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(pissa_folders(&undisturbed.work, "out"), Vec::<String>::new());
}
