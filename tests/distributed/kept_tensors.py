"""Masters, narrow states, averages and random rounding of DTensors, compared with one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from sharded_tensors import distributed, meshes, some_params
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import fastopt
from processes import Scenarios, refused, work
from support import assert_same_bits, step_on_some_grads

SCENARIOS = Scenarios()

RANDOM: dict[str, Any] = {"rounding": "stochastic", "rounding_seed": 5}
OPTIONS: list[dict[str, Any]] = [
    {"master": "float32"},
    {"master": "split", "ema": 0.9},
    {"state_dtype": torch.bfloat16, "rounding_seed": 5},
    RANDOM,
]
MAKERS = (
    fastopt.AdamW,
    fastopt.LAMB,
    fastopt.Adafactor,
    lambda p, **o: fastopt.SGD(p, lr=0.1, momentum=0.9, **o),
    lambda p, **o: fastopt.Lion(p, cautious=True, **o),
)


def is_nested(placements: list[Any]) -> bool:
    return placements == [Shard(0), Shard(0)]


@SCENARIOS
def kept_tensors_have_the_bits_of_one_process() -> None:
    for make in MAKERS:
        for options in OPTIONS:
            for mesh, placements in meshes():
                if is_nested(placements) and "rounding_seed" in options:
                    continue
                whole = some_params(torch.bfloat16)
                parts = distributed(whole, mesh, placements)
                optimizers: Any = make(whole, **options), make(parts, **options)
                for step in range(1, 4):
                    step_on_some_grads(optimizers[0], whole, step)
                    for part, param in zip(parts, whole, strict=True):
                        part.grad = distribute_tensor(param.grad.clone(), mesh, placements)
                    optimizers[1].step()
                for part, param in zip(parts, whole, strict=True):
                    assert_same_bits(part.full_tensor().detach(), param.detach())
                    for key, state in optimizers[0].state[param].items():
                        own = optimizers[1].state[part][key]
                        assert_same_bits(_whole(own), state, key)


def _whole(state: Tensor) -> Tensor:
    if not isinstance(state, DTensor):
        return state
    if state.dtype == torch.int16:  # gloo sends none
        return state.to(torch.int32).full_tensor().to(torch.int16)
    return state.full_tensor()


@SCENARIOS
def what_cannot_be_kept() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    (whole,) = some_params(grads=1)[-1:]
    (columns,) = distributed([whole], mesh, [Shard(1)])
    before = columns.to_local().clone()
    optimizer = fastopt.AdamW([columns], state_dtype=torch.bfloat16, rounding_seed=1)
    refused(RuntimeError, "parameter 0 .* sharded along their first dimension", optimizer.step)
    refused(
        RuntimeError,
        "parameter 0 .* is a DTensor; state_dtype='int8'",
        fastopt.AdamW([columns], state_dtype="int8").step,
    )
    monitor = fastopt.monitor(optimizer := fastopt.SGD([columns]))
    refused(RuntimeError, "parameter 0 .* is a DTensor of which each process has a part", optimizer.step)
    monitor.remove()
    assert torch.equal(columns.to_local(), before)
    refused(ValueError, "rounding_seed: give one", lambda: fastopt.AdamW([whole], rounding="stochastic"))
    zero: Any = ZeroRedundancyOptimizer
    refused(ValueError, "rounding: ZeroRedundancyOptimizer", lambda: zero([whole], fastopt.AdamW, lr=0.1, **RANDOM))


if __name__ == "__main__":
    work(SCENARIOS)
