"""fastopt under Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler, swa_utils
from torch.utils.data import DataLoader, TensorDataset

import fastopt
from optimizer_cases import PLAIN_CASES, PLAIN_TORCH_CASES, Case, ids
from support import assert_same_bits, some_values

pytestmark = pytest.mark.ecosystem
Make = Callable[[Any], Optimizer]


class Regression(lightning.LightningModule):
    """A network of our modules; ``make`` makes its optimizer, under a schedule."""

    interval = "step"

    def __init__(self, make: Make) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(6, 8, bias=False), fastopt.nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Sequential(fastopt.nn.Dropout(0.2), nn.Linear(8, 2))
        self.make = make
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def configure_optimizers(self) -> Any:
        optimizer = self.make([p for p in self.parameters() if p.requires_grad])
        schedule = lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        torch.manual_seed(self.trainer.current_epoch * 100 + index)  # a resumed run must draw the same masks
        loss = (self(batch[0]) - 1).square().mean()
        self.losses.append(loss.item())
        return loss


def fit(model: lightning.LightningModule, root: Path, resume: Path | None = None, **options: Any) -> lightning.Trainer:
    """Trains on 24 samples in batches of 4, without printing or logging."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "enable_checkpointing": False, **options},
    )
    dtype = torch.float64 if trainer.precision == "64-true" else torch.float32
    samples = TensorDataset(some_values((24, 6), dtype, seed=0))
    trainer.fit(model, DataLoader(samples, batch_size=4), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("case", PLAIN_TORCH_CASES, ids=ids)
def test_follows_torch(case: Case, tmp_path: Path, numbers_in: Any) -> None:
    """Gradients are accumulated and clipped, under a schedule, in double precision."""
    numbers_in(torch.float64)
    models = [Regression(make) for make in (case.make, case.make_theirs)]
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "precision": "64-true"}
    for model in models:
        assert fit(model, tmp_path, max_epochs=4, **options).global_step == 12
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_resumes_to_the_bit(case: Case, precision: str, tmp_path: Path) -> None:
    """Four epochs equal two, a checkpoint and two more: weights, statistics and states."""
    options = {"precision": precision, "accumulate_grad_batches": 2}

    def make(params: Any) -> Optimizer:
        return case.make(params, max_grad_norm=0.5, state_dtype=torch.float32)

    whole, first, second = (Regression(make) for _ in range(3))
    expected = fit(whole, tmp_path, max_epochs=4, **options)
    fit(first, tmp_path, **options).save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(second, tmp_path, resume=tmp_path / "half.ckpt", max_epochs=4, **options)
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)
    states = [trainer.optimizers[0].state_dict()["state"] for trainer in (resumed, expected)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert first.losses + second.losses == whole.losses


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_learns_in_low_precision(precision: str, tmp_path: Path) -> None:
    """The loss falls as it does with torch."""
    losses = []
    for optimizers in (fastopt, torch.optim):
        model = Regression(lambda params, o=optimizers: o.AdamW(params, lr=0.05))
        fit(model, tmp_path, max_epochs=6, precision=precision)
        losses.append(model.losses)
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert sum(losses[0][-6:]) < 0.5 * sum(losses[0][:6])


def scaled(scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """float16 with a GradScaler; on the CPU, Lightning needs to be given one."""
    return {"plugins": MixedPrecision("16-mixed", "cpu", scaler)}


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(fused: bool, tmp_path: Path) -> None:
    """A batch that overflows changes nothing; the others update with unscaled, clipped gradients."""

    class Overflowing(Regression):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            loss = super().training_step(batch, index)
            return loss * torch.inf if index == 2 else loss

        def on_train_batch_end(self, *args: Any) -> None:
            counts.append(int(self.trainer.optimizers[0].state[self.head[1].weight]["step"]))

    counts: list[int] = []
    model = Overflowing(lambda params: fastopt.AdamW(params, lr=0.05, max_grad_norm=1.0, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    fit(model, tmp_path, max_epochs=1, **scaled(scaler))
    assert counts == [1, 2, 2, 3, 4, 5]
    assert scaler.get_scale() == 512
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_lightnings_clipping_in_mixed_precision(precision: str, tmp_path: Path) -> None:
    """As with torch's optimizers, Lightning clips, except with fused ones, which unscale gradients themselves."""
    finals = []
    for optimizers in (fastopt, torch.optim):
        options = (
            scaled(torch.amp.GradScaler("cpu", init_scale=8.0)) if precision == "16-mixed" else {"precision": precision}
        )
        model = Regression(lambda params, o=optimizers: o.AdamW(params, lr=0.05))
        fit(model, tmp_path, gradient_clip_val=1.0, **options)
        finals.append(model.losses)
        model = Regression(lambda params, o=optimizers: o.AdamW(params, fused=True))
        with pytest.raises(RuntimeError, match="AdamW, does not allow for gradient clipping"):
            fit(model, tmp_path, gradient_clip_val=1.0, **options)
    assert finals[0] == pytest.approx(finals[1], rel=0.1)


def test_max_grad_norm_is_gradient_clip_val(tmp_path: Path) -> None:
    """The two clip alike, and the norm can be read through Lightning's wrapper."""

    class Watched(Regression):
        def on_train_batch_end(self, *args: Any) -> None:
            norms.append(float(self.optimizers().grad_norm))

    norms: list[float] = []
    inside = Watched(lambda params: fastopt.AdamW(params, lr=0.05, max_grad_norm=0.1))
    outside = Regression(lambda params: fastopt.AdamW(params, lr=0.05))
    fit(inside, tmp_path, precision="64-true")
    fit(outside, tmp_path, precision="64-true", gradient_clip_val=0.1)
    torch.testing.assert_close(inside.state_dict(), outside.state_dict(), rtol=1e-10, atol=1e-12)
    assert len(norms) == 12
    assert min(norms) > 0.1


@pytest.mark.parametrize("inner", [fastopt.AdamW, torch.optim.AdamW], ids=["ours", "torch's"])
def test_lookahead(inner: Any, tmp_path: Path) -> None:
    """Slow weights and their count resume too: the checkpoint lies between two updates of them."""
    whole, first, second = (Regression(lambda p: fastopt.Lookahead(inner(p, lr=0.05), k=5)) for _ in range(3))
    fit(whole, tmp_path, max_epochs=4)
    fit(first, tmp_path).save_checkpoint(tmp_path / "half.ckpt")
    fit(second, tmp_path, resume=tmp_path / "half.ckpt", max_epochs=4)
    for a, b in zip(second.parameters(), whole.parameters(), strict=True):
        assert_same_bits(a, b)


class Duel(Regression):
    """Manual optimization with two optimizers in turns, each for one part."""

    def __init__(self, optimizers: Any) -> None:
        super().__init__(optimizers.AdamW)
        self.classes = optimizers
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        one = self.classes.AdamW(self.backbone.parameters(), lr=0.05)
        other = self.classes.SGD(self.head.parameters(), lr=0.05, momentum=0.9)
        return [one, other], [lr_scheduler.StepLR(one, 4), lr_scheduler.StepLR(other, 4)]

    def training_step(self, batch: list[Tensor], index: int) -> None:
        optimizer, scheduler = self.optimizers()[index % 2], self.lr_schedulers()[index % 2]
        with optimizer.toggle_model():
            loss = super().training_step(batch, index)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=0.5)
            optimizer.step()
        scheduler.step()


def test_manual_optimization_of_two_optimizers(tmp_path: Path) -> None:
    models = [Duel(optimizers) for optimizers in (fastopt, torch.optim)]
    for model in models:
        assert fit(model, tmp_path, precision="64-true").global_step == 12
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-9, atol=1e-11)


AVERAGING = {
    "StochasticWeightAveraging": lambda: callbacks.StochasticWeightAveraging(
        0.1, swa_epoch_start=1, annealing_epochs=1
    ),
    "EMA": lambda: callbacks.WeightAveraging(multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.75)),
}


@pytest.mark.filterwarnings("ignore:Swapping scheduler `ExponentialLR` for `SWALR`")  # intended here
@pytest.mark.parametrize("name", AVERAGING)
def test_averaging_callbacks(name: str, tmp_path: Path) -> None:
    models = [Regression(lambda params, o=o: o.AdamW(params, lr=0.05)) for o in (fastopt, torch.optim, fastopt)]
    for model, averaging in zip(models, (True, True, False), strict=True):
        model.interval = "epoch"  # the only interval that Lightning's SWA supports
        fit(model, tmp_path, max_epochs=4, callbacks=[AVERAGING[name]()] if averaging else [])
    ours, theirs, last = (model.head[1].weight for model in models)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(ours, last, rtol=1e-2)


def test_finetuning_callback(tmp_path: Path) -> None:
    """A frozen backbone joins the training in a group by itself."""
    models = [Regression(lambda params, o=o: o.AdamW(params, lr=0.05)) for o in (fastopt, torch.optim)]
    for model in models:
        callback = callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=2, train_bn=False)
        trainer = fit(model, tmp_path, max_epochs=4, precision="64-true", callbacks=[callback])
        assert len(trainer.optimizers[0].param_groups) == 2
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-9, atol=1e-11)


def test_switch_in_a_callback(tmp_path: Path) -> None:
    """Between two epochs, AdamW becomes SGD; Lightning, its wrapper and the schedule keep using the same object."""

    class Switching(callbacks.Callback):
        def on_train_epoch_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
            if trainer.current_epoch == 2:
                with pytest.raises(TypeError, match=r"switch cannot start from LightningAdamW; switch its \.optimizer"):
                    fastopt.switch(model.optimizers(), fastopt.SGD, lr=0.1)
                fastopt.switch(model.optimizers().optimizer, fastopt.SGD, lr=0.1, momentum=0.9)

    model = Regression(lambda params: fastopt.AdamW(params, lr=0.05))
    trainer = fit(model, tmp_path, max_epochs=4, callbacks=[Switching()])
    assert type(trainer.optimizers[0]) is fastopt.SGD
    assert trainer.optimizers[0].state[model.head[1].weight].keys() == {"momentum_buffer"}
    assert sum(model.losses[-6:]) < sum(model.losses[:6])
