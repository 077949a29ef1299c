//! What benches of models share.

use half::bf16;
use parity::plan::Plan;
use parity::tensor::{DType, Tensor};
use std::collections::HashMap;

/// Every parameter of a model, drawn around zero.
pub fn weights(plan: &Plan) -> HashMap<String, Tensor> {
    let mut state = 1_u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 0.04 - 0.02
    };
    let tensors = plan.params().into_values().map(|param| {
        let values: Vec<f32> = (0..param.shape.iter().product()).map(|_| draw()).collect();
        let tensor = match plan.dtype() {
            DType::Bf16 => {
                let values = values.into_iter().map(bf16::from_f32).collect();
                Tensor::from_vec::<bf16>(&param.shape, values)
            }
            _ => Tensor::from_vec(&param.shape, values),
        };
        (param.name.clone(), tensor.expect("the shape fits"))
    });
    tensors.collect()
}
