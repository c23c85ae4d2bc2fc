"""Line searches: each chooses a point along a direction of descent.

A search is called with a function that evaluates points and keeps the gradients of those it is given, the point at
t = 0, and the first t. It returns a point that it evaluated, or the start if none was better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .points import Point

DECREASE = 1e-4  # of the Armijo condition
_SHRINK = 0.1  # towards the last finite point


class Evaluate(Protocol):
    def __call__(self, t: float, *kept: Point) -> Point: ...


class Limits(NamedTuple):
    """``longest``: max |d|; a bracket is too small to go on where its width times that is below the tolerance."""

    longest: float
    tolerance_change: float
    max_ls: int
    curvature: float  # of the strong Wolfe conditions


Search = Callable[[Evaluate, Point, float, Limits], Point]


def between(a: Point, b: Point, bounds: tuple[float, float] | None = None) -> float:
    """The minimum of the cubic through two points with their slopes, within the bounds."""
    low, high = bounds or (min(a.t, b.t), max(a.t, b.t))
    if not (a.is_finite and b.is_finite):
        near, far = (a.t, b.t) if a.is_finite else (b.t, a.t)
        return near + _SHRINK * (far - near)
    left, right = (a, b) if a.t <= b.t else (b, a)
    d1 = a.slope + b.slope - 3 * _ratio(a.loss - b.loss, a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:  # the cubic has no minimum
        return (low + high) / 2
    root = math.sqrt(square)
    t = right.t - (right.t - left.t) * _ratio(right.slope + root - d1, right.slope - left.slope + 2 * root)
    return (low + high) / 2 if math.isnan(t) else min(max(t, low), high)


def _ratio(a: float, b: float) -> float:
    """a / b, as IEEE 754 has it: a straight line's minimum is infinitely far."""
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def strong_wolfe(evaluate: Evaluate, start: Point, t: float, limits: Limits) -> Point:
    """Brackets a minimum, and halves the bracket by cubics until the strong Wolfe conditions hold, as torch's search
    does (Nocedal and Wright, *Numerical Optimization*, algorithms 3.5 and 3.6)."""

    def rises(point: Point) -> bool:
        return point.loss > start.loss + DECREASE * point.t * start.slope

    def is_flat(point: Point) -> bool:
        return abs(point.slope) <= -limits.curvature * start.slope

    before, point = start, evaluate(t)
    bracket = [start, point]
    tries = 0
    while True:
        if tries == limits.max_ls:
            bracket = [start, point]
            break
        if rises(point) or (tries > 1 and point.loss >= before.loss):
            bracket = [before, point]
            break
        if is_flat(point):
            return point
        if point.slope >= 0:
            bracket = [before, point]
            break
        t = between(before, point, (point.t + 0.01 * (point.t - before.t), point.t * 10))
        before, point = point, evaluate(t, point)
        tries += 1

    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    stalled = False
    while tries < limits.max_ls:
        left, right = sorted((bracket[0].t, bracket[1].t))
        if (right - left) * limits.longest < limits.tolerance_change:
            break
        t, stalled = _inside(between(bracket[0], bracket[1]), left, right, stalled)
        if not left < t < right:  # no number lies between
            break
        point = evaluate(t, *bracket)
        tries += 1
        if rises(point) or point.loss >= bracket[low].loss:
            bracket[high] = point
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        if is_flat(point):
            return point
        if point.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = point
    return bracket[low]


def _inside(t: float, left: float, right: float, stalled: bool) -> tuple[float, bool]:
    """Moves t away from an end of the bracket, the second time that it comes close to one."""
    margin = 0.1 * (right - left)
    if min(right - t, t - left) >= margin:
        return t, False
    if stalled or t >= right or t <= left:
        return (right - margin if abs(t - right) < abs(t - left) else left + margin), False
    return t, True


def armijo(evaluate: Evaluate, start: Point, t: float, limits: Limits) -> Point:
    """Shortens the step, by quadratics, until the loss falls by a part of what the slope promises."""
    point = start
    for _ in range(1 + limits.max_ls):
        point = evaluate(t)
        if point.loss <= start.loss + DECREASE * t * start.slope:
            return point
        t *= _shorter(point, start)
        if t == 0:
            break
    return start


def _shorter(point: Point, start: Point) -> float:
    if not point.is_finite:
        return _SHRINK
    rise = point.loss - start.loss - point.t * start.slope
    return min(max(-start.slope * point.t / (2 * rise), 0.1), 0.5) if rise > 0 else 0.5
