//! How sure error bounds are.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How sure an error bound is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Roundings are independent and terms come in no order that favours one sign (Higham & Mary
    /// 2019, "A new approach to probabilistic rounding error analysis"): errors grow with the
    /// square root of a sum's length.
    #[default]
    Probabilistic,
    /// Nothing is assumed: every rounding has its worst sign. Errors grow with a sum's length.
    Deterministic,
}

impl Confidence {
    /// Two independent effects together.
    #[inline(always)]
    pub(in crate::op) fn join(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Probabilistic => (a * a + b * b).sqrt(),
            Self::Deterministic => a + b,
        }
    }

    /// Rounding and standard deviation of the exact sum of two values.
    #[inline(always)]
    pub(in crate::op) fn sum(self, a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
        [a[0] + b[0], self.join(a[1], b[1])]
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Probabilistic => "probabilistic",
            Self::Deterministic => "deterministic",
        })
    }
}
