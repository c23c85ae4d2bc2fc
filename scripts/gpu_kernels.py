"""Launches five kernels once each, on tensors larger than the caches, for ncu in gpu_check.sh.

    python scripts/gpu_kernels.py [--names]

``--names`` prints what ncu shall look for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

# By the name of the kernel, an operation that launches it.
NAMES = ("update_vectors", "measure_tiles", "drop_along", "plane_moments", "run_planes")
ELEMENTS = 1 << 26


def operations(device: Any, elements: int = ELEMENTS) -> dict[str, Callable[[], object]]:
    """An operation for each kernel; a call launches it, and smaller ones."""
    import torch

    import fastopt
    import fastopt.nn.functional as F

    def stepped(make: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], object]:
        param = torch.randn(shape, dtype=dtype, device=device, requires_grad=True)
        param.grad = torch.randn_like(param)
        step: Callable[[], object] = make([param]).step
        return step

    side = int(elements**0.5)
    images = torch.randn(elements // (64 * 56 * 56) or 1, 64, 56, 56, device=device)
    statistics = [torch.ones(64, device=device) for _ in range(4)]
    dropped = torch.randn(elements, dtype=torch.bfloat16, device=device)
    return {
        "update_vectors": stepped(fastopt.Adam, (elements,), torch.float32),
        "measure_tiles": stepped(fastopt.Adafactor, (side, side), torch.float32),
        "drop_along": partial(F.dropout, dropped, 0.5),
        "plane_moments": partial(F.batch_norm, images, *statistics, training=True),
        "run_planes": partial(F.batch_norm, images, *statistics, training=False),
    }


def main() -> int:
    """Returns the exit status."""
    import torch

    for name, run in operations("cuda").items():
        run()  # states and machine code are there afterwards
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--names"]:
        print("|".join(NAMES))
    else:
        sys.exit(main())
