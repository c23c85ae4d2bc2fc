"""Tables of figures, to be printed or kept, and what their columns mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from .figures import Figures, Row
from .operation import HOT
from .task import STEP

LEGEND = """\
us: median time of a step of ours. GB/s: what it has to move, by that time. Ratios are medians over the rounds of \
(their time / ours in the same round), with quartiles; above 1, fastopt is faster.
x torch: beside the fastest, in this run, of what torch has of it, named behind the ratio: default, foreach=True, \
for-loop (foreach=False), fused=True; in place (add_, relu_). x default: beside what a user gets without flags.
x others: beside the fastest package that does the same.
x unconverted: compared with our optimizer on a model that was not converted. x unfused: with convert(fuse=False).
Caches are cold: 256 MiB of other memory go through them before each step, as in training a forward and a backward pass \
do. What moves more than that is repeated as it is. hot: the same step again and again, whose tensors may be in a cache."""
TITLES = {
    "optimizers": "Optimizers",
    "clip": "Clipping by norm, and a step",
    "sparse": "Sparse gradients",
    "dropout": "Dropout",
    "batch_norm": "BatchNorm",
    "training": "Training steps of whole models",
    "compiled": "Compiled models, forward and backward",
}
CURVES = {"scaling": "Scaling"}
OURS = ("unconverted", "unfused")  # fastopt with less
NAME = "case"
Cells = list[dict[str, str]]  # by column


def _cells(row: Row) -> dict[str, str]:
    torch, package = row.best(of_torch=True), row.best(of_torch=False)
    found = {NAME: row.case, "us": f"{row.seconds * 1e6:.1f}"}
    if row.bytes:
        found["GB/s"] = f"{row.bytes / row.seconds / 1e9:.1f}"
    if "ceiling" in row.rounds:
        found["of ceiling"] = str(row.ratio("ceiling"))
    if torch:
        found["x torch"] = f"{row.ratio(torch)} {torch.removeprefix('torch ')}"
    if (default := row.ratio("torch default")) and torch != "torch default":
        found["x default"] = "differs" if "torch default" in row.differs else str(default)
    if package:
        found["x others"] = f"{row.ratio(package)} {package}"
    for name in OURS:
        if ratio := row.ratio(f"fastopt {name}"):
            found[f"x {name}"] = str(ratio)
    if row.launches:
        found["launches"] = " / ".join(map(str, row.launches.values()))
    return found


def _families(figures: Figures, titles: Mapping[str, str]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and lines of each; what is hot has a table of its own."""
    for (family, title), hot in itertools.product(titles.items(), (False, True)):
        rows = [row for row in figures.rows if row.family == family and (row.caches == HOT) == hot]
        cells = [_cells(row) for row in rows]
        order = [
            NAME,
            "us",
            "GB/s",
            "of ceiling",
            "x torch",
            "x default",
            "x others",
            *(f"x {name}" for name in OURS),
            "launches",
        ]
        columns = [column for column in order if any(column in row for row in cells)]
        if cells:
            yield (
                f"{title}, hot" if hot else title,
                columns,
                [[row.get(column, "-") for column in columns] for row in cells],
            )


def tables(figures: Figures) -> Iterator[Table]:
    for title, columns, lines in _families(figures, {**TITLES, **CURVES}):
        table = Table(title=title)
        for column in columns:
            table.add_column(column, justify="left" if column == NAME else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        yield table


def _machine(figures: Figures) -> list[str]:
    about = figures.about
    return [f"{figures.title}, commit {about.get('commit') or '?'}, {about.get('date', '?')[:10]}.", ""]


def _pipes(columns: list[str], lines: list[list[str]]) -> list[str]:
    rule = ["---", *["--:"] * (len(columns) - 1)]
    return [*(f"| {' | '.join(line)} |" for line in [columns, rule, *lines]), ""]


def markdown(figures: Figures) -> str:
    """The same, to be kept; without the points of curves, which a picture has."""
    text = _machine(figures)
    for title, columns, lines in _families(figures, TITLES):
        text += [f"### {title}", "", *_pipes(columns, lines)]
    for title, lines in (("Where another one is faster", losses(figures.rows)), ("Remarks", remarks(figures))):
        text += [f"### {title}", "", *(f"- {line}" for line in lines or ["Nowhere."]), ""]
    return "\n".join(text)


def gain(figures: Figures) -> str:
    """What a user of whole models gains, and what of the rest is gone; "-" where a way was not measured."""
    lines = []
    for row in figures.rows:
        if row.products is not None and row.of_rest is not None:
            default, fused, alone = map(row.ratio, ("torch default", "torch fused", "fastopt unconverted"))
            ratios = [str(ratio or "-") for ratio in (default, fused, alone)]
            shares = [f"{100 * share:.0f} %" for share in (row.products, row.of_rest)]
            name = row.case.removeprefix(STEP)
            lines.append([name, f"{row.seconds * 1e3:.1f}", *ratios, *shares])
    columns = [
        "a step of",
        "ms",
        "x torch's default",
        "x `fused=True`",
        "x without convert",
        "products",
        "gone of the rest",
    ]
    skipped = [f"- {note}" for note in figures.notes if "skipped" in note]
    return "\n".join([*_machine(figures), *_pipes(columns, lines), *skipped])


PARTS = {"bench": markdown, "gain": gain}  # by the mark of a document


def write_markdown(figures: Figures, file: Path) -> None:
    """Between the marks of a file that has some, <!-- gain --> and <!-- /gain -->; or all tables as the file."""
    text = file.read_text() if file.exists() else ""
    marked = False
    for name, part in PARTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in text and end in text:
            marked = True
            head, _, rest = text.partition(begin)
            text = f"{head}{begin}\n\n{part(figures)}\n{end}{rest.partition(end)[2]}"
    file.write_text(text if marked else markdown(figures))


def remarks(figures: Figures) -> list[str]:
    """What differs from ours, what is absent, what went wrong."""
    wrong = []
    for row in figures.rows:
        for how in dict.fromkeys(row.differs.values()):
            names = [name for name, theirs in row.differs.items() if theirs == how]
            wrong.append(f"{row.case}, {', '.join(names)}: {how}")
    return [*wrong, *figures.notes, *figures.failures]


def losses(rows: Sequence[Row]) -> list[str]:
    """Where another one is faster, by more than the spread."""
    found = []
    for row in rows:
        for name in row.others:
            ratio = row.ratio(name)
            if ratio and ratio.high < 1 and name not in row.differs:
                found.append(f"{row.case}: {ratio} {name}")
    return found
