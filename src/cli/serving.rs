//! The end of a merge: commands that serve what was written, and a Modelfile for Ollama. Only what works is told.

use super::Printer;
use crate::error::{Error, Kind, Result};
use crate::gguf::{write_atomically, File};
use crate::modelfile::Modelfile;
use std::path::Path;

/// Checks, before anything is done, that files to be made besides the output are no others', no inputs, and not there yet.
pub(super) fn check_new(paths: &[&Path], output: Option<&Path>, inputs: &[&Path], overwrite: bool) -> Result<()> {
    for (i, path) in paths.iter().enumerate() {
        let refuse = |what: &str| Err(Error::new(Kind::Output, format!("{}: {what}", path.display())));
        if !directory(path).is_dir() {
            return refuse("its directory does not exist");
        }
        if output.is_some_and(|output| is_same(path, output)) || paths[..i].iter().any(|other| is_same(path, other)) {
            return refuse("is named twice");
        }
        if inputs.iter().any(|input| is_same(path, input)) {
            return refuse("is one of the inputs");
        }
        match std::fs::metadata(path) {
            Ok(meta) if !meta.is_file() => return refuse("exists and is no file"),
            // An input that is called a report is not one to be replaced.
            Ok(_) if !overwrite || File::open(path).is_ok() => {
                return refuse("exists already (--overwrite replaces what is no model)")
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether two paths name one file, there or to be made, however they are spelled.
pub(super) fn is_same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let to_be = || Some(directory(path).canonicalize().ok()?.join(path.file_name()?));
        path.canonicalize().ok().or_else(to_be)
    };
    a == b || place(a).is_some_and(|place_of_a| place(b) == Some(place_of_a))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Tells how to serve a file; writes the Modelfile where one is wanted.
pub(super) fn tell(output: &Path, modelfile: Option<&Path>, printer: &mut Printer) -> Result<()> {
    let made = Modelfile::new(&File::open(output)?, &from(output, modelfile));
    printer.talk(&format!("serve it: llama-server -m {}", quoted(&output.display().to_string())));
    match modelfile {
        Some(path) => {
            write_atomically(path, made.text.as_bytes())?;
            printer.talk(&format!("for Ollama:  ollama create NAME -f {}", quoted(&path.display().to_string())));
        }
        None => printer.talk("for Ollama, a Modelfile (--modelfile FILE writes it):"),
    }
    if modelfile.is_none() {
        made.text.lines().for_each(|line| printer.talk(&format!("  {line}")));
    }
    match (made.family, made.note) {
        (Some(family), None) => printer.talk(&format!("its TEMPLATE equals the model's own, which is {family}")),
        (Some(family), Some(note)) => printer.talk(&format!("its TEMPLATE is that of {family}: {note}")),
        (None, Some(note)) => printer.talk(&format!("it has no TEMPLATE: {note}")),
        (None, None) => {}
    }
    Ok(())
}

/// How the Modelfile names the model: relative where both lie in one directory, as `ollama create` understands it.
fn from(output: &Path, modelfile: Option<&Path>) -> String {
    let holds = |path: &Path| path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned));
    let beside = modelfile.is_none_or(|path| directory(path).canonicalize().ok() == holds(output));
    let name = output.file_name().filter(|_| beside).map(|name| format!("./{}", name.to_string_lossy()));
    name.unwrap_or_else(|| output.canonicalize().unwrap_or_else(|_| output.to_owned()).display().to_string())
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_quoted_for_the_shell() {
        let of = super::quoted;
        assert_eq!(
            (of("a/b.gguf").as_str(), of("my model").as_str(), of("it's").as_str()),
            ("a/b.gguf", "'my model'", "'it'\\''s'")
        );
    }
}
