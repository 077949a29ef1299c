//! A few rows of a weight that are not the reference's: damaged embeddings, a vocabulary that grew, one head's
//! outputs.

use crate::backend::Cpu;
use crate::error::{Result, listed};
use crate::explain::Subgraph;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rearrange::picked;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::op::{self, Op};
use crate::plan::{StageId, Step};
use crate::tensor::{Tensor, with_element};
use std::collections::BTreeMap;

pub(super) struct WeightRows;

/// How much larger than usual the difference of a row is that is not the reference's.
const LARGER: f64 = 16.0;
/// Rows that are named.
const SHOWN: usize = 8;

impl Rule for WeightRows {
    fn id(&self) -> &'static str {
        "weight-rows"
    }

    fn what(&self) -> &'static str {
        "a few rows of a weight are not the reference's: of some tokens, of some outputs"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some(place) = Place::of(context.steps()).filter(|_| context.is_small()) else {
            return Ok(Vec::new());
        };
        let sample = match place {
            Place::Looked(_) => None,
            Place::Product(_) => context.subgraph.sampled_rows(),
        };
        let sample = sample.as_ref().unwrap_or(context.subgraph);
        let Some(rows) = place.wrong_rows(sample)? else {
            return Ok(Vec::new());
        };
        let name = place.weight();
        let which = match place {
            Place::Looked(step) if step.inputs == [StageId::POSITIONS.into()] => "the positions",
            Place::Looked(_) => "the tokens",
            Place::Product(_) => "outputs",
        };
        let finding = format!(
            "the rows of {which} {} of {name} are not the reference's, the others are",
            listed(&rows, SHOWN)
        );
        let rewrite = Rewrite::new(finding, "with those of the reference", move |subgraph| {
            place.take_over(subgraph)
        });
        Ok(vec![rewrite.certain(Certainty::Taken).about(name)])
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("every fourth row of the embedding damaged", |modules| {
                let weight = modules.embedding()?.params.first()?;
                let edits = Edits::named_by(format!("of {} are not the reference's", weight.name));
                Some(edits.weight(&weight.name, |weight| {
                    neighbours(weight, |row| row % 4 == 1)
                }))
            }),
            Bug::new("two rows of a weight damaged", |modules| {
                let weight = modules.narrowing().next()?.weight;
                let edits = Edits::named_by(format!("outputs 3, 10 of {}", weight.name));
                Some(edits.weight(&weight.name, |weight| {
                    neighbours(weight, |row| [3, 10].contains(&row))
                }))
            }),
        ]
    }
}

/// The picked rows with the values of the next ones.
fn neighbours(weight: &Tensor, is_picked: impl Fn(usize) -> bool) -> Result<Tensor> {
    let rows = weight.shape().first().copied().unwrap_or(0);
    let place = |row: usize| {
        if is_picked(row) {
            (row + 1) % rows
        } else {
            row
        }
    };
    let places: Vec<usize> = (0..rows).map(place).collect();
    picked(weight, &places, rows, weight.shape())
}

/// Where a row of a weight shows.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// In the rows of the tokens or positions that look it up.
    Looked(&'a Step),
    /// In a column of a product.
    Product(&'a Step),
}

impl<'a> Place<'a> {
    fn of(steps: &'a [Step]) -> Option<Self> {
        let (first, rest) = steps.split_first()?;
        let by_column = |step: &Step| matches!(step.op, Op::AddBias(_) | Op::Add(_));
        match first.op {
            Op::Embedding(op::Embedding) if rest.is_empty() => Some(Self::Looked(first)),
            Op::Linear(_) if rest.iter().all(by_column) => Some(Self::Product(first)),
            _ => None,
        }
    }

    fn weight(self) -> &'a str {
        let (Self::Looked(step) | Self::Product(step)) = self;
        &step.params[0].name
    }

    /// The rows that are not the reference's; `None` if they are none, or so many that the others say nothing.
    fn wrong_rows(self, subgraph: &Subgraph) -> Result<Option<Vec<usize>>> {
        let wrong = self.wrong(subgraph)?;
        let rows: Vec<usize> = wrong
            .iter()
            .filter(|(_, wrong)| **wrong)
            .map(|(row, _)| *row)
            .collect();
        let are_few = match self {
            Self::Looked(_) => 4 * rows.len() <= 3 * wrong.len(),
            Self::Product(_) => 2 * rows.len() <= wrong.len(),
        };
        Ok((!rows.is_empty() && are_few).then_some(rows))
    }

    /// Of every row that shows, whether it is far from the reference's.
    fn wrong(self, subgraph: &Subgraph) -> Result<BTreeMap<usize, bool>> {
        let narrowed = subgraph.narrowed()?;
        let result = narrowed.result(&Cpu)?.widened()?;
        let reference = narrowed.reference.widened()?;
        let (ours, theirs) = (result.as_slice::<f64>()?, reference.as_slice::<f64>()?);
        let width = reference.row_len().max(1);
        // The squares of differences and of values by row of the weight.
        let add = |[difference, size]: &mut [f64; 2], ours: f64, theirs: f64| {
            *difference += (ours - theirs) * (ours - theirs);
            *size += theirs * theirs;
        };
        let values = ours.chunks(width).zip(theirs.chunks(width));
        let squares: BTreeMap<usize, [f64; 2]> = match self.ids(subgraph)? {
            Some(ids) => {
                let mut squares: BTreeMap<usize, [f64; 2]> = BTreeMap::new();
                for (id, (ours, theirs)) in ids.into_iter().zip(values) {
                    let of = squares.entry(id).or_default();
                    let pairs = ours.iter().zip(theirs);
                    pairs.for_each(|(ours, theirs)| add(of, *ours, *theirs));
                }
                squares
            }
            None => {
                let mut squares = vec![[0.0; 2]; width];
                for (ours, theirs) in values {
                    let pairs = squares.iter_mut().zip(ours.iter().zip(theirs));
                    pairs.for_each(|(of, (ours, theirs))| add(of, *ours, *theirs));
                }
                squares.into_iter().enumerate().collect()
            }
        };
        let unit = narrowed.reference.dtype().unit_roundoff().unwrap_or(0.0);
        let relative = |[difference, size]: &[f64; 2]| {
            if *difference == 0.0 {
                0.0
            } else {
                difference / size
            }
        };
        let usual = match self {
            // A look-up rounds nothing but the weight.
            Self::Looked(_) => 0.0,
            Self::Product(_) => {
                let mut all: Vec<f64> = squares.values().map(relative).collect();
                all.sort_by(f64::total_cmp);
                all.get(all.len() / 2).copied().unwrap_or(0.0)
            }
        };
        let usual = usual.max(unit * unit);
        let wrong = squares
            .iter()
            .map(|(row, of)| (*row, relative(of) > LARGER * usual));
        Ok(wrong.collect())
    }

    /// What is looked up, one a row of values; `None` of a product.
    fn ids(self, subgraph: &Subgraph) -> Result<Option<Vec<usize>>> {
        let Self::Looked(step) = self else {
            return Ok(None);
        };
        let Some(ids) = subgraph.given.get(&step.inputs[0]) else {
            return Ok(None);
        };
        let ids = ids.widened()?;
        Ok(Some(
            ids.as_slice::<f64>()?
                .iter()
                .map(|id| *id as usize)
                .collect(),
        ))
    }

    /// The reference with the model's own values where rows are wrong: what is left is what the others say.
    fn take_over(self, subgraph: &mut Subgraph) -> Result<()> {
        let wrong = self.wrong(subgraph)?;
        let ids = self.ids(subgraph)?;
        let result = subgraph.result(&Cpu)?;
        let reference = &subgraph.reference;
        let width = reference.row_len().max(1);
        // By row of values of a look-up, else by column.
        let of = |row: usize| wrong.get(&row).copied().unwrap_or(false);
        let (places, is_looked): (Vec<bool>, bool) = match ids {
            Some(ids) => (ids.into_iter().map(of).collect(), true),
            None => ((0..width).map(of).collect(), false),
        };
        let is_wrong = |index: usize| {
            let place = if is_looked {
                index / width
            } else {
                index % width
            };
            places.get(place).copied().unwrap_or(false)
        };
        subgraph.reference = with_element!(reference.dtype(), T => {
            let pairs = reference.as_slice::<T>()?.iter().zip(result.as_slice::<T>()?);
            let pairs = pairs.enumerate();
            let values = pairs.map(|(index, (theirs, ours))| if is_wrong(index) { *ours } else { *theirs });
            Tensor::from_vec(reference.shape(), values.collect())?
        });
        Ok(())
    }
}
