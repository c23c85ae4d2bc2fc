"""The results of a run, as a file keeps them: the source of tables, comparisons and charts."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .measure import Rounds

FORMAT = 3  # of the file format


class Ratio(NamedTuple):
    """The median over the rounds, and the quartiles."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """A case and its figures."""

    case: str
    family: str
    operation: str
    input: str
    dtype: str
    tensors: int
    elements: int
    bytes: int  # bytes that a step has to move; 0 if arithmetic decides
    caches: str  # "cold", "hot"; "" if it makes no difference
    threads: int
    rival: str
    rounds: Rounds
    curve: str = ""  # the curve that this is a point of
    x: int = 0
    differs: dict[str, str] = field(default_factory=dict)  # by competitor: how its result differs
    launches: dict[str, int] = field(default_factory=dict)  # by competitor: launches on a GPU in one step
    kernels: list[tuple[str, float]] = field(default_factory=list)  # those of fastopt's step, and their microseconds
    products: float | None = None  # the share of torch's default step that is matrix products and convolutions

    @property
    def seconds(self) -> float:
        return self.seconds_of("fastopt")

    def seconds_of(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str) -> Ratio | None:
        """How many times as fast ours is, if that competitor was measured."""
        if name not in self.rounds:
            return None
        pairs = zip(self.rounds[name], self.rounds["fastopt"], strict=True)
        low, middle, high = statistics.quantiles([theirs / ours for theirs, ours in pairs], n=4)
        return Ratio(middle, low, high)

    @property
    def of_rest(self) -> float | None:
        """The share of torch's default step without its products that ours saves."""
        ratio = self.ratio("torch default")
        return (1 - 1 / ratio.middle) / (1 - self.products) if ratio and self.products is not None else None

    @property
    def others(self) -> list[str]:
        return [name for name in self.rounds if name not in ("fastopt", "ceiling")]

    def best(self, of_torch: bool) -> str | None:
        """The fastest of torch, or of the packages, by its median. One whose result differs does not count."""
        right = [name for name in self.others if name not in self.differs and not name.startswith("fastopt ")]
        return min((n for n in right if n.startswith("torch ") == of_torch), key=self.seconds_of, default=None)


@dataclass
class Figures:
    """The figures of one run."""

    title: str = ""
    about: dict[str, Any] = field(default_factory=dict)  # machine, versions, commit, flags
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    kept_for_backward: dict[str, dict[str, float]] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        file.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}) + "\n")


def read(file: Path) -> Figures:
    """Raises ValueError if the file has another format."""
    found = json.loads(file.read_text())
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ValueError(f"{file} was not written by this version of the bench")
    return Figures(**{**found, "rows": [Row(**row) for row in found["rows"]]})
