//! How differences of two runs grow, where no plan says what rounding explains.

use super::outcome::{StageResult, Verdict};
use crate::case::{ResolvedTolerance, after_a_block, two_digits};
use crate::compare::{Bound, Tolerance};
use crate::tensor::DType;

/// By how much a stage may be farther off than any before it. Of eager attention against torch's fused one, in Llama
/// and Qwen3 of twelve blocks in fp32 and bf16, none was more than 1.8 times as far off.
const STEP: f64 = 4.0;

/// How far apart the stages so far were, of those that passed.
#[derive(Default)]
pub(super) struct Growth {
    largest: f64,
    /// The stage that it was.
    at: String,
    /// The largest step from one stage to the next that was farther off, with that stage.
    step: Option<(f64, String)>,
    first: Option<(f64, String)>,
}

impl Growth {
    /// A tolerance by depth, held to what stages before explain as well; one that a person asked for stays.
    pub(super) fn tightened(&self, resolved: ResolvedTolerance, dtype: DType) -> ResolvedTolerance {
        let [Bound::Rel(by_depth)] = resolved.tolerance.bounds.as_slice() else {
            return resolved;
        };
        // However equal the ones before it were.
        let least = after_a_block(dtype);
        let by_growth = least.max(STEP * self.largest);
        if by_growth >= *by_depth {
            return resolved;
        }
        let by_growth = two_digits(by_growth);
        let origin = match self.largest {
            largest if STEP * largest > least => {
                format!(
                    "{}, {STEP} times the {largest:.1e} of {}",
                    resolved.origin, self.at
                )
            }
            _ => format!("{}, the least for any stage", resolved.origin),
        };
        ResolvedTolerance {
            tolerance: Tolerance {
                bounds: vec![Bound::Rel(by_growth)],
            },
            origin,
        }
    }

    /// Takes note of a stage that was judged.
    pub(super) fn add(&mut self, result: &StageResult) {
        let off = result.metrics.relative_frobenius;
        if result.verdict() == Verdict::Fail || off.is_nan() || off <= self.largest {
            return;
        }
        let here = result.stage.as_str();
        if self.largest > 0.0 {
            let step = off / self.largest;
            if self.step.as_ref().is_none_or(|(most, _)| step > *most) {
                self.step = Some((step, here.to_owned()));
            }
        } else {
            self.first = Some((off, here.to_owned()));
        }
        self.largest = off;
        self.at = here.to_owned();
    }

    /// What to say of it.
    pub(super) fn note(&self, stages: &[StageResult]) -> String {
        let failing = stages
            .iter()
            .find(|result| result.verdict() == Verdict::Fail);
        let before = match (&self.first, &self.step) {
            (None, _) => "none is off at all".to_owned(),
            (Some((off, first)), None) => format!("off by {off:.1e} at {first}, and nowhere more"),
            (Some((off, first)), Some((step, at))) => format!(
                "differences grow from {off:.1e} at {first} to {:.1e} at {}, by {step:.1} times at {at} at most",
                self.largest, self.at
            ),
        };
        match failing {
            None => before,
            Some(result) => format!(
                "{} stands out, off by {:.1e}; of those that pass, {before}",
                result.stage, result.metrics.relative_frobenius
            ),
        }
    }
}
