//! Adapters below an adapter: merged into the base before it was trained, and so before it is used.

use super::trained::Trained;
use couplet_train::{
    adapter::peft,
    config::ModelConfig,
    error::{Error, Result},
    report::Header,
};
use std::path::PathBuf;

/// The adapters that all of `trained` were trained over, in their order, and where they lie.
///
/// Errors: one is not what it was; or `trained` are not over the same.
pub fn of(trained: &[Trained]) -> Result<(Vec<PathBuf>, Vec<peft::Existing>)> {
    let Some(first) = trained.first() else { return Ok((vec![], vec![])) };
    let below = first.below();
    if let Some(other) = trained.iter().find(|other| other.below() != below) {
        let (a, b) = (first.dir.display(), other.dir.display());
        return Err(Error::input(format!("{a} and {b} were not trained over the same merged adapters"))
            .hint("ask them one by one; each knows what it was trained over")
            .hint_zh("请分别使用；各适配器记得自己训练时所合并的适配器"));
    }
    let adapters = below.iter().map(|dir| peft::Existing::open(dir)).collect::<Result<Vec<_>>>();
    let adapters = adapters.map_err(|err| {
        err.at(format!("{} was trained over it", first.dir.display()))
            .hint("start in the folder where it was trained, or put the adapter back")
            .hint_zh("请在训练时的目录中运行，或恢复该适配器")
    })?;
    let digests = adapters.iter().map(peft::Existing::whole_digest).collect::<Result<Vec<_>>>()?.join(" ");
    let then = first.receipt.as_ref().and_then(|receipt| receipt["digests"]["merged"].as_str());
    if !adapters.is_empty() && then != Some(digests.as_str()) {
        let list = in_order(&below);
        return Err(Error::input(format!("{list}: no longer what {} was trained over", first.dir.display()))
            .hint("put back the adapter that was merged then; its digest is in run.json")
            .hint_zh("请恢复当时合并的适配器，其摘要见 run.json"));
    }
    Ok((below, adapters))
}

/// `adapters` and what the first of them was trained over, in the order in which they are merged.
///
/// Errors: as [`of`]; one cannot be read.
pub fn stack(adapters: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<peft::Existing>)> {
    let first = adapters.iter().take(1).map(|dir| Trained::open(dir)).collect::<Result<Vec<_>>>()?;
    let (mut dirs, mut weights) = of(&first)?;
    for dir in adapters {
        weights.push(peft::Existing::open(dir)?);
        dirs.push(dir.clone());
    }
    Ok((dirs, weights))
}

/// `a, then b`
pub fn in_order(adapters: &[PathBuf]) -> String {
    adapters.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", then ")
}

/// Says what a training over these adapters leaves out, or says in vain.
pub fn notice(model: &ModelConfig, header: &mut Header) {
    notice_unnamed(&model.adapter_name_or_path, header);
    if model.create_new_adapter && model.adapter_name_or_path.is_empty() {
        header.notice(
            "`create_new_adapter` without `adapter_name_or_path`: a new adapter is trained anyway",
            "有 `create_new_adapter` 而没有 `adapter_name_or_path`：本来就训练新的适配器",
        );
    }
}

/// Says which of `adapter_name_or_path` was trained over others than those before it.
pub fn notice_unnamed(adapters: &[PathBuf], header: &mut Header) {
    for (i, dir) in adapters.iter().enumerate() {
        let below = Trained::open(dir).map(|trained| trained.below()).unwrap_or_default();
        if !adapters[..i].ends_with(&below) {
            let (dir, below) = (dir.display(), in_order(&below));
            header.notice(
                format!("{dir} was trained over {below}, which `adapter_name_or_path` does not name before it"),
                format!("{dir} 是在合并 {below} 之后训练的，而 `adapter_name_or_path` 未在它之前写出"),
            );
        }
    }
}
