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

from .cases import CASES
from .measure import Result, measure


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _ratio(result: Result, peer: str) -> str:
    middle, low, high = result.ratio(peer)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, short: a smoke test")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains TEXT")
    parser.add_argument("--seconds", type=float, default=3.0, help="per case (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [c for c in CASES if options.only.lower() in c.name.lower() and (c.quick or not options.quick)]
    if not cases:
        parser.error(f"no case has '{options.only}' in its name: {', '.join(c.name for c in CASES)}")

    info = fastopt.info()
    table = Table(title=f"{_cpu()}, {options.threads} threads, {info['in_use']['isa']}, torch {torch.__version__}")
    table.add_column("", no_wrap=True)
    for column in ("us/step", "GB/s", "x torch fused", "x torch default"):
        table.add_column(column, justify="right", no_wrap=True)
    figures: list[dict[str, Any]] = []
    console = Console(width=max(100, Console().width))
    with Progress(console=console, transient=True) as progress:
        for case in progress.track(cases, description="measuring"):
            result = measure(case.peers(), 0.2 if options.quick else options.seconds)
            seconds = result.seconds("fastopt")
            table.add_row(
                case.name,
                f"{seconds * 1e6:.1f}",
                f"{case.bytes / seconds / 1e9:.1f}",
                _ratio(result, "torch fused"),
                _ratio(result, "torch default"),
            )
            figures.append({"case": case.name, "bytes": case.bytes, "seconds": result.rounds})
    console.print(table)
    if options.json:
        machine = {"cpu": _cpu(), "threads": options.threads}
        options.json.write_text(json.dumps({"machine": machine, "fastopt": info, "cases": figures}, indent=1))


if __name__ == "__main__":
    main()
