"""fuse="trace": optional arguments, ``**kwargs``, flags and decorators of a traced forward."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastopt import nn
from support import some_values

T = torch.nn


class Part(T.Module):
    """Takes any arguments, and answers with two results."""

    def forward(self, x: Tensor, scale: Any = None, **more: Any) -> tuple[Tensor, Any]:
        y = x if scale is None or isinstance(scale, (bool, dict)) else x * scale
        return y * (1 + sum(value for value in more.values())), more


class Base(T.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.norm, self.flag, self.other = Part(), T.LayerNorm(6), True, 1.0


def values(seed: int = 1) -> Tensor:
    return some_values((4, 6), torch.float32, seed)


def traced(model: T.Module, *example: Any) -> tuple[Any, Any]:
    ours = nn.convert(copy.deepcopy(model), fuse="trace", example=example or (values(),))
    return nn.convert(copy.deepcopy(model)), ours


def joined(model: Any) -> set[str]:
    return {name for graph in getattr(model, "_graphs", []) for name in graph.found}


def takes(ours: Any, *args: Any, **kwargs: Any) -> bool:
    return any(graph.takes(ours, args, kwargs) for graph in ours._graphs)


class PassesOn(Base):
    def forward(self, x: Tensor, scale: Tensor | None = None, cached: bool | None = False, **more: Any) -> Tensor:
        y, _ = self.part(x, scale=scale, **more)
        return self.norm(x + y) + 1


def test_what_is_passed_on_may_be_anything() -> None:
    theirs, ours = traced(PassesOn())
    assert joined(ours) == {"norm + add before"}
    assert inspect.signature(ours.forward) == inspect.signature(theirs.forward)
    for args, kwargs in (
        ((), {}),
        ((values(3),), {}),
        ((), {"scale": values(3)}),
        ((None, True), {"of_another_name": 3}),
        ((), {"cached": None, "one": 1, "two": values(4)}),
    ):
        assert takes(ours, values(2), *args, **kwargs)
        assert_close(ours(values(2), *args, **kwargs), theirs(values(2), *args, **kwargs))
    with pytest.raises(TypeError, match="x"):
        ours()
    with pytest.raises(TypeError, match="multiple values"):
        ours(values(2), values(3), scale=None)


class Asks(Base):
    """Asks for a mask, for a flag among the arguments, and for options of its own."""

    def forward(self, x: Tensor, mask: Tensor | None = None, last: bool = True, sizes: int = 3) -> Tensor:
        y, _ = self.part(x) if self.flag else self.part(x, True)
        h = x + y
        y = self.norm(h)
        if mask is not None:
            y = y * mask
        return y * sizes if last else h * self.other


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_asked_decides(masked: bool) -> None:
    theirs, ours = traced(Asks(), values(), *((values(4),) if masked else ()))
    assert joined(ours) == {"norm + add before"}
    mask = values(4)
    for args, kwargs, expected in (
        ((), {}, not masked),
        ((), {"mask": None}, not masked),
        ((mask,), {}, masked),
        ((mask, False), {}, False),
        ((mask, True, 5), {}, masked),
        ((None, True, 5), {}, not masked),
    ):
        assert takes(ours, values(2), *args, **kwargs) is expected
        assert_close(ours(values(2), *args, **kwargs), theirs(values(2), *args, **kwargs))
    assert all(graph.recipe.fixed.keys() == {"mask", "last"} for graph in ours._graphs)


class Ignores(Base):
    """Asks for a flag that makes no difference, and for one that does."""

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.part(x)
        if self.flag and self.training and type(self).forward is None:
            return y
        h = self.norm(x + y)
        return h if self.other_flag else h + 1

    other_flag = True


def test_flags_without_effect_are_ignored() -> None:
    theirs, ours = traced(Ignores())
    assert all(graph.reads.keys() <= {"training", "other_flag"} for graph in ours._graphs)
    for name in ("flag", "other_flag"):
        for model in (theirs, ours):
            setattr(model, name, False)
        assert takes(ours, values()) == (name == "flag")
        assert_close(ours(values()), theirs(values()))


class LooksInto(Base):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y, _ = self.part(x, **more)
        return self.norm(x + y) * more.get("factor", 1)


class Helps(Base):
    """A function that it calls has a parameter of its own."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        return self.norm(x + self.helped(x, **more))

    def helped(self, x: Tensor, factor: float = 1, **more: Any) -> Tensor:
        return self.part(x, **more)[0] * factor


class Whole(Base):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y, _ = self.part(x, more)
        return self.norm(x + y)


@pytest.mark.parametrize("cls", [LooksInto, Helps, Whole])
def test_other_uses_of_kwargs(cls: type[T.Module], capsys: pytest.CaptureFixture[str]) -> None:
    ours: Any = nn.convert(cls(), fuse="trace", example=values(), report=True)
    assert type(ours) is cls
    assert "its **kwargs" in capsys.readouterr().out.replace("**more", "its **kwargs")
    assert cls is Whole or not torch.equal(ours(values(), factor=3), ours(values()))


def renames(forward: Callable[..., Any], old: str = "old_scale") -> Callable[..., Any]:
    """As transformers' deprecate_kwarg."""

    @functools.wraps(forward)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if old in kwargs:
            kwargs["scale"] = kwargs.pop(old)
        return forward(self, *args, **kwargs)

    return wrapped


class Decorated(PassesOn):
    forward = renames(PassesOn.forward)


def test_decorators_see_what_they_look_for() -> None:
    theirs, ours = traced(Decorated())
    assert joined(ours)
    for kwargs in ({}, {"scale": values(3)}, {"old_scale": values(3)}, {"another": 1}):
        assert takes(ours, values(2), **kwargs) == ("old_scale" not in kwargs)
        assert_close(ours(values(2), **kwargs), theirs(values(2), **kwargs))


class Wrapping(T.Module):
    """Wraps the forward of each subclass, as transformers' layers that checkpoint do."""

    checkpointing = False

    def __init_subclass__(cls) -> None:
        forward = cls.forward

        @functools.wraps(forward)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.checkpointing and self.training and type(self).forward is wrapped:
                how = functools.partial(forward, self, **kwargs)
                return torch.utils.checkpoint.checkpoint(how, *args, use_reentrant=False)
            return forward(self, *args, **kwargs)

        cls.forward = wrapped


class Checkpointed(Wrapping):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.norm, self.calls = Part(), T.LayerNorm(6), []

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y, _ = self.part(x, **more)
        return self.norm(x + y)


@pytest.mark.parametrize("before", [False, True])
def test_checkpoints(before: bool) -> None:
    """Converted before or after checkpoints are turned on: the layer runs twice, traced."""
    theirs = Checkpointed()
    theirs.checkpointing = before
    theirs, ours = traced(theirs)
    assert joined(ours)
    assert inspect.signature(ours.forward) == inspect.signature(theirs.forward)
    found = []
    for model in (theirs, ours):
        model.checkpointing = True
        calls: list[int] = []
        model.part.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        x = values().requires_grad_()
        model(x, twice=1).square().sum().backward()
        assert len(calls) == 2
        found.append(x.grad)
    assert_close(found[1], found[0])
    assert takes(ours, values(), twice=1)


class Cache:
    def __init__(self) -> None:
        self.kept: list[Tensor] = []


class Caches(Base):
    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        return self.norm(x + self.keeps(x, cache))

    def __init__(self) -> None:
        super().__init__()
        self.keeps = Keeps()


class Keeps(T.Module):
    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        if cache is not None:
            cache.kept.append(x)
            x = torch.stack(cache.kept).sum(0)
        return x


def test_caches_of_the_example_are_copied() -> None:
    """Each comparison begins with the cache of the example."""
    cache = Cache()
    cache.kept.append(values(3))
    theirs, ours = traced(Caches(), values(), cache)
    assert joined(ours)
    assert len(cache.kept) == 1
    for given in (cache, None):
        assert_close(ours(values(), copy.deepcopy(given)), theirs(values(), copy.deepcopy(given)))
