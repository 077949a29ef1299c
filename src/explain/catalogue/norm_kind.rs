//! RMS norm or layer norm.

use crate::error::Result;
use crate::explain::rewrite::Rewrite;
use crate::explain::subject::Subject;
use crate::plan::{Op, Step};

pub(super) fn rewrites<'a>(subject: &Subject<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in subject.steps() {
        let (theirs, finding) = match step.op {
            Op::LayerNorm { eps } => (
                Op::RmsNorm { eps },
                "the reference's norm is an RMS norm: it does not subtract the mean",
            ),
            Op::RmsNorm { eps } if step.params.len() == 2 => (
                Op::LayerNorm { eps },
                "the reference's norm is a layer norm: it subtracts the mean",
            ),
            _ => continue,
        };
        let set = move |step: &mut Step| step.op = theirs.clone();
        all.push(Rewrite::of_step(&step.id, finding, "with that norm", set));
    }
    Ok(all)
}
