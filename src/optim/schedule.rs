//! Learning-rate schedules, as in Hugging Face's `get_scheduler`.

use serde::{Deserialize, Serialize};

/// The shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// The peak, always.
    Constant,
    /// A line to 0.
    Linear,
    /// Half a cosine to 0.
    Cosine,
}

/// Learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Highest rate.
    pub peak: f64,
    /// Steps of the linear rise from 0.
    pub n_warmup: usize,
    /// Steps of the run.
    pub n_steps: usize,
}

impl Schedule {
    /// The rate of step `k`, counted from 0.
    pub fn at(&self, k: usize) -> f64 {
        if k < self.n_warmup {
            // One step ahead of Hugging Face's, whose first step has rate 0 and moves nothing.
            return self.peak * (k + 1) as f64 / (self.n_warmup + 1) as f64;
        }
        let rest = self.n_steps.saturating_sub(self.n_warmup).max(1) as f64;
        let progress = ((k - self.n_warmup) as f64 / rest).min(1.0);
        self.peak
            * match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => 1.0 - progress,
                ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_zero() {
        let schedule = Schedule { kind: ScheduleKind::Cosine, peak: 2.0, n_warmup: 3, n_steps: 13 };
        assert_eq!([0, 1, 2, 3].map(|k| schedule.at(k)), [0.5, 1.0, 1.5, 2.0]);
        assert!((schedule.at(8) - 1.0).abs() < 1e-12);
        assert!(schedule.at(12) > 0.0 && schedule.at(13).abs() < 1e-12);
        let linear = Schedule { kind: ScheduleKind::Linear, ..schedule };
        assert_eq!(linear.at(8), 1.0);
        assert_eq!(Schedule { kind: ScheduleKind::Constant, ..schedule }.at(12), 2.0);
    }
}
