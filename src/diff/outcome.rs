//! What came out.

use super::align::AlignedStage;
use super::prepare::Prepared;
use super::routing::RoutingResult;
use super::stretch::Stretch;
use super::untouched::Untouched;
use super::{Options, Share};
use crate::backend::{AnyBackend, Device, Gpu, GpuStats};
use crate::case::{Mode, ResolvedTolerance};
use crate::compare::{Bound, BoundCheck, Metrics, Spec, compare};
use crate::error::Result;
use crate::explain::Explanation;
use crate::golden::Golden;
use crate::plan::{PlanDifference, StageId};
use crate::tensor::{DType, Tensor};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;

/// Whether parity holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within tolerance.
    Pass,
    /// Out of tolerance.
    Fail,
}

/// One stage in one mode.
#[derive(Clone, Debug)]
pub struct StageResult {
    /// The stage.
    pub stage: StageId,
    /// Where its inputs came from.
    pub mode: Mode,
    /// Where it was computed; `None` if it was recorded elsewhere.
    pub device: Option<Device>,
    /// The type of its values.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What was measured.
    pub metrics: Metrics,
    /// What had to hold, and why.
    pub resolved: ResolvedTolerance,
    /// Whether each of its bounds holds.
    pub checks: Vec<BoundCheck>,
    /// Over which steps it was judged, and where the candidate's plan differs from the reference's.
    pub stretch: Stretch,
    /// How far both sides are from the exact result, if the oracle was asked.
    pub oracle: Option<OracleErrors>,
    /// What was done to the recorded value to make it comparable: "bias added".
    pub aligned: Option<&'static str>,
    /// Of a choice of experts, whose differs and whether that is noise.
    pub routing: Option<RoutingResult>,
}

/// Relative Frobenius distances from what the same plan gives in fp64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OracleErrors {
    /// The reference's.
    pub reference: f64,
    /// The candidate's.
    pub candidate: f64,
}

/// A stage that both sides hold, and whose values cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomparable {
    /// The stage.
    pub stage: StageId,
    /// Why: `shape [18, 88] in the reference, [44, 88] in the candidate`.
    pub why: String,
}

/// What was and was not compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coverage {
    /// Stages that the golden holds.
    pub expected: usize,
    /// Those of them that were compared, an element at least.
    pub compared: usize,
    /// Stages that were compared in every mode that ran.
    pub modes: Vec<(Mode, usize)>,
    /// Stages of the model that the golden does not hold.
    pub unrecorded: Vec<StageId>,
    /// Stages of the golden that no stage of the model can be compared with.
    pub unmatched: Vec<StageId>,
    /// Stages that both sides hold and that cannot be compared; there is no pass with one.
    pub incomparable: Vec<Incomparable>,
    /// Stages of the golden that were not selected, or not reached.
    pub skipped: Vec<StageId>,
    /// Stages that were judged and have no elements.
    pub empty: Vec<StageId>,
    /// Weights that nothing compared depends on.
    pub untouched: Vec<Untouched>,
    /// The share of the expected ones that has to be compared.
    pub required: Share,
}

/// What ran on a GPU.
#[derive(Clone, Debug)]
pub struct OnGpu {
    /// The GPU and its libraries.
    pub gpu: Gpu,
    /// Why results cannot be held to the bit against the reference; nothing if they can.
    pub not_comparable: Vec<String>,
    /// What the run took and did.
    pub stats: GpuStats,
}

/// All of one case.
#[derive(Clone, Debug)]
pub struct CaseOutcome {
    /// The case's name.
    pub name: String,
    /// What was compared with what, in words.
    pub title: String,
    /// The judged stages, in execution order.
    pub stages: Vec<StageResult>,
    /// What was and was not compared.
    pub coverage: Coverage,
    /// Why stages fail, if that was asked.
    pub explanations: Vec<Explanation>,
    /// What ran on a GPU, if one was used.
    pub on_gpu: Option<OnGpu>,
    /// What a reader should know: settings that differ, modes that could not run.
    pub notes: Vec<String>,
}

impl OracleErrors {
    /// Of the values of one stage.
    ///
    /// # Errors
    /// If their shapes differ.
    pub(super) fn new(exact: &Tensor, reference: &Tensor, candidate: &Tensor) -> Result<Self> {
        let distance = |of: &Tensor| {
            let metrics = compare(exact, of, &Spec::default());
            metrics.map(|metrics| metrics.relative_frobenius)
        };
        Ok(Self {
            reference: distance(reference)?,
            candidate: distance(candidate)?,
        })
    }

    /// The candidate's error in units of the reference's; 1 if neither has one.
    pub fn ratio(&self) -> f64 {
        if self.candidate == self.reference {
            1.0
        } else {
            self.candidate / self.reference
        }
    }
}

impl StageResult {
    /// Whether nothing less than equality was asked.
    pub fn is_held_exactly(&self) -> bool {
        self.resolved.tolerance.bounds.contains(&Bound::Exact)
    }

    /// How the candidate's plan differs from the reference's at the stage itself, if it does.
    pub fn plan_difference(&self) -> Option<&PlanDifference> {
        self.stretch.difference(&self.stage)
    }

    /// Whether every bound holds.
    pub fn verdict(&self) -> Verdict {
        let agree = self.metrics.non_finite.disagreements == 0;
        if agree && self.checks.iter().all(|check| check.holds) {
            Verdict::Pass
        } else {
            Verdict::Fail
        }
    }
}

impl Coverage {
    /// Of what a golden holds and was judged in these modes. The rest is for the caller to say.
    pub(super) fn of(
        golden: &Golden,
        judged: &[StageResult],
        modes: &[Mode],
        options: &Options,
    ) -> Self {
        let stages_of = |is_such: &dyn Fn(&StageResult) -> bool| -> HashSet<&StageId> {
            let such = judged.iter().filter(|result| is_such(result));
            such.map(|result| &result.stage).collect()
        };
        let compared = stages_of(&|result| result.metrics.elements > 0);
        let in_mode = |mode: &Mode| {
            let stages = stages_of(&|result| result.mode == *mode && result.metrics.elements > 0);
            (*mode, stages.len())
        };
        let all = stages_of(&|_| true);
        let held = golden.manifest().stages.iter().map(|record| &record.stage);
        let (judged, skipped): (Vec<&StageId>, Vec<&StageId>) =
            held.partition(|stage| all.contains(stage));
        let empty = judged.iter().filter(|stage| !compared.contains(*stage));
        Self {
            expected: judged.len() + skipped.len(),
            compared: compared.len(),
            modes: modes.iter().map(in_mode).collect(),
            empty: empty.map(|stage| (*stage).clone()).collect(),
            skipped: skipped.into_iter().cloned().collect(),
            required: options.coverage,
            ..Self::default()
        }
    }

    /// What of it is too little for a pass, if anything is: a comparison of nothing is none.
    pub fn fault(&self) -> Option<String> {
        if let Some((mode, _)) = self.modes.iter().find(|(_, compared)| *compared == 0) {
            return Some(format!("nothing was compared in {mode} mode"));
        }
        if let Some(first) = self.incomparable.first() {
            let others = match self.incomparable.len() {
                1 => String::new(),
                2 => ", nor can 1 other".into(),
                all => format!(", nor can {} others", all - 1),
            };
            return Some(format!(
                "{first} cannot be compared{others}; what need not be is left out by \"{}\": null in the file \
                 of --map",
                first.stage
            ));
        }
        let broken = self.untouched.iter().find(|weight| weight.non_finite > 0);
        if let Some(weight) = broken {
            return Some(format!(
                "{} NaN or infinite values in {weight}, which no comparison depends on",
                weight.non_finite
            ));
        }
        let (compared, expected) = (self.compared, self.expected);
        let missed = || {
            format!(
                "{compared} of the {expected} stages that the reference holds were compared, where {} are \
                 required",
                self.required
            )
        };
        (!self.required.is_met(compared, expected)).then(missed)
    }

    /// Of the stages that were judged, against those that the golden holds and the model has.
    fn new(prepared: &Prepared<'_>, judged: &[StageResult], untouched: Vec<Untouched>) -> Self {
        let candidate = &prepared.candidate;
        let coverage = Self::of(prepared.golden, judged, &prepared.modes, prepared.options);
        let held: HashSet<&StageId> = candidate
            .alignment
            .iter()
            .map(AlignedStage::stage)
            .collect();
        let steps = candidate.plan.steps().iter();
        let computed = steps.filter(|step| !step.op.locality().is_copy());
        let computed: HashSet<&StageId> = computed.map(|step| &step.stage).collect();
        let stages = candidate.plan.stages().into_iter();
        let unrecorded = stages.filter(|stage| computed.contains(stage) && !held.contains(stage));
        let recorded = prepared.golden.manifest().stages.iter();
        let unmatched = recorded.map(|record| &record.stage);
        let unmatched = unmatched.filter(|stage| !held.contains(stage));
        let skipped = coverage.skipped.into_iter();
        Self {
            unrecorded: unrecorded.cloned().collect(),
            unmatched: unmatched.cloned().collect(),
            skipped: skipped.filter(|stage| held.contains(stage)).collect(),
            untouched,
            ..coverage
        }
    }
}

impl CaseOutcome {
    /// Of a case that has run.
    pub(super) fn new(
        prepared: Prepared<'_>,
        stages: Vec<StageResult>,
        explanations: Vec<Explanation>,
        on_gpu: Option<OnGpu>,
        untouched: Vec<Untouched>,
    ) -> Self {
        let manifest = prepared.golden.manifest();
        let place = match &prepared.options.backend {
            AnyBackend::Cpu(_) => Device::Cpu.to_string(),
            AnyBackend::Cuda(cuda) => format!("{} ({})", Device::Cuda, cuda.gpu().name),
        };
        let title = format!(
            "{} model in {} arithmetic on {place} against {} ({}, {})",
            prepared.candidate.plan.dtype(),
            prepared.arithmetic,
            manifest.provenance.framework,
            manifest.arithmetic,
            manifest.provenance.device,
        );
        let coverage = Coverage::new(&prepared, &stages, untouched);
        let unexplained = unexplained(&prepared, &stages);
        let mut notes = prepared.notes;
        notes.extend(unexplained.map(String::from));
        notes.extend(stages.iter().filter_map(|result| {
            let note = result.routing?.note(result.mode)?;
            Some(format!("{} ({}): {note}", result.stage, result.mode))
        }));
        Self {
            name: prepared.case.name.clone(),
            title,
            stages,
            coverage,
            explanations,
            on_gpu,
            notes,
        }
    }

    /// Whether nothing less than equality was asked of any stage.
    pub fn is_held_exactly(&self) -> bool {
        self.stages.iter().all(StageResult::is_held_exactly)
    }

    /// Whether every stage passes, and there are stages.
    pub fn verdict(&self) -> Verdict {
        match (self.first_failure(), self.coverage.fault()) {
            (None, None) => Verdict::Pass,
            _ => Verdict::Fail,
        }
    }

    /// Where to look first: the first stage that fails on the reference's own inputs, since that is
    /// where a difference arises; else the first that fails at all.
    pub fn first_failure(&self) -> Option<&StageResult> {
        let mut failures = self.failures();
        let isolated = self.failures().find(|result| result.mode == Mode::Isolated);
        isolated.or_else(|| failures.next())
    }

    /// The stages that fail, in execution order.
    pub fn failures(&self) -> impl Iterator<Item = &StageResult> {
        let failed = |result: &&StageResult| result.verdict() == Verdict::Fail;
        self.stages.iter().filter(failed)
    }
}

/// Why failures have no explanation although that was asked: causes are looked for on the reference's own
/// inputs.
fn unexplained(prepared: &Prepared<'_>, stages: &[StageResult]) -> Option<&'static str> {
    let fails = |mode| {
        let mut results = stages.iter();
        results.any(|result| result.mode == mode && result.verdict() == Verdict::Fail)
    };
    if !prepared.options.explain || !fails(Mode::Chained) || fails(Mode::Isolated) {
        None
    } else if prepared.modes.contains(&Mode::Isolated) {
        Some("every stage holds on the reference's own inputs: what differs has accumulated")
    } else {
        Some("nothing is explained: causes are looked for in isolated mode")
    }
}

impl fmt::Display for Incomparable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.stage, self.why)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
        })
    }
}
