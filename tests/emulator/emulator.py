"""The controls of the emulated CUDA runtime (emulator.cpp)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

ORDERS = ["forward", "reverse", "shuffled"]

# Numbers that tests need, from cudaDeviceAttr and cudaError_t.
MULTIPROCESSORS = 16
COMPUTE_CAPABILITY_MAJOR = 75
INVALID_VALUE, INVALID_CONFIGURATION, INSUFFICIENT_DRIVER, INVALID_DEVICE_FUNCTION = 1, 9, 35, 98
NO_DEVICE, INVALID_DEVICE, LAUNCH_FAILURE, NOT_SUPPORTED = 100, 101, 719, 801


@dataclass(frozen=True)
class Launch:
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int  # dynamic shared memory
    parameter_bytes: int
    stream: int
    device: int


class Emulator:
    """The emulator inside a shared library or extension module. A test calls `reset` at its end."""

    def __init__(self, path: Path | str) -> None:
        library = ctypes.CDLL(str(path))
        library.emulator_set_order.argtypes = [ctypes.c_int, ctypes.c_uint64]
        library.emulator_skip_barriers.argtypes = [ctypes.c_bool, ctypes.c_bool]
        library.emulator_set_devices.argtypes = [ctypes.c_int, ctypes.c_int]
        library.emulator_set_current.argtypes = [ctypes.c_int, ctypes.c_bool]
        library.emulator_has_context.restype = ctypes.c_bool
        library.emulator_launches.restype = ctypes.c_uint64
        library.emulator_launch.argtypes = [ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
        library.emulator_launch_name.argtypes = [ctypes.c_uint64]
        library.emulator_launch_name.restype = library.emulator_failure.restype = ctypes.c_char_p
        self._library = library

    def reset(self) -> None:
        """Restores all settings and forgets the launches; a raised limit of shared memory stays with its kernel."""
        self._library.emulator_reset()

    def set_order(self, order: str, seed: int = 0) -> None:
        """The order of blocks and threads: one of ORDERS."""
        self._library.emulator_set_order(ORDERS.index(order), seed)

    def skip_barriers(self, *, of_block: bool = False, of_warp: bool = False) -> None:
        """Turns __syncthreads, __syncwarp into no-ops."""
        self._library.emulator_skip_barriers(of_block, of_warp)

    def fail_launch(self, error: int, *, after: int = 0) -> None:
        """Makes one launch fail: the next one, or the one `after` so many others."""
        self._library.emulator_fail_launch(error, after)

    def set_devices(self, count: int = 1, *, driver: int = -1) -> None:
        """``driver``: the CUDA version it supports, such as 12000; 0: there is no driver; -1: the runtime's version."""
        self._library.emulator_set_devices(count, driver)

    def set_current(self, device: int, *, used: bool) -> None:
        """Makes a device this thread's current one. ``used``: it has a context, as after cudaSetDevice."""
        self._library.emulator_set_current(device, used)

    def current(self) -> int:
        device: int = self._library.emulator_current()
        return device

    def has_context(self, device: int) -> bool:
        """Whether cudaSetDevice or a launch has made the device's primary context."""
        made: bool = self._library.emulator_has_context(device)
        return made

    def set_attribute(self, attribute: int, value: int) -> None:
        """Sets what cudaDeviceGetAttribute returns for every device."""
        self._library.emulator_set_attribute(attribute, value)

    def failure(self) -> str:
        """Returns what was wrong in the last launch that ended in LAUNCH_FAILURE."""
        message: bytes = self._library.emulator_failure()
        return message.decode()

    def clear_launches(self) -> None:
        self._library.emulator_clear_launches()

    def launches(self) -> list[Launch]:
        """Returns all launches since the last `reset` or `clear_launches` that were not refused."""
        return [self._launch(i) for i in range(self._library.emulator_launches())]

    def _launch(self, i: int) -> Launch:
        numbers = (ctypes.c_uint64 * 10)()
        self._library.emulator_launch(i, numbers)
        grid, block = tuple(numbers[:3]), tuple(numbers[3:6])
        kernel = self._library.emulator_launch_name(i).decode()
        return Launch(kernel, grid, block, *numbers[6:])
