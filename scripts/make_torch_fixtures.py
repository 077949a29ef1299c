#!/usr/bin/env python3
"""Writes tests/torch: files of torch.save in every container, and the values in them as .npy.

    pip install torch
    python3 scripts/make_torch_fixtures.py
"""

import argparse
from pathlib import Path

import numpy
import torch

FOLDER = Path(__file__).resolve().parent.parent / "tests/torch"


def main():
    FOLDER.mkdir(exist_ok=True)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8
    tensors = {
        "fp32": base,
        "transposed": base.T,
        "sliced": base[1:3, 2:5],
        "stepped": base[::2, 1::2],
        "expanded": base[:, :1].expand(4, 3),
        "permuted": base.reshape(2, 2, 6).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(base[:2].clone()),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "fp64": base.double(),
        "fp16": base.half(),
        "bf16": base.bfloat16(),
        "int64": torch.arange(-3, 3),
        "int32": torch.arange(-3, 3, dtype=torch.int32),
        "int16": torch.arange(-3, 3, dtype=torch.int16),
        "int8": torch.arange(-3, 3, dtype=torch.int8),
        "uint8": torch.arange(250, 256, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
    }
    saved = {**tensors, "args": argparse.Namespace(layers=3, name="tiny", big=2**70, dtype=torch.bfloat16)}
    torch.save(saved, FOLDER / "zip.pt")
    torch.save(saved, FOLDER / "protocol4.pt", pickle_protocol=4)
    torch.save(saved, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        array = tensor.view(torch.int16).numpy().view(numpy.uint16) if name == "bf16" else tensor.numpy()
        numpy.save(FOLDER / f"{name}.npy", array)


main()
