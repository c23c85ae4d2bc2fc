"""LBFGS, NonlinearCG and first-order rules on Rosenbrock's valley, and on a quadratic of 100 numbers whose largest
curvature is 10000 times its smallest. The learning rates are the best of 10 ** (k / 2), k from -9 to 0.

Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization".
"""

from __future__ import annotations

from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import fastopt
import style

BUDGET, GOAL = 2000, 1e-10  # evaluations; the goal is a part of the loss at the start
METHODS: dict[str, tuple[str, Any, tuple[float, ...]]] = {
    "LBFGS": (style.BLUE, partial(fastopt.LBFGS, line_search_fn="strong_wolfe", tolerance_change=0), (1, 1)),
    "NonlinearCG": (style.GREEN, partial(fastopt.NonlinearCG, tolerance_change=0), (1, 1)),
    "momentum 0.9": (style.VERMILION, partial(fastopt.SGD, momentum=0.9), (10**-2.5, 10**-3.5)),
    "Adam": (style.ORANGE, fastopt.Adam, (10**-0.5, 0.1)),
    "SGD": (style.PINK, fastopt.SGD, (1e-3, 1e-4)),
}
AXES = torch.linalg.qr(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)).double())[0]
CURVATURES = torch.logspace(0, 4, 100, dtype=torch.float64)
PROBLEMS: dict[str, Any] = {
    "Rosenbrock's valley": (lambda p: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2, (-1.2, 1.0)),
    "quadratic": (lambda p: (CURVATURES * (p @ AXES) ** 2).sum() / 2, [1.0] * 100),
}


def run(problem: str, name: str) -> Tensor:
    """The lowest loss after each evaluation, as a part of the first."""
    (f, start), (_, make, rates) = PROBLEMS[problem], METHODS[name]
    p = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([p], lr=rates[[*PROBLEMS].index(problem)])
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = f(p)
        loss.backward()
        losses.append(loss.item())
        return loss

    while len(losses) < BUDGET and not (losses and min(losses[-50:]) < GOAL * losses[0]):
        optimizer.step(closure)
    return (torch.tensor(losses, dtype=torch.float64) / losses[0]).cummin(0).values


def needed(best: Tensor) -> int | None:
    count = int((best >= GOAL).sum()) + 1
    return count if count <= len(best) else None


def measure() -> dict[tuple[str, str], Tensor]:
    return {(problem, name): run(problem, name) for problem in PROBLEMS for name in METHODS}


def draw(runs: dict[tuple[str, str], Tensor]) -> Figure:
    figure, charts = plt.subplots(1, 2, figsize=(8, 4.2))
    for problem, chart in zip(PROBLEMS, charts, strict=True):
        for name, (colour, _, _) in METHODS.items():
            best = runs[problem, name]
            label = f"{name}: {needed(best) or f'not in {BUDGET}'}"
            chart.loglog(range(1, len(best) + 1), best, color=colour, label=label)
        chart.set(title=problem, xlabel="evaluations", ylabel="lowest loss / first loss", ylim=(GOAL / 10, 2))
        chart.legend(loc="lower left")
    counts = [needed(runs[problem, name]) for problem in PROBLEMS for name in ("LBFGS", "NonlinearCG")]
    title = "Evaluations to 1e-10 of the first loss: LBFGS {} and {}, NonlinearCG {} and {}"
    figure.suptitle(title.format(*counts[::2], *counts[1::2]))
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
