//! The list of steps.

use super::{Param, StageId, Step};
use crate::error::{Error, Result};
use crate::tensor::DType;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A model: steps in execution order, in single-assignment form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    dtype: DType,
    steps: Vec<Step>,
}

impl Plan {
    /// Checks and takes the steps of a model whose parameters are stored in `dtype`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if an id is given twice or an input is not computed before its use, or
    /// if nothing is computed in `dtype`.
    pub fn new(dtype: DType, steps: Vec<Step>) -> Result<Self> {
        if !dtype.is_runnable() {
            return Err(Error::Mismatch {
                at: "model".into(),
                expected: "parameters stored as fp32, fp16 or bf16, which models are run in".into(),
                found: dtype.to_string(),
            });
        }
        let mut known = HashSet::from([StageId::TOKENS, StageId::POSITIONS]);
        for step in &steps {
            let fault = |found: String| Error::Mismatch {
                at: step.id.to_string(),
                expected: "a step on values computed before it".into(),
                found,
            };
            if let Some(input) = step.inputs.iter().find(|i| !known.contains(i.as_str())) {
                return Err(fault(format!("the input {input}")));
            }
            if !known.insert(step.id.as_str()) {
                return Err(fault("its own id before it".into()));
            }
        }
        Ok(Self { dtype, steps })
    }

    /// The same plan with every step replaced by one of the same name on the same values.
    pub(super) fn map(&self, of: impl Fn(&Step) -> Step) -> Self {
        Self {
            dtype: self.dtype,
            steps: self.steps.iter().map(of).collect(),
        }
    }

    /// The steps, in execution order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Storage type of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Every tensor that the model is made of, once, by name.
    pub fn params(&self) -> BTreeMap<&str, &Param> {
        let params = self.steps.iter().flat_map(|step| &step.params);
        params.map(|param| (param.name.as_str(), param)).collect()
    }

    /// Bytes of parameters and values, given the values' shapes, of the block that has most of them, or
    /// of the step outside of blocks that has.
    pub fn largest_layer(&self, shapes: &HashMap<StageId, Vec<usize>>) -> u64 {
        let mut layers: BTreeMap<Result<usize, &StageId>, BTreeMap<&str, u64>> = BTreeMap::new();
        for step in &self.steps {
            let layer = layers.entry(step.id.layer().ok_or(&step.id)).or_default();
            let params = step
                .params
                .iter()
                .map(|param| (param.name.as_str(), &param.shape));
            let value = shapes.get(&step.id).map(|shape| (step.id.as_str(), shape));
            for (name, shape) in params.chain(value) {
                let elements: usize = shape.iter().product();
                layer.insert(name, (elements * step.numerics.out.size()) as u64);
            }
        }
        let bytes = layers.values().map(|params| params.values().sum());
        bytes.max().unwrap_or(0)
    }

    /// The names of all stages, in execution order, each once.
    pub fn stages(&self) -> Vec<&StageId> {
        let mut seen = HashSet::new();
        let stages = self.steps.iter().map(|step| &step.stage);
        stages.filter(|stage| seen.insert(*stage)).collect()
    }
}
