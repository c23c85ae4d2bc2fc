"""FASTOPT_CUDA=AUTO, ON and OFF (CMake's configuration only), and what is said of CUDA, drivers and GPUs."""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import building
from fastopt import _core, _driver, _runtime
from fresh_process import output

pytestmark = pytest.mark.slow

# This hides nvcc wherever it is: CMake reads this variable first.
WITHOUT_NVCC = {"CUDACXX": "/nowhere/nvcc"}
NO_CUDA = building.PROJECT / "csrc" / "cuda" / "no_cuda.cpp"

needs_cmake = pytest.mark.skipif(building.CMAKE is None, reason="there is no cmake")


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")

# pip's build isolation does the same: a file on PYTHONPATH hides the environment's packages from the interpreter.
HIDE_TORCH = """
import os, sys
sys.path[:] = [path for path in sys.path if not os.path.isdir(os.path.join(path, "torch"))]
"""


def _with_torch(folder: Path, cuda: str | None) -> dict[str, str]:
    """An environment with metadata of a torch. That torch cannot be imported, and a build does not import it."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("raise ImportError('was imported')")
    (folder / "torch" / "version.py").write_text(f"__version__ = '9.9.0+local'\ncuda = {cuda!r}\n")
    return {"PYTHONPATH": str(folder)}


def _kernels(done: building.Configured) -> list[Path]:
    return [command.source for command in done.commands() if command.source.suffix == ".cu"]


@needs_cmake
def test_a_build_without_cuda_says_so(tmp_path: Path) -> None:
    done = building.configure(tmp_path, FASTOPT_CUDA="OFF")
    assert done.status == 0, done.report
    assert "fastopt: without CUDA: FASTOPT_CUDA=OFF. It takes about 2 minutes" in done.report
    assert NO_CUDA in [command.source for command in done.commands()]
    assert not _kernels(done)


@needs_cmake
@pytest.mark.parametrize("isolated", [False, True])
def test_auto_asks_the_torch_of_the_environment(isolated: bool, tmp_path: Path) -> None:
    """It asks the torch of this interpreter, even if pip hides it, with or without nvcc."""
    (tmp_path / "sitecustomize.py").write_text(HIDE_TORCH)
    environment = {"PYTHONPATH": str(tmp_path)} if isolated else {}
    done = building.configure(tmp_path / "one", environment | WITHOUT_NVCC, FASTOPT_DLPACK_HEADER=__file__)
    kind = f"a build for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
    assert f"FASTOPT_CUDA=AUTO, and torch {torch.__version__}, which was installed, is {kind}" in done.report


@needs_cmake
def test_auto_without_torch_is_without_cuda(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", symlinks=True)
    python = str(tmp_path / "empty" / "bin" / "python")
    done = building.configure(tmp_path / "build", Python_EXECUTABLE=python, FASTOPT_DLPACK_HEADER=__file__)
    assert done.status == 0, done.report
    reason = "FASTOPT_CUDA=AUTO, and no torch was found where fastopt was built"
    assert f"fastopt: without CUDA: {reason}. " in done.report
    assert done.report.rpartition("With CUDA: ")[2].startswith(f"FASTOPT_CUDA=ON {_runtime.INSTALL_AGAIN}")
    assert reason in (tmp_path / "build" / "compile_commands.json").read_text()  # info() shows it
    assert not _kernels(done)


@needs_cmake
def test_auto_does_without_nvcc(tmp_path: Path) -> None:
    environment = _with_torch(tmp_path, "13.0") | WITHOUT_NVCC
    done = building.configure(tmp_path / "build", environment, FASTOPT_DLPACK_HEADER=__file__)
    assert done.status == 0, done.report
    reason = f"torch 9.9.0+local, which was installed, is a build for CUDA 13.0, but {building.NO_NVCC}"
    assert f"fastopt: without CUDA: FASTOPT_CUDA=AUTO, and {reason}" in done.report
    assert not _kernels(done)


@needs_cmake
@needs_nvcc
@pytest.mark.parametrize(
    ("choice", "cuda", "reason"),
    [
        ("AUTO", "13.0", "FASTOPT_CUDA=AUTO, and torch 9.9.0+local, which was installed, is a build for CUDA 13.0"),
        ("ON", None, "FASTOPT_CUDA=ON"),
    ],
)
def test_with_cuda(choice: str, cuda: str | None, reason: str, tmp_path: Path) -> None:
    environment = _with_torch(tmp_path, cuda)
    done = building.configure(tmp_path / "build", environment, FASTOPT_CUDA=choice, FASTOPT_DLPACK_HEADER=__file__)
    assert done.status == 0, done.report
    assert re.search(rf"fastopt: with CUDA \S+ for 80-real 90: {re.escape(reason)}\. It takes about 4", done.report)
    assert _kernels(done)


@needs_cmake
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("ON", f"FASTOPT_CUDA=ON, but {building.NO_NVCC}: install a CUDA toolkit, or set CUDACXX"),
        ("yes", "FASTOPT_CUDA is 'yes'; it may be AUTO"),
    ],
)
def test_what_cannot_be_had_is_an_error(choice: str, message: str, tmp_path: Path) -> None:
    done = building.configure(tmp_path, WITHOUT_NVCC, FASTOPT_CUDA=choice)
    assert done.status != 0
    assert message in done.words


# Counts a call of cuInit, after which a process that is forked cannot use CUDA.
DRIVER = """
#include <stdio.h>
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { puts("cuInit"); fflush(stdout); return flags ? 1 : 0; }
"""


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch would load a library in the driver's place")
def test_the_driver_is_asked_without_initialising_it(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    command = ["cc", "-DVERSION=12040", "-shared", "-fPIC", "-o", _driver.NAME, "driver.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    code = "import fastopt; fastopt.info(); from fastopt import _driver; print(_driver.version())"
    assert output(code, LD_LIBRARY_PATH=str(tmp_path)) == "12040"


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_driver, "NAME", "libnowhere.so.1")
    assert _driver.version() == 0


@needs_nvcc
def test_what_the_driver_lacks_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "main.cu").write_text(
        f'#include "{building.PROJECT}/csrc/cuda/device.cu"\n#include <cstdio>\n#include <cstdlib>\n'
        "using namespace fastopt::cuda;\n"
        "int main(int, char** words) { std::puts(refusal_of_driver(std::atoi(words[1])).c_str()); }\n"
    )
    command = ["nvcc", "-std=c++17", f"-I{building.PROJECT}/csrc", "-o", "program", "main.cu"]
    subprocess.run(command, cwd=tmp_path, check=True)

    def why(driver: int) -> str:
        done = subprocess.run(["./program", str(driver)], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert "no NVIDIA driver was found" in why(0)
    assert re.match(r"the NVIDIA driver is one of CUDA 11\.4, and fastopt was .* which needs one of CUDA ", why(11040))
    assert why(99000) == ""


PROGRAM = """
#include <cstdio>
#include <stdexcept>
#include "cuda/engine.h"
using namespace fastopt;
int main() {
    const std::string built = cuda::built() + cuda::oldest_driver();
    std::printf("'%s' %s\\n", built.c_str(), cuda::refusal_of_driver(13000).c_str());
    try { cuda::update({}, 0, nullptr, 0); } catch (const std::runtime_error& error) { std::puts(error.what()); }
}
"""


def test_the_absence_of_cuda(tmp_path: Path) -> None:
    """Compiles no_cuda.cpp by itself: nothing is built, every driver is refused, and a call raises an error."""
    (tmp_path / "main.cpp").write_text(PROGRAM)
    sources = [str(tmp_path / "main.cpp"), str(NO_CUDA)]
    program = str(tmp_path / "program")
    subprocess.run(["c++", "-std=c++17", f"-I{building.PROJECT / 'csrc'}", "-o", program, *sources], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed == ["'' built without CUDA", "fastopt was built without CUDA"]


def test_this_build_knows_what_it_is() -> None:
    assert (_core.refusal_of_driver(99000) == "built without CUDA") == (_core.built()["cuda"] is False)
    built = _runtime.info()["built"]
    assert built["cuda"] == _core.built()["cuda"]
    assert built["cuda_reason"].startswith(f"{_core.built()['cuda_reason']} (")
    assert re.match("FASTOPT_CUDA=(ON|OFF|AUTO, and .*)$", _core.built()["cuda_reason"])
    assert f"FASTOPT_CUDA={'OFF' if built['cuda'] else 'ON'} {_runtime.INSTALL_AGAIN})" in built["cuda_reason"]


@pytest.mark.parametrize(
    ("built", "torchs", "refusal", "gpus", "says"),
    [
        ("13.0 (90)", "13.0", "", 3, 3),
        ("13.0 (90)", None, "", 3, "this torch is built without CUDA"),
        ("13.0 (90)", "13.0", "too old", 3, "too old"),
        ("13.0 (90)", "13.0", "", 0, "the NVIDIA driver shows no GPU"),
        (False, None, "built without CUDA", 3, "built without CUDA"),
    ],
)
def test_how_many_gpus_or_why_none(
    built: bool | str, torchs: str | None, refusal: str, gpus: int, says: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = SimpleNamespace(built=lambda: {"cuda": built}, refusal_of_driver=lambda version: refusal)
    monkeypatch.setattr(_runtime, "_core", core)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.version, "cuda", torchs)
    found = _runtime._gpus()
    assert found == says if isinstance(says, int) else str(found).startswith(says)


def _backend(cuda: bool | str) -> SimpleNamespace:
    return SimpleNamespace(built=lambda: {"cuda": cuda, "cuda_reason": "FASTOPT_CUDA=OFF"})


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about a tensor on a device that the backend does not support says what to do."""
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(_runtime, "kernels", _backend(False))
    assert "no kernels for CUDA (FASTOPT_CUDA=OFF)" in _runtime.unsupported_reason(gpu)
    assert _runtime.unsupported_reason(gpu).endswith(": FASTOPT_CUDA=ON pip install --force-reinstall --no-deps .")
    assert _runtime.unsupported_reason(torch.device("cpu")) == ""
    assert "for the CPU and for CUDA" in _runtime.unsupported_reason(torch.device("meta"))
    monkeypatch.setattr(_runtime, "kernels", _backend("13.0 (90)"))
    assert _runtime.unsupported_reason(gpu) == ""
    monkeypatch.setattr(_runtime, "kernels", _runtime.reference)
    assert "NumPy reference, which is in use, computes on the CPU" in _runtime.unsupported_reason(gpu)
