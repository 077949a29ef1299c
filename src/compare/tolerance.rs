//! What is still the same.

use super::Metrics;
use std::fmt;

/// What must hold of a stage: every one of these bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// The bounds; with none, anything passes but a disagreement about NaN or infinity.
    pub bounds: Vec<Bound>,
}

/// One bound.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// Every element equal.
    Exact,
    /// Largest absolute difference.
    Abs(f64),
    /// Relative Frobenius norm of the difference.
    Rel(f64),
    /// Every element close.
    Close(Close),
    /// Largest distance in units in the last place.
    Ulp(u64),
    /// Largest difference of a statistic, see
    /// [`StatisticsDifference::judged`](super::StatisticsDifference::judged).
    Stat(f64),
}

/// `|reference − candidate| ≤ atol + rtol · |reference|`, as torch's and numpy's `allclose`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Close {
    /// Absolute part.
    pub atol: f64,
    /// Part relative to the reference.
    pub rtol: f64,
}

/// A bound held against what was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The bound.
    pub bound: Bound,
    /// What was measured, in the bound's unit: the least bound of its kind that would have passed
    /// (for [`Bound::Close`] and [`Bound::Exact`], the elements outside).
    pub measured: f64,
    /// Whether the bound holds.
    pub holds: bool,
}

impl Close {
    /// Whether two values are close. NaNs are close to NaNs, infinities to themselves.
    pub fn holds(&self, reference: f64, candidate: f64) -> bool {
        if reference.is_finite() && candidate.is_finite() {
            (reference - candidate).abs() <= self.atol + self.rtol * reference.abs()
        } else {
            reference == candidate || reference.is_nan() && candidate.is_nan()
        }
    }
}

impl Tolerance {
    /// The element-wise criterion that has to be counted while comparing, if there is one.
    pub fn close(&self) -> Option<Close> {
        self.bounds.iter().find_map(|bound| match bound {
            Bound::Close(close) => Some(*close),
            _ => None,
        })
    }

    /// Holds every bound against what was measured.
    pub fn judge(&self, metrics: &Metrics) -> Vec<Judgement> {
        self.bounds
            .iter()
            .map(|bound| bound.judge(metrics))
            .collect()
    }
}

impl Bound {
    fn judge(self, metrics: &Metrics) -> Judgement {
        let (measured, allowed) = match self {
            Self::Exact => (metrics.unequal as f64, 0.0),
            Self::Abs(allowed) => (metrics.max_abs_difference(), allowed),
            Self::Rel(allowed) => (metrics.relative_frobenius, allowed),
            Self::Close(_) => (metrics.outside_close as f64, 0.0),
            // Where the types differ there is no ulp to measure in, and the bound cannot hold.
            Self::Ulp(allowed) => {
                let measured = metrics.max_ulp.map_or(f64::INFINITY, |ulp| ulp as f64);
                (measured, allowed as f64)
            }
            Self::Stat(allowed) => {
                let measured = metrics.statistics.judged().unwrap_or(f64::INFINITY);
                (measured, allowed)
            }
        };
        Judgement {
            bound: self,
            measured,
            // Written so that a NaN fails.
            holds: measured <= allowed && metrics.non_finite.disagreements == 0,
        }
    }

    /// The kind's name, as case files spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Abs(_) => "abs",
            Self::Rel(_) => "rel",
            Self::Close(_) => "close",
            Self::Ulp(_) => "ulp",
            Self::Stat(_) => "stat",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Abs(bound) | Self::Rel(bound) | Self::Stat(bound) => {
                write!(f, "{} {bound:e}", self.kind())
            }
            Self::Close(close) => write!(f, "close {:e} + {:e}·|ref|", close.atol, close.rtol),
            Self::Ulp(bound) => write!(f, "ulp {bound}"),
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bound) in self.bounds.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{bound}")?;
        }
        Ok(())
    }
}
