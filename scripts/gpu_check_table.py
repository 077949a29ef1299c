#!/usr/bin/env python3
"""Makes table.md and check.json of what gpu_check.sh ran, and prints the short of it.

    python3 scripts/gpu_check_table.py OUT [VERSION OF PARITY]

Reads cases.json, report-<case>.json and scratch/runs.tsv in OUT. Standard library only. Exit codes:
0 every case passes, 1 a stage differs, 2 a case was not run or ended with an error.
"""

import json
import re
import sys
from pathlib import Path

MODES = ["isolated", "chained"]
DTYPES = ["fp32", "bf16", "fp16"]


def main(out, version="parity"):
    out = Path(out)
    made = json.loads((out / "cases.json").read_text())
    cases = [with_report(out, case, ran) for case, ran in zip(made["cases"], runs(out, made["cases"]))]
    result = outcome(cases, made["left_out"], made["device"])
    fused = fused_kernels(out)
    lines = document(made, cases, result, version, fused)
    (out / "table.md").write_text("\n".join(lines) + "\n")
    check = {
        "format": 1,
        **result,
        "parity": version,
        **{key: made[key] for key in ("device", "torch", "torch_git", "cuda", "transformers", "gpu")},
        "cases": [{key: value for key, value in case.items() if key != "stages"} for case in cases],
        "left_out": made["left_out"],
        "seconds": {"goldens": made["seconds"],
                    "parity": round(sum(case["process_s"] or 0 for case in cases), 1)},
        "table": tables_as_data(cases),
        "speed": speed(made, cases),
        "fused_kernels": fused,
    }
    (out / "check.json").write_text(json.dumps(check, indent=1) + "\n")
    print("\n".join(lines[: lines.index("## Case by case")]))
    return 2 if result["not_run"] or result["not_held"] else int(result["verdict"] == "fail")


def runs(out, cases):
    """Exit code and seconds of every case's `parity diff`; None for one that was not started."""
    path = out / "scratch/runs.tsv"
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        name, status, began, ended = line.split("\t")
        # bash writes its clock with the locale's decimal sign.
        seconds = float(ended.replace(",", ".")) - float(began.replace(",", "."))
        found[name] = {"exit_code": int(status), "process_s": round(seconds, 3)}
    return [found.get(case["case"], {"exit_code": None, "process_s": None}) for case in cases]


def with_report(out, case, ran):
    path = out / f"report-{case['case']}.json"
    ended = ran["exit_code"] in (0, 1) and path.exists()
    report = json.loads(path.read_text()) if ended else {}
    stages = report.get("stages", [])
    on_gpu = next((entry.get("on_gpu") for entry in report.get("cases", [])), None)
    return {
        **case, **ran,
        "ended": ended,
        "verdict": report.get("verdict"),
        "first_failure": report.get("first_failure"),
        "on_gpu": on_gpu,
        "comparisons": len(stages),
        "exact": sum(is_exact(stage) for stage in stages),
        "failing": sum(stage["verdict"] == "fail" for stage in stages),
        "notes": [note for entry in report.get("cases", []) for note in entry.get("notes", [])],
        "stages": stages,
    }


def outcome(cases, left_out, device):
    ended = [case for case in cases if case["ended"]]
    comparisons, exact = (sum(case[key] for case in ended) for key in ("comparisons", "exact"))
    failed = any(case["verdict"] == "fail" for case in ended)
    return {
        "verdict": "fail" if failed else "pass" if ended else None,
        "comparisons": comparisons,
        "exact": exact,
        "all_exact": bool(ended) and exact == comparisons,
        "not_run": [case["case"] for case in [*cases, *left_out] if not case.get("ended")],
        # Held to tolerances on a GPU: torch or the libraries are others than parity can be exact with.
        "not_held": {case["case"]: case["on_gpu"]["differences"] for case in ended
                     if device != "cpu" and not case["on_gpu"]["held_exactly"]},
        "run_to_run_unequal": [case["case"] for case in cases if not case["run_to_run_equal"]],
    }


def is_exact(stage):
    return stage["unequal"] == 0 and stage["non_finite_disagreements"] == 0


def kind(stage):
    """h.3.mlp.gelu as h.*.mlp.gelu: one row for all blocks."""
    return re.sub(r"^h\.\d+", "h.*", stage)


def cell(stages):
    """What is said of several comparisons as one."""
    if not stages:
        return ""
    if all(map(is_exact, stages)):
        return "exact"
    unequal, elements = (sum(stage[key] for stage in stages) for key in ("unequal", "elements"))
    ulps = [stage["max_ulp"] for stage in stages if stage["max_ulp"] is not None]
    text = f"{max(ulps)} ulp" if ulps else "differs"
    text += f" ({percent(unequal / elements)})" if elements else ""
    if any(stage["non_finite_disagreements"] for stage in stages):
        text += ", NaN or infinite"
    return text + (" FAIL" if any(stage["verdict"] == "fail" for stage in stages) else "")


def percent(share):
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def table(cases):
    """Rows of stage kinds, columns of mode and type, over these cases."""
    columns = [(mode, dtype) for mode in MODES for dtype in DTYPES
               if any(case["dtype"] == dtype for case in cases)]
    cells, kinds = {}, []
    for case in cases:
        for stage in case["stages"]:
            row = kind(stage["stage"])
            if row not in kinds:
                kinds.append(row)
            cells.setdefault((row, stage["mode"], case["dtype"]), []).append(stage)
    rows = [[row, *(cell(cells.get((row, *column), [])) for column in columns)] for row in kinds]
    return ["stage", *(f"{dtype} {mode}" for mode, dtype in columns)], rows


def shape(case):
    return f"{case['model']}, {case['batch']} × {case['positions']}"


def shapes(cases):
    """Cases of one model and size, which differ in type only."""
    groups = {}
    for case in cases:
        groups.setdefault(shape(case), []).append(case)
    return groups


def tables_as_data(cases):
    def data(cases):
        head, rows = table(cases)
        return {row[0]: dict(zip(head[1:], row[1:])) for row in rows}

    return {"all": data(cases), **{name: data(group) for name, group in shapes(cases).items()}}


def fused_kernels(out):
    """What `parity doctor` says of Megatron's fused kernels against torch's; nothing on a CPU."""
    path = out / "doctor.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(None, 1)[1] for line in lines if line.startswith("fused ")]


def speed(made, cases):
    eager = {entry["case"]: entry for entry in made["eager"]}
    return [{
        "case": case["case"],
        "torch_eager_ms": eager[case["case"]]["median_ms"],
        "torch_runs": eager[case["case"]]["runs"],
        # None on a CPU.
        "parity_ms": (case["on_gpu"] or {}).get("elapsed_ms"),
        "parity_process_s": case["process_s"],
    } for case in cases if case["case"] in eager and case["ended"]]


def document(made, cases, result, version, fused):
    """Markdown; the part before the single cases is printed as well."""
    lines = ["# GPU check", "", *machine(made, version), "", *conclusion(result), ""]
    lines += ["## Stage × type", "", "The worst of all cases; `h.*` is all blocks. `N ulp (P %)`: the largest "
              "distance in units in the last place, large near zero, and the share of unequal elements.", ""]
    lines += markdown(*table(cases))
    lines += ["", "## Case × type", "", "Exact comparisons of all; isolated and chained count as two.", ""]
    lines += by_case(cases, made["left_out"])
    lines += ["", "## Speed", "", *speed_lines(made, cases)]
    if fused:
        lines += ["", "## Megatron's fused kernels", "", *[f"* {line}" for line in fused]]
    lines += ["", "## Case by case"]
    for name, group in shapes(cases).items():
        lines += ["", f"### {name}", "", *markdown(*table(group))]
    return lines


def machine(made, version):
    gpu = made["gpu"]
    lines = [f"{version}; torch {made['torch']}, transformers {made['transformers']}."]
    if gpu is None:
        lines.append("On CPU: a test of the script, which says nothing about a GPU. No stage has to be exact "
                     "here; they are held to rounding budgets.")
    else:
        lines.append(f"{gpu['name']}, compute capability {gpu['compute_capability']}, {gpu['multiprocessors']} "
                     f"multiprocessors; driver {gpu['driver']}; cuBLAS {gpu['cublas']}.")
        odd = [f"{key}={value}" for key, value in [*gpu["flags"].items(), *gpu["environment"].items()]]
        lines.append("Flags and variables: " + ", ".join(odd) + ".")
    return lines


def conclusion(result):
    verdict = {"pass": "pass", "fail": "FAIL: stages differ by more than they may", None: "nothing was run"}
    lines = [f"**{verdict[result['verdict']]}**: {result['exact']} of {result['comparisons']} comparisons "
             f"are exact to the bit."]
    if result["not_run"]:
        lines.append(f"Not run to the end: {', '.join(result['not_run'])}.")
    if result["not_held"]:
        reasons = sorted({why for differences in result["not_held"].values() for why in differences})
        lines.append(f"Not held to the bit: {', '.join(result['not_held'])}. Why: {'; '.join(reasons)}.")
    if result["run_to_run_unequal"]:
        lines.append("torch's own results change from run to run in "
                     f"{', '.join(result['run_to_run_unequal'])}: nothing can be exact there.")
    return lines


def by_case(cases, left_out):
    rows = []
    for name, group in shapes(cases).items():
        row = [name]
        for dtype in DTYPES:
            row.append(next((case_cell(case) for case in group if case["dtype"] == dtype), ""))
        rows.append(row)
    reasons = [f"* {case['case']} left out: {case['why']}" for case in left_out]
    return [*markdown(["case", *DTYPES], rows), *([""] if reasons else []), *reasons]


def case_cell(case):
    if not case["ended"]:
        return "not run" if case["exit_code"] in (None, 124) else f"error {case['exit_code']}"
    if case["exact"] == case["comparisons"]:
        return f"exact ({case['exact']})"
    text = f"{case['exact']} of {case['comparisons']}"
    inexact = [stage for stage in case["stages"] if not is_exact(stage)]
    first = next((stage for stage in inexact if stage["mode"] == "isolated"), inexact[0])
    return text + f", first {first['stage']}" + (" FAIL" if case["verdict"] == "fail" else "")


def speed_lines(made, cases):
    rows = []
    for entry in speed(made, cases):
        forward = entry["parity_ms"]
        rows.append([entry["case"], f"{entry['torch_eager_ms']:.2f}",
                     "not reported" if forward is None else f"{forward:.2f}",
                     f"{entry['parity_process_s']:.1f}"])
    if not rows:
        return ["Not measured."]
    head = ["case", "torch eager, ms", "parity, both modes, ms", "parity diff, whole process, s"]
    return ["One forward of torch, nothing recorded (median). parity's time on the GPU is from its first step to its "
            "last comparison: it sends the model and the recorded values up, runs the model isolated and chained, "
            "and compares every stage. The process finds the GPU and reads files besides.",
            "", *markdown(head, rows)]


def markdown(head, rows):
    """A table whose columns line up, so that it can be read on a terminal."""
    if not rows:
        return ["Nothing."]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row):
        return "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |"

    return [line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
