"""torch.optim.swa_utils with our optimizers and modules averages weights as it does with torch's."""

from __future__ import annotations

import io
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils

import fastopt
from optimizer_cases import PLAIN_COMPARED_CASES, Case, ids
from support import some_values

STEPS = 6
BATCHES = [some_values((16, 3, 4, 4), torch.float64, seed) for seed in range(STEPS)]

AVERAGES = {
    "equal weights": lambda: None,  # AveragedModel's default
    "swa": swa_utils.get_swa_multi_avg_fn,
    "ema": lambda: swa_utils.get_ema_multi_avg_fn(0.75),
}


def _network(modules: ModuleType) -> nn.Sequential:
    """A network with the same weights from either of the two."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), modules.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    return network.double()


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> None:
    optimizer.zero_grad()
    (network(batch) ** 2).mean().backward()
    optimizer.step()


def _same_tensors(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("average", "buffers"),
    [(average, buffers) for average in AVERAGES for buffers in (False, True) if (average, buffers) != ("swa", True)],
)
def test_averaged_model(average: str, buffers: bool) -> None:
    """Buffers are averaged too, or update_bn computes them. get_swa_multi_avg_fn cannot divide BatchNorm's count."""

    def run(modules: ModuleType, optimizers: ModuleType) -> swa_utils.AveragedModel:
        network = _network(modules)
        averaged = swa_utils.AveragedModel(network, multi_avg_fn=AVERAGES[average](), use_buffers=buffers)
        optimizer = optimizers.AdamW(network.parameters(), lr=0.05)
        for batch in BATCHES:
            _step(network, optimizer, batch)
            averaged.update_parameters(network)
        if not buffers:
            swa_utils.update_bn(BATCHES, averaged)
        return averaged

    ours, theirs = run(fastopt.nn, fastopt), run(nn, torch.optim)
    _same_tensors(ours, theirs)
    assert ours.n_averaged == STEPS
    assert isinstance(ours.module[1], fastopt.nn.BatchNorm2d)
    torch.testing.assert_close(ours.eval()(BATCHES[0]), theirs.eval()(BATCHES[0]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_update_bn(name: str) -> None:
    """All batches have the same weight, whatever the statistics were before; momentum and mode are restored."""
    dims = int(name[-2])
    batches = [some_values((8, 5, *[3] * dims), torch.float64, seed) for seed in range(4)]
    results = []
    for modules in (fastopt.nn, nn):
        module = getattr(modules, name)(5, momentum=0.3).double()
        module(batches[0] + 100)
        swa_utils.update_bn(batches, module.eval())
        assert (module.momentum, module.training) == (0.3, False)
        results.append(module)
    _same_tensors(*results)
    mean = torch.stack([batch.transpose(0, 1).flatten(1).mean(1) for batch in batches]).mean(0)
    torch.testing.assert_close(results[0].running_mean, mean)


@pytest.mark.parametrize("case", PLAIN_COMPARED_CASES, ids=ids)
def test_swalr(case: Case) -> None:
    """SWALR keeps its target in the groups, under a key that no optimizer knows; checkpoints keep it."""
    ours, theirs = _network(fastopt.nn), _network(nn)
    one, other = case.make(ours.parameters()), case.make_theirs(theirs.parameters())
    schedulers = [swa_utils.SWALR(optimizer, swa_lr=0.5, anneal_epochs=4) for optimizer in (one, other)]
    for batch in BATCHES:
        for network, optimizer, scheduler in zip((ours, theirs), (one, other), schedulers, strict=True):
            _step(network, optimizer, batch)
            scheduler.step()
        assert one.param_groups[0]["lr"] == other.param_groups[0]["lr"]
    assert one.param_groups[0]["lr"] == pytest.approx(0.5)
    resumed = case.make(ours.parameters())
    resumed.load_state_dict(one.state_dict())
    assert resumed.param_groups[0]["swa_lr"] == 0.5


def test_averages_resume() -> None:
    """Network, average and optimizer resume from a file, with the bits of training without a pause."""
    parts = []
    for network in (_network(fastopt.nn), _network(fastopt.nn)):
        averaged = swa_utils.AveragedModel(network, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.75))
        parts.append((network, averaged, fastopt.AdamW(network.parameters(), lr=0.05, max_grad_norm=1.0)))

    def go(part: int, batches: list[Tensor]) -> None:
        network, averaged, optimizer = parts[part]
        for batch in batches:
            _step(network, optimizer, batch)
            averaged.update_parameters(network)

    go(0, BATCHES[:3])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts[0]], file)
    file.seek(0)
    for part, state in zip(parts[1], torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    for part in range(2):
        go(part, BATCHES[3:])
    torch.testing.assert_close(parts[1][1].state_dict(), parts[0][1].state_dict(), rtol=0, atol=0)
