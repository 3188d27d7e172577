//! stub
#![allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct Factor { pub weight: String, pub rank: usize, pub n_in: usize, pub n_out: usize, pub a: Vec<f32>, pub b: Vec<f32> }
#[derive(Clone, Debug)]
pub struct Lora { pub alpha: f32, pub factors: Vec<Factor> }
