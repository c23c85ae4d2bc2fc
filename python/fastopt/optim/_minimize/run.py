"""One step: directions, searches, and the reasons to end."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from .._update import Group
from . import report
from .hager_zhang import hager_zhang
from .line_search import Limits, Search, armijo, strong_wolfe
from .points import Evaluator, Point
from .report import Report
from .vectors import Vectors

SEARCHES: dict[str, Search] = {"strong_wolfe": strong_wolfe, "hager_zhang": hager_zhang, "armijo": armijo}


class Best(NamedTuple):
    """The point of the lowest loss, and the parameters there."""

    point: Point
    params: Tensor


class Unseen(NamedTuple):
    """Where the last step went without an evaluation: base + t direction; and the best point before."""

    best: Best
    base: Tensor
    direction: Tensor
    t: float


class Method:
    """What a step asks of its optimizer, which overrides it."""

    _curvature: ClassVar[float]  # of the strong Wolfe conditions
    _unseen: Unseen | None = None

    def _restart(self, state: dict[str, Any]) -> None:
        """Forgets everything that a direction was made of."""
        raise NotImplementedError

    def _direct(self, state: dict[str, Any], point: Point, out: Tensor) -> list[float]:
        """Sets ``out`` to a direction, and returns max |d|, d.d and g.d. The state has the direction and the gradient
        before."""
        raise NotImplementedError

    def _note(self, point: Point, sums: list[float]) -> None:
        """Takes note of a direction's sums."""

    def _first_step(self, state: dict[str, Any], point: Point, slope: float) -> float:
        """Where the search begins, in units of the learning rate, along a direction that is not the gradient's."""
        raise NotImplementedError


class _Direction(NamedTuple):
    vector: Tensor
    longest: float  # max |d|
    slope: float  # g.d
    first: bool  # nothing is known but the gradient


class Run:
    """One step of an optimizer."""

    def __init__(
        self, optimizer: Method, state: dict[str, Any], vectors: Vectors, evaluate: Evaluator, group: Group
    ) -> None:
        self.optimizer, self.state, self.vectors, self.evaluate, self.group = optimizer, state, vectors, evaluate, group
        self.iterations = self.restarts = 0
        self.reason, self.restored = report.NOT_FINITE, False
        self.point: Point | None = None
        self.best: Best | None = None

    def report(self) -> Report:
        point = self.point
        loss = self.evaluate.sign * point.loss if point is not None and point.is_finite else math.nan
        largest = math.nan if point is None else point.largest
        return Report(self.reason, loss, largest, self.evaluate.count, self.iterations, self.restarts, self.restored)

    def all(self) -> Any:
        """Performs the step, and returns what the closure returned first. Where the closure fails, the parameters are
        set back to the last point that was chosen."""
        before = self.state["func_evals"]
        try:
            returned, point = self._begin()
            if point is not None:
                self._iterate(point)
            return returned
        except BaseException:
            if self.evaluate.base is not None and self.evaluate.at != 0:
                self.evaluate.move(0)
            raise
        finally:
            self.state["func_evals"] = before + self.evaluate.count

    def _begin(self) -> tuple[Any, Point | None]:
        """Evaluates the point where the parameters are. Returns None for it where there is nothing to do."""
        state, unseen = self.state, self.optimizer._unseen
        direction = state.get("d")
        before = state.get("prev_flat_grad") if direction is not None else None
        out = self.vectors.take(
            before, direction, *((unseen.best.params, unseen.base, unseen.direction) if unseen else ())
        )
        returned, point = self.evaluate.here(float(state.get("t", 0)), out, direction, before)
        self.point = point
        if not point.is_finite:
            if unseen is not None and self.vectors.are(unseen.base, unseen.direction, unseen.t):
                self._restore(unseen.best)
            return returned, None
        self.optimizer._unseen = None
        if point.largest <= self.group["tolerance_grad"]:
            self.reason = report.GRADIENT
        elif self.vectors.rate == 0:
            self.reason = report.NOTHING_MOVES
        else:
            return returned, point
        return returned, None

    def _iterate(self, point: Point) -> None:
        search = SEARCHES.get(self.group["line_search_fn"])
        while True:
            self.iterations += 1
            self.state["n_iter"] += 1
            direction = self._direct(point)
            t = self.vectors.rate * (
                min(1.0, 1.0 / point.magnitudes)
                if direction.first
                else self.optimizer._first_step(self.state, point, direction.slope)
            )
            self.state["prev_loss"], self.state["t"] = point.loss, t
            if direction.slope > -self.group["tolerance_change"]:
                self.reason = report.SLOPE
                return
            before, reached = point, self._go(search, point, direction, t)
            if reached is None:
                return
            point = self.point = reached
            moved = math.inf if point is before else direction.longest * abs(self.state["t"])
            if self._ends(before, point, moved):
                return

    def _direct(self, point: Point) -> _Direction:
        state, vectors = self.state, self.vectors
        out = vectors.take(point.grad, state.get("prev_flat_grad"), state.get("d"), self.best and self.best.params)
        sums = None
        if state["n_iter"] == 1 or "d" not in state:
            self.optimizer._restart(state)
        else:
            sums = self.optimizer._direct(state, point, out)
            if not sums[2] < 0:  # no descent, or not finite
                self._forget()
                sums = None
        first = sums is None
        if sums is None:
            sums = vectors.combine(out, point.grad, [], vectors.minus_one)
        state["d"], state["prev_flat_grad"] = out, point.grad
        self.optimizer._note(point, sums)
        longest, _, slope = sums
        return _Direction(out, longest, slope, first)

    def _forget(self) -> None:
        self.optimizer._restart(self.state)
        self.restarts += 1

    def _go(self, search: Search | None, point: Point, direction: _Direction, t: float) -> Point | None:
        """Goes from a point along a direction. Returns where it is; None, with a reason, if the step ends here."""
        base = self.vectors.take(point.grad, direction.vector, self.best and self.best.params)
        self.vectors.gather_params(base)
        self.evaluate.begin(base, direction.vector, point)
        if search is None:
            return self._go_blindly(point, direction, t)
        left = self.group["max_eval"] - self.evaluate.count
        limits = Limits(
            longest=direction.longest,
            tolerance_change=self.group["tolerance_change"],
            max_ls=min(self.group["max_ls"] or left, left),
            curvature=self.optimizer._curvature,
        )
        start = dataclasses.replace(point, t=0.0, slope=direction.slope)
        found = search(self.evaluate, start, t, limits)
        self.state["t"] = found.t
        if self.evaluate.at != found.t:
            self.evaluate.move(found.t)
        if found is not start:
            return found
        if direction.first:
            self.reason = report.LINE_SEARCH
            return None
        self._forget()
        return point

    def _go_blindly(self, point: Point, direction: _Direction, t: float) -> Point | None:
        """Takes the step t, without a search. The last one is not evaluated, as in torch."""
        base = self.evaluate.base
        assert base is not None
        if self.best is None or point.loss <= self.best.point.loss:
            self.best = Best(point, base)
        self.evaluate.move(t)
        if self.iterations == self.group["max_iter"]:
            self.optimizer._unseen = Unseen(self.best, base, direction.vector, t)
            self.reason = report.MAX_ITER
            return None
        out = self.vectors.take(point.grad, direction.vector, base, self.best.params)
        _, new = self.evaluate.here(t, out, direction.vector, point.grad)
        if new.is_finite:
            return new
        self.reason = report.NOT_FINITE
        self._restore(self.best)
        return None

    def _restore(self, best: Best) -> None:
        self.point = best.point
        self.vectors.scatter(best.params, None, 0.0)
        self.evaluate.base = None  # nothing to go back to
        self.optimizer._unseen = None
        self._forget()
        self.restored = True

    def _ends(self, before: Point, point: Point, moved: float) -> bool:
        """Whether the step ends at this point: torch's conditions, in torch's order. A search that found no better
        point is not the end."""
        tolerance = self.group["tolerance_change"]
        reasons = (
            (report.MAX_ITER, self.iterations == self.group["max_iter"]),
            (report.MAX_EVAL, self.evaluate.count >= self.group["max_eval"]),
            (report.GRADIENT, point.largest <= self.group["tolerance_grad"]),
            (report.CHANGE, moved <= tolerance),
            (report.CHANGE, point is not before and abs(point.loss - before.loss) < tolerance),
        )
        self.reason = next((reason for reason, holds in reasons if holds), self.reason)
        return any(holds for _, holds in reasons)
