//! A plan as a GPU's kernels compute it.

use super::{Arithmetic, Plan, Step};
use crate::op::CudaKernels;

impl Plan {
    /// The same steps with the numerics of CUDA kernels: norms and softmax in fp32, summed in the
    /// order of the kernels that this arithmetic has on a GPU, in place of the evaluation in fp64 that
    /// a CPU can afford; heads stay where they were. What is rounded, and where, stays.
    #[must_use]
    pub fn on_cuda(&self, arithmetic: &Arithmetic) -> Self {
        let kernels = CudaKernels {
            summation: arithmetic.summation(),
            use_cache: arithmetic.uses_cache(),
        };
        self.map(|step| {
            let (op, numerics) = step.op.operation().on_cuda(step.numerics, kernels);
            Step {
                op,
                numerics,
                ..step.clone()
            }
        })
    }
}
