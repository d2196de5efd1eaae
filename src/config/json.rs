//! LlamaFactory's JSON: one flat object.

use super::{
    entry::{Entry, Place},
    full_width,
    source::Source,
    value::Value,
};
use crate::error::{Error, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use std::fmt;

/// The entries of a LlamaFactory JSON, in file order, doubled keys kept. Errors: a syntax error, anything but one object.
pub fn read(source: &Source) -> Result<Vec<Entry>> {
    let Object(pairs) = serde_json::from_str(source.text()).map_err(|err| syntax_error(source, &err))?;
    let mut from = 0;
    let placed = pairs.into_iter().map(|(key, value)| {
        let place = find(source.text(), &key, from);
        if let Place::File { value, .. } = place {
            from = value;
        }
        Entry { value: convert(value), key, place }
    });
    Ok(placed.collect())
}

/// Where `"key":` stands at or behind byte `from`. The keys come in file order, and a quote inside a string is escaped, so
/// what is found is the key itself.
fn find(text: &str, key: &str, from: usize) -> Place {
    let quoted = serde_json::Value::from(key).to_string();
    for (offset, _) in text[from..].match_indices(&quoted) {
        let behind = from + offset + quoted.len();
        let Some(value) = text[behind..].trim_start().strip_prefix(':') else { continue };
        return Place::File { key: from + offset, value: text.len() - value.trim_start().len() };
    }
    Place::File { key: from, value: from } // a key spelt with escapes
}

fn convert(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(flag),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(n), _) => Value::Int(n),
            (None, Some(x)) => Value::Float(x),
            (None, None) => Value::Other("a number out of range"),
        },
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items.into_iter().map(convert).collect()),
        Json::Object(pairs) => Value::Table(pairs.into_iter().map(|(name, value)| (name, convert(value))).collect()),
    }
}

fn syntax_error(source: &Source, err: &serde_json::Error) -> Error {
    let reason = err.to_string();
    let fact = reason.split(" at line ").next().unwrap_or(&reason);
    let at = source.offset(err.line(), 0) + err.column().saturating_sub(1); // its columns are bytes
    let err = source
        .error_at(at, fact)
        .hint("this file is read as JSON: one object of LlamaFactory's keys")
        .hint_zh("此文件按 JSON 读取：一个包含 LlamaFactory 各键的对象");
    full_width::explained_at(err, source.text(), at)
}

/// An object that keeps every pair; `serde_json`'s own map would drop the first of two equal keys.
struct Object(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one object of keys and values")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object, M::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Object(pairs))
    }
}
