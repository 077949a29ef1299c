//! The shapes a step takes and gives.

use super::{Op, Plan, StageId, Step};
use crate::error::{Error, Result};
use std::collections::HashMap;

impl Step {
    /// Shape of the result on inputs of these shapes.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the operation does not apply to them.
    pub fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let params: Vec<&[usize]> = self.params.iter().map(|p| p.shape.as_slice()).collect();
        let shape = match (&self.op, inputs, params.as_slice()) {
            (Op::Embedding, [tokens @ [_, _]], [[_, hidden]]) => Some(extended(tokens, *hidden)),
            (Op::LayerNorm { .. }, [x @ [.., last]], [[weight], [bias]]) => {
                (last == weight && last == bias).then(|| x.to_vec())
            }
            (Op::RmsNorm { .. }, [x @ [.., last]], [weight, biases @ ..]) => {
                let biased = biases.is_empty() || biases == [*weight];
                (biased && *weight == [*last]).then(|| x.to_vec())
            }
            (Op::Linear { bias, partials }, [[rows @ .., k]], [[m, from], biases @ ..]) => {
                let biased = match biases {
                    [] => !bias,
                    [[width]] => *bias && width == m,
                    _ => false,
                };
                let split = *partials > 0 && k % partials == 0;
                (biased && split && k == from).then(|| extended(rows, *m))
            }
            (Op::SplitHeads { heads, .. }, [[batch, positions, fused]], []) => {
                let parts = 3 * heads;
                let whole = parts > 0 && fused % parts == 0;
                whole.then(|| vec![*batch, *heads, *positions, fused / parts])
            }
            (Op::AttentionScores { alibi_slopes, .. }, [query @ [b, n, s, _], key], []) => {
                (query == key && alibi_slopes.len() == *n).then(|| vec![*b, *n, *s, *s])
            }
            (Op::Softmax { .. }, [scores @ [_, _, queries, keys]], []) => {
                (queries == keys).then(|| scores.to_vec())
            }
            (Op::Context, [[b, n, s, keys], value @ [.., d]], []) => {
                (s == keys && *value == [*b, *n, *s, *d]).then(|| vec![*b, *s, n * d])
            }
            (Op::AddBias, [x @ [.., last]], [[bias]]) => (last == bias).then(|| x.to_vec()),
            (Op::Activation(_) | Op::Scale { .. } | Op::SoftCap { .. }, [x], []) => {
                Some(x.to_vec())
            }
            (Op::Rotary(rotary), [x @ [_, _, _, d]], []) => {
                let pairs = rotary.dims % 2 == 0 && rotary.dims <= *d;
                pairs.then(|| x.to_vec())
            }
            (Op::Gate(_) | Op::Add, [a, b], []) => (a == b).then(|| a.to_vec()),
            _ => None,
        };
        shape.ok_or_else(|| Error::Mismatch {
            at: self.id.to_string(),
            expected: format!("shapes that {} applies to", self.op),
            found: format!("inputs {inputs:?} and parameters {params:?}"),
        })
    }

    /// Checks that tensors have the shapes of the step's parameters.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if one has not, or there are more or fewer.
    pub fn check_params<'a>(&self, found: impl Iterator<Item = &'a [usize]>) -> Result<()> {
        let wanted = self.params.iter().map(|param| param.shape.as_slice());
        let found: Vec<&[usize]> = found.collect();
        if wanted.eq(found.iter().copied()) {
            return Ok(());
        }
        Err(Error::Mismatch {
            at: self.id.to_string(),
            expected: format!("the parameters {:?}", self.params),
            found: format!("shapes {found:?}"),
        })
    }
}

impl Plan {
    /// The shape of every value, when the tokens are `[batch, positions]`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] at the first step that does not fit the ones before it.
    pub fn shapes(&self, tokens: [usize; 2]) -> Result<HashMap<StageId, Vec<usize>>> {
        let mut shapes = HashMap::from([(StageId::from(StageId::TOKENS), tokens.to_vec())]);
        for step in self.steps() {
            let inputs: Vec<&[usize]> =
                step.inputs.iter().map(|id| shapes[id].as_slice()).collect();
            let shape = step.output_shape(&inputs)?;
            shapes.insert(step.id.clone(), shape);
        }
        Ok(shapes)
    }
}

fn extended(shape: &[usize], last: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape.push(last);
    shape
}
