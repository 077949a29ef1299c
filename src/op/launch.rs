//! How an operation runs on a GPU.

use super::{Numerics, Rounding};
use crate::backend::cuda::{Arg, Cuda, CudaArray};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// What every operation says of itself on a GPU. Nothing has a default: what is forgotten does not
/// compile.
pub(crate) trait Launch {
    /// Whether its kernels compute in these numerics, to the letter.
    fn gpu_implements(&self, numerics: Numerics) -> bool;

    /// Sends the computation of its result to the GPU.
    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray>;

    /// The CUDA source of its kernels, which may use what `numbers.cuh` defines; empty if it has none.
    fn kernel_source() -> String
    where
        Self: Sized;
}

/// A step to be computed, on arrays that were checked to fit it.
pub(crate) struct Call<'a> {
    /// The step's name.
    pub(crate) step: &'a str,
    pub(crate) numerics: &'a Numerics,
    pub(crate) inputs: &'a [&'a CudaArray],
    pub(crate) params: &'a [&'a CudaArray],
    /// Of the result.
    pub(crate) shape: Vec<usize>,
}

impl Call<'_> {
    /// The storage type.
    pub(crate) fn dtype(&self) -> DType {
        self.numerics.out
    }

    /// What kernels call `each`: whether every operation is rounded.
    pub(crate) fn each(&self) -> Arg<'static> {
        (self.numerics.rounding == Rounding::EachOperation).into()
    }

    /// No kernel computes this step.
    pub(crate) fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::Unsupported {
            step: self.step.to_owned(),
            backend: "cuda",
            what: what.into(),
        }
    }
}
