"""Ways in which an optimizer may step under Lightning, Accelerate and the Hugging Face Trainer.

All have the bits of the trainer's own calls of ``optimizer.step()``: with gradients accumulated, at the end of an
epoch, and after a checkpoint.
"""

from __future__ import annotations

import os
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch.strategies import DDPStrategy
from test_accelerate import Training
from test_lightning import Regression, fit, scaled
from test_transformers import STEPS, gpt2, inner, trainer
from torch import nn
from torch.optim import Optimizer

import fastopt

pytestmark = pytest.mark.ecosystem
Way = Callable[[nn.Module, Optimizer, int], Optimizer]  # of a model, its optimizer, and how many passes make a step


def in_backward(model: nn.Module, optimizer: Optimizer, every: int) -> Optimizer:
    fastopt.step_in_backward(model, optimizer, every=every)
    return optimizer


# ---- One entry for each way. A wrapper that returns another optimizer (fastopt.offload) needs nothing but its line.
WAYS: dict[str, Way] = {
    "in backward": in_backward,
    "offload": lambda model, optimizer, every: fastopt.offload(optimizer),
    "offload, free_grads": lambda model, optimizer, every: fastopt.offload(optimizer, free_grads=True),
}
# ----


def as_the_trainer(model: nn.Module, optimizer: Optimizer, every: int) -> Optimizer:
    return optimizer


def adamw(params: Any, **options: Any) -> fastopt.AdamW:
    return fastopt.AdamW(params, **{"lr": 0.05, **options})


class Stepping(Regression):
    """Lightning's network, whose optimizer steps in a way."""

    def __init__(self, way: Way, every: int, **options: Any) -> None:
        super().__init__(lambda params: way(self, adamw(params, **options), every))


def accelerated(way: Way, every: int, **options: Any) -> Training:
    def changed(model: nn.Module, optimizer: Optimizer) -> Optimizer:
        return way(model, optimizer, every)

    return Training(adamw, way=changed, gradient_accumulation_steps=every, **options)


def hugging_face(way: Way, every: int, root: Path, optimizer: Any = None, **arguments: Any) -> transformers.Trainer:
    """By the factory form of ``optimizer_cls_and_kwargs``: the first object makes a function of model and options."""

    def make(model: nn.Module, **options: Any) -> Optimizer:
        return way(model, adamw(fastopt.param_groups(model, weight_decay=0.1), **options), every)

    given = (lambda: make, {"lr": 1e-2, **(optimizer or {})})
    options = {"gradient_accumulation_steps": every, "max_grad_norm": 0.0, **arguments}
    return trainer(None, root, gpt2, given=given, **options)


def assert_equal_models(ours: nn.Module, expected: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), expected.state_dict(), rtol=0, atol=0)


def counts(optimizer: Optimizer) -> set[int]:
    return {int(state["step"]) for state in optimizer.state.values()}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("every", "steps"), [(1, 12), (2, 6), (4, 4)])  # of 6 batches in each of 2 epochs
class TestSteps:
    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
    def test_lightning(self, way: Way, every: int, steps: int, precision: str, tmp_path: Path) -> None:
        models = [Stepping(one, every) for one in (way, as_the_trainer)]
        options = {"accumulate_grad_batches": every, "precision": precision}
        runs = [fit(model, tmp_path, **options) for model in models]
        assert_equal_models(*models)
        assert models[0].losses == models[1].losses
        assert runs[0].global_step == steps
        assert counts(runs[0].optimizers[0]) == {steps}
        freed = all(param.grad is None for param in models[0].parameters())
        assert freed == (way is not WAYS["offload"])

    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_accelerate(self, way: Way, every: int, steps: int, precision: str) -> None:
        runs = [accelerated(as_the_trainer, every, mixed_precision=precision).go(range(2))]
        runs.append(accelerated(way, every, mixed_precision=precision).go(range(2)))
        assert_equal_models(runs[1].model, runs[0].model)
        assert runs[1].losses == runs[0].losses
        assert runs[1].rates == runs[0].rates
        assert counts(runs[1].optimizer.optimizer) == {steps}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("every", [1, 2, 3])  # of 16 batches
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_hugging_face(way: Way, every: int, bf16: bool, tmp_path: Path) -> None:
    runs = []
    for one in (as_the_trainer, way):  # masks are drawn as models are made
        runs.append(hugging_face(one, every, tmp_path, bf16=bf16))
        runs[-1].train()
    assert_equal_models(runs[1].model, runs[0].model)
    assert counts(inner(runs[1])) == {-(-16 // every)} == {runs[0].state.global_step}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
class TestResumes:
    """To the bit, from the trainer's checkpoint in the middle."""

    def test_lightning(self, way: Way, tmp_path: Path) -> None:
        whole, first, second = (Stepping(way, 2, max_grad_value=0.5) for _ in range(3))
        fit(whole, tmp_path, max_epochs=4, accumulate_grad_batches=2)
        fit(first, tmp_path, accumulate_grad_batches=2).save_checkpoint(tmp_path / "half.ckpt")
        fit(second, tmp_path, resume=tmp_path / "half.ckpt", max_epochs=4, accumulate_grad_batches=2)
        assert_equal_models(second, whole)
        assert first.losses + second.losses == whole.losses

    def test_accelerate(self, way: Way, tmp_path: Path) -> None:
        whole, first = accelerated(way, 2).go(range(4)), accelerated(way, 2).go(range(2))
        first.accelerator.save_state(tmp_path)
        second = accelerated(way, 2)
        second.accelerator.load_state(tmp_path)
        assert_equal_models(second.go(range(2, 4)).model, whole.model)

    def test_hugging_face(self, way: Way, tmp_path: Path) -> None:
        options = {"save_strategy": "steps", "save_steps": STEPS // 2}
        whole = hugging_face(way, 2, tmp_path, **options)
        whole.train()
        resumed = hugging_face(way, 2, tmp_path, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
        assert_equal_models(resumed.model, whole.model)


class TestInBackward:
    """What a trainer does to gradients, it does too late."""

    def test_every_has_to_be_the_trainers(self, tmp_path: Path) -> None:
        def once(model: nn.Module, optimizer: Optimizer, every: int) -> Optimizer:
            return in_backward(model, optimizer, 1)

        for run in (
            lambda: fit(Stepping(once, 2), tmp_path, accumulate_grad_batches=2),
            lambda: accelerated(once, 2).go(range(1)),
            lambda: hugging_face(once, 2, tmp_path).train(),
        ):
            with pytest.raises(RuntimeError, match=r"2 steps in backward since .*: every=1 has to be the number of"):
                run()

    def test_a_trainers_clipping_finds_no_gradients(self, tmp_path: Path) -> None:
        """It clips nothing and measures 0."""
        models = [Stepping(in_backward, 1) for _ in range(2)]
        fit(models[0], tmp_path, gradient_clip_val=1e-3)
        fit(models[1], tmp_path)
        assert_equal_models(*models)
        training = accelerated(in_backward, 2).go(range(2), max_norm=1e-3)
        assert_equal_models(training.model, accelerated(in_backward, 2).go(range(2)).model)
        run = hugging_face(in_backward, 2, tmp_path, max_grad_norm=1e-3, logging_steps=1)
        run.train()
        assert {entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry} == {0.0}

    def test_clip_takes_its_place(self, tmp_path: Path) -> None:
        def clipped(model: nn.Module, optimizer: Optimizer, every: int) -> Optimizer:
            fastopt.step_in_backward(model, optimizer, every=every, clip="previous")
            return optimizer

        model = Stepping(clipped, 2, max_grad_norm=0.1)
        assert fit(model, tmp_path, accumulate_grad_batches=2).optimizers[0].grad_norm > 0.1
        run = hugging_face(clipped, 2, tmp_path, optimizer={"max_grad_norm": 0.1})
        run.train()
        assert inner(run).grad_norm > 0.1

    @pytest.mark.parametrize("given", [False, True], ids=["no scaler", "the same scaler"])
    def test_a_trainers_scaler_finds_no_gradients(self, given: bool, tmp_path: Path) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

        def scaling(model: nn.Module, optimizer: Optimizer, every: int) -> Optimizer:
            fastopt.step_in_backward(model, optimizer, scaler=scaler if given else None)
            return optimizer

        with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
            fit(Stepping(scaling, 1), tmp_path, **scaled(scaler))

    def test_a_wrapper_is_not_ours(self, tmp_path: Path) -> None:
        training = Training(adamw)
        with pytest.raises(TypeError, match="for fastopt's optimizers, not a AcceleratedOptimizer"):
            fastopt.step_in_backward(training.model, training.optimizer)

    @pytest.mark.filterwarnings("ignore:.*")  # Lightning's, of one process
    def test_data_parallel_is_refused(self, tmp_path: Path) -> None:
        """Lightning puts its DistributedDataParallel around the module."""
        strategy = DDPStrategy(process_group_backend="gloo")
        try:
            with (
                unittest.mock.patch.dict(os.environ),  # Lightning leaves ranks, which Accelerate would find
                pytest.raises(RuntimeError, match="DistributedDataParallel averages gradients"),
            ):
                fit(Stepping(in_backward, 1), tmp_path, strategy=strategy, devices=1)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
