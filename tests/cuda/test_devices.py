"""Several devices, none, and builds without CUDA kernels."""

import pytest
import torch

import fastopt
from fastopt import _core, _runtime
from gpu import DEVICE, REAL, assert_same, emulator, gpu
from support import assert_same_bits, running, some_values

NEEDS_A_GPU = pytest.mark.skipif(not REAL, reason="needs a GPU as well as the CPU")
EMULATED = pytest.mark.skipif(emulator is None, reason="needs the emulator's devices")


@EMULATED
def test_which_driver_is_needed() -> None:
    """The emulated toolkit is 13.0. Drivers of its major version run what it built."""
    from fastopt import _emulated

    assert _emulated.built()["cuda"].endswith("for drivers of CUDA 13.0 or later")
    assert _emulated.refusal_of_driver(0).startswith("no NVIDIA driver was found")
    why = "the NVIDIA driver is one of CUDA 12.9, and fastopt was built with CUDA 13.0, which needs one of CUDA 13.0: "
    assert _emulated.refusal_of_driver(12090).startswith(why)
    assert [_emulated.refusal_of_driver(version) for version in (13000, 13020, 14000)] == [""] * 3


@EMULATED
@pytest.mark.parametrize("used", [False, True])
def test_no_context_is_made_on_a_gpu_that_nobody_uses(used: bool) -> None:
    """A thread has device 1 as its current one and steps parameters of device 0. Another context would take some
    hundred MB of device 1."""
    emulator.set_devices(2)
    emulator.set_current(1, used=used)
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones_like(param)
    with gpu():
        fastopt.SGD([param], lr=0.5).step()
    assert (param == 0.5).all()
    assert emulator.has_context(0)
    assert emulator.has_context(1) == used
    assert emulator.current() == used  # restored where that costs nothing


def test_builds_say_what_they_have() -> None:
    cuda = _core.built()["cuda"]
    assert cuda is False or cuda.split()[0].count(".") == 1
    detected = fastopt.info()["detected"]["cuda"]
    assert detected == torch.cuda.device_count() if REAL else isinstance(detected, str)


def test_a_backend_without_kernels_says_why() -> None:
    cuda, other = torch.device("cuda"), torch.device("meta")
    assert _runtime.unsupported_reason(torch.device("cpu")) == ""
    assert _runtime.unsupported_reason(other) == "fastopt has kernels for the CPU and for CUDA"
    with running("reference"):
        assert "NumPy reference" in _runtime.unsupported_reason(cuda)
    if not _core.built()["cuda"]:
        assert "pip install --force-reinstall" in _runtime.unsupported_reason(cuda)
        assert "FASTOPT_CUDA=ON" in _runtime.unsupported_reason(cuda)


def test_a_parameter_elsewhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runtime, "unsupported_reason", lambda device: "there is a reason")
    param = torch.ones(3, 2, device=DEVICE)[:, 0].requires_grad_()  # strided, so that the slow path takes it
    param.grad = torch.ones_like(param)
    with gpu(), pytest.raises(RuntimeError, match=r"parameter 0 of group 0 .* is on device '.*'; there is a reason"):
        fastopt.Adam([param]).step()
    assert (param == 1).all()


@NEEDS_A_GPU
def test_a_state_on_another_device_is_an_error() -> None:
    param = torch.ones(3, device=DEVICE, requires_grad=True)
    optimizer = fastopt.Adam([param])
    param.grad = torch.ones_like(param)
    optimizer.step()
    before = param.detach().clone()
    optimizer.state[param]["exp_avg"] = optimizer.state[param]["exp_avg"].cpu()
    with pytest.raises(RuntimeError, match=r"the state 'exp_avg' of parameter 0 .* on cpu, where .* on cuda:0 belongs"):
        optimizer.step()
    assert torch.equal(param, before)


@NEEDS_A_GPU
def test_parameters_on_both() -> None:
    """The norm is that of all parameters, joined on the host in their order: it has the CPU's bits."""

    def run(devices: list[torch.device | str]) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
        params = [some_values(5000 + i, torch.float32, i).to(d).requires_grad_() for i, d in enumerate(devices)]
        optimizer = fastopt.AdamW(params, lr=0.01, max_grad_norm=0.5)
        for step in range(3):
            for i, param in enumerate(params):
                param.grad = some_values(param.shape, param.dtype, seed=10 * step + i).to(param.device)
            optimizer.step()
        return optimizer, params

    reference, expected = run(["cpu"] * 4)
    ours, params = run(["cpu", DEVICE, DEVICE, "cpu"])
    assert_same(ours, params, reference, expected)
    assert_same_bits(ours.grad_norm.cpu(), reference.grad_norm)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_norm_of_both_cannot_be_captured() -> None:
    params = [torch.ones(3, device=f"cuda:{i}", requires_grad=True) for i in range(2)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = fastopt.Adam(params, max_grad_norm=1.0, capturable=True)
    with pytest.raises(RuntimeError, match="a norm over several devices takes the host"):
        optimizer.step()
    assert all((param == 1).all() for param in params)


@NEEDS_A_GPU
def test_the_callers_stream() -> None:
    """A step runs after the work that the caller's stream already has."""
    stream = torch.cuda.Stream()
    param = torch.zeros(1 << 22, device=DEVICE, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=1.0)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        param.grad = torch.full_like(param, -3.0)
        optimizer.step()
        result = param.detach() + 1
    stream.synchronize()
    assert (result == 4).all()
