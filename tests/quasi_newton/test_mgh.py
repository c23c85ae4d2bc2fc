"""On the problems of Moré, Garbow and Hillstrom: as few evaluations as scipy's L-BFGS-B and CG, for nine of ten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastopt
from mgh import PROBLEMS
from objectives import Problem
from scipy_runs import Record, minimize

# Far down: an end by tolerances would hide how a method goes on.
DEEP: dict[str, Any] = {"max_iter": 100, "max_eval": 2000, "tolerance_grad": 1e-12, "tolerance_change": 0.0}
METHODS: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "LBFGS": (
        "L-BFGS-B",
        fastopt.LBFGS,
        {"history_size": 10, "line_search_fn": "strong_wolfe", "min_curvature": 0.0},
    ),
    "LBFGS, hager_zhang": (
        "L-BFGS-B",
        fastopt.LBFGS,
        {"history_size": 10, "line_search_fn": "hager_zhang", "min_curvature": 0.0},
    ),
    "NonlinearCG": ("CG", fastopt.NonlinearCG, {}),
}


def run(problem: Problem, method: str, evaluations: int) -> Record:
    _, cls, options = METHODS[method]
    record, x = Record(problem), problem.point().requires_grad_()
    optimizer = cls([x], **DEEP, **options)

    def closure() -> torch.Tensor:
        x.grad = None
        value = record.value(x)
        value.backward()
        return value

    before = -1
    while before < len(record.values) < evaluations:
        before = len(record.values)
        optimizer.step(closure)
        if optimizer.last_report.reason not in ("max_iter", "max_eval"):
            break
    return record


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_scipy_needs_as_many_evaluations(method: str) -> None:
    slower = []
    for name, problem in PROBLEMS.items():
        theirs = minimize(problem, METHODS[method][0])
        needed = theirs.evaluations_to(theirs.target)
        assert needed is not None
        most = int(1.5 * needed)
        ours = run(problem, method, most)
        found = ours.evaluations_to(theirs.target)
        if found is None or found > most:
            slower.append(name)
    assert len(PROBLEMS) == 35
    assert len(slower) <= 0.1 * len(PROBLEMS), slower
