#!/usr/bin/env python3
"""Runs random models with torch on this machine's GPU and dumps every stage, for gpu_check.sh.

    python3 scripts/make_gpu_goldens.py OUT [--device cuda|cpu] [--budget-s N]

Needs torch and transformers, no network. In OUT:

    models/<model>_<dtype>/    small models, in transformers' format
    scratch/models/...         large ones
    scratch/dumps/<case>/      what parity_dump recorded, for `parity import`
    scratch/cases.tsv          case, model folder, golden folder to import to
    scratch/cuda_libs          folders of the CUDA libraries that torch loaded, joined by ':'
    cases.json                 all of it, with the times of torch and what was left out

A model has the same bits wherever it is made. A case that would start after the budget is left
out, and said to be.
"""

import argparse
import contextlib
import copy
import filecmp
import glob
import json
import os
import shutil
import statistics
import sys
import time
import zlib
from pathlib import Path

import torch
import transformers

import parity_dump

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

MODELS = {
    "bloom_64": {"hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 512},
    # One head and one row make a batched product of one: torch calls another routine for it.
    "bloom_64_1head": {"hidden_size": 64, "n_layer": 1, "n_head": 1, "vocab_size": 512},
    # ALiBi has another series where the number of heads is no power of two.
    "bloom_84_7heads": {"hidden_size": 84, "n_layer": 2, "n_head": 7, "vocab_size": 512},
    "bloom_4096": {"hidden_size": 4096, "n_layer": 1, "n_head": 32, "vocab_size": 1024},
    "bloom_64_2heads": {"hidden_size": 64, "n_layer": 1, "n_head": 2, "vocab_size": 512},
}
WIDE = "bloom_4096"

# Not BLOOM's settings, whose random models are the same wherever they are made.
GPT2 = {"gpt2_64": {"n_embd": 64, "n_layer": 2, "n_head": 8, "vocab_size": 512, "n_positions": 64}}
LLAMA = {
    "llama_64": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 2, "intermediate_size": 160, "vocab_size": 512,
        "max_position_embeddings": 64,
    },
}

# Model, batch, positions, types, modules. The small ones, which are worth most, come first.
CASES = [
    ("bloom_64", 2, 20, ["fp32", "bf16", "fp16"], "*"),
    ("bloom_84_7heads", 2, 20, ["fp32", "bf16", "fp16"], "*"),
    ("bloom_64", 1, 20, ["fp32", "bf16", "fp16"], "*"),
    # Rows of scores that are aligned to 16 bytes: cuBLAS adds ALiBi to rounded products.
    ("bloom_64", 1, 24, ["bf16", "fp16"], "*"),
    # One token in all: linear layers are other products.
    ("bloom_64", 1, 1, ["fp32", "bf16", "fp16"], "*"),
    ("bloom_64_1head", 1, 20, ["fp32", "bf16", "fp16"], "*"),
    ("gpt2_64", 2, 20, ["fp32", "bf16", "fp16"], "*"),
    ("llama_64", 2, 20, ["fp32", "bf16", "fp16"], "*"),
    (WIDE, 2, 128, ["fp32", "bf16", "fp16"], "*"),
    # Past 1024 and 2048 keys torch's softmax is another kernel.
    ("bloom_64_2heads", 1, 1025, ["fp32", "bf16"], "*self_attention*"),
    ("bloom_64_2heads", 1, 2049, ["fp32", "bf16"], "*self_attention*"),
]
# Cases of more positions, and the wide model, are too big to be committed.
SMALL_POSITIONS = 24

RUNS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget-s", type=float, default=240)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device")
    Maker(arguments.out, arguments.device, arguments.budget_s).run()


class Maker:
    def __init__(self, out, device, budget):
        self.out, self.device, self.budget = out, device, budget
        self.scratch = out / "scratch"
        self.start = time.monotonic()
        self.threads = torch.get_num_threads()
        self.cases, self.left_out, self.eager = [], [], []
        self.base = None, None

    def run(self):
        with contextlib.suppress(AttributeError):
            transformers.utils.logging.disable_progress_bar()
        if self.device == "cpu":
            # torch's fp32 products on CPU change with the number of threads.
            torch.set_num_threads(1)
        for name, batch, positions, dtypes, include in CASES:
            for dtype in dtypes:
                case = f"{name}_{batch}x{positions}_{dtype}"
                if time.monotonic() - self.start > self.budget:
                    self.leave_out(case, f"the budget of {self.budget:.0f} s is used up")
                    continue
                try:
                    self.make(case, name, dtype, batch, positions, include)
                except Exception as error:  # One case is not to cost the others.
                    self.leave_out(case, f"{type(error).__name__}: {error}")
        self.write()

    def leave_out(self, case, why):
        self.left_out.append({"case": case, "why": why})
        shutil.rmtree(self.scratch / "dumps" / case, ignore_errors=True)
        self.say(f"{case}: left out, {why}")

    def make(self, case, name, dtype, batch, positions, include):
        start = time.monotonic()
        small = name != WIDE and positions <= SMALL_POSITIONS
        model = self.model(name, dtype).to(self.device)
        folder = (self.out if small else self.scratch) / "models" / f"{name}_{dtype}"
        if not folder.exists():
            model.save_pretrained(folder)
        tokens = random_tokens(case.rsplit("_", 1)[0], batch, positions, model.config.vocab_size)
        tokens = tokens.to(self.device)
        dumps = [self.scratch / "dumps" / case, *(self.scratch / f"again{run}" for run in range(1, RUNS))]
        for dump_folder in dumps:
            dump(model, tokens, dump_folder, include)
        equal = all(same(dumps[0], other) for other in dumps[1:])
        for other in dumps[1:]:
            shutil.rmtree(other)
        add(dumps[0] / "dump.json", {
            "run_to_run_equal": equal,
            "runs": RUNS,
            # As torch's device computes them: pow is not the same function everywhere.
            "alibi_slopes": slopes(model, self.device),
        })
        size = sum(file.stat().st_size for file in dumps[0].iterdir())
        self.cases.append({
            "case": case, "model": name, "dtype": dtype, "batch": batch, "positions": positions,
            "small": small, "run_to_run_equal": equal, "bytes": size,
            "model_folder": str(folder.relative_to(self.out)),
            "golden": str(((self.out if small else self.scratch) / "goldens" / case).relative_to(self.out)),
            "seconds": round(time.monotonic() - start, 2),
        })
        self.say(f"{case}: {size / 1e6:.1f} MB, {RUNS} runs "
                 + ("equal" if equal else "DIFFER: torch itself is not exact from run to run"))
        if name == WIDE:
            self.eager.append({"case": case, **self.timed(model, tokens)})

    def model(self, name, dtype):
        """A copy of the model in this type; the weights of the last model are kept."""
        if self.base[0] != name:
            self.base = name, random_model(config_of(name))
        model = copy.deepcopy(self.base[1]).to(DTYPES[dtype])
        for module, original in zip(model.modules(), self.base[1].modules()):
            # As from_pretrained loads a model: frequencies stay in fp32 whatever its type.
            if hasattr(original, "inv_freq"):
                module.inv_freq = original.inv_freq.clone()
        return model

    def timed(self, model, tokens):
        """Times of a forward with nothing recorded, as eager torch runs it."""
        on_gpu = self.device == "cuda"
        warm, runs = (5, 20) if on_gpu else (1, 3)
        torch.set_num_threads(self.threads)
        times = []
        with torch.no_grad():
            for run in range(warm + runs):
                if on_gpu:
                    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    begin.record()
                    model(tokens, use_cache=False)
                    end.record()
                    torch.cuda.synchronize()
                    elapsed = begin.elapsed_time(end)
                else:
                    began = time.perf_counter()
                    model(tokens, use_cache=False)
                    elapsed = (time.perf_counter() - began) * 1e3
                if run >= warm:
                    times.append(elapsed)
        if not on_gpu:
            torch.set_num_threads(1)
        return {"median_ms": statistics.median(times), "min_ms": min(times), "runs": runs}

    def write(self):
        folders = cuda_libraries() if self.device == "cuda" else []
        summary = {
            "device": self.device,
            "torch": torch.__version__,
            "torch_git": torch.version.git_version,
            "cuda": torch.version.cuda,
            "transformers": transformers.__version__,
            "gpu": parity_dump.gpu() if self.device == "cuda" else None,
            "cuda_libs": folders,
            "seconds": round(time.monotonic() - self.start, 1),
            "cases": self.cases,
            "left_out": self.left_out,
            "eager": self.eager,
        }
        (self.out / "cases.json").write_text(json.dumps(summary, indent=1) + "\n")
        lines = [f"{case['case']}\t{case['model_folder']}\t{case['golden']}\n" for case in self.cases]
        (self.scratch / "cases.tsv").write_text("".join(lines))
        (self.scratch / "cuda_libs").write_text(":".join(folders) + "\n")

    def say(self, text):
        print(f"[{time.monotonic() - self.start:6.1f} s] {text}", flush=True)


def dump(model, tokens, folder, include):
    with torch.no_grad(), parity_dump.capture(model, folder, include=include) as recorder:
        with scores_kept(model, recorder):
            model(tokens, use_cache=False)


@contextlib.contextmanager
def scores_kept(model, recorder):
    """Records the scores, which transformers has in no module: what baddbmm makes of ALiBi."""
    if model.config.model_type != "bloom":
        # There attention is a function of its own, and parity_dump records what it computes.
        yield
        return
    heads = model.config.n_head
    blocks = (name for name, _ in model.named_modules() if name.endswith(".self_attention"))
    product = torch.Tensor.baddbmm

    def kept(self, *args, **kwargs):
        scores = product(self, *args, **kwargs)
        recorder.keep(f"{next(blocks)}.scores", scores.view(-1, heads, *scores.shape[1:]))
        return scores

    torch.Tensor.baddbmm = kept
    try:
        yield
    finally:
        torch.Tensor.baddbmm = product


def same(folder, other):
    names = [file.name for file in folder.glob("*.npy")]
    _, different, missing = filecmp.cmpfiles(folder, other, names, shallow=False)
    return not different and not missing


def add(path, entries):
    """More keys for a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}, indent=1))


def config_of(name):
    ends = {"use_cache": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    if name in GPT2:
        return transformers.GPT2Config(
            **GPT2[name], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ends)
    if name in LLAMA:
        return transformers.LlamaConfig(**LLAMA[name], **ends)
    return transformers.BloomConfig(
        **MODELS[name], hidden_dropout=0.0, attention_dropout=0.0, **ends)


def random_model(config):
    # The implementation whose stages are the plan's; others fuse them.
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random_parameter(name, parameter.shape))
    return model


def random_parameter(name, shape):
    """Trained models' order of magnitude; nothing is 0 or 1, so that nothing can be left out."""
    values = random_values(name, shape)
    module = name.split(".")[-2]
    if name.endswith(".bias"):
        return 0.1 * values
    if "norm" in module or module.startswith("ln_"):
        return 1 + 0.1 * values
    if module in ("word_embeddings", "wte", "wpe", "embed_tokens"):
        return 0.05 * values
    return 0.7 * shape[-1] ** -0.5 * values


def random_values(name, shape):
    """Nearly normal: the sum of four even ones, of integers as long as can be. The bits of randn
    depend on the processor's vector instructions."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.empty(tuple(shape))
    # In pieces that stay in the processor's cache.
    for piece in values.view(-1).split(1 << 17):
        bits = torch.randint(0, 1 << 60, piece.shape, generator=generator, dtype=torch.int64)
        total = sum((bits >> shift & 0x7FFF) for shift in (0, 15, 30, 45))
        piece.copy_(total - 2 * 32767)
    deviation = 32768 * (4 / 12) ** 0.5
    return values * (1 / deviation)


def random_tokens(name, batch, positions, vocabulary):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randint(0, vocabulary, (batch, positions), generator=generator, dtype=torch.int64)


def slopes(model, device):
    """ALiBi's slopes in fp32, as numbers that fp32 holds exactly."""
    with contextlib.suppress(Exception):
        heads = model.config.n_head
        mask = torch.ones(1, 2, device=device)
        alibi = model.transformer.build_alibi_tensor(mask, heads, torch.float32)
        return alibi[:, 0, 1].tolist()
    return None


def cuda_libraries():
    """Folders of the libcublas, libcublasLt and libnvrtc that torch uses."""
    folders = []
    for name in ("libcublas.so", "libcublasLt.so", "libnvrtc.so"):
        path = parity_dump.loaded_library(name) or installed_library(name, folders)
        if path and os.path.dirname(path) not in folders:
            folders.append(os.path.dirname(path))
    return folders


def installed_library(name, folders):
    """A library that torch loads only when it needs it, as it does libnvrtc."""
    packages = [os.path.join(path, "nvidia") for path in sys.path]
    patterns = [os.path.join(folder, name + "*") for folder in folders]
    patterns += [os.path.join(package, "*", "lib", name + "*") for package in packages]
    patterns += [os.path.join(os.path.dirname(torch.__file__), "lib", name + "*")]
    patterns += [os.path.join(sys.prefix, "lib", name + "*")]
    return next((path for pattern in patterns for path in sorted(glob.glob(pattern))), None)


if __name__ == "__main__":
    main()
