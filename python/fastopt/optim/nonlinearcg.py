from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ._minimize.minimizer import Minimizer
from ._minimize.points import Point
from ._update import Group


def _fletcher_reeves(g: Point, before: float, step_squares: float) -> float:
    return g.squares / before


def _polak_ribiere(g: Point, before: float, step_squares: float) -> float:
    return max(0.0, g.change / before)


def _hestenes_stiefel(g: Point, before: float, step_squares: float) -> float:
    return max(0.0, g.change / g.slope_change)


def _dai_yuan(g: Point, before: float, step_squares: float) -> float:
    return g.squares / g.slope_change


def _hager_zhang(g: Point, before: float, step_squares: float) -> float:
    beta = (g.change - 2 * g.change_squares * g.slope / g.slope_change) / g.slope_change
    return max(beta, -1 / (math.sqrt(step_squares) * min(0.01, math.sqrt(before))))


# Each takes the new gradient g with its sums (d and y are the last direction and change), the squares of the gradient
# before, and d.d.
_BETAS: dict[str, Callable[[Point, float, float], float]] = {
    "fletcher_reeves": _fletcher_reeves,
    "polak_ribiere": _polak_ribiere,
    "hestenes_stiefel": _hestenes_stiefel,
    "dai_yuan": _dai_yuan,
    "hager_zhang": _hager_zhang,
}


_RESTART = 6  # times the number of elements: the default


class NonlinearCG(Minimizer):
    r"""Nonlinear conjugate gradients: directions that remember one step, in the memory of a few gradients.

    .. math::
        d \leftarrow -g + \beta d, \qquad p \leftarrow p + t d

    For losses that are the same at each evaluation, where LBFGS's pairs do not fit into memory. With
    :math:`y = g - g_{\text{old}}`, :math:`\beta` is

    - ``"hager_zhang"``: :math:`(y - 2 d\, y^\top y / d^\top y)^\top g / d^\top y`, at least
      :math:`-1 / (\|d\| \min(0.01, \|g_{\text{old}}\|))`
    - ``"polak_ribiere"``: :math:`\max(0,\; g^\top y / g_{\text{old}}^\top g_{\text{old}})`
    - ``"hestenes_stiefel"``: :math:`\max(0,\; g^\top y / d^\top y)`
    - ``"dai_yuan"``: :math:`g^\top g / d^\top y`
    - ``"fletcher_reeves"``: :math:`g^\top g / g_{\text{old}}^\top g_{\text{old}}`

    The direction restarts at the negative gradient after ``restart`` iterations, where it is none of descent, where
    consecutive gradients are far from orthogonal (Powell: ``"fletcher_reeves"`` and ``"dai_yuan"``), and as
    :class:`LBFGS` drops its history; groups with different ``lr``, points that are not finite and
    ``last_report`` are as there.

    Args:
        params: as for :class:`LBFGS`.
        lr: the first step that a search tries along the negative gradient; without search it is every step. A float or
            a 1-element tensor (default: 1).
        max_iter: iterations of a step (default: 20).
        max_eval: evaluations of a step after which no iteration begins (default: ``max_iter * 5 // 2``).
        tolerance_grad: ends the step where max \|g\| is at most this (default: 1e-7).
        tolerance_change: ends the step where parameters or loss change by less (default: 1e-9).
        beta: one of the five (default: ``"polak_ribiere"``).
        line_search_fn: ``"strong_wolfe"``, ``"hager_zhang"``, ``"armijo"`` or None (default: ``"strong_wolfe"``).
        max_ls: evaluations that a search may add to its first; None: as many as ``max_eval`` leaves, which is the most
            in any case (default: None).
        restart: iterations after which the direction restarts; None: 6 times the number of elements (default: None).
        maximize: maximizes the closure's value (default: False).

    Attributes:
        last_report: as of :class:`LBFGS`.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range, or groups differ in more than ``lr``.
        RuntimeError: from a step: parameters are on several devices, sharded, or of another type.

    Examples:
        >>> optimizer = fastopt.NonlinearCG(model.parameters(), max_iter=100)
        >>> optimizer.step(closure)  # as for LBFGS

    Reference: Hager and Zhang, *A survey of nonlinear conjugate gradient methods*, Pacific J. Optimization 2, 2006.
    """

    _curvature = 0.4
    _needed = ("func_evals", "n_iter", "since_restart")
    _slope_before = 0.0

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        beta: str = "polak_ribiere",
        line_search_fn: str | None = "strong_wolfe",
        *,
        max_ls: int | None = None,
        restart: int | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 2 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "beta": beta,
            "line_search_fn": line_search_fn,
            "max_ls": max_ls,
            "restart": restart,
            "maximize": maximize,
        }
        self._check_group(defaults)
        Optimizer.__init__(self, params, defaults)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group["beta"] not in _BETAS:
            raise ValueError(f"Invalid beta: {group['beta']!r}, not one of {[*_BETAS]}")
        if group["restart"] is not None and (not isinstance(group["restart"], int) or group["restart"] < 1):
            raise ValueError(f"Invalid restart: {group['restart']}, not a positive integer or None")

    def _restart(self, state: dict[str, Any]) -> None:
        state.pop("d", None)
        state["since_restart"] = 0

    def _note(self, point: Point, sums: list[float]) -> None:
        state = self._state
        state["since_restart"] += 1
        state["prev_squares"], state["d_squares"], state["prev_slope"] = point.squares, sums[1], sums[2]

    def _first_step(self, state: dict[str, Any], point: Point, slope: float) -> float:
        """As long as the last step, measured by what the slope promised (Nocedal and Wright, equation 3.60)."""
        if self.param_groups[0]["line_search_fn"] is None:
            return 1.0
        rate = self._vectors.rate  # type: ignore[union-attr]
        step = float(state["t"]) * self._slope_before / (slope * rate)
        return step if 0 < step < math.inf else 1.0

    def _direct(self, state: dict[str, Any], point: Point, out: Tensor) -> list[float]:
        group, vectors = self.param_groups[0], self._vectors
        assert vectors is not None
        self._slope_before = state["prev_slope"]
        beta = self._beta(group["beta"], point, state)
        if state["since_restart"] >= (group["restart"] or _RESTART * vectors.numel):
            beta = 0.0
        if beta == 0:
            state["since_restart"] = 0
        coefficients = vectors.numbers(2)
        coefficients[0], coefficients[1] = -1.0, beta
        return vectors.combine(out, point.grad, [state["d"]], coefficients)

    def _beta(self, name: str, point: Point, state: dict[str, Any]) -> float:
        """Returns 0 for a restart."""
        far = abs(point.squares - point.change) >= 0.2 * point.squares  # g.g_old
        if far and name in ("fletcher_reeves", "dai_yuan"):
            return 0.0
        try:
            beta = _BETAS[name](point, state["prev_squares"], state["d_squares"])
        except (ZeroDivisionError, OverflowError):
            return 0.0
        return beta if math.isfinite(beta) else 0.0
