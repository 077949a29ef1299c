//! Tensor-parallel shards joined in another order of ranks: along the outputs, the inputs or the
//! vocabulary.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::rearrange::{columns, rows};
use crate::explain::rewrite::{Rewrite, param_groups};
use crate::explain::rule::Rule;
use crate::op::{self, Op};
use crate::tensor::Tensor;

pub(super) struct RankOrder;

impl Rule for RankOrder {
    fn id(&self) -> &'static str {
        "rank-order"
    }

    fn what(&self) -> &'static str {
        "tensor-parallel shards are joined in another order of ranks: along the outputs, the inputs or the vocabulary"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let (Op::Linear(_) | Op::Embedding(op::Embedding) | Op::AddBias(op::AddBias)) = step.op
            else {
                continue;
            };
            let shape = &step.params[0].shape;
            let names = step.params.iter().map(|param| param.name.clone());
            let groups = param_groups(names.collect());
            for ranks in [2, 4, 8] {
                for (order, how) in orders(ranks) {
                    if shape[0] % ranks == 0 {
                        let rows_of = blocks(&order, shape[0] / ranks);
                        for (names, which) in &groups {
                            let finding =
                                format!("{which} shards of {ranks} ranks are joined {how}");
                            let rows_of = rows_of.clone();
                            let edit = move |param: &Tensor| rows(param, &rows_of);
                            let remedy = "with the shards in rank order";
                            all.push(Rewrite::of_params(names.clone(), finding, remedy, edit));
                        }
                    }
                    if shape.len() == 2
                        && shape[1] % ranks == 0
                        && step.op != Op::Embedding(op::Embedding)
                    {
                        let columns_of = blocks(&order, shape[1] / ranks);
                        let finding = format!(
                            "weight shards of {ranks} ranks are joined {how} along the inputs"
                        );
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

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("vocabulary shards of 2 ranks in reverse order", |modules| {
                let weight = modules.embedding()?.params.first()?;
                let order = in_reverse(*weight.shape.first()?, 2)?;
                let edits = Edits::named_by("weight shards of 2 ranks are joined in reverse order");
                Some(edits.weight(&weight.name, move |weight| rows(weight, &order)))
            }),
            Bug::new("dense shards of 2 ranks swapped", |modules| {
                let layer = modules.attention_outputs().next()?;
                let order = in_reverse(layer.inputs, 2)?;
                let edits = Edits::named_by("in reverse order along the inputs");
                Some(edits.weight(&layer.weight.name, move |weight| columns(weight, &order)))
            }),
            Bug::new(
                "dense_h_to_4h shards of 4 ranks in reverse order",
                |modules| {
                    let layer = modules.widening().last()?;
                    let order = in_reverse(layer.outputs, 4)?;
                    let edits = Edits::named_by("4 ranks are joined in reverse order");
                    Some(edits.weight(&layer.weight.name, move |weight| rows(weight, &order)))
                },
            ),
        ]
    }
}

fn in_reverse(len: usize, ranks: usize) -> Option<Vec<usize>> {
    let order: Vec<usize> = (0..ranks).rev().collect();
    Some(blocks(&order, part(len, ranks)?))
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
