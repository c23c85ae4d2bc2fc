"""Parameters of any type and layout, groups with their own rates, frozen ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closures import METHODS, closure_of, minimized, quadratic, rosenbrock
from torch import Tensor, nn

import fastopt

methods = pytest.mark.parametrize("name", METHODS)
F64 = torch.float64


def start(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


@methods
@pytest.mark.parametrize("search", ["strong_wolfe", "hager_zhang", "armijo"])
def test_reaches_the_minimum(name: str, search: str) -> None:
    params = [start(7, 3), start(5), start(1)]
    minimized(name, params, lambda: quadratic(params), steps=10, line_search_fn=search)
    assert quadratic(params) < 1e-8


@methods
def test_maximizes(name: str) -> None:
    up, down = [start(7, 3), start(5)], [start(7, 3), start(5)]
    one = minimized(name, up, lambda: -quadratic(up), steps=2, line_search_fn="strong_wolfe", maximize=True)
    two = minimized(name, down, lambda: quadratic(down), steps=2, line_search_fn="strong_wolfe")
    assert all(torch.equal(p, q) for p, q in zip(up, down, strict=True))
    assert one.last_report.loss == -two.last_report.loss


@methods
def test_complex_is_pairs_of_real_numbers(name: str) -> None:
    z = start(6, dtype=torch.complex128)
    real = torch.view_as_real(z.detach()).clone().requires_grad_()
    minimized(name, [z], lambda: quadratic([z]), line_search_fn="strong_wolfe")
    minimized(name, [real], lambda: quadratic([real]), line_search_fn="strong_wolfe")
    torch.testing.assert_close(torch.view_as_real(z.detach()), real.detach(), rtol=1e-12, atol=1e-12)


@methods
def test_types_together(name: str) -> None:
    params = [start(5, dtype=t, seed=k) for k, t in enumerate((torch.float32, F64, torch.bfloat16, torch.complex64))]
    optimizer = minimized(name, params, lambda: quadratic(params), steps=6, line_search_fn="strong_wolfe")
    assert optimizer.state[params[0]]["d"].dtype == F64
    assert quadratic(params[:2]) < 1e-6
    assert quadratic(params) < 0.05  # bfloat16 has three digits


@methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_of_half_types_are_float32(name: str, dtype: torch.dtype) -> None:
    x = start(9, dtype=dtype)
    optimizer = minimized(name, [x], lambda: quadratic([x]), steps=3, line_search_fn="strong_wolfe")
    assert optimizer.state[x]["d"].dtype == torch.float32
    assert quadratic([x]) < 0.05


@methods
def test_layouts(name: str) -> None:
    """Results do not depend on how parameters and gradients lie in memory."""

    def run(make: Any) -> Tensor:
        params = [make(start(2, 3, 4, 5)), make(start(4, 4, 1, 2, seed=1))]
        minimized(name, params, lambda: quadratic(params), steps=2, line_search_fn="strong_wolfe")
        return torch.cat([p.detach().reshape(-1) for p in params])

    def spaced(p: Tensor) -> Tensor:
        return torch.zeros(*p.shape, 2, dtype=F64)[..., 1].copy_(p.detach()).requires_grad_()

    expected = run(lambda p: p)
    others: dict[str, Any] = {
        "channels last": lambda p: p.detach().to(memory_format=torch.channels_last).requires_grad_(),
        "spaced": spaced,
    }
    for layout, make in others.items():
        assert torch.equal(run(make), expected), layout


def test_sparse_gradients_are_dense_ones() -> None:
    weights, rows = [], torch.tensor([1, 4, 4])
    for sparse in (False, True):
        embedding = nn.Embedding(6, 3, sparse=sparse, dtype=F64)
        with torch.no_grad():
            embedding.weight.copy_(torch.linspace(-1, 1, 18).reshape(6, 3))
        minimized("LBFGS", [embedding.weight], lambda e=embedding: ((e(rows) - 0.3) ** 2).sum())
        weights.append(embedding.weight.detach())
    assert torch.equal(*weights)
    assert torch.equal(weights[0][0], torch.linspace(-1, 1, 18, dtype=torch.float32).double()[:3])


@methods
def test_a_parameter_without_gradient_stays(name: str) -> None:
    x, unused, empty = start(5), start(3, seed=1), start(0)
    before = unused.detach().clone()
    minimized(name, [unused, x, empty], lambda: quadratic([x]), steps=4, line_search_fn="strong_wolfe")
    assert torch.equal(unused, before)
    assert quadratic([x]) < 1e-10


@methods
@pytest.mark.parametrize("by_rate", [False, True], ids=["requires_grad", "lr"])
def test_frozen_parameters_stay(name: str, by_rate: bool) -> None:
    """Even where the history has moved them before."""
    x, y = start(5), start(5, seed=1)
    optimizer = METHODS[name]([{"params": [x]}, {"params": [y]}], max_iter=3, line_search_fn="strong_wolfe")
    closure = closure_of([x, y], lambda: ((x + y) ** 4).sum() + (x**2).sum() + (y**2).sum())
    optimizer.step(closure)
    if by_rate:
        optimizer.param_groups[1]["lr"] = 0.0
    else:
        y.requires_grad_(False)
    before, moved = y.detach().clone(), x.detach().clone()
    for _ in range(3):
        optimizer.step(closure)
    assert torch.equal(y, before)
    assert (x != moved).all()
    if not by_rate:
        y.requires_grad_()
    optimizer.param_groups[1]["lr"] = 1.0
    optimizer.step(closure)
    assert (y != before).all()


@methods
def test_groups_have_their_rates(name: str) -> None:
    """The first step is -lr g in each group, whatever the ratio."""
    x, y = start(5), start(5, seed=1)
    before = x.detach().clone(), y.detach().clone()
    optimizer = METHODS[name](
        [{"params": [x], "lr": 1e-3}, {"params": [y], "lr": 4e-3}], lr=1.0, max_iter=1, line_search_fn=None
    )
    optimizer.step(closure_of([x, y], lambda: quadratic([x, y])))
    assert x.grad is not None
    assert y.grad is not None
    steps = (before[0] - x.detach()) / x.grad, (before[1] - y.detach()) / y.grad
    torch.testing.assert_close(steps[1], 4 * steps[0].mean() * torch.ones(5, dtype=F64), rtol=1e-12, atol=0)


@methods
def test_rescaled_parameters_are_groups(name: str) -> None:
    """A quarter of the rate is a parameter twice as large."""
    x, y = start(5), start(5, seed=1)
    twice, z = (2 * x.detach()).requires_grad_(), y.detach().clone().requires_grad_()
    options: dict[str, Any] = {"max_iter": 12, "line_search_fn": "strong_wolfe"}
    grouped = METHODS[name]([{"params": [x], "lr": 0.25}, {"params": [y], "lr": 1.0}], **options)
    plain = METHODS[name]([twice, z], **options)

    def loss_of(p: Tensor, q: Tensor) -> Tensor:
        return (p**4).sum() + ((p - q) ** 2).sum() + (q**4).sum()

    grouped.step(closure_of([x, y], lambda: loss_of(x, y)))
    plain.step(closure_of([twice, z], lambda: loss_of(twice / 2, z)))
    torch.testing.assert_close(x, twice / 2, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(y, z, rtol=1e-8, atol=1e-10)


@methods
def test_a_scheduler_keeps_the_history(name: str) -> None:
    x, y = start(5), start(5, seed=1)
    optimizer = METHODS[name]([{"params": [x], "lr": 0.9}, {"params": [y], "lr": 0.3}], line_search_fn="strong_wolfe")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    closure = closure_of([x, y], lambda: ((x + y) ** 4).sum() + (x**2).sum() + (y**2).sum())
    for _ in range(4):
        optimizer.step(closure)
        scheduler.step()
        assert name != "LBFGS" or optimizer.last_report.restarts == 0
        assert "d" in optimizer.state[x]
    if name == "LBFGS":
        before = len(optimizer.state[x]["old_dirs"])
        optimizer.step(closure)
        assert len(optimizer.state[x]["old_dirs"]) >= before > 0


def test_the_history_is_dropped_when_it_belongs_to_other_parameters() -> None:
    x, y = start(5), start(5, seed=1)
    optimizer = fastopt.LBFGS([x], line_search_fn="strong_wolfe", max_iter=4)
    closure = closure_of([x, y], lambda: quadratic([x, y]))
    optimizer.step(closure)
    assert optimizer.state[x]["old_dirs"]
    optimizer.add_param_group({"params": [y]})
    optimizer.step(closure)
    assert all(vector.numel() == 10 for vector in optimizer.state[x]["old_dirs"])
    for _ in range(5):
        optimizer.step(closure)
    assert quadratic([x, y]) < 1e-8


@methods
def test_a_closure_that_fails_leaves_the_last_point(name: str) -> None:
    x = torch.tensor([-1.2, 1.0], dtype=F64, requires_grad=True)
    optimizer = METHODS[name]([x], line_search_fn="strong_wolfe")
    points: list[Tensor] = []

    def closure() -> Tensor:
        points.append(x.detach().clone())
        if len(points) == 3:
            raise KeyError("mine")
        return closure_of([x], lambda: rosenbrock(x))()

    with pytest.raises(KeyError, match="mine"):
        optimizer.step(closure)
    assert any(torch.equal(x, point) for point in points[:2])
    assert optimizer.state[x]["func_evals"] == 2
    optimizer.step(closure)
    assert rosenbrock(x) < 24
