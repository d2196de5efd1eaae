//! What can be wrong with a row, and what becomes of it.

use crate::{config::OnBadRow, error::Error};
use serde::{Serialize, Serializer};

/// Why a row is neither trained nor evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing to learn: its response is missing, null or no string.
    NoResponse,
    /// A role that is not known, or stands where another must.
    WrongRole,
    /// A conversation that does not end with an answer.
    NoLastAnswer,
    /// A conversation without a turn.
    NoTurns,
    /// A line that is not JSON.
    NotJson,
    /// JSON, but no object.
    NotObject,
    /// A column or a message holds something else than it must.
    WrongType,
    /// More or fewer fields than the header has.
    Fields,
    /// Tools or calls that Qwen's format cannot say.
    Tools,
    /// Longer than `cutoff_len` under `over_length = "drop"`.
    TooLong,
}

impl Reason {
    /// LlamaFactory leaves such rows out, too, and goes on.
    fn is_llamafactorys(self) -> bool {
        matches!(self, Self::NoResponse | Self::WrongRole | Self::NoLastAnswer | Self::NoTurns)
    }

    /// As in `run.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoResponse => "no_response",
            Self::WrongRole => "wrong_role",
            Self::NoLastAnswer => "no_last_answer",
            Self::NoTurns => "no_turns",
            Self::NotJson => "not_json",
            Self::NotObject => "not_object",
            Self::WrongType => "wrong_type",
            Self::Fields => "fields",
            Self::Tools => "tools",
            Self::TooLong => "too_long",
        }
    }

    /// In English and in Chinese, for "rows …".
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::NoResponse => ("without a response", "没有回答"),
            Self::WrongRole => ("with a role out of turn", "角色未按顺序"),
            Self::NoLastAnswer => ("without a last answer", "最后一轮没有回答"),
            Self::NoTurns => ("without a turn", "没有对话"),
            Self::NotJson => ("that are not JSON", "不是 JSON"),
            Self::NotObject => ("that are no objects", "不是对象"),
            Self::WrongType => ("with a value of the wrong type", "值的类型不对"),
            Self::Fields => ("with more or fewer fields than the header", "字段数与表头不符"),
            Self::Tools => ("with tools or calls that cannot be read", "工具或调用无法读取"),
            Self::TooLong => ("longer than cutoff_len", "超过 cutoff_len"),
        }
    }

    /// What can be done about such rows, in English and in Chinese.
    pub(super) fn way_out(self) -> (&'static str, &'static str) {
        match self {
            Self::NotJson => (
                "two forms of JSON are read: one array of objects, or JSON Lines with one object a line",
                "支持两种 JSON：由对象组成的数组，或每行一个对象的 JSON Lines",
            ),
            Self::WrongType => (
                "texts are strings, each column and message once; which is what is said by `columns` and `tags` in dataset_info.json",
                "文本须为字符串，每列、每条消息各一个；其含义由 dataset_info.json 的 columns 与 tags 指定",
            ),
            Self::NoResponse | Self::NotObject => (
                "a row is an object like {\"instruction\": \"…\", \"input\": \"上联\", \"output\": \"下联\"}; other names are mapped by `columns` in dataset_info.json",
                "每行应为 {\"instruction\": \"…\", \"input\": \"上联\", \"output\": \"下联\"}；其他列名请在 dataset_info.json 的 columns 中映射",
            ),
            Self::WrongRole | Self::NoLastAnswer | Self::NoTurns => (
                "after a system message questions and answers take turns, an answer last; other names of roles are mapped by `tags` in dataset_info.json",
                "系统消息之后应为一问一答，并以回答结束；其他角色名请在 dataset_info.json 的 tags 中映射",
            ),
            Self::Fields => (
                "a field with a comma, a line break or a quote stands in quotes, and quotes inside it are doubled",
                "含逗号、换行或引号的字段须加引号，其中的引号写两次",
            ),
            Self::Tools => (
                "`tools` is a JSON list in a string; a call is {\"name\": \"…\", \"arguments\": {…}} in a string",
                "tools 应为写成字符串的 JSON 列表；调用应为写成字符串的 {\"name\": \"…\", \"arguments\": {…}}",
            ),
            Self::TooLong => (
                "raise cutoff_len: a row that is left out for its length, or cut before its answer, teaches nothing",
                "请增大 cutoff_len：因过长被略去、或在回答之前就被截断的行没有可学内容",
            ),
        }
    }
}

/// What can be done about rows that were lost for `reasons`, in English and in Chinese: each advice once.
pub(super) fn ways_out(reasons: &[Reason]) -> (String, String) {
    let mut all: Vec<(&str, &str)> = vec![];
    for way_out in reasons.iter().map(|reason| reason.way_out()) {
        if !all.contains(&way_out) {
            all.push(way_out);
        }
    }
    let (en, zh): (Vec<&str>, Vec<&str>) = all.into_iter().unzip();
    (en.join("; "), zh.join("；"))
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of thing.
    pub reason: Reason,
    /// The thing itself; once the row is placed, with file, line and row in front.
    pub fact: String,
}

impl Fault {
    pub(super) fn new(reason: Reason, fact: impl Into<String>) -> Self {
        Self { reason, fact: fact.into() }
    }

    /// Whether the row is left out and the rest read.
    pub(super) fn is_skipped(&self, on_bad_row: OnBadRow) -> bool {
        match on_bad_row {
            OnBadRow::Error => false,
            OnBadRow::Skip => true,
            OnBadRow::LlamaFactory => self.reason.is_llamafactorys(),
        }
    }

    /// The error that it is where it is not skipped.
    pub(super) fn into_error(self) -> Error {
        let (way_out, way_out_zh) = self.reason.way_out();
        Error::input(self.fact)
            .hint(format!("{way_out}; on_bad_row=skip leaves such rows out and counts them"))
            .hint_zh(format!("{way_out_zh}；on_bad_row=skip 会略去这样的行并计数"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_advice_is_given_twice() {
        let all = [
            Reason::NoResponse,
            Reason::WrongRole,
            Reason::NoLastAnswer,
            Reason::NoTurns,
            Reason::NotJson,
            Reason::NotObject,
            Reason::WrongType,
            Reason::Fields,
            Reason::Tools,
            Reason::TooLong,
        ];
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))) {
            let (en, zh) = ways_out(&[a, b]);
            for reason in [a, b] {
                let (way_out, way_out_zh) = reason.way_out();
                assert_eq!((en.matches(way_out).count(), zh.matches(way_out_zh).count()), (1, 1), "{a:?}, {b:?}: {en}");
            }
        }
    }

    #[test]
    fn llamafactory_leaves_out_what_it_cannot_train_and_stops_at_the_rest() {
        for (reason, lf, why) in [
            (Reason::NoResponse, true, "an unsupervised row"),
            (Reason::WrongRole, true, "\"Invalid role tag\""),
            (Reason::WrongType, false, "it stops with a TypeError"),
            (Reason::NotJson, false, "its reader stops"),
        ] {
            let fault = Fault::new(reason, "x");
            assert_eq!(fault.is_skipped(OnBadRow::LlamaFactory), lf, "{why}");
            assert!(fault.is_skipped(OnBadRow::Skip) && !fault.is_skipped(OnBadRow::Error));
        }
    }
}
