//! A plan as a GPU's kernels compute it.

use super::{Arithmetic, Plan, Step};
use crate::op::tensor_core::{MmaInput, MmaUnit};
use crate::op::{CudaKernels, Summation};
use crate::tensor::DType;

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

    /// The same steps, the products of half types being those of a GPU's tensor cores. On others, or where
    /// nothing is known of the GPU's, they stay.
    #[must_use]
    pub fn on_tensor_cores(&self, capability: (u32, u32)) -> Self {
        let input = match self.dtype() {
            DType::Bf16 => MmaInput::Bf16,
            DType::F16 => MmaInput::F16,
            _ => return self.clone(),
        };
        let Some(unit) = MmaUnit::of(capability, input) else {
            return self.clone();
        };
        self.map(|step| {
            let mut step = step.clone();
            if step.op.is_product() {
                step.numerics.summation = Summation::TensorCore(unit);
            }
            step
        })
    }
}
