"""The build's messages about the C++ compiler, and its use of ccache, if there is one (only CMake runs)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import building

pytestmark = pytest.mark.skipif(building.CMAKE is None, reason="there is no cmake")


def _script(path: Path, code: str) -> Path:
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


def test_no_compiler(tmp_path: Path) -> None:
    done = building.configure(tmp_path, {"CXX": "/nowhere/c++"})
    assert done.status != 0
    assert "fastopt: no working C++ compiler was found (CXX is '/nowhere/c++')." in done.words
    assert "GCC 11, Clang 12 or a later one is needed: install one (Debian, Ubuntu: apt install g++;" in done.words


@pytest.mark.skipif(building.MACHINE != "x86_64", reason="the flag is one of x86-64")
def test_a_compiler_that_is_too_old(tmp_path: Path) -> None:
    """Like GCC 10, it does not know the flags of AVX-512."""
    real = shutil.which("c++")
    old = _script(tmp_path / "old", f'case "$*" in *x86-64-v4*) echo "bad value" >&2; exit 1;; esac\nexec {real} "$@"')
    done = building.configure(tmp_path / "build", {"CXX": str(old)})
    assert done.status != 0
    assert "fastopt: the C++ compiler is too old: " in done.words
    assert f"({old}) does not know -march=x86-64-v4. GCC 11, Clang 12 or a later one is needed." in done.words


def test_headers_have_the_same_place_in_each_build(tmp_path: Path) -> None:
    """pip's folder has another name each time; ccache would take the headers for different files."""
    done = building.configure(tmp_path, FASTOPT_CUDA="OFF")
    assert done.status == 0, done.report
    (command,) = [command for command in done.commands() if command.source.name == "tensor.cpp"]
    first = command.arguments[command.arguments.index("-isystem") + 1]
    assert first == str(tmp_path / "headers")
    assert (tmp_path / "headers" / "pybind11" / "pybind11.h").exists()
    assert f'-DFASTOPT_DLPACK_HEADER="{first}/fastopt_dlpack.h"' in command.arguments
    assert "DLPACK_" in (tmp_path / "headers" / "fastopt_dlpack.h").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ccache", "launcher", "used"),
    [('exec "$@"', None, True), ("exit 1", None, False), ('exec "$@"', "", False)],
    ids=["there", "broken", "not wanted"],
)
def test_ccache(ccache: str, launcher: str | None, used: bool, tmp_path: Path) -> None:
    script = _script(tmp_path / "ccache", ccache)
    environment = {"PATH": f"{tmp_path}:{building.SEARCHED}"}
    done = building.configure(tmp_path / "build", environment, FASTOPT_CUDA="OFF", CMAKE_CXX_COMPILER_LAUNCHER=launcher)
    assert done.status == 0, done.report
    assert (f"fastopt: compiled through {script}" in done.report) == used
    assert (f"fastopt: {script} does not work here" in done.report) == (ccache == "exit 1")
    files = [tmp_path / "build" / "build.ninja", tmp_path / "build" / "CMakeFiles" / "rules.ninja"]
    assert any(f"{script} " in path.read_text() for path in files) == used
