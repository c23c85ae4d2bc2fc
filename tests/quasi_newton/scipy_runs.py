"""Runs of scipy's L-BFGS-B and CG to compare an optimizer with: how many evaluations until f is near its minimum?

An evaluation computes f and its gradient. `Record` counts those of any optimizer:

    theirs = minimize(problem)
    ours = Record(problem)  # then minimize ours.value(x) with the other optimizer
    ours.evaluations_to(theirs.target), theirs.evaluations_to(theirs.target)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from objectives import Objective


@dataclass(frozen=True)
class Record:
    """Keeps the value of each evaluation of an objective. The first has to be at the start."""

    objective: Objective
    values: list[float] = field(default_factory=list)

    def value(self, x: Tensor) -> Tensor:
        value = self.objective.value(x)
        self.values.append(value.item())
        return value

    @property
    def best(self) -> list[float]:
        """The lowest value after each evaluation."""
        return list(accumulate(self.values, min))

    @property
    def minimum(self) -> float:
        return self.best[-1]

    @property
    def target(self) -> float:
        """A value is near the minimum if it is not above this."""
        return self.minimum + (self.values[0] - self.minimum) * 1e-8 + sys.float_info.min

    def evaluations_to(self, target: float) -> int | None:
        """How many evaluations it took to a value that is not above ``target``. None if there was no such value."""
        return next((count for count, value in enumerate(self.values, 1) if value <= target), None)


def minimize(objective: Objective, method: str = "L-BFGS-B", history: int = 10, evaluations: int = 2000) -> Record:
    """Runs "L-BFGS-B" or "CG" from the start to the last digits of f, or until there were enough evaluations."""
    record = Record(objective)
    options: dict[str, dict[str, Any]] = {
        "L-BFGS-B": {"maxcor": history, "ftol": 0, "gtol": 1e-12, "maxfun": evaluations, "maxiter": evaluations},
        "CG": {"gtol": 1e-12, "maxiter": evaluations},
    }

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective.value_and_gradient(torch.from_numpy(x.copy()))
        record.values.append(value)
        return value, gradient.numpy()

    with np.errstate(all="ignore"):  # a step may be so long that f is infinite
        scipy.optimize.minimize(
            value_and_gradient, np.array(objective.start, float), jac=True, method=method, options=options[method]
        )
    del record.values[evaluations:]  # CG counts iterations only
    return record
