//! One test binary: each linked llama.cpp costs seconds.

mod check_models;
mod gradients;
mod models;
mod oracle;
mod random;
mod refusals;
mod tiny;
