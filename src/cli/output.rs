//! The one place that prints.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use crate::error::Error;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};

/// Prints data to stdout and talk to stderr.
#[derive(Debug)]
pub struct Printer {
    terminal: bool,
}

impl Default for Printer {
    fn default() -> Self {
        Self::new()
    }
}

impl Printer {
    /// Looks at where the output goes.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// True if a person watches.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// True if data may be coloured: a person reads it, and has not forbidden it (no-color.org).
    pub fn has_colours(&self) -> bool {
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// A line of data. A reader that went away is no error of ours.
    pub fn data(&mut self, line: &str) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// A line of talk.
    pub fn talk(&mut self, line: &str) {
        let _ = writeln!(std::io::stderr(), "{}", plain(line));
    }

    /// The error that ends the program.
    pub fn error(&mut self, error: &Error) {
        self.talk(&format!("error: {error}"));
    }

    /// Help and usage errors as clap formats them; returns the exit status.
    pub fn usage(&mut self, usage: &clap::Error) -> u8 {
        let _ = usage.print();
        if usage.use_stderr() {
            crate::error::Kind::Argument.exit_code()
        } else {
            0
        }
    }
}

/// A text that commands no terminal: files come from strangers, and so do their names, templates and answers.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if commands(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn nothing_commands_a_terminal() {
        assert_eq!(plain("a\n\tb\u{5d0}"), "a\n\tb\u{5d0}");
        assert_eq!(plain("\u{1b}]0;x\u{7}\r\u{9b}31m"), "\\u{1b}]0;x\\u{7}\\r\\u{9b}31m");
    }
}
