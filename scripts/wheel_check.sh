#!/usr/bin/env bash
# Builds the sdist and a wheel from it like the published ones, and runs its self-test where nothing can compile:
#
#     make wheel
#
# PYTHON: an interpreter with the extra `wheel` of pyproject.toml (default python3); the wheel is for its version. OUT:
# the folder for both (default dist/). Any error ends the script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=$(command -v "${PYTHON:-python3}")
OUT=$(mkdir -p "${OUT:-dist}" && cd "${OUT:-dist}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() { printf '\n== %s\n' "$*"; }
tool() { "$PYTHON" -m "$@"; }

step "sdist, and the wheel from it; build isolation has no torch"
tool build --outdir "$work/built" -C cmake.define.FASTOPT_CUDA=OFF .

step "auditwheel"
tool auditwheel show "$work"/built/*.whl
PATH="$(dirname "$PYTHON"):$PATH" tool auditwheel repair -w "$work/repaired" "$work"/built/*.whl
wheel=$(echo "$work"/repaired/*.whl)

step "contents"
"$PYTHON" scripts/wheel_contents.py "$wheel"

step "an empty environment"
empty="$work/empty"
"$PYTHON" -m venv "$empty"
"$empty/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: -c constraints.txt "$wheel"
"$empty/bin/python" -m pip list --disable-pip-version-check
cd "$work" # out of reach of the checkout
env -i PATH="$empty/bin" python - <<'END'
import shutil
import sys

import fastopt

assert fastopt.__file__.startswith(sys.prefix), fastopt.__file__
tools = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc", "cmake", "ninja", "make")
found = [tool for tool in tools if shutil.which(tool)]
assert not found, f"in reach: {found}"
print("no compiler is in reach")
END
env -i PATH="$empty/bin" FASTOPT_BACKEND=native python -m fastopt

step "passed: $(basename -a "$work"/built/*.tar.gz "$wheel" | paste -sd' ')"
mv "$work"/built/*.tar.gz "$wheel" "$OUT"
