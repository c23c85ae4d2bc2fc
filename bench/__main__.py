"""``python -m bench``: fastopt beside torch, in one run.

Ratios are medians of paired rounds with their quartiles; above 1, fastopt is faster. Absolute times
belong to this machine at this minute.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

import fastopt

from .case import Case
from .cases import cases
from .kept import kept_for_backward
from .machine import Cpu, Gpu
from .measure import measure
from .report import LEGEND, Row, markdown, table

QUICK = 0.2  # seconds per case of a smoke test


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer cases, short: a smoke test")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains TEXT")
    default = f"{Cpu.seconds:g}, with --device cuda {Gpu.seconds:g}, with --quick {QUICK:g}"
    parser.add_argument("--seconds", type=float, help=f"per case (default: {default})")
    parser.add_argument("--threads", type=int, help=f"of the CPU (default: {torch.get_num_threads()})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table to FILE")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and (why := Gpu.missing()):
        parser.error(f"--device cuda: {why}")
    if options.device == "cuda" and options.threads:
        parser.error("--threads is for --device cpu")
    known = cases(options.device)
    options.cases = [c for c in known if options.only.lower() in c.name.lower() and (c.quick or not options.quick)]
    if not options.cases:
        parser.error(f"no case has '{options.only}' in its name: {', '.join(c.name for c in known)}")
    return options


@contextlib.contextmanager
def _noted(failures: list[str], what: str) -> Iterator[None]:
    """Goes on after an error: the figures of the others are worth having."""
    try:
        yield
    except Exception as error:
        failures.append(f"FAILED: {what}: {type(error).__name__}: {error}")


@dataclass
class Run:
    """What came of the cases."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def measure(self, cases: list[Case], machine: Cpu | Gpu, seconds: float, min_rounds: int, console: Console) -> None:
        """All of them, or as many as there is time for until an interruption."""
        self.notes += [f"{case.name}: no peer, as {case.rival} is not installed" for case in cases if not case.peers]
        try:
            with Progress(console=console, transient=True) as progress:
                for case in progress.track(cases, description="measuring"):
                    with _noted(self.failures, case.name):
                        peers, without = case.bursts(machine.device)
                        self.notes += without
                        floor = machine.floor(case)
                        result = measure({**peers, **floor}, machine, seconds, min_rounds)
                        self.rows.append(Row(case, result, next(iter(floor), None)))
                for row in progress.track(self.rows, description="counting launches"):
                    with _noted(self.failures, f"launches of {row.case.name}"):
                        row.launches.update(machine.launches(row.case, [who for who in ("fastopt", row.best) if who]))
        except KeyboardInterrupt:
            self.failures.append(f"STOPPED after {len(self.rows)} of {len(cases)} cases")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: whether anything failed."""
    options = _options(arguments)
    machine = Gpu() if options.device == "cuda" else Cpu(options.threads or torch.get_num_threads())
    seconds = options.seconds or (QUICK if options.quick else machine.seconds)
    console = Console(width=max(165, Console().width))
    run = Run()
    run.measure(options.cases, machine, seconds, 3 if options.quick else 7, console)
    run.notes += machine.notes
    console.print(table(run.rows, machine.title, machine.rivals))
    kept: dict[str, dict[str, float]] = {}
    with _noted(run.failures, "kept for backward"):
        kept = kept_for_backward(options.only.lower(), machine.device)
    if kept:
        each = (f"{name} {' / '.join(f'{bytes_:.3g}' for bytes_ in by.values())}" for name, by in kept.items())
        what = "kept for backward, arguments and results included, bytes per float32 element, fastopt / torch"
        console.print(f"{what}: {', '.join(each)}")
    for note in [*LEGEND.splitlines(), *machine.floors.splitlines(), *run.notes, *run.failures]:
        console.print(note, highlight=False)
    if options.markdown:
        options.markdown.write_text(markdown(run.rows, machine.title, machine.rivals))
    if options.json:
        everything = {
            "machine": machine.about,
            "fastopt": fastopt.info(),
            "notes": run.notes,
            "cases": [row.figures() for row in run.rows],
            "failures": run.failures,
            "kept_for_backward": kept,
        }
        options.json.write_text(json.dumps(everything, indent=1))
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
