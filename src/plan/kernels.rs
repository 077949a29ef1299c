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
