"""The number of threads that each process has, and the note about it; the example under torchrun."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastopt
from fastopt import _processes
from support import TORCH

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_distributed.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package"),
]


def run(command: list[str], **variables: str) -> str:
    without = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE")}
    done = subprocess.run(
        command, env={**without, **variables}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    ("processes", "cores", "threads", "said"),
    [
        (1, 8, 8, None),
        (1, 8, 2, None),  # as the user chose
        (1, 2, 4, "threads of each: 4, cores: 2; torch.set_num_threads(2)"),
        (2, 8, 4, None),
        (2, 8, 1, "threads of each: 1 (OMP_NUM_THREADS=1, as torchrun sets it), cores: 8; torch.set_num_threads(4)"),
        (2, 8, 8, "processes on this machine: 2, threads of each: 8, cores: 8; torch.set_num_threads(4)"),
        (4, 2, 1, None),  # there is no less than one thread
        (3, 8, 2, None),
    ],
)
def test_threads_are_the_processs_share(
    monkeypatch: pytest.MonkeyPatch, processes: int, cores: int, threads: int, said: str | None
) -> None:
    monkeypatch.setattr(_processes, "cores", lambda: cores)
    monkeypatch.setattr(_processes, "launchers_cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if processes > 1:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    else:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    note = _processes.thread_note(threads)
    assert said in note if said else note == ""
    assert fastopt.info()["in_use"]["processes"] == processes


def test_a_users_choice_is_not_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processes, "cores", lambda: 8)
    monkeypatch.setattr(_processes, "launchers_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "threads of each: 1, cores: 8" in _processes.thread_note(1)


@pytest.mark.parametrize(
    ("processes", "own", "launchers", "budget"),
    [
        (1, 8, 8, 8),
        (2, 8, 8, 4),
        (2, 4, 8, 4),  # the launcher has bound each process to cores of its own
        (2, 8, 0, 4),  # the system tells nothing of other processes
        (4, 2, 2, 1),
    ],
)
def test_the_budget_of_an_offloaded_step(
    monkeypatch: pytest.MonkeyPatch, processes: int, own: int, launchers: int, budget: int
) -> None:
    monkeypatch.setattr(_processes, "cores", lambda: own)
    monkeypatch.setattr(_processes, "launchers_cores", lambda: launchers)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert fastopt.info()["in_use"]["offload_threads"] == budget


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or _processes.cores() < 2, reason="binds a process to a core")
def test_a_process_that_is_bound_to_cores_does_not_share_them() -> None:
    script = "import os, fastopt; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(fastopt.info())"
    assert "'offload_threads': 1," in run([sys.executable, "-c", script], LOCAL_WORLD_SIZE="2")


OFFLOAD = """
import os, time, torch, fastopt
params = [torch.nn.Parameter(torch.ones(2**22, dtype=torch.bfloat16)) for _ in range(4)]
optimizer = fastopt.offload(fastopt.AdamW(params, master="split"))
times = []
for _ in range(12):
    sum(p.sum() for p in params).backward()
    begin = time.perf_counter()
    optimizer.step()
    times.append(time.perf_counter() - begin)
    optimizer.zero_grad()
print(os.environ["RANK"], fastopt.info()["in_use"]["offload_threads"], sum(times[2:]), params[0][0].item(), flush=True)
"""


def test_offload_in_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(OFFLOAD)
    lines = [line.split() for line in run([*TORCHRUN, str(script)]).splitlines()]
    assert sorted(line[0] for line in lines) == ["0", "1"]
    assert {int(line[1]) for line in lines} == {max(_processes.cores() // 2, 1)}
    assert len({line[3] for line in lines}) == 1


@pytest.mark.parametrize("value", ["", "0", "-1", "two"])
def test_other_launchers_mean_one_process(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    assert _processes.on_this_machine() == 1


@pytest.mark.skipif(_processes.cores() < 4, reason="torchrun's one thread is two processes' share of these cores")
def test_torchruns_one_thread_is_reported(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, os, fastopt; print(json.dumps(fastopt.info()), flush=True)")
    for line in run([*TORCHRUN, str(script)]).splitlines():
        assert any("OMP_NUM_THREADS=1" in note for note in json.loads(line)["notes"])


@pytest.mark.skipif(TORCH < (2, 6), reason="fully_shard and DTensor are public from torch 2.6 on")
def test_example(tmp_path: Path) -> None:
    """Sharded or not, interrupted or not, the example prints the same epochs."""

    def epochs(*arguments: str) -> list[str]:
        output = run([*TORCHRUN, str(EXAMPLE), *arguments])
        assert f"2 processes with {max(_processes.cores() // 2, 1)} thread" in output
        accuracy = re.search(r"test accuracy ([\d.]+)%", output)
        assert accuracy is not None
        assert float(accuracy[1]) > 80
        return re.findall(r"epoch +\d+: .*", output)

    whole = epochs("--epochs", "3")
    assert len(set(whole)) == 3
    checkpoint = ("--checkpoint", str(tmp_path))
    assert [*epochs("--sharded", "--epochs", "2", *checkpoint), *epochs("--epochs", "1", *checkpoint)] == whole


@pytest.mark.skipif(TORCH < (2, 6), reason="fully_shard is public from torch 2.6 on")
def test_example_of_offload() -> None:
    output = run(
        [*TORCHRUN, str(EXAMPLE.with_name("fsdp_offload.py")), "--width", "64", "--layers", "1", "--steps", "2"]
    )
    kept = [float(megabytes) for megabytes in re.findall(r"ms a step, +([\d.]+) MB", output)]
    assert kept == pytest.approx([0.2, 0.2, 0.2, 0.1], abs=0.05)  # half of 12, 12, 12 and 8 bytes for 33k parameters
