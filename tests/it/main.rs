//! One test binary: each linked llama.cpp costs seconds.

mod adapter;
mod bench;
mod golden;
mod real_model;
mod tiny;
mod trainer;
