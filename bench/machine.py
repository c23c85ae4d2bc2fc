"""What cases run on: where its tensors are, its clock, what bounds it, and what it is."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

import fastopt
from fastopt import _runtime

from .case import Case
from .measure import Burst, keep_heap, repeated
from .peers import packages_on_cuda
from .stream import Stream


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class Cpu:
    """Wall-clock time; each case has a floor of its own, or none."""

    device = torch.device("cpu")
    seconds = 3.0  # per case
    rivals: Sequence[str] = ()  # packages with a column of their own
    rest = 10e-3  # seconds before a turn: after a step OpenMP's threads spin, on cores the next peer may want
    floors = """\
x floor: beside something simpler over as much memory, named behind the ratio: for large tensors 1 is memory's speed.
- stream: a loop that only reads and writes the same arrays.
- clone: a copy into fresh memory, beside what returns a new tensor. From 32 MiB on that memory comes from the system \
at each step, and its page faults cost more than filling it; fewer of them give a ratio above 1.
- copy_: a copy into memory that is there, beside what works in place: on one array, where a copy has two."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_heap()
        self.about: dict[str, Any] = {"cpu": _cpu(), "threads": threads}
        isa = fastopt.info()["in_use"]["isa"]
        self.title = f"{_cpu()}, {threads} threads, {isa}, torch {torch.__version__}"
        self.notes: list[str] = []
        self._stream = None
        try:
            self._stream = Stream(threads)
        except RuntimeError as error:
            self.notes.append(f"The stream was not measured: {error}")

    def time(self, burst: Burst, count: int) -> float:
        """Seconds per step."""
        start = time.perf_counter()
        burst(count)
        return (time.perf_counter() - start) / count

    def floor(self, case: Case) -> dict[str, Burst]:
        """By name; none where there is none, or it cannot be had."""
        burst = case.floor and case.floor.burst(self._stream)
        return {case.floor.name: burst} if case.floor and burst else {}

    def launches(self, case: Case, peers: Sequence[str]) -> dict[str, int]:
        """Of a step, by peer."""
        return {}


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return None
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[0] if lines else None


class Gpu:
    """Time between events on the device; every case is beside a copy of as many bytes."""

    device = torch.device("cuda")
    seconds = 1.0
    rest = 0.0
    copied = 2 << 30  # bytes read and written by the copy that tells the speed of memory
    floors = """\
x floor: beside a copy from device to device that reads and writes as many bytes: the fraction of its speed. BatchNorm \
is counted as if it read its input once.
launches: kernels, copies and fills that the device runs in one step, ours / those of torch's best."""

    @staticmethod
    def missing() -> str:
        """What keeps us from measuring here; "" where nothing does."""
        return _runtime.why_not(torch.device("cuda")) if torch.cuda.is_available() else "torch finds no GPU"

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(self.device)
        self.about: dict[str, Any] = {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cpu": _cpu(),
            "copy": self._copy_speed(),
        }
        about = "{gpu}, driver {driver}, CUDA {cuda}, cuDNN {cudnn}".format(**self.about)
        self.title = f"{about}, torch {torch.__version__}"
        packages = packages_on_cuda()
        self.rivals = [package for package, here in packages.items() if here]
        self.notes = [
            f"A copy of 1 GiB: {self.about['copy'] / 1e9:.0f} GB/s, read and written.",
            *[f"{package} is not installed." for package, here in packages.items() if not here],
        ]

    def time(self, burst: Burst, count: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        burst(count)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / count

    def _copy(self, bytes: int) -> Burst:
        """Reads and writes that many in all."""
        source = torch.randn(max(1, bytes // 8), device=self.device)
        target = torch.empty_like(source)
        return repeated(lambda: target.copy_(source))

    def _copy_speed(self) -> float:
        """Bytes per second."""
        copy = self._copy(self.copied)
        copy(3)
        return self.copied / statistics.median(self.time(copy, 10) for _ in range(5))

    def floor(self, case: Case) -> dict[str, Burst]:
        return {"copy": self._copy(case.bytes)}

    def launches(self, case: Case, peers: Sequence[str]) -> dict[str, int]:
        makers = {"fastopt": case.ours, **case.peers}
        return {name: self._launches(case.burst(makers[name], self.device)) for name in peers}

    def _launches(self, burst: Burst) -> int:
        burst(1)  # all states are there
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profile:
            burst(1)
            torch.cuda.synchronize()
        on_device = [event for event in profile.events() if event.device_type == DeviceType.CUDA]
        return sum(not event.is_user_annotation for event in on_device)
