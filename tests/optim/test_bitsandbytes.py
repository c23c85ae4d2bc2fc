"""Checkpoints of bitsandbytes, laid out by hand. tests/ecosystem/test_bitsandbytes.py has the package's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastopt

SHAPE = (70, 100)
MAP = torch.linspace(-1, 1, 256)


def _state_dict(packed: bool, block: int, states: int = 2) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """One parameter of 8 bits and one of 32, and the values of the first one's states."""
    generator = torch.Generator().manual_seed(0)
    entries: dict[str, Any] = {}
    values = []
    for k in range(1, states + 1):
        codes = torch.randint(0, 256, SHAPE, generator=generator, dtype=torch.uint8)
        scales = torch.rand(-(-codes.numel() // block), generator=generator)
        entries |= {f"state{k}": codes, f"qmap{k}": MAP, f"absmax{k}": scales}
        of_block = torch.tensor([float(scales[i // block]) for i in range(codes.numel())]).reshape(SHAPE)
        values.append(MAP[codes.long()] * of_block)
    small = {f"state{k}": torch.full((3,), float(k)) for k in range(1, states + 1)}
    both = [{"__bnb_optimizer_quant_state__": e} if packed else e for e in (entries, small)]
    state = {i: {"step": 7, **e} for i, e in enumerate(both)}
    return {"state": state, "param_groups": [{"lr": 1.0, "params": [0, 1]}]}, values


def _params() -> list[torch.Tensor]:
    return [torch.ones(SHAPE, requires_grad=True), torch.ones(3, requires_grad=True)]


@pytest.mark.parametrize("block", [256, 2048])
@pytest.mark.parametrize("packed", [False, True])
def test_states_are_the_values_of_the_map(packed: bool, block: int) -> None:
    given, values = _state_dict(packed, block)
    optimizer = fastopt.AdamW(_params(), lr=0.5)
    optimizer.load_state_dict(fastopt.from_bitsandbytes(given, optimizer))
    first, second = optimizer.param_groups[0]["params"]
    state = optimizer.state[first]
    assert state["step"] == 7
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert torch.equal(state["exp_avg"], values[0])
    assert torch.equal(state["exp_avg_sq"], values[1])
    assert optimizer.state[second]["exp_avg_sq"].tolist() == [2.0] * 3


def test_training_goes_on_in_8_bits() -> None:
    given, values = _state_dict(packed=True, block=256, states=1)
    optimizer = fastopt.Lion(_params(), state_dtype="int8")
    optimizer.load_state_dict(fastopt.from_bitsandbytes(given, optimizer))
    first, second = optimizer.param_groups[0]["params"]
    for param in (first, second):
        param.grad = torch.zeros_like(param)
    optimizer.step()
    state = optimizer.state[first]
    assert state["exp_avg"].dtype == torch.int8
    assert torch.equal(state["exp_avg"].sign().float(), values[0].sign() * (state["exp_avg"] != 0))


def test_what_does_not_go_together() -> None:
    given, _ = _state_dict(packed=True, block=256)
    with pytest.raises(TypeError, match="fastopt's optimizers, not Adam"):
        fastopt.from_bitsandbytes(given, torch.optim.Adam(_params()))
    with pytest.raises(ValueError, match="of 2 parameters, the optimizer has 1"):
        fastopt.from_bitsandbytes(given, fastopt.AdamW(_params()[:1]))
    with pytest.raises(ValueError, match=r"parameter 0 has 2 states, where the optimizer has exp_avg$"):
        fastopt.from_bitsandbytes(given, fastopt.Lion(_params()))
    given["state"][0]["__bnb_optimizer_quant_state__"]["absmax1"] = torch.ones(5)
    with pytest.raises(ValueError, match="5 scales for 7000 elements"):
        fastopt.from_bitsandbytes(given, fastopt.AdamW(_params()))
