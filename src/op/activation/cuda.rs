//! Activation functions on a GPU.

use super::Activation;
use crate::backend::cuda::{Arg, Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::formula::Formula;
use crate::op::formula_source::formula_source;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("activation.cu"));
const KERNEL: Kernel = SOURCE.kernel("activation");

impl Launch for Activation {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        gpu.compute_elements(KERNEL, call.inputs, &[self.into(), call.each()])
    }

    /// A function for every activation, and the one that picks one of them by its number.
    fn kernel_source() -> String {
        let functions = Activation::ALL.map(|activation| {
            let name = format!("{activation:?}");
            formula_source(&name, ["x"], |[x]| activation.evaluate(x))
        });
        let cases = Activation::ALL.map(|activation| {
            let number = activation as i32;
            format!("        case {number}: return {activation:?}<EACH>(x);\n")
        });
        let choice = format!(
            "namespace formula {{\n\
             template <bool EACH>\n\
             __device__ float activation(int function, float x) {{\n    \
                 switch (function) {{\n{}    }}\n    \
                 return x;\n\
             }}\n\
             }}  // namespace formula\n",
            cases.concat()
        );
        [&functions.concat(), &choice, SOURCE.text()].concat()
    }
}

impl From<&Activation> for Arg<'_> {
    /// The number that kernels pick it by.
    fn from(activation: &Activation) -> Self {
        Self::I32(*activation as i32)
    }
}
