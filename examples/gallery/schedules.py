"""torch's learning-rate schedulers drive fastopt's SGD: the learning rate over the steps, and the training loss.

Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts"; Smith and Topin 2018,
"Super-convergence".
"""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim.lr_scheduler import LRScheduler

import digits
import fastopt
import style

STEPS, EVERY, LR, SEEDS = 600, 10, 0.3, 2


def warm_up_and_cosine(optimizer: Optimizer) -> LRScheduler:
    warm_up = schedulers.LinearLR(optimizer, start_factor=0.01, total_iters=STEPS // 10)
    cosine = schedulers.CosineAnnealingLR(optimizer, T_max=STEPS - STEPS // 10)
    return schedulers.SequentialLR(optimizer, [warm_up, cosine], [STEPS // 10])


SCHEDULES: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "constant": lambda optimizer: schedulers.ConstantLR(optimizer, factor=1.0),
    "StepLR": lambda optimizer: schedulers.StepLR(optimizer, step_size=STEPS // 3, gamma=0.1),
    "ExponentialLR": lambda optimizer: schedulers.ExponentialLR(optimizer, gamma=0.01 ** (1 / STEPS)),
    "CosineAnnealingLR": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, T_max=STEPS),
    "LinearLR, then cosine": warm_up_and_cosine,
    "OneCycleLR": lambda optimizer: schedulers.OneCycleLR(optimizer, max_lr=LR, total_steps=STEPS + 1),
    "Warm restarts": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(optimizer, T_0=STEPS // 3),
}


def train(name: str, seed: int) -> tuple[list[float], list[float]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    data = digits.split(seed=seed)
    optimizer = fastopt.SGD(model.parameters(), lr=LR, momentum=0.9)
    scheduler = SCHEDULES[name](optimizer)
    rates: list[float] = []
    losses: list[float] = []
    for step, _ in enumerate(digits.steps(model, optimizer, data, STEPS, batch=16, seed=seed), 1):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
        if step % EVERY == 0:
            losses.append(digits.scores(model, data))
    return rates, losses

if __name__ == "__main__":
    import sys
    torch.set_num_threads(1)
    for LR in map(float, sys.argv[1:]):
        for n in SCHEDULES:
            for s in range(SEEDS):
                r,l = train(n,s)
                print(LR,n,s,[round(x.loss,4) for x in l[9::10]], l[-1][1:])
