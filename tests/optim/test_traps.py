"""The traps of the update rules, by number; each would be a silently wrong optimizer.

7, 8, 10 and 11 have more in test_state.py, test_layouts.py and test_amp.py, 12 in test_sparse.py; 13 is in
test_param_groups.py.
"""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from support import HALF, assert_same_bits, some_params, some_values, step_on_some_grads

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)


def _one_step(optimizer: type, grad: float, **kwargs: object) -> float:
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    param.grad = torch.full((1,), grad, dtype=torch.float64)
    optimizer([param], **kwargs).step()
    return param.item()


@pytest.mark.parametrize(
    ("optimizer", "step"),
    [(fastopt.Adam, 9.09e-5), (fastopt.AdamW, 9.09e-5), (fastopt.NAdam, 9.09e-5), (fastopt.AdaBound, 3.16e-6)],
)
def test_trap_1_eps_and_bias_correction(optimizer: type, step: float) -> None:
    """g = 1e-9 at step 1 shows whether eps is outside the root and after the correction, or before it."""
    moved = -_one_step(optimizer, 1e-9, lr=1e-3, **({"gamma": 0.0} if optimizer is fastopt.AdaBound else {}))
    if optimizer is fastopt.NAdam:  # its first step is (1 - mu) / (1 - mu) g + mu_next / (1 - mu mu_next) 0.1 g
        mu, mu_next = 0.45007347, 0.45014694
        step *= 1 + mu_next / (1 - mu * mu_next) * 0.1
    if optimizer is fastopt.AdaBound:  # 1e-3 * sqrt(1e-3) / 0.1 * 0.1 * 1e-9 / (sqrt(1e-3) * 1e-9 + 1e-8)
        step = 1e-3 * math.sqrt(1e-3) * 1e-9 / (math.sqrt(1e-3) * 1e-9 + 1e-8)
        assert step == pytest.approx(3.15e-6, rel=1e-2)
    assert moved == pytest.approx(step, rel=1e-3)


def test_trap_1_eps_of_radam() -> None:
    """g = 1e-9 at its first rectified step: eps is added to sqrt(v), which has no correction."""
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = fastopt.RAdam([param], lr=1e-3)
    for _ in range(6):
        before = param.item()
        param.grad = torch.full((1,), 1e-9, dtype=torch.float64)
        optimizer.step()
    c2, rho_inf = 1 - 0.999**6, 1999.0
    rho = rho_inf - 2 * 6 * 0.999**6 / c2
    rect = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    expected = 1e-3 * rect * math.sqrt(c2) * 1e-9 / (1e-9 * math.sqrt(c2) + 1e-8)
    assert before - param.item() == pytest.approx(expected, rel=1e-6)


def test_trap_1_eps_of_adadelta_is_inside_both_roots() -> None:
    moved = -_one_step(fastopt.Adadelta, 1e-3)
    assert moved == pytest.approx(math.sqrt(1e-6) / math.sqrt(0.1 * 1e-6 + 1e-6) * 1e-3, rel=1e-9)


@pytest.mark.parametrize(("optimizer", "square"), [(fastopt.Adagrad, 1.0), (fastopt.RMSprop, 0.01)])
def test_trap_2_eps_inside_sqrt(optimizer: type, square: float) -> None:
    for g in (1e-3, 1.0):
        moved = -_one_step(optimizer, g, lr=0.1, eps=1e-6, eps_inside_sqrt=True)
        assert moved == pytest.approx(0.1 * g / math.sqrt(square * g * g + 1e-6), rel=1e-12)
        moved = -_one_step(optimizer, g, lr=0.1, eps=1e-6)
        assert moved == pytest.approx(0.1 * g / (math.sqrt(square * g * g) + 1e-6), rel=1e-12)


@pytest.mark.parametrize("centered", [False, True])
def test_trap_2_lr_in_momentum_of_rmsprop(centered: bool) -> None:
    """v = mom*v + lr*g/den; p -= v: a change of lr does not change the old velocity."""
    param = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = fastopt.RMSprop([param], lr=0.1, momentum=0.9, centered=centered, lr_in_momentum=True)
    p, v, s, ga = 1.0, 0.0, 0.0, 0.0
    for lr, g in ((0.1, 1.0), (0.1, 2.0), (0.01, -1.0), (0.001, 0.5)):
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        s, ga = 0.99 * s + 0.01 * g * g, 0.99 * ga + 0.01 * g
        v = 0.9 * v + lr * g / (math.sqrt(s - ga * ga if centered else s) + 1e-8)
        p -= v
        assert param.item() == pytest.approx(p, rel=1e-12)


def test_trap_2_lr_in_momentum_of_sgd() -> None:
    """Here it differs from torch's as soon as lr changes; test_torch_parity.py compares it with the formula."""
    ends = []
    for inside in (False, True):
        param = torch.zeros(1, requires_grad=True)
        optimizer = fastopt.SGD([param], lr=1.0, momentum=0.5, lr_in_momentum=inside)
        for lr in (1.0, 0.0):
            optimizer.param_groups[0]["lr"] = lr
            param.grad = torch.ones(1)
            optimizer.step()
        ends.append(param.item())
    assert ends == [-1.0, -1.5]


def test_trap_3_nadam_has_two_terms_and_mu_product_is_state() -> None:
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = fastopt.NAdam([param], lr=1.0, eps=0.0)
    scalars = optimizer._scalars(optimizer.param_groups[0], 1, 1.0)
    assert scalars["mu_product"] == pytest.approx(0.45007347, abs=1e-8)
    assert scalars["momentum_step"] == pytest.approx(0.45014694 / (1 - 0.45007347 * 0.45014694), rel=1e-7)
    assert scalars["grad_step"] == pytest.approx(1.0)
    param.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    assert param.item() == pytest.approx(-1 - 0.1 * 0.45014694 / (1 - 0.45007347 * 0.45014694), rel=1e-7)
    assert optimizer.state[param]["mu_product"].item() == pytest.approx(0.45007347, abs=1e-7)


@pytest.mark.parametrize("beta2", [0.9, 0.99, 0.999])
def test_trap_4_radam_rectifies_from_step_6_on(beta2: float) -> None:
    optimizer = fastopt.RAdam([torch.zeros(1, requires_grad=True)], betas=(0.9, beta2))
    rectified = [optimizer._scalars(optimizer.param_groups[0], t)["rectified"] for t in range(1, 9)]
    assert rectified == [0, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_trap_5_centered_rmsprop_stays_finite(momentum: float) -> None:
    """With a constant gradient, s - ga^2 is rounding noise, negative for some elements; torch's root is NaN there."""
    param = torch.zeros(100_000, requires_grad=True)
    grad = some_values(100_000, torch.float32, seed=0, low=1e-3, high=1e3)
    optimizer = fastopt.RMSprop([param], lr=1e-6, centered=True, momentum=momentum, eps=1e-3)
    for _ in range(3000):
        param.grad = grad
        optimizer.step()
    assert param.isfinite().all()


def test_trap_6_base_lr_survives() -> None:
    """base_lr is kept in groups added later, in checkpoints and in pickles; a schedule moves the bounds."""
    params = some_params()
    optimizer = fastopt.AdaBound(params[:1], lr=1e-3)
    optimizer.add_param_group({"params": params[1:], "lr": 1e-2})
    assert [g["base_lr"] for g in optimizer.param_groups] == [1e-3, 1e-2]
    torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    optimizer.param_groups[0]["lr"] = 1e-4
    scalars = optimizer._scalars(optimizer.param_groups[0], 1000)
    assert scalars["upper_bound"] == pytest.approx(0.1 * 0.1 * (1 + 1 / (1e-3 * 1000)))
    twin = copy.deepcopy(optimizer)
    assert [g["base_lr"] for g in twin.param_groups] == [1e-3, 1e-2]
    loaded = fastopt.AdaBound([{"params": params[:1]}, {"params": params[1:]}], lr=5.0)
    loaded.load_state_dict(optimizer.state_dict())
    assert [g["base_lr"] for g in loaded.param_groups] == [1e-3, 1e-2]


def test_trap_6_checkpoint_of_an_implementation_that_keeps_base_lr_elsewhere() -> None:
    optimizer = fastopt.AdaBound([torch.ones(3, requires_grad=True)], lr=1e-3)
    foreign = optimizer.state_dict()
    del foreign["param_groups"][0]["base_lr"]
    optimizer.load_state_dict(foreign)
    assert optimizer.param_groups[0]["base_lr"] == 1e-3


@pytest.mark.parametrize("built_with", [0.0, 1e-2])
def test_trap_6_warm_up_from_zero(built_with: float) -> None:
    """lr = 0 changes nothing, whether it comes from the schedule or from the constructor."""
    param = torch.ones(3, requires_grad=True)
    optimizer = fastopt.AdaBound([param], lr=built_with)
    for lr in (0.0, 1e-3, 2e-3):
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.ones(3)
        before = param.detach().clone()
        optimizer.step()
        assert param.isfinite().all()
        assert (param == before).all() if lr == 0 else (param < before).all()


@CASES
def test_trap_7_steps_beyond_float32(case: Case) -> None:
    """torch's float32 'step' stops at 2^24. A checkpoint keeps the exact count, also with fused=True."""
    param = torch.ones(3, requires_grad=True)
    optimizer = case.make([param])
    param.grad = torch.ones(3)
    optimizer.step()
    if "step" not in optimizer.state[param]:
        return
    assert optimizer.state[param]["step"].dtype == torch.float32
    optimizer.state[param]["step"].fill_(2**24 - 1)
    for expected in (2**24, 2**24 + 1, 2**24 + 2):
        optimizer.step()
        assert optimizer.state[param]["step"].item() == expected
    if "fused" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["fused"] = True
    twin = case.make([param])
    twin.load_state_dict(optimizer.state_dict())
    assert twin.state[param]["step"].item() == 2**24 + 2
    twin.step()
    assert twin.state[param]["step"].item() == 2**24 + 3


@pytest.mark.parametrize("state_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@CASES
def test_trap_8_states_round_trip(case: Case, dtype: torch.dtype, state_dtype: torch.dtype | None) -> None:
    """On loading, torch casts float32 states to the parameter's type, as well as the numbers of NAdam and ASGD."""
    params = some_params(dtype)
    optimizer = case.make(params, state_dtype=state_dtype)
    for step in range(3):
        step_on_some_grads(optimizer, params, step)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = case.make(params)
    seen = []
    twin.register_load_state_dict_post_hook(lambda o: seen.append(copy.deepcopy(o.state_dict()["state"])))
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert twin.param_groups[0]["state_dtype"] == state_dtype
    for index, param in enumerate(params):
        assert optimizer.state[param].keys() == twin.state[param].keys()
        for key, state in optimizer.state[param].items():
            assert_same_bits(twin.state[param][key], state, key)
            assert_same_bits(seen[0][index][key], state, f"{key}, as a hook sees it")


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_trap_8_a_torch_checkpoint_is_widened(dtype: torch.dtype) -> None:
    """It is widened for an optimizer that keeps float32 states, and narrowed as in torch for one that does not."""
    params = some_params(dtype)
    theirs = torch.optim.Adam(params, foreach=False)
    theirs.state[params[0]] = {"step": torch.tensor(3.0), **{k: params[0].detach() for k in ("exp_avg", "exp_avg_sq")}}
    ours = fastopt.Adam(params, state_dtype=torch.float32)
    ours.load_state_dict(theirs.state_dict())
    assert_same_bits(ours.state[params[0]]["exp_avg"], params[0].detach().float())
    wide = ours.state_dict()
    for group in wide["param_groups"]:
        group["state_dtype"] = None
    narrow = fastopt.Adam(params)
    narrow.load_state_dict(wide)
    assert_same_bits(narrow.state[params[0]]["exp_avg"], params[0].detach())


@pytest.mark.parametrize("dtype", HALF, ids=str)
@CASES
def test_trap_9_half_types_are_updated_in_float32(case: Case, dtype: torch.dtype) -> None:
    """Only the store rounds: the first step is that of float32, rounded. eps = 1e-8 does not underflow."""
    for low, high in ((1e-7, 1e-6), (0.5, 2.0), (1e3, 3e4)):
        ours = some_values(70, dtype, seed=0).requires_grad_()
        wide = ours.detach().float().requires_grad_()
        one, other = case.make([ours]), case.make([wide])
        ours.grad = some_values(70, dtype, seed=1, low=low, high=high)
        wide.grad = ours.grad.float()
        one.step()
        other.step()
        if case.ours is not fastopt.Rprop:  # its first step size is a state of the parameter's type
            assert_same_bits(ours, wide.to(dtype))
        assert ours.isfinite().all()


@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if not case.row.counts_by_group], ids=ids)
def test_trap_10_late_gradients_start_their_own_count(case: Case) -> None:
    """A parameter whose first gradient comes at step 5 is trained like a fresh one from then on."""
    late, fresh, other = (some_values(30, torch.float32, seed=0).requires_grad_() for _ in range(3))
    one, two = case.make([other, late]), case.make([fresh])
    for step in range(10):
        other.grad = some_values(30, torch.float32, seed=step)
        if step >= 5:
            late.grad = some_values(30, torch.float32, seed=step)
            fresh.grad = late.grad.clone()
            two.step()
        one.step()
    assert_same_bits(late, fresh)


@pytest.fixture
def poison():
    """Fills fresh memory with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("inf_at", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@CASES
def test_trap_11_inf_in_poisoned_memory(case: Case, dtype: torch.dtype, inf_at: int) -> None:
    """A skipped step leaves no uninitialised memory; strided parameters have dense copies as well."""

    def make() -> list[torch.Tensor]:
        whole = some_values((10, 9), dtype, seed=1)
        return [some_values(70, dtype, seed=0).requires_grad_(), whole[:, 2:5].requires_grad_()]

    ours, plain = make(), make()
    one, other = case.make(ours), case.make(plain)
    one.param_groups[0]["fused"] = True  # the step skips itself
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    for step in range(5):
        scaler.scale(torch.ones(()))
        for i, (a, b) in enumerate(zip(ours, plain, strict=True)):
            grad = some_values(a.shape, dtype, seed=10 * step + i)
            a.grad, b.grad = grad * scaler.get_scale(), grad
            if step == inf_at:
                a.grad.view(-1)[5] = torch.inf
        scaler.step(one)
        scaler.update()
        if step != inf_at:
            other.step()
    for a, b in zip(ours, plain, strict=True):
        assert a.isfinite().all()
        assert_same_bits(a, b)


@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if case.row.complex], ids=ids)
def test_trap_12_complex_is_two_reals(case: Case) -> None:
    values = some_values((33, 2), torch.float32, seed=0)
    real, imaginary = values.clone().requires_grad_(), torch.view_as_complex(values.clone()).requires_grad_()
    one, other = case.make([real], maximize=True), case.make([imaginary], maximize=True)
    for step in range(3):
        real.grad = some_values((33, 2), torch.float32, seed=step)
        imaginary.grad = torch.view_as_complex(real.grad.clone())
        one.step()
        other.step()
    assert_same_bits(torch.view_as_real(imaginary.detach()), real.detach())
