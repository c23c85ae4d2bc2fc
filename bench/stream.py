"""The speed of memory: loops that only move what a step moves, compiled at run time for this CPU."""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .measure import Burst
from .operation import Array, Traffic, Walk

SOURCE = Path(__file__).with_name("stream.c")
LINE = 64  # as in stream.c
WAYS = range(8)  # combinations of ASKS, STREAMS and LONG of stream.c
TRIAL, TRIALS = 1e-3, 3  # a way is judged by the best of TRIALS times TRIAL seconds
SMALL = 1 << 18  # bytes that one thread moves before two could have started


class _Part(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_void_p),
        ("offset", ctypes.c_size_t),
        ("bytes", ctypes.c_size_t),
        ("kind", ctypes.c_size_t),
    )


class _Span(ctypes.Structure):
    """A walk, which consists of parts; or a thread's share of a pass, which consists of walks."""

    _fields_ = (("items", ctypes.c_void_p), ("count", ctypes.c_size_t))


class _Fresh(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


class _Plan(ctypes.Structure):
    _fields_ = (
        ("passes", ctypes.c_void_p),
        ("pass_count", ctypes.c_size_t),
        ("fresh", ctypes.c_void_p),
        ("fresh_count", ctypes.c_size_t),
        ("threads", ctypes.c_size_t),
        ("way", ctypes.c_size_t),
        ("seconds", ctypes.c_double),
        ("meeting", ctypes.c_size_t * 2),
    )


def _compile() -> ctypes.CDLL:
    """Raises RuntimeError, with a reason to print, if stream.c cannot be compiled or loaded."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"there is no C compiler '{compiler[0]}'")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "stream.so"
        flags = ["-std=c11", "-O3", "-march=native", "-funroll-loops", "-fPIC", "-shared", "-o", str(library)]
        done = subprocess.run([*compiler, *flags, str(SOURCE)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{SOURCE.name} does not compile: {(done.stderr.splitlines() or ['?'])[0]}")
        return ctypes.CDLL(str(library))  # stays mapped when its file is deleted


class Plan:
    """The arrays of a traffic, and structures of stream.c that point to them; valid as long as this object lives."""

    def __init__(self, traffic: Traffic, threads: int) -> None:
        self.threads = threads
        self.tensors: dict[Array, torch.Tensor] = {}  # in bytes
        self._kept: list[Any] = []
        self._bases: dict[Array, ctypes.c_void_p] = {}
        walks = [walk for walks in traffic for walk in walks]
        arrays = dict.fromkeys(array for walk in walks for array in (*walk.read, *walk.updated, *walk.written))
        for array in arrays:
            if not array.fresh:
                self.tensors[array] = torch.ones(array.bytes, dtype=torch.uint8)
            self._bases[array] = ctypes.c_void_p(None if array.fresh else self.tensors[array].data_ptr())
        fresh = [_Fresh(self._base(array), array.bytes) for array in arrays if array.fresh]
        passes = [self._share(walks, k, threads) for k in range(threads) for walks in traffic]
        self.struct = _Plan(self._array(_Span, passes), len(traffic), self._array(_Fresh, fresh), len(fresh), threads)

    def _base(self, array: Array) -> int:
        return ctypes.addressof(self._bases[array])

    def _array(self, kind: Any, items: Sequence[Any]) -> int:
        self._kept.append((kind * len(items))(*items))
        return ctypes.addressof(self._kept[-1])

    def _share(self, walks: Sequence[Walk], thread: int, threads: int) -> _Span:
        """A thread's contiguous share of a pass; its first and last walks may be partial."""
        ends = [0, *itertools.accumulate(walk.bytes for walk in walks)]
        low, high = (ends[-1] * k // threads for k in (thread, thread + 1))
        spans = []
        for walk, begin in zip(walks, ends[:-1], strict=True):
            first, last = (min(max(edge - begin, 0), walk.bytes) / max(walk.bytes, 1) for edge in (low, high))
            if first < last:
                parts = list(self._parts(walk, first, last))
                spans.append(_Span(self._array(_Part, parts), len(parts)))
        return _Span(self._array(_Span, spans), len(spans))

    def _parts(self, walk: Walk, first: float, last: float) -> Iterator[_Part]:
        for kind, arrays in enumerate((walk.read, walk.updated, walk.written)):
            for array in arrays:
                begin, end = (_line(array.bytes, share) for share in (first, last))
                yield _Part(self._base(array), begin, end - begin, kind)


def _line(size: int, share: float) -> int:
    return size if share == 1 else int(size * share) // LINE * LINE


class Stream:
    """The loops of stream.c, on threads that have already started."""

    def __init__(self, threads: int) -> None:
        self._stream = _compile().stream
        self._stream.argtypes = [ctypes.POINTER(_Plan), ctypes.c_size_t, ctypes.c_size_t]
        self._stream.restype = ctypes.c_uint64
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1))
        started = threading.Barrier(max(1, threads - 1))  # a pool starts a thread only when all others are busy
        list(self._pool.map(lambda _: started.wait(), range(started.parties)))

    def plan(self, traffic: Traffic, threads: int | None = None) -> Plan:
        """Divides the traffic among this many threads (None: all), or gives it to one if it is small."""
        moved = sum(walk.bytes for walks in traffic for walk in walks)
        return Plan(traffic, 1 if moved < SMALL else min(self._threads, threads or self._threads))

    def burst(self, plan: Plan) -> Burst:
        """Moves what a step moves.

        A burst is one call per thread. It is timed from the moment when all threads have arrived, so that waking them
        does not count. Fresh memory is allocated by the calling thread, from the heap that tensors use.
        """

        def burst(count: int) -> float:
            struct = ctypes.pointer(plan.struct)
            others = [self._pool.submit(self._stream, struct, k, count) for k in range(1, plan.threads)]
            self._stream(struct, 0, count)
            for other in others:
                other.result()
            return float(plan.struct.seconds)

        return burst

    def choose(self, plan: Plan, evict: Callable[[], object] | None = None) -> None:
        """Picks the fastest way to walk: repeatedly, or after calling ``evict`` each time."""
        burst = self.burst(plan)

        def seconds(way: int, count: int) -> float:
            plan.struct.way = way
            taken = []
            for _ in range(TRIALS):
                if evict:
                    evict()
                taken.append(burst(count))
            return min(taken)

        burst(1)  # brings pages and caches into the state they have later
        count = 1 if evict else max(1, int(TRIAL / seconds(0, 1)))
        plan.struct.way = min(WAYS, key=lambda way: seconds(way, count))
