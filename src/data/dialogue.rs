//! Dialogues written as plain text, in the form of the hh-rlhf data: `\n\nHuman: ...\n\nAssistant: ...`.

use super::sample::Message;

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Where the common prompt of two answers ends, in bytes: after their last common `\n\nAssistant:`; without one, at the
/// end of their longest common prefix that stops at a boundary (after a line break, or before other white space). Both
/// answers keep some text. `None` where they have no such prefix.
pub(super) fn common_prompt_bytes(chosen: &str, rejected: &str) -> Option<usize> {
    let common = common_prefix(chosen, rejected);
    let usable = |end: usize| end > 0 && has_text(chosen, end) && has_text(rejected, end) && has_head(common, end);
    if let Some(marker) = common.rfind(ASSISTANT) {
        return Some(marker + ASSISTANT.len());
    }
    let boundary = |end: &usize| {
        let before = common.get(..*end).is_some_and(|head| head.ends_with('\n'));
        let after = |s: &str| s.get(*end..).is_some_and(|rest| rest.starts_with([' ', '\t', '\n', '\r']));
        before || (after(chosen) && after(rejected))
    };
    (1..=common.len()).rev().filter(boundary).find(|&end| usable(end))
}

fn common_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let bytes: usize = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum();
    a.get(..bytes).unwrap_or("")
}

fn has_text(s: &str, from: usize) -> bool {
    s.get(from..).is_some_and(|rest| !rest.trim().is_empty())
}

fn has_head(s: &str, to: usize) -> bool {
    s.get(..to).is_some_and(|head| !head.trim().is_empty())
}

/// The turns of a dialogue that waits for the assistant's next one, contents trimmed; `None` where the text is no such
/// dialogue: it must begin with a turn and end with `\n\nAssistant:`, and every turn but that last one must say
/// something.
pub(super) fn parse(prompt: &str) -> Option<Vec<Message>> {
    // Some files lack the line breaks before the first turn.
    let owned;
    let text = if prompt.starts_with("Human:") {
        owned = format!("\n\n{prompt}");
        owned.as_str()
    } else {
        prompt
    };
    let mut rest = text.trim_end().strip_suffix(ASSISTANT)?;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (role, body) = match (rest.strip_prefix(HUMAN), rest.strip_prefix(ASSISTANT)) {
            (Some(body), _) => ("user", body),
            (None, Some(body)) => ("assistant", body),
            (None, None) => return None,
        };
        let end = [HUMAN, ASSISTANT].iter().filter_map(|marker| body.find(marker)).min().unwrap_or(body.len());
        let (content, next) = body.split_at(end);
        let content = content.trim();
        if content.is_empty() {
            return None;
        }
        messages.push(Message::new(role, content));
        rest = next;
    }
    (!messages.is_empty()).then_some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(a: &'a str, b: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        common_prompt_bytes(a, b).map(|n| (&a[..n], &a[n..], &b[n..]))
    }

    #[test]
    fn splits_after_the_last_common_assistant_turn() {
        let head = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:";
        let (a, b) = (format!("{head} yes, of course"), format!("{head} yes, but"));
        assert_eq!(split(&a, &b), Some((head, " yes, of course", " yes, but")));
    }

    #[test]
    fn splits_at_a_boundary_without_turns() {
        assert_eq!(split("The cat sat", "The cat slept"), Some(("The cat", " sat", " slept")));
        assert_eq!(split("Q: x\nA1", "Q: x\nA2"), Some(("Q: x\n", "A1", "A2")));
        // One answer is the beginning of the other: both must keep something.
        assert_eq!(split("one two", "one two three"), Some(("one", " two", " two three")));
        assert_eq!(split("same", "other"), None);
        assert_eq!(split("abc", "abd"), None);
        // The difference lies inside a character of several bytes that share their first byte.
        assert_eq!(split("x é", "x è"), Some(("x", " é", " è")));
    }

    #[test]
    fn reads_turns() {
        let got = parse("\n\nHuman: hi\nthere\n\nAssistant: yes?\n\nHuman: go\n\nAssistant:").unwrap();
        let expected = [("user", "hi\nthere"), ("assistant", "yes?"), ("user", "go")];
        assert_eq!(got, expected.map(|(r, c)| Message::new(r, c)));
        assert_eq!(parse("Human: hi\n\nAssistant: ").unwrap(), [Message::new("user", "hi")]);
    }

    #[test]
    fn leaves_other_text_alone() {
        for text in
            ["hi", "", "\n\nAssistant:", "x\n\nHuman: hi\n\nAssistant:", "\n\nHuman: hi", "\n\nHuman: \n\nAssistant:"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
