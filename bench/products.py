"""The share of a step that is matrix products and convolutions, which torch computes whether fastopt is used or not."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

ROUNDS = 9
# Attention counts too where torch has one kernel for it. Backward passes call operators of the same names.
PRODUCTS = re.compile(r"aten::(addmm|mm|bmm|baddbmm|addmv|mv|\w*conv\w*|_scaled_dot_product_\w+)$")


def _seconds_in_products(step: Callable[[], object]) -> float:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    events = found.key_averages()
    return sum(event.self_cpu_time_total for event in events if PRODUCTS.match(event.key)) * 1e-6


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def share(step: Callable[[], object]) -> float:
    """The products' share of the step's time without a profiler, which slows small operations but hardly products."""
    for _ in range(3):
        step()
    return statistics.median(min(1, _seconds_in_products(step) / _seconds(step)) for _ in range(ROUNDS))
