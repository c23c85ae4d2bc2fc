"""Charts of figures, for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .figures import Figures, Row
from .operation import COLD, HOT
from .precision import KEPT
from .report import SUMMARY, TITLES

OURS, BEST, DEFAULT, PACKAGE, CEILING = "#d1495b", "#30638e", "#8fb8de", "#edae49", "#222222"
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
LARGE = 1 << 24  # elements: no cache has them
MARKERS = {"optimizers": "o", "clip": "s", "dropout": "^", "batch_norm": "D", "norms": "v"}
ROOFS = (
    ("-", "memory that is there", ("optimizers", "clip")),
    (":", "results in new memory", ("dropout", "batch_norm", "norms")),
)
CURVES = {"fastopt": (OURS, "o"), "torch default": (DEFAULT, "s"), "torch fused": (BEST, "^"), "ceiling": (CEILING, "")}


def _bars(axes: Axes, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Draws the ratios of each row with their quartiles, on a log scale, from 1 outwards."""
    kinds: list[tuple[str, str, Callable[[Row], str | None]]] = [
        ("torch's fastest", BEST, lambda row: row.best(of_torch=True)),
        ("torch's default", DEFAULT, lambda row: "torch default"),
        ("fastest other package", PACKAGE, lambda row: row.best(of_torch=False)),
    ]
    for k, (label, colour, choose) in enumerate(kinds):
        chosen = [(i, row, choose(row)) for i, row in enumerate(rows)]
        found = [(i, row.ratio(name)) for i, row, name in chosen if name and name not in row.differs]
        shown = [(i, ratio) for i, ratio in found if ratio]
        if not shown:
            continue
        places = [i + (k - 1) * 0.27 for i, _ in shown]
        widths = [ratio.middle - 1 for _, ratio in shown]
        axes.barh(places, widths, 0.25, left=1, color=colour, label=f"compared with {label}", zorder=2)
        spread = [[r.middle - r.low for _, r in shown], [r.high - r.middle for _, r in shown]]
        axes.errorbar([r.middle for _, r in shown], places, xerr=spread, fmt="none", ecolor="#444444", lw=0.8, zorder=3)
        for place, (_, ratio) in zip(places, shown, strict=True):
            axes.text(max(ratio.high, 1) * 1.04, place, f"{ratio.middle:.3g}", va="center", fontsize=6.5)
    axes.axvline(1, color=CEILING, lw=1, zorder=4)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks([x for x in TICKS if low <= x <= high], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("times as fast (above 1: fastopt is faster); bars: medians, whiskers: quartiles")
    axes.grid(axis="x", which="both", alpha=0.25, zorder=0)


def _bar_chart(rows: Sequence[Row], labels: Sequence[str], title: str) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.36 * len(rows)), layout="constrained")
    _bars(axes, rows, labels)
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _summary(figures: Figures) -> Figure | None:
    found = {row.case: row for row in figures.rows}
    rows = [found[case] for case in SUMMARY if case in found]
    return _bar_chart(rows, [SUMMARY[row.case] for row in rows], figures.title) if rows else None


def _family(figures: Figures, family: str) -> Figure | None:
    rows = [row for row in figures.rows if row.family == family and row.caches != HOT]
    labels = [row.case for row in rows]
    return _bar_chart(rows, labels, f"{TITLES[family]}\n{figures.title}") if rows else None


def _roofline(figures: Figures) -> Figure | None:
    """Bandwidth against the memory that a step moves. The roof is the bandwidth of the streaming loop."""
    rows = [row for row in figures.rows if "ceiling" in row.rounds and row.family in MARKERS and row.caches != COLD]
    if not rows:
        return None

    def speed(row: Row, name: str) -> float:
        return row.bytes / row.seconds_of(name) / 1e9

    figure, axes = plt.subplots(figsize=(11, 5.5), layout="constrained")
    for line, what, families in ROOFS:
        under = [row for row in rows if row.family in families and "in place" not in row.operation]
        sizes = sorted({row.bytes for row in under})
        roof = [max(speed(row, "ceiling") for row in under if row.bytes == size) for size in sizes]
        axes.plot(sizes, roof, line, color=CEILING, lw=1.2, label=f"a loop that only streams: {what}", zorder=1)
    for family, marker in MARKERS.items():
        for name, colour, fill in (("torch", BEST, "none"), ("fastopt", OURS, OURS)):
            here = [row for row in rows if row.family == family]
            found = [(row, row.best(of_torch=True) if name == "torch" else name) for row in here]
            points = [(row.bytes, speed(row, who)) for row, who in found if who]
            if points:
                label = f"{TITLES[family]}: {'torch, fastest' if name == 'torch' else 'fastopt'}"
                axes.scatter(*zip(*points, strict=True), s=22, marker=marker, ec=colour, fc=fill, label=label, zorder=2)
    axes.set(xscale="log", yscale="log", xlabel="bytes a step has to move", ylabel="GB/s", title=figures.title)
    axes.grid(which="both", alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=7.5, frameon=False)
    return figure


def _scaling(figures: Figures) -> Figure | None:
    """Time of a step against the quantity that grows."""
    curves = list(dict.fromkeys(row.curve for row in figures.rows if row.curve))
    if not curves:
        return None
    columns = min(3, len(curves))
    height = -(-len(curves) // columns)
    size = (4.2 * columns, 3.2 * height)
    figure, grid = plt.subplots(height, columns, figsize=size, layout="constrained", squeeze=False)
    for axes, curve in zip(grid.flat, curves, strict=False):
        rows = sorted((row for row in figures.rows if row.curve == curve), key=lambda row: row.x)
        for name, (colour, marker) in CURVES.items():
            there = [row for row in rows if name in row.rounds]
            xs, ys = [row.x for row in there], [row.seconds_of(name) * 1e6 for row in there]
            style = ":" if name == "ceiling" else "-"
            axes.plot(xs, ys, style, color=colour, marker=marker, ms=3.5, label=name)
        axes.set(xscale="log", yscale="log", ylabel="us per step")
        axes.set_title(curve, fontsize=9)
        if curve.endswith("threads"):
            axes.yaxis.set_major_formatter(PLAIN)
            axes.yaxis.set_minor_formatter(PLAIN)
            axes.yaxis.set_tick_params(which="minor", labelsize=7)
            axes.set_xticks([row.x for row in rows], [str(row.x) for row in rows], minor=False)
        axes.grid(which="major", alpha=0.3)
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(figures.title, fontsize=10)
    return figure


def _memory(figures: Figures) -> Figure | None:
    """Time against the memory that an optimizer keeps."""
    rows = [r for r in figures.rows if r.operation in KEPT and r.caches != HOT and r.elements >= LARGE]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for i, row in enumerate(rows):
        ours, theirs = KEPT[row.operation]
        ratio, ns = row.ratio(row.best(of_torch=True) or ""), row.seconds_of("fastopt") / row.elements * 1e9
        points = [(ours, ns), *([(theirs, ns * ratio.middle)] if ratio else [])]
        axes.plot(*zip(*points, strict=True), color="#bbbbbb", lw=0.8, zorder=1)
        for (x, y), name, fill in zip(
            points, ("fastopt", "torch's way of doing the same"), (OURS, "none"), strict=False
        ):
            label = name if row is rows[0] else None
            axes.scatter(x, y, s=36, fc=fill, ec=OURS if name == "fastopt" else BEST, label=label, zorder=2)
        axes.annotate(row.operation, points[0], (6, -11 if i % 2 else 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel="bytes kept per element, without the gradient", ylabel="ns per element", title=figures.title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Draws every chart that there are figures for, as PNG, and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "summary": _summary(figures),
        "roofline": _roofline(figures),
        "scaling": _scaling(figures),
        "memory": _memory(figures),
        **{family: _family(figures, family) for family in TITLES},
    }
    files = []
    for name, picture in pictures.items():
        if picture is not None:
            files.append(folder / f"{name}.png")
            picture.savefig(files[-1], dpi=110)
            plt.close(picture)
    return files
