"""DeepSpeed's ZeRO on the CPU with our optimizers as clients, compared with training without DeepSpeed.

tests/ecosystem/test_deepspeed.py starts it, as it needs DeepSpeed.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close
from training import batches, net, share

import fastopt
from optimizer_cases import ROWS
from processes import Scenarios, refused, work

SCENARIOS = Scenarios()
PARTS = Scenarios()
Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]

WHOLE = {"Adafactor", "LAMB", "LARS", "StableAdamW"}  # their updates need sums over whole parameters
OTHERS = {"Prodigy", "ScheduleFreeAdamW", "ScheduleFreeSGD", "Muon", "SparseAdam"}
REPLACED = {"Adagrad"}  # DeepSpeed makes torch's instead
MAKERS: dict[str, Make] = {
    row.ours.__name__: lambda p, row=row: row.ours(p, lr=row.lr / 10, **row.base, **row.plain) for row in ROWS
}


def adamw(**options: Any) -> Make:
    return lambda params: fastopt.AdamW(params, lr=0.01, **options)


def deepspeed() -> Any:
    """Imported late, with warnings that are its own."""
    warnings.simplefilter("ignore")
    os.environ.update(DS_ACCELERATOR="cpu", RANK=sys.argv[1], LOCAL_RANK=sys.argv[1], WORLD_SIZE=sys.argv[2])
    import deepspeed

    deepspeed.utils.logging.logger.setLevel(logging.ERROR)
    deepspeed.init_distributed(dist_backend="gloo")
    return deepspeed


def muon(params: Iterable[Tensor]) -> torch.optim.Optimizer:
    return fastopt.Muon(param for param in params if param.ndim == 2)


class Training:
    """A network in float32 or bfloat16 that DeepSpeed trains."""

    network = staticmethod(net)

    def __init__(self, make: Make, stage: int, dtype: torch.dtype = torch.float32, **zero: Any) -> None:
        self.module, self.dtype, self.stage = self.network().float(), dtype, stage
        self.optimizer = make(self.module.parameters())
        config = {
            "train_micro_batch_size_per_gpu": 8 // dist.get_world_size(),
            "gradient_clipping": 0.0,  # the default is 1.0
            "zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}, **zero},
            "zero_force_ds_cpu_optimizer": False,
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": dtype == torch.bfloat16},
        }
        self.engine = deepspeed().initialize(model=self.module, optimizer=self.optimizer, config=config)[0]

    def go(self, steps: Iterable[int]) -> Training:
        for x, y in share(steps):
            self.engine.backward((self.engine(x.to(self.dtype)).float() - y.float()).square().mean())
            self.engine.step()
        return self

    def params(self) -> list[Tensor]:
        if self.stage < 3:
            return [param.detach().clone() for param in self.module.parameters()]
        with deepspeed().zero.GatheredParameters(list(self.module.parameters())):
            return [param.detach().clone() for param in self.module.parameters()]


def alone(make: Make, steps: Iterable[int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The same training by one process, without DeepSpeed."""
    model: nn.Module = net().float().to(dtype)
    optimizer = make(model.parameters())
    for x, y in batches(steps):
        optimizer.zero_grad()
        (model(x.to(dtype)).float() - y.float()).square().mean().backward()
        optimizer.step()
    return [param.detach() for param in model.parameters()]


def assert_equal_params(ours: list[Tensor], expected: list[Tensor]) -> None:
    """To the bit in one process; several add gradients in another order."""
    tolerance = 0.0 if dist.get_world_size() == 1 else 1e-6
    assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    first = [param.detach().to(ours[0].dtype) for param in net().float().parameters()]
    assert not any(map(torch.equal, ours, first))


@PARTS
def as_without_deepspeed() -> None:
    for name in sorted(MAKERS.keys() - WHOLE - OTHERS - REPLACED):
        expected = alone(MAKERS[name], range(3))
        for stage in (1, 2, 3):
            zero = {"sub_group_size": 50} if stage == 3 else {}  # three flat parts, and as many calls of step()
            assert_equal_params(Training(MAKERS[name], stage, **zero).go(range(3)).params(), expected)


@PARTS
def bfloat16_is_a_split_master() -> None:
    """DeepSpeed keeps float32 masters for a bfloat16 model, as ``master`` does without it."""
    if dist.get_world_size() > 1:
        return  # gradients are averaged in bfloat16
    for master in ("split", "float32"):
        expected = alone(adamw(master=master), range(4), torch.bfloat16)
        for stage in (1, 2, 3):
            ours = Training(adamw(), stage, torch.bfloat16).go(range(4)).params()
            assert ours[0].dtype == torch.bfloat16
            assert_equal_params(ours, expected)


@PARTS
def narrow_states_and_averages() -> None:
    for stage in (2, 3):
        training = Training(adamw(state_dtype=torch.bfloat16, rounding_seed=3, ema=0.9), stage).go(range(3))
        (state,) = training.optimizer.state.values()
        assert {key: value.dtype for key, value in state.items() if key in ("exp_avg", "ema")} == {
            "exp_avg": torch.bfloat16,
            "ema": torch.float32,
        }
        assert_close(training.params(), alone(adamw(), range(3)), rtol=0.02, atol=0.002)


@PARTS
def resumes_to_the_bit() -> None:
    for stage in (2, 3):
        for options in ({}, {"state_dtype": torch.bfloat16, "rounding_seed": 3}, {"ema": 0.9}):
            whole, first, second = (Training(adamw(**options), stage, torch.bfloat16) for _ in range(3))
            whole.go(range(6))
            folder = Path(sys.argv[3]) / f"{stage}_{len(options)}_{'ema' in options}"
            first.go(range(3)).engine.save_checkpoint(str(folder))
            second.engine.load_checkpoint(str(folder))
            states = [next(iter(one.optimizer.state.values())) for one in (second, first)]
            # DeepSpeed pads parts with memory that nobody wrote: the average of a NaN in it is a NaN
            assert_close(*states, rtol=0, atol=0, equal_nan=True)
            second.go(range(3, 6))
            assert_close(second.params(), whole.params(), rtol=0, atol=0)


class Wide(Training):
    """Its flat parts are large enough for states in 8 bits."""

    @staticmethod
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(7, 1200), nn.Tanh(), nn.Linear(1200, 1))


@PARTS
def states_in_8_bits_resume() -> None:
    for stage in (2, 3):
        whole, first, second = (Wide(adamw(state_dtype="int8"), stage) for _ in range(3))
        whole.go(range(6))
        first.go(range(3)).engine.save_checkpoint(str(Path(sys.argv[3]) / f"codes_{stage}"))
        second.engine.load_checkpoint(str(Path(sys.argv[3]) / f"codes_{stage}"))
        states = [next(iter(one.optimizer.state.values())) for one in (second, first)]
        assert states[0]["exp_avg"].dtype == torch.int8
        assert_close(*states, rtol=0, atol=0, equal_nan=True)
        assert_close(second.go(range(3, 6)).params(), whole.params(), rtol=0, atol=0)


@PARTS
def what_flat_parts_cannot_do_is_refused() -> None:
    refusals: dict[str, tuple[Make, str]] = {
        **{name: (MAKERS[name], f"a step of {name}") for name in WHOLE | {"Prodigy", "ScheduleFreeAdamW"}},
        "clips": (adamw(max_grad_norm=1.0), "max_grad_norm: .*gradient_clipping"),
        "cautious": (adamw(cautious=True), "cautious: "),
    }
    for stage in (2, 3):
        for make, text in refusals.values():
            training = Training(make, stage)
            before = training.params()
            refused(RuntimeError, text, lambda training=training: training.go(range(1)))
            assert all(map(torch.equal, training.params(), before))
        monitored = Training(adamw(), stage)
        monitor = fastopt.monitor(monitored.optimizer)
        refused(RuntimeError, "norms of whole parameters: DeepSpeed", lambda one=monitored: one.go(range(1)))
        monitor.remove()
    refused(ValueError, "Muon only supports 2D", Training(muon, 2).go(()).engine.step)
    looking = Training(lambda p: fastopt.Lookahead(fastopt.AdamW(p)), 3)
    refused(RuntimeError, "a step of Lookahead: DeepSpeed", lambda: looking.go(range(1)))
    refused(
        AttributeError, "param_groups", Training(lambda p: fastopt.Lookahead(fastopt.AdamW(p)), 2).go(()).engine.step
    )
    refused(TypeError, "eps_inside_sqrt", lambda: Training(MAKERS["Adagrad"], 2))


@PARTS
def steps_in_backward_are_refused() -> None:
    def make(params: Iterable[Tensor]) -> torch.optim.Optimizer:
        given = list(params)
        holder = nn.ParameterList(given)
        optimizer = fastopt.AdamW(given)
        fastopt.step_in_backward(holder, optimizer)
        return optimizer

    training = Training(make, 2)
    refused(RuntimeError, "is no longer in its group", lambda: training.go(range(1)))


@SCENARIOS
def zero() -> None:
    """All of them in one process group, as DeepSpeed keeps its groups."""
    for name, part in PARTS.items():
        print(name, flush=True)  # outcomes() shows it if a process dies
        part()


if __name__ == "__main__":
    work(SCENARIOS)
