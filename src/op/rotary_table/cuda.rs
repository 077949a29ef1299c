//! Cosines and sines on a GPU.

use super::{RotaryFunction, RotaryTable};
use crate::backend::Backend;
use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel, Source};
use crate::error::Result;
use crate::op::launch::{Call, Launch};
use crate::op::{Numerics, Rounding};

const SOURCE: Source = Source::new(include_str!("rotary_table.cu"));
const KERNEL: Kernel = SOURCE.kernel("rotary_table");

impl Launch for RotaryTable {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, Rounding::Once)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let (frequencies, positions) = self.read(&gpu.download(call.inputs[0])?)?;
        let pairs = frequencies.len();
        let angles = positions
            .iter()
            .flat_map(|position| frequencies.iter().map(move |x| position * x));
        let angles = gpu.table(&[positions.len(), pairs], angles.collect::<Vec<f32>>())?;
        let count: usize = call.shape.iter().product();
        let args = [
            Arg::Array(&angles),
            Arg::Result,
            count.into(),
            Arg::I32(pairs as i32),
            (self.function == RotaryFunction::Cos).into(),
            Arg::F32(self.factor()),
        ];
        let grid = Grid::elements(count);
        gpu.compute(call.dtype(), call.shape.clone(), KERNEL, grid, &args)
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
