"""fuse="trace" on additions before norms: what it merges, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fastopt.nn
from fastopt.nn._traced import trace
from residual_layers import NORMS, Layer, assert_alike, joined, pair_of, passes_fixture, values
from support import HALF, assert_same_bits

__all__ = ["passes_fixture"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_merged(name: str, dtype: torch.dtype, passes: list[bool]) -> None:
    """A Hugging Face class leaves float64 to its own code."""
    theirs, ours = pair_of(Layer(NORMS[name]), dtype)
    assert joined(ours) == {"norm2 + add before"}
    row = next(row for row in fastopt.nn.report(ours).rows if row.name == "norm2")
    assert (row.state, row.note) == ("as one", "with add before")
    passes.clear()
    for mode in (True, False):
        assert_alike(theirs.train(mode), ours.train(mode), values(dtype, seed=5))
    assert passes == [True, True]
    assert_close(list(ours.buffers()), list(theirs.buffers()))
    if name != "active":  # torch has no such module
        assert type(fastopt.nn.revert(ours)) is Layer
        assert "_graphs" not in vars(ours)


def test_one_call_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The merged call reaches the function once, with the residual."""
    _, ours = pair_of(Layer(NORMS["rms"]))
    calls = []
    cls = type(ours.norm2)
    monkeypatch.setattr(cls, "_normalize", lambda m, *a, real=cls._normalize: (calls.append(a[1:3]), real(m, *a))[1])
    x = values()
    ours(x)
    assert [sum_too for _, sum_too in calls] == [False, True]
    assert calls[0][0] is None
    assert calls[1][0] is not None


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch.add": torch.add,
    "method": lambda a, b: a.add(b),
    "the other way": lambda a, b: b + a,
    "with itself": lambda a, b: b + b,
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions(name: str) -> None:
    theirs, ours = pair_of(Layer(add=ADDITIONS[name]))
    assert joined(ours) == {"norm2 + add before"}
    assert_alike(theirs, ours, values(seed=5))


def _in_place(a: Tensor, b: Tensor) -> Tensor:
    b += a
    return b


LEFT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "in place": _in_place,
    "in place, method": lambda a, b: b.add_(a),
    "a number": lambda a, b: b + 1.0,
    "alpha": lambda a, b: torch.add(a, b, alpha=2),
    "difference": lambda a, b: a - b,
}


@pytest.mark.parametrize("name", LEFT)
def test_left(name: str) -> None:
    theirs, ours = pair_of(Layer(add=LEFT[name]))
    assert not joined(ours)
    assert_alike(theirs, ours, values(seed=5))


class Changed(nn.Module):
    """Changes the sum in place before, or after, it is normalized; or only reads it before."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm, self.act, self.how = nn.LayerNorm(6), nn.ReLU(inplace=True), how

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = x + y
        if self.how == "before":
            h = self.act(h)
        if self.how == "without its result":
            self.act(h)
        if self.how == "an argument":
            x = torch.relu_(x)
        z = self.norm(h)
        return z * h * x


@pytest.mark.parametrize("how", ["before", "without its result", "an argument", "never"])
def test_a_sum_that_changes(how: str) -> None:
    example = (values(), values(seed=2))
    theirs, ours = pair_of(Changed(how), example=example)
    assert bool(joined(ours)) == (how in ("an argument", "never"))
    if not joined(ours):  # it was not merged and then found to differ
        assert "no norm next to" in trace(ours, example, {})
    with torch.no_grad():
        assert_same_bits(ours(values(seed=5), values(seed=6)), theirs(values(seed=5), values(seed=6)))
