//! What a `tokenizer.json` is made of, looked at before the tokenizer is built from it.
//!
//! The `tokenizers` library takes any file for honest: it panics over JSON that is broken in some places, and one small step
//! repeated twenty times makes a text a million times as long. Qwen3's file has a normaliser, a splitter and a byte-level step;
//! here is what may stand in their places.

use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// Steps in all; Qwen3 has five.
const MOST_STEPS: usize = 16;

/// Bytes of a pattern; Qwen3's has 110, and compiled ones are a thousand times as large.
const LONGEST_PATTERN: usize = 2000;

/// Kinds that only compose, decompose or drop characters.
const NORMALIZERS: [&str; 8] = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Sequence"];
/// Kinds that only split, and the one that turns bytes into signs, which must not see its own signs again.
const PRE_TOKENIZERS: [&str; 6] = ["Split", BYTE_LEVEL, "Digits", "Punctuation", "WhitespaceSplit", "Sequence"];
/// Kinds that turn signs back into bytes.
const DECODERS: [&str; 4] = [BYTE_LEVEL, "ByteFallback", "Fuse", "Sequence"];
const BYTE_LEVEL: &str = "ByteLevel";

/// The file; its vocabulary is only passed over.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    model: Option<Model>,
}

/// Its vocabulary and merges are only passed over.
#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    continuing_subword_prefix: Value,
}

/// Refuses a file that is no JSON, or has a step in it that no tokenizer of Qwen3 has.
pub fn check(bytes: &[u8]) -> Result<()> {
    let parts: Parts =
        serde_json::from_slice(bytes).map_err(|err| hint(Error::input(format!("not a tokenizer: {err}"))))?;
    let mut steps = kinds(&parts.post_processor).len();
    for (place, part, known) in [
        ("normalizer", &parts.normalizer, &NORMALIZERS[..]),
        ("pre_tokenizer", &parts.pre_tokenizer, &PRE_TOKENIZERS),
        ("decoder", &parts.decoder, &DECODERS),
    ] {
        if longest(part) > LONGEST_PATTERN {
            return Err(hint(Error::input(format!("its {place} has a pattern of {} bytes", longest(part)))));
        }
        let kinds = kinds(part);
        steps += kinds.len();
        if let Some(strange) = kinds.iter().find(|kind| !known.contains(kind)) {
            return Err(hint(Error::input(format!(
                "its {place} has a step of type {strange}, which is none of Qwen3's"
            ))));
        }
        if kinds.iter().filter(|kind| **kind == BYTE_LEVEL).count() > 1 {
            return Err(hint(Error::input(format!("its {place} has the step {BYTE_LEVEL} more than once"))));
        }
    }
    // The library takes it off every merged token, and panics where one is shorter.
    let prefix = parts.model.map(|model| model.continuing_subword_prefix).unwrap_or_default();
    if !matches!(prefix.as_str(), None | Some("")) {
        return Err(hint(Error::input("its model has a `continuing_subword_prefix`, which none of Qwen3's has")));
    }
    if steps > MOST_STEPS {
        return Err(hint(Error::input(format!("it has {steps} steps, more than any tokenizer of Qwen3"))));
    }
    Ok(())
}

fn hint(err: Error) -> Error {
    err.hint("download tokenizer.json of the model again; it is Hugging Face's format with model type BPE")
        .hint_zh("请重新下载该模型的 tokenizer.json（Hugging Face 格式，BPE 类型）")
}

/// The types of a part and of all parts in it; those without one are left to the library, which refuses them.
fn kinds(part: &Value) -> Vec<&str> {
    match part {
        Value::Object(map) => {
            let own = map.get("type").and_then(Value::as_str);
            own.into_iter().chain(map.values().flat_map(kinds)).collect()
        }
        Value::Array(items) => items.iter().flat_map(kinds).collect(),
        _ => vec![],
    }
}

/// Bytes of the longest text in a part.
fn longest(part: &Value) -> usize {
    match part {
        Value::String(text) => text.len(),
        Value::Object(map) => map.values().map(longest).max().unwrap_or(0),
        Value::Array(items) => items.iter().map(longest).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_qwen3_is_made_of_passes() {
        let bytes = json!({"type": "ByteLevel"});
        let split = json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": false});
        let several = |steps: Vec<&Value>| json!({"type": "Sequence", "pretokenizers": steps});
        for (place, part, want) in [
            ("normalizer", json!({"type": "NFC"}), None),
            ("normalizer", json!(null), None),
            (
                "normalizer",
                json!({"type": "Replace"}),
                Some("its normalizer has a step of type Replace, which is none of Qwen3's"),
            ),
            ("pre_tokenizer", several(vec![&split, &bytes]), None),
            (
                "pre_tokenizer",
                several(vec![&bytes, &bytes]),
                Some("its pre_tokenizer has the step ByteLevel more than once"),
            ),
            (
                "pre_tokenizer",
                several(vec![&several(vec![&bytes]), &bytes]),
                Some("its pre_tokenizer has the step ByteLevel more than once"),
            ),
            ("pre_tokenizer", several(vec![&split; 20]), Some("it has 21 steps, more than any tokenizer of Qwen3")),
            (
                "decoder",
                json!({"type": "Metaspace"}),
                Some("its decoder has a step of type Metaspace, which is none of Qwen3's"),
            ),
        ] {
            let file = json!({"model": {"vocab": {}}, place: part}).to_string();
            let got = check(file.as_bytes()).err().map(|err| err.to_string());
            assert_eq!(got.as_deref(), want, "{file}");
        }
        for broken in ["", "{", "1", r#"{"decoder": 1e999}"#, r#"{"decoder": "\ud800"}"#, &"[".repeat(10_000)] {
            assert!(check(broken.as_bytes()).unwrap_err().to_string().starts_with("not a tokenizer: "), "{broken:.20}");
        }
    }
}
