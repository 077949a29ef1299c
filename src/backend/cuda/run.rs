//! From a step to its kernels.

use super::array::{CudaArray, Layout};
use super::blas::{Gemm, Operand};
use super::cuda::Cuda;
use super::failure::{at, driver};
use super::kernels::{Arg, Grid};
use super::segments::CudaSegments;
use crate::backend::{Backend, Device};
use crate::error::{Error, Result};
use crate::plan::{
    Activation, AlibiForm, HeadPart, Mask, Numerics, Op, QkvLayout, Rotary, RotaryPairs, Rounding,
    Step, Summation,
};
use crate::tensor::{DType, Element, Tensor, with_element};
use bytemuck::Zeroable;
use cudarc::driver::{DevicePtr, DevicePtrMut, SyncOnDrop};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

impl Backend for Cuda {
    type Array = CudaArray;

    fn device(&self) -> Device {
        Device::Cuda
    }

    fn upload(&self, tensor: &Tensor) -> Result<CudaArray> {
        let mut block = self.ring.block(tensor.bytes().len())?;
        self.transfer.send(tensor.bytes(), &mut block)?;
        Ok(CudaArray {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            block: Arc::new(block),
            layout: Layout::Whole,
            host: Some(tensor.clone()),
        })
    }

    fn download(&self, array: &CudaArray) -> Result<Tensor> {
        if let Some(tensor) = &array.host {
            return Ok(tensor.clone());
        }
        let whole = self.whole(array)?;
        with_element!(array.dtype, T => {
            let mut data = vec![T::zeroed(); array.len()];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
            let mut read = || {
                let from = whole.block.slice().slice(0..bytes.len());
                self.compute.memcpy_dtoh(&from, &mut *bytes)?;
                self.compute.synchronize()
            };
            read().map_err(driver("copy from the GPU"))?;
            Tensor::from_vec(&array.shape, data)
        })
    }

    fn run(&self, step: &Step, inputs: &[&CudaArray], params: &[&CudaArray]) -> Result<CudaArray> {
        check_numerics(step)?;
        step.check_params(params.iter().map(|param| param.shape()))?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = step.output_shape(&shapes)?;
        check_types(step, inputs, params)?;
        self.compute_step(step, inputs, params, shape)
            .map_err(at(step))
    }
}

impl Cuda {
    fn compute_step(
        &self,
        step: &Step,
        inputs: &[&CudaArray],
        params: &[&CudaArray],
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let x = inputs[0];
        let dtype = step.numerics.out;
        let count: usize = shape.iter().product();
        let each = Arg::I32((step.numerics.rounding == Rounding::EachOperation).into());
        let elements = Grid::elements(count);
        let by_element = |name, x: &CudaArray, args: &[Arg]| {
            let x = self.whole(x)?;
            let x = self.read(&x);
            self.produce(dtype, shape.clone(), |out| {
                let fixed = [x.arg(), Arg::Pointer(out), Arg::I64(count as i64)];
                self.send(dtype, name, elements, &[&fixed, args].concat())
            })
        };
        let of_two = |name, args: &[Arg]| {
            let [a, b] = [self.whole(x)?, self.whole(inputs[1])?];
            let [a, b] = [self.read(&a), self.read(&b)];
            self.produce(dtype, shape.clone(), |out| {
                let fixed = [a.arg(), b.arg(), Arg::Pointer(out), Arg::I64(count as i64)];
                self.send(dtype, name, elements, &[&fixed, args].concat())
            })
        };
        match &step.op {
            Op::Embedding => self.embedding(x, params[0], shape, dtype),
            Op::LayerNorm { eps } => self.layer_norm(step, x, params, shape, *eps as f32),
            Op::RmsNorm { eps } => self.rms_norm(step, x, params, shape, *eps as f32),
            Op::Linear { bias, partials } => {
                let bias = bias.then(|| params[1]);
                self.linear(step, x, params[0], bias, *partials, shape)
            }
            Op::SplitHeads {
                part,
                layout: QkvLayout::PerHead,
                heads,
            } => self.split_heads(x, *part, *heads, shape),
            Op::Rotary(rotary) => self.rotary(x, rotary, each, shape),
            Op::AttentionScores {
                product_scale,
                alibi_scale,
                alibi_slopes,
                alibi_form,
            } => {
                let alibi = Alibi {
                    scale: *alibi_scale,
                    slopes: alibi_slopes,
                    form: *alibi_form,
                };
                self.scores(x, inputs[1], *product_scale, &alibi, shape)
            }
            Op::Softmax { scale, mask } => {
                self.softmax(x, *scale, *mask, step.numerics.summation, shape)
            }
            Op::Context => self.context(x, inputs[1], shape),
            Op::AddBias => {
                let (x, row) = (self.whole(x)?, self.read(params[0]));
                let (x, columns) = (self.read(&x), Arg::I64(last(&shape) as i64));
                self.produce(dtype, shape.clone(), |out| {
                    let count = Arg::I64(count as i64);
                    let args = [x.arg(), row.arg(), Arg::Pointer(out), count, columns];
                    self.send(dtype, "add_row", elements, &args)
                })
            }
            Op::Activation(activation) => by_element("activation", x, &[kind(*activation), each]),
            Op::Gate(activation) => of_two("gate", &[kind(*activation), each]),
            Op::Add => of_two("add", &[]),
            Op::Scale { factor } => by_element("scale", x, &[Arg::F32(*factor)]),
            Op::SoftCap { cap } => by_element("soft_cap", x, &[Arg::F32(*cap), each]),
        }
    }

    fn embedding(
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

    fn layer_norm(
        &self,
        step: &Step,
        x: &CudaArray,
        params: &[&CudaArray],
        shape: Vec<usize>,
        eps: f32,
    ) -> Result<CudaArray> {
        /// Longer rows are not exact in an fp32 count.
        const MOST_COLUMNS: usize = 1 << 24;
        let columns = last(&shape);
        let vectors = columns.is_multiple_of(4) && columns <= MOST_COLUMNS;
        let (name, threads) = match (step.numerics.summation, vectors) {
            (Summation::MegatronCuda, _) => ("megatron_layer_norm", (32, 4)),
            (_, true) => ("layer_norm", (32, 4)),
            (_, false) => ("layer_norm_scalar", (512, 1)),
        };
        self.norm(name, threads, x, params, shape, eps)
    }

    fn rms_norm(
        &self,
        step: &Step,
        x: &CudaArray,
        params: &[&CudaArray],
        shape: Vec<usize>,
        eps: f32,
    ) -> Result<CudaArray> {
        let torch = step.numerics.summation == Summation::TorchCuda;
        if params.len() > 1 || !torch || !last(&shape).is_multiple_of(4) {
            let what = "an RMS norm with a bias, of rows of other lengths than multiples of 4, or as \
                        Megatron computes it";
            return Err(unsupported(step, what.into()));
        }
        self.norm("rms_norm", (32, 4), x, params, shape, eps)
    }

    fn norm(
        &self,
        name: &'static str,
        threads: (u32, u32),
        x: &CudaArray,
        params: &[&CudaArray],
        shape: Vec<usize>,
        eps: f32,
    ) -> Result<CudaArray> {
        let dtype = x.dtype;
        let columns = last(&shape);
        let rows = x.len().checked_div(columns).unwrap_or(0);
        let x = self.whole(x)?;
        let arrays: Vec<Reading<'_>> = [&x]
            .into_iter()
            .chain(params.iter().copied())
            .map(|a| self.read(a))
            .collect();
        self.produce(dtype, shape, |out| {
            let mut args: Vec<Arg> = arrays.iter().map(Reading::arg).collect();
            args.extend([Arg::Pointer(out), Arg::I64(columns as i64), Arg::F32(eps)]);
            self.send(dtype, name, Grid::blocks(rows, threads), &args)
        })
    }

    fn linear(
        &self,
        step: &Step,
        x: &CudaArray,
        weight: &CudaArray,
        bias: Option<&CudaArray>,
        partials: usize,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let dtype = x.dtype;
        let (width, k) = (weight.shape[0], weight.shape[1]);
        let count = shape.iter().product::<usize>();
        if count == 0 || k == 0 {
            return self.produce(dtype, shape, |_| Ok(()));
        }
        if bias.is_some() && partials > 1 {
            return Err(unsupported(step, "partial sums with a bias".into()));
        }
        let rows = count / width;
        let x = self.whole(x)?;
        let (x, weight) = (self.read(&x), self.read(weight));
        let bias = bias.map(|bias| self.read(bias));
        let part = k / partials;
        let product = |number: usize, out: u64, beta: f32| {
            // Slices of the last axis: the leading dimension stays that of the whole matrices.
            let start = (number * part * dtype.size()) as u64;
            let operand = |pointer: u64, transposed| Operand {
                pointer: pointer + start,
                leading: k,
                transposed,
                stride: 0,
            };
            Gemm {
                dtype,
                m: width,
                n: rows,
                k: part,
                batch: 1,
                alpha: 1.0,
                beta,
                a: operand(weight.pointer, true),
                b: operand(x.pointer, false),
                result: Operand {
                    pointer: out,
                    leading: width,
                    transposed: false,
                    stride: 0,
                },
            }
        };
        let first = self.produce(dtype, shape.clone(), |out| {
            let Some(bias) = &bias else {
                return self.blas.gemm(&product(0, out, 0.0));
            };
            if self
                .blas
                .linear_with_bias(&product(0, out, 0.0), bias.pointer)?
            {
                return Ok(());
            }
            let args = [
                bias.arg(),
                Arg::Pointer(out),
                Arg::I64(count as i64),
                Arg::I64(width as i64),
            ];
            self.send(dtype, "fill_rows", Grid::elements(count), &args)?;
            self.blas.gemm(&product(0, out, 1.0))
        })?;
        (1..partials).try_fold(first, |sum, number| {
            let next = self.produce(dtype, shape.clone(), |out| {
                self.blas.gemm(&product(number, out, 0.0))
            })?;
            let (sum, next) = (self.read(&sum), self.read(&next));
            self.produce(dtype, shape.clone(), |out| {
                let args = [
                    sum.arg(),
                    next.arg(),
                    Arg::Pointer(out),
                    Arg::I64(count as i64),
                ];
                self.send(dtype, "add", Grid::elements(count), &args)
            })
        })
    }

    /// Of one sequence the heads are left where they are, as PyTorch's `reshape` leaves them: its
    /// products then have the leading dimensions of the fused projection.
    fn split_heads(
        &self,
        fused: &CudaArray,
        part: HeadPart,
        heads: usize,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let &[batch, _, positions, head_dim] = shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let fused = self.whole(fused)?;
        if batch == 1 {
            return Ok(CudaArray {
                dtype: fused.dtype,
                shape,
                block: fused.block.clone(),
                layout: Layout::Heads {
                    offset: part as usize * head_dim,
                    head: 3 * head_dim,
                    position: 3 * heads * head_dim,
                },
                host: None,
            });
        }
        self.gathered(
            &fused,
            part as usize,
            [batch, positions, heads, head_dim],
            shape,
        )
    }

    fn gathered(
        &self,
        fused: &CudaArray,
        part: usize,
        extents: [usize; 4],
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let dtype = fused.dtype;
        let from = self.read_from_start(fused);
        let grid = Grid::elements(shape.iter().product());
        self.produce(dtype, shape, |out| {
            let mut args = vec![from.arg(), Arg::Pointer(out)];
            args.extend(extents.map(|extent| Arg::I64(extent as i64)));
            args.push(Arg::I32(part as i32));
            self.send(dtype, "split_heads", grid, &args)
        })
    }

    fn rotary(
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

    /// PyTorch's `baddbmm`: the ALiBi bias is the result that the product is added to.
    fn scores(
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

    fn context(
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

    fn softmax(
        &self,
        scores: &CudaArray,
        scale: f32,
        mask: Mask,
        summation: Summation,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let dtype = scores.dtype;
        let keys = last(&shape);
        let rows = scores.len().checked_div(keys).unwrap_or(0);
        let matrices = rows.checked_div(keys).unwrap_or(0);
        let form = SoftmaxForm::of(summation, dtype, keys, matrices, mask);
        let (shift, full) = match mask {
            Mask::Causal => (0, 0),
            Mask::Shifted(shift) => (shift, 0),
            Mask::Full => (0, 1),
        };
        let from = self.read(scores);
        self.produce(dtype, shape, |out| {
            let ends = [from.arg(), Arg::Pointer(out)];
            let keys_and_scale = |log2: u32| {
                [
                    Arg::I64(rows as i64),
                    Arg::I32(keys as i32),
                    Arg::I32(log2 as i32),
                    Arg::F32(scale),
                ]
            };
            let masked = [Arg::I32(shift), Arg::I32(full)];
            match form {
                SoftmaxForm::Warp { log2 } => {
                    let args = [&ends[..], &keys_and_scale(log2), &masked].concat();
                    self.send(dtype, "softmax_warp", warp_grid(rows, log2), &args)
                }
                SoftmaxForm::Megatron { log2 } => {
                    let args = [&ends[..], &keys_and_scale(log2)].concat();
                    self.send(dtype, "megatron_softmax", warp_grid(rows, log2), &args)
                }
                SoftmaxForm::Block { vector, generic } => {
                    let own = [Arg::I32(keys as i32), Arg::F32(scale)];
                    let form = [Arg::I32(vector), Arg::I32(generic.into())];
                    let args = [&ends[..], &own, &masked, &form].concat();
                    let grid = Grid::blocks(rows, (block_threads(keys), 1));
                    self.send(dtype, "softmax_block", grid, &args)
                }
            }
        })
    }

    /// Sends the comparison of two arrays of one shape and type: `words` of every segment.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] if the GPU fails.
    pub fn compare(
        &self,
        reference: &CudaArray,
        candidate: &CudaArray,
        row: usize,
        pieces: &[Range<usize>],
        words: usize,
        close: Option<(f64, f64)>,
    ) -> Result<CudaSegments> {
        let dtype = reference.dtype;
        let rows = reference.len().checked_div(row).unwrap_or(0);
        let segments = rows * pieces.len();
        let bounds = pieces
            .iter()
            .flat_map(|piece| [piece.start as i64, piece.end as i64]);
        let bounds = self.table(&[pieces.len(), 2], bounds.collect::<Vec<i64>>())?;
        let [reference, candidate] = [self.whole(reference)?, self.whole(candidate)?];
        let [r, c, bounds] = [&reference, &candidate, &bounds].map(|array| self.read(array));
        let words = segments * words;
        let mut block = self.block(words * size_of::<u64>())?;
        {
            let (out, _record) = block.slice_mut().device_ptr_mut(&self.compute);
            let (atol, rtol) = close.unwrap_or_default();
            let args = [
                r.arg(),
                c.arg(),
                Arg::I64(segments as i64),
                Arg::I64(row as i64),
                Arg::I32(pieces.len() as i32),
                bounds.arg(),
                Arg::I32(close.is_some().into()),
                Arg::F64(atol),
                Arg::F64(rtol),
                Arg::Pointer(out),
            ];
            let grid = Grid::blocks(segments.div_ceil(8), (128, 1));
            self.send(dtype, "compare", grid, &args)?;
        }
        Ok(CudaSegments {
            block,
            words,
            results: self.results.clone(),
        })
    }

    /// Figures that many steps read, sent up once.
    fn table<T: Element>(&self, shape: &[usize], figures: Vec<T>) -> Result<CudaArray> {
        let figures = Tensor::from_vec(shape, figures)?;
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            |table: &&CudaArray| table.host.as_ref().is_some_and(|t| t.bits_equal(&figures));
        if let Some(table) = tables.iter().find(known) {
            return Ok(table.clone());
        }
        let table = self.upload(&figures)?;
        tables.push(table.clone());
        Ok(table)
    }

    fn send(&self, dtype: DType, name: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
        self.kernels.launch(&self.compute, dtype, name, grid, args)
    }

    /// A new array that `fill` sends the computation of, given where it lies.
    fn produce(
        &self,
        dtype: DType,
        shape: Vec<usize>,
        fill: impl FnOnce(u64) -> Result<()>,
    ) -> Result<CudaArray> {
        let count: usize = shape.iter().product();
        let mut block = self.block(count * dtype.size())?;
        {
            let (pointer, _record) = block.slice_mut().device_ptr_mut(&self.compute);
            fill(pointer)?;
        }
        Ok(CudaArray {
            dtype,
            shape,
            block: Arc::new(block),
            layout: Layout::Whole,
            host: None,
        })
    }

    /// The array in C order.
    fn whole(&self, array: &CudaArray) -> Result<CudaArray> {
        let Layout::Heads {
            offset, position, ..
        } = array.layout
        else {
            return Ok(array.clone());
        };
        let &[_, heads, positions, head_dim] = array.shape.as_slice() else {
            unreachable!("only heads lie like this");
        };
        debug_assert_eq!(position, 3 * heads * head_dim);
        let extents = [1, positions, heads, head_dim];
        self.gathered(array, offset / head_dim, extents, array.shape.clone())
    }

    fn read<'a>(&'a self, array: &'a CudaArray) -> Reading<'a> {
        let reading = self.read_from_start(array);
        let offset = match array.layout {
            Layout::Whole => 0,
            Layout::Heads { offset, .. } => (offset * array.dtype.size()) as u64,
        };
        Reading {
            pointer: reading.pointer + offset,
            ..reading
        }
    }

    fn read_from_start<'a>(&'a self, array: &'a CudaArray) -> Reading<'a> {
        let (pointer, record) = array.block.slice().device_ptr(&self.compute);
        Reading {
            pointer,
            _record: record,
        }
    }
}

/// An array that steps sent from now on read: they wait for what writes it, and what writes it next
/// waits for those that were sent before this is dropped.
struct Reading<'a> {
    pointer: u64,
    _record: SyncOnDrop<'a>,
}

impl Reading<'_> {
    fn arg(&self) -> Arg {
        Arg::Pointer(self.pointer)
    }
}

struct Alibi<'a> {
    scale: f32,
    slopes: &'a [f32],
    form: AlibiForm,
}

impl CudaArray {
    /// `[b, n, s, d]` as a batch of `b · n` operands, given where its first element lies.
    fn heads(&self, pointer: u64) -> Operand {
        let &[_, _, positions, head_dim] = self.shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let (leading, stride) = match self.layout {
            Layout::Whole => (head_dim, positions * head_dim),
            Layout::Heads { head, position, .. } => (position, head),
        };
        Operand {
            pointer,
            leading,
            transposed: false,
            stride,
        }
    }
}

/// Which kernel computes a softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SoftmaxForm {
    Warp { log2: u32 },
    Block { vector: i32, generic: bool },
    Megatron { log2: u32 },
}

impl SoftmaxForm {
    /// As PyTorch chooses (`SoftMax.cu`, 2.11). Half types go by another limit than fp32: BLOOM asks
    /// for an fp32 softmax of them. Megatron's kernel is used where its Python says so
    /// (`FusedScaleMaskSoftmax.is_kernel_available`), and torch's elsewhere.
    fn of(summation: Summation, dtype: DType, keys: usize, matrices: usize, mask: Mask) -> Self {
        let log2 = keys.max(1).next_power_of_two().ilog2();
        let half = dtype.is_half();
        if summation == Summation::MegatronCuda && half && mask == Mask::Causal {
            let rows_per_block = warp_rows(log2);
            let taken = (17..=2048).contains(&keys)
                && keys.is_multiple_of(4)
                && matrices.is_multiple_of(4)
                && matrices.is_multiple_of(rows_per_block);
            if taken {
                return Self::Megatron { log2 };
            }
        }
        let most = if half { 1024 } else { 2048 };
        if keys <= most {
            return Self::Warp { log2 };
        }
        let threads = block_threads(keys) as usize;
        if !half && keys.div_ceil(threads) < 10 {
            return Self::Block {
                vector: 1,
                generic: false,
            };
        }
        // Rows start where vectors of 16 bytes do if their length is a multiple of one.
        let vector = 16 / dtype.size();
        let shared = (49_152 - threads / 8) / dtype.size();
        Self::Block {
            vector: vector as i32,
            generic: !(keys.is_multiple_of(vector) && keys < shared),
        }
    }
}

/// Rows that a block of 128 threads takes of up to `2^log2` keys.
fn warp_rows(log2: u32) -> usize {
    let width = 1 << log2.min(5);
    (128 / width) * if log2 <= 7 { 2 } else { 1 }
}

fn warp_grid(rows: usize, log2: u32) -> Grid {
    Grid::blocks(rows.div_ceil(warp_rows(log2)), (128, 1))
}

/// `SoftMaxForward_getBlockSize`.
fn block_threads(keys: usize) -> u32 {
    keys.min(1024).next_multiple_of(32) as u32
}

fn kind(activation: Activation) -> Arg {
    Arg::I32(match activation {
        Activation::BloomGelu => 0,
        Activation::Gelu => 1,
        Activation::QuickGelu => 2,
        Activation::Silu => 3,
        Activation::Relu => 4,
        Activation::ReluSquared => 5,
    })
}

fn last(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

/// Refuses numerics that the kernels do not implement, so that a plan is never run otherwise than it
/// says.
fn check_numerics(step: &Step) -> Result<()> {
    let Numerics {
        out,
        rounding,
        summation,
        ..
    } = step.numerics;
    let implemented = match &step.op {
        Op::Embedding | Op::SplitHeads { .. } => return Ok(()),
        Op::Linear { .. } | Op::Context | Op::AttentionScores { .. } => Numerics::product(out),
        Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Softmax { .. }
            if summation != Summation::Backend =>
        {
            Numerics::cuda_kernel(out, summation)
        }
        Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Softmax { .. } => {
            Numerics::cuda_kernel(out, Summation::TorchCuda)
        }
        Op::AddBias
        | Op::Add
        | Op::Rotary(_)
        | Op::Gate(_)
        | Op::Activation(_)
        | Op::Scale { .. }
        | Op::SoftCap { .. } => Numerics::elementwise(out, rounding),
    };
    let stored = matches!(out, DType::F32 | DType::F16 | DType::Bf16);
    if stored && step.numerics == implemented {
        return Ok(());
    }
    Err(unsupported(
        step,
        format!("{} in {:?}", step.op, step.numerics),
    ))
}

/// Refuses arrays of other types than the step's: kernels read what they are told to.
fn check_types(step: &Step, inputs: &[&CudaArray], params: &[&CudaArray]) -> Result<()> {
    let tokens = matches!(step.op, Op::Embedding);
    let inputs = inputs.iter().map(|input| (input.dtype, tokens));
    let params = params.iter().map(|param| (param.dtype, false));
    let wrong = inputs.chain(params).find(|(dtype, tokens)| match tokens {
        true => !matches!(dtype, DType::I64 | DType::I32),
        false => *dtype != step.numerics.out,
    });
    match wrong {
        None => Ok(()),
        Some((dtype, tokens)) => Err(Error::Mismatch {
            at: step.id.to_string(),
            expected: match tokens {
                true => "token ids of int64 or int32".into(),
                false => format!("{} elements", step.numerics.out),
            },
            found: dtype.to_string(),
        }),
    }
}

fn unsupported(step: &Step, what: String) -> Error {
    Error::Unsupported {
        step: step.id.to_string(),
        backend: "cuda",
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_takes_the_kernel_that_torch_takes() {
        let torch =
            |dtype, keys| SoftmaxForm::of(Summation::TorchCuda, dtype, keys, 16, Mask::Causal);
        let block = |vector, generic| SoftmaxForm::Block { vector, generic };
        assert_eq!(torch(DType::F32, 1), SoftmaxForm::Warp { log2: 0 });
        assert_eq!(torch(DType::F32, 2048), SoftmaxForm::Warp { log2: 11 });
        assert_eq!(torch(DType::F32, 2049), block(1, false));
        assert_eq!(torch(DType::F32, 9217), block(4, true));
        assert_eq!(torch(DType::F32, 9220), block(4, false));
        assert_eq!(torch(DType::F32, 16384), block(4, true));
        assert_eq!(torch(DType::Bf16, 1024), SoftmaxForm::Warp { log2: 10 });
        assert_eq!(torch(DType::Bf16, 1032), block(8, false));
        assert_eq!(torch(DType::F16, 1025), block(8, true));
    }

    #[test]
    fn megatrons_softmax_is_used_where_its_own_code_uses_it() {
        let of = |dtype, keys, matrices| {
            SoftmaxForm::of(Summation::MegatronCuda, dtype, keys, matrices, Mask::Causal)
        };
        assert_eq!(of(DType::F16, 20, 16), SoftmaxForm::Megatron { log2: 5 });
        assert_eq!(of(DType::F32, 20, 16), SoftmaxForm::Warp { log2: 5 });
        assert_eq!(of(DType::F16, 16, 16), SoftmaxForm::Warp { log2: 4 });
        assert_eq!(of(DType::F16, 22, 16), SoftmaxForm::Warp { log2: 5 });
        assert_eq!(of(DType::Bf16, 20, 6), SoftmaxForm::Warp { log2: 5 });
    }
}
