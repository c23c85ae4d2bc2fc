from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS as TorchLBFGS
from torch.optim import Optimizer

from ._checks import check_range
from ._minimize.history import History
from ._minimize.minimizer import Minimizer
from ._minimize.points import Point
from ._to_torch import rebuilt
from ._update import Group

# Options that torch does not have, and what it does.
_OWN = {"max_ls": None, "min_curvature": 1e-10, "maximize": False}


class LBFGS(Minimizer, TorchLBFGS):
    r"""Limited-memory BFGS: quasi-Newton steps from the last ``history_size`` changes of the gradient.

    .. math::
        d = -H g, \quad H \text{ from the pairs } s = t d,\; y = g_{\text{new}} - g, \qquad p \leftarrow p + t d

    For small and medium models with losses that are the same at each evaluation: it is not meant for mini-batches or
    dropout. With torch's arguments it takes torch's way, to rounding. All sums are float64 and of a fixed order:
    results depend neither on threads nor on the instruction set. Pairs take 2 ``history_size`` times the parameters'
    memory, and a direction reads them twice.

    A pair is skipped where :math:`y^\top s` is at most ``min_curvature``, or no more than rounding. The history is
    dropped where its direction is none of descent, where the search finds no better point along it, after a point that
    is not finite, and where parameters are added, frozen or thawed or the ratios of the groups' learning rates change.
    A loss or gradient that is inf or NaN is never a point that the step takes: searches shorten the step, and without a
    search the best point of the step is restored. ``last_report`` tells.

    Groups may differ in ``lr``: the method then works on parameters divided by the root of their rate, so that the
    first step is -lr times the gradient in each. A rate of 0, or ``requires_grad=False``, keeps parameters as they are.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, on one device, of any shapes; float32, float64,
            bfloat16, float16 or complex, also mixed: vectors have the widest type, at least float32.
        lr: the first step that a search tries, or the step without one; a float or a 1-element tensor (default: 1).
        max_iter: iterations of a step (default: 20).
        max_eval: evaluations of a step after which no iteration begins (default: ``max_iter * 5 // 4``).
        tolerance_grad: ends the step where max \|g\| is at most this (default: 1e-7).
        tolerance_change: ends the step where parameters or loss change by less (default: 1e-9).
        history_size: pairs, any number (default: 100).
        line_search_fn: ``"strong_wolfe"`` (torch's), ``"hager_zhang"``, ``"armijo"``, or None: no search (default:
            None).
        max_ls: evaluations that a search may add to its first; None: as many as ``max_eval`` leaves, which is the most
            in any case (default: None).
        min_curvature: see above; 0 leaves it to rounding, for losses that are very small (default: 1e-10, as in
            torch).
        maximize: maximizes the closure's value (default: False).

    Attributes:
        last_report: of the last step: ``reason`` of its end, ``loss``, ``largest_grad``, ``evaluations``,
            ``iterations``, ``restarts``, ``restored``; None before the first.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range, or groups differ in more than ``lr``.
        RuntimeError: from a step: parameters are on several devices, sharded, or of another type.

    Examples:
        >>> optimizer = fastopt.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = loss_fn(model(input), target)
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)

    Reference: Liu and Nocedal, *On the limited memory BFGS method for large scale optimization*, Math. Programming 45,
    1989; the compact form: Byrd, Nocedal and Schnabel, Math. Programming 63, 1994.
    """

    _curvature = 0.9
    _lists = ("old_dirs", "old_stps")
    _needed = ("func_evals", "n_iter")
    _history: History | None = None
    _step_squares: float | None = None  # d.d

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        max_ls: int | None = None,
        min_curvature: float = 1e-10,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
            "max_ls": max_ls,
            "min_curvature": min_curvature,
            "maximize": maximize,
        }
        self._check_group(defaults)
        Optimizer.__init__(self, params, defaults)  # torch's class has one group alone

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if not isinstance(group["history_size"], int) or group["history_size"] < 1:
            raise ValueError(f"Invalid history_size: {group['history_size']}, not a positive integer")
        check_range("min_curvature", group["min_curvature"])

    def to_torch(self) -> Optimizer:
        """Returns ``torch.optim.LBFGS`` in the same state, whose vectors it shares; do not step both.

        Raises:
            ValueError: several groups, or an option that torch does not have.
        """
        if len(self.param_groups) != 1:
            raise ValueError("torch.optim.LBFGS has one parameter group")
        group = self.param_groups[0]
        for key, value in _OWN.items():
            if group[key] != value:
                raise ValueError(f"torch.optim.LBFGS has no {key}: {group[key]}")
        other = rebuilt(TorchLBFGS, self, dropped=_OWN)
        params = [torch.view_as_real(p) if p.is_complex() else p for p in group["params"]]
        for param, state in self.state.items():
            other.state[param] = dict(state)
            self._cast(other.state[param], functools.reduce(torch.promote_types, (p.dtype for p in params)))
        return other  # type: ignore[no-any-return]

    def _restart(self, state: dict[str, Any]) -> None:
        state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1)
        state.pop("d", None)
        self._history = None

    def _first_step(self, state: dict[str, Any], point: Point, slope: float) -> float:
        return 1.0

    def _note(self, point: Point, sums: list[float]) -> None:
        self._step_squares = sums[1]

    def _direct(self, state: dict[str, Any], point: Point, out: Tensor) -> list[float]:
        history, t = self._of(state), float(state["t"])
        vectors, size = history.vectors, self.param_groups[0]["history_size"]
        curvature, squares = t * point.slope_change, point.change_squares
        new = None
        if self._is_pair(curvature, squares, t * t * self._squares(state["d"], history)):
            new = state["prev_flat_grad"], state["d"], t
            while len(history.steps) >= size:
                history.drop_oldest()
                state["ro"].pop(0)
            state["ro"].append(1 / curvature)
            state["H_diag"] = curvature / squares
        if new is None and not history.steps:
            return vectors.combine(out, point.grad, [], vectors.minus_one * float(state["H_diag"]))
        return history.direct(out, point.grad, new)

    def _is_pair(self, curvature: float, change_squares: float, step_squares: float) -> bool:
        """Whether s and y say something about the loss, rather than about rounding."""
        rounding = torch.finfo(self._vectors.dtype).eps * math.sqrt(step_squares * change_squares)  # type: ignore[union-attr]
        scaled = curvature > max(self.param_groups[0]["min_curvature"], rounding)
        return scaled and math.isfinite(curvature) and 0 < curvature / change_squares < math.inf

    def _squares(self, direction: Tensor, history: History) -> float:
        if self._step_squares is None:  # the direction came from a checkpoint
            self._step_squares = float(history.vectors.products([direction], [direction], direction)[0, 0, 0])
        return self._step_squares

    def _of(self, state: dict[str, Any]) -> History:
        """Returns the history of the state's lists."""
        steps, changes = state["old_stps"], state["old_dirs"]
        vectors = self._vectors
        assert vectors is not None
        if self._history is None or self._history.steps is not steps or self._history.vectors is not vectors:
            self._step_squares = None
            self._history = History(vectors, steps, changes)
        return self._history
