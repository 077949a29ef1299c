//! The order of the rows of a fused query-key-value projection: per head, per part, per query group
//! or rank; parts swapped; weight and bias in different orders.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rearrange::rows;
use crate::explain::rewrite::{Rewrite, param_groups};
use crate::op::Op;

/// Axes of the row index: head, part (query, key, value), dimension within the head.
const AXES: [&str; 3] = ["heads", "3", "d"];
/// Other orders of the three axes.
const ORDERS: [[usize; 3]; 5] = [[1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let Some((step, heads)) = context.steps().last().zip(context.heads()) else {
        return Ok(Vec::new());
    };
    let Op::Linear(_) = step.op else {
        return Ok(Vec::new());
    };
    let width = step.params[0].shape[0];
    let mut all = Vec::new();
    for (what, order) in orders(heads, width / (3 * heads).max(1)) {
        if order.iter().enumerate().all(|(row, from)| row == *from) {
            continue;
        }
        for (names, which) in param_groups(step) {
            let order = order.clone();
            let rewrite = Rewrite::of_params(
                names,
                format!("{which} rows {what}"),
                "with the rows reordered",
                move |param| rows(param, &order),
            );
            all.push(rewrite);
        }
    }
    Ok(all)
}

/// What may be the matter with rows, and the row that every row of the right order is found at.
fn orders(heads: usize, d: usize) -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    let extents = [heads, 3, d];
    for order in ORDERS {
        let found = order.map(|axis| AXES[axis]).join(", ");
        let strides = strides(extents, order);
        let expected = "the model expects [heads, 3, d]";
        let forward: Vec<usize> = indices(extents).map(|index| dot(index, strides)).collect();
        let mut back = vec![0; forward.len()];
        for (row, from) in forward.iter().enumerate() {
            back[*from] = row;
        }
        let reordered = format!(
            "were reordered from [{found}] to [heads, 3, d] although they had that order already"
        );
        all.push((format!("are ordered [{found}], {expected}"), forward));
        all.push((reordered, back));
    }
    for groups in (2..heads).filter(|groups| heads.is_multiple_of(*groups)) {
        let local = heads / groups;
        let order = indices(extents).map(|[head, part, at]| {
            let (group, head) = (head / local, head % local);
            ((group * 3 + part) * local + head) * d + at
        });
        let found = format!(
            "are ordered [{groups}, 3, heads/{groups}, d] (query groups or ranks), the model expects [heads, 3, d]"
        );
        all.push((found, order.collect()));
    }
    for (parts, names) in [
        ([0, 2, 1], "keys and values"),
        ([1, 0, 2], "queries and keys"),
        ([2, 1, 0], "queries and values"),
    ] {
        let order = indices(extents).map(|[head, part, at]| (head * 3 + parts[part]) * d + at);
        all.push((format!("of {names} are swapped"), order.collect()));
    }
    all
}

fn indices(extents: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [heads, parts, d] = extents;
    (0..heads * parts * d).map(move |row| [row / (parts * d), row / d % parts, row % d])
}

/// Stride of every axis where they are stored in this order.
fn strides(extents: [usize; 3], order: [usize; 3]) -> [usize; 3] {
    let mut strides = [0; 3];
    let mut stride = 1;
    for axis in order.into_iter().rev() {
        strides[axis] = stride;
        stride *= extents[axis];
    }
    strides
}

fn dot(index: [usize; 3], strides: [usize; 3]) -> usize {
    index
        .iter()
        .zip(strides)
        .map(|(index, stride)| index * stride)
        .sum()
}
