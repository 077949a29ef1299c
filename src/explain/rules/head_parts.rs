//! Queries, keys and values mistaken for each other where heads are split.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, HeadPart, Op, QkvLayout};
use crate::plan::Step;

pub(super) struct HeadParts;

impl Rule for HeadParts {
    fn id(&self) -> &'static str {
        "head-parts"
    }

    fn what(&self) -> &'static str {
        "queries, keys and values are mistaken for each other where heads are split"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        use HeadPart::{Key, Query, Value};
        let mut all = Vec::new();
        if !context.steps().iter().any(is_fused) {
            return Ok(all);
        }
        for (a, b, names) in [
            (Key, Value, "keys and values"),
            (Query, Key, "queries and keys"),
            (Query, Value, "queries and values"),
        ] {
            let finding = format!("{names} are swapped where heads are split");
            let rewrite = Rewrite::new(
                finding,
                format!("with {names} swapped back"),
                move |subgraph| {
                    for step in &mut subgraph.steps {
                        if let Op::SplitHeads(op::SplitHeads { part, .. }) = &mut step.op {
                            *part = match *part {
                                part if part == a => b,
                                part if part == b => a,
                                part => part,
                            };
                        }
                    }
                    Ok(())
                },
            );
            all.push(rewrite);
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::new(
            "queries and keys swapped where heads are split",
            |modules| {
                modules.steps().iter().find(|step| is_fused(step))?;
                Some(
                    Edits::named_by("queries and keys are swapped").steps(|step| {
                        if let Op::SplitHeads(op::SplitHeads { part, .. }) = &mut step.op {
                            *part = match part {
                                HeadPart::Query => HeadPart::Key,
                                HeadPart::Key => HeadPart::Query,
                                HeadPart::Value => HeadPart::Value,
                            };
                        }
                    }),
                )
            },
        )]
    }
}

/// Whether a part can be taken for another: parts with projections of their own cannot.
fn is_fused(step: &Step) -> bool {
    let Op::SplitHeads(op::SplitHeads { layout, .. }) = step.op else {
        return false;
    };
    layout != QkvLayout::Separate
}
