"""``python -m bench``: fastopt compared with torch and other packages, in one run.

Ratios are medians of paired rounds with their quartiles; above 1, fastopt is faster. Absolute times
belong to this machine at this minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from . import environment
from .cases import FAMILIES, cases, in_turn
from .compare import comparison
from .figures import Figures, read
from .machine import Cpu, Gpu
from .measure import Pace
from .operation import Case
from .report import LEGEND, losses, remarks, tables, write_markdown
from .run import Run, noted
from .saved_memory import kept_for_backward

QUICK = Pace(0.05, rounds=3, turn=3e-3)  # for a smoke test
WIDTH = 215  # the width of the widest table

# Options that mean nothing where figures are read (--read), and where they are compared (--compare).
MEASURING = ("device", "quick", "family", "only", "part", "seconds", "threads")
NOT_WITH = {"read": MEASURING, "compare": (*MEASURING, "json", "markdown", "pictures")}


TURNS = 20  # a turn takes at most this part of a case's seconds


def _part(text: str) -> slice:
    """``"10:20"``, of which one number or the other may be left out."""
    start, colon, stop = text.partition(":")
    if not colon:
        raise ValueError(text)
    return slice(int(start or 0), int(stop) if stop else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer cases, short: a smoke test")
    parser.add_argument("--family", choices=FAMILIES, nargs="+", default=FAMILIES, help="cases of these alone")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains TEXT")
    parser.add_argument(
        "--part", type=_part, metavar="FROM:TO", help="only these, counted over families and types in turn"
    )
    default = f"{Cpu.seconds:g}, with --device cuda {Gpu.seconds:g}, with --quick {QUICK.seconds:g}"
    parser.add_argument("--seconds", type=float, help=f"per case (default: {default})")
    parser.add_argument("--threads", type=int, help=f"of the CPU (default: {torch.get_num_threads()})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the tables to FILE, or between its marks"
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="also draw charts there (needs matplotlib)")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument(
        "--read", type=Path, metavar="FILE", nargs="+", help="measure nothing: show the figures in FILE ..."
    )
    earlier.add_argument(
        "--compare", type=Path, metavar=("OLD", "NEW"), nargs=2, help="measure nothing: two files side by side"
    )
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    unset = argparse.Namespace(**dict.fromkeys(vars(options)))  # so that only given options are set
    given = {name for name, value in vars(parser.parse_args(arguments, unset)).items() if value is not None}
    for earlier, others in NOT_WITH.items():
        for other in others:
            if {earlier, other} <= given:
                parser.error(f"argument --{other}: not allowed with argument --{earlier}")
    return options


def _chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Case]:
    known = cases(options.device)
    chosen = [
        case
        for case in known
        if case.family in options.family
        and options.only.lower() in case.name.lower()
        and (case.quick or not options.quick)
    ]
    if options.part:
        chosen = in_turn(chosen)[options.part]
    if not chosen:
        parser.error(f"no such case has '{options.only}' in its name: {', '.join(case.name for case in known)}")
    return chosen


def _measured(options: argparse.Namespace, chosen: list[Case], arguments: list[str], console: Console) -> Figures:
    machine = Gpu() if options.device == "cuda" else Cpu(options.threads or torch.get_num_threads())
    pace = QUICK if options.quick else Pace(machine.seconds)
    if options.seconds is not None:
        pace = dataclasses.replace(pace, seconds=options.seconds, turn=min(pace.turn, options.seconds / TURNS))
    run = Run(machine, pace)
    figures = run.figures
    figures.about = {**environment.everything(arguments, machine.peers), **machine.about, "ceiling": machine.ceiling_is}
    run.measure(chosen, console, lambda: figures.write(options.json) if options.json else None)
    with noted(figures.failures, "kept for backward"):
        figures.kept_for_backward = kept_for_backward(options.only.lower(), options.family, machine.device)
    return figures


def _show(figures: Figures, console: Console) -> None:
    console.print(f"{figures.title}, commit {figures.about['commit'] or '?'}", highlight=False)
    for table in tables(figures):
        console.print(table)
    if figures.kept_for_backward:
        kept = figures.kept_for_backward.items()
        each = (f"{name} {' / '.join(f'{size:.3g}' for size in by.values())}" for name, by in kept)
        what = "kept for backward, arguments and results included, bytes per float32 element, fastopt / torch"
        console.print(f"{what}: {', '.join(each)}")
    for line in [*LEGEND.splitlines(), *figures.about["ceiling"].splitlines(), *remarks(figures)]:
        console.print(line, highlight=False)
    if lost := losses(figures.rows):
        console.print("Another one is faster:", *lost, sep="\n- ", highlight=False)


def _write(runs: list[Figures], options: argparse.Namespace, console: Console) -> None:
    """Raises ValueError for several runs where the document shows only one."""
    for option in ("json", "pictures"):
        if getattr(options, option) and len(runs) > 1:
            raise ValueError(f"argument --{option}: takes the figures of one file")
    if options.json:
        runs[0].write(options.json)
    if options.markdown:
        write_markdown(runs, options.markdown)
    if options.pictures:
        from .charts import draw

        console.print("drawn:", *draw(runs[0], options.pictures))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if anything failed."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(parser, arguments)
    console = Console(width=max(WIDTH, Console().width))
    try:
        if options.compare:
            old, new = map(read, options.compare)
            console.print(comparison(old, new))
            return 0
        if options.read:
            runs = [read(file) for file in options.read]
        else:
            if options.device == "cuda" and (why := Gpu.missing()):
                parser.error(f"--device cuda: {why}")
            if options.device == "cuda" and options.threads:
                parser.error("--threads is for --device cpu")
            runs = [_measured(options, _chosen(parser, options), arguments, console)]
        for figures in runs:
            _show(figures, console)
        _write(runs, options, console)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 1 if any(figures.failures for figures in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
