#!/usr/bin/env bash
# Builds, tests, watches and times fastopt on a machine with a GPU, without a network:
#
#     scripts/gpu_check.sh [build] [test] [sanitize] [bench]      all of them by default, in this order
#
# It needs python with torch, scikit-build-core, pybind11, pytest, hypothesis and rich, nvcc, cmake and ninja. If a
# section fails, the others still run, and the exit status is 1. Logs and figures go to $OUT (default
# gpu_check/ here), the build to build/gpu_check/, where a later call finds it. No setting of the GPU is changed.
#
# PYTHON: the interpreter (default python3). LIMIT_BUILD, LIMIT_TEST, LIMIT_SANITIZE, LIMIT_BENCH: seconds, after
# which a section reports what it has found. CUDAARCHS: the architectures to build for, such as "90". COMMIT: the commit
# to report if there is no git.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

SECTIONS=(build test sanitize bench)
declare -A LIMITS=(
    [build]=${LIMIT_BUILD:-120} [test]=${LIMIT_TEST:-150} [sanitize]=${LIMIT_SANITIZE:-120} [bench]=${LIMIT_BENCH:-200}
)
SKIPPED=77 # the status of a section whose tool is missing
BUILD=$PWD/build/gpu_check

export PYTHON=${PYTHON:-python3} OUT=${OUT:-gpu_check} PYTHONPATH=$BUILD/site PYTHONUNBUFFERED=1

build() {
    "$PYTHON" -m pip install . --no-build-isolation --no-deps --no-index --disable-pip-version-check \
        --upgrade --target "$BUILD/site" -C build-dir="$BUILD/cmake" -C cmake.define.FASTOPT_CUDA=ON || return
    "$PYTHON" -m fastopt
}

needs_gpu() {
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && return
    echo "torch finds no GPU"
    return 1
}

# After the tests on the device, tests of the CPU that a build with CUDA, another compiler or another torch might break.
CPU_TESTS=(
    tests/optim/test_bits.py tests/optim/test_fuzz.py tests/optim/test_reference.py tests/optim/test_program.py tests/tooling/test_runtime.py
    tests/dropout/test_dropout_mask.py tests/dropout/test_dropout_bits.py tests/batch_norm/test_batch_norm_bits.py
    tests/tooling/test_cuda_static.py tests/tooling/test_cuda_build.py tests/tooling/test_bench.py
)
run_tests() {
    needs_gpu || return
    local status=0 pytest=("$PYTHON" -m pytest -q)
    "$PYTHON" -c 'import xdist' && pytest+=(-n 8)
    FASTOPT_TEST_CUDA=1 "${pytest[@]}" tests/cuda || status=1
    "${pytest[@]}" "${CPU_TESTS[@]}" || status=1
    return "$status"
}

# Without torch's allocator, every tensor is a separate allocation, so that an access outside is seen. A search for
# uninitialised memory has to watch torch's kernels as well, because they initialise some.
sanitize() {
    needs_gpu || return
    if ! command -v compute-sanitizer; then
        echo "there is no compute-sanitizer"
        return "$SKIPPED"
    fi
    local status=0 tool options
    for tool in memcheck racecheck synccheck initcheck; do
        options=(--tool "$tool" --error-exitcode 9)
        [[ $tool == memcheck ]] && options+=(--report-api-errors no)
        [[ $tool == initcheck ]] || options+=(--kernel-name kernel_substring=fastopt)
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer "${options[@]}" "$PYTHON" scripts/gpu_smoke.py || status=1
    done
    return "$status"
}

bench() {
    needs_gpu || return
    "$PYTHON" -m bench --device cuda --json "$OUT/bench.json" --markdown "$OUT/bench.md"
}

if [[ ${1:-} == --run ]]; then # one section, in a separate process with a time limit
    case $2 in
    build) build ;;
    test) run_tests ;;
    sanitize) sanitize ;;
    bench) bench ;;
    esac
    exit
fi

chosen=("$@")
[[ $# -gt 0 ]] || chosen=("${SECTIONS[@]}")
for section in "${chosen[@]}"; do
    if [[ " ${SECTIONS[*]} " != *" $section "* ]]; then
        echo "gpu_check.sh: no section '$section'; there are: ${SECTIONS[*]}" >&2
        exit 2
    fi
done

mkdir -p "$OUT" "$BUILD"
rm -f "$OUT/bench.md"
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
commit=${COMMIT:-$(git describe --always --dirty 2>/dev/null)}
failed=0
rows=()
for section in "${chosen[@]}"; do
    log=$OUT/$section.log
    echo "$section: $log, at most ${LIMITS[$section]} s"
    started=$SECONDS
    # SIGINT lets pytest and the bench report what they have.
    timeout --signal INT --kill-after 20 "${LIMITS[$section]}" scripts/gpu_check.sh --run "$section" >"$log" 2>&1
    case $? in
    0) result=passed ;;
    "$SKIPPED") result=skipped ;;
    124 | 137) result="out of time" failed=1 ;;
    *) result=failed failed=1 ;;
    esac
    [[ $result == passed ]] || tail -n 30 "$log"
    rows+=("| $section | $result | $((SECONDS - started)) | $(grep -v '^[[:space:]]*$' "$log" | tail -n 1) |")
done

{
    if [[ -f $OUT/bench.md ]]; then
        cat "$OUT/bench.md"
        echo
    fi
    echo "fastopt ${commit:-of an unknown commit}, GPU: ${gpu:-none}"
    echo
    printf '%s\n' "| section | result | s | last line |" "| --- | --- | --: | --- |" "${rows[@]}"
} | tee "$OUT/summary.md"
exit "$failed"
