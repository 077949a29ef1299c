//! Embedding lookup on a GPU.

use super::Embedding;
use crate::backend::Backend;
use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel, Source};
use crate::error::{Error, Result};
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};
use crate::tensor::{Element, Tensor, with_element};

const SOURCE: Source = Source::new(include_str!("embedding.cu"));
const KERNEL: Kernel = SOURCE.kernel("embedding");

impl Launch for Embedding {
    fn gpu_implements(&self, _: Numerics) -> bool {
        true
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let (tokens, weight) = (call.inputs[0], call.params[0]);
        check_tokens(&gpu.download(tokens)?, weight.shape()[0])?;
        let args = [
            tokens.into(),
            Arg::I32(tokens.dtype().size() as i32),
            weight.into(),
            Arg::Result,
            tokens.len().into(),
            weight.row_len().into(),
        ];
        let grid = Grid::blocks(tokens.len(), (256, 1));
        gpu.compute(call.dtype(), call.shape.clone(), KERNEL, grid, &args)
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}

/// Refuses ids that the table has no row for.
fn check_tokens(tokens: &Tensor, rows: usize) -> Result<()> {
    with_element!(tokens.dtype(), T => {
        let beyond = |id: &&T| !(0.0..rows as f64).contains(&id.to_f64());
        match tokens.as_slice::<T>()?.iter().find(beyond) {
            None => Ok(()),
            Some(id) => Err(Error::Mismatch {
                at: "tokens".into(),
                expected: format!("token ids below {rows}"),
                found: id.to_f64().to_string(),
            }),
        }
    })
}
