//! The steps between recorded values.

use super::{Evidence, rearrange};
use crate::backend::{Cpu, HostBackend};
use crate::compare::{Budget, Flips};
use crate::compare::{Spec, compare};
use crate::error::{Error, Result};
use crate::exec::{Execution, Padding, Value};
use crate::op::Op;
use crate::op::{Confidence, ErrorBound};
use crate::plan::{StageId, Step};
use crate::tensor::{Tensor, with_element};
use std::borrow::Cow;
use std::collections::HashMap;

/// Most rows of a sample.
const ROWS: usize = 32;
/// Most columns of a sample.
const COLUMNS: usize = 256;

#[derive(Clone, Debug)]
struct Columns {
    picked: Vec<usize>,
    /// How many there are.
    of: usize,
}

/// The steps that lead from recorded values to one recorded value, with all they read.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// The steps, in order; the last one gives the stage's value.
    pub steps: Vec<Step>,
    /// The recorded values that they start from.
    pub given: HashMap<StageId, Tensor>,
    /// The candidate's parameters, by name.
    pub params: HashMap<String, Tensor>,
    /// The recorded value of the last step.
    pub reference: Tensor,
    /// What fills up the shorter sequences.
    pub padding: Option<Padding>,
    /// How far parameters and given values may be from the reference's, where that is a hypothesis.
    pub(super) uncertain: HashMap<String, ErrorBound>,
    /// The rows (tokens) that values were cut down to, if they were.
    rows: Option<Vec<usize>>,
    /// The columns that the result of the first step, a product, is cut down to, if it is.
    /// Parameters stay whole until the steps run, so that they can be rearranged.
    columns: Option<Columns>,
}

impl Subgraph {
    /// A subgraph of all rows.
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
            padding: None,
            uncertain: HashMap::new(),
            rows: None,
            columns: None,
        }
    }

    /// What the steps give.
    ///
    /// # Errors
    /// If the steps and what they read do not fit together.
    pub(super) fn result(&self, backend: &HostBackend) -> Result<Tensor> {
        let narrowed = self.narrowed()?;
        let value = narrowed.run(backend, None, &HashMap::new())?;
        Ok(value.array)
    }

    /// What a step gives, or what is given of it; `None` if it is not of this subgraph.
    ///
    /// # Errors
    /// As [`Self::result`].
    pub(super) fn value_of(&self, id: &StageId) -> Result<Option<Tensor>> {
        let narrowed = self.narrowed()?;
        if let Some(value) = narrowed.given.get(id) {
            return Ok(Some(value.clone()));
        }
        let Some(place) = narrowed.steps.iter().position(|step| step.id == *id) else {
            return Ok(None);
        };
        let mut until = narrowed.into_owned();
        until.steps.truncate(place + 1);
        until.result(&Cpu).map(Some)
    }

    /// Runs the steps and holds the result against the reference.
    ///
    /// # Errors
    /// As [`Self::result`], and if the result has another shape than the reference.
    pub(super) fn evidence(
        &self,
        backend: &HostBackend,
        confidence: Confidence,
    ) -> Result<Evidence> {
        let narrowed = self.narrowed()?;
        let bounded = |uncertain: &HashMap<String, ErrorBound>| -> Result<(Tensor, ErrorBound)> {
            let value = narrowed.run(backend, Some(confidence), uncertain)?;
            // What is made of given elements is exact.
            let exact = || ErrorBound::zero(value.array.len());
            let error_bound = value.error_bound.unwrap_or_else(exact);
            Ok((value.array, error_bound))
        };
        // The reference's parameters are certain, whatever is known of the candidate's.
        let (result, theirs) = bounded(&HashMap::new())?;
        let ours = if narrowed.uncertain.is_empty() {
            None
        } else {
            Some(bounded(&narrowed.uncertain)?.1)
        };
        let ours = ours.as_ref().unwrap_or(&theirs);
        let budget = Budget::new(ours, &theirs, confidence);
        let spec = Spec {
            budget: Some(budget.allowed()),
            ..Spec::default()
        };
        let mut metrics = compare(&narrowed.reference, &result, &spec)?;
        metrics.flips = Flips::new(metrics.unequal, &result, ours, &theirs)?;
        Ok(Evidence::new(&metrics))
    }

    /// The value of the last step; with its error bound if a confidence is named.
    fn run(
        &self,
        backend: &HostBackend,
        confidence: Option<Confidence>,
        uncertain: &HashMap<String, ErrorBound>,
    ) -> Result<Value<Tensor>> {
        let given = self.given.iter();
        let given = given.map(|(id, value)| {
            let mut given = Value::given(value.clone());
            given.error_bound = uncertain.get(id.as_str()).cloned().or(given.error_bound);
            (id.clone(), given)
        });
        let execution = Execution::whole(&self.steps, backend, given);
        let execution = execution.padded(self.padding.as_ref());
        execution.finish(confidence, |step| {
            let params = step.params.iter().map(|param| {
                let array = self.params.get(&param.name);
                Ok(Value {
                    array: array.ok_or_else(|| missing(&param.name))?.clone(),
                    error_bound: uncertain.get(&param.name).cloned(),
                })
            });
            params.collect()
        })
    }

    /// Fewer rows and columns, where every step works on each for itself: enough to refute a
    /// hypothesis.
    pub(super) fn sampled(&self) -> Option<Self> {
        self.sampled_to(ROWS, COLUMNS)
    }

    /// Fewer rows, all columns.
    pub(super) fn sampled_rows(&self) -> Option<Self> {
        self.sampled_to(ROWS, usize::MAX)
    }

    /// So many rows and columns at most, where every step works on each for itself.
    pub(super) fn sampled_to(&self, rows: usize, columns: usize) -> Option<Self> {
        let by_row = |step: &Step| step.op.locality().is_by_row();
        let (first, rest) = self.steps.split_first()?;
        let count = rows_of(&self.reference);
        let mut sampled = self.clone();
        if count > rows && self.steps.iter().all(by_row) {
            let own = own_rows(self.padding.as_ref(), count);
            let picked = scattered(rows, own.len()).into_iter();
            sampled.rows = Some(picked.map(|pick| own[pick]).collect());
            sampled.padding = None;
        }
        let width = self.reference.row_len();
        let product = matches!(first.op, Op::Linear(_));
        if product && width > columns && rest.iter().all(|step| step.op.locality().is_by_column()) {
            sampled.columns = Some(Columns {
                picked: scattered(columns, width),
                of: width,
            });
        }
        if sampled.rows.is_none() && sampled.columns.is_none() {
            return None;
        }
        let given = self.given.iter().map(|(id, value)| {
            let cut = if first.inputs.contains(id) {
                sampled.cut_rows(value)
            } else {
                sampled.cut(value)
            };
            Ok((id.clone(), cut?))
        });
        let given: Result<HashMap<StageId, Tensor>> = given.collect();
        let reference = sampled.cut(&self.reference).ok()?;
        sampled.given = given.ok()?;
        sampled.reference = reference;
        Some(sampled)
    }

    /// The part of a value `[b, s, …]` that this subgraph is of.
    pub(super) fn cut(&self, value: &Tensor) -> Result<Tensor> {
        let value = self.cut_rows(value)?;
        let Some(columns) = &self.columns else {
            return Ok(value);
        };
        if value.row_len() != columns.of {
            return Ok(value);
        }
        let mut shape = value.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = columns.picked.len();
        }
        with_element!(value.dtype(), T => {
            let rows = value.as_slice::<T>()?.chunks(columns.of);
            let cut = rows.flat_map(|row| columns.picked.iter().map(|column| row[*column]));
            Tensor::from_vec(&shape, cut.collect())
        })
    }

    fn cut_rows(&self, value: &Tensor) -> Result<Tensor> {
        let Some(rows) = &self.rows else {
            return Ok(value.clone());
        };
        let shape = [&[1, rows.len()], value.shape().get(2..).unwrap_or(&[])].concat();
        rearrange::picked(value, rows, rows_of(value), &shape)
    }

    /// The same subgraph with parameters of the picked columns only.
    pub(super) fn narrowed(&self) -> Result<Cow<'_, Self>> {
        let Some(columns) = &self.columns else {
            return Ok(Cow::Borrowed(self));
        };
        let mut narrowed = self.clone();
        narrowed.columns = None;
        for step in &mut narrowed.steps {
            for param in &mut step.params {
                if param.shape.first() != Some(&columns.of) {
                    continue;
                }
                param.shape[0] = columns.picked.len();
                let Some(whole) = self.params.get(&param.name) else {
                    continue;
                };
                let cut = rearrange::picked(whole, &columns.picked, columns.of, &param.shape)?;
                narrowed.params.insert(param.name.clone(), cut);
                if let Some(uncertain) = self.uncertain.get(&param.name) {
                    let cut = uncertain.rows(&columns.picked, columns.of);
                    narrowed.uncertain.insert(param.name.clone(), cut);
                }
            }
        }
        Ok(Cow::Owned(narrowed))
    }

    /// Replaces the entries of a parameter (one a column) that this subgraph is of.
    pub(super) fn set_entries(&mut self, name: &str, values: &Tensor, std: &[f32]) -> Result<()> {
        let whole = &self.params[name];
        let all: Vec<usize> = (0..values.len()).collect();
        let places = self
            .columns
            .as_ref()
            .map_or(&all, |columns| &columns.picked);
        let mut stds = vec![0.0; whole.len()];
        for (place, std) in places.iter().zip(std) {
            stds[*place] = *std;
        }
        let set = with_element!(whole.dtype(), T => {
            let mut entries = whole.as_slice::<T>()?.to_vec();
            for (place, value) in places.iter().zip(values.as_slice::<T>()?) {
                entries[*place] = *value;
            }
            Tensor::from_vec(whole.shape(), entries)?
        });
        self.params.insert(name.to_owned(), set);
        self.uncertain
            .insert(name.to_owned(), ErrorBound::from_std(stds));
        Ok(())
    }
}

/// Positions of all sequences.
fn rows_of(value: &Tensor) -> usize {
    value.shape().iter().take(2).product()
}

/// The places of those of so many rows that are no padding.
fn own_rows(padding: Option<&Padding>, count: usize) -> Vec<usize> {
    let whole = [count];
    let lengths = padding.map_or(&whole[..], Padding::lengths);
    let row = count.checked_div(lengths.len()).unwrap_or(0);
    let rows = lengths.iter().enumerate();
    rows.flat_map(|(index, length)| index * row..index * row + length)
        .collect()
}

fn missing(what: &str) -> Error {
    Error::Mismatch {
        at: "subgraph".into(),
        expected: "all that its steps read".into(),
        found: format!("no {what}"),
    }
}

/// So many of the indices below `count`, one at a scattered place of each of as many stretches, so
/// that they meet every residue of a period.
fn scattered(picks: usize, count: usize) -> Vec<usize> {
    let picks = picks.min(count);
    let stretch = |pick: usize| pick * count / picks;
    let pick = |pick: usize| {
        let (start, end) = (stretch(pick), stretch(pick + 1));
        start + pick.wrapping_mul(2_654_435_761) / 1024 % (end - start)
    };
    (0..picks).map(pick).collect()
}
