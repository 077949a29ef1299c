//! The factor of the scores: the root of the head dimension, left out or applied twice, or the
//! layer's number (query-key layer scaling).

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, Op};
use crate::plan::Step;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    let layer = context.layer().unwrap_or(0) as f32;
    let head_dim = head_dim(context);
    for step in context.steps() {
        let factors = [
            (head_dim.sqrt(), "times the root of the head dimension"),
            (1.0 / head_dim.sqrt(), "over the root of the head dimension"),
            (head_dim, "times the head dimension"),
            (layer, "times the layer's number"),
            (1.0 / layer, "over the layer's number"),
            (layer + 1.0, "times the layer's number from 1"),
            (1.0 / (layer + 1.0), "over the layer's number from 1"),
        ];
        for (factor, what) in factors {
            if !factor.is_finite() || factor == 0.0 || factor == 1.0 {
                continue;
            }
            match step.op {
                Op::AttentionScores(_) => {
                    for (alibi_too, name) in [(false, "products"), (true, "scores")] {
                        let finding = format!("the reference's {name} are {what}");
                        let set = move |step: &mut Step| scale(step, factor, alibi_too);
                        all.push(Rewrite::of_step(&step.id, finding, "with that scale", set));
                    }
                }
                Op::Softmax(_) => {
                    let finding = format!("the reference's softmax is of scores {what}");
                    let set = move |step: &mut Step| scale(step, factor, true);
                    all.push(Rewrite::of_step(&step.id, finding, "with that scale", set));
                }
                _ => {}
            }
        }
    }
    Ok(all)
}

fn scale(step: &mut Step, factor: f32, alibi_too: bool) {
    match &mut step.op {
        Op::AttentionScores(op::AttentionScores {
            product_scale,
            alibi_scale,
            ..
        }) => {
            *product_scale *= factor;
            if alibi_too {
                *alibi_scale *= factor;
            }
        }
        Op::Softmax(op::Softmax { scale, .. }) => *scale *= factor,
        _ => {}
    }
}

/// The head dimension of the attention that the subgraph is part of.
fn head_dim(context: &Context<'_>) -> f32 {
    let Some((heads, fused)) = context.attention() else {
        return 1.0;
    };
    let producer = context.plan.steps().iter().find(|step| step.id == *fused);
    let width = producer
        .and_then(|step| step.params.first())
        .map_or(0, |param| param.shape[0]);
    (width / (3 * heads)).max(1) as f32
}
