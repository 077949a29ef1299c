//! Dropout left on in the reference's run.

use crate::error::Result;
use crate::explain::Subgraph;
use crate::explain::bug::Bug;
use crate::explain::context::Context;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::explain::steps::{followed, preceded};
use crate::op::{self, Op, Rounding};
use crate::plan::StageId;
use crate::tensor::{Float, Tensor, with_float};

pub(super) struct Dropout;

impl Rule for Dropout {
    fn id(&self) -> &'static str {
        "dropout"
    }

    fn what(&self) -> &'static str {
        "the reference ran in training mode, with dropout on"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some(last) = context.steps().last().filter(|_| context.is_small()) else {
            return Ok(Vec::new());
        };
        // What is dropped: the value itself, or what is added to a residual stream.
        let mut dropped = vec![None];
        if let (Op::Add(op::Add), [_, branch]) = (&last.op, last.inputs.as_slice()) {
            dropped.push(Some(branch.clone()));
        }
        let sample = context.subgraph.sampled();
        let sample = sample.as_ref().unwrap_or(context.subgraph);
        let mut all = Vec::new();
        for branch in dropped {
            let Some(values) = Values::of(sample, branch.as_ref())? else {
                continue;
            };
            let Some(probability) = values.probability() else {
                continue;
            };
            let rewrite = Rewrite::new(
                format!("dropout of {probability} was on in the reference's run"),
                "with the values dropped that the reference dropped",
                move |subgraph| {
                    let Some(values) = Values::of(subgraph, branch.as_ref())? else {
                        return Ok(());
                    };
                    let noise = values.noise(probability)?;
                    drop_values(subgraph, branch.as_ref(), noise);
                    Ok(())
                },
            );
            all.push(rewrite.certain(Certainty::Taken));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        // No model has it: it is the reference's run. Two of those are in goldens/.
        Vec::new()
    }
}

/// What may have been dropped: the model's values, and what the reference has in their place.
struct Values {
    whole: Tensor,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Values {
    /// Of a branch that is added to a residual stream, else of the result.
    fn of(subgraph: &Subgraph, branch: Option<&StageId>) -> Result<Option<Self>> {
        let Some(last) = subgraph.steps.last() else {
            return Ok(None);
        };
        let Some(whole) = subgraph.value_of(branch.unwrap_or(&last.id))? else {
            return Ok(None);
        };
        let ours = whole.widened()?.as_slice::<f64>()?.to_vec();
        let mut theirs = subgraph.reference.widened()?.as_slice::<f64>()?.to_vec();
        if branch.is_some() {
            let Some(residual) = subgraph.value_of(&last.inputs[0])? else {
                return Ok(None);
            };
            let residual = residual.widened()?;
            let residual = residual.as_slice::<f64>()?.iter();
            theirs
                .iter_mut()
                .zip(residual)
                .for_each(|(sum, x)| *sum -= x);
        }
        Ok((ours.len() == theirs.len()).then_some(Self {
            whole,
            ours,
            theirs,
        }))
    }

    /// The probability at which values are dropped, if some are and the others are larger by what makes up for it.
    fn probability(&self) -> Option<f64> {
        /// Fewest values to go by.
        const FEWEST: usize = 20;
        let pairs = || self.ours.iter().zip(&self.theirs);
        let squares: f64 = self.ours.iter().map(|x| x * x).sum();
        let usual = (squares / self.ours.len() as f64).sqrt();
        // Small ones are lost in a residual's rounding, and 0 stays 0.
        let large = || pairs().filter(|(x, _)| x.abs() > 0.5 * usual);
        let (mut count, mut zeros) = (0_usize, 0_usize);
        let (mut product, mut kept) = (0.0, 0.0);
        for (x, y) in large() {
            count += 1;
            if y.abs() < 0.5 * x.abs() {
                zeros += 1;
            } else {
                product += x * y;
                kept += x * x;
            }
        }
        let share = zeros as f64 / count as f64;
        let factor = product / kept;
        let probability = 1.0 - 1.0 / factor;
        let spread = (share * (1.0 - share) / count as f64).sqrt();
        let fits = count >= FEWEST
            && zeros > 0
            && (0.0..1.0).contains(&probability)
            && (probability - share).abs() <= 5.0 * spread + 0.005;
        // As people write it, where the rounding of values lets it be that.
        let written = (100.0 * probability).round() / 100.0;
        fits.then_some(if (probability - written).abs() < 2e-3 {
            written
        } else {
            (1e4 * probability).round() / 1e4
        })
    }

    /// What the model's values are multiplied by: 0, or what makes up for the dropped ones, rounded to their type as
    /// torch rounds it.
    fn noise(&self, probability: f64) -> Result<Tensor> {
        let kept = 1.0 / (1.0 - probability);
        let factors = self.ours.iter().zip(&self.theirs);
        let factors = factors.map(|(x, y)| match y.abs() < 0.5 * kept * x.abs() {
            true => 0.0,
            false => kept,
        });
        with_float!(self.whole.dtype(), T => {
            Tensor::from_vec(self.whole.shape(), factors.map(T::nearest).collect())
        }, else Ok(self.whole.clone()))
    }
}

/// Multiplies a branch, or the result, by the noise.
fn drop_values(subgraph: &mut Subgraph, branch: Option<&StageId>, noise: Tensor) {
    let Some(last) = subgraph.steps.last_mut() else {
        return;
    };
    let noise_id = StageId::from(format!("{}.noise", last.id).as_str());
    let op = Op::Multiply(op::Multiply);
    match branch {
        None => {
            let mut multiply = followed(last, op, Rounding::EachOperation);
            multiply.inputs.push(noise_id.clone());
            subgraph.steps.push(multiply);
        }
        Some(branch) => {
            let mut multiply = preceded(last, branch, op, Rounding::EachOperation);
            multiply.inputs.push(noise_id.clone());
            let place = subgraph.steps.len() - 1;
            subgraph.steps.insert(place, multiply);
        }
    }
    subgraph.given.insert(noise_id, noise);
}
