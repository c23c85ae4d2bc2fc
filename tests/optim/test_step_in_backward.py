"""``fastopt.step_in_backward``: the bits of an ordinary loop, gradients freed, and errors that name their reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from support import assert_same_bits, assert_same_step

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
CASES = [case for case in PLAIN_CASES if case.ours is not fastopt.Prodigy and case.ours is not fastopt.Lookahead]


class Net(nn.Module):
    """Tied weights, a checkpointed layer, a parameter that no output needs."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.hidden = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self._reentrant = reentrant

    def forward(self, words: Tensor) -> dict[str, Any]:
        x = self.embed(words) * self.frozen
        x = self.hidden(x) if self._reentrant is None else checkpoint(self.hidden, x, use_reentrant=self._reentrant)
        return {"scores": [self.out(self.norm(x))], "mean": x.mean()}


def _net(dtype: torch.dtype = torch.float32, reentrant: bool | None = None) -> Net:
    torch.manual_seed(0)
    return Net(reentrant).to(dtype)


def _batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 11, (6,), generator=generator) for _ in range(count)]


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    output = model(batch)
    loss: Tensor = nn.functional.cross_entropy(output["scores"][0].float(), batch) + output["mean"].float().square()
    return loss


Make = Callable[[Any], torch.optim.Optimizer]


def _both(
    make: Make, every: int, dtype: torch.dtype = torch.float32, reentrant: bool | None = None, steps: int = 3
) -> tuple[Any, ...]:
    """Trains by an ordinary loop, and in backward."""
    whole, stepped = _net(dtype, reentrant), _net(dtype, reentrant)
    one, other = make(whole.parameters()), make(stepped.parameters())
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in (one, other)]
    fastopt.step_in_backward(stepped, other, every)
    for k, batch in enumerate(_batches(steps * every)):
        _loss(whole, batch).backward()
        _loss(stepped, batch).backward()
        if (k + 1) % every == 0:
            one.step()
            one.zero_grad()
            for scheduler in schedulers:
                scheduler.step()
            assert all(p.grad is None for p in stepped.parameters())
    return one, list(whole.parameters()), other, list(stepped.parameters())


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.filterwarnings("error")
def test_is_an_ordinary_loop(case: Case, every: int) -> None:
    one, p, other, q = _both(case.make, every)
    assert_same_step(one, p, other, q)
    start = dict(_net().named_parameters())
    for (name, _param), stepped in zip(_net().named_parameters(), q, strict=True):
        assert torch.equal(stepped, start[name]) == (name in ("unused", "frozen")), name


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers(reentrant: bool, every: int) -> None:
    assert_same_step(*_both(lambda p: fastopt.AdamW(p, lr=0.1), every, reentrant=reentrant))


def test_muon_and_random_rounding_and_averages() -> None:
    options = {"master": "float32", "ema": 0.9}
    assert_same_step(*_both(lambda p: fastopt.AdamW(p, lr=0.1, **options), 1, torch.bfloat16))
    assert_same_step(
        *_both(lambda p: fastopt.SGD(p, lr=0.1, rounding="stochastic", rounding_seed=5), 1, torch.bfloat16)
    )

    def muon(params: Any) -> torch.optim.Optimizer:
        params = list(params)
        groups = [[p for p in params if (p.ndim == 2) == is_matrix] for is_matrix in (True, False)]
        return fastopt.Muon([{"params": groups[0]}, {"params": groups[1], "use_muon": False}], lr=0.1)

    one, p, other, q = _both(muon, 4)
    for a, b in zip(p, q, strict=True):  # a batch of one matrix may have other bits than one of several
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
        assert one.state.get(a, {}).keys() == other.state.get(b, {}).keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_gradients_are_summed_in_float32(dtype: torch.dtype) -> None:
    small = torch.finfo(dtype).eps / 2  # 1 + small + small is 1 in the half type
    param = nn.Parameter(torch.zeros(70, dtype=dtype))
    fastopt.step_in_backward(nn.ParameterList([param]), fastopt.SGD([param], lr=1.0), 3)
    for value in (1.0, small, small):
        (param * value).sum().backward()
        assert param.grad is None
    assert_same_bits(param.detach(), torch.full((70,), -1 - 2 * small, dtype=dtype))


def test_a_parameter_that_the_last_pass_does_not_reach() -> None:
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    model = nn.ModuleList([first, second])
    optimizer = fastopt.SGD(model.parameters(), lr=1.0)
    before = first.weight.detach().clone()
    fastopt.step_in_backward(model, optimizer, 2)
    first(torch.ones(1, 3)).sum().backward()
    assert_same_bits(first.weight.detach(), before)
    second(torch.ones(1, 3)).sum().backward()
    assert_same_bits(first.weight.detach(), before - 1)
    assert first.weight.grad is None


def test_two_losses_are_two_passes() -> None:
    whole, stepped = _net(), _net()
    one, other = (fastopt.Adam(model.parameters(), lr=0.1) for model in (whole, stepped))
    fastopt.step_in_backward(stepped, other, 2)
    for batch in _batches(3):
        for model in (whole, stepped):
            output = model(batch)
            output["mean"].backward(retain_graph=True)
            output["scores"][0].square().mean().backward()
        one.step()
        one.zero_grad()
    assert_same_step(one, list(whole.parameters()), other, list(stepped.parameters()))


def test_a_pass_that_fails_does_not_count() -> None:
    model = nn.Linear(3, 1)
    optimizer = fastopt.SGD(model.parameters(), lr=1.0)
    fastopt.step_in_backward(model, optimizer, 2)
    before = model.weight.detach().clone()

    def fail(grad: Tensor) -> Tensor:
        raise ValueError("on purpose")

    x = torch.ones(1, 3, requires_grad=True)
    x.register_hook(fail)
    with pytest.raises(ValueError, match="on purpose"):
        model(x).sum().backward()
    model.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    assert_same_bits(model.weight.detach(), before)
    model(torch.ones(1, 3)).sum().backward()
    assert_same_bits(model.weight.detach(), before - 2)


def test_a_pass_that_fails_without_outputs() -> None:
    """Of parameters that no forward of the model uses."""
    param = nn.Parameter(torch.ones(3))
    fastopt.step_in_backward(nn.ParameterList([param]), fastopt.SGD([param], lr=1.0))
    with pytest.raises(RuntimeError, match="create_graph=True"):
        param.square().sum().backward(create_graph=True)
    param.grad = None
    for step in range(2):
        param.sum().backward()
        assert_same_bits(param.detach(), torch.full((3,), float(-step)))


def test_clip_by_each_tensors_norm() -> None:
    whole, stepped = _net(), _net()
    one = fastopt.SGD(whole.parameters(), lr=1.0)
    other = fastopt.SGD(stepped.parameters(), lr=1.0, max_grad_norm=0.01)
    fastopt.step_in_backward(stepped, other, clip="tensor")
    for batch in _batches(2):
        _loss(whole, batch).backward()
        _loss(stepped, batch).backward()
        for param in whole.parameters():
            if param.grad is not None:
                fastopt.clip_grad_norm_([param], 0.01)
        one.step()
        one.zero_grad()
    for p, q in zip(whole.parameters(), stepped.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_clip_by_the_norm_of_the_step_before() -> None:
    whole, stepped = _net(), _net()
    one = fastopt.SGD(whole.parameters(), lr=1.0)
    other = fastopt.SGD(stepped.parameters(), lr=1.0, max_grad_norm=0.01)
    fastopt.step_in_backward(stepped, other, clip="previous")
    previous = None
    for batch in _batches(4):
        _loss(whole, batch).backward()
        _loss(stepped, batch).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in whole.parameters() if p.grad is not None])
        if previous is not None:
            for param in whole.parameters():
                if param.grad is not None:
                    param.grad *= 0.01 / (previous + 1e-6)
        previous = norm
        one.step()
        one.zero_grad()
        torch.testing.assert_close(other.grad_norm, norm, rtol=1e-5, atol=0)
    for p, q in zip(whole.parameters(), stepped.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_grad_scaler_skips_the_tensor_with_an_inf() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = fastopt.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    fastopt.step_in_backward(model, optimizer, scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    hook = model[0].weight.register_hook(lambda grad: grad * torch.inf)
    scaler.scale(model(torch.ones(1, 3)).sum()).backward()
    scaler.update()
    assert scaler.get_scale() == 4.0
    same = [torch.equal(old, p) for old, p in zip(before, model.parameters(), strict=True)]
    assert same == [True, False, False, False]
    assert_same_bits(model[1].bias.detach(), before[3] - 1)
    hook.remove()
    scaler.scale(model(torch.ones(1, 3)).sum()).backward()
    scaler.update()
    assert scaler.get_scale() == 8.0
    assert not torch.equal(before[0], model[0].weight)


def test_remove() -> None:
    model = nn.Linear(3, 1)
    optimizer = fastopt.SGD(model.parameters(), lr=1.0)
    handle = fastopt.step_in_backward(model, optimizer)
    model(torch.ones(1, 3)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()  # nothing is left to do
    assert_same_bits(model.weight.detach(), before)
    handle.remove()
    model(torch.ones(1, 3)).sum().backward()
    assert_same_bits(model.weight.detach(), before)
    assert model.weight.grad is not None
    optimizer.step()
    assert_same_bits(model.weight.detach(), before - 1)


def test_gradients_do_not_exist_at_one_time() -> None:
    layers = [nn.Linear(64, 64) for _ in range(8)]
    model = nn.Sequential(*layers)
    fastopt.step_in_backward(model, fastopt.AdamW(model.parameters()))
    alive = []
    for layer in layers:
        layer.weight.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in model.parameters()))
        )
    model(torch.ones(2, 64)).sum().backward()
    assert len(alive) == 8
    assert max(alive) <= 1


def test_errors() -> None:
    model = nn.Linear(3, 1)
    with pytest.raises(TypeError, match="for fastopt's optimizers, not a SGD"):
        fastopt.step_in_backward(model, torch.optim.SGD(model.parameters(), lr=1.0))
    with pytest.raises(TypeError, match="Lookahead looks back on whole steps"):
        fastopt.step_in_backward(model, fastopt.Lookahead(fastopt.SGD(model.parameters(), lr=1.0)))
    optimizer = fastopt.SGD(model.parameters(), lr=1.0)
    for wrong, error, text in (
        (dict(every=0), ValueError, "Invalid every value: 0"),
        (dict(every=1.5), TypeError, "every must be an integer"),
        (dict(clip="norm"), ValueError, "Invalid clip: 'norm'"),
    ):
        with pytest.raises(error, match=text):
            fastopt.step_in_backward(model, optimizer, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model"):
        fastopt.step_in_backward(model.parameters(), optimizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_grad_norm: .*max_grad_value, clip='tensor' .*clip='previous'"):
        fastopt.step_in_backward(model, fastopt.SGD(model.parameters(), lr=1.0, max_grad_norm=1.0))
    with pytest.raises(RuntimeError, match="Prodigy needs sums over"):
        fastopt.step_in_backward(model, fastopt.Prodigy(model.parameters()))
    monitor = fastopt.monitor(optimizer)
    with pytest.raises(RuntimeError, match=r"remove\(\) the monitor"):
        fastopt.step_in_backward(model, optimizer)
    monitor.remove()
    handle = fastopt.step_in_backward(model, optimizer)
    with pytest.raises(RuntimeError, match="already steps in backward"):
        fastopt.step_in_backward(model, optimizer)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        model(torch.ones(1, 3, requires_grad=True)).square().sum().backward(create_graph=True)
    model.zero_grad()
    optimizer.param_groups[0]["max_grad_norm"] = 1.0
    with pytest.raises(ValueError, match="max_grad_norm: "):
        model(torch.ones(1, 3)).sum().backward()
    optimizer.param_groups[0]["max_grad_norm"] = None
    monitor = fastopt.monitor(optimizer)
    with pytest.raises(RuntimeError, match=r"remove\(\) the monitor"):
        model(torch.ones(1, 3)).sum().backward()
    monitor.remove()
    handle.remove()
    optimizer.register_step_post_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="step hooks"):
        fastopt.step_in_backward(model, optimizer)
    with pytest.raises(RuntimeError, match="DistributedDataParallel averages"):
        fastopt.step_in_backward(_parallel(model), fastopt.SGD(model.parameters(), lr=1.0))


def _parallel(model: nn.Module) -> nn.Module:
    """A DistributedDataParallel without its processes."""
    parallel = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(parallel)
    parallel.module = model
    return parallel


def test_a_shared_parameter_in_nested_backwards_is_an_error() -> None:
    """A reentrant checkpoint hands over its parameters' gradients when it ends, one share after the other."""
    layer = nn.Linear(3, 3)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.layer, checkpoint(self.layer, x, use_reentrant=True), use_reentrant=True)

    model = Twice()
    fastopt.step_in_backward(model, fastopt.SGD(model.parameters(), lr=1.0))
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        model(torch.ones(1, 3, requires_grad=True)).sum().backward()
