"""The bench runs: on the CPU, and with everything of ``--device cuda`` but the GPU."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

pytest.importorskip("rich", reason="needs the extra 'bench'")
import bench.__main__ as program
from bench import peers
from bench.cases import cases
from bench.machine import Gpu

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The program with these arguments: its exit status, and the figures it wrote."""

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        written = tmp_path / "figures.json"
        status = program.main(["--quick", "--json", str(written), *arguments])
        return status, json.loads(written.read_text())

    return call


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_are_unique(device: str) -> None:
    names = [case.name for case in cases(device)]
    assert len(set(names)) == len(names)


def test_cpu(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, figures = run("--only", "Adam, MLP")
    assert status == 0
    assert figures["machine"].keys() == {"cpu", "threads"}
    (case,) = figures["cases"]
    assert case["seconds"].keys() == {"fastopt", *(f"torch {way}" for way in peers.VARIANTS)}
    assert case["launches"] == {}
    printed = capsys.readouterr().out
    assert "x floor" in printed
    assert "launches" not in printed


def test_table_in_markdown(run: Run, tmp_path: Path) -> None:
    run("--only", "dropout, 1k", "--markdown", str(tmp_path / "table.md"))
    title, empty, head, line, row, *rest = (tmp_path / "table.md").read_text().split("\n")
    assert "torch" in title
    assert not empty
    assert head == "| case | us/step | GB/s | x torch best | x torch default | x floor |"
    assert line == "| --- | --: | --: | --: | --: | --: |"
    assert row.startswith("| dropout, 1k | ")
    assert rest == [""]


def test_what_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Gpu.missing() == "torch finds no GPU"
    monkeypatch.setattr(Gpu, "missing", lambda: "that")
    for arguments, message in [(["--device", "cuda"], "--device cuda: that"), (["--only", "?"], "no case has '?'")]:
        with pytest.raises(SystemExit):
            program.main(arguments)
        assert message in capsys.readouterr().err
    monkeypatch.setattr(Gpu, "missing", lambda: "")
    with pytest.raises(SystemExit):
        program.main(["--device", "cuda", "--threads", "2"])
    assert "--threads is for --device cpu" in capsys.readouterr().err


class Event:
    """The CPU's clock as an event of a stream."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.seconds - self.seconds) * 1e3


class Profile:
    """Of two kernels, what launched them, and a range around them."""

    def __init__(self, activities: list[Any]) -> None:
        kernel = SimpleNamespace(device_type=DeviceType.CUDA, is_user_annotation=False)
        launch = SimpleNamespace(device_type=DeviceType.CPU, is_user_annotation=False)
        region = SimpleNamespace(device_type=DeviceType.CUDA, is_user_annotation=True)
        self.events = lambda: [launch, kernel, launch, kernel, region]

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU that says it was a GPU."""
    about = SimpleNamespace(name="a GPU", major=9, minor=0, multi_processor_count=132, total_memory=1 << 37)
    monkeypatch.setattr(Gpu, "missing", lambda: "")
    monkeypatch.setattr(Gpu, "device", torch.device("cpu"))
    monkeypatch.setattr(Gpu, "copied", 1 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.profiler, "profile", Profile)


def test_cuda(pretended: None, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A case of each family."""
    for only in ("Adam, MLP", "dropout forward + backward, 1k", "batch_norm forward + backward 32x64"):
        status, figures = run("--device", "cuda", "--only", only)
        assert (status, figures["failures"]) == (0, [])
        assert figures["machine"]["gpu"] == "a GPU"
        assert figures["machine"]["copy"] > 0
        for case in figures["cases"]:
            assert {"fastopt", "torch default", "copy"} <= case["seconds"].keys()
            assert case["floor"] == "copy"
            assert case["launches"] == {"fastopt": 2, case["best"]: 2}
        printed = capsys.readouterr().out
        for what in ("a GPU, driver", "launches", "2 / 2", "read and written"):
            assert what in printed
        for package, here in peers.packages_on_cuda().items():
            assert (f"{package} is not installed" in printed) != here


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name, in which Adam works and SGD does not."""

    class FusedAdam(torch.optim.Adam):
        def __init__(self, params: Any, lr: float, adam_w_mode: bool = True) -> None:
            super().__init__(params, lr, fused=True)

    class FusedSGD(torch.optim.SGD):
        def step(self) -> None:
            raise RuntimeError("apex was built without this\nand more")

    for name, more in {"apex": {}, "apex.optimizers": {"FusedAdam": FusedAdam, "FusedSGD": FusedSGD}}.items():
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(more)
        monkeypatch.setitem(sys.modules, name, module)


def test_other_packages(apex: None, pretended: None, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, figures = run("--device", "cuda", "--only", "MLP of 10")
    assert status == 0
    adam, sgd = figures["cases"]
    assert "apex default" in adam["seconds"]
    assert adam["best"].startswith("torch ")
    assert "apex default" not in sgd["seconds"]
    assert "SGD momentum, MLP of 10 parameters, without apex default: apex was built without this" in figures["notes"]
    printed = capsys.readouterr().out
    assert "x apex" in printed
    assert "apex is not installed" not in printed


def test_a_case_that_fails_does_not_hide_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = (case for case in cases("cpu") if case.name.endswith("MLP of 10 parameters"))

    def fail(_: object) -> Any:
        raise RuntimeError("there is no such kernel")

    monkeypatch.setattr(program, "cases", lambda _: [replace(bad, ours=fail), good])
    status, figures = run()
    assert status == 1
    assert [case["case"] for case in figures["cases"]] == [good.name]
    assert f"FAILED: {bad.name}: RuntimeError: there is no such kernel" in capsys.readouterr().out


def test_an_interruption_leaves_the_figures_so_far(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = (case for case in cases("cpu") if case.name.endswith("MLP of 10 parameters"))

    def interrupt(_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "cases", lambda _: [good, replace(other, ours=interrupt)])
    status, figures = run()
    assert status == 1
    assert [case["case"] for case in figures["cases"]] == [good.name]
    assert figures["failures"] == ["STOPPED after 1 of 2 cases"]
