"""The state of modules: checkpoints in both directions, copies, and casts to other types."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch

import fastopt
from support import running
from torch_norms import CASES, FLAGS, INPUTS, batch, both, disturb


@pytest.mark.parametrize("options", FLAGS, ids=str)
@pytest.mark.parametrize("name", INPUTS)
def test_state_dict(name: str, options: dict[str, Any]) -> None:
    ours, theirs = both(name, 5, **options)
    a, b = ours.state_dict(), theirs.state_dict()
    assert list(a) == list(b)
    assert a._metadata == b._metadata
    torch.testing.assert_close(dict(a), dict(b), rtol=0, atol=0)
    for source, target in ((ours, theirs), (theirs, ours)):
        disturb(source, seed=30)
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        assert not any(target.load_state_dict(torch.load(file, weights_only=True)))
        torch.testing.assert_close(dict(target.state_dict()), dict(source.state_dict()), rtol=0, atol=0)
    assert repr(ours) == repr(theirs)
    assert ours.extra_repr() == theirs.extra_repr()


@pytest.mark.parametrize("name", INPUTS)
def test_state_dict_of_version_1(name: str) -> None:
    """Checkpoints from before batches were counted can be loaded."""
    for version in (1, None, 2):
        ours, theirs = both(name, 5)
        old = theirs.state_dict()
        del old["num_batches_tracked"]
        old._metadata[""] = {} if version is None else {"version": version}
        texts = []
        for module in (ours, theirs):
            module.num_batches_tracked.fill_(3)
            try:
                module.load_state_dict(copy.deepcopy(old))
                texts.append("")
            except RuntimeError as error:
                texts.append(str(error))
        assert texts[0] == texts[1]
        assert ("Missing key" in texts[0]) == (version == 2)
        assert ours.num_batches_tracked == theirs.num_batches_tracked


def addresses(module: Any) -> set[int]:
    return {tensor.data_ptr() for tensor in module.state_dict().values()}


@pytest.mark.parametrize(
    "options", [{}, {"activation": "silu"}, {"activation": "leaky_relu", "negative_slope": 0.3}], ids=str
)
@pytest.mark.parametrize("name", INPUTS)
def test_copies(name: str, options: dict[str, Any]) -> None:
    shape = INPUTS[name][0]
    module = getattr(fastopt.nn, name)(5, momentum=0.3, **options)
    disturb(module)
    module(batch(shape, torch.float32, 1))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)]
    for other in copies:
        assert type(other) is type(module)
        assert repr(other) == repr(module)
        assert not {t.data_ptr() for t in other.state_dict().values()} & {
            t.data_ptr() for t in module.state_dict().values()
        }
    for seed, training in ((2, True), (3, False)):
        x, residual = batch(shape, torch.float32, seed), batch(shape, torch.float32, seed + 1)
        results = [(m.train(training)(x, residual), dict(m.state_dict())) for m in (module, *copies)]
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=0, atol=0)
    assert module.num_batches_tracked == 2


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_casts(name: str, shape: tuple[int, ...], cast: str) -> None:
    ours, theirs = (getattr(module, cast)() for module in both(name, 5))
    dtype = ours.weight.dtype
    assert {key: t.dtype for key, t in ours.state_dict().items()} == {
        k: t.dtype for k, t in theirs.state_dict().items()
    }
    # torch's own kernels round more often; ours must have the results of float64 on the same values.
    theirs.double()
    for seed, training in ((1, True), (2, False)):
        x = batch(shape, dtype, seed)
        output, expected = ours.train(training)(x), theirs.train(training)(x.double())
        assert output.dtype == dtype
        torch.testing.assert_close(output, expected.to(dtype))
        states = {k: t.to(ours.state_dict()[k].dtype) for k, t in theirs.state_dict().items()}
        torch.testing.assert_close(dict(ours.state_dict()), states)
        theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_half_inputs_of_float32_modules(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ours, theirs = both(name, 5)
    theirs.double()
    for seed, training in ((1, True), (2, False)):
        x = batch(shape, dtype, seed)
        output, expected = ours.train(training)(x), theirs.train(training)(x.double())
        torch.testing.assert_close(output, expected.to(dtype))
        torch.testing.assert_close(ours.running_var, theirs.running_var.float())


@pytest.mark.parametrize("intake", ["exchange", "data_ptr"])
@pytest.mark.parametrize("kind", ["int64", "int32", "float32", "one of several", "view"])
def test_batches_are_counted_in_any_number(kind: str, intake: str) -> None:
    """The counter may have any type; int64 is counted natively. Its version changes, and no memory next to it."""
    module = fastopt.nn.BatchNorm1d(3)
    numbers = torch.tensor([5, 6, 7])
    module.num_batches_tracked = {
        "int64": torch.tensor(6),
        "int32": torch.tensor(6, dtype=torch.int32),
        "float32": torch.tensor(6.0),
        "one of several": numbers[1:2],
        "view": numbers[1],
    }[kind]
    counter = module.num_batches_tracked
    before = counter._version
    with running(intake=intake):
        module(torch.randn(4, 3))
    assert counter == 7
    assert counter._version == before + 1
    assert numbers.tolist() in ([5, 6, 7], [5, 7, 7])
