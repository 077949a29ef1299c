//! What is still the same.

use super::Metrics;
use std::fmt;
use std::str::FromStr;

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
    /// The same in units of the reference's root mean square, so that it holds of logits of any
    /// size; of the candidate's where the reference is known by its statistics alone.
    StatRms(f64),
    /// Differences of statistics within what rounding makes of means of so many half-precision elements,
    /// see [`Metrics::statistics_ratio`].
    StatRounding,
    /// Every difference within the [`Budget`](super::Budget) of its element.
    Rounding,
    /// Least probability that as many half-precision elements differ by chance; holds of other
    /// types. See [`Flips`](super::Flips).
    Flips(f64),
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
pub struct BoundCheck {
    /// The bound.
    pub bound: Bound,
    /// What was measured, in the bound's unit: the least bound of its kind that would have passed
    /// (for [`Bound::Close`] and [`Bound::Exact`], the elements outside; for [`Bound::Rounding`],
    /// the largest difference in units of its budget).
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

    /// Whether a bound is of what correct implementations may differ by, computed from the data.
    pub fn needs_budget(&self) -> bool {
        let budgeted = |bound: &Bound| {
            matches!(
                bound,
                Bound::Rounding | Bound::StatRounding | Bound::Flips(_)
            )
        };
        self.bounds.iter().any(budgeted)
    }

    /// Whether means are held to what rounding makes of them.
    pub fn holds_means_to_rounding(&self) -> bool {
        self.bounds.contains(&Bound::StatRounding)
    }

    /// Whether elements that differ by chance are counted.
    pub fn counts_flips(&self) -> bool {
        let counted = |bound: &Bound| matches!(bound, Bound::Flips(_));
        self.bounds.iter().any(counted)
    }

    /// Holds every bound against what was measured.
    pub fn judge(&self, metrics: &Metrics) -> Vec<BoundCheck> {
        self.bounds
            .iter()
            .map(|bound| bound.judge(metrics))
            .collect()
    }
}

impl Bound {
    fn judge(self, metrics: &Metrics) -> BoundCheck {
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
            Self::StatRms(allowed) => {
                let measured = metrics.statistics.judged().unwrap_or(f64::INFINITY);
                (over_rms(measured, metrics.reference_rms), allowed)
            }
            Self::StatRounding => (metrics.statistics_ratio.unwrap_or(f64::INFINITY), 1.0),
            // Nothing to compare differs by nothing; where no budget was computed the bound cannot
            // hold.
            Self::Rounding => match (&metrics.worst_ratio, &metrics.max_abs) {
                (Some(worst_ratio), _) => (worst_ratio.ratio, 1.0),
                (None, None) => (0.0, 1.0),
                (None, Some(_)) => (f64::INFINITY, 1.0),
            },
            Self::Flips(least) => {
                let log10_p = metrics.flips.as_ref().map_or(0.0, |flips| flips.log10_p);
                return BoundCheck {
                    bound: self,
                    // Not 0, however improbable: 0 is said of nothing measured.
                    measured: 10_f64.powf(log10_p).max(f64::MIN_POSITIVE),
                    holds: log10_p >= least.log10() && metrics.non_finite.disagreements == 0,
                };
            }
        };
        BoundCheck {
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
            Self::StatRms(_) => "stat_rms",
            Self::StatRounding => "stat_rounding",
            Self::Rounding => "rounding",
            Self::Flips(_) => "flips",
        }
    }
}

/// A difference in units of the reference's root mean square; nothing is nothing of anything.
fn over_rms(difference: f64, rms: Option<f64>) -> f64 {
    if difference == 0.0 {
        0.0
    } else {
        difference / rms.unwrap_or(1.0)
    }
}

impl FromStr for Bound {
    type Err = String;

    /// `exact`, `rounding`, or `kind=figure` of the others but `close`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, figure) = match text.split_once('=') {
            Some((kind, figure)) => (kind, Some(figure)),
            None => (text, None),
        };
        let number = || -> Result<f64, String> {
            let figure = figure.ok_or_else(|| format!("expected {kind}=FIGURE"))?;
            let number = figure.parse().ok();
            let number = number.filter(|number: &f64| number.is_finite() && *number >= 0.0);
            number.ok_or_else(|| format!("expected a figure that is not negative, found {figure}"))
        };
        match (kind, figure) {
            ("exact", None) => Ok(Self::Exact),
            ("rounding", None) => Ok(Self::Rounding),
            ("stat_rounding", None) => Ok(Self::StatRounding),
            ("abs", _) => number().map(Self::Abs),
            ("rel", _) => number().map(Self::Rel),
            ("stat", _) => number().map(Self::Stat),
            ("stat_rms", _) => number().map(Self::StatRms),
            ("flips", _) => match number()? {
                least if least > 0.0 && least < 1.0 => Ok(Self::Flips(least)),
                least => Err(format!(
                    "expected a probability between 0 and 1, the least that passes, found {least}"
                )),
            },
            ("ulp", _) => match number()? {
                ulp if ulp.fract() == 0.0 => Ok(Self::Ulp(ulp as u64)),
                ulp => Err(format!("expected whole ulps, found {ulp}")),
            },
            _ => Err(
                "expected exact, rounding, stat_rounding, abs=…, rel=…, ulp=…, stat=…, stat_rms=… or flips=…"
                    .into(),
            ),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact | Self::Rounding | Self::StatRounding => f.write_str(self.kind()),
            Self::Abs(bound)
            | Self::Rel(bound)
            | Self::Stat(bound)
            | Self::StatRms(bound)
            | Self::Flips(bound) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_they_are_written() {
        for (text, bound) in [
            ("exact", Bound::Exact),
            ("rounding", Bound::Rounding),
            ("abs=0.05", Bound::Abs(0.05)),
            ("rel=1e-6", Bound::Rel(1e-6)),
            ("ulp=2", Bound::Ulp(2)),
            ("stat=1e-6", Bound::Stat(1e-6)),
            ("stat_rms=1e-4", Bound::StatRms(1e-4)),
            ("flips=1e-6", Bound::Flips(1e-6)),
        ] {
            assert_eq!(text.parse(), Ok(bound));
        }
        for text in [
            "flips=0",
            "flips=1",
            "flips=2",
            "flips=nan",
            "",
            "rel",
            "exact=1",
            "rel=-1",
            "rel=nan",
            "rel=x",
            "ulp=1.5",
            "much=1",
        ] {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
    }
}
