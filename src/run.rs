//! One run's place on the disk: may it start in this output directory, what has to go first, and the receipt it leaves there,
//! `run.json`.

use crate::{
    adapter::pissa,
    config::{Difference, LORA_SHAPE, Recipe, Resume},
    error::{Error, Result, io_reason},
    fs,
    trainer::{checkpoint, saver::Space},
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The receipt's file name.
pub const RECEIPT: &str = "run.json";

/// Files a run writes; what an overwriting run removes first, so that old and new never mix. The receipt stands first.
const OWN_FILES: [&str; 16] = [
    RECEIPT,
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "all_results.json",
    "chat_template.jinja",
    "eval_results.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "train_results.json",
    "trainer_log.jsonl",
    "trainer_state.json",
    "training_eval_accuracy.png",
    "training_eval_couplet_pass.png",
    "training_eval_loss.png",
    "training_loss.png",
];

/// Folders a run writes besides its checkpoints; they go like its files.
const OWN_FOLDERS: [&str; 3] = [pissa::INIT, pissa::BACKUP, pissa::CONVERTED];

/// Files by which a folder is known as something that a run must not write into.
const NOT_AN_OUTPUT: [&str; 4] = ["config.json", "dataset_info.json", "Cargo.toml", ".git"];

/// What the output directory says about starting.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Nothing of a run is there.
    Fresh,
    /// An unfinished run of this config (or one that only keys which may change tell apart): go on with it.
    Unfinished,
    /// Something is there and will be replaced, as `overwrite_output_dir` or `resume_from_checkpoint=false` asks.
    Replace,
    /// A finished run of the same config: nothing to do.
    AlreadyComplete,
}

/// Whether a run may start in its output directory.
#[derive(Debug)]
pub enum May {
    /// It may.
    Start(Start),
    /// Results lie there that are not those of this recipe: the error with which it ends.
    Not(Error),
}

/// Looks into the recipe's output directory. Another run's results are an error unless `overwrite_output_dir` is set.
///
/// An unfinished run is continued even then: a second start of the same command must not destroy the first.
pub fn inspect(recipe: &Recipe) -> Result<Start> {
    let start = match look(recipe)? {
        May::Start(start) => start,
        May::Not(err) => return Err(err),
    };
    if start != Start::AlreadyComplete {
        refuse_unwritable(&recipe.output.output_dir)?;
    }
    Ok(start)
}

/// The same, but for whether the directory can be written: nothing is. Another run's results are no error yet.
pub fn look(recipe: &Recipe) -> Result<May> {
    refuse_no_folder(recipe)?;
    let may = what_is_there(recipe)?;
    nearest_folder(&recipe.output.output_dir).map(|_| may)
}

fn what_is_there(recipe: &Recipe) -> Result<May> {
    let dir = &recipe.output.output_dir;
    if !dir.is_dir() {
        return Ok(May::Start(Start::Fresh));
    }
    if let Some(found) = NOT_AN_OUTPUT.iter().find(|name| dir.join(name).exists()) {
        return Err(unusable(dir, format!("it is a model, a data set or a project (it holds {found})")));
    }
    let entries = std::fs::read_dir(dir).map_err(|err| unusable(dir, io_reason(&err)))?;
    let results = entries.flatten().find(|entry| is_result(&entry.file_name().to_string_lossy()));
    let (overwrite, resume) = (recipe.output.overwrite_output_dir, &recipe.output.resume_from_checkpoint);
    let receipt = read_receipt(&dir.join(RECEIPT))?;
    if let (Some(_), Some(old)) = (&results, &receipt) {
        let asked = matches!(resume, Resume::Always | Resume::From(_));
        let same = is_same(recipe, old);
        let complete = is_complete(old);
        let longer = asked && !differences(recipe, old).is_empty(); // more epochs of a finished run, say
        if same && *resume != Resume::Never && (!complete || longer) {
            return Ok(May::Start(Start::Unfinished));
        }
        if overwrite || (same && *resume == Resume::Never) {
            return Ok(May::Start(Start::Replace));
        }
    }
    Ok(match (results, receipt) {
        (None, _) => May::Start(Start::Fresh),
        (Some(found), None) if overwrite && !is_of_training(dir) => {
            return Err(unusable(dir, format!("its {} is not of a training run", found.file_name().display())));
        }
        (Some(_), _) if overwrite => May::Start(Start::Replace),
        (Some(found), None) => May::Not(no_receipt(dir, &found.file_name().to_string_lossy())),
        (Some(_), Some(old)) => match differences(recipe, &old) {
            diff if !diff.is_empty() => May::Not(another_run(dir, &diff, is_same(recipe, &old))),
            _ => May::Start(Start::AlreadyComplete),
        },
    })
}

/// A checkpoint that is named must be there. The folder of this run may have been left out.
fn refuse_no_folder(recipe: &Recipe) -> Result<()> {
    let Resume::From(path) = &recipe.output.resume_from_checkpoint else { return Ok(()) };
    if path.is_dir() {
        return Ok(());
    }
    let (out, err) = (&recipe.output.output_dir, Error::file(path, "`resume_from_checkpoint` names no folder"));
    Err(match out.join(path) {
        inside if inside.is_dir() => err
            .hint(format!("did you mean `resume_from_checkpoint={}`?", inside.display()))
            .hint_zh(format!("是否想写 `resume_from_checkpoint={}`？", inside.display())),
        _ => err
            .hint("it is `true`, `false` or the folder of a checkpoint, such as outputs/run/checkpoint-200")
            .hint_zh("可写 `true`、`false` 或检查点目录，例如 outputs/run/checkpoint-200"),
    })
}

/// The error of results without a receipt: checkpoints are known as ours all the same, everything else may be anybody's.
fn no_receipt(dir: &Path, found: &str) -> Error {
    let checkpoints = checkpoint::list(dir).unwrap_or_default();
    match checkpoints.into_iter().rfind(|(_, path)| checkpoint::is_one(path)) {
        None => Error::file(dir, format!("holds another program's files ({found})"))
            .hint("choose another `output_dir`, or replace them with `overwrite_output_dir=true`")
            .hint_zh("请换一个 `output_dir`，或用 `overwrite_output_dir=true` 覆盖"),
        Some((_, newest)) => {
            let (dir_name, newest) = (dir.display(), newest.display());
            Error::file(
                dir,
                format!("holds checkpoints of a run, but {RECEIPT} is missing, which says what run it was"),
            )
            .hint(format!(
                "go on in another folder (`output_dir=… resume_from_checkpoint={newest}`), or replace what is in \
                     {dir_name} with `overwrite_output_dir=true`"
            ))
            .hint_zh(format!(
                "可换目录继续（`output_dir=… resume_from_checkpoint={newest}`），或用 `overwrite_output_dir=true` 覆盖 \
                     {dir_name}"
            ))
        }
    }
}

/// Tries a file in the folder, or in the nearest one above it that exists: a run must not fail after the model is loaded.
fn refuse_unwritable(dir: &Path) -> Result<()> {
    let nearest = nearest_folder(dir)?;
    let probe = nearest.join(format!(".{}.{}.tmp", fs::PROBE, std::process::id()));
    std::fs::write(&probe, "").map_err(|err| unusable(dir, format!("{}: {}", nearest.display(), io_reason(&err))))?;
    std::fs::remove_file(&probe).map_err(|err| unusable(dir, io_reason(&err)))
}

/// The folder, or the nearest one above it that exists. Errors: that is a file.
fn nearest_folder(dir: &Path) -> Result<&Path> {
    let exists = |path: &&Path| path.exists() && !path.as_os_str().is_empty();
    match dir.ancestors().find(exists).unwrap_or(Path::new(".")) {
        nearest if nearest.is_dir() => Ok(nearest),
        nearest => Err(unusable(dir, format!("{} is a file", nearest.display()))),
    }
}

/// Looks whether what a run will write fits on the disk of `dir`; if not even the least does, the run is refused.
///
/// `freed`: bytes that the run gives back before it writes. `there`: bytes that lie there of what `space.most` counts, or will be
/// given back. Returns the free bytes if they are too few for the most.
pub fn refuse_full_disk(dir: &Path, space: Space, freed: u64, there: u64) -> Result<Option<u64>> {
    let Some(free) = fs::free_space(dir) else { return Ok(None) };
    if free + freed < space.least {
        let (free, least) = (megabytes(free + freed), megabytes(space.least));
        return Err(Error::file(dir, format!("{free} are free, but a checkpoint and the adapter need {least}"))
            .hint("make room, or choose an `output_dir` on another disk")
            .hint_zh("请腾出空间，或将 `output_dir` 设在另一块磁盘上"));
    }
    Ok((free + there < space.most).then_some(free))
}

/// `12.3 MB`
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn unusable(dir: &Path, fact: impl std::fmt::Display) -> Error {
    Error::file(dir, format!("`output_dir` cannot be used: {fact}"))
        .hint("choose an `output_dir` that is, or can become, a folder you may write to")
        .hint_zh("请将 `output_dir` 设为可写的文件夹（或可以在该处新建的文件夹）")
}

/// What runs left in `dir`, but for the checkpoint `spare`: checkpoints first, the receipt last, because as long as it stands
/// the rest is known as a run's. For [`clear`].
pub fn results(dir: &Path, spare: Option<&Path>) -> Result<Vec<PathBuf>> {
    let spare = spare.and_then(|path| path.canonicalize().ok());
    let is_spared = |path: &Path| spare.is_some() && path.canonicalize().ok() == spare;
    let checkpoints = checkpoint::list(dir)?.into_iter().map(|(_, path)| path).filter(|path| !is_spared(path));
    let folders = OWN_FOLDERS.into_iter().map(|name| dir.join(name)).filter(|path| path.is_dir());
    let files = OWN_FILES.into_iter().rev().map(|name| dir.join(name)).filter(|path| path.is_file());
    Ok(checkpoints.chain(folders).chain(files).collect())
}

/// Bytes of files, and of the files in folders.
pub fn bytes_of(paths: &[PathBuf]) -> u64 {
    let size = |path: &Path| path.symlink_metadata().map_or(0, |found| found.len());
    let within = |path: &PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    paths.iter().map(|path| size(path) + within(path).map(|entry| size(&entry.path())).sum::<u64>()).sum()
}

/// Refuses to start from an `adapter` of which a file is among the `doomed`, which [`clear`] will remove.
pub fn refuse_doomed(adapter: &Path, doomed: &[PathBuf]) -> Result<()> {
    let doomed: Vec<PathBuf> = doomed.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let goes = |name: &str| {
        let file = adapter.join(name).canonicalize();
        file.is_ok_and(|file| doomed.iter().any(|path| file.starts_with(path)))
    };
    if ["adapter_config.json", "adapter_model.safetensors"].into_iter().any(goes) {
        return Err(Error::file(adapter, "`adapter_name_or_path` is among the results that this run would replace")
            .hint("continue the adapter into another `output_dir`")
            .hint_zh("请换一个 `output_dir` 继续训练该适配器"));
    }
    Ok(())
}

/// Removes paths that [`results`] names, in their order.
pub fn clear(doomed: &[PathBuf]) -> Result<()> {
    for path in doomed {
        match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(dir), Some(name)) if path.is_dir() => fs::remove_durable_dir(dir, name)?,
            _ => fs::ops::remove_file(path).map_err(|err| {
                Error::file(path, format!("cannot be replaced: {}", io_reason(&err)))
                    .hint("choose another `output_dir`, or remove the file yourself")
                    .hint_zh("请换一个 `output_dir`，或自行删除该文件")
            })?,
        }
    }
    Ok(())
}

/// Whether the output directory holds an unfinished run that began at the checkpoint which the recipe names.
pub fn began_there(recipe: &Recipe) -> Result<bool> {
    let asked = serde_json::to_value(&recipe.output.resume_from_checkpoint).expect("a recipe is plain data");
    let receipt = read_receipt(&recipe.output.output_dir.join(RECEIPT))?;
    Ok(receipt.is_some_and(|old| !is_complete(&old) && old["config"]["output"]["resume_from_checkpoint"] == asked))
}

/// Whether what lies there without a receipt was left by a training run, this program's or another's: anybody may have a README.
fn is_of_training(dir: &Path) -> bool {
    let files = ["adapter_config.json", "adapter_model.safetensors", "trainer_state.json", "trainer_log.jsonl"];
    files.iter().any(|name| dir.join(name).is_file()) || checkpoint::list(dir).is_ok_and(|all| !all.is_empty())
}

fn is_result(name: &str) -> bool {
    OWN_FILES.contains(&name) || OWN_FOLDERS.contains(&name) || checkpoint::step_of(name).is_some()
}

/// The receipt of the run that wrote `dir`: there, or for a `checkpoint-N` and for `pissa_converted` in the folder above. `None`
/// where there is none.
///
/// Errors: it cannot be read, or is no JSON.
pub fn receipt_of(dir: &Path) -> Result<Option<Value>> {
    let is_converted = dir.file_name().is_some_and(|name| name == pissa::CONVERTED);
    let above = dir.parent().filter(|_| is_converted || checkpoint::step_of(dir).is_some());
    let places = [Some(dir), above].into_iter().flatten().map(|dir| (dir, dir.join(RECEIPT)));
    let Some((home, path)) = places.into_iter().find(|(_, path)| path.is_file()) else { return Ok(None) };
    let broken = |reason: String| {
        Error::file(&path, reason)
            .hint("remove the file, and say `--base` and `template=…` yourself")
            .hint_zh("请删除该文件，并自行指定 `--base` 与 `template=…`")
    };
    let text = std::fs::read_to_string(&path).map_err(|err| broken(format!("cannot be read: {}", io_reason(&err))))?;
    let mut receipt: Value = serde_json::from_str(&text).map_err(|err| broken(format!("not valid JSON: {err}")))?;
    if is_converted && home != dir && receipt["config"]["lora"]["pissa_init"] != true {
        forget_base(&mut receipt);
    }
    Ok(Some(receipt))
}

/// A run that converted a plain adapter was trained on a base that lacked something; what it converted fits the one that does
/// not, of which the receipt knows nothing.
fn forget_base(receipt: &mut Value) {
    for (section, key) in [("digests", "base"), ("config", "model")] {
        if let Some(section) = receipt.get_mut(section).and_then(Value::as_object_mut) {
            section.remove(key);
        }
    }
}

/// `None`: there is none. One that cannot be read is an error: without it nobody knows what the rest is worth.
fn read_receipt(path: &Path) -> Result<Option<Value>> {
    let broken = |reason: String| {
        Error::file(path, reason)
            .hint("it tells which run lies there; repair it, or remove it if that run may be replaced")
            .hint_zh("它记录该目录中是哪次训练；请修复它，若那次训练可以覆盖，请将它删除")
    };
    match std::fs::read(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(broken(format!("cannot be read: {}", io_reason(&err)))),
        Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|err| broken(format!("not valid JSON: {err}")))?)),
    }
}

fn is_complete(receipt: &Value) -> bool {
    receipt["status"] == "complete"
}

/// Whether the run with this receipt can be gone on with.
fn is_same(recipe: &Recipe, receipt: &Value) -> bool {
    let shape = shape_of_another(recipe);
    recipe.changes_that_matter(&receipt["config"]).iter().all(|change| shape.contains(&change.key.as_str()))
}

/// Keys without effect where an adapter is continued: the receipt has those of the adapter.
fn shape_of_another(recipe: &Recipe) -> &'static [&'static str] {
    if recipe.model.continued().is_some() { &LORA_SHAPE } else { &[] }
}

/// Keys that ask a finished run for nothing: when it logged, evaluated and saved is past, and where it ran too.
const PAST: [&str; 11] = [
    "logging_steps",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "cache_dir",
    "device",
    "micro_batch_tokens",
    "gradient_checkpointing",
    "shared_prefix",
];

/// Keys that make it another run. Where it is written, whether it overwrites or resumes and when it pauses do not; nor does
/// the shape of the LoRA where an adapter is continued, which has its own and keeps it; nor whether the same values were said in
/// TOML or in YAML.
fn differences(recipe: &Recipe, receipt: &Value) -> Vec<Difference> {
    let same_run = ["dialect", "overwrite_output_dir", "output_dir", "resume_from_checkpoint", "max_seconds"];
    let shape = shape_of_another(recipe);
    let mut diff = recipe.diff(&receipt["config"]);
    let another = |d: &Difference| ![&same_run[..], shape, &PAST].iter().any(|keys| keys.contains(&d.key.as_str()));
    diff.retain(another);
    diff
}

/// `more`: only more is asked of the run that lies there, and it could go on.
fn another_run(dir: &Path, diff: &[Difference], more: bool) -> Error {
    let lines: Vec<String> = diff.iter().map(|d| format!("\n  {}", d.told("there"))).collect();
    let err = Error::file(dir, format!("holds the results of another config:{}", lines.concat()));
    if more {
        return err
            .hint(
                "go on with that run with `resume_from_checkpoint=true`, choose another `output_dir`, or replace it with \
                 `overwrite_output_dir=true`",
            )
            .hint_zh(
                "可用 `resume_from_checkpoint=true` 继续那次训练，或换一个 `output_dir`，或用 `overwrite_output_dir=true` 覆盖",
            );
    }
    err.hint("choose another `output_dir`, or replace them with `overwrite_output_dir=true`")
        .hint_zh("请换一个 `output_dir`，或用 `overwrite_output_dir=true` 覆盖")
}

/// `run.json`: written when the run starts, completed when it ends.
#[derive(Debug, Clone)]
pub struct Receipt {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Receipt {
    /// Writes the receipt of a run that begins. `facts` are an object: digests, device, data, how to speak.
    pub fn begin(recipe: &Recipe, facts: Value) -> Result<Self> {
        let mut fields = Map::new();
        fields.insert("status".into(), json!("running"));
        fields.insert("couplet_train".into(), json!(env!("CARGO_PKG_VERSION")));
        fields.insert("config".into(), serde_json::to_value(recipe).expect("a recipe is plain data"));
        if let Value::Object(facts) = facts {
            fields.extend(facts);
        }
        let receipt = Self { path: recipe.output.output_dir.join(RECEIPT), fields };
        receipt.write()?;
        Ok(receipt)
    }

    /// Marks the run as complete and adds `facts`, an object: what was measured and what came out.
    pub fn complete(mut self, facts: Value) -> Result<()> {
        self.fields.insert("status".into(), json!("complete"));
        if let Value::Object(facts) = facts {
            self.fields.extend(facts);
        }
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.fields).expect("plain JSON");
        fs::write_atomic(&self.path, (text + "\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, from_str};

    fn recipe(dir: &Path, extra: &str) -> Recipe {
        let text = format!(
            "[model]\nmodel_name_or_path = \"m\"\n[data]\ndataset = [\"d\"]\n[output]\noutput_dir = {:?}\n{extra}",
            dir.join("out")
        );
        from_str(&text, Format::Toml, Path::new("r.toml"), &[]).expect("a recipe").recipe
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_or_told() {
        let dir = tempfile::tempdir().unwrap();
        let free = fs::free_space(dir.path()).unwrap();
        let check = |least, most, freed, there| refuse_full_disk(dir.path(), Space { least, most }, freed, there);
        assert_eq!(check(1, 2, 0, 0).unwrap(), None);
        assert!(check(1, 2 * free, 0, 0).unwrap().is_some_and(|said| said < 2 * free));
        assert_eq!(check(1, 2 * free, 0, 2 * free).unwrap(), None, "most of it is there already");
        let err = check(2 * free, 2 * free, 0, 2 * free).unwrap_err().to_string();
        assert!(err.contains(" MB are free, but a checkpoint and the adapter need "), "{err}");
        assert_eq!(check(2 * free, 2 * free, 2 * free, 2 * free).unwrap(), None, "the old results go first");
    }

    #[test]
    fn the_directory_decides_whether_a_run_may_start() {
        let dir = tempfile::tempdir().unwrap();
        let first = recipe(dir.path(), "");
        let out = first.output.output_dir.clone();
        assert_eq!(inspect(&first).unwrap(), Start::Fresh, "no directory yet");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("notes.txt"), "mine").unwrap();
        assert_eq!(inspect(&first).unwrap(), Start::Fresh, "a stranger's file is in nobody's way");

        let receipt = Receipt::begin(&first, json!({"device": "cpu"})).unwrap();
        assert_eq!(inspect(&first).unwrap(), Start::Unfinished);
        receipt.complete(json!({"loss": 1.0})).unwrap();
        assert_eq!(inspect(&first).unwrap(), Start::AlreadyComplete);

        let pausing = recipe(dir.path(), "resume_from_checkpoint = true\n[train]\nmax_seconds = 60");
        assert_eq!(inspect(&pausing).unwrap(), Start::AlreadyComplete, "the same run");
        let other = recipe(dir.path(), "plot_loss = false");
        let err = inspect(&other).unwrap_err().to_string();
        assert!(err.ends_with("holds the results of another config:\n  plot_loss: true there, false now"), "{err}");
        assert!(matches!(look(&other), Ok(May::Not(_))), "a plan goes on");
        let past = recipe(dir.path(), "logging_steps = 7\nsave_steps = 7");
        assert_eq!(inspect(&past).unwrap(), Start::AlreadyComplete, "what is past cannot be changed");
        let longer = inspect(&recipe(dir.path(), "[train]\nmax_steps = 9")).unwrap_err();
        assert!(longer.hint_text(false).unwrap().contains("`resume_from_checkpoint=true`"), "{longer}");
        let seed = inspect(&recipe(dir.path(), "[train]\nseed = 7")).unwrap_err();
        assert!(!seed.hint_text(false).unwrap().contains("resume_from_checkpoint"), "{seed}");
        let overwriting = recipe(dir.path(), "plot_loss = false\noverwrite_output_dir = true");
        assert_eq!(inspect(&overwriting).unwrap(), Start::Replace);

        std::fs::write(out.join("training_loss.png"), "old").unwrap();
        for name in ["checkpoint-5", "checkpoint-10", "checkpoint-keep"] {
            std::fs::create_dir(out.join(name)).unwrap();
            std::fs::write(out.join(name).join("adapter_config.json"), "{}").unwrap();
        }
        let spare = out.join("../out/checkpoint-5");
        let doomed = results(&out, Some(&spare)).unwrap();
        assert_eq!(doomed.first(), Some(&out.join("checkpoint-10")), "the receipt goes last");
        assert_eq!(doomed.last(), Some(&out.join(RECEIPT)));
        assert_eq!(bytes_of(&[out.join("checkpoint-keep"), out.join("training_loss.png")]), {
            let of = |name| out.join(name).symlink_metadata().unwrap().len();
            of("checkpoint-keep") + 2 + 3
        });
        for (adapter, goes) in [("checkpoint-10", true), ("checkpoint-5", false), ("checkpoint-keep", false)] {
            assert_eq!(refuse_doomed(&out.join(adapter), &doomed).is_err(), goes, "{adapter}");
        }
        clear(&doomed).unwrap();
        assert!(["notes.txt", "checkpoint-5", "checkpoint-keep"].iter().all(|name| out.join(name).exists()));
        clear(&results(&out, None).unwrap()).unwrap();
        assert_eq!(inspect(&first).unwrap(), Start::Fresh);
        assert!(out.join("checkpoint-keep").exists() && !out.join("training_loss.png").exists());

        for (receipt, want) in [("{", "run.json: not valid JSON: "), ("\u{0}", "run.json: not valid JSON: ")] {
            std::fs::create_dir_all(out.join("checkpoint-5")).unwrap();
            std::fs::write(out.join(RECEIPT), receipt).unwrap();
            let err = inspect(&overwriting).unwrap_err().to_string();
            assert!(err.contains(want), "it must not pass for none: {err}");
        }
        clear(&results(&out, None).unwrap()).unwrap();

        std::fs::write(out.join("README.md"), "mine").unwrap();
        let err = inspect(&overwriting).unwrap_err().to_string();
        assert!(err.ends_with("`output_dir` cannot be used: its README.md is not of a training run"), "{err}");
        std::fs::write(out.join("adapter_model.safetensors"), "x").unwrap();
        assert_eq!(inspect(&overwriting).unwrap(), Start::Replace, "another program's adapter, and its card");
        std::fs::remove_file(out.join("README.md")).unwrap();
        let err = inspect(&first).unwrap_err().to_string();
        assert!(err.ends_with("holds another program's files (adapter_model.safetensors)"), "{err}");
    }

    #[test]
    fn a_value_that_is_gone_is_said_to_be_not_set() {
        let dir = tempfile::tempdir().unwrap();
        let capped = recipe(dir.path(), "[train]\nmax_steps = 9\nseed = 7");
        std::fs::create_dir(&capped.output.output_dir).unwrap();
        std::fs::write(capped.output.output_dir.join("trainer_log.jsonl"), "").unwrap();
        Receipt::begin(&capped, json!({})).unwrap().complete(json!({})).unwrap();
        let err = inspect(&recipe(dir.path(), "[train]\nseed = 7")).unwrap_err().to_string();
        assert!(err.ends_with("\n  max_steps: 9 there, not set now"), "{err}");
    }

    #[test]
    fn the_same_recipe_in_the_other_dialect_is_no_other_config() {
        let dir = tempfile::tempdir().unwrap();
        let (file, out) = (dir.path().join("r.yaml"), dir.path().join("out"));
        let yaml = format!(
            "model_name_or_path: m\nstage: sft\ndo_train: true\ndataset: d\ntemplate: qwen3\noutput_dir: {}\n",
            out.display()
        );
        std::fs::write(&file, &yaml).unwrap();
        let theirs = from_str(&yaml, Format::Yaml, &file, &[]).unwrap().recipe;
        let (toml, _) = crate::config::convert(&file, &[]).unwrap();
        let ours = from_str(&toml, Format::Toml, Path::new("r.toml"), &[]).unwrap().recipe;
        assert_ne!(ours.dialect, theirs.dialect);
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("trainer_log.jsonl"), "").unwrap();
        let receipt = Receipt::begin(&theirs, json!({})).unwrap();
        assert_eq!(inspect(&ours).unwrap(), Start::Unfinished);
        receipt.complete(json!({})).unwrap();
        assert_eq!(inspect(&ours).unwrap(), Start::AlreadyComplete);
    }

    #[test]
    fn the_receipt_of_what_a_run_left_below_is_found_above() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| receipt_of(&dir.path().join(name)).unwrap();
        for name in ["checkpoint-5", "pissa_converted", "pissa_backup", "checkpoint-keep"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let write = |pissa_init: bool| {
            let config = json!({"model": {"model_name_or_path": "m"}, "lora": {"pissa_init": pissa_init}});
            let receipt = json!({"config": config, "digests": {"base": "b", "data": "d"}, "speak": {}});
            std::fs::write(dir.path().join(RECEIPT), receipt.to_string()).unwrap();
            receipt
        };
        let whole = write(true);
        for name in ["", "checkpoint-5", "pissa_converted"] {
            assert_eq!(of(name), Some(whole.clone()), "{name}");
        }
        for name in ["pissa_backup", "checkpoint-keep"] {
            assert_eq!(of(name), None, "{name}");
        }
        let whole = write(false);
        assert_eq!(of("checkpoint-5"), Some(whole));
        let fits = of("pissa_converted").expect("a receipt");
        let base = (&fits["digests"]["base"], &fits["config"]["model"]);
        assert_eq!((base, &fits["digests"]["data"]), ((&Value::Null, &Value::Null), &json!("d")), "of another base");
    }

    #[test]
    fn checkpoints_without_a_receipt_are_known_as_ours() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = recipe(dir.path(), "");
        let out = recipe.output.output_dir.clone();
        for (step, files) in [(5, 2), (20, 2), (100, 1)] {
            let checkpoint = out.join(format!("checkpoint-{step}"));
            std::fs::create_dir_all(&checkpoint).unwrap();
            for name in ["state.json", "manifest.json"].into_iter().take(files) {
                std::fs::write(checkpoint.join(name), "{}").unwrap();
            }
        }
        let err = inspect(&recipe).unwrap_err();
        assert!(err.to_string().ends_with("run.json is missing, which says what run it was"), "{err}");
        for chinese in [false, true] {
            let hint = err.hint_text(chinese).unwrap();
            assert!(
                hint.contains(&format!("resume_from_checkpoint={}", out.join("checkpoint-20").display())),
                "{hint}"
            );
        }
    }

    #[test]
    fn a_checkpoint_that_is_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let asked = |path: &str| {
            let recipe = recipe(dir.path(), &format!("resume_from_checkpoint = {path:?}"));
            inspect(&recipe).unwrap_err().hint_text(false).unwrap().to_owned()
        };
        std::fs::create_dir_all(dir.path().join("out/checkpoint-5")).unwrap();
        let meant = format!("`resume_from_checkpoint={}`?", dir.path().join("out/checkpoint-5").display());
        assert!(asked("checkpoint-5").ends_with(&meant), "{}", asked("checkpoint-5"));
        assert!(asked("maybe").starts_with("it is `true`, `false` or the folder"), "{}", asked("maybe"));
    }
}
