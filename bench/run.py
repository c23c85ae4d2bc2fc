"""Measures cases, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .figures import Figures, Row
from .machine import Cpu, Gpu
from .measure import Burst, Pace, measure, repeated
from .operation import COLD, Case
from .zoo import unusable


@contextlib.contextmanager
def noted(failures: list[str], what: str) -> Iterator[None]:
    """Notes an error and continues: the figures of the other cases are worth having."""
    try:
        yield
    except Exception as error:
        failures.append(f"FAILED: {what}: {type(error).__name__}: {error}")


class Run:
    """Figures that grow as cases are measured."""

    def __init__(self, machine: Cpu | Gpu, pace: Pace) -> None:
        self.figures = Figures(machine.title, notes=list(machine.notes))
        self._machine = machine
        self._pace = pace

    def measure(self, cases: Sequence[Case], console: Console, keep: Callable[[], None]) -> None:
        """Measures all cases, or as many as there is time for before an interruption. ``keep`` is called after each,
        so that a run that is killed leaves the figures that it has."""
        absent = [package for package, version in self._machine.peers.items() if not version]
        self.figures.notes += [f"{package} is not installed" for package in absent]
        failures = self.figures.failures
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        try:
            with Progress(*columns, console=console, transient=True) as progress:
                task = progress.add_task("measuring", total=len(cases))
                for case in cases:
                    progress.update(task, description=case.name[:50].ljust(50))
                    if why := case.operation.package and unusable(case.operation.package):
                        self.figures.notes.append(f"{case.name}: skipped, {why}")
                    else:
                        with noted(failures, case.name), self._machine.prepared(case):
                            self.figures.rows.append(self._row(case))
                    keep()
                    progress.advance(task)
        except KeyboardInterrupt:
            failures.append(f"STOPPED after {len(self.figures.rows)} of {len(cases)} cases")

    def _row(self, case: Case) -> Row:
        bursts, differs = self._bursts(case)
        if ceiling := self._machine.ceiling(case):
            bursts["ceiling"] = ceiling
        row = Row(
            case=case.name,
            family=case.family,
            operation=case.operation.name,
            input=case.input.label,
            dtype=str(case.input.dtype).removeprefix("torch."),
            tensors=len(case.input.shapes),
            elements=case.input.elements,
            bytes=case.bytes,
            caches=case.caches,
            threads=case.threads or self._machine.threads,
            rival=case.operation.rival,
            rounds=measure(bursts, self._machine, self._pace, case.caches == COLD),
            curve=case.point.curve if case.point else "",
            x=case.point.x if case.point else 0,
            differs=differs,
            products=self._machine.products(case) if case.family == "training" else None,
        )
        best = row.best(of_torch=True)
        kernels = self._machine.kernels(case, ["fastopt", *([best] if best else [])])
        row.launches.update({name: len(launched) for name, launched in kernels.items()})
        row.kernels.extend(kernels.get("fastopt", ()))
        return row

    def _bursts(self, case: Case) -> tuple[dict[str, Burst], dict[str, str]]:
        """Each competitor, ours first, on its own copy of the tensors; and how the results of some differ."""
        device = self._machine.device
        ours = case.outcome("fastopt", device)
        bursts: dict[str, Burst] = {}
        differs: dict[str, str] = {}
        for name, make in case.competitors.items():
            try:
                if name != "fastopt" and (how := case.disagreement(name, ours, device)):
                    differs[name] = how
                bursts[name] = repeated(make(case.tensors(device)))
                bursts[name](1)
            except Exception as error:  # another implementation may raise an error of any type
                if name == "fastopt":
                    raise
                bursts.pop(name, None)
                self.figures.notes.append(f"{case.name}, without {name}: {(str(error).splitlines() or ['?'])[0]}")
        if not case.operation.others:
            self.figures.notes.append(f"{case.name}: no competitor, as {case.operation.rival} is not installed")
        return bursts, differs
