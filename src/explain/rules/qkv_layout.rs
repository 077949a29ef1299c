//! The order of the rows of a fused query-key-value projection: per head, per part, per query group
//! or rank; parts swapped; weight and bias in different orders.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::{Modules, Projection};
use crate::explain::rearrange::{inverse, rows};
use crate::explain::rewrite::{Rewrite, param_groups};
use crate::explain::rule::Rule;
use crate::op;

/// Axes of the row index: head, part (query, key, value), dimension within the head.
const AXES: [&str; 3] = ["heads", "3", "d"];
/// Orders of the three axes.
const ORDERS: [[usize; 3]; 6] = [
    PER_HEAD,
    PER_PART,
    [0, 2, 1],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];
const PER_HEAD: [usize; 3] = [0, 1, 2];
const PER_PART: [usize; 3] = [1, 0, 2];

pub(super) struct QkvLayout;

impl Rule for QkvLayout {
    fn id(&self) -> &'static str {
        "qkv-layout"
    }

    fn what(&self) -> &'static str {
        "the rows of a fused query-key-value projection are in another order: by part, by query group or rank, reordered twice, or with parts swapped"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let projection = context.projection();
        let rows_of = projection.and_then(|projection| Some((projection, Rows::of(&projection)?)));
        let Some((projection, rows_of)) = rows_of else {
            return Ok(Vec::new());
        };
        let groups = param_groups(context.params_of(projection.layer));
        let mut all = Vec::new();
        for (what, remedy, order) in rows_of.orders() {
            if order.iter().enumerate().all(|(row, from)| row == *from) {
                continue;
            }
            for (names, which) in &groups {
                let order = order.clone();
                let rewrite = Rewrite::of_params(
                    names.clone(),
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
                let fused = per_head(modules).next()?;
                let edits = Edits::named_by("weight and bias rows are ordered [3, heads, d]");
                edited(edits, &fused, fused.layer.params(), PER_PART)
            }),
            Bug::new("qkv weight rows [3, heads, d], bias right", |modules| {
                let fused = per_head(modules).last()?;
                let weight = fused.layer.weight.name.clone();
                let edits = Edits::named_by("weight rows are ordered [3, heads, d]");
                edited(edits, &fused, vec![weight], PER_PART)
            }),
            Bug::new("qkv bias rows [3, heads, d], weight right", |modules| {
                let fused = per_head(modules).next()?;
                let bias = fused.layer.bias?.name.clone();
                let edits = Edits::named_by("bias rows are ordered [3, heads, d]");
                edited(edits, &fused, vec![bias], PER_PART)
            }),
            Bug::new("qkv rows left as [heads, 3, d]", |modules| {
                let fused = fused(modules).next()?;
                let edits = Edits::named_by("weight and bias rows are ordered [heads, 3, d]");
                let per_part = fused.layout == op::QkvLayout::PerPart;
                per_part.then(|| edited(edits, &fused, fused.layer.params(), PER_HEAD))?
            }),
            Bug::new("qkv reordered although in order", |modules| {
                let fused = fused(modules).next()?;
                let rows_of = Rows::of(&fused)?;
                let other = rows_of.other();
                let order = rows_of.found(other).collect();
                let edits = Edits::named_by("although they had that order already");
                Some(reordered(edits, fused.layer.params(), order))
            }),
            Bug::new("qkv of 2 query groups", |modules| {
                let fused = fused(modules).next()?;
                let rows_of = Rows::of(&fused)?;
                let local = part(fused.heads, 2)?;
                let order = rows_of
                    .indices()
                    .map(|index| rows_of.in_groups(local, index));
                let edits = Edits::named_by("[2, 3, heads/2, d]");
                let order = inverse(&order.collect::<Vec<_>>());
                Some(reordered(edits, fused.layer.params(), order))
            }),
            Bug::new("keys and values swapped", |modules| {
                let fused = fused(modules).last()?;
                let rows_of = Rows::of(&fused)?;
                let order = rows_of.with_parts([0, 2, 1]).collect();
                let edits = Edits::named_by("of keys and values are swapped");
                Some(reordered(edits, fused.layer.params(), order))
            }),
        ]
    }
}

/// The projections that hold queries, keys and values.
fn fused(modules: Modules<'_>) -> impl Iterator<Item = Projection<'_>> {
    let separate = op::QkvLayout::Separate;
    modules
        .queries()
        .filter(move |queries| queries.layout != separate)
}

fn per_head(modules: Modules<'_>) -> impl Iterator<Item = Projection<'_>> {
    fused(modules).filter(|fused| fused.layout == op::QkvLayout::PerHead)
}

/// Parameters of a fused projection stored in this order of axes.
fn edited(
    edits: Edits,
    fused: &Projection<'_>,
    params: Vec<String>,
    stored: [usize; 3],
) -> Option<Edits> {
    let found: Vec<usize> = Rows::of(fused)?.found(stored).collect();
    Some(reordered(edits, params, inverse(&found)))
}

/// Parameters whose every row comes from another.
fn reordered(edits: Edits, params: Vec<String>, order: Vec<usize>) -> Edits {
    edits.weights(params, move |param| rows(param, &order))
}

/// The rows of a fused projection, as a model expects them.
#[derive(Clone, Copy)]
struct Rows {
    /// Of head, part and dimension within the head.
    extents: [usize; 3],
    /// The axes, outermost first.
    order: [usize; 3],
}

impl Rows {
    /// `None` of a projection that holds queries alone.
    fn of(projection: &Projection<'_>) -> Option<Self> {
        let order = match projection.layout {
            op::QkvLayout::PerHead => PER_HEAD,
            op::QkvLayout::PerPart => PER_PART,
            op::QkvLayout::Separate => return None,
        };
        Some(Self {
            extents: [projection.heads, 3, projection.head_dim],
            order,
        })
    }

    /// The order that is most often taken for the model's.
    fn other(self) -> [usize; 3] {
        if self.order == PER_HEAD {
            PER_PART
        } else {
            PER_HEAD
        }
    }

    /// Head, part and dimension of every row.
    fn indices(self) -> impl Iterator<Item = [usize; 3]> {
        let strides = self.strides(self.order);
        (0..self.extents.iter().product())
            .map(move |row: usize| [0, 1, 2].map(|axis| row / strides[axis] % self.extents[axis]))
    }

    /// Stride of every axis where they are stored in this order.
    fn strides(self, order: [usize; 3]) -> [usize; 3] {
        let mut strides = [0; 3];
        let mut stride = 1;
        for axis in order.into_iter().rev() {
            strides[axis] = stride;
            stride *= self.extents[axis];
        }
        strides
    }

    /// Where every row is found where axes are stored in another order.
    fn found(self, order: [usize; 3]) -> impl Iterator<Item = usize> {
        let strides = self.strides(order);
        self.indices().map(move |index| dot(index, strides))
    }

    /// Where every row is found if each part has the place of another.
    fn with_parts(self, parts: [usize; 3]) -> impl Iterator<Item = usize> {
        let strides = self.strides(self.order);
        let of = move |[head, part, at]: [usize; 3]| dot([head, parts[part], at], strides);
        self.indices().map(of)
    }

    /// Where a row is found if groups of so many heads have their parts one after the other.
    fn in_groups(self, local: usize, [head, part, at]: [usize; 3]) -> usize {
        let (group, head) = (head / local, head % local);
        ((group * 3 + part) * local + head) * self.extents[2] + at
    }

    /// What may be the matter, how it is put right, and the row that every row of the right order is
    /// found at.
    fn orders(self) -> Vec<(String, String, Vec<usize>)> {
        let mut all = Vec::new();
        let [heads, ..] = self.extents;
        let ours = named(self.order);
        let expected = format!("the model expects [{ours}]");
        for order in ORDERS.into_iter().filter(|order| *order != self.order) {
            let found = named(order);
            let forward: Vec<usize> = self.found(order).collect();
            let back = inverse(&forward);
            let reordered = format!(
                "were reordered from [{found}] to [{ours}] although they had that order already"
            );
            all.push((
                format!("are ordered [{found}], {expected}"),
                format!("reordered from [{found}] to [{ours}]"),
                forward,
            ));
            all.push((reordered, format!("reordered back to [{found}]"), back));
        }
        for groups in (2..heads).filter(|groups| heads.is_multiple_of(*groups)) {
            let order = self
                .indices()
                .map(|index| self.in_groups(heads / groups, index));
            let found = format!("[{groups}, 3, heads/{groups}, d]");
            all.push((
                format!("are ordered {found} (query groups or ranks), {expected}"),
                format!("reordered from {found} to [{ours}]"),
                order.collect(),
            ));
        }
        for (parts, names) in [
            ([0, 2, 1], "keys and values"),
            ([1, 0, 2], "queries and keys"),
            ([2, 1, 0], "queries and values"),
        ] {
            let finding = format!("of {names} are swapped");
            let order = self.with_parts(parts).collect();
            all.push((finding, format!("of {names} swapped back"), order));
        }
        all
    }
}

fn named(order: [usize; 3]) -> String {
    order.map(|axis| AXES[axis]).join(", ")
}

fn dot(index: [usize; 3], strides: [usize; 3]) -> usize {
    index
        .iter()
        .zip(strides)
        .map(|(index, stride)| index * stride)
        .sum()
}
