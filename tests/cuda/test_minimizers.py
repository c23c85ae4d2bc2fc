"""LBFGS and NonlinearCG on a device: the reference's bits over whole steps, searches and checkpoints included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastopt
from gpu import DEVICE, Trained, assert_equals_reference, gpu
from support import some_values

METHODS: dict[str, Any] = {"LBFGS": fastopt.LBFGS, "NonlinearCG": fastopt.NonlinearCG}
methods = pytest.mark.parametrize("name", METHODS)
SIZES = [(33, 31), (1,), (0,), (2100,)]


class Valleys:
    """Rosenbrock's function in each tensor. Its gradient is made on the CPU, so that all devices have the same."""

    def __init__(self, device: Any, dtypes: list[torch.dtype]) -> None:
        self.params = [
            some_values(shape, dtypes[k % len(dtypes)], k).to(device).requires_grad_() for k, shape in enumerate(SIZES)
        ]

    def __call__(self) -> float:
        loss = 0.0
        for param in self.params:
            x = param.detach().cpu().double().reshape(-1)
            valley = x[1:] - x[:-1] ** 2
            grad = 2 * (x - 1)
            grad[1:] += 20 * valley
            grad[:-1] -= 40 * valley * x[:-1]
            param.grad = grad.reshape(param.shape).to(param)
            loss += float((10 * valley**2).sum() + ((x - 1) ** 2).sum())
        return loss


def trained(name: str, device: Any, dtypes: list[torch.dtype], **options: Any) -> Trained:
    closure = Valleys(device, dtypes)
    optimizer = METHODS[name](closure.params, max_iter=6, max_eval=20, **options)
    for _ in range(3):
        optimizer.step(closure)
    return optimizer, closure.params


@methods
@pytest.mark.parametrize("search", [None, "strong_wolfe", "hager_zhang", "armijo"])
@pytest.mark.parametrize(
    "dtypes", [[torch.float32], [torch.float64], [torch.bfloat16, torch.float32, torch.float16, torch.float64]], ids=str
)
def test_equals_reference(name: str, search: str | None, dtypes: list[torch.dtype]) -> None:
    options: dict[str, Any] = {"lr": 1, "line_search_fn": search}
    if search is None:
        options["lr"] = {"LBFGS": 0.05, "NonlinearCG": 1e-4}[name]
    if name == "LBFGS":
        options["history_size"] = 5
    optimizer, params = assert_equals_reference(lambda device: trained(name, device, dtypes, **options))
    state = optimizer.state[params[0]]
    for key in ("d", "prev_flat_grad"):
        assert state[key].device.type == DEVICE.type
        assert state[key].isfinite().all()


@methods
def test_what_is_not_finite_is_restored(name: str) -> None:
    with gpu():
        closure = Valleys(DEVICE, [torch.float32])
        start = [param.detach().clone() for param in closure.params]
        optimizer = METHODS[name](closure.params, lr=1e30, line_search_fn=None)
        optimizer.step(closure)
        assert optimizer.last_report.reason == "not finite"
        assert optimizer.last_report.restored
    for param, before in zip(closure.params, start, strict=True):
        assert torch.equal(param, before)


def test_resumes_to_the_bit() -> None:
    """The products of all pairs are taken again."""
    with gpu():
        optimizer, params = trained("LBFGS", DEVICE, [torch.float32], line_search_fn="strong_wolfe", history_size=7)
        closure, again = Valleys(DEVICE, [torch.float32]), Valleys(DEVICE, [torch.float32])
        closure.params = params
        with torch.no_grad():
            for param, other in zip(params, again.params, strict=True):
                other.copy_(param)
        other = fastopt.LBFGS(again.params)
        other.load_state_dict(optimizer.state_dict())
        optimizer.step(closure)
        other.step(again)
    one, two = (torch.cat([p.detach().reshape(-1) for p in c.params]) for c in (closure, again))
    assert torch.equal(one, two)
    assert len(optimizer.state[params[0]]["old_dirs"]) == 7
