"""Chooses what runs underneath, once at import, and reports it.

Environment variables; a value that is not available is an error:

``FASTOPT_BACKEND``  ``native`` or ``reference``; unset: native, or the reference where the extension
                     is missing, with a warning.
``FASTOPT_ISA``      ``baseline``, ``avx2`` or ``avx512``; unset: the widest this CPU has.
``FASTOPT_INTAKE``   ``exchange`` (DLPack exchange API, torch >= 2.10) or ``data_ptr``.
``FASTOPT_TUNING``   ``name=number,...``; the CPU's vendor and its last cache choose what is not named: ``ahead`` (bytes
                     of software prefetch, 0 for none), ``stream_forward`` and ``stream_backward`` (bytes of a
                     BatchNorm's result from which on it bypasses the caches), ``grain`` (elements per thread).
                     No result depends on it.
"""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import _driver, reference
from ._compat import current_raw_stream, increment_version
from ._processes import cores, on_this_machine, thread_budget, thread_note
from ._version import __version__

if TYPE_CHECKING:
    from . import _core

_missing = ""
try:
    # torch first: the kernels use the threads of its OpenMP runtime.
    from . import _core
except ImportError as error:
    _missing = str(error)

# Each backend is a module with the same functions.
BACKENDS: dict[str, Any] = {"reference": reference}
if not _missing:
    BACKENDS["native"] = _core

# To be run in a checkout. Given the name of the package, pip would take a wheel, which has no kernels for CUDA.
INSTALL_AGAIN = "pip install --force-reinstall --no-deps ."

# Exactly these types: a subclass may hold its memory elsewhere.
PLAIN = (torch.Tensor, torch.nn.Parameter)

kernels: Any = BACKENDS.get("native", reference)


def use_backend(name: str) -> None:
    """Lets all optimizers and functions run on ``native`` or ``reference`` from their next call on.

    Raises:
        ImportError: the backend is unknown, or it is native and the extension cannot be imported.
    """
    global kernels
    if name not in BACKENDS:
        why = f": {_missing}" if name == "native" else f", known: {', '.join(BACKENDS)}"
        raise ImportError(f"FASTOPT_BACKEND: no backend '{name}'{why}")
    kernels = BACKENDS[name]


def backend() -> str:
    """The name of the backend in use."""
    return next(name for name, module in BACKENDS.items() if module is kernels)


def refuse_freed(tensor: torch.Tensor, name: object) -> None:
    """Refuses a tensor whose memory was taken away, as trainers that shard parameters do between uses. It is called
    where the kernels have refused, because they see only a null pointer."""
    if type(tensor) in PLAIN and tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0:
        raise RuntimeError(f"{name} has no memory: its storage was freed (resized to 0 bytes)")


def on_device(tensor: torch.Tensor) -> bool:
    """Whether kernels of a GPU, rather than those of the CPU, take a tensor."""
    return tensor.is_cuda or getattr(kernels, "emulates_cuda", False)


def capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


def unsupported_reason(device: torch.device) -> str:
    """Says why the backend in use cannot take tensors on ``device``; "" where it can."""
    if device.type == "cpu":
        return ""
    if device.type != "cuda":
        return "fastopt has kernels for the CPU and for CUDA"
    if kernels is reference:
        return "the NumPy reference, which is in use, computes on the CPU"
    if not (built := kernels.built())["cuda"]:
        return (
            f"this build of fastopt has no kernels for CUDA ({built['cuda_reason']}); where nvcc is installed (CUDACXX "
            f"may name it), build it from its sources: FASTOPT_CUDA=ON {INSTALL_AGAIN}"
        )
    return ""


def _libtorch() -> str:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}")


def _allocate(size: int, device: int) -> torch.Tensor:
    """Takes bytes of a CUDA device from torch's allocator, which knows streams and graphs that are captured."""
    return torch.empty(size, dtype=torch.uint8, device=f"cuda:{device}")


def _variable(name: str) -> str:
    """Returns an environment variable; "" where it is not set."""
    value = os.environ.get(name, "")
    if not value.isprintable():  # bytes that are no UTF-8 come as surrogates
        raise ValueError(f"{name}: unknown value {value!r}, which is not plain text")
    return value


def _refuse_free_threads() -> None:
    """Refuses a Python whose GIL is off. A free-threaded CPython turns it on for our extension, which does not declare
    that it can do without it, unless the user has forbidden that."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError(
            "fastopt needs Python's GIL, which is off: leave out PYTHON_GIL=0 and -X gil=0, and it is turned on when "
            "fastopt's extension is imported"
        )


def _start() -> None:
    _refuse_free_threads()
    wanted = _variable("FASTOPT_BACKEND")
    if wanted:
        use_backend(wanted)
    elif _missing:
        warnings.warn(
            f"fastopt runs on its slow NumPy reference: the extension cannot be imported ({_missing}). "
            "Install fastopt with a C++ compiler, or set FASTOPT_BACKEND=reference to silence this.",
            RuntimeWarning,
            stacklevel=2,
        )
    if _missing:
        return
    _core.set_torch(torch, increment_version, _allocate, current_raw_stream)
    _core.find_openmp(_libtorch())
    if isa := _variable("FASTOPT_ISA"):
        _core.use_isa(isa)
    if intake := _variable("FASTOPT_INTAKE"):
        _core.use_intake(intake)
    if tuning := _variable("FASTOPT_TUNING"):
        _tune(tuning)


def _tune(tuning: str) -> None:
    for item in tuning.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if not value.isdecimal():
            raise ValueError(f"FASTOPT_TUNING: '{item}' is not name=number, for example ahead=0,grain=16384")
        _core.tune(name, int(value))


def _built() -> dict[str, Any]:
    built: dict[str, Any] = _core.built()
    other = "without CUDA: FASTOPT_CUDA=OFF" if built["cuda"] else "with CUDA: FASTOPT_CUDA=ON"
    return {**built, "cuda_reason": f"{built['cuda_reason']} ({other} {INSTALL_AGAIN})"}


def _gpus() -> int | str:
    if _core.built()["cuda"] and torch.version.cuda is None:
        return "this torch is built without CUDA; FASTOPT_CUDA=OFF builds fastopt without it as well, in less time"
    # torch counts by NVML, without cuInit, after which a forked process cannot use CUDA.
    why = _core.refusal_of_driver(_driver.version())
    return why or torch.cuda.device_count() or "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES may hide them)"


def info() -> dict[str, Any]:
    """Tells what was built, what this machine has, and what is in use.

    Returns:
        A dict of plain values, for people, logs and bug reports::

            version    of fastopt
            built      isa: names of the instruction sets compiled in; compiler; pybind11; cuda: the
                       toolkit's version, the architectures and the oldest driver that runs it, or False;
                       cuda_reason: what decided that, and how to decide otherwise
            detected   isa: those that this CPU can run; cpu: its vendor; last_cache: bytes; cores: how many this
                       process may run on; cuda: how many GPUs the kernels can run on, or why they cannot; exchange:
                       whether this torch has the DLPack exchange API; torch, numpy, python, machine
            in_use     backend, isa, intake, threads (per step, at most); offload_threads: those
                       of a step of fastopt.offload; processes: how many torchrun has
                       started on this machine; tuning: what was chosen for this CPU (FASTOPT_TUNING)
            openmp     the file of the runtime shared with torch; "" where there is none, and
                       then everything runs on the calling thread
            notes      what is slower than it could be, and why
    """
    import numpy as np

    native = backend() == "native"
    notes = []
    if not native:
        why = f"the extension cannot be imported ({_missing})" if _missing else "it was asked for"
        notes.append(f"the slow NumPy reference is in use: {why}")
    openmp = "" if _missing else _core.openmp_runtime()
    forked = not _missing and _core.forked()
    if native and not openmp:
        notes.append("no OpenMP runtime was found in torch: every step runs on the calling thread")
    if native and forked:
        notes.append("this process was forked: every step runs on the calling thread")
    if torch.cuda.device_count() and (why := unsupported_reason(torch.device("cuda"))):
        notes.append(f"tensors on CUDA devices are errors: {why}")
    shares_threads = native and openmp and not forked
    threads = torch.get_num_threads() if shares_threads else 1
    if shares_threads and (note := thread_note(threads)):
        notes.append(note)
    exchange = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
    if native and exchange and _core.intake_in_use() != "exchange":
        notes.append("FASTOPT_INTAKE turned the DLPack exchange API off")
    return {
        "version": __version__,
        "built": None if _missing else _built(),
        "detected": {
            "isa": [] if _missing else _core.detected_isas(),
            "cpu": "" if _missing else _core.cpu_vendor(),
            "last_cache": 0 if _missing else _core.last_cache(),
            "cores": cores(),
            "cuda": _missing or _gpus(),
            "exchange": exchange,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "in_use": {
            "backend": backend(),
            "isa": _core.isa_in_use() if native else None,
            "intake": _core.intake_in_use() if native else "numpy",
            "threads": threads,
            "offload_threads": thread_budget(),
            "processes": on_this_machine(),
            "tuning": _core.tuning() if native else {},
        },
        "openmp": openmp,
        "notes": notes,
    }


_start()
