"""What torch.optim exports is in fastopt.optim, or a page says why it is not."""

import re

import pytest
import torch

import fastopt
from doc_pages import PAGES

SECTION = re.search(
    r"## What else torch.optim has\n(.*?)(\n## |\Z)", PAGES["optimizers/index.md"].read_text(), re.DOTALL
)
EXPLAINED = set(re.findall(r"^\| `(\w+)` \|", SECTION[1], re.MULTILINE)) if SECTION else set()


@pytest.mark.parametrize("name", sorted(torch.optim.__all__))
def test_is_here_or_explained(name: str) -> None:
    assert hasattr(fastopt.optim, name) != (name in EXPLAINED)


def test_torchs_own_are_torchs() -> None:
    for name in ("Optimizer", "lr_scheduler", "swa_utils"):
        assert getattr(fastopt.optim, name) is getattr(torch.optim, name)


@pytest.mark.skipif(not hasattr(torch.optim, "swap_in_optimizer_params_and_state"), reason="torch is older")
def test_torch_swaps_parameters_and_states_of_ours() -> None:
    param, other = (torch.ones(5, requires_grad=True) for _ in range(2))
    optimizer = fastopt.Adam([param], lr=0.1)
    param.grad = torch.ones(5)
    optimizer.step()
    before, state = param.detach().clone(), optimizer.state_dict()
    other.grad = torch.ones(5)
    with torch.optim.swap_in_optimizer_params_and_state(optimizer, {"weight": other}, state):
        optimizer.step()
    assert (other != 1).all()
    assert torch.equal(param, before)
