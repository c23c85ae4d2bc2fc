"""torch's learning-rate schedulers drive fastopt's SGD: the learning rate over the steps, and the training loss.
Loshchilov and Hutter 2017, "SGDR"; Smith and Topin 2018, "Super-convergence".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch.optim import Optimizer, lr_scheduler

import digits
import fastopt
import style

STEPS, EVERY, LR = 600, 10, 0.1


def warm_up(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    linear = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=60)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 60)
    return lr_scheduler.SequentialLR(optimizer, [linear, cosine], [60])


SCHEDULES: dict[str, Callable[[Optimizer], lr_scheduler.LRScheduler]] = {
    "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=STEPS // 3, gamma=0.1),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.01 ** (1 / STEPS)),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS),
    "LinearLR, then cosine": warm_up,
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=STEPS + 1),
    "Warm restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=STEPS // 3),
}


class Run(NamedTuple):
    rates: list[float]  # of each step
    losses: list[float]  # of all training images, every EVERY steps


def train(name: str) -> Run:
    model, data = digits.mlp(64, 64, 64, 10), digits.split()
    optimizer = fastopt.SGD(model.parameters(), lr=LR, momentum=0.9)
    scheduler = SCHEDULES[name](optimizer)
    rates: list[float] = []
    losses: list[float] = []
    for step, _ in enumerate(digits.steps(model, optimizer, data, STEPS, batch=16), 1):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
        if step % EVERY == 0:
            losses.append(digits.scores(model, data).loss)
    return Run(rates, losses)


def measure() -> dict[str, Run]:
    return {name: train(name) for name in SCHEDULES}


def draw(measured: dict[str, Run]) -> Figure:
    figure, grid = plt.subplots(4, 3, figsize=(8, 7), sharex=True, sharey="row", height_ratios=(1, 2, 1, 2))
    steps, constant = range(EVERY, STEPS + 1, EVERY), measured["constant"].losses
    pairs = zip((*grid[0], *grid[2]), (*grid[1], *grid[3]), list(measured.items())[1:], strict=True)
    for upper, lower, (name, run) in pairs:
        upper.fill_between(range(1, STEPS + 1), run.rates, color=style.SKY, lw=0)
        upper.axhline(LR, color=style.GREY, lw=1)
        upper.set(title=name, ylabel="lr")
        lower.semilogy(steps, constant, color=style.GREY, lw=1)
        lower.semilogy(steps, run.losses, color=style.BLUE)
        lower.text(0.05, 0.05, f"{run.losses[-1]:.2g} at the end", color=style.BLUE, transform=lower.transAxes)
        lower.set(xlabel="step", ylabel="training loss")
        upper.label_outer()
        lower.label_outer()
    figure.suptitle(f"SGD: every schedule in which lr falls ends below the constant {LR:g} (grey, {constant[-1]:.2g})")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
