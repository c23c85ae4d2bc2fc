"""Gradients that vanish or explode on their way through twenty layers, and what clipping and BatchNorm do about them.

Trained on handwritten digits. Pascanu et al. 2013, "On the difficulty of training recurrent neural networks"; Ioffe and
Szegedy 2015, "Batch normalization".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import nn

import digits
import fastopt
import style

LAYERS, WIDTH, STEPS = 20, 64, 200
NETWORKS: dict[str, tuple[type[nn.Module], float]] = {  # the activation, and the standard deviation of the weights
    "sigmoid, Xavier: vanishing": (nn.Sigmoid, WIDTH**-0.5),
    "tanh, 5 x Xavier: exploding": (nn.Tanh, 5 * WIDTH**-0.5),
    "ReLU, 2 x He: exploding": (nn.ReLU, 2 * (2 / WIDTH) ** 0.5),
}
CURES = {"plain SGD": (style.VERMILION, "-"), "norm clipped to 1": (style.BLUE, "--"), "BatchNorm": (style.GREEN, "-")}


class Run(NamedTuple):
    norms: list[float]  # of the first step's gradient of each layer's weights, as it was used
    losses: list[float]


def network(name: str, batch_norm: bool) -> nn.Sequential:
    activation, std = NETWORKS[name]
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        linear = nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(linear.weight, std=std)
        layers += [linear, fastopt.nn.BatchNorm1d(WIDTH), activation()] if batch_norm else [linear, activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def train(name: str, cure: str) -> Run:
    torch.manual_seed(0)
    model = network(name, batch_norm=cure == "BatchNorm")
    clip = 1.0 if cure == "norm clipped to 1" else None
    optimizer = fastopt.SGD(model.parameters(), lr=0.02, momentum=0.9, max_grad_norm=clip)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    training = digits.steps(model, optimizer, digits.split(), STEPS)
    first = next(training)  # now the momentum is the gradient, after clipping
    norms = [optimizer.state[weight]["momentum_buffer"].norm().item() for weight in weights]
    return Run(norms, [first, *training])


def measure() -> dict[tuple[str, str], Run]:
    return {(name, cure): train(name, cure) for name in NETWORKS for cure in CURES}


def draw(measured: dict[tuple[str, str], Run]) -> Figure:
    figure, grid = plt.subplots(2, 3, figsize=(8, 5.6), sharex="row", sharey="row")
    for (name, cure), run in measured.items():
        colour, line = CURES[cure]
        upper, lower = grid[:, list(NETWORKS).index(name)]
        upper.semilogy(range(1, LAYERS + 2), run.norms, line, marker=".", color=colour, label=cure)
        lower.semilogy(range(1, STEPS + 1), run.losses, line, color=colour, lw=1.2)
        upper.set(xlabel="layer", title=name)
        lower.set(xlabel="step")
        if not math.isfinite(run.losses[-1]):
            lower.text(0.95, 0.9, f"{cure}: not finite", transform=lower.transAxes, ha="right", color=colour)
    grid[0, 0].set_ylabel("norm of the weights' gradient")
    grid[1, 0].set_ylabel("training loss")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("Clipping bounds gradients that explode; with BatchNorm all three networks of 20 layers learn")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
