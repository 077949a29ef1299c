//! A factor that the reference's values have and the candidate's lack.

use super::head::UNTIED;
use crate::backend::Fp64;
use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::explain::steps::followed;
use crate::op::{self, Op, Rounding};
use crate::tensor::Tensor;

pub(super) struct Multiplier;

impl Rule for Multiplier {
    fn id(&self) -> &'static str {
        "multiplier"
    }

    fn what(&self) -> &'static str {
        "values are off by one factor"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some(last) = context.steps().last() else {
            return Ok(Vec::new());
        };
        if !matches!(
            last.op,
            Op::Linear(_)
                | Op::Add(op::Add)
                | Op::Embedding(op::Embedding)
                | Op::AddBias(op::AddBias)
        ) {
            return Ok(Vec::new());
        }
        let rewrite = Rewrite::new(
            "the reference's values are the model's times one factor",
            "with one factor for all values, fitted to the reference",
            |subgraph| {
                let found = subgraph.result(&Fp64)?.widened()?;
                let reference = subgraph.reference.widened()?;
                let pairs = found
                    .as_slice::<f64>()?
                    .iter()
                    .zip(reference.as_slice::<f64>()?);
                let (squares, products) = pairs.fold((0.0, 0.0), |(squares, products), (a, b)| {
                    (squares + a * a, products + a * b)
                });
                let factor = (products / squares) as f32;
                if let Some(last) = subgraph.steps.last_mut() {
                    let scaled = followed(last, Op::Scale(op::Scale { factor }), Rounding::Once);
                    subgraph.steps.push(scaled);
                }
                Ok(())
            },
        );
        Ok(vec![rewrite.certain(Certainty::Fitted)])
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::new("logits multiplied by 0.5", |modules| {
            let head = modules.head()?;
            let half = |weight: &Tensor| mapped(weight, |x| 0.5 * x);
            let ours = &head.weight.name;
            if !modules.is_tied() {
                let edits = Edits::named_by("the model's times one factor");
                return Some(edits.weight(ours, half));
            }
            // The embedding, which is at hand, explains it without a fit.
            let edits = Edits::named_by(format!("head is {ours}")).weight_from(UNTIED, ours, half);
            Some(edits.step(&head.step.id, |step| step.params[0].name = UNTIED.into()))
        })]
    }
}
