//! F18, F19: inputs that change between two processes, or under one.

use crate::{
    disk,
    pool::{Outcome, each, ensure},
    run::Work,
    suite::{STEPS, Suite},
};
use std::{fs, path::Path};
use tempfile::TempDir;

/// A change of one input: by an override, or by editing a file.
enum Change {
    Key(&'static str),
    Edit(&'static str, fn(Vec<u8>) -> Vec<u8>),
}

/// F18: what it is, the change, and what the refusal names; `None`: it may change.
type Case = (&'static str, Change, Option<&'static str>);

fn cases() -> Vec<Case> {
    use Change::{Edit, Key};
    vec![
        ("another weight of the base", Edit("model/model.safetensors", flip_last), Some("base: digest")),
        ("another file of the tokenizer", Edit("model/tokenizer.json", other_token), Some("tokenizer: digest")),
        ("a row edited", Edit("data/train.json", other_row), Some("data: digest")),
        ("a held-out row edited", Edit("data/valid.json", other_row), Some("data: digest")),
        ("seed", Key("seed=8"), Some("seed: 7 ")),
        ("rank", Key("lora_rank=8"), Some("lora_rank: 4 ")),
        ("alpha", Key("lora_alpha=32"), Some("lora_alpha: ")),
        ("targets", Key("lora_target=q_proj"), Some("lora_target: ")),
        ("batch", Key("per_device_train_batch_size=4"), Some("per_device_train_batch_size: 2 ")),
        ("accumulation", Key("gradient_accumulation_steps=1"), Some("gradient_accumulation_steps: 2 ")),
        ("dtype", Key("bf16=true"), Some("bf16: false ")),
        ("length", Key("cutoff_len=64"), Some("cutoff_len: 128 ")),
        ("rate", Key("learning_rate=0.001"), Some("learning_rate: ")),
        ("dropout", Key("lora_dropout=0.0"), Some("lora_dropout: ")),
        ("schedule", Key("lr_scheduler_type=cosine"), Some("lr_scheduler_type: ")),
        ("decay", Key("weight_decay=0.0"), Some("weight_decay: ")),
        ("evaluation batch", Key("per_device_eval_batch_size=8"), Some("per_device_eval_batch_size: 4 ")),
        ("the model's folder under another name", Key("model_name_or_path=./inputs/model"), None),
        ("the data's folder under another name", Key("dataset_dir=./inputs/data"), None),
        ("log interval", Key("logging_steps=4"), None),
        ("save interval", Key("save_steps=4"), None),
        ("evaluation interval", Key("eval_steps=20"), None),
        ("checkpoints kept", Key("save_total_limit=5"), None),
        ("pictures", Key("plot_loss=true"), None),
        ("more epochs", Key("num_train_epochs=3"), None),
        ("time limit", Key("max_seconds=100"), None),
    ]
}

/// F18
pub fn of_inputs(suite: &Suite) -> Outcome {
    let inputs = inputs(suite);
    let begun = Work::with_inputs(suite, inputs.path()).interrupted_after(23);
    let changed = each(
        &cases(),
        |case| case.0.to_owned(),
        |(_, change, refused)| {
            let inputs = self::inputs(suite);
            let work = Work::with_inputs(suite, inputs.path());
            disk::copy(&begun.out(), &work.out());
            let args: &[&str] = match change {
                Change::Key(key) => &[key],
                Change::Edit(file, edit) => {
                    rewrite(&inputs.path().join(file), edit);
                    &[]
                }
            };
            let ended = work.run("", args);
            let said = || format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr);
            match refused {
                // By the receipt or by the checkpoint, which say `there` and `then`.
                Some(named) => {
                    let refused = ended.code() == Some(2) && ended.stderr.contains(named);
                    ensure(refused && ended.steps.is_empty(), said)?;
                    // The refusal has spoiled nothing.
                    let undone = Work::with_inputs(suite, suite.fixture());
                    disk::copy(&work.out(), &undone.out());
                    undone.finishes()
                }
                None => ensure(ended.code() == Some(0) && ended.steps.first() == Some(&21), said),
            }
        },
    );
    let longer = Outcome::one("more epochs for a finished run", {
        let work = Work::new(suite);
        work.run("", &[]);
        let ended = work.run("", &["num_train_epochs=3", "resume_from_checkpoint=true"]);
        ensure(ended.code() == Some(0) && ended.steps == (41..=48).collect::<Vec<_>>(), || {
            format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr)
        })
    });
    let elsewhere = Outcome::one("a checkpoint in another folder", {
        let from = format!("resume_from_checkpoint={}", disk::checkpoint(&begun.out(), 20).display());
        let work = Work::new(suite);
        let ended = work.run("", &[&from]);
        let goes_on = ended.code() == Some(0) && ended.steps == (21..=STEPS).collect::<Vec<_>>();
        ensure(goes_on, || format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr))
            .and_then(|()| work.is_golden())
    });
    changed.and(longer).and(elsewhere)
}

/// F19
pub fn in_mid_run(suite: &Suite) -> Outcome {
    type Edit = (&'static str, &'static str, fn(Vec<u8>) -> Vec<u8>);
    let edits: [Edit; 9] = [
        ("rows edited", "data/train.json", other_row),
        ("rows cut off", "data/train.json", half),
        ("rows emptied", "data/train.json", nothing),
        ("held-out rows edited", "data/valid.json", other_row),
        ("registry emptied", "data/dataset_info.json", nothing),
        ("weights edited", "model/model.safetensors", flip_last),
        ("weights cut off", "model/model.safetensors", half),
        ("tokenizer edited", "model/tokenizer.json", other_token),
        ("model config emptied", "model/config.json", nothing),
    ];
    let steps = if suite.quick { vec![3] } else { vec![1, 9, 17, 35] };
    let cases: Vec<(usize, Edit)> = steps.iter().flat_map(|&step| edits.map(|edit| (step, edit))).collect();
    each(
        &cases,
        |(step, (what, ..))| format!("{what} in step {step}"),
        |&(step, (_, file, edit))| {
            let inputs = inputs(suite);
            let path = inputs.path().join(file);
            let work = Work::with_inputs(suite, inputs.path());
            let running = work.start_paused("step", step, &[])?;
            let before = fs::read(&path).map_err(|err| err.to_string())?;
            rewrite(&path, &edit);
            work.release();
            let ended = running.wait();
            let said = || format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr);
            // It trains on what it read, and keeps what it read.
            ensure(ended.code() == Some(0) && ended.steps.len() == STEPS, said)?;
            work.is_golden()?;
            let tokenizer = |dir: &Path| fs::read(dir.join("tokenizer.json")).unwrap_or_default();
            ensure(tokenizer(&work.out()) == tokenizer(&suite.fixture().join("model")), || {
                "another tokenizer lies beside the adapter".into()
            })?;
            // And a resume sees the change.
            let begun = Work::with_inputs(suite, inputs.path());
            fs::write(&path, &before).map_err(|err| err.to_string())?;
            let begun = begun.interrupted_after(11);
            rewrite(&path, &edit);
            let ended = begun.run("", &[]);
            let said = || format!("{:?} after steps {:?}: {}", ended.status, ended.steps, ended.stderr);
            ensure(ended.code() == Some(2) && ended.steps.is_empty(), said)?;
            fs::write(&path, before).map_err(|err| err.to_string())?;
            begun.finishes()
        },
    )
}

fn inputs(suite: &Suite) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    disk::copy(suite.fixture(), dir.path());
    dir
}

/// In place: the same file, as an editor or a copy over it leaves it.
fn rewrite(path: &Path, edit: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let bytes = fs::read(path).expect("an input");
    let edited = edit(bytes.clone());
    assert_ne!(bytes, edited, "an edit changes something");
    fs::write(path, edited).expect("an edited input");
}

fn flip_last(mut bytes: Vec<u8>) -> Vec<u8> {
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bytes
}

fn half(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 2);
    bytes
}

fn nothing(_: Vec<u8>) -> Vec<u8> {
    vec![]
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    String::from_utf8_lossy(bytes).replacen(from, to, 1).into_bytes()
}

/// The first answer gets a longer end.
fn other_row(bytes: Vec<u8>) -> Vec<u8> {
    replaced(&bytes, "\"output\":\"", "\"output\":\"春")
}

/// The same tokens in another file: refused all the same, only its digest is known.
fn other_token(bytes: Vec<u8>) -> Vec<u8> {
    [bytes.as_slice(), b"\n"].concat()
}
