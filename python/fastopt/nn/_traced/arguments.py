"""What a trace may take for granted about the arguments of a call."""

from __future__ import annotations

import dis
import inspect
from types import CodeType
from typing import Any

OTHER = ...  # stands for any value but None, True and False; copies and pickles keep it


def parameters_of(forward: Any) -> list[inspect.Parameter]:
    """Returns the parameters of the innermost function, without ``self``."""
    return list(inspect.signature(inspect.unwrap(forward)).parameters.values())[1:]


def is_flag(value: Any) -> bool:
    return value is None or value is True or value is False


def optional(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call that are None, True or False, or by default: their value, or ``OTHER``."""
    call = inspect.signature(inspect.unwrap(forward)).bind(None, *args, **kwargs)
    call.apply_defaults()
    found = {}
    for p in parameters_of(forward):
        value = call.arguments[p.name]
        if is_flag(value) or (p.kind is not p.VAR_KEYWORD and is_flag(p.default)):
            found[p.name] = value if is_flag(value) else OTHER
    return found


def is_passed_on(code: CodeType, name: str) -> bool:
    """Whether a function uses its argument ``**name`` in calls only, as ``f(**name)``."""
    if name in code.co_cellvars:
        return False
    steps = list(dis.get_instructions(code))
    for step, after in zip(steps, [*steps[1:], steps[-1]], strict=True):
        names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        if "_FAST" in step.opname and name in names and (names[-1] != name or after.opname != "DICT_MERGE"):
            return False
    return True


def names_in_decorators(forward: Any) -> frozenset[str]:
    """Returns the names that decorators of ``forward`` may look for among its arguments, except its parameters."""
    found: set[str] = set()
    inner = forward
    while (after := getattr(inner, "__wrapped__", None)) is not None:
        cells = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
        for value in (*cells, *_constants(getattr(inner, "__code__", None))):
            found.update(
                part for part in (value if isinstance(value, (tuple, frozenset)) else (value,)) if _is_name(part)
            )
        inner = after
    return frozenset(found - {p.name for p in parameters_of(forward)})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _constants(code: CodeType | None) -> list[Any]:
    found: list[Any] = []
    for value in () if code is None else code.co_consts:
        found += _constants(value) if isinstance(value, CodeType) else [value]
    return found
