//! Embeddings: scaled, of a shifted vocabulary, or with vocabulary shards in another order.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rearrange;
use crate::explain::rewrite::Rewrite;
use crate::explain::steps::followed;
use crate::op::{self, Op, Rounding};

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
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
                "with the rows shifted back",
                edit,
            ));
        }
        let root = (hidden as f32).sqrt();
        for (factor, what) in [(root, "times"), (1.0 / root, "over")] {
            let finding = format!(
                "the reference's embeddings are the model's {what} the root of the hidden size"
            );
            let id = step.id.clone();
            let rewrite = Rewrite::new(finding, "with them scaled", move |subgraph| {
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
