"""FSDP2 with CPUOffloadPolicy: how long optimizers take on the host, where parameters, gradients and states lie.

    torchrun --nproc-per-node 2 examples/fsdp_offload.py [--width 1024] [--layers 4] [--steps 10]

Each process has a part of every parameter. With a GPU, layers go there for forward and backward; the step stays on the
host. Prints the median time of ``optimizer.step()``, and the bytes that parameters and states take in a process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

import fastopt

Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]

WAYS: dict[str, tuple[torch.dtype, Make]] = {
    "float32, torch.optim.AdamW(fused=True)": (torch.float32, lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True)),
    "float32, fastopt.AdamW": (torch.float32, lambda p: fastopt.AdamW(p, lr=1e-4)),
    'bfloat16, fastopt.AdamW(master="split")': (torch.bfloat16, lambda p: fastopt.AdamW(p, lr=1e-4, master="split")),
    "bfloat16, the same with bfloat16 states": (
        torch.bfloat16,
        lambda p: fastopt.AdamW(p, lr=1e-4, master="split", state_dtype=torch.bfloat16, rounding_seed=0),
    ),
}


def network(width: int, layers: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(layers)]
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
    for block in blocks:
        fully_shard(block.to(dtype), offload_policy=policy)
    return fully_shard(nn.Sequential(*blocks), offload_policy=policy)


def own_bytes(value: Any) -> int:
    part = value.to_local() if hasattr(value, "to_local") else value
    return part.nbytes if isinstance(part, Tensor) else 0


def measure(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, steps: int) -> float:
    """Returns the median seconds of a step, after one that makes the states."""
    times = []
    for _ in range(steps + 1):
        model(inputs).float().square().mean().backward()
        dist.barrier()  # all processes step at one time, and share the memory's bandwidth
        begin = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - begin)
        optimizer.zero_grad()
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    cores = fastopt.info()["detected"]["cores"]
    torch.set_num_threads(max(cores // int(os.environ["LOCAL_WORLD_SIZE"]), 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    for name, (dtype, make) in WAYS.items():
        model = network(arguments.width, arguments.layers, dtype)
        optimizer = make(model.parameters())
        inputs = torch.randn(8, arguments.width, device=device).to(dtype)
        seconds = measure(model, optimizer, inputs, arguments.steps)
        kept = sum(own_bytes(p) + sum(map(own_bytes, optimizer.state[p].values())) for p in model.parameters())
        if dist.get_rank() == 0:
            print(f"{name:>42}: {1e3 * seconds:7.2f} ms a step, {kept / 1e6:6.1f} MB", flush=True)
        del model, optimizer
    dist.barrier()  # lets gloo's threads release their tensors
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
