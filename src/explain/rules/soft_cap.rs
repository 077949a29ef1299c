//! A soft cap on logits or scores.

use crate::error::Result;
use crate::explain::bug::Bug;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::explain::steps::followed;
use crate::op::{self, Op, Rounding};

/// Those in use: Gemma 2 has 30 on logits and 50 on scores.
const CAPS: [f32; 4] = [30.0, 50.0, 15.0, 20.0];

pub(super) struct SoftCap;

impl Rule for SoftCap {
    fn id(&self) -> &'static str {
        "soft-cap"
    }

    fn what(&self) -> &'static str {
        "logits or scores have a soft cap that the model lacks"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some(last) = context.steps().last() else {
            return Ok(Vec::new());
        };
        let is_head = matches!(last.op, Op::Linear(_)) && context.readers().next().is_none();
        if !is_head && !matches!(last.op, Op::AttentionScores(_)) {
            return Ok(Vec::new());
        }
        let capped = CAPS.map(|cap| {
            let finding = format!("the reference caps these values softly at {cap}");
            Rewrite::new(
                finding,
                format!("with a soft cap of {cap}"),
                move |subgraph| {
                    if let Some(last) = subgraph.steps.last_mut() {
                        let step = followed(
                            last,
                            Op::SoftCap(op::SoftCap { cap }),
                            Rounding::EachOperation,
                        );
                        subgraph.steps.push(step);
                    }
                    Ok(())
                },
            )
        });
        Ok(capped.into())
    }

    fn bugs(&self) -> Vec<Bug> {
        // No model here caps its values.
        Vec::new()
    }
}
