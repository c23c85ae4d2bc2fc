"""A small GPT in bfloat16 whose optimizer lives on the host: the same losses, and where the bytes are.

python examples/offload.py    (on a GPU, if there is one; otherwise the CPU plays both parts, and copies are plain)
"""

from __future__ import annotations

import resource
import time
from typing import NamedTuple

import torch
from gpt import Gpt, Peak, loss_of, some_words

import fastopt

STEPS = 9
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS: dict[str, dict[str, bool] | None] = {
    "on the device": None,
    "offload": {},
    "offload, free_grads": {"free_grads": True},
}


class Result(NamedTuple):
    losses: list[float]
    device: dict[str, int]  # bytes
    host: dict[str, int]
    seconds: float  # of a training step


def train(options: dict[str, bool] | None) -> Result:
    torch.manual_seed(0)
    model = Gpt().to(DEVICE, torch.bfloat16)
    optimizer = fastopt.AdamW(model.parameters(), lr=3e-4, master="split", max_grad_norm=1.0)
    peak = Peak(model)
    if options is not None:
        optimizer = fastopt.offload(optimizer, **options)
    losses, times = [], []
    for _ in range(STEPS):
        words = some_words().to(DEVICE)
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(model, words)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())  # waits for the device
        times.append(time.perf_counter() - begin)
    device = {"parameters": sum(p.nbytes for p in model.parameters()), "gradients": peak.bytes}
    host = {}
    if options is None:
        tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        device["states"] = sum(tensor.nbytes for tensor in tensors)
    else:
        host = optimizer.host_memory()
    return Result(losses, device, host, sorted(times)[STEPS // 2])


def megabytes(parts: dict[str, int]) -> str:
    shown = ", ".join(f"{what} {size / 1e6:.1f}" for what, size in parts.items())
    return f"{sum(parts.values()) / 1e6:6.1f} MB" + (f" ({shown})" if parts else "")


def main() -> None:
    results = {name: train(options) for name, options in WAYS.items()}
    first = results["on the device"].losses
    if DEVICE == "cpu":  # a GPU's backward is not the same twice
        assert all(result.losses == first for result in results.values())
    print(
        f"losses: {first[0]:.4f} ... {first[-1]:.4f}; threads of a step: {fastopt.info()['in_use']['offload_threads']}"
    )
    for name, result in results.items():
        print(f"{name}: {1e3 * result.seconds:.0f} ms a training step")
        print(f"    device {megabytes(result.device)}")
        print(f"    host   {megabytes(result.host)}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
