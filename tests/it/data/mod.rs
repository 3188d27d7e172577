//! Rows on their way to tokens, with a model's own tokenizer.

mod program;
mod special;
mod templates;
mod traps;
