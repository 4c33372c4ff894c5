//! From the cells of a row to records.

use serde_json::Value;

use super::columns::{Column, Mapping, Shape};
use super::{Message, Record};

/// The records of a row, whose `cells` are in the order of the mapping's columns; a cell that is not there is null.
/// `numbers_as_text` says that the file has no types, so that a score is spelled.
///
/// # Errors
/// What is wrong with the row, as a sentence about it.
pub(super) fn records(mapping: &Mapping, cells: Vec<Value>, numbers_as_text: bool) -> Result<Vec<Record>, String> {
    let mut cells = mapping.columns.iter().zip(cells);
    let mut text = || {
        let (column, cell) = cells.next().expect("a cell for each column of a mapping");
        text_of(column, cell)
    };
    match mapping.shape {
        Shape::Pair => {
            let (anchor, positive) = (text()?, text()?);
            let mut negatives = Vec::new();
            for (column, cell) in cells {
                match cell {
                    Value::Array(texts) => {
                        for cell in texts {
                            negatives.push(text_of(column, cell)?);
                        }
                    }
                    // How many there should be is for the data set to say.
                    Value::Null => {}
                    cell => negatives.push(text_of(column, cell)?),
                }
            }
            Ok(vec![Record::Pair { anchor, positive, negatives }])
        }
        Shape::Scored => {
            let (first, second) = (text()?, text()?);
            let (column, cell) = cells.next().expect("a cell for each column of a mapping");
            Ok(vec![Record::Scored { first, second, score: score_of(column, &cell, numbers_as_text)? }])
        }
        Shape::Texts => cells.map(|(column, cell)| text_of(column, cell).map(Record::Text)).collect(),
        Shape::Completion => Ok(vec![Record::Completion { prompt: text()?, completion: text()? }]),
        Shape::Chat => {
            let (column, cell) = cells.next().expect("a cell for each column of a mapping");
            Ok(vec![Record::Chat(messages_of(column, cell)?)])
        }
    }
}

fn text_of(column: &Column, cell: Value) -> Result<String, String> {
    match cell {
        Value::String(text) if !text.trim().is_empty() => Ok(text),
        Value::String(_) => Err(format!("{} is empty", described(column))),
        Value::Null => Err(format!("{} is missing", described(column))),
        other => Err(format!("{} is {} instead of a text", described(column), type_of(&other))),
    }
}

fn score_of(column: &Column, cell: &Value, numbers_as_text: bool) -> Result<f32, String> {
    let score = match cell {
        Value::Number(number) => number.as_f64(),
        Value::String(text) if numbers_as_text => text.trim().parse().ok(),
        _ => None,
    };
    match score.map(|score| score as f32) {
        Some(score) if score.is_finite() => Ok(score),
        Some(_) => Err(format!("{} is not a finite number", described(column))),
        None if cell.is_null() => Err(format!("{} is missing", described(column))),
        None => Err(format!("{} is {} instead of a number", described(column), type_of(cell))),
    }
}

fn messages_of(column: &Column, cell: Value) -> Result<Vec<Message>, String> {
    let name = described(column);
    let Value::Array(turns) = cell else {
        return Err(match cell {
            Value::Null => format!("{name} is missing"),
            other => format!("{name} is {} instead of a list", type_of(&other)),
        });
    };
    let mut messages = Vec::new();
    for (index, turn) in turns.into_iter().enumerate() {
        let turn_number = index + 1;
        let Value::Object(mut turn) = turn else {
            return Err(format!("turn {turn_number} of {name} is {} instead of an object", type_of(&turn)));
        };
        let (role, content) = match (turn.remove("role"), turn.remove("content")) {
            (Some(Value::String(role)), Some(Value::String(content))) => (role, content),
            _ => return Err(format!("turn {turn_number} of {name} has no role and content that are texts")),
        };
        if !matches!(role.as_str(), "system" | "user" | "assistant") {
            return Err(format!(
                "turn {turn_number} of {name} is said by {}, not by system, user or assistant",
                super::error::quoted(&role)
            ));
        }
        if content.trim().is_empty() {
            return Err(format!("turn {turn_number} of {name} is empty"));
        }
        messages.push(Message { role, content });
    }
    if !messages.iter().any(|message| message.role == "assistant") {
        return Err(format!("{name} has no turn of the assistant"));
    }
    Ok(messages)
}

/// A column as a reader of the message knows it.
fn described(column: &Column) -> String {
    let name = super::error::quoted(&column.name);
    // A name that says nothing, as the position in a file without names.
    if column.name.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("column {name} ({})", column.role)
    } else {
        name
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
