"""fastopt under Accelerate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import fastopt
from optimizer_cases import PLAIN_CASES, PLAIN_TORCH_CASES, Case, ids
from support import assert_same_bits, some_values

pytestmark = pytest.mark.ecosystem
Make = Callable[[Any], Optimizer]


class Training:
    """A network of our modules, its optimizer, which a way may change, and its schedule, prepared; batches of 4."""

    def __init__(
        self, make: Make, dtype: torch.dtype = torch.float32, way: Any = lambda _, optimizer: optimizer, **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.accelerator = accelerate.Accelerator(cpu=True, **{"gradient_accumulation_steps": 2, **options})
        network = nn.Sequential(
            nn.Linear(6, 8, bias=False), fastopt.nn.BatchNorm1d(8), nn.Tanh(), fastopt.nn.Dropout(0.2), nn.Linear(8, 2)
        )
        optimizer = way(network, make(network.to(dtype).parameters()))
        loader = DataLoader(TensorDataset(some_values((24, 6), dtype, seed=0)), batch_size=4)
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            network, optimizer, loader, lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
        )
        self.losses: list[float] = []
        self.rates: list[float] = []

    def go(self, epochs: range, max_norm: float | None = None) -> Training:
        for epoch in epochs:
            torch.manual_seed(epoch)
            for (batch,) in self.loader:
                with self.accelerator.accumulate(self.model):
                    loss = (self.model(batch) - 1).square().mean()
                    self.accelerator.backward(loss)
                    if max_norm is not None and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
                self.losses.append(loss.item())
                self.rates.append(self.optimizer.param_groups[0]["lr"])
        return self


@pytest.mark.parametrize("case", PLAIN_TORCH_CASES, ids=ids)
def test_follows_torch(case: Case, numbers_in: Any) -> None:
    """Gradients are accumulated and clipped, under a schedule, in double precision."""
    numbers_in(torch.float64)
    ours, theirs = (Training(make, torch.float64).go(range(4), max_norm=0.5) for make in (case.make, case.make_theirs))
    torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=1e-8, atol=1e-10)
    assert ours.rates == theirs.rates
    assert len(set(ours.rates)) == 5  # 12 steps, the rate is halved after every third


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_resumes_to_the_bit(case: Case, mixed_precision: str, tmp_path: Path) -> None:
    """save_state and load_state restore network, states and schedule."""

    def make(params: Any) -> Optimizer:
        return case.make(params, max_grad_norm=0.5, state_dtype=torch.float32)

    whole = Training(make, mixed_precision=mixed_precision).go(range(4))
    first = Training(make, mixed_precision=mixed_precision).go(range(2))
    first.accelerator.save_state(tmp_path)
    second = Training(make, mixed_precision=mixed_precision)
    second.accelerator.load_state(tmp_path)
    second.go(range(2, 4))
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    states = [training.optimizer.state_dict()["state"] for training in (second, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert first.losses + second.losses == whole.losses
    assert first.rates + second.rates == whole.rates


@pytest.mark.parametrize("inner", [fastopt.AdamW, torch.optim.AdamW], ids=["ours", "torch's"])
def test_lookahead(inner: Any, tmp_path: Path) -> None:
    """The checkpoint lies between two updates of the slow weights."""
    whole, first, second = (Training(lambda p: fastopt.Lookahead(inner(p, lr=0.05), k=4)) for _ in range(3))
    whole.go(range(4))
    first.go(range(2)).accelerator.save_state(tmp_path)
    second.accelerator.load_state(tmp_path)
    second.go(range(2, 4))
    for a, b in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert_same_bits(a, b)


def test_bf16_learns_as_with_torch() -> None:
    def train(optimizers: Any) -> Training:
        return Training(lambda params: optimizers.AdamW(params, lr=0.05), mixed_precision="bf16").go(range(8))

    ours, theirs = train(fastopt), train(torch.optim)
    assert ours.losses == pytest.approx(theirs.losses, rel=0.05)
    assert sum(ours.losses[-6:]) < 0.5 * sum(ours.losses[:6])


def test_the_wrapper() -> None:
    """prepare wraps our optimizer and loads its own state into it; a second prepare changes nothing."""
    training = Training(lambda p: fastopt.AdamW(p, lr=0.05, max_grad_norm=0.5))
    assert isinstance(training.optimizer, AcceleratedOptimizer)
    assert type(training.optimizer.optimizer) is fastopt.AdamW
    assert training.accelerator.prepare(training.optimizer) is training.optimizer
    training.go(range(1))
    assert training.optimizer.optimizer.grad_norm > 0
    assert not training.optimizer.step_was_skipped
    fastopt.switch(training.optimizer.optimizer, fastopt.SGD, lr=0.1, momentum=0.9)
    training.go(range(1, 2))
    weights = training.accelerator.unwrap_model(training.model)[0].weight
    assert training.optimizer.state[weights].keys() == {"momentum_buffer"}
    with pytest.raises(TypeError, match=r"switch cannot start from AcceleratedOptimizer; switch its \.optimizer"):
        fastopt.switch(training.optimizer, fastopt.Adam, lr=0.1)


def test_max_grad_norm_clips_what_was_accumulated() -> None:
    """max_grad_norm equals clip_grad_norm_, called when gradients are synchronized."""
    inside = Training(lambda p: fastopt.AdamW(p, lr=0.05, max_grad_norm=0.1), torch.float64).go(range(3))
    outside = Training(lambda p: fastopt.AdamW(p, lr=0.05), torch.float64).go(range(3), max_norm=0.1)
    torch.testing.assert_close(inside.model.state_dict(), outside.model.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("overflow", [False, True], ids=["good", "overflow"])
def test_grad_scaler(overflow: bool, fused: bool) -> None:
    """Accelerate has no scaler on the CPU: its wrapper gets one here. A step that overflows changes nothing. If the
    optimizer itself skips it, as torch's fused ones do, Accelerate counts it as a step."""
    accelerate.Accelerator(cpu=True)
    param, expected = (torch.ones(3, requires_grad=True) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = AcceleratedOptimizer(fastopt.AdamW([param], lr=0.1, fused=fused), scaler=scaler)
    scaler.scale((param * torch.tensor([1.0, 2.0, torch.inf if overflow else 3.0])).sum()).backward()
    optimizer.step()
    if overflow:
        assert (param == 1).all()
        assert not optimizer.state
        assert scaler.get_scale() == 4
    else:
        expected.grad = torch.tensor([1.0, 2.0, 3.0])
        fastopt.AdamW([expected], lr=0.1).step()
        assert_same_bits(param, expected)
    assert optimizer.step_was_skipped == (overflow and not fused)
