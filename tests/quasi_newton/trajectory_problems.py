"""Objectives on which two correct versions of L-BFGS visit the same points, because rounding is hardly amplified.

`test_trajectory_problems.py` measures it with torch's LBFGS: a start that differs by 1e-15, relative, changes no
visited point by more than 1e-12. This holds for the listed numbers of iterations; many problems of `mgh.py` have no
such number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import smooth_functions as smooth
from mgh import PROBLEMS
from objectives import Objective

HISTORY = 10  # the measured length; the same holds for 100


@dataclass(frozen=True)
class Run:
    lr: float
    iterations: int


@dataclass(frozen=True)
class Trajectory:
    """An objective, and runs for ``line_search_fn=None`` and for ``"strong_wolfe"``."""

    objective: Objective
    fixed: Run
    strong_wolfe: Run

    @property
    def name(self) -> str:
        return self.objective.name

    def run(self, line_search: str | None) -> Run:
        return self.fixed if line_search is None else self.strong_wolfe

    def visited(
        self,
        optimizer: Callable[..., Any],
        line_search: str | None,
        start: Tensor | None = None,
        history: int = HISTORY,
    ) -> list[Tensor]:
        """Minimizes with a class that takes the arguments of torch's LBFGS.

        Returns the points of all evaluations. The tolerances are zero, so that only ``iterations`` ends the run.
        """
        x = (self.objective.point() if start is None else start.clone()).requires_grad_()
        run = self.run(line_search)
        stepper = optimizer(
            [x],
            lr=run.lr,
            max_iter=run.iterations,
            max_eval=100 * run.iterations,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=history,
            line_search_fn=line_search,
        )
        points: list[Tensor] = []

        def closure() -> Tensor:
            stepper.zero_grad()
            points.append(x.detach().clone())
            value = self.objective.value(x)
            value.backward()
            return value

        stepper.step(closure)
        return points


def row(objective: Objective, lr: float, iterations: int, searched: int) -> Trajectory:
    """``searched`` is the number of iterations with a line search, which starts from steps of 1."""
    return Trajectory(objective, Run(lr, iterations), Run(1, searched))


TRAJECTORIES = [
    row(smooth.QUADRATIC, 0.5, 30, 30),
    row(smooth.SPRING_CHAIN, 1, 30, 30),
    row(smooth.LEAST_SQUARES, 1, 24, 22),
    row(smooth.LOGISTIC, 0.5, 30, 22),
    row(smooth.SOFTMAX, 0.3, 30, 24),
    row(smooth.POISSON, 0.5, 25, 20),
    row(smooth.PSEUDO_HUBER, 0.5, 30, 20),
    row(smooth.STUDENT_T, 0.3, 30, 22),
    row(smooth.LOG_SUM_EXP, 0.5, 28, 22),
    row(smooth.MLP, 1, 25, 25),
    row(smooth.QUARTIC, 0.5, 30, 20),
    row(smooth.PENDULUMS, 1, 30, 25),
    row(smooth.SOAP_FILM, 0.3, 30, 25),
    row(PROBLEMS["freudenstein_roth"], 0.5, 30, 20),
    row(PROBLEMS["wood"], 1, 30, 24),
    row(PROBLEMS["brown_dennis"], 0.5, 30, 22),
    row(PROBLEMS["penalty_1"], 0.5, 30, 22),
    row(PROBLEMS["variably_dimensioned"], 1, 20, 20),
    row(PROBLEMS["broyden_tridiagonal"], 0.3, 30, 28),
    row(PROBLEMS["broyden_banded"], 0.5, 30, 22),
]
