"""What comes out of each of ten layers before any training: tanh and ReLU, four initialisations, with and without
BatchNorm. The 0.01 of N(0, 0.01²) is the standard deviation.

Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"; He et al. 2015,
"Delving deep into rectifiers".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import fastopt
import style

LAYERS, WIDTH, BATCH = 10, 500, 256
NETWORKS = ("tanh", "tanh, BatchNorm", "ReLU", "ReLU, BatchNorm")
INITIALISATIONS: dict[str, Callable[[Tensor], Any]] = {
    "N(0, 0.01²)": lambda weight: nn.init.normal_(weight, std=0.01),
    "N(0, 1)": lambda weight: nn.init.normal_(weight, std=1.0),
    "Xavier": nn.init.xavier_normal_,
    "He": nn.init.kaiming_normal_,
}


def layer(network: str, initialise: Callable[[Tensor], Any]) -> nn.Sequential:
    linear = nn.Linear(WIDTH, WIDTH, bias=False)
    initialise(linear.weight)
    if network == "ReLU, BatchNorm":
        return nn.Sequential(linear, fastopt.nn.BatchNorm1d(WIDTH, activation="relu"))
    norm = [fastopt.nn.BatchNorm1d(WIDTH)] if "BatchNorm" in network else []
    return nn.Sequential(linear, *norm, nn.Tanh() if "tanh" in network else nn.ReLU())


@torch.no_grad()
def activations(network: str, name: str) -> list[Tensor]:
    """The outputs of all layers, for inputs from N(0, 1)."""
    torch.manual_seed(0)
    outputs = [torch.randn(BATCH, WIDTH)]
    for _ in range(LAYERS):
        outputs.append(layer(network, INITIALISATIONS[name])(outputs[-1]))
    return outputs[1:]


def measure() -> dict[tuple[str, str], list[Tensor]]:
    return {(network, name): activations(network, name) for network in NETWORKS for name in INITIALISATIONS}


def ridges(axes: Axes, outputs: list[Tensor], relu: bool) -> None:
    """A histogram for each layer, scaled to its maximum; for ReLU, of the logarithms of positive outputs."""
    edges, colour = (np.linspace(-13, 13, 105), style.ORANGE) if relu else (np.linspace(-1, 1, 81), style.SKY)
    for depth, output in enumerate(outputs, 1):
        counts, _ = np.histogram(output[output > 0].log10() if relu else output, edges)
        axes.stairs(0.9 * counts / counts.max() - depth, edges, baseline=-depth, fill=True, color=colour)
    axes.set(yticks=(-1, -5, -10), yticklabels=("1", "5", "10"), ylim=(-10.1, 0.1))


def draw(measured: dict[tuple[str, str], list[Tensor]]) -> Figure:
    figure, grid = plt.subplots(4, 4, figsize=(8, 7.6), sharex="row", sharey=True)
    for row, network in zip(grid, NETWORKS, strict=True):
        for axes, name in zip(row, INITIALISATIONS, strict=True):
            outputs = measured[network, name]
            ridges(axes, outputs, "ReLU" in network)
            above = f"{name}\n" if network == "tanh" else ""
            axes.set_title(f"{above}std {outputs[-1].std():.2g} in layer 10", fontsize=8.5)
            axes.set_xlabel("log10(output > 0)" if "ReLU" in network else "output", fontsize=8)
        row[0].set_ylabel(f"{network}\nlayer")
    figure.suptitle("Ten untrained layers fade, saturate or grow - not with He's start, nor with BatchNorm")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
