#!/usr/bin/env bash
# Runs every fuzz target, SECONDS in all (30 unless told otherwise):
#
#     fuzz/run.sh [SECONDS]
#
# It needs a nightly compiler. Exit status 0: nothing found. 1: a crash, whose input is in
# fuzz/artifacts. 3: fuzzing was skipped, because the compiler or cargo-fuzz can't be had here.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-30}

skip() {
    echo "FUZZING WAS SKIPPED: $1" >&2
    exit 3
}

if ! cargo +nightly --version >/dev/null 2>&1; then
    command -v rustup >/dev/null || skip "no nightly compiler, and no rustup to install one"
    rustup toolchain install nightly --profile minimal || skip "no nightly compiler can be installed"
fi
fuzz=$(.ci/tool cargo-fuzz) || skip "cargo-fuzz can't be installed"
PATH=$(dirname "$fuzz"):$PATH

mapfile -t targets < <(cargo +nightly fuzz list)
cargo +nightly fuzz build
for target in "${targets[@]}"; do
    corpus=fuzz/corpus/$target
    mkdir -p "$corpus"
    options=(-max_total_time=$((seconds / ${#targets[@]})) -timeout=5 -max_len=8192 -print_final_stats=1)
    [[ ! -f fuzz/$target.dict ]] || options+=("-dict=fuzz/$target.dict")
    # New inputs go to the first folder; the samples are only read.
    echo "=== $target"
    log=$(mktemp)
    if ! cargo +nightly fuzz run "$target" "$corpus" tests/events -- "${options[@]}" >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        rm -f "$log"
        exit 1
    fi
    grep -E '^(Done|stat::number_of_executed_units)' "$log"
    rm -f "$log"
done
