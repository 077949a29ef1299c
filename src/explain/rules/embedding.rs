//! Embeddings: scaled, of a shifted vocabulary, or with vocabulary shards in another order.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rearrange;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::explain::steps::followed;
use crate::op::{self, Op, Rounding};
use crate::plan::Step;

pub(super) struct Embedding;

impl Rule for Embedding {
    fn id(&self) -> &'static str {
        "embedding"
    }

    fn what(&self) -> &'static str {
        "embeddings are scaled, or belong to other tokens"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            if step.op != Op::Embedding(op::Embedding) {
                continue;
            }
            let name = &step.params[0].name;
            let &[vocabulary, hidden] = step.params[0].shape.as_slice() else {
                continue;
            };
            for shift in [1, -1, 2, -2_isize, 3, -3, 4, -4] {
                let direction = if shift > 0 { "later" } else { "earlier" };
                let count = shift.unsigned_abs();
                let finding =
                    format!("rows of the embedding lie {count} {direction} than their tokens");
                let order: Vec<usize> = (0..vocabulary as isize)
                    .map(|row| (row + shift).rem_euclid(vocabulary as isize) as usize)
                    .collect();
                let edit = move |weight: &_| rearrange::rows(weight, &order);
                all.push(Rewrite::of_param(
                    name,
                    finding,
                    format!("with the rows shifted by {}", -shift),
                    edit,
                ));
            }
            let root = (hidden as f32).sqrt();
            for (factor, what) in [(root, "times"), (1.0 / root, "over")] {
                let finding = format!(
                    "the reference's embeddings are the model's {what} the root of the hidden size"
                );
                let id = step.id.clone();
                let remedy = format!("with embeddings {what} the root of the hidden size");
                let rewrite = Rewrite::new(finding, remedy, move |subgraph| {
                    let last = subgraph.steps.iter().position(|step| step.id == id);
                    if let Some(index) = last {
                        let op = Op::Scale(op::Scale { factor });
                        let scaled = followed(&mut subgraph.steps[index], op, Rounding::Once);
                        subgraph.steps.insert(index + 1, scaled);
                    }
                    Ok(())
                });
                all.push(rewrite);
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("embedding rows shifted by one token", |modules| {
                one_later(modules.embedding()?)
            }),
            Bug::new("positions shifted by one", |modules| {
                one_later(modules.positions()?)
            }),
            Bug::new(
                "embedding scaled by the root of the hidden size",
                |modules| {
                    let weight = modules.embedding()?.params.first()?;
                    let root = (*weight.shape.last()? as f64).sqrt();
                    let edits = Edits::named_by("are the model's over the root of the hidden size");
                    Some(edits.weight(&weight.name, move |weight| {
                        rearrange::mapped(weight, |x| root * x)
                    }))
                },
            ),
        ]
    }
}

/// An embedding whose rows lie one later than what they are of.
fn one_later(embedding: &Step) -> Option<Edits> {
    let weight = embedding.params.first()?;
    let rows = *weight.shape.first()?;
    let order: Vec<usize> = (0..rows).map(|row| (row + rows - 1) % rows).collect();
    let edits = Edits::named_by("rows of the embedding lie 1 later");
    Some(edits.weight(&weight.name, move |weight| rearrange::rows(weight, &order)))
}
