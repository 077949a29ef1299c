//! Embedding lookup.

use super::array::CudaArray;
use super::cuda::Cuda;
use super::launch::{Arg, Grid};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, with_element};

impl Cuda {
    pub(super) fn embedding(
        &self,
        tokens: &CudaArray,
        weight: &CudaArray,
        shape: Vec<usize>,
        dtype: DType,
    ) -> Result<CudaArray> {
        let (rows, hidden) = (weight.shape[0], weight.shape[1]);
        let ids = self.download(tokens)?;
        with_element!(ids.dtype(), T => {
            let beyond = |id: &&T| !(0.0..rows as f64).contains(&id.to_f64());
            if let Some(id) = ids.as_slice::<T>()?.iter().find(beyond) {
                return Err(Error::Mismatch {
                    at: "tokens".into(),
                    expected: format!("token ids below {rows}"),
                    found: id.to_f64().to_string(),
                });
            }
        });
        let count = tokens.len();
        let (tokens, table) = (self.read(tokens), self.read(weight));
        self.produce(dtype, shape, |out| {
            let args = [
                tokens.arg(),
                Arg::I32(ids.dtype().size() as i32),
                table.arg(),
                Arg::Pointer(out),
                Arg::I64(count as i64),
                Arg::I64(hidden as i64),
            ];
            self.send(dtype, "embedding", Grid::blocks(count, (256, 1)), &args)
        })
    }
}
