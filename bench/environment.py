"""What was measured, with which software and on which hardware: stored with the figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import fastopt


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def caches() -> dict[str, str]:
    """Sizes of the first core's caches, as the system reports them: ``{"L2": "2048K"}``."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def said(*command: str) -> str:
    """The first line that a program prints; "" if it cannot be run."""
    if shutil.which(command[0]) is None:
        return ""
    here = Path(__file__).parent
    lines = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here).stdout.splitlines()
    return lines[0].strip() if lines else ""


def commit() -> str:
    """The commit of the bench, with a plus sign if files have changed since; "" outside a checkout."""
    found = said("git", "rev-parse", "--short=10", "HEAD")
    return f"{found}+" if found and said("git", "status", "--porcelain", "--untracked-files=no") else found


def everything(flags: list[str], peers: dict[str, str]) -> dict[str, Any]:
    """All of the above.

    Args:
        flags: the arguments of the run.
        peers: versions of the other packages that are measured; "" if one is absent.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "flags": flags,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "caches": caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "fastopt")},
        "torch": torch.__config__.show(),  # type: ignore[no-untyped-call]
        "peers": peers,
        "fastopt": fastopt.info(),
    }
