//! What has to hold of a stage, and whether it does.

use super::Options;
use super::align::{AlignedStage, Recorded, RecordedValue};
use super::outcome::{OracleErrors, StageResult};
use super::reference_run::{Mismatches, Prediction};
use super::routing::RoutingResult;
use super::stretch::Stretch;
use crate::arch::ModelConfig;
use crate::backend::Device;
use crate::case::{Mode, ResolvedTolerance, Rules, ToleranceContext};
use crate::compare::{Budget, Flips};
use crate::compare::{Measure, Measuring, Spec, compare, compare_statistics, rounding_of_means};
use crate::error::Result;
use crate::op::ErrorBound;
use crate::plan::StageId;
use crate::tensor::Tensor;
use std::collections::HashMap;

/// Judges the stages of one comparison.
pub(super) struct Judge<'a> {
    pub(super) rules: &'a Rules,
    pub(super) options: &'a Options,
    /// Where the candidate is computed; `None` if it was recorded elsewhere.
    pub(super) device: Option<Device>,
    /// Whether the reference comes from the device's own kernels, so that results can be exact.
    pub(super) same_kernels: bool,
    /// The model whose stages they are.
    pub(super) model: &'a ModelConfig,
    /// For every step, over which others its value is judged, and where the candidate's plan differs
    /// from the reference's on the way.
    pub(super) stretches: HashMap<StageId, Stretch>,
}

/// The candidate's value of a stage.
pub(super) struct Computed<A> {
    /// Where the backend computes.
    pub(super) array: A,
    /// The same in this process's memory, if a budget or the oracle asks.
    pub(super) found: Option<Tensor>,
    /// How far a correct one may be from exact, if it has a budget.
    pub(super) error_bound: Option<ErrorBound>,
    /// The same in fp64, if the oracle is asked.
    pub(super) exact: Option<Tensor>,
    /// Of a choice of experts, how it compares with the reference's.
    pub(super) routing: Option<RoutingResult>,
}

impl<A> Computed<A> {
    /// A value that was recorded.
    pub(super) fn recorded(array: A) -> Self {
        Self {
            array,
            found: None,
            error_bound: None,
            exact: None,
            routing: None,
        }
    }

    fn oracle_errors(&self, reference: &Tensor) -> Result<Option<OracleErrors>> {
        let sides = self.exact.as_ref().zip(self.found.as_ref());
        let errors = sides.map(|(exact, found)| OracleErrors::new(exact, reference, found));
        errors.transpose()
    }
}

/// A stage whose comparison may still be in flight.
pub(super) struct Pending<'a> {
    stage: &'a AlignedStage<'a>,
    mode: Mode,
    resolved: ResolvedTolerance,
    oracle: Option<OracleErrors>,
    own_nans: usize,
    metrics: Measuring,
    routing: Option<RoutingResult>,
}

impl Pending<'_> {
    /// Whether there is nothing to wait for.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.metrics, Measuring::Done(_))
    }
}

impl Judge<'_> {
    /// Whether a stage is judged.
    pub(super) fn is_selected(&self, stage: &AlignedStage<'_>) -> bool {
        self.options.stages.matches(stage.stage())
    }

    /// Whether a stage is judged by its budget when it runs isolated.
    pub(super) fn has_budget(&self, stage: &AlignedStage<'_>) -> bool {
        let asked = || {
            let resolved = self.resolve(stage, Mode::Isolated, true);
            resolved.tolerance.needs_budget() || self.options.explain
        };
        self.is_selected(stage)
            && stage.is_full()
            && self.has_known_roundings(stage)
            && self.options.modes.list().contains(&Mode::Isolated)
            && asked()
    }

    /// Whether the reference's roundings since recorded values are those of a plan: a product that ran in a
    /// type of its own is of none.
    fn has_known_roundings(&self, stage: &AlignedStage<'_>) -> bool {
        let reduced = stage.is_of_reduced_products();
        let alone = self.is_of_one_step(stage) && !stage.is_reduced_product();
        stage.is_of_one_type() && (alone || !reduced)
    }

    /// Whether a stage is made of recorded values alone.
    fn is_of_one_step(&self, stage: &AlignedStage<'_>) -> bool {
        let stretch = self.stretches.get(&stage.id);
        stretch.is_none_or(|stretch| stretch.through.is_empty())
    }

    /// Whether the flips of a stage are counted.
    pub(super) fn counts_flips(&self, stage: &AlignedStage<'_>) -> bool {
        let resolved = self.resolve(stage, Mode::Isolated, true);
        resolved.tolerance.counts_flips()
    }

    /// What has to hold of a stage in a mode; `budgeted` says whether it can have a budget.
    fn resolve(&self, stage: &AlignedStage<'_>, mode: Mode, budgeted: bool) -> ResolvedTolerance {
        // Over several steps of which no rounding is known, errors grow as they do in a chain.
        let grows = !budgeted && stage.is_of_reduced_products() && !self.is_of_one_step(stage);
        self.rules.resolve(&ToleranceContext {
            stage: stage.stage(),
            device: self.device,
            same_kernels: self.same_kernels,
            mode: if grows { Mode::Chained } else { mode },
            dtype: if budgeted {
                stage.dtype
            } else {
                stage.judged_as
            },
            budgeted,
            role: self.model.role(stage.stage()),
            layers: self.model.layers(),
        })
    }

    /// Begins the comparison of a stage's value with what was recorded.
    pub(super) fn begin<'s, B: Measure>(
        &self,
        stage: &'s AlignedStage<'s>,
        mode: Mode,
        recorded: &Recorded<B::Array>,
        computed: &Computed<B::Array>,
        prediction: Option<&Prediction>,
        backend: &B,
    ) -> Result<Pending<'s>> {
        // Statistics have no budget, though later stages carry on the bound of what they are of.
        let budgeted = computed.error_bound.is_some() && stage.is_full();
        let resolved = self.resolve(stage, mode, budgeted);
        let metrics = match recorded {
            Recorded::Full(value) => {
                let metrics = self.measure(stage, &resolved, value, computed, prediction, backend);
                metrics.map_err(|e| e.in_file(stage.manifest()))?
            }
            Recorded::Statistics(statistics) => {
                let found = backend.download(&computed.array)?;
                let metrics = compare_statistics(statistics, &found);
                Measuring::done(metrics.map_err(|e| e.in_file(stage.file()))?)
            }
        };
        let (own_nans, oracle) = match recorded {
            Recorded::Full(value) => (value.own_nans, computed.oracle_errors(&value.aligned)?),
            Recorded::Statistics(_) => (0, None),
        };
        Ok(Pending {
            stage,
            mode,
            resolved,
            oracle,
            own_nans,
            metrics,
            routing: computed.routing,
        })
    }

    /// What a stage is judged over. A chained run has nothing but its own values: there it is the whole
    /// model, and only the stage itself is described.
    fn stretch(&self, stage: &AlignedStage<'_>, mode: Mode) -> Stretch {
        let Some(stretch) = self.stretches.get(&stage.id) else {
            return Stretch::default();
        };
        let mut stretch = stretch.clone();
        if mode != Mode::Isolated {
            stretch.through.clear();
            stretch.differences.retain(|(of, _)| of == stage.stage());
        }
        stretch
    }

    fn measure<B: Measure>(
        &self,
        stage: &AlignedStage<'_>,
        resolved: &ResolvedTolerance,
        recorded: &RecordedValue<B::Array>,
        computed: &Computed<B::Array>,
        prediction: Option<&Prediction>,
        backend: &B,
    ) -> Result<Measuring> {
        let spec = stage.spec(resolved.tolerance.close());
        let (Some(ours), Some(found)) = (&computed.error_bound, &computed.found) else {
            return backend.measure(&recorded.array, &computed.array, &spec);
        };
        // Both sides have the candidate's error bound, unless the reference has steps of its own.
        let theirs = prediction.and_then(|prediction| prediction.error_bound.as_ref());
        let theirs = theirs.unwrap_or(ours);
        let budget = Budget::new(ours, theirs, self.options.confidence);
        let spec = Spec {
            budget: Some(budget.allowed()),
            ..spec
        };
        let mut metrics = compare(&recorded.aligned, found, &spec)?;
        if resolved.tolerance.counts_flips() {
            metrics.flips = match prediction.map(Prediction::mismatches).transpose()? {
                None | Some(Mismatches::OfCandidate) => {
                    Flips::new(metrics.unequal, &recorded.aligned, ours, theirs)?
                }
                Some(Mismatches::Counted(flips)) => flips,
                Some(Mismatches::Uncountable) => None,
            };
        }
        if resolved.tolerance.holds_means_to_rounding()
            && let Some(slices) = spec.vocab_shards
        {
            let of_reference = prediction.map(|of| of.rounding_of_means(slices));
            metrics.statistics_ratio = match of_reference.transpose()?.flatten() {
                None => rounding_of_means(&recorded.aligned, found, [ours, theirs], slices)?,
                predicted => predicted,
            };
        }
        Ok(Measuring::done(metrics))
    }

    /// Judges a stage, waiting for its comparison.
    pub(super) fn finish(&self, pending: Pending<'_>) -> Result<StageResult> {
        let stage = pending.stage;
        let metrics = pending.metrics.finish();
        let mut metrics = metrics.map_err(|e| e.at_step(stage.id.as_str()))?;
        metrics.non_finite.reference_nans -= pending.own_nans;
        metrics.non_finite.disagreements += pending.own_nans;
        stage.check(&metrics.non_finite)?;
        let metrics = stage.of_sequences(metrics)?;
        Ok(StageResult {
            stage: stage.stage().clone(),
            mode: pending.mode,
            device: self.device,
            dtype: stage.dtype,
            shape: stage.shape.clone(),
            checks: pending.resolved.tolerance.judge(&metrics),
            metrics,
            resolved: pending.resolved,
            stretch: self.stretch(stage, pending.mode),
            aligned: stage.adjusted,
            oracle: pending.oracle,
            routing: pending.routing,
        })
    }
}
