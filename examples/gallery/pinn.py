"""A network solves u'' = -pi² sin(pi x) with u(-1) = u(1) = 0: u is (1 - x²) N(x), and the loss is the mean square of
u'' / pi² + sin(pi x) at 32 points, in float64, always all of them.

Raissi, Perdikaris and Karniadakis 2019, "Physics-informed neural networks".
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import fastopt
import style

BUDGET, GOAL, FIRST = 1200, 1e-8, 300  # evaluations; a loss; Adam's evaluations before LBFGS
ENDLESS: dict[str, Any] = {"max_iter": 100, "tolerance_grad": 0, "tolerance_change": 0}
LBFGS = partial(fastopt.LBFGS, line_search_fn="strong_wolfe", **ENDLESS)
METHODS: dict[str, tuple[str, Any]] = {
    "Adam, lr 0.01": (style.ORANGE, partial(fastopt.Adam, lr=0.01)),
    "NonlinearCG": (style.GREEN, partial(fastopt.NonlinearCG, **ENDLESS)),
    "LBFGS": (style.SKY, LBFGS),
    "Adam, then LBFGS": (style.PINK, partial(LBFGS, min_curvature=0)),
    "LBFGS, min_curvature=0": (style.BLUE, partial(LBFGS, min_curvature=0)),
}
X = torch.linspace(-1, 1, 32, dtype=torch.float64, requires_grad=True)
SOLUTION = torch.sin(math.pi * X.detach())
Run = tuple[Tensor, Tensor]  # the lowest loss after each evaluation; the error of u at the end


def train(name: str) -> Run:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    losses: list[float] = []

    def closure() -> Tensor:
        u = (1 - X**2) * network(X[:, None])[:, 0]
        slope = torch.autograd.grad(u.sum(), X, create_graph=True)[0]
        curvature = torch.autograd.grad(slope.sum(), X, create_graph=True)[0]
        loss = (curvature / math.pi**2 + SOLUTION).square().mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        return loss

    first = {"Adam, lr 0.01": FIRST} if "then" in name else {}
    for method, until in (first | {name: BUDGET}).items():
        optimizer = METHODS[method][1](network.parameters())
        while len(losses) < until and not (losses and losses[-1] < GOAL):
            optimizer.step(closure)
    return torch.tensor(losses).cummin(0).values, ((1 - X**2) * network(X[:, None])[:, 0] - SOLUTION).detach()


def measure() -> dict[str, Run]:
    return {name: train(name) for name in METHODS}


def draw(runs: dict[str, Run]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.2), width_ratios=(1.3, 1))
    for name, (lowest, error) in runs.items():
        left.loglog(range(1, len(lowest) + 1), lowest, color=METHODS[name][0], label=f"{name}: {lowest[-1]:.1e}")
        right.semilogy(X.detach(), error.abs(), ".-", color=METHODS[name][0], lw=1)
    left.axhline(GOAL, color=style.GREY, ls="--", lw=1)
    left.set(xlabel="evaluations", title="lowest loss so far, and where it ends")
    left.legend(loc="lower left")
    right.set(xlabel="x", title="error of u(x) at the end", ylim=(1e-8, 1e-3))
    counts = [int((runs[name][0] >= GOAL).sum()) + 1 for name in METHODS if name.startswith("LBFGS")]
    figure.suptitle("A loss of 1e-8 takes LBFGS {} evaluations, with min_curvature=0 it takes {}".format(*counts))
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
