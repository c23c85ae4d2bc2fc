"""The host's side of selftest.cu: runs a kernel, correct or with a defect, and checks the result.

As a program, in a process that AddressSanitizer checks: python selftest.py LIBRARY CASE DEFECT ...
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# enum Defect
DEFECTS = [
    *("none", "no barrier", "exited", "elsewhere", "uninitialised", "mask", "foreign lane", "overrun", "hasty"),
    *("no release", "no acquire", "plain"),
]

Outcome = tuple[int, bool]  # the launch's error, and whether the result is right


def at(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def whole_numbers(count: int, dtype: type = np.int32) -> NDArray[np.generic]:
    return np.random.default_rng(count).integers(-100, 100, count).astype(dtype)


def add(library: ctypes.CDLL, defect: int) -> Outcome:
    x, y = whole_numbers(1000, np.float32), whole_numbers(1000, np.float32)[::-1].copy()
    out = np.zeros(1000, np.float32)
    error = library.run_add(defect, at(x), at(y), at(out), ctypes.c_longlong(out.size))
    return error, np.array_equal(out, x + y)


def block_sums(library: ctypes.CDLL, defect: int, threads: int = 256) -> Outcome:
    elements, sums = whole_numbers(3 * threads, np.float64), np.zeros(3)
    error = library.run_block_sums(defect, at(elements), at(sums), len(sums), threads)
    return error, np.array_equal(sums, elements.reshape(3, -1).sum(1))


def transpose(library: ctypes.CDLL, defect: int) -> Outcome:
    matrix = whole_numbers(48 * 48).reshape(48, 48)
    out = np.zeros_like(matrix)
    error = library.run_transpose(defect, at(matrix), at(out), 3)
    return error, np.array_equal(out, matrix.T)


def reverse(library: ctypes.CDLL, defect: int) -> Outcome:
    numbers = whole_numbers(3 * 200)
    out = np.zeros_like(numbers)
    error = library.run_reverse(defect, at(numbers), at(out), 3, 200)
    return error, np.array_equal(out.reshape(3, -1), numbers.reshape(3, -1)[:, ::-1])


def swap_pairs(library: ctypes.CDLL, defect: int) -> Outcome:
    numbers = whole_numbers(128)
    out = np.zeros_like(numbers)
    error = library.run_swap_pairs(defect, at(numbers), at(out))
    return error, np.array_equal(out, numbers.reshape(-1, 2)[:, ::-1].ravel())


def gather(library: ctypes.CDLL, defect: int) -> Outcome:
    out, left = np.zeros(80, np.int32), np.zeros(1, np.int32)
    error = library.run_gather(defect, at(out), at(left))
    return error, bool((out == 1).all() and left[0] == 80)


def count(library: ctypes.CDLL, defect: int) -> Outcome:
    del defect
    elements = whole_numbers(5 * 96, np.float32)
    odd, all_, shifted = np.zeros(1, np.int32), np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    error = library.run_count(at(elements), 5, at(odd), at(all_), at(shifted))
    of_warp = (elements > 0).reshape(-1, 32).sum(1)
    total = int(of_warp.sum())
    return error, (odd[0], all_[0], shifted[0]) == ((of_warp % 2).sum(), total, total << 32)


def last_block(library: ctypes.CDLL, defect: int) -> Outcome:
    elements, left, total = whole_numbers(20, np.float64), np.full(20, np.nan), np.zeros(1)
    arrived = np.zeros(1, np.uint32)
    error = library.run_last_block(defect, at(elements), 20, at(left), at(arrived), at(total))
    return error, bool(total[0] == elements.sum() and arrived[0] == 0)


def mark(library: ctypes.CDLL, defect: int) -> Outcome:
    elements = whole_numbers(3 * 64, np.int8)
    elements[::3] = 0
    marks, total = np.zeros_like(elements), np.zeros(1, np.int32)
    error = library.run_mark(defect, at(elements), 3, at(marks), at(total))
    return error, bool((marks == (elements != 0)).all() and total[0] == marks.sum())


def shuffles(library: ctypes.CDLL, defect: int) -> Outcome:
    """Every type is tested."""
    lane = np.arange(32)
    sources = [
        np.full(32, 5),
        np.where(lane < 3, lane, lane - 3),
        np.where(lane > 28, lane, lane + 3),
        lane ^ 5,
        np.where(lane < 16, lane ^ 1, 31),
    ]
    errors, right = 0, True
    for dtype in (np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64):
        numbers = (whole_numbers(32, np.float64) * 1.7e7).astype(np.int64).astype(dtype)
        out = np.zeros((5, 32), dtype)
        run = getattr(library, f"run_shuffles_{np.dtype(dtype).name}")
        errors |= run(defect, at(numbers), at(out))
        right &= np.array_equal(out, numbers[np.stack(sources)])
    return errors, right


Case = Callable[[ctypes.CDLL, int], Outcome]
CASES: dict[str, Case] = {
    case.__name__: case
    for case in (add, block_sums, transpose, reverse, swap_pairs, gather, count, last_block, mark, shuffles)
}


def run(library: ctypes.CDLL, case: str, defect: str = "none") -> Outcome:
    return CASES[case](library, DEFECTS.index(defect))


if __name__ == "__main__":
    path, *runs = sys.argv[1:]
    for of_case, with_defect in zip(runs[::2], runs[1::2], strict=True):
        print(*run(ctypes.CDLL(path), of_case, with_defect))
