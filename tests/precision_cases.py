"""The ways to store parameters and states, for tests that go over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizer_cases import Case
from support import HALF, Guarded, some_values

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
FLOATS = (F32, F64, BF16, F16)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "master": {"master": "float32"},
    "split": {"master": "split"},
    "random": {"rounding": "stochastic", "rounding_seed": 5},
    "narrow": {"state_dtype": BF16, "rounding_seed": 7},
    "narrow-nearest": {"state_dtype": BF16, "rounding": "nearest"},
    "int8": {"state_dtype": "int8"},
    "ema": {"ema": 0.9},
    "ema-warmup": {"ema": 0.99, "ema_warmup": True},
    "random-int8-ema": {"rounding": "stochastic", "rounding_seed": 2**64 - 1, "state_dtype": "int8", "ema": 0.5},
    "split-int8-ema": {"master": "split", "state_dtype": "int8", "ema": 0.9},
    "master-narrow": {"master": "float32", "state_dtype": BF16, "rounding_seed": 1},
}


# The type of a parameter, of its gradient, of its copy, and sizes: around 32 elements (a scale), 128 (a tile of the
# kernels), 4096 (the fewest that are coded) and 16384 (a task).
KINDS: list[tuple[torch.dtype, torch.dtype, torch.dtype, tuple[int, ...]]] = [
    (F32, BF16, F16, (1, 31, 129, 4095, 4097, 16385)),
    (BF16, BF16, F32, (7, 33, 127, 4096, 4129)),
    (BF16, F32, BF16, (5, 160, 4111)),
    (F16, F32, BF16, (8, 65, 4099)),
    (F16, F16, F64, (3, 4100)),
    (F32, F64, F32, (9, 4103)),
    (F64, F16, BF16, (15, 129, 4097)),
]

Result = tuple[torch.optim.Optimizer, list[Tensor], list[Tensor]]  # with the parameters and their copies


def takes(options: dict[str, Any], dtype: torch.dtype) -> bool:
    """Whether parameters of the type may have the options."""
    if options.get("master") == "split" and dtype == torch.float16:
        return False
    return dtype != torch.float64 or options.get("state_dtype") not in (BF16, "int8")


def set_grad(param: Tensor, grad: Tensor) -> None:
    """Gives a gradient of any type to a parameter."""
    if grad.dtype != param.dtype:
        param.grad_dtype = None
    param.grad = grad


def run_kinds(
    case: Case, options: dict[str, Any], guards: list[Guarded], device: torch.device | str = "cpu", scale: float = 1.0
) -> Result:
    """Three steps of all types and sizes, each at another misalignment. ``scale``: of the gradients, for GradScaler."""
    params: list[Tensor] = []
    grads: list[Tensor] = []
    copies: list[Tensor] = []
    described = [(dtypes, size) for *dtypes, sizes in KINDS if takes(options, dtypes[0]) for size in sizes]
    for i, (dtypes, size) in enumerate(described):
        for tensors, dtype in zip((params, grads, copies), dtypes, strict=True):
            guards.append(Guarded(size, dtype, misalign=(i + len(guards)) % 16, device=device))
            tensors.append(guards[-1].inside)
        params[-1].copy_(some_values(size, dtypes[0], seed=i)).requires_grad_()
    optimizer = case.make([{"params": params, "copies": copies}], **options)
    for step in range(3):
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            low = 1e-4 if grad.dtype == F16 else 1e-8
            set_grad(param, grad.copy_(scale * some_values(param.shape, grad.dtype, 100 * step + i, low, 1e2)))
        if scale != 1.0:
            optimizer.grad_scale = torch.tensor(scale, device=device)
            optimizer.found_inf = torch.zeros((), device=device)
        optimizer.step()
    return optimizer, params, copies


def half_params(dtype: torch.dtype = BF16, sizes: Sequence[Any] = ((7, 5), (70,), (65, 64), ())) -> list[Tensor]:
    """Parameters of a half type; one is large enough for states in 8 bits."""
    return [some_values(size, dtype, seed=i).requires_grad_() for i, size in enumerate(sizes)]


def train(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: range, dtype: torch.dtype | None = None
) -> None:
    """Takes steps with gradients of ``dtype``, or of the parameter's type. Equal steps get equal gradients."""
    for step in steps:
        for i, param in enumerate(params):
            grad = some_values(param.shape, torch.float64, 100 * step + i, 1e-3, 2.0)
            # Float32 gradients of a bfloat16 twin have its values.
            set_grad(param, grad.to(BF16).to(dtype or param.dtype))
        optimizer.step()


def float_bits(values: Tensor) -> Tensor:
    """The bits of float32 numbers, as integers."""
    return values.detach().contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def half_bits(values: Tensor) -> Tensor:
    """The bits of bfloat16 or float16 numbers, as integers."""
    assert values.dtype in HALF
    return values.detach().contiguous().view(torch.int16).to(torch.int64) & 0xFFFF


def joined(param: Tensor, remainder: Tensor) -> Tensor:
    """The float32 value of a bfloat16 parameter and its remainder, by the documented formula."""
    both = (half_bits(param) << 16) + remainder.to(torch.int64)
    return torch.where(both >= 2**31, both - 2**32, both).to(torch.int32).view(torch.float32)
