#!/usr/bin/env python3
"""Checks that folders load in transformers with no key missing, unexpected or misshapen.

    pip install torch transformers
    python3 scripts/check_loads_in_transformers.py FOLDER...
"""

import sys

import torch
from transformers import AutoModelForCausalLM


def main(folders):
    failed = False
    for folder in folders:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", output_loading_info=True)
        faults = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
        with torch.no_grad():
            logits = model(torch.arange(8)[None] % model.config.vocab_size).logits
        if not torch.isfinite(logits).all():
            faults["logits"] = ["not finite"]
        failed |= bool(faults)
        print(f"{folder}: {type(model).__name__}, {model.dtype}, "
              f"{len(model.state_dict())} entries: {faults or 'loads'}")
    return int(failed)


sys.exit(main(sys.argv[1:]))
