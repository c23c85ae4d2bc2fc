"""Tables of figures, printed or written to a file, and the meaning of their columns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from .figures import Figures, Row
from .kernels import lines as kernel_lines
from .operation import HOT
from .task import STEP

LEGEND = """\
us: median time of a step of ours. GB/s: what it has to move, by that time. Ratios are medians over the rounds of \
(their time / ours in the same round), with quartiles; above 1, fastopt is faster.
x torch: compared with the fastest, in this run, of what torch has of it, named after the ratio: default, \
foreach=True, for-loop (foreach=False), fused=True; in place (add_, relu_). x default: with what a user gets without \
flags. x others: with the fastest package that does the same.
x unconverted: compared with our optimizer on a model that was not converted. x unfused: with convert(fuse=False). \
x nearest: with our step that rounds to the nearest.
Caches are cold: before each step 256 MiB of other memory go through them, as a forward and a backward pass do in \
training. What moves more than that is repeated as it is. hot: the same step again and again, whose tensors may be in \
a cache."""
TITLES = {
    "optimizers": "Optimizers",
    "clip": "Clipping by norm, and a step",
    "precision": "AdamW, by how parameters and states are kept",
    "monitor": "AdamW that measures norms",
    "muon": "Muon, and its matrix products",
    "quasi_newton": "LBFGS, an iteration with a full history",
    "sparse": "Sparse gradients",
    "dropout": "Dropout",
    "batch_norm": "BatchNorm",
    "norms": "RMSNorm, LayerNorm, GroupNorm, InstanceNorm",
    "training": "Training steps of whole models",
    "compiled": "Compiled models, forward and backward",
}
CURVES = {"scaling": "Scaling"}
# The rows that the README shows.
SUMMARY = {
    "Adam, one tensor of 16M": "Adam, 16M elements",
    "Adam, one tensor of 1M": "Adam, 1M",
    "Adam, one tensor of 128k": "Adam, 128k",
    "Adam, one tensor of 1M bfloat16": "Adam, 1M of bfloat16",
    "Adam, 1000 tensors of 1k": "Adam, 1000 tensors of 1k",
    "Adam, MLP, 10 tensors": "Adam, an MLP of 10 tensors",
    "SGD, one tensor of 16M": "SGD, 16M",
    "SGD momentum, one tensor of 16M": "SGD with momentum, 16M",
    "Adagrad, one tensor of 16M": "Adagrad, 16M",
    "RMSprop, one tensor of 16M": "RMSprop, 16M",
    "NAdam, one tensor of 16M": "NAdam, 16M",
    "Adafactor, one matrix of 4096x4096": "Adafactor, 4096 x 4096",
    "clip + AdamW, GPT-2 small, 148 tensors": "clip + AdamW, GPT-2 small",
    "dropout, 1M": "dropout, 1M",
    "dropout backward, 1M": "its backward pass",
    "batch_norm, 32x64x56x56 NCHW": "BatchNorm, 32 x 64 x 56 x 56",
    "batch_norm backward, 32x64x56x56 NCHW": "its backward pass",
    "batch_norm relu forward + backward, 32x64x56x56 NCHW": "with ReLU, both directions",
    "batch_norm eval, 32x64x56x56 NCHW": "in evaluation",
    "batch_norm, 32x64x56x56 NHWC": "BatchNorm, channels-last",
    "batch_norm backward, 32x64x56x56 NHWC": "its backward pass",
    "batch_norm, 4096x1024": "BatchNorm, 4096 x 1024",
    "batch_norm forward + backward, 32x64": "BatchNorm, 32 x 64, both directions",
    "training step of a GPT of 4 layers, 4 texts of 64": "a training step of a GPT of 4 layers",
    "training step of a ResNet-20, 32 images": "a training step of a ResNet-20",
}
OURS = ("unconverted", "unfused", "nearest")  # fastopt with less of it in use
NAME = "case"
Cells = list[dict[str, str]]  # a row as {column: text}


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
    """Title, columns and lines of each family; hot cases have a table to themselves."""
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
    """The same tables as Markdown, without the points of curves, which a chart shows."""
    text = _machine(figures)
    for title, columns, lines in _families(figures, TITLES):
        text += [f"### {title}", "", *_pipes(columns, lines)]
    if on_gpu := list(kernel_lines(figures.rows)):
        text += ["### Kernels of one step, by the profiler", "", *_pipes([NAME, "kernel", "us"], on_gpu)]
    for title, lines in (("Where another one is faster", losses(figures.rows)), ("Remarks", remarks(figures))):
        text += [f"### {title}", "", *(f"- {line}" for line in lines or ["Nowhere."]), ""]
    return "\n".join(text)


def _short(row: Row | None, name: str | None) -> str:
    """A ratio with two digits; bold if the other one is faster."""
    ratio = row.ratio(name) if row and name and name not in row.differs else None
    if ratio is None:
        return "-"
    text = f"{ratio.middle:.2f}" if ratio.middle < 10 else f"{ratio.middle:.0f}"
    return f"**{text}**" if ratio.high < 1 else text


def _cold_and_hot(row: Row | None, hot: Row | None, choose: Callable[[Row], str | None]) -> str:
    cells = [_short(each, choose(each) if each else None) for each in (row, hot)]
    if hot is None:
        return cells[0]
    return "-" if cells == ["-", "-"] else " / ".join(cells)


def summary(*runs: Figures) -> str:
    """Some rows of several machines, a column each; a cell is cold / hot."""
    choices: dict[str, Callable[[Row], str | None]] = {
        "torch's fastest": lambda row: row.best(of_torch=True),
        "its default": lambda row: "torch default",
        "other packages": lambda row: row.best(of_torch=False),
    }
    machines = [f"{run.about['cpu']}: " if len(runs) > 1 else "" for run in runs]
    columns = ["times as fast as", *(f"{machine}{what}" for machine in machines for what in choices)]
    rows = [{row.case: row for row in run.rows} for run in runs]
    lines = []
    for case, label in SUMMARY.items():
        found = [(each.get(case), each.get(f"{case}, {HOT}")) for each in rows]
        cells = [_cold_and_hot(*pair, choose) for pair in found for choose in choices.values()]
        lines.append([label, *cells])
    return "\n".join([" ".join(_machine(run)[0] for run in runs), "", *_pipes(columns, lines)])


def gain(figures: Figures) -> str:
    """How much faster whole models train, and the share of the rest that is saved; "-" if a way was not measured."""
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


def precision(figures: Figures) -> str:
    """The tables of this family alone."""
    text = _machine(figures)
    for title, columns, lines in _families(figures, {"precision": TITLES["precision"]}):
        text += [f"{title}:", "", *_pipes(columns, lines)]
    return "\n".join(text)


# By the mark in a document. Only the summary takes several runs.
PARTS: dict[str, Callable[..., str]] = {"bench": markdown, "gain": gain, "precision": precision, "summary": summary}


def write_markdown(runs: Sequence[Figures], file: Path) -> None:
    """Writes between the marks that a file has, such as <!-- gain --> and <!-- /gain -->; without marks, writes all
    tables as the whole file.

    Raises ValueError if there are several runs and the document shows one.
    """
    text = file.read_text() if file.exists() else ""
    marked = False
    for name, part in PARTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in text and end in text:
            marked = True
            head, _, rest = text.partition(begin)
            if len(runs) > 1 and part is not summary:
                raise ValueError(f"{file} shows one run, and there are {len(runs)}")
            text = f"{head}{begin}\n\n{part(*runs)}\n{end}{rest.partition(end)[2]}"
    file.write_text(text if marked else "\n\n".join(map(markdown, runs)))


def remarks(figures: Figures) -> list[str]:
    """Results that differ from ours, packages that are absent, and failures."""
    wrong = []
    for row in figures.rows:
        for how in dict.fromkeys(row.differs.values()):
            names = [name for name, theirs in row.differs.items() if theirs == how]
            wrong.append(f"{row.case}, {', '.join(names)}: {how}")
    return [*wrong, *figures.notes, *figures.failures]


def losses(rows: Sequence[Row]) -> list[str]:
    """Cases in which another one is faster by more than the spread."""
    found = []
    for row in rows:
        for name in row.others:
            ratio = row.ratio(name)
            if ratio and ratio.high < 1 and name not in row.differs:
                found.append(f"{row.case}: {ratio} {name}")
    return found
