"""Two runs compared. Machines and minutes differ, so the comparison is between ratios, each taken within one run."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from .figures import Figures, Ratio, Row


def _shared(old: Row, new: Row) -> Iterator[tuple[str, Ratio, Ratio]]:
    """Ratios of both rows to the same competitors: the ceiling, and the way of torch that was best in the new run."""
    for name in ("ceiling", new.best(of_torch=True) or "torch default"):
        before, after = old.ratio(name), new.ratio(name)
        if before and after:
            yield name, before, after


def _verdict(pairs: list[tuple[str, Ratio, Ratio]]) -> str:
    """Says "faster" or "slower" if the quartiles of every pair lie apart in that direction, otherwise nothing."""
    if pairs and all(after.low > before.high for _, before, after in pairs):
        return "faster"
    if pairs and all(after.high < before.low for _, before, after in pairs):
        return "slower"
    return ""


def comparison(old: Figures, new: Figures) -> Table:
    """A line per case that both runs have; at the end, the cases that only one has."""
    table = Table(title=f"{_name(old)}  ->  {_name(new)}")
    for column in ("case", "us", "of ceiling", "x torch", ""):
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    before, after = ({row.case: row for row in figures.rows} for figures in (old, new))
    for case in after:
        if case in before:
            table.add_row(*_line(before[case], after[case]))
    for case in [*(set(before) - set(after)), *(set(after) - set(before))]:
        table.add_row(case, "-", "-", "-", "only in the new run" if case in after else "only in the old run")
    return table


def _line(old: Row, new: Row) -> list[str]:
    pairs = list(_shared(old, new))
    cells = {name: f"{before.middle:.2f} -> {after}" for name, before, after in pairs}
    ceiling = cells.pop("ceiling", "-")
    torch = next((f"{cell} {name.removeprefix('torch ')}" for name, cell in cells.items()), "-")
    return [new.case, f"{old.seconds * 1e6:.1f} -> {new.seconds * 1e6:.1f}", ceiling, torch, _verdict(pairs)]


def _name(figures: Figures) -> str:
    return f"{figures.about.get('commit') or '?'} on {figures.title}"
