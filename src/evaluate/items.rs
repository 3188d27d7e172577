//! Task files: what is asked, and what would be right.

use crate::error::{Error, Kind, Result};
use serde_json::Value;
use std::path::Path;

/// A question with choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceItem {
    /// Its place in the file, from 1.
    pub place: usize,
    /// The question.
    pub question: String,
    /// Choices for MC1, with their truth.
    pub mc1: Vec<(String, bool)>,
    /// Choices for MC2.
    pub mc2: Vec<(String, bool)>,
}

/// A question with gold answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionItem {
    /// Its place in the file, from 1.
    pub place: usize,
    /// What the model is given.
    pub prompt: String,
    /// Answers that are right.
    pub gold: Vec<String>,
}

/// Reads questions with choices: TruthfulQA's `mc_task.json` (`question`, `mc1_targets`, `mc2_targets`: objects from a
/// choice to 1 or 0), or rows with `question`, `choices` and `labels`. A JSON array, or one object per line.
pub fn read_choices(path: &Path) -> Result<Vec<ChoiceItem>> {
    let parse = |place: usize, value: &Value| -> std::result::Result<ChoiceItem, String> {
        let question = text(value, &["question", "prompt"])?;
        let (mc1, mc2) = match value.get("mc1_targets").or(value.get("mc2_targets")) {
            Some(_) => (targets(value, "mc1_targets")?, targets(value, "mc2_targets")?),
            None => {
                let choices = listed(value)?;
                (choices.clone(), choices)
            }
        };
        for (key, choices) in [("mc1", &mc1), ("mc2", &mc2)] {
            if !choices.iter().any(|c| c.1) || choices.iter().all(|c| c.1) {
                return Err(format!("{key} needs a true choice and a false one"));
            }
            if choices.iter().any(|c| c.0.trim().is_empty()) {
                return Err(format!("{key} has a choice without text"));
            }
        }
        Ok(ChoiceItem { place, question, mc1, mc2 })
    };
    objects(path)?.iter().map(|(place, value)| parse(*place, value).map_err(|e| fault(path, *place, &e))).collect()
}

/// Reads questions with an answer: `question` or `prompt`, and `answer` or `completion`.
pub fn read_answers(path: &Path) -> Result<Vec<QuestionItem>> {
    let parse = |place: usize, value: &Value| -> std::result::Result<QuestionItem, String> {
        let gold = text(value, &["answer", "completion"])?;
        Ok(QuestionItem { place, prompt: text(value, &["question", "prompt"])?, gold: vec![gold] })
    };
    objects(path)?.iter().map(|(place, value)| parse(*place, value).map_err(|e| fault(path, *place, &e))).collect()
}

/// Reads questions about a text, in SQuAD 1.1's form: `{"data": [{"paragraphs": [{"context", "qas": [{"question",
/// "answers": [{"text"}]}]}]}]}`, or one object per line with `context`, `question` and `answers`. The prompt is the text,
/// an empty line, and the question with the request to answer in a few words of the text.
pub fn read_squad(path: &Path) -> Result<Vec<QuestionItem>> {
    let whole = read(path)?;
    let nested = serde_json::from_str::<Value>(&whole).ok().filter(|v| v.get("data").is_some());
    let mut items = Vec::new();
    let mut take = |context: &Value, question: &Value, answers: Option<&Value>| -> Result<()> {
        let place = items.len() + 1;
        let ask = || -> std::result::Result<QuestionItem, String> {
            let (context, question) = (text(context, &["context"])?, text(question, &["question"])?);
            let gold = gold_answers(answers)?;
            let prompt = format!("{context}\n\nQuestion: {question}\nAnswer with a few words of the text above.");
            Ok(QuestionItem { place, prompt, gold })
        };
        items.push(ask().map_err(|e| fault(path, place, &e))?);
        Ok(())
    };
    match nested {
        Some(value) => {
            let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            for paragraph in list(&value, "data").iter().flat_map(|article| list(article, "paragraphs")) {
                for qa in list(&paragraph, "qas") {
                    take(&paragraph, &qa, qa.get("answers"))?;
                }
            }
        }
        None => {
            for (_, value) in objects(path)? {
                take(&value, &value, value.get("answers"))?;
            }
        }
    }
    match items.is_empty() {
        true => Err(Error::new(Kind::Data, format!("{}: no questions", path.display()))),
        false => Ok(items),
    }
}

fn gold_answers(answers: Option<&Value>) -> std::result::Result<Vec<String>, String> {
    let texts: Vec<String> = match answers {
        Some(Value::Array(list)) => {
            let text = |a: &Value| a.as_str().or_else(|| a.get("text")?.as_str()).map(str::to_owned);
            list.iter().filter_map(text).collect()
        }
        // Hugging Face's column form: {"text": [..]}.
        Some(Value::Object(map)) => {
            let list = map.get("text").and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|a| a.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    };
    match texts.is_empty() {
        true => Err("answers: expected a list of texts, or of objects with a text".to_owned()),
        false => Ok(texts),
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => Error::new(Kind::Data, format!("{}: not UTF-8 text", path.display())),
        _ => Error::io(path, "cannot read the task's file", &e),
    })
}

/// The objects of a file, a JSON array or JSON lines, with their places: numbers in the array, or lines.
fn objects(path: &Path) -> Result<Vec<(usize, Value)>> {
    let whole = read(path)?;
    let whole = whole.trim_start_matches('\u{feff}');
    let found: Vec<(usize, Value)> = if whole.trim_start().starts_with('[') {
        let list: Vec<Value> = serde_json::from_str(whole)
            .map_err(|e| Error::new(Kind::Data, format!("{}: not a JSON array: {e}", path.display())))?;
        list.into_iter().enumerate().map(|(i, v)| (i + 1, v)).collect()
    } else {
        let lines = whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parse = |(i, line): (usize, &str)| match serde_json::from_str(line) {
            Ok(value) => Ok((i + 1, value)),
            Err(e) => Err(fault(path, i + 1, &format!("not a JSON object: {e}"))),
        };
        lines.map(parse).collect::<Result<_>>()?
    };
    match found.is_empty() {
        true => Err(Error::new(Kind::Data, format!("{}: no items", path.display()))),
        false => Ok(found),
    }
}

fn fault(path: &Path, place: usize, reason: &str) -> Error {
    Error::new(Kind::Data, format!("{}:{place}: {reason}", path.display()))
}

fn text(value: &Value, keys: &[&str]) -> std::result::Result<String, String> {
    let found = keys.iter().find_map(|key| value.get(*key)).and_then(Value::as_str);
    match found.filter(|t| !t.trim().is_empty()) {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("expected a text under {}", keys.join(" or "))),
    }
}

fn targets(value: &Value, key: &str) -> std::result::Result<Vec<(String, bool)>, String> {
    let map = value.get(key).and_then(Value::as_object).ok_or_else(|| format!("expected an object under {key}"))?;
    map.iter().map(|(choice, label)| Ok((choice.clone(), truth(label, key)?))).collect()
}

fn listed(value: &Value) -> std::result::Result<Vec<(String, bool)>, String> {
    let list =
        |key: &str| value.get(key).and_then(Value::as_array).ok_or_else(|| format!("expected a list under {key}"));
    let (choices, labels) = (list("choices")?, list("labels")?);
    if choices.len() != labels.len() {
        return Err(format!("{} choices, but {} labels", choices.len(), labels.len()));
    }
    let pair = |(choice, label): (&Value, &Value)| match choice.as_str() {
        Some(choice) => Ok((choice.to_owned(), truth(label, "labels")?)),
        None => Err("a choice that is no text".to_owned()),
    };
    choices.iter().zip(labels).map(pair).collect()
}

fn truth(label: &Value, key: &str) -> std::result::Result<bool, String> {
    match (label.as_bool(), label.as_i64()) {
        (Some(truth), _) => Ok(truth),
        (None, Some(0)) => Ok(false),
        (None, Some(1)) => Ok(true),
        _ => Err(format!("{key}: a choice is true (1) or false (0), not {label}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("items");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn truthful_qa_keeps_the_order_of_choices() {
        let (_dir, path) = file(
            r#"[{"question":"q","mc1_targets":{"z":1,"a":0},"mc2_targets":{"z":1,"b":1,"a":0}},
                {"question":"r","mc1_targets":{"x":0,"y":1},"mc2_targets":{"y":1,"x":0}}]"#,
        );
        let items = read_choices(&path).unwrap();
        let choice = |text: &str, truth| (text.to_owned(), truth);
        assert_eq!((items.len(), items[0].place, items[1].place), (2, 1, 2));
        assert_eq!(items[0].mc1, [choice("z", true), choice("a", false)]);
        assert_eq!(items[0].mc2, [choice("z", true), choice("b", true), choice("a", false)]);
    }

    #[test]
    fn squad_in_both_forms_is_the_same() {
        let nested = r#"{"data":[{"paragraphs":[{"context":"C","qas":[{"question":"Q","answers":[{"text":"x"},{"text":"y"}]}]}]}]}"#;
        let line = r#"{"context":"C","question":"Q","answers":{"text":["x","y"]}}"#;
        let (_a, nested) = file(nested);
        let (_b, line) = file(line);
        let items = read_squad(&nested).unwrap();
        assert_eq!(items, read_squad(&line).unwrap());
        assert_eq!(items[0].gold, ["x", "y"]);
        assert!(items[0].prompt.starts_with("C\n\nQuestion: Q\n"));
    }

    #[test]
    fn faults_name_file_and_place() {
        let choices: [(&str, &str); 6] = [
            (r#"{"question":"q","choices":["a","b"],"labels":[1]}"#, ":1: 2 choices, but 1 labels"),
            (r#"{"question":"q","choices":["a","b"],"labels":[1,1]}"#, "a true choice and a false one"),
            (r#"{"question":"q","choices":["a","b"],"labels":[1,2]}"#, "not 2"),
            (r#"{"question":"q","choices":["a"," "],"labels":[1,0]}"#, "without text"),
            (r#"{"question":" ","choices":["a","b"],"labels":[1,0]}"#, "question or prompt"),
            ("", "no items"),
        ];
        for (text, says) in choices {
            let (_dir, path) = file(text);
            let error = read_choices(&path).unwrap_err();
            let message = error.to_string();
            assert!(error.kind() == Kind::Data && message.contains(says) && message.contains("items"), "{message}");
        }
        let (_dir, path) = file("{\"question\":\"q\",\"answer\":\"1\"}\n{\"question\":\"q\"}\n");
        assert!(read_answers(&path).unwrap_err().to_string().contains(":2: expected a text under answer"));
        let (_dir, path) = file("{\"data\":[]}");
        assert_eq!(read_squad(&path).unwrap_err().kind(), Kind::Data);
        assert_eq!(read_squad(Path::new("nowhere")).unwrap_err().kind(), Kind::Missing);
    }
}
