//! Where the base model lies: a folder, or a name that is looked up and perhaps downloaded.

use couplet_train::{
    config::{HubTokens, ModelConfig},
    error::Result,
    hub::{self, HubEnv, News},
    report::Console,
};
use std::path::{Path, PathBuf};

/// The folder of `name`; what a download has to tell goes to the console.
pub fn folder(
    name: &str,
    revision: &str,
    cache_dir: Option<&Path>,
    tokens: &HubTokens,
    console: &mut Console,
) -> Result<PathBuf> {
    let env = HubEnv::read(|name| std::env::var(name).ok()).with_tokens(tokens);
    hub::resolve(name, revision, cache_dir, &env, &mut |news| match news {
        News::Arrived { file, done, total } => console.download(file, done, total),
        News::Waiting { file } => console.download_waits(file),
        News::Again { file, reason, pause } => console.download_again(file, reason, pause.as_secs_f64()),
    })
}

/// The folder of the recipe's base.
pub fn base(model: &ModelConfig, console: &mut Console) -> Result<PathBuf> {
    let (name, revision) = (&model.model_name_or_path, &model.model_revision);
    folder(name, revision, model.cache_dir.as_deref(), &model.tokens, console)
}

/// The same where it is on this machine, whole: nothing is downloaded. `None`: a name that would be.
///
/// Errors: it is no name, and no folder either.
pub fn here(model: &ModelConfig) -> Result<Option<PathBuf>> {
    let env = HubEnv::read(|name| std::env::var(name).ok());
    hub::here(&model.model_name_or_path, &model.model_revision, model.cache_dir.as_deref(), &env)
}

/// Where a download of it would lie, if there is such a place.
pub fn cache(model: &ModelConfig) -> Option<PathBuf> {
    hub::cache(model.cache_dir.as_deref(), &HubEnv::read(|name| std::env::var(name).ok()))
}
