//! Whole weights that move: W + D. What the program computes with D is what it computes with the factors of D; masks hold single
//! weights; norms and biases move beside factors; what comes out is the model that was trained.

mod gradients;
mod program;
mod rows;
mod sampling;
mod training;
mod vectors;
