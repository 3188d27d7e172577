//! Training data: from the rows of a JSONL or JSON file to tokens. The steps, in order: [`read_all`] (or [`Reader`]) gives
//! untokenised [`Row`]s, [`Rows::into_pairs`], [`Rows::into_labelled`] or [`Rows::into_completions`] turns them into
//! what a method needs, [`Dataset::encode`] makes tokens of them with the model's own tokenizer and [`Template`], and
//! [`order`] says in which order an epoch walks through them. Nothing here knows of ggml.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod array;
mod check;
mod columns;
mod dataset;
mod dialogue;
mod encode;
mod fields;
mod forms;
mod jsonl;
mod mask;
mod order;
mod pack;
mod prompts;
mod rows;
mod sample;
mod special;
mod split;
mod template;
mod token_weights;
mod tokens;

pub use check::{check, DataCheck, Lengths};
pub use columns::Columns;
pub use dataset::{Dataset, EncodeOptions, Report, Sample};
pub use encode::Encoder;
pub use forms::Form;
pub use jsonl::{read_all, read_all_with, rows_from_json, Reader, LINE_BYTES_MAX};
pub use mask::{LossMask, TooLong};
pub(crate) use order::below;
pub use order::order;
pub use pack::pack;
pub use prompts::read_prompts;
pub use rows::Rows;
pub use sample::{Example, Message, Row, Text};
pub use special::Controls;
pub use template::Template;
pub use token_weights::TokenWeights;
pub use tokens::{Sequence, Tokenize};
