"""Lookahead around optimizers of ours and of torch."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import StepLR

import fastopt
from cases import PLAIN_CASES, Case, ids
from support import (
    DTYPES,
    HALF,
    ISAS,
    SIZES,
    Guarded,
    assert_same_bits,
    assert_same_step,
    running,
    some_params,
    some_values,
    step_on_some_grads,
)

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
INNER = {
    "ours": lambda p: fastopt.SGD(p, lr=0.1, momentum=0.9),
    "torch's": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


@BACKENDS
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (1, 0.25), (3, 1.0), (2, 0.0)])
def test_is_algorithm_1_of_the_paper(k: int, alpha: float, inner: str, backend: str) -> None:
    """arXiv 1907.08610, restated in NumPy around momentum SGD."""
    params = some_params(torch.float64)
    optimizer = fastopt.Lookahead(INNER[inner](params), k=k, alpha=alpha)
    slow = [p.detach().numpy().copy() for p in params]
    fast = [s.copy() for s in slow]
    velocity = [np.zeros_like(s) for s in slow]
    with running(backend):
        for step in range(12):
            step_on_some_grads(optimizer, params, step)
            for i, param in enumerate(params):
                velocity[i] = 0.9 * velocity[i] + param.grad.numpy()
                fast[i] = fast[i] - 0.1 * velocity[i]
                if (step + 1) % k == 0:
                    slow[i] = slow[i] + alpha * (fast[i] - slow[i])
                    fast[i] = slow[i].copy()
                np.testing.assert_allclose(param.detach().numpy(), fast[i], rtol=1e-12, atol=1e-14)
                np.testing.assert_allclose(optimizer.state[param]["slow_param"].numpy(), slow[i], rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_equals_reference(isa: str, dtype: torch.dtype) -> None:
    """All sizes, misaligned, one and two threads, between guards; every element moves."""

    def run() -> tuple[fastopt.Lookahead, list[torch.Tensor], list[Guarded]]:
        guards = [Guarded(size, dtype, misalign=i % 16) for i, size in enumerate([*SIZES, 50_001])]
        for i, guard in enumerate(guards):
            guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
        params = [guard.inside.requires_grad_() for guard in guards]
        optimizer = fastopt.Lookahead(fastopt.AdamW(params, lr=0.1), k=2, alpha=0.3)
        for step in range(4):
            before = [p.detach().clone() for p in params]
            step_on_some_grads(optimizer, params, step)
            if step == 0 or dtype not in HALF:  # later, a half may move by less than half a unit
                assert all((p != old).all() for p, old in zip(params, before, strict=True))
        return optimizer, params, guards

    with running("reference"):
        reference, expected, _ = run()
    for threads in (1, 2):
        with running("native", isa, threads):
            ours, params, guards = run()
        assert_same_step(ours, params, reference, expected)
        assert_same_step(ours.optimizer, params, reference.optimizer, expected)
        for guard in guards:
            guard.check()


@CASES
def test_around_every_optimizer(case: Case) -> None:
    params = some_params()
    optimizer = fastopt.Lookahead(case.make(params), k=3)
    before = [p.detach().clone() for p in params]
    for step in range(3):
        step_on_some_grads(optimizer, params, step)
    for param, old in zip(params, before, strict=True):
        assert (param != old).all()
        assert_same_bits(param.detach(), optimizer.state[param]["slow_param"])


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
    """In the middle of a window; float32 slow weights of bfloat16 parameters keep their bits."""

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


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_float32_slow_weights_do_not_stall(dtype: torch.dtype) -> None:
    """Steps below half a unit of the parameter's type add up in the slow weights."""
    param = torch.ones(4, dtype=dtype, requires_grad=True)
    optimizer = fastopt.Lookahead(fastopt.SGD([param], lr=2**-7), k=1, alpha=2**-4, state_dtype=torch.float32)
    for _ in range(64):
        param.grad = torch.ones(4, dtype=dtype)
        optimizer.step()
    assert (param < 0.98).all()


def test_groups_schedulers_and_late_parameters() -> None:
    params = some_params()
    optimizer = fastopt.Lookahead(fastopt.SGD(params[:1], lr=0.1), k=2, alpha=0.5)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    step_on_some_grads(optimizer, params[:1], 0)
    scheduler.step()
    assert optimizer.optimizer.param_groups[0]["lr"] == 0.05
    optimizer.add_param_group({"params": params[1:], "lr": 1.0})
    late = params[1].detach().clone()
    step_on_some_grads(optimizer, params, 1)
    torch.testing.assert_close(params[1].detach(), late - 0.5 * params[1].grad)
    optimizer.zero_grad()
    assert params[0].grad is None


def test_a_parameter_without_gradient_takes_part_in_the_sync() -> None:
    param = torch.zeros(1, requires_grad=True)
    optimizer = fastopt.Lookahead(fastopt.SGD([param], lr=1.0), k=2, alpha=0.5)
    param.grad = torch.ones(1)
    optimizer.step()
    param.grad = None
    optimizer.step()
    assert param.item() == -0.5


@pytest.mark.parametrize("handed_over", [False, True], ids=["scaler skips", "step skips"])
@pytest.mark.parametrize("inner", INNER)
def test_amp_skips_are_not_counted(inner: str, handed_over: bool) -> None:
    """An inf at the first and at a middle step; then as without them."""
    ours, plain = (some_values(70, torch.float32, seed=0).requires_grad_() for _ in range(2))
    one, other = (fastopt.Lookahead(INNER[inner]([p]), k=2) for p in (ours, plain))
    if isinstance(one.optimizer, fastopt.optim._fused.FusedOptimizer):
        one.param_groups[0]["fused"] = handed_over
        assert one._step_supports_amp_scaling == handed_over
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for step in range(6):
        grad = some_values(70, torch.float32, seed=step)
        scaler.scale(torch.ones(()))
        ours.grad = grad * scaler.get_scale()
        if step in (0, 3):
            ours.grad[3] = torch.inf
        scaler.step(one)
        scaler.update()
        if step not in (0, 3):
            plain.grad = grad
            other.step()
    assert one.steps == 4
    assert_same_step(one, [ours], other, [plain])
    assert_same_step(one.optimizer, [ours], other.optimizer, [plain])


def test_closure_and_strided_parameters() -> None:
    whole = some_values((6, 8), torch.float32, seed=0)
    param = whole[:, 2:5].requires_grad_()
    before = whole.clone()
    optimizer = fastopt.Lookahead(fastopt.SGD([param], lr=0.1), k=1, alpha=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.item() == pytest.approx((before[:, 2:5] ** 2).sum().item())
    torch.testing.assert_close(param.detach(), before[:, 2:5] * 0.9)
    assert torch.equal(whole.detach()[:, :2], before[:, :2])
    assert torch.equal(whole.detach()[:, 5:], before[:, 5:])


def test_the_inner_optimizer_may_be_loaded_and_switched() -> None:
    """There is one list of groups, whatever happens to the inner optimizer."""
    params = some_params()
    optimizer = fastopt.Lookahead(fastopt.Adam(params, lr=0.1), k=2)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    optimizer.optimizer.load_state_dict(optimizer.optimizer.state_dict())
    step_on_some_grads(optimizer, params, 0)
    scheduler.step()
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    assert optimizer.optimizer.param_groups[0]["lr"] == 0.05
    fastopt.switch(optimizer.optimizer, fastopt.SGD, lr=0.1, momentum=0.9)
    assert "betas" not in optimizer.defaults
    step_on_some_grads(optimizer, params, 1)


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
    """The inner states and the slow weights by parameter, for tools that know ``state`` and ``param_groups`` only."""
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


def test_a_step_that_fails_starts_no_slow_weights() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = fastopt.Lookahead(fastopt.SGD([param], lr=0.1), k=1, alpha=0.5)
    optimizer.optimizer.param_groups[0]["l1"] = -1.0
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="Invalid l1 value"):
        optimizer.step()
    assert not optimizer.state
    optimizer.optimizer.param_groups[0]["l1"] = 0.0
    param.data.fill_(10.0)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), 9.95))


def test_frozen_integers_and_replaced_parameters() -> None:
    """Integers beside the parameters are left alone; one that takes another's place starts where it is."""
    param, other = torch.zeros(1, requires_grad=True), torch.full((1,), 4.0, requires_grad=True)
    frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    optimizer = fastopt.Lookahead(torch.optim.SGD([param, frozen], lr=1.0), k=2, alpha=0.5)
    for p in (param, param, other, other):
        optimizer.param_groups[0]["params"][0] = p
        p.grad = torch.ones(1)
        optimizer.step()
    assert (param.item(), other.item()) == (-1.0, 3.0)
    assert torch.equal(frozen, torch.ones(2, dtype=torch.int64))


def test_hooks_see_the_whole_state_dict() -> None:
    """Of the Lookahead and of the inner optimizer, each once, as with torch's optimizers."""
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


ERRORS = [
    (lambda o: fastopt.Lookahead(fastopt.Lookahead(o)), TypeError, "goes around an optimizer, not a Lookahead"),
    (lambda o: fastopt.Lookahead([torch.ones(1)]), TypeError, "goes around an optimizer, not a list"),
    (lambda o: fastopt.Lookahead(o, k=0), ValueError, "Invalid k value: 0"),
    (lambda o: fastopt.Lookahead(o, k=1.5), ValueError, "Invalid k value: 1.5"),
    (lambda o: fastopt.Lookahead(o, alpha=-0.1), ValueError, "Invalid alpha value: -0.1"),
    (lambda o: fastopt.Lookahead(o, alpha=1.1), ValueError, "Invalid alpha value: 1.1"),
    (lambda o: fastopt.Lookahead(o, state_dtype=torch.float16), ValueError, "Invalid state_dtype"),
]


@pytest.mark.parametrize(("make", "error", "message"), ERRORS)
def test_errors(make, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make(fastopt.SGD([torch.ones(1, requires_grad=True)]))
