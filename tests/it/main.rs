//! One test binary: each linked llama.cpp costs seconds.

mod check_models;
mod golden;
mod gradients;
mod graph;
mod logits;
mod models;
mod oracle;
mod random;
mod refusals;
mod rules;
mod small;
mod tiny;
