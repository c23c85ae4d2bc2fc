"""The function compared with what torch composes around its own, in float64 and on the same values."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as T
from torch import Tensor

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS, layout_of
from support import some_values
from torch_norms import RUNNING, Tensors, composed, run, some_tensors

SHAPES = [
    (9, 5),
    (6, 5, 7),
    (4, 5, 3, 6),
    (3, 4, 2, 3, 5),
    (1, 5, 8),
    (1, 3, 4, 5),
    (7, 1),
    (2, 1, 3, 3),
    (3, 40, 4, 4),
]
# Types of the input, and of parameters and running statistics.
TYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
]
training_and_eval = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])


def assert_as_torch(tensors: Tensors, grad: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
    """Compares ours with torch in float64, on values that are not all zero, and returns ours."""
    x = tensors["input"]
    grad = some_values(x.shape, x.dtype, 7) if grad is None else grad
    ours = run(F.batch_norm, tensors, grad, **options)
    doubles = {name: None if tensor is None else tensor.double() for name, tensor in tensors.items()}
    theirs = run(composed, doubles, grad.double(), **options)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        source = x if name == "output" else tensors[name.removeprefix("gradient of ")]
        assert ours[name].dtype == source.dtype, name
        assert expected.abs().max() > 1e-2, name
        torch.testing.assert_close(ours[name], expected.to(source.dtype), msg=lambda text, name=name: f"{name}: {text}")
    assert ours["output"].stride() == torch.empty_like(x).stride()
    return ours


def test_signature() -> None:
    ours, theirs = (inspect.signature(f.batch_norm).parameters for f in (F, T))
    assert list(ours)[: len(theirs)] == list(theirs)
    assert [ours[name].default for name in theirs] == [theirs[name].default for name in theirs]
    more = list(ours)[len(theirs) :]
    slope = inspect.signature(T.leaky_relu).parameters["negative_slope"].default
    assert {name: ours[name].default for name in more} == {
        "activation": None,
        "residual": None,
        "negative_slope": slope,
    }
    assert all(ours[name].kind == inspect.Parameter.KEYWORD_ONLY for name in more)


@training_and_eval
@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_types(shape: tuple[int, ...], types: tuple[torch.dtype, torch.dtype], training: bool) -> None:
    assert_as_torch(some_tensors(shape, *types), training=training)


@training_and_eval
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (1, 3, 4, 5), (3, 1, 4, 5), (3, 40, 4, 4), (3, 4, 2, 3, 5)], ids=str)
def test_channels_last(shape: tuple[int, ...], dtype: torch.dtype, training: bool) -> None:
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    tensors = some_tensors(shape, dtype)
    tensors["residual"] = some_values(shape, dtype, 8)
    tensors["input"] = tensors["input"].to(memory_format=layout)
    grad = some_values(shape, dtype, 7)
    for residual, g in itertools.product((None, layout), (None, layout)):
        # The layout is once the same, and once another.
        tensors["residual"] = tensors["residual"].to(memory_format=residual or torch.contiguous_format)
        g = grad.contiguous(memory_format=g or torch.contiguous_format)
        ours = assert_as_torch(tensors, g, training=training, activation="silu")
        assert ours["output"].is_contiguous(memory_format=layout)
        assert ours["gradient of input"].is_contiguous(memory_format=layout)


STRIDED = {
    "of batches": lambda t: t(8, 5, 3, 6)[::2],
    "of channels": lambda t: t(4, 10, 3, 6)[:, ::2],
    "of positions": lambda t: t(4, 5, 5, 9)[:, :, 1:4, 2:8],
    "last of channels": lambda t: t(4, 3, 6, 8).movedim(-1, 1)[:, 1:6],
    "transposed": lambda t: t(6, 3, 5, 4).permute(3, 2, 1, 0),
    "flipped dense": lambda t: t(5, 4, 3, 6).transpose(0, 1),
    "expanded batch": lambda t: t(1, 5, 3, 6).expand(4, 5, 3, 6),
    "expanded positions": lambda t: t(4, 5, 3, 1).expand(4, 5, 3, 6),
    "one channel many times": lambda t: t(4, 1, 3, 6).expand(4, 5, 3, 6),
    "overlapping": lambda t: t(200).as_strided((4, 5, 3, 6), (30, 7, 2, 1)),
}


@training_and_eval
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("strided", STRIDED.values(), ids=STRIDED)
def test_strides(strided: Callable[..., Tensor], dtype: torch.dtype, training: bool) -> None:
    """The input, the residual and the gradient may have odd strides, one at a time and all together."""
    values = [strided(lambda *shape, seed=seed: some_values(shape, dtype, seed) + 2) for seed in (9, 10, 11)]
    given = dict(zip(("input", "residual", "grad"), values, strict=True))
    shape = given["input"].shape
    dense = {**some_tensors(shape, dtype), "residual": some_values(shape, dtype, 8), "grad": None}
    for into in (["input"], ["residual"], ["grad"], ["input", "residual", "grad"]):
        tensors = dense | {name: given[name] for name in into}
        grad = tensors.pop("grad")
        for activation in ("silu", None):
            assert_as_torch(tensors, grad, training=training, activation=activation)


@training_and_eval
def test_expanded_gradient(training: bool) -> None:
    """The gradient of sum() is an expanded scalar."""
    for shape in SHAPES:
        tensors = some_tensors(shape) | {"residual": some_values(shape, torch.float32, 8)}
        scalar = torch.tensor(1.5).expand(shape)
        assert_as_torch(tensors, scalar, training=training, activation="gelu")


@training_and_eval
def test_parameters_with_strides(training: bool) -> None:
    tensors = some_tensors((6, 5, 7))
    for name in (*RUNNING, "weight", "bias"):
        wide = torch.stack([tensors[name], torch.full((5,), 77.0)], 1)
        assert_as_torch(tensors | {name: wide[:, 0]}, training=training)
    everything = wide.clone()
    F.batch_norm(tensors["input"], everything[:, 0], everything[:, 1], training=True)
    expected = wide[:, 0].clone(), wide[:, 1].clone()
    T.batch_norm(tensors["input"], *expected, training=True)
    torch.testing.assert_close(everything, torch.stack(expected, 1))


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [["running_mean", "running_var"], []], ids=["running", "none"])
def test_what_is_left_out(weight: bool, bias: bool, given: list[str]) -> None:
    tensors = some_tensors((6, 5, 7))
    left = [*([] if weight else ["weight"]), *([] if bias else ["bias"]), *(set(RUNNING) - set(given))]
    tensors |= dict.fromkeys(left)
    for activation in (None, "relu"):
        assert_as_torch(tensors, training=True, activation=activation)
        if given:
            assert_as_torch(tensors, training=False, activation=activation)


@pytest.mark.parametrize("name", RUNNING)
def test_one_of_the_running_statistics(name: str) -> None:
    """One running statistic alone, which torch does not take, is updated as next to the other."""
    tensors = some_tensors((6, 5, 7))
    one = tensors | {other: None for other in RUNNING if other != name}
    grad = some_values((6, 5, 7), torch.float32, 7)
    ours, both = (run(F.batch_norm, given, grad, training=True) for given in (one, tensors))
    assert set(both) - set(ours) == set(RUNNING) - {name}
    torch.testing.assert_close(ours, {key: both[key] for key in ours}, rtol=0, atol=0)
    assert not torch.equal(ours[name], tensors[name])


@pytest.mark.parametrize("momentum", [0.0, 1e-3, 0.1, 0.5, 0.99, 1.0, 1])
@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1e-3, 0.7])
def test_momentum_and_eps(momentum: float, eps: float) -> None:
    tensors = some_tensors((6, 5, 7))
    ours = assert_as_torch(tensors, training=True, momentum=momentum, eps=eps)
    if momentum == 0:
        assert all(torch.equal(ours[name], tensors[name]) for name in RUNNING)
    if momentum == 1:
        exact = tensors["input"].double()
        torch.testing.assert_close(ours["running_mean"], exact.mean((0, 2)).float())
        torch.testing.assert_close(ours["running_var"], exact.var((0, 2), unbiased=True).float())
    assert_as_torch(tensors, training=False, momentum=momentum, eps=eps)


def test_eps_of_zero_in_eval() -> None:
    assert_as_torch(some_tensors((6, 5, 7)), training=False, eps=0.0)


@pytest.mark.parametrize("mean", [30.0, 1000.0, -20000.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_far_from_zero(mean: float, layout: torch.memory_format) -> None:
    tensors = some_tensors((8, 5, 9, 9))
    tensors["input"] = (tensors["input"] + mean).to(memory_format=layout)
    assert_as_torch(tensors, training=True)


@training_and_eval
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name])
def test_activations(activation: str, types: tuple[torch.dtype, torch.dtype], residual: bool, training: bool) -> None:
    for shape in ((9, 5), (4, 5, 3, 6)):
        tensors = some_tensors(shape, *types)
        if residual:
            tensors["residual"] = some_values(shape, types[0], 8) * 3
        ours = assert_as_torch(tensors, training=training, activation=activation)
        plain = assert_as_torch(tensors, training=training)
        assert not torch.allclose(ours["output"], plain["output"])


@training_and_eval
@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, 2.0, -0.5])
def test_negative_slope(slope: float, training: bool) -> None:
    tensors = some_tensors() | {"residual": some_values((4, 5, 3, 6), torch.float32, 8)}
    assert_as_torch(tensors, training=training, activation="leaky_relu", negative_slope=slope)


@training_and_eval
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_residual_that_is_the_input(activation: str | None, training: bool) -> None:
    tensors = some_tensors()
    assert_as_torch(tensors | {"residual": tensors["input"]}, training=training, activation=activation)
    totals = []
    for function in (F.batch_norm, composed):
        x = tensors["input"].clone().requires_grad_()
        output = function(x, None, None, training=True, activation=activation, residual=x)
        output.backward(some_values(x.shape, x.dtype, 7))
        totals.append(x.grad)
    torch.testing.assert_close(*totals)


def test_empty_batch_leaves_no_garbage() -> None:
    """Gradients of an empty batch are zero, even if fresh memory holds NaN."""
    x = torch.empty(0, 3, 4, 4, requires_grad=True)
    weight, bias = (torch.ones(3, requires_grad=True) for _ in range(2))
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        grads = torch.autograd.grad(F.batch_norm(x, None, None, weight, bias, True).sum(), (x, weight, bias))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all((grad == 0).all() for grad in grads)


def test_negated_views() -> None:
    """Each argument may be lazily negated, also running statistics that are written."""
    tensors = [some_values(s, torch.float32, i) for i, s in enumerate([(6, 4), (4,), (4,), (4,), (4,)])]
    tensors[2].abs_()
    for training in (False, True):
        for place in range(5):
            plain = [tensor.clone() for tensor in tensors]
            negated = [tensor.clone() for tensor in tensors]
            negated[place] = torch._neg_view(-negated[place])
            results = [F.batch_norm(*given, training) for given in (plain, negated)]
            for ours, expected in zip([results[1], *negated], [results[0], *plain], strict=True):
                torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_values(channels_last: bool) -> None:
    """The sums of these values overflow, their deviations do not."""
    x = torch.full((2, 2, 32, 32), 3e37) + some_values((2, 2, 32, 32), torch.float32, 1) * 1e15
    y = F.batch_norm(x.contiguous(memory_format=layout_of(x.shape, channels_last)), None, None, training=True)
    assert y.isfinite().all()
