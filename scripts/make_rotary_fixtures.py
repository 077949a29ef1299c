"""Writes tests/fixtures/rotary.json: rotary frequencies as transformers' own functions compute them.

    python3 scripts/make_rotary_fixtures.py

Needs torch and transformers. Frequencies are given as the bits of their fp32 values, so that nothing
is lost on the way; `sequence` is the length that dynamic scaling sees.
"""

import json
import pathlib

import numpy
import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}

SETTINGS = [
    # head size, theta, scaling, max_position_embeddings, sequence
    (8, 10000.0, {"rope_type": "default"}, 2048, 16),
    (64, 10000.0, {"rope_type": "default"}, 2048, 16),
    (128, 500000.0, {"rope_type": "default"}, 8192, 16),
    (96, 1000000.0, {"rope_type": "default"}, 8192, 16),
    (64, 10000.0, {"rope_type": "linear", "factor": 4.0}, 2048, 16),
    (128, 10000.0, {"rope_type": "linear", "factor": 2.5}, 2048, 16),
    (64, 10000.0, {"rope_type": "dynamic", "factor": 2.0}, 2048, 2048),
    (64, 10000.0, {"rope_type": "dynamic", "factor": 2.0}, 2048, 3000),
    (128, 10000.0, {"rope_type": "dynamic", "factor": 8.0}, 64, 600),
    (64, 10000.0, YARN, 163840, 16),
    (64, 10000.0, dict(YARN, mscale=1.0, mscale_all_dim=1.0), 163840, 16),
    (64, 10000.0, dict(YARN, mscale=1.0, mscale_all_dim=0.707), 163840, 16),
    (128, 1000000.0, dict(YARN, factor=4.0, original_max_position_embeddings=32768), 131072, 16),
    (128, 150000.0, dict(YARN, factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False), 131072, 16),
    (128, 10000.0, dict(YARN, attention_factor=1.25, beta_fast=16.0, beta_slow=2.0), 163840, 16),
    (8, 500000.0, LLAMA3, 131072, 16),
    (64, 500000.0, LLAMA3, 131072, 16),
    (128, 500000.0, dict(LLAMA3, factor=8.0), 131072, 16),
]


def frequencies(head, theta, scaling, positions, sequence):
    """Frequencies and the factor of cosines and sines, as a forward of this length has them."""
    config = LlamaConfig(hidden_size=2 * head, num_attention_heads=2, head_dim=head,
                         max_position_embeddings=positions,
                         rope_parameters=dict(scaling, rope_theta=theta))
    rotary = LlamaRotaryEmbedding(config)
    rotary(torch.zeros(1), torch.arange(sequence).unsqueeze(0))
    bits = rotary.inv_freq.to(torch.float32).numpy().view(numpy.uint32)
    return [int(bit) for bit in bits], float(rotary.attention_scaling)


def main():
    cases = []
    for head, theta, scaling, positions, sequence in SETTINGS:
        bits, factor = frequencies(head, theta, scaling, positions, sequence)
        cases.append({"head_dim": head, "rope_theta": theta, "rope_parameters": scaling,
                      "max_position_embeddings": positions, "sequence": sequence,
                      "inv_freq_bits": bits, "attention_factor": factor})
    fixture = {"transformers": transformers.__version__, "torch": torch.__version__, "cases": cases}
    path = pathlib.Path(__file__).parent.parent / "tests/fixtures/rotary.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fixture) + "\n")
    print(f"{path}: {len(cases)} settings")


if __name__ == "__main__":
    main()
