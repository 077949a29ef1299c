#!/usr/bin/env python3
"""Records products of torch on this machine's GPU, for the tests of the tensor cores' error bounds.

    python3 scripts/make_gpu_products.py OUT

Needs torch on a CUDA GPU and numpy, no network. In OUT:

    products.npz    of every product the first rows and columns, as bits: fp32 as uint32,
                    halves as uint16; named <dtype>.<data>.k<K>.n<N>.<kind>
    products.json   the same names with the kernel that computed each, and the GPU

A product is y[M, N] = x[M, K] w[N, K]^T. The kinds are `linear` (the type of the operands, no
bias), `bias` (with a bias: another call of cuBLAS) and `sums` (the halves' fp32 sums as they come
out of the accumulators). Operands are made from integers, so that a test makes the same ones:
`operand` is the definition.
"""

import json
import sys
from pathlib import Path

import numpy
import torch

import parity_dump

M = 20
KEPT_COLUMNS = 32
DEPTHS = [64, 256, 1024, 4096, 14336]
COLUMNS = [64, 4096]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def mixed(numbers):
    """SplitMix64's finaliser: 64 bits that look random of every 64-bit number."""
    z = numbers + signed(0x9E3779B97F4A7C15)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ shifted(z, 31)


def signed(bits):
    return bits - (1 << 64) if bits >> 63 else bits


def shifted(numbers, bits):
    """A shift of 64 unsigned bits, which torch has of signed ones only."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def operand(data, seed, rows, depth, device):
    """fp32 values, exact on any device; element [row, k] is of number seed * 2^40 + row * depth + k."""
    start = seed << 40
    bits = mixed(torch.arange(start, start + rows * depth, dtype=torch.int64, device=device))
    if data == "normal":
        # The sum of four even ones, deviation 1.15.
        total = sum(shifted(bits, piece) & 0x7FFF for piece in (0, 15, 30, 45))
        values = (total - 2 * 32767).float() * 2.0 ** -14
    else:
        values = shifted(bits, 40).float() * 2.0 ** -24
        if data == "peaked":
            # As probabilities are: most are next to nothing, a few make the sum.
            for _ in range(3):
                values = values * values
    return values.view(rows, depth)


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    arrays, kernels = {}, {}
    for data in ("normal", "positive", "peaked"):
        # x is what the name says; weights have signs where x has.
        weights = "normal" if data == "normal" else "positive"
        for depth in DEPTHS:
            x = operand(data, 1, M, depth, "cuda")
            for columns in COLUMNS:
                w = operand(weights, 2, columns, depth, "cuda")
                bias = operand("normal", 3, 1, columns, "cuda")[0]
                for name, dtype in DTYPES.items():
                    key = f"{name}.{data}.k{depth}.n{columns}"
                    record(arrays, kernels, key, x.to(dtype), w.to(dtype), bias.to(dtype))
    numpy.savez(out / "products.npz", **arrays)
    (out / "products.json").write_text(json.dumps({
        "gpu": parity_dump.gpu(), "torch": torch.__version__, "kernels": kernels}, indent=1) + "\n")
    print(f"{len(arrays)} products, {sum(a.nbytes for a in arrays.values()) / 1e3:.0f} kB")


def record(arrays, kernels, key, x, w, bias):
    calls = {
        "linear": lambda: torch.nn.functional.linear(x, w),
        "bias": lambda: torch.nn.functional.linear(x, w, bias),
    }
    if x.dtype != torch.float32:
        calls["sums"] = lambda: torch.mm(x, w.t(), out_dtype=torch.float32)
    for kind, call in calls.items():
        with torch.no_grad(), torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            result = call()
            torch.cuda.synchronize()
        kept = result[:, :KEPT_COLUMNS].contiguous().cpu()
        width = torch.int32 if kept.dtype == torch.float32 else torch.int16
        unsigned = numpy.uint32 if kept.dtype == torch.float32 else numpy.uint16
        arrays[f"{key}.{kind}"] = kept.view(width).numpy().view(unsigned)
        kernels[f"{key}.{kind}"] = [e.name for e in profile.events() if "mem" not in e.name.lower()]


if __name__ == "__main__":
    main()
