//! The table as JSON Schema, for editors.

use super::{
    keys::all,
    kind::{Kind, MOST},
    scheduler::SchedulerType,
    sections::Dialect,
    table::{Absent, Answer, Command, Key, Read, Section},
    value::{Value, scalar},
};
use serde_json::{Map, Value as Json, json};

/// The schema of a training config in our TOML, or of any LlamaFactory YAML or JSON.
pub fn schema(dialect: Dialect) -> Json {
    let (title, properties, required) = match dialect {
        Dialect::Toml => ("couplet-train recipe", sections(), json!(["model", "data", "output"])),
        Dialect::LlamaFactory => {
            ("LlamaFactory config as couplet-train reads it", flat(), json!(["model_name_or_path"]))
        }
    };
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn sections() -> Json {
    let section = |section: Section| {
        let of = |key: &'static Key| key.read_by(Command::Train).filter(|read| read.home == Some(section));
        let keys = || all().filter_map(|key| Some((key, of(key)?)));
        let properties: Map<String, Json> =
            keys().map(|(key, read)| (key.name.to_owned(), property(key, read, Dialect::Toml))).collect();
        let required: Vec<&str> =
            keys().filter(|(_, read)| read.default == Absent::Required).map(|(key, _)| key.name).collect();
        let schema =
            json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties});
        (section.name().to_owned(), schema)
    };
    Json::Object(Section::ALL.into_iter().map(section).collect())
}

fn flat() -> Json {
    let property = |key: &'static Key| {
        let schema = match &key.answer {
            Answer::Read(read) => property(key, read, Dialect::LlamaFactory),
            Answer::Ignored => json!({"description": format!("Ignored: {}", about(key)), "deprecated": true}),
            Answer::Refused(off) => {
                let off = off.iter().map(|off| in_json(&scalar(off))).chain([Json::Null]);
                json!({"description": format!("Not supported: {}", about(key)), "enum": off.collect::<Vec<_>>()})
            }
        };
        (key.name.to_owned(), schema)
    };
    Json::Object(all().map(property).collect())
}

/// A key that is read. In YAML every key may be `null`, which is as if it were absent.
fn property(key: &Key, read: &Read, dialect: Dialect) -> Json {
    let mut schema = match dialect {
        Dialect::Toml => read.kind.schema(),
        Dialect::LlamaFactory => json!({"anyOf": [read.kind.schema(), {"type": "null"}]}),
    };
    schema["description"] = about(key).into();
    if let Some(text) = read.default.of(dialect) {
        schema["default"] = in_json(&read.kind.loosen(scalar(text)));
    }
    schema
}

fn about(key: &Key) -> String {
    format!("{} · {}", key.about.en, key.about.zh)
}

fn in_json(value: &Value) -> Json {
    match value {
        Value::Bool(flag) => json!(flag),
        Value::Int(n) => json!(n),
        Value::Float(x) => json!(x),
        Value::Text(text) => json!(text),
        _ => Json::Null,
    }
}

impl Kind {
    /// The values that it admits.
    fn schema(self) -> Json {
        let strings = json!({"type": "array", "items": {"type": "string"}});
        match self {
            Self::Text | Self::Secret => json!({"type": "string"}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Whole(least) => json!({"type": "integer", "minimum": least, "maximum": MOST}),
            Self::Steps => json!({"type": "number", "exclusiveMinimum": 0, "maximum": MOST}),
            Self::Limit => json!({"type": "integer", "minimum": -1, "maximum": MOST, "not": {"const": 0}}),
            Self::ShareOrCount | Self::NonNegative => json!({"type": "number", "minimum": 0}),
            Self::Positive => json!({"type": "number", "exclusiveMinimum": 0}),
            Self::BelowOne => json!({"type": "number", "minimum": 0, "exclusiveMaximum": 1}),
            Self::Share => json!({"type": "number", "minimum": 0, "maximum": 1}),
            Self::Thinking => json!({"enum": [true, false, "none"]}),
            Self::Resume => json!({"type": ["boolean", "string"]}),
            Self::Choice { now, .. } => json!({"enum": now}),
            Self::Shares => {
                json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}}]})
            }
            Self::List | Self::Texts => json!({"anyOf": [{"type": "string"}, strings]}),
            Self::Table => {
                let parameters = SchedulerType::ALL.into_iter().flat_map(|kind| kind.parameters());
                let properties: Map<String, Json> =
                    parameters.map(|(name, kind)| ((*name).to_owned(), kind.schema())).collect();
                json!({"type": "object", "additionalProperties": false, "properties": properties})
            }
        }
    }
}
