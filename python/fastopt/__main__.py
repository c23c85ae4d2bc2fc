"""``python -m fastopt``: what runs underneath, and one step of every rule against the reference."""

from __future__ import annotations

import sys
from typing import Any

import torch

from . import _runtime
from .optim import ALL


def _show(values: dict[str, Any], indent: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _show(value, indent + "  ")
        elif isinstance(value, list):
            print(f"{indent}{key}: {', '.join(map(str, value)) or '-'}")
        else:
            print(f"{indent}{key}: {'-' if value in ('', None) else value}")


def _one_step(backend: str, optimizer: type[torch.optim.Optimizer], dtype: torch.dtype) -> torch.Tensor:
    _runtime.use_backend(backend)
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(1001, generator=generator).to(dtype).requires_grad_()
    param.grad = torch.randn(1001, generator=generator).to(dtype)
    optimizer([param], l1=1e-2, max_grad_norm=1.0).step()  # type: ignore[call-arg]
    return param.detach()


def self_test() -> bool:
    """One step of every optimizer and type: equal to the reference, to the bit."""
    chosen = _runtime.backend()
    good = True
    try:
        for optimizer in ALL:
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                if not torch.equal(_one_step(chosen, optimizer, dtype), _one_step("reference", optimizer, dtype)):
                    print(f"self-test: {optimizer.__name__} {dtype} differs from the reference")
                    good = False
    finally:
        _runtime.use_backend(chosen)
    return good


def main() -> int:
    _show(_runtime.info())
    good = self_test()
    print(f"self-test: {'passed' if good else 'FAILED'} ({len(ALL)} optimizers, 4 types, against the reference)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
