"""Functions that torch has as well: signatures, errors, warnings, edge cases and moments are torch's."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from typing import Any

import pytest
import torch

import fastopt
import fastopt.nn.functional as F
from dropout_cases import FAMILY, Family
from support import DTYPES, assert_same_bits, some_values

SHARED = ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"]
MODULES = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"]
OF = {family.name: family for family in FAMILY}


def both(name: str) -> tuple[Any, Any]:
    return getattr(F, name), getattr(torch.nn.functional, name)


@pytest.mark.parametrize("name", SHARED)
def test_signature(name: str) -> None:
    ours, theirs = (inspect.signature(f).parameters for f in both(name))
    assert list(ours)[: len(theirs)] == list(theirs)
    assert [ours[k].default for k in theirs] == [theirs[k].default for k in theirs]
    assert all(ours[k].kind == inspect.Parameter.KEYWORD_ONLY for k in list(ours)[len(theirs) :])


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("p", [-0.1, 1.1, 2, float("inf")])
def test_refused_probabilities(name: str, p: float) -> None:
    x = OF[name].inputs(torch.float32)[0]
    for function in both(name):
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1, but got"):
            function(x, p, True)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("dims", range(7))
def test_refused_and_doubtful_dimensions(name: str, dims: int) -> None:
    x = torch.ones([2] * dims)
    seen = []
    for function in both(name):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                outcome: Any = function(x, 0.5, True).shape
            except RuntimeError as error:
                outcome = str(error).split(":")[-1].strip()
        seen.append((outcome, [str(w.message).split(" - input")[0] for w in caught]))
    assert seen[0] == seen[1]


def mask_dims(y: torch.Tensor) -> int:
    """The number of leading dimensions along which elements of `y` differ."""
    for dims in range(y.dim()):
        shared = y.flatten(dims)
        if torch.equal(shared, shared[..., :1].expand_as(shared)):
            return dims
    return y.dim()


@pytest.mark.filterwarnings("ignore:dropout.d. Received:UserWarning")
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("dims", range(2, 6))
def test_what_is_dropped_together(name: str, dims: int) -> None:
    if name == "dropout1d" and dims > 3:
        return
    x = torch.ones((9, 8, 7, 6, 5)[:dims])
    torch.manual_seed(1)
    ours, theirs = (mask_dims(function(x, 0.5, True)) for function in both(name))
    assert ours == theirs


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("inplace", [False, True])
def test_without_effect_the_input_comes_back(name: str, inplace: bool) -> None:
    x = OF[name].inputs(torch.float32)[0]
    state = torch.get_rng_state()
    assert getattr(F, name)(x, 0.5, False, inplace) is x
    assert getattr(F, name)(x, 0.0, True, inplace) is x
    empty = x[:0]
    assert getattr(F, name)(empty, 0.5, True, inplace).shape == empty.shape
    ones = getattr(F, name)(x.clone(), 1.0, True, inplace)
    assert_same_bits(ones, torch.zeros_like(x))
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHARED)
def test_the_two_values_of_an_element(name: str, dtype: torch.dtype) -> None:
    """A kept element has torch's value, and so does a dropped one."""
    family = OF[name]
    x = some_values(family.shape, dtype, 1)
    ours, theirs = both(name)
    torch.manual_seed(1)
    for p in (0.1, 0.5, 0.8):
        seen = []
        for function in (ours, theirs):
            draws = torch.stack([function(x, p, True) for _ in range(512)]).double()
            seen.append(torch.stack([draws.min(0).values, draws.max(0).values]))
        # torch rounds after each of its operations, and our probabilities have 48 bits.
        close = 8 * torch.finfo(dtype).eps + 2**-47
        torch.testing.assert_close(seen[0], seen[1], rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_refused_types(dtype: torch.dtype) -> None:
    for family in FAMILY:
        inputs = [torch.ones(x.shape, dtype=dtype) for x in family.inputs(torch.float32)]
        with pytest.raises(RuntimeError, match="has to be floating point"):
            family(*inputs)


@pytest.mark.parametrize("family", [f for f in FAMILY if not f.complex], ids=str)
def test_refused_complex(family: Family) -> None:
    with pytest.raises(RuntimeError, match=r"has to be floating point, but got torch\.complex64"):
        family(*[torch.complex(x, x) for x in family.inputs(torch.float32)])


def test_refused_layouts() -> None:
    with pytest.raises(RuntimeError, match=r"has to be strided, but got torch\.sparse_coo"):
        F.dropout(torch.eye(3).to_sparse(), 0.5)


def test_refused_residuals_and_biases() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(RuntimeError, match=r"residual has shape \(4,\), which differs from the input's \(3, 4\)"):
        F.dropout_add(x, torch.ones(4))
    for bias in (torch.ones(3), torch.ones(1, 4), torch.ones(())):
        with pytest.raises(RuntimeError, match="bias has shape"):
            F.bias_dropout_add(x, bias, x)
    with pytest.raises(RuntimeError, match="bias has shape"):
        F.bias_dropout_add(torch.ones(()), torch.ones(()), torch.ones(()))


def test_refused_devices() -> None:
    x, there = torch.ones(3, 4), torch.ones(3, 4, device="meta")
    with pytest.raises(RuntimeError, match="residual is on meta, but the input on cpu"):
        F.dropout_add(x, there)
    with pytest.raises(RuntimeError, match="bias is on meta, but the input on cpu"):
        F.bias_dropout_add(x, there[0], x)


def test_zeros_without_memory() -> None:
    """torch's zero tensors without memory, used as gradients, are taken or refused, but never read."""
    for family in FAMILY:
        inputs = [torch._efficientzerotensor(x.shape) for x in family.inputs(torch.float32)]
        if family.bias:
            with pytest.raises(RuntimeError, match="cannot take tensors"):
                family(*inputs)
        else:
            assert_same_bits(family(*inputs) + 0, family(*[torch.zeros(x.shape) for x in inputs]))


@pytest.mark.parametrize("training", [False, True])
def test_added_types_are_promoted_as_torch_does(training: bool) -> None:
    x, bias = some_values((6, 8), torch.bfloat16, 1), some_values(8, torch.float32, 2)
    residual = some_values((6, 8), torch.float64, 3)
    for inputs in ([x, bias, residual], [x, bias.bfloat16(), residual.bfloat16()], [x.double(), bias, residual]):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        y = F.bias_dropout_add(*leaves, 0.5, training, seed=1)
        kept = F.dropout_mask(x.shape, 0.5, seed=1) * 2 if training else torch.ones(x.shape)
        with_bias = inputs[0].double() + inputs[1].double()
        assert y.dtype == (inputs[2] + (inputs[0] + inputs[1])).dtype
        close = {"rtol": torch.finfo(y.dtype).eps, "atol": torch.finfo(y.dtype).eps}
        torch.testing.assert_close(y.double(), inputs[2].double() + with_bias * kept, **close)
        y.sum().backward()
        for leaf in leaves:
            assert leaf.grad.dtype == leaf.dtype


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    ours, theirs = getattr(fastopt.nn, name), getattr(torch.nn, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert issubclass(ours, theirs)
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        ours(1.5)
    module = ours(0.3, inplace=True)
    assert repr(module) == repr(theirs(0.3, inplace=True))
    assert module.state_dict() == {}
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(again) == repr(module)

    function = getattr(F, name.replace("Alpha", "Alpha_").replace("Feature", "Feature_").lower())
    x = some_values((4, 3, 5, 6, 7)[: {"Dropout1d": 3, "Dropout3d": 5}.get(name, 4)], torch.float32, 1)
    torch.manual_seed(1)
    expected = function(x.clone(), 0.3, True)
    torch.manual_seed(1)
    y = x.clone()
    assert module(y) is y
    assert_same_bits(y, expected)
    assert module.eval()(x) is x


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(layout: torch.layout) -> None:
    """The error says what to do, and that works."""
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout)
    for name in SHARED:
        if name not in ("dropout1d", "dropout2d", "dropout3d"):  # these check dimensions first
            with pytest.raises(RuntimeError, match=r"input is a nested tensor.*nested_tensor_from_jagged"):
                getattr(F, name)(nested, 0.5, True)
    for name, given in (("input", (nested, nested)), ("residual", (torch.ones(2, 3), nested))):
        with pytest.raises(RuntimeError, match=f"^dropout_add: {name} is a nested tensor"):
            F.dropout_add(*given, 0.5)
        with pytest.raises(RuntimeError, match=f"^bias_dropout_add: {name} is a nested tensor"):
            F.bias_dropout_add(given[0], torch.ones(3), given[1], 0.5)
    if layout == torch.jagged:
        dropped = torch.nested.nested_tensor_from_jagged(F.dropout(nested.values(), 0.5, seed=1), nested.offsets())
        assert_same_bits(dropped.values(), F.dropout(torch.ones(6, 3), 0.5, seed=1))
