//! What the table says of a key, for `config explain` and for docs/config.md.

use super::{
    keys::{self, all},
    kind::{Kind, Words},
    scheduler::SchedulerType,
    sections::Dialect,
    table::{Absent, Answer, Command, Key, RENAMED, Read, TABLE, V1},
};
use crate::error::{Error, Result};
use std::fmt::Write;

/// One key: what it means, takes and is without being given, or why it is not read.
///
/// Errors: no such key, with the nearest one.
pub fn explain(name: &str, chinese: bool) -> Result<String> {
    let pick = |words: Words| if chinese { words.zh } else { words.en };
    let Some(key) = keys::find(name) else { return Err(unknown(name)) };
    let mut text = String::new();
    if key.name != name {
        let _ = writeln!(text, "{name} → {}", key.name);
    }
    let answer = match &key.answer {
        Answer::Read(read) => readers(read, chinese),
        Answer::Ignored => pick(IGNORED).into(),
        Answer::Refused(off) => refused(off, chinese),
    };
    let _ = writeln!(text, "{}: {answer}\n  {}", key.name, pick(key.about));
    if let Answer::Read(read) = &key.answer {
        let (en, zh) = read.kind.describe();
        let _ = writeln!(text, "  {}  {}", if chinese { "取值  " } else { "takes " }, if chinese { zh } else { en });
        if let Some(default) = default(read, chinese) {
            let _ = writeln!(text, "  {}  {default}", if chinese { "默认值" } else { "absent" });
        }
        if read.by.contains(&Command::Train) {
            let home = read.home.map_or_else(|| "–".into(), |home| home.to_string());
            let _ = writeln!(text, "  TOML    {home}");
        }
        text += &details(key, read, chinese);
    }
    Ok(text)
}

const IGNORED: Words = Words { en: "accepted without effect", zh: "可写，但不起作用" };

fn unknown(name: &str) -> Error {
    if let Some((_, ours)) = V1.iter().find(|(v1, _)| *v1 == name) {
        return Error::input(format!("`{name}` is a key of LlamaFactory's v1 dialect, which is not read"))
            .hint(format!("here it is {}", ours.en))
            .hint_zh(format!("此处对应：{}", ours.zh));
    }
    let err = Error::input(format!("there is no key `{name}`"));
    match keys::nearest(name) {
        Some(near) => err.hint(format!("did you mean `{near}`?")).hint_zh(format!("是否想写 `{near}`？")),
        None => err
            .hint("`couplet-train config explain` lists all keys")
            .hint_zh("`couplet-train config explain` 会列出所有键"),
    }
}

/// `read by train, generate, …`
fn readers(read: &Read, chinese: bool) -> String {
    let names: Vec<&str> = read.by.iter().map(|command| command.name()).collect();
    match chinese {
        true => format!("用于 {}", names.join("、")),
        false => format!("read by {}", names.join(", ")),
    }
}

fn refused(off: &[&str], chinese: bool) -> String {
    let off: Vec<&str> = off.iter().copied().filter(|off| !off.is_empty()).collect();
    match (chinese, off.is_empty()) {
        (false, true) => "not supported".into(),
        (true, true) => "不支持".into(),
        (false, false) => format!("not supported, but for {}", off.join(" or ")),
        (true, false) => format!("不支持，只能为 {}", off.join(" 或 ")),
    }
}

/// What holds without the key.
fn default(read: &Read, chinese: bool) -> Option<String> {
    let must = if chinese { "必须填写" } else { "must be given" };
    let say = |dialect| read.default.of(dialect).unwrap_or(must);
    match read.default {
        Absent::Unset => None,
        Absent::Required => Some(must.into()),
        Absent::Same(text) => Some(text.into()),
        Absent::By { llamafactory: None, toml: Some(limit) } if read.kind == Kind::Limit => Some(match chinese {
            true => format!("TOML 为 {limit}；LlamaFactory 的 YAML 不限"),
            false => format!("{limit} in TOML, no limit in LlamaFactory's YAML"),
        }),
        Absent::By { .. } => {
            let (toml, yaml) = (say(Dialect::Toml), say(Dialect::LlamaFactory));
            Some(match chinese {
                true => format!("TOML 为 {toml}；LlamaFactory 的 YAML 为 {yaml}"),
                false => format!("{toml} in TOML, {yaml} in LlamaFactory's YAML"),
            })
        }
    }
}

/// Words that are known and refused, parameters of the schedules, older spellings.
fn details(key: &Key, read: &Read, chinese: bool) -> String {
    let mut text = String::new();
    if let Kind::Choice { later, .. } = read.kind
        && !later.is_empty()
    {
        let _ = writeln!(text, "  {} {}", if chinese { "不支持 " } else { "refused" }, later.join(", "));
    }
    if read.kind == Kind::Table {
        for kind in SchedulerType::ALL.into_iter().filter(|kind| !kind.parameters().is_empty()) {
            let names: Vec<&str> = kind.parameters().iter().map(|(name, _)| *name).collect();
            let _ = writeln!(text, "  {}: {}", kind.name(), names.join(", "));
        }
    }
    for (old, _) in RENAMED.iter().filter(|(_, new)| *new == key.name) {
        let _ = writeln!(text, "  {} {old}", if chinese { "旧名   " } else { "formerly" });
    }
    text
}

/// Every key with one line, group by group.
pub fn overview(chinese: bool) -> String {
    let pick = |words: Words| if chinese { words.zh } else { words.en };
    let width = all().filter(|key| is_read(key)).map(|key| key.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (group, keys) in TABLE {
        let _ = writeln!(text, "{}", pick(*group));
        for key in keys.iter().filter(|key| is_read(key)) {
            let _ = writeln!(text, "  {:width$}  {}", key.name, pick(key.about));
        }
        for (what, is_it) in [
            (IGNORED, (|key: &&Key| key.answer == Answer::Ignored) as fn(&&Key) -> bool),
            (Words { en: "not supported", zh: "不支持" }, |key| matches!(key.answer, Answer::Refused(_))),
        ] {
            let names: Vec<&str> = keys.iter().filter(is_it).map(|key| key.name).collect();
            if !names.is_empty() {
                let _ = writeln!(text, "  {}: {}", pick(what), names.join(", "));
            }
        }
        text.push('\n');
    }
    text + pick(Words {
        en: "`couplet-train config explain KEY` says more of one.\n",
        zh: "`couplet-train config explain 键名` 说明单个键。\n",
    })
}

fn is_read(key: &Key) -> bool {
    matches!(key.answer, Answer::Read(_))
}

const INTRODUCTION: &str = "\
# Config keys

Made by `couplet-train config explain --markdown`; do not edit. 本页由程序生成，请勿修改。

A training config is our TOML in sections, or LlamaFactory's flat YAML or JSON as it is; `couplet-train config convert FILE`
turns one into the other. The keys are LlamaFactory's; those marked ° are ours. A key that is *ignored* is named once in
the header of the run and changes nothing; in TOML, where nobody has to carry it along, it is an error. One that is *refused*
stops the program before anything is loaded, unless its value switches nothing on. Every other word is an unknown key.

`docs/config.schema.json` (TOML) and `docs/llamafactory.schema.json` (YAML, JSON) tell an editor the same:
`#:schema docs/config.schema.json` or `# yaml-language-server: $schema=docs/llamafactory.schema.json` as the first line.
";

/// docs/config.md.
pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (group, keys) in TABLE {
        let _ = write!(text, "\n## {} · {}\n\n| key | takes | absent | |\n|---|---|---|---|\n", group.en, group.zh);
        for key in *keys {
            if let Answer::Read(read) = &key.answer {
                row(&mut text, key, read);
            }
        }
        others(&mut text, keys);
    }
    text + &schedules() + &older()
}

fn row(text: &mut String, key: &Key, read: &Read) {
    let mark = if key.is_ours() { "°" } else { "" };
    let home = match (read.home, read.by.contains(&Command::Train)) {
        (Some(home), _) => format!(" {home}"),
        (None, true) => " YAML only".into(),
        (None, false) => format!(" {}", readers(read, false)),
    };
    let cell = |text: &str| text.replace('|', "\\|");
    let _ = writeln!(
        text,
        "| `{}`{mark}{home} | {} | {} | {}<br>{} |",
        key.name,
        cell(&read.kind.describe().0),
        cell(&default(read, false).unwrap_or_default()),
        cell(key.about.en),
        cell(key.about.zh)
    );
}

/// Refused and ignored keys of a group; those with the same reason share a row.
fn others(text: &mut String, keys: &[Key]) {
    let is_other = |key: &&Key| !is_read(key);
    let mut reasons: Vec<(Answer, Words)> = Vec::new();
    for key in keys.iter().filter(is_other) {
        if !reasons.contains(&(key.answer, key.about)) {
            reasons.push((key.answer, key.about));
        }
    }
    reasons.sort_by_key(|(answer, _)| *answer == Answer::Ignored);
    for (answer, about) in reasons {
        let same = keys.iter().filter(|key| (key.answer, key.about) == (answer, about));
        let names: Vec<String> = same.map(|key| format!("`{}`", key.name)).collect();
        let what = match answer {
            Answer::Refused(off) => refused(off, false).replace("not supported", "*refused*"),
            _ => "*ignored*".into(),
        };
        let _ = writeln!(text, "| {} | {what} | | {}<br>{} |", names.join(", "), about.en, about.zh);
    }
}

fn schedules() -> String {
    let mut text =
        "\n## Schedules\n\nWhat `lr_scheduler_kwargs` may say of each `lr_scheduler_type`, as in transformers.\n\n\
                    | schedule | parameters |\n|---|---|\n"
            .to_owned();
    for kind in SchedulerType::ALL {
        let parameter = |(name, takes): &(&str, Kind)| format!("`{name}`: {}", takes.describe().0);
        let parameters: Vec<String> = kind.parameters().iter().map(parameter).collect();
        let _ = writeln!(text, "| `{}` | {} |", kind.name(), parameters.join("<br>"));
    }
    text
}

fn older() -> String {
    let mut text = "\n## Older spellings\n\n".to_owned();
    for (old, new) in RENAMED {
        let _ = writeln!(text, "- `{old}` is read as `{new}`.");
    }
    text += "\n## LlamaFactory's v1 dialect\n\nIt is recognised and not read; its keys are named with what they are called here.\n\n";
    for (v1, ours) in V1 {
        let _ = writeln!(text, "- `{v1}`: {}", ours.en);
    }
    text
}
