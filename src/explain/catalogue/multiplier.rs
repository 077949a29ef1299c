//! A factor that the reference's values have and the candidate's have not.

use crate::backend::Fp64;
use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::steps::followed;
use crate::op::{self, Op, Rounding};

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let Some(last) = context.steps().last() else {
        return Ok(Vec::new());
    };
    if !matches!(
        last.op,
        Op::Linear(_) | Op::Add(op::Add) | Op::Embedding(op::Embedding) | Op::AddBias(op::AddBias)
    ) {
        return Ok(Vec::new());
    }
    let rewrite = Rewrite::new(
        "the reference's values are the model's times one factor",
        "with that factor, fitted to the reference",
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
