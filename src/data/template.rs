//! The model's own chat template, rendered as Hugging Face's `apply_chat_template` does.
//!
//! A template comes with a downloaded model and is not to be trusted. It cannot reach anything outside the messages, it
//! may execute a limited number of instructions, and its output is limited. What is not bounded is the memory of a
//! value a single instruction makes: a template can still double a string until memory runs out.

use super::sample::Message;
use crate::error::{Error, Kind, Result};
use minijinja::value::{Kwargs, Value};
use minijinja::{context, AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use std::fmt;
use std::io;

/// Longest template, in bytes. The longest ones known have some tens of thousands.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Instructions any rendering may take, and what each message adds. Real templates take some tens per message.
const FUEL_BASE: u64 = 500_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Longest output, in bytes, beyond what the messages themselves hold several times over.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Widest indentation of `tojson`: a width is all a template needs to ask for any amount of memory.
const INDENT_MAX: usize = 64;
const NAME: &str = "chat";

/// A compiled chat template. Cheap to render with; may be shared between threads.
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("bos", &self.bos).field("eos", &self.eos).finish_non_exhaustive()
    }
}

impl Template {
    /// Compiles the Jinja text of `tokenizer.chat_template`. `bos` and `eos` are the texts of those tokens (empty where
    /// the model has none), which the template sees as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Kind::Format`] for a text that is no Jinja template, or is longer than 1 MiB.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > SOURCE_BYTES_MAX {
            let message = format!("chat template: {} bytes, at most {SOURCE_BYTES_MAX} are allowed", source.len());
            return Err(Error::new(Kind::Format, message));
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, minijinja::Error> {
                Err(invalid(format!("the template refuses these messages: {message}")))
            },
        );
        environment.add_function("strftime_now", |format: String| today(&format));
        environment.add_filter("tojson", tojson);
        // As jinja2 reads a source: every kind of line break is one character.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source = without_generation_tags(&source);
        environment
            .add_template_owned(NAME, source)
            .map_err(|e| Error::new(Kind::Format, format!("chat template: {}", describe(&e))))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Renders a dialogue; with `add_generation_prompt` it ends where the assistant's next turn begins.
    ///
    /// # Errors
    /// [`Kind::Data`] where the template refuses the messages, fails on them, or exceeds its limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let content_bytes: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let mut output =
            Bounded { bytes: Vec::new(), limit: OUTPUT_BYTES_MAX.saturating_add(content_bytes.saturating_mul(4)) };
        // Fuel belongs to an environment; a clone of one is cheap and shares the compiled template.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL_BASE + FUEL_PER_MESSAGE * messages.len() as u64));
        let messages: Vec<Value> =
            messages.iter().map(|m| context! { role => m.role.as_str(), content => m.content.as_str() }).collect();
        let none = Value::from(());
        let context = context! {
            messages, add_generation_prompt,
            // Hugging Face passes both, so that they are defined, but nothing.
            tools => none, documents => none,
            bos_token => self.bos.as_str(), eos_token => self.eos.as_str(),
        };
        let failed = |e: &minijinja::Error| Error::new(Kind::Data, format!("chat template: {}", describe(e)));
        let template = environment.get_template(NAME).map_err(|e| failed(&e))?;
        template.render_captured_to(context, &mut output).map_err(|e| failed(&e))?;
        String::from_utf8(output.bytes)
            .map_err(|_| Error::new(Kind::Internal, "chat template: the output is not UTF-8"))
    }
}

/// Collects output up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.limit {
            return Err(io::Error::other(format!("more than {} bytes of output", self.limit)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn invalid(message: String) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, message)
}

fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it takes too many steps{line}"),
        (_, Some(detail)) => format!("{detail}{cause}{line}"),
        (kind, None) => format!("{kind}{cause}{line}"),
    }
}

/// What templates that stamp the date are told: always Friday, 26 July 2024, the day the templates of Llama 3 fall back
/// to. With the real date equal data would give other tokens tomorrow.
fn today(format: &str) -> std::result::Result<String, minijinja::Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out.push_str(match chars.next() {
            Some('Y') => "2024",
            Some('y') => "24",
            Some('m') => "07",
            Some('d' | 'e') => "26",
            Some('B') => "July",
            Some('b' | 'h') => "Jul",
            Some('A') => "Friday",
            Some('a') => "Fri",
            Some('j') => "208",
            Some('H') => "00",
            Some('I') => "12",
            Some('M' | 'S') => "00",
            Some('p') => "AM",
            Some('%') => "%",
            other => return Err(invalid(format!("strftime_now: the field %{} is not known", other.unwrap_or(' ')))),
        });
    }
    Ok(out)
}

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)` of Python: keys in their order, a space after `,` and
/// `:`, nothing escaped that need not be.
fn tojson(value: Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (ascii, sorted) = (options.get::<Option<bool>>("ensure_ascii")?, options.get::<Option<bool>>("sort_keys")?);
    options.assert_all_used()?;
    let failed = |e: &dyn fmt::Display| invalid(format!("tojson: {e}"));
    let mut json = serde_json::to_value(&value).map_err(|e| failed(&e))?;
    if sorted == Some(true) {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    let written = match (indent, separators.as_deref()) {
        (None, None) => write_json(&json, &mut bytes, Separated { item: ", ", key: ": " }),
        (None, Some([item, key])) => write_json(&json, &mut bytes, Separated { item, key }),
        (Some(width), None) if width <= INDENT_MAX => {
            write_json(&json, &mut bytes, serde_json::ser::PrettyFormatter::with_indent(" ".repeat(width).as_bytes()))
        }
        (Some(width), None) => return Err(failed(&format!("an indent of {width} is too wide"))),
        (_, Some(_)) => return Err(failed(&"separators are two, and without an indent")),
    };
    written.map_err(|e| failed(&e))?;
    let text = String::from_utf8(bytes).map_err(|e| failed(&e))?;
    Ok(Value::from_safe_string(if ascii == Some(true) { escaped(&text) } else { text }))
}

fn write_json<F: serde_json::ser::Formatter>(
    json: &serde_json::Value,
    out: &mut Vec<u8>,
    formatter: F,
) -> serde_json::Result<()> {
    json.serialize(&mut serde_json::Serializer::with_formatter(out, formatter))
}

/// JSON without characters beyond ASCII: they stand only in strings, where an escape means the same.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// JSON on one line with these separators.
struct Separated<'a> {
    item: &'a str,
    key: &'a str,
}

impl serde_json::ser::Formatter for Separated<'_> {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { self.item.as_bytes() })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { self.item.as_bytes() })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }
}

/// Replaces the block tags `generation` and `endgeneration` of Hugging Face, which mark the assistant's part and print
/// nothing, by an `if` that always holds: the engine does not know them, and white space control works the same.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag_on)) = rest.split_once("{%") {
        let Some((tag, after)) = tag_on.split_once("%}") else { break };
        let control = |c: char| c == '-' || c == '+';
        let word = match tag.trim_matches(control).trim() {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(before);
        out.push_str("{%");
        match word {
            Some(word) => {
                out.extend(tag.chars().next().filter(|c| control(*c)));
                out.push_str(&format!(" {word} "));
                out.extend(tag.chars().last().filter(|c| control(*c)));
            }
            None => out.push_str(tag),
        }
        out.push_str("%}");
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
