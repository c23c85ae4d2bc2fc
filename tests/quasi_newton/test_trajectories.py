"""With torch's arguments LBFGS takes torch's way; and its bits are the same for any threads and on every ISA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closures import METHODS, closure_of, rosenbrock
from torch import Tensor

import fastopt
from support import ISAS, assert_same_bits, running
from trajectory_problems import HISTORY, TRAJECTORIES, Trajectory

LINE_SEARCHES = [None, "strong_wolfe"]


@pytest.mark.parametrize("line_search", LINE_SEARCHES)
@pytest.mark.parametrize("trajectory", TRAJECTORIES, ids=lambda trajectory: trajectory.name)
def test_evaluates_where_torch_does(trajectory: Trajectory, line_search: str | None) -> None:
    for history in (HISTORY, 100):
        theirs = trajectory.visited(torch.optim.LBFGS, line_search, history=history)
        ours = trajectory.visited(fastopt.LBFGS, line_search, history=history)
        if history == HISTORY:  # with 100 pairs a path gets so near that rounding decides where it ends
            assert len(ours) == len(theirs)
        assert min(len(ours), len(theirs)) >= trajectory.run(line_search).iterations
        for p, q in zip(ours, theirs, strict=False):
            assert (p - q).norm() <= 1e-10 * q.norm()


@pytest.mark.parametrize("line_search", LINE_SEARCHES)
def test_default_arguments_end_as_torchs(line_search: str | None) -> None:
    """Evaluations, iterations and the loss, over several steps, in float32 as well."""
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        counts, losses = [], []
        for cls in (torch.optim.LBFGS, fastopt.LBFGS):
            x = torch.tensor([-0.5, 0.7, 0.2], dtype=dtype, requires_grad=True)
            optimizer = cls([x], lr=0.1 if line_search is None else 1, line_search_fn=line_search)
            losses.append([optimizer.step(closure_of([x], lambda x=x: (x**2).sum() + (x**4).sum())) for _ in range(3)])
            counts.append([optimizer.state[x]["func_evals"], optimizer.state[x]["n_iter"]])
        assert counts[0] == counts[1]
        torch.testing.assert_close(torch.stack(losses[1]), torch.stack(losses[0]), rtol=tolerance, atol=tolerance)


class Chaotic:
    """Rosenbrock's function of many numbers, each of which pulls at the next: a bit changes the whole path."""

    def __init__(self, n: int, dtype: torch.dtype) -> None:
        whole = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=dtype)
        self.params = [part.clone().requires_grad_() for part in whole.split([n // 2, 1, n - n // 2 - 1])]

    def loss(self) -> float:
        """Its sum has one order, because torch's depends on the number of threads."""
        x = torch.cat([param.detach() for param in self.params])
        valley, slope = x[1:] - x[:-1] ** 2, x - 1
        grad = 2 * slope
        grad[1:] += 20 * valley
        grad[:-1] -= 40 * valley * x[:-1]
        for param, part in zip(self.params, grad.split([param.numel() for param in self.params]), strict=True):
            param.grad = part
        return float((10 * valley**2 + slope[1:] ** 2).double().cumsum(0)[-1])


def path(name: str, n: int, dtype: torch.dtype, search: str | None, steps: int) -> list[Tensor]:
    problem, seen = Chaotic(n, dtype), []
    lr = 0.05 if search is None else 1
    optimizer = METHODS[name](problem.params, lr=lr, max_iter=1, line_search_fn=search, tolerance_change=0.0)
    for _ in range(steps):
        optimizer.step(problem.loss)
        seen.append(torch.cat([param.detach().reshape(-1) for param in problem.params]))
    return seen


@pytest.mark.parametrize("search", [None, "strong_wolfe", "hager_zhang"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_bits_of_100_steps(name: str, dtype: torch.dtype, search: str | None) -> None:
    n = 30000
    with running("native", isa=ISAS[-1], threads=1):
        expected = path(name, n, dtype, search, 100)
    assert not torch.equal(expected[-1], expected[-2])
    for isa in ISAS:
        for threads in (1, 2, 3):
            with running("native", isa=isa, threads=threads):
                ours = path(name, n, dtype, search, 100)
            for step, (p, q) in enumerate(zip(ours, expected, strict=True)):
                assert_same_bits(p, q, f"step {step} on {isa}, {threads} threads")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_bits_of_the_reference(name: str, dtype: torch.dtype) -> None:
    with running("native", isa=ISAS[-1], threads=2):
        ours = path(name, 5000, dtype, "strong_wolfe", 30)
    with running("reference"):
        theirs = path(name, 5000, dtype, "strong_wolfe", 30)
    for step, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        assert_same_bits(p, q, f"step {step}")


def test_a_bit_matters_on_that_problem() -> None:
    with running("native", isa=ISAS[-1], threads=1):
        whole = path("LBFGS", 30000, torch.float32, "strong_wolfe", 100)[-1]
        problem = Chaotic(30000, torch.float32)
        with torch.no_grad():
            problem.params[0][7] = torch.nextafter(problem.params[0][7], torch.tensor(9.0))
        optimizer = fastopt.LBFGS(problem.params, max_iter=1, line_search_fn="strong_wolfe", tolerance_change=0.0)
        for _ in range(100):
            optimizer.step(problem.loss)
    assert (whole[: len(problem.params[0])] != problem.params[0]).float().mean() > 0.9


def test_rosenbrock_in_torchs_evaluations() -> None:
    evaluations: list[Any] = []
    for cls in (torch.optim.LBFGS, fastopt.LBFGS):
        x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        optimizer = cls([x], max_iter=100, line_search_fn="strong_wolfe")
        optimizer.step(closure_of([x], lambda x=x: rosenbrock(x)))
        evaluations.append(optimizer.state[x]["func_evals"])
        assert rosenbrock(x) < 1e-8
    assert evaluations[1] == evaluations[0]
