"""Attention whose weights our kernel drops, compared with torch's function, and with the formula and our mask."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as T

import fastopt.nn.functional as F
from support import DTYPES, assert_same_bits, some_values

# Inductor raises these warnings about itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::FutureWarning")
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": -0.3},
    "bool": {"attn_mask": some_values((7, 9), torch.float32, 4) > -0.7},
    "a row of nothing": {"attn_mask": torch.ones(7, 9).tril(-1).bool()},
    "float": {"attn_mask": some_values((2, 1, 7, 9), torch.float32, 5)},
}


def some_inputs(dtype: torch.dtype = torch.float32, heads: int = 4) -> list[Tensor]:
    shapes = [(2, 4, 7, 8), (2, heads, 9, 8), (2, heads, 9, 5)]
    return [some_values(shape, torch.float64, i).to(dtype) for i, shape in enumerate(shapes)]


def formula(query: Tensor, key: Tensor, value: Tensor, kept: Tensor, p: float, **case: Any) -> Tensor:
    """The formula, computed in the type of the inputs."""
    scale = case.get("scale") or 1 / math.sqrt(query.shape[-1])
    scores = query @ key.mT * scale
    mask = case.get("attn_mask")
    if case.get("is_causal"):
        mask = torch.ones(scores.shape[-2:]).tril().bool()
    if mask is not None and mask.dtype == torch.bool:
        weights = torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0)
    else:
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
    return (weights * kept / (1 - p)) @ value


def test_signature() -> None:
    theirs = "query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False"
    parameters = list(inspect.signature(F.scaled_dot_product_attention).parameters.values())
    found = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters]
    assert ", ".join(found[:8]) == theirs
    assert [p.name for p in parameters if p.kind is p.KEYWORD_ONLY][2:] == ["seed", "offset", "generator"]


@pytest.mark.parametrize("name", CASES)
def test_without_dropout_it_is_torchs(name: str) -> None:
    inputs = some_inputs()
    ours = F.scaled_dot_product_attention(*inputs, **CASES[name], seed=3)
    assert_same_bits(ours, T.scaled_dot_product_attention(*inputs, **CASES[name]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_the_formula(name: str, dtype: torch.dtype) -> None:
    p, case = 0.3, dict(CASES[name])
    if "attn_mask" in case and case["attn_mask"].dtype != torch.bool:
        case["attn_mask"] = case["attn_mask"].to(dtype)
    leaves = [x.requires_grad_() for x in some_inputs(dtype)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    kept = F.dropout_mask((2, 4, 7, 9), p, seed=5, offset=6)
    ours = F.scaled_dot_product_attention(*leaves, dropout_p=p, seed=5, offset=6, **case)
    expected = formula(*exact, kept, p, **case)
    grad = some_values(ours.shape, dtype, 9)
    tolerance = 4 * torch.finfo(dtype).eps ** (0.98 if dtype in (torch.float32, torch.float64) else 1.0)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=8 * tolerance)
    found = torch.autograd.grad(ours, leaves, grad)
    for gradient, right in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=tolerance, atol=8 * tolerance)


def test_grouped_queries() -> None:
    query, key, value = some_inputs(heads=2)
    ours = F.scaled_dot_product_attention(query, key, value, dropout_p=0.3, enable_gqa=True, seed=5)
    wide = [x.repeat_interleave(2, 1) for x in (key, value)]
    assert_same_bits(ours, F.scaled_dot_product_attention(query, *wide, dropout_p=0.3, seed=5))


@pytest.mark.parametrize("dims", [2, 3])
def test_without_heads_or_batch(dims: int) -> None:
    inputs = [x.flatten(0, 1)[:1] for x in some_inputs()]
    alone = [x[0] for x in inputs] if dims == 2 else inputs
    ours = F.scaled_dot_product_attention(*alone, dropout_p=0.3, seed=5)
    batched = F.scaled_dot_product_attention(*(x[None] for x in inputs), dropout_p=0.3, seed=5)
    assert_same_bits(ours, batched[0, 0] if dims == 2 else batched[0])


def test_seeds() -> None:
    inputs = some_inputs()
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append(F.scaled_dot_product_attention(*inputs, dropout_p=0.5))
    assert_same_bits(*draws)
    assert not torch.equal(draws[0], F.scaled_dot_product_attention(*inputs, dropout_p=0.5))
    state = torch.get_rng_state()
    generated = [
        F.scaled_dot_product_attention(*inputs, dropout_p=0.5, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert_same_bits(*generated)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_weight_dropped_and_nothing_to_attend_to() -> None:
    query, key, value = some_inputs()
    assert not F.scaled_dot_product_attention(query, key, value, dropout_p=1.0).any()
    empty = F.scaled_dot_product_attention(query, key[:, :, :0], value[:, :, :0], dropout_p=0.5)
    assert_same_bits(empty, torch.zeros(2, 4, 7, 5))
    narrow = F.scaled_dot_product_attention(query[..., :0], key[..., :0], value, dropout_p=0.5, seed=1)
    assert narrow.isfinite().all()


def test_autocast_as_torch() -> None:
    inputs = some_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours = F.scaled_dot_product_attention(*inputs, attn_mask=CASES["float"]["attn_mask"], dropout_p=0.5, seed=1)
        theirs = T.scaled_dot_product_attention(*inputs, attn_mask=CASES["float"]["attn_mask"], dropout_p=0.5)
        doubles = F.scaled_dot_product_attention(*(x.double() for x in inputs), dropout_p=0.5, seed=1)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert doubles.dtype == torch.float64
    halves = [x.bfloat16() for x in inputs]
    mask = CASES["float"]["attn_mask"].bfloat16()
    assert_same_bits(ours, F.scaled_dot_product_attention(*halves, attn_mask=mask, dropout_p=0.5, seed=1))


def wrong_calls() -> dict[str, tuple[dict[str, Any], str]]:
    query, key, value = some_inputs()
    ok = {"query": query, "key": key, "value": value}
    return {
        "types": (ok | {"key": key.double()}, "same dtype, but got query.dtype"),
        "devices": (ok | {"key": key.to("meta")}, "same device type, but got query.device"),
        "dimensions": (ok | {"query": query[0, 0, 0]}, "at least 2 dimensional, but got query.dim: 1"),
        "integers": ({name: x.long() for name, x in ok.items()}, "floating point|expected scalar type Float"),
        "two masks": (ok | {"attn_mask": torch.ones(7, 9).bool(), "is_causal": True}, "Explicit attn_mask should not"),
        "type of mask": (ok | {"attn_mask": torch.ones(7, 9).double()}, "Expected attn_mask dtype to be bool or float"),
        "shape of mask": (ok | {"attn_mask": torch.ones(7, 8)}, "must match the size of tensor b"),
        "widths": (ok | {"key": key[..., :4]}, "Expected size for first two dimensions"),
        "lengths": (ok | {"value": value[:, :, :4]}, "Expected size for first two dimensions"),
        "heads": (ok | {"key": key[:, :3], "enable_gqa": True}, "Number of heads in key and value must divide"),
    }


@pytest.mark.parametrize("name", wrong_calls())
def test_what_torch_refuses(name: str) -> None:
    call, message = wrong_calls()[name]
    for function in (T.scaled_dot_product_attention, F.scaled_dot_product_attention):
        with pytest.raises(RuntimeError, match=message):
            function(**call, dropout_p=0.5)


def test_bad_arguments_of_dropout() -> None:
    inputs = some_inputs()
    with pytest.raises(ValueError, match=r"dropout probability has to be between 0 and 1, but got 1\.5"):
        F.scaled_dot_product_attention(*inputs, dropout_p=1.5)
    with pytest.raises(ValueError, match="seed has to be an int"):
        F.scaled_dot_product_attention(*inputs, seed=-1)
    with pytest.raises(RuntimeError, match="enable_gqa needs a dimension of heads, but key has 2 dimensions"):
        F.scaled_dot_product_attention(*(x[0, 0] for x in inputs), dropout_p=0.5, enable_gqa=True)
    jagged = torch.nested.nested_tensor([torch.ones(2, 3, 4), torch.ones(5, 3, 4)], layout=torch.jagged).transpose(1, 2)
    with pytest.raises(RuntimeError, match="nested tensors have no dropout here"):
        F.scaled_dot_product_attention(jagged, jagged, jagged, dropout_p=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["causal", "a row of nothing", "float"])
def test_compiled(name: str, backend: str) -> None:
    def attend(*inputs: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*inputs, dropout_p=0.3, **CASES[name])

    torch._dynamo.reset()
    found = []
    for function in (attend, torch.compile(attend, fullgraph=True, backend=backend)):
        leaves = [x.requires_grad_() for x in some_inputs()]
        torch.manual_seed(3)
        y = function(*leaves)
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_transforms() -> None:
    query, key, value = some_inputs(torch.float64)

    def attend(query: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.3, seed=5)

    mask = some_values((3, 7, 9), torch.float64, 5)
    batched = torch.vmap(attend, in_dims=(None, 0))(query, mask)
    assert_same_bits(batched, torch.stack([attend(query, one) for one in mask]))
    gradient = torch.func.grad(lambda q: attend(q, mask[0]).square().sum())(query)
    leaf = query.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(attend(leaf, mask[0]).square().sum(), leaf)[0])
    assert torch.autograd.gradcheck(lambda q: attend(q, mask[0]), leaf, check_forward_ad=True, fast_mode=True)


def test_overrides_get_every_argument() -> None:
    class Seen(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func, args, kwargs

    inputs = some_inputs()
    marked = CASES["float"]["attn_mask"].as_subclass(Seen)
    given = {"dropout_p": 0.5, "is_causal": False, "scale": 2.0, "enable_gqa": True}
    given |= {"seed": 1, "offset": 2, "generator": None}
    seen: Any = F.scaled_dot_product_attention(*inputs, marked, **given)
    function, args, kwargs = seen
    assert function is F.scaled_dot_product_attention
    assert all(a is b for a, b in zip(args, inputs, strict=True))
    assert kwargs.pop("attn_mask") is marked
    assert kwargs == given
