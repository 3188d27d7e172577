//! Where an engine's time goes: seconds of the first thread in our kernels, and the products' arithmetic.

use crate::runtime::{Call, Kernel};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

/// What a kernel of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Products with weights and factors.
    Products,
    /// Attention and its gradient.
    Attention,
    /// Everything else: rounding, norms, gates, gradients of factors, the loss head's softmax.
    Other,
}

/// Running sums; shared by every graph of an engine.
#[derive(Debug, Default)]
pub struct Profile {
    products: AtomicU64,
    attention: AtomicU64,
    other: AtomicU64,
    flops: AtomicU64,
}

/// Sums so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seconds {
    /// In products with weights and factors.
    pub products: f64,
    /// In attention.
    pub attention: f64,
    /// In our other kernels.
    pub other: f64,
    /// Floating-point operations of the products: two for every multiplication with a weight.
    pub product_flops: u64,
}

impl Profile {
    /// Sums since the last reset.
    pub fn seconds(&self) -> Seconds {
        let seconds = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64 * 1e-9;
        Seconds {
            products: seconds(&self.products),
            attention: seconds(&self.attention),
            other: seconds(&self.other),
            product_flops: self.flops.load(Ordering::Relaxed),
        }
    }

    /// Starts again at zero.
    pub fn reset(&self) {
        for sum in [&self.products, &self.attention, &self.other, &self.flops] {
            sum.store(0, Ordering::Relaxed);
        }
    }

    /// A kernel that adds its time and `flops` whenever it runs.
    pub(super) fn timed(self: &Arc<Self>, phase: Phase, flops: u64, kernel: Kernel) -> Kernel {
        let profile = self.clone();
        Box::new(move |call: &Call| {
            if call.ith != 0 {
                return kernel(call);
            }
            let begun = Instant::now();
            let result = kernel(call);
            let nanoseconds = begun.elapsed().as_nanos() as u64;
            let sum = match phase {
                Phase::Products => &profile.products,
                Phase::Attention => &profile.attention,
                Phase::Other => &profile.other,
            };
            sum.fetch_add(nanoseconds, Ordering::Relaxed);
            profile.flops.fetch_add(flops, Ordering::Relaxed);
            result
        })
    }
}
