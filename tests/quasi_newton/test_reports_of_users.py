"""What users of torch's LBFGS have reported: flat spots, noise, curvature near 0, numbers that are not finite, rates
that are too large, odd closures, many small tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closures import METHODS, SEARCHES, closure_of, minimized, quadratic, rosenbrock
from torch import Tensor

import fastopt

methods = pytest.mark.parametrize("name", METHODS)
searches = pytest.mark.parametrize("search", [None, *SEARCHES])


def param(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


@methods
@searches
def test_a_flat_spot_ends_the_step(name: str, search: str | None) -> None:
    x = param(2.0, -3.0)
    optimizer = minimized(name, [x], lambda: (x * 0).sum() + 5, line_search_fn=search)
    assert optimizer.last_report.reason == "gradient"
    assert optimizer.last_report.loss == 5
    assert torch.equal(x, param(2.0, -3.0))


@methods
@searches
def test_a_plateau_after_a_slope(name: str, search: str | None) -> None:
    """torch's search divides 0 by 0 where two points have equal losses and slopes."""
    x = param(3.0)
    minimized(name, [x], lambda: torch.relu(x - 1).sum(), steps=5, line_search_fn=search, lr=0.5)
    assert x.isfinite().all()
    assert x.item() < 3


@methods
@searches
def test_a_straight_line(name: str, search: str | None) -> None:
    """The gradient never changes: y is 0, and no pair says anything."""
    x = param(1.0, 2.0)
    optimizer = minimized(name, [x], lambda: x.sum(), steps=3, line_search_fn=search, max_iter=5)
    assert x.isfinite().all()
    assert x.sum() < 3
    assert not optimizer.state[x].get("old_dirs")


@methods
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_losses_of_any_size(name: str, scale: float) -> None:
    options = {"min_curvature": 0.0} if name == "LBFGS" else {}
    x = param(-1.2, 1.0)
    minimized(
        name,
        [x],
        lambda: scale * rosenbrock(x),
        steps=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=0.0,
        **options,
    )
    assert rosenbrock(x) < 1e-10


@methods
@searches
def test_noise(name: str, search: str | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, dtype=torch.float64, generator=generator).requires_grad_()
    start = quadratic([x]).item()

    def noisy() -> Tensor:
        return quadratic([x]) + 0.1 * (torch.randn(20, dtype=torch.float64, generator=generator) * x).sum()

    minimized(name, [x], noisy, steps=10, line_search_fn=search, lr=0.1)
    assert x.isfinite().all()
    assert quadratic([x]) < start


class Failing:
    """A loss that is ``wrong`` in its n-th evaluation."""

    def __init__(self, x: Tensor, n: int, wrong: float, in_gradient: bool) -> None:
        self.x, self.n, self.wrong, self.in_gradient, self.count = x, n, wrong, in_gradient, 0
        self.seen: list[tuple[float, Tensor]] = []

    def __call__(self) -> Any:
        self.count += 1
        self.x.grad = None
        loss = rosenbrock(self.x)
        loss.backward()
        if self.count == self.n:
            if not self.in_gradient:
                return torch.tensor(self.wrong)
            assert self.x.grad is not None
            self.x.grad[1] = self.wrong
        else:
            self.seen.append((loss.item(), self.x.detach().clone()))
        return loss


@methods
@searches
@pytest.mark.parametrize("in_gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_not_finite_in_the_middle(name: str, search: str | None, in_gradient: bool, wrong: float, n: int) -> None:
    x = param(-1.2, 1.0, 0.5)
    closure = Failing(x, n, wrong, in_gradient)
    optimizer = METHODS[name]([x], line_search_fn=search, lr=1e-3 if search is None else 1)
    optimizer.step(closure)
    report = optimizer.last_report
    assert x.isfinite().all()
    if n == 1:
        assert report.reason == "not finite"
        assert torch.equal(x, param(-1.2, 1.0, 0.5))
    elif search is None:
        best, where = min(closure.seen, key=lambda pair: pair[0])
        assert report.reason == "not finite"
        assert report.restored
        assert report.loss == best
        assert torch.equal(x, where)
    else:
        assert report.loss < closure.seen[0][0]
        assert report.loss == rosenbrock(x)
    for vectors in (optimizer.state[x].get("old_dirs", []), optimizer.state[x].get("old_stps", [])):
        assert all(vector.isfinite().all() for vector in vectors)
    optimizer.step(closure)  # goes on
    assert rosenbrock(x) < closure.seen[0][0]


@methods
def test_the_last_step_without_a_search_is_seen_in_the_next(name: str) -> None:
    """Its point is evaluated first there, and may be far too far."""
    x = param(1.0, 2.0)
    optimizer = METHODS[name]([x], lr=1e6, max_iter=1, line_search_fn=None)
    closure = closure_of([x], lambda: (x**4).sum().exp())
    optimizer.step(closure)
    assert not torch.isfinite((x**4).sum().exp())
    optimizer.step(closure)
    assert torch.equal(x, param(1.0, 2.0))
    assert optimizer.last_report.reason == "not finite"
    assert optimizer.last_report.restored


@methods
def test_parameters_that_the_user_set_are_not_restored(name: str) -> None:
    x = param(1.0, 2.0)
    optimizer = METHODS[name]([x], lr=0.01, max_iter=1, line_search_fn=None)
    closure = closure_of([x], lambda: (x**4).sum().exp())
    optimizer.step(closure)
    with torch.no_grad():
        x.fill_(100)
    optimizer.step(closure)
    assert (x == 100).all()
    assert not optimizer.last_report.restored


@methods
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("lr", [1e-3, 1e3, 1e12])
def test_any_first_step_of_a_search(name: str, search: str, lr: float) -> None:
    x = param(-1.2, 1.0)
    minimized(name, [x], lambda: rosenbrock(x), steps=40, lr=lr, line_search_fn=search, max_eval=80)
    assert rosenbrock(x) < (10 if search == "armijo" else 1e-3)  # armijo only shortens steps; it was 24.2


@methods
def test_a_closure_that_returns_a_float(name: str) -> None:
    x, y = param(-1.2, 1.0), param(-1.2, 1.0)
    one = minimized(name, [x], lambda: rosenbrock(x))
    two = METHODS[name]([y])
    closure = closure_of([y], lambda: rosenbrock(y))
    assert isinstance(two.step(lambda: closure().item()), float)
    assert torch.equal(x, y)
    assert one.last_report == two.last_report


@methods
def test_tensors_of_one_element(name: str) -> None:
    params = [param(float(k + 2)) for k in range(5)] + [torch.tensor(3.0, dtype=torch.float64, requires_grad=True)]
    minimized(name, params, lambda: sum(((p - k) ** 4).sum() for k, p in enumerate(params)), steps=30)
    assert all(abs(p.item() - k) < 0.1 for k, p in enumerate(params))


@methods
def test_100k_parameters_in_1000_tensors(name: str) -> None:
    params = [torch.full((100,), 2.0, requires_grad=True) for _ in range(1000)]
    before = quadratic(params).item()
    optimizer = minimized(name, params, lambda: quadratic(params), steps=2, line_search_fn="strong_wolfe")
    assert quadratic(params) < 1e-2 * before
    assert optimizer.last_report.evaluations >= 2
    assert all((p != 2).all() for p in params)


def test_torch_goes_nan_where_we_do_not() -> None:
    """As reported to torch: the loss is not finite beyond a wall, and the search steps there."""
    x, y = param(0.5, 3.0), param(0.5, 3.0)

    def loss_of(z: Tensor) -> Tensor:
        return (z - 2 * z.log()).sum() + (z - 1).pow(2).sum() * 5

    theirs = torch.optim.LBFGS([x], lr=100, line_search_fn="strong_wolfe")
    theirs.step(closure_of([x], lambda: loss_of(x)))
    ours = fastopt.LBFGS([y], lr=100, line_search_fn="strong_wolfe")
    for _ in range(5):
        ours.step(closure_of([y], lambda: loss_of(y)))
    assert not loss_of(x).isfinite()
    assert loss_of(y) < loss_of(param(0.5, 3.0))
    assert ours.last_report.largest_grad < 1e-5


@methods
@pytest.mark.parametrize("search", SEARCHES)
def test_searches_end_where_nothing_lies_between_two_points(name: str, search: str) -> None:
    """With tolerances of 0 an interval shrinks to two neighbouring numbers."""
    x = param(1.0, -2.0)
    optimizer = METHODS[name](
        [x], max_iter=300, max_eval=10**6, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn=search
    )
    for _ in range(3):
        optimizer.step(closure_of([x], lambda: (x.exp() - 3 * x).sum() + (x + 1e8).sum() * 1e-3))
    assert optimizer.last_report.evaluations < 10**5
    assert x.isfinite().all()
