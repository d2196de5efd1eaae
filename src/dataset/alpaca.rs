//! Alpaca rows: `prompt`, `query` and `response`, with a `history` of earlier turns.

use super::{
    cell::Cell,
    fault::{Fault, Reason},
    record::Record,
    shape::Named,
    tools,
};
use serde_json::Value;

/// The record of a row. A history that is no list is a fault, or is `passed_over`, as LlamaFactory does.
pub(super) fn record(mut row: Named, passed_over: bool) -> Result<Record, Fault> {
    let history = row.take("history");
    let no_history = passed_over && history.as_ref().is_some_and(|(_, cell)| !cell.is_none() && !cell.is_list());
    let history = if no_history { vec![] } else { pairs(history)? };
    Ok(Record {
        response: response(row.take("response"))?,
        prompt: row.text("prompt")?,
        query: row.text("query")?,
        system: row.text("system")?,
        history,
        no_history,
        tools: tools::listed(row.take("tools"))?,
    })
}

fn response(column: Option<(&str, Cell)>) -> Result<String, Fault> {
    let fact = match column {
        Some((_, Cell::Text(text))) => return Ok(text),
        Some((name, cell @ Cell::Missing)) => format!("`{name}` (the response) is {}", cell.kind()),
        Some((name, cell)) => format!("`{name}` (the response) is {}, not a string", cell.kind()),
        None => "no column is mapped to `response`".into(),
    };
    Err(Fault::new(Reason::NoResponse, fact))
}

fn pairs(column: Option<(&str, Cell)>) -> Result<Vec<(String, String)>, Fault> {
    let wrong = |fact: String| Fault::new(Reason::WrongType, fact);
    let (name, pairs) = match column {
        None | Some((_, Cell::Missing | Cell::Null)) => return Ok(Vec::new()),
        Some((name, Cell::Value(Value::Array(pairs)))) => (name, pairs),
        Some((name, other)) => {
            return Err(wrong(format!("`{name}` is {}, not a list of [question, answer]", other.kind())));
        }
    };
    let pair = |(i, pair): (usize, Value)| {
        let texts = match pair {
            Value::Array(texts) => <[Value; 2]>::try_from(texts).ok(),
            _ => None,
        };
        match texts {
            Some([Value::String(question), Value::String(answer)]) => Ok((question, answer)),
            _ => Err(wrong(format!("`{name}`: turn {} is not [question, answer], two strings", i + 1))),
        }
    };
    pairs.into_iter().enumerate().map(pair).collect()
}
