"""convert and revert for RMSNorm classes as Hugging Face's models have them, and what convert leaves."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fastopt.nn
from fastopt.nn import _rms_forms as forms
from support import HALF, assert_same_bits, some_values


def _made(name: str, form: Any, epsilon: str) -> type[nn.Module]:
    """A class with the methods of a form; its epsilon has the name that Hugging Face gives it."""

    def init(self: Any, size: int = 48) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(some_values((size,), torch.float32, 2) * 0.1 + 1)
        setattr(self, epsilon, 1e-6)

    members = {key: getattr(form, key) for key in ("forward", "_norm") if hasattr(form, key)}
    if epsilon != "eps":
        code = members["forward"].__code__
        renamed = code.replace(co_names=tuple(epsilon if n == "eps" else n for n in code.co_names))
        members["forward"] = type(members["forward"])(renamed, {"torch": torch})
    cls = type(name, (nn.Module,), {"__init__": init, "__module__": __name__, **members})
    globals()[name] = cls  # pickles find it
    return cls


class OwnRMSNorm(nn.Module):
    """Llama's, written here and not made of a form."""

    def __init__(self, size: int = 48) -> None:
        super().__init__()
        self.weight = nn.Parameter(some_values((size,), torch.float32, 2) * 0.1 + 1)
        self.variance_epsilon = 1e-6

    def forward(self, states: Tensor) -> Tensor:
        """A docstring and annotations are no instructions."""
        kind = states.dtype
        states = states.to(torch.float32)
        variance = states.pow(2).mean(-1, keepdim=True)
        states = states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * states.to(kind)


KNOWN: dict[str, type[nn.Module]] = {
    "own": OwnRMSNorm,
    "llama": _made("FakeLlamaRMSNorm", forms._Llama, "variance_epsilon"),
    "llama 4": _made("FakeLlama4RMSNorm", forms._Llama4, "eps"),
    "t5": _made("FakeT5LayerNorm", forms._T5, "variance_epsilon"),
    "olmo": _made("FakeOlmoRMSNorm", forms._Olmo, "variance_epsilon"),
    "nemotron": _made("FakeNemotronRMSNorm", forms._Nemotron, "variance_epsilon"),
    "moshi": _made("FakeMoshiRMSNorm", forms._Moshi, "eps"),
    "gemma": _made("FakeGemmaRMSNorm", forms._Gemma, "eps"),
    "nanochat": _made("FakeNanoChatRMSNorm", forms._NanoChat, "eps"),
}
known = pytest.mark.parametrize("name", KNOWN)


@known
@pytest.mark.parametrize("weight", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
def test_results_and_their_types(name: str, dtype: torch.dtype, weight: torch.dtype) -> None:
    """With a weight of any type: bits of half results in nearly all places, and rounding elsewhere."""
    theirs = KNOWN[name]().to(weight)
    ours = fastopt.nn.convert(copy.deepcopy(theirs))
    assert isinstance(ours, forms.KnownRMSNorm)
    found = []
    for module in (theirs, ours):
        x = (some_values((5, 7, 48), torch.float64, 1) * 3).to(dtype).requires_grad_()
        y = module(x)
        y.backward(some_values(y.shape, torch.float64, 3).to(y.dtype))
        found.append((y, x.grad, module.weight.grad if name != "nanochat" else x.grad))
    (expected, *their_grads), (y, *grads) = found
    assert y.dtype == expected.dtype
    if dtype == torch.float64:
        assert_same_bits(y, expected)
    elif y.dtype in HALF:
        assert (y == expected).double().mean() > 0.97
    tolerance = 1e-5 if {dtype, weight} <= {torch.float32, torch.float64} else 0.02
    for mine, other in ((y, expected), *zip(grads, their_grads, strict=True)):
        assert_close(mine, other, rtol=tolerance, atol=10 * tolerance)


def test_rounding_is_seen() -> None:
    """The orders of rounding give other bits, so that the test above can tell them apart."""
    x = some_values((40, 48), torch.bfloat16, 1)
    first, last = (fastopt.nn.convert(KNOWN[name]().bfloat16())(x) for name in ("llama", "olmo"))
    assert (first == last).double().mean() < 0.97


@known
def test_revert_copies_hooks(name: str) -> None:
    model = nn.Sequential(KNOWN[name]())
    cls, state, text, inside = type(model[0]), model.state_dict(), repr(model), vars(model[0]).copy()
    calls: list[int] = []
    handle = model[0].register_forward_hook(lambda *_: calls.append(1))
    fastopt.nn.convert(fastopt.nn.convert(model))
    x = some_values((4, 48), torch.float32, 1)
    y = model(x)
    assert calls == [1]
    handle.remove()
    assert (repr(model), model.state_dict().keys()) == (text, state.keys())
    assert_same_bits(model[0](x), y)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_bits(copied(x), y)
        assert type(fastopt.nn.revert(copied)[0]) is cls
    fastopt.nn.revert(model)
    assert type(model[0]) is cls
    assert vars(model[0]).keys() == inside.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_compiled_and_traced(name: str) -> None:
    torch._dynamo.reset()
    theirs = KNOWN[name]().bfloat16()
    ours, x = fastopt.nn.convert(copy.deepcopy(theirs)), some_values((4, 48), torch.bfloat16, 1)
    assert_close(torch.compile(ours, fullgraph=True, backend="aot_eager")(x), theirs(x))
    assert_same_bits(torch.fx.symbolic_trace(ours)(x), theirs(x))


class _Halved(OwnRMSNorm):
    def forward(self, states: Tensor) -> Tensor:
        kind = states.dtype
        states = states.to(torch.float32)
        variance = states.pow(3).mean(-1, keepdim=True)
        states = states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * states.to(kind)


class _OtherRMSNorm(_Halved):
    """One constant differs from Llama's."""


class _OtherNormRMSNorm(KNOWN["gemma"]):  # type: ignore[misc, name-defined]
    """Its ``forward`` is Gemma's, but what it calls is not."""

    def _norm(self, x: Tensor) -> Tensor:
        return x


class _NamedOtherwise(OwnRMSNorm):
    """It has the instructions, but not the name."""


@pytest.mark.parametrize("cls", [_OtherRMSNorm, _OtherNormRMSNorm, _NamedOtherwise, nn.LocalResponseNorm])
def test_left_and_named(cls: Any) -> None:
    model = nn.Sequential(cls(48))
    fastopt.nn.convert(model)
    assert type(model[0]) is cls
    (row,) = fastopt.nn.report(model).rows if cls is not _NamedOtherwise else [None]
    assert row is None or (row.state, row.layer) == ("left", cls.__name__)
    assert row is None or "none of the known" in row.note or "no such norm" in row.note


def test_report() -> None:
    model = nn.Sequential(
        KNOWN["llama"](), nn.Sequential(nn.LayerNorm(48), nn.GELU()), nn.RMSNorm(48), nn.GroupNorm(1, 4)
    )
    assert {row.state for row in fastopt.nn.report(model).rows} == {"left"}
    rows = fastopt.nn.report(fastopt.nn.convert(model)).rows
    assert [(row.name, row.state) for row in rows] == [
        *[("0", "taken"), ("1.0", "as one"), ("2", "taken"), ("3", "taken")],
    ]


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(6), nn.RMSNorm(6)]
)
def test_fused_in_a_sequential(norm: nn.Module) -> None:
    theirs = nn.Sequential(copy.deepcopy(norm), nn.SiLU()).double()
    ours = fastopt.nn.convert(copy.deepcopy(theirs))
    assert ours.pairs() == [("0", "1")]
    x = some_values((3, 4, 5, 6), torch.float64, 1)
    assert_close(ours(x), theirs(x))
    assert [type(m) for m in fastopt.nn.revert(ours).modules()] == [type(m) for m in theirs.modules()]


class _Block(nn.Module):
    """Normalizes, adds and activates. BatchNorm takes the addition, a norm of single samples adds before."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(x) + x) + torch.relu(self.norm(x))


@pytest.mark.parametrize("inside", [False, True])
def test_a_residual_after_the_norm_is_not_moved(inside: bool) -> None:
    norm = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)) if inside else nn.LayerNorm(6)
    theirs, x = _Block(norm).double(), some_values((3, 6), torch.float64, 1)
    ours = fastopt.nn.convert(copy.deepcopy(theirs), fuse="trace", example=x)
    assert [graph.found for graph in ours._graphs] == [["norm + relu"]]
    assert_close(ours(x), theirs(x))
