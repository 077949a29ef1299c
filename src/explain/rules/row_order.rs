//! The order of a product's rows, read from the values: two heads swapped, or any other.

use crate::backend::Fp64;
use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::modules::Projection;
use crate::explain::rearrange::rows;
use crate::explain::rewrite::{Certainty, Rewrite, param_groups};
use crate::explain::rule::Rule;
use crate::op::{Op, QkvLayout};

/// How far a column may be from the one that it is taken for, relative to its size: rounding to a half type is well
/// within.
const NEAR: f64 = 0.02;

pub(super) struct RowOrder;

impl Rule for RowOrder {
    fn id(&self) -> &'static str {
        "row-order"
    }

    fn what(&self) -> &'static str {
        "the rows of a weight are in another order, which the reference's values show: two heads are swapped"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        // A product, with its bias in the same step or in the next.
        let is_product = match context.steps() {
            [product] => matches!(product.op, Op::Linear(_)),
            [product, bias] => matches!((&product.op, &bias.op), (Op::Linear(_), Op::AddBias(_))),
            _ => false,
        };
        if !is_product {
            return Ok(Vec::new());
        }
        let sample = context.subgraph.sampled_rows();
        let sample = sample.as_ref().unwrap_or(context.subgraph);
        let found = sample.result(&Fp64)?.widened()?;
        let reference = sample.reference.widened()?;
        let width = reference.row_len();
        let Some(order) = order(found.as_slice()?, reference.as_slice()?, width) else {
            return Ok(Vec::new());
        };
        let heads = context
            .projection()
            .map(|projection| Heads::of(&projection));
        let what = described(&order, heads);
        let params = context.steps().iter().flat_map(|step| &step.params);
        let names = params.map(|param| param.name.clone()).collect();
        let rewrites = param_groups(names).into_iter().map(|(names, which)| {
            let order = order.clone();
            let rewrite = Rewrite::of_params(
                names,
                format!("{which} rows: {what}"),
                "with the rows in the order that the reference's values show",
                move |param| rows(param, &order),
            );
            rewrite.certain(Certainty::Fitted)
        });
        Ok(rewrites.collect())
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::new("two heads swapped", |modules| {
            let queries = modules.queries().next()?;
            let heads = Heads::of(&queries);
            if heads.count < 2 {
                return None;
            }
            let edits = Edits::named_by("heads 0 and 1 are swapped");
            Some(edits.weights(queries.layer.params(), move |param| {
                let count = param.shape().first().copied().unwrap_or(0);
                let from = |row: usize| match heads.head(row) {
                    0 => row + heads.step,
                    1 => row - heads.step,
                    _ => row,
                };
                rows(param, &(0..count).map(from).collect::<Vec<_>>())
            }))
        })]
    }
}

/// Which rows of a projection are whose.
#[derive(Clone, Copy)]
struct Heads {
    count: usize,
    /// Rows from one head's to the next one's.
    step: usize,
}

impl Heads {
    fn of(projection: &Projection<'_>) -> Self {
        let parts = match projection.layout {
            QkvLayout::PerHead => projection.layout.parts(),
            QkvLayout::PerPart | QkvLayout::Separate => 1,
        };
        Self {
            count: projection.heads,
            step: parts * projection.head_dim,
        }
    }

    fn head(self, row: usize) -> usize {
        row / self.step % self.count
    }

    /// A row of any head without the head: what it is there.
    fn place(self, row: usize) -> usize {
        row - self.head(row) * self.step
    }
}

/// Where the reference's columns are found among the model's; `None` if they are not all found, or where they
/// belong.
fn order(found: &[f64], reference: &[f64], width: usize) -> Option<Vec<usize>> {
    if width == 0 || found.len() != reference.len() {
        return None;
    }
    let count = found.len() / width;
    let apart = |ours: usize, theirs: usize| {
        let rows =
            (0..count).map(|row| (reference[row * width + ours], found[row * width + theirs]));
        let (difference, size) = rows.fold((0.0, 0.0), |(difference, size), (a, b)| {
            (difference + (a - b) * (a - b), size + a * a)
        });
        (difference <= NEAR * NEAR * size).then_some(difference)
    };
    // By their first value: near ones lie together.
    let mut sorted: Vec<usize> = (0..width).collect();
    sorted.sort_by(|a, b| found[*a].total_cmp(&found[*b]));
    let mut taken = vec![false; width];
    let mut order = Vec::with_capacity(width);
    for column in 0..width {
        let value = reference[column];
        let reach = NEAR * column_size(reference, width, column);
        let start = sorted.partition_point(|other| found[*other] < value - reach);
        let near = sorted[start..]
            .iter()
            .take_while(|other| found[**other] <= value + reach);
        // Where several are as near, its own place is the likeliest.
        let near = [column].into_iter().chain(near.copied());
        let free = near.filter(|other| !taken[*other]);
        let measured = free.filter_map(|other| Some((apart(column, other)?, other)));
        let (_, place) = measured.reduce(|best, next| if next.0 < best.0 { next } else { best })?;
        taken[place] = true;
        order.push(place);
    }
    let is_moved = order.iter().enumerate().any(|(to, from)| to != *from);
    is_moved.then_some(order)
}

/// The root of the sum of a column's squares.
fn column_size(values: &[f64], width: usize, column: usize) -> f64 {
    let column = values.iter().skip(column).step_by(width);
    column.map(|x| x * x).sum::<f64>().sqrt()
}

/// An order in words.
fn described(order: &[usize], heads: Option<Heads>) -> String {
    let moved: Vec<usize> = (0..order.len()).filter(|row| order[*row] != *row).collect();
    if let Some(heads) = heads.filter(|heads| heads.count * heads.step > 0) {
        let from = |head: usize| heads.head(order[head * heads.step]);
        let is_whole = order.len() >= heads.count * heads.step
            && order.iter().enumerate().all(|(to, row)| {
                heads.place(to) == heads.place(*row) && heads.head(*row) == from(heads.head(to))
            });
        let moved: Vec<usize> = (0..heads.count)
            .filter(|head| is_whole && from(*head) != *head)
            .collect();
        match moved.as_slice() {
            [first, second] => return format!("heads {first} and {second} are swapped"),
            [_, _, ..] => {
                let all: Vec<String> = (0..heads.count)
                    .map(|head| from(head).to_string())
                    .collect();
                return format!(
                    "heads are in another order, the reference's are the model's {}",
                    all.join(", ")
                );
            }
            _ => {}
        }
    }
    let first = moved[0];
    format!(
        "{} of {} are in another order: the reference's row {first} is the model's {}",
        moved.len(),
        order.len(),
        order[first]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_from_values() {
        let reference: Vec<f64> = (0..32).map(|index| f64::from(index * 37 % 53)).collect();
        let width = 8;
        let moved = [2, 3, 0, 1, 4, 5, 6, 7];
        let found = |order: &[usize]| -> Vec<f64> {
            let rows = reference.chunks(width);
            // What is at `to` in the reference is at `order[to]` in the model.
            let row = |row: &[f64]| {
                let mut found = vec![0.0; width];
                order
                    .iter()
                    .zip(row)
                    .for_each(|(at, value)| found[*at] = *value);
                found
            };
            rows.flat_map(row).collect()
        };
        assert_eq!(
            order(&found(&moved), &reference, width).as_deref(),
            Some(&moved[..])
        );
        let same: Vec<usize> = (0..width).collect();
        assert_eq!(order(&found(&same), &reference, width), None);
        let other: Vec<f64> = reference.iter().map(|x| x + 1.0).collect();
        assert_eq!(order(&other, &reference, width), None);
        assert_eq!(
            described(&moved, Some(Heads { count: 4, step: 2 })),
            "heads 0 and 1 are swapped"
        );
        let turned = [2, 3, 4, 5, 0, 1, 6, 7];
        assert_eq!(
            described(&turned, Some(Heads { count: 4, step: 2 })),
            "heads are in another order, the reference's are the model's 1, 2, 0, 3"
        );
        // A head's rows of queries, keys and values lie apart.
        let by_part: Vec<usize> = (0..3)
            .flat_map(|part| [2, 3, 0, 1].map(|row| 4 * part + row))
            .collect();
        assert_eq!(
            described(&by_part, Some(Heads { count: 2, step: 2 })),
            "heads 0 and 1 are swapped"
        );
        assert_eq!(
            described(&[1, 0, 2], None),
            "2 of 3 are in another order: the reference's row 0 is the model's 1"
        );
    }
}
