#!/usr/bin/env bash
# Is `parity` exact with torch on this machine's GPU?
#
#   scripts/gpu_check.sh [--cpu] [--keep] [OUT]
#
# Makes goldens with torch (scripts/make_gpu_goldens.py), runs `parity diff --device cuda` on each
# with the CUDA libraries that torch loaded, and prints stage × type: exact, or how far apart; then
# speed against eager torch. Needs a CUDA GPU, and python3 with torch and transformers; no network.
# Takes less than 10 minutes.
#
#   --cpu    torch and parity on this machine's processors: a test of this script. No stage has
#            to be exact there; they are held to their rounding budgets
#   --keep   leave the large models and goldens in OUT/scratch
#   OUT      target/gpu_check if not given; what an earlier run left there is replaced
#
# In OUT: check.json, table.md, cases.json, doctor.txt, report-<case>.json, and goldens/ and models/
# that are small enough to be committed.
#
# Variables: PARITY (the program), PYTHON (python3), BUDGET_S (570 seconds).
#
# Exit codes: 0 all as it must be, 1 a stage differs, 2 an error, a case that was not run, or one that
# was held to tolerances because torch or the libraries are others than parity can be exact with.
set -euo pipefail

fail() {
    echo "gpu_check: $*" >&2
    exit 2
}

device=cuda
keep=false
out=
for argument in "$@"; do
    case $argument in
        --cpu) device=cpu ;;
        --keep) keep=true ;;
        -h | --help)
            sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        -*) fail "$argument is no option: see --help" ;;
        *)
            [[ -z $out ]] || fail "one OUT at most, not $out and $argument"
            out=$argument
            ;;
    esac
done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${out:-$root/target/gpu_check}
python=${PYTHON:-python3}
budget=${BUDGET_S:-570}
# Nothing here is on a hub, and asking it would need a network.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONUNBUFFERED=1

parity=${PARITY:-}
if [[ -z $parity ]]; then
    target=${CARGO_TARGET_DIR:-$root/target}
    parity=$target/release/parity
    command -v cargo > /dev/null || fail "there is no cargo to build parity: name the program in PARITY"
    echo "building parity (not counted in the time)"
    (cd "$root" && cargo build --release --locked) || fail "parity does not build"
fi
"$parity" --version > /dev/null 2>&1 || fail "$parity does not run"
"$python" -c 'import torch, transformers, numpy' ||
    fail "$python lacks torch, transformers or numpy: name another in PYTHON"
if [[ $device == cuda ]]; then
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        fail "torch finds no CUDA device (--cpu tests this script without one)"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null ||
        echo "nvidia-smi is not here"
fi

SECONDS=0
timed() {
    printf '\n== %s (%d s of %d)\n' "$1" "$SECONDS" "$budget"
}

# Only what this script writes is removed: OUT may be any folder.
mkdir -p "$out"
rm -rf "$out"/{scratch,goldens,models} "$out"/{check.json,table.md,cases.json,doctor.txt} "$out"/report-*.json
cleanup() {
    if ! $keep; then rm -rf "$out/scratch"; fi
}
trap cleanup EXIT
mkdir -p "$out"/{scratch,goldens}
scratch=$out/scratch

timed "goldens with torch"
"$python" "$root/scripts/make_gpu_goldens.py" "$out" --device "$device" \
    --budget-s $((budget * 2 / 5)) || fail "making the goldens failed"

# All of them first: what torch computed is kept, whatever becomes of the comparisons.
timed "import"
while IFS=$'\t' read -r name _ golden; do
    mkdir -p "$(dirname "$out/$golden")"
    "$parity" import "$scratch/dumps/$name" --output "$out/$golden" > "$scratch/$name.log" 2>&1 || {
        echo "$name: cannot be imported"
        tail -n 5 "$scratch/$name.log" | sed 's/^/    /'
    }
    rm -rf "${scratch:?}/dumps/$name"
done < "$scratch/cases.tsv"

timed "parity on $device"
on=(--device "$device")
if [[ $device == cuda ]]; then
    libraries=$(< "$scratch/cuda_libs")
    echo "CUDA libraries: $libraries"
    on+=(--cuda-libs "$libraries")
fi
while IFS=$'\t' read -r name model golden; do
    [[ -d $out/$golden ]] || continue
    # The table takes seconds.
    left=$((budget - SECONDS - 10))
    # One that hangs is not to cost the others.
    limit=$((left < 120 ? left : 120))
    log=$scratch/$name.log
    status=124
    began=$EPOCHREALTIME
    if ((left > 0)); then
        status=0
        timeout "$limit" "$parity" diff "${on[@]}" --golden "$out/$golden" --model "$out/$model" \
            --mode both --output "json=$out/report-$name.json" > "$log" 2>&1 || status=$?
    fi
    printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$began" "$EPOCHREALTIME" >> "$scratch/runs.tsv"
    case $status in
        0) echo "$name: pass" ;;
        1) echo "$name: DIFFERS" ;;
        124) echo "$name: not run to its end, out of time" ;;
        *)
            echo "$name: error, exit code $status"
            tail -n 5 "$log" | sed 's/^/    /'
            ;;
    esac
done < "$scratch/cases.tsv"

timed "what this machine has"
"$parity" doctor "${on[@]:2}" > "$out/doctor.txt" 2>&1 || true
cat "$out/doctor.txt"

timed "result"
status=0
"$python" "$root/scripts/gpu_check_table.py" "$out" "$("$parity" --version)" || status=$?
cleanup
echo
echo "$out: $(du -sh "$out" | cut -f1), of it goldens and models to commit" \
    "$(du -shc "$out/goldens" "$out/models" | tail -n 1 | cut -f1); $SECONDS s"
exit "$status"
