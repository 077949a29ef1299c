//! Products with a weight in fp64.

use super::Linear;
use crate::error::{Error, Result};
use crate::op::{Arguments, Fp64Kernel};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Axis, Ix1};
use rayon::prelude::*;

impl Fp64Kernel for Linear {
    /// Sums are in `matrixmultiply`'s order, whole: partial sums are a matter of rounding.
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let k = arguments.inputs[0].row_len();
        let [x, weight] = [arguments.inputs[0], arguments.params[0]].map(|tensor| {
            let rows = tensor.len().checked_div(k).unwrap_or(0);
            let view = tensor.view::<f64>()?;
            Ok::<_, Error>(view.into_shape_with_order((rows, k)).expect("whole rows"))
        });
        let (x, weight) = (x?, weight?);
        let mut out = Array2::zeros((x.nrows(), weight.nrows()));
        // Panels of the weight in parallel; the order of every sum depends on `k` alone.
        out.axis_chunks_iter_mut(Axis(1), 64)
            .into_par_iter()
            .zip(weight.axis_chunks_iter(Axis(0), 64))
            .for_each(|(mut out, panel)| general_mat_mul(1.0, &x, &panel.t(), 0.0, &mut out));
        if let Some(bias) = arguments.params.get(1) {
            out += &bias
                .view::<f64>()?
                .into_dimensionality::<Ix1>()
                .expect("the step's shape was checked");
        }
        Ok(out.into_raw_vec_and_offset().0)
    }
}
