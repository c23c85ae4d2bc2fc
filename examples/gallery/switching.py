"""Adam first, SGD later, in one optimizer: fastopt.switch after 400 steps, compared with either alone.

The network has eight layers and torch's own initialisation, from which SGD hardly gets away. Keskar and Socher 2017,
"Improving generalization performance by switching from Adam to SGD".
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import digits
import fastopt
import style

STEPS, EVERY, SWITCH, ADAM_LR, SGD_LR, SEEDS = 840, 20, 400, 3e-3, 0.02, 2
METHODS = {
    "SGD, lr 0.02": style.VERMILION,
    "SGD, lr 0.2": style.PINK,
    "Adam, lr 0.003": style.ORANGE,
    "Adam, then SGD, lr 0.02": style.BLUE,
}


def train(name: str, seed: int) -> torch.Tensor:
    """Training loss, test loss and test accuracy, every EVERY steps."""
    model, data = digits.mlp(*[64] * 8, 10, seed=seed), digits.split(seed=seed)
    optimizer: torch.optim.Optimizer
    if name.startswith("SGD"):
        optimizer = fastopt.SGD(model.parameters(), lr=float(name.split()[-1]))
    else:
        optimizer = fastopt.Adam(model.parameters(), lr=ADAM_LR)
    scores = []
    for step, _ in enumerate(digits.steps(model, optimizer, data, STEPS, batch=32, seed=seed), 1):
        if step % EVERY == 0:
            scores.append(digits.scores(model, data))
        if step == SWITCH and "then" in name:
            fastopt.switch(optimizer, fastopt.SGD, lr=SGD_LR)
    return torch.tensor(scores)


def measure() -> dict[str, torch.Tensor]:
    return {name: torch.stack([train(name, seed) for seed in range(SEEDS)]) for name in METHODS}


def draw(measured: dict[str, torch.Tensor]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.4))
    steps = range(EVERY, STEPS + 1, EVERY)
    for name, runs in measured.items():
        loss, _, accuracy = runs.mean(0).T
        end = f"{name}: {100 * accuracy[-5:].mean():.1f} % right in the last 100 steps"
        left.semilogy(steps, loss, color=METHODS[name])
        right.plot(steps, 100 * accuracy, color=METHODS[name], label=end)
    for axes in (left, right):
        axes.axvline(SWITCH, color=style.GREY, ls="--", lw=1)
    left.text(SWITCH + 10, 1.2, "switch", color=style.GREY)
    left.set(xlabel="step", ylabel="cross-entropy", title="training loss")
    right.set(xlabel="step", ylabel="accuracy, %", title="test accuracy")
    figure.legend(loc="outside lower center", ncols=2)
    figure.suptitle("Adam leaves a plateau on which SGD stays; then SGD ends calmer and lower, equal in the test")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
