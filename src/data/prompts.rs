//! Files of prompts: plain lines, or rows of any form, whose prompts are taken.

use super::columns::Columns;
use super::forms::prompt_of;
use super::sample::Text;
use crate::error::{Error, Kind, Result};
use std::path::Path;

/// Reads the prompts of a file: one per line, plain text or a JSON object with a prompt. Blank lines are skipped.
///
/// # Errors
/// [`Kind::Data`], naming the line, for an object without a prompt; [`Kind::Data`] for a file without prompts;
/// [`Kind::Missing`] or [`Kind::Io`].
pub fn read_prompts(path: &Path, columns: &Columns) -> Result<Vec<Text>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the prompts", &e))?;
    let mut prompts = Vec::new();
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        if line.trim_start().starts_with('{') {
            let place = |reason| Error::new(Kind::Data, format!("{}:{}: {reason}", path.display(), i + 1));
            prompts.push(prompt_of(line, columns).map_err(place)?);
        } else {
            prompts.push(Text::Plain(line.to_owned()));
        }
    }
    if prompts.is_empty() {
        return Err(Error::new(Kind::Data, format!("{}: no prompts: expected one per line", path.display())));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Message;

    #[test]
    fn prompts_come_from_lines_and_from_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts");
        let rows = [
            "plain",
            "",
            r#"{"prompt":"p"}"#,
            r#"{"instruction":"i","input":"n","output":"o"}"#,
            r#"{"messages":[{"role":"user","content":"m"},{"role":"assistant","content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":"m"}]}"#,
            r#"{"chosen":"\n\nHuman: h\n\nAssistant: a","rejected":"\n\nHuman: h\n\nAssistant: b"}"#,
        ];
        std::fs::write(&path, rows.join("\n")).unwrap();
        let plain = |s: &str| Text::Plain(s.into());
        let asked = Text::Messages(vec![Message::new("user", "m")]);
        let expected =
            [plain("plain"), plain("p"), plain("i\nn"), asked.clone(), asked, plain("\n\nHuman: h\n\nAssistant:")];
        assert_eq!(read_prompts(&path, &Columns::default()).unwrap(), expected);
        std::fs::write(&path, "a\n{\"id\":1}").unwrap();
        let error = read_prompts(&path, &Columns::default()).unwrap_err();
        assert!(error.kind() == Kind::Data && error.to_string().contains("prompts:2: "), "{error}");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(read_prompts(&path, &Columns::default()).unwrap_err().kind(), Kind::Data);
    }
}
