//! `config convert`: a LlamaFactory YAML or JSON as our commented TOML, and our TOML as LlamaFactory's YAML.
//!
//! A key is written where the file gives it, and where the other dialect would do something else without it: the result is the
//! same recipe, which is checked before it is handed out.

use super::{
    Format, build, from_str,
    inference::{Purpose, purpose},
    keys::{self, all},
    kind::Kind,
    notice::Notice,
    read_source,
    sections::Dialect,
    settings::Settings,
    source::Source,
    table::{Command, Key, Read, Section},
    value::{Value, scalar},
};
use crate::error::{Error, Result};
use std::{fmt::Write, path::Path};

/// What LlamaFactory wants to be told and our TOML takes for granted.
const PREAMBLE: &str = "stage: sft\ndo_train: true\nfinetuning_type: lora\n";

const OURS_BELOW: &str =
    "# Read by couplet-train alone; take these out for llamafactory-cli / 以下仅 couplet-train 可读\n";

/// The training config in the other dialect, and what the user should know about the file. Errors: those of loading it.
pub fn convert(path: &Path, overrides: &[String]) -> Result<(String, Vec<Notice>)> {
    let format = Format::of(path)?;
    if let Some(purpose) = purpose(path) {
        return Err(has_no_toml(path, purpose));
    }
    let source = Source::read(path)?;
    let (dialect, entries) = read_source(&source, format)?;
    let (settings, mut notices) = Settings::new(&source, dialect, entries, overrides)?;
    let recipe = build::recipe(&settings)?;
    recipe.validate().map_err(|err| err.at(path.display()))?;
    notices.extend(all().filter(|key| is_secret(key) && settings.given(key.name)).map(left_out));

    let (text, format) = match dialect {
        Dialect::LlamaFactory => (toml(&settings), Format::Toml),
        Dialect::Toml => (yaml(&settings), Format::Yaml),
    };
    let written = from_str(&text, format, path, &[])?.recipe;
    let before = serde_json::to_value(&recipe).unwrap_or_default();
    match written.diff(&before).into_iter().find(|difference| difference.key != "dialect") {
        None => Ok((text, notices)),
        Some(difference) => {
            Err(Error::run(format!("internal error: `{}` was not converted to the same value", difference.key)))
        }
    }
}

fn is_secret(key: &Key) -> bool {
    key.read_by(Command::Train).is_some_and(|read| read.kind == Kind::Secret)
}

/// A converted file is read and passed on by others than the one who wrote the token down.
fn left_out(key: &'static Key) -> Notice {
    Notice {
        en: format!("`{}` was not written: {}", key.name, key.about.en),
        zh: format!("未写出 `{}`：{}", key.name, key.about.zh),
    }
}

/// TOML recipes train, and nothing else has one.
fn has_no_toml(path: &Path, purpose: Purpose) -> Error {
    let (what, command) = match purpose {
        Purpose::Chat => ("asks a model", "chat"),
        Purpose::Export => ("exports a model", "export"),
        Purpose::Evaluate => ("evaluates a model", "evaluate"),
    };
    Error::file(path, format!("this config {what}, and only training has a TOML form"))
        .hint(format!("it runs as it is: `couplet-train {command} {}`", path.display()))
        .hint_zh(format!("可直接运行：`couplet-train {command} {}`", path.display()))
}

fn toml(settings: &Settings<'_>) -> String {
    let mut text = String::new();
    for section in Section::ALL {
        let lines: Vec<String> = said(settings, Dialect::Toml)
            .filter(|(_, read, _)| read.home == Some(section))
            .map(|(key, _, value)| {
                format!("{} = {}  # {} / {}\n", key.name, in_toml(&value), key.about.en, key.about.zh)
            })
            .collect();
        if !lines.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{gap}{section}\n{}", lines.concat());
        }
    }
    text
}

fn yaml(settings: &Settings<'_>) -> String {
    let line = |(key, _, value): (&Key, &Read, Value)| {
        let value = match key.name {
            // LlamaFactory splits this one itself, and takes no list.
            "adapter_name_or_path" => Value::Text(value.words().unwrap_or_default().join(",")),
            _ => value,
        };
        format!("{}: {}  # {} / {}\n", key.name, in_yaml(&value), key.about.en, key.about.zh)
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = said(settings, Dialect::LlamaFactory).partition(|(key, ..)| key.is_ours());
    let note = if ours.is_empty() { "" } else { OURS_BELOW };
    let [ours, theirs] = [ours, theirs].map(|keys| keys.into_iter().map(line).collect::<String>());
    format!("{PREAMBLE}{theirs}{note}{ours}")
}

/// The keys with a home that the file gives, or that mean something else in `target` without being given.
fn said(settings: &Settings<'_>, target: Dialect) -> impl Iterator<Item = (&'static Key, &'static Read, Value)> {
    let of = move |key: &'static Key| {
        let read = key.read_by(Command::Train).filter(|read| read.home.is_some() && read.kind != Kind::Secret)?;
        if settings.is_idle(key.name) {
            return None; // the notices name it
        }
        if key.name == "pissa_convert" && !settings.flag("pissa_init") && !settings.given(key.name) {
            return None; // its defaults differ, and neither decides anything
        }
        let value = resolved(settings, key.name);
        let absent = read.default.of(target).map_or(Value::Null, |text| read.kind.loosen(scalar(text)));
        let is_said = settings.given(key.name)
            || key.name == "device" && settings.flag("use_cpu")
            || key.name == "train_sampling_strategy" && settings.flag("group_by_length");
        if key.name == "warmup_ratio" && !is_said && settings.says("warmup_steps") {
            return None; // a default on neither side
        }
        let value = match (is_said && value != Value::Null || !value.same(&absent), read.kind) {
            (false, _) => return None,
            (true, Kind::Limit) if value == Value::Null => Value::Int(-1),
            (true, _) => value,
        };
        Some((key, read, value))
    };
    all().filter_map(of)
}

/// The value that holds, with what other keys say of it.
fn resolved(settings: &Settings<'_>, name: &str) -> Value {
    match name {
        "device" if settings.flag("use_cpu") => Value::Text("cpu".into()),
        "train_sampling_strategy" if settings.flag("group_by_length") => Value::Text("group_by_length".into()),
        // Its null is a value of its own.
        "enable_thinking" if settings.entry(name).is_some_and(|entry| entry.value == Value::Null) => {
            Value::Text("none".into())
        }
        _ => match (settings.value(name), keys::read(name).kind) {
            (value @ Value::Text(_), Kind::List) => {
                one_or_list(value.words().into_iter().flatten().map(|word| Value::Text(word.into())).collect())
            }
            (value, _) => value,
        },
    }
}

/// A list of one is written as the word alone.
fn one_or_list(mut items: Vec<Value>) -> Value {
    match items.len() {
        1 => items.swap_remove(0),
        _ => Value::List(items),
    }
}

fn in_toml(value: &Value) -> String {
    match value {
        Value::Text(text) => ::toml::Value::from(text.as_str()).to_string(),
        Value::List(items) => format!("[{}]", items.iter().map(in_toml).collect::<Vec<_>>().join(", ")),
        Value::Table(pairs) => {
            let pairs = pairs.iter().map(|(name, value)| format!("{name} = {}", in_toml(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn in_yaml(value: &Value) -> String {
    match value {
        Value::Text(text) if is_plain(text) => text.clone(),
        Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::List(items) => format!("[{}]", items.iter().map(in_yaml).collect::<Vec<_>>().join(", ")),
        Value::Table(pairs) => {
            let pairs = pairs.iter().map(|(name, value)| format!("{name}: {}", in_yaml(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        // YAML 1.1 takes 5e-5 for a word.
        Value::Float(x) => match format!("{x:?}") {
            text if text.contains('e') && !text.contains('.') => text.replace('e', ".0e"),
            text => text,
        },
        other => other.to_string(),
    }
}

/// A word that YAML reads as itself without quotes.
fn is_plain(text: &str) -> bool {
    let is_safe = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    text.chars().all(is_safe) && text.starts_with(char::is_alphanumeric) && scalar(text) == Value::Text(text.to_owned())
}
