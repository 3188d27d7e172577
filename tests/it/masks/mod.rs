//! Masks: what they hold keeps its bits over real steps, what they leave free moves as it would without them, and the program
//! makes them, shows them and trains under them.

mod gradients;
pub(crate) mod program;
mod training;
