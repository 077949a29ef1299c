#!/usr/bin/env bash
# Whole suites, of which `cargo test` runs samples: every mutation, shape and fault, more draws of every
# property, and the fuzz targets. Writes the tables of docs/ that come from tests: commit what changes.
#
#   scripts/full_check.sh [SECONDS]
#
#   SECONDS  of fuzzing for each target; 10 if not given, none if 0
#
# Fuzzing needs cargo-fuzz and a nightly toolchain; where they are not there it is left out, and said.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}

# Read in tests/common and by proptest.
PARITY_FULL=1 PARITY_UPDATE_DOCS=1 PROPTEST_CASES=512 cargo test --locked

if [ "$seconds" -eq 0 ]; then
    exit
fi
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "full_check: nothing was fuzzed: no cargo-fuzz, or no nightly toolchain" >&2
    exit
fi
for target in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    # What is found goes to the first folder; the corpus that is committed stays as it is.
    found=target/fuzz/$name
    mkdir -p "$found"
    cargo +nightly fuzz run "$name" "$found" "fuzz/corpus/$name" -- -max_total_time="$seconds"
done
