#!/usr/bin/env python3
"""Dumps a transformers model's forward on CPU with parity_dump, and compares it with another dump.

    pip install torch transformers
    python3 scripts/try_parity_dump.py MODEL_FOLDER TOKENS.npy OUT [--dtype TYPE] [--against DUMP]

With --against, every array of DUMP must be there under the same name with the same bits. Kernels
differ in their last bits from CPU to CPU: as a dump of one without AVX-512 was made, run with
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2.
"""

import argparse
import os
import sys

import numpy
import torch
from transformers import AutoModelForCausalLM

import parity_dump

PREFIXES = ("model.", "transformer.")


def main(arguments):
    # One thread: torch's fp32 products on CPU change with their number.
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=arguments.dtype, attn_implementation="eager")
    model.eval()
    with torch.no_grad(), parity_dump.capture(model, arguments.out):
        model(torch.from_numpy(numpy.load(arguments.tokens).astype(numpy.int64)), use_cache=False)
    return compare(arguments.out, arguments.against) if arguments.against else 0


def compare(ours, theirs):
    """Says which arrays of `theirs` are not in `ours`; 1 if there are any."""
    ours, theirs = arrays(ours), arrays(theirs)
    missing = [name for name in theirs if name not in ours]
    other = [name for name in theirs if name in ours and not same(ours[name], theirs[name])]
    print("%d arrays, %d of them dumped here with the same bits, %d others dumped here"
          % (len(theirs), len(theirs) - len(missing) - len(other), len(set(ours) - set(theirs))))
    for what, names in (("not dumped", missing), ("other bits", other)):
        for name in names:
            print("  %s: %s" % (name, what))
    return 1 if missing or other else 0


def arrays(folder):
    """Paths by name, without what frameworks put before it."""
    found = {}
    for file in sorted(os.listdir(folder)):
        number, _, name = file.partition(".")
        if number.isdigit() and name.endswith(".npy"):
            for prefix in PREFIXES:
                name = name[len(prefix):] if name.startswith(prefix) else name
            # The head is a module of its own; what it gives out are the logits.
            name = "logits.npy" if name == "lm_head.output.npy" else name
            found[name[:-len(".npy")].replace("logits.output", "logits")] = os.path.join(folder, file)
    return found


def same(ours, theirs):
    ours, theirs = numpy.load(ours), numpy.load(theirs)
    return ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("out")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--against")
    sys.exit(main(parser.parse_args()))
