//! How far a subgraph's result is from what was recorded.

use crate::compare::Flips;
use crate::compare::Metrics;
use std::fmt;

/// Least probability of as many flips at which they are taken for chance.
const FLIPS: f64 = -6.0;

/// What speaks for or against a subgraph.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Largest difference in units of its budget.
    pub ratio: f64,
    /// Relative Frobenius norm of the difference.
    pub relative_frobenius: f64,
    /// Elements that differ.
    pub unequal: usize,
    /// Elements there are.
    pub elements: usize,
    /// Of half types: against how many may.
    pub flips: Option<Flips>,
}

impl Evidence {
    /// From a comparison within a budget.
    pub fn new(metrics: &Metrics) -> Self {
        let disagree = metrics.non_finite.disagreements > 0;
        let ratio = metrics
            .worst_ratio
            .as_ref()
            .map_or(0.0, |worst_ratio| worst_ratio.ratio);
        Self {
            ratio: if disagree { f64::INFINITY } else { ratio },
            relative_frobenius: if disagree {
                f64::INFINITY
            } else {
                metrics.relative_frobenius
            },
            unequal: metrics.unequal,
            elements: metrics.elements,
            flips: metrics.flips,
        }
    }

    /// Whether the difference is what rounding explains.
    pub fn holds(&self) -> bool {
        let flips = self.flips.is_none_or(|flips| flips.log10_p >= FLIPS);
        self.ratio <= 1.0 && flips
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "diff/budget {:.2e}", self.ratio)?;
        match &self.flips {
            None => Ok(()),
            Some(flips) => write!(
                f,
                ", {} of {} elements differ ({:.1} expected)",
                flips.observed, flips.elements, flips.expected
            ),
        }
    }
}
