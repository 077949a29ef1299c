//! Row-parallel products: sums of rounded parts over another number of ranks.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::Layer;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op};
use crate::plan::Step;

pub(super) struct PartialSums;

impl Rule for PartialSums {
    fn id(&self) -> &'static str {
        "partial-sums"
    }

    fn what(&self) -> &'static str {
        "a row-parallel product is summed over another number of ranks, each sum rounded"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Op::Linear(op::Linear { partials, .. }) = step.op else {
                continue;
            };
            let ours = partials.count;
            let k = step.params[0].shape.get(1).copied().unwrap_or(1);
            for theirs in [1, 2, 4, 8]
                .into_iter()
                .filter(|n| *n != ours && k % n == 0)
            {
                let set = move |step: &mut Step| {
                    if let Op::Linear(op::Linear { partials, .. }) = &mut step.op {
                        *partials = op::Partials::in_order(theirs);
                    }
                };
                let finding = match theirs {
                    1 => {
                        format!(
                            "the reference computes one sum, the model rounds {ours} partial sums"
                        )
                    }
                    _ => format!("the reference rounds partial sums of {theirs} ranks"),
                };
                let remedy = format!("with {theirs} partial sums");
                all.push(Rewrite::of_step(&step.id, finding, remedy, set));
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::of_rounding(
            "dense_4h_to_h summed over 4 ranks",
            |modules| {
                let layers: Vec<Layer<'_>> = modules.narrowing().collect();
                let edits = Edits::named_by("the reference computes one sum");
                layers.iter().try_fold(edits, |edits, layer| {
                    part(layer.inputs, 4)?;
                    Some(edits.step(&layer.step.id, |step| {
                        if let Op::Linear(op::Linear { partials, .. }) = &mut step.op {
                            *partials = op::Partials::in_order(4);
                        }
                    }))
                })
            },
        )]
    }
}
