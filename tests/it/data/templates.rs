//! Chat templates of well-known models against Hugging Face's renderer: texts recorded by `tests/golden/templates.py`.

use llama_align::data::{Message, Template};
use llama_align::error::Kind;
use serde_json::Value;
use std::path::Path;

/// Renders every template of a folder on every dialogue of a recording. Returns how many texts were compared and how
/// many refusals; everything that differs is listed.
fn compare(folder: &Path, record: &Value) -> (usize, usize) {
    let dialogue = |d: &Value| -> Vec<Message> {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        d["messages"].as_array().unwrap().iter().map(|m| Message::new(text(&m["role"]), text(&m["content"]))).collect()
    };
    let dialogues: Vec<_> = record["dialogues"].as_array().unwrap().iter().map(dialogue).collect();
    let (mut n_texts, mut n_refusals, mut faults) = (0, 0, Vec::new());
    for (name, renderings) in record["templates"].as_object().unwrap() {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = match Template::new(&source, "<s>", "</s>") {
            Ok(template) => template,
            Err(e) => {
                faults.push(format!("{name}: {e}"));
                continue;
            }
        };
        for (i, both) in renderings.as_array().unwrap().iter().enumerate() {
            for (add, wanted) in [false, true].into_iter().zip(both.as_array().unwrap()) {
                let place = format!("{name}, {}, {add}", record["dialogues"][i]["name"]);
                match (template.render(&dialogues[i], add), wanted.as_str()) {
                    (Ok(found), Some(wanted)) if found == wanted => n_texts += 1,
                    (Err(e), None) if e.kind() == Kind::Data => n_refusals += 1,
                    (found, wanted) => faults.push(format!("{place}:\n  found  {found:?}\n  wanted {wanted:?}")),
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} differ:\n{}", faults.len(), faults.join("\n"));
    (n_texts, n_refusals)
}

#[test]
fn templates_are_rendered_as_transformers_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/templates");
    let record = serde_json::from_str(include_str!("../../golden/templates.json")).unwrap();
    let (n_texts, n_refusals) = compare(&folder, &record);
    assert_eq!((n_texts, n_refusals), (343, 89));
}

#[test]
#[ignore = "compares the templates in the folder LLAMA_ALIGN_TEMPLATES with its templates.json (tests/golden/README.md)"]
fn other_templates_are_rendered_as_transformers_does() {
    let folder = std::env::var_os("LLAMA_ALIGN_TEMPLATES").expect("LLAMA_ALIGN_TEMPLATES names a folder");
    let record = std::fs::read_to_string(Path::new(&folder).join("templates.json")).unwrap();
    compare(Path::new(&folder), &serde_json::from_str(&record).unwrap());
}
