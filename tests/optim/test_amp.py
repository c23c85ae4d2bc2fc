"""GradScaler's contract (trap 11), and where torch's fused SGD breaks it."""

import copy

import pytest
import torch

import fastopt
from optimizer_cases import PLAIN_CASES, TORCH_CASES, Case, ids
from support import DTYPES, assert_same_bits, assert_same_step, compared_with_reference, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)


# Either GradScaler unscales and skips steps, as for torch's optimizers, or the step itself does, as torch's fused ones
# do.
WAYS = pytest.mark.parametrize("fused", [False, True], ids=["scaler", "step"])


def _make(case: Case, param: torch.Tensor, fused: bool) -> torch.optim.Optimizer:
    optimizer = case.make([param])
    optimizer.param_groups[0]["fused"] = fused
    assert optimizer._step_supports_amp_scaling == fused
    return optimizer


def _scaled_step(scaler: torch.amp.GradScaler, optimizer, param: torch.Tensor, grad: torch.Tensor) -> None:
    """Sets the gradient that backward would leave, and takes the scaler's step."""
    scaler.scale(torch.ones(()))  # creates its scale
    param.grad = grad * scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()


@WAYS
@BACKENDS
@pytest.mark.parametrize("case", TORCH_CASES, ids=ids)
def test_scaled_training_is_unscaled_training(case: Case, fused: bool, backend: str) -> None:
    """Scales are powers of two, so that results are equal to the bit."""
    ours, plain = (some_values(70, torch.float32, seed=0).requires_grad_() for _ in range(2))
    one, other = _make(case, ours, fused), case.make([plain])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    with running(backend):
        for step in range(8):
            grad = some_values(70, torch.float32, seed=step)
            plain.grad = grad
            _scaled_step(scaler, one, ours, grad)
            other.step()
            assert_same_bits(ours.grad, grad, "the unscaled gradient written back")
    assert_same_step(one, [ours], other, [plain])
    assert scaler.get_scale() > 1024


@WAYS
@BACKENDS
@pytest.mark.parametrize("inf_at", [0, 2])
@CASES
def test_inf_does_nothing_at_all(case: Case, inf_at: int, fused: bool, backend: str) -> None:
    """An inf at the first or a middle step changes nothing: no update, no state, no count. The next step is normal."""
    ours, plain = (some_values(70, torch.float32, seed=0).requires_grad_() for _ in range(2))
    one, other = _make(case, ours, fused), case.make([plain])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with running(backend):
        for step in range(5):
            grad = some_values(70, torch.float32, seed=step)
            if step == inf_at:
                before, states = ours.detach().clone(), {k: v.clone() for k, v in one.state[ours].items()}
                if not states:
                    del one.state[ours]
                bad = grad.clone()
                bad[33] = torch.inf
                _scaled_step(scaler, one, ours, bad)
                assert_same_bits(ours, before)
                assert {k: v.tolist() for k, v in states.items()} == {
                    k: v.tolist() for k, v in one.state.get(ours, {}).items()
                }
                continue
            plain.grad = grad
            _scaled_step(scaler, one, ours, grad)
            other.step()
    assert_same_step(one, [ours], other, [plain])


@WAYS
@CASES
def test_unscale_before_the_step(case: Case, fused: bool) -> None:
    """After scaler.unscale_, used before clipping, the step must not unscale again."""
    ours, plain = (some_values(70, torch.float32, seed=0).requires_grad_() for _ in range(2))
    one, other = _make(case, ours, fused), case.make([plain])
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    scaler.scale(torch.ones(()))
    ours.grad = some_values(70, torch.float32, seed=1) * 16
    plain.grad = some_values(70, torch.float32, seed=1)
    scaler.unscale_(one)
    scaler.step(one)
    other.step()
    assert_same_step(one, [ours], other, [plain])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@CASES
def test_unscaling_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """The scale is not a power of two. Unscaled half gradients are used unrounded, and written back rounded."""

    def run() -> tuple:
        params = [some_values(n, dtype, seed=n).requires_grad_() for n in (1, 70, 1025)]
        optimizer = case.make(params)
        for step in range(3):
            for p in params:
                p.grad = some_values(p.shape, dtype, seed=step) * 3
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(0.0)
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        return optimizer, params

    for (_, params), (_, expected) in compared_with_reference(run):
        for a, b in zip(params, expected, strict=True):
            assert_same_bits(a.grad, b.grad, "gradient")
            assert a.grad._version > 0


@BACKENDS
def test_unscaled_gradients_of_another_layout_are_written_back(backend: str) -> None:
    param = some_values((6, 7), torch.float32, seed=0).requires_grad_()
    optimizer = fastopt.SGD([param], lr=0.1)
    param.grad = torch.full((7, 6), 8.0).t()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    with running(backend):
        optimizer.step()
    assert (param.grad == 2).all()


def test_shared_gradients_cannot_be_unscaled_twice() -> None:
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = fastopt.SGD(params, lr=0.1)
    params[0].grad = params[1].grad = torch.ones(3)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    with pytest.raises(RuntimeError, match=r"the gradient of parameter 0 .*shares memory with the gradient"):
        optimizer.step()
    assert (params[0].grad == 1).all()


@BACKENDS
def test_expanded_gradients_cannot_be_unscaled(backend: str) -> None:
    """The error comes before anything is written, also to the other parameter."""
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = fastopt.SGD(params, lr=0.1)
    params[0].grad, params[1].grad = torch.ones(3), torch.ones(1).expand(3)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    with running(backend), pytest.raises(RuntimeError, match=r"the gradient of parameter 1 .* is an expanded"):
        optimizer.step()
    assert all((p == 1).all() for p in params)
    assert (params[0].grad == 1).all()


@pytest.mark.parametrize("make", [fastopt.SGD, fastopt.Adam, fastopt.AdamW, fastopt.Adagrad])
def test_the_scale_is_handed_over_as_torchs_fused_optimizers_have_it(make: type[torch.optim.Optimizer]) -> None:
    """Lightning, Accelerate and others look for this attribute to learn who unscales."""
    params = [torch.ones(3, requires_grad=True)]
    theirs = getattr(torch.optim, make.__name__)
    for fused in (None, False, True):
        expected = getattr(theirs(params, fused=fused), "_step_supports_amp_scaling", False)
        assert make(params, fused=fused)._step_supports_amp_scaling == bool(fused) == expected
    copied = copy.deepcopy(make(params, fused=True))
    assert copied._step_supports_amp_scaling
