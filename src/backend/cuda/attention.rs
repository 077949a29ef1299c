//! Splitting heads, scores and context. Shapes: batch `b`, heads `n`, positions `s`, head dim `d`.

use super::array::{CudaArray, Layout};
use super::cuda::Cuda;
use super::gemm::{Gemm, Operand};
use super::launch::{Arg, Grid};
use crate::error::Result;
use crate::op::{AlibiForm, HeadPart};

/// What is added to scores.
pub(super) struct Alibi<'a> {
    pub(super) scale: f32,
    pub(super) slopes: &'a [f32],
    pub(super) form: AlibiForm,
}

impl Cuda {
    /// The heads of one sequence, or of one position of several, are left where they are, as PyTorch's
    /// `reshape` leaves them; products then have the projection's leading dimensions. A key-value cache
    /// copies them.
    pub(super) fn split_heads(
        &self,
        fused: &CudaArray,
        part: HeadPart,
        cached: bool,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let &[batch, _, positions, _] = shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let fused = self.whole(fused)?;
        if (batch == 1 || positions == 1) && !cached {
            return Ok(CudaArray {
                dtype: fused.dtype,
                shape,
                block: fused.block.clone(),
                layout: Layout::Heads(part),
                host: None,
            });
        }
        self.gathered(&fused, part, shape)
    }

    /// A part of a fused projection as an array `[b, n, s, d]` of its own.
    pub(super) fn gathered(
        &self,
        fused: &CudaArray,
        part: HeadPart,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let &[batch, heads, positions, head_dim] = shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let dtype = fused.dtype;
        let from = self.read_from_start(fused);
        let grid = Grid::elements(shape.iter().product());
        self.produce(dtype, shape, |out| {
            let extents = [batch, positions, heads, head_dim].map(|extent| Arg::I64(extent as i64));
            let ends = [from.arg(), Arg::Pointer(out)];
            let args = [&ends[..], &extents, &[Arg::I32(part as i32)]].concat();
            self.send(dtype, "split_heads", grid, &args)
        })
    }

    /// PyTorch's `baddbmm`: the ALiBi bias is the result that the product is added to.
    pub(super) fn scores(
        &self,
        query: &CudaArray,
        key: &CudaArray,
        scale: f32,
        alibi: &Alibi<'_>,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let dtype = query.dtype;
        let &[batch, heads, positions, head_dim] = query.shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let matrices = batch * heads;
        let slopes = self.table(&[heads], alibi.slopes.to_vec())?;
        let (slopes, q, k) = (self.read(&slopes), self.read(query), self.read(key));
        let count: usize = shape.iter().product();
        self.produce(dtype, shape, |out| {
            let args = [
                slopes.arg(),
                Arg::Pointer(out),
                Arg::I64(matrices as i64),
                Arg::I32(heads as i32),
                Arg::I32(positions as i32),
                Arg::I32((alibi.form == AlibiForm::Distance).into()),
            ];
            self.send(dtype, "alibi", Grid::elements(count), &args)?;
            if count == 0 {
                return Ok(());
            }
            let (query, key) = (query.heads(q.pointer), key.heads(k.pointer));
            // Of one position the result is a column as much as a row, and PyTorch takes it for one.
            let (a, b) = match positions {
                1 => (query, key),
                _ => (key, query),
            };
            self.blas.gemm(&Gemm {
                dtype,
                m: positions,
                n: positions,
                k: head_dim,
                batch: matrices,
                alpha: scale,
                beta: alibi.scale,
                a: Operand {
                    transposed: true,
                    ..a
                },
                b,
                result: Operand {
                    pointer: out,
                    leading: positions,
                    transposed: false,
                    stride: positions * positions,
                },
            })
        })
    }

    pub(super) fn context(
        &self,
        probs: &CudaArray,
        value: &CudaArray,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let dtype = value.dtype;
        let &[batch, heads, positions, head_dim] = value.shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let count = value.len();
        let (p, v) = (self.read(probs), self.read(value));
        let by_head = self.produce(dtype, value.shape.clone(), |out| {
            if count == 0 {
                return Ok(());
            }
            self.blas.gemm(&Gemm {
                dtype,
                m: head_dim,
                n: positions,
                k: positions,
                batch: batch * heads,
                alpha: 1.0,
                beta: 0.0,
                a: value.heads(v.pointer),
                b: Operand {
                    pointer: p.pointer,
                    leading: positions,
                    transposed: false,
                    stride: positions * positions,
                },
                result: Operand {
                    pointer: out,
                    leading: head_dim,
                    transposed: false,
                    stride: positions * head_dim,
                },
            })
        })?;
        let from = self.read(&by_head);
        self.produce(dtype, shape, |out| {
            let extents = [batch, positions, heads, head_dim].map(|extent| Arg::I64(extent as i64));
            let args = [&[from.arg(), Arg::Pointer(out)][..], &extents].concat();
            self.send(dtype, "merge_heads", Grid::elements(count), &args)
        })
    }
}

impl CudaArray {
    /// `[b, n, s, d]` as a batch of `b · n` operands, given where its first element lies.
    fn heads(&self, pointer: u64) -> Operand {
        let &[_, heads, positions, head_dim] = self.shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let (leading, stride) = match self.layout {
            Layout::Whole => (head_dim, positions * head_dim),
            Layout::Heads(_) => (3 * heads * head_dim, 3 * head_dim),
        };
        Operand {
            pointer,
            leading,
            transposed: false,
            stride,
        }
    }
}
