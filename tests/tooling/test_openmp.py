"""LLVM's OpenMP runtime, which macOS has: several threads run, with the bits of torch's own runtime on Linux.

The runtime is a copy of LLVM's for Linux without GCC's entry point, which macOS lacks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GCC_ENTRY = b"\0GOMP_parallel\0"


# The runtimes of the system, and of the package intel-openmp, which is built from the same source.
RUNTIMES = [*Path("/usr/lib").glob("llvm-*/lib/libomp.so"), *Path(sys.prefix, "lib").glob("libiomp5.so")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or not RUNTIMES, reason="needs libomp-dev or intel-openmp, on Linux"),
]


@pytest.fixture(scope="module", params=RUNTIMES, ids=str)
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    contents = request.param.read_bytes()
    assert contents.count(GCC_ENTRY) == 1
    copy = tmp_path_factory.mktemp("openmp") / "libomp.so"
    copy.write_bytes(contents.replace(GCC_ENTRY, b"\0NONE_parallel\0"))
    return copy


# Starts with torch's runtime; `python(code)` appends a test. ctypes keeps the library loaded, as torch does on macOS.
PROGRAM = """
import ctypes, os, sys
import torch, fastopt
from fastopt import _core

def parameter(value, n=1_000_000):
    p = torch.full((n,), value, requires_grad=True)
    p.grad = torch.full((n,), value)
    return p

def step():
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(1_000_000, generator=generator).requires_grad_()
    p.grad = torch.randn(1_000_000, generator=generator)
    fastopt.AdamW([p], max_grad_norm=1.0).step()
    return p.detach()

def use_llvm():
    library = ctypes.CDLL(sys.argv[1])
    assert not hasattr(library, "GOMP_parallel")
    _core.find_openmp(sys.argv[1])
    assert fastopt.info()["openmp"] == sys.argv[1], fastopt.info()

torch.set_num_threads(4)
"""


def output(code: str, runtime: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FASTOPT_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + code, str(runtime)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("threads", "started"), [(1, 0), (2, 1), (4, 3)])
def test_as_many_threads_as_torch_was_told_and_the_same_bits(threads: int, started: int, runtime: Path) -> None:
    code = f"""
expected = step()
use_llvm()
torch.set_num_threads({threads})
before = set(os.listdir("/proc/self/task"))
found = step()
started = set(os.listdir("/proc/self/task")) - before
print(len(started), torch.equal(found, expected), fastopt.info()["in_use"]["threads"])
"""
    assert output(code, runtime) == f"{started} True {threads}"


def test_several_threads_work(runtime: Path) -> None:
    """Each of the four threads uses processor time; none only waits."""
    code = """
use_llvm()
p = parameter(1.0, 20_000_000)
optimizer = fastopt.SGD([p], lr=0.5)
before = set(os.listdir("/proc/self/task"))
for _ in range(20):
    optimizer.step()
mine = set(os.listdir("/proc/self/task")) - before
ticks = [int(open(f"/proc/self/task/{t}/stat").read().rpartition(")")[2].split()[11]) for t in mine]
print(len(ticks), all(ticks))
"""
    assert output(code, runtime) == "3 True"


def test_forked_children_train(runtime: Path) -> None:
    code = """
use_llvm()
p = parameter(1.0)
optimizer = fastopt.SGD([p], lr=0.25)
optimizer.step()
child = os.fork()
if child == 0:
    optimizer.step()
    info = fastopt.info()
    torch.set_num_threads(1)
    os._exit(0 if (p == 0.5).all() and info["in_use"]["threads"] == 1 else 1)
_, status = os.waitpid(child, 0)
optimizer.step()
print(status, (p == 0.5).all().item(), fastopt.info()["in_use"]["threads"])
"""
    assert output(code, runtime) == "0 True 4"


def test_flush_to_zero_reaches_every_thread(runtime: Path) -> None:
    """LLVM's own copying of the mode is switched off, as not every CPU has it."""
    code = """
use_llvm()
fastopt.SGD([parameter(1.0)]).step()  # the workers exist before the mode is set, or they would inherit it
p = parameter(1e-38, 3_000_000)
p.grad.fill_(9.5e-39)  # p - grad is subnormal, and so are they
if torch.set_flush_denormal(True):
    fastopt.SGD([p], lr=1.0).step()
    torch.set_flush_denormal(False)
    print((p == 0).all().item())
else:
    print(True)
"""
    assert output(code, runtime, KMP_INHERIT_FP_CONTROL="0") == "True"


def test_a_library_without_any_entry_leaves_one_thread(runtime: Path) -> None:
    code = """
_core.find_openmp(ctypes.util.find_library("c") or "libc.so.6")
info = fastopt.info()
print(repr(info["openmp"]), info["in_use"]["threads"], "calling thread" in info["notes"][0], step().shape)
"""
    assert output("import ctypes.util" + code, runtime) == "'' 1 True torch.Size([1000000])"
