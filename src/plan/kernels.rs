//! A plan as a GPU's kernels compute it.

use super::{Arithmetic, Plan, Step};
use crate::op::{self, HeadPart, Numerics, Op, Rounding};

impl Plan {
    /// The same steps with the numerics of CUDA kernels: norms and softmax in fp32, summed in the
    /// order of the kernels that this arithmetic has on a GPU, in place of the evaluation in fp64 that
    /// a CPU can afford; heads lie where they lay. What is rounded, and where, stays.
    #[must_use]
    pub fn on_cuda(&self, arithmetic: &Arithmetic) -> Self {
        self.map(|step| step.on_cuda(arithmetic))
    }
}

impl Step {
    fn on_cuda(&self, arithmetic: &Arithmetic) -> Self {
        let reduces = matches!(self.op, Op::LayerNorm(_) | Op::RmsNorm(_) | Op::Softmax(_));
        let mut step = self.clone();
        // A norm or softmax that rounds in between is a composition of eager operations, not one
        // kernel.
        if reduces && self.numerics.rounding == Rounding::Once {
            step.numerics = Numerics::cuda_kernel(self.numerics.out, arithmetic.summation());
        }
        if let Op::SplitHeads(op::SplitHeads { part, cached, .. }) = &mut step.op {
            *cached = arithmetic.uses_cache() && *part != HeadPart::Query;
        }
        step
    }
}
