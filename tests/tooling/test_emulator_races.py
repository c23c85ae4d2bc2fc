"""The emulator's race detector: it names the kernel's two lines of a race, and has nothing to say of right kernels."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import selftest
from emulator.emulator import LAUNCH_FAILURE, ORDERS, Emulator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
    pytest.mark.skipif(shutil.which("addr2line") is None, reason="there is no addr2line, which finds the lines"),
]

HERE = Path(__file__).parents[1] / "emulator"
CSRC = HERE.parent.parent / "csrc"


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("races")
    compiler = ["g++", "-std=c++17", "-O1", "-g1", "-fPIC", f"-I{HERE}", f"-I{CSRC}"]
    kernels, library = folder / "selftest.o", folder / "selftest.so"
    subprocess.run(
        [*compiler, "-fsanitize=thread", "-c", "-x", "c++", str(HERE / "selftest.cu"), "-o", str(kernels)], check=True
    )
    sources = [str(HERE / name) for name in ("emulator.cpp", "races.cpp")]
    subprocess.run([*compiler, "-shared", str(kernels), *sources, "-ldl", "-o", str(library)], check=True)
    return library


@pytest.fixture
def library(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


@pytest.fixture(params=ORDERS)
def emulator(path: Path, request: pytest.FixtureRequest) -> Iterator[Emulator]:
    emulator = Emulator(path)
    emulator.reset()
    emulator.set_order(request.param, 7)
    yield emulator
    emulator.reset()


@pytest.mark.parametrize("case", selftest.CASES)
def test_right_kernels_have_no_race(emulator: Emulator, library: ctypes.CDLL, case: str) -> None:
    assert selftest.run(library, case) == (0, True), emulator.failure()


# For each race: the memory, and the two lines (parts of the source), in any order.
RACES = {
    ("block_sums", "no barrier"): ("shared", "writes", "of_warp[warp] = sum", "reads", "of_warp[lane] : 0"),
    ("transpose", "no barrier"): ("shared", "writes", "tile[y][x] = from", "reads", "= tile[x][y]"),
    ("reverse", "no barrier"): ("shared", "writes", "elements[i + (", "reads", "elements[blockDim.x - 1 - i]"),
    ("swap_pairs", "no barrier"): ("shared", "writes", "rows[warp][lane] = ", "reads", "rows[warp][lane ^ 1]"),
    ("swap_pairs", "plain"): ("shared", "writes", "rows[warp][lane] = ", "reads", "rows[warp][lane ^ 1]"),
    ("mark", "no barrier"): ("shared", "changes atomically", "atomicAdd(&of_block", "reads", "atomicAdd(total, "),
    ("mark", "plain"): ("global", "writes", "*total += of_block", "(reads|writes)", "*total += of_block"),
    ("last_block", "no release"): ("global", "writes", "__stcg(left + ", "reads", "__ldcg(left + "),
    ("last_block", "no acquire"): ("global", "writes", "__stcg(left + ", "reads", "__ldcg(left + "),
}


def line_of(part: str) -> int:
    lines = (HERE / "selftest.cu").read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if part in line]
    return number


@pytest.mark.parametrize(("case", "defect"), RACES)
def test_a_race_is_an_error_that_names_both_lines(
    emulator: Emulator, library: ctypes.CDLL, case: str, defect: str
) -> None:
    memory, one, one_line, other, other_line = RACES[case, defect]
    assert selftest.run(library, case, defect)[0] == LAUNCH_FAILURE
    message = emulator.failure()
    found = re.search(rf"a race in {memory} memory: (.*); (.*); nothing orders them, in .*{case}\(", message)
    assert found, message
    for does, line in ((one, one_line), (other, other_line)):
        access = rf"thread \d+ of block \d+ {does} at .*selftest.cu:{line_of(line)}"
        assert any(re.fullmatch(access, text) for text in found.groups()), message
    assert selftest.run(library, case) == (0, True)


def test_two_warps_that_share_a_row(emulator: Emulator, library: ctypes.CDLL) -> None:
    assert selftest.run(library, "swap_pairs", "hasty")[0] == LAUNCH_FAILURE
    first, second = re.findall(r"thread (\d+) of block 0 writes", emulator.failure())
    assert int(first) % 32 == int(second) % 32
    assert first != second


def test_a_barrier_that_is_skipped(emulator: Emulator, library: ctypes.CDLL) -> None:
    """What the order of threads does not show: every result is right here."""
    emulator.skip_barriers(of_warp=True)
    assert selftest.run(library, "transpose") == (0, True)
    emulator.skip_barriers(of_block=True)
    assert selftest.run(library, "transpose")[0] == LAUNCH_FAILURE
