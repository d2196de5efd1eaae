//! A finished run that is asked for again: its adapter is read back, its data compared, and the ways on are named.

use super::locate;
use couplet_train::{
    adapter::check,
    config::{DataConfig, Recipe, Resume},
    dataset::{self, Tokenizer},
    error::{Error, Result},
    report::{Console, Lang},
    run,
};
use std::path::Path;

/// Says that the run of `recipe` is complete; returns the exit code.
///
/// Errors: its adapter is damaged, or data set or tokenizer are others than those it was trained with.
pub fn look_at(recipe: &Recipe, console: &mut Console) -> Result<u8> {
    let out = &recipe.output.output_dir;
    check::refuse_damaged(out).map_err(|err| damaged(out, &err))?;
    match changed(recipe) {
        Ok(None) => {}
        Ok(Some(what)) => return Err(another(out, what)),
        // What it was made from need not be there any more.
        Err(err) => console.detail(&format!("{}: not compared with its data: {err}", out.display())),
    }
    console.line(&already_complete(recipe, console.look().lang));
    Ok(0)
}

/// What is not as it was when the run began. Errors: base or data cannot be read.
fn changed(recipe: &Recipe) -> Result<Option<&'static str>> {
    let receipt = run::receipt_of(&recipe.output.output_dir)?.unwrap_or_default();
    let digests = &receipt["digests"];
    let name = &recipe.model.model_name_or_path;
    let base = locate::here(&recipe.model)?.ok_or_else(|| Error::input(format!("{name} is not on this machine")))?;
    let tokenizer = Tokenizer::load(&base)?;
    if digests["tokenizer"] != tokenizer.digest() {
        return Ok(Some("tokenizer"));
    }
    // Of the test rows nothing is left in the adapter.
    let data = DataConfig { test_dataset: vec![], ..recipe.data.clone() };
    let data = dataset::load(&data, recipe.train.seed, &tokenizer)?;
    Ok((digests["data"] != data.summary.digest).then_some("data set"))
}

fn damaged(out: &Path, err: &Error) -> Error {
    Error::run(format!("{}: the run is complete, but its adapter is damaged: {err}", out.display()))
        .hint("take the adapter of its last checkpoint, or train it again with `overwrite_output_dir=true`")
        .hint_zh("请取用最后一个检查点中的适配器，或用 `overwrite_output_dir=true` 重新训练")
}

fn another(out: &Path, what: &str) -> Error {
    Error::file(out, format!("holds the results of another {what}: its content has changed since that run"))
        .hint("choose another `output_dir`, or replace them with `overwrite_output_dir=true`")
        .hint_zh("请换一个 `output_dir`，或用 `overwrite_output_dir=true` 覆盖")
}

fn already_complete(recipe: &Recipe, lang: Lang) -> String {
    let out = recipe.output.output_dir.display();
    let said = match lang {
        Lang::En => format!(
            "{out}: this run is already complete. Train it longer (more num_train_epochs or max_steps, and \
             resume_from_checkpoint=true), go on from its adapter in another folder (adapter_name_or_path={out} \
             output_dir=…), or start over (overwrite_output_dir=true)."
        ),
        Lang::Zh => format!(
            "{out}：此训练已完成。可继续训练更久（增大 num_train_epochs 或 max_steps，并写 resume_from_checkpoint=true），\
             换目录从其适配器继续（adapter_name_or_path={out} output_dir=…），或重新开始（overwrite_output_dir=true）。"
        ),
    };
    let Resume::From(path) = &recipe.output.resume_from_checkpoint else { return said };
    let path = path.display();
    said + &match lang {
        Lang::En => format!(" To go on from {path}, name another output_dir."),
        Lang::Zh => format!("若要从 {path} 继续，请另写一个 output_dir。"),
    }
}
