//! ALiBi slopes that another device computed.

use super::Plan;
use crate::op::Op;

/// How far slopes may be apart that are the same series: an exponent up to 64 multiplies the error of an
/// fp32 base.
const SAME_SLOPE: f32 = 64.0 * f32::EPSILON;

impl Plan {
    /// The same plan with ALiBi slopes that another device computed: the last bit of a power may differ.
    /// `None` if they are not those of this model but for that.
    pub fn with_alibi_slopes(&self, slopes: &[f32]) -> Option<Self> {
        let mut own = self.steps().iter().filter_map(|step| match &step.op {
            Op::AttentionScores(scores) => scores.alibi.as_ref().map(|alibi| &alibi.slopes),
            _ => None,
        });
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= SAME_SLOPE * a.abs();
        let same = |own: &Vec<f32>| own.len() == slopes.len() && own.iter().zip(slopes).all(close);
        own.all(same).then(|| {
            self.map(|step| {
                let mut step = step.clone();
                if let Op::AttentionScores(scores) = &mut step.op
                    && let Some(alibi) = &mut scores.alibi
                {
                    alibi.slopes = slopes.to_vec();
                }
                step
            })
        })
    }
}
