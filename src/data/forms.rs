//! The forms a row may have, told apart by its keys. Keys that belong to no form (ids, scores, sources) are left alone.

use super::dialogue::common_prompt_bytes;
use super::sample::{Example, Message, Text};
use serde::Deserialize;
use serde_json::Value;
use std::fmt;

/// Which keys the rows of a file have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `prompt` and `completion`.
    Completion,
    /// `messages`, the last of them the assistant's: that one is the answer, what comes before it is the prompt.
    Messages,
    /// `prompt`, `chosen` and `rejected`. A string prompt beside whole dialogues as message lists counts as this form
    /// too; the dialogues then hold the prompt.
    Pair,
    /// `chosen` and `rejected`, whole dialogues: the prompt is what they have in common.
    ImplicitPair,
    /// `prompt`, `completion` and a boolean `label`.
    Labelled,
}

impl Form {
    fn keys(self) -> &'static str {
        match self {
            Form::Completion => "{prompt, completion}",
            Form::Messages => "{messages}",
            Form::Pair => "{prompt, chosen, rejected}",
            Form::ImplicitPair => "{chosen, rejected}",
            Form::Labelled => "{prompt, completion, label}",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keys())
    }
}

/// The keys that decide the form. `null` counts as absent: exports of tables write it for empty columns.
#[derive(Deserialize)]
struct Record {
    prompt: Option<Value>,
    completion: Option<Value>,
    messages: Option<Value>,
    chosen: Option<Value>,
    rejected: Option<Value>,
    label: Option<Value>,
    tools: Option<Value>,
}

/// Parses one line. The error is the reason alone; the caller knows file and line.
pub(super) fn parse_line(line: &str) -> Result<(Form, Example), String> {
    // Serde would also take a JSON array as the fields of `Record` in their order.
    if !line.trim_start().starts_with('{') {
        return Err("expected one JSON object per line".into());
    }
    let record: Record = serde_json::from_str(line).map_err(|e| {
        let text = e.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        format!("not a valid JSON object: {reason} (column {})", e.column())
    })?;
    if record.tools.as_ref().is_some_and(|tools| tools.as_array().is_none_or(|list| !list.is_empty())) {
        return Err("\"tools\" is not supported: a row is text only".into());
    }
    let Record { prompt, completion, messages, chosen, rejected, label, .. } = record;
    match (prompt, completion, messages, chosen, rejected, label) {
        (Some(p), Some(c), None, None, None, None) => {
            let (prompt, completion) = prompted(&p, &c, "completion")?;
            Ok((Form::Completion, Example::Completion { prompt, completion }))
        }
        (Some(p), Some(c), None, None, None, Some(label)) => {
            let (prompt, completion) = prompted(&p, &c, "completion")?;
            let label = label.as_bool().ok_or_else(|| wrong("label", "true or false", &label))?;
            Ok((Form::Labelled, Example::Labelled { prompt, completion, label }))
        }
        (None, None, Some(m), None, None, None) => Ok((Form::Messages, dialogue(&m)?)),
        (Some(p), None, None, Some(c), Some(r), None) => Ok((Form::Pair, explicit_pair(&p, &c, &r)?)),
        (None, None, None, Some(c), Some(r), None) => Ok((Form::ImplicitPair, implicit_pair(&c, &r)?)),
        (p, c, m, ch, r, l) => {
            let keys = ["prompt", "completion", "messages", "chosen", "rejected", "label"];
            let present = [p, c, m, ch, r, l].map(|value| value.is_some());
            let found: Vec<_> = keys.iter().zip(present).filter(|(_, is)| *is).map(|(key, _)| *key).collect();
            let found = if found.is_empty() { "none of these keys".to_owned() } else { found.join(", ") };
            let known = [Form::Completion, Form::Messages, Form::Pair, Form::ImplicitPair, Form::Labelled];
            let known = known.map(Form::keys).join(", ");
            Err(format!("the keys fit no form: found {found}; expected one of {known}"))
        }
    }
}

fn prompted(prompt: &Value, answer: &Value, key: &str) -> Result<(Text, Text), String> {
    let (prompt, answer) = (text(prompt, "prompt")?, text(answer, key)?);
    if matches!(prompt, Text::Plain(_)) != matches!(answer, Text::Plain(_)) {
        return Err(format!("\"prompt\" and \"{key}\" must both be strings or both be lists of messages"));
    }
    if prompt.is_blank() {
        return Err("\"prompt\" is empty".into());
    }
    Ok((prompt, checked_answer(answer, key)?))
}

fn checked_answer(answer: Text, key: &str) -> Result<Text, String> {
    if let Text::Messages(messages) = &answer {
        if !matches!(messages.as_slice(), [only] if only.role == "assistant") {
            return Err(format!("\"{key}\" must be exactly one message of the role \"assistant\" after the prompt"));
        }
    }
    if answer.is_blank() {
        return Err(format!("\"{key}\" is empty"));
    }
    Ok(answer)
}

fn dialogue(value: &Value) -> Result<Example, String> {
    let mut messages = message_list(value, "messages")?;
    let answer = messages.pop().ok_or("\"messages\" is empty")?;
    if answer.role != "assistant" {
        return Err(format!("the last of \"messages\" must be the assistant's, not of the role \"{}\"", answer.role));
    }
    let prompt = Text::Messages(messages);
    if prompt.is_blank() {
        return Err("\"messages\" has nothing before the assistant's last message".into());
    }
    let completion = checked_answer(Text::Messages(vec![answer]), "messages")?;
    Ok(Example::Completion { prompt, completion })
}

fn explicit_pair(prompt: &Value, chosen: &Value, rejected: &Value) -> Result<Example, String> {
    if let (Value::String(prompt), Value::Array(c), Value::Array(_)) = (prompt, chosen, rejected) {
        if c.len() > 1 {
            return dialogues_of_prompt(prompt, chosen, rejected);
        }
    }
    let (_, chosen) = prompted(prompt, chosen, "chosen")?;
    let (prompt, rejected) = prompted(prompt, rejected, "rejected")?;
    pair(prompt, chosen, rejected)
}

fn dialogues_of_prompt(prompt: &str, chosen: &Value, rejected: &Value) -> Result<Example, String> {
    let example = implicit_pair(chosen, rejected)?;
    match &example {
        Example::Pair { prompt: Text::Messages(lead), .. } if lead.iter().any(|m| m.content == prompt) => Ok(example),
        _ => Err("\"prompt\" is none of the messages that \"chosen\" and \"rejected\" begin with".into()),
    }
}

fn implicit_pair(chosen: &Value, rejected: &Value) -> Result<Example, String> {
    let no_prompt = || "\"chosen\" and \"rejected\" have no prompt in common".to_owned();
    let (prompt, chosen, rejected) = match (text(chosen, "chosen")?, text(rejected, "rejected")?) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            if chosen == rejected {
                return Err("\"chosen\" and \"rejected\" are equal".into());
            }
            let end = common_prompt_bytes(&chosen, &rejected).ok_or_else(no_prompt)?;
            let split =
                |whole: &str| whole.split_at_checked(end).map(|(head, rest)| (head.to_owned(), rest.to_owned()));
            let ((prompt, chosen), (_, rejected)) = split(&chosen).zip(split(&rejected)).ok_or_else(no_prompt)?;
            (Text::Plain(prompt), Text::Plain(chosen), Text::Plain(rejected))
        }
        (Text::Messages(mut chosen), Text::Messages(mut rejected)) => {
            let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            let lead = common.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
            let (chosen_answer, rejected_answer) = (chosen.split_off(lead), rejected.split_off(lead));
            (Text::Messages(chosen), Text::Messages(chosen_answer), Text::Messages(rejected_answer))
        }
        _ => return Err("\"chosen\" and \"rejected\" must both be strings or both be lists of messages".into()),
    };
    if prompt.is_blank() {
        return Err(no_prompt());
    }
    pair(prompt, checked_answer(chosen, "chosen")?, checked_answer(rejected, "rejected")?)
}

fn pair(prompt: Text, chosen: Text, rejected: Text) -> Result<Example, String> {
    if chosen == rejected {
        return Err("\"chosen\" and \"rejected\" are equal".into());
    }
    Ok(Example::Pair { prompt, chosen, rejected })
}

fn text(value: &Value, key: &str) -> Result<Text, String> {
    match value {
        Value::String(text) => Ok(Text::Plain(text.clone())),
        Value::Array(_) => message_list(value, key).map(Text::Messages),
        other => Err(wrong(key, "a string or a list of messages", other)),
    }
}

fn message_list(value: &Value, key: &str) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| wrong(key, "a list of messages", value))?;
    list.iter().enumerate().map(|(i, value)| message(value, &format!("{key}[{i}]"))).collect()
}

fn message(value: &Value, place: &str) -> Result<Message, String> {
    let object = value.as_object().ok_or_else(|| wrong(place, "an object with \"role\" and \"content\"", value))?;
    let calls = object.get("tool_calls").filter(|calls| !calls.is_null());
    if calls.is_some_and(|calls| calls.as_array().is_none_or(|list| !list.is_empty())) {
        return Err(format!("\"{place}\" has \"tool_calls\", which are not supported: a row is text only"));
    }
    let field = |name: &str| match object.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong(&format!("{place}.{name}"), "a string", other)),
        None => Err(format!("\"{place}\" lacks \"{name}\"")),
    };
    let (role, content) = (field("role")?, field("content")?);
    if role.trim().is_empty() {
        return Err(format!("\"{place}.role\" is empty"));
    }
    Ok(Message { role, content })
}

fn wrong(place: &str, expected: &str, got: &Value) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(s: &str) -> Text {
        Text::Plain(s.to_owned())
    }

    fn messages(list: &[(&str, &str)]) -> Text {
        Text::Messages(list.iter().map(|(role, content)| Message::new(*role, *content)).collect())
    }

    #[test]
    fn all_string_forms() {
        let (form, example) = parse_line(r#"{"id":1,"prompt":"p","completion":"c"}"#).unwrap();
        assert_eq!(
            (form, example),
            (Form::Completion, Example::Completion { prompt: plain("p"), completion: plain("c") })
        );
        let (form, example) = parse_line(r#"{"prompt":"p","chosen":"a","rejected":"b","label":null}"#).unwrap();
        assert_eq!(form, Form::Pair);
        assert_eq!(example, Example::Pair { prompt: plain("p"), chosen: plain("a"), rejected: plain("b") });
        let (form, example) = parse_line(r#"{"prompt":"p","completion":"c","label":false}"#).unwrap();
        assert_eq!(form, Form::Labelled);
        assert_eq!(example, Example::Labelled { prompt: plain("p"), completion: plain("c"), label: false });
        let line = r#"{"chosen":"\n\nHuman: h\n\nAssistant: a","rejected":"\n\nHuman: h\n\nAssistant: b"}"#;
        let (form, example) = parse_line(line).unwrap();
        assert_eq!(form, Form::ImplicitPair);
        let prompt = plain("\n\nHuman: h\n\nAssistant:");
        assert_eq!(example, Example::Pair { prompt, chosen: plain(" a"), rejected: plain(" b") });
    }

    #[test]
    fn all_message_forms() {
        const U: &str = r#"{"role":"user","content":"u"}"#;
        let a = |text: &str| format!(r#"{{"role":"assistant","content":"{text}","tool_calls":[]}}"#);
        let prompt = messages(&[("user", "u")]);
        let answer = |text: &str| messages(&[("assistant", text)]);
        let sft = Example::Completion { prompt: prompt.clone(), completion: answer("x") };
        let pair = Example::Pair { prompt, chosen: answer("x"), rejected: answer("y") };
        let (x, y) = (a("x"), a("y"));
        let cases = [
            (format!(r#"{{"messages":[{U},{x}]}}"#), Form::Messages, &sft),
            (format!(r#"{{"prompt":[{U}],"completion":[{x}],"tools":[]}}"#), Form::Completion, &sft),
            (format!(r#"{{"prompt":[{U}],"chosen":[{x}],"rejected":[{y}]}}"#), Form::Pair, &pair),
            (format!(r#"{{"chosen":[{U},{x}],"rejected":[{U},{y}]}}"#), Form::ImplicitPair, &pair),
            (format!(r#"{{"prompt":"u","chosen":[{U},{x}],"rejected":[{U},{y}]}}"#), Form::Pair, &pair),
        ];
        for (line, form, example) in cases {
            assert_eq!(parse_line(&line).as_ref(), Ok(&(form, example.clone())), "{line}");
        }
    }

    #[test]
    fn faults_are_named() {
        let cases = [
            ("[1]", "one JSON object per line"),
            ("{\"prompt\":", "column"),
            (r#"{"prompt":"a","prompt":"b","completion":"c"}"#, "duplicate field `prompt`"),
            (r#"{"prompt":"a"}"#, "found prompt; expected one of"),
            (r#"{"text":"a"}"#, "none of these keys"),
            (r#"{"prompt":"a","completion":"c","chosen":"x","rejected":"y"}"#, "fit no form"),
            (r#"{"prompt":1,"completion":"c"}"#, "\"prompt\" must be a string or a list of messages, not a number"),
            (r#"{"prompt":"a","completion":"c","label":1}"#, "\"label\" must be true or false, not a number"),
            (r#"{"prompt":" ","completion":"c"}"#, "\"prompt\" is empty"),
            (r#"{"prompt":"a","completion":" \n"}"#, "\"completion\" is empty"),
            (r#"{"prompt":"a","chosen":"x","rejected":"x"}"#, "are equal"),
            (r#"{"chosen":"x","rejected":"x"}"#, "are equal"),
            (r#"{"chosen":"x","rejected":"y"}"#, "no prompt in common"),
            (r#"{"prompt":"a","completion":[{"role":"assistant","content":"c"}]}"#, "must both be"),
            (r#"{"messages":[]}"#, "\"messages\" is empty"),
            (r#"{"messages":[{"role":"user","content":"u"}]}"#, "must be the assistant's"),
            (r#"{"messages":[{"role":"assistant","content":"u"}]}"#, "nothing before"),
            (
                r#"{"messages":[{"role":"user","content":["x"]}]}"#,
                "\"messages[0].content\" must be a string, not a list",
            ),
            (r#"{"messages":[{"role":"user"}]}"#, "\"messages[0]\" lacks \"content\""),
            (r#"{"messages":[{"role":"","content":"x"}]}"#, "role\" is empty"),
            (r#"{"messages":[{"role":"a","content":"x","tool_calls":[{}]}]}"#, "tool_calls"),
            (r#"{"prompt":"a","completion":"c","tools":[{}]}"#, "tools"),
            (
                r#"{"prompt":"z","chosen":[{"role":"user","content":"u"},{"role":"assistant","content":"1"}],
                "rejected":[{"role":"user","content":"u"},{"role":"assistant","content":"2"}]}"#,
                "\"prompt\" is none of",
            ),
            (
                r#"{"prompt":[{"role":"user","content":"u"}],"completion":[{"role":"user","content":"1"}]}"#,
                "exactly one",
            ),
        ];
        for (line, expected) in cases {
            let error = parse_line(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
