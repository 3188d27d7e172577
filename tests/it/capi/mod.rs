//! The C interface as a C program uses it: through its `extern "C"` functions, its header, its examples and its library.

mod behaviour;
mod examples;
mod header;
mod misuse;
mod table;
mod world;
