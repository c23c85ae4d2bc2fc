"""The table that is printed, and what its columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from .case import Case
from .measure import Result

LEGEND = """\
x torch best: beside the fastest, in this run, of what torch has of it, named behind the ratio: default, \
foreach=True, for-loop (foreach=False), fused=True; in place (add_, relu_). Where torch has none, a package is named.
x torch default: beside what a user gets without flags.
26M: 32 x 64 x 112 x 112."""


@dataclass(frozen=True)
class Row:
    """A case and its figures."""

    case: Case
    result: Result
    floor: str | None  # its name among the peers
    launches: dict[str, int] = field(default_factory=dict)  # on a GPU, of a step, by peer

    @property
    def best(self) -> str | None:
        """The fastest of torch's, by its median; where torch has none, of all peers."""
        measured = [name for name in self.case.peers if name in self.result.rounds]
        of_torch = [name for name in measured if name.startswith("torch ")]
        return min(of_torch or measured, key=self.result.seconds, default=None)

    def _ratio(self, peer: str | None, name: str | None = None) -> str:
        if peer not in self.result.rounds:
            return "-"
        middle, low, high = self.result.ratio(peer)
        return f"{middle:.2f} ({low:.2f}-{high:.2f}) {name or ''}".rstrip()

    def cells(self, rivals: Sequence[str]) -> dict[str, str]:
        """By column; `rivals` are packages that have one."""
        seconds, best = self.result.seconds("fastopt"), self.best
        found = {
            "": self.case.name,
            "us/step": f"{seconds * 1e6:.1f}",
            "GB/s": f"{self.case.bytes / seconds / 1e9:.1f}",
            "x torch best": self._ratio(best, best and best.removeprefix("torch ")),
            "x torch default": self._ratio("torch default"),
            "x floor": self._ratio(self.floor, self.floor),
            **{f"x {rival}": self._ratio(f"{rival} default") for rival in rivals},
        }
        if self.launches:
            found["launches"] = " / ".join(map(str, self.launches.values()))
        return found

    def figures(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "bytes": self.case.bytes,
            "best": self.best,
            "floor": self.floor,
            "launches": self.launches,
            "seconds": self.result.rounds,
        }


def _columns(rows: Sequence[Row], rivals: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Their names, and the rows."""
    cells = [row.cells(rivals) for row in rows]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    return columns, [[row.get(column, "-") for column in columns] for row in cells]


def table(rows: Sequence[Row], title: str, rivals: Sequence[str]) -> Table:
    columns, cells = _columns(rows, rivals)
    made = Table(title=title)
    for column in columns:
        made.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in cells:
        made.add_row(*row)
    return made


def markdown(rows: Sequence[Row], title: str, rivals: Sequence[str]) -> str:
    """The same, to be kept."""
    columns, cells = _columns(rows, rivals)
    lines = [["case", *columns[1:]], ["---", *["--:"] * (len(columns) - 1)], *cells]
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines), ""])
