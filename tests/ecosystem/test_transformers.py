"""fastopt under the Hugging Face Trainer: small models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.optim import Optimizer, lr_scheduler

import fastopt
from optimizer_cases import PLAIN_CASES, PLAIN_TORCH_CASES, Case, ids

pytestmark = pytest.mark.ecosystem

STEPS = 8


def gpt2() -> nn.Module:
    """Two blocks; the output weights are the embedding."""
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return transformers.BertForSequenceClassification(config)


def samples(labelled: bool) -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(32, (32, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row[0] % 2 if labelled else row} for row in tokens]


def trainer(
    make: Any,
    root: Path,
    model: Any = gpt2,
    cls: type[transformers.Trainer] = transformers.Trainer,
    given: tuple[Any, Any] | None = None,
    **arguments: Any,
) -> transformers.Trainer:
    """8 steps of 2 batches of 2. The optimizer comes from ``make``, or the Trainer makes it from ``given``."""
    transformers.set_seed(0)  # decides masks as well: train a model before making the next
    network = model()
    training = transformers.TrainingArguments(
        output_dir=str(root),
        per_device_train_batch_size=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **{"gradient_accumulation_steps": 2, "num_train_epochs": 1, "save_strategy": "no", **arguments},
    )
    optimizers = (None, None)
    if make is not None:
        optimizer = make(fastopt.param_groups(network, weight_decay=0.0))
        optimizers = (optimizer, lr_scheduler.CosineAnnealingLR(optimizer, STEPS))
    data = samples(labelled=model is bert)
    return cls(network, training, train_dataset=data, optimizers=optimizers, optimizer_cls_and_kwargs=given)


def inner(trained: transformers.Trainer) -> Optimizer:
    """The optimizer inside Accelerate's wrapper."""
    return trained.optimizer.optimizer


@torch.no_grad()
def logits(run: transformers.Trainer) -> torch.Tensor:
    """The model's outputs. Weights are not compared: some biases of attention have only rounding errors for
    gradients."""
    tokens = torch.stack([sample["input_ids"] for sample in samples(labelled=False)])
    return run.model.eval()(tokens).logits


@pytest.mark.parametrize("model", [gpt2, bert])
@pytest.mark.parametrize("case", PLAIN_TORCH_CASES, ids=ids)
def test_follows_torch(case: Case, model: Any, tmp_path: Path, numbers_in: Any) -> None:
    """Gradients are accumulated and clipped, under a schedule, in double precision."""
    numbers_in(torch.float64)
    results = []
    for make in (case.make, case.make_theirs):
        run = trainer(make, tmp_path, model, max_grad_norm=0.5)
        assert run.train().global_step == STEPS
        results.append(logits(run))
    assert results[0].dtype == torch.float64
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_resumes_to_the_bit(case: Case, tmp_path: Path) -> None:
    """Training resumes from the checkpoint in the middle; the masks of our dropout resume with torch's generator."""

    def run() -> transformers.Trainer:
        def model() -> nn.Module:
            return fastopt.nn.convert(gpt2())

        def make(params: Any) -> Optimizer:
            return case.make(params, max_grad_norm=0.5, state_dtype=torch.float32)

        return trainer(make, tmp_path, model, save_strategy="steps", save_steps=STEPS // 2)

    whole = run()
    assert any(isinstance(module, fastopt.nn.Dropout) for module in whole.model.modules())
    whole.train()
    resumed = run()
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(*(inner(r).state_dict()["state"] for r in (resumed, whole)), rtol=0, atol=0)
    assert resumed.lr_scheduler.get_last_lr() == whole.lr_scheduler.get_last_lr()


def test_the_class_and_its_arguments(tmp_path: Path, numbers_in: Any) -> None:
    """The Trainer makes our optimizer from its own groups, with decay and without."""
    numbers_in(torch.float64)
    results = []
    for cls in (fastopt.AdamW, torch.optim.AdamW):
        run = trainer(None, tmp_path, given=(cls, {"lr": 1e-3}), weight_decay=0.1, warmup_steps=2)
        run.train()
        results.append(logits(run))
        assert type(inner(run)) is cls
        assert [group["weight_decay"] for group in inner(run).param_groups] == [0.1, 0.0]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


def test_a_trainer_that_makes_its_optimizer(tmp_path: Path) -> None:
    """A Trainer may override create_optimizer, and use options that the Trainer does not know."""

    class Ours(transformers.Trainer):
        def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
            groups = fastopt.param_groups(self.model if model is None else model, self.args.weight_decay)
            self.optimizer = fastopt.Lookahead(fastopt.Lion(groups, lr=self.args.learning_rate, max_grad_norm=0.5), k=3)
            return self.optimizer

    run = trainer(None, tmp_path, cls=Ours, weight_decay=0.1, learning_rate=1e-3)
    run.train()
    assert type(inner(run)) is fastopt.Lookahead
    assert inner(run).steps == STEPS
    assert inner(run).grad_norm > 0


def test_bf16_learns_as_with_torch(tmp_path: Path) -> None:
    losses = []
    for optimizers in (fastopt, torch.optim):
        run = trainer(
            lambda params, o=optimizers: o.AdamW(params, lr=0.02),
            tmp_path,
            bf16=True,
            num_train_epochs=4,
            logging_steps=1,
        )
        run.train()
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0][-1] < losses[0][0] - 0.1
