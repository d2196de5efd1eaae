//! The data that is looked at: of a config, or of a model and a data set that are named alone. Nothing else of a run is needed.

use super::super::locate;
use crate::args::SourceArgs;
use couplet_train::{
    config::{self, Format, Loaded, Recipe},
    dataset::{self, Read, Tokenizer},
    error::{Error, Result},
    report::{Console, Header, Look},
};
use std::{
    io::stderr,
    path::{Path, PathBuf},
};

/// What is looked at, read but not tokenised.
pub struct Source {
    pub recipe: Recipe,
    pub model_dir: PathBuf,
    pub tokenizer: Tokenizer,
    pub read: Read,
}

impl Source {
    /// Errors: neither a config nor a model and a data set; what training would say of them.
    pub fn open(args: &SourceArgs, look: Look) -> Result<Self> {
        let mut console = Console::new(stderr(), look);
        let Loaded { recipe, notices } = loaded(args)?;
        for names in [&recipe.data.dataset, &recipe.data.eval_dataset, &recipe.data.test_dataset] {
            dataset::registry::look_up(&recipe.data.dataset_dir, names)?;
        }
        let model_dir = locate::base(&recipe.model, &mut console)?;
        let tokenizer = Tokenizer::load(&model_dir)?;
        tokenizer.check_template(recipe.data.template)?;
        let read = dataset::read(&recipe.data, recipe.train.seed)?;
        let mut header = Header::default();
        for notice in notices {
            header.notice(notice.en, notice.zh);
        }
        for warning in &read.warnings {
            header.notice(warning.en.clone(), warning.zh.clone());
        }
        console.header(&header);
        Ok(Self { recipe, model_dir, tokenizer, read })
    }
}

fn loaded(args: &SourceArgs) -> Result<Loaded> {
    let mut words = args.words.as_slice();
    let mut file = args.config.as_deref();
    if let (None, Some((first, rest))) = (file, words.split_first())
        && !first.contains('=')
    {
        (file, words) = (Some(Path::new(first)), rest);
    }
    // What a word says is not said for the user.
    let unsaid =
        |key: &&str| !words.iter().any(|word| word.split_once('=').is_some_and(|(said, _)| said.trim() == *key));
    let mut overrides = vec![];
    if let Some(model) = &args.model {
        overrides.push(format!("model_name_or_path={model}"));
    }
    if let Some(data) = &args.data {
        overrides.push(format!("dataset={data}"));
        overrides
            .extend(["eval_dataset", "test_dataset"].iter().filter(|key| unsaid(key)).map(|key| format!("{key}=null")));
    }
    match (file, &args.model, &args.data) {
        (Some(file), ..) => config::load(file, &[&overrides, words].concat()),
        (None, Some(_), Some(_)) => {
            overrides.extend(Some("output_dir").filter(unsaid).map(|key| format!("{key}=outputs")));
            config::from_str("", Format::Toml, Path::new("command line"), &[&overrides, words].concat())
        }
        (None, ..) => Err(Error::input("no config file")
            .hint("name a config, or --model MODEL and --data NAME: configs/tiny_couplets.toml")
            .hint_zh("请指明配置文件，或同时用 --model 与 --data：configs/tiny_couplets.toml")),
    }
}
