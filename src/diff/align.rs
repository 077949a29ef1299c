//! What a step's value is compared with: decided here, once for every step whose stage was recorded.
//!
//! A plan passes through a stage in variants (without its bias, divided by the layer's number), and a
//! golden records one of them. Where that is a variant that the plan passes through, the recorded value
//! is compared as it is; where the plan has only the plain one, what is missing is done to the recorded
//! value, with the model's own bias.

use crate::arch::Role;
use crate::backend::{Backend, Cpu};
use crate::checkpoint::Weights;
use crate::compare::{Close, Metrics, NonFinite, Spec, Statistics};
use crate::error::{BadInput, Result};
use crate::exec::{Execution, Value, params_of};
use crate::golden::{Content, Golden, ReducedProducts, Reference, StageRecord};
use crate::op::{self, Numerics, Op, Rounding, choice_of};
use crate::op::{Confidence, ErrorBound};
use crate::plan::{Param, Plan, StageId, Step, Variant};
use crate::tensor::{DType, Element, Tensor, with_element};
use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The steps of a plan that a golden has recorded values of.
pub(super) struct Alignment<'a> {
    /// By the step's id. A stage that the plan passes through in several variants is compared in the
    /// one that was recorded.
    steps: HashMap<StageId, AlignedStage<'a>>,
}

/// A recorded stage, and what makes it comparable with a step's value.
pub(super) struct AlignedStage<'a> {
    golden: &'a Golden,
    record: &'a StageRecord,
    /// The step's id.
    pub(super) id: StageId,
    /// The type of the step's values.
    pub(super) dtype: DType,
    /// The type that decides how far values may be apart where no budget does: the narrowest that either side
    /// computed them or what they are made of in.
    pub(super) judged_as: DType,
    /// Whether the step is a product of matrices.
    is_product: bool,
    /// The shape of the step's value.
    pub(super) shape: Vec<usize>,
    /// What is done to the recorded value.
    adjustments: Vec<Step>,
    /// The same in words: "bias added".
    pub(super) adjusted: Option<&'static str>,
    /// Into how many slices the means over the last axis are taken: as many as ranks made them.
    vocab_shards: Option<NonZeroUsize>,
    is_logits: bool,
}

/// What was recorded of a stage.
pub(super) enum Recorded<A> {
    /// All of it.
    Full(RecordedValue<A>),
    /// Statistics of it.
    Statistics(Statistics),
}

/// A recorded value, as a step computes it.
pub(super) struct RecordedValue<A> {
    /// As it was recorded.
    pub(super) raw: Tensor,
    /// As it is compared.
    pub(super) aligned: Tensor,
    /// The same where the backend computes.
    pub(super) array: A,
    /// NaNs that the model's own bias made of it: the candidate's, not the reference's.
    pub(super) own_nans: usize,
}

impl From<Reference> for Recorded<Tensor> {
    /// What is compared as it was recorded.
    fn from(reference: Reference) -> Self {
        match reference {
            Reference::Full(raw) => Self::Full(RecordedValue {
                aligned: raw.clone(),
                array: raw.clone(),
                raw,
                own_nans: 0,
            }),
            Reference::Statistics(statistics) => Self::Statistics(statistics),
        }
    }
}

/// The id that a recorded value has before it is adjusted.
const RECORDED: &str = "recorded";

impl<'a> Alignment<'a> {
    /// Aligns what a golden holds with the steps of a plan whose values have these shapes.
    pub(super) fn new(
        golden: &'a Golden,
        plan: &Plan,
        shapes: &HashMap<StageId, Vec<usize>>,
    ) -> Self {
        let mut variants: HashMap<&StageId, Vec<&Step>> = HashMap::new();
        for step in plan.steps() {
            variants.entry(&step.stage).or_default().push(step);
        }
        let stages = golden.manifest().stages.iter();
        let aligned = stages.filter_map(|record| {
            let step = counterpart(variants.get(&record.stage)?, record)?;
            AlignedStage::new(golden, record, step, &shapes[&step.id])
        });
        Self {
            steps: aligned
                .map(|aligned| (aligned.id.clone(), aligned))
                .collect(),
        }
    }

    /// What a step is compared with, if it was recorded.
    pub(super) fn of(&self, step: &StageId) -> Option<&AlignedStage<'a>> {
        self.steps.get(step)
    }

    /// What the step of a stage is compared with, if it was recorded.
    pub(super) fn of_stage(&self, stage: &StageId) -> Option<&AlignedStage<'a>> {
        self.iter().find(|aligned| aligned.stage() == stage)
    }

    /// All there are, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &AlignedStage<'a>> {
        self.steps.values()
    }

    /// The steps of which all values were recorded, not statistics of them.
    pub(super) fn full(&self) -> HashSet<&StageId> {
        let full = self.iter().filter(|aligned| aligned.is_full());
        full.map(|aligned| &aligned.id).collect()
    }
}

/// The variant of a stage that a record is compared with: the recorded one. A bias can be added to what
/// was recorded, but it cannot be taken off a rounded sum.
fn counterpart<'s>(variants: &[&'s Step], record: &StageRecord) -> Option<&'s Step> {
    let without_bias = record.variant.without_bias;
    let mut same = variants
        .iter()
        .filter(|step| step.variant.without_bias == without_bias);
    let last = variants.last().filter(|_| without_bias);
    same.next().or(last).copied()
}

impl<'a> AlignedStage<'a> {
    /// `None` if the record cannot be compared with the step.
    fn new(
        golden: &'a Golden,
        record: &'a StageRecord,
        step: &Step,
        shape: &[usize],
    ) -> Option<Self> {
        let bias_missing = record.variant.without_bias && !step.variant.without_bias;
        let factor = record.variant.divided_by / step.variant.divided_by;
        let rescaled = factor != 1.0;
        let aligned = Self {
            id: step.id.clone(),
            adjusted: match (rescaled, bias_missing) {
                (false, false) => None,
                (false, true) => Some("bias added"),
                (true, false) => Some("rescaled"),
                (true, true) => Some("rescaled, bias added"),
            },
            is_product: step.op.is_product(),
            adjustments: adjustments(step, shape, rescaled.then_some(factor), bias_missing),
            ..Self::as_recorded(golden, record, step.numerics.out, shape)
        };
        // Statistics of another variant, or of a padded vocabulary, are not statistics of this one.
        let padded = golden.manifest().model.vocab_size();
        let padded = aligned.is_logits && shape.last().is_some_and(|rows| *rows < padded);
        let comparable = aligned.is_full() || (aligned.adjusted.is_none() && !padded);
        comparable.then_some(aligned)
    }

    /// A recorded stage that is compared as it is with a value of this type and shape.
    pub(super) fn as_recorded(
        golden: &'a Golden,
        record: &'a StageRecord,
        dtype: DType,
        shape: &[usize],
    ) -> Self {
        let manifest = golden.manifest();
        // Without its padding a vocabulary may not be made of equal slices: then it is taken whole.
        let columns = shape.last().copied().unwrap_or(0);
        let ranks = Some(manifest.tensor_parallel()).filter(|ranks| columns.is_multiple_of(*ranks));
        let slices = NonZeroUsize::new(ranks.unwrap_or(1));
        let is_logits = manifest.model.role(&record.stage) == Some(Role::Logits);
        let reduced = manifest.provenance.reduced_products(manifest.dtype);
        // A router's fp32 in a model of a half type is made of what is half, or the other side rounded it.
        let types = [dtype, record.dtype, manifest.dtype];
        let narrowest = types
            .into_iter()
            .min_by_key(|dtype| dtype.significand_bits());
        let narrowest = narrowest.unwrap_or(dtype);
        Self {
            golden,
            record,
            id: record.stage.clone(),
            dtype,
            judged_as: reduced.map_or(narrowest, ReducedProducts::as_precise_as),
            is_product: false,
            shape: shape.to_vec(),
            adjustments: Vec::new(),
            adjusted: None,
            vocab_shards: slices.filter(|_| is_logits),
            is_logits,
        }
    }

    /// The stage.
    pub(super) fn stage(&self) -> &'a StageId {
        &self.record.stage
    }

    /// The type that the reference's values have.
    pub(super) fn recorded_type(&self) -> DType {
        self.record.dtype
    }

    /// Whether the reference rounded its values to the type that the step computes.
    pub(super) fn is_of_one_type(&self) -> bool {
        self.recorded_type() == self.dtype
    }

    /// Whether all values were recorded, not statistics of them.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.record.content, Content::Full { .. })
    }

    /// Whether the reference ran its products in a type of their own.
    pub(super) fn is_of_reduced_products(&self) -> bool {
        let manifest = self.golden.manifest();
        let reduced = manifest.provenance.reduced_products(manifest.dtype);
        reduced.is_some()
    }

    /// Whether the step itself is such a product.
    pub(super) fn is_reduced_product(&self) -> bool {
        self.is_product && self.is_of_reduced_products()
    }

    /// What is measured beside the differences themselves.
    pub(super) fn spec(&self, close: Option<Close>) -> Spec<'static> {
        Spec {
            close,
            budget: None,
            vocab_shards: self.vocab_shards,
        }
    }

    /// Reads what was recorded, as the step computes it, to where a backend computes.
    ///
    /// # Errors
    /// If a file is not as recorded, or the value's shape is not the step's.
    pub(super) fn read<B: Backend>(
        &self,
        weights: &dyn Weights,
        backend: &B,
    ) -> Result<Option<Recorded<B::Array>>> {
        let raw = match self.golden.reference(self.stage())? {
            None => return Ok(None),
            Some(Reference::Statistics(statistics)) => {
                return Ok(Some(Recorded::Statistics(statistics)));
            }
            Some(Reference::Full(raw)) => raw,
        };
        self.align(raw, weights, backend)
            .map(|value| Some(Recorded::Full(value)))
    }

    /// As [`Self::read`], of what has been read already.
    pub(super) fn align<B: Backend>(
        &self,
        raw: Tensor,
        weights: &dyn Weights,
        backend: &B,
    ) -> Result<RecordedValue<B::Array>> {
        let raw = self.without_padding(raw)?;
        // What autocast computed in a half type is read in the type that the step computes.
        let raw = match raw.dtype().is_half() && self.dtype == DType::F32 {
            true => raw.cast(self.dtype)?,
            false => raw,
        };
        let aligned = self.adjust(Value::given(raw.clone()), weights, None)?.array;
        if aligned.shape() != self.shape {
            let expected = format!("shape {:?}", self.shape);
            let found = format!("shape {:?}", aligned.shape());
            let fault = BadInput::new(self.file(), expected, found);
            return Err(fault.at(self.stage().as_str()).into());
        }
        let manifest = self.golden.manifest();
        if manifest.model.role(self.stage()) == Some(Role::Choice) {
            let checked = choice_of(&aligned, manifest.model.experts());
            checked.map_err(|e| e.in_file(self.file()))?;
        }
        let own_nans = if self.adjustments.is_empty() {
            0
        } else {
            nans(&aligned)?.saturating_sub(nans(&raw)?)
        };
        Ok(RecordedValue {
            array: backend.upload(&aligned)?,
            raw,
            aligned,
            own_nans,
        })
    }

    /// A recorded value without the entries of the vocabulary's padding, which only one side has.
    fn without_padding(&self, raw: Tensor) -> Result<Tensor> {
        match (self.is_logits, self.shape.last()) {
            (true, Some(rows)) if raw.row_len() > *rows => raw.first(raw.shape().len() - 1, *rows),
            _ => Ok(raw),
        }
    }

    /// As [`Self::read`], into this machine's memory; `None` if only statistics were recorded.
    pub(super) fn read_full(&self, weights: &dyn Weights) -> Result<Option<RecordedValue<Tensor>>> {
        Ok(match self.read(weights, &Cpu)? {
            Some(Recorded::Full(value)) => Some(value),
            _ => None,
        })
    }

    /// The error bound of the recorded value as it is compared, given that of what was recorded.
    pub(super) fn error_bound(
        &self,
        raw: &Tensor,
        error_bound: ErrorBound,
        weights: &dyn Weights,
        confidence: Confidence,
    ) -> Result<Option<ErrorBound>> {
        let value = Value {
            array: raw.clone(),
            error_bound: Some(error_bound),
        };
        let aligned = self.adjust(value, weights, Some(confidence))?;
        Ok(aligned.error_bound)
    }

    /// One operation an element, each rounded as IEEE has it: the same on any device.
    fn adjust(
        &self,
        raw: Value<Tensor>,
        weights: &dyn Weights,
        confidence: Option<Confidence>,
    ) -> Result<Value<Tensor>> {
        if self.adjustments.is_empty() {
            return Ok(raw);
        }
        let start = [(RECORDED.into(), raw)];
        let execution = Execution::whole(&self.adjustments, &Cpu, start);
        let execution = execution.padded(self.golden.padding());
        execution.finish(confidence, |step| {
            let params = params_of(step, weights)?;
            Ok(params.into_iter().map(Value::given).collect())
        })
    }

    /// Measurements of a batch's sequences alone, without what fills them up; places are those that were
    /// recorded.
    pub(super) fn of_sequences(&self, metrics: Metrics) -> Result<Metrics> {
        let Some(sequences) = self.golden.sequences() else {
            return Ok(metrics);
        };
        let axes = self.golden.position_axes(self.stage(), self.shape.len());
        let padding = self.golden.padding_in(self.stage(), &self.shape);
        let mut metrics = metrics.without(padding);
        if let Some(worst) = &mut metrics.max_abs {
            sequences.recorded_place(&mut worst.position, axes);
        }
        if let Some(worst) = &mut metrics.worst_ratio {
            sequences.recorded_place(&mut worst.worst.position, axes);
        }
        Ok(metrics)
    }

    /// Refuses a reference that is not a number: it proves nothing.
    pub(super) fn check(&self, found: &NonFinite) -> Result<()> {
        if found.reference_nans == 0 {
            return Ok(());
        }
        let nans = format!("{} NaN", found.reference_nans);
        let fault = BadInput::new(self.file(), "numbers in a reference", nans);
        let remedy = "the reference run was broken at this stage: dump it again, or leave the stage out with --stages";
        Err(fault.at(self.stage().as_str()).remedy(remedy).into())
    }

    /// The file to name when something is wrong with what was recorded.
    pub(super) fn file(&self) -> PathBuf {
        self.golden.file_of(self.stage())
    }

    /// The manifest that says what was recorded.
    pub(super) fn manifest(&self) -> PathBuf {
        self.golden.path().join(Golden::MANIFEST)
    }
}

/// The steps that make a recorded value the one that `step` computes. The model's bias is added as the
/// framework that left it out does in its next step: one rounding.
fn adjustments(step: &Step, shape: &[usize], factor: Option<f32>, bias: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut push = |op: Op, params| {
        let number = steps.len() + 1;
        let before = steps.last().map(|step| step.id.clone());
        steps.push(Step {
            id: format!("{}.aligned.{number}", step.id).into(),
            stage: step.stage.clone(),
            variant: Variant::PLAIN,
            op,
            inputs: vec![before.unwrap_or_else(|| RECORDED.into())],
            params,
            numerics: Numerics::elementwise(step.numerics.out, Rounding::Once),
        });
    };
    if let Some(factor) = factor {
        push(Op::Scale(op::Scale { factor }), Vec::new());
    }
    if bias {
        let name = format!("{}.bias", step.stage);
        let shape = shape.last().copied().into_iter().collect();
        push(Op::AddBias(op::AddBias), vec![Param { name, shape }]);
    }
    steps
}

fn nans(value: &Tensor) -> Result<usize> {
    with_element!(value.dtype(), T => {
        let values = value.as_slice::<T>()?.iter();
        Ok(values.filter(|x| x.to_f64().is_nan()).count())
    })
}
