#!/usr/bin/env python3
"""Dumps a transformers model's forward on CPU with parity_dump.

    pip install torch transformers
    python3 scripts/try_parity_dump.py MODEL_FOLDER TOKENS.npy OUT
"""

import sys

import numpy
import torch
from transformers import AutoModelForCausalLM

import parity_dump


def main(folder, tokens, out):
    # One thread: torch's fp32 products on CPU change with their number.
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")
    model.eval()
    with torch.no_grad(), parity_dump.capture(model, out):
        model(torch.from_numpy(numpy.load(tokens).astype(numpy.int64)))


main(*sys.argv[1:])
