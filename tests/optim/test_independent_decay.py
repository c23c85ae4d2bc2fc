"""``independent_weight_decay``: decay that goes with a schedule, but not with the size of the learning rate."""

from typing import Any

import pytest
import torch

import fastopt
from optimizer_cases import ROWS, Row
from support import assert_same_step, running, some_values

DECAY = 0.125
INDEPENDENT: dict[str, Any] = {"weight_decay": DECAY, "independent_weight_decay": True}


def _is_decoupled(row: Row) -> bool:
    try:
        row.ours([torch.ones(3, requires_grad=True)], **row.base, **row.plain, **INDEPENDENT)
    except (TypeError, ValueError):
        return False
    return True


def _steps(optimizer: torch.optim.Optimizer, count: int, grad: float = 0.0) -> list[float]:
    """The parameter after each step, with a schedule that halves the learning rate."""
    (param,) = optimizer.param_groups[0]["params"]
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    seen = []
    for _ in range(count):
        param.grad = torch.full_like(param, grad)
        optimizer.step()
        scheduler.step()
        seen.append(param[0].item())
    return seen


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("lr", [1e-3, 0.25])
def test_follows_the_schedule_alone(lr: float, backend: str) -> None:
    """Without a gradient, AdamW only decays."""
    param = torch.ones(40, dtype=torch.float64, requires_grad=True)
    with running(backend):
        seen = _steps(fastopt.AdamW([param], lr=lr, **INDEPENDENT), 3)
    expected = [1 - DECAY, (1 - DECAY) * (1 - DECAY / 2), (1 - DECAY) * (1 - DECAY / 2) * (1 - DECAY / 4)]
    assert seen == pytest.approx(expected, rel=1e-15)


def test_without_a_schedule_it_is_the_decay_itself() -> None:
    param = torch.ones(40, requires_grad=True)
    optimizer = fastopt.AdamW([param], lr=1e-3, **INDEPENDENT)
    for _ in range(2):
        param.grad = torch.zeros(40)
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.1
    assert (param == (1 - DECAY) ** 2).all()


def test_is_the_usual_decay_of_another_number() -> None:
    """With gradients, and the same bits."""
    p, q = (some_values(200, torch.float32, 1).requires_grad_() for _ in range(2))
    ours = fastopt.AdamW([p], lr=0.25, **INDEPENDENT)
    theirs = fastopt.AdamW([q], lr=0.25, weight_decay=DECAY / 0.25)
    assert _steps(ours, 4, 0.5) == _steps(theirs, 4, 0.5)
    assert_same_step(ours, [p], theirs, [q])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.ours.__name__)
def test_every_optimizer_decays_so_or_says_why_not(row: Row) -> None:
    params = [torch.ones(3, requires_grad=True)]
    if _is_decoupled(row):
        return
    known = "weight_decay" in row.ours.group_keys
    options = {**row.base, **row.plain, **(INDEPENDENT if known else {"independent_weight_decay": True})}
    if not known:
        row.ours(params, **options)  # there is no decay
        return
    with pytest.raises(ValueError, match=r"independent_weight_decay: the decay of .* is not decoupled"):
        row.ours(params, **options)
    optimizer = row.ours(params, **row.base, **row.plain)
    optimizer.param_groups[0].update(INDEPENDENT)
    params[0].grad = torch.ones(3)
    with pytest.raises(ValueError, match="independent_weight_decay"):
        optimizer.step()
    assert (params[0] == 1).all()


def test_which_are_decoupled() -> None:
    found = {row.ours.__name__ for row in ROWS if _is_decoupled(row)}
    assert {"AdamW", "Lion", "Adafactor"} <= found
    assert not found & {"Adam", "SGD", "LAMB", "RMSprop"}
    fastopt.Adam([torch.ones(3, requires_grad=True)], decoupled_weight_decay=True, **INDEPENDENT)
