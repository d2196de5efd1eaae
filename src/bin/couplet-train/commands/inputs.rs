//! Everything that a run reads, looked at before anything is loaded or written: cheapest first.

use super::locate;
use crate::machine;
use candle_core::{DType, Device};
use couplet_train::{
    adapter::{check, peft},
    config::{DataConfig, Dialect, LoraConfig, MixStrategy, ModelConfig, OverLength, Recipe},
    dataset::{self, Example, Origin, Splits, Summary, Tokenizer, TrainedSpans, summary::FileSummary},
    device::{self, Opened},
    error::{Error, Result, io_reason},
    eval::words,
    fs::{self, fault},
    hub,
    model::{Checkpoint, Principal, Qwen3Config, published},
    report::Console,
    trainer::event::{DataRead, SetRead},
};
use std::path::{Path, PathBuf};

/// Tokenizer files that go with the adapter, where the base has them.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// More tokens than any row has.
const ANY_LENGTH: usize = 1 << 20;

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
    /// Whether the model is known by its name alone, and tokens are estimated.
    pub is_estimated: bool,
    /// Why there are no data, where a step of full rows stands in for them.
    pub missing: Option<Error>,
}

impl Inputs {
    /// Reads what `recipe` names, which takes over the shape of the adapter that it continues.
    pub fn read(recipe: &mut Recipe, console: &mut Console) -> Result<Self> {
        // A name is looked up before gigabytes are fetched.
        registered(recipe)?;
        recipe.model.adapter_name_or_path.iter().try_for_each(|dir| peft::Existing::open(dir).map(drop))?;
        let base = Base::open(locate::base(&recipe.model, console)?)?;
        let open = |recipe: &Recipe, model: &Qwen3Config| device::open(recipe.model.device, model.parameters());
        let inputs = Self::of(recipe, base, None, open)?;
        if inputs.opened.device.is_cpu() {
            let size = inputs.model_config.parameters() * inputs.dtype.size_in_bytes();
            machine::refuse_too_large(size, inputs.dtype)?;
        }
        Ok(inputs)
    }

    /// The same of what is on this machine: nothing is fetched, and no device or memory is asked for that is not there. A
    /// published geometry and an approximate tokenizer stand in for a model, full rows for data, the CPU for a device: then also
    /// why.
    ///
    /// Errors: as [`Self::read`]; the model is neither here nor one of the published.
    pub fn here(recipe: &mut Recipe) -> Result<(Self, Option<Error>)> {
        recipe.model.adapter_name_or_path.iter().try_for_each(|dir| peft::Existing::open(dir).map(drop))?;
        let (base, missing) = (Base::here(recipe)?, registered(recipe).err());
        let mut why_cpu = None;
        let on_cpu = || Opened { device: Device::Cpu, card: None, driver: None, passed_over: None };
        let open = |recipe: &Recipe, model: &Qwen3Config| {
            Ok(device::open(recipe.model.device, model.parameters()).unwrap_or_else(|err| {
                why_cpu = Some(err);
                on_cpu()
            }))
        };
        let inputs = Self::of(recipe, base, missing, open)?;
        Ok((inputs, why_cpu))
    }

    fn of(
        recipe: &mut Recipe,
        base: Base,
        missing: Option<Error>,
        open: impl FnOnce(&Recipe, &Qwen3Config) -> Result<Opened>,
    ) -> Result<Self> {
        let Base { dir: model_dir, config: model_config, tokenizer, tokenizer_files, is_published } = base;
        let merged = merged(&recipe.model, &model_config)?;
        let existing = recipe.model.continued().map(peft::Existing::open_own).transpose()?;
        let asked = recipe.lora.clone();
        if let Some(existing) = &existing {
            recipe.lora = existing.lora.clone();
            // What a plain one replaced is missing only from a base that was saved without it. Who says so asks for nothing else.
            let is_meant = existing.lora.pissa.pissa_init || !asked.pissa.pissa_init;
            recipe.lora.pissa.pissa_convert = asked.pissa.pissa_convert && is_meant;
            recipe.lora.refuse_pissa_of_dora()?;
        } else if recipe.lora.pissa.pissa_init {
            Principal::refuse_short_sides(&model_config, &recipe.lora)?;
        }
        if recipe.train.eval_couplets > 0 {
            words::load(); // judging asks for it, and keeps it: what is free is asked for behind this
        }
        fault::phase("tokenise");
        let (data, test) = match &missing {
            Some(_) => (full_rows(recipe, model_config.vocab_size), None),
            None if is_published => estimated_rows(recipe, &tokenizer)?,
            None => rows(recipe, &tokenizer)?,
        };
        let tested = test.iter().flat_map(|test| &test.eval);
        let rows = data.train.iter().chain(&data.eval).chain(tested);
        refuse_unknown_ids(rows, model_config.vocab_size, &model_dir)?;
        let opened = open(recipe, &model_config)?;
        let dtype = if recipe.train.bf16 { DType::BF16 } else { DType::F32 };
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
            is_estimated: is_published,
            missing,
        })
    }

    /// Looks at the headers of the weights, where there are any. Errors: they are not all there, whole and of this geometry.
    pub fn look_at_weights(&self) -> Result<()> {
        if self.is_estimated {
            return Ok(());
        }
        let checkpoint = Checkpoint::open(&self.model_dir)?;
        self.model_config.tensors().try_for_each(|(name, shape)| checkpoint.expect_shape(&name, &shape))
    }

    /// Rows that are longer than they may be by an estimate of their tokens.
    pub fn perhaps_too_long(&self, longest: usize) -> usize {
        let all = [Some(&self.data), self.test.as_ref()].into_iter().flatten();
        let too_long = |rows: &[Example]| rows.iter().filter(|row| row.input_ids.len() > longest).count();
        all.map(|splits| splits.summary.over_long + too_long(&splits.train) + too_long(&splits.eval)).sum()
    }

    /// Names of the data sets, in the order read.
    pub fn dataset_names(&self) -> Vec<String> {
        self.data.summary.files.iter().map(|file| file.name.clone()).collect()
    }

    /// What became of the rows.
    pub fn data_read(&self, total_steps: usize, dialect: Dialect) -> DataRead {
        let summaries = [Some(&self.data), self.test.as_ref()].into_iter().flatten().map(|splits| &splits.summary);
        let set = |file: &FileSummary| SetRead {
            name: file.name.clone(),
            read: file.read,
            kept: file.kept,
            skipped: file.skipped,
            reasons: file.reasons.iter().map(|skips| (skips.reason.name().to_owned(), skips.rows)).collect(),
        };
        DataRead {
            total_steps,
            sets: summaries.flat_map(|summary| &summary.files).map(set).collect(),
            always_logged: dialect != Dialect::LlamaFactory,
        }
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

/// Errors: a data set is not there.
fn registered(recipe: &Recipe) -> Result<()> {
    let data = &recipe.data;
    let mut all = [&data.dataset, &data.eval_dataset, &data.test_dataset].into_iter();
    all.try_for_each(|names| dataset::registry::look_up(&data.dataset_dir, names).map(drop))
}

/// In place of data that are not there the samples of a step: as long as rows may be, all of it trained, no two of them alike in
/// the beginning.
fn full_rows(recipe: &Recipe, vocab_size: usize) -> Splits {
    let (data, train) = (&recipe.data, &recipe.train);
    let row = |row: usize| {
        let mut input_ids = vec![0; data.longest_row().max(2)];
        input_ids[0] = (row % vocab_size) as u32;
        let trained = TrainedSpans::of_stretches([(input_ids.len(), true)]);
        Example { input_ids, trained, origin: Origin { dataset: 0, row }, pack: None }
    };
    let rows: Vec<Example> =
        (1..=train.per_device_train_batch_size * train.gradient_accumulation_steps).map(row).collect();
    let holds_out = !data.eval_dataset.is_empty() || data.val_size > 0.0;
    Splits {
        eval: if holds_out { rows.clone() } else { vec![] },
        train: rows,
        summary: Summary::default(),
        held_out: vec![],
    }
}

/// The rows of a recipe, and those of its `test_dataset`.
fn rows(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<(Splits, Option<Splits>)> {
    Ok((dataset::load(&recipe.data, recipe.train.seed, tokenizer)?, test_rows(recipe, tokenizer)?))
}

/// The rows of `test_dataset`, encoded as the held-out ones are. `None`: none is named.
fn test_rows(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<Option<Splits>> {
    if recipe.data.test_dataset.is_empty() {
        return Ok(None);
    }
    let names = recipe.data.test_dataset.clone();
    let data = DataConfig {
        dataset: vec![],
        eval_dataset: names,
        test_dataset: vec![],
        val_size: 0.0,
        mix_strategy: MixStrategy::Concat, // all of them, once
        eval_on_each_dataset: false,
        packing: false, // scored by the token
        cutoff_len: recipe.data.longest_row(),
        ..recipe.data.clone()
    };
    dataset::load(&data, recipe.train.seed, tokenizer).map(Some)
}

/// The same by an estimate of their tokens, for which no row is refused.
fn estimated_rows(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<(Splits, Option<Splits>)> {
    let mut lenient = recipe.clone();
    match recipe.data.packing {
        true => lenient.data.over_length = OverLength::Truncate, // the length of a pack is meant
        false => lenient.data.cutoff_len = ANY_LENGTH,
    }
    match recipe.data.over_length {
        OverLength::Error => rows(&lenient, tokenizer),
        // Where nothing is left, the estimate may be the reason.
        OverLength::Drop | OverLength::Truncate => rows(recipe, tokenizer).or_else(|_| rows(&lenient, tokenizer)),
    }
}

/// The base model, but for its weights.
struct Base {
    dir: PathBuf,
    config: Qwen3Config,
    tokenizer: Tokenizer,
    tokenizer_files: Vec<(&'static str, Vec<u8>)>,
    is_published: bool,
}

impl Base {
    fn here(recipe: &Recipe) -> Result<Self> {
        match locate::here(&recipe.model)? {
            Some(dir) => Self::open(dir),
            None => Self::published(&recipe.model.model_name_or_path),
        }
    }

    fn open(dir: PathBuf) -> Result<Self> {
        let (config, tokenizer) = (Qwen3Config::load(&dir)?, Tokenizer::load(&dir)?);
        let tokenizer_files = tokenizer_files(&dir, &tokenizer)?;
        Ok(Self { dir, config, tokenizer, tokenizer_files, is_published: false })
    }

    /// Errors: `name` is none of the dense Qwen3 models.
    fn published(name: &str) -> Result<Self> {
        let config = published::named(name).ok_or_else(|| {
            let sizes = published::SIZES.join(", ");
            let err = Error::input(format!("{name} is not on this machine, and its geometry is not known by its name"));
            hub::and_no_folder(err, name)
                .hint(format!("name a folder with the model, or one of Qwen/Qwen3-… ({sizes})"))
                .hint_zh(format!("请填写模型目录，或 Qwen/Qwen3-…（{sizes}）之一"))
        })?;
        let tokenizer = dataset::approximate::tokenizer()?;
        Ok(Self { dir: name.into(), config, tokenizer, tokenizer_files: vec![], is_published: true })
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
