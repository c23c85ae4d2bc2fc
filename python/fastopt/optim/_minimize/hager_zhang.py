"""The line search of CG_DESCENT (Hager and Zhang, *Algorithm 851*, ACM TOMS 32, 2006, section 4)."""

from __future__ import annotations

import contextlib

from .line_search import Evaluate, Limits
from .points import Point

_DECREASE = 0.1  # delta of the Wolfe conditions; sigma is the method's
_ERROR = 1e-6  # epsilon: relative error of the loss that is put up with
_SPLIT, _SHRUNK, _GROWTH = 0.5, 0.66, 5.0  # theta, gamma, rho
_TOWARDS_FINITE = 0.1


class _Found(Exception):
    """Ends the search, at a point that fulfils the conditions or when there have been enough."""


class _Search:
    """The intervals [a, b] of the paper: the slope is negative at a and not at b, and a's loss is hardly above the
    start's."""

    def __init__(self, evaluate: Evaluate, start: Point, limits: Limits) -> None:
        self.evaluate, self.start, self.limits = evaluate, start, limits
        self.limit = start.loss + _ERROR * abs(start.loss)
        self.best = start
        self.tries = 0

    def at(self, t: float) -> Point:
        """Evaluates a point. Raises _Found where the search has to end."""
        if self.tries > self.limits.max_ls:
            raise _Found
        self.tries += 1
        point = self.evaluate(t, self.best)
        if self.fulfils(point):
            self.best = point
            raise _Found
        if point.loss < self.best.loss:
            self.best = point
        return point

    def fulfils(self, point: Point) -> bool:
        slope = self.start.slope
        if not abs(point.slope) <= -self.limits.curvature * slope:
            return False
        wolfe = point.loss - self.start.loss <= _DECREASE * point.t * slope
        return wolfe or ((2 * _DECREASE - 1) * slope >= point.slope and point.loss <= self.limit)

    def bracket(self, t: float) -> tuple[Point, Point]:
        low, point = self.start, self.at(t)
        while True:
            if point.slope >= 0:
                return low, point
            if not point.loss <= self.limit:
                return self.split(self.start, point)
            low, point = point, self.at(_GROWTH * point.t)

    def split(self, a: Point, b: Point) -> tuple[Point, Point]:
        """Halves an interval whose end b has a negative slope and a loss that is too high."""
        while True:
            part = _SPLIT if b.is_finite else _TOWARDS_FINITE
            t = a.t + part * (b.t - a.t)
            if not a.t < t < b.t:  # no number lies between
                raise _Found
            d = self.at(t)
            if d.slope >= 0:
                return a, d
            a, b = (d, b) if d.loss <= self.limit else (a, d)

    def update(self, a: Point, b: Point, t: float) -> tuple[Point, Point]:
        if not a.t < t < b.t:
            return a, b
        c = self.at(t)
        if c.slope >= 0:
            return a, c
        return (c, b) if c.loss <= self.limit else self.split(a, c)

    def secants(self, a: Point, b: Point) -> tuple[Point, Point]:
        t = _secant(a, b)
        low, high = self.update(a, b, t)
        if high.t == t:
            return self.update(low, high, _secant(b, high))
        if low.t == t:
            return self.update(low, high, _secant(a, low))
        return low, high

    def run(self, t: float) -> None:
        a, b = self.bracket(t)
        before = 0
        while (b.t - a.t) * self.limits.longest >= self.limits.tolerance_change and self.tries > before:
            before = self.tries  # without another evaluation the interval has nothing inside
            low, high = self.secants(a, b)
            if high.t - low.t > _SHRUNK * (b.t - a.t):
                low, high = self.update(low, high, (low.t + high.t) / 2)
            a, b = low, high


def _secant(a: Point, b: Point) -> float:
    change = b.slope - a.slope
    return (a.t * b.slope - b.t * a.slope) / change if change else (a.t + b.t) / 2


def hager_zhang(evaluate: Evaluate, start: Point, t: float, limits: Limits) -> Point:
    """Finds a point that fulfils the Wolfe conditions, or their approximation by slopes alone, which holds where losses
    differ by less than their rounding."""
    search = _Search(evaluate, start, limits)
    with contextlib.suppress(_Found):
        search.run(t)
    return search.best
