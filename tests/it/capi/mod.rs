//! The C interface as a C program uses it.

mod header;
