"""The speed of memory: loops that only stream a step's arrays, compiled here and now for this CPU."""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .measure import Burst

SOURCE = Path(__file__).with_name("stream.c")
LANES = 64  # as in stream.c


def _compile() -> ctypes.CDLL:
    """Raises RuntimeError, with a reason to print, where that is not possible."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"there is no C compiler '{compiler[0]}'")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "stream.so"
        flags = ["-O3", "-march=native", "-funroll-loops", "-fPIC", "-shared", "-o", str(library)]
        done = subprocess.run([*compiler, *flags, str(SOURCE)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{SOURCE.name} does not compile: {(done.stderr.splitlines() or ['?'])[0]}")
        return ctypes.CDLL(str(library))  # stays mapped when its file goes


class Stream:
    """The loops of stream.c on threads that are already there, each on its own contiguous part."""

    def __init__(self, threads: int) -> None:
        self._library = _compile()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        started = threading.Barrier(threads)  # a pool starts a thread only when the others are busy
        list(self._pool.map(lambda _: started.wait(), range(threads)))

    def bursts(self, loop: str, arrays: Sequence[torch.Tensor]) -> Burst:
        """Runs ``loop`` over float32 arrays of one size: parameter, gradient, states.

        A burst is one call per thread. What waking the threads costs (30 us) is not memory's, and would
        count at every step.
        """
        function = getattr(self._library, loop)
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        function.restype = ctypes.c_float
        blocks = arrays[0].numel() // LANES
        cuts = [blocks * k // self._threads * LANES for k in range(self._threads + 1)]
        starts = [[x.data_ptr() + cut * x.itemsize for x in arrays] for cut in cuts[:-1]]
        parts = [(ctypes.c_void_p * len(arrays))(*start) for start in starts]
        sizes = [end - begin for begin, end in itertools.pairwise(cuts)]

        def burst(count: int, _alive: Sequence[torch.Tensor] = arrays) -> None:
            list(self._pool.map(function, parts, sizes, [count] * self._threads))

        return burst
