//! Rotary position embeddings.

use super::array::CudaArray;
use super::cuda::Cuda;
use super::launch::{Arg, Grid};
use crate::error::Result;
use crate::op::{Rotary, RotaryPairs};

impl Cuda {
    pub(super) fn rotary(
        &self,
        x: &CudaArray,
        rotary: &Rotary,
        each: Arg,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let &[batch, heads, positions, head_dim] = shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let pairs = rotary.dims / 2;
        let places =
            (0..positions).flat_map(|position| (0..pairs).map(move |pair| (position, pair)));
        let angles = places.map(|(position, pair)| rotary.angle_f32(position, pair));
        let angles = self.table(&[positions, pairs], angles.collect::<Vec<f32>>())?;
        let x = self.whole(x)?;
        let dtype = x.dtype;
        let (from, angles) = (self.read(&x), self.read(&angles));
        let grid = Grid::elements(x.len());
        self.produce(dtype, shape, |out| {
            let args = [
                from.arg(),
                Arg::Pointer(out),
                Arg::I64((batch * heads * positions) as i64),
                Arg::I32(positions as i32),
                Arg::I32(head_dim as i32),
                Arg::I32(rotary.dims as i32),
                angles.arg(),
                Arg::I32((rotary.pairs == RotaryPairs::Interleaved).into()),
                each,
            ];
            self.send(dtype, "rotary", grid, &args)
        })
    }
}
