//! Our TOML: sections, and each key in its one home.

use super::{
    entry::{Entry, Place},
    full_width, keys,
    source::Source,
    table::{Command, Section},
    value::Value,
};
use crate::error::{Error, Result};
use toml::de::{DeInteger, DeTable, DeValue};

/// The entries of a TOML recipe, in file order.
///
/// Errors: a syntax error, an unknown section, a key outside a section or in the wrong one. Unknown keys pass: `settings` names them.
pub fn read(source: &Source) -> Result<Vec<Entry>> {
    let document = DeTable::parse(source.text()).map_err(|err| syntax_error(source, &err))?;
    let mut entries = Vec::new();
    for (name, content) in document.get_ref() {
        let at = name.span().start;
        match (Section::ALL.into_iter().find(|s| s.name() == name.get_ref()), content.get_ref()) {
            (Some(section), DeValue::Table(table)) => read_section(source, section, table, &mut entries)?,
            (Some(section), _) => {
                return Err(source
                    .error_at(at, format!("{section} must be a section, not a value"))
                    .hint(format!("write `{section}` on a line of its own and its keys below"))
                    .hint_zh(format!("请单独写一行 `{section}`，并把各项写在其下")));
            }
            (None, DeValue::Table(_)) => return Err(unknown_section(source, at, name.get_ref())),
            (None, _) => return Err(outside(source, at, name.get_ref())),
        }
    }
    Ok(entries)
}

fn read_section(source: &Source, section: Section, table: &DeTable<'_>, entries: &mut Vec<Entry>) -> Result<()> {
    for (key, value) in table {
        let place = Place::File { key: key.span().start, value: value.span().start };
        let entry = Entry { key: key.get_ref().to_string(), value: convert(value.get_ref()), place };
        if let Some(home) = home(&entry.key)
            && home != section
        {
            return Err(entry
                .key_error(source, format!("`{}` belongs in {home}, not in {section}", entry.key))
                .hint(format!("move it to {home}"))
                .hint_zh(format!("请把它移到 {home}")));
        }
        entries.push(entry);
    }
    Ok(())
}

/// The section of a key that training reads.
fn home(name: &str) -> Option<Section> {
    keys::find(name)?.read_by(Command::Train)?.home
}

fn unknown_section(source: &Source, at: usize, name: &str) -> Error {
    let names = Section::ALL.map(|section| section.to_string()).join(", ");
    let err = source.error_at(at, format!("there is no section [{name}]"));
    match keys::closest(name, Section::ALL.into_iter().map(Section::name)) {
        Some(near) => err.hint(format!("did you mean [{near}]?")).hint_zh(format!("是否想写 [{near}]？")),
        None => err.hint(format!("the sections are {names}")).hint_zh(format!("可用的节：{names}")),
    }
}

/// A key at the top of the file, as LlamaFactory's YAML would have it.
fn outside(source: &Source, at: usize, name: &str) -> Error {
    let err = source.error_at(at, format!("`{name}` stands outside a section"));
    match (home(name), keys::nearest(name)) {
        (Some(home), _) => err.hint(format!("it belongs in {home}")).hint_zh(format!("它应放在 {home} 中")),
        (None, Some(near)) if near != name => {
            err.hint(format!("did you mean `{near}`?")).hint_zh(format!("是否想写 `{near}`？"))
        }
        _ => err
            .hint("LlamaFactory's flat keys are read from a .yaml or .json file")
            .hint_zh("LlamaFactory 的平铺写法请保存为 .yaml 或 .json 文件"),
    }
}

fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => integer(number),
        DeValue::Float(number) => {
            number.as_str().replace('_', "").parse().map_or(Value::Other("a number"), Value::Float)
        }
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Array(items) => Value::List(items.iter().map(|item| convert(item.get_ref())).collect()),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(table) => Value::Table(
            table.iter().map(|(name, value)| (name.get_ref().to_string(), convert(value.get_ref()))).collect(),
        ),
    }
}

fn integer(number: &DeInteger<'_>) -> Value {
    let digits = number.as_str().replace('_', "");
    i64::from_str_radix(&digits, number.radix()).map_or(Value::Other("a number out of range"), Value::Int)
}

fn syntax_error(source: &Source, err: &toml::de::Error) -> Error {
    let fact = err.message().lines().collect::<Vec<_>>().join(", ");
    let at = err.span().map(|span| span.start);
    let err = at
        .map_or_else(|| source.error(&fact), |at| source.error_at(at, &fact))
        .hint("this file is read as TOML: `key = value`, strings in quotes, keys below their [section]")
        .hint_zh("此文件按 TOML 读取：`键 = 值`，字符串加引号，键写在所属 [节] 之下");
    match at {
        Some(at) => full_width::explained_in_toml(err, source.text(), at),
        None => err,
    }
}
