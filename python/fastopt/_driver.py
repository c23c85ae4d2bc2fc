"""Asks NVIDIA's driver what it supports."""

from __future__ import annotations

import ctypes

NAME = "libcuda.so.1"


def version() -> int:
    """Returns the CUDA version that the driver supports, such as 12040; 0 without a driver.

    This does not initialise the driver, so that processes forked later can use CUDA. The CUDA runtime's
    ``cudaDriverGetVersion`` and ``cudaGetDeviceCount`` do.
    """
    try:
        driver = ctypes.CDLL(NAME)
    except OSError:
        return 0
    found = ctypes.c_int(0)
    return found.value if driver.cuDriverGetVersion(ctypes.byref(found)) == 0 else 0
