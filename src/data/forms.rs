//! The forms a row may have, told apart by its keys. Keys that belong to no form (ids, scores, sources) are left alone.

use super::columns::Columns;
use super::dialogue::common_prompt_bytes;
use super::fields::{history, message_list, string, text, verdict, Fields};
use super::sample::{Example, Message, Text};
use serde_json::Value;
use std::fmt;

/// Which parts the rows of a file have. What files call the parts, [`Columns`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `prompt` and `completion`; Alpaca's `instruction`, `input` and `output`.
    Completion,
    /// `messages`, or ShareGPT's `conversations`, the last of them the assistant's: that one is the answer, what comes
    /// before it is the prompt.
    Messages,
    /// `text`.
    Text,
    /// `prompt` (or, of strings, axolotl's `input`), `chosen` and `rejected`. A string prompt beside whole dialogues as message lists counts as this form
    /// too; the dialogues then hold the prompt.
    Pair,
    /// `chosen` and `rejected`, whole dialogues: the prompt is what they have in common.
    ImplicitPair,
    /// `messages` (`conversations`) as the prompt, with `chosen` and `rejected`, one message each.
    MessagesPair,
    /// `prompt`, `completion` and a boolean `label`.
    Labelled,
    /// `messages` (`conversations`) and a boolean `label` on the last of them.
    LabelledMessages,
}

impl Form {
    const ALL: [Self; 8] = [
        Self::Completion,
        Self::Messages,
        Self::Text,
        Self::Pair,
        Self::ImplicitPair,
        Self::MessagesPair,
        Self::Labelled,
        Self::LabelledMessages,
    ];

    fn keys(self) -> &'static str {
        match self {
            Form::Completion => "{prompt, completion}",
            Form::Messages => "{messages}",
            Form::Text => "{text}",
            Form::Pair => "{prompt, chosen, rejected}",
            Form::ImplicitPair => "{chosen, rejected}",
            Form::MessagesPair => "{messages, chosen, rejected}",
            Form::Labelled => "{prompt, completion, label}",
            Form::LabelledMessages => "{messages, label}",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keys())
    }
}

/// The parts that decide a form.
const PARTS: [&str; 7] = ["prompt", "completion", "messages", "chosen", "rejected", "label", "text"];

/// Parses one row. The error is the reason alone; the caller knows file and line.
pub(super) fn parse_row(json: &str, columns: &Columns) -> Result<(Form, Example), String> {
    if !json.trim_start().starts_with('{') {
        return Err("expected one JSON object per line, or an array of objects".into());
    }
    let fields = fields(json)?;
    let row = Parts { fields: &fields, columns };
    if row.get("tools").is_some_and(|(_, tools)| tools.as_array().is_none_or(|list| !list.is_empty())) {
        return Err("\"tools\" is not supported: a row is text only".into());
    }
    if let Some(reason) = row.lacking() {
        return Err(reason);
    }
    let form = row.form().ok_or_else(|| row.no_form())?;
    let example = match form {
        Form::Completion => row.completion()?,
        Form::Messages => row.dialogue()?,
        Form::Text => row.text()?,
        Form::Pair => row.explicit_pair()?,
        Form::ImplicitPair => implicit_pair(row.need("chosen")?, row.need("rejected")?, None)?,
        Form::MessagesPair => row.messages_pair()?,
        Form::Labelled => row.labelled(row.completion()?)?,
        Form::LabelledMessages => row.labelled(row.dialogue()?)?,
    };
    Ok((form, example))
}

/// The prompt of a row of any form, which need not have an answer.
pub(super) fn prompt_of(json: &str, columns: &Columns) -> Result<Text, String> {
    let fields = fields(json)?;
    let row = Parts { fields: &fields, columns };
    if let (None, Some((key, value))) = (row.get("prompt"), row.get("messages")) {
        let mut messages = led(row.lead()?, message_list(value, key)?);
        if messages.last().is_some_and(|m| m.role == "assistant") {
            messages.pop();
        }
        let prompt = Text::Messages(messages);
        return if prompt.is_blank() { Err(format!("\"{key}\" has no prompt")) } else { Ok(prompt) };
    }
    if row.get("prompt").is_some() {
        return row.prompt();
    }
    match parse_row(json, columns)?.1 {
        Example::Pair { prompt, .. } | Example::Completion { prompt, .. } | Example::Labelled { prompt, .. } => {
            Ok(prompt)
        }
        Example::Text { .. } => Err("a text has no prompt".into()),
    }
}

fn fields(json: &str) -> Result<Fields, String> {
    serde_json::from_str(json).map_err(|e| {
        let text = e.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        format!("not a valid JSON object: {reason} (column {})", e.column())
    })
}

/// A row's columns by the parts they are.
struct Parts<'a> {
    fields: &'a Fields,
    columns: &'a Columns,
}

type Column<'a> = (&'a str, &'a Value);

impl<'a> Parts<'a> {
    fn get(&self, part: &str) -> Option<Column<'a>> {
        self.fields.get(self.columns, part).or_else(|| self.asked().filter(|_| part == "prompt"))
    }

    /// The prompt of rows that call it `input` (axolotl's `icr`): a text beside two answers, where nothing else is one.
    fn asked(&self) -> Option<Column<'a>> {
        let own = |part: &str| self.fields.get(self.columns, part);
        let string = |part: &str| own(part).is_some_and(|(_, value)| value.is_string());
        let free =
            self.columns.mapped("prompt").or(self.columns.mapped("input")).is_none() && own("messages").is_none();
        let (_, input) = own("input").filter(|_| free && string("chosen") && string("rejected"))?;
        input.as_str().filter(|text| !text.trim().is_empty()).and(own("input"))
    }

    fn need(&self, part: &str) -> Result<Column<'a>, String> {
        self.get(part).ok_or_else(|| format!("\"{part}\" is missing"))
    }

    /// The form, if there is exactly one: `output`, `answer` and the like beside a pair are some other column.
    fn form(&self) -> Option<Form> {
        let has = |part: &str| self.get(part).is_some();
        let own = |part: &str| self.fields.named(self.columns, part).is_some();
        let many = |part: &str| self.get(part).is_some_and(|(_, v)| v.as_array().is_some_and(|list| list.len() > 1));
        let (prompt, completion, messages, label) = (has("prompt"), has("completion"), has("messages"), has("label"));
        match (has("chosen"), has("rejected")) {
            (true, true) if own("completion") || label => None,
            (true, true) if prompt => Some(Form::Pair),
            (true, true) if messages && !(many("chosen") && many("rejected")) => Some(Form::MessagesPair),
            (true, true) => Some(Form::ImplicitPair),
            (false, false) if messages && own("completion") => None,
            (false, false) if messages && label => Some(Form::LabelledMessages),
            (false, false) if messages => Some(Form::Messages),
            (false, false) if prompt && completion && label => Some(Form::Labelled),
            (false, false) if prompt && completion => Some(Form::Completion),
            (false, false) if has("text") && !prompt && !own("completion") && !label => Some(Form::Text),
            _ => None,
        }
    }

    /// A part that was mapped to a column which the row does not have.
    fn lacking(&self) -> Option<String> {
        let missing = PARTS.iter().filter(|part| self.get(part).is_none());
        let (part, column) = missing.filter_map(|part| Some((part, self.columns.mapped(part)?))).next()?;
        Some(format!("lacks \"{column}\", the column that {part} is mapped to"))
    }

    fn no_form(&self) -> String {
        let found: Vec<_> = PARTS.iter().filter_map(|part| Some(self.get(part)?.0)).collect();
        let found = if found.is_empty() { "none of these keys".to_owned() } else { found.join(", ") };
        let known = Form::ALL.map(Form::keys).join(", ");
        format!("the keys fit no form: found {found}; expected one of {known}; other names can be mapped (columns)")
    }

    /// The prompt: with Alpaca's `input` below it, and behind what the columns `system` and `history` say.
    fn prompt(&self) -> Result<Text, String> {
        let (key, value) = self.need("prompt")?;
        let mut prompt = text(value, key)?;
        if let (Text::Plain(text), Some((key, input))) = (&mut prompt, self.beside("input")) {
            let input = string(input, key)?;
            if !input.trim().is_empty() {
                text.push('\n');
                text.push_str(input);
            }
        }
        if prompt.is_blank() {
            return Err(format!("\"{key}\" is empty"));
        }
        let lead = self.lead()?;
        Ok(match prompt {
            prompt if lead.is_empty() => prompt,
            Text::Plain(text) => Text::Messages([lead, vec![Message::new("user", text)]].concat()),
            Text::Messages(messages) => Text::Messages(led(lead, messages)),
        })
    }

    /// A part that only rows with an `instruction` have, or files that were told so.
    fn beside(&self, part: &str) -> Option<Column<'a>> {
        let alpaca = self.get("prompt").is_some_and(|(key, _)| key == "instruction");
        self.get(part).filter(|_| alpaca || self.columns.mapped(part).is_some())
    }

    /// What the columns `system` and `history` say.
    fn lead(&self) -> Result<Vec<Message>, String> {
        let mut lead = Vec::new();
        if let Some((key, system)) = self.get("system") {
            let system = string(system, key)?;
            if !system.trim().is_empty() {
                lead.push(Message::new("system", system));
            }
        }
        if let Some((key, turns)) = self.beside("history") {
            lead.extend(history(turns, key)?);
        }
        Ok(lead)
    }

    fn completion(&self) -> Result<Example, String> {
        let (key, value) = self.need("completion")?;
        let prompt = self.prompt()?;
        let completion = answer(&prompt, text(value, key)?, self.need("prompt")?, key)?;
        Ok(Example::Completion { prompt, completion })
    }

    fn text(&self) -> Result<Example, String> {
        let (key, value) = self.need("text")?;
        let text = string(value, key)?;
        if text.trim().is_empty() {
            return Err(format!("\"{key}\" is empty"));
        }
        Ok(Example::Text { text: text.to_owned() })
    }

    fn labelled(&self, example: Example) -> Result<Example, String> {
        let (key, label) = self.need("label")?;
        let label = verdict(label, key)?;
        match example {
            Example::Completion { prompt, completion } => Ok(Example::Labelled { prompt, completion, label }),
            _ => Err(format!("\"{key}\" belongs to a prompt and its answer")),
        }
    }

    fn dialogue(&self) -> Result<Example, String> {
        let (key, value) = self.need("messages")?;
        let mut messages = led(self.lead()?, message_list(value, key)?);
        let last = messages.pop().ok_or_else(|| format!("\"{key}\" is empty"))?;
        if last.role != "assistant" {
            return Err(format!("the last of \"{key}\" must be the assistant's, not of the role \"{}\"", last.role));
        }
        let prompt = Text::Messages(messages);
        if prompt.is_blank() {
            return Err(format!("\"{key}\" has nothing before the assistant's last message"));
        }
        let completion = checked_answer(Text::Messages(vec![last]), key)?;
        Ok(Example::Completion { prompt, completion })
    }

    fn explicit_pair(&self) -> Result<Example, String> {
        let (prompt, chosen, rejected) = (self.need("prompt")?, self.need("chosen")?, self.need("rejected")?);
        if let (Value::String(text), Value::Array(c), Value::Array(_)) = (prompt.1, chosen.1, rejected.1) {
            if c.len() > 1 {
                return dialogues_of_prompt(text, prompt.0, chosen, rejected, self.lead()?);
            }
        }
        let given = self.prompt()?;
        let (chosen, c) = (text(chosen.1, chosen.0)?, chosen.0);
        let (rejected, r) = (text(rejected.1, rejected.0)?, rejected.0);
        let (chosen, rejected) = (answer(&given, chosen, prompt, c)?, answer(&given, rejected, prompt, r)?);
        pair(given, chosen, rejected)
    }

    fn messages_pair(&self) -> Result<Example, String> {
        let (key, value) = self.need("messages")?;
        let prompt = Text::Messages(led(self.lead()?, message_list(value, key)?));
        if prompt.is_blank() {
            return Err(format!("\"{key}\" is empty"));
        }
        let one = |part: &str| {
            let (key, value) = self.need(part)?;
            checked_answer(as_message(text(value, key)?), key)
        };
        pair(prompt, one("chosen")?, one("rejected")?)
    }
}

/// Messages with others before them; two system messages do not meet: the list's own stays.
fn led(mut lead: Vec<Message>, messages: Vec<Message>) -> Vec<Message> {
    if messages.first().is_some_and(|m| m.role == "system") {
        lead.retain(|m| m.role != "system");
        lead.splice(..0, messages.first().cloned());
        lead.extend(messages.into_iter().skip(1));
    } else {
        lead.extend(messages);
    }
    lead
}

fn as_message(answer: Text) -> Text {
    match answer {
        Text::Plain(text) => Text::Messages(vec![Message::new("assistant", text)]),
        messages => messages,
    }
}

/// An answer of the prompt's kind. Where the row gave the prompt as a string, a string that became messages takes an
/// answer that is a string with it.
fn answer(prompt: &Text, answer: Text, (prompt_key, given): Column<'_>, key: &str) -> Result<Text, String> {
    if given.is_string() != matches!(answer, Text::Plain(_)) {
        return Err(format!("\"{prompt_key}\" and \"{key}\" must both be strings or both be lists of messages"));
    }
    let answer = if matches!(prompt, Text::Messages(_)) { as_message(answer) } else { answer };
    checked_answer(answer, key)
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

fn dialogues_of_prompt(
    prompt: &str,
    key: &str,
    chosen: Column<'_>,
    rejected: Column<'_>,
    lead: Vec<Message>,
) -> Result<Example, String> {
    let example = implicit_pair(chosen, rejected, Some(lead))?;
    match &example {
        Example::Pair { prompt: Text::Messages(lead), .. } if lead.iter().any(|m| m.content == prompt) => Ok(example),
        _ => Err(format!("\"{key}\" is none of the messages that \"{}\" and \"{}\" begin with", chosen.0, rejected.0)),
    }
}

fn implicit_pair(chosen: Column<'_>, rejected: Column<'_>, lead: Option<Vec<Message>>) -> Result<Example, String> {
    let ((c, chosen), (r, rejected)) = (chosen, rejected);
    let no_prompt = || format!("\"{c}\" and \"{r}\" have no prompt in common");
    let (prompt, chosen, rejected) = match (text(chosen, c)?, text(rejected, r)?) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            if chosen == rejected {
                return Err(format!("\"{c}\" and \"{r}\" are equal"));
            }
            let end = common_prompt_bytes(&chosen, &rejected).ok_or_else(no_prompt)?;
            let split =
                |whole: &str| whole.split_at_checked(end).map(|(head, rest)| (head.to_owned(), rest.to_owned()));
            let ((prompt, chosen), (_, rejected)) = split(&chosen).zip(split(&rejected)).ok_or_else(no_prompt)?;
            (Text::Plain(prompt), Text::Plain(chosen), Text::Plain(rejected))
        }
        (Text::Messages(mut chosen), Text::Messages(mut rejected)) => {
            let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            let shared = common.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
            let (chosen_answer, rejected_answer) = (chosen.split_off(shared), rejected.split_off(shared));
            let prompt = led(lead.unwrap_or_default(), chosen);
            (Text::Messages(prompt), Text::Messages(chosen_answer), Text::Messages(rejected_answer))
        }
        _ => return Err(format!("\"{c}\" and \"{r}\" must both be strings or both be lists of messages")),
    };
    if prompt.is_blank() {
        return Err(no_prompt());
    }
    pair(prompt, checked_answer(chosen, c)?, checked_answer(rejected, r)?)
}

fn pair(prompt: Text, chosen: Text, rejected: Text) -> Result<Example, String> {
    if chosen == rejected {
        return Err("\"chosen\" and \"rejected\" are equal".into());
    }
    Ok(Example::Pair { prompt, chosen, rejected })
}

#[cfg(test)]
#[path = "forms_tests.rs"]
mod tests;
