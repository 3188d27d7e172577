//! An Ollama Modelfile for a model: Ollama's templates are Go's, not the jinja text in the GGUF, and a wrong one is the most
//! common reason for gibberish. A template is given only where the model's own renders every probe exactly as the Go text will.
//!
//! **In:** a validated GGUF. **Out:** the file's text. **Invariant:** what is not known is left out and said.

use crate::data::{Message, Template};
use crate::error::Result;
use crate::gguf::{Array, File, Value};

/// A Modelfile, and what it was recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modelfile {
    /// Its text.
    pub text: String,
    /// Name of the template's family; `None` where no template could be given.
    pub family: Option<&'static str>,
    /// Why none could be given, or what the template leaves out.
    pub note: Option<String>,
}

/// How a family of models marks the turns of a dialogue: what stands before and after each text.
#[derive(Clone, Copy, Debug)]
struct Family {
    name: &'static str,
    system: System,
    user: (&'static str, &'static str),
    assistant: (&'static str, &'static str),
    stops: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
enum System {
    /// A turn of its own.
    Turn(&'static str, &'static str),
    /// Before the first user's text, with an empty line between.
    InFirstUser,
    /// The template refuses it.
    Refused,
}

const FAMILIES: [Family; 6] = [
    Family {
        name: "ChatML",
        system: System::Turn("<|im_start|>system\n", "<|im_end|>\n"),
        user: ("<|im_start|>user\n", "<|im_end|>\n"),
        assistant: ("<|im_start|>assistant\n", "<|im_end|>\n"),
        stops: &["<|im_end|>", "<|im_start|>"],
    },
    Family {
        name: "Llama 3",
        system: System::Turn("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user: ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant: ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        stops: &["<|eot_id|>", "<|start_header_id|>"],
    },
    Family {
        name: "Gemma",
        system: System::InFirstUser,
        user: ("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant: ("<start_of_turn>model\n", "<end_of_turn>\n"),
        stops: &["<end_of_turn>", "<start_of_turn>"],
    },
    Family {
        name: "Gemma without system messages",
        system: System::Refused,
        user: ("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant: ("<start_of_turn>model\n", "<end_of_turn>\n"),
        stops: &["<end_of_turn>", "<start_of_turn>"],
    },
    Family {
        name: "Phi 3",
        system: System::Turn("<|system|>\n", "<|end|>\n"),
        user: ("<|user|>\n", "<|end|>\n"),
        assistant: ("<|assistant|>\n", "<|end|>\n"),
        stops: &["<|end|>", "<|user|>", "<|assistant|>"],
    },
    Family {
        name: "Zephyr",
        system: System::Turn("<|system|>\n", "</s>\n"),
        user: ("<|user|>\n", "</s>\n"),
        assistant: ("<|assistant|>\n", "</s>\n"),
        stops: &["</s>", "<|user|>"],
    },
];

/// Texts of the probes: with what templates treat specially inside, but no white space around, which some of them trim and Go
/// cannot.
const SYSTEM: &str = "Be {brief}.\n\nAnd \"kind\".";
const USER: &str = "One, 'two'\n\n{{three}} <4>";
const ANSWER: &str = "<think>Five?</think>\nSix.";
const AGAIN: &str = "seven";

/// Dialogues on which the model's template and the family's have to agree.
fn probes() -> [Vec<Message>; 4] {
    let (system, user) = (|| Message::new("system", SYSTEM), || Message::new("user", USER));
    let (answer, again) = (|| Message::new("assistant", ANSWER), || Message::new("user", AGAIN));
    [vec![user()], vec![user(), answer(), again()], vec![system(), user()], vec![system(), user(), answer(), again()]]
}

impl Family {
    /// The prompt for a dialogue that an answer follows; `None` where the family has no place for a system message.
    fn render(&self, messages: &[Message], default_system: Option<&str>) -> Option<String> {
        let first_is_system = messages.first().is_some_and(|m| m.role == "system");
        let default = default_system.filter(|_| !first_is_system).map(|text| Message::new("system", text));
        let (mut out, mut before_user) = (String::new(), String::new());
        for Message { role, content } in default.iter().chain(messages) {
            match (role.as_str(), self.system) {
                ("system", System::Turn(open, close)) => out += &format!("{open}{content}{close}"),
                ("system", System::InFirstUser) => before_user = format!("{content}\n\n"),
                ("system", System::Refused) => return None,
                ("user", _) => {
                    let before = std::mem::take(&mut before_user);
                    out += &format!("{}{before}{content}{}", self.user.0, self.user.1);
                }
                _ => out += &format!("{}{content}{}", self.assistant.0, self.assistant.1),
            }
        }
        Some(out + self.assistant.0)
    }

    /// The same as a Go template on Ollama's values: consecutive messages of one role are one, `.System` is all system messages.
    fn go(&self) -> String {
        let turn = |(open, close): (&str, &str)| format!("{open}{{{{ $m.Content }}}}{close}");
        let system = match self.system {
            System::Turn(open, close) => {
                format!("{{{{ if eq $m.Role \"system\" }}}}{}{{{{ else }}}}", turn((open, close)))
            }
            System::InFirstUser | System::Refused => "{{ if eq $m.Role \"system\" }}{{ else }}".to_owned(),
        };
        let before = match self.system {
            System::InFirstUser => "{{ if and $.System (eq $i 1) }}{{ $.System }}\n\n{{ end }}",
            System::Turn(..) | System::Refused => "",
        };
        let user = format!("{}{before}{{{{ $m.Content }}}}{}", self.user.0, self.user.1);
        format!(
            "{{{{ range $i, $m := .Messages }}}}{system}{{{{ if eq $m.Role \"user\" }}}}{user}{{{{ else }}}}{}\
             {{{{ end }}}}{{{{ end }}}}{{{{ end }}}}{}",
            turn(self.assistant),
            self.assistant.0
        )
    }

    /// The system message that the template adds where the dialogue has none.
    fn default_system(&self, rendered: &str) -> Option<String> {
        let System::Turn(open, close) = self.system else { return None };
        let rest = rendered.strip_prefix(open)?;
        let (text, rest) = rest.split_once(close)?;
        rest.starts_with(self.user.0).then(|| text.to_owned())
    }
}

/// The family whose rendering a template has on every probe, with its default system message.
fn recognise(render: impl Fn(&[Message]) -> Result<String>) -> Option<(&'static Family, Option<String>)> {
    let rendered: Vec<_> = probes().iter().map(|probe| render(probe).ok()).collect();
    FAMILIES.iter().find_map(|family| {
        let default = family.default_system(rendered[0].as_deref()?);
        let alike =
            probes().iter().zip(&rendered).all(|(probe, found)| family.render(probe, default.as_deref()) == *found);
        alike.then_some((family, default))
    })
}

impl Modelfile {
    /// The Modelfile for a model that Ollama finds under `from`, as that line says it.
    pub fn new(file: &File, from: &str) -> Self {
        let mut text = format!("FROM {from}\n");
        match template(file) {
            Err(reason) => {
                text += &format!("# No TEMPLATE: {reason}.\n");
                Self { text, family: None, note: Some(reason) }
            }
            Ok((family, default)) => {
                let refuses = matches!(family.system, System::Refused);
                let note =
                    refuses.then(|| "the model's template refuses system messages: they are left out".to_owned());
                if let Some(note) = &note {
                    text += &format!("# {note}\n");
                }
                text += &format!("TEMPLATE \"\"\"{}\"\"\"\n", family.go());
                if let Some(default) = default {
                    text += &format!("SYSTEM \"\"\"{default}\"\"\"\n");
                }
                family.stops.iter().for_each(|stop| text += &format!("PARAMETER stop \"{stop}\"\n"));
                Self { text, family: Some(family.name), note }
            }
        }
    }
}

fn template(file: &File) -> std::result::Result<(&'static Family, Option<String>), String> {
    let Some(source) = file.get("tokenizer.chat_template").and_then(Value::as_str) else {
        return Err("the model has no chat template".to_owned());
    };
    if source.contains("strftime_now") {
        return Err("the model's chat template tells the date, which a Go template cannot".to_owned());
    }
    let (bos, eos) = (token(file, "bos"), token(file, "eos"));
    let template = Template::new(source, &bos, &eos).map_err(|e| e.to_string().replace('\n', " "))?;
    // Ollama's tokenizer adds the token that begins a text; what the template says of it must not come twice.
    let render = |messages: &[Message]| {
        let text = template.render(messages, true)?;
        Ok(if adds_bos(file) { text.strip_prefix(&bos).map_or(text.clone(), str::to_owned) } else { text })
    };
    match recognise(render) {
        // A quote at the end would be one of the three that end it.
        Some((_, Some(default))) if default.contains("\"\"\"") || default.ends_with('"') || default.contains("{{") => {
            Err("its default system message cannot be quoted".to_owned())
        }
        Some(found) => Ok(found),
        None => Err("the model's chat template is none that is known to equal a Go template".to_owned()),
    }
}

fn token(file: &File, name: &str) -> String {
    let id = file.get(&format!("tokenizer.ggml.{name}_token_id")).and_then(Value::as_int);
    let Some(Value::Array(Array::String(tokens))) = file.get("tokenizer.ggml.tokens") else { return String::new() };
    id.and_then(|id| tokens.get(usize::try_from(id).ok()?)).cloned().unwrap_or_default()
}

/// Whether the runtime puts the token that begins a text there itself, where the file says nothing by its tokenizer.
fn adds_bos(file: &File) -> bool {
    match file.get("tokenizer.ggml.add_bos_token") {
        Some(Value::Bool(adds)) => *adds,
        _ => {
            let text = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            text("tokenizer.ggml.model") == "llama" || text("tokenizer.ggml.pre") == "llama-bpe"
        }
    }
}
