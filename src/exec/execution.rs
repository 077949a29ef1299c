//! Steps being run one by one, and the values that later ones still need.

use super::{Padding, Value};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::op::{Confidence, ErrorBound, Operand};
use crate::plan::{Schedule, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{HashMap, HashSet};

/// One run of the steps that lead to wanted values.
///
/// [`Self::finish`] runs all of it. A caller that judges values on the way, or puts others in their
/// place, walks over [`Self::steps`] itself: it computes a step ([`Self::compute`]), asks for its
/// [`Self::error_bound`], and says what later steps are to see ([`Self::keep`]).
pub struct Execution<'a, B: Backend + ?Sized> {
    steps: &'a [Step],
    backend: &'a B,
    schedule: Schedule,
    values: HashMap<StageId, Value<B::Array>>,
    padding: Option<&'a Padding>,
}

impl<'a, B: Backend + ?Sized> Execution<'a, B> {
    /// A run of what is needed for the `wanted` ones of some steps. It starts from the values in
    /// `start`; those of the steps in `known` will be given on the way where a step reads them.
    pub fn new(
        steps: &'a [Step],
        backend: &'a B,
        start: impl IntoIterator<Item = (StageId, Value<B::Array>)>,
        wanted: &HashSet<&StageId>,
        known: &HashSet<&StageId>,
    ) -> Self {
        let schedule = Schedule::new(steps, wanted, known);
        let start = start.into_iter();
        let values = start.filter(|(id, _)| schedule.is_read(id)).collect();
        Self {
            steps,
            backend,
            schedule,
            values,
            padding: None,
        }
    }

    /// The same run of sequences that are filled up.
    #[must_use]
    pub fn padded(self, padding: Option<&'a Padding>) -> Self {
        Self { padding, ..self }
    }

    /// A run of all of some steps.
    pub fn whole(
        steps: &'a [Step],
        backend: &'a B,
        start: impl IntoIterator<Item = (StageId, Value<B::Array>)>,
    ) -> Self {
        let all = steps.iter().map(|step| &step.id).collect();
        Self::new(steps, backend, start, &all, &HashSet::new())
    }

    /// The steps that run, or whose values are to be given, in order.
    pub fn steps(&self) -> impl Iterator<Item = &'a Step> {
        let steps = self.steps.iter();
        steps.filter(|step| self.visits(&step.id))
    }

    /// Whether a step runs, or its value is to be given.
    pub fn visits(&self, id: &StageId) -> bool {
        self.runs(id) || self.takes(id)
    }

    /// Whether a step has to run.
    pub fn runs(&self, id: &StageId) -> bool {
        self.schedule.run.contains(id)
    }

    /// Whether a later step reads the value that is to be given of a step.
    pub fn takes(&self, id: &StageId) -> bool {
        self.schedule.supply.contains(id)
    }

    /// Computes a step from the values before it.
    ///
    /// # Errors
    /// As [`Backend::run`], and if a value before it is missing.
    pub fn compute(&self, step: &Step, params: &[B::Array]) -> Result<B::Array> {
        let inputs = self.inputs(step)?;
        let inputs: Vec<&B::Array> = inputs.iter().map(|value| &value.array).collect();
        let params: Vec<&B::Array> = params.iter().collect();
        let result = self.backend.run(step, &inputs, &params)?;
        let Some(padding) = self.padding else {
            return Ok(result);
        };
        let blanked = padding.blanked(&step.op, &self.backend.download(&result)?)?;
        self.backend.upload(&blanked)
    }

    /// How far a correct result of a step may be from exact, `output` being any; `None` if it is made of
    /// elements that were given.
    ///
    /// # Errors
    /// As [`Step::error_bound`], and if a value before it is missing.
    pub fn error_bound(
        &self,
        step: &Step,
        params: &[Operand<'_>],
        output: &Tensor,
        confidence: Confidence,
    ) -> Result<Option<ErrorBound>> {
        let inputs = self.inputs(step)?;
        let is_given = inputs.iter().all(|input| input.error_bound.is_none());
        if step.op.locality().is_copy() && is_given {
            return Ok(None);
        }
        let arrays = inputs
            .iter()
            .map(|input| self.backend.download(&input.array));
        let arrays: Vec<Tensor> = arrays.collect::<Result<_>>()?;
        let inputs = arrays.iter().zip(&inputs).map(|(value, input)| Operand {
            value,
            error_bound: input.error_bound.as_ref(),
        });
        let inputs: Vec<Operand<'_>> = inputs.collect();
        let bound = step.error_bound(&inputs, params, output, confidence)?;
        let Some(padding) = self.padding else {
            return Ok(Some(bound));
        };
        let blanked = padding.blanked_bound(&step.op, output.shape(), &bound)?;
        Ok(Some(blanked))
    }

    /// Takes what later steps are to see of a step, its own result or one that is given, and drops what
    /// none will read any more.
    pub fn keep(&mut self, step: &Step, value: Option<Value<B::Array>>) {
        if let Some(value) = value.filter(|_| self.schedule.is_read(&step.id)) {
            self.values.insert(step.id.clone(), value);
        }
        self.values
            .retain(|id, _| !self.schedule.is_last_use(id, &step.id));
    }

    /// Runs every step and gives the value of the last one, with its error bound if a confidence is named.
    /// `params` is asked for a step's parameters when it runs.
    ///
    /// # Errors
    /// As [`Self::compute`] and [`Self::error_bound`], and if there is no step.
    pub fn finish(
        mut self,
        confidence: Option<Confidence>,
        mut params: impl FnMut(&Step) -> Result<Vec<Value<Tensor>>>,
    ) -> Result<Value<B::Array>> {
        let steps: Vec<&Step> = self.steps().collect();
        let Some((last, before)) = steps.split_last() else {
            return Err(Error::Mismatch {
                at: "plan".into(),
                expected: "a step to run".into(),
                found: "none".into(),
            });
        };
        for step in before {
            let Value { array, error_bound } = self.evaluate(step, &params(step)?, confidence)?;
            let value = match (error_bound, confidence) {
                (Some(bound), Some(confidence)) => {
                    let output = self.backend.download(&array)?;
                    Value::computed(step, array, &output, Some(bound), confidence)?
                }
                (error_bound, _) => Value { array, error_bound },
            };
            self.keep(step, Some(value));
        }
        self.evaluate(last, &params(last)?, confidence)
    }

    fn evaluate(
        &self,
        step: &Step,
        params: &[Value<Tensor>],
        confidence: Option<Confidence>,
    ) -> Result<Value<B::Array>> {
        let arrays = params.iter().map(|param| self.backend.upload(&param.array));
        let array = self.compute(step, &arrays.collect::<Result<Vec<_>>>()?)?;
        let Some(confidence) = confidence else {
            return Ok(Value::given(array));
        };
        let params: Vec<Operand<'_>> = params.iter().map(Value::operand).collect();
        let output = self.backend.download(&array)?;
        let error_bound = self.error_bound(step, &params, &output, confidence)?;
        Ok(Value { array, error_bound })
    }

    /// The values that a step reads, if all of them were given.
    pub fn given(&self, step: &Step) -> Option<Vec<&B::Array>> {
        let inputs = step.inputs.iter().map(|id| self.values.get(id));
        let given = inputs.map(|value| value.filter(|value| value.error_bound.is_none()));
        given.map(|value| value.map(|value| &value.array)).collect()
    }

    /// The values that a step reads.
    ///
    /// # Errors
    /// If one of them is missing.
    pub fn inputs_of(&self, step: &Step) -> Result<Vec<&B::Array>> {
        let inputs = self.inputs(step)?.into_iter();
        Ok(inputs.map(|value| &value.array).collect())
    }

    fn inputs(&self, step: &Step) -> Result<Vec<&Value<B::Array>>> {
        let missing = |id: &StageId| Error::Mismatch {
            at: step.id.to_string(),
            expected: "the values that it reads".into(),
            found: format!("no {id}"),
        };
        let inputs = step.inputs.iter();
        inputs
            .map(|id| self.values.get(id).ok_or_else(|| missing(id)))
            .collect()
    }
}
