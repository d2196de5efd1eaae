//! Tools and calls of tools as Qwen3's chat template writes them: LlamaFactory's `tool_format: qwen`.
//!
//! What LlamaFactory reads and writes with Python's `json` is written here to the letter, because every blank is a token.
//! Numbers that Python keeps and Rust does not (whole ones of more than 64 bits, `-0`, `NaN`) are refused.

use super::{
    cell::Cell,
    fault::{Fault, Reason},
    template::without_thoughts,
};
use crate::json::dumps;
use serde_json::{Map, Value};

/// What Qwen3's chat template puts around the list of tools.
const BEFORE_TOOLS: &str = "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
    You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
const BEHIND_TOOLS: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within \
    <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
const CALL: [&str; 2] = ["<tool_call>", "</tool_call>"];
const THOUGHT: [&str; 2] = ["<think>\n", "\n</think>\n\n"];

/// What stands behind the system text, from the column of tools: a JSON list in a string. An empty list is nothing, but makes a
/// system turn.
pub(super) fn listed(column: Option<(&str, Cell)>) -> Result<Option<String>, Fault> {
    match column {
        None | Some((_, Cell::Missing | Cell::Null)) => Ok(None),
        Some((_, Cell::Text(text))) if text.is_empty() => Ok(None),
        Some((name, Cell::Text(text))) => {
            tools(&text).map(Some).map_err(|fact| tool_fault(format!("`{name}`: {fact}")))
        }
        Some((name, other)) => Err(tool_fault(format!("`{name}` is {}, not a JSON list in a string", other.kind()))),
    }
}

/// The same of `formatting: openai`, where the list may be one by itself.
pub(super) fn listed_openly(column: Option<(&str, Cell)>) -> Result<Option<String>, Fault> {
    match column {
        Some((name, Cell::Value(tools @ (Value::Array(_) | Value::Object(_))))) => {
            let written = write(tools).and_then(|text| self::tools(&text));
            written.map(Some).map_err(|fact| tool_fault(format!("`{name}`: {fact}")))
        }
        column => listed(column),
    }
}

/// What a tool has answered, as the user says it.
pub(super) fn observation(text: &str) -> String {
    format!("<tool_response>\n{text}\n</tool_response>")
}

/// The calls of a message, as the model says them; a thought, or whatever stands around calls in tags, comes first.
///
/// Errors: they cannot be read; or thoughts are mixed into them so that what is trained would depend on the order in which
/// calls are written and thoughts taken out.
pub(super) fn call(text: &str) -> Result<String, String> {
    let written = written(text)?;
    let thinks = |text: &str| ["<think>", "</think>"].iter().any(|tag| text.contains(tag));
    let bare = without_thoughts(text);
    if thinks(text) != thinks(&written) || self::written(&bare).ok() != Some(without_thoughts(&written)) {
        return Err("a thought is mixed into a call".into());
    }
    Ok(written)
}

fn written(text: &str) -> Result<String, String> {
    let (before, calls) = match between(text, CALL) {
        Some((whole, inner)) => (text.replace(whole, ""), inner.to_owned()),
        None => match between(text, THOUGHT) {
            Some((whole, _)) => (whole.to_owned(), text.replace(whole, "")),
            None => (String::new(), text.to_owned()),
        },
    };
    let calls = match read(&calls)? {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let calls: Vec<String> = calls.into_iter().map(one_call).collect::<Result<_, _>>()?;
    Ok(before + &calls.join("\n"))
}

fn one_call(call: Value) -> Result<String, String> {
    let Value::Object(mut call) = call else { return Err("a call is no object".into()) };
    let mut ordered = Map::new();
    for key in ["name", "arguments"] {
        ordered.insert(key.into(), call.remove(key).ok_or_else(|| format!("a call has no `{key}`"))?);
    }
    Ok(format!("<tool_call>\n{}\n</tool_call>", write(ordered.into())?))
}

fn tools(text: &str) -> Result<String, String> {
    let tools = match read(text)? {
        Value::Array(tools) => tools,
        Value::Object(none) if none.is_empty() => vec![],
        other => return Err(format!("{}, not a list", Cell::from(other).kind())),
    };
    if tools.is_empty() {
        return Ok(String::new());
    }
    let mut text = BEFORE_TOOLS.to_owned();
    for tool in tools {
        let Value::Object(tool) = tool else { return Err("a tool is no object".into()) };
        let is_wrapped = tool.get("type").is_some_and(|kind| kind == "function");
        let wrapped = match is_wrapped {
            true => tool,
            false => Map::from_iter([("type".into(), "function".into()), ("function".into(), tool.into())]),
        };
        text = text + "\n" + &write(wrapped.into())?;
    }
    Ok(text + BEHIND_TOOLS)
}

/// The first text between two tags, with the tags and without.
fn between<'a>(text: &'a str, [opens, closes]: [&str; 2]) -> Option<(&'a str, &'a str)> {
    let start = text.find(opens)?;
    let inner = &text[start + opens.len()..];
    let inner = &inner[..inner.find(closes)?];
    Some((&text[start..start + opens.len() + inner.len() + closes.len()], inner))
}

fn read(text: &str) -> Result<Value, String> {
    let value = serde_json::from_str(text).map_err(|err| format!("not JSON: {err}"))?;
    match whole_numbers(text).find(|n| *n == "-0" || (n.parse::<i64>().is_err() && n.parse::<u64>().is_err())) {
        None => Ok(value),
        Some(number) => Err(format!("the number {number} cannot be written as Python does")),
    }
}

fn write(value: Value) -> Result<String, String> {
    dumps(&value).map_err(|err| err.to_string())
}

/// Numbers outside of strings that have neither a point nor an exponent.
fn whole_numbers(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    let numbers = std::iter::from_fn(move || {
        loop {
            let at = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            rest = &rest[at..];
            if !rest.starts_with('"') {
                let end = rest.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(rest.len());
                let (number, behind) = rest.split_at(end);
                rest = behind;
                return Some(number);
            }
            let (mut escaped, mut opened) = (false, false);
            let closes = |c: char| {
                let is_end = c == '"' && opened && !escaped;
                (escaped, opened) = (c == '\\' && !escaped, true);
                is_end
            };
            rest = &rest[rest.find(closes)? + 1..];
        }
    });
    numbers.filter(|number| !number.contains(['.', 'e', 'E']))
}

fn tool_fault(fact: String) -> Fault {
    Fault::new(Reason::Tools, fact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_written_as_python_writes_them() {
        for (text, want) in [
            (
                r#"{"arguments":{"a":[1,2.0],"b":"对\n"},"name":"f","id":3}"#,
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2.0], \"b\": \"对\\n\"}}\n</tool_call>",
            ),
            (
                r#"[{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}]"#,
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": \"{}\"}\n</tool_call>",
            ),
            (
                "<think>\n想\n</think>\n\n{\"name\": \"f\", \"arguments\": 1}",
                "<think>\n想\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": 1}\n</tool_call>",
            ),
            (
                "查<tool_call>{\"name\": \"f\", \"arguments\": 1}</tool_call>。",
                "查。<tool_call>\n{\"name\": \"f\", \"arguments\": 1}\n</tool_call>",
            ),
        ] {
            assert_eq!(call(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn calls_that_cannot_be_written_so_are_refused() {
        for (text, want) in [
            ("晴", "not JSON: expected value at line 1 column 1"),
            ("3", "a call is no object"),
            (r#"{"name": "f"}"#, "a call has no `arguments`"),
            (
                r#"{"name": "f", "arguments": 12345678901234567890123}"#,
                "the number 12345678901234567890123 cannot be written as Python does",
            ),
            (r#"{"name": "-0", "arguments": [-0]}"#, "the number -0 cannot be written as Python does"),
            (r#"{"name": "\u003cthink>", "arguments": 1}"#, "a thought is mixed into a call"),
        ] {
            assert_eq!(call(text), Err(want.to_owned()), "{text}");
        }
        let long = r#"{"name": "12345678901234567890123 \" 99999999999999999999", "arguments": 18446744073709551615}"#;
        assert!(call(long).is_ok(), "digits in a string are no number");
    }

    #[test]
    fn tools_are_words_of_qwen3s_own_chat_template() {
        let template = std::fs::read_to_string("data/tiny_qwen3/chat_template.jinja").unwrap();
        for words in [BEFORE_TOOLS, BEHIND_TOOLS] {
            for line in words.trim().lines() {
                let quoted = Value::from(line).to_string();
                assert!(template.contains(line) || template.contains(quoted.trim_matches('"')), "{line}");
            }
        }
        assert_eq!(listed(None).unwrap(), None);
        let list = || Cell::Value(serde_json::from_str(r#"[{"name":"f","strict":null}]"#).unwrap());
        let said = listed_openly(Some(("t", list()))).unwrap();
        assert_eq!(said, listed(Some(("t", Cell::Text(r#"[{"name":"f","strict":null}]"#.into())))).unwrap());
        assert_eq!(listed_openly(Some(("t", Cell::Value(Value::Array(vec![]))))).unwrap(), Some(String::new()));
        assert!(listed(Some(("t", list()))).is_err(), "LlamaFactory stops at it in other formats");
        assert_eq!(listed(Some(("t", Cell::Text("[]".into())))).unwrap(), Some(String::new()));
        let text = listed(Some(("t", Cell::Text(r#"[{"name":"f"},{"type":"function","function":{}}]"#.into()))));
        let text = text.unwrap().unwrap();
        assert!(text.contains("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\"}}\n{\"type\": \"function\", \"function\": {}}\n</tools>"));
        for (cell, want) in [
            (Cell::Text("[1]".into()), "`t`: a tool is no object"),
            (Cell::Text("{\"name\": 1}".into()), "`t`: an object, not a list"),
            (Cell::Value(Value::Array(vec![])), "`t` is a list, not a JSON list in a string"),
        ] {
            assert_eq!(listed(Some(("t", cell))).unwrap_err().fact, want);
        }
    }
}
