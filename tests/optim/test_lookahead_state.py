"""The state of a Lookahead: copies, checkpoints, hooks."""

import copy
import io
import pickle

import pytest
import torch

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from support import assert_same_step, some_params, step_on_some_grads

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
@CASES
def test_copies_go_on_alike(case: Case, copier) -> None:
    params = some_params()
    optimizer = fastopt.Lookahead(case.make(params), k=2, alpha=0.25)
    for step in range(3):
        step_on_some_grads(optimizer, params, step)
    twin = copier(optimizer)
    assert twin.param_groups is twin.optimizer.param_groups
    twin_params = twin.param_groups[0]["params"]
    for step in range(3, 6):
        step_on_some_grads(optimizer, params, step)
        step_on_some_grads(twin, twin_params, step)
    assert_same_step(optimizer, params, twin, twin_params)
    assert_same_step(optimizer.optimizer, params, twin.optimizer, twin_params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, torch.float32], ids=str)
def test_checkpoints(state_dtype: torch.dtype | None, dtype: torch.dtype) -> None:
    """The checkpoint lies in the middle of a window; float32 slow weights of bfloat16 parameters keep their bits."""

    def make(params: list[torch.Tensor]) -> fastopt.Lookahead:
        inner = fastopt.Adam(params, lr=0.05, state_dtype=state_dtype)
        return fastopt.Lookahead(inner, k=3, alpha=0.25)

    params = some_params(dtype)
    optimizer = make(params)
    for step in range(4):
        step_on_some_grads(optimizer, params, step)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin_params = [p.detach().clone().requires_grad_() for p in params]
    twin = make(twin_params)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert twin.steps == 4
    assert_same_step(optimizer, params, twin, twin_params)
    if state_dtype is not None:
        assert twin.state[twin_params[0]]["slow_param"].dtype == torch.float32
    for step in range(4, 7):
        step_on_some_grads(optimizer, params, step)
        step_on_some_grads(twin, twin_params, step)
    assert_same_step(optimizer, params, twin, twin_params)
    assert_same_step(optimizer.optimizer, params, twin.optimizer, twin_params)


def test_checkpoint_of_the_inner_optimizer_alone() -> None:
    params = some_params()
    inner = torch.optim.Adam(params, lr=0.03)
    step_on_some_grads(inner, params, 0)
    optimizer = fastopt.Lookahead(fastopt.Adam(params, lr=0.1))
    step_on_some_grads(optimizer, params, 1)
    optimizer.load_state_dict(inner.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.03
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    assert optimizer.steps == 0
    step_on_some_grads(optimizer, params, 2)
    assert optimizer.optimizer.state[params[0]]["step"].item() == 2


def test_a_checkpoint_that_does_not_fit_changes_nothing() -> None:
    params = some_params()
    optimizer = fastopt.Lookahead(fastopt.SGD(params, lr=0.1), k=2)
    step_on_some_grads(optimizer, params, 0)
    for repeat, error in ((1, "its groups have no lookahead_alpha"), (2, "different number of parameter groups")):
        bad = copy.deepcopy(optimizer.state_dict())
        bad["param_groups"][0]["lr"] = 77.0
        bad["param_groups"] *= repeat
        bad["state"][0]["slow_param"] += 1
        if repeat == 1:
            del bad["param_groups"][0]["lookahead_alpha"]
        slow = optimizer.state[params[0]]["slow_param"].clone()
        with pytest.raises(ValueError, match=error):
            optimizer.load_state_dict(bad)
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert torch.equal(optimizer.state[params[0]]["slow_param"], slow)


@CASES
def test_a_checkpoint_is_one_optimizers(case: Case) -> None:
    """A checkpoint has inner states and slow weights by parameter, for tools that only know torch's two keys."""
    params = some_params()
    optimizer = fastopt.Lookahead(case.make(params), k=2)
    step_on_some_grads(optimizer, params, 0)
    saved, inner = optimizer.state_dict(), optimizer.optimizer.state_dict()
    assert saved.keys() == inner.keys() == {"state", "param_groups"}
    for i, param in enumerate(params):
        assert saved["state"][i].keys() == {*inner["state"].get(i, {}), "slow_param"}
        assert saved["state"][i]["slow_param"] is optimizer.state[param]["slow_param"]
    assert [group["lookahead_steps"] for group in saved["param_groups"]] == [1] * len(inner["param_groups"])
    assert "lookahead_steps" not in optimizer.param_groups[0]


def test_hooks_see_the_whole_state_dict() -> None:
    """As with torch's optimizers, hooks of the Lookahead and of the inner optimizer are each called once."""
    params = some_params()
    optimizer = fastopt.Lookahead(fastopt.Adam(params), k=2)
    step_on_some_grads(optimizer, params, 0)
    seen = []

    def see(owner: torch.optim.Optimizer, state_dict: dict) -> None:
        seen.append(
            (type(owner).__name__, sorted(state_dict["state"][0]), "lookahead_k" in state_dict["param_groups"][0])
        )

    for each in (optimizer, optimizer.optimizer):
        each.register_state_dict_post_hook(see)
        each.register_load_state_dict_pre_hook(see)
        each.register_state_dict_pre_hook(lambda owner: seen.append(type(owner).__name__))
        each.register_load_state_dict_post_hook(lambda owner: seen.append((type(owner).__name__, len(owner.state))))
    inner = ("Adam", ["exp_avg", "exp_avg_sq", "step"], False)
    whole = ("Lookahead", ["exp_avg", "exp_avg_sq", "slow_param", "step"], True)
    saved = optimizer.state_dict()
    assert seen == ["Lookahead", "Adam", inner, whole]
    seen.clear()
    optimizer.load_state_dict(saved)
    assert seen == [whole, inner, ("Adam", len(params)), ("Lookahead", len(params))]
    optimizer.register_state_dict_post_hook(lambda _, state_dict: {**state_dict, "epoch": 3})
    assert optimizer.state_dict()["epoch"] == 3


def test_states_of_one_name_are_not_lost() -> None:
    param = torch.ones(2, requires_grad=True)
    param.grad = torch.ones(2)
    optimizer = fastopt.Lookahead(torch.optim.SGD([param], lr=0.1))
    optimizer.step()
    optimizer.optimizer.state[param]["slow_param"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match="SGD has states named 'slow_param' of its own"):
        optimizer.state_dict()
