"""``python -m fastopt``: what runs underneath, and one step of every rule against the reference."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from . import _runtime
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


def _one_step(backend: str, make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype) -> torch.Tensor:
    _runtime.use_backend(backend)
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(77, 13, generator=generator).to(dtype).requires_grad_()
    param.grad = torch.randn(77, 13, generator=generator).to(dtype)
    make([param], l1=1e-2, max_grad_norm=1.0).step()
    return param.detach()


def self_test() -> bool:
    """One step of every optimizer and type: equal to the reference, to the bit."""
    chosen = _runtime.backend()
    good = True
    try:
        for name, make in TESTED.items():
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                if not torch.equal(_one_step(chosen, make, dtype), _one_step("reference", make, dtype)):
                    print(f"self-test: {name} {dtype} differs from the reference")
                    good = False
    finally:
        _runtime.use_backend(chosen)
    return good


def main() -> int:
    _show(_runtime.info())
    good = self_test()
    print(f"self-test: {'passed' if good else 'FAILED'} ({len(TESTED)} optimizers, 4 types, against the reference)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
