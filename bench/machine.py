"""The machines that cases run on: where tensors are, the clock, the ceiling, and a description."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity

import fastopt
from fastopt import _runtime
from fastopt._processes import using_threads

from .environment import cpu, said
from .kernels import Kernel, kernels
from .measure import Burst, keep_heap, repeated
from .operation import COLD, Case
from .peers import ON_CPU, ON_CUDA, packages
from .products import share
from .stream import Stream


class Cpu:
    """Wall-clock time."""

    device = torch.device("cpu")
    seconds = 2.5  # per case
    rest = 10e-3  # seconds before a turn: after a step, OpenMP's threads spin on cores that the next one may need
    evicted = 256 << 20  # bytes
    ceiling_is = """\
of ceiling: the share of the speed of loops in C, compiled for this CPU, that only read, update and write as much \
memory as the step has to, with as many threads (one for what is smaller than 256 KiB), in the fastest of eight ways: \
with and without prefetches, stores past the caches, and long turns at each array. What a function returns is new \
memory there as well. What waking the threads costs is not in it. BatchNorm is counted as if it read its input \
once in each direction."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_heap()
        self.threads = threads
        self.about: dict[str, Any] = {"threads": threads}
        isa = fastopt.info()["in_use"]["isa"]
        self.title = f"{cpu()}, {threads} threads, {isa}, torch {torch.__version__}"
        self.peers = packages(ON_CPU)
        self.notes: list[str] = []
        self._evicted = torch.zeros(self.evicted // 8, dtype=torch.int64)
        self._stream = None
        try:
            self._stream = Stream(threads)
        except RuntimeError as error:
            self.notes.append(f"The ceiling was not measured: {error}")

    def time(self, burst: Burst, count: int) -> float:
        """Seconds per step."""
        start = time.perf_counter()
        told = burst(count)
        return (told if isinstance(told, float) else time.perf_counter() - start) / count

    def evict(self) -> None:
        self._evicted.add_(1)

    def prepared(self, case: Case) -> contextlib.AbstractContextManager[None]:
        """Sets the number of threads that the case asks for."""
        return using_threads(case.threads or self.threads)

    def ceiling(self, case: Case) -> Burst | None:
        """Loops at the speed of memory; None if arithmetic decides, or if it cannot be measured."""
        traffic = case.traffic()
        if not (self._stream and traffic):
            return None
        plan = self._stream.plan(traffic, case.threads)
        self._stream.choose(plan, self.evict if case.caches == COLD else None)
        return self._stream.burst(plan)

    def kernels(self, case: Case, names: Sequence[str]) -> dict[str, list[Kernel]]:
        """What one step launches on a GPU, by competitor."""
        return {}

    def products(self, case: Case) -> float | None:
        """The share of products in torch's default step; None if it is not measured."""
        return share(case.competitors["torch default"](case.tensors(self.device)))


class Gpu:
    """Time between events on the device."""

    device = torch.device("cuda")
    seconds = 1.0
    rest = 0.0
    threads = 0
    copied = 2 << 30  # bytes read and written by the copy that measures the speed of memory
    evicted = 256 << 20
    ceiling_is = """\
of ceiling: the share of the speed of a copy from device to device that reads and writes as many bytes. BatchNorm is \
counted as if it read its input once in each direction.
launches: kernels, copies and fills that the device runs in one step, ours / those of torch's best."""

    @staticmethod
    def missing() -> str:
        """Why nothing can be measured here; "" if something can."""
        return _runtime.unsupported_reason(torch.device("cuda")) if torch.cuda.is_available() else "torch finds no GPU"

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(self.device)
        self.about: dict[str, Any] = {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "copy": self._copy_speed(),
        }
        about = "{gpu}, driver {driver}, CUDA {cuda}, cuDNN {cudnn}".format(**self.about)
        self.title = f"{about}, torch {torch.__version__}"
        self.peers = packages(ON_CUDA)
        self.notes = [f"A copy of 1 GiB: {self.about['copy'] / 1e9:.0f} GB/s, read and written."]
        self._evicted = torch.zeros(self.evicted // 8, dtype=torch.int64, device=self.device)

    def time(self, burst: Burst, count: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        burst(count)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / count

    def evict(self) -> None:
        self._evicted.add_(1)

    def prepared(self, case: Case) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _copy(self, bytes: int) -> Burst:
        """A copy that reads and writes this many bytes in all."""
        source = torch.randn(max(1, bytes // 8), device=self.device)
        target = torch.empty_like(source)
        return repeated(lambda: target.copy_(source))

    def _copy_speed(self) -> float:
        """Bytes per second."""
        copy = self._copy(self.copied)
        copy(3)
        return self.copied / statistics.median(self.time(copy, 10) for _ in range(5))

    def ceiling(self, case: Case) -> Burst | None:
        return self._copy(case.bytes) if case.bytes else None

    def kernels(self, case: Case, names: Sequence[str]) -> dict[str, list[Kernel]]:
        return {name: self._kernels(repeated(case.competitors[name](case.tensors(self.device)))) for name in names}

    def products(self, case: Case) -> float | None:
        return None

    def _kernels(self, burst: Burst) -> list[Kernel]:
        burst(2)  # afterwards all states exist
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profile:
            burst(1)
            torch.cuda.synchronize()
        return kernels(profile.events())
