//! Tensor-parallel shards joined in another order of ranks: along the outputs, the inputs or the
//! vocabulary.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rearrange::{columns, rows};
use crate::explain::rewrite::{Rewrite, param_groups};
use crate::op::{self, Op};
use crate::tensor::Tensor;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let (Op::Linear(_) | Op::Embedding(op::Embedding) | Op::AddBias(op::AddBias)) = step.op
        else {
            continue;
        };
        let shape = &step.params[0].shape;
        for ranks in [2, 4, 8] {
            for (order, how) in orders(ranks) {
                if shape[0] % ranks == 0 {
                    let rows_of = blocks(&order, shape[0] / ranks);
                    for (names, which) in param_groups(step) {
                        let finding = format!("{which} shards of {ranks} ranks are joined {how}");
                        let rows_of = rows_of.clone();
                        let edit = move |param: &Tensor| rows(param, &rows_of);
                        let remedy = "with the shards in rank order";
                        all.push(Rewrite::of_params(names, finding, remedy, edit));
                    }
                }
                if shape.len() == 2
                    && shape[1] % ranks == 0
                    && step.op != Op::Embedding(op::Embedding)
                {
                    let columns_of = blocks(&order, shape[1] / ranks);
                    let finding =
                        format!("weight shards of {ranks} ranks are joined {how} along the inputs");
                    let edit = move |param: &Tensor| columns(param, &columns_of);
                    let remedy = "with the shards in rank order";
                    all.push(Rewrite::of_param(
                        &step.params[0].name,
                        finding,
                        remedy,
                        edit,
                    ));
                }
            }
        }
    }
    Ok(all)
}

/// Where every rank's shard is found.
fn orders(ranks: usize) -> Vec<(Vec<usize>, &'static str)> {
    let mut all = vec![((0..ranks).rev().collect(), "in reverse order")];
    if ranks > 2 {
        let rotated = |by: usize| (0..ranks).map(|rank| (rank + by) % ranks).collect();
        all.push((rotated(1), "starting with the last rank"));
        all.push((rotated(ranks - 1), "starting with the second rank"));
        let half = ranks / 2;
        let interleaved = (0..ranks).map(|rank| rank / 2 + rank % 2 * half).collect();
        all.push((interleaved, "even ranks first"));
        let interleaved = (0..ranks)
            .map(|rank| rank % half * 2 + rank / half)
            .collect();
        all.push((interleaved, "interleaved"));
    }
    all
}

fn blocks(order: &[usize], len: usize) -> Vec<usize> {
    let blocks = order.iter();
    blocks
        .flat_map(|block| block * len..(block + 1) * len)
        .collect()
}
