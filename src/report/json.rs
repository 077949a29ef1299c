//! JSON; the schema is described in `docs/report.md`.

use super::summary::overall;
use crate::backend::Device;
use crate::case::Mode;
use crate::compare::{Bound, StatisticsDifference};
use crate::diff::{CaseOutcome, StageResult, Verdict};
use crate::tensor::DType;
use serde::{Serialize, Serializer};

pub(super) fn render(outcomes: &[CaseOutcome]) -> String {
    let report = Report {
        format: 1,
        verdict: overall(outcomes),
        first_failure: outcomes.iter().find_map(|outcome| {
            outcome.first_failure().map(|first| FirstFailure {
                case: &outcome.name,
                stage: first.stage.as_str(),
                mode: first.mode,
                device: first.device,
            })
        }),
        cases: outcomes.iter().map(case).collect(),
        stages: outcomes
            .iter()
            .flat_map(|outcome| {
                outcome
                    .stages
                    .iter()
                    .map(|result| stage(&outcome.name, result))
            })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
    text.push('\n');
    text
}

#[derive(Serialize)]
struct Report<'a> {
    format: u32,
    verdict: Verdict,
    first_failure: Option<FirstFailure<'a>>,
    cases: Vec<Case<'a>>,
    stages: Vec<Stage<'a>>,
}

#[derive(Serialize)]
struct FirstFailure<'a> {
    case: &'a str,
    stage: &'a str,
    mode: Mode,
    device: Option<Device>,
}

#[derive(Serialize)]
struct Case<'a> {
    case: &'a str,
    title: &'a str,
    verdict: Verdict,
    compared: usize,
    unrecorded: Vec<&'a str>,
    unmatched: Vec<&'a str>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Stage<'a> {
    case: &'a str,
    stage: &'a str,
    mode: Mode,
    device: Option<Device>,
    verdict: Verdict,
    dtype: DType,
    shape: &'a [usize],
    elements: usize,
    unequal: usize,
    unequal_fraction: Number,
    max_abs: Option<Extreme<'a>>,
    mean_abs: Number,
    relative_frobenius: Number,
    max_ulp: Option<u64>,
    nan: [usize; 2],
    inf: [usize; 2],
    non_finite_disagreements: usize,
    statistics: Statistics,
    tolerance: Tolerance<'a>,
    rounds_elsewhere: Option<Departure<'a>>,
    reference_completed: Option<&'static str>,
}

#[derive(Serialize)]
struct Extreme<'a> {
    difference: Number,
    position: &'a [usize],
    reference: Number,
    candidate: Number,
}

#[derive(Serialize)]
struct Statistics {
    token_mean: Option<Number>,
    token_min: Option<Number>,
    token_max: Option<Number>,
    token_sum: Option<Number>,
    vocab_shard_mean: Option<Number>,
}

#[derive(Serialize)]
struct Tolerance<'a> {
    origin: &'a str,
    bounds: Vec<Judged>,
}

#[derive(Serialize)]
struct Judged {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    atol: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtol: Option<Number>,
    measured: Number,
    holds: bool,
}

#[derive(Serialize)]
struct Departure<'a> {
    candidate: &'a str,
    reference: &'a str,
    candidate_lacks: &'a [String],
}

/// A number; JSON has no NaN and no infinity, so those are the texts "NaN", "inf" and "-inf".
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.is_finite() {
            true => serializer.serialize_f64(self.0),
            false => serializer.collect_str(&self.0),
        }
    }
}

fn case(outcome: &CaseOutcome) -> Case<'_> {
    Case {
        case: &outcome.name,
        title: &outcome.title,
        verdict: outcome.verdict(),
        compared: outcome.coverage.compared,
        unrecorded: outcome
            .coverage
            .unrecorded
            .iter()
            .map(|s| s.as_str())
            .collect(),
        unmatched: outcome
            .coverage
            .unmatched
            .iter()
            .map(|s| s.as_str())
            .collect(),
        notes: &outcome.notes,
    }
}

fn stage<'a>(case: &'a str, result: &'a StageResult) -> Stage<'a> {
    let metrics = &result.metrics;
    let not_finite = &metrics.non_finite;
    Stage {
        case,
        stage: result.stage.as_str(),
        mode: result.mode,
        device: result.device,
        verdict: result.verdict(),
        dtype: result.dtype,
        shape: &result.shape,
        elements: metrics.elements,
        unequal: metrics.unequal,
        unequal_fraction: Number(metrics.unequal_fraction()),
        max_abs: metrics.max_abs.as_ref().map(|worst| Extreme {
            difference: Number(worst.difference),
            position: &worst.position,
            reference: Number(worst.reference),
            candidate: Number(worst.candidate),
        }),
        mean_abs: Number(metrics.mean_abs),
        relative_frobenius: Number(metrics.relative_frobenius),
        max_ulp: metrics.max_ulp,
        nan: [not_finite.reference_nans, not_finite.candidate_nans],
        inf: [
            not_finite.reference_infinities,
            not_finite.candidate_infinities,
        ],
        non_finite_disagreements: not_finite.disagreements,
        statistics: statistics(&metrics.statistics),
        tolerance: Tolerance {
            origin: &result.in_force.origin,
            bounds: result.judgements.iter().map(judged).collect(),
        },
        rounds_elsewhere: result.departure.as_ref().map(|departure| Departure {
            candidate: &departure.ours,
            reference: &departure.theirs,
            candidate_lacks: &departure.lacks,
        }),
        reference_completed: result.completed,
    }
}

fn statistics(difference: &StatisticsDifference) -> Statistics {
    Statistics {
        token_mean: difference.token_mean.map(Number),
        token_min: difference.token_min.map(Number),
        token_max: difference.token_max.map(Number),
        token_sum: difference.token_sum.map(Number),
        vocab_shard_mean: difference.vocab_shard_mean.map(Number),
    }
}

fn judged(judgement: &crate::compare::Judgement) -> Judged {
    let (allowed, close) = match judgement.bound {
        Bound::Exact => (Some(0.0), None),
        Bound::Rounding => (Some(1.0), None),
        Bound::Abs(allowed)
        | Bound::Rel(allowed)
        | Bound::Stat(allowed)
        | Bound::Flips(allowed) => (Some(allowed), None),
        Bound::Ulp(allowed) => (Some(allowed as f64), None),
        Bound::Close(close) => (None, Some(close)),
    };
    Judged {
        kind: judgement.bound.kind(),
        allowed: allowed.map(Number),
        atol: close.map(|close| Number(close.atol)),
        rtol: close.map(|close| Number(close.rtol)),
        measured: Number(judgement.measured),
        holds: judgement.holds,
    }
}
