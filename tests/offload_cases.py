"""Parameters, gradients and failing copies for the tests of ``fastopt.offload``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from support import some_values

FREE = pytest.mark.parametrize("free", [False, True], ids=["kept", "freed"])
SHAPES = [(70, 3), (33,), (1,), (16, 16), (0,), (129, 2)]


def offload_params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    params = [nn.Parameter(some_values(shape, dtype, 10 + i)) for i, shape in enumerate(SHAPES)]
    params[2].requires_grad_(False)
    return params


def backward(params: list[nn.Parameter], step: int) -> None:
    """Some parameters are not used in some steps."""
    used = [p for i, p in enumerate(params) if p.requires_grad and (step + i) % 4 != 0]
    terms = [(p * some_values(p.shape, p.dtype, 100 * step + i)).sum() for i, p in enumerate(used)]
    torch.stack(terms).sum().backward()


def half_params() -> list[nn.Parameter]:
    shapes = [(40, 3), (9, 11), (16, 16), (33, 2)]
    return [nn.Parameter(some_values(shape, torch.bfloat16, 10 + i)) for i, shape in enumerate(shapes)]


def half_backward(params: list[nn.Parameter], step: int) -> None:
    terms = [(p * some_values(p.shape, p.dtype, 100 * step + i)).sum() for i, p in enumerate(params)]
    torch.stack(terms).sum().backward()
