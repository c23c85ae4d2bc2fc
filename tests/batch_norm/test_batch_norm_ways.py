"""Batch normalization refuses the same by every way in: gradients of running statistics, float32 next to float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as T
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import fastopt.nn.functional as F
from torch_norms import RUNNING, some_tensors

# torch's own computation of tangents warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning", "ignore::FutureWarning")
SHAPE = (4, 5, 3, 6)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])


@both_modes
@pytest.mark.parametrize("name", RUNNING)
def test_running_statistics_have_no_gradients(name: str, training: bool) -> None:
    """As in torch, that is an error by every way in."""
    tensors = some_tensors(SHAPE)

    def normalize(function: Any, changed: Tensor) -> Tensor:
        own = {key: tensor.clone() for key, tensor in tensors.items()} | {name: changed}
        return function(**own, training=training)

    for function in (F.batch_norm, T.batch_norm):
        with pytest.raises(RuntimeError, match=f"is not differentiable with respect to argument '{name}'"):
            normalize(function, tensors[name].clone().requires_grad_())
        with pytest.raises(RuntimeError, match=f"is not differentiable with respect to argument '{name}'"):
            torch.func.grad(lambda t, f=function: normalize(f, t.clone()).sum())(tensors[name])
        with torch.no_grad():
            normalize(function, tensors[name].clone().requires_grad_())


@pytest.mark.parametrize("name", RUNNING)
def test_running_statistics_have_no_tangents(name: str) -> None:
    tensors = some_tensors(SHAPE)
    for function in (F.batch_norm, T.batch_norm):
        with forward_ad.dual_level():
            dual = {key: forward_ad.make_dual(tensors[key], torch.ones_like(tensors[key])) for key in (name, "input")}
            with pytest.raises(RuntimeError, match="not differentiable wrt running_mean and running_var"):
                function(**(tensors | dual), training=False)
        with pytest.raises(RuntimeError, match="not differentiable wrt running_mean and running_var"):
            torch.func.jvp(
                lambda x, t, f=function: f(**(tensors | {"input": x, name: t}), training=False),
                (tensors["input"], tensors[name]),
                (tensors["input"], tensors[name]),
            )
    with forward_ad.dual_level():
        alone = {name: forward_ad.make_dual(tensors[name], torch.ones_like(tensors[name]))}
        with pytest.raises(RuntimeError, match=f"but {name} has"):  # torch ignores it
            F.batch_norm(**(tensors | alone), training=False)


def ways_in() -> dict[str, Any]:
    class Passes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    def in_mode(function: Any, *tensors: Tensor) -> Tensor:
        with Passes():
            return function(*tensors)  # type: ignore[no-any-return]

    return {
        "eager": lambda function, *tensors: function(*tensors),
        "compile": lambda function, *tensors: torch.compile(function, fullgraph=True, backend="eager")(*tensors),
        "vmap": lambda function, x, *others: torch.vmap(lambda x: function(x, *others))(x[None]),
        "make_fx": lambda function, *tensors: make_fx(function)(*tensors),
        "dispatch mode": in_mode,
    }


@both_modes
@pytest.mark.parametrize("way", ways_in())
@pytest.mark.parametrize("names", [RUNNING, ["weight", "bias"], ["weight"]], ids="-".join)
def test_float64_takes_no_float32(names: list[str], way: str, training: bool) -> None:
    """Every way in raises our error, where torch raises one too, and nothing is written."""
    if way == "vmap" and training:
        return  # vmap cannot write running statistics of any type
    tensors = {name: tensor.double() for name, tensor in some_tensors(SHAPE).items()}
    tensors |= {name: tensors[name].float() for name in names}
    before = {name: tensors[name].clone() for name in RUNNING}

    def normalize(function: Any, *given: Tensor) -> Tensor:
        return function(**dict(zip(tensors, given, strict=True)), training=training)  # type: ignore[no-any-return]

    with pytest.raises(RuntimeError):
        normalize(T.batch_norm, *tensors.values())
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"batch_norm: \w+ has to be torch\.float64 for an input of torch\.float64"):
        ways_in()[way](lambda *given: normalize(F.batch_norm, *given), *tensors.values())
    for name in RUNNING:
        torch.testing.assert_close(tensors[name], before[name], rtol=0, atol=0)
