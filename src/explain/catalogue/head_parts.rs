//! Queries, keys and values mistaken for each other where heads are split.

use crate::error::Result;
use crate::explain::rewrite::Rewrite;
use crate::explain::subject::Subject;
use crate::plan::{HeadPart, Op};

pub(super) fn rewrites<'a>(subject: &Subject<'a>) -> Result<Vec<Rewrite<'a>>> {
    use HeadPart::{Key, Query, Value};
    let mut all = Vec::new();
    let splits = subject.steps().iter();
    if !splits
        .into_iter()
        .any(|step| matches!(step.op, Op::SplitHeads { .. }))
    {
        return Ok(all);
    }
    for (a, b, names) in [
        (Key, Value, "keys and values"),
        (Query, Key, "queries and keys"),
        (Query, Value, "queries and values"),
    ] {
        let finding = format!("{names} are swapped where heads are split");
        let rewrite = Rewrite::new(finding, "with them swapped back", move |segment| {
            for step in &mut segment.steps {
                if let Op::SplitHeads { part, .. } = &mut step.op {
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
