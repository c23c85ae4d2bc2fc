"""Every optimizer's step on a device equals the NumPy reference to the bit: types, sizes, alignments, orders."""

import pytest
import torch

import fastopt
from gpu import DEVICE, Trained, assert_equals_reference, assert_same, emulator, gpu
from optimizer_cases import ALL_CASES, PLAIN_CASES, Case, ids
from support import DTYPES, HALF, SIZES, Guarded, running, some_values

STEPS = 3


def _train(case: Case, params: list[torch.Tensor], low: float, high: float, misalign: int = 0) -> torch.optim.Optimizer:
    optimizer = case.make(params)
    for step in range(STEPS):
        for i, param in enumerate(params):
            grad = torch.empty(param.numel() + misalign, dtype=param.dtype, device=param.device)[misalign:]
            param.grad = grad.copy_(some_values(param.shape, param.dtype, 100 * step + i, low, high))
        optimizer.step()
    return optimizer


def _guarded(dtype: torch.dtype, device: torch.device | str) -> tuple[list[Guarded], list[torch.Tensor]]:
    """Parameters of every size at every misalignment, each between guards."""
    guards = [Guarded(size, dtype, misalign=i % 16, device=device) for i, size in enumerate(SIZES)]
    for i, guard in enumerate(guards):
        guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
    return guards, [guard.inside.requires_grad_() for guard in guards]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ALL_CASES, ids=ids)
def test_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """Gradients range from 1e-8 to 1e2. All sizes are in one step, aligned and misaligned."""
    low, high = (1e-4, 1e2) if dtype == torch.float16 else (1e-8, 1e2)
    with running("reference"):
        _, expected = _guarded(dtype, "cpu")
        reference = _train(case, expected, low, high)
    for misalign in (0, 1):
        with gpu():
            guards, params = _guarded(dtype, DEVICE)
            ours = _train(case, params, low, high, misalign)
            assert_same(ours, params, reference, expected)
        for guard in guards:
            guard.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_large_equals_reference(case: Case, dtype: torch.dtype, order: str) -> None:
    """A tensor of many blocks with a tail, in any order; every element changes."""
    sizes = (50_003, 16_384)
    start = [some_values(n, dtype, seed=n) for n in sizes]

    def run(device: torch.device | str) -> Trained:
        params = [p.to(device, copy=True).requires_grad_() for p in start]
        optimizer = case.make(params)
        for step in range(case.row.moved_after):
            for i, param in enumerate(params):
                param.grad = (some_values(param.shape, dtype, seed=3 + i) * (1 + step)).to(device)
            optimizer.step()
        return optimizer, params

    _, params = assert_equals_reference(run)
    for param, before in zip(params, start, strict=True):
        assert (param.cpu() != before).all(), "an element was not updated"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_special_values(case: Case, dtype: torch.dtype) -> None:
    """Zeros of both signs, subnormals, the largest numbers, inf and NaN, as parameter and as gradient."""
    info = torch.finfo(dtype)
    values = [0.0, -0.0, info.smallest_normal, -info.smallest_normal / 2, 1.0, -1.0, info.max, info.min, 1e-4]
    special = torch.tensor([*values, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    grid = torch.cartesian_prod(special, special)

    def run(device: torch.device | str) -> Trained:
        params = [grid[:, 0].contiguous().to(device, copy=True).requires_grad_()]
        optimizer = case.make(params)
        for shift in (0, 5, 11):
            params[0].grad = grid[:, 1].roll(shift).to(device)
            optimizer.step()
        return optimizer, params

    assert_equals_reference(run)


@pytest.mark.parametrize("mixed", [False, True], ids=["all states", "one state"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_float32_states_of_half_parameters(dtype: torch.dtype, mixed: bool) -> None:
    """Wide states have a separate kernel; if only some are wide, the kernel for any types takes them."""

    def run(device: torch.device | str) -> Trained:
        params = [some_values(1025, dtype, seed=0).to(device).requires_grad_()]
        optimizer = fastopt.AdamW(params, lr=0.01)
        for step in range(3):
            params[0].grad = some_values(1025, dtype, seed=step).to(device)
            optimizer.step()
            if step == 0:
                state = optimizer.state[params[0]]
                state.update({key: state[key].float() for key in ("exp_avg", "exp_avg_sq")[mixed:]})
        return optimizer, params

    assert_equals_reference(run)


def test_a_rule_a_type_and_a_device_at_once() -> None:
    """One step may have groups of several rules and types, with empty, complex and 0-dim parameters."""

    def values(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if dtype.is_complex:
            return torch.complex(*(some_values(shape, torch.float32, seed=seed) for seed in (1, 2)))
        return some_values(shape, dtype, seed=3)

    def run(device: torch.device | str) -> Trained:
        dtypes = [*DTYPES, torch.complex64]
        shapes = [(), (0,), (3, 5), (1000,)]
        params = [values(shape, dtype).to(device).requires_grad_() for dtype in dtypes for shape in shapes]
        groups = [{"params": params[::2]}, {"params": params[1::2], "amsgrad": True, "lr": 0.02}]
        optimizer = fastopt.Adam(groups, lr=0.01)
        for step in range(2):
            for param in params:
                param.grad = torch.full_like(param, 0.5 + step)
            optimizer.step()
        return optimizer, params

    assert_equals_reference(run)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(dtype: torch.dtype) -> None:
    """Channels-last is dense, a slice is copied and written back, and a transposed gradient is laid out anew."""

    def run(device: torch.device | str) -> Trained:
        image = some_values((2, 3, 4, 5), dtype, seed=1).to(device).to(memory_format=torch.channels_last)
        whole = some_values((6, 14), dtype, seed=2).to(device)
        params = [image.requires_grad_(), whole[:, ::2].requires_grad_(), some_values((4, 6), dtype, 3).to(device)]
        params[2].requires_grad_()
        optimizer = fastopt.AdamW(params, lr=0.01)
        for step in range(2):
            params[0].grad = some_values((2, 3, 4, 5), dtype, seed=step).to(device)
            params[1].grad = some_values((6, 7), dtype, seed=step + 5).to(device)
            params[2].grad = some_values((6, 4), dtype, seed=step + 9).to(device).t()
            optimizer.step()
        return optimizer, params

    assert_equals_reference(run)


def _many(count: int, size: int) -> Trained:
    params = [some_values(size, torch.float32, seed=i).to(DEVICE).requires_grad_() for i in range(count)]
    for i, param in enumerate(params):
        param.grad = some_values(size, torch.float32, seed=1000 + i).to(DEVICE)
    return fastopt.AdamW(params, lr=0.01), params


@pytest.mark.skipif(emulator is None, reason="a GPU does not count its launches")
def test_a_thousand_tensors_in_few_launches() -> None:
    """One launch for the scalars, and one per several hundred tensors."""
    with gpu():
        optimizer, _ = _many(1000, 100)
        optimizer.step()
        emulator.clear_launches()
        optimizer.step()
    launches = emulator.launches()
    assert len(launches) <= 4
    assert sum(launch.grid[0] for launch in launches) == 1001


@pytest.mark.parametrize("count", [15, 16, 57, 58, 600])
@pytest.mark.parametrize("capturable", [False, True])
def test_scalars_of_many_parameters(count: int, capturable: bool) -> None:
    """Few sets of scalars, or few counters, take a kernel with 4 KB of parameters; many take several launches."""

    def run(device: torch.device | str) -> Trained:
        params = [some_values(3, torch.float32, seed=i).to(device).requires_grad_() for i in range(count)]
        groups = [{"params": [param], "lr": 0.01 * (i + 1)} for i, param in enumerate(params)]
        ours = fastopt.RMSprop(params if capturable else groups, lr=0.01, capturable=capturable and device != "cpu")
        for param in params:
            param.grad = param.detach() + 1
        for _ in range(2):
            ours.step()
        return ours, params

    with running("reference"):
        reference = run("cpu")
    with gpu():
        if emulator is not None:
            emulator.clear_launches()
        assert_same(*run(DEVICE), *reference)
    if emulator is not None:
        first = emulator.launches()[0]
        assert (first.parameter_bytes <= 4096) == (count <= (57 if capturable else 15))


@pytest.mark.skipif(emulator is None, reason="a GPU fails when it likes")
@pytest.mark.parametrize("after", [0, 1])
def test_a_failed_launch_is_an_error(after: int) -> None:
    with gpu():
        optimizer, _ = _many(2, 10)
        optimizer.step()
        emulator.fail_launch(719, after=after)
        with pytest.raises(RuntimeError, match=r"CUDA error in fastopt's (scalars|update): cudaErrorLaunchFailure"):
            optimizer.step()
        optimizer.step()


@pytest.mark.skipif(emulator is None, reason="a GPU is not broken for a test")
def test_the_order_of_blocks_and_threads_changes_nothing() -> None:
    results = []
    for chosen, seed in (("forward", 0), ("reverse", 0), ("shuffled", 1), ("shuffled", 2)):
        emulator.set_order(chosen, seed)
        with gpu():
            optimizer, params = _many(3, 9000)
            optimizer.step()
        results.append(torch.stack([p.detach() for p in params]))
    assert all(torch.equal(result, results[0]) for result in results[1:])
