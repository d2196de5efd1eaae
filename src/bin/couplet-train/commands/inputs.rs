//! Everything that a run reads, looked at before anything is loaded or written: cheapest first.

use super::verdict;
use crate::machine;
use candle_core::DType;
use couplet_train::{
    adapter::{check, peft},
    config::{LoraConfig, ModelConfig, Recipe},
    dataset::{self, Example, Splits, Tokenizer, summary::FileSummary},
    device::{self, Opened},
    error::{Error, Result, io_reason},
    fs::{self, fault},
    hub::{self, HubEnv},
    model::Qwen3Config,
    report::Console,
    trainer::event::{DataRead, SetRead},
};
use std::path::{Path, PathBuf};

/// Tokenizer files that go with the adapter, where the base has them.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// What a run reads, but for the weights.
pub struct Inputs {
    pub model_dir: PathBuf,
    pub model_config: Qwen3Config,
    pub tokenizer: Tokenizer,
    /// What is to lie beside the adapter: the bytes that were there when the tokenizer was read.
    tokenizer_files: Vec<(&'static str, Vec<u8>)>,
    /// Adapters that are merged into the base, in this order.
    pub merged: Vec<peft::Existing>,
    /// The adapter whose training goes on.
    pub existing: Option<peft::Existing>,
    /// The LoRA that the recipe asks for, where an adapter may have its own.
    pub asked: LoraConfig,
    pub data: Splits,
    /// The rows of `test_dataset`, as held-out ones.
    pub test: Option<Splits>,
    pub opened: Opened,
    pub dtype: DType,
}

impl Inputs {
    /// Reads what `recipe` names, which takes over the shape of the adapter that it continues.
    pub fn read(recipe: &mut Recipe, console: &mut Console) -> Result<Self> {
        // A name is looked up before gigabytes are fetched.
        for names in [&recipe.data.dataset, &recipe.data.eval_dataset, &recipe.data.test_dataset] {
            dataset::registry::look_up(&recipe.data.dataset_dir, names)?;
        }
        let model_dir = model_dir(recipe, console)?;
        let model_config = Qwen3Config::load(&model_dir)?;
        let tokenizer = Tokenizer::load(&model_dir)?;
        let tokenizer_files = tokenizer_files(&model_dir, &tokenizer)?;
        let merged = merged(&recipe.model, &model_config)?;
        let existing = recipe.model.continued().map(peft::Existing::open).transpose()?;
        let asked = recipe.lora.clone();
        if let Some(existing) = &existing {
            recipe.lora = existing.lora.clone();
        }
        fault::phase("tokenise");
        let data = dataset::load(&recipe.data, recipe.train.seed, &tokenizer)?;
        let test = verdict::test_rows(recipe, &tokenizer)?;
        let tested = test.iter().flat_map(|test| &test.eval);
        let rows = data.train.iter().chain(&data.eval).chain(tested);
        refuse_unknown_ids(rows, model_config.vocab_size, &model_dir)?;
        let opened = device::open(recipe.model.device, model_config.parameters())?;
        let dtype = if recipe.train.bf16 { DType::BF16 } else { DType::F32 };
        if opened.device.is_cpu() {
            machine::refuse_too_large(model_config.parameters() * dtype.size_in_bytes(), dtype)?;
        }
        Ok(Self {
            model_dir,
            model_config,
            tokenizer,
            tokenizer_files,
            merged,
            existing,
            asked,
            data,
            test,
            opened,
            dtype,
        })
    }

    /// What became of the rows.
    pub fn data_read(&self, total_steps: usize) -> DataRead {
        let summaries = [Some(&self.data), self.test.as_ref()].into_iter().flatten().map(|splits| &splits.summary);
        let set = |file: &FileSummary| SetRead {
            name: file.name.clone(),
            read: file.read,
            kept: file.kept,
            skipped: file.skipped,
            reasons: file.reasons.iter().map(|skips| (skips.reason.name().to_owned(), skips.rows)).collect(),
        };
        DataRead { total_steps, sets: summaries.flat_map(|summary| &summary.files).map(set).collect() }
    }

    /// Puts the tokenizer beside the adapter.
    pub fn write_tokenizer(&self, out: &Path) -> Result<()> {
        self.tokenizer_files.iter().try_for_each(|(name, bytes)| fs::write_atomic(&out.join(name), bytes))
    }

    /// Bytes that [`Self::write_tokenizer`] writes.
    pub fn tokenizer_size(&self) -> u64 {
        self.tokenizer_files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// The adapters to merge, each looked at whole. Errors: one is damaged, or of another base.
fn merged(model: &ModelConfig, geometry: &Qwen3Config) -> Result<Vec<peft::Existing>> {
    let open = |dir: &PathBuf| {
        let adapter = peft::Existing::open(dir)?;
        let sound = adapter.refuse_misfit(geometry).and_then(|()| check::refuse_non_finite(&adapter, geometry));
        sound.map_err(|err| err.at(dir.display())).map(|()| adapter)
    };
    model.merged().iter().map(open).collect()
}

fn model_dir(recipe: &Recipe, console: &mut Console) -> Result<PathBuf> {
    let env = HubEnv::read(|name| std::env::var(name).ok());
    let m = &recipe.model;
    let tell = &mut |p: hub::Progress| console.download(p.file, p.done, p.total);
    hub::resolve(&m.model_name_or_path, &m.model_revision, m.cache_dir.as_deref(), &env, tell)
}

fn tokenizer_files(dir: &Path, tokenizer: &Tokenizer) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = vec![];
    for name in TOKENIZER_FILES {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => files.push((name, bytes)),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(Error::file(&path, format!("cannot be read: {}", io_reason(&err)))),
        }
    }
    let is_another = |(name, bytes): &(&str, Vec<u8>)| {
        *name == TOKENIZER_FILES[0] && blake3::hash(bytes).to_hex().as_str() != tokenizer.digest()
    };
    if files.iter().any(is_another) {
        return Err(Error::file(&dir.join(TOKENIZER_FILES[0]), "was changed while it was read")
            .hint("start again when nobody writes into the folder of the model")
            .hint_zh("请在无人写入模型目录时重新开始"));
    }
    Ok(files)
}

/// The rows' ids must all have a row in the embedding.
fn refuse_unknown_ids<'a>(rows: impl Iterator<Item = &'a Example>, vocab_size: usize, model_dir: &Path) -> Result<()> {
    match rows.flat_map(|row| &row.input_ids).max() {
        Some(&id) if id as usize >= vocab_size => Err(Error::file(
            model_dir,
            format!("tokenizer.json makes token {id} of these rows, but the model has only {vocab_size} (vocab_size)"),
        )
        .hint("tokenizer.json and config.json are not of the same model; take both from one checkpoint")
        .hint_zh("tokenizer.json 与 config.json 不属于同一模型；请使用同一模型自带的文件")),
        _ => Ok(()),
    }
}
