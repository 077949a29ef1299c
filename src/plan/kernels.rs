//! A plan as a GPU's kernels compute it.

use super::{Numerics, Op, Plan, Rounding, Step, Summation};

impl Plan {
    /// The same steps with the numerics of CUDA kernels: norms and softmax in fp32, summed in the
    /// order that `summation` names, in place of the evaluation in fp64 that a CPU can afford. What
    /// is rounded, and where, stays.
    #[must_use]
    pub fn on_cuda(&self, summation: Summation) -> Self {
        self.map(|step| step.on_cuda(summation))
    }
}

/// How far slopes may be apart that are the same series: an exponent up to 64 multiplies the error of an
/// fp32 base.
const SAME_SLOPE: f32 = 64.0 * f32::EPSILON;

impl Plan {
    /// The same plan with ALiBi slopes that another device computed: the last bit of a power may differ.
    /// `None` if they are not those of this model but for that.
    pub fn with_alibi_slopes(&self, slopes: &[f32]) -> Option<Self> {
        let mut own = self.steps().iter().filter_map(|step| match &step.op {
            Op::AttentionScores { alibi_slopes, .. } => Some(alibi_slopes),
            _ => None,
        });
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= SAME_SLOPE * a.abs();
        let same = |own: &Vec<f32>| own.len() == slopes.len() && own.iter().zip(slopes).all(close);
        own.all(same).then(|| {
            self.map(|step| {
                let mut step = step.clone();
                if let Op::AttentionScores { alibi_slopes, .. } = &mut step.op {
                    *alibi_slopes = slopes.to_vec();
                }
                step
            })
        })
    }
}

impl Step {
    fn on_cuda(&self, summation: Summation) -> Self {
        let reduces = matches!(
            self.op,
            Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Softmax { .. }
        );
        let mut step = self.clone();
        // A norm or softmax that rounds in between is a composition of eager operations, not one
        // kernel.
        if reduces && self.numerics.rounding == Rounding::Once {
            step.numerics = Numerics::cuda_kernel(self.numerics.out, summation);
        }
        step
    }
}
