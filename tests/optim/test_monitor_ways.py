"""``fastopt.monitor`` as an object: which steps and parameters it measures, names, tables, copies, and what it
refuses."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from fastopt.optim._monitored import Tables
from support import HAS_NAMES, called, named, running, some_values


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_steps_that_leave_out(backend: str) -> None:
    """Parameters without a gradient are not there; skipped and failed steps change nothing."""
    with running(backend):
        params = [torch.ones(3, requires_grad=True) for _ in range(3)]
        optimizer = fastopt.Adam([{"params": params[:2]}, {"params": params[2:]}])
        monitor = fastopt.monitor(optimizer)
        assert monitor.latest == []
        assert monitor.as_dict() == {}
        params[0].grad = params[2].grad = torch.ones(3)
        optimizer.step()
        assert [one.name for one in monitor.latest] == ["parameter 0 of group 0", "parameter 0 of group 1"]
        first = monitor.latest

        optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.ones(())
        params[0].grad = torch.full((3,), 5.0)
        optimizer.step()
        assert monitor.latest == first
        del optimizer.found_inf, optimizer.grad_scale

        params[2].grad = params[0].grad
        params[1].grad = torch.ones(3)
        params[1].data = params[0].data
        with pytest.raises(RuntimeError, match="shares memory"):
            optimizer.step()
        assert monitor.latest == first

        optimizer.zero_grad()
        optimizer.step()
        assert monitor.latest == []


def test_every() -> None:
    param = torch.ones(4, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=0.0)
    monitor = fastopt.monitor(optimizer, every=3)
    seen = []
    for step in range(7):
        param.grad = torch.full((4,), float(step))
        optimizer.step()
        seen.append(monitor.latest[0].grad_norm / 2)
    assert seen == [0, 0, 0, 3, 3, 3, 6]


def _named() -> tuple[dict[str, Tensor], Any]:
    params = {"weight": torch.ones(2, 2, requires_grad=True), "bias": torch.zeros(2, requires_grad=True)}
    optimizer = fastopt.SGD(named(**params), lr=0.5)
    params["weight"].grad, params["bias"].grad = torch.full((2, 2), 0.5), torch.tensor([0.0, math.nan])
    return params, optimizer


def test_names_and_dict() -> None:
    _, optimizer = _named()
    monitor = fastopt.monitor(optimizer)
    optimizer.step()
    weight, bias = ("weight", "bias") if HAS_NAMES else (f"parameter {i} of group 0" for i in range(2))
    values = monitor.as_dict()
    assert list(values)[:2] == [f"grad_norm/{weight}", f"grad_norm/{bias}"]
    assert len(values) == 10
    assert values[f"grad_norm/{weight}"] == 1.0
    assert values[f"update_norm/{weight}"] == 0.5
    assert values[f"param_norm/{weight}"] == 1.5
    assert values[f"ratio/{weight}"] == 0.5 / 1.5
    assert values[f"non_finite/{bias}"] == 1


def test_ratio_of_zeros() -> None:
    params = [torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)]
    monitor = fastopt.monitor(optimizer := fastopt.SGD(params, lr=1.0))
    params[0].grad, params[1].grad = torch.zeros(2), torch.ones(2)
    optimizer.step()
    assert [one.ratio for one in monitor.latest] == [0.0, math.inf]


def test_table() -> None:
    rich = pytest.importorskip("rich.console", reason="needs rich")
    _, optimizer = _named()
    monitor = fastopt.monitor(optimizer)
    optimizer.step()
    console = rich.Console(width=100, record=True, file=io.StringIO())
    console.print(monitor.table())
    lines = console.export_text().splitlines()
    first, second = ("bias", "weight") if HAS_NAMES else ("parameter 1", "parameter 0")
    rows = [line for line in lines if first in line or second in line]
    assert first in rows[0]  # NaN comes first
    assert second in rows[1]
    assert "0.333" in rows[1]


def test_table_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer = _named()
    monkeypatch.setitem(sys.modules, "rich.table", None)
    with pytest.raises(ImportError, match="pip install rich"):
        fastopt.monitor(optimizer).table()


def test_groups_and_checkpoints_keep_it() -> None:
    _, optimizer = _named()
    monitor = fastopt.monitor(optimizer)
    optimizer.step()
    before = monitor.latest
    more = torch.ones(3, requires_grad=True)
    optimizer.add_param_group({"params": named(more=more)})
    assert repr(monitor.latest) == repr(before)
    more.grad = torch.ones(3)
    optimizer.step()
    assert len(monitor.latest) == 3
    optimizer.load_state_dict(optimizer.state_dict())
    fastopt.switch(optimizer, fastopt.AdamW, lr=0.1)
    more.grad = torch.full((3,), 2.0)
    optimizer.step()
    assert monitor.latest[2].grad_norm == pytest.approx(math.sqrt(12))


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
@pytest.mark.parametrize("wrapped", [False, True])
def test_copies_have_none(copied: Any, wrapped: bool) -> None:
    param = torch.ones(3, requires_grad=True)
    inner = fastopt.Adam([param])
    optimizer = fastopt.Lookahead(inner) if wrapped else inner
    monitor = fastopt.monitor(optimizer)
    param.grad = torch.ones(3)
    optimizer.step()
    before = monitor.latest
    other = copied(optimizer)
    if not wrapped:
        assert "_monitor" not in other.__dict__
    if copied is not copy.copy:
        other.param_groups[0]["params"][0].grad = torch.full((3,), 7.0)
        other.step()
        assert monitor.latest == before


def test_it_ends() -> None:
    """By remove(), by a second one that takes its place, and when nobody has it any more."""
    param = torch.ones(1, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=0.0)
    first = fastopt.monitor(optimizer)

    def step(value: float) -> None:
        param.grad = torch.tensor([value])
        optimizer.step()

    step(1.0)
    second = fastopt.monitor(optimizer)
    first.remove()
    step(2.0)
    assert [monitor.latest[0].grad_norm for monitor in (first, second)] == [1, 2]
    second.remove()
    second.remove()
    step(3.0)
    assert second.latest[0].grad_norm == 2
    third = fastopt.monitor(optimizer)
    step(4.0)
    known = weakref.ref(third)
    del third
    gc.collect()
    assert known() is None
    step(5.0)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_lookahead_measures_the_inner_step(backend: str) -> None:
    """The synchronisation after every second step moves the parameter, but is no update of the inner optimizer."""
    with running(backend):
        param = torch.zeros(1, requires_grad=True)
        optimizer = fastopt.Lookahead(fastopt.SGD([param], lr=1.0), k=2, alpha=0.5)
        monitor = fastopt.monitor(optimizer)
        for _ in range(2):
            param.grad = torch.ones(1)
            optimizer.step()
        assert param.item() == -1
        assert monitor.latest[0][1:5] == (1, 2, 1, 0.5)


def _strided(seed: int) -> list[Tensor]:
    values = [some_values((8, 16, 6, 7), torch.float32, seed), some_values((66, 65), torch.float32, seed + 1)]
    gaps = some_values((70, 130), torch.float32, seed + 2)
    return [values[0].contiguous(memory_format=torch.channels_last), values[1].t(), gaps[:, ::2]]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("ours", [fastopt.AdamW, fastopt.Adafactor])
def test_odd_layouts(ours: Any, backend: str) -> None:
    """Also complex numbers, whose norm is that of their real and imaginary parts, where the optimizer takes them."""
    with running(backend):
        params = _strided(1) + ([torch.tensor([3 + 4j, 1j])] if ours is fastopt.AdamW else [])
        params = [param.requires_grad_() for param in params]
        monitor = fastopt.monitor(optimizer := ours(params, lr=0.1))
        for seed in (5, 9):
            grads = [*reversed(_strided(seed)[:1]), *_strided(seed)[1:], torch.tensor([complex(math.inf, 1), 2])]
            before = [param.detach().clone() for param in params]
            for param, grad in zip(params, grads, strict=False):
                param.grad = grad
            optimizer.step()
        for param, old, found in zip(params, before, monitor.latest, strict=True):
            wide = torch.complex128 if param.is_complex() else torch.float64
            update = float((param.detach().to(wide) - old.to(wide)).norm())
            assert found.param_norm == pytest.approx(float(param.detach().to(wide).norm()), rel=1e-6, nan_ok=True)
            assert found.update_norm == pytest.approx(update, rel=1e-6, nan_ok=True)
            assert found.grad_norm == pytest.approx(float(param.grad.to(wide).norm()), rel=1e-6)
            assert found.non_finite == int(param.is_complex())


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_sparse_gradients(backend: str) -> None:
    """Momentum moves every row, so the step knows the whole gradient; otherwise it sees the touched rows alone."""
    with running(backend):
        param = torch.ones(4, 2, requires_grad=True)
        param.grad = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, 2), (4, 2), check_invariants=False)
        monitor = fastopt.monitor(optimizer := fastopt.SGD([param], lr=1.0, momentum=0.9))
        optimizer.step()
        assert monitor.latest[0].grad_norm == pytest.approx(math.sqrt(8))
        assert monitor.latest[0].param_norm == pytest.approx(math.sqrt(6 + 2))

        table = torch.ones(4, 2, requires_grad=True)
        table.grad = param.grad
        optimizer = fastopt.SGD(named(table=table), lr=1.0)
        monitor = fastopt.monitor(optimizer)
        with pytest.raises(RuntimeError, match=rf"{called('table')} has a sparse gradient.*remove\(\) the monitor"):
            optimizer.step()
        assert (table == 1).all()
        monitor.remove()
        optimizer.step()
        assert (table[1] == -1).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda p: (torch.optim.SGD([p]),), TypeError, "monitor is for fastopt's optimizers, not a SGD"),
        (lambda p: (fastopt.Lookahead(torch.optim.SGD([p])),), TypeError, "not a SGD"),
        (lambda p: (fastopt.SGD([p]), 0), ValueError, "Invalid every value: 0"),
        (lambda p: (fastopt.SGD([p]), 2.0), TypeError, "every must be an integer, not float"),
        (lambda p: (fastopt.SGD([p]), True), TypeError, "every must be an integer, not bool"),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.monitor(*arguments(torch.ones(1, requires_grad=True)))


def test_the_engine_refuses_a_wrong_table() -> None:
    params = [torch.ones(1, requires_grad=True) for _ in range(2)]
    params[1].grad = torch.ones(1)
    optimizer = fastopt.SGD(params, lr=1.0)
    monitor = fastopt.monitor(optimizer)

    def give(table: Tensor) -> None:
        tables = Tables(2)
        tables.of = lambda param: table  # type: ignore[method-assign]
        monitor.tables_of_step = lambda: tables  # type: ignore[method-assign]

    for table in (
        torch.zeros(2, 4),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(4, 2, dtype=torch.float64).t(),
        torch.zeros(2, 4, dtype=torch.float64, device="meta"),
    ):
        give(table)
        with pytest.raises(TypeError, match="float64 tensor of four columns on the device of the parameter"):
            optimizer.step()
    give(torch.zeros(1, 4, dtype=torch.float64))
    with pytest.raises(IndexError, match="no such row"):
        optimizer.step()
    assert params[1].item() == 1


def test_tables_of_several_devices() -> None:
    """A row is read where it was measured. Tables are used again, or their numbers are taken over."""
    first, second = (SimpleNamespace(device=torch.device("cpu", i)) for i in range(2))
    tables = Tables(3)
    tables.of(first)[0] = tables.of(second)[2] = torch.tensor([1.0, math.nan, 3.0, 4.0])
    assert repr(tables.read()) == repr([[1.0, math.nan, 3.0, 4.0], [math.nan] * 4, [1.0, math.nan, 3.0, 4.0]])
    assert Tables(3, tables).of(first) is tables.of(first)
    assert Tables(3).read() == Tables(3, tables).read() == []
    for rows in (2, 4):
        other = Tables(rows, tables)
        assert repr(other.of(first)[:2]) == repr(tables.of(first)[:2])
        assert other.of(first).shape == (rows, 4)
        assert other.of(first)[3:].isnan().all()


def test_figure() -> None:
    """Its bars are the ratios; red marks a gradient that is not finite."""
    pytest.importorskip("matplotlib", reason="figure() needs matplotlib")
    params = [torch.ones(3, requires_grad=True) for _ in range(3)]
    optimizer = fastopt.SGD(named(first=params[0], second=params[1], third=params[2]), lr=0.1)
    monitor = fastopt.monitor(optimizer)
    for param in params:
        param.grad = torch.ones(3)
    params[1].grad[1] = torch.inf
    optimizer.step()
    (axes,) = monitor.figure().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [one.name for one in monitor.latest]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [one.ratio if one.name != "second" and not one.non_finite else 0.0 for one in monitor.latest]
    colours = [bar.get_facecolor()[0] > bar.get_facecolor()[2] for bar in axes.patches]
    assert colours == [False, True, False]


def test_figure_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    optimizer = fastopt.SGD([torch.ones(3, requires_grad=True)], lr=0.1)
    with pytest.raises(ImportError, match=r"figure\(\) needs matplotlib"):
        fastopt.monitor(optimizer).figure()
