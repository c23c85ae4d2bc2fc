"""The table of docs/trainers.md: which of our classes take the place of the Hugging Face Trainer's ``optim=``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.training_args import OptimizerNames

import fastopt
from doc_pages import PAGES
from support import some_params, step_on_some_grads

pytestmark = pytest.mark.ecosystem
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGES["trainers.md"].read_text().split("\n### The names of `optim=`\n")[1].split("\n#")[0].splitlines()
    if line.startswith("| `") and "`optim=`" not in line
]
TORCHS = ["adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop"]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_every_name_is_in_the_table_once() -> None:
    listed = [name for row in ROWS for name in names(row[0])]
    assert sorted(listed) == sorted(name.value for name in OptimizerNames)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: names(row[0])[0])
def test_what_the_table_says_can_be_made(row: list[str]) -> None:
    made = re.findall(r"`fastopt\.(\w+)(?:\((.*?)\))?`", row[1])
    assert bool(made) == (row[1] != "none")
    for name, options in made:
        cls = getattr(fastopt, name)
        dtype = torch.bfloat16 if "master" in options else torch.float32
        params = some_params(dtype)
        optimizer = cls(params, lr=0.1, **eval(f"dict({options})"))
        before = [param.detach().clone() for param in params]
        step_on_some_grads(optimizer, params, seed=1)
        assert not any(map(torch.equal, params, before))


@pytest.mark.parametrize("name", TORCHS)
def test_the_trainers_arguments_are_taken(name: str, tmp_path: Path) -> None:
    """The keyword arguments that the Trainer has for torch's class, given to ours of the same name."""
    arguments = transformers.TrainingArguments(
        str(tmp_path), optim=name, learning_rate=0.01, adam_beta1=0.8, adam_epsilon=1e-6, use_cpu=True, report_to="none"
    )
    cls, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)
    assert cls is getattr(torch.optim, cls.__name__)
    (row,) = (row for row in ROWS if name in names(row[0]))
    assert f"`fastopt.{cls.__name__}`" in row[1]
    results: list[Any] = []
    for one in (getattr(fastopt, cls.__name__), cls):
        params = some_params()
        optimizer = one(params, **options)
        for seed in range(3):
            step_on_some_grads(optimizer, params, seed)
        results.append([param.detach() for param in params])
    torch.testing.assert_close(*results)
