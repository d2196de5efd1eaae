//! A value of a config, whichever file it came from, and how a plain YAML scalar becomes one.
//!
//! LlamaFactory reads its YAML with PyYAML under OmegaConf's loader, so `no` is false, `1e-4` is a number and `010` is 8;
//! [`scalar`] follows these rules. The same function reads `key=value` overrides and the defaults of the key table.

use std::fmt;

/// One value; nothing here depends on a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing at all; TOML has none.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number, NaN and infinity included.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// Names and values, in their order.
    Table(Vec<(String, Value)>),
    /// What no key takes: a date, a number out of range. Holds its name for the error.
    Other(&'static str),
}

impl Value {
    /// The number, whole or not.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Int(n) => Some(*n as f64),
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// The string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The strings of a list, or the parts of a comma-separated string, blanks around them removed.
    pub fn words(&self) -> Option<Vec<&str>> {
        match self {
            Self::Text(text) => Some(text.split(',').map(str::trim).collect()),
            Self::List(items) => items.iter().map(|item| item.text().map(str::trim)).collect(),
            _ => None,
        }
    }

    /// The numbers of a list, or of a comma-separated string.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        match self {
            Self::Text(text) => text.split(',').map(|part| scalar(part.trim()).number()).collect(),
            Self::List(items) => items.iter().map(Self::number).collect(),
            _ => None,
        }
    }

    /// The texts of a list; one text as it stands.
    pub fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::Text(text) => Some(vec![text]),
            Self::List(items) => items.iter().map(Self::text).collect(),
            _ => None,
        }
    }

    /// How many values it consists of.
    pub fn size(&self) -> usize {
        1 + match self {
            Self::List(items) => items.iter().map(Self::size).sum(),
            Self::Table(pairs) => pairs.iter().map(|(_, value)| value.size()).sum(),
            _ => 0,
        }
    }

    /// Whether two values say the same; `0` and `0.0` do.
    pub fn same(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(a), Some(b)) => a == b,
            _ => self == other,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x:?}"),
            Self::Text(text) if text.chars().count() > 60 => {
                write!(f, "\"{}…\"", text.chars().take(60).collect::<String>().escape_debug())
            }
            Self::Text(text) => write!(f, "\"{}\"", text.escape_debug()),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// What an unquoted YAML scalar means to LlamaFactory.
pub fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    match (int(text), float(text)) {
        (Some(n), _) => Value::Int(n),
        (_, Some(x)) => Value::Float(x),
        _ => Value::Text(text.to_owned()),
    }
}

/// YAML 1.1 integers: decimal, `0x`, `0b` and octal with a leading 0; `_` groups digits.
fn int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        [b'0'..=b'9', ..] => (10, digits),
        _ => return None,
    };
    let digits = digits.replace('_', "");
    if digits.starts_with(['-', '+']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// OmegaConf's floats: a point or an exponent (or both), `.inf` and `.nan`; `1e-4` is one, unlike in PyYAML.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.contains(|c: char| c.is_ascii_digit())
        && unsigned.contains(['.', 'e', 'E'])
        && unsigned.chars().all(|c| c.is_ascii_digit() || "._eE+-".contains(c));
    if number { text.replace('_', "").parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_mean_what_they_mean_to_llamafactory() {
        let text = |t: &str| Value::Text(t.into());
        for (given, want, why) in [
            ("", Value::Null, "`key:` without a value"),
            ("~", Value::Null, "YAML's short null"),
            ("no", Value::Bool(false), "YAML 1.1, as PyYAML reads it"),
            ("On", Value::Bool(true), "YAML 1.1"),
            ("n", text("n"), "PyYAML does not take single letters"),
            ("8", Value::Int(8), "decimal"),
            ("-1", Value::Int(-1), "sign"),
            ("180000000", Value::Int(180_000_000), "LlamaFactory's ddp_timeout"),
            ("1_000", Value::Int(1000), "grouped digits"),
            ("0x10", Value::Int(16), "hexadecimal"),
            ("010", Value::Int(8), "YAML 1.1 octal"),
            ("0", Value::Int(0), "zero is not octal"),
            ("1.0e-4", Value::Float(1e-4), "with a point"),
            ("1e-4", Value::Float(1e-4), "without a point: OmegaConf's rule"),
            ("5e-05", Value::Float(5e-5), "as Python prints it"),
            (".5", Value::Float(0.5), "no leading zero"),
            ("-.inf", Value::Float(f64::NEG_INFINITY), "infinity"),
            ("inf", text("inf"), "not a YAML number"),
            ("1e", text("1e"), "half a number"),
            ("--1", text("--1"), "two signs"),
            ("e5", text("e5"), "a name"),
            (".", text("."), "the working directory"),
            ("qwen3", text("qwen3"), "a name"),
        ] {
            assert_eq!(scalar(given), want, "`{given}`: {why}");
        }
        assert!(scalar(".nan").number().is_some_and(f64::is_nan));
    }

    #[test]
    fn words_come_from_lists_and_from_commas() {
        let list = Value::List(vec![Value::Text("a".into()), Value::Text(" b".into())]);
        assert_eq!(list.words(), Some(vec!["a", "b"]));
        assert_eq!(Value::Text("a, b".into()).words(), Some(vec!["a", "b"]));
        assert_eq!(Value::List(vec![Value::Int(1)]).words(), None);
        assert_eq!(list.texts(), Some(vec!["a", " b"]));
        assert_eq!(Value::Text("a, b".into()).texts(), Some(vec!["a, b"]), "a comma is part of a text");
    }
}
