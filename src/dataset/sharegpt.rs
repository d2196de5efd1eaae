//! Conversations: a list of messages, each with a role and a text (`formatting: sharegpt`, `formatting: openai`).
//!
//! LlamaFactory's rules: a system message at the beginning wins over the system column; then questions and answers take
//! turns, where what a tool has answered counts as a question and a call as an answer. Anything else is no row.
//!
//! OpenAI's form differs in three things: an answer with `tool_calls` is a call, results that follow each other are one, and tools
//! may be a list that is not in a string. (A fourth is LlamaFactory's own and is not done here: to the system text of rows without
//! tools it adds `detailed thinking off`, unless it says how to think, and a newline to that of rows with tools.)

use super::{
    cell::Cell,
    fault::{Fault, Reason},
    record::Record,
    shape::{Formatting, Named, Tags},
    tools,
};
use serde_json::{Map, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
    /// What a tool has answered.
    Observation,
    /// A call of tools.
    Function,
    System,
}

impl Role {
    /// The role that is called `name`. Where two have one name LlamaFactory takes the last of them.
    fn called(name: &str, tags: &Tags) -> Option<Self> {
        let is = |tag: &Option<String>| tag.as_deref() == Some(name);
        match name {
            _ if is(&tags.system) => Some(Self::System),
            _ if is(&tags.function) => Some(Self::Function),
            _ if is(&tags.observation) => Some(Self::Observation),
            _ if name == tags.assistant => Some(Self::Assistant),
            _ if name == tags.user => Some(Self::User),
            _ => None,
        }
    }

    fn asks(self) -> bool {
        matches!(self, Self::User | Self::Observation)
    }

    /// Whose message it is.
    fn whose(self) -> &'static str {
        match self {
            Self::User => "the user's",
            Self::Assistant => "the assistant's",
            Self::Observation => "a tool's",
            Self::Function => "a call",
            Self::System => "the system's",
        }
    }

    fn answers(self) -> bool {
        matches!(self, Self::Assistant | Self::Function)
    }
}

/// A message: who says what, and which of the list it is, from 1.
struct Message {
    number: usize,
    role: Role,
    content: Option<Value>,
}

/// The record of a row.
pub(super) fn record(mut row: Named) -> Result<Record, Fault> {
    let shape = row.shape;
    let tags = &shape.tags;
    let mut list = list(row.take("messages"))?;
    let leads = list.first().is_some_and(|first| tags.system.is_some() && role(first, tags) == tags.system.as_deref());
    let system = match list.first_mut().filter(|_| leads) {
        None => row.text("system")?,
        Some(first) => match first.remove(&tags.content) {
            None | Some(Value::Null) => String::new(),
            content => text(1, tags, content)?,
        },
    };
    let spoken = list.into_iter().enumerate().skip(usize::from(leads)).map(|(i, message)| (i + 1, message));
    let messages = match shape.formatting {
        Formatting::OpenAi => openai(spoken, tags)?,
        _ => spoken.map(|(number, message)| plain(number, message, tags)).collect::<Result<_, _>>()?,
    };
    let mut history = turns(messages, tags)?;
    let Some((prompt, response)) = history.pop() else {
        return Err(Fault::new(Reason::NoTurns, "a conversation without a turn"));
    };
    let tools = match shape.formatting {
        Formatting::OpenAi => tools::listed_openly(row.take("tools"))?,
        _ => tools::listed(row.take("tools"))?,
    };
    Ok(Record { prompt, response, system, tools, history, ..Record::default() })
}

/// The messages of a row.
fn list(column: Option<(&str, Cell)>) -> Result<Vec<Map<String, Value>>, Fault> {
    let wrong = |fact: String| Fault::new(Reason::WrongType, fact);
    let (name, messages) = match column {
        Some((name, Cell::Value(Value::Array(messages)))) => (name, messages),
        Some((name, cell @ Cell::Missing)) => return Err(wrong(format!("`{name}` (the messages) is {}", cell.kind()))),
        Some((name, cell)) => return Err(wrong(format!("`{name}` (the messages) is {}, not a list", cell.kind()))),
        None => return Err(wrong("no column is mapped to `messages`".into())),
    };
    let message = |(i, message)| match message {
        Value::Object(message) => Ok(message),
        other => Err(wrong(format!("`{name}`: message {} is {}, not an object", i + 1, Cell::from(other).kind()))),
    };
    messages.into_iter().enumerate().map(message).collect()
}

fn role<'a>(message: &'a Map<String, Value>, tags: &Tags) -> Option<&'a str> {
    message.get(&tags.role).and_then(Value::as_str)
}

fn plain(number: usize, mut message: Map<String, Value>, tags: &Tags) -> Result<Message, Fault> {
    let fact = match role(&message, tags) {
        None => format!("message {number} has no `{}`, which names its role", tags.role),
        Some(name) => match Role::called(name, tags) {
            Some(role) => return Ok(Message { number, role, content: message.remove(&tags.content) }),
            None if name == "system" => {
                format!(
                    "message {number} has the role `system`, and `system_tag` is unset: what `tags` does not list is"
                )
            }
            None => format!("message {number} has the role `{name}`, which is none of `tags`"),
        },
    };
    Err(Fault::new(Reason::WrongRole, fact))
}

/// Calls are written as messages, and results that follow each other as one. Results at the end are lost, as in LlamaFactory.
fn openai(list: impl Iterator<Item = (usize, Map<String, Value>)>, tags: &Tags) -> Result<Vec<Message>, Fault> {
    let mut messages: Vec<Message> = vec![];
    let mut results: Vec<String> = vec![];
    for (number, mut message) in list {
        let calls = message.remove("tool_calls");
        let mut message = plain(number, message, tags)?;
        if message.role == Role::Observation {
            results.push(text(number, tags, message.content)?);
            continue;
        }
        if !results.is_empty() {
            let all = std::mem::take(&mut results).join("\n</tool_response>\n<tool_response>\n");
            messages.push(Message { number: number - 1, role: Role::Observation, content: Some(all.into()) });
        }
        if let Some(Value::Array(calls)) = calls.filter(|calls| message.role.answers() && !is_empty(calls)) {
            let calls = calls.into_iter().map(|call| function(number, call)).collect::<Result<_, _>>()?;
            let written = crate::json::dumps(&Value::Array(calls)).map_err(|err| fault(number, &err.to_string()))?;
            (message.role, message.content) = (Role::Function, Some(written.into()));
        }
        messages.push(message);
    }
    Ok(messages)
}

fn is_empty(calls: &Value) -> bool {
    calls.as_array().is_none_or(Vec::is_empty)
}

/// Of an object LlamaFactory would fill in the keys that the calls of other rows have.
fn function(number: usize, mut call: Value) -> Result<Value, Fault> {
    match call.get_mut("function").map(Value::take) {
        Some(function) if function["arguments"].is_string() => Ok(function),
        Some(Value::Object(_)) => Err(fault(number, "the `arguments` of a call are not a string")),
        _ => Err(fault(number, "a call has no `function`")),
    }
}

/// Questions and answers in turn.
fn turns(messages: Vec<Message>, tags: &Tags) -> Result<Vec<(String, String)>, Fault> {
    let out_of_turn = messages.iter().enumerate().find(|(i, message)| match i % 2 {
        0 => !message.role.asks(),
        _ => !message.role.answers(),
    });
    if let Some((i, message)) = out_of_turn {
        let wanted = if i % 2 == 0 { "a question" } else { "an answer" };
        let fact = format!("message {} is {}, where {wanted} must stand", message.number, message.role.whose());
        return Err(Fault::new(Reason::WrongRole, fact));
    }
    if let (Some(last), 1) = (messages.last(), messages.len() % 2) {
        return Err(Fault::new(Reason::NoLastAnswer, format!("message {} is the last and no answer", last.number)));
    }
    let mut turns = vec![];
    let mut messages = messages.into_iter();
    while let (Some(question), Some(answer)) = (messages.next(), messages.next()) {
        turns.push((spoken(question, tags)?, spoken(answer, tags)?));
    }
    Ok(turns)
}

/// What a message is to the model.
fn spoken(message: Message, tags: &Tags) -> Result<String, Fault> {
    let Message { number, role, content } = message;
    let text = text(number, tags, content)?;
    match role {
        Role::Observation => Ok(tools::observation(&text)),
        Role::Function => tools::call(&text).map_err(|fact| fault(number, &fact)),
        Role::User | Role::Assistant | Role::System => Ok(text),
    }
}

fn text(number: usize, tags: &Tags, content: Option<Value>) -> Result<String, Fault> {
    match content.map_or(Cell::Missing, Cell::from) {
        Cell::Text(text) => Ok(text),
        other => {
            let fact = format!("message {number}: `{}` is {}, not a string", tags.content, other.kind());
            Err(Fault::new(Reason::WrongType, fact))
        }
    }
}

fn fault(number: usize, fact: &str) -> Fault {
    Fault::new(Reason::Tools, format!("message {number}: {fact}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::OnBadRow,
        dataset::{
            files::FileFormat,
            record::{How, parse},
            shape::Shape,
        },
    };
    use std::path::Path;

    fn read(row: &str, formatting: Formatting, tags: Tags) -> Result<Record, Fault> {
        let columns = [("messages", "m"), ("system", "s"), ("tools", "t")];
        let row = format!("{{\"m\": [], \"s\": null, \"t\": null}}\n{row}");
        let shape = Shape::new(formatting, Some(&columns), tags);
        let how = How { shape: &shape, limit: None, on_bad_row: OnBadRow::Skip };
        let parsed = parse(row.as_bytes(), Path::new("d"), FileFormat::Json, how).unwrap();
        parsed.rows.into_iter().nth(1).unwrap().map_err(|fault| *fault)
    }

    fn sharegpt(row: &str) -> Result<Record, Fault> {
        read(row, Formatting::Sharegpt, Tags::default())
    }

    #[test]
    fn turns_become_questions_and_answers() {
        let got = sharegpt(
            r#"{"s": "列", "m": [{"from": "system", "value": "甲"}, {"from": "human", "value": "天"}, {"value": "地", "from": "gpt", "weight": 1},
               {"from": "observation", "value": "晴"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}]}"#
                .replace('\n', "")
                .as_str(),
        )
        .unwrap();
        let want = Record {
            system: "甲".into(),
            history: vec![("天".into(), "地".into())],
            prompt: "<tool_response>\n晴\n</tool_response>".into(),
            response: "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>".into(),
            ..Record::default()
        };
        assert_eq!(got, want);
        let column =
            sharegpt(r#"{"s": "列", "m": [{"from": "human", "value": "天"}, {"from": "gpt", "value": ""}]}"#).unwrap();
        assert_eq!((column.system.as_str(), column.response.as_str()), ("列", ""));
    }

    #[test]
    fn what_is_no_conversation_is_left_out_with_a_reason() {
        let human = r#"{"from": "human", "value": "天"}"#;
        let gpt = r#"{"from": "gpt", "value": "地"}"#;
        for (messages, reason, want) in [
            (String::new(), Reason::NoTurns, "a conversation without a turn"),
            (r#"{"from": "system", "value": "甲"}"#.into(), Reason::NoTurns, "a conversation without a turn"),
            (human.into(), Reason::NoLastAnswer, "message 1 is the last and no answer"),
            (format!("{human}, {gpt}, {human}"), Reason::NoLastAnswer, "message 3 is the last and no answer"),
            (format!("{gpt}, {human}"), Reason::WrongRole, "message 1 is the assistant's, where a question must stand"),
            (format!("{human}, {human}"), Reason::WrongRole, "message 2 is the user's, where an answer must stand"),
            (
                format!(r#"{human}, {{"from": "system", "value": "甲"}}"#),
                Reason::WrongRole,
                "message 2 is the system's, where an answer must stand",
            ),
            (
                format!(r#"{human}, {{"from": "tool", "value": "甲"}}"#),
                Reason::WrongRole,
                "message 2 has the role `tool`, which is none of `tags`",
            ),
            (
                format!(r#"{human}, {{"value": "甲"}}"#),
                Reason::WrongRole,
                "message 2 has no `from`, which names its role",
            ),
            (
                format!(r#"{human}, {{"from": "gpt", "value": null}}"#),
                Reason::WrongType,
                "message 2: `value` is null, not a string",
            ),
            (format!(r#"{human}, "地""#), Reason::WrongType, "`m`: message 2 is a string, not an object"),
            (
                format!(r#"{human}, {{"from": "function_call", "value": "晴"}}"#),
                Reason::Tools,
                "message 2: not JSON: expected value at line 1 column 1",
            ),
        ] {
            let fault = sharegpt(&format!("{{\"m\": [{messages}]}}")).unwrap_err();
            assert_eq!((fault.reason, fault.fact.rsplit_once("row 2: ").unwrap().1), (reason, want), "{messages}");
        }
        for (row, want) in [
            ("{}", "`m` (the messages) is missing"),
            (r#"{"m": null}"#, "`m` (the messages) is null, not a list"),
            (r#"{"m": "天"}"#, "`m` (the messages) is a string, not a list"),
        ] {
            assert!(sharegpt(row).unwrap_err().fact.ends_with(want), "{row}");
        }
    }

    #[test]
    fn a_tag_that_is_not_listed_is_unset() {
        let tags = Tags { system: None, observation: None, function: None, ..Tags::default() };
        let row = r#"{"m": [{"from": "system", "value": "甲"}, {"from": "human", "value": "天"}, {"from": "gpt", "value": "地"}]}"#;
        let fault = read(row, Formatting::Sharegpt, tags).unwrap_err();
        assert_eq!(fault.reason, Reason::WrongRole);
        assert!(
            fault
                .fact
                .ends_with("message 1 has the role `system`, and `system_tag` is unset: what `tags` does not list is")
        );
    }

    #[test]
    fn calls_and_results_of_openai_are_put_together() {
        let tags = Tags {
            role: "role".into(),
            content: "content".into(),
            user: "user".into(),
            assistant: "assistant".into(),
            observation: Some("tool".into()),
            function: None,
            system: Some("system".into()),
        };
        let call = |arguments: &str| {
            format!(
                r#"{{"role": "assistant", "content": null, "tool_calls": [{{"function": {{"name": "f", "arguments": {arguments}}}}}]}}"#
            )
        };
        let row = |arguments: &str| {
            format!(
                r#"{{"m": [{{"role": "user", "content": "天", "tool_calls": null}}, {}, {{"role": "tool", "content": "晴"}}, {{"role": "tool", "content": "雨"}}, {{"role": "assistant", "content": "地", "tool_calls": []}}, {{"role": "tool", "content": "lost"}}]}}"#,
                call(arguments)
            )
        };
        let got = read(&row(r#""{\"a\": 1}""#), Formatting::OpenAi, tags.clone()).unwrap();
        let want = Record {
            history: vec![(
                "天".into(),
                "<tool_call>\n{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}\n</tool_call>".into(),
            )],
            prompt: "<tool_response>\n晴\n</tool_response>\n<tool_response>\n雨\n</tool_response>".into(),
            response: "地".into(),
            ..Record::default()
        };
        assert_eq!(got, want);
        let fault = read(&row(r#"{"a": 1}"#), Formatting::OpenAi, tags).unwrap_err();
        assert!(fault.fact.ends_with("message 2: the `arguments` of a call are not a string"), "{}", fault.fact);
    }
}
