//! The recipe: read from our TOML or from LlamaFactory's flat YAML or JSON, with `key=value` overrides.

pub mod sections;
pub use sections::*;
