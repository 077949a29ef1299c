#!/usr/bin/env python3
"""Dumps transformers' runs of padded and packed batches, of attention as one kernel, and with dropout left on, from
which goldens of them are imported.

    scripts/make_transformers_goldens.py OUT

The models are the goldens' own. For every dump D in OUT: `parity import OUT/D -o goldens/D`. Needs torch and
transformers; no network.
"""
import fnmatch
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import parity_dump  # noqa: E402

LENGTHS = [14, 9, 5]
COLUMNS = max(LENGTHS)


def padded_left():
    mask = torch.tensor([[0] * (COLUMNS - length) + [1] * length for length in LENGTHS])
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    return {"attention_mask": mask, "position_ids": positions}


def padded_right():
    return {"attention_mask": torch.tensor([[1] * n + [0] * (COLUMNS - n) for n in LENGTHS])}


def packed():
    rows = [[5, 9], [14], [7, 3, 4]]
    positions = [[at for length in row for at in range(length)] for row in rows]
    return {"position_ids": torch.tensor(positions), "use_cache": False}


def only(given, *names):
    return {name: given[name] for name in names}


# Name, model, and what the run is given. BLOOM has no positions; those that GPT-2 is not given count padding.
DUMPS = [
    ("transformers_bloom_bf16_padded_left", "bloom_bf16_tp1", only(padded_left(), "attention_mask")),
    ("transformers_gpt2_bf16_padded_left", "megatron_core_gpt2_fp32_tp1", padded_left()),
    ("transformers_gpt2_bf16_padded_columns", "megatron_core_gpt2_fp32_tp1",
     only(padded_left(), "attention_mask")),
    ("transformers_gpt2_bf16_sdpa", "megatron_core_gpt2_fp32_tp1", {}),
    ("transformers_llama3_bf16_sdpa", "megatron_core_llama3_fp32_tp1", {}),
    ("transformers_llama3_bf16_padded_right", "megatron_core_llama3_fp32_tp1", padded_right()),
    ("transformers_llama3_bf16_packed", "megatron_core_llama3_fp32_tp1", packed()),
    ("transformers_gpt2_fp32_dropout", "megatron_core_gpt2_fp32_tp1", {}),
    ("transformers_gpt2_bf16_dropout", "megatron_core_gpt2_fp32_tp1", {}),
]
# As training code has it: no eval(), and probabilities in the config.
DROPOUT = {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}


def leave_out(folder, *patterns):
    """What the dropping modules give out, and so the import would refuse at once: dumpers that know of none have
    the products before and the sums after."""
    path = os.path.join(folder, "dump.json")
    with open(path, encoding="utf-8") as file:
        dump = json.load(file)
    def is_left_out(name):
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    for array in dump["arrays"]:
        if is_left_out(array["file"]):
            os.remove(os.path.join(folder, array["file"]))
    dump["arrays"] = [array for array in dump["arrays"] if not is_left_out(array["file"])]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(dump, file, indent=1)


def main(out):
    for name, golden, given in DUMPS:
        model_folder = os.path.join(ROOT, "goldens", golden, "hf")
        drops = name.endswith("dropout")
        model = AutoModelForCausalLM.from_pretrained(
            model_folder, dtype=torch.float32 if "_fp32_" in name else torch.bfloat16,
            attn_implementation="sdpa" if name.endswith("sdpa") else "eager",
            **(DROPOUT if drops else {})).train(drops)
        torch.manual_seed(11)
        generator = torch.Generator().manual_seed(7)
        tokens = torch.randint(0, model.config.vocab_size, (len(LENGTHS), COLUMNS), generator=generator)
        folder = os.path.join(out, name)
        with torch.no_grad(), parity_dump.capture(model, folder, allow_training=drops):
            model(tokens, **given)
        if drops:
            leave_out(folder, "*dropout.output.npy", "*.attn.output.npy", "*.mlp.output.npy")
        print(name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
