//! What the columns and roles of a data set are called: `formatting`, `columns` and `tags` of its entry.
//!
//! One trap of LlamaFactory's is reproduced on purpose: where an entry has `columns`, every column it does not list is
//! unset and does not keep its default. `{"prompt": "instruction", "response": "output"}` therefore leaves `input` out.
//! The same holds for `tags`. The loader warns when text is left out that way.

use super::{
    alpaca,
    cell::{Cell, Cells},
    fault::{Fault, Reason},
    record::Record,
    sharegpt,
};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// How a row says who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formatting {
    /// A column for each: instruction, input, output.
    Alpaca,
    /// A list of messages.
    Sharegpt,
    /// The same, with OpenAI's calls of tools.
    OpenAi,
}

impl Formatting {
    const ALL: [(&'static str, Self); 3] =
        [("alpaca", Self::Alpaca), ("sharegpt", Self::Sharegpt), ("openai", Self::OpenAi)];

    /// LlamaFactory's names of the columns that are read, each with its default.
    fn columns(self) -> &'static [(&'static str, Option<&'static str>)] {
        match self {
            Self::Alpaca => &[
                ("prompt", Some("instruction")),
                ("query", Some("input")),
                ("response", Some("output")),
                ("system", None),
                ("history", None),
                ("tools", None),
            ],
            Self::Sharegpt | Self::OpenAi => &[("messages", Some("conversations")), ("system", None), ("tools", None)],
        }
    }
}

/// Columns of LlamaFactory's for what is not trained here.
const OTHER_COLUMNS: [&str; 6] = ["images", "videos", "audios", "chosen", "rejected", "kto_tag"];

/// What `tags` says: where a message has its role and its text, and what the roles are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    /// `role_tag`, default `from`.
    pub role: String,
    /// `content_tag`, default `value`.
    pub content: String,
    /// `user_tag`, default `human`.
    pub user: String,
    /// `assistant_tag`, default `gpt`.
    pub assistant: String,
    /// `observation_tag`, default `observation`: what a tool has answered.
    pub observation: Option<String>,
    /// `function_tag`, default `function_call`: a call of tools.
    pub function: Option<String>,
    /// `system_tag`, default `system`.
    pub system: Option<String>,
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            role: "from".into(),
            content: "value".into(),
            user: "human".into(),
            assistant: "gpt".into(),
            observation: Some("observation".into()),
            function: Some("function_call".into()),
            system: Some("system".into()),
        }
    }
}

/// The keys of `tags`.
const TAGS: [&str; 7] =
    ["role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"];

/// Which column of a file is what, and how a row is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// `formatting`
    pub formatting: Formatting,
    /// Who is who in a list of messages.
    pub tags: Tags,
    /// The entry lists its columns itself.
    pub explicit: bool,
    /// Columns of the file that are read, once each.
    names: Vec<String>,
    /// LlamaFactory's name of every column that is set, and which of `names` it is.
    keys: Vec<(&'static str, usize)>,
}

impl Default for Shape {
    /// Alpaca under LlamaFactory's default names.
    fn default() -> Self {
        Self::new(Formatting::Alpaca, None, Tags::default())
    }
}

impl Shape {
    /// `columns`: the entry's own, by LlamaFactory's names; `None`: the defaults.
    pub fn new(formatting: Formatting, columns: Option<&[(&str, &str)]>, tags: Tags) -> Self {
        let mut shape = Self { formatting, tags, explicit: columns.is_some(), names: vec![], keys: vec![] };
        for (key, default) in formatting.columns() {
            let name = match columns {
                None => *default,
                Some(listed) => listed.iter().find(|(listed, _)| listed == key).map(|(_, name)| *name),
            };
            let Some(name) = name else { continue };
            let known = shape.names.iter().position(|known| known == name);
            shape.keys.push((key, known.unwrap_or(shape.names.len())));
            if known.is_none() {
                shape.names.push(name.to_owned());
            }
        }
        shape
    }

    /// As an entry of `dataset_info.json` says.
    ///
    /// Errors: a formatting, column or tag that is not known (with the nearest that is) or not read; a tag or column unset
    /// without which no message can be read.
    pub(super) fn of(entry: &Map<String, Value>) -> Result<Self> {
        let formatting = formatting(entry)?;
        let columns = entry.get("columns").map(|columns| words("columns", columns)).transpose()?;
        columns.iter().flatten().try_for_each(|(key, _)| check_column(key))?;
        let tags = match entry.get("tags") {
            Some(tags) if formatting != Formatting::Alpaca => tags_of(&words("tags", tags)?)?,
            _ => Tags::default(),
        };
        let shape = Self::new(formatting, columns.as_deref(), tags);
        if formatting == Formatting::Alpaca || shape.named().any(|(key, _)| key == "messages") {
            return Ok(shape);
        }
        Err(Error::input("`columns` has no `messages`: what is not listed is unset")
            .hint("add the column that holds the list of messages, e.g. \"messages\": \"conversations\"")
            .hint_zh("请写明消息列表所在的列，例如 \"messages\": \"conversations\""))
    }

    /// Keys of `columns` that mean something, but not under this formatting.
    pub(super) fn idle_columns(&self, entry: &Map<String, Value>) -> Vec<String> {
        let listed = entry.get("columns").and_then(Value::as_object).into_iter().flatten();
        let is_read = |key: &str| self.formatting.columns().iter().any(|(known, _)| *known == key);
        listed.filter(|(key, name)| !name.is_null() && !is_read(key)).map(|(key, _)| key.clone()).collect()
    }

    /// Columns of the file that are read, once each.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// LlamaFactory's name of every column that is set, and what it is mapped to.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.keys.iter().map(|(key, name)| (*key, self.names[*name].as_str()))
    }

    /// The record of a row, its cells in the order of [`Self::names`]; `lenient` as LlamaFactory is.
    pub(super) fn record(&self, cells: Cells, lenient: bool) -> Result<Record, Fault> {
        let row = Named { shape: self, cells };
        match self.formatting {
            Formatting::Alpaca => alpaca::record(row, lenient),
            Formatting::Sharegpt | Formatting::OpenAi => sharegpt::record(row),
        }
    }
}

/// The cells of a row by LlamaFactory's names.
pub(super) struct Named<'a> {
    /// What it is read by.
    pub(super) shape: &'a Shape,
    cells: Cells,
}

impl<'a> Named<'a> {
    /// Name and cell of the column that `key` is mapped to; `None` where it is unset.
    pub(super) fn take(&mut self, key: &str) -> Option<(&'a str, Cell)> {
        let keys = &self.shape.keys;
        let (_, name) = *keys.iter().find(|(known, _)| *known == key)?;
        let is_shared = keys.iter().filter(|(_, other)| *other == name).count() > 1;
        let cell = &mut self.cells[name];
        Some((&self.shape.names[name], if is_shared { cell.clone() } else { std::mem::take(cell) }))
    }

    /// The text of the column that `key` is mapped to; nothing where it is unset, missing or null.
    pub(super) fn text(&mut self, key: &str) -> Result<String, Fault> {
        match self.take(key) {
            None | Some((_, Cell::Missing | Cell::Null)) => Ok(String::new()),
            Some((_, Cell::Text(text))) => Ok(text),
            Some((name, other)) => {
                Err(Fault::new(Reason::WrongType, format!("`{name}` is {}, not a string", other.kind())))
            }
        }
    }
}

fn formatting(entry: &Map<String, Value>) -> Result<Formatting> {
    let name = match entry.get("formatting") {
        None => return Ok(Formatting::Alpaca),
        Some(name) => name.as_str().unwrap_or("?"),
    };
    let known = Formatting::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, formatting)| *formatting).ok_or_else(|| {
        let all = Formatting::ALL.map(|(name, _)| name);
        Error::input(format!("`formatting`: {name:?} is not known"))
            .hint(format!("did you mean \"{}\"? The formats are {}", nearest(name, all)[0], all.join(", ")))
            .hint_zh(format!("是否应为 \"{}\"？可用的有 {}", nearest(name, all)[0], all.join("、")))
    })
}

/// An object of names, without those that are null or empty.
fn words<'a>(what: &str, object: &'a Value) -> Result<Vec<(&'a str, &'a str)>> {
    let hint = |error: Error| {
        error
            .hint("it maps LlamaFactory's names to those of the data, e.g. {\"prompt\": \"question\"}")
            .hint_zh("它把 LlamaFactory 的名称映射到数据中的名称，例如 {\"prompt\": \"question\"}")
    };
    let Value::Object(object) = object else { return Err(hint(Error::input(format!("`{what}` is not an object")))) };
    let mut words = vec![];
    for (key, name) in object {
        match name {
            Value::Null => {}
            Value::String(name) if name.is_empty() => {}
            Value::String(name) => words.push((key.as_str(), name.as_str())),
            _ => return Err(hint(Error::input(format!("`{what}`: `{key}` is not a string")))),
        }
    }
    Ok(words)
}

/// LlamaFactory passes over a misspelt key, and the column it meant stays unset.
fn check_column(key: &str) -> Result<()> {
    let names =
        [Formatting::Alpaca, Formatting::Sharegpt].map(|formatting| formatting.columns().iter().map(|(key, _)| *key));
    let mut known: Vec<&str> = names.into_iter().flatten().collect();
    known.sort_unstable();
    known.dedup();
    if known.contains(&key) {
        return Ok(());
    }
    let (all, all_zh) = (known.join(", "), known.join("、"));
    if OTHER_COLUMNS.contains(&key) {
        return Err(Error::input(format!(
            "`columns`: `{key}` is not supported: only text is trained, one answer a row"
        ))
        .hint(format!("remove it; supported are {all}"))
        .hint_zh(format!("请删除；支持的有 {all_zh}")));
    }
    let near = nearest(key, known)[0];
    Err(Error::input(format!("`columns`: no such column: `{key}`"))
        .hint(format!("did you mean `{near}`? The names are {all}"))
        .hint_zh(format!("是否应为 `{near}`？可用的有 {all_zh}")))
}

/// What is not listed is unset, as with columns. Without these four LlamaFactory reads no message.
fn tags_of(listed: &[(&str, &str)]) -> Result<Tags> {
    if let Some((unknown, _)) = listed.iter().find(|(key, _)| !TAGS.contains(key)) {
        let near = nearest(unknown, TAGS)[0];
        return Err(Error::input(format!("`tags`: no such tag: `{unknown}`"))
            .hint(format!("did you mean `{near}`? The names are {}", TAGS.join(", ")))
            .hint_zh(format!("是否应为 `{near}`？可用的有 {}", TAGS.join("、"))));
    }
    let tag = |key: &str| listed.iter().find(|(listed, _)| *listed == key).map(|(_, name)| (*name).to_owned());
    let needed = |key: &str| {
        tag(key).ok_or_else(|| {
            Error::input(format!("`tags` has no `{key}`: what is not listed is unset"))
                .hint("list role_tag, content_tag, user_tag and assistant_tag, and the others where the data has them")
                .hint_zh("请列出 role_tag、content_tag、user_tag、assistant_tag，以及数据中用到的其他标签")
        })
    };
    Ok(Tags {
        role: needed("role_tag")?,
        content: needed("content_tag")?,
        user: needed("user_tag")?,
        assistant: needed("assistant_tag")?,
        observation: tag("observation_tag"),
        function: tag("function_tag"),
        system: tag("system_tag"),
    })
}

/// `names`, the most similar to `name` first.
pub(super) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.into_iter().collect();
    // Comparing takes time with the square of the length, and the beginning tells names apart.
    let begin = |text: &str| text.chars().take(100).collect::<String>();
    names.sort_by_cached_key(|other| {
        let likeness = strsim::jaro_winkler(&begin(name), &begin(other));
        std::cmp::Reverse((likeness * 1e9) as u64)
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(entry: Value) -> Result<Shape> {
        Shape::of(entry.as_object().unwrap())
    }

    fn named(entry: Value) -> Vec<(&'static str, String)> {
        shape(entry).unwrap().named().map(|(key, name)| (key, name.to_owned())).collect()
    }

    #[test]
    fn listed_columns_and_tags_unset_the_others() {
        let pairs = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(key, name)| (*key, (*name).to_owned())).collect::<Vec<_>>()
        };
        let defaults = [("prompt", "instruction"), ("query", "input"), ("response", "output")];
        assert_eq!(named(json!({})), pairs(&defaults));
        assert_eq!(named(json!({"formatting": "sharegpt"})), pairs(&[("messages", "conversations")]));
        let listed = json!({"columns": {"prompt": "问", "response": "output", "query": null, "history": ""}});
        assert_eq!(named(listed), pairs(&[("prompt", "问"), ("response", "output")]));
        let twice = json!({"columns": {"prompt": "a", "system": "a", "response": "b"}});
        assert_eq!(named(twice.clone()), pairs(&[("prompt", "a"), ("response", "b"), ("system", "a")]));
        assert_eq!(shape(twice).unwrap().names(), ["a", "b"]);

        let tags = json!({"formatting": "sharegpt", "tags": {"role_tag": "role", "content_tag": "text", "user_tag": "u", "assistant_tag": "a"}});
        let tags = shape(tags).unwrap().tags;
        assert_eq!((tags.role.as_str(), tags.user.as_str()), ("role", "u"));
        assert_eq!((tags.system, tags.observation, tags.function), (None, None, None));
    }

    #[test]
    fn slips_are_pointed_at() {
        for (entry, want) in [
            (json!({"formatting": "share_gpt"}), "`formatting`: \"share_gpt\" is not known"),
            (json!({"formatting": 1}), "`formatting`: \"?\" is not known"),
            (json!({"columns": []}), "`columns` is not an object"),
            (json!({"columns": {"prompt": 1}}), "`columns`: `prompt` is not a string"),
            (json!({"columns": {"promt": "p"}}), "`columns`: no such column: `promt`"),
            (
                json!({"columns": {"images": "i"}}),
                "`columns`: `images` is not supported: only text is trained, one answer a row",
            ),
            (json!({"formatting": "sharegpt", "tags": {"role": "r"}}), "`tags`: no such tag: `role`"),
            (
                json!({"formatting": "openai", "tags": {"role_tag": "r"}}),
                "`tags` has no `content_tag`: what is not listed is unset",
            ),
            (
                json!({"formatting": "sharegpt", "columns": {"system": "s"}}),
                "`columns` has no `messages`: what is not listed is unset",
            ),
        ] {
            let error = shape(entry).unwrap_err();
            assert_eq!(error.to_string(), want);
            assert!(error.hint_text(false).is_some() && error.hint_text(true) != error.hint_text(false), "{want}");
        }
        let hint = shape(json!({"formatting": "sharegpt", "tags": {"role": "r"}})).unwrap_err();
        assert!(hint.hint_text(false).unwrap().starts_with("did you mean `role_tag`?"));
    }

    #[test]
    fn columns_of_another_formatting_are_idle() {
        let entry = json!({"columns": {"prompt": "a", "response": "b", "messages": "c", "system": null}});
        let entry = entry.as_object().unwrap();
        assert_eq!(Shape::of(entry).unwrap().idle_columns(entry), ["messages"]);
    }
}
