//! One line of training data before it is tokenised.

/// One turn of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or whatever else the model's template knows.
    pub role: String,
    /// What is said, as plain text.
    pub content: String,
}

impl Message {
    /// Makes a message of `role` saying `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A prompt or an answer as the file gave it: a string, or a list of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// A string.
    Plain(String),
    /// Messages in their order; an answer is exactly one message of the assistant.
    Messages(Vec<Message>),
}

impl Text {
    /// Whether it says nothing: only white space, or no message with any other content.
    pub fn is_blank(&self) -> bool {
        match self {
            Text::Plain(text) => text.trim().is_empty(),
            Text::Messages(messages) => messages.iter().all(|m| m.content.trim().is_empty()),
        }
    }
}

/// What one row teaches. Prompt and answers of a row are of the same kind: all strings, or all message lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Example {
    /// An answer to imitate (SFT).
    Completion {
        /// What the model is given.
        prompt: Text,
        /// What it shall answer.
        completion: Text,
    },
    /// A text to imitate as a whole (SFT).
    Text {
        /// The text.
        text: String,
    },
    /// A better and a worse answer to the same prompt (the DPO family).
    Pair {
        /// What the model is given.
        prompt: Text,
        /// The better answer.
        chosen: Text,
        /// The worse answer.
        rejected: Text,
    },
    /// One answer with a verdict (KTO).
    Labelled {
        /// What the model is given.
        prompt: Text,
        /// An answer.
        completion: Text,
        /// The verdict: `true` is desirable.
        label: bool,
    },
}

/// An example and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line in the source file, counted from 1.
    pub line: usize,
    /// What the line says.
    pub example: Example,
}
