//! The order of the rows of a projection of queries or keys of its own: the entries of a head in pairs or
//! in halves for rotary embeddings, the heads of queries by group or across groups.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::{Modules, Projection};
use crate::explain::rearrange::{inverse, rows};
use crate::explain::rewrite::{Rewrite, param_groups};
use crate::explain::rule::Rule;
use crate::op::{HeadPart, QkvLayout};

pub(super) struct HeadOrder;

impl Rule for HeadOrder {
    fn id(&self) -> &'static str {
        "head-order"
    }

    fn what(&self) -> &'static str {
        "the rows of a projection of queries or keys are in another order: the entries of a head in pairs or in halves, heads across query groups"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some(projection) = context.projection().filter(is_separate) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        let params = param_groups(context.params_of(projection.layer));
        let mut push = |finding: &str, remedy: &str, order: Vec<usize>| {
            for (names, which) in &params {
                let order = order.clone();
                all.push(Rewrite::of_params(
                    names.clone(),
                    format!("{which} rows {finding}"),
                    format!("with the rows {remedy}"),
                    move |param| rows(param, &order),
                ));
            }
        };
        let (heads, d) = (projection.heads, projection.head_dim);
        if let Some(pairs) = by_two(heads, d) {
            push(
                "of a head are in pairs for rotary embeddings, the model expects them in halves",
                "of a head in halves",
                pairs.clone(),
            );
            push(
                "of a head are in halves for rotary embeddings, the model expects them in pairs",
                "of a head in pairs",
                inverse(&pairs),
            );
        }
        let groups = groups(Modules::new(context.plan));
        let local = groups.and_then(|groups| part(heads, groups));
        if let (Some(groups), Some(local @ 2..)) = (groups, local) {
            push(
                &format!(
                    "are of heads ordered [heads/{groups}, {groups}], the model expects [{groups}, heads/{groups}]"
                ),
                "of a group's heads side by side",
                across(groups, local, d),
            );
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("query rows left in rotary pairs", |modules| {
                let queries = modules.queries().find(is_separate)?;
                let (heads, d) = (queries.heads, queries.head_dim);
                let order = inverse(&by_two(heads, d)?);
                let edits = Edits::named_by("of a head are in pairs");
                Some(edits.weights(queries.layer.params(), move |param| rows(param, &order)))
            }),
            Bug::new("query heads ordered across groups", |modules| {
                let queries = modules.queries().find(is_separate)?;
                let groups = groups(modules)?;
                let local = part(queries.heads, groups).filter(|local| *local > 1)?;
                let order = inverse(&across(groups, local, queries.head_dim));
                let edits = Edits::named_by(format!("heads ordered [heads/{groups}, {groups}]"));
                Some(edits.weights(queries.layer.params(), move |param| rows(param, &order)))
            }),
        ]
    }
}

fn is_separate(projection: &Projection<'_>) -> bool {
    projection.layout == QkvLayout::Separate
}

/// How many heads keys have, where there are several.
fn groups(modules: Modules<'_>) -> Option<usize> {
    let keys = modules.projections(HeadPart::Key).next()?;
    Some(keys.heads).filter(|groups| *groups > 1)
}

/// Where the rows in halves are found if the entries of each head lie in pairs.
fn by_two(heads: usize, d: usize) -> Option<Vec<usize>> {
    let half = part(d, 2)?;
    let within = |entry: usize| entry % half * 2 + entry / half;
    let rows = (0..heads * d).map(|row| row / d * d + within(row % d));
    Some(rows.collect())
}

/// Where the rows of heads by group are found if the heads of all groups alternate.
fn across(groups: usize, local: usize, d: usize) -> Vec<usize> {
    let rows = (0..groups * local * d).map(|row| {
        let (head, at) = (row / d, row % d);
        (head % local * groups + head / local) * d + at
    });
    rows.collect()
}
