"""The optimizers that torch does not have follow other packages', in float64 over 100 steps, with each flag of both."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import pytest
import torch

import fastopt

pytestmark = pytest.mark.ecosystem
STEPS = 100
KEYS = ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")  # of a Schedule-Free group
SHAPES = [(17, 5), (), (129,), (4, 3, 2)]


class Peer(NamedTuple):
    """A class of another package, the same flags in its words and ours, and its names of our states."""

    ours: type[torch.optim.Optimizer]
    theirs: str
    flags: list[tuple[dict[str, Any], dict[str, Any]]]  # ours, theirs
    states: dict[str, str]  # ours: theirs


def _same(*flags: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(each, each) for each in flags]


_SCHEDULE_FREE = ({"warmup_steps": 20, "r": 1.0}, {"warmup_steps": 5, "weight_lr_power": 0.0})


def _cautious(**flags: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {**flags, "cautious": True}, {**flags, "caution": True}


PEERS = [
    Peer(
        fastopt.AdamW,
        "timm.optim.AdamWLegacy",
        [_cautious(), _cautious(weight_decay=0.3), _cautious(betas=(0.5, 0.9), amsgrad=True), _cautious(maximize=True)],
        {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "max_exp_avg_sq": "max_exp_avg_sq"},
    ),
    Peer(
        fastopt.Lion,
        "timm.optim.Lion",
        [_cautious(weight_decay=0.0), _cautious(weight_decay=0.3), _cautious(betas=(0.5, 0.9), weight_decay=0.0)],
        {"exp_avg": "exp_avg"},
    ),
    Peer(
        fastopt.SGD,
        "timm.optim.SGDW",
        [_cautious(momentum=0.9, weight_decay=0.0), _cautious(momentum=0.9, nesterov=True, weight_decay=0.0)],
        {"momentum_buffer": "momentum_buffer"},
    ),
    Peer(
        fastopt.LARS,
        "timm.optim.Lars",  # it has no maximize
        [
            *(
                (flags, {"momentum": 0.9, "weight_decay": 5e-4, **flags})
                for flags in (
                    {},
                    {"momentum": 0.0},
                    {"dampening": 0.5},
                    {"nesterov": True},
                    {"weight_decay": 0.0},
                    {"weight_decay": 0.0, "always_adapt": True},
                    {"weight_decay": 0.1, "eps": 1e-2},
                )
            ),
            ({"trust_coefficient": 0.1}, {"momentum": 0.9, "weight_decay": 5e-4, "trust_coeff": 0.1}),
        ],
        {"momentum_buffer": "momentum_buffer"},
    ),
    Peer(
        fastopt.StableAdamW,
        "optimi.StableAdamW",  # it has no maximize
        _same({}, {"weight_decay": 0.0}, {"weight_decay": 0.5}, {"betas": (0.5, 0.9), "eps": 1e-4}, {"eps": 1.0}),
        {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"},
    ),
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
            _cautious(clip_exp=0.25),
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
    Peer(
        fastopt.Prodigy,
        "prodigyopt.Prodigy",  # its s and p0 are flat
        [
            ({"lr": 1.0, "d0": 1e-2, **flags}, {"lr": 1.0, "d0": 1e-2, **flags})
            for flags in (
                {},
                {"d0": 1e-6},
                {"lr": 0.3},
                {"betas": (0.5, 0.9), "eps": 1e-4},
                {"beta3": 0.9},
                {"weight_decay": 0.1},
                {"weight_decay": 0.1, "decouple": False},
                {"use_bias_correction": True},
                {"safeguard_warmup": True, "lr": 0.5},
                {"d_coef": 0.5},
                {"growth_rate": 1.02},
            )
        ],
        {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "s": "s", "p0": "p0"},
    ),
    Peer(
        fastopt.ScheduleFreeAdamW,
        "schedulefree.AdamWScheduleFree",
        _same({}, {"betas": (0.5, 0.9), "eps": 1e-4}, {"weight_decay": 0.1}, *_SCHEDULE_FREE),
        {"z": "z", "exp_avg_sq": "exp_avg_sq"},
    ),
    Peer(
        fastopt.ScheduleFreeSGD,
        "schedulefree.SGDScheduleFree",
        _same({}, {"momentum": 0.5}, {"weight_decay": 0.1}, *_SCHEDULE_FREE),
        {"z": "z"},
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


def _train(one: Any, ours: list[torch.Tensor], two: Any, theirs: list[torch.Tensor], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            b.grad = 0.5 * b.detach() + torch.randn(b.shape, generator=generator, dtype=b.dtype)
            a.grad = b.grad.clone()  # theirs may write to it
        one.step()
        two.step()


@pytest.mark.parametrize(("peer", "own", "other"), CASES, ids=_ids)
def test_follows_the_package(peer: Peer, own: dict[str, Any], other: dict[str, Any]) -> None:
    mine, others = _parameters(), _parameters()
    lr = {"lr": 0.05}
    one, two = peer.ours(mine, **{**lr, **own}), _found(peer.theirs)(others, **{**lr, **other})
    if hasattr(two, "train"):
        two.train()
    _train(one, mine, two, others, range(STEPS))
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        kept = {key: name for key, name in peer.states.items() if key in one.state[a]}
        assert set(kept.values()) == {name for name in peer.states.values() if name in two.state[b]}
        for key, name in kept.items():
            theirs = two.state[b][name].reshape(a.shape)
            torch.testing.assert_close(one.state[a][key], theirs, rtol=1e-12, atol=1e-12)
    numbers = [key for key in ("d", "d_max", "d_numerator", "k") if key in one.param_groups[0]]
    assert [one.param_groups[0][key] for key in numbers] == pytest.approx(
        [two.param_groups[0][key] for key in numbers], rel=1e-12
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("peer", [peer for peer in PEERS if hasattr(peer.ours, "eval")], ids=_ids)
def test_schedule_free_checkpoints_go_both_ways(peer: Peer, mode: str) -> None:
    """In the package's keys. Each then goes on as the other did."""
    makers = (peer.ours, _found(peer.theirs))
    for make, other in (makers, makers[::-1]):
        params, twins = _parameters(), _parameters()
        one, two = make(params, lr=0.05, warmup_steps=8), makers[0](twins, lr=0.05, warmup_steps=8)
        one.train()
        _train(one, params, two, twins, range(5))
        getattr(one, mode)()
        resumed = [p.detach().clone().requires_grad_() for p in params]
        three = other(resumed, lr=0.7)
        three.load_state_dict(one.state_dict())
        three.train()
        _train(three, resumed, two, twins, range(5, 10))
        three.eval()
        two.eval()
        for a, b in zip(resumed, twins, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert {key: three.param_groups[0][key] for key in KEYS} == {key: two.param_groups[0][key] for key in KEYS}
