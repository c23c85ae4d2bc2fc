"""fastopt's classes as ``cpu_optimizer_cls`` of Megatron-Core's HybridDeviceOptimizer.

The optimizer is Megatron's own, called as its ``get_megatron_optimizer`` calls it. Its device is pretended: parameters
say that they are on one, and streams do nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from support import assert_same_bits, some_values

pytestmark = pytest.mark.ecosystem
SHAPES = ((9, 5), (70,), (3,))
# What get_megatron_optimizer gives for config.optimizer == "adam" and "sgd".
ADAM: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "bias_correction": True, "fused": True}
SGD: dict[str, Any] = {"momentum": 0.9}


@functools.cache
def megatron() -> Any:
    """``megatron.core.optimizer``, whose import warns of what is deprecated and not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("megatron.core.optimizer")


class OnDevice(nn.Parameter):
    """A parameter that says it is on a GPU; copies of it do not."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]


class Stream:
    def wait_stream(self, other: Any) -> None:
        pass

    def record_event(self) -> Any:
        return self

    def wait(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    megatron()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *args: Stream())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)


class Training:
    """Three parameters in two groups, under a falling learning rate."""

    def __init__(
        self, cls: Any, options: dict[str, Any], dtype: torch.dtype, overlap: bool, fraction: float = 1.0
    ) -> None:
        self.params = [OnDevice(some_values(shape, dtype, seed=i)) for i, shape in enumerate(SHAPES)]
        self.optimizer = megatron().HybridDeviceOptimizer(
            [{"params": self.params[:2]}, {"params": self.params[2:], "weight_decay": 0.0}],
            offload_fraction=fraction,
            cpu_optimizer_cls=cls,
            gpu_optimizer_cls=torch.optim.AdamW,
            overlap_cpu_optimizer_d2h_h2d=overlap,
            pin_cpu_grads=False,
            pin_cpu_params=False,
            param_update_in_fp32=True,
            lr=0.1,
            weight_decay=0.1,
            **options,
        )

    def go(self, steps: range) -> Training:
        for step in steps:
            for i, param in enumerate(self.params):
                param.grad = some_values(tuple(param.shape), param.dtype, seed=100 * step + i)
            for group in self.optimizer.param_groups:
                group["lr"] = 0.1 / (step + 1)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self


def alone(cls: Any, options: dict[str, Any], dtype: torch.dtype, steps: range) -> list[Tensor]:
    """The same steps of one optimizer without Megatron; a master where Megatron has one."""
    params = [some_values(shape, dtype, seed=i).requires_grad_() for i, shape in enumerate(SHAPES)]
    own = {key: value for key, value in options.items() if key != "bias_correction"}
    master = "float32" if dtype == torch.bfloat16 else None
    groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.0}]
    optimizer = cls(groups, lr=0.1, weight_decay=0.1, master=master, **own)
    for step in steps:
        for i, param in enumerate(params):
            param.grad = some_values(tuple(param.shape), dtype, seed=100 * step + i)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        optimizer.step()
    return params


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "one optimizer"])
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (fastopt.AdamW, ADAM),
        (fastopt.SGD, SGD),
        (fastopt.AdamW, {**ADAM, "state_dtype": torch.bfloat16, "rounding_seed": 3}),
        (fastopt.Lion, {}),
    ],
    ids=["adam", "sgd", "narrow states", "Lion"],
)
def test_is_the_optimizer_alone(cls: Any, options: dict[str, Any], overlap: bool, dtype: torch.dtype) -> None:
    """To the bit, with an optimizer for each parameter as with one for all; options are keys of groups."""
    training = Training(cls, options, dtype, overlap).go(range(4))
    assert len(training.optimizer.cpu_optimizers) == (3 if overlap else 1)
    assert {type(one) for one in training.optimizer.sub_optimizers} == {cls}
    if "state_dtype" in options:
        assert training.optimizer.state[training.params[0]]["exp_avg"].dtype == torch.bfloat16
        if overlap:
            return  # each optimizer numbers its parameter anew for stochastic rounding
    expected = alone(cls, options, dtype, range(4))
    for i, (param, other) in enumerate(zip(training.params, expected, strict=True)):
        assert_same_bits(param.detach(), other.detach())
        assert not torch.equal(param, some_values(SHAPES[i], dtype, seed=i))


def test_one_half_on_the_device() -> None:
    """The first parameters, up to a half of the elements, are the host's."""
    training = Training(fastopt.AdamW, ADAM, torch.float32, overlap=True, fraction=0.5).go(range(4))
    kinds = [type(one) for one in training.optimizer.sub_optimizers]
    assert kinds == [fastopt.AdamW, fastopt.AdamW, torch.optim.AdamW]
    for param, other in zip(training.params, alone(fastopt.AdamW, ADAM, torch.float32, range(4)), strict=True):
        torch.testing.assert_close(param.detach(), other.detach())


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "one optimizer"])
def test_resumes_to_the_bit(overlap: bool) -> None:
    """bfloat16 parameters; in float32, Megatron cannot load its own checkpoint with ``param_update_in_fp32``."""
    whole = Training(fastopt.AdamW, ADAM, torch.bfloat16, overlap).go(range(6))
    first = Training(fastopt.AdamW, ADAM, torch.bfloat16, overlap).go(range(3))
    buffer = io.BytesIO()
    torch.save(first.optimizer.state_dict(), buffer)
    buffer.seek(0)
    second = Training(fastopt.AdamW, ADAM, torch.bfloat16, overlap)
    with torch.no_grad():
        for param, other in zip(second.params, first.params, strict=True):
            param.copy_(other)
    second.optimizer.load_state_dict(torch.load(buffer, weights_only=False))
    for ours, saved in zip(second.params, first.params, strict=True):
        states = second.optimizer.state[ours], first.optimizer.state[saved]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    second.go(range(3, 6))
    for param, other in zip(second.params, whole.params, strict=True):
        assert_same_bits(param.detach(), other.detach())


def test_a_partial_is_no_class() -> None:
    """Megatron asks whether an optimizer is an instance of the class: options belong into the groups."""
    training = Training(functools.partial(fastopt.AdamW, fused=True), ADAM, torch.bfloat16, True).go(range(1))
    with pytest.raises(TypeError, match="isinstance"):
        training.optimizer.load_state_dict(training.optimizer.state_dict())


def test_the_call_is_megatrons() -> None:
    """Fails when Megatron's call changes."""
    text = Path(megatron().__file__).read_text()
    assert "from torch.optim import AdamW as CPUAdam" in text
    call = re.search(r"optimizer = HybridDeviceOptimizer\((.*?)\n            \)", text, re.DOTALL)
    assert call is not None
    assert re.findall(r"^ +(\w+)=", call[1], re.MULTILINE) == [
        "offload_fraction",
        "cpu_optimizer_cls",
        "gpu_optimizer_cls",
        "overlap_cpu_optimizer_d2h_h2d",
        "pin_cpu_grads",
        "pin_cpu_params",
        "param_update_in_fp32",
    ]
    assert "bias_correction=True," in text
