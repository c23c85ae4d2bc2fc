"""Gradient descent on f(x) = 0.1 x1^2 + 2 x2^2, a valley twenty times as steep across as along, with lr 0.4:
plain, with momentum 0.5, and with Nesterov's momentum 0.5.

Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; Nesterov 1983, "A method of
solving a convex programming problem with convergence rate O(1/k^2)".
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import fastopt
import style

START, STEPS, GOAL = (-5.0, -2.0), 60, 1e-3
METHODS = {
    "plain, lr 0.4": (style.BLUE, {"lr": 0.4}),
    "momentum 0.5, lr 0.4": (style.VERMILION, {"lr": 0.4, "momentum": 0.5}),
    "Nesterov 0.5, lr 0.4": (style.PINK, {"lr": 0.4, "momentum": 0.5, "nesterov": True}),
    "Nesterov 0.5, lr 0.3": (style.GREEN, {"lr": 0.3, "momentum": 0.5, "nesterov": True}),
}


def f(x1: Tensor, x2: Tensor) -> Tensor:
    return 0.1 * x1**2 + 2 * x2**2


def path(name: str, sgd: type[torch.optim.Optimizer] = fastopt.SGD) -> Tensor:
    """The start and the point after each step: (STEPS + 1, 2)."""
    x = torch.tensor(START, requires_grad=True)
    optimizer = sgd([x], **METHODS[name][1])
    points = [x.detach().clone()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        f(*x).backward()
        optimizer.step()
        points.append(x.detach().clone())
    return torch.stack(points)


def steps_to_goal(points: Tensor) -> int | None:
    above = int((f(*points.T) >= GOAL).nonzero().max())  # the last point that has not reached the goal
    return above + 1 if above < STEPS else None


def measure() -> dict[str, Tensor]:
    return {name: path(name) for name in METHODS}


def draw(paths: dict[str, Tensor]) -> Figure:
    figure = plt.figure(figsize=(8, 4.4))
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.15))
    curves = figure.add_subplot(grid[:, 2], title="f over the steps", xlabel="step", ylabel="f", ylim=(1e-6, 300))
    for i, (name, points) in enumerate(paths.items()):
        colour, needed = METHODS[name][0], steps_to_goal(points)
        axes = figure.add_subplot(grid[divmod(i, 2)], xlabel="x1", ylabel="x2")
        style.contours(axes, f, (-5.6, 1.6, -4.4, 4.4), (0.2, 1, 3, 7, 13, 21, 31))
        axes.plot(*points[: needed or 9].T, "o-", color=colour, ms=3, lw=1)
        axes.plot(0, 0, "k+", ms=9)
        axes.set_title(f"{name}:\n" + (f"f < {GOAL:g} after {needed} steps" if needed else "f grows without bound"))
        curves.semilogy(f(*points.T), color=colour, label=name)
    curves.axhline(GOAL, color=style.GREY, ls="--", lw=1)
    curves.legend(loc="upper right", handlelength=1)
    plain, momentum = (steps_to_goal(paths[name]) for name in list(METHODS)[:2])
    fast = f"momentum needs {momentum} steps, plain descent {plain}"
    figure.suptitle(f"f = 0.1 x1² + 2 x2²: {fast}; Nesterov's diverges at lr 0.4")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
