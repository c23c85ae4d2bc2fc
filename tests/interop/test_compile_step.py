"""Optimizers and clipping in a compiled program: one graph break, and no recompilation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from support import TORCH, assert_same_bits, assert_same_step, some_params, some_values, step_on_some_grads

# The compiler raises these warnings about itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    "ignore:.*torch.jit:DeprecationWarning",
)
CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)


def change_lr(optimizer: torch.optim.Optimizer, scheduler: Any, step: int) -> None:
    """Changes it by a number, by a tensor, by a scheduler."""
    (group,) = optimizer.param_groups
    if step % 3 == 2:
        scheduler.step()
    else:
        group["lr"] = 0.01 / (step + 1) if step % 3 == 0 else torch.tensor(0.02 / step)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def breaks() -> list[str]:
    return [why for why, times in torch._dynamo.utils.counters["graph_break"].items() for _ in range(times)]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 4), fastopt.nn.Dropout(0.5))


def inputs(step: int) -> Tensor:
    torch.manual_seed(step)
    return some_values((5, 8), torch.float32, step)


def backward(net: nn.Module, x: Tensor) -> Tensor:
    loss = net(x).square().mean()
    loss.backward()
    return loss


def train(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    loss = backward(net, x)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def assert_same_training(case: Case, compiled: Callable[..., Tensor], wrap: Callable[[Any], Any]) -> None:
    """Takes steps at changing learning rates; after the first, a recompilation is an error."""
    pairs = [(net, wrap(case.make(net.parameters()))) for net in (model(), model())]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for _, optimizer in pairs]
    for step in range(5):
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            found = compiled(*pairs[0], inputs(step))
        assert_same_bits(found, train(*pairs[1], inputs(step)))
        for (_, optimizer), scheduler in zip(pairs, schedulers, strict=True):
            change_lr(optimizer, scheduler, step)
    (ours, optimizer), (theirs, other) = pairs
    assert_same_step(optimizer, [*ours.parameters()], other, [*theirs.parameters()])


def as_it_is(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return optimizer


def with_lookahead(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return fastopt.Lookahead(optimizer, k=2)


def with_hooks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


@pytest.mark.slow
@CASES
def test_step_next_to_what_is_compiled(case: Case) -> None:
    counter = CompileCounter()
    forward = torch.compile(lambda net, x: net(x).square().mean(), fullgraph=True, backend=counter)

    def train_once(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
        loss = forward(net, x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    assert_same_training(case, train_once, as_it_is)
    assert counter.frame_count == 1


VARIANTS = [(case, as_it_is) for case in PLAIN_CASES]
VARIANTS += [(case, wrap) for case in PLAIN_CASES[:2] for wrap in (with_lookahead, with_hooks)]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "wrap"), VARIANTS, ids=lambda x: ids(x) if isinstance(x, Case) else x.__name__)
def test_step_in_what_is_compiled(case: Case, wrap: Callable[[Any], Any]) -> None:
    assert_same_training(case, torch.compile(train, backend="eager"), wrap)
    assert len([why for why in breaks() if "step" in why]) == 1


@pytest.mark.slow
def test_step_is_one_break_more() -> None:
    """A step adds one break to those of ``backward()`` and ``zero_grad()``, which are torch's; it is not traced."""

    def without_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
        loss = backward(net, x)
        optimizer.zero_grad()
        return loss

    found = []
    for function in (without_step, train):
        net = model()
        optimizer = fastopt.AdamW(net.parameters(), max_grad_norm=1.0)
        torch.compile(function, backend="eager")(net, optimizer, inputs(0))
        found.append(breaks())
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    assert len(found[1]) == len(found[0]) + 1


def test_closure_in_what_is_compiled() -> None:
    """The closure runs as it is; a model compiled in it stays compiled."""
    counter = CompileCounter()
    own = torch.compile(model(), fullgraph=True, backend=counter)

    def train_once(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            return backward(net, x)

        return optimizer.step(closure)

    compiled = torch.compile(train_once, backend="eager")
    other = model()
    pairs = [(net, fastopt.Adam(net.parameters())) for net in (own, other)]
    for step in range(3):
        assert_same_bits(compiled(*pairs[0], inputs(step)), train_once(*pairs[1], inputs(step)))
    assert counter.frame_count == 1
    assert_same_step(pairs[0][1], [*own.parameters()], pairs[1][1], [*other.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("wrap", [as_it_is, with_lookahead])
def test_norm_and_scaler_in_what_is_compiled(wrap: Callable[[Any], Any], fused: bool) -> None:
    """Training steps with AMP log the norm of the gradients, which is different each time."""

    def train_once(net: nn.Module, optimizer: Any, scaler: torch.amp.GradScaler, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(x).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        norm = optimizer.grad_norm
        optimizer.zero_grad()
        return norm * 2

    compiled = torch.compile(train_once, backend="aot_eager")
    given = []
    for net in (model(), model()):
        optimizer = wrap(fastopt.AdamW(net.parameters(), max_grad_norm=0.1, fused=fused))
        given.append((net, optimizer, torch.amp.GradScaler("cpu", init_scale=8.0)))
    for step in range(3):
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            found = compiled(*given[0], inputs(step))
        assert_same_bits(found, train_once(*given[1], inputs(step)))
    for p, q in zip(given[0][0].parameters(), given[1][0].parameters(), strict=True):
        assert_same_bits(p, q)


@CASES
def test_compiled_step(case: Case) -> None:
    """A step may be compiled, although there is nothing in it to compile."""
    ours, theirs = some_params(), some_params()
    one, other = case.make(ours), case.make(theirs)
    counter = CompileCounter()
    one.step = torch.compile(one.step, backend=counter)  # type: ignore[method-assign]
    for step in range(3):
        step_on_some_grads(one, ours, step)
        step_on_some_grads(other, theirs, step)
    assert_same_step(one, ours, other, theirs)
    assert counter.frame_count == 0


def clipped(net: nn.Module, x: Tensor, given: Callable[[Any], Any]) -> tuple[Tensor, Tensor]:
    loss = backward(net, x)
    fastopt.clip_grad_value_(given(net.parameters()), 0.1)
    norm = fastopt.clip_grad_norm_(given(net.parameters()), 0.05)
    return loss * 2, norm + fastopt.get_total_norm([p.grad for p in net.parameters()])


@pytest.mark.parametrize("given", [list, iter])
def test_clipping_in_what_is_compiled(given: Callable[[Any], Any]) -> None:
    """With an iterator, the compiler leaves the function uncompiled, which is right as well."""
    compiled = torch.compile(clipped, backend="eager")
    nets = model(), model()
    for step in range(3):
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            found = compiled(nets[0], inputs(step), given)
        for one, other in zip(found, clipped(nets[1], inputs(step), given), strict=True):
            assert_same_bits(one, other)
        for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            assert_same_bits(p.grad, q.grad)
    names = ("clip_grad_value_", "clip_grad_norm_", "get_total_norm") if given is list else ("clip_grad_value_",)
    for name in names:
        assert len([why for why in breaks() if name in why]) == 1


@pytest.mark.skipif(TORCH < (2, 7), reason="torch's compiler did not say why a function is not compiled")
def test_one_graph_is_an_error_that_says_why() -> None:
    net = model()
    optimizer = fastopt.Lookahead(fastopt.SGD(net.parameters(), lr=0.1))
    parameters = list(net.parameters())
    before = [p.detach().clone() for p in parameters]
    calls = [
        ("step", lambda: optimizer.optimizer.step()),
        ("step", lambda: optimizer.step()),
        ("grad_norm", lambda: optimizer.optimizer.grad_norm),
        ("grad_norm", lambda: optimizer.grad_norm),
        ("clip_grad_norm_", lambda: fastopt.clip_grad_norm_(parameters, 1.0)),
        ("clip_grad_value_", lambda: fastopt.clip_grad_value_(parameters, 1.0)),
        ("get_total_norm", lambda: fastopt.get_total_norm(parameters)),
    ]
    for name, call in calls:

        def whole(x: Tensor, call: Callable[[], Any] = call) -> Tensor:
            y = net(x)
            call()
            return y

        says = f"fastopt's {name} is native code, which runs between graphs"
        with pytest.raises(torch._dynamo.exc.Unsupported, match=says):
            torch.compile(whole, fullgraph=True, backend="eager")(inputs(0))
    for param, value in zip(parameters, before, strict=True):
        assert_same_bits(param, value)
