"""Digits learned in batches of 1 to 32, as they are, and each with another contrast. Means of two seeds. Ulyanov et al.
2016, "Instance Normalization"; Wu and He 2018, "Group Normalization"."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import digits
import fastopt
import style

IMAGES, EPOCHS, SEEDS, BATCHES = 256, 3, 2, (1, 2, 8, 32)
NORMS: dict[str, tuple[Callable[[int, int], nn.Module], str]] = {  # of channels, and of images of size x size
    "BatchNorm": (lambda channels, size: fastopt.nn.BatchNorm2d(channels), style.BLUE),
    "LayerNorm": (lambda channels, size: fastopt.nn.LayerNorm((channels, size, size)), style.ORANGE),
    "GroupNorm": (lambda channels, size: fastopt.nn.GroupNorm(4, channels), style.GREEN),
    "InstanceNorm": (lambda channels, size: fastopt.nn.InstanceNorm2d(channels, affine=True), style.PINK),
}
CONTRASTS = {"the digits as they are": 0.0, "each with a contrast of 0.1 to 10": 1.0}  # powers of 10
LINES = {".-": "", ".:": ", each image by itself"}


def network(norm: str) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for before, channels, size in ((1, 16, 8), (16, 32, 4), (32, 64, 2)):
        conv = nn.Conv2d(before, channels, 3, 1 if size == 8 else 2, padding=1, bias=False)
        layers += [conv, NORMS[norm][0](channels, size), nn.ReLU()]
    return fastopt.nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))


def data(power: float, seed: int) -> digits.Split:
    found, generator = digits.split(IMAGES, seed), torch.Generator().manual_seed(seed)
    contrasts = 10 ** torch.empty(IMAGES + 500, 1).uniform_(-power, power, generator=generator)
    return found._replace(images=contrasts[:IMAGES] * found.images, test_images=contrasts[IMAGES:] * found.test_images)


def accuracies(norm: str, power: float, batch: int, seed: int) -> list[float]:
    """Returns the share of test images classified correctly; for BatchNorm also by the statistics of each image."""
    torch.manual_seed(seed)
    model, split = network(norm), data(power, seed)
    optimizer = fastopt.SGD(model.parameters(), lr=0.003 * batch**0.5, momentum=0.9)
    list(digits.steps(model, optimizer, split, EPOCHS * IMAGES // batch, batch, seed))
    found = [digits.scores(model, split).accuracy]
    if norm == "BatchNorm":
        alone = torch.tensor([model(image[None]).argmax() for image in split.test_images])
        found.append((alone == split.test_labels).double().mean().item())
    return found


def measure() -> dict[tuple[str, str], Tensor]:
    """Returns the means of :func:`accuracies` over seeds, by batch, for each panel and norm."""
    found = {}
    for (title, power), norm in product(CONTRASTS.items(), NORMS):
        each = [[accuracies(norm, power, batch, seed) for seed in range(SEEDS)] for batch in BATCHES]
        found[title, norm] = torch.tensor(each).mean(1)
    return found


def draw(measured: dict[tuple[str, str], Tensor]) -> Figure:
    figure, both = plt.subplots(1, 2, sharey=True)
    for (title, norm), found in measured.items():
        axes, colour = both[list(CONTRASTS).index(title)], NORMS[norm][1]
        for accuracy, line in zip(100 * found.T, LINES, strict=False):
            axes.semilogx(BATCHES, accuracy, line, color=colour, label=norm + LINES[line])
        axes.set(title=title, xlabel="batch", xticks=BATCHES, xticklabels=BATCHES)
        axes.minorticks_off()
    both[0].set_ylabel("test accuracy, %")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle("Where images differ in contrast, BatchNorm's running statistics fail, most after batches of one")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
