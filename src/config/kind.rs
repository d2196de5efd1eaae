//! What a key takes: the type, the range and the words of a value, checked and described in one place.

use super::{source::Source, value::Value, yaml};
use std::path::Path;

/// The same sentence in English and in Chinese.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// English.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

/// The largest whole number taken: NumPy's bound for a seed, and small enough that a product of two counts fits 64 bits.
pub const MOST: i64 = u32::MAX as i64;

/// The type and range of a key's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any string that is not empty.
    Text,
    /// The same, and it is shown nowhere.
    Secret,
    /// `true` or `false`.
    Flag,
    /// A whole number of at least so much.
    Whole(i64),
    /// A whole number of steps from 1, or a share of all steps below 1.
    Steps,
    /// A whole number of at least 1; -1 means no limit.
    Limit,
    /// A number below 1 is a share, a whole number from 1 a count.
    ShareOrCount,
    /// A finite number above 0.
    Positive,
    /// A finite number from 0.
    NonNegative,
    /// A number in [0, 1).
    BelowOne,
    /// A number in [0, 1].
    Share,
    /// `true`, `false`, or nothing (`null`; in TOML `"none"`).
    Thinking,
    /// `true`, `false`, or a checkpoint's folder.
    Resume,
    /// One of `now`; `later` are LlamaFactory's that we refuse by name.
    Choice {
        /// Supported.
        now: &'static [&'static str],
        /// Known to LlamaFactory, refused here.
        later: &'static [&'static str],
    },
    /// A list of strings, or one comma-separated string.
    List,
    /// A list of numbers above 0 that sum to 1, or one comma-separated string of them.
    Shares,
    /// A list of texts, or one text; a comma is part of a text.
    Texts,
    /// Names and values in braces, which may stand in a string.
    Table,
}

impl Kind {
    /// Whether `value` has the type and lies in the range. `Null` is not asked about: it means the default.
    pub fn admits(self, value: &Value) -> bool {
        let number = value.number().filter(|x| x.is_finite());
        let whole = if let Value::Int(n) = value { Some(*n).filter(|n| *n <= MOST) } else { None };
        match self {
            Self::Text | Self::Secret => value.text().is_some_and(|text| !text.trim().is_empty()),
            Self::Flag => matches!(value, Value::Bool(_)),
            Self::Whole(least) => whole.is_some_and(|n| n >= least),
            Self::Steps => number.is_some_and(|x| x > 0.0) && Self::ShareOrCount.admits(value),
            Self::Limit => whole.is_some_and(|n| n >= 1 || n == -1),
            Self::ShareOrCount => {
                number.is_some_and(|x| (0.0..1.0).contains(&x) || (1.0..=MOST as f64).contains(&x) && x.fract() == 0.0)
            }
            Self::Positive => number.is_some_and(|x| x > 0.0),
            Self::NonNegative => number.is_some_and(|x| x >= 0.0),
            Self::BelowOne => number.is_some_and(|x| (0.0..1.0).contains(&x)),
            Self::Share => number.is_some_and(|x| (0.0..=1.0).contains(&x)),
            Self::Thinking => matches!(value, Value::Bool(_)) || value.text() == Some("none"),
            Self::Resume => matches!(value, Value::Bool(_)) || Self::Text.admits(value),
            Self::Choice { now, .. } => value.text().is_some_and(|word| now.contains(&word)),
            Self::List => value.words().is_some_and(|words| words.iter().all(|word| !word.is_empty())),
            Self::Shares => value.numbers().is_some_and(|shares| {
                // As near to 1 as NumPy asks for.
                shares.iter().all(|share| *share > 0.0) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-8
            }),
            Self::Table => matches!(value, Value::Table(_)),
            Self::Texts => value.texts().is_some_and(|texts| texts.iter().all(|text| !text.trim().is_empty())),
        }
    }

    /// What is expected, for "`key` must be …" in English and "`key` 应为…" in Chinese.
    pub fn describe(self) -> (String, String) {
        let fixed = match self {
            Self::Text | Self::Secret => ("a string", "字符串"),
            Self::Flag => ("true or false", "true 或 false"),
            Self::Steps => (
                "a whole number of at least 1, or a share of all steps below 1",
                "不小于 1 的整数，或小于 1 的总步数比例",
            ),
            Self::Limit => ("a whole number of at least 1, or -1 for no limit", "不小于 1 的整数，或 -1（不限）"),
            Self::ShareOrCount => {
                ("a share from 0 to below 1, or a whole number from 1", "不小于 0 且小于 1 的比例，或不小于 1 的整数")
            }
            Self::Positive => ("a number above 0", "大于 0 的数"),
            Self::NonNegative => ("a number of at least 0", "不小于 0 的数"),
            Self::BelowOne => ("a number from 0 to below 1", "不小于 0 且小于 1 的数"),
            Self::Share => ("a number from 0 to 1", "介于 0 与 1 之间的数"),
            Self::Thinking => ("true, false, or null (in TOML \"none\")", "true、false 或 null（TOML 中写 \"none\"）"),
            Self::Resume => ("true, false, or the folder of a checkpoint", "true、false 或检查点所在的目录"),
            Self::List => ("a list of strings, or one string with commas", "字符串列表，或以逗号分隔的字符串"),
            Self::Shares => (
                "numbers above 0 that sum to 1, as a list or one string with commas",
                "总和为 1 的正数，写成列表或以逗号分隔的字符串",
            ),
            Self::Table => {
                ("a table of names and values, for example {num_cycles: 2}", "由名称与值组成的表，例如 {num_cycles: 2}")
            }
            Self::Texts => ("a text, or a list of texts", "一段文本，或文本列表"),
            Self::Whole(least) => {
                return (format!("a whole number of at least {least}"), format!("不小于 {least} 的整数"));
            }
            Self::Choice { now, .. } => return (alternatives(now, "or "), alternatives(now, "或 ")),
        };
        (fixed.0.to_owned(), fixed.1.to_owned())
    }

    /// Reads a value as loosely as LlamaFactory does: a number in quotes for a numeric key, `no`, `off` and `on` (false and
    /// true to YAML) for a word.
    pub fn loosen(self, value: Value) -> Value {
        match (self, value) {
            (Self::Choice { now, .. }, Value::Bool(false)) if now.contains(&"no") => Value::Text("no".into()),
            (Self::Choice { now, .. }, Value::Bool(false)) if now.contains(&"off") => Value::Text("off".into()),
            (Self::Choice { now, .. }, Value::Bool(true)) if now.contains(&"on") => Value::Text("on".into()),
            (Self::Choice { now, .. }, Value::Bool(true)) if now.contains(&"all") => Value::Text("all".into()),
            (Self::Table, Value::Text(text)) if text.trim_start().starts_with('{') => {
                let source = Source::new(Path::new("table"), &text);
                yaml::value(&source).unwrap_or(Value::Text(text))
            }
            (kind, Value::Text(text)) if kind.is_numeric() => match super::value::scalar(text.trim()) {
                number @ (Value::Int(_) | Value::Float(_)) => number,
                _ => Value::Text(text),
            },
            (_, value) => value,
        }
    }

    /// Whether what YAML took for this `value` is meant as it stands: a number where a word is asked for.
    pub fn means_text(self, value: &Value) -> bool {
        match self {
            Self::Text | Self::Secret => !matches!(value, Value::Text(_) | Value::Null),
            Self::List | Self::Texts => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
            _ => false,
        }
    }

    /// A value of this kind as an error shows it.
    pub fn shown(self, value: &Value) -> String {
        if self == Self::Secret { "something else".into() } else { value.to_string() }
    }

    fn is_numeric(self) -> bool {
        !matches!(
            self,
            Self::Text
                | Self::Secret
                | Self::Flag
                | Self::Thinking
                | Self::Resume
                | Self::Choice { .. }
                | Self::List
                | Self::Texts
                | Self::Shares
                | Self::Table
        )
    }
}

/// `a`, `b` or `c`, in backticks.
fn alternatives(words: &[&str], or: &str) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {or}{last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::scalar;

    #[test]
    fn each_kind_knows_its_range() {
        let no_steps = Kind::Choice { now: &["no", "steps"], later: &["epoch"] };
        for (kind, good, bad) in [
            (Kind::Text, "a qwen3", "1 true ~"),
            (Kind::Flag, "true no", "1 maybe"),
            (Kind::Whole(1), "1 8", "0 -1 1.0 1e3 x true"),
            (Kind::Whole(0), "0 42 4294967295", "-1 4294967296"),
            (Kind::Steps, "1 500 500.0 0.1", "0 0.0 1.5 -0.1 1e10"),
            (Kind::Limit, "-1 1 100", "0 -2 1.5"),
            (Kind::ShareOrCount, "0 0.1 1 1.0 500", "-0.1 1.5 .nan .inf"),
            (Kind::Positive, "1e-4 2", "0 0.0 -1 .nan .inf x"),
            (Kind::NonNegative, "0 0.01", "-0.01 .nan .inf"),
            (Kind::BelowOne, "0 0.999", "1 1.0 -0.1 .nan"),
            (Kind::Share, "0 1 0.1", "1.01 -0.1"),
            (Kind::Thinking, "true false none", "1 keep"),
            (Kind::Resume, "true no outputs/run/checkpoint-5", "1 0.5"),
            (no_steps, "steps", "epoch no STEPS 1"),
            (Kind::List, "a a,b", "a,,b 1 true"),
            (Kind::Texts, "a a,b a,,b", "1 true"),
            (Kind::Shares, "0.5,0.5 0.25,0.75", "1 0.5,0.6 0,1 a,b 0.5,"),
        ] {
            for text in good.split(' ') {
                assert!(kind.admits(&scalar(text)), "{kind:?} takes `{text}`");
            }
            for text in bad.split(' ') {
                assert!(!kind.admits(&scalar(text)), "{kind:?} refuses `{text}`");
            }
        }
    }

    #[test]
    fn quoted_numbers_and_yaml_no_are_read_as_llamafactory_reads_them() {
        let text = |t: &str| Value::Text(t.into());
        let strategy = Kind::Choice { now: &["no", "steps"], later: &[] };
        for (kind, given, want, why) in [
            (Kind::Positive, text("5e-5"), Value::Float(5e-5), "a number in quotes"),
            (Kind::Whole(1), text(" 8 "), Value::Int(8), "a whole number in quotes"),
            (Kind::Text, text("8"), text("8"), "a name that looks like a number stays one"),
            (Kind::Flag, text("true"), text("true"), "Python would take any string for true: not here"),
            (strategy, Value::Bool(false), text("no"), "a bare `no`"),
            (strategy, Value::Bool(true), Value::Bool(true), "there is no `yes`"),
            (Kind::Choice { now: &["auto", "off"], later: &[] }, Value::Bool(false), text("off"), "a bare `off`"),
            (Kind::Choice { now: &["on", "off"], later: &[] }, Value::Bool(true), text("on"), "a bare `on`"),
        ] {
            assert_eq!(kind.loosen(given), want, "{why}");
        }
    }

    #[test]
    fn choices_read_as_a_sentence() {
        assert_eq!(alternatives(&["a"], "or "), "`a`");
        assert_eq!(alternatives(&["a", "b", "c"], "or "), "`a`, `b` or `c`");
    }
}
