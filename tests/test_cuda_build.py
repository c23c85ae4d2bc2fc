"""FASTOPT_CUDA=AUTO, ON and OFF without nvcc (CMake's first step alone), and what a build without CUDA says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import building
from fastopt import _core, _runtime

# Wherever nvcc may be: CMake asks this variable first.
WITHOUT_NVCC = {"CUDACXX": "/nowhere/nvcc"}
NO_CUDA = building.PROJECT / "csrc" / "cuda" / "no_cuda.cpp"

needs_cmake = pytest.mark.skipif(building.CMAKE is None, reason="there is no cmake")


@needs_cmake
@pytest.mark.parametrize(("choice", "reason"), [("AUTO", building.NO_NVCC), ("OFF", "FASTOPT_CUDA=OFF")])
def test_a_build_without_cuda_says_so(choice: str, reason: str, tmp_path: Path) -> None:
    done = building.configure(tmp_path, WITHOUT_NVCC, FASTOPT_CUDA=choice)
    assert done.status == 0, done.report
    assert f"fastopt: without CUDA ({reason}" in done.report
    sources = [command.source for command in done.commands()]
    assert NO_CUDA in sources
    assert not [source for source in sources if source.suffix == ".cu"]


@needs_cmake
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
@pytest.mark.parametrize(
    ("choice", "reason"), [("AUTO", "nvcc was found; for a torch without"), ("ON", "FASTOPT_CUDA=ON)")]
)
def test_a_build_with_cuda_says_why(choice: str, reason: str, tmp_path: Path) -> None:
    done = building.configure(tmp_path, FASTOPT_CUDA=choice)
    assert done.status == 0, done.report
    assert re.search(rf"fastopt: with CUDA \S+ for .* \({re.escape(reason)}", done.report)


@needs_cmake
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("ON", f"FASTOPT_CUDA=ON, but {building.NO_NVCC}: set CUDACXX"),
        ("yes", "FASTOPT_CUDA is 'yes': AUTO, ON and OFF"),
    ],
)
def test_what_cannot_be_had_is_an_error(choice: str, message: str, tmp_path: Path) -> None:
    done = building.configure(tmp_path, WITHOUT_NVCC, FASTOPT_CUDA=choice)
    assert done.status != 0
    assert message in " ".join(done.report.split())


PROGRAM = """
#include <cstdio>
#include <stdexcept>
#include "cuda/engine.h"
using namespace fastopt;
int main() {
    std::string why;
    const int devices = cuda::device_count(why);
    std::printf("'%s' %d %s\\n", cuda::built().c_str(), devices, why.c_str());
    try { cuda::update({}, 0, nullptr, 0); } catch (const std::runtime_error& error) { std::puts(error.what()); }
}
"""


def test_the_absence_of_cuda(tmp_path: Path) -> None:
    """no_cuda.cpp by itself: nothing is built, no device is there, and whoever asks all the same gets an error."""
    (tmp_path / "main.cpp").write_text(PROGRAM)
    sources = [str(tmp_path / "main.cpp"), str(NO_CUDA)]
    program = str(tmp_path / "program")
    subprocess.run(["c++", "-std=c++17", f"-I{building.PROJECT / 'csrc'}", "-o", program, *sources], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed == ["'' 0 built without CUDA", "fastopt was built without CUDA"]


DRIVERS = """
#include <cstdio>
#include "cuda/engine.h"
extern "C" void emulator_set_devices(int count, int driver);
int main() {
    for (const int driver : {-1, 0, 11080}) {
        emulator_set_devices(2, driver);
        std::string why;
        const int devices = fastopt::cuda::device_count(why);
        std::printf("%d %s\\n", devices, why.c_str());
    }
}
"""


def test_a_driver_that_is_missing_or_old(tmp_path: Path) -> None:
    """The CUDA runtime calls both "insufficient"."""
    emulator = building.PROJECT / "tests" / "emulator"
    (tmp_path / "main.cpp").write_text(DRIVERS)
    sources = [str(tmp_path / "main.cpp"), str(NO_CUDA.with_name("device.cu")), str(emulator / "emulator.cpp")]
    options = ["-std=c++17", f"-I{building.PROJECT / 'csrc'}", f"-I{emulator}", "-o", str(tmp_path / "program")]
    subprocess.run(["c++", *options, "-x", "c++", *sources], check=True)
    printed = subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=True).stdout
    there, missing, old = printed.splitlines()
    assert (there, missing) == ("2 ", "0 no CUDA driver is installed")
    assert old.startswith("0 the CUDA driver is too old: it supports CUDA 11.8, the kernels need 1")


def test_this_build_knows_what_it_is() -> None:
    devices, why = _core.cuda_devices()
    assert (why == "built without CUDA") == (_core.built()["cuda"] is False)
    assert (devices == 0) == bool(why)
    assert _runtime.info()["built"]["cuda"] == _core.built()["cuda"]


@pytest.mark.parametrize(
    ("built", "torchs", "says"),
    [(False, None, 3), ("13.0 (90)", "13.0", 3), ("13.0 (90)", None, "this torch is built without CUDA")],
)
def test_kernels_that_this_torch_cannot_use(
    built: bool | str, torchs: str | None, says: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build cannot see torch, and goes by nvcc."""
    monkeypatch.setattr(_runtime, "_core", SimpleNamespace(built=lambda: {"cuda": built}, cuda_devices=lambda: (3, "")))
    monkeypatch.setattr(torch.version, "cuda", torchs)
    found = _runtime._gpus()
    assert found == says if isinstance(says, int) else str(found).startswith(says)


def _backend(cuda: bool | str) -> SimpleNamespace:
    return SimpleNamespace(built=lambda: {"cuda": cuda})


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tensor on a device that the backend in use does not reach."""
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(_runtime, "kernels", _backend(False))
    assert "no kernels for CUDA" in _runtime.why_not(gpu)
    assert "pip install" in _runtime.why_not(gpu)
    # Of a checkout: by its name pip would take a wheel, and wheels are built without CUDA.
    assert _runtime.why_not(gpu).endswith(" --config-settings=cmake.define.FASTOPT_CUDA=ON .")
    assert _runtime.why_not(torch.device("cpu")) == ""
    assert "for the CPU and for CUDA" in _runtime.why_not(torch.device("meta"))
    monkeypatch.setattr(_runtime, "kernels", _backend("13.0 (90)"))
    assert _runtime.why_not(gpu) == ""
    monkeypatch.setattr(_runtime, "kernels", _runtime.reference)
    assert "NumPy reference, which is in use, computes on the CPU" in _runtime.why_not(gpu)
