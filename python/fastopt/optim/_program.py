"""Scalars that only a device can compute, as a program for its kernels.

With ``capturable=True`` only the device knows the step counter. The optimizer's own ``_scalars`` and ``_prologue`` then
take symbols instead of numbers. Symbols record the operations, so that each scalar has one definition.
``csrc/rules/program.h`` evaluates the record.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias


def _recorded(operation: str) -> tuple[Callable[[Symbol, Any], Symbol], Callable[[Symbol, Any], Symbol]]:
    """Makes the methods of an operator and of its reflection."""

    def forward(self: Symbol, other: Any) -> Symbol:
        return Symbol(operation, self, other)

    def reflected(self: Symbol, other: Any) -> Symbol:
        return Symbol(operation, other, self)

    return forward, reflected


class Symbol:
    """A number that only the device knows. Operators give symbols; comparisons give symbols that are 1 (true) or 0.

    The device computes in double, as Python does, and gets the same bits except for its own ``pow``. It gives infinity
    or NaN where Python raises an error or goes over to complex numbers.
    """

    __slots__ = ("operands", "operation")

    def __init__(self, operation: str, *operands: Number) -> None:
        self.operation = operation
        self.operands = operands

    __add__, __radd__ = _recorded("add")
    __sub__, __rsub__ = _recorded("subtract")
    __mul__, __rmul__ = _recorded("multiply")
    __truediv__, __rtruediv__ = _recorded("divide")
    __pow__, __rpow__ = _recorded("power")
    __lt__, __gt__ = _recorded("less")
    __eq__ = _recorded("equal")[0]  # type: ignore[assignment]

    def __ne__(self, other: Any) -> Symbol:  # type: ignore[override]
        return 1.0 - (self == other)  # type: ignore[no-any-return]

    def __neg__(self) -> Symbol:
        return -1.0 * self

    def __bool__(self) -> bool:
        raise TypeError(
            "a scalar that only the device knows decides nothing in Python: use select(), smaller(), larger()"
        )

    def __float__(self) -> float:
        raise TypeError("a scalar that only the device knows has no value in Python: use number() instead of float()")


Number: TypeAlias = float | Symbol
Scalars: TypeAlias = dict[str, Number]


def number(x: Any) -> Number:
    """Returns the value of a number or tensor; a symbol stays one. A string, which float() would take, is an error."""
    if isinstance(x, Symbol):
        return x
    if isinstance(x, str):
        raise TypeError(f"a number is needed, not {x!r}")
    return float(x)


def select(condition: Any, then: Callable[[], Number], otherwise: Callable[[], Number]) -> Number:
    """Returns ``then()`` where the condition holds, else ``otherwise()``; records both where the device decides."""
    if isinstance(condition, Symbol):
        return Symbol("select", condition, then(), otherwise())
    return then() if condition else otherwise()


def smaller(a: Number, b: Number) -> Number:
    """Returns what Python's ``min(a, b)`` returns."""
    return select(b < a, lambda: b, lambda: a)


def larger(a: Number, b: Number) -> Number:
    """Returns what Python's ``max(a, b)`` returns."""
    return select(b > a, lambda: b, lambda: a)


# The inputs of a program, in the order of csrc/rules/program.h: the count of the update, the carried numbers before it,
# the learning rate of a group that has it on the device, and the numbers that all groups share.
T = Symbol("t")
CARRIED = (Symbol("first carried"), Symbol("second carried"))
LR = Symbol("lr")
SHARED = (Symbol("first shared"), Symbol("second shared"), Symbol("third shared"), Symbol("fourth shared"))
INPUTS = (T, *CARRIED, LR, *SHARED)

AVERAGE_WEIGHT = "ema_weight"  # among a rule's scalars, where parameters have an average


class Program(NamedTuple):
    """How to compute scalars. Places number the inputs from 0, then the instructions' results; constants go down from
    -1."""

    constants: tuple[float, ...]
    instructions: tuple[tuple[Any, ...], ...]  # (operation, places of its operands)
    prologue: dict[str, int]  # the places of the results
    scalars: dict[str, int]
    carried: tuple[int, ...]  # in the order of the rule's carried states
    average_weight: int | None


class _Recorder:
    """Gives every distinct value a place, so that equal parts of expressions are computed once."""

    def __init__(self) -> None:
        self._constants: dict[bytes, int] = {}  # by their bits
        self._values: dict[tuple[Any, ...], int] = {}  # by operation and places of the operands
        self._known: dict[int, int] = {}  # by id
        for symbol in INPUTS:
            self.place(symbol)

    def place(self, x: Number) -> int:
        if not isinstance(x, Symbol):
            return ~self._constants.setdefault(array("d", [x]).tobytes(), len(self._constants))
        if id(x) not in self._known:
            key = (x.operation, *map(self.place, x.operands))
            self._known[id(x)] = self._values.setdefault(key, len(self._values))
        return self._known[id(x)]

    def places(self, scalars: Scalars) -> dict[str, int]:
        return {name: self.place(x) for name, x in scalars.items()}

    def constants(self) -> tuple[float, ...]:
        return tuple(array("d", b"".join(self._constants)))

    def instructions(self) -> tuple[tuple[Any, ...], ...]:
        return tuple(self._values)[len(INPUTS) :]


def trace(prologue: Scalars, scalars: Callable[..., Scalars], carried: tuple[str, ...] = (), t: Number = T) -> Program:
    """Records the program of a rule's scalars, for the backend's kernels.

    Args:
        prologue: what ``_prologue`` returned.
        scalars: the rule's ``_scalars(t, *carried)``.
        carried: the keys of numbers that go from step to step, in the order of the rule.
        t: the count, if the update has none on the device.

    Raises:
        TypeError: a scalar is no number, or Python would have to know its value.
    """
    rule = scalars(t, *CARRIED[: len(carried)])
    recorder = _Recorder()
    following = tuple(recorder.place(rule[key]) for key in carried)
    weight = recorder.place(rule[AVERAGE_WEIGHT]) if AVERAGE_WEIGHT in rule else None
    own = {name: x for name, x in rule.items() if name not in (*carried, AVERAGE_WEIGHT)}
    places = recorder.places(prologue), recorder.places(own)
    return Program(recorder.constants(), recorder.instructions(), *places, following, weight)
