"""AdaBound: the step sizes of Adam between two bounds that close in on the learning rate of an SGD.

Luo et al. 2019, "Adaptive gradient methods with dynamic bound of learning rate". The SGD it turns into has Adam's
average for a momentum: momentum 0.9 and dampening 0.9.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import digits
import fastopt
import style

STEPS, LR, FINAL_LR, GAMMA, BETA1, BETA2 = 1000, 1e-3, 0.1, 0.005, 0.9, 0.999
PERCENT = torch.tensor([10.0, 90.0])
METHODS: dict[str, tuple[str, Any]] = {
    "Adam": (style.ORANGE, lambda params: fastopt.Adam(params, lr=LR)),
    "AdaBound": (style.BLUE, lambda params: fastopt.AdaBound(params, lr=LR, final_lr=FINAL_LR, gamma=GAMMA)),
    "SGD": (style.VERMILION, lambda params: fastopt.SGD(params, lr=FINAL_LR, momentum=BETA1, dampening=BETA1)),
}


def adam_sizes(optimizer: torch.optim.Optimizer, t: int) -> Tensor:
    """The factor of each element of Adam's average after step t, before the bounds."""
    states = torch.cat([state["exp_avg_sq"].flatten() for state in optimizer.state.values()])
    return LR * (1 - BETA2**t) ** 0.5 / (1 - BETA1**t) / (states.sqrt() + 1e-8)


def train(name: str) -> tuple[list[float], Tensor]:
    """The loss of all training images every 10 steps, and percentiles PERCENT of Adam's step sizes after every step."""
    model, data = digits.mlp(64, 128, 128, 10), digits.split()
    optimizer = METHODS[name][1](model.parameters())
    losses: list[float] = []
    sizes: list[Tensor] = []
    for t, _ in enumerate(digits.steps(model, optimizer, data, STEPS), 1):
        if t % 10 == 0:
            losses.append(digits.scores(model, data).loss)
        if name == "AdaBound":
            sizes.append(adam_sizes(optimizer, t)[::25].quantile(PERCENT / 100))
    return losses, torch.stack(sizes) if sizes else torch.empty(0)


def measure() -> dict[str, tuple[list[float], Tensor]]:
    return {name: train(name) for name in METHODS}


def draw(measured: dict[str, tuple[list[float], Tensor]]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2)
    t = torch.arange(1, STEPS + 1)
    lower, upper = FINAL_LR * (1 - 1 / (GAMMA * t + 1)), FINAL_LR * (1 + 1 / (GAMMA * t))
    low, high = measured["AdaBound"][1].T
    left.fill_between(t, low, high, color=style.ORANGE, alpha=0.35, lw=0, label="Adam's formula")
    clamped = low.clamp(lower, upper), high.clamp(lower, upper)
    left.fill_between(t, *clamped, color=style.BLUE, alpha=0.6, lw=0, label="AdaBound's")
    left.plot(t, upper, "k--", lw=1, label="bounds")
    left.plot(t, lower, "k--", lw=1)
    left.axhline(FINAL_LR, color=style.VERMILION, lw=1, label=f"final_lr {FINAL_LR:g}")
    left.set(xlabel="step", ylabel="step size", xscale="log", yscale="log", title="step sizes, 80 % of the coordinates")
    left.legend(loc="upper right")
    for name, (losses, _) in measured.items():
        end = f"{name}: {losses[-1]:.2g} at the end"
        right.semilogy(range(10, STEPS + 1, 10), losses, color=METHODS[name][0], label=end)
    right.set(xlabel="step", ylabel="cross-entropy", title="training loss")
    right.legend()
    figure.suptitle("AdaBound begins like Adam and turns into SGD; here its loss stays between theirs")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
