"""``python -m bench``: fastopt beside torch, in one run.

Ratios are medians of paired rounds with their quartiles; above 1, fastopt is faster. Absolute times
belong to this machine at this minute.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import fastopt

from .case import Case
from .cases import CASES
from .kept import kept_for_backward
from .measure import Result, keep_heap, measure
from .stream import Stream

LEGEND = """\
x torch best: beside the fastest, in this run, of what torch has of it, named behind the ratio: default, \
foreach=True, for-loop (foreach=False), fused=True; in place (add_, relu_). Where torch has none, a package is named.
x torch default: beside what a user gets without flags.
x floor: beside something simpler over as much memory, named behind the ratio: for large tensors 1 is memory's speed.
- stream: a loop that only reads and writes the same arrays.
- clone: a copy into fresh memory, beside what returns a new tensor. From 32 MiB on that memory comes from the system \
at each step, and its page faults cost more than filling it; fewer of them give a ratio above 1.
- copy_: a copy into memory that is there, beside what works in place: on one array, where a copy has two.
26M: 32 x 64 x 112 x 112."""


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _ratio(result: Result, peer: str | None, name: str | None = None) -> str:
    if peer not in result.rounds:
        return "-"
    middle, low, high = result.ratio(peer)
    return f"{middle:.2f} ({low:.2f}-{high:.2f}) {name or ''}".rstrip()


def _best(case: Case, result: Result) -> str | None:
    """The fastest peer, by its median."""
    return min(case.peers, key=result.seconds, default=None)


def _row(case: Case, result: Result, best: str | None, floor: str | None) -> list[str]:
    seconds = result.seconds("fastopt")
    return [
        case.name,
        f"{seconds * 1e6:.1f}",
        f"{case.bytes / seconds / 1e9:.1f}",
        _ratio(result, best, best and best.removeprefix("torch ")),
        _ratio(result, "torch default"),
        _ratio(result, floor, floor),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, short: a smoke test")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains TEXT")
    parser.add_argument("--seconds", type=float, default=3.0, help="per case (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_heap()
    cases = [c for c in CASES if options.only.lower() in c.name.lower() and (c.quick or not options.quick)]
    if not cases:
        parser.error(f"no case has '{options.only}' in its name: {', '.join(c.name for c in CASES)}")

    notes = [f"{case.name}: no peer, as {case.rival} is not installed" for case in cases if not case.peers]
    stream = None
    try:
        stream = Stream(options.threads)
    except RuntimeError as error:
        notes.append(f"The stream was not measured: {error}")

    info = fastopt.info()
    table = Table(title=f"{_cpu()}, {options.threads} threads, {info['in_use']['isa']}, torch {torch.__version__}")
    table.add_column("", no_wrap=True)
    for column in ("us/step", "GB/s", "x torch best", "x torch default", "x floor"):
        table.add_column(column, justify="right", no_wrap=True)
    figures: list[dict[str, Any]] = []
    seconds, min_rounds = (0.2, 3) if options.quick else (options.seconds, 7)
    console = Console(width=max(165, Console().width))
    with Progress(console=console, transient=True) as progress:
        for case in progress.track(cases, description="measuring"):
            result = measure(case.bursts(stream), seconds, min_rounds)
            beside = {"best": _best(case, result), "floor": case.floor and case.floor.name}
            table.add_row(*_row(case, result, **beside))
            figures.append({"case": case.name, "bytes": case.bytes, **beside, "seconds": result.rounds})
    console.print(table)
    kept = kept_for_backward(options.only.lower())
    if kept:
        each = (f"{name} {' / '.join(f'{bytes_:.3g}' for bytes_ in by.values())}" for name, by in kept.items())
        what = "kept for backward, arguments and results included, bytes per float32 element, fastopt / torch"
        console.print(f"{what}: {', '.join(each)}")
    for note in [*LEGEND.splitlines(), *notes]:
        console.print(note, highlight=False)
    if options.json:
        machine = {"cpu": _cpu(), "threads": options.threads}
        everything = {"machine": machine, "fastopt": info, "notes": notes, "cases": figures, "kept_for_backward": kept}
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
