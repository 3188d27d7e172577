//! One test binary: each linked llama.cpp costs seconds.

mod hostile;
mod tiny;
