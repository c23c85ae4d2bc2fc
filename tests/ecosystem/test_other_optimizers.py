"""The optimizers that torch does not have follow other packages', in float64 over 100 steps, with each flag of both."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import pytest
import torch

import fastopt

pytestmark = pytest.mark.ecosystem
STEPS = 100
SHAPES = [(17, 5), (), (129,), (4, 3, 2)]


class Peer(NamedTuple):
    """A class of another package, the same flags in its words and ours, and its names of our states."""

    ours: type[torch.optim.Optimizer]
    theirs: str
    flags: list[tuple[dict[str, Any], dict[str, Any]]]  # ours, theirs
    states: dict[str, str]  # ours: theirs


def _same(*flags: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(each, each) for each in flags]


PEERS = [
    Peer(
        fastopt.AdEMAMix,
        "pytorch_optimizer.AdEMAMix",
        [
            *_same({}, {"betas": (0.5, 0.9, 0.99), "eps": 1e-4}, {"alpha": 2.0}, {"maximize": True}),
            ({"weight_decay": 0.1}, {"weight_decay": 0.1, "weight_decouple": True}),
            ({"t_alpha": 30, "t_beta3": 30}, {"t_alpha_beta3": 30}),
        ],
        {"exp_avg_fast": "exp_avg", "exp_avg_slow": "exp_avg_slow", "exp_avg_sq": "exp_avg_sq"},
    ),
    Peer(
        fastopt.ADOPT,
        "timm.optim.Adopt",
        [
            *(
                (flags, {**flags, "clip_exp": 0.25})
                for flags in ({}, {"betas": (0.5, 0.9), "eps": 1e-4}, {"maximize": True}, {"weight_decay": 0.1})
            ),
            *_same({"clip_exp": None}, {"clip_exp": 0.5}),
            ({"weight_decay": 0.1, "decouple": True}, {"weight_decay": 0.1, "decoupled": True, "clip_exp": 0.25}),
        ],
        {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"},
    ),
    Peer(
        fastopt.Adan,
        "pytorch_optimizer.Adan",  # with maximize, its first difference is not 0
        [
            *_same({}, {"betas": (0.5, 0.8, 0.9), "eps": 1e-4}, {"weight_decay": 0.1}),
            ({"weight_decay": 0.1, "no_prox": True}, {"weight_decay": 0.1, "weight_decouple": True}),
        ],
        {"exp_avg": "exp_avg", "exp_avg_diff": "exp_avg_diff", "exp_avg_sq": "exp_avg_sq"},
    ),
]
CASES = [(peer, *flags) for peer in PEERS for flags in peer.flags]


def _found(name: str) -> type[torch.optim.Optimizer]:
    module, _, cls = name.rpartition(".")
    found: type[torch.optim.Optimizer] = getattr(importlib.import_module(module), cls)
    return found


def _parameters() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in SHAPES]


def _ids(value: Any) -> str:
    return value.ours.__name__ if isinstance(value, Peer) else ",".join(f"{k}={v}" for k, v in value.items()) or "-"


@pytest.mark.parametrize(("peer", "own", "other"), CASES, ids=_ids)
def test_follows_the_package(peer: Peer, own: dict[str, Any], other: dict[str, Any]) -> None:
    mine, others = _parameters(), _parameters()
    one, two = peer.ours(mine, lr=0.05, **own), _found(peer.theirs)(others, lr=0.05, **other)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for a, b in zip(mine, others, strict=True):
            b.grad = 0.5 * b.detach() + torch.randn(b.shape, generator=generator, dtype=b.dtype)
            a.grad = b.grad.clone()  # theirs may write to it
        one.step()
        two.step()
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        for key, name in peer.states.items():
            torch.testing.assert_close(one.state[a][key], two.state[b][name], rtol=1e-12, atol=1e-12)
