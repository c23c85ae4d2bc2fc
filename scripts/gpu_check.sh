#!/usr/bin/env bash
# Builds, tests, times and watches fastopt on a machine with a GPU, without a network:
#
#     scripts/gpu_check.sh                  everything
#     scripts/gpu_check.sh first            half of it, in TOTAL seconds at most (default 400): what matters most
#     scripts/gpu_check.sh second           the other half, likewise
#     scripts/gpu_check.sh SECTION ...      some sections: see FIRST and SECOND below
#     scripts/gpu_check.sh prebuild         only compiles, also where there is no GPU
#
# It needs python with torch, scikit-build-core, pybind11, pytest, hypothesis and rich, nvcc, cmake and ninja. If a
# section fails, the others still run, and the exit status is 1. A tool that is missing or refuses the GPU is a skip.
# Results go to $OUT (default gpu_check/ here): summary.md gets a row when a section ends, log.txt and the bench's
# figures grow meanwhile, so that nothing is lost if this script is killed. The build is in build/gpu_check/site, which
# may be brought from another machine. It is made anew if it is of other sources or cannot be imported. No setting of
# the GPU is changed.
#
# PYTHON: the interpreter (default python3). LIMIT_BUILD, LIMIT_SMOKE, ...: seconds after which a section reports what
# it has found. SHORT: how many cases the first bench has; the second begins after them. CUDAARCHS: the architectures to build for, such as "90-real". COMMIT: the commit to report if there is
# no git.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

FIRST=(build smoke short test memcheck racecheck)
SECOND=(build bench ncu synccheck initcheck cpu)
declare -A LIMITS=(
    [prebuild]=900 [build]=120 [smoke]=60 [short]=60 [test]=110 [memcheck]=60 [racecheck]=50
    [bench]=180 [ncu]=50 [synccheck]=30 [initcheck]=40 [cpu]=50
)
GRACE=${GRACE:-10} # seconds that a section has to end, after its time is over
LEAST=5           # seconds that are worth starting a section for
SHORT=${SHORT:-24} # cases of the bench that are measured first: some of every family and type
SKIPPED=77         # the status of a section whose tool is missing
BUILD=$PWD/build/gpu_check

export PYTHON=${PYTHON:-python3} OUT=${OUT:-gpu_check} PYTHONPATH=$BUILD/site PYTHONUNBUFFERED=1

sources() { # a number for all that the build is made of
    find csrc cmake python/fastopt CMakeLists.txt pyproject.toml -type f ! -name '*.so' ! -name '*.pyc' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}

prebuild() {
    rm -rf "$BUILD/site"
    "$PYTHON" -m pip install . --no-build-isolation --no-deps --no-index --disable-pip-version-check \
        --upgrade --target "$BUILD/site" -C build-dir="$BUILD/cmake" -C cmake.define.FASTOPT_CUDA=ON &&
        sources >"$BUILD/site/sources"
}

build() {
    if [[ ! -f $BUILD/site/sources ]]; then
        echo "nothing was built before"
    elif [[ $(sources) != "$(<"$BUILD/site/sources")" ]]; then
        echo "what was built before is of other sources"
    elif "$PYTHON" -c 'from fastopt import _core; print(_core.built())'; then
        echo "built before"
        return
    fi
    prebuild && "$PYTHON" -c 'from fastopt import _core; print(_core.built())'
}

needs_gpu() {
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && return
    echo "torch finds no GPU"
    return 1
}

# The self-test says which driver and GPU there are; the other one runs every kernel.
smoke() {
    needs_gpu || return
    local status=0
    "$PYTHON" -m fastopt || status=1
    "$PYTHON" scripts/gpu_smoke.py || status=1
    return "$status"
}

run_pytest() {
    local pytest=("$PYTHON" -m pytest -q)
    "$PYTHON" -c 'import xdist' && pytest+=(-n 8)
    "${pytest[@]}" "$@"
}

# Tests of the CPU that a build with CUDA, another compiler or another torch might break.
CPU_TESTS=(
    tests/optim/test_bits.py tests/optim/test_fuzz.py tests/optim/test_reference.py tests/optim/test_program.py tests/tooling/test_runtime.py
    tests/dropout/test_dropout_mask.py tests/dropout/test_dropout_bits.py tests/batch_norm/test_batch_norm_bits.py
    tests/tooling/test_bench.py
)

# Runs a tool, $1, which may be missing or refuse this GPU: drivers, containers and sandboxes do.
REFUSALS='^==.*(Device not supported|ERR_NVGPUCTRPERM|LibraryNotLoaded|Failed to initialize the profiler)'
with_tool() {
    needs_gpu || return
    if ! command -v "$1"; then
        echo "there is no $1"
        return "$SKIPPED"
    fi
    local status said=$BUILD/said
    "$@" 2>&1 | tee "$said"
    status=${PIPESTATUS[0]}
    if grep -Eq "$REFUSALS" "$said"; then
        echo "refused: $(grep -Em1 "$REFUSALS" "$said")"
        return "$SKIPPED"
    fi
    return "$status"
}

# Without torch's allocator, every tensor is a separate allocation, so that an access outside is seen. A search for
# uninitialised memory has to watch torch's kernels as well, because they initialise some. $2 ...: families.
sanitize() {
    local options=(--tool "$1" --error-exitcode 9)
    [[ $1 == memcheck ]] && options+=(--report-api-errors no)
    [[ $1 == initcheck ]] || options+=(--kernel-name kernel_substring=fastopt)
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 with_tool compute-sanitizer "${options[@]}" "$PYTHON" scripts/gpu_smoke.py "${@:2}"
}

profile() {
    local names
    names=$("$PYTHON" scripts/gpu_kernels.py --names) || return
    with_tool ncu --clock-control none --set basic --profile-from-start off --kernel-name "regex:^($names)\$" \
        "$PYTHON" scripts/gpu_kernels.py
}

measure() { # $1: the section, $2 ...: options
    needs_gpu || return
    "$PYTHON" -m bench --device cuda --json "$OUT/$1.json" --markdown "$BUILD/$1.md" "${@:2}"
}

run_section() {
    case $1 in
    prebuild) prebuild ;;
    build) build ;;
    smoke) smoke ;;
    short) measure short --part ":$SHORT" --seconds 0.2 ;;
    test) needs_gpu && FASTOPT_TEST_CUDA=1 run_pytest tests/cuda ;;
    racecheck) sanitize racecheck factored_rules scaled_rules cautious norms dropouts batch_norms ;; # with shared memory
    memcheck | synccheck | initcheck) sanitize "$1" ;;
    bench) measure bench --part "$SHORT:" --seconds 0.3 ;;
    ncu) profile ;;
    cpu) run_pytest "${CPU_TESTS[@]}" ;;
    esac
}

if [[ ${1:-} == --run ]]; then # one section, in a separate process with a time limit
    run_section "$2"
    exit
fi

case ${1:-} in
'') chosen=("${FIRST[@]}" "${SECOND[@]:1}") ;; # one build is enough
first) chosen=("${FIRST[@]}") TOTAL=${TOTAL:-400} ;;
second) chosen=("${SECOND[@]}") TOTAL=${TOTAL:-400} ;;
*) chosen=("$@") ;;
esac
for section in "${chosen[@]}"; do
    if [[ -z ${LIMITS[$section]:-} ]]; then
        echo "gpu_check.sh: no section '$section'; there are: first (${FIRST[*]}), second (${SECOND[*]}), prebuild" >&2
        exit 2
    fi
done

mkdir -p "$OUT" "$BUILD"
rm -f "$OUT"/{short,bench}.json "$OUT/tables.md" "$BUILD"/{short,bench}.md
gpu=$(timeout 10 nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
commit=${COMMIT:-$(git describe --always --dirty 2>/dev/null)}
printf '%s\n' "fastopt ${commit:-of an unknown commit}, GPU: ${gpu:-none}" "" \
    "| section | result | s | last line |" "| --- | --- | --: | --- |" >"$OUT/summary.md"
: >"$OUT/log.txt"

# The tables of a bench that was interrupted are made of the figures that it has left.
keep_tables() {
    local figures=$OUT/$1.json tables=$BUILD/$1.md
    [[ -f $figures && ! -f $tables ]] && timeout 30 "$PYTHON" -m bench --read "$figures" --markdown "$tables" >/dev/null
    [[ -f $tables ]] && cat "$tables" >>"$OUT/tables.md"
}

failed=0
for section in "${chosen[@]}"; do
    limit=LIMIT_${section^^}
    limit=${!limit:-${LIMITS[$section]}}
    if [[ ${TOTAL:-} ]] && ((limit > TOTAL - SECONDS - GRACE)); then
        limit=$((TOTAL - SECONDS - GRACE))
    fi
    started=$SECONDS
    said=$(($(stat -c %s "$OUT/log.txt") + 1))
    echo "$section: at most $limit s" | tee -a "$OUT/log.txt"
    if ((limit < LEAST)); then
        echo "no time is left of $TOTAL s" >>"$OUT/log.txt"
        result="not run" failed=1
    else
        # SIGINT lets pytest and the bench report what they have.
        timeout --signal INT --kill-after "$GRACE" "$limit" scripts/gpu_check.sh --run "$section" >>"$OUT/log.txt" 2>&1
        case $? in
        0) result=passed ;;
        "$SKIPPED") result=skipped ;;
        124 | 137) result="out of time" failed=1 ;;
        *) result=failed failed=1 ;;
        esac
    fi
    last=$(tail -c "+$said" "$OUT/log.txt" | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c -200)
    echo "| $section | $result | $((SECONDS - started)) | ${last//|/ } |" | tee -a "$OUT/summary.md"
    [[ $result == passed ]] || tail -c "+$said" "$OUT/log.txt" | tail -n 30
    keep_tables "$section"
done

echo
[[ -f $OUT/tables.md ]] && cat "$OUT/tables.md"
cat "$OUT/summary.md"
exit "$failed"
