//! Learning-rate schedules, as in Hugging Face's `get_scheduler`.

use serde::{Deserialize, Serialize};

/// The shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The peak: Hugging Face's `constant_with_warmup`, and its `constant` where the warm-up is 0.
    #[serde(alias = "constant_with_warmup")]
    Constant,
    /// A line to 0.
    Linear,
    /// Half a cosine to 0.
    Cosine,
    /// Half a cosine to a floor.
    CosineWithMinLr,
}

impl ScheduleKind {
    /// All of them with their names in flags and files.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Constant, "constant"),
        (Self::Linear, "linear"),
        (Self::Cosine, "cosine"),
        (Self::CosineWithMinLr, "cosine_with_min_lr"),
    ];

    /// Reads its name; Hugging Face's `constant_with_warmup` is ours without one.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        let name = if name == "constant_with_warmup" { "constant" } else { &name };
        Self::ALL.into_iter().find(|(_, n)| *n == name).map(|(kind, _)| kind)
    }
}

/// Learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Highest rate.
    pub peak: f64,
    /// Lowest rate after the warm-up, for the shape that has one.
    pub floor: f64,
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
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Linear => self.peak * (1.0 - progress),
            ScheduleKind::Cosine => self.peak * cosine,
            ScheduleKind::CosineWithMinLr => self.floor + (self.peak - self.floor) * cosine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_zero() {
        let schedule = Schedule { kind: ScheduleKind::Cosine, peak: 2.0, floor: 0.5, n_warmup: 3, n_steps: 13 };
        assert_eq!([0, 1, 2, 3].map(|k| schedule.at(k)), [0.5, 1.0, 1.5, 2.0]);
        assert!((schedule.at(8) - 1.0).abs() < 1e-12);
        assert!(schedule.at(12) > 0.0 && schedule.at(13).abs() < 1e-12);
        let linear = Schedule { kind: ScheduleKind::Linear, ..schedule };
        assert_eq!(linear.at(8), 1.0);
        assert_eq!(Schedule { kind: ScheduleKind::Constant, ..schedule }.at(12), 2.0);
    }

    /// Hugging Face's `cosine_with_min_lr`: factor·(1 − r) + r with r = floor / peak, at the middle and at the end.
    #[test]
    fn a_floor_is_where_the_cosine_ends() {
        let schedule =
            Schedule { kind: ScheduleKind::CosineWithMinLr, peak: 2.0, floor: 0.5, n_warmup: 3, n_steps: 13 };
        assert_eq!([0, 3].map(|k| schedule.at(k)), [0.5, 2.0]);
        assert!((schedule.at(8) - 1.25).abs() < 1e-12 && (schedule.at(13) - 0.5).abs() < 1e-12);
        // A quarter down: 0.5 + 1.5·(1 + cos(π/4))/2.
        let quarter = Schedule { n_warmup: 0, n_steps: 12, ..schedule };
        assert!((quarter.at(3) - 1.780_330_085_889_911).abs() < 1e-12);
        assert_eq!(ScheduleKind::from_name("constant-with-warmup"), Some(ScheduleKind::Constant));
        assert_eq!(ScheduleKind::from_name("polynomial"), None);
    }
}
