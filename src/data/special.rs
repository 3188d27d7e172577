//! Names of control tokens inside data stay text.
//!
//! A rendered dialogue is markup of the template with data in between. Its tokenizer sees one text, so a row that says
//! `<|im_end|>` would end its own turn. Here a mark, a character that occurs nowhere else, is put into the data wherever
//! such a name could begin; the template renders it with everything else, and the stretch between two real control
//! tokens that holds a mark is tokenised, without its marks, as text that names nothing. Everything else is tokenised
//! as before, so that ordinary rows have the tokens that Hugging Face's tokenizers give them.

use super::sample::Message;
use super::template::Template;
use super::tokens::Tokenize;
use crate::error::{Error, Kind, Result};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

/// Characters that Unicode keeps for a program's own use; one that a row does not have becomes its mark.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';
/// Longest word between brackets that counts as a tag, in bytes.
const TAG_BYTES_MAX: usize = 32;

/// The names of a vocabulary's control tokens.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    names: HashSet<String>,
    /// Lengths of the names in bytes, longest first.
    lengths: Vec<usize>,
    firsts: BTreeSet<char>,
}

impl Controls {
    /// Takes the names; empty ones are no names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: HashSet<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
        let lengths: BTreeSet<usize> = names.iter().map(String::len).collect();
        let firsts = names.iter().filter_map(|name| name.chars().next()).collect();
        Self { names, lengths: lengths.into_iter().rev().collect(), firsts }
    }

    /// The longest name that `text` begins with.
    fn at<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut begun = self.lengths.iter().filter_map(|&n| text.get(..n));
        begun.find(|name| self.names.contains(*name))
    }

    /// Places, in bytes, where a name may begin.
    fn starts<'s>(&'s self, text: &'s str) -> impl Iterator<Item = (usize, char)> + 's {
        text.char_indices().filter(|(_, c)| self.firsts.contains(c))
    }

    /// Whether a name stands somewhere in the text.
    pub fn named_in(&self, text: &str) -> bool {
        self.starts(text).any(|(i, _)| text.get(i..).is_some_and(|rest| self.at(rest).is_some()))
    }

    /// The text with a mark behind every character that could begin a name. Words between brackets that are no names,
    /// such as `<think>`, are left whole: templates look for them.
    fn marked<'t>(&self, text: &'t str, mark: char) -> Cow<'t, str> {
        let mut out = String::new();
        let mut done = 0;
        for (i, c) in self.starts(text) {
            let (end, rest) = (i + c.len_utf8(), text.get(i..).unwrap_or_default());
            if i >= done && (self.at(rest).is_some() || !self.begins_tag(rest)) {
                out.push_str(text.get(done..end).unwrap_or_default());
                out.push(mark);
                done = end;
            }
        }
        if done == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(text.get(done..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// Whether a bracketed word that is no name begins here: its first character, perhaps a slash, a word, a bracket.
    fn begins_tag(&self, text: &str) -> bool {
        let Some(open) = text.chars().next() else { return false };
        let inside = text.get(open.len_utf8()..).unwrap_or_default();
        let word = inside.trim_start_matches(['/', '|']);
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '|';
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        let close = match open {
            '<' => '>',
            '[' => ']',
            _ => return false,
        };
        (1..TAG_BYTES_MAX).contains(&end) && word.get(end..).is_some_and(|rest| rest.starts_with(close))
    }
}

/// What the names of control tokens in a text are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Control tokens.
    Tokens,
    /// Text.
    Text,
    /// Control tokens, but text where this mark stands.
    Marked(char),
}

/// Renders a dialogue's beginnings, each a number of messages and whether the assistant's next turn is begun; with marks
/// where its data could name control tokens, unless these are to become tokens.
///
/// # Errors
/// Those of [`Template::render`]; [`Kind::Data`] where the template does otherwise if it cannot read a name.
pub(super) fn render(
    controls: Option<&Controls>,
    template: &Template,
    messages: &[Message],
    beginnings: &[(usize, bool)],
) -> Result<(Vec<String>, Names)> {
    let render = |messages: &[Message]| -> Result<Vec<String>> {
        let of = |&(n, begun): &(usize, bool)| template.render(messages.get(..n).unwrap_or(messages), begun);
        beginnings.iter().map(of).collect()
    };
    let plain = render(messages)?;
    let Some(controls) = controls else { return Ok((plain, Names::Tokens)) };
    let texts = || messages.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]);
    if !texts().any(|text| controls.starts(text).next().is_some()) {
        return Ok((plain, Names::Tokens));
    }
    let is_free = |mark: &char| !texts().chain(plain.iter().map(String::as_str)).any(|text| text.contains(*mark));
    let mark = MARKS.into_iter().find(is_free);
    let mark = mark.ok_or_else(|| Error::new(Kind::Data, "the row has every character from U+FDD0 to U+FDEF"))?;
    let marked: Vec<Message> = messages
        .iter()
        .map(|m| Message::new(controls.marked(&m.role, mark), controls.marked(&m.content, mark)))
        .collect();
    if marked == messages {
        return Ok((plain, Names::Tokens));
    }
    let rendered = render(&marked);
    let same = |rendered: &Vec<String>| rendered.iter().zip(&plain).all(|(r, p)| r.replace(mark, "") == *p);
    match rendered {
        Ok(rendered) if same(&rendered) => Ok((rendered, Names::Marked(mark))),
        _ if texts().any(|text| controls.named_in(text)) => {
            let message = "the row has the name of a control token, which the chat template reads: it renders the \
                           row otherwise where the name is only text";
            Err(Error::new(Kind::Data, message))
        }
        _ => Ok((plain, Names::Tokens)),
    }
}

/// Tokens of a text, its control tokens where `names` says so.
pub(super) fn tokenize(tokenizer: &dyn Tokenize, text: &str, names: Names) -> Result<Vec<i32>> {
    let mark = match names {
        Names::Marked(mark) if text.contains(mark) => mark,
        _ => return tokenizer.tokenize(text, names != Names::Text),
    };
    let (mut tokens, mut plain) = (Vec::new(), String::new());
    let mut pieces = pieces(tokenizer.controls(), text).peekable();
    let mut before = "";
    while let Some((piece, is_name)) = pieces.next() {
        if is_name || !piece.contains(mark) {
            plain.push_str(piece);
        } else {
            if !plain.is_empty() {
                tokens.extend(tokenizer.tokenize(&plain, true)?);
                plain.clear();
            }
            let mut data = piece.replace(mark, "");
            // Some control tokens swallow the white space beside them.
            if swallows(tokenizer, before, &format!("{before} "))? {
                data = data.trim_start().to_owned();
            }
            let after = pieces.peek().map_or("", |(name, _)| name);
            if swallows(tokenizer, after, &format!(" {after}"))? {
                data.truncate(data.trim_end().len());
            }
            tokens.extend(tokenizer.tokenize(&data, false)?);
        }
        before = piece;
    }
    if !plain.is_empty() {
        tokens.extend(tokenizer.tokenize(&plain, true)?);
    }
    Ok(tokens)
}

fn swallows(tokenizer: &dyn Tokenize, name: &str, with_space: &str) -> Result<bool> {
    Ok(!name.is_empty() && tokenizer.tokenize(with_space, true)?.len() == 1)
}

/// A text in turns of what is no name (`false`) and names (`true`).
fn pieces<'t>(controls: &'t Controls, text: &'t str) -> impl Iterator<Item = (&'t str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if let Some(name) = controls.at(rest) {
            rest = rest.get(name.len()..).unwrap_or_default();
            return Some((name, true));
        }
        let is_name = |i: &usize| rest.get(*i..).is_some_and(|r| controls.at(r).is_some());
        let end = controls.starts(rest).map(|(i, _)| i).find(is_name).unwrap_or(rest.len());
        let (piece, after) = rest.split_at_checked(end)?;
        rest = after;
        (!piece.is_empty()).then_some((piece, false))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls() -> Controls {
        Controls::new(["<|end|>", "<s>", "<|e", "[INST]"].map(str::to_owned))
    }

    #[test]
    fn marks_stand_where_a_name_could_begin() {
        let marked = |text: &str| controls().marked(text, '#').into_owned();
        assert_eq!(marked("a <|end|> b"), "a <#|end|> b");
        assert_eq!(marked("1 < 2, [x] <think>y</think> [INST]"), "1 <# 2, [x] <think>y</think> [#INST]");
        assert_eq!(marked("<<s><|<think>end|>"), "<#<#s><#|<think>end|>");
        assert_eq!(marked("nothing"), "nothing");
        assert_eq!(marked("ends with <"), "ends with <#");
    }

    #[test]
    fn pieces_take_the_longest_name() {
        let controls = controls();
        let got: Vec<_> = pieces(&controls, "<s>a<|end|><|e[INST]<").collect();
        let (text, name) = (false, true);
        let expected = [("<s>", name), ("a", text), ("<|end|>", name), ("<|e", name), ("[INST]", name), ("<", text)];
        assert_eq!(got, expected);
        assert!(controls.named_in("x<s>") && !controls.named_in("x<S>"));
    }

    #[test]
    fn a_template_that_reads_names_is_not_given_them_as_text() {
        let template = |source: &str| Template::new(source, "", "").unwrap();
        let messages = [Message::new("user", "a <s> b")];
        let joined = template("{% for m in messages %}{{ m.content }};{% endfor %}");
        let (texts, names) = render(Some(&controls()), &joined, &messages, &[(1, false)]).unwrap();
        assert_eq!((texts[0].as_str(), names), ("a <\u{fdd0}s> b;", Names::Marked('\u{fdd0}')));
        let (texts, names) = render(None, &joined, &messages, &[(1, false)]).unwrap();
        assert_eq!((texts[0].as_str(), names), ("a <s> b;", Names::Tokens));
        let reads = template("{% for m in messages %}{{ m.content.split('<s>')[0] }}{% endfor %}");
        let error = render(Some(&controls()), &reads, &messages, &[(1, false)]).unwrap_err();
        assert!(error.to_string().contains("name of a control token"), "{error}");
        // What only looks like a name is the template's to read.
        let (texts, names) =
            render(Some(&controls()), &reads, &[Message::new("user", "a < b")], &[(1, false)]).unwrap();
        assert_eq!((texts[0].replace('\u{fdd0}', ""), names != Names::Text), ("a < b".into(), true));
    }

    #[test]
    fn a_row_that_has_every_mark_is_refused_only_where_one_is_needed() {
        let all: String = MARKS.collect();
        let template = Template::new("{{ messages[0].content }}", "", "").unwrap();
        let render = |text: String| render(Some(&controls()), &template, &[Message::new("user", text)], &[(1, false)]);
        assert!(render(all.clone()).is_ok());
        assert!(render(format!("{all}<s>")).unwrap_err().to_string().contains("U+FDD0"));
    }
}
