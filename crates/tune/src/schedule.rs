//! The learning rate of a step: it warms up, and then falls or stays.
//!
//! With `s` the step counted from 0, `n` the number of steps and `w` that of warming up, the rate of a step is that of the
//! run times
//!
//! | schedule | factor |
//! |---|---|
//! | `constant` | `min((s + 1) / w, 1)` |
//! | `linear` | `min((s + 1) / w, (n − s) / (n − w))` |
//! | `cosine` | `(s + 1) / w` while warming up, then `(1 + cos(π (s − w) / (n − w))) / 2` |
//! | `wsd` | `min((s + 1) / w, 1, (n − s) / d)`, falling over the last `d` steps, a tenth of all, rounded up |
//!
//! Without warming up there is no `(s + 1) / w`. No step is at 0, where nothing would be learned from it. `wsd` (warm-up, stable, decay) is of MiniCPM (arXiv 2404.06395): what stays the same for
//! most of the run does not depend on its length.
//!
//! All is computed in f64, with the cosine of `bouquet_kernels::math`, so that a run is the same on every machine.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use bouquet_kernels::math;
use serde::{Deserialize, Serialize};

/// How the learning rate goes on after it has warmed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls evenly to 0, which the step after the last one would have.
    #[default]
    Linear,
    /// It falls to 0 along half a cosine (arXiv 1608.03983, without restarts).
    Cosine,
    /// It stays, and falls evenly over the last tenth of the steps.
    Wsd,
}

impl Schedule {
    /// All of them.
    pub const ALL: [Schedule; 4] = [Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::Wsd];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::Constant => "constant",
            Schedule::Linear => "linear",
            Schedule::Cosine => "cosine",
            Schedule::Wsd => "wsd",
        }
    }

    /// The rate of `step`, counted from 0, of a run of `steps` that warms up over `warmup` of them to
    /// `learning_rate`. A run that is not longer than that only warms up. Panics on a step that the run does not have.
    pub fn rate(self, learning_rate: f64, step: u64, warmup: u64, steps: u64) -> f64 {
        assert!(step < steps, "step {step} of {steps}");
        // Infinite without warming up.
        let warm = (step + 1) as f64 / warmup as f64;
        if steps <= warmup {
            return learning_rate * warm;
        }
        let (left, rest) = ((steps - step) as f64, (steps - warmup) as f64);
        let after = match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => left / rest,
            Schedule::Cosine if step < warmup => 1.0,
            Schedule::Cosine => (1.0 + math::sin_cos(PI * ((step - warmup) as f64 / rest)).1) / 2.0,
            Schedule::Wsd => (left / steps.div_ceil(10) as f64).min(1.0),
        };
        learning_rate * warm.min(after)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no schedule (constant, linear, cosine, wsd)")]
pub struct UnknownSchedule(String);

impl FromStr for Schedule {
    type Err = UnknownSchedule;

    fn from_str(name: &str) -> Result<Self, UnknownSchedule> {
        let known = Schedule::ALL.into_iter().find(|schedule| schedule.name() == name);
        known.ok_or_else(|| UnknownSchedule(name.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: Schedule, warmup: u64, steps: u64) -> Vec<f64> {
        (0..steps).map(|step| schedule.rate(1.0, step, warmup, steps)).collect()
    }

    #[test]
    fn the_formulas_are_those_of_the_table() {
        assert_eq!(factors(Schedule::Constant, 2, 4), [0.5, 1.0, 1.0, 1.0]);
        assert_eq!(factors(Schedule::Linear, 2, 6), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(factors(Schedule::Linear, 0, 4), [1.0, 0.75, 0.5, 0.25]);
        let wsd = factors(Schedule::Wsd, 4, 40);
        assert_eq!(wsd[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(wsd[35..], [1.0, 1.0, 0.75, 0.5, 0.25]);
        let cosine = factors(Schedule::Cosine, 2, 6);
        let expected = [0.5, 1.0, 1.0, (1.0 + 0.5f64.sqrt()) / 2.0, 0.5, (1.0 - 0.5f64.sqrt()) / 2.0];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{cosine:?}");
    }

    /// To the bit, since adapters that others trained this way are compared with.
    #[test]
    fn linear_is_its_formula() {
        for (warmup, steps) in [(0u64, 1u64), (1, 2), (3, 50), (7, 61)] {
            for step in 0..steps {
                let (s, w, n) = (step as f64, warmup as f64, steps as f64);
                let falling = (n - s) / (n - w);
                let factor = if warmup == 0 { falling } else { ((s + 1.0) / w).min(falling) };
                assert_eq!(Schedule::Linear.rate(3e-4, step, warmup, steps), 3e-4 * factor);
            }
        }
    }

    #[test]
    fn no_step_is_wasted() {
        for schedule in Schedule::ALL {
            for (warmup, steps) in [(0, 1), (1, 1), (5, 3), (0, 7), (10, 100), (99, 100)] {
                let factors = factors(schedule, warmup, steps);
                assert!(factors.iter().all(|&factor| factor > 0.0 && factor <= 1.0), "{schedule} {factors:?}");
                let warming = &factors[..warmup.min(steps) as usize];
                let rises = |pair: &[f64]| pair[0] < pair[1] || schedule == Schedule::Wsd;
                assert!(warming.windows(2).all(rises), "{schedule} {factors:?}");
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for schedule in Schedule::ALL {
            assert_eq!(schedule.name().parse(), Ok(schedule));
            assert_eq!(serde_json::to_value(schedule).unwrap(), schedule.name());
        }
        assert!("step".parse::<Schedule>().is_err());
    }
}
