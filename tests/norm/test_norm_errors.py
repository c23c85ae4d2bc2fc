"""Bad arguments are refused, in torch's words where it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastopt.nn.functional as F
from norm_cases import GROUP, INSTANCE, KINDS, LAYER, RMS, Kind
from support import HALF, some_values

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
SHAPE = (2, 6, 4)


def caught(call: Callable[[], Any]) -> tuple[type, str]:
    with pytest.raises((RuntimeError, ValueError, TypeError, ZeroDivisionError, IndexError)) as info:
        call()
    return info.type, str(info.value).split("\nException raised")[0]


def assert_torchs_error(kind: Kind, *args: Any, **options: Any) -> None:
    assert caught(lambda: kind.ours(*args, **options)) == caught(lambda: kind.theirs(*args, **options))


@pytest.mark.parametrize("kind", [RMS, LAYER], ids=lambda kind: kind.name)
def test_shapes_of_rows(kind: Kind) -> None:
    x = torch.ones(SHAPE)
    for shape in ((), (5,), (6, 5), (2, 6, 4, 1), (3, 2, 6, 4), [4, 4]):
        ours, theirs = (caught(lambda f=f: f(x, shape)) for f in (kind.ours, kind.theirs))  # noqa: B023
        assert ours[0] is theirs[0]
        assert ours[1].replace("*, ", "*") == theirs[1].replace("*, ", "*")  # torch's rms_norm lacks the comma
    for weight in (torch.ones(5), torch.ones(1, 4), torch.ones(())):
        assert_torchs_error(kind, x, (4,), weight)
    if kind.has_bias:
        assert_torchs_error(kind, x, (4,), None, torch.ones(5))
    with pytest.raises(TypeError):
        kind.ours(x, 4)


def test_groups() -> None:
    x = torch.ones(SHAPE)
    for groups in (4, 0, -1, 7):
        assert_torchs_error(GROUP, x, groups)
    for wrong in (torch.ones(5), torch.ones(6, 1), torch.ones(1)):
        assert_torchs_error(GROUP, x, 3, wrong)
        ours = caught(lambda: F.group_norm(x, 3, None, wrong))  # noqa: B023
        assert "Expected bias to be a vector of size equal to the number of channels" in ours[1]
    assert_torchs_error(GROUP, torch.ones(6), 3)
    assert_torchs_error(GROUP, torch.ones(1, 6), 6)
    assert_torchs_error(GROUP, torch.ones(1, 6, 1, 1), 6)


def test_instances() -> None:
    x, five, six = torch.ones(SHAPE), torch.ones(5), torch.ones(6)
    for wrong in (torch.ones(2, 6, 1), torch.ones(2, 6), torch.ones(6)):
        assert_torchs_error(INSTANCE, wrong)
    assert_torchs_error(INSTANCE, x, use_input_stats=False)
    assert_torchs_error(INSTANCE, x, six, use_input_stats=False)
    for running in ((six, None), (None, six)):
        with pytest.raises(ValueError, match="running_mean and running_var must either both be None or neither be"):
            F.instance_norm(x, *running)
    for name in ("running_mean", "running_var", "weight", "bias"):
        own = {"running_mean": six, "running_var": six} if "running" in name else {}
        with pytest.raises(RuntimeError, match=f"{name} should contain 6 elements not 5"):
            F.instance_norm(x, **{**own, name: five})


def test_running_statistics() -> None:
    """They are refused before anything is written."""
    x, good = torch.ones(SHAPE), torch.zeros(6)
    for wrong in (torch.ones(6, dtype=torch.float64), torch.ones(6).half(), torch.ones(6, device="meta")):
        for running in ((good, wrong), (wrong, good)):
            with pytest.raises(RuntimeError, match=r"running_(mean|var) (has to be|is on)"):
                F.instance_norm(x, *running)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'running_var'"):
        F.instance_norm(x, good, torch.ones(6, requires_grad=True))
    assert not good.any()


@kinds
def test_types(kind: Kind) -> None:
    argument = kind.argument(SHAPE, 3)
    size = kind.parameters(SHAPE)
    for dtype in (torch.int64, torch.bool, torch.complex64):
        match = rf"{kind.name}: input has to be float32, .* or float16, but got {dtype}"
        with pytest.raises(RuntimeError, match=match if kind is not INSTANCE else "input has to be float32"):
            kind.ours(torch.ones(SHAPE, dtype=dtype), *argument)
    with pytest.raises(RuntimeError, match="input has to be strided"):
        kind.ours(torch.eye(4).expand(2, 4, 4).to_sparse(), *kind.argument((2, 4, 4), 2))
    others = [torch.int64] if kind is RMS else [torch.float64, torch.float16, torch.int64]
    for dtype in others:
        with pytest.raises(RuntimeError, match=rf"weight has to be torch\.float32 for an input of .*, got {dtype}"):
            kind.ours(torch.ones(SHAPE), *argument, weight=torch.ones(size, dtype=dtype))
    if kind.has_bias:
        for dtype, other in zip(HALF, reversed(HALF), strict=True):
            with pytest.raises(RuntimeError, match=rf"bias has to be torch\.float32 or {dtype}"):
                kind.ours(torch.ones(SHAPE, dtype=dtype), *argument, bias=torch.ones(size, dtype=other))
        with pytest.raises(RuntimeError, match=r"weight has to be torch\.float64"):
            kind.ours(torch.ones(SHAPE, dtype=torch.float64), *argument, weight=torch.ones(size))
    with pytest.raises(RuntimeError, match="weight is on meta, input on cpu"):
        kind.ours(torch.ones(SHAPE), *argument, weight=torch.ones(size, device="meta"))


@kinds
def test_residuals(kind: Kind) -> None:
    x, argument = some_values(SHAPE, torch.float32, 1), kind.argument(SHAPE, 3)
    for residual in (x[:1], x.double(), x.bfloat16(), x[..., None], x[0], x.to("meta")):
        with pytest.raises(RuntimeError, match=r"residual has to have the (shape|dtype|device) of input"):
            kind.ours(x, *argument, residual=residual)
    with pytest.raises(ValueError, match=f"{kind.name}: return_sum=True needs a residual"):
        kind.ours(x, *argument, return_sum=True)


@kinds
def test_unknown_activations(kind: Kind) -> None:
    for activation in ("Relu", "tanh", "identity", ""):
        with pytest.raises(ValueError, match=f"activation has to be None or one of .*gelu.* but got '{activation}'"):
            kind.ours(torch.ones(SHAPE), *kind.argument(SHAPE, 3), activation=activation)


@kinds
def test_freed_memory(kind: Kind) -> None:
    x = torch.ones(SHAPE)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="input has no memory: its storage was freed"):
        kind.ours(x, *kind.argument(SHAPE, 3))
