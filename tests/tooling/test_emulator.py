"""The emulator of the CUDA runtime: right kernels have right results in every order, and wrong ones are found."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from emulator import selftest
from emulator.emulator import (
    INSUFFICIENT_DRIVER,
    INVALID_CONFIGURATION,
    INVALID_DEVICE,
    INVALID_VALUE,
    LAUNCH_FAILURE,
    MULTIPROCESSORS,
    NO_DEVICE,
    Emulator,
)

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1] / "emulator"
SELFTEST = HERE / "selftest.cu"
CSRC = HERE.parent.parent / "csrc"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
ORDERS = [("forward", 0), ("reverse", 0), *(("shuffled", seed) for seed in range(8))]


def build(compiler: str, library: Path, *options: str) -> Path:
    sources = ["-x", "c++", str(SELFTEST), *(str(HERE / name) for name in ("emulator.cpp", "races.cpp"))]
    folders = [f"-I{HERE}", f"-I{CSRC}"]
    shared = ["-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", *folders, "-o", str(library)]
    subprocess.run([compiler, *WARNINGS, *options, *shared, *sources], check=True)
    return library


@pytest.fixture(scope="session", params=["g++", "clang++"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param}")
    return build(request.param, tmp_path_factory.mktemp("emulator") / "selftest.so", "-O2")


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with AddressSanitizer, which only a process that started with it can load."""
    library = tmp_path_factory.mktemp("emulator") / "watched.so"
    return build("g++", library, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


@pytest.fixture
def library(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


@pytest.fixture
def emulator(path: Path) -> Iterator[Emulator]:
    emulator = Emulator(path)
    emulator.reset()
    yield emulator
    emulator.reset()


def in_some_order(emulator: Emulator, library: ctypes.CDLL, case: str, defect: str = "none") -> list[bool]:
    """Whether the result is right, for each order."""
    results = []
    for order, seed in ORDERS:
        emulator.set_order(order, seed)
        error, right = selftest.run(library, case, defect)
        assert error == 0, emulator.failure()
        results.append(right)
    return results


@pytest.mark.parametrize("case", selftest.CASES)
def test_right_in_every_order(emulator: Emulator, library: ctypes.CDLL, case: str) -> None:
    assert all(in_some_order(emulator, library, case))


@pytest.mark.parametrize(
    ("case", "defect"),
    [
        ("block_sums", "no barrier"),
        ("transpose", "no barrier"),
        ("reverse", "no barrier"),
        ("swap_pairs", "no barrier"),
        ("swap_pairs", "hasty"),
        ("last_block", "hasty"),
    ],
)
def test_a_race_shows_in_some_order(emulator: Emulator, library: ctypes.CDLL, case: str, defect: str) -> None:
    assert not all(in_some_order(emulator, library, case, defect))


def test_shared_memory_begins_as_nan(emulator: Emulator, library: ctypes.CDLL) -> None:
    assert not any(in_some_order(emulator, library, "block_sums", "uninitialised"))


@pytest.mark.parametrize("case", ["block_sums", "transpose", "reverse"])
def test_skipped_barriers(emulator: Emulator, library: ctypes.CDLL, case: str) -> None:
    emulator.skip_barriers(of_warp=True)
    assert all(in_some_order(emulator, library, case))
    emulator.skip_barriers(of_block=True)
    assert not all(in_some_order(emulator, library, case))


def test_skipped_barriers_of_warps(emulator: Emulator, library: ctypes.CDLL) -> None:
    emulator.skip_barriers(of_block=True)
    assert all(in_some_order(emulator, library, "swap_pairs"))
    emulator.skip_barriers(of_warp=True)
    assert not all(in_some_order(emulator, library, "swap_pairs"))


STUCK = [
    ("gather", "exited", r"thread 32 waits in __syncthreads\(\) at .*selftest.cu:\d+, but thread 0 has ended"),
    ("gather", "elsewhere", r"thread 0 waits in __syncthreads\(\) at .*, but thread 32 waits in __syncthreads\(\) at "),
    ("block_sums", "exited", r"thread 0 waits in __shfl_xor_sync\(0xffffffff\) at .*, but thread 8 has ended"),
    ("swap_pairs", "mask", r"thread \d+ is not in the mask of __syncwarp\(0x0000ffff\) at "),
    ("shuffles", "foreign lane", r"thread \d+ reads from lane 3, outside of the mask of __shfl_sync\(0xffff0000\) at "),
]


@pytest.mark.parametrize(("case", "defect", "message"), STUCK)
def test_stuck_threads_are_an_error(
    emulator: Emulator, library: ctypes.CDLL, case: str, defect: str, message: str
) -> None:
    for order, seed in ORDERS:
        emulator.set_order(order, seed)
        assert selftest.run(library, case, defect)[0] == LAUNCH_FAILURE
        assert library.last_error() == LAUNCH_FAILURE
        assert library.last_error() == 0
        if order == "forward":
            assert re.search(message, emulator.failure())
        assert selftest.run(library, case) == (0, True)


def test_an_abandoned_grid_runs_no_further(emulator: Emulator, library: ctypes.CDLL) -> None:
    out, left = np.zeros(80, np.int32), np.zeros(1, np.int32)
    exited = selftest.DEFECTS.index("exited")
    assert library.run_gather(exited, selftest.at(out), selftest.at(left)) == LAUNCH_FAILURE
    assert not out.any()
    assert left[0] == 80


def test_lanes_that_the_block_does_not_have(emulator: Emulator, library: ctypes.CDLL) -> None:
    assert selftest.block_sums(library, 0, threads=48)[0] == LAUNCH_FAILURE
    assert "thread 32 waits for lanes beyond the block in __shfl_down_sync(0xffffffff)" in emulator.failure()


def test_order(emulator: Emulator, library: ctypes.CDLL) -> None:
    def turns(order: str, seed: int = 0) -> list[int]:
        emulator.set_order(order, seed)
        turns, clock = np.zeros(24 * 30, np.uint32), np.zeros(1, np.uint32)
        assert library.run_take_turns(selftest.at(turns), selftest.at(clock)) == 0
        return turns.tolist()

    every = list(range(24 * 30))
    assert turns("forward") == every
    assert turns("reverse") == every[::-1]
    shuffled = turns("shuffled", 1)
    assert sorted(shuffled) == every
    assert turns("shuffled", 2) != shuffled != every
    assert turns("shuffled", 1) == shuffled


MOST = 2**31 - 1

Size = tuple[int, int, int]


def launch(
    library: ctypes.CDLL,
    grid: Size = (1, 1, 1),
    block: Size = (32, 1, 1),
    shared_bytes: int = 0,
    *,
    raised: bool = False,
) -> int:
    sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
    error: int = library.run_occupy(raised, *sizes, ctypes.c_size_t(shared_bytes))
    return error


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "error"),
    [
        ((1, 1, 1), (1024, 1, 1), 0, 0),
        ((1, 1, 1), (1, 16, 64), 0, 0),
        ((1, 1, 1), (32, 1, 1), 47 << 10, 0),
        ((0, 1, 1), (32, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 0, 1), (32, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (32, 1, 0), 0, INVALID_CONFIGURATION),
        ((MOST + 1, 1, 1), (32, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 65536, 1), (32, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 65536), (32, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (1025, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (1, 1, 65), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (33, 32, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (32, 1, 1), (48 << 10) + 1, INVALID_VALUE),
        ((1, 1, 1), (32, 1, 1), 48 << 10, LAUNCH_FAILURE),  # too much, with the kernel's own kibibyte
    ],
)
def test_what_a_launch_refuses(
    emulator: Emulator,
    library: ctypes.CDLL,
    grid: Size,
    block: Size,
    shared_bytes: int,
    error: int,
) -> None:
    assert launch(library, grid, block, shared_bytes) == error
    assert library.last_error() == error
    assert len(emulator.launches()) == (error in (0, LAUNCH_FAILURE))


def test_raised_limit_of_shared_memory(emulator: Emulator, library: ctypes.CDLL) -> None:
    emulator.set_devices(2)
    most = 227 << 10
    assert library.raise_shared_limit(most + 1) == INVALID_VALUE
    assert library.raise_shared_limit(most) == 0
    assert launch(library, shared_bytes=most - 1024, raised=True) == 0
    assert launch(library, shared_bytes=most, raised=True) == LAUNCH_FAILURE
    assert f"thread 0 needs {most + 1024} bytes of shared memory in all" in emulator.failure()
    assert launch(library, shared_bytes=most + 1, raised=True) == INVALID_VALUE
    assert launch(library, shared_bytes=most - 1024) == INVALID_VALUE
    library.set_device(1)  # each device has its own limit
    assert launch(library, shared_bytes=most - 1024, raised=True) == INVALID_VALUE


def test_devices(emulator: Emulator, library: ctypes.CDLL) -> None:
    count = ctypes.c_int(-1)
    emulator.set_attribute(MULTIPROCESSORS, 132)
    assert library.multiprocessors(ctypes.byref(count)) == 0
    assert count.value == 132

    emulator.set_devices(2)
    assert library.device_count(ctypes.byref(count)) == 0
    assert count.value == 2
    assert library.set_device(2) == INVALID_DEVICE
    assert library.set_device(1) == 0
    assert launch(library) == 0
    assert emulator.launches()[-1].device == 1

    emulator.set_devices(0)
    assert library.device_count(ctypes.byref(count)) == NO_DEVICE
    assert count.value == 0
    assert launch(library) == NO_DEVICE
    emulator.set_devices(1, driver=0)
    assert library.device_count(ctypes.byref(count)) == INSUFFICIENT_DRIVER
    assert launch(library) == INSUFFICIENT_DRIVER


def test_a_launch_that_fails_on_request(emulator: Emulator, library: ctypes.CDLL) -> None:
    emulator.fail_launch(INVALID_VALUE)
    assert selftest.run(library, "add") == (INVALID_VALUE, False)
    assert library.last_error() == INVALID_VALUE
    assert selftest.run(library, "add") == (0, True)

    emulator.fail_launch(INVALID_VALUE, after=1)
    assert [launch(library) for _ in range(3)] == [0, INVALID_VALUE, 0]


def test_launches(emulator: Emulator, library: ctypes.CDLL) -> None:
    selftest.run(library, "reverse")
    selftest.run(library, "add")
    reverse, add = emulator.launches()
    assert (reverse.grid, reverse.block, reverse.shared_bytes) == ((3, 1, 1), (200, 1, 1), 800)
    assert reverse.parameter_bytes == 2 * 8 + 4
    assert (add.grid, add.block, add.parameter_bytes) == ((16, 1, 1), (64, 1, 1), 4 * 8 + 4)
    assert (add.stream, add.device) == (1234, 0)
    assert "Vectors" in add.kernel
    emulator.clear_launches()
    assert emulator.launches() == []


def test_launches_of_several_threads(emulator: Emulator, library: ctypes.CDLL) -> None:
    """Grids run one after the other; each thread has its own errors."""

    def work(_: int) -> bool:
        good = [selftest.run(library, "block_sums") == (0, True) for _ in range(20)]
        stuck = selftest.run(library, "gather", "exited")[0]
        return all(good) and stuck == library.last_error() == LAUNCH_FAILURE and library.last_error() == 0

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def run_watched(library: Path, *cases_and_defects: str) -> subprocess.CompletedProcess[str]:
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",  # Python's own leaks do not count
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run(
        [sys.executable, "-m", "emulator.selftest", str(library), *cases_and_defects],
        cwd=HERE.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_fibers_do_not_confuse_address_sanitizer(watched: Path) -> None:
    """It reports neither fibers that wait nor fibers that are abandoned."""
    runs = [(case, defect, f"{LAUNCH_FAILURE} False") for case, defect, _ in STUCK]
    runs += [(case, "none", "0 True") for case in selftest.CASES]
    done = run_watched(watched, *itertools.chain.from_iterable(run[:2] for run in runs))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [run[2] for run in runs]


@pytest.mark.parametrize("case", ["add", "reverse"])
def test_address_sanitizer_sees_an_overrun(watched: Path, case: str) -> None:
    """An overrun of global memory, and one of shared memory."""
    done = run_watched(watched, case, "overrun")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert f"in {case}" in done.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_nvcc_compiles_the_same_source(tmp_path: Path) -> None:
    subprocess.run(
        ["nvcc", "-std=c++17", "-arch=sm_90", f"-I{CSRC}", "-c", SELFTEST, "-o", tmp_path / "selftest.o"], check=True
    )
