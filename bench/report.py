"""Tables of figures, to be printed or kept, and what their columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from .figures import Figures, Row

LEGEND = """\
us: median time of a step of ours. GB/s: what it has to move, by that time. Ratios are medians over the rounds of \
(their time / ours in the same round), with quartiles; above 1, fastopt is faster.
x torch: beside the fastest, in this run, of what torch has of it, named behind the ratio: default, foreach=True, \
for-loop (foreach=False), fused=True; in place (add_, relu_). x default: beside what a user gets without flags.
x others: beside the fastest package that does the same.
cold: 256 MiB of other memory go through the caches before each step."""
TITLES = {
    "optimizers": "Optimizers",
    "clip": "Clipping by norm, and a step",
    "sparse": "Sparse gradients",
    "dropout": "Dropout",
    "batch_norm": "BatchNorm",
    "training": "Training steps of whole models",
}
CURVES = {"scaling": "Scaling"}
NAME = "case"
MARKS = ("<!-- bench -->", "<!-- /bench -->")
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
    if row.launches:
        found["launches"] = " / ".join(map(str, row.launches.values()))
    return found


def _families(figures: Figures, titles: Mapping[str, str]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and lines of each."""
    for family, title in titles.items():
        cells = [_cells(row) for row in figures.rows if row.family == family]
        order = [NAME, "us", "GB/s", "of ceiling", "x torch", "x default", "x others", "launches"]
        columns = [column for column in order if any(column in row for row in cells)]
        if cells:
            yield title, columns, [[row.get(column, "-") for column in columns] for row in cells]


def tables(figures: Figures) -> Iterator[Table]:
    for title, columns, lines in _families(figures, {**TITLES, **CURVES}):
        table = Table(title=title)
        for column in columns:
            table.add_column(column, justify="left" if column == NAME else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        yield table


def markdown(figures: Figures) -> str:
    """The same, to be kept; without the points of curves, which a picture has."""
    text = [f"{figures.title}, commit {figures.about.get('commit') or '?'}, {figures.about.get('date', '?')[:10]}.", ""]
    for title, columns, lines in _families(figures, TITLES):
        rule = ["---", *["--:"] * (len(columns) - 1)]
        text += [f"### {title}", "", *(f"| {' | '.join(line)} |" for line in [columns, rule, *lines]), ""]
    for title, lines in (("Where another one is faster", losses(figures.rows)), ("Remarks", remarks(figures))):
        text += [f"### {title}", "", *(f"- {line}" for line in lines or ["Nowhere."]), ""]
    return "\n".join(text)


def write_markdown(figures: Figures, file: Path) -> None:
    """Between the two marks of a file that has them; or as the file."""
    text = markdown(figures)
    if file.exists() and all(mark in (old := file.read_text()) for mark in MARKS):
        head, _, rest = old.partition(MARKS[0])
        text = f"{head}{MARKS[0]}\n\n{text}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"
    file.write_text(text)


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
