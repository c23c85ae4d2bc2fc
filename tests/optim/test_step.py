"""The step itself: closures, hooks, profiler, threads, and which objects it keeps alive."""

import ctypes
import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import fastopt
from optimizer_cases import PLAIN_CASES, PLAIN_COMPARED_CASES, Case, ids
from support import assert_same_bits, running, some_params, some_values, step_on_some_grads, train

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
COMPARED = pytest.mark.parametrize("case", PLAIN_COMPARED_CASES, ids=ids)


@CASES
def test_tensor_lr(case: Case) -> None:
    """lr may be a 1-element tensor that is changed in place between steps."""
    ours, theirs = some_params(), some_params()
    lr = torch.tensor(0.1)
    one = case.ours(ours, **{**case.kwargs, "lr": lr})
    other = case.ours(theirs, **{**case.kwargs, "lr": 0.1})
    for step in range(4):
        value = 0.125 / 2**step  # equal in float32 and in double
        lr.fill_(value)
        other.param_groups[0]["lr"] = value
        step_on_some_grads(one, ours, step)
        step_on_some_grads(other, theirs, step)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b)


@CASES
def test_closure(case: Case) -> None:
    """It runs once, with gradients enabled, and the step returns its value."""
    param = some_values(5, torch.float32, seed=0).requires_grad_()
    optimizer = case.make([param])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        expected = (param**2).sum()
        loss = optimizer.step(closure)
    assert torch.equal(loss, expected)
    assert optimizer.step() is None


@COMPARED
def test_hooks(case: Case) -> None:
    """Hooks of the optimizer and global ones run before and after, with torch's arguments, which one may change."""
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = case.make([param])
    calls = []
    handles = [
        optimizer.register_step_pre_hook(lambda o, a, k: calls.append(("pre", o is optimizer, len(a), k))),
        optimizer.register_step_post_hook(lambda o, a, k: calls.append(("post", o is optimizer, len(a), k))),
        register_optimizer_step_pre_hook(lambda o, a, k: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda o, a, k: calls.append("global post")),
    ]
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert calls == ["global pre", ("pre", True, 1, {}), ("post", True, 1, {}), "global post"]

    def arguments(make, *args, **kwargs) -> list:
        seen = []
        optimizer = make([param])
        optimizer.register_step_pre_hook(lambda o, a, k: seen.append((len(a), sorted(k))))
        optimizer.step(*args, **kwargs)
        return seen

    for args, kwargs in (((), {}), ((None,), {}), ((), {"closure": None}), ((), {"closure": lambda: 1})):
        assert arguments(case.make, *args, **kwargs) == arguments(case.make_theirs, *args, **kwargs)

    closure_ran = []
    handle = optimizer.register_step_pre_hook(lambda o, a, k: ((o, lambda: closure_ran.append(1)), {}))
    optimizer.step()
    handle.remove()
    assert closure_ran == [1]


@CASES
def test_profiler_sees_the_step(case: Case) -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = case.make([param])
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    name = f"Optimizer.step#{case.ours.__name__}.step"
    assert [event.name for event in profile.function_events].count(name) == 1


def test_step_overridden_by_a_subclass() -> None:
    class Counting(fastopt.Adam):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            return super().step(closure)

    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = Counting([param])
    optimizer.step()
    assert optimizer.steps == 1
    assert (param < 1).all()


@CASES
def test_threads_may_step_their_own_optimizers(case: Case) -> None:
    """A step releases the GIL: eight threads train at the same time, each with the result that it has alone."""
    from concurrent.futures import ThreadPoolExecutor

    def run(seed: int) -> torch.Tensor:
        params = [some_values(40_000, torch.float32, seed).requires_grad_()]
        train(case, params, steps=10, seed=seed)
        return params[0]

    expected = [run(seed) for seed in range(8)]
    with running(threads=2), ThreadPoolExecutor(8) as pool:
        for a, b in zip(pool.map(run, range(8)), expected, strict=True):
            assert_same_bits(a, b)


def test_two_threads_in_the_same_step_do_not_corrupt_memory() -> None:
    """That is a user's error, but it must not crash, as it does not in torch. It runs in a separate process."""
    code = """
import sys, threading, torch, fastopt
sys.setswitchinterval(1e-5)
torch.set_num_threads(2)
params = [torch.ones(n, requires_grad=True) for n in [3000] * 40 + [40_000]]
for p in params:
    p.grad = torch.ones_like(p)
optimizer = fastopt.Adam(params)
optimizer.step()
threads = [threading.Thread(target=lambda: [optimizer.step() for _ in range(300)]) for _ in range(3)]
for t in threads: t.start()
for t in threads: t.join()
print(all(p.isfinite().all() for p in params))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.parametrize("backend", ["native", "reference"])
@CASES
def test_nothing_is_kept_alive(case: Case, backend: str) -> None:
    """A step keeps neither a removed parameter nor a gradient alive, nor an optimizer that its parameter refers to."""
    with running(backend):
        params = some_params()
        optimizer = case.make(params)
        step_on_some_grads(optimizer, params, 0)
        gone = [weakref.ref(params[1]), weakref.ref(params[0].grad)]
        optimizer.state.pop(params[1])
        del optimizer.param_groups[0]["params"][1], params[1]
        optimizer.zero_grad()
        step_on_some_grads(optimizer, params, 1)
        assert [ref() for ref in gone] == [None, None]
        params[0].optimizer = optimizer
        gone = [weakref.ref(optimizer), weakref.ref(params[0])]
        del optimizer, params
        gc.collect()
        assert [ref() for ref in gone] == [None, None]


def test_beta1_of_zero_is_the_gradient_itself() -> None:
    """The average is computed like torch.lerp, from the nearer end: 1e8 and then 1 gives 1."""
    param = torch.ones(1, requires_grad=True)
    optimizer = fastopt.Adam([param], betas=(0.0, 0.9))
    for grad in (1e8, 1.0, 1e-4):
        param.grad = torch.tensor([grad])
        optimizer.step()
        assert torch.equal(optimizer.state[param]["exp_avg"], param.grad)


def test_amsgrad_keeps_a_nan() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = fastopt.Adam([param], amsgrad=True)
    optimizer.step()
    optimizer.state[param]["max_exp_avg_sq"].fill_(torch.nan)
    optimizer.step()
    assert param.isnan().all()


class Heap(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "used", "free", "keepcost")
    ]


@CASES
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_steady_steps_take_no_memory(case: Case) -> None:
    """Neither Python's objects nor the heap grow. Other threads may allocate meanwhile, but hardly every time."""
    torch.set_num_threads(2)
    params = [some_values(n, torch.float32, n).requires_grad_() for n in (3, 40_000, 1, 70)]
    optimizer = case.make(params, max_grad_norm=1.0)
    step_on_some_grads(optimizer, params, 0)
    optimizer.step()
    heap = ctypes.CDLL(None).mallinfo2
    heap.restype = Heap

    def growth() -> tuple[int, int, int]:
        blocks, used, mapped = sys.getallocatedblocks(), heap().used, heap().hblkhd
        for _ in range(300):
            optimizer.step()
        return sys.getallocatedblocks() - blocks, heap().used - used, heap().hblkhd - mapped

    gc.collect()
    gc.disable()
    try:
        blocks, used, mapped = (min(each) for each in zip(*(growth() for _ in range(3)), strict=True))
        assert blocks < 150
        assert used < 4096
        assert mapped <= 0
    finally:
        gc.enable()
