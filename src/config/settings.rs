//! The entries of one config, checked one by one against the key table.
//!
//! After [`Settings::new`] every value has the type and range of its key, so the getters cannot fail; only keys that must be
//! given can still be missing.

use super::{
    entry::{Entry, Place},
    full_width, hidden, intent, keys,
    kind::{Kind, MOST},
    notice::Notice,
    sections::Dialect,
    source::Source,
    table::{Absent, Answer, Command, Key, Read},
    token::Token,
    value::{Value, scalar},
    yaml,
};
use crate::error::{Error, Result};
use std::path::Path;

/// Keys that decide which rows are packed together, and nothing else.
const OF_PACKS: [&str; 2] = ["preprocessing_batch_size", "preprocessing_num_workers"];

/// The entries of a file with the overrides on top.
#[derive(Debug)]
pub struct Settings<'s> {
    source: &'s Source,
    dialect: Dialect,
    entries: Vec<Entry>,
}

impl<'s> Settings<'s> {
    /// Puts `key=value` overrides on top of `entries` and checks every key and value; the notices tell what has no effect.
    ///
    /// Errors: a doubled, unknown or refused key, a value of the wrong type or range, an override without `=`, a config of
    /// another command.
    pub fn new(
        source: &'s Source,
        dialect: Dialect,
        entries: Vec<Entry>,
        overrides: &[String],
    ) -> Result<(Self, Vec<Notice>)> {
        refuse_doubles(source, &entries)?;
        let mut settings = Self { source, dialect, entries };
        let twice = put(&mut settings.entries, overrides)?;
        if dialect == Dialect::LlamaFactory {
            intent::refuse_other_commands(&settings)?;
        }
        let ignored = settings.check()?;
        let notices = [Notice::ignored(&ignored), Notice::twice(&twice)].into_iter().flatten().collect();
        Ok((settings, notices))
    }

    /// The dialect of the file.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// All entries, as written: file order, then new overrides.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of a key, under its present or an older name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| keys::present_name(&entry.key) == name)
    }

    /// Whether the key is given, `null` included.
    pub fn given(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Whether the key is given and not `null`.
    pub fn says(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|entry| entry.value != Value::Null)
    }

    /// The value that holds: the given one, else the dialect's default, else `Null`.
    pub fn value(&self, name: &str) -> Value {
        match self.entry(name) {
            Some(entry) if entry.value != Value::Null => entry.value.clone(),
            _ => {
                let Read { kind, default, .. } = keys::read(name);
                default.of(self.dialect).map_or(Value::Null, |text| kind.loosen(scalar(text)))
            }
        }
    }

    /// A string.
    pub fn text(&self, name: &str) -> Option<String> {
        self.value(name).text().map(str::to_owned)
    }

    /// A token of a hub.
    pub fn token(&self, name: &str) -> Option<Token> {
        Token::new(self.value(name).text()?)
    }

    /// A string that must be there.
    pub fn required_text(&self, name: &str) -> Result<String> {
        self.text(name).ok_or_else(|| self.missing(name))
    }

    /// A truth value; false where nothing says otherwise.
    pub fn flag(&self, name: &str) -> bool {
        self.value(name) == Value::Bool(true)
    }

    /// A whole number; `None` for absent and for the -1 of [`Kind::Limit`].
    pub fn whole(&self, name: &str) -> Option<u64> {
        if let Value::Int(n) = self.value(name) { u64::try_from(n).ok() } else { None }
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.value(name).number()
    }

    /// The strings of a list.
    pub fn words(&self, name: &str) -> Vec<String> {
        let value = self.value(name);
        value.words().unwrap_or_default().into_iter().map(str::to_owned).collect()
    }

    /// The texts of a list, commas and all.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let value = self.value(name);
        value.texts().unwrap_or_default().into_iter().map(str::to_owned).collect()
    }

    /// An error about the value of `name`, at its place.
    pub fn complain(&self, name: &str, fact: impl std::fmt::Display) -> Error {
        match self.entry(name) {
            Some(entry) => entry.error(self.source, fact),
            None => self.source.error(fact),
        }
    }

    /// An error about the key of an entry.
    pub fn complain_key(&self, entry: &Entry, fact: impl std::fmt::Display) -> Error {
        entry.key_error(self.source, fact)
    }

    /// An error about the file as a whole.
    pub fn complain_all(&self, fact: impl std::fmt::Display) -> Error {
        self.source.error(fact)
    }

    /// The error for a key that must be given and is not.
    pub fn missing(&self, name: &str) -> Error {
        let example = match name {
            "model_name_or_path" => "Qwen/Qwen3-0.6B",
            "template" => "qwen3",
            "output_dir" => "outputs/run",
            _ => "couplets_train",
        };
        let err = self.source.error(format!("`{name}` is missing"));
        match (self.dialect, keys::read(name).home) {
            (Dialect::Toml, Some(home)) => err
                .hint(format!("say for example `{name} = \"{example}\"` in {home}"))
                .hint_zh(format!("请在 {home} 中写明，例如 `{name} = \"{example}\"`")),
            _ => err
                .hint(format!("say for example `{name}: {example}`"))
                .hint_zh(format!("请写明，例如 `{name}: {example}`")),
        }
    }

    /// Whether a key that is read decides nothing beside the others.
    pub fn is_idle(&self, name: &str) -> bool {
        OF_PACKS.contains(&name) && !self.packs() || name == "pissa_iter" && !self.flag("pissa_init")
    }

    /// Checks every entry; returns the keys that have no effect.
    fn check(&mut self) -> Result<Vec<String>> {
        let mut ignored = Vec::new();
        for n in 0..self.entries.len() {
            let entry = &self.entries[n];
            let key = keys::find(&entry.key).ok_or_else(|| self.unknown(entry))?;
            let has_no_effect = self.dialect == Dialect::Toml || key.is_ours();
            match &key.answer {
                Answer::Read(read) if read.by.contains(&Command::Train) => {
                    let value = self.checked(entry, key, read)?;
                    if self.is_idle(key.name) && value != Value::Null {
                        ignored.push(entry.key.clone());
                    }
                    self.entries[n].value = value;
                }
                Answer::Read(_) | Answer::Ignored if has_no_effect => return Err(self.useless(entry, key)),
                Answer::Read(_) if matches!(entry.value, Value::Null | Value::Bool(false)) => {}
                Answer::Ignored if entry.key == "report_to" && asks_for_nothing(&entry.value) => {}
                Answer::Read(_) | Answer::Ignored => ignored.push(entry.key.clone()),
                Answer::Refused(_) if key.is_off(&entry.value) => {}
                Answer::Refused(off) => return Err(intent::refusal(self, entry, key, off)),
            }
        }
        Ok(ignored)
    }

    /// Whether rows are packed.
    pub fn packs(&self) -> bool {
        self.flag("packing") || self.flag("neat_packing")
    }

    fn checked(&self, entry: &Entry, key: &Key, read: &Read) -> Result<Value> {
        if self.dialect == Dialect::Toml && read.home.is_none() {
            return Err(self.only_theirs(entry));
        }
        entry.refuse_tilde(self.source)?;
        let value = match (&entry.place, self.dialect) {
            // A revision `1.0` is a name, and so is a data set `2024`, whatever YAML thinks.
            (Place::Override(text), _) if read.kind.means_text(&entry.value) => Value::Text(text.clone()),
            (Place::File { .. }, Dialect::Toml) => entry.value.clone(),
            _ => read.kind.loosen(entry.value.clone()),
        };
        match value == Value::Null || read.kind.admits(&value) {
            true => Ok(value),
            false => Err(self.mismatch(entry, key, read, &value)),
        }
    }

    fn mismatch(&self, entry: &Entry, key: &Key, read: &Read, found: &Value) -> Error {
        let (en, zh) = read.kind.describe();
        if let (Kind::Choice { later, .. }, Some(word)) = (read.kind, found.text())
            && later.contains(&word)
        {
            let err = entry.error(self.source, format!("`{}` is `{word}`, which is not supported yet", key.name));
            if key.name == "lr_scheduler_type" {
                return err
                    .hint("a rate that follows the evaluations is known for no step beforehand: use `cosine`, and `early_stopping_steps` to stop in time")
                    .hint_zh("随评估结果变化的学习率无法预知：请用 `cosine`，并以 `early_stopping_steps` 及时停止");
            }
            return err.hint(format!("supported: {en}")).hint_zh(format!("目前支持：{zh}"));
        }
        let en = if matches!(found, Value::Int(n) if *n > MOST) { format!("at most {MOST}") } else { en };
        let err = entry.error(self.source, format!("`{}` must be {en}, found {}", key.name, read.kind.shown(found)));
        let err = match read.default.of(self.dialect) {
            _ if key.name == "template" => err
                .hint("only Qwen3 is trained: `qwen3` for hybrid models, `qwen3_nothink` for the -2507-Instruct ones")
                .hint_zh("只支持 Qwen3：混合模型用 `qwen3`，-2507-Instruct 模型用 `qwen3_nothink`"),
            Some(text) => err
                .hint(format!("without the key it is {text}"))
                .hint_zh(format!("`{}` 应为{zh}；不写时为 {text}", key.name)),
            None if read.default == Absent::Unset => {
                err.hint("correct the value, or remove the key").hint_zh(format!("`{}` 应为{zh}，也可不写", key.name))
            }
            None => err.hint("correct the value").hint_zh(format!("`{}` 应为{zh}", key.name)),
        };
        full_width::explained(err, found.text().unwrap_or_default())
    }

    fn unknown(&self, entry: &Entry) -> Error {
        let err = entry.key_error(self.source, format!("unknown key `{}`", hidden::pair(&entry.key)));
        let err = match keys::nearest(&entry.key) {
            Some(near) => err.hint(format!("did you mean `{near}`?")).hint_zh(format!("是否想写 `{near}`？")),
            None => err
                .hint("keys have LlamaFactory's names; remove what is not one of them")
                .hint_zh("键名与 LlamaFactory 相同；请删除其他键"),
        };
        full_width::explained(err, &entry.key)
    }

    fn useless(&self, entry: &Entry, key: &Key) -> Error {
        let (en, zh) = match key.answer {
            Answer::Read(read) if read.by == [Command::Evaluate] => {
                ("it is for `couplet-train evaluate`, not for training", "它用于 `couplet-train evaluate`，与训练无关")
            }
            Answer::Read(_) => ("it is about asking a model, not training", "它与生成或导出有关，与训练无关"),
            _ => (key.about.en, key.about.zh),
        };
        entry
            .key_error(self.source, format!("`{}` has no effect here", entry.key))
            .hint(format!("remove it: {en}"))
            .hint_zh(format!("请删除：{zh}"))
    }

    fn only_theirs(&self, entry: &Entry) -> Error {
        let err = entry.key_error(self.source, format!("`{}` is only said in LlamaFactory's YAML or JSON", entry.key));
        if keys::present_name(&entry.key) == "use_cpu" {
            return err.hint("say `device = \"cpu\"` in [model]").hint_zh("请在 [model] 中写 `device = \"cpu\"`");
        }
        err.hint("remove it: a TOML recipe always trains LoRA on instructions with AdamW")
            .hint_zh("请删除：TOML 配置总是以 AdamW 做 LoRA 指令微调")
    }
}

/// `report_to: none`, or an empty list.
fn asks_for_nothing(value: &Value) -> bool {
    value == &Value::Null || value.words().is_some_and(|words| words.iter().all(|word| *word == "none"))
}

fn refuse_doubles(source: &Source, entries: &[Entry]) -> Result<()> {
    for (n, entry) in entries.iter().enumerate() {
        let name = keys::present_name(&entry.key);
        if entries[..n].iter().any(|earlier| keys::present_name(&earlier.key) == name) {
            return Err(entry
                .key_error(source, format!("`{}` is given twice", entry.key))
                .hint("keep one of the two")
                .hint_zh("请只保留一个"));
        }
    }
    Ok(())
}

/// Puts `key=value` overrides on top of `entries`; returns the keys that stand among them more than once, of which the last holds.
pub(super) fn put(entries: &mut Vec<Entry>, overrides: &[String]) -> Result<Vec<String>> {
    let mut twice: Vec<String> = vec![];
    for text in overrides {
        let entry = parse_override(text)?;
        let name = keys::present_name(&entry.key);
        match entries.iter_mut().find(|old| keys::present_name(&old.key) == name) {
            Some(old) => {
                if matches!(old.place, Place::Override(_)) && !twice.iter().any(|key| key == name) {
                    twice.push(name.to_owned());
                }
                *old = entry;
            }
            None => entries.push(entry),
        }
    }
    Ok(twice)
}

/// `key=value`. Errors: no `=`, or nothing before it.
fn parse_override(text: &str) -> Result<Entry> {
    let (key, value) = match text.split_once('=').map(|(key, value)| (key.trim(), value)) {
        Some(("", _)) => return Err(no_override(text, "has no key before its `=`")),
        Some(parts) => parts,
        None => return Err(full_width::explained_sign(no_override(text, "is not `key=value`"), text)),
    };
    // What YAML cannot read is taken as it stands: a system text may hold any character.
    let parsed = yaml::value(&Source::new(Path::new("override"), value)).unwrap_or_else(|_| Value::Text(value.into()));
    Ok(Entry { key: key.to_owned(), value: parsed, place: Place::Override(value.to_owned()) })
}

fn no_override(text: &str, fact: &str) -> Error {
    Error::input(format!("override `{}` {fact}", hidden::pair(text)))
        .hint("write for example `learning_rate=1e-4`, without blanks around the `=`")
        .hint_zh("请写成例如 `learning_rate=1e-4` 的形式，等号两边不留空格")
}
