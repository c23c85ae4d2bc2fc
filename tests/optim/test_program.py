"""A recorded program computes the scalars that Python computes, to the bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastopt
from fastopt import _core
from fastopt.optim._program import INPUTS, LR, SHARED, Program, Symbol, T, larger, number, select, smaller, trace
from fastopt.optim._update import IDENTITY_PROLOGUE, Update
from optimizer_cases import ALL_CASES, Case

STEPS = (1, 2, 3, 5, 6, 7, 10, 100, 10_000, 10**6)
A, B = INPUTS[1:3]


def exact(scalars: dict[str, Any]) -> dict[str, str]:
    """Tells apart the signs of zeros and of NaN."""
    return {name: float(value).hex() for name, value in scalars.items()}


def assert_same_scalars(
    program: Program,
    update: Update,
    prologue: Any,
    scalars: Any,
    lr: float,
    t: int,
    shared: tuple[float, ...] = (math.nan,) * len(SHARED),
) -> None:
    carried = {"mu_product": (1.0, 0.43, 0.0), "eta": (lr, 1e-3, math.inf), "mu": (1.0, 0.01, math.nan)}
    for values in itertools.product(*(carried.get(key, (1.0, 0.43, 0.0)) for key in update.carried)):
        expected = dict(scalars(t, *values))
        inputs = [float(t), *values, *[math.nan] * (2 - len(values)), lr, *shared]
        got_prologue, got, following = _core.evaluate_program(program, update.rule, inputs)
        assert exact(got_prologue) == exact(prologue)
        assert exact({**got, **dict(zip(update.carried, following, strict=True))}) == exact(expected)


def optimizer_of(case: Case) -> Any:
    """An optimizer of a matrix and a vector, which Adafactor treats by different rules."""
    params = [torch.zeros(shape, requires_grad=True) for shape in ((2, 3), (4,))]
    for param in params:
        param.grad = torch.ones_like(param)
    return case.make(params)


# Numbers of a group, which Python counts, depend on lr, so these optimizers have no capturable.
WITH_LR = [
    pytest.param(case, on_device, id=f"{case.id}-{'lr on the device' if on_device else 'lr'}")
    for case in ALL_CASES
    for on_device in (False, True)
    if not (on_device and case.row.counts_by_group and not case.row.grouped)
]


@pytest.mark.parametrize(("case", "on_device"), WITH_LR)
def test_program_equals_python(case: Case, on_device: bool) -> None:
    optimizer = optimizer_of(case)
    group = optimizer.param_groups[0]
    counted = dict(zip(optimizer._shared, SHARED, strict=False))
    traced = {**group, **({"lr": LR} if on_device else {}), **counted}
    rates = (group["lr"], 0.0, 1e-3, 7.0, math.inf) if on_device else (group["lr"],)
    for part, (update, recorded, _) in enumerate(optimizer._parts(traced)):
        program = trace(optimizer._prologue(traced, 1.0), recorded, update.carried, T if update.counts else 2)
        for lr, t in itertools.product(rates, STEPS if update.counts else (2,)):
            numbers = (0.3, 0.4, -2.0, float(t))[: len(counted)]
            actual = {**group, "lr": lr, **dict(zip(counted, numbers, strict=True))}
            _, scalars, _ = optimizer._parts(actual)[part]
            shared = {"shared": numbers} if numbers else {}
            assert_same_scalars(program, update, optimizer._prologue(actual, 1.0), scalars, lr, t, **shared)


def test_first_update_of_sgd_is_another_program() -> None:
    """The state decides which of the two runs, not a counter."""
    optimizer = fastopt.SGD([torch.zeros(1)], momentum=0.9, dampening=0.5)
    ((update, scalars, _),) = optimizer._parts(optimizer.param_groups[0])
    for t in (1, 2):
        assert_same_scalars(trace(IDENTITY_PROLOGUE, scalars, (), t), update, IDENTITY_PROLOGUE, scalars, 0.0, t)


@pytest.mark.parametrize("beta2", [0, 0.0, 1 / 3, 0.5, 0.6, 2 / 3, 0.7, 0.9999])
def test_radam_where_the_variance_is_never_or_late_tractable(beta2: float) -> None:
    """The branch that is not taken would divide by zero, or take the root of a negative number."""
    optimizer = fastopt.RAdam([torch.zeros(1)], betas=(0, beta2))
    ((update, scalars, _),) = optimizer._parts(optimizer.param_groups[0])
    for t in STEPS:
        assert_same_scalars(trace(IDENTITY_PROLOGUE, scalars), update, IDENTITY_PROLOGUE, scalars, 0.0, t)


def test_betas_that_are_tensors_count_in_double() -> None:
    optimizer = fastopt.Adam([torch.zeros(1)], betas=(torch.tensor(0.75), torch.tensor(0.5)))
    ((update, scalars, _),) = optimizer._parts(optimizer.param_groups[0])
    assert scalars(3) == optimizer._scalars({**optimizer.param_groups[0], "betas": (0.75, 0.5)}, 3)
    assert_same_scalars(trace(IDENTITY_PROLOGUE, scalars), update, IDENTITY_PROLOGUE, scalars, 0.0, 3)


VALUES = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, -3.0, 1e300, 5e-324, math.inf, -math.inf, math.nan)

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a / b": lambda a, b: a / b,
    "a ** b": lambda a, b: a**b,
    "a < b": lambda a, b: number(a < b),
    "a > b": lambda a, b: number(a > b),
    "a == b": lambda a, b: number(a == b),
    "a != b": lambda a, b: number(a != b),
    "-a": lambda a, b: -a,
    "smaller": smaller,
    "larger": larger,
    "select": lambda a, b: select(a < b, lambda: a, lambda: -b),
}


def lookahead(alpha: Any) -> Callable[[Any], Any]:
    """The rule that has only one scalar."""
    return lambda t, *carried: {"alpha": alpha}


def value_of(x: Any, a: float, b: float) -> float:
    _, scalars, _ = _core.evaluate_program(trace(IDENTITY_PROLOGUE, lookahead(x)), "lookahead", [1.0, a, b, *[0.0] * 5])
    return scalars["alpha"]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_pythons(name: str) -> None:
    """Operators work on two symbols, and on a symbol and a number on either side."""
    compute = OPERATORS[name]
    compared = 0
    for a, b in itertools.product(VALUES, VALUES):
        try:
            expected = compute(a, b)
        except (ZeroDivisionError, OverflowError):
            continue
        if isinstance(expected, complex):
            continue
        compared += 1
        for x, y in ((A, B), (A, b), (a, B)):
            got = value_of(compute(x, y), a, b)
            assert got == expected or (math.isnan(got) and math.isnan(expected)), (a, b)
            assert math.isnan(got) or math.copysign(1, got) == math.copysign(1, expected), (a, b)
    assert compared > 0.8 * len(VALUES) ** 2


def test_what_python_refuses_is_ieees() -> None:
    assert value_of(A / B, 1.0, 0.0) == math.inf
    assert value_of(A / B, 1.0, -0.0) == -math.inf
    assert math.isnan(value_of(A / B, 0.0, 0.0))
    assert value_of(A**B, 0.0, -0.5) == math.inf
    assert value_of(A**B, 1e300, 2.0) == math.inf
    assert math.isnan(value_of(A**B, -2.0, 0.5))


def test_what_is_known_is_not_recorded_and_nothing_twice() -> None:
    program = trace(
        IDENTITY_PROLOGUE, lambda t: {"alpha": (1.0 - 0.5**t) * (1.0 - 0.5**t) + (2.0 - 1.0), "unused": t + 3}
    )
    operations = [name for name, *_ in program.instructions]
    assert operations == ["power", "subtract", "multiply", "add", "add"]
    assert sorted(program.constants) == [0.0, 0.5, 1.0, 3.0, math.inf]
    assert trace(IDENTITY_PROLOGUE, lookahead(-0.0)).constants[-1].hex() == "-0x0.0p+0"


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x if x > 0 else -x,
        lambda x: min(x, 1.0),
        lambda x: x != x and x,
        float,
        math.sqrt,
        lambda x: x + "1",
        lambda x: {x: 1},
    ],
    ids=["if", "min", "and", "float", "sqrt", "a string", "a key"],
)
def test_symbols_have_no_value_in_python(use: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        trace(IDENTITY_PROLOGUE, lambda t: {"alpha": use(t)})


def test_a_symbol_in_a_condition_names_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"use select\(\)"):
        fastopt.SGD([torch.zeros(1)], momentum=0.9)._scalars({"lr": 1.0, "momentum": 0.9}, T)


def long(symbol: Symbol, operations: int, step: Callable[[int], float]) -> Any:
    for i in range(operations):
        symbol = symbol + step(i)
    return symbol


def evaluated(program: Any, rule: str = "lookahead") -> Any:
    return _core.evaluate_program(tuple(program), rule, [float(i) for i in range(len(INPUTS))])


def test_too_long_a_program() -> None:
    assert value_of(long(T, 48, lambda i: 1.0), 0, 0) == 49
    with pytest.raises(ValueError, match="too many operations"):
        value_of(long(T, 49, lambda i: 1.0), 0, 0)
    with pytest.raises(ValueError, match="too many constants"):
        value_of(long(T, 33, lambda i: float(i)), 0, 0)


def test_names_are_the_rules() -> None:
    program = trace(IDENTITY_PROLOGUE, lookahead(T))
    with pytest.raises(KeyError, match="no rule 'looking'"):
        evaluated(program, "looking")
    with pytest.raises(KeyError, match="scalar 'alpha' is missing"):
        evaluated(trace(IDENTITY_PROLOGUE, lambda t: {}))
    with pytest.raises(KeyError, match="more scalars than the rule has"):
        evaluated(trace(IDENTITY_PROLOGUE, lambda t: {"alpha": t, "beta": t}))
    with pytest.raises(KeyError, match="scalar 'decay' is missing"):
        evaluated(trace({k: v for k, v in IDENTITY_PROLOGUE.items() if k != "decay"}, lookahead(T)))
    with pytest.raises(KeyError, match="mu_product"):
        trace(IDENTITY_PROLOGUE, lookahead(T), ("mu_product",))


@pytest.mark.parametrize(
    ("instruction", "error"),
    [
        (("sine", 0), "no operation 'sine'"),
        (("add", 0), "'add' has other operands"),
        (("add", 0, 0, 0), "'add' has other operands"),
        (("add", 0, len(INPUTS)), "a value it does not have"),  # itself
        (("add", 0, -9), "a value it does not have"),
        (("add", 0, 10**30), "a value it does not have"),
        (("add", 0, math.nan), "a value it does not have"),
    ],
    ids=str,
)
def test_malformed_instructions(instruction: tuple[Any, ...], error: str) -> None:
    program = trace(IDENTITY_PROLOGUE, lookahead(T))._replace(instructions=(instruction,))
    with pytest.raises((ValueError, KeyError), match=error):
        evaluated(program)


def test_malformed_programs() -> None:
    program = trace(IDENTITY_PROLOGUE, lookahead(T))
    with pytest.raises(ValueError, match="a value it does not have"):
        evaluated(program._replace(scalars={"alpha": len(INPUTS)}))
    with pytest.raises(ValueError, match="a value it does not have"):
        evaluated(program._replace(carried=(len(INPUTS),)))
    with pytest.raises(ValueError, match="too many carried"):
        evaluated(program._replace(carried=(0, 0, 0)))
    with pytest.raises(ValueError, match="an operation without a name"):
        evaluated(program._replace(instructions=((),)))
    with pytest.raises(ValueError, match="not a program"):
        evaluated(program[:4])
    with pytest.raises(TypeError, match="inputs"):
        _core.evaluate_program(program, "lookahead", [1.0])
