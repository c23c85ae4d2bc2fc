"""Scenarios that several processes (gloo, on the CPU) run together, and the test that starts them.

A module of scenarios ends with ``work(SCENARIOS)`` and is started once per process: ``python module.py RANK PROCESSES
FOLDER``. Each scenario has a separate process group, so that its failure does not affect the others. A process writes
``{scenario: ""}``, or what went wrong, to the folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch.distributed.optim scripts functions when it is imported.
TORCHS_OWN = ["-W", "ignore::DeprecationWarning:torch.jit._script"]


class Scenarios(dict[str, Callable[[], None]]):
    """Scenarios by name; calling it as a decorator adds one."""

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self[function.__name__] = function
        return function


def everyones(tensor: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor.contiguous())
    return gathered


def refused(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    """pytest.raises for processes that do not import pytest."""
    try:
        call()
    except error as seen:
        assert re.search(text, str(seen)), seen  # noqa: PT017
    else:
        raise AssertionError(f"no error: {text}")


def work(scenarios: Scenarios) -> None:
    """Runs all scenarios in one of the processes."""
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    results = {}
    for name, run in scenarios.items():
        options = {"rank": rank, "world_size": world_size, "timeout": timedelta(seconds=60)}
        try:
            dist.init_process_group("gloo", init_method=f"file://{folder / name}", **options)
            dist.barrier()  # leaving early would cut connections that others are still making
            with warnings.catch_warnings():
                run()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(results))
    sys.stdout.flush()
    # DTensor's caches keep process groups, and a gloo thread that releases a Python tensor at exit aborts.
    os._exit(0)


def outcomes(script: str, world_size: int, folder: Path) -> list[dict[str, str]]:
    """The failures of all scenarios of a module, by process."""
    python = [sys.executable, "-W", "error", *TORCHS_OWN]
    commands = [[*python, script, str(rank), str(world_size), str(folder)] for rank in range(world_size)]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    running = [
        subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * world_size, "\n".join(outputs)[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


def assert_none_failed(script: Path, world_size: int, folder: Path) -> None:
    """Runs a module in so many processes, and names every scenario that has failed in one of them."""
    wrong = [
        f"{name}, process {rank}:\n{text}"
        for rank, scenarios in enumerate(outcomes(str(script), world_size, folder))
        for name, text in scenarios.items()
        if text
    ]
    assert not wrong, "\n".join(wrong)[:8000]
