//! The backend's side of a step: what is checked before its operation launches kernels.

use super::array::{CudaArray, Layout};
use super::cuda::Cuda;
use super::failure::driver;
use crate::backend::{Backend, Device};
use crate::error::{Error, Result};
use crate::op::launch::Call;
use crate::plan::Step;
use crate::tensor::{DType, Tensor, with_element};
use bytemuck::Zeroable;
use std::sync::Arc;

impl Backend for Cuda {
    type Array = CudaArray;

    fn device(&self) -> Device {
        Device::Cuda
    }

    fn upload(&self, tensor: &Tensor) -> Result<CudaArray> {
        let mut block = self.uploads.block(tensor.bytes().len())?;
        self.transfer.send(tensor.bytes(), &mut block)?;
        Ok(CudaArray {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            block: Arc::new(block),
            layout: Layout::Contiguous,
            host: Some(tensor.clone()),
        })
    }

    fn download(&self, array: &CudaArray) -> Result<Tensor> {
        if let Some(tensor) = &array.host {
            return Ok(tensor.clone());
        }
        let contiguous = self.contiguous(array)?;
        with_element!(array.dtype, T => {
            let mut data = vec![T::zeroed(); array.len()];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
            let mut read = || {
                let from = contiguous.block.slice().slice(0..bytes.len());
                self.compute.memcpy_dtoh(&from, &mut *bytes)?;
                self.compute.synchronize()
            };
            read().map_err(driver("copy from the GPU"))?;
            Tensor::from_vec(&array.shape, data)
        })
    }

    fn run(&self, step: &Step, inputs: &[&CudaArray], params: &[&CudaArray]) -> Result<CudaArray> {
        let operation = step.op.operation();
        let dtype = step.numerics.out;
        let stored = dtype.is_runnable();
        if !stored || !operation.gpu_implements(step.numerics) {
            return Err(Error::Unsupported {
                step: step.id.to_string(),
                backend: "cuda",
                what: format!("{} in {:?}", step.op, step.numerics),
            });
        }
        step.check_params(params.iter().map(|param| param.shape()))?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = step.output_shape(&shapes)?;
        check_types(step, inputs, operation.reads_tokens())?;
        check_types(step, params, false)?;
        let call = Call {
            step: &step.id.to_string(),
            numerics: &step.numerics,
            inputs,
            params,
            shape,
        };
        operation.launch(self, &call)
    }
}

/// Refuses arrays of other types than the step's: kernels read what they are told to.
fn check_types(step: &Step, arrays: &[&CudaArray], tokens: bool) -> Result<()> {
    let stored = step.numerics.out;
    let fits = |dtype| {
        if tokens {
            matches!(dtype, DType::I64 | DType::I32)
        } else {
            dtype == stored
        }
    };
    match arrays.iter().find(|array| !fits(array.dtype)) {
        None => Ok(()),
        Some(wrong) => Err(Error::Mismatch {
            at: step.id.to_string(),
            expected: if tokens {
                "token ids of int64 or int32".into()
            } else {
                format!("{stored} elements")
            },
            found: wrong.dtype.to_string(),
        }),
    }
}
