//! Modelfiles: Go's template against the model's own, and templates that none equals.

use crate::tiny;
use gtmpl::Value as Go;
use llama_align::data::{Message, Template};
use llama_align::gguf::{File, Value, Writer};
use llama_align::modelfile::Modelfile;
use quant::Type;
use std::collections::HashMap;

/// As SmolLM2 has it.
const CHATML_WITH_DEFAULT: &str =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\\nYou are SmolLM, a model<|im_end|>\\n' }}{% endif %}\
    {{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const LLAMA_3: &str = "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}\
    {{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}\
    {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}";
const GEMMA: &str =
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n\\n' %}\
    {% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}\
    {% for m in turns %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}\
    {{ (first if loop.first else '') + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";
const GEMMA_2: &str =
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
    {% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content \
    + '<end_of_turn>\\n' }}{% endfor %}{{ '<start_of_turn>model\\n' }}";
const PHI_3: &str = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}\
    {{ '<|assistant|>\\n' }}";
const ZEPHYR: &str = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '</s>\\n' }}{% endfor %}\
    {{ '<|assistant|>\\n' }}";

/// A tiny model with this template.
fn model(template: Option<&str>, adds_bos: bool) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    tiny::find("llama-tied").write(&path, Type::F32).unwrap();
    let file = File::open(&path).unwrap();
    let mut writer = Writer::new();
    file.keys().filter(|(key, _)| *key != "tokenizer.chat_template").for_each(|(k, v)| writer.set(k, v.clone()));
    if let Some(template) = template {
        writer.set("tokenizer.chat_template", Value::String(template.into()));
    }
    writer.set("tokenizer.ggml.add_bos_token", Value::Bool(adds_bos));
    File::from_bytes(writer.to_bytes(), "tiny").unwrap()
}

fn bos(file: &File) -> String {
    let Some(Value::Array(llama_align::gguf::Array::String(tokens))) = file.get("tokenizer.ggml.tokens") else {
        panic!("no tokens")
    };
    tokens[file.get("tokenizer.ggml.bos_token_id").and_then(Value::as_int).unwrap() as usize].clone()
}

/// The text between the quotes behind a word.
fn quoted<'a>(modelfile: &'a str, word: &str) -> Option<&'a str> {
    modelfile.split_once(&format!("\n{word} \"\"\""))?.1.split_once("\"\"\"").map(|(text, _)| text)
}

/// What Ollama makes of a dialogue: SYSTEM where it has no system message, `.System` and `.Messages` for the template.
fn ollama(modelfile: &str, dialogue: &[Message]) -> String {
    let mut messages = dialogue.to_vec();
    if let Some(system) = quoted(modelfile, "SYSTEM").filter(|_| messages[0].role != "system") {
        messages.insert(0, Message::new("system", system));
    }
    let system = messages.iter().find(|m| m.role == "system").map_or("", |m| m.content.as_str());
    let map = |m: &Message| -> Go {
        let pairs = [("Role", m.role.clone()), ("Content", m.content.clone())];
        HashMap::from(pairs.map(|(k, v)| (k.to_owned(), Go::from(v)))).into()
    };
    let values: HashMap<String, Go> = HashMap::from([
        ("System".to_owned(), system.into()),
        ("Messages".to_owned(), Go::Array(messages.iter().map(map).collect())),
    ]);
    gtmpl::template(quoted(modelfile, "TEMPLATE").unwrap(), values).unwrap()
}

fn dialogues(system: bool) -> Vec<Vec<Message>> {
    let turns = [("user", "Hi {{ .Role }}"), ("assistant", "Hello,\n\nyou."), ("user", "What {is} 'this'?")];
    let turns: Vec<_> = turns.map(|(role, content)| Message::new(role, content)).into();
    let with = |turns: &[Message]| [&[Message::new("system", "Be \"kind\".")], turns].concat();
    let mut all = vec![turns[..1].to_vec(), turns.clone()];
    if system {
        all.extend([with(&turns[..1]), with(&turns)]);
    }
    all
}

#[test]
fn go_renders_what_the_models_own_template_does() {
    for (source, family, has_bos, system) in [
        (CHATML_WITH_DEFAULT, "ChatML", false, true),
        (LLAMA_3, "Llama 3", true, true),
        (GEMMA, "Gemma", true, true),
        (GEMMA_2, "Gemma without system messages", true, false),
        (PHI_3, "Phi 3", false, true),
        (ZEPHYR, "Zephyr", false, true),
    ] {
        let file = model(Some(source), has_bos);
        let made = Modelfile::new(&file, "./out.gguf");
        assert_eq!(made.family, Some(family), "{}", made.text);
        assert!(
            made.text.starts_with("FROM ./out.gguf\n") && made.text.contains("\nPARAMETER stop \"<"),
            "{}",
            made.text
        );
        assert_eq!(made.note.is_some(), !system, "{:?}", made.note);
        let bos = bos(&file);
        let template = Template::new(source, &bos, "").unwrap();
        for dialogue in dialogues(system) {
            let own = template.render(&dialogue, true).unwrap();
            // The runtime adds the first token itself.
            let own = if has_bos { own.strip_prefix(&bos).unwrap() } else { &own };
            assert_eq!(ollama(&made.text, &dialogue), own, "{family}");
        }
    }
}

#[test]
fn what_no_go_template_is_known_to_equal_gets_none() {
    let chatml = CHATML_WITH_DEFAULT;
    let think = chatml.replace("message['content']", "message['content'].split('</think>')[-1]");
    let dated = chatml.replace("a model<", "a model of ' + strftime_now('%Y') + '<");
    for (source, adds_bos, says) in [
        (None, false, "no chat template"),
        (Some("{% if %}"), false, "chat template"),
        (Some("{{ messages[0].content }}"), false, "none that is known"),
        // Answers of earlier turns lose their thoughts.
        (Some(think.as_str()), false, "none that is known"),
        // Two of the first token, or one where the runtime adds none.
        (Some(LLAMA_3), false, "none that is known"),
        (Some(&*chatml.replace("SmolLM", "\\\"\\\"\\\"")), false, "cannot be quoted"),
        (Some(&*chatml.replace("a model<", "a \\\"model\\\"<")), false, "cannot be quoted"),
        // What is the default today is not tomorrow's.
        (Some(dated.as_str()), false, "the date"),
    ] {
        let made = Modelfile::new(&model(source, adds_bos), "./out.gguf");
        assert!(
            made.family.is_none() && !made.text.contains("TEMPLATE \"") && !made.text.contains("stop"),
            "{}",
            made.text
        );
        assert!(made.note.as_ref().is_some_and(|note| note.contains(says)), "{:?}", made.note);
        assert!(made.text.lines().all(|line| line.starts_with("FROM ") || line.starts_with('#')), "{}", made.text);
    }
}
