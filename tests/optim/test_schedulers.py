"""Every scheduler of torch works with our optimizers as with torch's."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

import fastopt
from optimizer_cases import PLAIN_COMPARED_CASES, Case, ids
from support import assert_same_bits, some_params, step_on_some_grads

# SequentialLR of torch 2.4 warns of its own code.
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")

STEPS = 12
Make = Callable[[Any], Optimizer]

CASES = pytest.mark.parametrize("case", PLAIN_COMPARED_CASES, ids=ids)


def _cycles(optimizer: Optimizer) -> bool:
    """Whether an optimizer has one of the options that OneCycleLR and CyclicLR cycle."""
    return "betas" in optimizer.defaults or "momentum" in optimizer.defaults


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, total_iters=4),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=_cycles(o)),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda e: 0.5**e, lambda e: 0.9**e]),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=4),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 7], 0.1),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda e: 0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.2], total_steps=STEPS, cycle_momentum=_cycles(o)),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, power=2.0),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 6)], [3]
    ),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
}
NAMES = pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() & set(lr_scheduler.__all__)))


class Training:
    """Two groups with different rates, and a scheduler of the optimizer or of one inside it."""

    def __init__(
        self, make: Make, name: str, lr: Any = 0.0625, inside: Callable[[Any], Optimizer] = lambda optimizer: optimizer
    ) -> None:
        self.params = some_params(torch.float64)
        self.optimizer = make([{"params": self.params[:1]}, {"params": self.params[1:], "lr": lr}])
        self.scheduler = SCHEDULERS[name](inside(self.optimizer))
        self.groups: list[list[dict[str, Any]]] = []  # the options of every step

    def go(self, begin: int, end: int) -> Training:
        for step in range(begin, end):
            step_on_some_grads(self.optimizer, self.params, step)
            self.groups.append([self.options(group) for group in self.optimizer.param_groups])
            plateau = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)
            self.scheduler.step(*([1.0] if plateau else []))
        return self

    @staticmethod
    def options(group: dict[str, Any]) -> dict[str, Any]:
        """The options that a scheduler may change, as numbers."""
        return {key: copy.deepcopy(group[key]) for key in ("lr", "momentum", "betas") if key in group}

    def saved(self) -> Any:
        """Parameters, optimizer and scheduler, written to a file and read again."""
        file = io.BytesIO()
        torch.save((self.params, self.optimizer.state_dict(), self.scheduler.state_dict()), file)
        file.seek(0)
        return torch.load(file, weights_only=False)  # OneCycleLR saves a function

    def load(self, saved: Any) -> None:
        params, optimizer, scheduler = saved
        for param, value in zip(self.params, params, strict=True):
            param.data.copy_(value)
        self.optimizer.load_state_dict(optimizer)
        self.scheduler.load_state_dict(scheduler)


def test_the_table_is_complete() -> None:
    """A new scheduler of torch needs a row."""
    assert set(lr_scheduler.__all__) - {"LRScheduler"} <= SCHEDULERS.keys()


@NAMES
@CASES
def test_drives_ours_as_torchs(case: Case, name: str, numbers_in: Any) -> None:
    """Rates, momenta and betas are torch's at every step, and so are the resulting parameters."""
    numbers_in(torch.float64)
    ours, theirs = (Training(make, name).go(0, STEPS) for make in (case.make, case.make_theirs))
    assert ours.groups == theirs.groups
    assert len({str(groups) for groups in ours.groups}) > 1  # the scheduler changed something
    for a, b in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@NAMES
@CASES
def test_resumes(case: Case, name: str) -> None:
    """Optimizer and scheduler resume from a file, with the bits of training without a pause."""
    whole = Training(case.make, name).go(0, STEPS)
    first, second = Training(case.make, name).go(0, 5), Training(case.make, name)
    second.load(first.saved())
    second.go(5, STEPS)
    assert first.groups + second.groups == whole.groups
    for a, b in zip(second.params, whole.params, strict=True):
        assert_same_bits(a, b)


@NAMES
def test_fills_a_rate_that_is_a_tensor(name: str) -> None:
    lr = torch.tensor(0.0625, dtype=torch.float64)  # torch would round the decay in float32
    ours, theirs = (Training(make, name, lr.clone()).go(0, STEPS) for make in (fastopt.AdamW, torch.optim.AdamW))
    assert ours.groups == theirs.groups
    assert len({float(second["lr"]) for _, second in ours.groups}) > 1
    for a, b in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@NAMES
@pytest.mark.parametrize("inside", [lambda o: o, lambda o: o.optimizer], ids=["Lookahead", "inner"])
def test_drives_lookahead(name: str, inside: Callable[[Any], Optimizer]) -> None:
    """The scheduler may be given either of the two; the inner optimizer uses the values that it sets."""

    def around(sgd: type[Optimizer]) -> Make:
        return lambda groups: fastopt.Lookahead(sgd(groups, lr=0.1, momentum=0.9), k=3)

    ours, theirs = (Training(around(sgd), name, inside=inside).go(0, STEPS) for sgd in (fastopt.SGD, torch.optim.SGD))
    assert ours.groups == theirs.groups
    for a, b in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_scheduler_that_steps_first_is_told() -> None:
    """torch notices that our step has not been called, although torch's hooks do not wrap it."""
    training = Training(lambda groups: fastopt.SGD(groups, lr=0.1), "StepLR")
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        training.scheduler.step()
