"""Lookahead around our optimizers and torch's."""

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import StepLR

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
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
    """It equals arXiv 1907.08610, restated in NumPy around SGD with momentum."""
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
    """All sizes, misaligned, with one and two threads, between guards; every element changes."""

    def run() -> tuple[fastopt.Lookahead, list[torch.Tensor], list[Guarded]]:
        guards = [Guarded(size, dtype, misalign=i % 16) for i, size in enumerate([*SIZES, 50_001])]
        for i, guard in enumerate(guards):
            guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
        params = [guard.inside.requires_grad_() for guard in guards]
        optimizer = fastopt.Lookahead(fastopt.AdamW(params, lr=0.1), k=2, alpha=0.3)
        for step in range(4):
            before = [p.detach().clone() for p in params]
            step_on_some_grads(optimizer, params, step)
            if step == 0 or dtype not in HALF:  # later, an update may be less than half a unit
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


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_float32_slow_weights_do_not_stall(dtype: torch.dtype) -> None:
    """Steps of less than half a unit of the parameter's type add up in the slow weights."""
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
    """Skipping steps with an inf, the first and a middle one, has the result of training without these steps."""
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
    """There is a single list of groups, whatever happens to the inner optimizer."""
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
    """Integers among the parameters are left alone; a parameter that replaces another starts with its own value."""
    param, other = torch.zeros(1, requires_grad=True), torch.full((1,), 4.0, requires_grad=True)
    frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    optimizer = fastopt.Lookahead(torch.optim.SGD([param, frozen], lr=1.0), k=2, alpha=0.5)
    for p in (param, param, other, other):
        optimizer.param_groups[0]["params"][0] = p
        p.grad = torch.ones(1)
        optimizer.step()
    assert (param.item(), other.item()) == (-1.0, 3.0)
    assert torch.equal(frozen, torch.ones(2, dtype=torch.int64))


ERRORS = [
    (lambda o: fastopt.Lookahead(fastopt.Lookahead(o)), TypeError, "goes around an optimizer, not a Lookahead"),
    (lambda o: fastopt.Lookahead([torch.ones(1)]), TypeError, "goes around an optimizer, not a list"),
    (lambda o: fastopt.Lookahead(o, k="3"), TypeError, "k value has to be a number, but is '3'"),
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
