//! Queries, keys and values mistaken for each other where heads are split.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, HeadPart, Op};

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    use HeadPart::{Key, Query, Value};
    let mut all = Vec::new();
    let splits = context.steps().iter();
    if !splits
        .into_iter()
        .any(|step| matches!(step.op, Op::SplitHeads(_)))
    {
        return Ok(all);
    }
    for (a, b, names) in [
        (Key, Value, "keys and values"),
        (Query, Key, "queries and keys"),
        (Query, Value, "queries and values"),
    ] {
        let finding = format!("{names} are swapped where heads are split");
        let rewrite = Rewrite::new(finding, "with them swapped back", move |subgraph| {
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
        });
        all.push(rewrite);
    }
    Ok(all)
}
