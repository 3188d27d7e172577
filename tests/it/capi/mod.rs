//! The C interface as a C program uses it: through its `extern "C"` functions, its header, its examples and its library.

mod abi;
mod allo;
mod arena;
mod behaviour;
mod calls;
mod change;
mod examples;
mod header;
mod host;
mod layouts;
mod memory;
mod misuse;
mod packaging;
mod resume;
mod slots;
mod table;
mod table_neurons;
mod task;
mod world;
