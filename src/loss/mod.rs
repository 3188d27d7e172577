//! Losses on sequence log-probs: pure functions in F64 that give value and gradient.
//!
//! **In:** log p of completions under policy and reference. **Out:** a contribution to the loss of the optimizer step, and
//! its derivative with respect to each log-prob. **Invariant:** contributions are divided by the unit count of the *whole*
//! step (tokens, pairs or examples), so micro-batches just add up.

mod kto;
pub mod logprob;
mod mixture;
mod npo;
mod preference;
mod sft;
mod tokens;

pub use kto::{kl_baseline, kto, ExampleLogps, ExampleLoss};
pub use mixture::{Mixture, PairUnits};
pub use npo::{TokenLoss, TokenNpo};
pub use preference::{PairLogps, PairLoss, Preference, PreferenceLoss};
pub use sft::sft;
pub use tokens::{lowest, weighted_sum};

/// ln σ(x), without overflow at either end.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// σ(x).
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        x.exp() / (1.0 + x.exp())
    }
}

#[cfg(test)]
fn central(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    const H: f64 = 1e-5;
    (f(x + H) - f(x - H)) / (2.0 * H)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_function_is_stable() {
        assert_eq!(log_sigmoid(1e4), 0.0);
        assert_eq!(log_sigmoid(-1e4), -1e4);
        assert!((log_sigmoid(0.3) - sigmoid(0.3).ln()).abs() < 1e-15);
        assert!((sigmoid(-700.0) - (-700.0f64).exp()).abs() < 1e-300);
    }
}
