"""Logistic regression on the digits, with all images at once and a small penalty: how many evaluations of the loss each
method needs until no element of the gradient is above a tolerance. First-order rules have the best of four rates.

Minka 2003, "A comparison of numerical optimizers for logistic regression".
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import digits
import fastopt
import style

BUDGET, PENALTY, GOAL = 1000, 1e-3, 1e-6
ENDLESS: dict[str, Any] = {"max_iter": 100, "tolerance_grad": 0, "tolerance_change": 0}
RATES = (0.1, 0.3, 1.0, 3.0)
METHODS: dict[str, tuple[str, Any, tuple[float, ...]]] = {
    "LBFGS": (style.BLUE, partial(fastopt.LBFGS, line_search_fn="strong_wolfe", **ENDLESS), (1.0,)),
    "NonlinearCG": (style.GREEN, partial(fastopt.NonlinearCG, **ENDLESS), (1.0,)),
    "Adam": (style.ORANGE, fastopt.Adam, RATES),
    "momentum 0.9": (style.VERMILION, partial(fastopt.SGD, momentum=0.9), RATES),
    "SGD": (style.PINK, fastopt.SGD, RATES),
}
DATA = digits.split()
Run = tuple[float, Tensor, Tensor]  # the lr; the loss and max |g| of each evaluation


def train(make: Any, lr: float) -> Run:
    torch.manual_seed(0)
    model = nn.Linear(64, 10).double()
    optimizer = make(model.parameters(), lr=lr)
    seen: list[tuple[float, float]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = PENALTY / 2 * model.weight.square().sum()
        loss: Tensor = nn.functional.cross_entropy(model(DATA.images.double()), DATA.labels) + penalty
        loss.backward()
        seen.append((loss.item(), fastopt.get_total_norm([model.weight.grad, model.bias.grad], math.inf).item()))
        return loss

    while len(seen) < BUDGET and not (seen and min(largest for _, largest in seen[-100:]) < GOAL):
        optimizer.step(closure)
    losses, sizes = torch.tensor(seen, dtype=torch.float64).cummin(0).values.T
    return lr, losses, sizes


def needed(run: Run, goal: float) -> int:
    return int((run[2] >= goal).sum()) + 1


def measure() -> dict[str, Run]:
    runs = {name: [train(make, lr) for lr in rates] for name, (_, make, rates) in METHODS.items()}
    return {name: min(of, key=lambda run: float(run[2][-1])) for name, of in runs.items()}


def draw(runs: dict[str, Run]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4))
    for name, (lr, losses, sizes) in runs.items():
        steps = range(1, len(sizes) + 1)
        left.loglog(steps, sizes, color=METHODS[name][0], label=f"{name}, lr {lr:g}")
        right.loglog(steps, losses - runs["LBFGS"][1][-1], color=METHODS[name][0])
    left.set(xlabel="evaluations", title="smallest max |g| so far", ylim=(GOAL / 3, 3))
    right.set(xlabel="evaluations", title="loss above the minimum", ylim=(1e-12, 3))
    left.legend(loc="lower left")
    counts = [needed(runs[name], GOAL) for name in ("LBFGS", "NonlinearCG")]
    figure.suptitle("Until max |g| is below 1e-6, LBFGS takes {} evaluations, NonlinearCG {}".format(*counts))
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
