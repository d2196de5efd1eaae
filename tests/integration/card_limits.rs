//! The program of `--features cuda`: which card it takes, what it refuses, and what becomes of a run whose card has no more memory.
//!
//! The cards are made up by the stand-in driver (`.ci/run_cuda_on_cpu`). Real ones have other names and nothing wrong with them:
//! where CUDA's own libraries are, these tests say so and pass.

use crate::support::{Ended, Workspace, root};
use serde_json::Value;
use std::path::Path;

/// The shipped model and twelve couplets in three steps of bf16.
struct Run(Workspace);

impl Run {
    /// `None`: CUDA's own libraries are here.
    fn new() -> Option<Self> {
        let run = Self(Workspace::new());
        let recipe = std::fs::read(root().join("configs/tiny_couplets.toml")).expect("the recipe");
        run.0.write("recipe.toml", recipe);
        let doctor = run.0.run(&["doctor"]);
        if !doctor.stdout.contains("stand-in 0") {
            assert!(std::env::var_os("STAND_IN").is_none(), "the stand-in driver: {}{}", doctor.stdout, doctor.stderr);
            println!("no stand-in driver, nothing is tested: {}{}", doctor.stdout, doctor.stderr);
            return None;
        }
        Some(run)
    }

    fn train(&self, more: &[&str], env: &[(&str, &str)]) -> Ended {
        let model = format!("model_name_or_path={}", root().join("data/tiny_qwen3").display());
        let data = format!("dataset_dir={}", root().join("data").display());
        let small = ["max_steps=3", "max_samples=12", "per_device_train_batch_size=4", "logging_steps=1", "bf16=true"];
        let silent = ["eval_strategy=no", "eval_dataset=null", "output_dir=out", "plot_loss=false", "warmup_ratio=0"];
        let args = [&["recipe.toml", &model, &data], &small[..], &silent, more].concat();
        self.0.run_with(&args, env)
    }

    fn adapter(&self) -> Vec<u8> {
        std::fs::read(self.0.path("out/adapter_model.safetensors")).expect("an adapter")
    }

    /// What the stand-in driver did in a run: its report's number of this name.
    fn count(&self, name: &str) -> u64 {
        let report = self.0.read("report");
        let line = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        line.map_or(0, |n| n.parse().expect("a number"))
    }

    fn report(&self) -> String {
        self.0.path("report").display().to_string()
    }
}

fn assert_fails(ended: &Ended, code: i32, error: &str, hint: &str) {
    let said = &ended.stderr;
    assert_eq!(ended.code, code, "{error}: {said}");
    let line = |begin: &str| said.lines().rfind(|line| line.starts_with(begin)).unwrap_or_default().to_owned();
    assert!(line("error: ").starts_with(&format!("error: {error}")), "{error}: {said}");
    assert!(line("hint: ").contains(hint), "{hint}: {said}");
}

#[test]
fn the_doctor_lists_cards_and_auto_takes_the_emptiest() {
    let Some(run) = Run::new() else { return };
    let doctor = run.0.run_with(&["doctor"], &[("STAND_IN_CARDS", "3"), ("STAND_IN_MEMORY", "1000,3000,2000")]);
    assert_eq!((doctor.code, doctor.stderr.as_str()), (0, ""));
    for line in [
        "built for    CUDA 13.0; our kernels: sm_80, sm_90, compute_80; candle's: ",
        "cards        cuda:0, stand-in 0, 1.0 of 1.0 GB free, compute capability 9.0",
        "             cuda:1, stand-in 1, 3.1 of 3.1 GB free, compute capability 9.0",
        "device=auto  cuda:1",
    ] {
        assert!(doctor.stdout.lines().any(|said| said.starts_with(line)), "{line}\n{}", doctor.stdout);
    }
    let old = run.0.run_with(&["doctor"], &[("STAND_IN_DRIVER", "12080")]);
    assert!(old.stdout.lines().any(|line| line == "device=auto  the CPU"), "{}", old.stdout);
    assert_fails(&old, 1, "the NVIDIA driver is too old: it knows CUDA 12.8, this binary", "580 or newer");
}

#[test]
fn a_card_that_cannot_be_used_is_refused_before_anything_is_loaded() {
    let Some(run) = Run::new() else { return };
    for (device, env, error, hint) in [
        (
            "device=cuda:2",
            ("STAND_IN_CARDS", "2"),
            "there is no cuda:2; the driver shows cuda:0 (stand-in 0), cuda:1",
            "auto",
        ),
        ("device=cuda:0", ("STAND_IN_CARDS", "0"), "the NVIDIA driver shows no card", "CUDA_VISIBLE_DEVICES"),
        ("device=cuda:0", ("STAND_IN_DRIVER", "12080"), "the NVIDIA driver is too old: it knows CUDA 12.8", "update"),
        (
            "device=cuda:0",
            ("STAND_IN_CAPABILITY", "75"),
            "cuda:0 (stand-in 0) has compute capability 7.5",
            "8.0 (A100)",
        ),
        (
            "device=auto",
            ("STAND_IN_FAIL_ALLOCATION", "1"),
            "cuda:0 (stand-in 0): the card's memory is taken before anything is loaded",
            "`nvidia-smi`",
        ),
        ("device=auto", ("STAND_IN_MEMORY", "100"), "the run needs about ", "micro_batch_tokens"),
    ] {
        assert_fails(&run.train(&[device], &[env]), 2, error, hint);
        assert!(!run.0.path("out/run.json").exists(), "{error}: nothing is left");
    }
}

#[test]
fn without_a_card_a_small_model_trains_on_the_cpu_and_says_why() {
    let Some(run) = Run::new() else { return };
    let ended = run.train(&["bf16=false"], &[("STAND_IN_CARDS", "0")]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let note = "note: on the CPU, although this binary was built for cards: the NVIDIA driver shows no card (";
    assert!(ended.stderr.contains(note), "{}", ended.stderr);
}

#[test]
fn a_run_takes_what_was_planned_and_our_kernels_take_everything() {
    let Some(run) = Run::new() else { return };
    let ended = run.train(&[], &[("STAND_IN_REPORT", &run.report())]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("candle's operations"), "{}", ended.stderr);
    assert_eq!(run.count("events"), 0, "one stream waits for nobody");

    let receipt = run.0.json("out/run.json");
    let bytes = |pointer: &str| receipt.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{receipt}"));
    assert_eq!(bytes("/measured/card/weights"), bytes("/predicted/memory/weights"));
    let (peak, planned) = (bytes("/measured/card/peak_bytes"), bytes("/predicted/peak_memory_bytes"));
    let off = (peak as f64 / planned as f64 - 1.0).abs();
    assert!(off < 0.05, "{peak} bytes at the most, {planned} were planned");
    assert_eq!(receipt["device"], "stand-in 0 (compute capability 9.0); bf16, f32 masters");
}

#[test]
fn a_run_without_memory_keeps_its_last_step_and_goes_on_from_it() {
    let Some(run) = Run::new() else { return };
    let whole = run.train(&[], &[("STAND_IN_REPORT", &run.report())]);
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let (want, allocations) = (run.adapter(), run.count("allocations"));
    std::fs::remove_dir_all(run.0.path("out")).expect("the whole run");

    // In the first tensors after the probe; in the rehearsal; in the last of three steps.
    let third_step = allocations * 3 / 4;
    for (at, error, hint) in [
        (
            4,
            "the card's memory is used up (CUDA_ERROR_OUT_OF_MEMORY): the base weights in bf16; of 8.6 GB this run",
            "model",
        ),
        (
            allocations / 8,
            "the card's memory is used up (CUDA_ERROR_OUT_OF_MEMORY): a micro-batch of 170 tokens (4 samples) forward and \
             backward; planned: weights ",
            "`micro_batch_tokens=85`, or `gradient_checkpointing=on`",
        ),
        (third_step, "the card's memory is used up (CUDA_ERROR_OUT_OF_MEMORY): ", "set `micro_batch_tokens="),
    ] {
        let ended = run.train(&[], &[("STAND_IN_FAIL_ALLOCATION", &at.to_string())]);
        assert_fails(&ended, 1, error, hint);
        assert_eq!(run.0.path("out/checkpoint-2").is_dir(), at == third_step, "{}", ended.stderr);
    }
    let saved = run.train(&[], &[("STAND_IN_FAIL_ALLOCATION", "4")]);
    let checkpoint = Path::new("out/checkpoint-2").display().to_string();
    assert!(
        saved.stderr.contains(&format!("the last checkpoint is whole, and the run can go on from it: {checkpoint}"))
    );
    let rest = run.train(&["gradient_checkpointing=on"], &[]);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    assert!(rest.stderr.contains("goes on after step 2"), "{}", rest.stderr);
    assert!(run.adapter() == want, "other bytes than in one go");
}

#[test]
fn rows_at_once_are_halved_where_the_card_has_no_room_and_the_user_is_told() {
    let Some(run) = Run::new() else { return };
    let many = ["per_device_train_batch_size=256", "max_samples=256", "max_steps=1"];
    // It ends in the rehearsal, behind the header.
    let memory = [("STAND_IN_MEMORY", "330"), ("STAND_IN_FAIL_ALLOCATION", "150")];
    let ended = run.train(&many, &memory);
    let said = &ended.stderr;
    let note = said.lines().find(|line| line.starts_with("note: ") && line.contains(" tokens at once and not 8192"));
    let rows: usize = note.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!([4096, 2048, 1024, 512, 256].contains(&rows), "{said}");
    assert!(said.contains(&format!("micro_batch_tokens={rows} keeps it so")), "{said}");
    assert!(said.contains("blocks keep their input and run forward twice"), "that comes first: {said}");
    let asked = run.train(&[&many[..], &["micro_batch_tokens=8192"]].concat(), &memory);
    assert_fails(&asked, 2, "the run needs about ", "micro_batch_tokens");
}
