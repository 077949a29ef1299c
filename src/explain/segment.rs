//! The steps between recorded values.

use super::Evidence;
use crate::backend::Backend;
use crate::budget::{Budget, Confidence, Deviation, Flips, Operand, deviation};
use crate::compare::{Spec, compare};
use crate::error::{Error, Result};
use crate::plan::{Op, StageId, Step};
use crate::tensor::{Tensor, with_element};
use std::collections::HashMap;

/// Most rows of a sample.
const SAMPLE: usize = 32;

/// The steps that lead from recorded values to one recorded value, with all they read.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The steps, in order; the last one gives the stage's value.
    pub steps: Vec<Step>,
    /// The recorded values that they start from.
    pub given: HashMap<StageId, Tensor>,
    /// The candidate's parameters, by name.
    pub params: HashMap<String, Tensor>,
    /// The recorded value of the last step.
    pub reference: Tensor,
    /// How far parameters may be from the reference's, where that is a hypothesis.
    pub(super) uncertain: HashMap<String, Deviation>,
    /// The rows (tokens) that values were cut down to, if they were.
    pub(super) rows: Option<Vec<usize>>,
}

impl Segment {
    /// A segment of all rows.
    pub fn new(
        steps: Vec<Step>,
        given: HashMap<StageId, Tensor>,
        params: HashMap<String, Tensor>,
        reference: Tensor,
    ) -> Self {
        Self {
            steps,
            given,
            params,
            reference,
            uncertain: HashMap::new(),
            rows: None,
        }
    }

    /// What the steps give.
    ///
    /// # Errors
    /// If the steps and what they read do not fit together.
    pub(super) fn result(&self, backend: &dyn Backend) -> Result<Tensor> {
        let mut values = self.given.clone();
        for step in &self.steps {
            let inputs = self.inputs(step, &values)?;
            let params = self.params_of(step)?;
            let value = backend.run(step, &inputs, &params)?;
            values.insert(step.id.clone(), value);
        }
        let last = self.steps.last().and_then(|step| values.remove(&step.id));
        last.ok_or_else(|| missing("a step"))
    }

    /// Runs the steps and holds the result against the reference.
    ///
    /// # Errors
    /// As [`Self::result`], and if the result has another shape than the reference.
    pub(super) fn evidence(
        &self,
        backend: &dyn Backend,
        confidence: Confidence,
    ) -> Result<Evidence> {
        let mut values = self.given.clone();
        let mut ours: HashMap<StageId, Deviation> = HashMap::new();
        let mut theirs: HashMap<StageId, Deviation> = HashMap::new();
        for step in &self.steps {
            let inputs = self.inputs(step, &values)?;
            let params = self.params_of(step)?;
            let value = backend.run(step, &inputs, &params)?;
            let of = |deviations: &HashMap<StageId, Deviation>, uncertain: bool| {
                let inputs: Vec<Operand<'_>> = inputs
                    .iter()
                    .zip(&step.inputs)
                    .map(|(value, id)| Operand {
                        value,
                        deviation: deviations.get(id),
                    })
                    .collect();
                let params: Vec<Operand<'_>> = params
                    .iter()
                    .zip(&step.params)
                    .map(|(value, param)| Operand {
                        value,
                        deviation: self.uncertain.get(&param.name).filter(|_| uncertain),
                    })
                    .collect();
                deviation(step, &inputs, &params, &value, confidence)
            };
            let exact_params = of(&theirs, false)?;
            let own = match self.uncertain.is_empty() {
                true => exact_params.clone(),
                false => of(&ours, true)?,
            };
            ours.insert(step.id.clone(), own);
            theirs.insert(step.id.clone(), exact_params);
            values.insert(step.id.clone(), value);
        }
        let last = self.steps.last().map(|step| &step.id);
        let last = last.ok_or_else(|| missing("a step"))?;
        let (ours, theirs) = (&ours[last], &theirs[last]);
        let budget = Budget::of(ours, theirs, confidence);
        let spec = Spec {
            budget: Some(budget.allowed()),
            ..Spec::default()
        };
        let result = &values[last];
        let mut metrics = compare(&self.reference, result, &spec)?;
        metrics.flips = Flips::of(metrics.unequal, result, ours, theirs)?;
        Ok(Evidence::of(&metrics))
    }

    /// Fewer rows, where every step works row by row: enough to refute a hypothesis.
    pub(super) fn sampled(&self) -> Option<Self> {
        let by_row = |step: &Step| {
            !matches!(
                step.op,
                Op::SplitHeads { .. }
                    | Op::AttentionScores { .. }
                    | Op::Softmax { .. }
                    | Op::Context
            )
        };
        let count = rows_of(&self.reference);
        if count <= SAMPLE || !self.steps.iter().all(by_row) {
            return None;
        }
        // Spread over all, with a stride that meets every residue of short periods.
        let rows: Vec<usize> = (0..SAMPLE).map(|index| index * count / SAMPLE).collect();
        let mut sampled = self.clone();
        sampled.rows = Some(rows);
        let cut = |value: &Tensor| sampled.cut(value);
        let given = self.given.iter();
        let given = given.map(|(id, value)| Ok((id.clone(), cut(value)?)));
        let given: Result<HashMap<StageId, Tensor>> = given.collect();
        let reference = cut(&self.reference).ok()?;
        sampled.given = given.ok()?;
        sampled.reference = reference;
        Some(sampled)
    }

    /// The rows of a value `[b, s, …]` that this segment is of.
    pub(super) fn cut(&self, value: &Tensor) -> Result<Tensor> {
        let Some(rows) = &self.rows else {
            return Ok(value.clone());
        };
        let count = rows_of(value);
        let width = value.len().checked_div(count).unwrap_or(0);
        let shape = [&[1, rows.len()], value.shape().get(2..).unwrap_or(&[])].concat();
        with_element!(value.dtype(), T => {
            let all = value.as_slice::<T>()?;
            let cut = rows.iter().flat_map(|row| &all[row * width..(row + 1) * width]);
            Tensor::from_vec(&shape, cut.copied().collect())
        })
    }

    fn inputs<'a>(
        &self,
        step: &Step,
        values: &'a HashMap<StageId, Tensor>,
    ) -> Result<Vec<&'a Tensor>> {
        let inputs = step.inputs.iter();
        inputs
            .map(|id| values.get(id).ok_or_else(|| missing(id.as_str())))
            .collect()
    }

    fn params_of(&self, step: &Step) -> Result<Vec<&Tensor>> {
        let params = step.params.iter();
        params
            .map(|param| {
                self.params
                    .get(&param.name)
                    .ok_or_else(|| missing(&param.name))
            })
            .collect()
    }
}

/// Positions of all sequences.
fn rows_of(value: &Tensor) -> usize {
    value.shape().iter().take(2).product()
}

fn missing(what: &str) -> Error {
    Error::Mismatch {
        at: "segment".into(),
        expected: "all that its steps read".into(),
        found: format!("no {what}"),
    }
}
