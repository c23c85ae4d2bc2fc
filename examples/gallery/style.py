"""Shared by the gallery's scripts: the look of pictures, and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

Measured = TypeVar("Measured")
Window = tuple[float, float, float, float]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#999999"

# 8 inches at 150 dots are 1200 pixels. Shown 800 pixels wide, 9 points are 12 pixels.
LOOK: dict[str, Any] = {
    "figure.figsize": (8, 4.2),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.edgecolor": "none",
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


def contours(axes: Axes, f: Callable[[Tensor, Tensor], Tensor], window: Window, levels: Sequence[float]) -> None:
    """Lines of equal f in a window (left, right, bottom, top)."""
    left, right, bottom, top = window
    x, y = torch.meshgrid(torch.linspace(left, right, 200), torch.linspace(bottom, top, 200), indexing="xy")
    axes.contour(x, y, f(x, y), levels=levels, colors=GREY, linewidths=0.6)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def main(
    script: str,
    about: str | None,
    measure: Callable[[], Measured],
    draw: Callable[[Measured], Figure],
) -> Measured:
    """Measures, draws, writes the picture, prints its title, and returns what was measured.

    Runs on one thread: with several, sums differ between machines, and these networks are small.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"{Path(script).stem}.png"), help="the picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with plt.rc_context(LOOK):
        measured = measure()
        figure = draw(measured)
        figure.savefig(options.out)
        plt.close(figure)
    with Image.open(options.out) as picture:  # a palette makes the file a third as large
        picture.convert("RGB").quantize(128).save(options.out, optimize=True)
    print(f"{options.out}: {figure.get_suptitle()}")
    return measured
