//! Weights that nothing compared depends on: what they hold, no comparison can show.

use super::align::AlignedStage;
use super::prepare::Prepared;
use crate::case::Mode;
use crate::error::Result;
use crate::exec::Padding;
use crate::op::Op;
use crate::plan::{Schedule, StageId};
use crate::tensor::{Element, Tensor, with_element};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

/// A tensor of the candidate, or rows of one, that nothing compared depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untouched {
    /// The tensor.
    pub tensor: String,
    /// How many of how many rows, of a table that tokens or positions look up; `None` if it is all of it.
    pub rows: Option<(usize, usize)>,
    /// How many of those elements are NaN or infinite.
    pub non_finite: usize,
}

/// What is touched of a tensor.
#[derive(Default)]
enum Touched {
    #[default]
    Nothing,
    Rows(BTreeSet<usize>),
    All,
}

impl Untouched {
    /// All there are, of a run of all recorded stages; in execution order.
    pub(super) fn of(prepared: &Prepared<'_>) -> Result<Vec<Self>> {
        let plan = &prepared.candidate.plan;
        let wanted: HashSet<&StageId> = prepared.selected().map(|stage| &stage.id).collect();
        let full = prepared.candidate.alignment.full();
        let none = HashSet::new();
        let known = |mode: &Mode| match mode {
            Mode::Isolated => &full,
            Mode::Chained | Mode::Recorded => &none,
        };
        let run: HashSet<StageId> = prepared
            .modes
            .iter()
            .flat_map(|mode| Schedule::new(plan.steps(), &wanted, known(mode)).run)
            .collect();
        let padding = prepared.golden.padding();
        let start: HashMap<_, _> = prepared.start.iter().cloned().collect();
        let mut touched: BTreeMap<&str, Touched> = BTreeMap::new();
        for step in plan.steps() {
            for param in &step.params {
                let touched = touched.entry(&param.name).or_default();
                if !run.contains(&step.id) {
                    continue;
                }
                *touched = match (&step.op, std::mem::take(touched)) {
                    (_, Touched::All) => Touched::All,
                    (Op::Embedding(_), before) => {
                        let mut all = rows(&start[&step.inputs[0]], padding)?;
                        if let Touched::Rows(before) = before {
                            all.extend(before);
                        }
                        Touched::Rows(all)
                    }
                    _ => Touched::All,
                };
            }
        }
        let stages = prepared.candidate.alignment.iter().map(AlignedStage::stage);
        let is_whole = stages
            .into_iter()
            .all(|stage| prepared.options.stages.matches(stage));
        let names = plan.steps().iter().flat_map(|step| &step.params);
        let mut untouched = Vec::new();
        for param in names {
            let rows = match touched.remove(param.name.as_str()) {
                Some(Touched::Rows(rows)) => Some(rows),
                // What a selection leaves out is said as stages, and may be most of the model.
                Some(Touched::Nothing) if is_whole => None,
                _ => continue,
            };
            let all = param.shape.first().copied().unwrap_or(0);
            if rows.as_ref().is_some_and(|rows| rows.len() == all) {
                continue;
            }
            let weight = prepared.weights.load(&param.name)?;
            untouched.push(Self {
                tensor: param.name.clone(),
                non_finite: non_finite_outside(&weight, rows.as_ref())?,
                rows: rows.map(|rows| (all - rows.len(), all)),
            });
        }
        Ok(untouched)
    }
}

impl fmt::Display for Untouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tensor)?;
        match self.rows {
            None => Ok(()),
            Some((rows, of)) => write!(f, " ({rows} of {of} rows)"),
        }
    }
}

/// The rows that ids `[batch, positions]` look up.
fn rows(ids: &Tensor, padding: Option<&Padding>) -> Result<BTreeSet<usize>> {
    let width = ids.row_len().max(1);
    let own = |index: usize| {
        padding.is_none_or(|padding| index % width < padding.lengths()[index / width])
    };
    with_element!(ids.dtype(), T => {
        let ids = ids.as_slice::<T>()?.iter().enumerate();
        let own = ids.filter(|(index, _)| own(*index));
        Ok(own.map(|(_, id)| id.to_f64() as usize).collect())
    })
}

fn non_finite_outside(weight: &Tensor, rows: Option<&BTreeSet<usize>>) -> Result<usize> {
    let count = weight.shape().first().copied().unwrap_or(0);
    let width = weight.len().checked_div(count).unwrap_or(0).max(1);
    with_element!(weight.dtype(), T => {
        let all = weight.as_slice::<T>()?.chunks(width).enumerate();
        let outside = all.filter(|(row, _)| rows.is_none_or(|rows| !rows.contains(row)));
        let elements = outside.flat_map(|(_, row)| row);
        Ok(elements.filter(|value| !value.to_f64().is_finite()).count())
    })
}
