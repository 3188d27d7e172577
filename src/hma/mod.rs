//! Heterogeneous model averaging (Lin et al. 2023, arXiv 2309.06256): between a model before alignment and the same model after
//! it, a weight for each group of blocks, chosen so that the blend still says what the aligned model says.
//!
//! **In:** a base with an adapter, or two models; responses of the aligned one. **Out:** the weight of every group, and what the
//! likelihoods were. **Invariant:** the mean of the groups' weights is what was asked for, to the last bits; no model is written
//! to find them.
//!
//! A *ratio* is the weight a of the model **before** alignment, as in the authors' code: W = a·W_before + (1 − a)·W_after. The
//! paper writes 1 − a for it. Both are told wherever a ratio is printed.

mod blend;
mod groups;
mod nelder_mead;
mod objective;
mod penalty;
mod ratios;
mod responses;
mod search;
mod shares;
mod sweep;

pub use blend::{blend, Side};
pub use groups::{GroupRule, Groups};
pub use objective::{Blended, Likelihood, Objective, Responses};
pub use penalty::{Deviation, Penalty, PenaltyWeights};
pub use ratios::Ratios;
pub use responses::{best, implicit_rewards, sample, Sampled};
pub use search::{search, Found, SearchParams, Solver, Told};
pub use shares::{Others, Shares};
pub use sweep::{Gauge, Point, PointKind};
