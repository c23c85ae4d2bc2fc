"""8-bit states of bitsandbytes go on in fastopt."""

from __future__ import annotations

import copy

import pytest
import torch

import fastopt

bnb = pytest.importorskip("bitsandbytes")

PAIRS = [
    ("AdamW8bit", fastopt.AdamW),
    ("Adam8bit", fastopt.Adam),
    ("Lion8bit", fastopt.Lion),
    ("RMSprop8bit", fastopt.RMSprop),
]


@pytest.mark.parametrize(("name", "ours"), PAIRS, ids=lambda value: str(getattr(value, "__name__", value)))
def test_states_are_those_that_it_decodes(name: str, ours: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    params = [torch.randn(n, requires_grad=True) for n in (10_000, 30)]
    theirs = getattr(bnb.optim, name)(params, lr=1e-3)
    for _ in range(3):
        for param in params:
            param.grad = torch.randn_like(param)
        theirs.step()
    optimizer = ours(params, lr=1e-3)
    optimizer.load_state_dict(fastopt.from_bitsandbytes(copy.deepcopy(theirs.state_dict()), optimizer))
    for param in params:
        state, own = theirs.state[param], optimizer.state[param]
        keys = [key for key in own if key != "step"]
        for k, key in enumerate(keys, start=1):
            expected = state[f"state{k}"]
            if expected.dtype == torch.uint8:
                expected = bnb.functional.dequantize_blockwise(
                    expected, absmax=state[f"absmax{k}"], code=state[f"qmap{k}"], blocksize=256
                )
            assert torch.equal(own[key], expected)
            assert own[key].abs().sum() > 0
    optimizer.step()
