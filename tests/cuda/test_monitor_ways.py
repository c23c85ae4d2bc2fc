"""``fastopt.monitor`` on a device: steps that leave out, that the device skips, launches, graphs, several devices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from gpu import DEVICE, REAL, emulator, gpu
from monitor_cases import step_on
from support import assert_same_bits, some_values

ON_A_GPU = pytest.mark.skipif(not REAL, reason="needs a GPU as well as the CPU")


def _two(**options: Any) -> tuple[Any, list[Tensor]]:
    params = [torch.ones(n, device=DEVICE, requires_grad=True) for n in (5000, 3)]
    for param in params:
        param.grad = torch.ones_like(param)
    return fastopt.AdamW([{"params": params[:1]}, {"params": params[1:]}], **options), params


def test_steps_that_leave_out() -> None:
    """Parameters without a gradient are not there, and failed steps change nothing."""
    with gpu():
        optimizer, params = _two()
        monitor = fastopt.monitor(optimizer, every=2)
        params[0].grad = None
        optimizer.step()
        assert [one.name for one in monitor.latest] == ["parameter 0 of group 1"]
        optimizer.step()
        first = monitor.latest
        params[0].grad = params[1].data.new_ones(5000)
        data, params[1].data = params[1].data, params[0].data[:3]
        with pytest.raises(RuntimeError, match="shares memory"):
            optimizer.step()
        assert monitor.latest == first
        params[1].data = data
        optimizer.step()
        assert len(monitor.latest) == 2
        assert monitor.latest[0].grad_norm == math.sqrt(5000)
        optimizer.step()
        optimizer.zero_grad()
        optimizer.step()
        assert monitor.latest == []


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("ours", [fastopt.AdamW, fastopt.LAMB, fastopt.Prodigy])
def test_the_device_skips(ours: Any, grows: bool) -> None:
    """The numbers stay those of the step before, also of parameters whose gradient is gone, and in a larger table."""
    with gpu():
        params = [torch.ones(shape, device=DEVICE, requires_grad=True) for shape in (5000, (70, 30), 0)]
        optimizer = ours(params, lr=0.1, capturable=True)
        monitor = fastopt.monitor(optimizer)
        step_on(optimizer, params, 1)
        first, before = monitor.latest, [param.detach().clone() for param in params]
        assert len(first) == 3
        if grows:
            params.append(torch.ones(3, device=DEVICE, requires_grad=True))
            optimizer.add_param_group({"params": params[3:]})
        optimizer.grad_scale = torch.tensor(2.0, device=DEVICE)
        optimizer.found_inf = torch.ones((), device=DEVICE)
        params[0].grad.fill_(math.inf)
        params[1].grad = None
        optimizer.step()
        assert monitor.latest == first
        for param, old in zip(params, before, strict=False):
            assert_same_bits(param.cpu(), old.cpu())
        optimizer.found_inf.zero_()
        step_on(optimizer, params, 2)
        assert monitor.latest != first
        assert len(monitor.latest) == len(params)


def test_a_first_step_that_the_device_skips() -> None:
    with gpu():
        optimizer, _ = _two(capturable=True)
        monitor = fastopt.monitor(optimizer)
        optimizer.grad_scale = torch.ones((), device=DEVICE)
        optimizer.found_inf = torch.ones((), device=DEVICE)
        optimizer.step()
        assert monitor.latest == []


@pytest.mark.skipif(emulator is None, reason="a GPU does not count its launches")
def test_launches() -> None:
    """A measured step has two more."""
    with gpu():
        params = [torch.ones(7, device=DEVICE, requires_grad=True) for _ in range(200)]
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer = fastopt.AdamW(params)
        optimizer.step()

        def launches() -> int:
            emulator.clear_launches()
            optimizer.step()
            return len(emulator.launches())

        assert launches() == 2
        monitor = fastopt.monitor(optimizer, every=2)
        assert [launches() for _ in range(3)] == [4, 2, 4]
    assert len(monitor.latest) == 200


def test_a_graph_has_its_table_as_long_as_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes to the table's memory in every replay, whatever became of the monitor."""
    with gpu():
        optimizer, params = _two(capturable=True)
        monitor = fastopt.monitor(optimizer)
        optimizer.step()
        monkeypatch.setattr(fastopt._runtime, "capturing", lambda: True)
        optimizer.step()
        monkeypatch.undo()
        tables = monitor.tables_of_last_step()
        assert tables is not None
        table = tables.of(params[0])
        del monitor
        optimizer.step()
        (kept,) = optimizer.__dict__["_captured_tables"]
        assert kept.of(params[0]) is table


@ON_A_GPU
@pytest.mark.parametrize("devices", [("cpu", DEVICE, "cpu"), (DEVICE, "cpu", DEVICE)], ids=str)
def test_parameters_on_both(devices: tuple[Any, ...]) -> None:
    def run(devices: Any) -> str:
        params = [some_values(5000 + i, torch.float32, i).to(d).requires_grad_() for i, d in enumerate(devices)]
        monitor = fastopt.monitor(optimizer := fastopt.AdamW(params, lr=0.1))
        step_on(optimizer, params, 1)
        return repr(monitor.latest)

    assert run(devices) == run(["cpu"] * 3)


@ON_A_GPU
def test_the_host_does_not_wait() -> None:
    optimizer, _ = _two(capturable=True, max_grad_norm=1.0)
    monitor = fastopt.monitor(optimizer)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(monitor.latest) == 2


@ON_A_GPU
def test_a_graph_measures_in_every_replay() -> None:
    def run(captured: bool) -> str:
        optimizer, params = _two(capturable=True)
        monitor = fastopt.monitor(optimizer)
        optimizer.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step()
        for step in range(3):
            params[0].grad.fill_(float(step))
            graph.replay() if captured else optimizer.step()
        return repr(monitor.latest)

    assert run(captured=True) == run(captured=False)
