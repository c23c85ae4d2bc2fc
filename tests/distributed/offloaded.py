"""FSDP2 with ``CPUOffloadPolicy``: parameters, gradients and states lie on the host, where the optimizer steps.

On a mesh of CPUs the policy's own code runs, without the copies between host and device.
"""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from training import every_optimizer, net, sharded, share, train, world

import fastopt
from processes import Scenarios, refused, work

SCENARIOS = Scenarios()
OFFLOADED = {"offload_policy": CPUOffloadPolicy(pin_memory=False)}  # there is nothing to pin for without a GPU

OPTIONS: dict[str, dict[str, Any]] = {
    "nearest": {},
    "float32 states": {"state_dtype": torch.float32},
    "split": {"master": "split"},
    "split, narrow states": {"master": "split", "state_dtype": torch.bfloat16, "rounding_seed": 3},
    "float32 master": {"master": "float32"},
    "stochastic": {"rounding": "stochastic", "rounding_seed": 3},
    "average": {"ema": 0.9},
}
# What a state of AdamW has, by the options; the other keys have the parameters' type.
DTYPES: dict[str, dict[str, torch.dtype]] = {
    "nearest": {"exp_avg": torch.bfloat16},
    "float32 states": {"exp_avg": torch.float32},
    "split": {"exp_avg": torch.float32, "remainder": torch.int16},
    "split, narrow states": {"exp_avg": torch.bfloat16, "remainder": torch.int16},
    "float32 master": {"exp_avg": torch.float32, "master": torch.float32},
    "stochastic": {"exp_avg": torch.bfloat16},
    "average": {"exp_avg": torch.bfloat16, "ema": torch.float32},
}

Built = tuple[nn.Module, torch.optim.Optimizer]


def built(options: dict[str, Any], inside: bool = False) -> Built:
    model = sharded(world(), torch.bfloat16, **OFFLOADED)
    optimizer = fastopt.AdamW(model.parameters(), lr=0.05, **options)
    if inside:
        fastopt.step_in_backward(model, optimizer)
    return model, optimizer


def train_halves(one: Built, steps: range) -> None:
    train(*one, ((x.bfloat16(), y.bfloat16()) for x, y in share(steps)))


def local(value: Any) -> Any:
    return value.to_local() if hasattr(value, "to_local") else value


def states(one: Built) -> dict[str, dict[str, Any]]:
    model, optimizer = one
    return {
        name: {key: local(value) for key, value in optimizer.state[param].items()}
        for name, param in model.named_parameters()
    }


def assert_alike(ours: Built, expected: Built) -> None:
    """To the bit and the type: parameters, and states with all their keys."""
    assert_close(states(ours), states(expected), rtol=0, atol=0)
    for param, other in zip(ours[0].parameters(), expected[0].parameters(), strict=True):
        assert torch.equal(local(param), local(other))


def object_counts() -> tuple[int, int, int]:
    """Objects that the collector knows, blocks that Python has, bytes of memory (where the system tells)."""
    gc.collect()
    pages = Path("/proc/self/statm")
    memory = 4096 * int(pages.read_text().split()[1]) if pages.exists() else 0
    return len(gc.get_objects()), sys.getallocatedblocks(), memory


@SCENARIOS
def a_thousand_steps_keep_nothing() -> None:
    """An object, or a gradient, for each parameter and step would be 8000 of them."""
    model = fully_shard(net().bfloat16(), mesh=world(), **OFFLOADED)  # one unit, as gathering takes most of the time
    one = model, fastopt.AdamW(model.parameters(), lr=0.05, master="split", max_grad_norm=1.0)
    train_halves(one, range(50))
    before = object_counts()
    train_halves(one, range(50, 1050))
    objects, blocks, memory = (after - old for after, old in zip(object_counts(), before, strict=True))
    assert objects < 100, objects
    assert blocks < 2000, blocks
    assert memory < 4e6, memory


@SCENARIOS
def every_optimizer_on_the_host() -> None:
    every_optimizer(lambda: sharded(world(), **OFFLOADED))


@SCENARIOS
def parts_lie_on_the_host() -> None:
    for name, options in OPTIONS.items():
        one = built(options)
        first = [local(param).clone() for param in one[0].parameters()]
        train_halves(one, range(2))
        state = states(one)["0.weight"]
        assert DTYPES[name].items() <= {key: value.dtype for key, value in state.items()}.items(), name
        assert all(value.device.type == "cpu" for value in state.values())
        for param, old in zip(one[0].parameters(), first, strict=True):
            assert param.dtype == torch.bfloat16
            assert old.numel() == 0 or not torch.equal(local(param), old)  # one row: one process has it


def through_distributed_checkpoint(old: Built, new: Built, folder: Path) -> None:
    state = dict(zip(("model", "optimizer"), get_state_dict(*old), strict=True))
    dcp.save(state, checkpoint_id=folder)
    state = dict(zip(("model", "optimizer"), get_state_dict(*new), strict=True))
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(*new, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def through_state_dict(old: Built, new: Built, folder: Path) -> None:
    """Each process has a file of what it has."""
    buffer = io.BytesIO()
    torch.save([each.state_dict() for each in old], buffer)
    buffer.seek(0)
    for each, state in zip(new, torch.load(buffer, weights_only=False), strict=True):
        each.load_state_dict(state)


@SCENARIOS
def resumes_to_the_bit() -> None:
    """Three steps, a checkpoint and three more are six steps, whichever way bfloat16 parameters are kept."""
    ways: list[Callable[[Built, Built, Path], None]] = [through_distributed_checkpoint, through_state_dict]
    for name, options in OPTIONS.items():
        for inside in (False, True):
            whole, first = built(options, inside), built(options, inside)
            train_halves(whole, range(6))
            train_halves(first, range(3))
            for way in ways[: 1 if inside else 2]:
                folder = Path(sys.argv[3]) / f"{name}_{inside}"
                second = built(options, inside)
                way(first, second, folder)
                assert_alike(second, first)
                train_halves(second, range(3, 6))
                assert_alike(second, whole)


@SCENARIOS
def inside_backward_is_an_ordinary_loop() -> None:
    for options in OPTIONS.values():
        ordinary, inside = built(options), built(options, inside=True)
        for one in (ordinary, inside):
            train_halves(one, range(4))
        assert_alike(inside, ordinary)


@SCENARIOS
def averaging_that_comes_later_is_refused() -> None:
    """A trainer puts the DistributedDataParallel around a model that is stepped in backward."""
    model = net()
    fastopt.step_in_backward(model, fastopt.AdamW(model.parameters()))
    x, _ = next(iter(share(range(1))))
    refused(RuntimeError, "DistributedDataParallel averages gradients", lambda: DistributedDataParallel(model)(x))


if __name__ == "__main__":
    work(SCENARIOS)
