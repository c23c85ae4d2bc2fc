"""``python -m fastopt``: what runs underneath, and every operation once against the reference."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import _runtime
from .nn import functional as F
from .optim import ALL, SGD, Lookahead


def _show(values: dict[str, Any], indent: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _show(value, indent + "  ")
        elif isinstance(value, list):
            print(f"{indent}{key}: {', '.join(map(str, value)) or '-'}")
        else:
            print(f"{indent}{key}: {'-' if value in ('', None) else value}")


def _lookahead(params: list[torch.Tensor], **options: Any) -> Lookahead:
    return Lookahead(SGD(params, **options), k=1)


TESTED: dict[str, Callable[..., torch.optim.Optimizer]] = {cls.__name__: cls for cls in ALL} | {"Lookahead": _lookahead}


def _one_step(make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(77, 13, generator=generator).to(dtype).requires_grad_()
    param.grad = torch.randn(77, 13, generator=generator).to(dtype)
    make([param], l1=1e-2, max_grad_norm=1.0).step()
    return param.detach()


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

DROPPED: dict[str, Callable[..., torch.Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3, seed=1),
    "dropout of channels": lambda x: F.dropout1d(x, 0.3, seed=1),
    "dropout, transposed": lambda x: F.dropout(x.T, 0.3, seed=1),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, True, seed=1),
    "bias_dropout_add": lambda x: F.bias_dropout_add(x, x[0], x, 0.3, seed=1),
}


def _dropped(function: Callable[..., torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    return function(torch.randn(77, 130, generator=torch.Generator().manual_seed(0)).to(dtype))


NORMALIZED: dict[str, Callable[..., torch.Tensor]] = {
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "batch_norm, images": lambda x: F.batch_norm(x.view(11, 7, 10, 13), None, None, training=True, activation="relu"),
    "batch_norm, channels-last": lambda x: F.batch_norm(
        x.view(11, 10, 13, 7).permute(0, 3, 1, 2), None, None, training=True, activation="gelu"
    ),
}


def _with_gradient(function: Callable[..., torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(77, 130, generator=generator).to(dtype).requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=generator).to(dtype))
    return torch.cat([y.detach().flatten(), grad.flatten()])


def self_test() -> bool:
    """One step of every optimizer, every kind of dropout and BatchNorm, in every type: equal to the reference, to the
    bit."""
    operations: dict[str, Callable[[torch.dtype], torch.Tensor]] = {
        **{name: partial(_one_step, make) for name, make in TESTED.items()},
        **{name: partial(_dropped, function) for name, function in DROPPED.items()},
        **{name: partial(_with_gradient, function) for name, function in NORMALIZED.items()},
    }
    chosen = _runtime.backend()
    good = True
    try:
        for name, operation in operations.items():
            for dtype in DTYPES:
                results = []
                for backend in (chosen, "reference"):
                    _runtime.use_backend(backend)
                    results.append(operation(dtype))
                if not torch.equal(*results):
                    print(f"self-test: {name} {dtype} differs from the reference")
                    good = False
    finally:
        _runtime.use_backend(chosen)
    return good


def main() -> int:
    _show(_runtime.info())
    good = self_test()
    tested = f"{len(TESTED)} optimizers, {len(DROPPED)} dropouts, {len(NORMALIZED)} BatchNorms, {len(DTYPES)} types"
    print(f"self-test: {'passed' if good else 'FAILED'} ({tested}, against the reference)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
