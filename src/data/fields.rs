//! The values of a row's columns: texts, messages, verdicts.

use super::columns::Columns;
use super::sample::{Message, Text};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The columns of a row in their order. A column that comes twice is an error.
pub(super) struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Value)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!("duplicate field `{key}`")));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

impl Fields {
    /// The value of a part of the row with its column's name. `null` counts as absent: exports of tables write it for
    /// empty columns.
    pub(super) fn get(&self, columns: &Columns, part: &str) -> Option<(&str, &Value)> {
        columns.names(part).into_iter().find_map(|name| self.column(name))
    }

    /// The same, under the part's own name or the one it was mapped to: no other name counts.
    pub(super) fn named(&self, columns: &Columns, part: &str) -> Option<(&str, &Value)> {
        columns.names(part).into_iter().next().and_then(|name| self.column(name))
    }

    fn column(&self, name: &str) -> Option<(&str, &Value)> {
        let found = self.0.iter().find(|(key, value)| key == name && !value.is_null());
        found.map(|(key, value)| (key.as_str(), value))
    }
}

/// A string or a list of messages; one message alone is a list of one.
pub(super) fn text(value: &Value, key: &str) -> Result<Text, String> {
    match value {
        Value::String(text) => Ok(Text::Plain(text.clone())),
        Value::Array(_) => message_list(value, key).map(Text::Messages),
        Value::Object(_) => Ok(Text::Messages(vec![message(value, key)?])),
        other => Err(wrong(key, "a string or a list of messages", other)),
    }
}

pub(super) fn string<'v>(value: &'v Value, key: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| wrong(key, "a string", value))
}

pub(super) fn verdict(value: &Value, key: &str) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| wrong(key, "true or false", value))
}

pub(super) fn message_list(value: &Value, key: &str) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| wrong(key, "a list of messages", value))?;
    list.iter().enumerate().map(|(i, value)| message(value, &format!("{key}[{i}]"))).collect()
}

/// Earlier turns as Alpaca files write them: pairs of a question and its answer.
pub(super) fn history(value: &Value, key: &str) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| wrong(key, "a list of pairs of strings", value))?;
    let mut messages = Vec::new();
    for (i, pair) in list.iter().enumerate() {
        let both = pair.as_array().map(Vec::as_slice);
        let Some([Value::String(question), Value::String(answer)]) = both else {
            return Err(wrong(&format!("{key}[{i}]"), "a pair of strings", pair));
        };
        messages.extend([Message::new("user", question), Message::new("assistant", answer)]);
    }
    Ok(messages)
}

/// `{role, content}`, or ShareGPT's `{from, value}`.
fn message(value: &Value, place: &str) -> Result<Message, String> {
    let object = value.as_object().ok_or_else(|| wrong(place, "an object with \"role\" and \"content\"", value))?;
    let calls = object.get("tool_calls").filter(|calls| !calls.is_null());
    if calls.is_some_and(|calls| calls.as_array().is_none_or(|list| !list.is_empty())) {
        return Err(format!("\"{place}\" has \"tool_calls\", which are not supported: a row is text only"));
    }
    let field = |name: &str| match object.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(wrong(&format!("{place}.{name}"), "a string", other)),
        None => Err(format!("\"{place}\" lacks \"{name}\"")),
    };
    let (role, content) = if object.contains_key("from") && !object.contains_key("role") {
        let role = match field("from")? {
            "human" | "user" => "user",
            "gpt" | "chatgpt" | "bard" | "bing" | "assistant" | "model" => "assistant",
            "system" => "system",
            other => {
                return Err(format!("\"{place}.from\" is {other:?}, which is not supported: a row is text only"));
            }
        };
        (role, field("value")?)
    } else {
        (field("role")?, field("content")?)
    };
    if role.trim().is_empty() {
        return Err(format!("\"{place}.role\" is empty"));
    }
    Ok(Message::new(role, content))
}

pub(super) fn wrong(place: &str, expected: &str, got: &Value) -> String {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("\"{place}\" must be {expected}, not {got}")
}
