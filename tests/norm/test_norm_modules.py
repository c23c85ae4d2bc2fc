"""The modules of the norms of single samples compared with torch's: classes, states, batches, copies."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import fastopt.nn
from support import assert_same_bits, some_values
from torch_norms import disturb

# Arguments and shapes of inputs.
CASES: list[tuple[str, tuple[Any, ...], list[tuple[int, ...]]]] = [
    ("RMSNorm", (6,), [(4, 6), (6,), (2, 3, 6)]),
    ("RMSNorm", ([5, 6],), [(4, 5, 6)]),
    ("LayerNorm", (6,), [(4, 6), (6,), (2, 3, 6)]),
    ("LayerNorm", ((5, 6),), [(4, 5, 6), (5, 6)]),
    ("GroupNorm", (2, 6), [(4, 6), (4, 6, 5), (4, 6, 3, 5)]),
    ("InstanceNorm1d", (6,), [(4, 6, 5), (6, 5)]),
    ("InstanceNorm2d", (6,), [(4, 6, 5, 3), (6, 5, 3)]),
    ("InstanceNorm3d", (6,), [(4, 6, 5, 3, 2), (6, 5, 3, 2)]),
]
cases = pytest.mark.parametrize(("name", "args", "shapes"), CASES, ids=lambda v: v if isinstance(v, str) else "")
FLAGS: dict[str, list[dict[str, Any]]] = {
    "RMSNorm": [{}, {"eps": 0.2}, {"elementwise_affine": False}],
    "LayerNorm": [{}, {"eps": 0.2}, {"elementwise_affine": False}, {"bias": False}],
    "GroupNorm": [{}, {"eps": 0.2}, {"affine": False}],
    "InstanceNorm": [
        *[{}, {"eps": 0.2}, {"affine": True}, {"track_running_stats": True}],
        *[{"affine": True, "track_running_stats": True, "momentum": m} for m in (0.7, 0.0, None)],
    ],
}


def flags(name: str) -> list[dict[str, Any]]:
    return FLAGS["InstanceNorm" if name.startswith("Instance") else name]


def both(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Our module and torch's with the same state, in which no value is the initial one."""
    ours, theirs = getattr(fastopt.nn, name)(*args, **options), getattr(nn, name)(*args, **options)
    disturb(theirs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@cases
def test_class(name: str, args: tuple[Any, ...], shapes: Any) -> None:
    ours, theirs = getattr(fastopt.nn, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert ours.__name__ == theirs.__name__
    for options in flags(name):
        one, other = ours(*args, **options), theirs(*args, **options)
        assert repr(one) == repr(other)
        torch.testing.assert_close(one.state_dict(), other.state_dict())
        other.load_state_dict(one.state_dict())
    with pytest.raises(TypeError):
        ours()
    with pytest.raises(TypeError):
        ours(*args, unknown=1)
    with pytest.raises(ValueError, match="activation has to be None or one of"):
        ours(*args, activation="tanh")
    mine, known = (list(inspect.signature(cls).parameters) for cls in (ours, theirs))
    assert mine[: len(known)] == known
    assert set(mine) - set(known) <= {"activation", "negative_slope", "round_before_weight"}


@cases
def test_batches_in_training_and_eval(name: str, args: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> None:
    for options in flags(name):
        pair = both(name, *args, **options, dtype=torch.float64)
        for seed, training in enumerate([True, False, True]):
            for shape in shapes:
                found = []
                for module in pair:
                    module.train(training).zero_grad()
                    x = (some_values(shape, torch.float64, seed) + seed).requires_grad_()
                    y = module(x)
                    y.backward(some_values(shape, torch.float64, 9))
                    grads = {k: p.grad for k, p in module.named_parameters()}
                    found.append({"y": y, "x": x.grad, **grads} | module.state_dict(prefix="state of "))
                torch.testing.assert_close(*found)


@cases
def test_activation_and_residual(name: str, args: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> None:
    for activation, torchs in (("relu", nn.ReLU()), ("leaky_relu", nn.LeakyReLU(0.3))):
        slope = {"negative_slope": 0.3} if activation == "leaky_relu" else {}
        ours = getattr(fastopt.nn, name)(*args, activation=activation, **slope).double()
        theirs = getattr(nn, name)(*args).double()
        disturb(theirs)
        ours.load_state_dict(theirs.state_dict())
        for shape in shapes:
            x, residual = (some_values(shape, torch.float64, seed) for seed in (1, 2))
            torch.testing.assert_close(ours(x), torchs(theirs(x)))
            torch.testing.assert_close(ours(x, residual), torchs(theirs(x + residual)))
            y, total = ours(x, residual, return_sum=True)
            torch.testing.assert_close((y, total), (torchs(theirs(x + residual)), x + residual))
        assert f"activation={activation}" in repr(ours)
        assert ("negative_slope=0.3" in repr(ours)) == bool(slope)


@cases
def test_copies(name: str, args: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> None:
    module = getattr(fastopt.nn, name)(*args, activation="relu")
    disturb(module)
    x = some_values(shapes[0], torch.float32, 1)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(saved, weights_only=False)):
        assert type(copied) is type(module)
        assert repr(copied) == repr(module)
        assert_same_bits(copied(x), module(x))


def test_order_of_hugging_face() -> None:
    module = fastopt.nn.RMSNorm(6, dtype=torch.bfloat16, round_before_weight=True)
    disturb(module)
    x = some_values((40, 6), torch.bfloat16, 1)
    eps = torch.finfo(torch.float32).eps
    expected = fastopt.nn.functional.rms_norm(x, (6,), module.weight, eps, round_before_weight=True)
    assert_same_bits(module(x), expected)
    assert repr(module).endswith("round_before_weight=True)")
    assert_same_bits(copy.deepcopy(module)(x), expected)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_lazy(dim: int) -> None:
    x = some_values((3, 4, *[5] * dim), torch.float64, 1)
    for options in ({}, {"affine": True, "track_running_stats": True, "momentum": 0.3}):
        ours, theirs = (
            getattr(module, f"LazyInstanceNorm{dim}d")(dtype=torch.float64, **options) for module in (fastopt.nn, nn)
        )
        torch.testing.assert_close(ours(x), theirs(x))
        assert type(ours) is getattr(fastopt.nn, f"InstanceNorm{dim}d")
        assert ours.num_features == 4
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_dimensions_and_channels(dim: int) -> None:
    """Wrong dimensions and channels raise torch's errors, and give its warning where the channels do not matter."""
    for affine in (False, True):
        for dims in range(6):
            outcomes: list[Any] = []
            for module in both(f"InstanceNorm{dim}d", 3, affine=affine):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    try:
                        outcomes.append(module(torch.rand([5] * dims)).shape)
                    except ValueError as error:
                        outcomes.append(str(error))
                outcomes.append([str(w.message) for w in caught])
            assert outcomes[:2] == outcomes[2:]


def test_parametrized_weight() -> None:
    module = fastopt.nn.LayerNorm(6)
    nn.utils.parametrizations.weight_norm(module, dim=None)
    x = some_values((4, 6), torch.float32, 1)
    torch.testing.assert_close(module(x), nn.functional.layer_norm(x, (6,), module.weight, module.bias))


def test_sequential_runs_an_activation_with_the_norm() -> None:
    """In one operation, with the result of two."""
    for norm in (fastopt.nn.RMSNorm(6), fastopt.nn.LayerNorm(6), fastopt.nn.GroupNorm(2, 4)):
        model = fastopt.nn.Sequential(norm, nn.GELU())
        x = some_values((3, 4, 6), torch.float32, 1)
        y = model(x)
        assert_same_bits(y, _with_activation(norm, x))
        handle = model[1].register_forward_hook(lambda *results: 2 * results[-1])
        torch.testing.assert_close(model(x), 2 * y)  # by torch's own activation
        handle.remove()


def _with_activation(norm: Any, x: torch.Tensor) -> torch.Tensor:
    fused = copy.deepcopy(norm)
    fused.activation = "gelu"
    return fused(x)  # type: ignore[no-any-return]
