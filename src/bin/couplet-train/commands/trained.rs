//! A trained adapter, as the commands that use one find it.

use couplet_train::{
    adapter::peft,
    error::{Error, Result},
    model::{AdapterWeights, Checkpoint, Params, Qwen3},
    report::Header,
    run,
    trainer::checkpoint,
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An adapter's folder and what lies in it.
pub struct Trained {
    pub dir: PathBuf,
    pub weights: peft::Existing,
    pub receipt: Option<Value>,
}

/// What lies in a folder without an adapter, where that is known.
fn something_else(dir: &Path) -> Option<Error> {
    if dir.join(peft::CONFIG).is_file() {
        return None;
    }
    let newest = checkpoint::list(dir).ok().and_then(|all| all.into_iter().next_back());
    if let Some((_, newest)) = newest {
        let newest = newest.display();
        return Some(
            Error::file(dir, "holds an unfinished run and no adapter yet")
                .hint(format!("start its command again to finish it, or take its newest checkpoint: {newest}"))
                .hint_zh(format!("请再次运行原命令以完成训练，或使用最新的检查点：{newest}")),
        );
    }
    let is_model = dir.join("config.json").is_file();
    is_model.then(|| {
        let name = dir.display();
        Error::file(dir, "is a whole model and no adapter")
            .hint(format!("a model is named with `--base {name}`"))
            .hint_zh(format!("完整模型请用 `--base {name}` 指定"))
    })
}

impl Trained {
    /// Errors: no adapter is there, and what is instead; one that cannot be used.
    pub fn open(dir: &Path) -> Result<Self> {
        let weights = peft::Existing::open(dir).map_err(|err| something_else(dir).unwrap_or(err))?;
        Ok(Self { dir: dir.to_owned(), weights, receipt: run::receipt_of(dir)? })
    }

    /// A key of the model section of the run's recipe.
    pub fn model_key(&self, key: &str) -> Option<String> {
        self.receipt.as_ref()?["config"]["model"][key].as_str().map(str::to_owned)
    }

    /// Whether the run says that its base was another than the one of this digest.
    pub fn is_of_another_base(&self, digest: &str) -> bool {
        let trained_on = self.receipt.as_ref().and_then(|receipt| receipt["digests"]["base"].as_str());
        trained_on.is_some_and(|trained_on| trained_on != digest)
    }

    pub fn warn_of_another_base(&self, checkpoint: &Checkpoint, header: &mut Header) {
        if self.is_of_another_base(&checkpoint.digest()) {
            let (dir, (fact, fact_zh)) = (self.dir.display(), self.another_base());
            header.notice(format!("{dir} {fact}"), format!("{dir} {fact_zh}"));
        }
    }

    /// What to say of an adapter of another base, in English and in Chinese.
    pub fn another_base(&self) -> (String, String) {
        let name = self.model_key("model_name_or_path").unwrap_or("?".into());
        (
            format!("was trained on another base than this one: on `{name}`, with the digest in its run.json"),
            format!("是在另一个基座上训练的：`{name}`，其摘要见 run.json"),
        )
    }

    /// Its weights over `model`.
    pub fn over(&self, model: &Qwen3) -> Result<AdapterWeights> {
        let lora = &self.weights.lora;
        let layout = model.adapter_layout(lora)?;
        let params = Params::new(layout, model.activations(), model.device(), |slot| self.weights.values(slot))?;
        self.weights.refuse_strangers(params.slots().map(|(_, slot)| slot))?;
        AdapterWeights::new(model.config().num_hidden_layers, lora, &params)
    }

    /// Adapters that were merged into the base before this one was trained.
    pub fn below(&self) -> Vec<PathBuf> {
        let merged = self.receipt.as_ref().and_then(|receipt| receipt["merged"].as_array());
        merged.into_iter().flatten().filter_map(Value::as_str).map(PathBuf::from).collect()
    }
}
