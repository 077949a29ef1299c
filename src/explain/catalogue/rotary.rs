//! Rotary embeddings: pairs interleaved or in halves, another base, scaling, offset or extent, or none.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{Op, Rotary, RotaryPairs};
use crate::plan::Step;

/// Bases in use.
const THETAS: [f64; 6] = [1e4, 5e5, 1e6, 1e5, 2.5e5, 1e7];
/// Linear scalings in use.
const SCALINGS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let Op::Rotary(ours) = step.op else {
            continue;
        };
        for (theirs, finding) in variants(ours) {
            if theirs != ours {
                let set = move |step: &mut Step| step.op = Op::Rotary(theirs);
                all.push(Rewrite::of_step(&step.id, finding, "rotated so", set));
            }
        }
    }
    Ok(all)
}

fn variants(ours: Rotary) -> Vec<(Rotary, String)> {
    let (pairs, how) = match ours.pairs {
        RotaryPairs::Halves => (RotaryPairs::Interleaved, "neighbours (interleaved)"),
        RotaryPairs::Interleaved => (RotaryPairs::Halves, "entries half a head apart"),
    };
    let paired = Rotary { pairs, ..ours };
    let mut all = vec![
        (paired, format!("the reference rotates {how} together")),
        (
            Rotary { dims: 0, ..ours },
            "the reference rotates nothing here".into(),
        ),
    ];
    all.extend(THETAS.map(|theta| {
        let finding = format!(
            "the reference's rotary base is {theta:e}, the model's {:e}",
            ours.theta
        );
        (Rotary { theta, ..ours }, finding)
    }));
    all.extend(SCALINGS.map(|scaling| {
        let finding = format!(
            "the reference divides positions by {scaling}, the model by {}",
            ours.scaling
        );
        (Rotary { scaling, ..ours }, finding)
    }));
    all.extend([-1, 1].map(|by| {
        let offset = ours.offset + by;
        let finding = format!("the reference's positions start {by:+} from the model's");
        (Rotary { offset, ..ours }, finding)
    }));
    all.extend([ours.dims / 4, ours.dims / 2, 2 * ours.dims].map(|dims| {
        let dims = dims - dims % 2;
        let finding = format!(
            "the reference rotates {dims} entries of a head, the model {}",
            ours.dims
        );
        (Rotary { dims, ..ours }, finding)
    }));
    all
}
