//! Which checkpoint a run goes on from, and whether it may.

use couplet_train::{
    config::{Difference, Recipe, Resume},
    error::{Error, Result},
    report::{Console, Lang},
    run::{self, Start},
    trainer::checkpoint::{self, Restored, Skipped},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The checkpoint to go on from, if the recipe and the output directory call for one.
///
/// Every newer one that cannot be used is named. A run that left checkpoints of which none can be used is an error: it
/// must not silently start at zero.
pub fn find(recipe: &Recipe, start: &Start, console: &mut Console) -> Result<Option<Restored>> {
    let out = &recipe.output.output_dir;
    let (found, skipped) = match (&recipe.output.resume_from_checkpoint, start) {
        (Resume::Never, _) => return Ok(None),
        (Resume::From(path), _) => from(path, recipe, start)?,
        (Resume::Always, _) | (Resume::Auto, Start::Unfinished) => checkpoint::newest(out, 0)?,
        (Resume::Auto, _) => return Ok(None),
    };
    let must = recipe.output.resume_from_checkpoint == Resume::Always;
    match found {
        Some(restored) => {
            for skipped in &skipped {
                console.line(&skipped_line(skipped, console.look().lang));
            }
            Ok(Some(restored))
        }
        None if !skipped.is_empty() => Err(unusable(&skipped)),
        None if must => Err(Error::file(out, "`resume_from_checkpoint` is true, but no checkpoint is here")
            .hint("remove `resume_from_checkpoint` to start at step 0, or name the checkpoint: resume_from_checkpoint=PATH")
            .hint_zh("去掉 `resume_from_checkpoint` 可从第 0 步开始，或指明检查点：resume_from_checkpoint=路径")),
        None => Ok(None),
    }
}

/// A named checkpoint; or, if this command has begun there before, the newest that it has written since: run again and again,
/// it gets on.
fn from(path: &Path, recipe: &Recipe, start: &Start) -> Result<(Option<Restored>, Vec<Skipped>)> {
    let mut newer = (None, vec![]);
    if let Some(step) = checkpoint::step_of(path)
        && *start == Start::Unfinished
        && run::began_there(recipe)?
    {
        newer = checkpoint::newest(&recipe.output.output_dir, step)?;
    }
    let (found, mut skipped) = newer;
    match found.map_or_else(|| checkpoint::open(path), Ok) {
        Ok(restored) => Ok((Some(restored), skipped)),
        Err(err) => {
            skipped.push(Skipped { path: path.to_owned(), reason: err.to_string() });
            Ok((None, skipped))
        }
    }
}

/// What has to go before the run begins: everything where an old run is replaced or nothing goes on, and what was written after
/// a checkpoint that the run goes back to.
pub fn doomed(recipe: &Recipe, start: &Start, restored: Option<&Restored>) -> Result<Vec<PathBuf>> {
    let out = &recipe.output.output_dir;
    match (restored, &recipe.output.resume_from_checkpoint) {
        (Some(restored), _) if *start == Start::Replace => run::results(out, Some(&restored.path)),
        (None, _) => run::results(out, None),
        (Some(restored), Resume::From(path)) if restored.path == *path => {
            let later = checkpoint::list(out)?.into_iter().filter(|(step, _)| *step > restored.state.step);
            Ok(later.map(|(_, path)| path).collect())
        }
        // One that is damaged is in nobody's way, and goes when a sound one is there in its place.
        (Some(_), _) => Ok(vec![]),
    }
}

fn skipped_line(skipped: &Skipped, lang: Lang) -> String {
    let (path, reason) = (skipped.path.display(), &skipped.reason);
    match lang {
        Lang::En => format!("warning: {path} is skipped: {reason}"),
        Lang::Zh => format!("警告：跳过 {path}：{reason}"),
    }
}

/// The best evaluation so far, to which the run cannot return.
pub fn lost_line(lost: &Skipped, lang: Lang) -> String {
    let (path, reason) = (lost.path.display(), &lost.reason);
    match lang {
        Lang::En => format!("warning: the best evaluation so far cannot be returned to: {path}: {reason}"),
        Lang::Zh => format!("警告：无法回到迄今最好的一次验证：{path}：{reason}"),
    }
}

fn unusable(skipped: &[Skipped]) -> Error {
    let lines: Vec<String> = skipped.iter().map(|s| format!("\n  {}: {}", s.path.display(), s.reason)).collect();
    Error::input(format!("no checkpoint can be continued:{}", lines.concat()))
        .hint("start over with `resume_from_checkpoint=false`, or name another one: resume_from_checkpoint=PATH")
        .hint_zh("用 `resume_from_checkpoint=false` 重新开始，或指明另一个：resume_from_checkpoint=路径")
}

/// A continuation must compute what the first part would have. Of that, the config: known before anything is loaded, which
/// another one may not even let happen.
pub fn refuse_another_config(recipe: &Recipe, restored: &Restored) -> Result<()> {
    let changes = recipe.changes_that_matter(&restored.state.identity["config"]);
    let line = |d: &Difference| format!("\n  {}", d.told("then"));
    refuse(restored, &changes.iter().map(line).collect::<Vec<_>>())
}

/// And all else: base, adapters, data and tokenizer are the same, or it is refused with the difference. Another binary or device
/// may change the last bits: said, not refused.
pub fn refuse_changes(restored: &Restored, now: &Value, console: &mut Console) -> Result<()> {
    let then = &restored.state.identity;
    let mut changes = vec![];
    for what in ["base", "adapter", "merged", "pissa", "data", "tokenizer"] {
        let (old, new) = (&then["digests"][what], &now["digests"][what]);
        if old != new {
            changes.push(format!("\n  {what}: digest {} then, {} now", short(old), short(new)));
        }
    }
    refuse(restored, &changes)?;
    let lang = console.look().lang;
    for (what, zh, old, new) in [
        ("program", "程序", &then["digests"]["binary"], &now["digests"]["binary"]),
        ("device", "设备", &then["device"], &now["device"]),
    ] {
        if old != new {
            let (old, new) = (short(old), short(new));
            console.line(&match lang {
                Lang::En => {
                    format!("warning: another {what} than before ({old} then, {new} now): the last bits may differ")
                }
                Lang::Zh => format!("警告：{zh}与先前不同（先前 {old}，现在 {new}）：末位数字可能不同"),
            });
        }
    }
    Ok(())
}

fn refuse(restored: &Restored, changes: &[String]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    Err(Error::file(&restored.path, format!("was made by another run:{}", changes.concat()))
        .hint("undo the change, or start over with `resume_from_checkpoint=false` (or into another `output_dir`)")
        .hint_zh("请撤销改动，或用 `resume_from_checkpoint=false` 重新开始（或换一个 `output_dir`）"))
}

/// A digest's first digits, or a short text whole.
fn short(value: &Value) -> String {
    let text = value.as_str().unwrap_or("none");
    let is_digest = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digest { format!("{}…", &text[..12]) } else { text.to_owned() }
}
