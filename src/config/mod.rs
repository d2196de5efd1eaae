//! The recipe: read from our TOML or from LlamaFactory's flat YAML or JSON, with `key=value` overrides.
//!
//! ```text
//! file ─ toml | yaml | json ─→ entries ─ settings (the table in keys) ─→ build ─→ Recipe ─ resolve ─→ checked
//! ```
//!
//! The file's dialect decides the defaults. An error names file, line and column and shows the line.

mod build;
mod convert;
mod entry;
mod evaluation;
mod explain;
mod full_width;
mod hidden;
mod inference;
mod intent;
mod interval;
mod json;
pub mod keys;
mod kind;
mod notice;
mod resolve;
pub mod scheduler;
mod schema;
pub mod sections;
mod settings;
mod source;
pub mod table;
pub mod token;
mod toml;
mod value;
mod yaml;

pub use convert::convert;
pub use evaluation::{EvaluationConfig, evaluation};
pub use explain::{explain, overview, reference};
pub use full_width::explained as explained_if_full_width;
pub use inference::{ExportConfig, GenerationConfig, InferDtype, InferenceConfig, Purpose, Rules, inference, purpose};
pub use interval::Interval;
pub use keys::closest;
pub use notice::Notice;
pub use resolve::{Difference, LORA_SHAPE, MAY_CHANGE};
pub use scheduler::{SchedulerKwargs, SchedulerType};
pub use schema::schema;
pub use sections::*;
pub use token::{HubTokens, Token};

use crate::error::{Error, Result};
use settings::Settings;
use source::Source;
use std::path::Path;

/// A recipe, and what the user should know about its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Every value resolved and checked.
    pub recipe: Recipe,
    /// Keys without effect, defaults that may surprise.
    pub notices: Vec<Notice>,
}

/// How a config file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Our TOML in sections.
    Toml,
    /// LlamaFactory's flat YAML.
    Yaml,
    /// LlamaFactory's flat JSON.
    Json,
}

impl Format {
    /// By the extension. Errors: none of `.toml`, `.yaml`, `.yml`, `.json`.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase).as_deref() {
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("json") => Ok(Self::Json),
            _ => Err(Error::file(path, "not a config: the name must end in .toml, .yaml, .yml or .json")
                .hint("TOML is couplet-train's own form; YAML and JSON are read as LlamaFactory's")
                .hint_zh("TOML 是 couplet-train 自己的格式；YAML 与 JSON 按 LlamaFactory 的格式读取")),
        }
    }
}

/// Reads a config file and applies `key=value` overrides to its leaf keys.
///
/// Paths in it stay as written: relative to the working directory. Errors name the place in the file.
pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded> {
    let format = Format::of(path)?;
    from_source(&Source::read(path)?, format, overrides)
}

/// Reads a config from memory; `path` is only for messages.
pub fn from_str(text: &str, format: Format, path: &Path, overrides: &[String]) -> Result<Loaded> {
    from_source(&Source::new(path, text), format, overrides)
}

fn from_source(source: &Source, format: Format, overrides: &[String]) -> Result<Loaded> {
    let (dialect, entries) = read_source(source, format)?;
    let (settings, mut notices) = Settings::new(source, dialect, entries, overrides)?;
    let recipe = build::recipe(&settings)?;
    recipe.validate().map_err(|err| err.at(source.path().display()))?;
    notices.extend(notice::surprises(&recipe, &settings));
    Ok(Loaded { recipe, notices })
}

fn read_source(source: &Source, format: Format) -> Result<(Dialect, Vec<entry::Entry>)> {
    Ok(match format {
        Format::Toml => (Dialect::Toml, toml::read(source)?),
        Format::Yaml => (Dialect::LlamaFactory, yaml::read(source)?),
        Format::Json => (Dialect::LlamaFactory, json::read(source)?),
    })
}

#[cfg(test)]
mod tests;
