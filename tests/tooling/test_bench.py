"""The bench runs on the CPU, and all of ``--device cuda`` except the GPU itself runs."""

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
from bench import peers, zoo
from bench.cases import FAMILIES, cases, in_turn
from bench.figures import read
from bench.machine import Gpu
from bench.operation import Case

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the program with arguments; returns its exit status and the figures that it wrote."""

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        written = tmp_path / "figures.json"
        status = program.main(["--quick", "--seconds", "0.01", "--json", str(written), *arguments])
        return status, json.loads(written.read_text())

    return call


def named(name: str) -> Case:
    return next(case for case in cases("cpu") if case.name == name)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_are_unique(device: str) -> None:
    names = [case.name for case in cases(device)]
    assert len(set(names)) == len(names)


def test_families_are_all_there() -> None:
    assert {case.family for case in cases("cpu")} == set(FAMILIES)


def test_cpu(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, figures = run("--only", "Adam, MLP, 10 tensors", "--family", "optimizers")
    assert (status, figures["failures"]) == (0, [])
    about = figures["about"]
    assert {"date", "commit", "flags", "cpu", "caches", "system", "python", "versions", "fastopt"} <= about.keys()
    assert about["fastopt"]["built"]["compiler"]
    assert about["flags"][0] == "--quick"
    assert [row["caches"] for row in figures["rows"]] == ["cold", "hot"]
    for row in figures["rows"]:
        assert row["case"].endswith(", hot") == (row["caches"] == "hot")
        assert {"fastopt", "ceiling", *(f"torch {way}" for way in peers.VARIANTS)} <= row["rounds"].keys()
        assert row["launches"] == {}
        assert row["differs"] == {}
    printed = capsys.readouterr().out
    for what in ("Optimizers", "of ceiling", "x torch"):
        assert what in printed
    assert "launches" not in printed
    for package, version in about["peers"].items():
        assert (f"{package} is not installed" in printed) != bool(version)


def test_a_part_is_taken_from_all_families_in_turn(
    pretended: None, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order = in_turn(cases("cuda"))
    assert sorted(case.name for case in order) == sorted(case.name for case in cases("cuda"))
    groups = {(case.family, case.input.dtype) for case in order}
    assert {(case.family, case.input.dtype) for case in order[: len(groups)]} == groups
    small = [case for case in cases("cuda") if "MLP" in case.name or "1k" in case.name]
    monkeypatch.setattr(program, "cases", lambda device: small)
    wanted = [case.name for case in in_turn(small)]
    assert wanted != [case.name for case in small]
    found = []
    for part in (":2", "2:3", "3:"):
        status, figures = run("--device", "cuda", "--part", part, "--markdown", str(tmp_path / "tables.md"))
        assert status == 0
        found += [row["case"] for row in figures["rows"]]
    assert found == wanted
    assert "| `update_vectors<OnePass<Adam>>` | 2.5 |" in (tmp_path / "tables.md").read_text()


def test_a_run_that_is_killed_leaves_its_figures(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    row, seen = program.Run._row, []

    def once(self: Any, case: Case) -> Any:
        if seen:
            raise Killed
        seen.append(case.name)
        return row(self, case)

    monkeypatch.setattr(program.Run, "_row", once)
    with pytest.raises(Killed):
        run("--family", "optimizers", "--only", "MLP")
    left = read(tmp_path / "figures.json")
    assert [row.case for row in left.rows] == seen
    assert left.about["cpu"]


def test_families_and_threads(run: Run) -> None:
    status, figures = run("--family", "dropout", "--only", "1k", "--threads", "1")
    assert status == 0
    assert {row["family"] for row in figures["rows"]} == {"dropout"}
    assert {row["threads"] for row in figures["rows"]} == {1}
    assert "dropout" in figures["kept_for_backward"] or figures["kept_for_backward"] == {}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ModuleNotFoundError("No module named 'absent'", name="absent"), "absent is not installed"),
        (RuntimeError("operator does not exist\nat all"), "absent cannot be imported: operator does not exist"),
    ],
    ids=["missing", "broken"],
)
def test_a_model_of_an_absent_package_is_skipped(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def fail(_: str) -> Any:
        raise error

    case = named("Adam, MLP, 10 tensors")
    absent = replace(case, operation=replace(case.operation, package="absent"))
    monkeypatch.setattr(program, "cases", lambda _: [absent, case])
    zoo.unusable.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(zoo.importlib, "import_module", fail)
        assert zoo.unusable("absent") == why
    status, figures = run()
    assert status == 0
    assert [row["case"] for row in figures["rows"]] == [case.name]
    assert f"{case.name}: skipped, {why}" in figures["notes"]


def test_what_a_backward_pass_keeps(run: Run) -> None:
    _, figures = run("--only", "dropout")
    assert figures["kept_for_backward"]["dropout"] == {"fastopt": 0, "torch default": 4}


def test_a_wrong_result_is_told_and_does_not_count(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """torch 2.13's fused SGD skips whole vectors of half types."""
    case = named("SGD momentum, MLP, 10 tensors")
    half = replace(case, input=replace(case.input, dtype=torch.bfloat16))

    def lazy(tensors: list[torch.Tensor]) -> Callable[[], object]:
        return lambda: None

    others = {"torch lazy": lazy, "torch default": case.operation.others["torch default"]}
    monkeypatch.setattr(program, "cases", lambda _: [replace(half, operation=replace(half.operation, others=others))])
    status, figures = run()
    assert status == 0
    (row,) = figures["rows"]
    assert list(row["differs"]) == ["torch lazy"]
    assert "SGD momentum, MLP, 10 tensors, torch lazy: its result differs" in capsys.readouterr().out


def test_what_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Gpu.missing() == "torch finds no GPU"
    monkeypatch.setattr(Gpu, "missing", lambda: "that")
    wrong = [
        (["--device", "cuda"], "--device cuda: that"),
        (["--only", "?"], "no such case has '?'"),
        (["--family", "?"], "invalid choice"),
        (["--read", "/nowhere"], "No such file"),
    ]
    for arguments, message in wrong:
        with pytest.raises(SystemExit):
            program.main(arguments)
        assert message in capsys.readouterr().err
    monkeypatch.setattr(Gpu, "missing", lambda: "")
    with pytest.raises(SystemExit):
        program.main(["--device", "cuda", "--threads", "2"])
    assert "--threads is for --device cpu" in capsys.readouterr().err


class Event:
    """The CPU's clock, as an event of a stream."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.seconds - self.seconds) * 1e3


class Profile:
    """A profile of two kernels, their launches, and a range around them."""

    def __init__(self, activities: list[Any]) -> None:
        name = "void fastopt::cuda::(anonymous namespace)::update_vectors<fastopt::OnePass<fastopt::Adam>>(Tensors)"
        took = SimpleNamespace(elapsed_us=lambda: 2.5)
        kernel = SimpleNamespace(name=name, time_range=took, device_type=DeviceType.CUDA, is_user_annotation=False)
        launch = SimpleNamespace(device_type=DeviceType.CPU, is_user_annotation=False)
        region = SimpleNamespace(device_type=DeviceType.CUDA, is_user_annotation=True)
        self.events = lambda: [launch, kernel, launch, kernel, region]

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU that pretends to be a GPU."""
    about = SimpleNamespace(name="a GPU", major=9, minor=0, multi_processor_count=132, total_memory=1 << 37)
    monkeypatch.setattr(Gpu, "missing", lambda: "")
    monkeypatch.setattr(Gpu, "device", torch.device("cpu"))
    monkeypatch.setattr(Gpu, "copied", 1 << 20)
    monkeypatch.setattr(Gpu, "evicted", 1 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.profiler, "profile", Profile)


def test_cuda(pretended: None, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A case of each family is measured."""
    for only in ("Adam, MLP", "dropout forward + backward, 1k", "batch_norm forward + backward, 32x64"):
        status, figures = run("--device", "cuda", "--only", only)
        assert (status, figures["failures"]) == (0, [])
        assert figures["about"]["gpu"] == "a GPU"
        assert figures["about"]["copy"] > 0
        for row in figures["rows"]:
            assert {"fastopt", "torch default", "ceiling"} <= row["rounds"].keys()
            assert len(row["launches"]) == 2
            assert set(row["launches"].values()) == {2}
            assert row["kernels"] == [["update_vectors<OnePass<Adam>>", 2.5]] * 2
        printed = capsys.readouterr().out
        for what in ("a GPU, driver", "launches", "2 / 2", "read and written"):
            assert what in printed
        for package, version in peers.packages(peers.ON_CUDA).items():
            assert (f"{package} is not installed" in printed) != bool(version)


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of that name, whose Adam works and whose SGD fails."""

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
    from bench.optimizers import operation

    operation.cache_clear()
    yield
    operation.cache_clear()


def test_other_packages(apex: None, pretended: None, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, figures = run("--device", "cuda", "--family", "optimizers", "--only", "MLP")
    assert status == 0
    adam, sgd = figures["rows"]
    assert "apex default" in adam["rounds"]
    assert "apex default" not in sgd["rounds"]
    assert "SGD momentum, MLP, 10 tensors, without apex default: apex was built without this" in figures["notes"]
    printed = capsys.readouterr().out
    assert "x others" in printed
    assert "apex is not installed" not in printed


def test_a_case_that_fails_does_not_hide_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = named("Adam, MLP, 10 tensors"), named("SGD momentum, MLP, 10 tensors")

    def fail(_: object) -> Any:
        raise RuntimeError("there is no such kernel")

    monkeypatch.setattr(program, "cases", lambda _: [replace(bad, operation=replace(bad.operation, ours=fail)), good])
    status, figures = run()
    assert status == 1
    assert [row["case"] for row in figures["rows"]] == [good.name]
    assert f"FAILED: {bad.name}: RuntimeError: there is no such kernel" in capsys.readouterr().out


def test_an_interruption_leaves_the_figures_so_far(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = named("Adam, MLP, 10 tensors"), named("SGD momentum, MLP, 10 tensors")

    def interrupt(_: object) -> Any:
        raise KeyboardInterrupt

    stopped = replace(other, operation=replace(other.operation, ours=interrupt))
    monkeypatch.setattr(program, "cases", lambda _: [good, stopped])
    status, figures = run()
    assert status == 1
    assert [row["case"] for row in figures["rows"]] == [good.name]
    assert figures["failures"] == ["STOPPED after 1 of 2 cases"]
