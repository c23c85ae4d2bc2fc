"""Parameter groups: with decay and without, rates by layer, frozen and thawed layers, options by group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from optimizer_cases import PLAIN_CASES, PLAIN_COMPARED_CASES, PLAIN_TORCH_CASES, Case, ids
from support import HAS_NAMES, assert_same_bits, some_values, step_on_some_grads

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
COMPARED = pytest.mark.parametrize("case", PLAIN_COMPARED_CASES, ids=ids)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm((4, 8))  # its weights are a matrix, and it is still a norm
        self.scale = nn.Parameter(torch.ones(8))
        self.linear = nn.Linear(8, 8)
        self.tied = self.linear
        self.conv = nn.Conv2d(3, 8, 3)
        self.batch_norm = nn.BatchNorm2d(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)


def test_trap_13_biases_and_norms_are_not_decayed() -> None:
    model = _Block()
    decayed, others = fastopt.param_groups(model, 0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "linear.weight",
        "conv.weight",
    ]
    assert {names[id(p)] for p in others["params"]} == {
        "scale",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "norm.weight",
        "norm.bias",
        "linear.bias",
        "conv.bias",
        "batch_norm.weight",
        "batch_norm.bias",
    }
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    optimizer = fastopt.AdamW([decayed, others], lr=1.0)
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    before = model.norm.weight.detach().clone(), model.linear.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.norm.weight, before[0])
    torch.testing.assert_close(model.linear.weight.detach(), before[1] * 0.95)
    with pytest.raises(ValueError, match="Invalid weight_decay value: -1"):
        fastopt.param_groups(model, -1)


class _Tiny(nn.Module):
    """A language model of our modules and torch's; its output weights are its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.norm = nn.LayerNorm(8)
        self.middle = fastopt.nn.DropConnect(nn.Linear(8, 8))
        self.batch_norm = fastopt.nn.BatchNorm1d(8, activation="relu")
        self.dropout = fastopt.nn.Dropout(0.1)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(self.batch_norm(self.middle(self.norm(self.embedding(tokens))))))


def test_our_modules_embeddings_and_tied_weights() -> None:
    """Embeddings are matrices; tied weights are in one group, once, and are trained."""
    model = _Tiny()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = fastopt.param_groups(model, 0.05)
    decayed, others = ([names[id(p)] for p in group["params"]] for group in groups)
    assert decayed == ["embedding.weight", "middle.module.weight"]
    assert others == ["norm.weight", "norm.bias", "middle.module.bias", "batch_norm.weight", "batch_norm.bias"]
    optimizer = fastopt.AdamW(groups, lr=0.05)
    tokens = torch.arange(10)
    losses = []
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens), tokens)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert model.head.weight is model.embedding.weight


def _layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def _both(case: Case, train: Callable[[nn.Sequential, Any], torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """Our optimizer and the other, after the same training, which must give the same weights."""
    models = [_layers(), _layers()]
    optimizers = [train(model, make) for model, make in zip(models, (case.make, case.make_theirs), strict=True)]
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-9, atol=1e-11)
    return optimizers


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    (model(some_values((7, 6), torch.float64, seed)) - 1).square().mean().backward()
    optimizer.step()


@COMPARED
def test_rates_by_layer(case: Case, numbers_in: Any) -> None:
    """Deeper layers have higher rates."""
    numbers_in(torch.float64)

    def train(model: nn.Sequential, make: Any) -> torch.optim.Optimizer:
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        groups = [{"params": layer.parameters(), "lr": 0.01 * 2**depth} for depth, layer in enumerate(layers)]
        optimizer = make(groups)
        for seed in range(6):
            _step(model, optimizer, seed)
        return optimizer

    ours, theirs = _both(case, train)
    assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]


@COMPARED
def test_layers_are_frozen_and_thawed(case: Case, numbers_in: Any) -> None:
    """Without gradients, a layer's weights, states and counts stay; later they continue from there."""
    numbers_in(torch.float64)

    def train(model: nn.Sequential, make: Any) -> torch.optim.Optimizer:
        optimizer = make(model.parameters())
        for seed in range(9):
            if seed in (3, 6):
                model[0].requires_grad_(seed == 6)
            before = model[0].weight.detach().clone()
            _step(model, optimizer, seed)
            if seed + 1 >= case.row.moved_after:
                assert torch.equal(before, model[0].weight) == (3 <= seed < 6)
        return optimizer

    ours, _ = _both(case, train)
    first, last = (ours.state[ours.param_groups[0]["params"][i]].get("step") for i in (0, -1))
    assert first is last is None or (float(first), float(last)) == (6, 9)


# Older torch's Adagrad fails when groups are added.
@pytest.mark.parametrize(
    "case", [c for c in PLAIN_COMPARED_CASES if c.ours is not fastopt.Adagrad or HAS_NAMES], ids=ids
)
def test_a_layer_joins_in(case: Case, numbers_in: Any) -> None:
    """A layer is thawed into a separate group, and the scheduler continues."""
    numbers_in(torch.float64)

    def train(model: nn.Sequential, make: Any) -> torch.optim.Optimizer:
        model[0].requires_grad_(False)
        optimizer = make(model[2:].parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for seed in range(6):
            if seed == 3:
                model[0].requires_grad_(True)
                optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})
            _step(model, optimizer, seed)
            scheduler.step()
        return optimizer

    ours, theirs = _both(case, train)
    assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]


@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if not case.row.grouped], ids=ids)
def test_options_by_group(case: Case) -> None:
    """One step over groups with different options equals a step of a separate optimizer for each, to the bit."""
    options: list[dict[str, Any]] = [
        {},
        {"lr": 0.001},
        {"maximize": True},
        {"l1": 0.1},
        {"max_grad_value": 0.3},
        {"max_grad_norm": 0.5},
        {"state_dtype": torch.float32},
    ]
    params, alone = ([some_values(70, torch.bfloat16, seed=0).requires_grad_() for _ in options] for _ in range(2))
    joined = case.make([{"params": [p], **more} for p, more in zip(params, options, strict=True)])
    single = [case.make([{"params": [p], **more}]) for p, more in zip(alone, options, strict=True)]
    for step in range(3):
        step_on_some_grads(joined, params, step)
        for p, q, optimizer in zip(params, alone, single, strict=True):
            q.grad = p.grad
            optimizer.step()
    for p, q in zip(params, alone, strict=True):
        assert_same_bits(p, q)


@pytest.mark.skipif(not HAS_NAMES, reason="torch before 2.6 does not keep names")
@pytest.mark.parametrize("case", PLAIN_TORCH_CASES, ids=ids)
def test_names_are_kept_as_torch_keeps_them(case: Case) -> None:
    """Names are kept in groups, in groups added later, and in checkpoints."""

    def groups(make: Any) -> list[dict[str, Any]]:
        model = _layers()
        optimizer = make(model[2:].named_parameters(prefix="head"))
        optimizer.add_param_group({"params": model[0].named_parameters(prefix="backbone")})
        _step(model, optimizer, 0)
        resumed = make(model[2:].named_parameters())
        resumed.add_param_group({"params": model[0].named_parameters()})
        resumed.load_state_dict(optimizer.state_dict())
        return [*optimizer.state_dict()["param_groups"], *resumed.param_groups]

    ours, theirs = groups(case.make), groups(case.make_theirs)
    assert [group["param_names"] for group in ours] == [group["param_names"] for group in theirs]
    assert ours[1]["param_names"] == ["backbone.weight", "backbone.bias"]
