"""``fastopt.offload`` when a step fails or is interrupted: it is repeated, and nothing is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from fastopt._offload import host, twins
from late_copies import LateTransfers
from offload_cases import FREE, backward, half_backward, half_params, offload_params
from support import assert_same_step

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "AdamW": lambda p: fastopt.AdamW(p, lr=0.1, master="float32"),
    "clipped": lambda p: fastopt.AdamW(p, lr=0.1, max_grad_norm=0.5),
    "random": lambda p: fastopt.SGD(p, lr=0.1, momentum=0.9, rounding="stochastic", rounding_seed=3),
    "ScheduleFreeAdamW": lambda p: fastopt.ScheduleFreeAdamW(p, lr=0.1),
    "Prodigy": lambda p: fastopt.Prodigy(p, d0=0.01),
    "Muon": lambda p: fastopt.Muon(p, lr=0.1, flatten=True),
    "Lookahead": lambda p: fastopt.Lookahead(fastopt.AdamW(p, lr=0.1), k=2),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_CHUNK", 300)


class _Failures:
    """Fails once, at the n-th copy of a kind."""

    def __init__(self, what: str, n: int) -> None:
        self._what, self._n = what, n
        self.count = 0

    def __call__(self, what: str) -> bool:
        self.count += what == self._what
        return what == self._what and self.count == self._n


@FREE
@pytest.mark.parametrize("what", ["fetch", "wait", "send"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_transfer_that_fails(name: str, what: str, free: bool) -> None:
    """The step raises an error and is repeated; then everything is as if nothing had failed."""
    p = half_params()
    one = OPTIMIZERS[name](p)
    for step in range(3):
        half_backward(p, step)
        one.step()
        one.zero_grad()
    errors = [""]
    n = 0
    while errors:
        n, errors = n + 1, []
        failures = _Failures(what, n)
        q = half_params()

        def transfers(device: torch.device, n: int = n, failures: _Failures = failures) -> LateTransfers:
            return LateTransfers(device, seed=n, fails=failures)

        other = fastopt.offload(OPTIMIZERS[name](q), free_grads=free, transfers=transfers)
        for step in range(3):
            try:
                half_backward(q, step)
            except RuntimeError as error:
                errors.append(str(error))
                other.zero_grad()
                half_backward(q, step)
            try:
                other.step()
            except RuntimeError as error:
                errors.append(str(error))
                other.step()
            other.zero_grad()
        assert all("failed on purpose" in error or "call step() again" in error for error in errors)
        assert_same_step(one, p, other, q)
    assert n > 8


def test_after_a_step_that_is_not_repeated_the_next_sends_everything() -> None:
    p, q = half_params(), half_params()
    one = fastopt.AdamW(p, lr=0.1)
    failures = _Failures("send", 2)
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1), transfers=lambda device: LateTransfers(device, fails=failures))
    half_backward(p, 0)
    half_backward(q, 0)
    one.step()
    with pytest.raises(RuntimeError, match="1 parameters could not be sent"):
        other.step()
    one.zero_grad()
    other.zero_grad()
    half_backward(p, 1)
    half_backward(q, 1)
    one.step()
    other.step()
    assert_same_step(one, p, other, q)


class _Interrupts(LateTransfers):
    """Interrupts the n-th copy to the device."""

    n, count = 0, 0

    def send(self, source: Tensor, target: Tensor) -> None:
        _Interrupts.count += 1
        if _Interrupts.count == _Interrupts.n:
            raise KeyboardInterrupt
        super().send(source, target)


@FREE
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5}], ids=str)
def test_an_interrupted_step_is_repeated(options: dict[str, Any], free: bool) -> None:
    p = offload_params()
    one = fastopt.AdamW(p, lr=0.1, **options)
    for step in range(3):
        backward(p, step)
        one.step()
        one.zero_grad()
    for n in range(1, 9):
        _Interrupts.n, _Interrupts.count = n, 0
        q = offload_params()
        other = fastopt.offload(fastopt.AdamW(q, lr=0.1, **options), free_grads=free, transfers=_Interrupts)
        interrupted = False
        for step in range(3):
            backward(q, step)
            try:
                other.step()
            except KeyboardInterrupt:
                interrupted = True
                other.step()
            other.zero_grad()
        assert interrupted
        assert_same_step(one, p, other, q)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_interrupt_between_two_views_of_the_parameters(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q = offload_params()
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1))
    backward(q, 0)
    other.step()
    before, calls = [param.detach().clone() for param in q], 0
    original = twins._rekeyed

    def interrupting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(twins, "_rekeyed", interrupting)
        with contextlib.suppress(KeyboardInterrupt):
            other.step()
    assert other.param_groups[0]["params"][0] is q[0]
    other.zero_grad()
    for step in range(1, 3):
        backward(q, step)
        other.step()
        other.zero_grad()
    assert not any(torch.equal(a, b) for a, b in zip(before, q, strict=True) if b.requires_grad and b.numel())
    assert all(param in other.state for param in q if param.requires_grad)
