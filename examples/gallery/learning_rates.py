"""A learning-rate range test of AdamW (Smith 2017, "Cyclical learning rates for training neural networks"): lr grows
tenfold every 60 steps, and fastopt.monitor tells by how much each step changes the weights.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch.optim.lr_scheduler import ExponentialLR

import digits
import fastopt
import style

FIRST, DECADES, PER_DECADE, RATIO = 1e-5, 5, 60, 1e-3
STEPS = 200  # of each training at a constant lr
RATES = [10 ** (k / 2) for k in range(-10, 1)]


class Measured(NamedTuple):
    rates: list[float]
    losses: list[float]  # of each step's batch
    ratios: list[float]  # median of the weights
    final: list[float]  # of all training images, after a training at each of RATES

    @property
    def cautious(self) -> int:
        """The first step that changes the weights by RATIO."""
        return next(step for step, ratio in enumerate(self.ratios) if ratio > RATIO)

    @property
    def lowest(self) -> int:
        """The step around which the loss is lowest."""
        return min(range(8, len(self.losses) - 8), key=lambda step: median(self.losses[step - 8 : step + 9]))


def constant(lr: float) -> float:
    model, data = digits.mlp(64, 128, 128, 10), digits.split()
    for _ in digits.steps(model, fastopt.AdamW(model.parameters(), lr=lr), data, STEPS):
        pass
    return digits.scores(model, data).loss


def measure() -> Measured:
    model, data = digits.mlp(64, 128, 128, 10), digits.split()
    optimizer = fastopt.AdamW(model.named_parameters(), lr=FIRST)
    scheduler = ExponentialLR(optimizer, gamma=10 ** (1 / PER_DECADE))
    monitor = fastopt.monitor(optimizer)
    measured = Measured([], [], [], [constant(lr) for lr in RATES])
    for loss in digits.steps(model, optimizer, data, DECADES * PER_DECADE):
        measured.rates.append(optimizer.param_groups[0]["lr"])
        measured.losses.append(loss)
        measured.ratios.append(median(one.ratio for one in monitor.latest[::2]))  # every other one is a bias
        scheduler.step()
    return measured


def draw(measured: Measured) -> Figure:
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 5), sharex=True)
    lowest, cautious = measured.rates[measured.lowest], measured.rates[measured.cautious]
    upper.loglog(measured.rates, measured.losses, color=style.BLUE, label="range test, loss of each batch")
    upper.loglog(RATES, measured.final, "o", color=style.VERMILION, label=f"after {STEPS} steps at a constant lr")
    upper.set(ylabel="training loss", ylim=(1e-3, 1e2))
    lower.loglog(measured.rates, measured.ratios, color=style.GREEN, label="median of the weights")
    lower.axhline(RATIO, color=style.GREY, lw=1)
    lower.set(xlabel="lr", ylabel="|update| / |parameter|")
    for axes in (upper, lower):
        axes.legend(loc="upper left")
        for rate in (lowest, cautious):
            axes.axvline(rate, color=style.GREY, lw=1)
    there = f"lr = {lowest:.1g}: a step changes the weights by {measured.ratios[measured.lowest]:.0%}"
    figure.suptitle(f"AdamW's loss is lowest around {there} (by 0.1% at {cautious:.1g})")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
