//! The order of the rows of a fused query-key-value projection: per head, per part, per query group
//! or rank; parts swapped; weight and bias in different orders.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::Fused;
use crate::explain::rearrange::rows;
use crate::explain::rewrite::{Rewrite, param_groups};
use crate::explain::rule::Rule;
use crate::op::Op;

/// Axes of the row index: head, part (query, key, value), dimension within the head.
const AXES: [&str; 3] = ["heads", "3", "d"];
/// Other orders of the three axes.
const ORDERS: [[usize; 3]; 5] = [[1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

pub(super) struct QkvLayout;

impl Rule for QkvLayout {
    fn id(&self) -> &'static str {
        "qkv-layout"
    }

    fn what(&self) -> &'static str {
        "the rows of a fused query-key-value projection are in another order: by part, by query group or rank, reordered twice, or with parts swapped"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some((step, heads)) = context.steps().last().zip(context.heads()) else {
            return Ok(Vec::new());
        };
        let Op::Linear(_) = step.op else {
            return Ok(Vec::new());
        };
        let width = step.params[0].shape[0];
        let mut all = Vec::new();
        for (what, remedy, order) in orders(heads, width / (3 * heads).max(1)) {
            if order.iter().enumerate().all(|(row, from)| row == *from) {
                continue;
            }
            for (names, which) in param_groups(step) {
                let order = order.clone();
                let rewrite = Rewrite::of_params(
                    names,
                    format!("{which} rows {what}"),
                    format!("with the rows {remedy}"),
                    move |param| rows(param, &order),
                );
                all.push(rewrite);
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("qkv rows [3, heads, d]", |modules| {
                let fused = modules.fused().next()?;
                let edits = Edits::named_by("weight and bias rows are ordered [3, heads, d]");
                Some(reordered(
                    edits,
                    &fused,
                    fused.layer.params(),
                    by_part(&fused),
                ))
            }),
            Bug::new("qkv weight rows [3, heads, d], bias right", |modules| {
                let fused = modules.fused().last()?;
                let weight = fused.layer.weight.name.clone();
                let edits = Edits::named_by("weight rows are ordered [3, heads, d]");
                Some(reordered(edits, &fused, [weight], by_part(&fused)))
            }),
            Bug::new("qkv bias rows [3, heads, d], weight right", |modules| {
                let fused = modules.fused().next()?;
                let bias = fused.layer.bias?.name.clone();
                let edits = Edits::named_by("bias rows are ordered [3, heads, d]");
                Some(reordered(edits, &fused, [bias], by_part(&fused)))
            }),
            Bug::new("qkv reordered although in order", |modules| {
                let fused = modules.fused().next()?;
                let Fused {
                    heads, head_dim: d, ..
                } = fused;
                let from = move |row: usize| {
                    let (head, part, at) = (row / (3 * d), row / d % 3, row % d);
                    (part * heads + head) * d + at
                };
                let edits = Edits::named_by("although they had that order already");
                Some(reordered(edits, &fused, fused.layer.params(), from))
            }),
            Bug::new("qkv of 2 query groups", |modules| {
                let fused = modules.fused().next()?;
                let d = fused.head_dim;
                let local = part(fused.heads, 2)?;
                let from = move |row: usize| {
                    let (group, part) = (row / (3 * local * d), row / (local * d) % 3);
                    let (head, at) = (row / d % local, row % d);
                    ((group * local + head) * 3 + part) * d + at
                };
                let edits = Edits::named_by("[2, 3, heads/2, d]");
                Some(reordered(edits, &fused, fused.layer.params(), from))
            }),
            Bug::new("keys and values swapped", |modules| {
                let fused = modules.fused().last()?;
                let d = fused.head_dim;
                let from = move |row: usize| {
                    let (head, part, at) = (row / (3 * d), row / d % 3, row % d);
                    (head * 3 + [0, 2, 1][part]) * d + at
                };
                let edits = Edits::named_by("of keys and values are swapped");
                Some(reordered(edits, &fused, fused.layer.params(), from))
            }),
        ]
    }
}

/// Parameters of a fused projection whose every row comes from another.
fn reordered(
    edits: Edits,
    fused: &Fused<'_>,
    params: impl IntoIterator<Item = String>,
    from: impl Fn(usize) -> usize,
) -> Edits {
    let order: Vec<usize> = (0..fused.layer.outputs).map(from).collect();
    edits.weights(params, move |param| rows(param, &order))
}

/// The row of [heads, 3, d] that a row of [3, heads, d] is.
fn by_part(fused: &Fused<'_>) -> impl Fn(usize) -> usize + use<> {
    let (heads, d) = (fused.heads, fused.head_dim);
    move |row| {
        let (part, head, at) = (row / (heads * d), row / d % heads, row % d);
        (head * 3 + part) * d + at
    }
}

/// What may be the matter with rows, how they are put right, and the row that every row of the right
/// order is found at.
fn orders(heads: usize, d: usize) -> Vec<(String, String, Vec<usize>)> {
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
        all.push((
            format!("are ordered [{found}], {expected}"),
            format!("reordered from [{found}] to [heads, 3, d]"),
            forward,
        ));
        let remedy = format!("reordered back to [{found}]");
        all.push((reordered, remedy, back));
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
        let remedy = format!("reordered from [{groups}, 3, heads/{groups}, d] to [heads, 3, d]");
        all.push((found, remedy, order.collect()));
    }
    for (parts, names) in [
        ([0, 2, 1], "keys and values"),
        ([1, 0, 2], "queries and keys"),
        ([2, 1, 0], "queries and values"),
    ] {
        let order = indices(extents).map(|[head, part, at]| (head * 3 + parts[part]) * d + at);
        let finding = format!("of {names} are swapped");
        all.push((finding, format!("of {names} swapped back"), order.collect()));
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
