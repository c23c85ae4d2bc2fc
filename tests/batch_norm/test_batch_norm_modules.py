"""The modules compared with torch's: flags, statistics over several batches, activations, error texts."""

from __future__ import annotations

import copy
import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import nn

import fastopt
from support import some_values
from torch_norms import CASES, FLAGS, INPUTS, batch, both, disturb

modules = pytest.mark.parametrize("name", INPUTS)
flags = pytest.mark.parametrize("options", FLAGS, ids=str)


def follow(
    ours: Any, theirs: Any, shape: tuple[int, ...], training: bool, seed: int, dtype: Any = torch.float64
) -> None:
    """Runs a batch through both modules: output, gradients and states must agree."""
    found = []
    for module in (ours, theirs):
        module.train(training).zero_grad()
        x = batch(shape, dtype, seed).requires_grad_()
        output = module(x)
        output.backward(some_values(shape, dtype, 50 + seed))
        grads = {key: parameter.grad for key, parameter in module.named_parameters()}
        found.append({"output": output, "input": x.grad, **grads} | module.state_dict(prefix="state of "))
    torch.testing.assert_close(*found)
    assert found[0]["output"].abs().max() > 0.1
    assert found[0]["input"].abs().max() > 1e-3


@modules
def test_class(name: str) -> None:
    ours, theirs = getattr(fastopt.nn, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert ours._version == theirs._version
    assert ours.__constants__ == theirs.__constants__
    assert ours.__name__ == theirs.__name__
    for args in (
        (5,),
        (5, 1e-3),
        (5, 1e-3, None, False),
        (5, 1e-3, 0.3, True, False),
        (5, 1e-3, 0.3, True, True, "meta"),
    ):
        one, other = ours(*args), theirs(*args)
        assert repr(one) == repr(other)
        assert {k: (t.shape, t.dtype, t.device) for k, t in one.state_dict().items()} == {
            k: (t.shape, t.dtype, t.device) for k, t in other.state_dict().items()
        }
    with pytest.raises(TypeError):
        ours()
    with pytest.raises(TypeError):
        ours(5, unknown=1)
    with pytest.raises(ValueError, match="activation has to be None or one of"):
        ours(5, activation="tanh")


@flags
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_batches_in_training_and_eval(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    ours, theirs = both(name, 5, **{"dtype": torch.float64, **options})
    for seed, training in enumerate([True, False, True, True, False, False, True], 1):
        follow(ours, theirs, shape, training, seed)
        assert ours.training == training
    if options.get("track_running_stats", True):
        assert ours.num_batches_tracked == 4
        ours.reset_running_stats()
        theirs.reset_running_stats()
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        follow(ours, theirs, shape, False, 9)
        follow(ours, theirs, shape, True, 10)
        assert ours.num_batches_tracked == 1
    ours.reset_parameters()
    theirs.reset_parameters()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    follow(ours, theirs, shape, True, 11)


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_cumulative_average(name: str, shape: tuple[int, ...]) -> None:
    module = getattr(fastopt.nn, name)(5, momentum=None)
    dims = [d for d in range(len(shape)) if d != 1]
    seen = [batch(shape, torch.float32, seed) for seed in range(1, 6)]
    for x in seen:
        module(x)
    moments = [torch.var_mean(x.double(), dims) for x in seen]
    for own, of_batches in zip((module.running_var, module.running_mean), zip(*moments, strict=True), strict=True):
        torch.testing.assert_close(own, torch.stack(of_batches).mean(0).float())


@modules
def test_flags_that_change_later(name: str) -> None:
    """Attributes and buffers set by hand have the effect that they have in torch."""
    shape = INPUTS[name][0]
    changes = [
        lambda m: setattr(m, "track_running_stats", False),
        lambda m: setattr(m, "num_batches_tracked", None),
        lambda m: setattr(m, "momentum", None),
        lambda m: (setattr(m, "running_mean", None), setattr(m, "running_var", None)),
        lambda m: setattr(m, "eps", 0.5),
        lambda m: setattr(m, "weight", None),
        lambda m: m.weight.requires_grad_(False),
    ]
    for change in changes:
        ours, theirs = both(name, 5, dtype=torch.float64)
        change(ours)
        change(theirs)
        for seed, training in enumerate([True, False, True], 1):
            follow(ours, theirs, shape, training, seed)


@modules
def test_eval_with_one_of_the_running_statistics(name: str) -> None:
    """As in torch, that is an error; the batch's statistics do not take the place of the missing one."""
    for missing in ("running_mean", "running_var"):
        for module in both(name, 5):
            setattr(module.eval(), missing, None)
            with pytest.raises(RuntimeError, match=r"running_\w+ .*defined"):
                module(torch.rand(INPUTS[name][0]))


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_activation_and_residual(name: str, shape: tuple[int, ...], training: bool) -> None:
    for options, activation in (
        ({"activation": "relu"}, nn.ReLU()),
        ({"activation": "hardswish", "momentum": None}, nn.Hardswish()),
        ({"activation": "leaky_relu", "negative_slope": 0.3, "affine": False}, nn.LeakyReLU(0.3)),
    ):
        plain = {k: v for k, v in options.items() if k not in ("activation", "negative_slope")}
        ours, theirs = getattr(fastopt.nn, name)(5, **options).double(), getattr(nn, name)(5, **plain).double()
        disturb(theirs)
        ours.load_state_dict(theirs.state_dict())
        x = batch(shape, torch.float64, 1)
        residual = batch(shape, torch.float64, 2) - 4
        for others in ([], [residual]):
            z = theirs.train(training)(x)
            expected = activation(z + residual if others else z)
            torch.testing.assert_close(ours.train(training)(x, *others), expected)
            torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
            assert (expected != z).any()
        described = [f"{k}={v}" for k, v in options.items() if k not in plain]
        assert repr(ours) == f"{repr(theirs)[:-1]}, {', '.join(described)})"


@modules
def test_dimensions(name: str) -> None:
    """Wrong dimensions raise torch's errors, and nothing is written."""
    for dims, training in itertools.product(range(7), (True, False)):
        outcomes = []
        for module in both(name, 5):
            before = copy.deepcopy(module.state_dict())
            try:
                outcomes.append(module.train(training)(torch.rand([5] * dims) + 1).shape)
            except ValueError as error:
                outcomes.append(str(error))
                torch.testing.assert_close(dict(module.state_dict()), dict(before), rtol=0, atol=0)
        assert outcomes[0] == outcomes[1]
        assert isinstance(outcomes[0], str) == (
            dims not in map(len, INPUTS[name]) and (name, dims) != ("BatchNorm1d", 2)
        )


@modules
def test_other_numbers_of_channels(name: str) -> None:
    for shape in INPUTS[name]:
        for module in both(name, 4):
            with pytest.raises(RuntimeError, match=r"(running_mean|weight) should contain 5 elements not 4"):
                module(torch.rand(shape))


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"])
def test_signature(name: str) -> None:
    """The signature has torch's arguments in torch's order, then ours."""
    ours, theirs = (list(inspect.signature(getattr(m, name)).parameters) for m in (fastopt.nn, torch.nn))
    assert [p for p in ours if p in theirs] == [p for p in theirs if p in ours]
    assert {p for p in ours if p not in theirs} <= {"activation", "negative_slope"}
    assert {"num_features", "eps", "momentum", "affine", "track_running_stats", "device", "dtype"} <= set(ours)
