"""Five norms in ten untrained layers: how large outputs are, and what moves them. Ioffe and Szegedy 2015 (batch), Ba
et al. 2016 (layer), Wu and He 2018 (group), Ulyanov et al. 2016 (instance), Salimans and Kingma 2016 (weight)."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import fastopt.nn as fnn
import style
from activations import BATCH, INITIALISATIONS, LAYERS

CHANNELS, SIZE, FEW = 32, 8, 16  # the first few images are changed, or all others
NORMS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "nothing": (nn.ReLU, style.GREY),
    "BatchNorm": (lambda: fnn.BatchNorm2d(CHANNELS, activation="relu"), style.BLUE),
    "LayerNorm": (lambda: fnn.LayerNorm((CHANNELS, SIZE, SIZE), activation="relu"), style.ORANGE),
    "GroupNorm": (lambda: fnn.GroupNorm(8, CHANNELS, activation="relu"), style.GREEN),
    "InstanceNorm": (lambda: fnn.InstanceNorm2d(CHANNELS, activation="relu"), style.PINK),
    "weight norm": (nn.ReLU, style.VERMILION),
}
IMAGES, OTHERS = torch.randn(2, BATCH, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
CHANGES = {
    "ten times its contrast": torch.cat([10 * IMAGES[:FEW], IMAGES[FEW:]]),
    "a number added to each channel": torch.cat([IMAGES[:FEW] + OTHERS[:FEW, :, :1, :1], IMAGES[FEW:]]),
    "other images in its batch": torch.cat([IMAGES[:FEW], OTHERS[FEW:]]),
}


def layers(norm: str, initialise: Callable[[Tensor], object]) -> nn.Sequential:
    torch.manual_seed(0)
    found = nn.Sequential()
    for _ in range(LAYERS):
        conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular", bias=False)
        initialise(conv.weight)
        if norm == "weight norm":
            weight_norm(conv).parametrizations.weight.original0.data.fill_(2**0.5)  # He's mean length
        found.append(nn.Sequential(conv, NORMS[norm][0]()))
    return found


@torch.no_grad()
def measure() -> dict[str, tuple[Tensor, Tensor]]:
    """Returns the std of each layer's output, for each start; and how far changes move He's, as parts of its length."""
    measured = {}
    for norm in NORMS:
        stds = []
        for initialise in INITIALISATIONS.values():
            network, output = layers(norm, initialise), IMAGES
            stds += [(output := layer(output)).std() for layer in network]
        moves = torch.stack([network(images)[:FEW] for images in CHANGES.values()]) - output[:FEW]
        measured[norm] = torch.tensor(stds).view(-1, LAYERS), moves.flatten(1).norm(dim=1) / output[:FEW].norm()
    return measured


def draw(measured: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    figure, axes = plt.subplot_mosaic("0123;4444", figsize=(8, 5.2), height_ratios=(3, 2))
    for width, (norm, (stds, _)) in zip((2, 9, 7, 5, 3, 1), measured.items(), strict=True):
        for row, (start, panel) in zip(stds, zip(INITIALISATIONS, "0123", strict=True), strict=True):
            axes[panel].semilogy(range(1, 11), row, lw=width, color=NORMS[norm][1], label=norm)
            axes[panel].set(title=start, xlabel="layer", ylim=(1e-11, 1e11), xticks=(1, 5, 10))
    axes["0"].set_ylabel("std of the output")
    figure.legend(*axes["0"].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    table, last = torch.stack([moved for _, moved in measured.values()], 1), axes["4"]
    last.imshow(table.clamp(max=1).numpy(), cmap="Greys", vmax=4, aspect="auto", zorder=1)
    last.set(xticks=range(6), xticklabels=NORMS, yticks=range(3), yticklabels=CHANGES)
    last.set_title("How far does this move an image's output, as a part of its length?")
    for row, column in torch.cartesian_prod(torch.arange(3), torch.arange(6)).tolist():
        last.text(column, row + 0.1, f"{table[row, column].clamp(1e-4):.2g}".replace("0.0001", "0"), ha="center")
    figure.suptitle("Five norms keep the size of ten layers from any start, and differ in what is left of an image")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
