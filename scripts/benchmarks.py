#!/usr/bin/env python3
"""Runs the benches and writes docs/benchmarks.md from criterion's estimates. Standard library only.

    python3 scripts/benchmarks.py            # run and write
    python3 scripts/benchmarks.py budget     # one bench: compare, bloom, budget or convert
    python3 scripts/benchmarks.py --no-run   # write again from the last run
"""

import datetime
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = 1024


def median(*path):
    """Median seconds of one bench."""
    folder = ROOT / "target/criterion"
    for part in path:
        # Criterion replaces what cannot be in a file's name.
        folder = folder / re.sub(r'[?"/\\*<>:|^]', "_", part)
    estimates = json.loads((folder / "new/estimates.json").read_text())
    return estimates["median"]["point_estimate"] * 1e-9


def processor():
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


def comparison():
    group = "compare two 256 MiB fp32 arrays, 2 threads"
    floor, compare = median(group, "read and sum (floor)"), median(group, "compare")
    gib = 0.5
    return [
        "## The comparison",
        "",
        "All metrics of two 256 MiB fp32 arrays in one pass, two threads. The floor reads both arrays once and adds them up.",
        "",
        "| | ms | GiB/s |",
        "|---|---|---|",
        f"| read and sum (floor) | {floor * 1e3:.1f} | {gib / floor:.1f} |",
        f"| compare | {compare * 1e3:.1f} | {gib / compare:.1f} |",
        f"| ratio | **{compare / floor:.2f}** | |",
        "",
    ]


def layers():
    lines = [
        "## BLOOM forward",
        "",
        f"One block at hidden {HIDDEN}, 16 heads: the time of two blocks less that of one, so without embedding and head.",
        "",
        "| dtype | tokens | ms a layer | GFLOP/s |",
        "|---|---|---|---|",
    ]
    for dtype in ["fp32", "bf16"]:
        for tokens in [20, 512]:
            group = f"bloom, hidden {HIDDEN}, {dtype}"
            one, two = (median(group, f"{n} blocks", f"{tokens} tokens") for n in (1, 2))
            # 12 h² weights; scores and context are s² h each; two operations a product.
            work = 2 * (12 * HIDDEN**2 * tokens + 2 * tokens**2 * HIDDEN)
            seconds = two - one
            lines.append(f"| {dtype} | {tokens} | {seconds * 1e3:.1f} | {work / seconds * 1e-9:.0f} |")
    return lines + [""]


def budgets():
    lines = [
        "## Rounding budgets",
        "",
        "Isolated runs of a synthetic BLOOM of 2 blocks at hidden 1024 on 128 tokens, against values of Megatron's arithmetic: every linear layer but one has different rounding points, so that flips need a second product. The floor is the run with a `rel` tolerance.",
        "",
        "| dtype | `rel` ms | `rounding` ms | ratio | with `flips` ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for dtype in ["fp32", "bf16"]:
        group = f"isolated, hidden 1024, {dtype}"
        names = ["rel", "rounding", "rounding and flips"]
        rel, rounding, flips = (median(group, name) * 1e3 for name in names)
        lines.append(
            f"| {dtype} | {rel:.0f} | {rounding:.0f} | **{rounding / rel:.2f}** | {flips:.0f} | {flips / rel:.2f} |"
        )
    group = "explain one linear layer, hidden 4096"
    seconds = [f"{median(group, dtype):.1f} s in {dtype}" for dtype in ["fp32", "bf16"]]
    lines += [
        "",
        f"`parity explain` of one failing linear layer `[12288, 4096]` with its rows in another order: {', '.join(seconds)}.",
        "",
    ]
    return lines


def conversion():
    figures = json.loads((ROOT / "target/convert-bench.json").read_text())
    gigabytes = figures["bytes"] / 1e9
    rows = [
        ("`cp -r`", figures["cp_seconds"]),
        ("`cp -r` and `sync`", figures["cp_and_sync_seconds"]),
        ("`parity convert`", figures["convert_seconds"]),
        ("`parity convert --verify`", figures["convert_and_verify_seconds"]),
    ]
    memory = [
        f"Peak anonymous memory of the conversion: {figures['peak_anonymous_mb']:.1f} MB; the largest tensor has {figures['largest_tensor_bytes'] / 1e6:.0f} MB.",
    ]
    if "transformers_seconds" in figures:
        rows.append(("transformers 4's conversion script, `--shard_model`", figures["transformers_seconds"]))
        memory.append(f"That of transformers' script: {figures['transformers_peak_anonymous_mb']:.0f} MB. It does not sync what it writes.")
    floors = [("`cp`", "cp_seconds"), ("`cp` and `sync`", "cp_and_sync_seconds")]
    return [
        "## Converting a checkpoint",
        "",
        f"A synthetic BLOOM from Megatron-DeepSpeed: {gigabytes:.1f} GB of bf16 in {figures['ranks']} tensor-parallel ranks, hidden {figures['hidden']}, {figures['layers']} layers, in the page cache. Both write to disk: parity syncs every file before it gets its name.",
        "",
        "| | seconds | GB/s |",
        "|---|---|---|",
        *(f"| {name} | {seconds:.2f} | {gigabytes / seconds:.2f} |" for name, seconds in rows),
        *(f"| `parity convert` / {name} | **{figures['convert_seconds'] / figures[key]:.2f}** | |" for name, key in floors),
        "",
        " ".join(memory),
        "",
    ]


SECTIONS = {"compare": comparison, "bloom": layers, "budget": budgets, "convert": conversion}


def main():
    arguments = sys.argv[1:]
    run = "--no-run" not in arguments
    benches = [name for name in SECTIONS if name in arguments] or list(SECTIONS)
    page = ROOT / "docs/benchmarks.md"
    # Sections that are not asked for stay as they are.
    kept = dict(zip(SECTIONS, re.split(r"^(?=## )", page.read_text(), flags=re.M)[1:]))
    if run:
        chosen = [flag for name in benches for flag in ("--bench", name)]
        subprocess.run(["cargo", "bench", "--locked", "--features", "bench", *chosen], cwd=ROOT, check=True)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    head = [
        "# Benchmarks",
        "",
        "Written by `python3 scripts/benchmarks.py`: medians of criterion's samples, release profile of `Cargo.toml`, no flags.",
        "",
        f"{processor()}, {rustc.stdout.strip()}, {datetime.date.today()}. The machine is shared: figures vary by a tenth from run to run; ratios less.",
        "",
    ]
    sections = [
        "\n".join(section()) + "\n" if name in benches else kept[name]
        for name, section in SECTIONS.items()
    ]
    page.write_text("\n".join(head) + "\n" + "".join(sections).rstrip("\n") + "\n")


main()
