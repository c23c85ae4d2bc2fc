"""The norms that a step leaves of each parameter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from torch.optim import Optimizer

from ._checks import check_every
from .optim import Lookahead
from .optim._fused import FusedOptimizer
from .optim._monitored import Tables, keep_captured, monitor_of, set_monitor

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_USUAL_RATIO = 1e-3  # of weights that neither stand still nor jump
_KEYS = ("grad_norm", "param_norm", "update_norm", "ratio", "non_finite")


class Statistics(NamedTuple):
    """What a step did to one parameter."""

    name: str  # as errors name it: its own name, or "parameter 3 of group 0"
    grad_norm: float  # of ``param.grad`` as the step left it: unscaled, before clipping and penalties
    param_norm: float  # of the parameter after the step, or of its master where it has one
    update_norm: float  # of what the step added to it
    ratio: float  # ``update_norm / param_norm``
    non_finite: int  # elements of the gradient that are infinite or NaN; of complex numbers, real and imaginary parts


class Monitor:
    """What the steps of an optimizer leave, as :func:`fastopt.monitor` returns it.

    Args:
        optimizer: whose steps are measured.
        every: one of so many steps is measured.
    """

    def __init__(self, optimizer: FusedOptimizer, every: int) -> None:
        self._optimizer = optimizer
        self._every = every
        self._steps = 0
        self._tables: Tables | None = None
        set_monitor(optimizer, self)

    def tables_of_step(self) -> Tables | None:
        if self._steps % self._every:
            return None
        return Tables(sum(len(group["params"]) for group in self._optimizer.param_groups), self._tables)

    def end_of_step(self, tables: Tables | None) -> None:
        self._steps += 1
        if tables is not None:
            self._tables = tables
            keep_captured(self._optimizer, tables)

    def tables_of_last_step(self) -> Tables | None:
        return None if (self._steps - 1) % self._every else self._tables

    def remove(self) -> None:
        """Ends the measurement. The last numbers can still be read."""
        if monitor_of(self._optimizer) is self:
            set_monitor(self._optimizer, None)

    @property
    def latest(self) -> list[Statistics]:
        """The parameters that the last measured step updated, in the order of the optimizer's groups.

        It is empty before the first step. A step that raised an error or was skipped because of an inf has not
        measured anything: the numbers stay those of the step before. Waits for devices that have parameters.
        """
        if self._tables is None:
            return []
        names = [
            self._optimizer._label_at(g, i)
            for g, group in enumerate(self._optimizer.param_groups)
            for i in range(len(group["params"]))
        ]
        rows = zip(names, self._tables.read(), strict=False)  # groups may have been added since
        return [_statistics(name, *row) for name, row in rows if not math.isnan(row[-1])]

    def as_dict(self) -> dict[str, float]:
        """Returns the latest numbers for TensorBoard and trackers, flat: ``"grad_norm/<name>"``, ``"param_norm/..."``,
        ``"update_norm/..."``, ``"ratio/..."`` and ``"non_finite/..."``.

        Examples:
            >>> for tag, value in monitor.as_dict().items():
            ...     writer.add_scalar(tag, value, step)
        """
        latest = self.latest
        return {f"{key}/{one.name}": getattr(one, key) for key in _KEYS for one in latest}

    def table(self) -> Table:
        """Returns the latest numbers as a ``rich.table.Table``, which ``rich.print`` shows: the largest ratio first.

        Raises:
            ImportError: rich is not installed.
        """
        try:
            from rich.table import Table
        except ImportError:
            raise ImportError("table() needs rich: pip install rich; as_dict() and latest do without") from None
        shown = Table("parameter")
        for heading in ("gradient", "parameter", "update", "ratio", "not finite"):
            shown.add_column(heading, justify="right")
        for one in sorted(self.latest, key=lambda one: -math.inf if math.isnan(one.ratio) else -one.ratio):
            *norms, count = one[1:]
            shown.add_row(one.name, *(f"{norm:.3g}" for norm in norms), str(count or ""))
        return shown

    def figure(self) -> Figure:
        """Returns the latest ratios as a ``matplotlib.figure.Figure``: a bar for each parameter, in the order of the
        groups, with a line at 1e-3; red where a gradient has elements that are not finite.

        Raises:
            ImportError: matplotlib is not installed.

        Examples:
            >>> monitor.figure().savefig("ratios.png")
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("figure() needs matplotlib: pip install matplotlib") from None
        latest = self.latest
        figure = Figure(figsize=(7, 1 + 0.2 * max(len(latest), 4)), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel="norm of the update / norm of the parameter")
        widths = [one.ratio if math.isfinite(one.ratio) else 0.0 for one in latest]
        axes.barh(range(len(latest)), widths, color=["tab:red" if one.non_finite else "tab:blue" for one in latest])
        axes.set_yticks(range(len(latest)), [one.name for one in latest], fontsize=7)
        axes.axvline(_USUAL_RATIO, color="black", linestyle=":")
        axes.invert_yaxis()
        return figure


def _statistics(name: str, *sums: float) -> Statistics:
    grad, param, update = map(math.sqrt, sums[:-1])
    return Statistics(name, grad, param, update, _ratio(update, param), int(sums[-1]))


def _ratio(update: float, param: float) -> float:
    if param != 0:
        return update / param
    return math.inf if update > 0 else 0.0


def monitor(optimizer: Optimizer, every: int = 1) -> Monitor:
    """Makes each step leave the norms of gradient, parameter and update of every parameter.

    They are taken in the step's own pass, in float64, and are the same on every machine. Training does not change. The
    numbers of parameters on a GPU stay there until they are read; only then the CPU waits. On a :class:`Lookahead`, the
    steps are those of the inner optimizer. An optimizer has one monitor: a second takes its place. It measures as long
    as you keep the object that this returns. Copies, pickles and checkpoints of the optimizer have no monitor; loading
    a checkpoint and adding a group keep it.

    Args:
        optimizer: an optimizer of fastopt.
        every: the first step is measured, and then one of so many (default: 1).

    Returns:
        ``latest``, a list with ``name``, ``grad_norm``, ``param_norm``, ``update_norm``, ``ratio`` and ``non_finite``
        of each parameter that had a gradient; ``as_dict()``, ``table()`` and ``remove()``.

    Raises:
        TypeError: ``optimizer`` is not of fastopt, or ``every`` is not an integer.
        ValueError: ``every`` is not positive.
        RuntimeError: from a step, which has then written nothing: it sees a part of a parameter: of a DTensor, of
            FullyShardedDataParallel, or of a gradient in sparse rows.

    Examples:
        >>> monitor = fastopt.monitor(optimizer)
        >>> optimizer.step()
        >>> rich.print(monitor.table())
    """
    while isinstance(optimizer, Lookahead):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, FusedOptimizer):
        raise TypeError(f"monitor is for fastopt's optimizers, not a {type(optimizer).__name__}")
    check_every(every)
    return Monitor(optimizer, every)
