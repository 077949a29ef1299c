//! JSON; the schema is described in `docs/report.md`.

use super::summary::overall;
use crate::backend::{Device, Gpu, Product};
use crate::case::Mode;
use crate::compare::{self, Bound, StatisticsDifference};
use crate::diff::{self, CaseOutcome, StageResult, Stretch, Verdict};
use crate::explain;
use crate::plan::StageId;
use crate::tensor::DType;
use serde::{Serialize, Serializer};

pub(super) fn render(outcomes: &[CaseOutcome]) -> String {
    let report = Report {
        format: 2,
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
    incomparable: Vec<Incomparable<'a>>,
    coverage: Coverage<'a>,
    explanations: Vec<Explained<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_gpu: Option<OnGpu<'a>>,
    notes: &'a [String],
}

/// A stage that both sides hold, and why it cannot be compared.
#[derive(Serialize)]
struct Incomparable<'a> {
    stage: &'a str,
    why: &'a str,
}

/// What of the golden was compared.
#[derive(Serialize)]
struct Coverage<'a> {
    expected: usize,
    compared: usize,
    skipped: Vec<&'a str>,
    empty: Vec<&'a str>,
    untouched: Vec<Untouched<'a>>,
    fault: Option<String>,
}

/// Weights that nothing compared depends on.
#[derive(Serialize)]
struct Untouched<'a> {
    tensor: &'a str,
    rows: Option<usize>,
    of: Option<usize>,
    non_finite: usize,
}

/// What ran on a GPU.
#[derive(Serialize)]
struct OnGpu<'a> {
    gpu: &'a Gpu,
    exactly_comparable: bool,
    held_exactly: bool,
    differences: &'a [String],
    elapsed_ms: Number,
    peak_memory: u64,
    products: &'a [Product],
}

#[derive(Serialize)]
struct Explained<'a> {
    stages: Vec<&'a str>,
    complete: bool,
    before: Evidence,
    causes: Vec<Cause<'a>>,
    hints: &'a [String],
    untried: Vec<&'a str>,
}

#[derive(Serialize)]
struct Cause<'a> {
    id: Option<&'static str>,
    finding: &'a str,
    remedy: &'a str,
    after: Evidence,
    alternatives: &'a [String],
}

#[derive(Serialize)]
struct Evidence {
    diff_over_budget: Number,
    relative_frobenius: Number,
    unequal: usize,
    elements: usize,
    flips: Option<Flips>,
}

#[derive(Serialize)]
struct Budget<'a> {
    diff_over_budget: Number,
    budget: Number,
    worst: Extreme<'a>,
}

/// Elements that differ where both sides round at the same places.
#[derive(Serialize)]
struct Flips {
    observed: usize,
    expected: Number,
    observed_fraction: Number,
    expected_fraction: Number,
    log10_p: Number,
}

#[derive(Serialize)]
struct Oracle {
    reference_error: Number,
    candidate_error: Number,
    ratio: Number,
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
    reference_rms: Option<Number>,
    max_ulp: Option<u64>,
    nan: [usize; 2],
    inf: [usize; 2],
    non_finite_disagreements: usize,
    statistics: Statistics,
    budget: Option<Budget<'a>>,
    flips: Option<Flips>,
    oracle: Option<Oracle>,
    tolerance: Tolerance<'a>,
    plan_difference: Option<PlanDifference<'a>>,
    judged_over: Vec<JudgedOver<'a>>,
    reference_aligned: Option<&'static str>,
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
    token_projection: Option<Number>,
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
struct JudgedOver<'a> {
    stage: &'a str,
    plan_difference: Option<PlanDifference<'a>>,
}

#[derive(Serialize)]
struct PlanDifference<'a> {
    candidate: &'a str,
    reference: &'a str,
    same_formula: bool,
    candidate_lacks: &'a [String],
}

/// A number; JSON has no NaN and no infinity, so those are the texts "NaN", "inf" and "-inf".
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

fn names(stages: &[StageId]) -> Vec<&str> {
    stages.iter().map(StageId::as_str).collect()
}

fn case(outcome: &CaseOutcome) -> Case<'_> {
    Case {
        case: &outcome.name,
        title: &outcome.title,
        verdict: outcome.verdict(),
        compared: outcome.coverage.compared,
        unrecorded: names(&outcome.coverage.unrecorded),
        unmatched: names(&outcome.coverage.unmatched),
        incomparable: outcome
            .coverage
            .incomparable
            .iter()
            .map(incomparable)
            .collect(),
        coverage: Coverage {
            expected: outcome.coverage.expected,
            compared: outcome.coverage.compared,
            skipped: names(&outcome.coverage.skipped),
            empty: names(&outcome.coverage.empty),
            untouched: outcome.coverage.untouched.iter().map(untouched).collect(),
            fault: outcome.coverage.fault(),
        },
        explanations: outcome.explanations.iter().map(explained).collect(),
        on_gpu: outcome.on_gpu.as_ref().map(|on_gpu| OnGpu {
            gpu: &on_gpu.gpu,
            exactly_comparable: on_gpu.not_comparable.is_empty(),
            held_exactly: outcome.is_held_exactly(),
            differences: &on_gpu.not_comparable,
            elapsed_ms: Number(on_gpu.stats.elapsed_ms),
            peak_memory: on_gpu.stats.peak_memory,
            products: &on_gpu.stats.products,
        }),
        notes: &outcome.notes,
    }
}

fn incomparable(of: &diff::Incomparable) -> Incomparable<'_> {
    Incomparable {
        stage: of.stage.as_str(),
        why: &of.why,
    }
}

fn untouched(weight: &diff::Untouched) -> Untouched<'_> {
    Untouched {
        tensor: &weight.tensor,
        rows: weight.rows.map(|(rows, _)| rows),
        of: weight.rows.map(|(_, of)| of),
        non_finite: weight.non_finite,
    }
}

fn explained(explanation: &explain::Explanation) -> Explained<'_> {
    let causes = explanation.causes.iter().map(|cause| Cause {
        id: cause.rule,
        finding: &cause.finding,
        remedy: &cause.remedy,
        after: evidence(&cause.after),
        alternatives: &cause.alternatives,
    });
    Explained {
        stages: explanation.stages.iter().map(|s| s.as_str()).collect(),
        complete: explanation.complete,
        before: evidence(&explanation.before),
        causes: causes.collect(),
        hints: &explanation.hints,
        untried: explanation.untried.iter().map(|s| s.as_str()).collect(),
    }
}

fn evidence(evidence: &explain::Evidence) -> Evidence {
    Evidence {
        diff_over_budget: Number(evidence.ratio),
        relative_frobenius: Number(evidence.relative_frobenius),
        unequal: evidence.unequal,
        elements: evidence.elements,
        flips: evidence.flips.as_ref().map(flips),
    }
}

fn flips(flips: &compare::Flips) -> Flips {
    Flips {
        observed: flips.observed,
        expected: Number(flips.expected),
        observed_fraction: Number(flips.fraction()),
        expected_fraction: Number(flips.expected_fraction()),
        log10_p: Number(flips.log10_p),
    }
}

fn extreme(worst: &compare::Extreme) -> Extreme<'_> {
    Extreme {
        difference: Number(worst.difference),
        position: &worst.position,
        reference: Number(worst.reference),
        candidate: Number(worst.candidate),
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
        max_abs: metrics.max_abs.as_ref().map(extreme),
        mean_abs: Number(metrics.mean_abs),
        relative_frobenius: Number(metrics.relative_frobenius),
        reference_rms: metrics.reference_rms.map(Number),
        max_ulp: metrics.max_ulp,
        nan: [not_finite.reference_nans, not_finite.candidate_nans],
        inf: [
            not_finite.reference_infinities,
            not_finite.candidate_infinities,
        ],
        non_finite_disagreements: not_finite.disagreements,
        statistics: statistics(&metrics.statistics),
        budget: metrics.worst_ratio.as_ref().map(|worst_ratio| Budget {
            diff_over_budget: Number(worst_ratio.ratio),
            budget: Number(worst_ratio.allowed),
            worst: extreme(&worst_ratio.worst),
        }),
        flips: metrics.flips.as_ref().map(flips),
        oracle: result.oracle.as_ref().map(|oracle| Oracle {
            reference_error: Number(oracle.reference),
            candidate_error: Number(oracle.candidate),
            ratio: Number(oracle.ratio()),
        }),
        tolerance: Tolerance {
            origin: &result.resolved.origin,
            bounds: result.checks.iter().map(judged).collect(),
        },
        plan_difference: result.plan_difference().map(plan_difference),
        judged_over: judged_over(&result.stretch),
        reference_aligned: result.aligned,
    }
}

fn plan_difference(difference: &crate::plan::PlanDifference) -> PlanDifference<'_> {
    PlanDifference {
        candidate: &difference.ours,
        reference: &difference.theirs,
        same_formula: !difference.formula,
        candidate_lacks: &difference.lacks,
    }
}

fn judged_over(stretch: &Stretch) -> Vec<JudgedOver<'_>> {
    let stages = stretch.through.iter().map(|stage| JudgedOver {
        stage: stage.as_str(),
        plan_difference: stretch.difference(stage).map(plan_difference),
    });
    stages.collect()
}

fn statistics(difference: &StatisticsDifference) -> Statistics {
    Statistics {
        token_mean: difference.token_mean.map(Number),
        token_min: difference.token_min.map(Number),
        token_max: difference.token_max.map(Number),
        token_sum: difference.token_sum.map(Number),
        vocab_shard_mean: difference.vocab_shard_mean.map(Number),
        token_projection: difference.token_projection.map(Number),
    }
}

fn judged(check: &crate::compare::BoundCheck) -> Judged {
    let (allowed, close) = match check.bound {
        Bound::Exact => (Some(0.0), None),
        Bound::Rounding | Bound::StatRounding => (Some(1.0), None),
        Bound::Abs(allowed)
        | Bound::Rel(allowed)
        | Bound::Stat(allowed)
        | Bound::StatRms(allowed)
        | Bound::Flips(allowed) => (Some(allowed), None),
        Bound::Ulp(allowed) => (Some(allowed as f64), None),
        Bound::Close(close) => (None, Some(close)),
    };
    Judged {
        kind: check.bound.kind(),
        allowed: allowed.map(Number),
        atol: close.map(|close| Number(close.atol)),
        rtol: close.map(|close| Number(close.rtol)),
        measured: Number(check.measured),
        holds: check.holds,
    }
}
