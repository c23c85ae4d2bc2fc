"""SyncBatchNorm: two processes with unequal batches compute what one does with the joined batch (sync_worker)."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import sync_worker
import torch

from fastopt import nn
from processes import outcomes
from support import assert_same_bits, some_values

pytestmark = pytest.mark.slow

SCENARIOS = sync_worker.SCENARIOS if torch.distributed.is_available() else {}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return outcomes(sync_worker.__file__, sync_worker.PROCESSES, tmp_path_factory.mktemp("sync"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes(results: list[dict[str, str]], scenario: str) -> None:
    wrong = "\n".join(result[scenario] for result in results)
    assert not wrong.strip(), wrong[-4000:]


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_plain_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    """It equals plain BatchNorm if there is no process group."""
    plain = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(shape) - 2]
    ours, expected = (module(3, activation="gelu").train(training) for module in (nn.SyncBatchNorm, plain))
    x, residual = some_values(shape, torch.float32, 1), some_values(shape, torch.float32, 2)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for module, input in zip((ours, expected), inputs, strict=True):
        module(input, residual).exp().sum().backward()
    assert_same_bits(*(input.grad for input in inputs))
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_world_of_one(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        x = some_values((4, 3), torch.float32, 1)
        assert_same_bits(nn.SyncBatchNorm(3)(x), nn.BatchNorm1d(3)(x))
    finally:
        torch.distributed.destroy_process_group()


def test_as_torchs_module() -> None:
    ours, theirs = (m.SyncBatchNorm(3, momentum=None, affine=False) for m in (nn, torch.nn))
    assert issubclass(nn.SyncBatchNorm, torch.nn.modules.batchnorm._BatchNorm)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert repr(again) == repr(ours)
        assert again.process_group is None


def test_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 2D input"):
        nn.SyncBatchNorm(3)(torch.zeros(3))
    with pytest.raises(ValueError, match="number of input channels should be non-zero"):
        nn.SyncBatchNorm(3)(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="activation has to be None or one of"):
        nn.SyncBatchNorm(3, activation="tanh")
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.SyncBatchNorm(3)(torch.zeros(1, 3))


class Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4, eps=1e-3, momentum=None)
        self.parts = torch.nn.ModuleList([torch.nn.Sequential(nn.BatchNorm2d(5, activation="silu"))])
        self.others = torch.nn.ModuleDict({"a": torch.nn.InstanceNorm2d(3, affine=True), "b": torch.nn.LayerNorm(3)})
        self.synchronized = torch.nn.SyncBatchNorm(6)
        self.bare = torch.nn.BatchNorm3d(2, affine=False, track_running_stats=False)


def test_convert_sync_batchnorm() -> None:
    model = Nested()
    model.norm.eval()
    model.parts[0][0].bias.requires_grad_(False)
    before = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    keys = list(model.state_dict())
    group = object()
    assert nn.SyncBatchNorm.convert_sync_batchnorm(model, group) is model
    assert list(model.state_dict()) == keys
    for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        assert tensor is tensors.pop(name)
    assert not tensors
    norms = ("norm", "parts.0.0", "synchronized", "bare")
    for name, module in model.named_modules():
        old = before[name]
        assert (type(module) is nn.SyncBatchNorm) == (name in norms)
        if name not in norms:
            assert module is old
            continue
        assert module.process_group is group
        for what in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
            assert getattr(module, what) == getattr(old, what), what
    assert model.parts[0][0].activation == "silu"
    assert not model.parts[0][0].bias.requires_grad
    assert model.norm.activation is None


def test_convert_sync_batchnorm_of_a_norm_itself() -> None:
    norm = nn.BatchNorm2d(3, dtype=torch.float64, activation="leaky_relu", negative_slope=0.3)
    norm.qconfig = "some"
    new = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    assert type(new) is nn.SyncBatchNorm
    assert (new.weight is norm.weight, new.running_var is norm.running_var) == (True, True)
    assert (new.negative_slope, new.qconfig, new.process_group) == (0.3, "some", None)
    x = some_values((4, 3, 2, 2), torch.float64, 1)
    assert_same_bits(new(x), copy.deepcopy(norm)(x))
    linear = torch.nn.Linear(2, 2)
    assert nn.SyncBatchNorm.convert_sync_batchnorm(linear) is linear


@pytest.mark.parametrize("kind", ["BatchNorm2d", "SyncBatchNorm"])
def test_convert_sync_batchnorm_of_converted_models(kind: str) -> None:
    """The activation that convert has fused stays fused, and revert separates it again."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), getattr(torch.nn, kind)(4), torch.nn.ReLU()).eval()
    x = some_values((2, 3, 5, 5), torch.float32, 1)
    expected = model(x)
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(nn.convert(model))
    assert synchronized.pairs() == [("1", "2")]
    torch.testing.assert_close(synchronized(x), expected)
    nn.revert(synchronized)
    assert [type(module).__name__ for module in synchronized] == ["Conv2d", "SyncBatchNorm", "ReLU"]
    assert type(synchronized[1]) is torch.nn.SyncBatchNorm
    torch.testing.assert_close(synchronized(x), expected)


def test_torchs_convert_sync_batchnorm_drops_no_fused_activation() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU()).eval()
    x = some_values((2, 3, 5, 5), torch.float32, 1)
    expected = model(x)
    torch.testing.assert_close(torch.nn.SyncBatchNorm.convert_sync_batchnorm(nn.convert(model))(x), expected)


def test_convert_sync_batchnorm_of_shared_modules() -> None:
    norm = torch.nn.BatchNorm1d(3)
    model = torch.nn.ModuleList([torch.nn.Sequential(norm), torch.nn.Sequential(norm)])
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[0][0]) is type(model[1][0]) is nn.SyncBatchNorm
    assert model[0][0].weight is model[1][0].weight is norm.weight
    assert model[0][0].running_mean is model[1][0].running_mean
