"""What comes out of each of ten layers before any training: tanh and ReLU, four initialisations, with and without
BatchNorm. N(0, s) means here: of standard deviation s.

Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"; He et al. 2015,
"Delving deep into rectifiers"; Ioffe and Szegedy 2015, "Batch normalization".
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
INITIALISATIONS: dict[str, Callable[[Tensor], Any]] = {
    "N(0, 0.01)": lambda weight: nn.init.normal_(weight, std=0.01),
    "N(0, 1)": lambda weight: nn.init.normal_(weight, std=1.0),
    "Xavier": nn.init.xavier_normal_,
    "He": nn.init.kaiming_normal_,
}
NETWORKS = ("tanh", "tanh, BatchNorm", "ReLU", "ReLU, BatchNorm")


def layer(network: str, initialise: Callable[[Tensor], Any]) -> nn.Sequential:
    linear = nn.Linear(WIDTH, WIDTH, bias=False)
    initialise(linear.weight)
    if network == "ReLU, BatchNorm":
        return nn.Sequential(linear, fastopt.nn.BatchNorm1d(WIDTH, activation="relu"))
    norm = [fastopt.nn.BatchNorm1d(WIDTH)] if "BatchNorm" in network else []
    return nn.Sequential(linear, *norm, nn.Tanh() if "tanh" in network else nn.ReLU())


@torch.no_grad()
def activations(network: str, name: str) -> list[Tensor]:
    """The outputs of every layer, for inputs from N(0, 1)."""
    torch.manual_seed(0)
    outputs = [torch.randn(BATCH, WIDTH)]
    for _ in range(LAYERS):
        outputs.append(layer(network, INITIALISATIONS[name])(outputs[-1]))
    return outputs[1:]


def measure() -> dict[tuple[str, str], list[Tensor]]:
    return {(network, name): activations(network, name) for network in NETWORKS for name in INITIALISATIONS}


def ridges(axes: Axes, outputs: list[Tensor], relu: bool) -> None:
    """A histogram for each layer, each to its own height; of ReLU the logarithm of what is not 0."""
    edges = np.linspace(-13, 13, 105) if relu else np.linspace(-1, 1, 81)
    for i, output in enumerate(outputs):
        values = output[output > 0].log10() if relu else output
        counts, _ = np.histogram(values, edges)
        heights = -(i + 1) + 0.9 * counts / counts.max()
        axes.fill_between(
            edges[:-1], -(i + 1), heights, step="post", color=style.ORANGE if relu else style.SKY, lw=0, zorder=i + 2
        )
    axes.set(yticks=(-1, -5, -10), yticklabels=("1", "5", "10"), ylim=(-10.2, 0.1))


def draw(measured: dict[tuple[str, str], list[Tensor]]) -> Figure:
    figure, grid = plt.subplots(4, 4, figsize=(8, 8.4), sharey=True)
    for row, network in zip(grid, NETWORKS, strict=True):
        for axes, name in zip(row, INITIALISATIONS, strict=True):
            outputs = measured[network, name]
            ridges(axes, outputs, "ReLU" in network)
            axes.set_title(f"{name}\nstd in layer 10: {outputs[-1].std():.2g}", fontsize=8.5)
        row[0].set_ylabel(f"{network}\nlayer")
        row[0].get_yaxis()
    figure.suptitle("x")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
