//! One test binary: each linked llama.cpp costs seconds.

mod adapter;
mod real_model;
mod tiny;
