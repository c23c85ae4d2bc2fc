"""``cautious`` and ``cautious_weight_decay``: the papers' formulas, the mask and its mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from caution_cases import CASES, DECAYED
from optimizer_cases import Case, ids
from support import HALF, assert_same_bits, assert_same_step, running, some_values

F64 = torch.float64
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
SHAPES = [(17, 5), (), (129,), (4, 3, 2)]

Update = Callable[[Tensor, dict[str, Any], int], Tensor]  # (gradient, states, count): what is subtracted


def _adamw(g: Tensor, s: dict[str, Any], t: int, lr: float = 0.05) -> Tensor:
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g * g
    return lr * (s["m"] / (1 - 0.9**t)) / ((s["v"] / (1 - 0.999**t)).sqrt() + 1e-8)


def _lion(g: Tensor, s: dict[str, Any], t: int, lr: float = 0.05) -> Tensor:
    m = s.get("m", torch.zeros_like(g))
    s["m"] = 0.99 * m + 0.01 * g
    return lr * (0.9 * m + 0.1 * g).sign()


def _momentum(g: Tensor, s: dict[str, Any], t: int, lr: float = 0.05) -> Tensor:
    s["m"] = 0.9 * s["m"] + g if "m" in s else g
    return lr * s["m"]


def _adopt(g: Tensor, s: dict[str, Any], t: int, lr: float = 0.05) -> Tensor:
    if t > 1:
        normed = (g / s["v"].sqrt().clamp(min=1e-6)).clamp(-((t - 1) ** 0.25), (t - 1) ** 0.25)
        s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * normed
    s["v"] = 0.9999 * s["v"] + 0.0001 * g * g if t > 1 else g * g
    return lr * s["m"] if t > 1 else torch.zeros_like(g)


def _restated(p: Tensor, g: Tensor, u: Tensor, *, cautious: bool, decay: float, cautious_decay: bool) -> Tensor:
    """arXiv 2411.16085, algorithm 1, and arXiv 2510.12402, equation 1."""
    shrinks = (u * p >= 0).to(p.dtype) if cautious_decay else 1.0
    if cautious:
        mask = (u * g > 0).to(p.dtype)
        u = u * mask / mask.mean().clamp(min=1e-3)
    return p - decay * shrinks * p - u


RESTATED: list[tuple[type, Update, dict[str, Any]]] = [
    (fastopt.AdamW, _adamw, {}),
    (fastopt.Lion, _lion, {}),
    (fastopt.ADOPT, _adopt, {"decouple": True}),
    (fastopt.SGD, _momentum, {"momentum": 0.9}),
]


@BACKENDS
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("cautious_decay", [False, True])
@pytest.mark.parametrize(("ours", "update", "flags"), RESTATED)
def test_follows_the_papers(
    ours: type, update: Update, flags: dict[str, Any], cautious: bool, cautious_decay: bool, backend: str
) -> None:
    rate = 0.0 if ours is fastopt.SGD else 0.3
    options = {"cautious": cautious, "cautious_weight_decay": cautious_decay, "weight_decay": rate, **flags}
    params = [some_values(shape, F64, i).requires_grad_() for i, shape in enumerate(SHAPES)]
    theirs = [param.detach().clone() for param in params]
    states: list[dict[str, Any]] = [{} for _ in params]
    with running(backend):
        optimizer = ours(params, lr=0.05, **options)
        for t in range(1, 31):
            for i, param in enumerate(params):
                param.grad = 0.5 * param.detach() + some_values(param.shape, F64, 100 * t + i)
            optimizer.step()
            for i, param in enumerate(params):
                g = 0.5 * theirs[i] + some_values(param.shape, F64, 100 * t + i)
                decay = 0.05 * rate if not (ours is fastopt.ADOPT and t == 1) else 0.0  # whose first step does not move
                how = {"cautious": cautious, "decay": decay, "cautious_decay": cautious_decay}
                theirs[i] = _restated(theirs[i], g, update(g, states[i], t), **how)
    for param, expected in zip(params, theirs, strict=True):
        torch.testing.assert_close(param.detach(), expected, rtol=1e-12, atol=1e-12)


@BACKENDS
@pytest.mark.parametrize("size", [1, 127, 128, 129, 257, 4095, 4096, 4097, 16383, 16384, 16385, 100_003])
def test_mean_of_the_mask_is_exact(size: int, backend: str) -> None:
    """SGD's update agrees with any gradient that is not 0."""
    grad = some_values(size, torch.float32, size)
    grad[::3] = 0
    grad[-1] = 2.0
    count = int((grad != 0).sum())
    param = torch.zeros(size, requires_grad=True)
    param.grad = grad
    with running(backend, threads=2):
        fastopt.SGD([param], lr=1.0, cautious=True).step()
    assert_same_bits(param.detach(), 0.0 - grad * torch.tensor(1.0 / (count / size), dtype=torch.float32))


@BACKENDS
@pytest.mark.parametrize("kept", [0, 1, 9, 10, 11])
def test_mean_is_at_least_a_thousandth(kept: int, backend: str) -> None:
    size = 10_000
    param = torch.ones(size, dtype=F64, requires_grad=True)
    with running(backend):
        optimizer = fastopt.SGD([param], lr=1.0, momentum=0.5, cautious=True)
        param.grad = torch.full((size,), 1.0, dtype=F64)
        optimizer.step()
        assert (param == 0).all()
        param.grad = torch.full((size,), -0.25, dtype=F64)  # the velocity, 0.25, still points the other way
        param.grad[:kept] = 0.25
        optimizer.step()
    assert (param[kept:] == 0).all()
    assert param[:kept].tolist() == pytest.approx([-0.75 / max(kept / size, 1e-3)] * kept, rel=1e-15)


@BACKENDS
@pytest.mark.parametrize("option", ["cautious", "cautious_weight_decay"])
def test_small_numbers_have_signs(option: str, backend: str) -> None:
    """The product of two of them would be 0."""
    param = torch.full((40,), -1e-30, requires_grad=True)
    param.grad = torch.full((40,), 1e-30)
    with running(backend):
        fastopt.Lion([param], lr=1e-30, weight_decay=5e29 * (option != "cautious"), **{option: True}).step()
    assert (param == -2e-30).all()


@BACKENDS
def test_nan_and_inf_are_not_hidden(backend: str) -> None:
    """They do not count in the mean, and show where they are."""
    param = torch.ones(8, requires_grad=True)
    param.grad = torch.tensor([1.0, math.nan, 1.0, math.inf, 1.0, -math.inf, -1.0, 0.0])
    with running(backend):
        fastopt.SGD([param], lr=0.5, cautious=True).step()
    step = 0.5 / (6 / 8)
    expected = [1 - step, math.nan, 1 - step, -math.inf, 1 - step, math.inf, 1 + step, 1.0]
    assert param.tolist() == pytest.approx(expected, nan_ok=True)


def test_all_masked_changes_states_alone() -> None:
    """What is not applied is remembered."""
    p, q = (torch.ones(300, requires_grad=True) for _ in range(2))
    ours = fastopt.Adam([p], lr=0.1, cautious=True)
    theirs = fastopt.Adam([q], lr=0.1)
    for value in (1.0, -0.01):
        p.grad = torch.full((300,), value)
        q.grad = p.grad.clone()
        before = p.detach().clone()
        ours.step()
        theirs.step()
    assert_same_bits(p.detach(), before)
    for key, state in ours.state[p].items():
        assert_same_bits(state, theirs.state[q][key], key)


@BACKENDS
@pytest.mark.parametrize("case", [case for case in CASES if "cautious" not in case.kwargs], ids=ids)
@pytest.mark.parametrize("dtype", [torch.float32, F64, *HALF], ids=str)
def test_decay_where_signs_agree_is_the_usual(case: Case, dtype: torch.dtype, backend: str) -> None:
    """To the bit, so the update is exact; where they differ, it is a step without decay."""
    plain = {key: value for key, value in case.kwargs.items() if key != "cautious_weight_decay"}
    kinds = (case.kwargs, plain, {**plain, "weight_decay": 0.0})
    with running(backend):
        for sign, twin in ((1, 1), (-1, 2)):
            params = [some_values(300, dtype, 1).abs().requires_grad_() for _ in kinds]
            optimizers = [case.ours([p], **kwargs) for p, kwargs in zip(params, kinds, strict=True)]
            for step in range(3):
                for param, optimizer in zip(params, optimizers, strict=True):
                    param.grad = sign * some_values(300, dtype, 10 + step).abs()
                    optimizer.step()
            assert_same_step(optimizers[0], params[:1], optimizers[twin], params[twin : twin + 1])


@BACKENDS
def test_an_update_of_zero_decays(backend: str) -> None:
    param = torch.ones(40, requires_grad=True)
    param.grad = torch.zeros(40)
    with running(backend):
        fastopt.AdamW([param], lr=0.5, weight_decay=0.5, cautious_weight_decay=True).step()
    assert (param == 0.75).all()


@BACKENDS
def test_zeros_keep_their_signs(backend: str) -> None:
    """A step of 0 changes no bit, as without caution."""
    grid = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, 3e38])
    pairs = torch.cartesian_prod(grid, grid)
    ours, theirs = pairs[:, 0].clone().requires_grad_(), pairs[:, 0].clone().requires_grad_()
    with running(backend):
        for param, options in ((ours, DECAYED), (theirs, {"weight_decay": 0.1})):
            optimizer = fastopt.Lion([param], lr=0.0, **options)
            param.grad = pairs[:, 1].clone()
            optimizer.step()
    assert_same_bits(ours.detach(), theirs.detach())
