"""The mode in which torch's functional calls are ours: which calls it takes, which it leaves, and when."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as T
from torch.utils.checkpoint import checkpoint

import fastopt
import fastopt.nn.functional as F
from fastopt.nn import functional_mode
from fastopt.nn.functional_mode import unwrap_forward, wrap_forward
from support import HAS_FUNCTIONAL_MODE, assert_same_bits, some_values

# Inductor raises these warnings about itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not HAS_FUNCTIONAL_MODE, reason="this torch does not tell what is run again"),
]

FAMILY = {
    "dropout": (5, 70),
    "dropout1d": (5, 7, 9),
    "dropout2d": (5, 7, 3, 4),
    "dropout3d": (5, 7, 2, 3, 4),
    "alpha_dropout": (5, 70),
    "feature_alpha_dropout": (5, 7, 9),
}


class Net(nn.Module):
    """A model that calls F.dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, input: Tensor, p: float = 0.3, fail: bool = False) -> Tensor:
        if fail:
            raise KeyError("fail")
        return T.dropout(self.layer(input), p, self.training)


def seeded(function: Callable[[], Any]) -> Any:
    torch.manual_seed(3)
    return function()


def in_mode(function: Callable[[], Any]) -> Any:
    with functional_mode():
        return seeded(function)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_dropout_is_ours(name: str, inplace: bool) -> None:
    x = some_values(FAMILY[name], torch.float32, 1)
    ours, theirs = getattr(F, name), getattr(T, name)
    written = x.clone()
    y = in_mode(lambda: theirs(written, 0.3, True, inplace))
    assert_same_bits(y, seeded(lambda: ours(x, 0.3, True)))
    assert (y is written) == inplace
    assert not torch.equal(seeded(lambda: theirs(x, 0.3, True)), y), "outside, torch's"
    assert torch.equal(in_mode(lambda: theirs(x, 0.3, False)), x)


def test_batch_norm_is_ours() -> None:
    x = 1e4 + some_values((8, 5, 3, 3), torch.float32, 1)
    running = [[torch.zeros(5), torch.ones(5)] for _ in range(2)]
    inside = in_mode(lambda: T.batch_norm(x, *running[0], training=True))
    assert_same_bits(inside, F.batch_norm(x, *running[1], training=True))
    assert_same_bits(torch.stack(running[0]), torch.stack(running[1]))
    outside = T.batch_norm(x, torch.zeros(5), torch.ones(5), training=True)
    assert not torch.equal(inside, outside)


def test_modules_of_torch_are_reached() -> None:
    x = some_values((6, 4, 3, 3), torch.float32, 1)
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout2d(0.3), nn.Dropout(0.2))
    expected = seeded(lambda: F.dropout(F.dropout2d(F.batch_norm(x, None, None, training=True), 0.3), 0.2))
    assert_same_bits(in_mode(lambda: model(x)), expected)


def test_attention_is_ours_with_dropout_only() -> None:
    q = some_values((2, 3, 6, 8), torch.float32, 1)
    attend = T.scaled_dot_product_attention
    ours = seeded(lambda: F.scaled_dot_product_attention(q, q, q, dropout_p=0.3, is_causal=True))
    assert_same_bits(in_mode(lambda: attend(q, q, q, dropout_p=0.3, is_causal=True)), ours)
    assert_same_bits(in_mode(lambda: attend(q, q, value=q, dropout_p=0.3, is_causal=True)), ours)
    assert_same_bits(in_mode(lambda: attend(q, q, q)), attend(q, q, q))


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention(need_weights: bool) -> None:
    module = nn.MultiheadAttention(8, 2, dropout=0.3)
    x = some_values((5, 3, 8), torch.float32, 1)
    inside, weights = in_mode(lambda: module(x, x, x, need_weights=need_weights, average_attn_weights=False))
    query, key, value = (
        part.reshape(5, 6, 4).transpose(0, 1).reshape(3, 2, 5, 4)
        for part in T.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    )
    drawn = seeded(lambda: F.scaled_dot_product_attention(query, key, value, dropout_p=0.3))
    expected = module.out_proj(drawn.permute(2, 0, 1, 3).reshape(5, 3, 8))
    torch.testing.assert_close(inside, expected, rtol=1e-4, atol=1e-5)
    if need_weights:
        kept = seeded(lambda: F.dropout(torch.ones(3, 2, 5, 5), 0.3)) != 0
        assert torch.equal(weights != 0, kept)
    inside.sum().backward()


def test_transformer_layer_draws_what_ours_draw() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    x = some_values((3, 5, 8), torch.float32, 1)
    converted = copy.deepcopy(layer)
    for module in converted.modules():
        if type(module) is nn.Dropout:
            module.__class__ = fastopt.nn.Dropout
    converted.self_attn.dropout = layer.self_attn.dropout = 0.0
    assert_same_bits(in_mode(lambda: layer(x)), seeded(lambda: converted(x)))
    torch.testing.assert_close(in_mode(lambda: layer.eval()(x)), layer(x))


LEFT: dict[str, Callable[[], Any]] = {
    "integers": lambda: T.dropout(torch.arange(5), 0.5),
    "bools": lambda: T.dropout(torch.ones(5).bool(), 0.5),
    "probability": lambda: T.dropout(torch.ones(5), 1.5),
    "sparse": lambda: T.dropout(torch.eye(3).to_sparse(), 0.5).to_dense(),
    "complex alpha dropout": lambda: T.alpha_dropout(torch.ones(50) + 0j, 0.5),
    "dimensions": lambda: T.dropout1d(torch.ones(2, 3, 4, 5), 0.5),
    "types of parameters": lambda: T.batch_norm(torch.ones(4, 2).double(), torch.ones(2), torch.ones(2)),
    "no statistics": lambda: T.batch_norm(torch.ones(4, 2), None, None),
    "one value": lambda: T.batch_norm(torch.ones(1, 2), None, None, training=True),
    "attention of two types": lambda: T.scaled_dot_product_attention(
        torch.ones(2, 3, 4), torch.ones(2, 3, 4).double(), torch.ones(2, 3, 4), dropout_p=0.5
    ),
    "torch.dropout": lambda: torch.dropout(torch.ones(50), 0.5, True),
    "torch.batch_norm": lambda: torch.batch_norm(torch.eye(4), None, None, None, None, True, 0.1, 1e-5, False),
    "a subclass": lambda: T.dropout(torch.ones(50).as_subclass(Marked), 0.5).as_subclass(Tensor),
    "nested": lambda: T.dropout(torch.nested.nested_tensor([torch.ones(40)]), 0.5).to_padded_tensor(0.0),
    "traced": lambda: torch.jit.trace(lambda x: T.dropout(x, 0.5), torch.ones(50), check_trace=False)(torch.ones(50)),
}


class Marked(Tensor):
    """A subclass that is not ours."""


@pytest.mark.filterwarnings("ignore::UserWarning")  # nested tensors are a prototype
@pytest.mark.parametrize("name", LEFT)
def test_left_to_torch(name: str) -> None:
    """These calls have torch's results, and its errors."""
    found = []
    for way in (seeded, in_mode):
        try:
            found.append(way(LEFT[name]))
        except (RuntimeError, ValueError, NotImplementedError) as error:
            found.append((type(error), str(error).split(": expect")[0]))
    if isinstance(found[0], Tensor):
        assert_same_bits(*found)
    elif name in ("dimensions", "no statistics", "one value", "attention of two types"):
        assert found[0][0] is found[1][0], "ours says it in its own words"
    else:
        assert found[0] == found[1]


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("where", ["forward", "forward and backward", "in the block"])
def test_checkpoints_drop_the_same_again(where: str, reentrant: bool, early_stop: bool) -> None:
    """The forward pass is repeated in the backward pass, with the mode on or off."""
    first, second = nn.Linear(20, 20), nn.Linear(20, 20)
    leaves = [some_values((8, 20), torch.float32, 1).requires_grad_(), *first.parameters(), *second.parameters()]

    def gradients(y: Tensor) -> list[Tensor]:
        torch.autograd.backward(y.square().sum())  # y.backward() is a function of torch's, in which the mode is off
        found = [y.detach()] + [leaf.grad.clone() for leaf in leaves if leaf.grad is not None]
        for leaf in leaves:
            leaf.grad = None
        return found

    def block(x: Tensor) -> Tensor:
        return second(T.dropout(first(x), 0.5).relu())

    def repeated(x: Tensor) -> Tensor:
        with functional_mode() if where == "in the block" else contextlib.nullcontext():
            return block(x)

    expected = gradients(seeded(lambda: block(leaves[0])))
    with torch.utils.checkpoint.set_checkpoint_early_stop(early_stop):
        with functional_mode():
            y = seeded(lambda: checkpoint(repeated, leaves[0], use_reentrant=reentrant))
            found = gradients(y) if where == "forward and backward" else []
        found = found or gradients(y)
    assert len(found) == 6
    for ours, theirs in zip(found, expected, strict=True):
        assert_same_bits(ours, theirs)


def test_without_gradients_it_is_torchs() -> None:
    x = torch.ones(200)
    with torch.no_grad():
        assert_same_bits(in_mode(lambda: T.dropout(x, 0.5)), seeded(lambda: T.dropout(x, 0.5)))


def test_nesting_exceptions_and_threads() -> None:
    x = torch.ones(200)
    ours, theirs = seeded(lambda: F.dropout(x, 0.5)), seeded(lambda: T.dropout(x, 0.5))
    with functional_mode():
        assert_same_bits(in_mode(lambda: T.dropout(x, 0.5)), ours)
        assert_same_bits(seeded(lambda: T.dropout(x, 0.5)), ours)
        elsewhere: list[Tensor] = []
        thread = threading.Thread(target=lambda: elsewhere.append(seeded(lambda: T.dropout(x, 0.5))))
        thread.start()
        thread.join()
        assert_same_bits(elsewhere[0], theirs)
    with pytest.raises(KeyError), functional_mode():
        raise KeyError
    assert_same_bits(seeded(lambda: T.dropout(x, 0.5)), theirs)


def test_gradients_and_transforms() -> None:
    x = some_values((50,), torch.float64, 1).requires_grad_()
    kept = seeded(lambda: F.dropout(torch.ones_like(x), 0.5))
    y = in_mode(lambda: T.dropout(x, 0.5))
    assert_same_bits(torch.autograd.grad(y.sum(), x)[0], kept.detach())
    grad = in_mode(lambda: torch.func.grad(lambda x: T.dropout(x, 0.5).square().sum())(x.detach()))
    assert ((grad == 0).float().mean() - 0.5).abs() < 0.3
    samples = in_mode(lambda: torch.vmap(lambda x: T.dropout(x, 0.5), randomness="different")(torch.ones(4, 50)))
    assert not torch.equal(samples[0], samples[1])


def drop_twice(x: Tensor) -> Tensor:
    with functional_mode():
        return T.dropout(x, 0.3) + T.alpha_dropout(x, 0.3, True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled(backend: str) -> None:
    """The mode may be entered inside a compiled function, around it, and by a wrapped model."""
    torch._dynamo.reset()
    x = some_values((6, 20), torch.float32, 1)
    compiled = torch.compile(drop_twice, fullgraph=True, backend=backend)
    torch.testing.assert_close(seeded(lambda: compiled(x)), seeded(lambda: drop_twice(x)))
    around = torch.compile(lambda x: T.dropout(x, 0.3), fullgraph=True, backend=backend)
    ours = seeded(lambda: F.dropout(x, 0.3))
    assert_same_bits(in_mode(lambda: around(x)), ours)
    assert not torch.equal(seeded(lambda: around(x)), ours)
    assert_same_bits(in_mode(lambda: around(x)), ours)
    model = wrap_forward(Net())
    whole = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(seeded(lambda: whole(x)), seeded(lambda: model(x)))
    attention = nn.MultiheadAttention(20, 2, dropout=0.3)
    heads = torch.compile(lambda x: attention(x, x, x)[0], fullgraph=True, backend=backend)
    torch.testing.assert_close(in_mode(lambda: heads(x)), in_mode(lambda: attention(x, x, x)[0]))


def drops_as_ours(model: nn.Module) -> bool:
    x = torch.ones(30, 20)
    return torch.equal(seeded(lambda: model(x)) != 0, seeded(lambda: F.dropout(x, 0.3)) != 0)


def test_wrapped_model() -> None:
    model = Net()
    layer, cls, signature = model.layer, type(model), inspect.signature(model.forward)
    assert not drops_as_ours(model)
    assert wrap_forward(model) is model
    assert wrap_forward(model) is model
    assert drops_as_ours(model)
    assert isinstance(model, Net)
    assert model.layer is layer
    assert inspect.signature(model.forward) == signature
    assert repr(model).startswith("Net(")
    with pytest.raises(KeyError):
        model(torch.ones(20), fail=True)
    assert not drops_as_ours(Net()), "the mode was left"
    x = torch.ones(3, 20)
    assert_same_bits(model.eval()(x), layer(x))
    assert unwrap_forward(model.train()) is model
    assert type(model) is cls
    assert not drops_as_ours(model)
    unwrap_forward(model)
    assert type(model) is cls


def test_copies_and_pickles_are_wrapped() -> None:
    model = wrap_forward(Net())
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copies = [copy.copy(model), copy.deepcopy(model), torch.load(saved, weights_only=False)]
    copies += [pickle.loads(pickle.dumps(model, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for other in copies:
        assert type(other) is type(model)
        assert_same_bits(other.layer.weight.detach(), model.layer.weight.detach())
        assert drops_as_ours(other)
        assert type(unwrap_forward(other)) is Net


def test_what_cannot_be_wrapped() -> None:
    scripted = nn.Linear(2, 2)
    with pytest.warns((DeprecationWarning, FutureWarning), match="jit.script"):
        scripted = torch.jit.script(scripted)
    with pytest.raises(TypeError, match="model is a ScriptModule"):
        wrap_forward(scripted)
