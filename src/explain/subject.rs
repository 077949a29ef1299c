//! What hypotheses can look at.

use super::Segment;
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::plan::{Op, Plan, StageId, Step};
use crate::tensor::Tensor;

/// Gives the recorded value of a stage, if there is one.
pub type Recorded<'a> = &'a dyn Fn(&StageId) -> Result<Option<Tensor>>;

/// A failing segment and what lies around it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The candidate's steps in the reference's arithmetic.
    pub segment: &'a Segment,
    /// The whole plan they are of.
    pub plan: &'a Plan,
    /// The candidate's weights.
    pub weights: &'a dyn Weights,
    /// What was recorded of other stages.
    pub recorded: Recorded<'a>,
}

impl<'a> Subject<'a> {
    pub(super) fn steps(&self) -> &'a [Step] {
        &self.segment.steps
    }

    /// The steps of the whole plan that read the segment's value.
    pub(super) fn readers(&self) -> impl Iterator<Item = &'a Step> {
        let value = self.steps().last().map(|step| &step.id);
        let steps = self.plan.steps().iter();
        steps.filter(move |step| value.is_some_and(|value| step.inputs.contains(value)))
    }

    /// Heads that lie side by side in the columns of the segment's value, if they do.
    pub(super) fn heads(&self) -> Option<usize> {
        let split = self.readers().find_map(|step| match step.op {
            Op::SplitHeads { heads, .. } => Some(heads),
            _ => None,
        });
        let of_context = || {
            let last = self.steps().last()?;
            let same_layer = |step: &&Step| step.stage.layer() == last.stage.layer();
            let steps = self.plan.steps().iter().filter(same_layer);
            let mut heads = steps.filter_map(|step| match step.op {
                Op::SplitHeads { heads, .. } => Some(heads),
                _ => None,
            });
            matches!(last.op, Op::Context).then(|| heads.next())?
        };
        split.or_else(of_context)
    }

    /// The number of the block that the segment is in.
    pub(super) fn layer(&self) -> Option<usize> {
        self.steps().last()?.stage.layer()
    }
}
