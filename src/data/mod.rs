//! Training data: from the lines of a JSONL file to tokens. The steps, in order: [`read_all`] (or [`Reader`]) gives
//! untokenised [`Row`]s, [`Rows::into_pairs`], [`Rows::into_labelled`] or [`Rows::into_completions`] turns them into
//! what a method needs, [`Dataset::encode`] makes tokens of them with the model's own tokenizer and [`Template`], and
//! [`order`] says in which order an epoch walks through them. Nothing here knows of ggml.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod dataset;
mod dialogue;
mod encode;
mod forms;
mod jsonl;
mod order;
mod rows;
mod sample;
mod split;
mod template;
mod tokens;

pub use dataset::{Dataset, EncodeOptions, Report, Sample};
pub use encode::Encoder;
pub use forms::Form;
pub use jsonl::{read_all, Reader, LINE_BYTES_MAX};
pub(crate) use order::below;
pub use order::order;
pub use rows::Rows;
pub use sample::{Example, Message, Row, Text};
pub use template::Template;
pub use tokens::{Sequence, Tokenize};
