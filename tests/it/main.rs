//! One test binary: each linked llama.cpp costs seconds.

mod adapter;
mod bench;
mod bench_command;
mod capi;
mod check_models;
mod golden;
mod gradients;
mod graph;
mod hostile;
mod loaded;
mod logits;
mod merge;
mod modelfile;
mod models;
mod oracle;
mod random;
mod real_model;
mod refusals;
mod resume;
mod rules;
mod runs;
mod small;
mod tidy;
mod tiny;
mod trainer;
mod vectors;
