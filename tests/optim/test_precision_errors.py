"""Ways to store that are wrong, or make no sense together: errors say why, and nothing is written."""

from typing import Any

import pytest
import torch

import fastopt
from support import called, named, running

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def test_lookahead_refuses_copies() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = fastopt.Lookahead(fastopt.SGD([{"params": [param], "copies": [torch.zeros(3)]}], lr=0.1))
    param.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="copies: Lookahead"):
        optimizer.step()
    assert (param == 1).all()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"master": "bfloat16"}, "Invalid master: 'bfloat16'"),
    ({"master": True}, "Invalid master: True"),
    ({"rounding": "up"}, "Invalid rounding: 'up'"),
    ({"rounding_seed": -1}, "Invalid rounding_seed: -1"),
    ({"rounding_seed": 2**64}, "Invalid rounding_seed"),
    ({"rounding_seed": 1.5}, "Invalid rounding_seed: 1.5"),
    ({"state_dtype": torch.float16}, "Invalid state_dtype: torch.float16"),
    ({"state_dtype": "int4"}, "Invalid state_dtype: int4"),
    ({"state_dtype": 8}, "Invalid state_dtype: 8"),
    ({"master": "split", "rounding": "stochastic"}, "rounding='stochastic' with a master"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_refused_options(options: dict[str, Any], message: str) -> None:
    """By the constructor, by add_param_group, and by a step after a change; nothing is written."""
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        fastopt.AdamW([param], **options)
    optimizer = fastopt.AdamW([param], lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)], **options})
    optimizer.param_groups[0].update(options)
    param.grad = torch.ones(3)
    if "rounding_seed" not in options:  # without random rounding nobody reads it
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert (param == 1).all()


@BACKENDS
def test_gradients_of_other_kinds(backend: str) -> None:
    """Any real floating type goes with a real parameter; complex numbers and integers do not."""
    weight = torch.ones(3, requires_grad=True)
    weight.grad_dtype = None
    optimizer = fastopt.AdamW(named(weight=weight))
    for dtype in (torch.complex64, torch.int32):
        weight.grad = torch.ones(3, dtype=dtype)
        with running(backend), pytest.raises((RuntimeError, TypeError), match=f"the gradient of {called('weight')}"):
            optimizer.step()
    assert (weight == 1).all()
    assert not optimizer.state
