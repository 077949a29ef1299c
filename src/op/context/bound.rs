//! How far weighted values may be off.

use super::Context;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, Sums};
use crate::op::product::group_of;
use rayon::prelude::*;

impl Bounded for Context {
    /// Sums of as many products as probabilities are not 0.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let &[batch, groups, positions, head_dim] = of.inputs[1].shape else {
            unreachable!("the step's shape was checked");
        };
        // Head by head, then side by side as the result has them.
        let heads = of.inputs[0].shape[1];
        let by_head: Vec<Vec<[f64; 2]>> = (0..batch * heads)
            .into_par_iter()
            .map(|index| {
                let probs = of.inputs[0].matrix(index, [positions; 2]);
                let value =
                    of.inputs[1].matrix(group_of(index, heads, groups), [positions, head_dim]);
                let sums = Sums::new(probs, value.transposed(), of.confidence, of.tensor_core());
                let (batch, head) = (index / heads, index % heads);
                let row_of = |position: usize| {
                    let start = ((batch * positions + position) * heads + head) * head_dim;
                    &of.output.values[start..start + head_dim]
                };
                let of_row = |position: usize| {
                    let seen = probs.values.row(position);
                    let terms = seen.iter().filter(|p| **p != 0.0).count();
                    let sums = &sums;
                    let row = row_of(position).iter().enumerate();
                    row.map(move |(column, y)| sums.at([position, column], (*y).into(), terms))
                };
                (0..positions).flat_map(of_row).collect()
            })
            .collect();
        Ok(of.each(|index| {
            let (token, column) = (index / (heads * head_dim), index % (heads * head_dim));
            let (batch, position) = (token / positions, token % positions);
            let matrix = batch * heads + column / head_dim;
            by_head[matrix][position * head_dim + column % head_dim]
        }))
    }
}
