"""Cautious updates and decays of every optimizer that has them, for tests that go over all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from optimizer_cases import PLAIN_CASES, ROWS, Case, Row

DECAYED = {"weight_decay": 0.1, "cautious_weight_decay": True}
CAUTIOUS = {"cautious": True}
DECOUPLED: dict[str, dict[str, Any]] = {  # with which the decay is apart from the update
    **{name: {"decoupled_weight_decay": True} for name in ("Adam", "NAdam", "RAdam", "AdaBound")},
    "ADOPT": {"decouple": True},
    "Adan": {"no_prox": True},
    "AdamW": {},
    "AdEMAMix": {},
    "Lion": {},
}
NEVER = {
    "ASGD": "averages the updated parameter",
    "Adafactor": "root mean square of the parameter",
    "LAMB": "norm of the parameter",
    "LARS": "norm of the parameter",
    "Prodigy": "estimates its step size",
    "ScheduleFreeAdamW": "between two sequences",
    "ScheduleFreeSGD": "between two sequences",
    "SparseAdam": "updates rows",
    "StableAdamW": "a number of the whole tensor",
}


def name_of(row: Row) -> str:
    return row.ours.__name__


def takes(row: Row, options: dict[str, Any]) -> bool:
    """Whether an optimizer takes the options, with whatever makes its decay decoupled."""
    try:
        make_with(row, [torch.ones(3, requires_grad=True)], options)
    except (TypeError, ValueError):
        return False
    return True


def make_with(row: Row, params: Any, options: dict[str, Any]) -> Any:
    return row.ours(params, **{"lr": row.lr, **row.base, **row.plain, **DECOUPLED.get(name_of(row), {}), **options})


def _with(case: Case, options: dict[str, Any]) -> Case:
    assert case.row is not None
    return replace(case, kwargs={**case.kwargs, **DECOUPLED.get(name_of(case.row), {}), **options})


# The mask, the decay, and both, where an optimizer has them.
CASES = [
    _with(case, options)
    for case in PLAIN_CASES
    if case.row is not None and name_of(case.row) not in NEVER
    for options in (CAUTIOUS, DECAYED, {**CAUTIOUS, **DECAYED})
    if "cautious_weight_decay" not in options or name_of(case.row) in DECOUPLED
]
BOLD_ROWS = [row for row in ROWS if name_of(row) in NEVER]
